#include "math/rng_curand.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "math/rng.h"
#include "math/sobol.h"

/* The Makefile compiles this file with -ffp-contract=off: a multiplication fused with an
 * addition would change bits. */

enum {
    SUBSEQUENCES = 65536,
    PART = 256, /* words converted together, a multiple of 4 */
};

#define PI 0x1.921fb54442d18p+1
#define WORD_TO_ANGLE (0x1p-32f * 6.2831855f)

static void block(uint64_t seed, uint64_t subsequence, uint64_t index, uint32_t out[4])
{
    const rng_stream s = {{(uint32_t)seed, (uint32_t)(seed >> 32)}, {(uint32_t)subsequence, 0}};
    rng_block(&s, index, out);
}

void rng_curand_words(uint64_t seed, uint64_t first, int64_t n, uint32_t *out)
{
    while (n > 0) {
        const uint64_t k = first / 4, skip = first % 4;
        const int64_t take = (int64_t)(4 - skip) < n ? (int64_t)(4 - skip) : n;
        uint32_t w[4];
        block(seed, k % SUBSEQUENCES, k / SUBSEQUENCES, w);
        memcpy(out, w + skip, (size_t)take * sizeof *out);
        first += (uint64_t)take;
        out += take;
        n -= take;
    }
}

void rng_curand_uniform(uint64_t seed, uint64_t first, int64_t n, float *out)
{
    uint32_t w[PART];
    while (n > 0) {
        const int64_t take = n < PART ? n : PART;
        rng_curand_words(seed, first, take, w);
        for (int64_t i = 0; i < take; i++)
            out[i] = (float)w[i] * 0x1p-32f + 0x1p-33f;
        first += (uint64_t)take;
        out += take;
        n -= take;
    }
}

/* z of two words: 53 bits, some of them the exclusive or of both. */
static double wide(const uint32_t w[2])
{
    return (double)(w[0] ^ (uint64_t)w[1] << 21);
}

/* The block of the number in double at position p and of the other one of its pair. A subsequence
 * has used one block for each of its turns before the offset, two for each since. */
static void wide_block(uint64_t seed, uint64_t offset, uint64_t p, uint32_t w[4])
{
    const uint64_t subsequence = p / 4 % SUBSEQUENCES, begun = offset / 4;
    const uint64_t used = begun / SUBSEQUENCES + (subsequence < begun % SUBSEQUENCES);
    const uint64_t turns = p / 4 / SUBSEQUENCES - used;
    block(seed, subsequence, used + 2 * turns + p % 4 / 2, w);
}

void rng_curand_uniform_double(uint64_t seed, uint64_t offset, uint64_t first, int64_t n,
                               double *out)
{
    uint32_t w[4];
    for (int64_t i = 0; i < n; i++) {
        const uint64_t p = offset + first + (uint64_t)i;
        if (i == 0 || p % 2 == 0)
            wide_block(seed, offset, p, w);
        out[i] = wide(w + p % 2 * 2) * 0x1p-53 + 0x1p-54;
    }
}

/* ---- logarithm, sine and cosine -------------------------------------------- */

/* c[0] + c[1] x + ... */
static double polynomial(const double *c, int n, double x)
{
    double y = c[n - 1];
    for (int i = n - 2; i >= 0; i--)
        y = y * x + c[i];
    return y;
}

/* An unevaluated sum, low a few units in the last place of high or less. */
typedef struct two {
    double high, low;
} two;

/* a + b of any a and b, exactly. */
static two sum_of(double a, double b)
{
    const double high = a + b, part = high - a;
    return (two){high, (a - (high - part)) + (b - part)};
}

/* log u of a normal u > 0, relative error about 2^-56: u = 2^e (1 + f), 1 + f near 1, and
 * log(1 + f) = 2 artanh s = 2 s + s t with s = f / (2 + f), t = 2 s^2/3 + 2 s^4/5 + ..., written as
 * f - f^2/2 + s (f^2/2 + t), of which only the last part, 1/20 of the sum or less, is rounded. */
static two log_of(double u)
{
    static const double series[] = {2.0 / 3,  2.0 / 5,  2.0 / 7,  2.0 / 9,  2.0 / 11, 2.0 / 13,
                                    2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21, 2.0 / 23};
    /* log 2 in two parts, the first of 32 bits: its product with e is exact */
    const double log2_high = 0x1.62e42fee00000p-1, log2_low = 0x1.a39ef35793c76p-33;
    int e;
    double m = frexp(u, &e);
    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2;
        e--;
    }
    const double f = m - 1, s = f / (2 + f), z = s * s;
    const double square = f * f, square_low = fma(f, f, -square);
    const double t = z * polynomial(series, 11, z);
    const two start = sum_of(f, -square / 2), all = sum_of(e * log2_high, start.high);
    const double rest = s * (square / 2 + t) + (e * log2_low - square_low / 2);
    return sum_of(all.high, all.low + (start.low + rest));
}

