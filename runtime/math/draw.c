#include "math/draw.h"

#include "math/rng_curand.h"

#include <assert.h>
#include <string.h>

static const char *const names[] = {
    [SPECTRA_RNG_PHILOX] = "philox", [SPECTRA_RNG_CURAND] = "curand"};

spectra_rng draw_kind(const char *name)
{
    return strcmp(name, names[SPECTRA_RNG_CURAND]) == 0 ? SPECTRA_RNG_CURAND : SPECTRA_RNG_PHILOX;
}

const char *draw_name(spectra_rng kind)
{
    return names[kind];
}

enum { STREAM_BITS = 32, STEP_BITS = 6, INIT_BIT = 30 };

/* Words lie where the numbers in double of the same stream, two words each, do not come. */
static const uint64_t words_at = (uint64_t)1 << 31;

static uint64_t curand_offset(rng_use use, uint32_t layer, uint32_t step)
{
    assert(use == RNG_MATRIX || use == RNG_INIT);
    const uint64_t slot = step == DRAW_LEARNER ? DRAW_STEPS : step;
    const uint64_t number =
        use == RNG_INIT ? ((uint64_t)1 << INIT_BIT) + layer : ((uint64_t)layer << STEP_BITS) + slot;
    assert(slot <= DRAW_STEPS);
    return number << STREAM_BITS;
}

draw_stream draw_open(spectra_rng kind, uint64_t seed, rng_use use, uint32_t layer, uint32_t step)
{
    draw_stream s = {.kind = kind, .seed = seed};
    if (kind == SPECTRA_RNG_PHILOX)
        s.philox = rng_open(seed, use, layer, step);
    else
        s.offset = curand_offset(use, layer, step);
    return s;
}

double draw_normal(const draw_stream *s, uint64_t index)
{
    double x;
    if (s->kind == SPECTRA_RNG_PHILOX)
        return rng_normal(&s->philox, index);
    rng_curand_normal_double(s->seed, s->offset, index, 1, &x);
    return x;
}

double draw_uniform(const draw_stream *s, uint64_t index)
{
    double x;
    if (s->kind == SPECTRA_RNG_PHILOX)
        return rng_uniform(&s->philox, index);
    rng_curand_uniform_double(s->seed, s->offset, index, 1, &x);
    return x;
}

uint32_t draw_word(const draw_stream *s, uint64_t index)
{
    uint32_t w[4];
    if (s->kind == SPECTRA_RNG_PHILOX) {
        rng_block(&s->philox, index / 4, w);
        return w[index % 4];
    }
    rng_curand_words(s->seed, s->offset + words_at + index, 1, w);
    return w[0];
}

uint64_t draw_below(const draw_stream *s, uint64_t index, uint64_t n)
{
    uint32_t pair[2];
    if (s->kind == SPECTRA_RNG_PHILOX)
        return rng_below(&s->philox, index, n);
    rng_curand_words(s->seed, s->offset + words_at + 2 * index, 2, pair);
    return (uint64_t)((unsigned __int128)((uint64_t)pair[1] << 32 | pair[0]) * n >> 64);
}

void draw_permutation(const draw_stream *s, uint64_t first, int64_t n, int64_t *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)draw_below(s, first + (uint64_t)i, (uint64_t)i + 1);
        int64_t t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}
