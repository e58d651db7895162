/* The model between its matrix products, row operators and attentions. No kernel adds with
 * atomics: the same inputs give the same bits. */
#ifndef RT_CUH
#include "rt.cuh"

#include "dropout.cuh"
#include "model_args.h"
#endif

/* ---- shares of rows ---- */

DEVICE int64_t share_row(const cuda_share *s)
{
    return (BLOCK * THREADS + THREAD) >> s->shift;
}

DEVICE int64_t share_rows(const cuda_share *s) /* done at a time */
{
    return BLOCKS * THREADS >> s->shift;
}

DEVICE int64_t share_first(const cuda_share *s)
{
    return (int64_t)(THREAD & ((1 << s->shift) - 1)) * s->unit;
}

DEVICE int64_t share_step(const cuda_share *s)
{
    return (int64_t)s->unit << s->shift;
}

DEVICE void load_unit(real *x, const real *p, int unit)
{
    if (unit == 4) {
        const float4 y = global_load4(p);
        x[0] = y.x;
        x[1] = y.y;
        x[2] = y.z;
        x[3] = y.w;
    } else {
        x[0] = global_load(p);
        x[1] = x[2] = x[3] = 0;
    }
}

DEVICE void store_unit(real *p, const real *x, int unit)
{
    if (unit == 4) {
        float4 y;
        y.x = x[0];
        y.y = x[1];
        y.z = x[2];
        y.w = x[3];
        global_store4(p, y);
    } else {
        global_store(p, x[0]);
    }
}

DEVICE void keep_unit(real *keep, const cuda_keep *k, int64_t r, int64_t j, int unit)
{
    const byte *row = k->bits ? k->bits + r * k->ld : 0;
    if (unit == 4)
        keep_four(keep, row, j, k->factor);
    else
        keep[0] = keep[1] = keep[2] = keep[3] = keep_at(row, j, k->factor);
}

/* ---- dropout ---- */

/* Bits of bytes i .. i + 3 of a row of n elements whose first is element `first` of the stream. */
DEVICE unsigned draw_word(const draw_cuda_args *a, unsigned word2, unsigned word3,
                          unsigned long long first, int64_t n, int64_t i)
{
    unsigned out = 0;
    for (int k = 0; k < 4; k++) {
        const int64_t j0 = (i + k) / 16 * 128 + (i + k) % 16;
        unsigned long long held = ~0ull;
        philox_block x = {{0, 0, 0, 0}};
        UNROLL
        for (int t = 0; t < 8; t++) {
            const unsigned long long e = first + (unsigned long long)(j0 + 16 * t);
            const unsigned long long block = dropout_block(e);
            if (j0 + 16 * t < n && block != held) {
                held = block;
                x = philox(a->seed, word2, word3, block);
            }
            if (j0 + 16 * t < n && dropout_bits(&x, e) >= a->threshold)
                out |= 1u << (8 * k + t);
        }
    }
    return out;
}

/* One array of bits a BLOCK_Y. */
KERNEL(dropout_draw, draw_cuda_args, 256, 2)
{
    const int use = BLOCK_Y == 0 ? 0 : 1 + (int)((BLOCK_Y - 1) % 3);
    const int64_t layer = BLOCK_Y == 0 ? 0 : (BLOCK_Y - 1) / 3;
    const int64_t n = use == 2 ? args.wide : args.narrow;
    const int64_t narrow = (args.narrow + 127) / 128 * 16, wide = (args.wide + 127) / 128 * 16;
    const int64_t ld = use == 2 ? wide : narrow;
    const int64_t before = BLOCK_Y == 0 ? 0 : narrow + layer * (2 * narrow + wide) +
                                                  (use > 1 ? narrow : 0) + (use > 2 ? wide : 0);
    const unsigned word2 = args.use[use] << 24 | (unsigned)layer | args.batch->part << 12;
    byte *bits = args.bits + args.rows * before;
    const int64_t words = args.rows * (ld / 4);
    for (int64_t w = BLOCK * THREADS + THREAD; w < words; w += BLOCKS * THREADS) {
        const int64_t r = w / (ld / 4), i = w % (ld / 4) * 4;
        const int64_t cell = args.cell[r];
        const unsigned x =
            cell < 0 ? 0
                     : draw_word(&args, word2, args.batch->step,
                                 (unsigned long long)cell * (unsigned long long)n, n, i);
        global_store((real *)(bits + 4 * w), as_float(x));
    }
}

