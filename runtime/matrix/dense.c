/* Primitives on whole rows and columns: normal and orthogonal matrices, lengths of rows, simplices,
 * moments. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "math/blas.h"
#include "matrix/primitives.h"

spectra_status primitive_normal(canvas *c)
{
    TRY(canvas_shape(c, c->m, c->d, c->m));
    for (int64_t i = 0; i < c->m * c->d; i++)
        c->w[i] = draw_normal(&c->stream, (uint64_t)i);
    return SPECTRA_OK;
}

/* w = independent d x d orthogonal matrices one below the other, the last one cut. */
spectra_status primitive_haar(canvas *c)
{
    int64_t d = c->d, size = d * d;
    TRY(canvas_shape(c, c->m, d, d));
    double *q = canvas_scratch(size + d);
    if (!q)
        return SPECTRA_ENOMEM;
    spectra_status status = SPECTRA_OK;
    for (int64_t row = 0; row < c->m && status == SPECTRA_OK; row += d) {
        status = canvas_haar(c, (uint64_t)(row * d), d, q, q + size);
        int64_t rows = c->m - row < d ? c->m - row : d;
        memcpy(c->w + row * d, q, (size_t)(rows * d) * sizeof *q);
    }
    free(q);
    return status;
}

/* w <- w Q with one orthogonal Q, uniformly distributed. */
spectra_status primitive_rotate(canvas *c)
{
    int64_t n = c->columns;
    double *q = canvas_scratch(n * n + n + c->rows * n);
    if (!q)
        return SPECTRA_ENOMEM;
    double *input = q + n * n + n;
    memcpy(input, c->w, (size_t)(c->rows * n) * sizeof *input);
    spectra_status status = canvas_haar(c, 0, n, q, q + n * n);
    if (status == SPECTRA_OK)
        blas_dgemm(false, false, c->rows, n, n, 1, input, n, q, n, 0, c->w, n);
    free(q);
    return status;
}

static void scale_row(const canvas *c, int64_t row, double factor)
{
    for (int64_t j = 0; j < c->columns; j++)
        c->w[row * c->columns + j] *= factor;
}

/* Multiplies each row by the length of an independent normal vector of its dimension. */
spectra_status primitive_chi_rows(canvas *c)
{
    for (int64_t r = 0; r < c->rows; r++)
        scale_row(c, r, sqrt(canvas_chi2(c, (uint64_t)(r * c->columns), c->columns)));
    return SPECTRA_OK;
}

/* Gives unit rows the root mean square length of a normal row. */
spectra_status primitive_fixed_rows(canvas *c)
{
    for (int64_t r = 0; r < c->rows; r++)
        scale_row(c, r, sqrt((double)c->columns));
    return SPECTRA_OK;
}

spectra_status primitive_unit_rows(canvas *c)
{
    for (int64_t r = 0; r < c->rows; r++) {
        double sum = 0;
        for (int64_t j = 0; j < c->columns; j++)
            sum += c->w[r * c->columns + j] * c->w[r * c->columns + j];
        scale_row(c, r, 1 / sqrt(sum));
    }
    return SPECTRA_OK;
}

/* The orthonormal rows of each block become the vertices of a regular simplex that they span; of a
 * short block, one of as many vertices as it has rows. One row alone stays as it is. */
spectra_status primitive_simplex(canvas *c)
{
    int64_t n = c->columns, block = c->block < c->rows ? c->block : c->rows;
    double *vertex = canvas_scratch(block + block * n);
    if (!vertex)
        return SPECTRA_ENOMEM;
    double *input = vertex + block;
    for (int64_t row = 0; row < c->rows; row += block) {
        int64_t rows = c->rows - row < block ? c->rows - row : block;
        memcpy(input, c->w + row * n, (size_t)(rows * n) * sizeof *input);
        for (int64_t i = 0; i < rows && rows > 1; i++) {
            double *out = c->w + (row + i) * n;
            canvas_simplex_vertex(rows, i, vertex);
            memset(out, 0, (size_t)n * sizeof *out);
            for (int64_t k = 0; k < rows; k++)
                for (int64_t j = 0; j < n; j++)
                    out[j] += vertex[k] * input[k * n + j];
        }
    }
    free(vertex);
    return SPECTRA_OK;
}

/* Subtracts each column's mean. */
spectra_status primitive_center_columns(canvas *c)
{
    for (int64_t j = 0; j < c->columns; j++) {
        double sum = 0;
        for (int64_t r = 0; r < c->rows; r++)
            sum += c->w[r * c->columns + j];
        double mean = sum / (double)c->rows;
        for (int64_t r = 0; r < c->rows; r++)
            c->w[r * c->columns + j] -= mean;
    }
    return SPECTRA_OK;
}

/* w <- w (w'w/m)^(-1/2), the symmetric root: then w'w = m I. */
spectra_status primitive_whiten(canvas *c)
{
    int64_t m = c->rows, d = c->columns;
    if (m <= d)
        return fail(SPECTRA_ESHAPE, "matrix %s needs m > d, got m = %ld, d = %ld", c->name, (long)m,
                    (long)d);
    TRY(blas_open());
    double *covariance = canvas_scratch(3 * d * d + d + m * d);
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
