#include "sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "blas.h"
#include "rng.h"
#include "sample_sobol.h"
#include "status.h"

/* What a primitive works on. */
typedef struct canvas {
    const char *name; /* of the matrix, for messages */
    int64_t m, d;
    double *w;         /* (m, d) */
    rng_stream stream; /* this primitive's own */
} canvas;

static double *scratch_new(int64_t n)
{
    double *scratch = malloc((size_t)n * sizeof *scratch);
    if (!scratch)
        fail(SPECTRA_ENOMEM, "no memory for %ld numbers to sample a matrix with", (long)n);
    return scratch;
}

/* w = independent standard normal numbers. */
static spectra_status normal(const canvas *c)
{
    for (int64_t i = 0; i < c->m * c->d; i++)
        c->w[i] = rng_normal(&c->stream, (uint64_t)i);
    return SPECTRA_OK;
}

/* w = independent d x d orthogonal matrices one below the other, each uniformly distributed (Haar),
 * the last one cut. Q of a Gaussian matrix has that distribution when R's diagonal is positive
 * (Mezzadri 2007), which LAPACK does not see to. */
static spectra_status haar(const canvas *c)
{
    int64_t d = c->d, size = d * d;
    double *q = scratch_new(size + d);
    if (!q)
        return SPECTRA_ENOMEM;
    double *diagonal = q + size;
    spectra_status status = SPECTRA_OK;
    for (int64_t row = 0; row < c->m && status == SPECTRA_OK; row += d) {
        for (int64_t i = 0; i < size; i++)
            q[i] = rng_normal(&c->stream, (uint64_t)(row * d + i));
        status = lapack_qr_square(d, q, diagonal);
        if (status != SPECTRA_OK)
            break;
        int64_t rows = c->m - row < d ? c->m - row : d;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < d; j++)
                c->w[(row + i) * d + j] = diagonal[j] < 0 ? -q[i * d + j] : q[i * d + j];
    }
    free(q);
    return status;
}

/* Multiplies each row by the length of an independent normal vector of its dimension. */
static spectra_status chi_rows(const canvas *c)
{
    for (int64_t r = 0; r < c->m; r++) {
        double sum = 0;
        for (int64_t j = 0; j < c->d; j++) {
            double x = rng_normal(&c->stream, (uint64_t)(r * c->d + j));
            sum += x * x;
        }
        double length = sqrt(sum);
        for (int64_t j = 0; j < c->d; j++)
            c->w[r * c->d + j] *= length;
    }
    return SPECTRA_OK;
}

enum { OWEN_LEVELS = 16 };

/* Nested uniform scrambling (Owen 1995): every bit is flipped or not by a random bit that depends
 * on the dimension and on all bits above it. Nodes of that binary tree are numbered as in a heap
 * and have a random word each. Of the words of level OWEN_LEVELS all lower bits are taken: points
 * of a Sobol sequence with m <= 2^OWEN_LEVELS do not share them. */
static uint32_t owen_scramble(const rng_stream *s, int64_t dimension, uint32_t x)
{
    uint32_t flips = 0, word[4];
    for (int level = 0; level <= OWEN_LEVELS; level++) {
        uint64_t node = ((uint64_t)1 << 32 | x) >> (32 - level);
        rng_block(s, (uint64_t)dimension << (OWEN_LEVELS + 1) | node, word);
        flips |= level < OWEN_LEVELS ? (word[0] & 1) << (31 - level) : word[0] >> OWEN_LEVELS;
    }
    return x ^ flips;
}

/* w = the first m points of a scrambled Sobol sequence in d dimensions, inside (0, 1). */
static spectra_status sobol_owen(const canvas *c)
{
    if (c->d > SOBOL_DIMENSIONS)
        return fail(SPECTRA_ESHAPE, "matrix %s has Sobol sequences up to d = %d, got d = %ld",
                    c->name, SOBOL_DIMENSIONS, (long)c->d);
    if (c->m > 1 << OWEN_LEVELS)
        return fail(SPECTRA_ESHAPE, "matrix %s has Sobol sequences up to m = %d, got m = %ld",
                    c->name, 1 << OWEN_LEVELS, (long)c->m);
    for (int64_t j = 0; j < c->d; j++) {
        uint32_t v[SOBOL_BITS], x = 0;
        sobol_direction(j, v);
        for (int64_t i = 0; i < c->m; i++) {
            c->w[i * c->d + j] = ((double)owen_scramble(&c->stream, j, x) + 0.5) * 0x1p-32;
            x ^= v[__builtin_ctzll((unsigned long long)i + 1)];
        }
    }
    return SPECTRA_OK;
}

