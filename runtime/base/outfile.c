#define _GNU_SOURCE
#include "base/outfile.h"

#include "base/status.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_temporary(outfile *o)
{
    static atomic_uint serial;
    do {
        if (asprintf(&o->temporary, "%s.%ld-%u.tmp", o->target, (long)getpid(),
                     atomic_fetch_add(&serial, 1)) < 0) {
            o->temporary = NULL;
            return ENOMEM;
        }
        o->file = fopen(o->temporary, "wbxe");
        if (o->file)
            return 0;
        int error = errno;
        free(o->temporary);
        o->temporary = NULL;
        errno = error;
    } while (errno == EEXIST);
    return errno;
}

spectra_status outfile_open(const char *path, outfile *out)
{
    outfile o = {.path = strdup(path), .target = realpath(path, NULL)};
    if (!o.target)
        o.target = strdup(path); /* a new file */
    struct stat info;
    int error = 0;
    if (!o.path || !o.target) {
        error = ENOMEM;
    } else if (stat(o.target, &info) == 0 && !S_ISREG(info.st_mode)) {
        o.file = fopen(o.target, "wbe");
        error = o.file ? 0 : errno;
    } else {
        error = open_temporary(&o);
    }
    if (error) {
        outfile_abort(&o);
        return fail(SPECTRA_EIO, "%s: cannot write: %s", path, strerror(error));
    }
    *out = o;
    return SPECTRA_OK;
}

/* Flush the folder so that the rename survives a crash; ignore file systems that cannot. */
static void flush_folder(char *path)
{
    int fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)fsync(fd);
    close(fd);
}

spectra_status outfile_commit(outfile *o)
{
    int error = !ferror(o->file) ? 0 : errno ? errno : EIO; /* of the write that failed */
    if (!error && (fflush(o->file) != 0 || (o->temporary && fsync(fileno(o->file)) != 0)))
        error = errno;
    if (fclose(o->file) != 0 && !error)
        error = errno;
    o->file = NULL;
    if (!error && o->temporary && rename(o->temporary, o->target) != 0)
        error = errno;
    spectra_status status = SPECTRA_OK;
    if (error) {
        status = fail(SPECTRA_EIO, "%s: cannot write: %s", o->path, strerror(error));
    } else if (o->temporary) {
        free(o->temporary);
        o->temporary = NULL;
        flush_folder(o->target);
    }
    outfile_abort(o);
    return status;
}

void outfile_abort(outfile *o)
{
    if (o->file)
        fclose(o->file);
    if (o->temporary)
        unlink(o->temporary);
    free(o->temporary);
    free(o->target);
    free(o->path);
    *o = (outfile){0};
}

spectra_status outfile_folder(const char *path)
{
    char *copy = strdup(path);
    if (!copy)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", path);
    int error = *path ? 0 : ENOENT;
    for (char *at = copy + 1; !error; at++) {
        if (*at != '/' && *at != 0)
            continue;
        char held = *at;
        *at = 0;
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            error = errno;
        *at = held;
        if (!held)
            break;
    }
    free(copy);
    struct stat info;
    if (!error && stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
        error = ENOTDIR;
    if (error)
        return fail(SPECTRA_EIO, "%s: cannot make the folder: %s", path, strerror(error));
    return SPECTRA_OK;
}

char *outfile_join(const char *folder, const char *name)
{
    char *path = NULL;
    size_t length = strlen(folder);
    const char *slash = length && folder[length - 1] == '/' ? "" : "/";
    return asprintf(&path, "%s%s%s", folder, slash, name) < 0 ? NULL : path;
}
