/* Exact softmax attention in tiles, as runtime/attention/softmax/host.c: one number a query is kept
 * between forward and backward, probabilities and their dropout are made again. Backward has a
 * kernel for the keys and one for the queries, so that nothing is added with atomics.
 *
 * HEAD_D and HEAD_DV are the head and value size. Blocks of 256 threads; of a tile's 16 x 16 grid
 * of threads, thread (y, x) has rows y, y + 16 ... and columns x, x + 16 ...
 */
#ifndef RT_CUH
#include "rt.cuh"

#include "args.h"
#include "dropout.cuh"
#include "model_args.h"
#include "softmax_args.h"
#endif
#ifndef HEAD_D
#define HEAD_D 32
#define HEAD_DV 32
#endif

enum {
    CD = HEAD_D,
    CDV = HEAD_DV,
    DP = (CD + 3) / 4 * 4,
    DVP = (CDV + 3) / 4 * 4,
    LD = SOFTMAX_LD(CD),
    LDV = SOFTMAX_LD(CDV),
    TQ = SOFTMAX_QUERIES,
    TK = SOFTMAX_KEYS(CD, CDV),
    TB = SOFTMAX_BACKWARD,
    RQ = TQ / 16,
    CK = TK / 16,
    RB = TB / 16,
    CO = (CDV + 15) / 16,
    CQ = (CD + 15) / 16
};

/* ---- heads ---- */

/* What a block works on. */
typedef struct head {
    int64_t b, h, nq, nk, first_q, S8;
    unsigned long long first; /* element of the dropout stream of query 0 and key 0 */
    const int *key;           /* NULL: all */
    unsigned word2, word3;
} head;

DEVICE head head_open(const softmax_cuda_args *a, int64_t b, int64_t h)
{
    head x;
    const int64_t T = a->batch ? a->batch->longest : a->T;
    const int64_t S = a->batch ? a->batch->longest : a->S;
    x.b = b;
    x.h = h;
    x.nq = a->q_len ? a->q_len[b] : a->T;
    x.nk = a->keys ? a->keys[b] : a->k_len ? a->k_len[b] : a->S;
    x.first_q = a->q_begin ? a->q_begin[b] : b * a->T;
    x.key = a->key ? a->key + (a->k_begin ? a->k_begin[b] : b * a->S) : 0;
    x.S8 = (S + 7) / 8 * 8;
    x.first = (unsigned long long)(b * a->H + h) * (unsigned long long)(T * x.S8);
    x.word2 = a->word2 | (a->batch ? a->batch->part << 12 : 0);
    x.word3 = a->batch ? a->batch->step : a->word3;
    return x;
}

DEVICE real *head_rows(const cuda_rows *r, const int64_t *begin, const head *x)
{
    return (real *)r->data + (begin ? begin[x->b] * r->stride_t : x->b * r->stride_b) +
           x->h * r->stride_h;
}

/* Rows first .. first + rows - 1 of an array into a tile; those from row n on and the padding of
 * rows are 0. key: rows are taken by these numbers. */
DEVICE void tile_load(real *to, int rows, int width, int padded, const real *from, int64_t stride,
                      const int *key, int64_t first, int64_t n, int vector)
{
    const int ld = padded + 4, units = padded / 4;
    for (int u = THREAD; u < rows * units; u += THREADS) {
        const int i = u / units, j = u % units * 4;
        const int64_t at = first + i;
        float4 x;
        x.x = x.y = x.z = x.w = 0;
        if (at < n) {
            const real *row = from + (key ? key[at] : at) * stride;
            if (vector) {
                x = global_load4(row + j);
            } else {
                x.x = global_load(row + j);
                x.y = j + 1 < width ? global_load(row + j + 1) : 0;
                x.z = j + 2 < width ? global_load(row + j + 2) : 0;
                x.w = j + 3 < width ? global_load(row + j + 3) : 0;
            }
        }
        shared_store4(to + i * ld + j, x);
    }
}

