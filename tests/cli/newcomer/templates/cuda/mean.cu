/* The mean of the valid values, as runtime/attention/mean/host.c: a block a head, a thread a column.
 * HEAD_D and HEAD_DV are the head and value size.
 */
#ifndef RT_CUH
#include "rt.cuh"

#include "args.h"
#include "mean_args.h"
#endif
#ifndef HEAD_D
#define HEAD_D 32
#define HEAD_DV 32
#endif

/* Row 0 of head (BLOCK, BLOCK_Y). */
DEVICE real *mean_rows(const cuda_rows *x, const int64_t *begin)
{
    return (real *)x->data + (begin ? begin[BLOCK] * x->stride_t : BLOCK * x->stride_b) +
           BLOCK_Y * x->stride_h;
}

DEVICE int mean_valid(const mean_cuda_args *a, int64_t j)
{
    const int64_t first = a->k_begin ? a->k_begin[BLOCK] : BLOCK * a->S;
    return !a->mask || global_load_byte(a->mask + first + j);
}

/* What each of the S valid values counts for; 0 where there is none. */
DEVICE real mean_share(const mean_cuda_args *a, int64_t S)
{
    int64_t n = 0;
    for (int64_t j = 0; j < S; j++)
        n += mean_valid(a, j) != 0;
    return n > 0 ? a->scale / (real)n : 0;
}

KERNEL(mean_fwd, mean_cuda_args, 64, 1)
{
    const int64_t T = args.q_len ? args.q_len[BLOCK] : args.T;
    const int64_t S = args.k_len ? args.k_len[BLOCK] : args.S;
    const real share = mean_share(&args, S);
    const real *v = mean_rows(&args.v, args.k_begin);
    real *o = mean_rows(&args.o, args.q_begin);
    for (int c = THREAD; c < HEAD_DV; c += THREADS) {
        real sum = 0;
        for (int64_t j = 0; j < S; j++)
            if (mean_valid(&args, j))
                sum += global_load(v + j * args.v.stride_t + c);
        for (int64_t i = 0; i < T; i++)
            global_store(o + i * args.o.stride_t + c, sum * share);
    }
}

KERNEL(mean_bwd, mean_cuda_args, 64, 1)
{
    const int64_t T = args.q_len ? args.q_len[BLOCK] : args.T;
    const int64_t S = args.k_len ? args.k_len[BLOCK] : args.S;
    const real share = mean_share(&args, S);
    const real *go = mean_rows(&args.go, args.q_begin);
    real *gq = mean_rows(&args.gq, args.q_begin), *gk = mean_rows(&args.gk, args.k_begin);
    real *gv = mean_rows(&args.gv, args.k_begin);
    for (int c = THREAD; c < HEAD_D; c += THREADS) {
        for (int64_t i = 0; i < T; i++)
            global_store(gq + i * args.gq.stride_t + c, 0);
        for (int64_t j = 0; j < S; j++)
            global_store(gk + j * args.gk.stride_t + c, 0);
    }
    for (int c = THREAD; c < HEAD_DV; c += THREADS) {
        real sum = 0;
        for (int64_t i = 0; i < T; i++)
            sum += global_load(go + i * args.go.stride_t + c);
        for (int64_t j = 0; j < S; j++)
            global_store(gv + j * args.gv.stride_t + c, mean_valid(&args, j) ? sum * share : 0);
    }
}
