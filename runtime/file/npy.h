/* Reads and writes NumPy's .npy files: arrays in C order and little endian. Version 1.0 is written;
 * 1.0, 2.0 and 3.0 are read. Archives (.npz) are not supported. */
#ifndef SPECTRA_FILE_NPY_H
#define SPECTRA_FILE_NPY_H

#include "spectraformer.h"

enum { NPY_MAX_DIM = 8 };
typedef enum npy_type { NPY_F32, NPY_F64, NPY_I32, NPY_I64, NPY_U8, NPY_BOOL } npy_type;

typedef struct npy_array {
    npy_type type;
    int ndim;
    int64_t shape[NPY_MAX_DIM];
    void *data; /* owned; npy_free */
} npy_array;

/* SPECTRA_EIO, SPECTRA_EFORMAT (names the file and what is wrong: magic, dtype, Fortran order,
 * truncated: "has 100 bytes of data, its shape (2, 64) needs 512"). */
spectra_status npy_read(const char *path, npy_array *out);
/* The same, converted to float32 (from f32, f64; integers too). */
spectra_status npy_read_f32(const char *path, npy_array *out);
void npy_free(npy_array *a);
int64_t npy_count(const npy_array *a);
/* Written to a temporary file beside it, flushed, renamed: whole or not at all. */
spectra_status npy_write(const char *path, npy_type type, int ndim, const int64_t *shape,
                         const void *data);
/* "(2, 64, 16)" into buf; returns buf. */
const char *npy_shape_text(int ndim, const int64_t *shape, char *buf, size_t size);

#endif
