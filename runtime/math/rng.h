/* Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011). There is no state: a number is
 * a function of (seed, use, layer, step, index), so any part of a stream can be computed anywhere,
 * on a device too. The key is the seed, the counter {index low, index high, use << 24 | layer,
 * step}.
 *
 * In cuRAND's terms a stream is the subsequence step << 32 | use << 24 | layer: in a kernel, the
 * words from `first` on are those of curand_init(seed, subsequence, first, &state). cuRAND's host
 * interface only has the subsequences 0 .. 65535, four words of each in turn, and no use is 0, so
 * it gives none of these streams; rng_curand.h computes the sequences that it gives. Uniform and
 * normal numbers are also made of words in another way than in cuRAND. */
#ifndef SPECTRA_MATH_RNG_H
#define SPECTRA_MATH_RNG_H

#include <stdint.h>

typedef enum rng_use {
    RNG_MATRIX = 1,
    RNG_INIT,
    RNG_SHUFFLE,
    RNG_DROPOUT_EMBED,
    RNG_DROPOUT_ATTN,
    RNG_DROPOUT_PROB,
    RNG_DROPOUT_GELU,
    RNG_DROPOUT_MLP,
    RNG_DATA,
    RNG_TEST
} rng_use;

typedef struct rng_stream {
    uint32_t key[2];
    uint32_t hi[2]; /* counter words 2 and 3 */
} rng_stream;

rng_stream rng_open(uint64_t seed, rng_use use, uint32_t layer, uint32_t step);
/* One block: four words at counter `index`. */
void rng_block(const rng_stream *s, uint64_t index, uint32_t out[4]);
/* Words first .. first+n-1 of the stream (word i is word i%4 of block i/4). */
void rng_words(const rng_stream *s, uint64_t first, int64_t n, uint32_t *out);
/* Uniform in (0, 1], 32 bits: (word + 1) * 2^-32 in double, never 0. */
double rng_uniform(const rng_stream *s, uint64_t index);
/* Standard normal by inverse distribution function of 53 bits (two words a number). Beyond 1.44 its
 * last bits are those of the C library's log. */
double rng_normal(const rng_stream *s, uint64_t index);
/* Uniform integer in [0, n) without bias worth mentioning (64-bit multiply-high). */
uint64_t rng_below(const rng_stream *s, uint64_t index, uint64_t n);
/* Dropout factors: out[i] = 0 with probability p, else 1/(1-p'), for elements first..first+n-1;
 * 16 bits an element, p' = round(p*65536)/65536 is the exact probability used. p = 0 gives ones,
 * p = 1 zeros. Element e takes the lower (e%128 < 64) or upper half of word e/16%4 of block
 * e/128*16 + e%16. */
void rng_dropout(const rng_stream *s, double p, uint64_t first, int64_t n, float *out);

#endif
