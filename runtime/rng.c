#include "rng.h"

#include "sample.h"

#include <math.h>

/* Counters are worked on LANES at a time, in plain loops the compiler turns into vector code; the
 * clones compute the same integers. */
enum { LANES = 16, ROUNDS = 10 };

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define CLONES
#endif

static const uint32_t multiplier0 = 0xD2511F53U, multiplier1 = 0xCD9E8D57U;
static const uint32_t weyl0 = 0x9E3779B9U, weyl1 = 0xBB67AE85U;

rng_stream rng_open(uint64_t seed, rng_use use, uint32_t layer, uint32_t step)
{
    return (rng_stream){{(uint32_t)seed, (uint32_t)(seed >> 32)},
                        {(uint32_t)use << 24 | (layer & 0xFFFFFFU), step}};
}

/* Words of blocks index .. index + LANES - 1, word w of block i in out[w][i]. */
static inline __attribute__((always_inline)) void blocks(const rng_stream *s, uint64_t index,
                                                         uint32_t out[4][LANES])
{
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES];
    for (int i = 0; i < LANES; i++) {
        uint64_t n = index + (uint64_t)i;
        c0[i] = (uint32_t)n;
        c1[i] = (uint32_t)(n >> 32);
        c2[i] = s->hi[0];
        c3[i] = s->hi[1];
    }
    uint32_t k0 = s->key[0], k1 = s->key[1];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < LANES; i++) {
            uint64_t a = (uint64_t)multiplier0 * c0[i], b = (uint64_t)multiplier1 * c2[i];
            uint32_t n0 = (uint32_t)(b >> 32) ^ c1[i] ^ k0, n2 = (uint32_t)(a >> 32) ^ c3[i] ^ k1;
            c1[i] = (uint32_t)b;
            c3[i] = (uint32_t)a;
            c0[i] = n0;
            c2[i] = n2;
        }
        k0 += weyl0;
        k1 += weyl1;
    }
    for (int i = 0; i < LANES; i++) {
        out[0][i] = c0[i];
        out[1][i] = c1[i];
        out[2][i] = c2[i];
        out[3][i] = c3[i];
    }
}

void rng_block(const rng_stream *s, uint64_t index, uint32_t out[4])
{
    uint32_t c[4] = {(uint32_t)index, (uint32_t)(index >> 32), s->hi[0], s->hi[1]};
    uint32_t k0 = s->key[0], k1 = s->key[1];
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t a = (uint64_t)multiplier0 * c[0], b = (uint64_t)multiplier1 * c[2];
        uint32_t n0 = (uint32_t)(b >> 32) ^ c[1] ^ k0, n2 = (uint32_t)(a >> 32) ^ c[3] ^ k1;
        c[1] = (uint32_t)b;
        c[3] = (uint32_t)a;
        c[0] = n0;
        c[2] = n2;
        k0 += weyl0;
        k1 += weyl1;
    }
    for (int i = 0; i < 4; i++)
        out[i] = c[i];
}

CLONES void rng_words(const rng_stream *s, uint64_t first, int64_t n, uint32_t *out)
{
    uint32_t words[4][LANES];
    uint64_t block = first / 4;
    int64_t at = -(int64_t)(first % 4);
    for (; at < n; block += LANES, at += 4 * LANES) {
        blocks(s, block, words);
        for (int64_t i = 0; i < 4 * LANES; i++)
            if (at + i >= 0 && at + i < n)
                out[at + i] = words[i % 4][i / 4];
    }
}

double rng_uniform(const rng_stream *s, uint64_t index)
{
    uint32_t words[4];
    rng_block(s, index / 4, words);
    return ((double)words[index % 4] + 1.0) * 0x1p-32;
}

double rng_normal(const rng_stream *s, uint64_t index)
{
    uint32_t words[4];
    rng_block(s, index / 2, words);
    const uint32_t *w = words + 2 * (index % 2);
    uint64_t bits = ((uint64_t)w[0] << 32 | w[1]) >> 11;
    return normal_quantile(((double)bits + 0.5) * 0x1p-53);
}

uint64_t rng_below(const rng_stream *s, uint64_t index, uint64_t n)
{
    uint32_t words[4];
    rng_block(s, index / 2, words);
    const uint32_t *w = words + 2 * (index % 2);
    uint64_t bits = (uint64_t)w[0] << 32 | w[1];
    return (uint64_t)((unsigned __int128)bits * n >> 64);
}

CLONES void rng_dropout(const rng_stream *s, double p, uint64_t first, int64_t n, float *out)
{
    uint32_t drop = (uint32_t)(p * 65536.0 + 0.5), words[4][LANES];
    float keep = drop < 65536 ? (float)(65536.0 / (65536.0 - drop)) : 0.0F;
    /* element 8 i + j of a group of blocks: half j of block i, low halves of its words first */
    uint64_t block = first / 8;
    int64_t at = -(int64_t)(first % 8);
    for (; at < n; block += LANES, at += 8 * LANES) {
        blocks(s, block, words);
        float factor[8 * LANES];
        for (int w = 0; w < 4; w++)
            for (int i = 0; i < LANES; i++) {
                factor[8 * i + w] = (words[w][i] & 0xFFFFU) >= drop ? keep : 0.0F;
                factor[8 * i + 4 + w] = words[w][i] >> 16 >= drop ? keep : 0.0F;
            }
        int64_t from = at < 0 ? -at : 0, to = n - at < 8 * LANES ? n - at : 8 * LANES;
        for (int64_t i = from; i < to; i++)
            out[at + i] = factor[i];
    }
}

void rng_permutation(const rng_stream *s, int64_t n, int64_t *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)rng_below(s, (uint64_t)i, (uint64_t)i + 1), t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}
