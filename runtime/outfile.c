#define _GNU_SOURCE
#include "outfile.h"

#include "status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

spectra_status outfile_open(const char *path, outfile *out)
{
    outfile o = {.path = strdup(path)};
    if (o.path && asprintf(&o.temporary, "%s.tmp.%ld", path, (long)getpid()) < 0)
        o.temporary = NULL;
    if (!o.path || !o.temporary) {
        outfile_abort(&o);
        return fail(SPECTRA_ENOMEM, "writing %s: out of memory", path);
    }
    o.file = fopen(o.temporary, "wb");
    if (!o.file) {
        int error = errno;
        free(o.temporary);
        o.temporary = NULL;
        outfile_abort(&o);
        return fail(SPECTRA_EIO, "%s: cannot write: %s", path, strerror(error));
    }
    *out = o;
    return SPECTRA_OK;
}

spectra_status outfile_commit(outfile *o)
{
    bool bad = ferror(o->file) != 0;
    bad = fflush(o->file) != 0 || bad;
    bad = bad || fsync(fileno(o->file)) != 0;
    int error = errno;
    bool closed = fclose(o->file) == 0;
    if (!bad && !closed)
        error = errno;
    o->file = NULL;
    if (!bad && closed && rename(o->temporary, o->path) != 0) {
        bad = true;
        error = errno;
    }
    spectra_status status = SPECTRA_OK;
    if (bad || !closed)
        status = fail(SPECTRA_EIO, "%s: cannot write: %s", o->path, strerror(error));
    else {
        free(o->temporary);
        o->temporary = NULL;
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
