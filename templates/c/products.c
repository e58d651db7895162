/* Products of matrices that stay in cache, so that nothing is copied before it is multiplied: the
 * model's dense layers, a chunk of rows at a time, and exact attention's tiles. And what exact
 * attention does with scores. kernel.h has the contract.
 *
 * An element of a product is summed up in the order of what it is summed over wherever its row
 * stands, so it does not depend on which other rows there are.
 */
#include "tile.h"

/* Rows of both operands of a product over rows that are to stay in the first-level cache. */
enum { RANK_CHUNK = 60 };

static void products_tile(int64_t rows, int64_t cols, int64_t K, const real *a, int64_t lda,
                          const real *b, int64_t ldb, real *c, int64_t ldc)
{
    const int64_t whole = rows - rows % TILE_ROWS;
    tile_mul(whole, cols, K, a, lda, b, ldb, c, ldc);
    for (int64_t r = whole; r < rows; r++)
        for (int64_t j = 0; j < cols; j += VL)
            tile_mul_block(false, 1, 1, K, a + r * lda, lda, b + j, ldb, c + r * ldc + j, ldc);
}

static void products_sum(int64_t n, int64_t rows, int64_t cols, const real *a, int64_t lda,
                         const real *b, int64_t ldb, real *c, int64_t ldc)
{
    for (int64_t t = 0; t < n; t += RANK_CHUNK)
        tile_rank(n - t < RANK_CHUNK ? n - t : RANK_CHUNK, rows, cols, a + t * lda, lda,
                  b + t * ldb, ldb, c, ldc);
}

static void add_bias(int64_t rows, int64_t out, const real *bias, real *y)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < out; j += VL)
            vstore(y + r * out + j, vload(y + r * out + j) + vload(bias + j));
}

static void products_mul(int64_t rows, int64_t in, int64_t out, const real *x, const real *b,
                         const real *bias, real *y)
{
    products_tile(rows, out, in, x, in, b, out, y, out);
    if (bias)
        add_bias(rows, out, bias, y);
}

static void products_rank(int64_t rows, int64_t in, int64_t out, const real *a, const real *b,
                          real *c)
{
    products_sum(rows, out, in, a, out, b, in, c, in);
}

/* ---- scores -----------------------------------------------------------------------------------
 */

enum { AT_ONCE = 4 }; /* maxima and sums that do not wait for each other */

static real scores_top(int64_t n, const real *x)
{
    vec top[AT_ONCE];
    for (int i = 0; i < AT_ONCE; i++)
        top[i] = vset(-(real)INFINITY);
    int64_t j = 0;
    for (; j + AT_ONCE * VL <= n; j += AT_ONCE * VL)
#pragma GCC unroll 4
        for (int i = 0; i < AT_ONCE; i++)
            top[i] = v_max(top[i], vload(x + j + i * VL));
    for (; j < n; j += VL) {
        const vec inside = v_lt(viota(), vset((real)(n - j)));
        top[0] = v_max(top[0], v_where(inside, vload(x + j), vset(-(real)INFINITY)));
    }
    return vhmax(v_max(v_max(top[0], top[1]), v_max(top[2], top[3])));
}

VEC_FN void clear_room(int64_t from, int64_t n, real *x)
{
    for (int64_t j = from; j < pad16(n); j += VL)
        vstore(x + j, vset(0));
}

static real scores_exp(int64_t n, real *x, real top)
{
    vec sum = vset(0);
    int64_t j = 0;
    for (; j < n; j += VL) {
        vec e = vec_exp_falling(vload(x + j) - top);
        e = n - j < VL ? v_first(e, n - j) : e;
        vstore(x + j, e);
        sum += e;
    }
    clear_room(j, n, x);
    return vsum(sum);
}

/* s - lse may exceed 0 by rounding. */
static void scores_grad(int64_t n, real *s, real *dp, const real *keep, real lse, real dot)
{
    int64_t j = 0;
    for (; j < n; j += VL) {
        vec p = vec_exp_falling(vload(s + j) - lse), g = vload(dp + j), kept = p;
        if (keep != NULL) {
            const vec factor = n - j < VL ? vloadn(keep + j, n - j) : vload(keep + j);
            kept *= factor;
            g *= factor;
        }
        g = p * (g - dot);
        vstore(s + j, n - j < VL ? v_first(kept, n - j) : kept);
        vstore(dp + j, n - j < VL ? v_first(g, n - j) : g);
    }
    clear_room(j, n, s);
    clear_room(j, n, dp);
}

extern const product_ops EXPORT(products);
const product_ops EXPORT(products) = {
    .mul = products_mul,
    .rank = products_rank,
    .tile = products_tile,
    .sum = products_sum,
    .top = scores_top,
    .exp = scores_exp,
    .grad = scores_grad,
};
