/* Matrix products and factorisations by OpenBLAS and the LAPACK in it, opened at run time. OpenBLAS
 * is told which processor it runs on before it is opened, so that it uses AVX-512 where the
 * processor has it, and its own threads are switched off: the runtime divides work into fixed parts
 * itself, so that results do not depend on the number of threads. */
#ifndef SPECTRA_MATH_BLAS_H
#define SPECTRA_MATH_BLAS_H

#include "spectraformer.h"

/* Loads the library (idempotent, thread-safe). SPECTRA_EUNSUPPORTED lists what was tried. */
spectra_status blas_open(void);
/* "OpenBLAS 0.3.21 SkylakeX" or "" before blas_open. */
const char *blas_config(void);

/* Row-major C (m, n) = alpha * op(A) op(B) + beta * C; single threaded. */
void blas_sgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
void blas_dgemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const double *a,
                int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc);
/* A (n, n) row-major = Q R of a square matrix; q overwrites a, r's diagonal goes to diag (n). */
spectra_status lapack_qr_square(int64_t n, double *a, double *diag);
/* Symmetric eigen-decomposition: a (n, n) is overwritten by eigenvectors as rows, ascending w. */
spectra_status lapack_eigh(int64_t n, double *a, double *w);

#endif
