/* What the kernels that make data-dependent parameters share: where a head's tokens are, what is summed
 * over them. */
#ifndef PARAMS_CUH
#define PARAMS_CUH

/* Sums of one side over the tokens of a split, rows of (SUMS, D), and the tokens' number behind them. */
enum { SUM_1, SUM_2, SUM_ABS, SUM_LOW, SUM_HIGH, SUMS, SIDE_FLOATS = SUMS * CD + 1 };
enum { MOMENT_THREADS = 256, GROUP = CD % 4 == 0 && !BF16 ? 4 : 1 };

DEVICE float add_sum(int k, float a, float b)
{
    if (k == SUM_LOW)
        return a < b ? a : b;
    return k == SUM_HIGH ? real_max(a, b) : a + b;
}

/* The tokens from .. to - 1 of one side of a head: rows `first` elements behind `data`, `stride` apart, and
 * their mask, NULL: all count. */
typedef struct moment_tokens {
    const void *data;
    const byte *mask;
    int64_t first, stride, from, to;
} moment_tokens;

/* Those of split `split` of `splits`; side 0 = queries, 1 = keys. */
DEVICE moment_tokens split_tokens(const params_cuda_args *a, int side, int64_t head, int64_t split,
                                  int64_t splits)
{
    const int64_t b = head / a->H, h = head % a->H, padded = side ? a->S : a->T;
    const int64_t *begin = side ? a->k_begin : a->q_begin, *len = side ? a->k_len : a->q_len;
    const byte *mask = side ? a->k_mask : a->q_mask;
    const int64_t n = len ? len[b] : padded, each = (n + splits - 1) / splits;
    moment_tokens t;
    t.data = side ? a->k.data : a->q.data;
    t.stride = side ? a->k.stride_t : a->q.stride_t;
    t.mask = mask ? mask + (begin ? begin[b] : b * padded) : mask;
    t.first = (begin ? begin[b] * t.stride : b * (side ? a->k.stride_b : a->q.stride_b)) +
              h * (side ? a->k.stride_h : a->q.stride_h);
    t.from = split * each;
    t.to = t.from + each < n ? t.from + each : n;
    return t;
}

/* GROUP coordinates of token t from j on, scaled. */
DEVICE void load_group(const params_cuda_args *a, const moment_tokens *tokens, int64_t t, int j, float *value)
{
    const int64_t at = tokens->first + t * tokens->stride + j;
    if (BF16) {
        value[0] = from_bf16(global_load_half((const byte *)tokens->data + 2 * at));
    } else if (GROUP == 4) {
        const float4 four = global_load4((const float *)tokens->data + at);
        value[0] = four.x;
        value[1] = four.y;
        value[2] = four.z;
        value[GROUP - 1] = four.w;
    } else {
        value[0] = global_load((const float *)tokens->data + at);
    }
    UNROLL
    for (int i = 0; i < GROUP; i++)
        value[i] *= a->scale;
}
#endif
