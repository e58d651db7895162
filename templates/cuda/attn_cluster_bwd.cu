/* Linear attention, backward, in one launch, sm_90 and later: clusters of blocks (blocks, heads) of KW warps,
 * a cluster a head. A block takes its part of the queries, then its part of the keys. The parts of dS~ lie in
 * the blocks' shared memory, where every block of the cluster adds them up in the order of their ranks. */
#include "stub.cuh"

#include "tile.cuh"

#include "queries_bwd.cuh"

#include "keys_bwd.cuh"

enum {
    /* the block's part of dS~, (LANES * ROWS, LDV) | dz (LANES * ROWS): behind W and what is merged, and
     * where the queries' sums of dS are, if they are not in registers */
    PART_DS = KEYS_X,
    PART_DZ = PART_DS + LANES * ROWS * LDV,
    PART_END = PART_DZ + LANES * ROWS
};
static_assert(KEYS_END * 4 <= SHARED_BYTES && QUERIES_END * 4 <= SHARED_BYTES && PART_END * 4 <= SHARED_BYTES,
              "shared memory of attn_cluster_bwd");
static_assert(ROW_BLOCKS == 1, "a block of attn_cluster_bwd holds the whole state");
static_assert((int)KEYS_DS == (int)QUERIES_S && (int)PART_DS == (int)QUERIES_DS,
              "W and dS of both passes of attn_cluster_bwd");

/* The warp's share of dS~ to the block's part. */
DEVICE void store_part(const query_rows *rows, float *memory)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4, first = THREAD / 32 * 16;
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            const int f = l * ROWS + first + g + 8 * i;
            const float dz = quad_sum(rows->dz[l][i]);
            if (t == 0)
                shared_store(memory + PART_DZ + f, dz);
            UNROLL
            for (int n = 0; IN_REGISTERS && n < NV8; n++)
                shared_store2(memory + PART_DS + f * LDV + 8 * n + 2 * t,
                              make_float2(rows->dS[l][n % KEPT][2 * i],
                                          rows->dS[l][n % KEPT][2 * i + 1]));
        }
    }
}

/* dS to shared memory. */
DEVICE void merge_parts(const attn_cuda_args *a, float *memory)
{
    const int blocks = (int)BLOCKS;
    for (int i = THREAD; i < LANES * ROWS * (DV8 / 4); i += THREADS) {
        const int row = i / (DV8 / 4), c = i % (DV8 / 4) * 4, r = row % ROWS;
        const float weight = weight_of(a, r);
        float4 sum = make_float4(0, 0, 0, 0);
        for (int rank = 0; rank < blocks && r < M; rank++) {
            const float4 x = cluster_load4(memory + PART_DS + row * LDV + c, rank);
            sum = add_scaled(sum, 1, x);
        }
        shared_store4(memory + KEYS_DS + row * LDV + c,
                      make_float4(weight * sum.x, weight * sum.y, weight * sum.z, weight * sum.w));
    }
}

/* dz of the warp's rows. */
DEVICE void merge_sums(const attn_cuda_args *a, const float *memory, key_rows *rows)
{
    const int blocks = (int)BLOCKS;
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int r = THREAD / 32 * 16 + THREAD % 32 / 4 + 8 * i;
        const float weight = weight_of(a, r);
        UNROLL
        for (int l = 0; l < LANES; l++) {
            float sum = 0;
            for (int rank = 0; rank < blocks && r < M; rank++)
                sum += cluster_load(memory + PART_DZ + l * ROWS + r, rank);
            rows->dz[l][i] = weight * sum;
        }
    }
}

DEVICE void sum_queries(const attn_cuda_args *a, int64_t head, float *memory)
{
    query_rows rows;
    queries_pass(a, head, 0, BLOCKS, memory, &rows);
    if (LEARN) /* attn_learned asks for it */
        store_state(&rows, memory, 0, THREAD / 32 * 16,
                    a->dpart + (BLOCK * a->B * a->H + head) * DSTATE);
    block_sync(); /* what it left in shared memory has been read */
    store_part(&rows, memory);
}

KERNEL(attn_cluster_bwd, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    const int64_t head = BLOCK_Y;
    key_rows rows;
    sum_queries(&args, head, memory);
    cluster_sync();
    merge_parts(&args, memory);
    merge_sums(&args, memory, &rows);
    cluster_sync(); /* others may still read this block's part */
    keys_pass(&args, head, 0, BLOCKS, 1, memory, &rows);
}
