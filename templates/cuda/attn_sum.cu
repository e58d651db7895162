/* Where rows of W are in several blocks: gradients of q, k and v are sums of the blocks' parts, in their
 * order. Blocks (any number, heads, 3), along z q, k, v; a thread four numbers. */
#include "stub.cuh"

#include "tile.cuh"

/* Numbers from i of a row of `count` parts, `stride` apart. */
DEVICE float sum_parts(const float *part, int64_t count, int64_t stride)
{
    float sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += global_load(part + i * stride);
    return sum;
}

/* Rows (T, width) of a head from parts (count, heads, T, width). */
DEVICE void sum_rows(const head_rows *to, const float *part, int64_t count, int64_t head, int64_t heads,
                     int64_t n, int64_t T, int width)
{
    const int64_t each = (width + 3) / 4;
    for (int64_t i = BLOCK * THREADS + THREAD; i < n * each; i += BLOCKS * THREADS) {
        const int64_t t = i / each;
        const int c = (int)(i % each) * 4;
        float four[4] = {0, 0, 0, 0};
        UNROLL
        for (int k = 0; k < 4; k++)
            if (c + k < width)
                four[k] = sum_parts(part + (head * T + t) * width + c + k, count, heads * T * width);
        store_row4(to, t, c, width, four);
    }
}

TILED_KERNEL(attn_sum, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    const int64_t head = BLOCK_Y, b = head / args.H, h = head % args.H, heads = args.B * args.H;
    const int64_t queries = args.q_len ? args.q_len[b] : args.T;
    const int64_t keys = args.k_len ? args.k_len[b] : args.S;
    if (BLOCK_Z == 0 && args.q_row_blocks > 1) {
        const head_rows gq = rows_of(&args.gq, args.q_begin, b, h);
        sum_rows(&gq, args.gq_part, args.q_row_blocks, head, heads, queries, args.T, D);
    } else if (BLOCK_Z == 1 && args.k_row_blocks > 1) {
        const head_rows gk = rows_of(&args.gk, args.k_begin, b, h);
        sum_rows(&gk, args.gk_part, args.k_row_blocks, head, heads, keys, args.S, D);
    } else if (BLOCK_Z == 2 && args.k_row_blocks > 1) {
        const head_rows gv = rows_of(&args.gv, args.k_begin, b, h);
        sum_rows(&gv, args.gv_part, args.k_row_blocks, head, heads, keys, args.S, DV);
    }
}
