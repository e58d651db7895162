/* Weight matrices: executes the sampling recipes of specs/matrix. A recipe is a short list of
 * primitives, each a row of the table in sample.c, that fill or transform an m x d matrix in
 * double precision. Adding a primitive touches sample.c and this comment only. */
#ifndef SPECTRA_SAMPLE_H
#define SPECTRA_SAMPLE_H

#include "kernel.h"
#include "spectraformer.h"

/* w (m, d) row-major. Same (recipe, m, d, seed, layer) gives the same bits.
 * SPECTRA_ESHAPE where the construction does not exist (mm needs m > d; sobol d <= 256). */
spectra_status sample_matrix(const matrix_info *info, int64_t m, int64_t d, uint64_t seed,
                             int64_t layer, float *w);
/* Inverse of the normal distribution function, |relative error| < 1e-12 for 0 < u < 1. */
double normal_quantile(double u);

#endif