/* ---- embeddings ---- */

KERNEL(embed, embed_cuda_args, 256, 4)
{
    const cuda_share s = args.share;
    for (int64_t r = share_row(&s); r < s.rows; r += share_rows(&s)) {
        const int64_t token = args.token[r], cell = args.cell[r];
        const real *t = args.tokens + token * s.n;
        const real *p = args.positions + cell % args.length * s.n;
        for (int64_t j = share_first(&s); j < s.n; j += share_step(&s)) {
            real x[4] = {0, 0, 0, 0}, y[4], keep[4];
            if (token >= 0) {
                load_unit(x, t + j, s.unit);
                load_unit(y, p + j, s.unit);
                keep_unit(keep, &args.keep, r, j, s.unit);
                UNROLL
                for (int i = 0; i < 4; i++)
                    x[i] = (x[i] + y[i]) * keep[i];
            }
            store_unit(args.x + r * s.n + j, x, s.unit);
        }
    }
}

KERNEL(table_part, table_cuda_args, 256, 4)
{
    const cuda_share s = args.share;
    const int64_t segments = args.key[args.keys];
    for (int64_t k = share_row(&s); k < segments; k += share_rows(&s)) {
        const int begin = args.segment[k], end = args.segment[k + 1];
        for (int64_t j = share_first(&s); j < s.n; j += share_step(&s)) {
            real sum[4] = {0, 0, 0, 0};
            for (int i = begin; i < end; i++) {
                const int64_t r = args.row[i];
                real g[4], keep[4];
                load_unit(g, args.g + r * s.n + j, s.unit);
                keep_unit(keep, &args.keep, r, j, s.unit);
                UNROLL
                for (int c = 0; c < 4; c++)
                    sum[c] += g[c] * keep[c];
            }
            store_unit(args.part + k * s.n + j, sum, s.unit);
        }
    }
}

KERNEL(table_sum, table_cuda_args, 256, 4)
{
    const cuda_share s = args.share;
    for (int64_t k = share_row(&s); k < s.rows; k += share_rows(&s)) {
        const int begin = args.key[k], end = args.key[k + 1];
        for (int64_t j = share_first(&s); begin < end && j < s.n; j += share_step(&s)) {
            real sum[4], old[4];
            load_unit(sum, args.part + begin * s.n + j, s.unit);
            for (int i = begin + 1; i < end; i++) {
                load_unit(old, args.part + i * s.n + j, s.unit);
                UNROLL
                for (int c = 0; c < 4; c++)
                    sum[c] += old[c];
            }
            load_unit(old, args.table + k * s.n + j, s.unit);
            UNROLL
            for (int c = 0; c < 4; c++)
                old[c] += sum[c];
            store_unit(args.table + k * s.n + j, old, s.unit);
        }
    }
}

/* ---- rows ---- */

KERNEL(fill_rows, fill_cuda_args, 256, 4)
{
    const cuda_share s = args.share;
    for (int64_t r = share_row(&s); r < s.rows; r += share_rows(&s))
        for (int64_t j = share_first(&s); j < s.n; j += share_step(&s)) {
            real x[4];
            load_unit(x, args.bias + j, s.unit);
            store_unit(args.y + r * s.n + j, x, s.unit);
        }
}

KERNEL(clear_tail, tail_cuda_args, 256, 4)
{
    const cuda_share s = args.share;
    const real zero[4] = {0, 0, 0, 0};
    for (int64_t r = args.batch->rows + share_row(&s); r < s.rows; r += share_rows(&s))
        for (int64_t j = share_first(&s); j < s.n; j += share_step(&s))
            store_unit(args.y + r * s.n + j, zero, s.unit);
}

/* Slab BLOCK of sequence BLOCK_Z, columns of block BLOCK_Y; the block's shares of rows are added in
 * order. Shared memory: 4 numbers a thread. */
