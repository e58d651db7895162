/* Weight matrices that are products of Hadamard transforms, diagonal matrices and permutations.
 * Kernels apply such a chain step by step, in O(n log n) operations in place of a full matrix
 * product; where a matrix is no such chain they multiply. */
#ifndef SPECTRA_MATRIX_CHAIN_H
#define SPECTRA_MATRIX_CHAIN_H

#include "kernel/kernel.h"
#include "matrix/recipe.h"
#include "spectraformer.h"

/* Floats of memory a chain of m rows needs. */
int64_t sample_chain_floats(int64_t m);
/* The chain of the matrix w (m, d) that sample_matrix drew for `draw`; *found is false where
 * its recipe is no such chain, or m no whole number of blocks. `memory`, 64-byte aligned, must live
 * as long as the chain. SPECTRA_ENOMEM. */
spectra_status sample_chain(const matrix_info *info, int64_t m, int64_t d, matrix_draw draw,
                            const float *w, float *memory, attn_chain *out, bool *found);

/* Whether the chain is, to rounding, the matrix w (m, d). */
bool sample_chain_is(const attn_chain *c, int64_t m, int64_t d, const float *w);

#endif
