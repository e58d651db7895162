/* Attention with positive or trigonometric features in double precision, every pair of tokens, with
 * its gradients: independent of the library's kernels, which it shares only the matrix with.
 */
#ifndef TESTS_ATTENTION_EXACT_H
#define TESTS_ATTENTION_EXACT_H

#include "attention/attention.h"

/* One head of posrf or trigrf with a matrix that has no row weights: q (T, D), k (S, D), v (S, DV),
 * go (T, DV), mask (S) of the keys that are there, or NULL; o, gq, gk, gv are written. */
void exact_attention(const spectra_attention *att, int64_t T, int64_t S, const float *const in[4],
                     const uint8_t *mask, float *const out[4]);

#endif