KERNEL(column_part, column_cuda_args, 256, 4)
{
    SHARED_MEMORY(memory);
    const cuda_share s = args.share;
    const int lanes = 1 << s.shift, own = THREAD >> s.shift, shares = THREADS >> s.shift;
    const int64_t j = share_first(&s) + BLOCK_Y * share_step(&s);
    const int64_t begin = args.begin ? args.begin[BLOCK_Z] : 0;
    int64_t rows = args.begin ? args.len[BLOCK_Z] : s.rows;
    real *sums = (real *)memory, sum[4] = {0, 0, 0, 0};
    if (rows > args.limit)
        rows = args.limit;
    const int64_t first = BLOCK * args.slab;
    const int64_t end = first + args.slab < rows ? first + args.slab : rows;
    for (int64_t r = first + own; j < s.n && r < end; r += shares) {
        real x[4];
        if (args.mask && !global_load_byte(args.mask + begin + r))
            continue;
        load_unit(x, args.x + (begin + r) * s.n + j, s.unit);
        UNROLL
        for (int c = 0; c < 4; c++)
            sum[c] += x[c];
    }
    UNROLL
    for (int c = 0; c < 4; c++)
        shared_store(sums + c * THREADS + THREAD, sum[c]);
    block_sync();
    if (own == 0 && j < s.n) {
        for (int k = 1; k < shares; k++)
            UNROLL
            for (int c = 0; c < 4; c++)
                sum[c] += shared_load(sums + c * THREADS + k * lanes + THREAD);
        store_unit(args.part + (BLOCK_Z * args.slabs + BLOCK) * s.n + j, sum, s.unit);
    }
}

/* A warp a sum. */
KERNEL(column_sum, column_cuda_args, 256, 4)
{
    const int64_t n = args.share.n, sums = args.sequences * n, warps = BLOCKS * (THREADS / 32);
    for (int64_t i = BLOCK * (THREADS / 32) + THREAD / 32; i < sums; i += warps) {
        const real *part = args.part + i / n * args.slabs * n + i % n;
        real sum = 0;
        for (int64_t k = THREAD % 32; k < args.slabs; k += 32)
            sum += global_load(part + k * n);
        sum = warp_sum(sum) * args.factor;
        if (THREAD % 32 == 0)
            global_store(args.out + i, args.add ? global_load(args.out + i) + sum : sum);
    }
}

KERNEL(pool_grad, pool_cuda_args, 256, 4)
{
    const cuda_share s = args.share;
    for (int64_t r = share_row(&s); r < s.rows; r += share_rows(&s)) {
        const int64_t cell = args.cell[r];
        const int counts = cell >= 0 && (!args.first || cell % args.length == 0) &&
                           (!args.mask || global_load_byte(args.mask + r));
        const real *g = args.g + cell / args.length * s.n;
        for (int64_t j = share_first(&s); j < s.n; j += share_step(&s)) {
            real x[4] = {0, 0, 0, 0};
            if (counts) {
                load_unit(x, g + j, s.unit);
                UNROLL
                for (int c = 0; c < 4; c++)
                    x[c] *= args.factor;
            }
            store_unit(args.y + r * s.n + j, x, s.unit);
        }
    }
}

/* ---- head ---- */

KERNEL(join_pair, join_cuda_args, 256, 1)
{
    const int64_t E = args.E;
    for (int64_t i = BLOCK * THREADS + THREAD; i < args.B * E; i += BLOCKS * THREADS) {
        const real a = global_load(args.pooled + i), b = global_load(args.pooled + args.B * E + i);
        real *out = args.joined + i / E * 4 * E + i % E;
        global_store(out, a);
        global_store(out + E, b);
        global_store(out + 2 * E, a * b);
        global_store(out + 3 * E, a - b);
    }
}

KERNEL(join_pair_grad, join_cuda_args, 256, 1)
{
    const int64_t E = args.E;
    for (int64_t i = BLOCK * THREADS + THREAD; i < args.B * E; i += BLOCKS * THREADS) {
        const real a = global_load(args.pooled + i), b = global_load(args.pooled + args.B * E + i);
        const real *in = args.g_joined + i / E * 4 * E + i % E;
        const real g0 = global_load(in), g1 = global_load(in + E), product = global_load(in + 2 * E);
        const real difference = global_load(in + 3 * E);
        global_store(args.g_pooled + i, g0 + product * b + difference);
        global_store(args.g_pooled + args.B * E + i, g1 + product * a - difference);
    }
}

