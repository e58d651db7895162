/* A head's moments from their sums, and what a feature's adapt makes of them; both by one warp. */
#ifndef ADAPT_CUH
#define ADAPT_CUH

#ifndef HAS_ADAPT /* a feature with a linear map and no parameters of its own to adapt */
DEVICE void adapt(int64_t d, int64_t dp, const real *m, real *s, real *v)
{
    (void)d, (void)dp, (void)m, (void)s, (void)v;
}
#endif

/* Moments of the head, (MOMENTS, D) as in kernel.h, from the splits' sums in their order. */
DEVICE void merge_moments(const params_cuda_args *a, int64_t head, float *m)
{
    const int64_t heads = a->B * a->H;
    for (int j = THREAD; j < CD; j += 32) {
        float low = INFINITY, high = -INFINITY;
        for (int side = 0; side < 2; side++) {
            float sums[SUMS] = {0, 0, 0, INFINITY, -INFINITY}, count = 0;
            for (int64_t i = 0; i < a->splits; i++) {
                const float *part = a->part + ((i * 2 + side) * heads + head) * SIDE_FLOATS;
                UNROLL
                for (int k = 0; k < SUMS; k++)
                    sums[k] = add_sum(k, sums[k], global_load(part + k * CD + j));
                count += global_load(part + SUMS * CD);
            }
            const float inverse = count > 0 ? 1 / count : 0;
            shared_store(m + (0 + side) * CD + j, sums[SUM_1] * inverse);
            shared_store(m + (2 + side) * CD + j, sums[SUM_2] * inverse);
            shared_store(m + (4 + side) * CD + j, sums[SUM_ABS] * inverse);
            low = add_sum(SUM_LOW, low, sums[SUM_LOW]);
            high = real_max(high, sums[SUM_HIGH]);
        }
        const int any = low <= high;
        shared_store(m + 6 * CD + j, any ? low : 0);
        shared_store(m + 7 * CD + j, any ? high : 0);
    }
    warp_sync();
}

/* Scalars and vectors of the head, from its moments; v: room for NV vectors. What was given from
 * outside, bits of `given`, stays as it is. */
DEVICE void adapt_head(const params_cuda_args *a, int64_t head, const float *m, float *v)
{
    const float *base = a->base + head * a->base_stride;
    float *to = a->params + head * a->params_stride;
    float s[NS];
    UNROLL
    for (int i = 0; i < NS; i++)
        s[i] = global_load(base + i);
    for (int i = THREAD; i < NV * CD; i += 32)
        shared_store(v + i, global_load(base + NS + i));
    warp_sync();
    adapt(CD, CD, m, s, v);
    warp_sync();
    UNROLL
    for (int i = 0; i < NS; i++)
        if (THREAD == 0)
            global_store(to + i, a->given >> i & 1 ? global_load(base + i) : s[i]);
    for (int i = THREAD; i < NV * CD; i += 32)
        global_store(to + NS + i, a->given >> (NS + i / CD) & 1 ? global_load(base + NS + i)
                                                                : shared_load(v + i));
}
#endif