/* acc (R, C) = products of rows y + 16 r of a and x + 16 c of b, `padded` numbers each. */
DEVICE void tile_products(real *acc, const real *a, const real *b, int R, int C, int padded)
{
    const int y = THREAD / 16, x = THREAD % 16, ld = padded + 4;
    UNROLL
    for (int i = 0; i < R * C; i++)
        acc[i] = 0;
    for (int d = 0; d < padded; d += 4) {
        float4 u[4], v[4];
        UNROLL
        for (int r = 0; r < R; r++)
            u[r] = shared_load4(a + (y + 16 * r) * ld + d);
        UNROLL
        for (int c = 0; c < C; c++)
            v[c] = shared_load4(b + (x + 16 * c) * ld + d);
        UNROLL
        for (int r = 0; r < R; r++)
            UNROLL
            for (int c = 0; c < C; c++)
                acc[r * C + c] += u[r].x * v[c].x + u[r].y * v[c].y + u[r].z * v[c].z +
                                  u[r].w * v[c].w;
    }
}

/* Dropout factors of keys j, j + 16 ... of a query: one block of random words does for 128 keys. */
DEVICE void keep_row(real *keep, const softmax_cuda_args *a, const head *x, int64_t i, int64_t j, int C)
{
    unsigned long long held = ~0ull;
    philox_block words = {{0, 0, 0, 0}};
    UNROLL
    for (int c = 0; c < C; c++) {
        const unsigned long long e =
            x->first + (unsigned long long)i * (unsigned long long)x->S8 + (unsigned long long)(j + 16 * c);
        if (dropout_block(e) != held) {
            held = dropout_block(e);
            words = philox(a->seed, x->word2, x->word3, held);
        }
        keep[c] = dropout_bits(&words, e) < a->threshold ? 0 : a->factor;
    }
}

/* e^x for x <= 0 that leaves NaN. */
DEVICE real exponential(real x)
{
    return x == x ? exp_falling(x) : x;
}

DEVICE real half_warp_sum(real x)
{
    for (int lanes = 8; lanes > 0; lanes /= 2)
        x += warp_shuffle_xor(x, lanes);
    return x;
}

DEVICE real half_warp_max(real x)
{
    for (int lanes = 8; lanes > 0; lanes /= 2)
        x = real_max(x, warp_shuffle_xor(x, lanes));
    return x;
}

/* ---- valid keys ---- */

/* A block a sequence. Shared memory: a word a thread and one. */
KERNEL(softmax_keys, softmax_cuda_args, 256, 1)
{
    SHARED_MEMORY(memory);
    const int64_t S = args.k_len ? args.k_len[BLOCK] : args.S;
    const int64_t first = args.k_begin ? args.k_begin[BLOCK] : BLOCK * args.S;
    const int64_t part = (S + THREADS - 1) / THREADS, begin = THREAD * part;
    const int64_t end = begin + part < S ? begin + part : S;
    int *counts = (int *)memory, n = 0;
    for (int64_t j = begin; j < end; j++)
        n += global_load_byte(args.mask + first + j) != 0;
    counts[THREAD] = n;
    block_sync();
    if (THREAD == 0) {
        int before = 0;
        for (int i = 0; i < THREADS; i++) {
            const int own = counts[i];
            counts[i] = before;
            before += own;
        }
        args.keys[BLOCK] = before;
    }
    block_sync();
    n = counts[THREAD];
    for (int64_t j = begin; j < end; j++)
        if (global_load_byte(args.mask + first + j))
            args.key[first + n++] = (int)j;
}

/* ---- forward ---- */

/* Scores of a tile to probabilities: m, l (RQ) running maxima and sums; o shrinks with them. */
DEVICE void forward_rows(const softmax_cuda_args *a, const head *x, int64_t i0, int64_t j0,
                         const real *s, real *p, real *m, real *l, real *o)
{
    const int ty = THREAD / 16, tx = THREAD % 16;
    UNROLL
    for (int r = 0; r < RQ; r++) {
        real top = -INFINITY, sum = 0, keep[4], e[4];
        UNROLL
        for (int c = 0; c < CK; c++) {
            e[c] = j0 + tx + 16 * c < x->nk ? s[r * CK + c] * a->scale : -INFINITY;
            top = real_max(top, e[c]);
        }
        top = real_max(half_warp_max(top), m[r]);
        UNROLL
        for (int c = 0; c < CK; c++) {
            e[c] = exponential(e[c] - top);
            sum += e[c];
        }
        const real shrink = exponential(m[r] - top);
        m[r] = top;
        l[r] = l[r] * shrink + half_warp_sum(sum);
        UNROLL
        for (int c = 0; c < CO; c++)
            o[r * CO + c] *= shrink;
        if (a->threshold)
            keep_row(keep, a, x, i0 + ty + 16 * r, j0 + tx, CK);
        UNROLL
        for (int c = 0; c < CK; c++)
            shared_store(p + (ty + 16 * r) * (TK + 4) + tx + 16 * c,
                         a->threshold ? e[c] * keep[c] : e[c]);
    }
}

