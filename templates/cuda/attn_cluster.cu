/* Linear attention, forward, in one launch, sm_90 and later: clusters of blocks (blocks, heads) of KW warps,
 * a cluster a head. A block sums its part of the keys, then takes its part of the queries. The parts of the
 * state lie in the blocks' shared memory, where every block of the cluster reads them all, in the order of
 * their ranks, so that all have the same bits; the first leaves the merged state for the backward. */
#include "stub.cuh"

#include "tile.cuh"

#include "keys.cuh"

#include "queries.cuh"

enum {
    /* the block's part of the state, (FC, LDV) | max (FC) | z (FC): where neither W nor what is merged is */
    PART_S = QUERIES_X,
    PART_MAX = PART_S + FC * LDV,
    PART_Z = PART_MAX + FC,
    PART_END = PART_Z + FC
};
static_assert(KEYS_END * 4 <= SHARED_BYTES && QUERIES_END * 4 <= SHARED_BYTES && PART_END * 4 <= SHARED_BYTES,
              "shared memory of attn_cluster");
static_assert(ROW_BLOCKS == 1 && CHUNKS == 1 && VB == DV8, "a block of attn_cluster holds the whole state");
static_assert(CHUNK == ROWS && (int)KEYS_W2 == (int)QUERIES_W2, "W of both passes of attn_cluster");

/* The warp's share of the state, of rows of W from `first`, to the block's part. */
DEVICE void store_part(const key_state *state, int first, float *memory)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int row = 0; row < 2; row++) {
            const int f = l * CHUNK + first + g + 8 * row;
            const float z = quad_sum(state->z[l][row]);
            if (t == 0) {
                shared_store(memory + PART_MAX + f, state->max[l][row]);
                shared_store(memory + PART_Z + f, z);
            }
            UNROLL
            for (int n = 0; n < NV8; n++)
                shared_store2(memory + PART_S + f * LDV + 8 * n + 2 * t,
                              make_float2(state->S[l][n][2 * row], state->S[l][n][2 * row + 1]));
        }
    }
}

/* The merged state to shared memory and, for the block that has to, to memory. */
DEVICE void merge_parts(const attn_cuda_args *a, int64_t head, float *memory)
{
    float *keep = cluster_rank() == 0 ? a->state + head * STATE : 0;
    const int blocks = (int)BLOCKS;
    for (int i = THREAD; i < FC * (VB / 4); i += THREADS) {
        const int row = i / (VB / 4), c = i % (VB / 4) * 4, r = row % CHUNK;
        const int f = row / CHUNK * MP + r;
        float4 sum = make_float4(0, 0, 0, 0);
        float z = 0, max = -INFINITY;
        if (r < M) {
            const float weight = weight_of(a, r);
            for (int rank = 0; rank < blocks; rank++)
                max = real_max(max, cluster_load(memory + PART_MAX + row, rank));
            for (int rank = 0; rank < blocks && max > -INFINITY; rank++) {
                const float part_max = cluster_load(memory + PART_MAX + row, rank);
                const float4 S = cluster_load4(memory + PART_S + row * LDV + c, rank);
                const float factor = weight * exp_falling(part_max - max);
                sum = add_scaled(sum, factor, S);
                if (c == 0)
                    z += factor * cluster_load(memory + PART_Z + row, rank);
            }
        }
        if (keep && r < MP)
            global_store4(keep + 2 * F + (int64_t)f * DV8 + c, sum);
        if (keep && r < MP && c == 0) {
            global_store(keep + f, max);
            global_store(keep + F + f, z);
        }
        if (c == 0) {
            shared_store(memory + QUERIES_MAX + row, max);
            shared_store(memory + QUERIES_Z + row, z);
        }
        shared_store4(memory + QUERIES_S + row * LDV + c, sum);
    }
}

DEVICE void sum_keys(const attn_cuda_args *a, int64_t head, float *memory)
{
    key_state state[ROW_GROUPS];
    keys_pass(a, head, 0, 0, BLOCKS, TB, memory, state);
    block_sync();
    UNROLL
    for (int group = 0; group < ROW_GROUPS; group++)
        store_part(&state[group], group_row(group), memory);
}

KERNEL(attn_cluster, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    const int64_t head = BLOCK_Y;
    sum_keys(&args, head, memory);
    cluster_sync();
    merge_parts(&args, head, memory);
    cluster_sync(); /* others may still read this block's part */
    queries_pass(&args, head, 0, BLOCKS, 0, 1, memory);
}
