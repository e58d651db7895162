/* For kernels of which a block needs more memory than there is of shared memory: the names of
 * rt.cuh for shared memory mean device memory here, as much for each block of the launch. So that
 * this does not grow with the work, a launch has the blocks that run side by side, and each does the
 * work of several blocks of the grid, one after the other. The skeleton behind this file sees none of
 * it: its TILED_KERNEL is the one below. Slow, but right for any size.
 */
#ifndef SPILLED_CUH
#define SPILLED_CUH
#include "spilled_args.h"

DEVICE int64_t launched_block(void)
{
    return BLOCK;
}

DEVICE int64_t launched_blocks(void)
{
    return BLOCKS;
}

/* All there is of shared memory: x, y, z of the block whose turn it is, and the grid's width. */
DEVICE int64_t *block_turn(void)
{
    SHARED_MEMORY(turn);
    return (int64_t *)turn;
}

/* Makes it the turn of block i of the grid; 0 where there are no more. */
DEVICE int take_turn(const spilled_cuda_args *a, int64_t i)
{
    const int64_t x = a->blocks[0], y = a->blocks[1];
    if (i >= x * y * a->blocks[2])
        return 0;
    block_sync(); /* the one before is done */
    if (THREAD == 0) {
        int64_t *turn = block_turn();
        turn[0] = i % x;
        turn[1] = i / x % y;
        turn[2] = i / x / y;
        turn[3] = x;
    }
    block_sync();
    return 1;
}

#undef BLOCK
#undef BLOCK_Y
#undef BLOCK_Z
#undef BLOCKS
#define BLOCK (block_turn()[0])
#define BLOCK_Y (block_turn()[1])
#define BLOCK_Z (block_turn()[2])
#define BLOCKS (block_turn()[3])

#undef SHARED_MEMORY
#define SHARED_MEMORY(name) byte *const name = block_memory
#undef async_copy16
#define async_copy16(to, from) global_store_words((to), global_load_words(from))
#ifdef RT_EMULATED
#define emulator_shared emulator_global
#define ATTN_ARGS(name) const attn_cuda_args name
#else
#define ATTN_ARGS(name) const attn_cuda_args &name
#endif

#define SPILLED_BYTES ((SHARED_BYTES + 255) / 256 * 256) /* jit_cuda_plan.memory */
#define TILED_KERNEL(name, type, N, K)                                                  \
    DEVICE void name##_turn(ATTN_ARGS(args), byte *block_memory);                       \
    KERNEL(name, spilled_cuda_args, N, K)                                               \
    {                                                                                   \
        byte *const memory = args.memory + launched_block() * SPILLED_BYTES;            \
        NO_UNROLL                                                                       \
        for (int64_t i = launched_block(); take_turn(&args, i); i += launched_blocks()) \
            name##_turn(args.args, memory);                                             \
    }                                                                                   \
    DEVICE void name##_turn(ATTN_ARGS(args), byte *block_memory)
#endif
