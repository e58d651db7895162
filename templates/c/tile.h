/* Products of small matrices that stay in cache: all that a skeleton multiplies.
 *
 *     tile_mul    C = A B          rows of A are tokens; A (rows, K), B (K, cols), C (rows, cols)
 *     tile_row    c = a B          one row
 *     tile_rank   C += A^T B       sums over tokens;     A (n, rows), B (n, cols), C (rows, cols)
 *     tile_mul_pairs, tile_rank_pairs   the same of pairs of bf16 (vec.h), K or n pairs
 *
 * Both cover C by register blocks of constant size, inlined so that the arrays of accumulators
 * become registers; they themselves are not inlined, as nothing else may compete for those
 * registers. cols and, in tile_rank, rows are multiples of PAD; in tile_mul rows is a multiple of
 * TILE_ROWS.
 */
#ifndef SPECTRA_TILE_H
#define SPECTRA_TILE_H

#include "vec.h"

/* Register blocks: MUL_R x MUL_C accumulators of whole products, EDGE_R x EDGE_C of the columns
 * that are left, RANK_R x RANK_C of sums over tokens, where multiples of LAST_R are left in the
 * end. */
#if VEC_BYTES == 64
enum { MUL_R = 12, MUL_C = 2, EDGE_R = 12, EDGE_C = 1, RANK_R = 8, RANK_C = 2, LAST_R = 8 };
#elif VEC_BYTES == 32
enum { MUL_R = 3, MUL_C = 4, EDGE_R = 6, EDGE_C = 2, RANK_R = 6, RANK_C = 2, LAST_R = 4 };
#else
enum { MUL_R = 6, MUL_C = 2, EDGE_R = 6, EDGE_C = 1, RANK_R = 4, RANK_C = 2, LAST_R = 4 };
#endif
enum { TILE_ROWS = 12, BLOCK_R = 12, BLOCK_C = 4, ROW_C = 8 };

/* Keeps a value that several products share in a register: gcc would rather load it again. */
#if defined __x86_64__ && defined __AVX512F__
#define TILE_KEEP(x) __asm__("" : "+v"(x))
#elif defined __x86_64__
#define TILE_KEEP(x) __asm__("" : "+x"(x))
#else
#define TILE_KEEP(x) ((void)0)
#endif

#define TILE_FN static __attribute__((noinline, unused))

/* sum + a b; of pairs a dot product. */
VEC_FN vec tile_add(bool pairs, vec sum, vec a, vec b)
{
    return pairs ? vec_dot(sum, a, b) : sum + a * b;
}

/* A number of A in every lane; a pair not by arithmetic, which it may not survive. */
VEC_FN vec tile_spread(bool pairs, const real *p)
{
    vec_int bits;
    if (!pairs)
        return vset(*p);
    memcpy(&bits, p, sizeof bits);
    return (vec)(bits - (ivec){0});
}

/* sums (R, C) += a b, a of R numbers lda apart and b of C vectors. The fewer of the two stay in
 * registers, the others come one after the other. */
VEC_FN void tile_outer(bool pairs, int R, int C, const real *a, int64_t lda, const real *b,
                       vec sums[BLOCK_R][BLOCK_C])
{
    vec kept[BLOCK_C];
    if (R < C) {
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) {
            kept[i] = tile_spread(pairs, a + i * lda);
            TILE_KEEP(kept[i]);
        }
#pragma GCC unroll 16
        for (int j = 0; j < C; j++) {
            const vec bj = vload(b + j * VL);
#pragma GCC unroll 16
            for (int i = 0; i < R; i++)
                sums[i][j] = tile_add(pairs, sums[i][j], kept[i], bj);
        }
        return;
    }
#pragma GCC unroll 16
    for (int j = 0; j < C; j++) {
        kept[j] = vload(b + j * VL);
        TILE_KEEP(kept[j]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
        const vec ai = tile_spread(pairs, a + i * lda);
#pragma GCC unroll 16
        for (int j = 0; j < C; j++)
            sums[i][j] = tile_add(pairs, sums[i][j], ai, kept[j]);
    }
}

VEC_FN void tile_store(int R, int C, vec sums[BLOCK_R][BLOCK_C], real *c, int64_t ldc)
{
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < C; j++)
            vstore(c + i * ldc + j * VL, sums[i][j]);
}

VEC_FN void tile_mul_block(bool pairs, int R, int C, int64_t K, const real *a, int64_t lda,
                           const real *b, int64_t ldb, real *c, int64_t ldc)
{
    vec acc[BLOCK_R][BLOCK_C];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < C; j++)
            acc[i][j] = vset(0);
    for (int64_t k = 0; k < K; k++)
        tile_outer(pairs, R, C, a + k, lda, b + k * ldb, acc);
    tile_store(R, C, acc, c, ldc);
}

