#include "model/products.h"

#include "math/blas.h"

#include <string.h>

/* A larger matrix does not stay in cache beside its rows, and OpenBLAS copies what it reads. */
enum { TILED_FLOATS = 1 << 15 };

bool product_tiled(int64_t in, int64_t out)
{
    return in % PAD == 0 && out % PAD == 0 && in * out <= TILED_FLOATS;
}

static bool tiles(int64_t rows, int64_t in, int64_t out)
{
    return rows >= PAD && product_tiled(in, out);
}

void linear_forward(const product_ops *own, int64_t rows, int64_t in, int64_t out, const float *x,
                    const float *w, const float *transposed, const float *bias, float *y)
{
    if (transposed && tiles(rows, in, out)) {
        own->mul(rows, in, out, x, transposed, bias, y);
        return;
    }
    for (int64_t r = 0; bias && r < rows; r++)
        memcpy(y + r * out, bias, (size_t)out * sizeof *y);
    blas_sgemm(false, true, rows, out, in, 1, x, in, w, in, bias ? 1 : 0, y, out);
}

void linear_input_grad(const product_ops *own, int64_t rows, int64_t in, int64_t out,
                       const float *w, const float *gy, float *gx)
{
    if (tiles(rows, in, out))
        own->mul(rows, out, in, gy, w, NULL, gx);
    else
        blas_sgemm(false, false, rows, in, out, 1, gy, out, w, in, 0, gx, in);
}

void linear_weight_grad(const product_ops *own, int64_t rows, int64_t in, int64_t out,
                        const float *x, const float *gy, float *gw)
{
    if (tiles(rows, in, out))
        own->rank(rows, in, out, gy, x, gw);
    else
        blas_sgemm(true, false, out, in, rows, 1, gy, out, x, in, 1, gw, in);
}

void transpose(int64_t in, int64_t out, const float *w, float *transposed)
{
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++)
            transposed[i * out + o] = w[o * in + i];
}

void column_sums(int64_t rows, int64_t n, const float *x, float *sums)
{
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4, x += 4 * n) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            sums[i] += (x[i] + x[n + i]) + (x[2 * n + i] + x[3 * n + i]);
    }
    for (; r < rows; r++, x += n) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            sums[i] += x[i];
    }
}
