#include "sample.h"

#include "blas.h"
#include "rng.h"
#include "sample_sobol_table.h"
#include "status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a primitive works on: the matrix so far, and its own random stream. */
typedef struct sampling {
    const char *matrix; /* name, for messages */
    int64_t m, d;
    double *w; /* (m, d) */
    rng_stream random;
} sampling;

static double *doubles(int64_t n)
{
    return malloc((size_t)(n > 0 ? n : 1) * sizeof(double));
}

static spectra_status no_memory(const sampling *s)
{
    return fail(SPECTRA_ENOMEM, "matrix %s: no memory for %lld x %lld", s->matrix, (long long)s->m,
                (long long)s->d);
}

/* Independent N(0, 1) entries. */
static spectra_status normal(sampling *s)
{
    for (int64_t i = 0; i < s->m * s->d; i++)
        s->w[i] = rng_normal(&s->random, (uint64_t)i);
    return SPECTRA_OK;
}

/* Blocks of d orthonormal rows, Haar distributed: Q of a Gaussian matrix with the signs of R's
 * diagonal made positive (Mezzadri 2007); the last block is cut. */
static spectra_status haar(sampling *s)
{
    int64_t m = s->m, d = s->d;
    double *q = doubles(d * d), *diag = doubles(d);
    spectra_status status = q && diag ? SPECTRA_OK : no_memory(s);
    for (int64_t first = 0; first < m && status == SPECTRA_OK; first += d) {
        for (int64_t i = 0; i < d * d; i++)
            q[i] = rng_normal(&s->random, (uint64_t)(first * d + i));
        status = lapack_qr_square(d, q, diag);
        for (int64_t r = first; r < first + d && r < m && status == SPECTRA_OK; r++)
            for (int64_t c = 0; c < d; c++) /* row of W = column of Q */
                s->w[r * d + c] = q[c * d + (r - first)] * (diag[r - first] < 0 ? -1 : 1);
    }
    free(q);
    free(diag);
    return status;
}

/* Every row times an independent chi_d length, the norm of a fresh Gaussian vector. */
static spectra_status chi_rows(sampling *s)
{
    for (int64_t r = 0; r < s->m; r++) {
        double sum = 0;
        for (int64_t c = 0; c < s->d; c++) {
            double x = rng_normal(&s->random, (uint64_t)(r * s->d + c));
            sum += x * x;
        }
        for (int64_t c = 0; c < s->d; c++)
            s->w[r * s->d + c] *= sqrt(sum);
    }
    return SPECTRA_OK;
}

/* Direction numbers of dimension c, most significant bit first. */
static void sobol_directions(int64_t c, uint32_t direction[32])
{
    if (c == 0) {
        for (int k = 0; k < 32; k++)
            direction[k] = 1U << (31 - k);
        return;
    }
    const uint16_t *row = sobol_table[c - 1];
    int s = row[0];
    uint32_t inner = row[1], m[32];
    for (int k = 0; k < 32; k++) {
        if (k < s) {
            m[k] = row[2 + k];
        } else {
            m[k] = m[k - s] ^ (m[k - s] << s);
            for (int j = 1; j < s; j++)
                if (inner >> (s - 1 - j) & 1)
                    m[k] ^= m[k - j] << j;
        }
        direction[k] = m[k] << (31 - k);
    }
}

/* Owen's nested uniform scrambling (1995): bit k is flipped by a random bit that depends on the
 * bits above it. Points of one coordinate differ in their first ten bits (m <= 1024), so below
 * `levels` bits each point has its bits to itself and one random word serves them all. */
static uint32_t owen_scramble(const rng_stream *random, uint32_t dimension, uint32_t x)
{
    enum { levels = 12 };
    uint32_t flip = 0, word[4];
    for (uint32_t k = 0; k < levels; k++) {
        uint64_t prefix = (1U << k) | (k ? x >> (32 - k) : 0); /* which node of the tree */
        rng_block(random, (uint64_t)dimension << 32 | prefix, word);
        flip |= (word[0] & 1) << (31 - k);
    }
    rng_block(random, (uint64_t)dimension << 32 | 1U << levels | x >> (32 - levels), word);
    return x ^ (flip | word[0] >> levels);
}