VEC_FN void tile_mul_all(bool pairs, int64_t rows, int64_t cols, int64_t K, const real *a,
                         int64_t lda, const real *b, int64_t ldb, real *c, int64_t ldc)
{
    const int64_t whole = cols - cols % (MUL_C * VL);
    for (int64_t j = 0; j < whole; j += MUL_C * VL)
        for (int64_t i = 0; i < rows; i += MUL_R)
            tile_mul_block(pairs, MUL_R, MUL_C, K, a + i * lda, lda, b + j, ldb, c + i * ldc + j,
                           ldc);
    for (int64_t i = 0; i < rows && whole < cols; i += EDGE_R)
        tile_mul_block(pairs, EDGE_R, EDGE_C, K, a + i * lda, lda, b + whole, ldb,
                       c + i * ldc + whole, ldc);
}

TILE_FN void tile_mul(int64_t rows, int64_t cols, int64_t K, const real *a, int64_t lda,
                      const real *b, int64_t ldb, real *c, int64_t ldc)
{
    tile_mul_all(false, rows, cols, K, a, lda, b, ldb, c, ldc);
}

TILE_FN void tile_mul_pairs(int64_t rows, int64_t cols, int64_t K, const real *a, int64_t lda,
                            const real *b, int64_t ldb, real *c, int64_t ldc)
{
    tile_mul_all(true, rows, cols, K, a, lda, b, ldb, c, ldc);
}

/* Of a single row a (K), C vectors of c. */
VEC_FN void tile_row_block(int C, int64_t K, const real *a, const real *b, int64_t ldb, real *c)
{
    vec acc[ROW_C];
#pragma GCC unroll 16
    for (int j = 0; j < C; j++)
        acc[j] = vset(0);
    for (int64_t k = 0; k < K; k++)
#pragma GCC unroll 16
        for (int j = 0; j < C; j++)
            acc[j] += a[k] * vload(b + k * ldb + j * VL);
#pragma GCC unroll 16
    for (int j = 0; j < C; j++)
        vstore(c + j * VL, acc[j]);
}

/* The same for a single row a (K); c (cols). */
TILE_FN void tile_row(int64_t cols, int64_t K, const real *a, const real *b, int64_t ldb, real *c)
{
    int64_t j = 0;
    for (; j + ROW_C * VL <= cols; j += ROW_C * VL)
        tile_row_block(ROW_C, K, a, b + j, ldb, c + j);
    for (; j < cols; j += PAD)
        tile_row_block(PAD / VL, K, a, b + j, ldb, c + j);
}

VEC_FN void tile_rank_block(bool pairs, int R, int C, int64_t n, const real *a, int64_t lda,
                            const real *b, int64_t ldb, real *c, int64_t ldc)
{
    vec acc[BLOCK_R][BLOCK_C];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < C; j++)
            acc[i][j] = vload(c + i * ldc + j * VL);
    for (int64_t t = 0; t < n; t++)
        tile_outer(pairs, R, C, a + t * lda, 1, b + t * ldb, acc);
    tile_store(R, C, acc, c, ldc);
}

/* R rows of C. */
VEC_FN void tile_rank_rows(bool pairs, int R, int64_t n, int64_t cols, const real *a, int64_t lda,
                           const real *b, int64_t ldb, real *c, int64_t ldc)
{
    int64_t j = 0;
    for (; j + RANK_C * VL <= cols; j += RANK_C * VL)
        tile_rank_block(pairs, R, RANK_C, n, a, lda, b + j, ldb, c + j, ldc);
    if (j < cols)
        tile_rank_block(pairs, R, 1, n, a, lda, b + j, ldb, c + j, ldc);
}

VEC_FN void tile_rank_all(bool pairs, int64_t n, int64_t rows, int64_t cols, const real *a,
                          int64_t lda, const real *b, int64_t ldb, real *c, int64_t ldc)
{
    int64_t i = 0;
    for (; RANK_R > LAST_R && ((rows - i) % LAST_R != 0 || rows - i >= RANK_R + LAST_R);
         i += RANK_R)
        tile_rank_rows(pairs, RANK_R, n, cols, a + i, lda, b, ldb, c + i * ldc, ldc);
    for (; i < rows; i += LAST_R)
        tile_rank_rows(pairs, LAST_R, n, cols, a + i, lda, b, ldb, c + i * ldc, ldc);
}

TILE_FN void tile_rank(int64_t n, int64_t rows, int64_t cols, const real *a, int64_t lda,
                       const real *b, int64_t ldb, real *c, int64_t ldc)
{
    tile_rank_all(false, n, rows, cols, a, lda, b, ldb, c, ldc);
}

TILE_FN void tile_rank_pairs(int64_t n, int64_t rows, int64_t cols, const real *a, int64_t lda,
                             const real *b, int64_t ldb, real *c, int64_t ldc)
{
    tile_rank_all(true, n, rows, cols, a, lda, b, ldb, c, ldc);
}

#endif
