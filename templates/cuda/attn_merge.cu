/* Decoding: states of a prompt's parts into the heads' states, in their order: blocks (rows of state /
 * MERGED, heads). */
#include "stub.cuh"

#include "tile.cuh"

enum {
    MERGED = TB,
    AT_MAX = 0, /* (MERGED) */
    AT_OLD = AT_MAX + MERGED,
    AT_END = AT_OLD + MERGED
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_merge");

TILED_KERNEL(attn_merge, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    const int64_t head = BLOCK_Y, stride = args.B * args.H * STATE;
    const int first = (int)BLOCK * MERGED;
    float *state = args.state + head * STATE;
    const float *part = args.part + head * STATE;
    for (int i = THREAD; i < MERGED; i += THREADS) {
        const float old = global_load(state + first + i);
        float max = old;
        for (int64_t k = 0; k < args.k_splits; k++)
            max = real_max(max, global_load(part + k * stride + first + i));
        shared_store(memory + AT_MAX + i, max);
        shared_store(memory + AT_OLD + i, old);
    }
    block_sync();
    for (int i = THREAD; i < MERGED * (DV8 / 4); i += THREADS) {
        const int row = i / (DV8 / 4), f = first + row, c = i % (DV8 / 4) * 4;
        const float max = shared_load(memory + AT_MAX + row);
        const float factor = part_factor(shared_load(memory + AT_OLD + row), max);
        float *to = state + 2 * F + (int64_t)f * DV8 + c;
        const float4 x = global_load4(to);
        float4 sum = make_float4(factor * x.x, factor * x.y, factor * x.z, factor * x.w);
        float z = c == 0 ? factor * global_load(state + F + f) : 0;
        for (int64_t k = 0; k < args.k_splits; k++) {
            const float *from = part + k * stride;
            const float more = part_factor(global_load(from + f), max);
            const float4 y = global_load4(from + 2 * F + (int64_t)f * DV8 + c);
            sum = add_scaled(sum, more, y);
            if (c == 0)
                z += more * global_load(from + F + f);
        }
        global_store4(to, sum);
        if (c == 0) {
            global_store(state + f, max);
            global_store(state + F + f, z);
        }
    }
}
