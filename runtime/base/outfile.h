/* Output files that appear complete or not at all. A file is written under a temporary name in the
 * same folder, flushed to the disk and then renamed, so that neither a crash nor a full disk leaves
 * half a file under its final name. What exists and is not a regular file (a pipe, /dev/stdout) is
 * written directly. */
#ifndef SPECTRA_BASE_OUTFILE_H
#define SPECTRA_BASE_OUTFILE_H

#include "spectraformer.h"

#include <stdio.h>

typedef struct outfile {
    FILE *file;      /* NULL: not open */
    char *path;      /* as given, for messages */
    char *target;    /* with symbolic links followed */
    char *temporary; /* NULL: written directly */
} outfile;

/* SPECTRA_EIO names the path and what the system said. */
spectra_status outfile_open(const char *path, outfile *out);
/* Puts the file in place. On failure the temporary file is removed and `path` is as it was. */
spectra_status outfile_commit(outfile *o);
/* Drops the file; nothing to do after a commit. */
void outfile_abort(outfile *o);

/* Makes the folder and those above it; one that exists is fine. */
spectra_status outfile_folder(const char *path);
/* "folder/name", to be freed; NULL when out of memory. */
char *outfile_join(const char *folder, const char *name);

#endif
