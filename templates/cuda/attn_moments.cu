/* Sums over a head's tokens from which data-dependent parameters are made: blocks (splits, heads, sides
 * 0 = queries, 1 = keys) of 256 threads. A thread keeps the sums of GROUP coordinates for every LINES-th
 * token of its split; the lines are added up in their order. */
#include "stub.cuh"

#include "params.cuh"

enum {
    GROUP = CD % 4 == 0 && !BF16 ? 4 : 1,
    GROUPS = CD / GROUP,
    LINES = MOMENT_THREADS / GROUPS,
    AT_COUNT = LINES * SUMS * CD,
    AT_END = AT_COUNT + LINES
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_moments");

DEVICE void load_group(const params_cuda_args *a, const cuda_rows *x, int64_t at, float *value)
{
    if (BF16) {
        value[0] = from_bf16(global_load_half((const byte *)x->data + 2 * at));
    } else if (GROUP == 4) {
        const float4 four = global_load4((const float *)x->data + at);
        value[0] = four.x;
        value[1] = four.y;
        value[2] = four.z;
        value[GROUP - 1] = four.w;
    } else {
        value[0] = global_load((const float *)x->data + at);
    }
    UNROLL
    for (int i = 0; i < GROUP; i++)
        value[i] *= a->scale;
}

KERNEL(attn_moments, params_cuda_args, MOMENT_THREADS, 1)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes, *counts = memory + AT_COUNT;
    const int side = (int)BLOCK_Z, line = THREAD / GROUPS, group = THREAD % GROUPS * GROUP;
    const int64_t head = BLOCK_Y, b = head / args.H, h = head % args.H;
    const cuda_rows *x = side ? &args.k : &args.q;
    const int64_t *begin = side ? args.k_begin : args.q_begin, *len = side ? args.k_len : args.q_len;
    const byte *mask = side ? args.k_mask : args.q_mask;
    const int64_t padded = side ? args.S : args.T, n = len ? len[b] : padded;
    const int64_t first_row = begin ? begin[b] : b * padded;
    const int64_t first = (begin ? begin[b] * x->stride_t : b * x->stride_b) + h * x->stride_h;
    const int64_t each = (n + args.splits - 1) / args.splits, from = BLOCK * each;
    const int64_t to = from + each < n ? from + each : n;
    float sums[SUMS][GROUP], count = 0;
    UNROLL
    for (int i = 0; i < GROUP; i++) {
        sums[SUM_1][i] = sums[SUM_2][i] = sums[SUM_ABS][i] = 0;
        sums[SUM_LOW][i] = INFINITY;
        sums[SUM_HIGH][i] = -INFINITY;
    }
    for (int64_t t = from + line; t < to && line < LINES; t += LINES) {
        float value[GROUP];
        if (mask && !global_load_byte(mask + first_row + t))
            continue;
        load_group(&args, x, first + t * x->stride_t + group, value);
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
        for (int l = 0; l < LINES; l++)
            sum += shared_load(counts + l);
        global_store(part + SUMS * CD, sum);
    }
}
