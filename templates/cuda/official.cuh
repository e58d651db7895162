/* What the kernels of the reference's behaviour share: sizes and rows. */
#ifndef OFFICIAL_CUH
#define OFFICIAL_CUH

enum {
    D = CD,
    DV = CDV,
    M = CM,
    F = LANES * M,
    STATE = F * (1 + DV), /* floats of a head's state, and of its gradient */
    S1 = NS > 0 ? NS : 1,
    V1 = NV > 0 ? NV : 1,
    WARPS = BLOCK_THREADS / 32
};
static_assert(NP == 1 && !LINEAR && !SUM, "the reference has one projection, and maps of coordinates only");

/* Number d of row t of head (b, h). */
DEVICE float *row_at(const cuda_rows *x, int64_t b, int64_t h, int64_t t, int d)
{
    return (float *)x->data + b * x->stride_b + h * x->stride_h + t * x->stride_t + d;
}

/* Is there a token t in sequence b? Queries have no mask: pass NULL. */
DEVICE int token_there(const byte *mask, int64_t T, int64_t b, int64_t t)
{
    return mask == 0 || global_load_byte(mask + b * T + t) != 0;
}
#endif