/* ---- journal ---- */

DEVICE int is_number(real x)
{
    return (as_bits(x) & 0x7f800000u) != 0x7f800000u;
}

/* 1 where f was not 0 in any thread of the block; `any`: a word of shared memory a warp. */
DEVICE int block_any(int f, int *any)
{
    f = warp_any(f);
    block_sync();
    if (THREAD % 32 == 0)
        any[THREAD / 32] = f;
    block_sync();
    f = 0;
    for (int i = 0; i < THREADS / 32; i++)
        f |= any[i];
    return f;
}

/* One block; 32 bytes of shared memory. */
KERNEL(record, record_cuda_args, 256, 1)
{
    SHARED_MEMORY(memory);
    int *entry = args.journal + args.batch->entry * args.words;
    int pooled = 0, scores = 0;
    for (int64_t i = THREAD; i < args.pooled_floats; i += THREADS)
        pooled |= !is_number(global_load(args.pooled + i));
    for (int64_t b = THREAD; b < args.B; b += THREADS) {
        const real *s = args.scores + b * args.C, loss = args.loss ? global_load(args.loss + b) : 0;
        int best = 0;
        scores |= !is_number(loss);
        for (int c = 0; c < args.C; c++) {
            scores |= !is_number(s[c]);
            best = s[c] > s[best] ? c : best;
        }
        entry[JOURNAL_HEAD + b] = (int)as_bits(loss);
        entry[JOURNAL_HEAD + args.B + b] = best;
    }
    pooled = block_any(pooled, (int *)memory);
    scores = block_any(scores, (int *)memory);
    if (THREAD == 0) {
        entry[0] = pooled ? JOURNAL_POOLED : scores ? JOURNAL_SCORES : JOURNAL_GOOD;
        entry[1] = entry[2] = entry[3] = 0;
    }
}

/* Sum of the threads' numbers and the least of their places, in thread 0. */
DEVICE void block_norm(double *sum, int64_t *bad, double *sums, int64_t *places)
{
    sums[THREAD] = *sum;
    places[THREAD] = *bad;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        block_sync();
        if (THREAD < half) {
            sums[THREAD] += sums[THREAD + half];
            if (places[THREAD + half] < places[THREAD])
                places[THREAD] = places[THREAD + half];
        }
    }
    *sum = sums[THREAD];
    *bad = places[THREAD];
}

/* Both with 256 threads and 16 bytes of shared memory a thread. */
KERNEL(norm_part, norm_cuda_args, 256, 1)
{
    SHARED_MEMORY(memory);
    double sum = 0;
    int64_t bad = args.n;
    for (int64_t i = BLOCK * THREADS + THREAD; i < args.n; i += BLOCKS * THREADS) {
        const real g = global_load(args.g + i);
        sum += (double)g * (double)g;
        if (!is_number(g) && i < bad)
            bad = i;
    }
    block_norm(&sum, &bad, (double *)memory, (int64_t *)memory + THREADS);
    if (THREAD == 0) {
        args.part[BLOCK] = sum;
        args.bad[BLOCK] = bad;
    }
}

KERNEL(norm_sum, norm_cuda_args, 256, 1)
{
    SHARED_MEMORY(memory);
    double sum = 0;
    int64_t bad = args.n;
    for (int64_t i = THREAD; i < args.parts; i += THREADS) {
        sum += args.part[i];
        if (args.bad[i] < bad)
            bad = args.bad[i];
    }
    block_norm(&sum, &bad, (double *)memory, (int64_t *)memory + THREADS);
    if (THREAD == 0) {
        int *entry = args.journal + args.batch->entry * args.words;
        if (bad < args.n && entry[0] == JOURNAL_GOOD) {
            entry[0] = JOURNAL_GRADIENT;
            entry[1] = (int)(unsigned)bad;
            entry[2] = (int)(bad >> 32);
        }
        entry[3] = (int)as_bits(sqrtf((real)sum));
    }
}
