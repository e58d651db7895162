/* Matrix products of the model's dense layers, a chunk of rows at a time: small enough that both
 * operands stay in cache, so nothing is copied before it is multiplied. All arrays are dense; the
 * sizes of weights are multiples of PAD, the number of rows is any.
 *
 *     mul    y = x B + bias    x (rows, in), B (in, out), y (rows, out); bias (out) or NULL
 *     rank   C += A' B         A (rows, out), B (rows, in), C (out, in)
 *
 * An element of y is summed up in the order of `in` wherever its row stands, so it does not depend
 * on which other rows there are.
 */
#include "tile.h"

/* Rows of both operands of a product over rows that are to stay in the first-level cache. */
enum { RANK_CHUNK = 60 };

static void add_bias(int64_t rows, int64_t out, const real *bias, real *y)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < out; j += VL)
            vstore(y + r * out + j, vload(y + r * out + j) + vload(bias + j));
}

static void products_mul(int64_t rows, int64_t in, int64_t out, const real *x, const real *b,
                         const real *bias, real *y)
{
    const int64_t whole = rows - rows % TILE_ROWS;
    tile_mul(whole, out, in, x, in, b, out, y, out);
    for (int64_t r = whole; r < rows; r++)
        for (int64_t j = 0; j < out; j += VL)
            tile_mul_block(false, 1, 1, in, x + r * in, in, b + j, out, y + r * out + j, out);
    if (bias)
        add_bias(rows, out, bias, y);
}

static void products_rank(int64_t rows, int64_t in, int64_t out, const real *a, const real *b,
                          real *c)
{
    for (int64_t r = 0; r < rows; r += RANK_CHUNK)
        tile_rank(rows - r < RANK_CHUNK ? rows - r : RANK_CHUNK, out, in, a + r * out, out,
                  b + r * in, in, c, in);
}

extern const product_ops EXPORT(products);
const product_ops EXPORT(products) = {
    .mul = products_mul,
    .rank = products_rank,
};
