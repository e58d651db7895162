#include "math/rng.h"

#include <assert.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/cpu.h"
#include "math/normal.h"

/* Multipliers and key increments of Philox4x32 (Salmon et al. 2011, table 2 and section 4.2). */
#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u

enum {
    ROUNDS = 10,
    LANES = 16,            /* blocks made together, so that the compiler can vectorise */
    WORDS = 4 * LANES,     /* of such a group */
    ELEMENTS = 8 * LANES,  /* of dropout in such a group */
    DROPOUT_ONE = 1 << 16, /* dropout compares 16 bits */
};

/* The words of LANES successive blocks: w[k][i] is word k of block first + i. */
typedef struct group {
    uint32_t w[4][LANES];
} group;

rng_stream rng_open(uint64_t seed, rng_use use, uint32_t layer, uint32_t step)
{
    assert(layer < 1u << 24);
    return (rng_stream){{(uint32_t)seed, (uint32_t)(seed >> 32)},
                        {(uint32_t)use << 24 | layer, step}};
}

void rng_block(const rng_stream *s, uint64_t index, uint32_t out[4])
{
    uint32_t a = (uint32_t)index, b = (uint32_t)(index >> 32), c = s->hi[0], d = s->hi[1];
    uint32_t k0 = s->key[0], k1 = s->key[1];
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p = (uint64_t)a * PHILOX_M0, q = (uint64_t)c * PHILOX_M1;
        a = (uint32_t)(q >> 32) ^ b ^ k0;
        b = (uint32_t)q;
        c = (uint32_t)(p >> 32) ^ d ^ k1;
        d = (uint32_t)p;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = a;
    out[1] = b;
    out[2] = c;
    out[3] = d;
}

static inline void group_portable(const rng_stream *s, uint64_t first, group *g)
{
    for (uint64_t i = 0; i < LANES; i++) {
        uint32_t w[4];
        rng_block(s, first + i, w);
        for (int k = 0; k < 4; k++)
            g->w[k][i] = w[k];
    }
}

#if defined(__x86_64__)
/* One block to a 64-bit lane: the widening multiplication reads only the lower halves of its
 * lanes, so what is in the upper halves does not matter until even and odd blocks are joined. */
