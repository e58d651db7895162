/* Parameters that the reference's behaviour makes of the data, and their gradients: where a feature has
 * scalars only (BY_POSITION) those of every position, from the moments over the batch there, else the
 * vectors of every head, from the moments over its positions. Masked keys count as rows of zeros. Blocks
 * (positions of all heads, or sequences' heads). */
#include "stub.cuh"

#include "official.cuh"

enum { BY_POSITION = NV == 0, MOMENTS = 4 }; /* as MOMENTS_SMOOTH of kernel.h */

/* Shared memory. */
enum {
    AT_SUMS = 0,                             /* (WARPS, MOMENTS, D) */
    AT_M = AT_SUMS + WARPS * MOMENTS * D,    /* (MOMENTS, D) */
    AT_DM = AT_M + MOMENTS * D,              /* (MOMENTS, D) their gradients */
    AT_VECTORS = AT_DM + MOMENTS * D,        /* (NV, D), or their gradients */
    AT_END = AT_VECTORS + NV * D
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_official_adapt");

/* The rows that a block's parameters are made of: sequence b + i or position t + i. */
typedef struct token_group {
    int64_t b, h, t, count;
    int64_t head; /* whose base it is */
} token_group;

DEVICE token_group group_open(const official_cuda_args *a)
{
    token_group g;
    g.b = BY_POSITION ? 0 : BLOCK / a->H;
    g.h = BY_POSITION ? BLOCK / a->T : BLOCK % a->H;
    g.t = BY_POSITION ? BLOCK % a->T : 0;
    g.count = BY_POSITION ? a->B : a->T;
    g.head = BY_POSITION ? g.h : BLOCK;
    return g;
}

DEVICE int64_t group_b(const token_group *g, int64_t i)
{
    return g->b + (BY_POSITION ? i : 0);
}

DEVICE int64_t group_t(const token_group *g, int64_t i)
{
    return g->t + (BY_POSITION ? 0 : i);
}

/* Moments of the group: means of x and of y, then of their squares. Warps share out the rows. */
DEVICE void group_moments(const official_cuda_args *a, const token_group *g, float *memory)
{
    const int warp = THREAD / 32;
    for (int j = THREAD % 32; j < D; j += 32) {
        float sums[MOMENTS] = {0};
        for (int64_t i = warp; i < g->count; i += WARPS) {
            const int64_t b = group_b(g, i), t = group_t(g, i);
            const float x = a->scale * global_load(row_at(&a->q, b, g->h, t, j));
            float y = 0;
            if (token_there(a->mask, a->T, b, t))
                y = a->scale * global_load(row_at(&a->k, b, g->h, t, j));
            sums[0] += x;
            sums[1] += y;
            sums[2] += x * x;
            sums[3] += y * y;
        }
        UNROLL
        for (int k = 0; k < MOMENTS; k++)
            shared_store(memory + AT_SUMS + (warp * MOMENTS + k) * D + j, sums[k]);
    }
    block_sync();
    for (int i = THREAD; i < MOMENTS * D; i += THREADS) {
        float sum = 0;
        for (int w = 0; w < WARPS; w++)
            sum += shared_load(memory + AT_SUMS + w * MOMENTS * D + i);
        shared_store(memory + AT_M + i, sum / (float)g->count);
    }
    block_sync();
}

DEVICE void base_scalars(const official_cuda_args *a, const token_group *g, float *s)
{
    UNROLL
    for (int i = 0; i < NS; i++)
        s[i] = global_load(a->base + g->head * NS + i);
}

KERNEL(attn_official_adapt, official_cuda_args, BLOCK_THREADS, 1)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes, *v = memory + AT_VECTORS, s[S1];
    const token_group g = group_open(&args);
    const float *base = args.base_vectors + g.head * NV * D;
    group_moments(&args, &g, memory);
    if (THREAD >= 32)
        return;
    base_scalars(&args, &g, s);
    adapt(D, D, memory + AT_M, s, v);
    warp_sync();
    UNROLL
    for (int i = 0; i < NS; i++)
        if (BY_POSITION && THREAD == 0)
            global_store(args.s + g.h * args.s_stride + g.t * NS + i, s[i]);
    for (int i = THREAD; i < NV * D; i += 32)
        global_store(args.vectors + BLOCK * NV * D + i,
                     args.given >> (i / D) & 1 ? global_load(base + i) : shared_load(v + i));
}

/* The gradients of what attn_official_adapt made: scalars', the batch's sum, or vectors'. */
DEVICE void parameter_gradients(const official_cuda_args *a, const token_group *g, float *ds, float *dv)
{
    const int64_t heads = a->B * a->H;
    UNROLL
    for (int i = 0; i < NS; i++)
        ds[i] = 0;
    for (int64_t b = 0; b < a->B && BY_POSITION; b++)
        for (int i = 0; i < NS; i++) {
            const int64_t at = ((b * a->H + g->h) * a->T + g->t) * NS + i;
            ds[i] += global_load(a->ds + at) + global_load(a->ds + heads * a->T * NS + at);
        }
    for (int i = THREAD; i < NV * D; i += 32) {
        float sum = 0;
        for (int64_t part = 0; part < 2 * a->splits; part++)
            sum += global_load(a->dvectors + (part * heads + BLOCK) * NV * D + i);
        shared_store(dv + i, sum);
    }
}

/* row's gradient += that of the mean m1 and the mean square m2 of `count` such numbers. */
DEVICE void add_moments(const official_cuda_args *a, const float *from, float *to, int64_t count, float d1,
                        float d2)
{
    const float x = global_load(from);
    global_store(to, global_load(to) + a->scale * (d1 + 2 * a->scale * x * d2) / (float)count);
}

/* After attn_official_keys_bwd: adds to gq and gk what goes through the parameters. */
KERNEL(attn_official_adapt_bwd, official_cuda_args, BLOCK_THREADS, 1)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes, *dm = memory + AT_DM, *dv = memory + AT_VECTORS, s[S1], ds[S1];
    const token_group g = group_open(&args);
    group_moments(&args, &g, memory);
    if (THREAD < 32) {
        base_scalars(&args, &g, s);
        parameter_gradients(&args, &g, ds, dv);
        for (int k = 0; k < MOMENTS; k++)
            for (int j = THREAD; j < D; j += 32)
                shared_store(dm + k * D + j, 0);
        warp_sync();
        adapt_grad(D, D, memory + AT_M, s, ds, dv, dm);
    }
    block_sync();
    for (int64_t i = THREAD / 32; i < g.count; i += WARPS) {
        const int64_t b = group_b(&g, i), t = group_t(&g, i);
        const int there = token_there(args.mask, args.T, b, t);
        for (int j = THREAD % 32; j < D; j += 32) {
            add_moments(&args, row_at(&args.q, b, g.h, t, j), row_at(&args.gq, b, g.h, t, j), g.count,
                        shared_load(dm + j), shared_load(dm + 2 * D + j));
            if (there)
                add_moments(&args, row_at(&args.k, b, g.h, t, j), row_at(&args.gk, b, g.h, t, j), g.count,
                            shared_load(dm + D + j), shared_load(dm + 3 * D + j));
        }
    }
}