/* Sine and cosine of 0 <= x < 7, relative error about 2^-55: Taylor series of r + low = x - k pi/2,
 * |r| < pi/4 and a bit. */
static void sine_cosine(double x, two *sine, two *cosine)
{
    static const double odd[] = {-1.0 / 6,
                                 1.0 / 120,
                                 -1.0 / 5040,
                                 1.0 / 362880,
                                 -1.0 / 39916800,
                                 1.0 / 6227020800.0,
                                 -1.0 / 1307674368000.0,
                                 1.0 / 355687428096000.0};
    static const double even[] = {1.0 / 24,
                                  -1.0 / 720,
                                  1.0 / 40320,
                                  -1.0 / 3628800,
                                  1.0 / 479001600,
                                  -1.0 / 87178291200.0,
                                  1.0 / 20922789888000.0,
                                  -1.0 / 6402373705728000.0};
    /* pi/2 in three parts, the first two of 50 bits: their products with k <= 4 are exact, and so
     * is the first difference */
    const double part[] = {0x1.921fb54442d18p+0, 0x1.1a62633145c00p-54, 0x1.b839a252049c1p-104};
    const int k = (int)(x * (2 / PI) + 0.5);
    const two rest = sum_of(x - k * part[0], -k * part[1]);
    const double r = rest.high, low = rest.low - k * part[2];
    const double z = r * r, z_low = fma(r, r, -z), w = 1 - z / 2;
    const two s = sum_of(r, r * z * polynomial(odd, 8, z) + low * w);
    const two c =
        sum_of(w, (1 - w - z / 2) + (z * z * polynomial(even, 8, z) - (r * low + z_low / 2)));
    *sine = k % 2 ? c : s;
    *cosine = k % 2 ? s : c;
    if (k == 2 || k == 3)
        *sine = (two){-sine->high, -sine->low};
    if (k == 1 || k == 2)
        *cosine = (two){-cosine->high, -cosine->low};
}

/* ---- normal numbers -------------------------------------------------------- */

static double product(two a, two b)
{
    const double high = a.high * b.high;
    return high + (fma(a.high, b.high, -high) + (a.high * b.low + a.low * b.high));
}

/* sqrt(-2 log u) sin angle, sqrt(-2 log u) cos angle, all but rounded correctly: as near as can be
 * to whatever a mathematics library makes of the steps. */
static void box_muller(double u, double angle, double out[2])
{
    const two l = log_of(u);
    two radius = {sqrt(-2 * l.high), 0}, sine, cosine;
    if (radius.high > 0)
        radius.low = (fma(-radius.high, radius.high, -2 * l.high) - 2 * l.low) / (2 * radius.high);
    sine_cosine(angle, &sine, &cosine);
    out[0] = product(sine, radius);
    out[1] = product(cosine, radius);
}

void rng_curand_normal(uint64_t seed, uint64_t first, int64_t n, float *out)
{
    double pair[2];
    for (int64_t i = 0; i < n; i++) {
        const uint64_t p = first + (uint64_t)i;
        if (i == 0 || p % 2 == 0) {
            uint32_t w[2];
            rng_curand_words(seed, p / 2 * 2, 2, w);
            const float u = (float)w[0] * 0x1p-32f + 0x1p-33f;
            const float angle = (float)w[1] * WORD_TO_ANGLE + WORD_TO_ANGLE / 2;
            box_muller((double)u, (double)angle, pair);
        }
        out[i] = (float)pair[p % 2];
    }
}

void rng_curand_normal_double(uint64_t seed, uint64_t offset, uint64_t first, int64_t n,
                              double *out)
{
    double pair[2];
    for (int64_t i = 0; i < n; i++) {
        const uint64_t p = offset + first + (uint64_t)i;
        if (i == 0 || p % 2 == 0) {
            uint32_t w[4];
            wide_block(seed, offset, p, w);
            box_muller(wide(w) * 0x1p-53 + 0x1p-54, (wide(w + 2) * 0x1p-52 + 0x1p-53) * PI, pair);
        }
        out[i] = pair[p % 2];
    }
}

void rng_curand_sobol(int64_t dimension, uint32_t first, int64_t n, uint32_t *out)
{
    uint32_t v[SOBOL_BITS], x = 0;
    sobol_direction(dimension, v);
    for (int b = 0; b < SOBOL_BITS; b++)
        if ((first ^ first >> 1) >> b & 1)
            x ^= v[b];
    for (int64_t i = 0; i < n; i++) {
        out[i] = x;
        const uint64_t next = (uint64_t)first + (uint64_t)i + 1;
        assert(next <= (uint64_t)1 << SOBOL_BITS);
        x ^= next >> SOBOL_BITS ? 0 : v[__builtin_ctzll(next)];
    }
}