#define DEFINE_GROUP(isa, attribute, bytes, widening_mul)                                          \
    typedef uint64_t lanes_##isa __attribute__((vector_size(bytes)));                              \
    typedef struct blocks_##isa {                                                                  \
        lanes_##isa a, b, c, d;                                                                    \
    } blocks_##isa;                                                                                \
    attribute static inline void start_##isa(const rng_stream *s, uint64_t first, blocks_##isa *x) \
    {                                                                                              \
        uint64_t index[(bytes) / 8];                                                               \
        for (int i = 0; i < (bytes) / 8; i++)                                                      \
            index[i] = first + 2 * (uint64_t)i;                                                    \
        memcpy(&x->a, index, sizeof index);                                                        \
        x->b = x->a >> 32;                                                                         \
        x->c = (lanes_##isa){0} + s->hi[0];                                                        \
        x->d = (lanes_##isa){0} + s->hi[1];                                                        \
    }                                                                                              \
    attribute static inline void round_##isa(uint32_t k0, uint32_t k1, blocks_##isa *x)            \
    {                                                                                              \
        const lanes_##isa m0 = (lanes_##isa){0} + PHILOX_M0, m1 = (lanes_##isa){0} + PHILOX_M1;    \
        lanes_##isa p = widening_mul(x->a, m0), q = widening_mul(x->c, m1);                        \
        *x = (blocks_##isa){q >> 32 ^ x->b ^ k0, q, p >> 32 ^ x->d ^ k1, p};                       \
    }                                                                                              \
    attribute static inline void join_##isa(lanes_##isa even, lanes_##isa odd, uint32_t *out)      \
    {                                                                                              \
        lanes_##isa w = (even & 0xffffffff) | odd << 32;                                           \
        memcpy(out, &w, sizeof w);                                                                 \
    }                                                                                              \
    attribute static inline void group_##isa(const rng_stream *s, uint64_t first, group *g)        \
    {                                                                                              \
        for (int at = 0; at < LANES; at += (bytes) / 4) {                                          \
            blocks_##isa even, odd;                                                                \
            uint32_t k0 = s->key[0], k1 = s->key[1];                                               \
            start_##isa(s, first + (uint64_t)at, &even);                                           \
            start_##isa(s, first + (uint64_t)at + 1, &odd);                                        \
            for (int i = 0; i < ROUNDS; i++, k0 += PHILOX_W0, k1 += PHILOX_W1) {                   \
                round_##isa(k0, k1, &even);                                                        \
                round_##isa(k0, k1, &odd);                                                         \
            }                                                                                      \
            join_##isa(even.a, odd.a, g->w[0] + at);                                               \
            join_##isa(even.b, odd.b, g->w[1] + at);                                               \
            join_##isa(even.c, odd.c, g->w[2] + at);                                               \
            join_##isa(even.d, odd.d, g->w[3] + at);                                               \
        }                                                                                          \
    }

#define MUL_AVX2(x, y) (lanes_avx2) _mm256_mul_epu32((__m256i)(x), (__m256i)(y))
#define MUL_AVX512(x, y) (lanes_avx512) _mm512_mul_epu32((__m512i)(x), (__m512i)(y))
#define TARGET_AVX2 __attribute__((target("avx2")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
DEFINE_GROUP(avx2, TARGET_AVX2, 32, MUL_AVX2)
DEFINE_GROUP(avx512, TARGET_AVX512, 64, MUL_AVX512)
#endif

/* n groups of words in stream order, and n groups of dropout factors: there element (half, k, i) of
 * a group is that half of word k of block i. For each instruction set the same integers and
 * comparisons, so the same bits. */
#define DEFINE_FILL(isa, attribute)                                                     \
    attribute static void words_##isa(const rng_stream *s, uint64_t block, int64_t n,   \
                                      uint32_t *out)                                    \
    {                                                                                   \
        for (int64_t j = 0; j < n; j++, block += LANES, out += WORDS) {                 \
            group g;                                                                    \
            group_##isa(s, block, &g);                                                  \
            for (int i = 0; i < LANES; i++)                                             \
                for (int k = 0; k < 4; k++)                                             \
                    out[4 * i + k] = g.w[k][i];                                         \
        }                                                                               \
    }                                                                                   \
    attribute static void dropout_##isa(const rng_stream *s, uint64_t block, int64_t n, \
                                        uint32_t threshold, float factor, float *out)   \
    {                                                                                   \
        for (int64_t j = 0; j < n; j++, block += LANES, out += ELEMENTS) {              \
            group g;                                                                    \
            group_##isa(s, block, &g);                                                  \
            for (int k = 0; k < 4; k++)                                                 \
                for (int i = 0; i < LANES; i++) {                                       \
                    uint32_t w = g.w[k][i];                                             \
                    out[k * LANES + i] = (w & 0xffff) < threshold ? 0.0f : factor;      \
                    out[WORDS + k * LANES + i] = w >> 16 < threshold ? 0.0f : factor;   \
                }                                                                       \
        }                                                                               \
    }

DEFINE_FILL(portable, )
#if defined(__x86_64__)
DEFINE_FILL(avx2, TARGET_AVX2)
DEFINE_FILL(avx512, TARGET_AVX512)
#endif

typedef struct rng_code {
    void (*words)(const rng_stream *s, uint64_t block, int64_t n, uint32_t *out);
    void (*dropout)(const rng_stream *s, uint64_t block, int64_t n, uint32_t threshold,
                    float factor, float *out);
} rng_code;

static rng_code pick_code(void)
{
    static const rng_code code[CPU_LEVELS] = {
        [CPU_PORTABLE] = {words_portable, dropout_portable},
#if defined(__x86_64__)
        [CPU_AVX2] = {words_avx2, dropout_avx2},
        [CPU_AVX512] = {words_avx512, dropout_avx512},
#endif
    };
    return code[cpu_best()];
}

void rng_words(const rng_stream *s, uint64_t first, int64_t n, uint32_t *out)
{
    rng_code code = pick_code();
    uint32_t part[WORDS];
    while (n > 0) {
        uint64_t block = first / 4;
        int64_t skip = (int64_t)(first % 4), take = n;
        if (skip == 0 && n >= WORDS) {
            take = n / WORDS * WORDS;
            code.words(s, block, take / WORDS, out);
        } else {
            take = take < WORDS - skip ? take : WORDS - skip;
            code.words(s, block, 1, part);
            memcpy(out, part + skip, (size_t)take * sizeof *out);
        }
        first += (uint64_t)take;
        out += take;
        n -= take;
    }
}

void rng_dropout(const rng_stream *s, double p, uint64_t first, int64_t n, float *out)
{
    assert(p >= 0 && p <= 1);
    uint32_t threshold = (uint32_t)(p * DROPOUT_ONE + 0.5);
    float factor =
        threshold < DROPOUT_ONE ? (float)DROPOUT_ONE / (float)(DROPOUT_ONE - threshold) : 0.0f;
    rng_code code = pick_code();
    float part[ELEMENTS];
    while (n > 0) {
        uint64_t block = first / ELEMENTS * LANES;
        int64_t skip = (int64_t)(first % ELEMENTS), take = n;
        if (skip == 0 && n >= ELEMENTS) {
            take = n / ELEMENTS * ELEMENTS;
            code.dropout(s, block, take / ELEMENTS, threshold, factor, out);
        } else {
            take = take < ELEMENTS - skip ? take : ELEMENTS - skip;
            code.dropout(s, block, 1, threshold, factor, part);
            memcpy(out, part + skip, (size_t)take * sizeof *out);
        }
        first += (uint64_t)take;
        out += take;
        n -= take;
    }
}

static uint64_t word_pair(const rng_stream *s, uint64_t index)
{
    uint32_t w[4];
    rng_block(s, index / 2, w);
    const uint32_t *pair = w + index % 2 * 2;
    return (uint64_t)pair[1] << 32 | pair[0];
}

double rng_uniform(const rng_stream *s, uint64_t index)
{
    uint32_t w[4];
    rng_block(s, index / 4, w);
    return ((double)w[index % 4] + 1) * 0x1p-32;
}

double rng_normal(const rng_stream *s, uint64_t index)
{
    /* A sign and 52 bits of a probability below 1/2, where doubles are exact. */
    uint64_t bits = word_pair(s, index);
    double x = normal_quantile(((double)(bits >> 12) + 0.5) * 0x1p-53);
    return bits & 1 ? -x : x;
}

uint64_t rng_below(const rng_stream *s, uint64_t index, uint64_t n)
{
    return (uint64_t)((unsigned __int128)word_pair(s, index) * n >> 64);
}
