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

/* Register blocks: MUL_R x MUL_C accumulators, RANK_R x RANK_C likewise. */
#if VEC_BYTES == 64
enum { TILE_ROWS = 12, MUL_R = 12, MUL_C = 2, RANK_R = 8, RANK_C = 2 };
#else
enum { TILE_ROWS = 12, MUL_R = 6, MUL_C = 2, RANK_R = 4, RANK_C = 2 };
#endif

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

VEC_FN void tile_mul_block(bool pairs, int R, int C, int64_t K, const real *a, int64_t lda,
                           const real *b, int64_t ldb, real *c, int64_t ldc)
{
    vec acc[MUL_R][MUL_C];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < C; j++)
            acc[i][j] = vset(0);
    for (int64_t k = 0; k < K; k++) {
        vec bk[MUL_C];
#pragma GCC unroll 16
        for (int j = 0; j < C; j++) {
            bk[j] = vload(b + k * ldb + j * VL);
            TILE_KEEP(bk[j]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) {
            vec ai = tile_spread(pairs, a + i * lda + k);
#pragma GCC unroll 16
            for (int j = 0; j < C; j++)
                acc[i][j] = tile_add(pairs, acc[i][j], ai, bk[j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < C; j++)
            vstore(c + i * ldc + j * VL, acc[i][j]);
}

VEC_FN void tile_mul_all(bool pairs, int64_t rows, int64_t cols, int64_t K, const real *a,
                         int64_t lda, const real *b, int64_t ldb, real *c, int64_t ldc)
{
    for (int64_t i = 0; i < rows; i += MUL_R) {
        int64_t j = 0;
        for (; j + MUL_C * VL <= cols; j += MUL_C * VL)
            tile_mul_block(pairs, MUL_R, MUL_C, K, a + i * lda, lda, b + j, ldb, c + i * ldc + j,
                           ldc);
        if (j < cols)
            tile_mul_block(pairs, MUL_R, 1, K, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
    }
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

/* The same for a single row a (K); c (cols). */
TILE_FN void tile_row(int64_t cols, int64_t K, const real *a, const real *b, int64_t ldb, real *c)
{
    enum { AT_ONCE = PAD / VL < 4 ? 4 : PAD / VL };
    for (int64_t j = 0; j < cols; j += AT_ONCE * VL) {
        int64_t n = cols - j < AT_ONCE * VL ? (cols - j) / VL : AT_ONCE;
        vec acc[AT_ONCE];
        for (int64_t i = 0; i < AT_ONCE; i++)
            acc[i] = vset(0);
        for (int64_t k = 0; k < K; k++)
            for (int64_t i = 0; i < n; i++)
                acc[i] += a[k] * vload(b + k * ldb + j + i * VL);
        for (int64_t i = 0; i < n; i++)
            vstore(c + j + i * VL, acc[i]);
    }
}

VEC_FN void tile_rank_block(bool pairs, int R, int C, int64_t n, const real *a, int64_t lda,
                            const real *b, int64_t ldb, real *c, int64_t ldc)
{
    vec acc[RANK_R][RANK_C];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < C; j++)
            acc[i][j] = vload(c + i * ldc + j * VL);
    for (int64_t t = 0; t < n; t++) {
        vec bt[RANK_C];
#pragma GCC unroll 16
        for (int j = 0; j < C; j++) {
            bt[j] = vload(b + t * ldb + j * VL);
            TILE_KEEP(bt[j]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) {
            vec ai = tile_spread(pairs, a + t * lda + i);
#pragma GCC unroll 16
            for (int j = 0; j < C; j++)
                acc[i][j] = tile_add(pairs, acc[i][j], ai, bt[j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 16
        for (int j = 0; j < C; j++)
            vstore(c + i * ldc + j * VL, acc[i][j]);
}

VEC_FN void tile_rank_all(bool pairs, int64_t n, int64_t rows, int64_t cols, const real *a,
                          int64_t lda, const real *b, int64_t ldb, real *c, int64_t ldc)
{
    for (int64_t i = 0; i < rows; i += RANK_R) {
        int64_t j = 0;
        for (; j + RANK_C * VL <= cols; j += RANK_C * VL)
            tile_rank_block(pairs, RANK_R, RANK_C, n, a + i, lda, b + j, ldb, c + i * ldc + j, ldc);
        if (j < cols)
            tile_rank_block(pairs, RANK_R, 1, n, a + i, lda, b + j, ldb, c + i * ldc + j, ldc);
    }
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
