/* Linear attention, backward, queries: blocks (splits of the queries, heads, row blocks) of KW warps, the
 * gradient of each split's state to memory. */
#include "stub.cuh"

#include "tile.cuh"

#include "queries_bwd.cuh"

static_assert(QUERIES_END * 4 == SHARED_BYTES, "shared memory of attn_queries_bwd");

TILED_KERNEL(attn_queries_bwd, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    const int64_t head = BLOCK_Y;
    const int first = (int)BLOCK_Z * ROWS;
    query_rows rows;
    queries_pass(&args, head, first, args.q_splits, memory, &rows);
    store_state(&rows, memory, first, THREAD / 32 * 16,
                args.dpart + (BLOCK * args.B * args.H + head) * DSTATE);
}
