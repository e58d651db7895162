/* Linear attention, forward, keys: blocks (splits of the keys, heads, row blocks * value blocks) of
 * KW warps, each split's state to memory. */
#include "stub.cuh"

#include "tile.cuh"

#include "keys.cuh"

static_assert(KEYS_END * 4 == SHARED_BYTES, "shared memory of attn_keys");
static_assert(ROW_GROUPS == 1, "rows of a warp in attn_keys");

/* The warp's share of a head's state. */
DEVICE void store_state(key_state *state, int first, int value, float *to)
{
    const int g = THREAD % 32 / 4;
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int row = 0; row < 2; row++) {
            const int r = first + g + 8 * row, f = l * MP + r;
            const float z = quad_sum(state->z[l][row]);
            if (THREAD % 4 == 0 && r < MP && value == 0) {
                global_store(to + f, r < M ? state->max[l][row] : -INFINITY);
                global_store(to + F + f, r < M ? z : 0);
            }
        }
        UNROLL
        for (int n = 0; n < NV8; n++) {
            float four[4];
            exchange_pairs(state->S[l][n], four);
            const int r = first + pair_row(), c = value + 8 * n + pair_column();
            if (r < MP && c < DV8) {
                const float there = r < M ? 1 : 0;
                global_store4(to + 2 * F + (int64_t)(l * MP + r) * DV8 + c,
                              make_float4(there * four[0], there * four[1], there * four[2],
                                          there * four[3]));
            }
        }
    }
}

TILED_KERNEL(attn_keys, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    const int64_t head = BLOCK_Y;
    const int first = (int)(BLOCK_Z % ROW_BLOCKS) * ROWS, value = (int)(BLOCK_Z / ROW_BLOCKS) * VB;
    key_state state[1];
    keys_pass(&args, head, first, value, args.k_splits, SPLIT, (float *)bytes, state);
    store_state(state, first + group_row(0), value,
                args.part + (BLOCK * args.B * args.H + head) * STATE);
}
