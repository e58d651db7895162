/* How row operators share out a row: ROW_LANES neighbouring threads have one, ROW_UNIT elements each at a time,
 * those of thread `lane` begin at k + lane * ROW_UNIT for k = 0, ROW_LANES * ROW_UNIT ... The kernels that the
 * generator writes behind this are row_fwd and row_bwd.
 */
#ifndef ROW_CUH
#define ROW_CUH

#ifndef ROW_N
#define ROW_N 0 /* length of a row where it is known, else args.n */
#endif
#ifndef ROW_UNIT
#define ROW_UNIT 1 /* 4: rows and shared inputs are 16-byte aligned, n is a multiple of 4 */
#endif
#ifndef ROW_LANES
#define ROW_LANES 32
#endif
#ifndef ROW_SHORT
#define ROW_SHORT 0 /* 1: everything in registers, loops unrolled */
#endif
#define ROW_STEP (ROW_LANES * ROW_UNIT)
#if ROW_SHORT
#define ROW_UNROLL UNROLL
#define ROW_FULL (ROW_N % ROW_STEP == 0)
#else
#define ROW_UNROLL
#define ROW_FULL 0
#endif

DEVICE real row_sum(real x)
{
    for (int lanes = ROW_LANES / 2; lanes > 0; lanes /= 2)
        x += warp_shuffle_xor(x, lanes);
    return x;
}

DEVICE real row_max(real x)
{
    for (int lanes = ROW_LANES / 2; lanes > 0; lanes /= 2)
        x = real_max(x, warp_shuffle_xor(x, lanes));
    return x;
}

DEVICE void row_load(real *x, const real *p)
{
#if ROW_UNIT == 4
    const float4 y = global_load4(p);
    x[0] = y.x;
    x[1] = y.y;
    x[2] = y.z;
    x[3] = y.w;
#else
    x[0] = global_load(p);
#endif
}

DEVICE void row_store(real *p, const real *x)
{
#if ROW_UNIT == 4
    float4 y;
    y.x = x[0];
    y.y = x[1];
    y.z = x[2];
    y.w = x[3];
    global_store4(p, y);
#else
    global_store(p, x[0]);
#endif
}

#ifdef DROPOUT_CUH /* an input is dropout's bits */
DEVICE void row_keep(real *keep, const byte *row, int64_t j, real factor)
{
#if ROW_UNIT == 4
    keep_four(keep, row, j, factor);
#else
    keep[0] = keep_at(row, j, factor);
#endif
}
#endif
#endif
