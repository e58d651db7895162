/* Linear attention, backward, keys: blocks (splits of the keys, heads, row blocks) of KW warps. The parts of
 * dS~ are added up here, in the order of the splits. */
#include "stub.cuh"

#include "tile.cuh"

#include "keys_bwd.cuh"

static_assert(KEYS_END * 4 == SHARED_BYTES, "shared memory of attn_keys_bwd");

/* Gradient of one number of a head's state, of the splits in their order. */
DEVICE float merged(const attn_cuda_args *a, int64_t head, int r, int64_t at)
{
    const float *from = a->dpart + head * DSTATE + at;
    float sum = 0;
    for (int64_t i = 0; i < a->q_splits; i++)
        sum += global_load(from + i * a->B * a->H * DSTATE);
    return sum * weight_of(a, r);
}

DEVICE void merge_sums(const attn_cuda_args *a, int64_t head, int first, key_rows *rows)
{
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int r = first + THREAD % 32 / 4 + 8 * i;
        UNROLL
        for (int l = 0; l < LANES; l++)
            rows->dz[l][i] = r < M ? merged(a, head, r, l * MP + r) : 0;
    }
}

/* dS of the block's rows of W, (LANES, ROWS, LDV). */
DEVICE void load_gradient(const attn_cuda_args *a, int64_t head, int first, float *memory)
{
    const int64_t stride = a->B * a->H * DSTATE;
    for (int i = THREAD; i < LANES * ROWS * (DV8 / 4); i += THREADS) {
        const int row = i / (DV8 / 4), c = i % (DV8 / 4) * 4, r = first + row % ROWS;
        const float *from = a->dpart + head * DSTATE + F + (int64_t)(row / ROWS * MP + r) * DV8 + c;
        float4 sum = make_float4(0, 0, 0, 0);
        for (int64_t split = 0; split < a->q_splits && r < M; split++) {
            const float4 x = global_load4(from + split * stride);
            sum = add_scaled(sum, 1, x);
        }
        const float weight = weight_of(a, r);
        shared_store4(memory + KEYS_DS + row * LDV + c,
                      make_float4(weight * sum.x, weight * sum.y, weight * sum.z, weight * sum.w));
    }
}

TILED_KERNEL(attn_keys_bwd, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    const int64_t head = BLOCK_Y;
    const int first = (int)BLOCK_Z * ROWS;
    key_rows rows;
    load_gradient(&args, head, first, memory);
    merge_sums(&args, head, first + THREAD / 32 * 16, &rows);
    keys_pass(&args, head, first, args.k_splits, 0, memory, &rows);
}
