/* Files written whole or not at all: the bytes go to a temporary file in the same folder, which is
 * flushed to the disk and takes the file's name at the end. What exists and is no regular file (a
 * pipe, /dev/stdout) is written directly. */
#ifndef SPECTRA_FILE_H
#define SPECTRA_FILE_H

#include "spectraformer.h"

typedef struct file_out file_out;

/* SPECTRA_EIO when the temporary file cannot be made. */
spectra_status file_create(const char *path, file_out **out);
/* Errors are kept for file_commit. */
void file_put(file_out *f, const void *data, size_t bytes);
/* Gives the file its name and frees f. On failure (SPECTRA_EIO, the first error of all, a full disk
 * for example) the temporary file is removed and what had the name before is untouched. */
spectra_status file_commit(file_out *f);
/* Removes the temporary file and frees f; NULL is accepted. */
void file_abandon(file_out *f);

#endif