/* acc (R, C) += rows y + 16 r of p (rows, n) times columns x + 16 c of v (n, width). */
DEVICE void tile_mix(real *acc, const real *p, int ldp, const real *v, int ldv, int R, int C, int n,
                     int width)
{
    const int ty = THREAD / 16, tx = THREAD % 16;
    for (int j = 0; j < n; j += 4) {
        float4 w[4];
        UNROLL
        for (int r = 0; r < R; r++)
            w[r] = shared_load4(p + (ty + 16 * r) * ldp + j);
        UNROLL
        for (int c = 0; c < C; c++) {
            const int at = tx + 16 * c < width ? tx + 16 * c : 0;
            const real *from = v + j * ldv + at;
            const real v0 = shared_load(from), v1 = shared_load(from + ldv);
            const real v2 = shared_load(from + 2 * ldv), v3 = shared_load(from + 3 * ldv);
            UNROLL
            for (int r = 0; r < R; r++)
                acc[r * C + c] += w[r].x * v0 + w[r].y * v1 + w[r].z * v2 + w[r].w * v3;
        }
    }
}

/* Blocks: query tiles, heads, sequences. Shared memory: q, k, v and p tiles. */
KERNEL(softmax_fwd, softmax_cuda_args, 256, 1)
{
    SHARED_MEMORY(memory);
    const head x = head_open(&args, BLOCK_Z, BLOCK_Y);
    const int64_t i0 = BLOCK * TQ;
    const int ty = THREAD / 16, tx = THREAD % 16;
    real *q = (real *)memory, *k = q + TQ * LD, *v = k + TK * LD, *p = v + TK * LDV;
    real s[RQ * CK], o[RQ * CO], m[RQ], l[RQ];
    if (i0 >= x.nq)
        return;
    const real *keys = head_rows(&args.k, args.k_begin, &x);
    const real *values = head_rows(&args.v, args.k_begin, &x);
    UNROLL
    for (int r = 0; r < RQ; r++) {
        m[r] = -INFINITY;
        l[r] = 0;
        UNROLL
        for (int c = 0; c < CO; c++)
            o[r * CO + c] = 0;
    }
    tile_load(q, TQ, CD, DP, head_rows(&args.q, args.q_begin, &x), args.q.stride_t, 0, i0, x.nq,
              args.vector);
    for (int64_t j0 = 0; j0 < x.nk; j0 += TK) {
        block_sync();
        tile_load(k, TK, CD, DP, keys, args.k.stride_t, x.key, j0, x.nk, args.vector);
        tile_load(v, TK, CDV, DVP, values, args.v.stride_t, x.key, j0, x.nk, args.vector);
        block_sync();
        tile_products(s, q, k, RQ, CK, DP);
        forward_rows(&args, &x, i0, j0, s, p, m, l, o);
        warp_sync(); /* a row of p is its half warp's own */
        tile_mix(o, p, TK + 4, v, LDV, RQ, CO, TK, CDV);
        warp_sync();
    }
    real *out = head_rows(&args.o, args.q_begin, &x);
    UNROLL
    for (int r = 0; r < RQ; r++) {
        const int64_t i = i0 + ty + 16 * r;
        const real inverse = x.nk > 0 ? 1 / l[r] : 0;
        if (i >= x.nq)
            continue;
        UNROLL
        for (int c = 0; c < CO; c++)
            if (tx + 16 * c < CDV)
                global_store(out + i * args.o.stride_t + tx + 16 * c, o[r * CO + c] * inverse);
        if (tx == 0)
            global_store(args.lse + (x.first_q + i) * args.H + x.h,
                         x.nk > 0 ? m[r] + logf(l[r]) : 0);
    }
}

