/* Matrix products of the host's passes. Small matrices are multiplied by tiles of our own, which
 * keep both factors in cache; OpenBLAS makes the others, and those of few rows. */
#ifndef SPECTRA_MODEL_PRODUCTS_H
#define SPECTRA_MODEL_PRODUCTS_H

#include "kernel/kernel.h"

/* Whether products with a matrix W (out, in) are tiles of our own, which read W' in
 * linear_forward. */
bool product_tiled(int64_t in, int64_t out);
/* y (rows, out) = x (rows, in) W' + bias, W (out, in); bias NULL: none. transposed: W', or NULL
 * unless tiled. */
void linear_forward(const product_ops *own, int64_t rows, int64_t in, int64_t out, const float *x,
                    const float *w, const float *transposed, const float *bias, float *y);
/* gx (rows, in) = gy W. */
void linear_input_grad(const product_ops *own, int64_t rows, int64_t in, int64_t out,
                       const float *w, const float *gy, float *gx);
/* gw += gy' x. */
void linear_weight_grad(const product_ops *own, int64_t rows, int64_t in, int64_t out,
                        const float *x, const float *gy, float *gw);
/* transposed (in, out) = W', W (out, in). */
void transpose(int64_t in, int64_t out, const float *w, float *transposed);
/* sums (n) += the columns of x (rows, n). */
void column_sums(int64_t rows, int64_t n, const float *x, float *sums);

#endif
