/* The numbers of cuRAND's host interface, for generators of the type PSEUDO_PHILOX4_32_10 in the
 * order LEGACY (guaranteed to stay; DEFAULT and BEST are the same) and for QUASI_SOBOL32.
 *
 * Words and floats have positions: a call makes those at first .. first+n-1, first being cuRAND's
 * offset and the next call's there first + n. Numbers in double are counted from the offset, as a
 * generator that makes nothing else does, since they take two words each but move on by one.
 *
 * The words are no stream of rng.h: cuRAND deals its blocks out to 65536 subsequences, so block k
 * is made at counter {k / 65536 low, high, k % 65536, 0}. A stream of rng.h is one subsequence; see
 * there.
 *
 * Words and uniform numbers have the bits of cuRAND's generator for the host. Normal numbers are
 * within 2 units in the last place of its, which are what the C library's log, sin and cos (logf,
 * sinf, cosf) make of them. Nothing here is left to that library: additions, multiplications,
 * divisions, square roots of IEEE 754, fused only where written so, hence the same bits everywhere.
 * The generator for GPUs makes the same words in this order, but its normal numbers are of
 * approximate sines, __sincosf in curand_normal.h: not within 2 units of anything here. */
#ifndef SPECTRA_MATH_RNG_CURAND_H
#define SPECTRA_MATH_RNG_CURAND_H

#include <stdint.h>

/* curandGenerate: word p is word p % 4 of block p / 4. */
void rng_curand_words(uint64_t seed, uint64_t first, int64_t n, uint32_t *out);
/* curandGenerateUniform: word 2^-32 + 2^-33, the word and the sum rounded to float, in (0, 1]. */
void rng_curand_uniform(uint64_t seed, uint64_t first, int64_t n, float *out);
/* curandGenerateUniformDouble: (z + 1/2) 2^-53 with z = w0 ^ w1 << 21 of two words, in (0, 1]:
 * numbers first .. first+n-1 after the offset was set. A subsequence gives four, of two blocks, a
 * turn. */
void rng_curand_uniform_double(uint64_t seed, uint64_t offset, uint64_t first, int64_t n,
                               double *out);
/* curandGenerateNormal, mean 0, deviation 1: positions 2i, 2i + 1 are r sin a, r cos a with
 * r = sqrt(-2 log u), a = 2 pi v (Box and Muller 1958); u and a are made of the words there, in
 * float. */
void rng_curand_normal(uint64_t seed, uint64_t first, int64_t n, float *out);
/* curandGenerateNormalDouble: likewise, of the uniform numbers in double. */
void rng_curand_normal_double(uint64_t seed, uint64_t offset, uint64_t first, int64_t n,
                              double *out);

/* QUASI_SOBOL32: coordinates of points first .. first+n-1 in one dimension, 0 <= dimension <
 * SOBOL_DIMENSIONS; cuRAND's output is that of dimension 0, then of 1, ... Its uniform numbers are
 * made of words as rng_curand_uniform does and, in double, (word + 1) 2^-32. */
void rng_curand_sobol(int64_t dimension, uint32_t first, int64_t n, uint32_t *out);

#endif
