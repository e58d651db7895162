/* Sums over a head's tokens from which data-dependent parameters are made: blocks (splits, heads, sides
 * 0 = queries, 1 = keys) of 256 threads. A thread keeps the sums of GROUP coordinates for every LINES-th
 * token of its split; the lines are added up in their order. */
#include "stub.cuh"

#include "params.cuh"

enum {
    GROUPS = CD / GROUP,
    LINES = MOMENT_THREADS / GROUPS,
    AT_COUNT = LINES * SUMS * CD,
    AT_END = AT_COUNT + LINES
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_moments");

KERNEL(attn_moments, params_cuda_args, MOMENT_THREADS, 1)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes, *counts = memory + AT_COUNT;
    const int side = (int)BLOCK_Z, line = THREAD / GROUPS, group = THREAD % GROUPS * GROUP;
    const int64_t head = BLOCK_Y;
    const moment_tokens tokens = split_tokens(&args, side, head, BLOCK, args.splits);
    float sums[SUMS][GROUP], count = 0;
    UNROLL
    for (int i = 0; i < GROUP; i++) {
        sums[SUM_1][i] = sums[SUM_2][i] = sums[SUM_ABS][i] = 0;
        sums[SUM_LOW][i] = INFINITY;
        sums[SUM_HIGH][i] = -INFINITY;
    }
    for (int64_t t = tokens.from + line; t < tokens.to && line < LINES; t += LINES) {
        float value[GROUP];
        if (tokens.mask && !global_load_byte(tokens.mask + t))
            continue;
        load_group(&args, &tokens, t, group, value);
        count += 1;
        UNROLL
        for (int i = 0; i < GROUP; i++) {
            const float y = value[i];
            sums[SUM_1][i] += y;
            sums[SUM_2][i] += y * y;
            sums[SUM_ABS][i] += y < 0 ? -y : y;
            sums[SUM_LOW][i] = -real_max(-y, -sums[SUM_LOW][i]);
            sums[SUM_HIGH][i] = real_max(y, sums[SUM_HIGH][i]);
        }
    }
    if (line < LINES) {
        for (int k = 0; k < SUMS; k++)
            for (int i = 0; i < GROUP; i++)
                shared_store(memory + (line * SUMS + k) * CD + group + i, sums[k][i]);
        if (group == 0)
            shared_store(counts + line, count);
    }
    block_sync();
    float *part = args.part + ((BLOCK * 2 + side) * args.B * args.H + head) * SIDE_FLOATS;
    for (int i = THREAD; i < SUMS * CD; i += THREADS) {
        const int k = i / CD;
        float sum = shared_load(memory + i);
        for (int l = 1; l < LINES; l++)
            sum = add_sum(k, sum, shared_load(memory + l * SUMS * CD + i));
        global_store(part + i, sum);
    }
    if (THREAD == 0) {
        float sum = 0;
        NO_UNROLL /* else whole vectors are read, beyond the last count */
        for (int l = 0; l < LINES; l++)
            sum += shared_load(counts + l);
        global_store(part + SUMS * CD, sum);
    }
}
