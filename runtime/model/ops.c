#include "model/internal.h"

#include "math/blas.h"

#include <string.h>

static const float layernorm_eps = 1e-5f;

static row_args layernorm_args(int64_t rows, int64_t n, const float *x, const float *norm)
{
    return (row_args){
        .rows = rows, .n = n, .in = {x, norm, norm + n}, .ld_in = {n, 0, 0}, .c = {layernorm_eps}};
}

void op_layernorm(const row_ops *op, int64_t rows, int64_t n, const float *x, const float *norm,
                  float *y)
{
    row_args a = layernorm_args(rows, n, x, norm);
    a.out[0] = y;
    a.ld_out[0] = n;
    op->layernorm->fwd(&a);
}

void op_layernorm_grad(const row_ops *op, int64_t rows, int64_t n, const float *x,
                       const float *norm, const float *gy, float *gx, float *gnorm, float *y)
{
    row_args a = layernorm_args(rows, n, x, norm);
    a.out[0] = y;
    a.ld_out[0] = n;
    a.gout[0] = gy;
    a.ld_gout[0] = n;
    a.gin[0] = gx;
    a.ld_gin[0] = n;
    a.gin[1] = gnorm;
    a.gin[2] = gnorm + n;
    a.add = 1u << 0;
    op->layernorm->bwd(&a);
}

static row_args gelu_args(int64_t rows, int64_t n, const float *x, const float *bias,
                          const float *keep, int64_t ld_keep)
{
    return (row_args){.rows = rows, .n = n, .in = {x, bias, keep}, .ld_in = {n, 0, ld_keep}};
}

void op_gelu(const row_ops *op, int64_t rows, int64_t n, const float *x, const float *bias,
             const float *keep, int64_t ld_keep, float *y)
{
    row_args a = gelu_args(rows, n, x, bias, keep, ld_keep);
    a.out[0] = y;
    a.ld_out[0] = n;
    op->gelu->fwd(&a);
}

void op_gelu_grad(const row_ops *op, int64_t rows, int64_t n, const float *x, const float *bias,
                  const float *keep, int64_t ld_keep, const float *gy, float *gx, float *gbias,
                  float *y)
{
    row_args a = gelu_args(rows, n, x, bias, keep, ld_keep);
    a.out[0] = y;
    a.ld_out[0] = n;
    a.gout[0] = gy;
    a.ld_gout[0] = n;
    a.gin[0] = gx;
    a.ld_gin[0] = n;
    a.gin[1] = gbias;
    op->gelu->bwd(&a);
}

void op_dropout_residual(const row_ops *op, int64_t rows, int64_t n, const float *residual,
                         const float *x, const float *bias, const float *keep, int64_t ld_keep,
                         float *y)
{
    row_args a = {.rows = rows,
                  .n = n,
                  .in = {residual, x, bias, keep},
                  .ld_in = {n, n, 0, ld_keep},
                  .out = {y},
                  .ld_out = {n}};
    op->dropout_residual->fwd(&a);
}

void op_dropout_residual_grad(const row_ops *op, int64_t rows, int64_t n, const float *bias,
                              const float *keep, int64_t ld_keep, const float *gy, float *gx,
                              float *gbias)
{
    /* linear in residual and x: their values do not matter, any array of the shape will do */
    row_args a = {.rows = rows,
                  .n = n,
                  .in = {gy, gy, bias, keep},
                  .ld_in = {n, n, 0, ld_keep},
                  .gout = {gy},
                  .ld_gout = {n},
                  .gin = {NULL, gx, gbias},
                  .ld_gin = {0, n, 0}};
    op->dropout_residual->bwd(&a);
}

void op_relu(const row_ops *op, int64_t rows, int64_t n, const float *x, const float *bias,
             float *y)
{
    row_args a = {
        .rows = rows, .n = n, .in = {x, bias}, .ld_in = {n, 0}, .out = {y}, .ld_out = {n}};
    op->relu->fwd(&a);
}

void op_relu_grad(const row_ops *op, int64_t rows, int64_t n, const float *x, const float *bias,
                  const float *gy, float *gx, float *gbias)
{
    row_args a = {.rows = rows,
                  .n = n,
                  .in = {x, bias},
                  .ld_in = {n, 0},
                  .gout = {gy},
                  .ld_gout = {n},
                  .gin = {gx, gbias},
                  .ld_gin = {n, 0}};
    op->relu->bwd(&a);
}

void op_cross_entropy(const row_ops *op, int64_t rows, int64_t n, const float *scores,
                      const float *label, float *loss)
{
    row_args a = {
        .rows = rows, .n = n, .in = {scores, label}, .ld_in = {n, 1}, .out = {loss}, .ld_out = {1}};
    op->cross_entropy->fwd(&a);
}

void op_cross_entropy_grad(const row_ops *op, int64_t rows, int64_t n, const float *scores,
                           const float *label, const float *gloss, float *gscores)
{
    row_args a = {.rows = rows,
                  .n = n,
                  .in = {scores, label},
                  .ld_in = {n, 1},
                  .gout = {gloss},
                  .ld_gout = {1},
                  .gin = {gscores, NULL},
                  .ld_gin = {n, 1}};
    op->cross_entropy->bwd(&a);
}

/* A larger matrix does not stay in cache beside its rows, and OpenBLAS copies what it reads. */
enum { TILED_FLOATS = 1 << 15 };

bool op_tiled(int64_t in, int64_t out)
{
    return in % PAD == 0 && out % PAD == 0 && in * out <= TILED_FLOATS;
}

static bool tiles(int64_t rows, int64_t in, int64_t out)
{
    return rows >= PAD && op_tiled(in, out);
}

void op_linear(const row_ops *op, int64_t rows, int64_t in, int64_t out, const float *x,
               const float *w, const float *turned, const float *bias, float *y)
{
    if (turned && tiles(rows, in, out)) {
        op->products->mul(rows, in, out, x, turned, bias, y);
        return;
    }
    for (int64_t r = 0; bias && r < rows; r++)
        memcpy(y + r * out, bias, (size_t)out * sizeof *y);
    blas_sgemm(false, true, rows, out, in, 1, x, in, w, in, bias ? 1 : 0, y, out);
}

void op_linear_input_grad(const row_ops *op, int64_t rows, int64_t in, int64_t out, const float *w,
                          const float *gy, float *gx)
{
    if (tiles(rows, in, out))
        op->products->mul(rows, out, in, gy, w, NULL, gx);
    else
        blas_sgemm(false, false, rows, in, out, 1, gy, out, w, in, 0, gx, in);
}

void op_linear_weight_grad(const row_ops *op, int64_t rows, int64_t in, int64_t out, const float *x,
                           const float *gy, float *gw)
{
    if (tiles(rows, in, out))
        op->products->rank(rows, in, out, gy, x, gw);
    else
        blas_sgemm(true, false, out, in, rows, 1, gy, out, x, in, 1, gw, in);
}

void op_turn(int64_t in, int64_t out, const float *w, float *turned)
{
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++)
            turned[i * out + o] = w[o * in + i];
}

void op_column_sums(int64_t rows, int64_t n, const float *x, float *sums)
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
