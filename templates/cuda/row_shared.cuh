/* Gradients of inputs that all rows of a row operator share, behind row.cuh: of short rows in registers, which the
 * block adds up at the end; else every share of threads has its own row of `part`. The generator says how many
 * there are (SHARED_INPUTS) and which inputs they are, in the order of part (ROW_SHARED_INPUTS).
 */
#ifndef ROW_SHARED_CUH
#define ROW_SHARED_CUH

#if ROW_SHORT
#define ROW_HELD ((ROW_N + ROW_STEP - 1) / ROW_STEP * ROW_UNIT)
#define ROW_PART(name, slot) real name[ROW_HELD] = {0}
#define ROW_AT(name) name[k / ROW_LANES + i]

/* Sums over the block's shares in order, to row BLOCK of input `slot` of part. Shared memory: a row a
 * share. */
DEVICE void row_collect(const row_cuda_args *a, int slot, const real *held)
{
    SHARED_MEMORY(memory);
    real *sums = (real *)memory;
    const int lane = THREAD % ROW_LANES, share = THREAD / ROW_LANES;
    block_sync();
    ROW_UNROLL
    for (int k = 0; k < ROW_N; k += ROW_STEP)
        UNROLL
        for (int i = 0; i < ROW_UNIT; i++)
            if (ROW_FULL || k + lane * ROW_UNIT < ROW_N)
                shared_store(sums + share * ROW_N + k + lane * ROW_UNIT + i, held[k / ROW_LANES + i]);
    block_sync();
    for (int j = THREAD; j < ROW_N; j += THREADS) {
        real sum = 0;
        for (int s = 0; s < THREADS / ROW_LANES; s++)
            sum += shared_load(sums + s * ROW_N + j);
        global_store(a->part + (slot * a->parts + BLOCK) * ROW_N + j, sum);
    }
}
#else
#define ROW_PART(name, slot)                                        \
    real *name = a->part + (slot * a->parts + share) * n;           \
    for (int64_t j = lane * ROW_UNIT; j < n; j += ROW_STEP)         \
        for (int i = 0; i < ROW_UNIT; i++)                          \
            name[j + i] = 0
#define ROW_AT(name) name[j0 + i]

DEVICE void row_collect(const row_cuda_args *a, int slot, const real *held)
{
    (void)a;
    (void)slot;
    (void)held;
}
#endif

/* After row_bwd: adds the parts, a warp an element. */
KERNEL(row_bwd_shared, row_cuda_args, 256, 1)
{
    const int inputs[SHARED_INPUTS] = ROW_SHARED_INPUTS;
    const int64_t n = args.n, parts = args.parts, warps = BLOCKS * (THREADS / 32);
    for (int64_t j = BLOCK * (THREADS / 32) + THREAD / 32; j < n; j += warps) {
        UNROLL
        for (int slot = 0; slot < SHARED_INPUTS; slot++) {
            real *gradient = args.gin[inputs[slot]], g = 0;
            if (!gradient)
                continue;
            for (int64_t w = THREAD % 32; w < parts; w += 32)
                g += global_load(args.part + (slot * parts + w) * n + j);
            g = warp_sum(g);
            if (THREAD % 32 == 0)
                global_store(gradient + j, global_load(gradient + j) + g);
        }
    }
}
#endif
