#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "status.h"

struct file_out {
    int fd;
    int error;       /* errno of the first failure */
    char *path;      /* as given, for messages */
    char *target;    /* with symbolic links followed */
    char *temporary; /* NULL: written directly */
};

static void file_free(file_out *f)
{
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    free(f->path);
    free(f->target);
    free(f->temporary);
    free(f);
}

static int open_temporary(file_out *f)
{
    static atomic_uint serial;
    size_t size = strlen(f->target) + 48;
    f->temporary = malloc(size);
    if (!f->temporary)
        return ENOMEM;
    do {
        snprintf(f->temporary, size, "%s.%ld-%u.tmp", f->target, (long)getpid(),
                 atomic_fetch_add(&serial, 1));
        f->fd = open(f->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (f->fd < 0 && errno == EEXIST);
    if (f->fd >= 0)
        return 0;
    int error = errno;
    free(f->temporary);
    f->temporary = NULL;
    return error;
}

spectra_status file_create(const char *path, file_out **out)
{
    file_out *f = calloc(1, sizeof *f);
    if (!f)
        return fail(SPECTRA_ENOMEM, "%s: no memory to write it", path);
    f->fd = -1;
    f->path = strdup(path);
    f->target = realpath(path, NULL);
    if (!f->target)
        f->target = strdup(path); /* a new file */
    struct stat st;
    int error = 0;
    if (!f->path || !f->target) {
        error = ENOMEM;
    } else if (stat(f->target, &st) == 0 && !S_ISREG(st.st_mode)) {
        f->fd = open(f->target, O_WRONLY | O_CLOEXEC);
        error = f->fd < 0 ? errno : 0;
    } else {
        error = open_temporary(f);
    }
    if (error) {
        file_free(f);
        return fail(SPECTRA_EIO, "%s: cannot be written: %s", path, strerror(error));
    }
    *out = f;
    return SPECTRA_OK;
}

void file_put(file_out *f, const void *data, size_t bytes)
{
    const char *at = data;
    while (bytes > 0 && !f->error) {
        ssize_t n = write(f->fd, at, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            f->error = errno;
            break;
        }
        at += n;
        bytes -= (size_t)n;
    }
}

/* A new name is on the disk when its folder is. Not all file systems can; nothing is lost then. */
static void flush_folder(char *path)
{
    int fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)fsync(fd);
    close(fd);
}

spectra_status file_commit(file_out *f)
{
    if (!f->error && f->temporary && fsync(f->fd) != 0)
        f->error = errno;
    if (close(f->fd) != 0 && !f->error)
        f->error = errno;
    f->fd = -1;
    if (!f->error && f->temporary && rename(f->temporary, f->target) != 0)
        f->error = errno;
    spectra_status status = SPECTRA_OK;
    if (f->error) {
        status = fail(SPECTRA_EIO, "%s: cannot be written: %s", f->path, strerror(f->error));
        if (f->temporary)
            unlink(f->temporary);
    } else if (f->temporary) {
        flush_folder(f->target);
    }
    file_free(f);
    return status;
}

void file_abandon(file_out *f)
{
    if (f && f->temporary)
        unlink(f->temporary);
    file_free(f);
}