/* ---- backward ---- */

/* A warp a query. Blocks: queries by warps, heads, sequences. */
KERNEL(softmax_dot, softmax_cuda_args, 256, 1)
{
    const head x = head_open(&args, BLOCK_Z, BLOCK_Y);
    const int64_t i = BLOCK * (THREADS / 32) + THREAD / 32;
    if (i >= x.nq)
        return;
    const real *o = head_rows(&args.o, args.q_begin, &x) + i * args.o.stride_t;
    const real *go = head_rows(&args.go, args.q_begin, &x) + i * args.go.stride_t;
    real sum = 0;
    for (int c = THREAD % 32; c < CDV; c += 32)
        sum += global_load(o + c) * global_load(go + c);
    sum = warp_sum(sum);
    if (THREAD % 32 == 0)
        global_store(args.dot + (x.first_q + i) * args.H + x.h, sum);
}

/* Masked keys get 0: gk, gv of all rows first. Blocks: keys by warps, heads, sequences. */
KERNEL(softmax_clear, softmax_cuda_args, 256, 1)
{
    const head x = head_open(&args, BLOCK_Z, BLOCK_Y);
    const int64_t j = BLOCK * (THREADS / 32) + THREAD / 32;
    if (j >= (args.k_len ? args.k_len[x.b] : args.S))
        return;
    real *gk = head_rows(&args.gk, args.k_begin, &x) + j * args.gk.stride_t;
    real *gv = head_rows(&args.gv, args.k_begin, &x) + j * args.gv.stride_t;
    for (int c = THREAD % 32; c < CD; c += 32)
        global_store(gk + c, 0);
    for (int c = THREAD % 32; c < CDV; c += 32)
        global_store(gv + c, 0);
}

/* Tiles of backward in shared memory, and two of probabilities: p after dropout, and the gradient
 * of scores times the scale. `keys_are_rows`: a row is a key, else a query. */
typedef struct backward_tiles {
    real *q, *k, *v, *go, *p, *ds;
} backward_tiles;

DEVICE backward_tiles backward_open(real *memory)
{
    backward_tiles t;
    t.q = memory;
    t.k = t.q + TB * LD;
    t.v = t.k + TB * LD;
    t.go = t.v + TB * LDV;
    t.p = t.go + TB * LDV;
    t.ds = t.p + TB * (TB + 4);
    return t;
}

DEVICE void backward_scores(const softmax_cuda_args *a, const head *x, const backward_tiles *t, int64_t i0,
                            int64_t j0, int keys_are_rows)
{
    const int ty = THREAD / 16, tx = THREAD % 16;
    real s[RB * RB], dp[RB * RB];
    tile_products(s, t->q, t->k, RB, RB, DP);
    tile_products(dp, t->go, t->v, RB, RB, DVP);
    UNROLL
    for (int r = 0; r < RB; r++) {
        const int64_t i = i0 + ty + 16 * r;
        const int64_t at = (x->first_q + i) * a->H + x->h;
        const real lse = i < x->nq ? global_load(a->lse + at) : 0;
        const real dot = i < x->nq ? global_load(a->dot + at) : 0;
        real keep[RB];
        if (a->threshold)
            keep_row(keep, a, x, i, j0 + tx, RB);
        UNROLL
        for (int c = 0; c < RB; c++) {
            const int64_t j = j0 + tx + 16 * c;
            const real k = a->threshold ? keep[c] : 1;
            real p = exponential(s[r * RB + c] * a->scale - lse);
            if (i >= x->nq || j >= x->nk)
                p = 0;
            const int row = keys_are_rows ? tx + 16 * c : ty + 16 * r;
            const int column = keys_are_rows ? ty + 16 * r : tx + 16 * c;
            shared_store(t->p + row * (TB + 4) + column, p * k);
            shared_store(t->ds + row * (TB + 4) + column, p * (k * dp[r * RB + c] - dot) * a->scale);
        }
    }
}