/* The first m points of the scrambled sequence in d dimensions, in (0, 1). */
static spectra_status sobol_owen(sampling *s)
{
    if (s->d > SOBOL_DIMENSIONS)
        return fail(SPECTRA_ESHAPE, "matrix %s: %lld dimensions, the Sobol table has %d", s->matrix,
                    (long long)s->d, SOBOL_DIMENSIONS);
    for (int64_t c = 0; c < s->d; c++) {
        uint32_t direction[32];
        sobol_directions(c, direction);
        for (int64_t r = 0; r < s->m; r++) {
            uint32_t x = 0;
            for (int k = 0; k < 32 && r >> k; k++)
                if (r >> k & 1)
                    x ^= direction[k];
            x = owen_scramble(&s->random, (uint32_t)c, x);
            s->w[r * s->d + c] = ((double)x + 0.5) * 0x1p-32;
        }
    }
    return SPECTRA_OK;
}

/* Uniforms to standard normals. */
static spectra_status normal_icdf(sampling *s)
{
    for (int64_t i = 0; i < s->m * s->d; i++)
        s->w[i] = normal_quantile(s->w[i]);
    return SPECTRA_OK;
}

/* Columns of mean 0. */
static spectra_status center_columns(sampling *s)
{
    for (int64_t c = 0; c < s->d; c++) {
        double sum = 0;
        for (int64_t r = 0; r < s->m; r++)
            sum += s->w[r * s->d + c];
        for (int64_t r = 0; r < s->m; r++)
            s->w[r * s->d + c] -= sum / (double)s->m;
    }
    return SPECTRA_OK;
}

/* W (W'W/m)^-1/2, symmetric root: the sample covariance becomes I. */
static spectra_status whiten(sampling *s)
{
    int64_t m = s->m, d = s->d;
    if (m <= d)
        return fail(SPECTRA_ESHAPE,
                    "matrix %s needs more features than the head size: m > d, got m = %lld, d = "
                    "%lld",
                    s->matrix, (long long)m, (long long)d);
    double *v = doubles(d * d), *scale = doubles(d), *root = doubles(d * d), *copy = doubles(m * d);
    spectra_status status = v && scale && root && copy ? SPECTRA_OK : no_memory(s);
    if (status == SPECTRA_OK) {
        blas_dgemm(true, false, d, d, m, 1.0 / (double)m, s->w, d, s->w, d, 0, v, d);
        status = lapack_eigh(d, v, scale);
    }
    if (status == SPECTRA_OK) {
        memset(root, 0, (size_t)(d * d) * sizeof *root);
        for (int64_t k = 0; k < d; k++)
            for (int64_t i = 0; i < d; i++)
                for (int64_t j = 0; j < d; j++)
                    root[i * d + j] += v[k * d + i] * v[k * d + j] / sqrt(scale[k]);
        memcpy(copy, s->w, (size_t)(m * d) * sizeof *copy);
        blas_dgemm(false, false, m, d, d, 1, copy, d, root, d, 0, s->w, d);
    }
    free(v);
    free(scale);
    free(root);
    free(copy);
    return status;
}

static const struct {
    const char *name;
    spectra_status (*run)(sampling *s);
} primitives[] = {
    {"normal", normal},           {"haar", haar},
    {"chi_rows", chi_rows},       {"sobol_owen", sobol_owen},
    {"normal_icdf", normal_icdf}, {"center_columns", center_columns},
    {"whiten", whiten},
};
enum { PRIMITIVES = sizeof primitives / sizeof primitives[0] };

static spectra_status run_recipe(const matrix_info *info, sampling *s, uint64_t seed, int64_t layer)
{
    for (int step = 0; step < info->ops; step++) {
        const char *op = info->recipe[step].op;
        int k = 0;
        while (k < PRIMITIVES && strcmp(primitives[k].name, op) != 0)
            k++;
        if (k == PRIMITIVES)
            return fail(SPECTRA_ENOTFOUND, "matrix %s: unknown primitive '%s'", info->name, op);
        s->random = rng_open(seed, RNG_MATRIX, (uint32_t)layer, (uint32_t)step);
        TRY(primitives[k].run(s));
    }
    return SPECTRA_OK;
}

spectra_status sample_matrix(const matrix_info *info, int64_t m, int64_t d, uint64_t seed,
                             int64_t layer, float *w)
{
    TRY(blas_open());
    sampling s = {.matrix = info->name, .m = m, .d = d, .w = doubles(m * d)};
    if (!s.w)
        return no_memory(&s);
    spectra_status status = run_recipe(info, &s, seed, layer);
    for (int64_t i = 0; i < m * d && status == SPECTRA_OK; i++)
        w[i] = (float)s.w[i];
    free(s.w);
    return status;
}
