/* Linear attention, forward, queries: blocks (splits of the queries, heads, value blocks) of KW warps. The
 * state's parts are merged here, in the order of the splits, while they are loaded; the first block of a
 * head leaves the merged state for the backward. */
#include "stub.cuh"

#include "tile.cuh"

#include "queries.cuh"

static_assert(QUERIES_END * 4 == SHARED_BYTES, "shared memory of attn_queries");

TILED_KERNEL(attn_queries, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    const int64_t head = BLOCK_Y;
    float *keep = BLOCK == 0 && args.state != args.part ? args.state + head * STATE : 0;
    queries_pass(&args, head, (int)BLOCK_Z * VB, args.q_splits, keep, 0, (float *)bytes);
}
