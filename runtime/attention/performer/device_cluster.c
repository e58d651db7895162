/* Forward and backward in one launch each: a cluster of thread blocks a head. gen/cuda_tiles.lua
 * says for which sizes there are such kernels; here is how many blocks they get. */
#include "attention/performer/device.h"

/* As cluster_blocks of gen/cuda_tiles.lua, in whole numbers so that both come to the same. */
int performer_cluster_blocks(const performer_device *pd, performer_kernel kernel, int64_t heads,
                             int64_t tokens, int64_t blocks)
{
    const jit_cuda_plan *plan = &pd->plan[kernel];
    const int most = pd->plan[kernel == CLUSTER ? KEYS : QUERIES_BWD].cluster;
    const int64_t slots = (int64_t)device_multiprocessors(pd->dev) * plan->blocks;
    int64_t best = 0, best_waves = 1;
    if (!pd->kernel[kernel])
        return 0;
    for (int64_t n = 1; n <= most && (n == 1 || 2 * plan->tile * n <= tokens); n *= 2) {
        const int64_t waves = (heads * n + slots - 1) / slots;
        if (n * best_waves > best * waves)
            best = n, best_waves = waves;
    }
    return best == most && 2 * heads * best < blocks ? 0 : (int)best;
}

spectra_status performer_cluster_launch(const performer_device *pd, performer_kernel kernel,
                                        int blocks, int64_t heads, const attn_cuda_args *args)
{
    const jit_cuda_plan *plan = &pd->plan[kernel];
    const device_grid grid = {.blocks = {blocks, heads, 1},
                              .threads = plan->threads,
                              .cluster = blocks,
                              .shared_bytes = plan->shared};
    return device_launch(pd->kernel[kernel], &grid, args, sizeof *args);
}