/* Gradients of a tile's rows, from `first` of n on. */
DEVICE void backward_store(real *to, int64_t stride, const int *key, int64_t first, int64_t n,
                           const real *g, int C, int width)
{
    const int ty = THREAD / 16, tx = THREAD % 16;
    UNROLL
    for (int r = 0; r < RB; r++) {
        const int64_t i = first + ty + 16 * r;
        if (i >= n)
            continue;
        real *row = to + (key ? key[i] : i) * stride;
        UNROLL
        for (int c = 0; c < C; c++)
            if (tx + 16 * c < width)
                global_store(row + tx + 16 * c, g[r * C + c]);
    }
}

DEVICE void backward_load_keys(const softmax_cuda_args *a, const head *x, const backward_tiles *t, int64_t j0)
{
    tile_load(t->k, TB, CD, DP, head_rows(&a->k, a->k_begin, x), a->k.stride_t, x->key, j0, x->nk,
              a->vector);
    tile_load(t->v, TB, CDV, DVP, head_rows(&a->v, a->k_begin, x), a->v.stride_t, x->key, j0, x->nk,
              a->vector);
}

DEVICE void backward_load_queries(const softmax_cuda_args *a, const head *x, const backward_tiles *t,
                                  int64_t i0)
{
    tile_load(t->q, TB, CD, DP, head_rows(&a->q, a->q_begin, x), a->q.stride_t, 0, i0, x->nq, a->vector);
    tile_load(t->go, TB, CDV, DVP, head_rows(&a->go, a->q_begin, x), a->go.stride_t, 0, i0, x->nq,
              a->vector);
}

/* Blocks: key tiles, heads, sequences. Shared memory: backward_open's. */
KERNEL(softmax_bwd_keys, softmax_cuda_args, 256, 1)
{
    SHARED_MEMORY(memory);
    const head x = head_open(&args, BLOCK_Z, BLOCK_Y);
    const backward_tiles t = backward_open((real *)memory);
    const int64_t j0 = BLOCK * TB;
    real gk[RB * CQ], gv[RB * CO];
    if (j0 >= x.nk)
        return;
    UNROLL
    for (int i = 0; i < RB * CQ; i++)
        gk[i] = 0;
    UNROLL
    for (int i = 0; i < RB * CO; i++)
        gv[i] = 0;
    backward_load_keys(&args, &x, &t, j0);
    for (int64_t i0 = 0; i0 < x.nq; i0 += TB) {
        block_sync();
        backward_load_queries(&args, &x, &t, i0);
        block_sync();
        backward_scores(&args, &x, &t, i0, j0, 1);
        block_sync();
        tile_mix(gv, t.p, TB + 4, t.go, LDV, RB, CO, TB, CDV);
        tile_mix(gk, t.ds, TB + 4, t.q, LD, RB, CQ, TB, CD);
    }
    backward_store(head_rows(&args.gk, args.k_begin, &x), args.gk.stride_t, x.key, j0, x.nk, gk, CQ, CD);
    backward_store(head_rows(&args.gv, args.k_begin, &x), args.gv.stride_t, x.key, j0, x.nk, gv, CO, CDV);
}

/* Blocks: query tiles, heads, sequences. Shared memory: backward_open's. */
KERNEL(softmax_bwd_queries, softmax_cuda_args, 256, 1)
{
    SHARED_MEMORY(memory);
    const head x = head_open(&args, BLOCK_Z, BLOCK_Y);
    const backward_tiles t = backward_open((real *)memory);
    const int64_t i0 = BLOCK * TB;
    real gq[RB * CQ];
    if (i0 >= x.nq)
        return;
    UNROLL
    for (int i = 0; i < RB * CQ; i++)
        gq[i] = 0;
    backward_load_queries(&args, &x, &t, i0);
    for (int64_t j0 = 0; j0 < x.nk; j0 += TB) {
        block_sync();
        backward_load_keys(&args, &x, &t, j0);
        block_sync();
        backward_scores(&args, &x, &t, i0, j0, 0);
        block_sync();
        tile_mix(gq, t.ds, TB + 4, t.k, LD, RB, CQ, TB, CD);
    }
    backward_store(head_rows(&args.gq, args.q_begin, &x), args.gq.stride_t, 0, i0, x.nq, gq, CQ, CD);
}
