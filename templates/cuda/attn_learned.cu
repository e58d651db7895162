/* After a backward of an attention that trains something: adds its parts to sums over everything, a
 * thread a number, in the order of passes, splits and heads. learned holds scalars (H, NS) | W (M, D) |
 * row weights (M); |w|'s share is in W's already. */
#include "stub.cuh"

#include "tile.cuh"

/* The gradient of head h's scalar k. */
DEVICE float scalar_sum(const attn_cuda_args *a, int64_t h, int k)
{
    const int64_t heads = a->B * a->H, q_parts = a->q_splits * a->q_row_blocks,
                  k_parts = a->k_splits * a->k_row_blocks;
    float sum = 0;
    for (int64_t i = 0; i < q_parts; i++)
        for (int64_t n = h; n < heads; n += a->H)
            sum += global_load(a->dscalars + (i * heads + n) * NS + k);
    for (int64_t i = 0; i < k_parts; i++)
        for (int64_t n = h; n < heads; n += a->H)
            sum += global_load(a->dscalars_k + (i * heads + n) * NS + k);
    return sum;
}

DEVICE float matrix_sum(const attn_cuda_args *a, int64_t at)
{
    const int64_t heads = a->B * a->H;
    float sum = 0;
    for (int64_t n = 0; n < a->q_splits * heads; n++)
        sum += global_load(a->dw + n * M * D + at);
    for (int64_t n = 0; n < a->k_splits * heads; n++)
        sum += global_load(a->dw_k + n * M * D + at);
    return sum;
}

/* The state's numbers, which hold the weight, times their gradients; causal kernels leave the sums. */
DEVICE float weight_sum(const attn_cuda_args *a, int r)
{
    const int64_t heads = a->B * a->H;
    float sum = 0;
    for (int64_t n = 0; n < a->q_splits * heads && a->dweights; n++)
        sum += global_load(a->dweights + n * M + r);
    for (int64_t n = 0; n < heads && !a->dweights; n++)
        for (int64_t i = 0; i < a->q_splits; i++)
            for (int l = 0; l < LANES; l++) {
                const float *state = a->state + n * STATE, *d = a->dpart + (i * heads + n) * DSTATE;
                const int64_t f = l * MP + r;
                sum += global_load(state + F + f) * global_load(d + f);
                for (int c = 0; c < DV; c++)
                    sum += global_load(state + 2 * F + f * DV8 + c) * global_load(d + F + f * DV8 + c);
            }
    return sum;
}

KERNEL(attn_learned, attn_cuda_args, 256, 1)
{
    const int64_t scalars = args.H * NS, matrix = (int64_t)M * D;
    for (int64_t i = BLOCK * THREADS + THREAD; i < scalars + matrix + M; i += BLOCKS * THREADS) {
        float sum;
        if (i < scalars)
            sum = scalar_sum(&args, i / NS, (int)(i % NS));
        else if (i < scalars + matrix)
            sum = matrix_sum(&args, i - scalars);
        else
            sum = weight_sum(&args, (int)(i - scalars - matrix));
        global_store(args.learned + i, global_load(args.learned + i) + sum);
    }
}
