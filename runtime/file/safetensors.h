/* Reads and writes safetensors files: the length of the header in 8 bytes (little endian), a header
 * in JSON, then the tensors' raw data. Checkpoints and prepared data sets are such files. */
#ifndef SPECTRA_FILE_SAFETENSORS_H
#define SPECTRA_FILE_SAFETENSORS_H

#include "file/npy.h"

typedef struct st_tensor {
    const char *name;
    npy_type type; /* F32, F64, I32, I64, U8 */
    int ndim;
    int64_t shape[NPY_MAX_DIM];
    const void *data;
} st_tensor;

typedef struct st_file st_file;

/* metadata: pairs of strings, NULL-terminated list "key", "value", ..., NULL; may be NULL.
 * Atomic: temporary file in the same folder, flushed (fsync), renamed. */
spectra_status st_write(const char *path, const st_tensor *tensors, int count,
                        const char *const *metadata);
/* Reads (mmap) and checks everything: header length, JSON, dtypes, offsets inside the file and
 * equal to the shapes. */
spectra_status st_open(const char *path, st_file **out);
void st_close(st_file *f);
int st_count(const st_file *f);
const st_tensor *st_at(const st_file *f, int i);
/* NULL when absent. Pointers live until st_close. */
const st_tensor *st_find(const st_file *f, const char *name);
const char *st_metadata(const st_file *f, const char *key);

#endif
