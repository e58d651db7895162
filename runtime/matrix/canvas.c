#include "matrix/canvas.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "math/blas.h"

double *canvas_scratch(int64_t n)
{
    double *scratch = malloc((size_t)n * sizeof *scratch);
    if (!scratch)
        fail(SPECTRA_ENOMEM, "no memory for %ld numbers to sample a matrix with", (long)n);
    return scratch;
}

spectra_status canvas_shape(canvas *c, int64_t rows, int64_t columns, int64_t block)
{
    if (rows > SAMPLE_MAX_SIZE / columns)
        return fail(SPECTRA_ESHAPE,
                    "matrix %s: m = %ld and d = %ld take %ld x %ld numbers, at most %d are allowed",
                    c->name, (long)c->m, (long)c->d, (long)rows, (long)columns, SAMPLE_MAX_SIZE);
    free(c->w);
    c->w = canvas_scratch(rows * columns);
    if (!c->w)
        return SPECTRA_ENOMEM;
    memset(c->w, 0, (size_t)(rows * columns) * sizeof *c->w);
    c->rows = rows, c->columns = columns, c->block = block;
    return SPECTRA_OK;
}

double canvas_chi2(const canvas *c, uint64_t first, int64_t k)
{
    double sum = 0;
    for (int64_t j = 0; j < k; j++) {
        double x = draw_normal(&c->stream, first + (uint64_t)j);
        sum += x * x;
    }
    return sum;
}

/* Q of a Gaussian matrix is uniformly distributed when R's diagonal is positive (Mezzadri 2007),
 * which LAPACK does not see to. */
spectra_status canvas_haar(const canvas *c, uint64_t first, int64_t n, double *q, double *r)
{
    for (int64_t i = 0; i < n * n; i++)
        q[i] = draw_normal(&c->stream, first + (uint64_t)i);
    TRY(lapack_qr_square(n, q, r));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            if (r[j] < 0)
                q[i * n + j] = -q[i * n + j];
    return SPECTRA_OK;
}

/* Reid et al. 2023, with n for d: sqrt(n/(n-1)) e_i - (sqrt(n)+1) (n-1)^(-3/2) (1,..,1,0) for i <
 * n-1 and (n-1)^(-1/2) (1,..,1,0) for the last. */
void canvas_simplex_vertex(int64_t n, int64_t i, double *out)
{
    double last = (double)n - 1, root = sqrt((double)n);
    for (int64_t j = 0; j < n; j++)
        out[j] = j == n - 1   ? 0
                 : i == n - 1 ? 1 / sqrt(last)
                              : (i == j ? root / sqrt(last) : 0) - (root + 1) / (last * sqrt(last));
}

int64_t canvas_order(int64_t d)
{
    int64_t n = 1;
    while (n < d)
        n *= 2;
    return n;
}

void canvas_hadamard(int64_t n, int64_t stride, double *x)
{
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t i = 0; i < n; i += 2 * half)
            for (int64_t j = i; j < i + half; j++) {
                double a = x[j * stride], b = x[(j + half) * stride];
                x[j * stride] = a + b;
                x[(j + half) * stride] = a - b;
            }
}
