/* Projections by a chain of cheap steps instead of a product, for the matrices that are one:
 * Hadamard transforms, diagonals, permutations, by blocks of n rows (attn_chain in kernel.h). A
 * token's n numbers stay in the first-level cache; strides below a vector are lane swaps in
 * registers. */
#ifndef SPECTRA_CHAIN_H
#define SPECTRA_CHAIN_H

#include "vec.h"

#define CHAIN_LANES (VEC_BYTES / (VEC_DOUBLE ? 8 : 4))

/* Lane i of the result is lane i ^ h of x. */
#if CHAIN_LANES == 16
#define CHAIN_SWAP(x, h)                                                                         \
    __builtin_shufflevector(x, x, 0 ^ (h), 1 ^ (h), 2 ^ (h), 3 ^ (h), 4 ^ (h), 5 ^ (h), 6 ^ (h), \
                            7 ^ (h), 8 ^ (h), 9 ^ (h), 10 ^ (h), 11 ^ (h), 12 ^ (h), 13 ^ (h),   \
                            14 ^ (h), 15 ^ (h))
#elif CHAIN_LANES == 8
#define CHAIN_SWAP(x, h)                                                                         \
    __builtin_shufflevector(x, x, 0 ^ (h), 1 ^ (h), 2 ^ (h), 3 ^ (h), 4 ^ (h), 5 ^ (h), 6 ^ (h), \
                            7 ^ (h))
#elif CHAIN_LANES == 4
#define CHAIN_SWAP(x, h) __builtin_shufflevector(x, x, 0 ^ (h), 1 ^ (h), 2 ^ (h), 3 ^ (h))
#else
#define CHAIN_SWAP(x, h) __builtin_shufflevector(x, x, 0 ^ (h), 1 ^ (h))
#endif

/* 1 where bit h of the lane's number is 0, else -1. */
VEC_FN vec chain_signs(int h)
{
    vec s;
    for (int i = 0; i < VL; i++)
        s[i] = i & h ? (real)-1 : (real)1;
    return s;
}

/* The transform of the lanes of each vector by themselves. */
VEC_FN vec chain_lanes(vec x)
{
    x = CHAIN_SWAP(x, 1) + x * chain_signs(1);
#if CHAIN_LANES > 2
    x = CHAIN_SWAP(x, 2) + x * chain_signs(2);
#endif
#if CHAIN_LANES > 4
    x = CHAIN_SWAP(x, 4) + x * chain_signs(4);
#endif
#if CHAIN_LANES > 8
    x = CHAIN_SWAP(x, 8) + x * chain_signs(8);
#endif
    return x;
}

/* y (n) times the Hadamard matrix of Sylvester, not normalised; n = 2^k, at least PAD. */
VEC_FN void chain_hadamard(int64_t n, real *y)
{
    for (int64_t i = 0; i < n; i += VL)
        vstore(y + i, chain_lanes(vload(y + i)));
    for (int64_t half = VL; half < n; half *= 2)
        for (int64_t i = 0; i < n; i += 2 * half)
            for (int64_t j = i; j < i + half; j += VL) {
                vec a = vload(y + j), b = vload(y + j + half);
                vstore(y + j, a + b);
                vstore(y + j + half, a - b);
            }
}

/* One step on y (n) for block `block`, or its transpose. */
VEC_FN void chain_step(const attn_chain *c, int i, int64_t block, bool transposed, real *y)
{
    int64_t n = c->n;
    if (c->kind[i] == CHAIN_HADAMARD) {
        chain_hadamard(n, y);
    } else if (c->kind[i] == CHAIN_DIAGONAL) {
        const real *d = c->diagonal[i] + block * n;
        for (int64_t j = 0; j < n; j += VL)
            vstore(y + j, vload(y + j) * vload(d + j));
    } else {
        const int32_t *p = c->permutation[i] + block * n;
        real copy[CHAIN_MAX];
        memcpy(copy, y, (size_t)n * sizeof(real));
        for (int64_t j = 0; j < n; j++)
            if (transposed)
                y[j] = copy[p[j]];
            else
                y[p[j]] = copy[j];
    }
}

/* u (tokens, ldu) = W x, x (tokens, ldx) with `width` numbers a token, 0 beyond its size. */
static __attribute__((noinline, unused)) void chain_project(const attn_chain *c, int64_t tokens,
                                                            int64_t rows, int64_t width,
                                                            const real *x, int64_t ldx, real *u,
                                                            int64_t ldu)
{
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t first = 0; first < rows; first += c->n) {
            real *y = u + t * ldu + first;
            memcpy(y, x + t * ldx, (size_t)width * sizeof(real));
            memset(y + width, 0, (size_t)(c->n - width) * sizeof(real));
            for (int i = c->steps - 1; i >= 0; i--)
                chain_step(c, i, first / c->n, false, y);
            for (int64_t j = 0; j < c->n; j += VL)
                vstore(y + j, vload(y + j) * vload(c->scale + first + j));
        }
}

/* gx (tokens, ldx) = W' gu. */
static __attribute__((noinline, unused)) void chain_back(const attn_chain *c, int64_t tokens,
                                                         int64_t rows, int64_t width,
                                                         const real *gu, int64_t ldu, real *gx,
                                                         int64_t ldx)
{
    _Alignas(64) real y[CHAIN_MAX];
    for (int64_t t = 0; t < tokens; t++) {
        memset(gx + t * ldx, 0, (size_t)width * sizeof(real));
        for (int64_t first = 0; first < rows; first += c->n) {
            for (int64_t j = 0; j < c->n; j += VL)
                vstore(y + j, vload(gu + t * ldu + first + j) * vload(c->scale + first + j));
            for (int i = 0; i < c->steps; i++)
                chain_step(c, i, first / c->n, true, y);
            for (int64_t j = 0; j < width; j += VL)
                vstore(gx + t * ldx + j, vload(gx + t * ldx + j) + vload(y + j));
        }
    }
}

#endif
