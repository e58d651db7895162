/* Random numbers that the user can choose the generator of: those that weight matrices and the
 * initial weights of a model are made of. What else is random (dropout, the order of examples,
 * data) always comes from the counter-based streams of rng.h.
 *
 * SPECTRA_RNG_PHILOX takes the streams of rng.h. SPECTRA_RNG_CURAND takes what cuRAND's generator
 * for the host makes (rng_curand.h), that is after
 *
 *     curandCreateGeneratorHost(&g, CURAND_RNG_PSEUDO_PHILOX4_32_10);
 *     curandSetPseudoRandomGeneratorSeed(g, seed);
 *     curandSetGeneratorOffset(g, offset);
 *
 * normal number i is element i of curandGenerateNormalDouble(g, .., 0, 1), uniform number i element
 * i of curandGenerateUniformDouble; word i is element i of curandGenerate after the offset was set
 * to offset + 2^31. The offset is 2^32 times the number of the stream: 64 * layer + the number of
 * the step in the matrix's recipe, from 0 (63: the learner of a matrix that is trained), and for
 * initial weights 2^30 + the number of the tensor. So a matrix whose recipe is `normal()` is, in
 * layer 0, curandGenerateNormalDouble of the seed alone, rounded to float. */
#ifndef SPECTRA_MATH_DRAW_H
#define SPECTRA_MATH_DRAW_H

#include "math/rng.h"
#include "spectraformer.h"

/* "philox", "curand"; any other name is philox. */
spectra_rng draw_kind(const char *name);
const char *draw_name(spectra_rng kind);

typedef struct draw_stream {
    spectra_rng kind;
    rng_stream philox;
    uint64_t seed, offset; /* of cuRAND's generator */
} draw_stream;

/* use: RNG_MATRIX or RNG_INIT; layer as in rng_open, step DRAW_LEARNER or below DRAW_STEPS. */
enum { DRAW_STEPS = 63, DRAW_LEARNER = 0x1ea57 };
draw_stream draw_open(spectra_rng kind, uint64_t seed, rng_use use, uint32_t layer, uint32_t step);
/* Standard normal. */
double draw_normal(const draw_stream *s, uint64_t index);
/* In (0, 1]. */
double draw_uniform(const draw_stream *s, uint64_t index);
uint32_t draw_word(const draw_stream *s, uint64_t index);
/* Uniform integer in [0, n), of words 2 index and 2 index + 1. */
uint64_t draw_below(const draw_stream *s, uint64_t index, uint64_t n);
/* Fisher-Yates permutation of 0..n-1, of numbers first+1..first+n-1 of draw_below. */
void draw_permutation(const draw_stream *s, uint64_t first, int64_t n, int64_t *out);

#endif
