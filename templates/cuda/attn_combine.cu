/* Causal linear attention, forward, where rows of W are in several blocks: blocks (tiles of TB tokens,
 * heads). Each row block left what a query gets of its rows, by the largest of their logs; put together
 * here in their order. */
#include "stub.cuh"

#include "tile.cuh"

TILED_KERNEL(attn_combine, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    const int64_t head = BLOCK_Y, b = head / args.H, h = head % args.H, heads = args.B * args.H;
    const int64_t n = args.q_len ? args.q_len[b] : args.T;
    const int64_t den_row = h * args.den_rows + (args.q_begin ? args.q_begin[b] : b * args.T);
    const head_rows o = rows_of(&args.o, args.q_begin, b, h);
    const int each = (DV + 3) / 4;
    for (int i = THREAD; i < TB * each; i += THREADS) {
        const int64_t t = BLOCK * TB + i / each;
        const int c = i % each * 4;
        float top = -3.4028234e38f, den = 0, four[4] = {0, 0, 0, 0};
        if (t >= n)
            continue;
        for (int64_t k = 0; k < args.row_blocks; k++)
            top = real_max(top, global_load(args.top_part + (k * heads + head) * args.T + t));
        for (int64_t k = 0; k < args.row_blocks; k++) {
            const int64_t at = (k * heads + head) * args.T + t;
            const float factor = exp_falling(global_load(args.top_part + at) - top);
            den += factor * global_load(args.den_part + at);
            UNROLL
            for (int j = 0; j < 4; j++)
                if (c + j < DV)
                    four[j] += factor * global_load(args.o_part + at * DV + c + j);
        }
        const float inverse = den != 0 ? 1 / den : 0;
        UNROLL
        for (int j = 0; j < 4; j++)
            four[j] *= inverse;
        store_row4(&o, t, c, DV, four);
        if (c == 0) {
            global_store(args.den + den_row + t, den);
            global_store(args.top + den_row + t, top);
        }
    }
}