/* Uniform numbers to normal ones. */
static spectra_status normal_icdf(const canvas *c)
{
    for (int64_t i = 0; i < c->m * c->d; i++)
        c->w[i] = normal_quantile(c->w[i]);
    return SPECTRA_OK;
}

/* Subtracts each column's mean. */
static spectra_status center_columns(const canvas *c)
{
    for (int64_t j = 0; j < c->d; j++) {
        double sum = 0;
        for (int64_t r = 0; r < c->m; r++)
            sum += c->w[r * c->d + j];
        double mean = sum / (double)c->m;
        for (int64_t r = 0; r < c->m; r++)
            c->w[r * c->d + j] -= mean;
    }
    return SPECTRA_OK;
}

/* w <- w (w'w/m)^(-1/2), the symmetric root: then w'w = m I. */
static spectra_status whiten(const canvas *c)
{
    int64_t m = c->m, d = c->d;
    if (m <= d)
        return fail(SPECTRA_ESHAPE, "matrix %s needs m > d, got m = %ld, d = %ld", c->name, (long)m,
                    (long)d);
    TRY(blas_open());
    double *covariance = scratch_new(3 * d * d + d + m * d);
    if (!covariance)
        return SPECTRA_ENOMEM;
    double *scaled = covariance + d * d, *root = scaled + d * d, *eigenvalue = root + d * d;
    double *input = eigenvalue + d;
    memcpy(input, c->w, (size_t)(m * d) * sizeof *input);
    blas_dgemm(true, false, d, d, m, 1 / (double)m, input, d, input, d, 0, covariance, d);
    spectra_status status = lapack_eigh(d, covariance, eigenvalue);
    if (status == SPECTRA_OK && !(eigenvalue[0] > 1e-12 * eigenvalue[d - 1]))
        status = fail(SPECTRA_ESHAPE, "matrix %s: the %ld x %ld sample has no full rank", c->name,
                      (long)m, (long)d);
    if (status == SPECTRA_OK) {
        for (int64_t i = 0; i < d; i++)
            for (int64_t j = 0; j < d; j++)
                scaled[i * d + j] = covariance[i * d + j] / sqrt(eigenvalue[i]);
        blas_dgemm(true, false, d, d, d, 1, covariance, d, scaled, d, 0, root, d);
        blas_dgemm(false, false, m, d, d, 1, input, d, root, d, 0, c->w, d);
    }
    free(covariance);
    return status;
}

static const struct {
    const char *name;
    spectra_status (*run)(const canvas *c);
} primitives[] = {
    {"normal", normal},           {"haar", haar},
    {"chi_rows", chi_rows},       {"sobol_owen", sobol_owen},
    {"normal_icdf", normal_icdf}, {"center_columns", center_columns},
    {"whiten", whiten},
};
enum { PRIMITIVES = sizeof primitives / sizeof *primitives };

static spectra_status run_primitive(const char *name, const canvas *c)
{
    const char *names[PRIMITIVES];
    for (int i = 0; i < PRIMITIVES; i++) {
        if (strcmp(name, primitives[i].name) == 0)
            return primitives[i].run(c);
        names[i] = primitives[i].name;
    }
    const char *near = nearest_name(name, names, PRIMITIVES);
    return fail(SPECTRA_ENOTFOUND, "matrix %s: unknown primitive '%s'%s%s%s", c->name, name,
                near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

spectra_status sample_matrix(const matrix_info *info, int64_t m, int64_t d, uint64_t seed,
                             int64_t layer, float *w)
{
    enum { MAX_SIZE = 1 << 28, MAX_LAYER = (1 << 24) - 1 };
    if (m < 1 || d < 1 || m > MAX_SIZE / d)
        return fail(SPECTRA_ESHAPE,
                    "matrix %s: m = %ld and d = %ld, neither may be below 1 nor m * d above %d",
                    info->name, (long)m, (long)d, MAX_SIZE);
    if (layer < 0 || layer > MAX_LAYER)
        return fail(SPECTRA_EINVAL, "matrix %s: layer %ld is not between 0 and %d", info->name,
                    (long)layer, MAX_LAYER);
    double *sample = scratch_new(m * d);
    if (!sample)
        return SPECTRA_ENOMEM;
    memset(sample, 0, (size_t)(m * d) * sizeof *sample);
    spectra_status status = SPECTRA_OK;
    for (int i = 0; i < info->ops && status == SPECTRA_OK; i++) {
        const recipe_op *op = &info->recipe[i];
        canvas c = {info->name, m, d, sample,
                    rng_open(seed, RNG_MATRIX, (uint32_t)layer, (uint32_t)i)};
        status = run_primitive(op->op, &c);
    }
    for (int64_t i = 0; i < m * d && status == SPECTRA_OK; i++)
        w[i] = (float)sample[i];
    free(sample);
    return status;
}
