/* Primitives of structured matrices: Hadamard transforms with random diagonals, circulant and
 * Toeplitz matrices. A Hadamard matrix exists for powers of two, so such recipes work on whole
 * blocks of n = 2^k >= d columns, which `cut` reduces to m x d at the end: a vector of d numbers
 * followed by zeros sees the first d columns only. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "matrix/primitives.h"

spectra_status primitive_basis(canvas *c)
{
    int64_t n = canvas_order(c->d), blocks = (c->m - 1) / n + 1;
    TRY(canvas_shape(c, blocks * n, n, n));
    for (int64_t r = 0; r < c->rows; r++)
        c->w[r * n + r % n] = 1;
    return SPECTRA_OK;
}

/* Blocks of d rows, each row the one above turned right by one. */
spectra_status primitive_circulant(canvas *c)
{
    int64_t d = c->d;
    TRY(canvas_shape(c, c->m, d, d));
    for (int64_t r = 0; r < c->m; r++)
        for (int64_t j = 0; j < d; j++)
            c->w[r * d + (r + j) % d] = draw_normal(&c->stream, (uint64_t)(r / d * d + j));
    return SPECTRA_OK;
}

/* One block of m rows: element (i, j) depends on i - j only. */
spectra_status primitive_toeplitz(canvas *c)
{
    int64_t n = canvas_order(c->d);
    TRY(canvas_shape(c, c->m, n, c->m));
    for (int64_t r = 0; r < c->m; r++)
        for (int64_t j = 0; j < n; j++)
            c->w[r * n + j] = draw_normal(&c->stream, (uint64_t)(r - j + n - 1));
    return SPECTRA_OK;
}

/* Each row times H, element (i, j) of which is +-n^(-1/2) by the number of ones that i and j share:
 * its own inverse, applied in n log n steps (Sylvester's construction). */
spectra_status primitive_hadamard(canvas *c)
{
    int64_t n = c->columns;
    if (n & (n - 1))
        return fail(SPECTRA_ESHAPE,
                    "matrix %s: 'hadamard' needs a power of two of columns, got %ld", c->name,
                    (long)n);
    double scale = 1 / sqrt((double)n);
    for (int64_t r = 0; r < c->rows; r++) {
        double *row = c->w + r * n;
        canvas_hadamard(n, 1, row);
        for (int64_t j = 0; j < n; j++)
            row[j] *= scale;
    }
    return SPECTRA_OK;
}

/* Multiplies column j of block b by factor(stream, b * columns + j). */
static spectra_status scale_columns(canvas *c,
                                    double (*factor)(const draw_stream *s, uint64_t index))
{
    int64_t n = c->columns;
    double *diagonal = canvas_scratch(n);
    if (!diagonal)
        return SPECTRA_ENOMEM;
    for (int64_t r = 0; r < c->rows; r++) {
        for (int64_t j = 0; j < n && r % c->block == 0; j++)
            diagonal[j] = factor(&c->stream, (uint64_t)(r / c->block * n + j));
        for (int64_t j = 0; j < n; j++)
            c->w[r * n + j] *= diagonal[j];
    }
    free(diagonal);
    return SPECTRA_OK;
}

static double random_sign(const draw_stream *s, uint64_t index)
{
    return draw_below(s, index, 2) ? -1 : 1;
}

/* sqrt(2) times the real part of a number uniform on the unit circle: mean 0, mean square 1. */
static double random_cosine(const draw_stream *s, uint64_t index)
{
    static const double two_pi = 6.28318530717958647693;
    return sqrt(2) * cos(two_pi * draw_uniform(s, index));
}

spectra_status primitive_signs(canvas *c)
{
    return scale_columns(c, random_sign);
}

spectra_status primitive_cosines(canvas *c)
{
    return scale_columns(c, random_cosine);
}

spectra_status primitive_normal_columns(canvas *c)
{
    return scale_columns(c, draw_normal);
}

spectra_status primitive_permute_columns(canvas *c)
{
    int64_t n = c->columns;
    double *old = canvas_scratch(n);
    int64_t *place = malloc((size_t)n * sizeof *place);
    spectra_status status = SPECTRA_OK;
    if (!old || !place)
        status = fail(SPECTRA_ENOMEM, "no memory to permute %ld columns", (long)n);
    for (int64_t r = 0; r < c->rows && status == SPECTRA_OK; r++) {
        double *row = c->w + r * n;
        if (r % c->block == 0)
            draw_permutation(&c->stream, (uint64_t)(r / c->block * n), n, place);
        memcpy(old, row, (size_t)n * sizeof *old);
        for (int64_t j = 0; j < n; j++)
            row[place[j]] = old[j];
    }
    free(old);
    free(place);
    return status;
}

/* The first d columns, all rows of whole blocks and, of the last block, as many random rows as are
 * missing: the rows of a Hadamard matrix are not alike (the first is constant). */
spectra_status primitive_cut(canvas *c)
{
    int64_t whole = c->m / c->block * c->block, n = c->columns;
    if (c->rows < c->m || n < c->d)
        return fail(SPECTRA_EINVAL, "matrix %s: nothing to cut to %ld x %ld from %ld x %ld",
                    c->name, (long)c->m, (long)c->d, (long)c->rows, (long)n);
    double *from = c->w;
    int64_t *pick = malloc((size_t)c->block * sizeof *pick);
    if (!pick)
        return fail(SPECTRA_ENOMEM, "no memory to choose of %ld rows", (long)c->block);
    draw_permutation(&c->stream, 0, c->block, pick);
    c->w = NULL;
    bool all = c->rows == c->m;
    spectra_status status = canvas_shape(c, c->m, c->d, c->block);
    for (int64_t r = 0; r < c->m && status == SPECTRA_OK; r++) {
        int64_t row = all || r < whole ? r : whole + pick[r - whole];
        memcpy(c->w + r * c->d, from + row * n, (size_t)c->d * sizeof *from);
    }
    free(pick);
    free(from);
    return status;
}
