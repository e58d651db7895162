/* dlopen wants a file. One in memory leaves nothing behind and needs no folder where programs may
 * run; where there are none, a temporary file that is unlinked at once. */
#define _GNU_SOURCE
#include "kernel/internal.h"

#include "base/status.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static bool write_all(int fd, const byte_buffer *image)
{
    for (size_t done = 0; done < image->size;) {
        ssize_t n = write(fd, image->data + done, image->size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static void *open_path(const char *path)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        (void)fail(SPECTRA_EUNSUPPORTED, "loading a kernel: %s", dlerror());
    return handle;
}

/* The descriptor stays open as long as the kernel, that is until the end: the loader knows objects
 * by their path, and a descriptor used again would give another kernel the same one. */
void *jit_load_memory(const byte_buffer *image)
{
    char path[64];
    void *handle = NULL;
    int fd = memfd_create("spectraformer-kernel", MFD_CLOEXEC);
    if (fd < 0 || !write_all(fd, image)) {
        (void)fail(SPECTRA_EUNSUPPORTED, "loading a kernel: %s", strerror(errno));
    } else {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        handle = open_path(path);
    }
    if (!handle && fd >= 0)
        close(fd);
    return handle;
}

void *jit_load_file(const byte_buffer *image, const char *temporary)
{
    char *path = NULL;
    if (asprintf(&path, "%s/spectraformer-XXXXXX", temporary) < 0) {
        (void)fail(SPECTRA_ENOMEM, "loading a kernel: out of memory");
        return NULL;
    }
    void *handle = NULL;
    int fd = mkostemp(path, O_CLOEXEC);
    bool written = fd >= 0 && write_all(fd, image);
    if (!written)
        (void)fail(SPECTRA_EIO, "%s: cannot write: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (written)
        handle = open_path(path);
    if (fd >= 0)
        unlink(path);
    free(path);
    return handle;
}

void *jit_load(const byte_buffer *image, const char *temporary)
{
    void *handle = jit_load_memory(image);
    return handle ? handle : jit_load_file(image, temporary);
}
