/* What every generated CUDA file starts from: types, one name for every intrinsic and warp
 * primitive, the argument structs shared with the host (runtime/kernel.h). No headers, so that
 * NVRTC needs no include path; an emulator replaces the part between the #ifndef lines.
 */
#ifndef REAL
#define REAL float
#endif
typedef REAL real;

#ifdef __CUDACC_RTC__ /* nvcc brings both from its own headers */
typedef long long int64_t;
#define INFINITY __int_as_float(0x7f800000)
#endif

#ifndef RT_EMULATED
#define DEVICE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void
#define SHARED __shared__
#define THREAD ((int)threadIdx.x)
#define THREADS ((int)blockDim.x)
#define BLOCK ((int64_t)blockIdx.x)
#define BLOCKS ((int64_t)gridDim.x)

DEVICE void block_sync(void)
{
    __syncthreads();
}

DEVICE real warp_shuffle_xor(real x, int lanes)
{
    return __shfl_xor_sync(0xffffffffu, x, lanes);
}
#endif

/* Sum and maximum over a warp, the same bits in every lane. */
DEVICE real warp_sum(real x)
{
    for (int lanes = 16; lanes > 0; lanes /= 2)
        x += warp_shuffle_xor(x, lanes);
    return x;
}

DEVICE real warp_max(real x)
{
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const real y = warp_shuffle_xor(x, lanes);
        x = x > y ? x : y;
    }
    return x;
}

/* As row_args in kernel.h. */
enum { ROW_MAX = 8 };
struct row_args {
    int64_t rows, n;
    const real *in[ROW_MAX];
    int64_t ld_in[ROW_MAX];
    real *out[ROW_MAX];
    int64_t ld_out[ROW_MAX];
    const real *gout[ROW_MAX];
    int64_t ld_gout[ROW_MAX];
    real *gin[ROW_MAX];
    int64_t ld_gin[ROW_MAX];
    real c[ROW_MAX];
    unsigned add;
};
static_assert(sizeof(row_args) == 16 + 64 * 8 + ROW_MAX * sizeof(real) + 8, "row_args");

/* Features of n tokens: log and sign (n, LANES, M), as attn_fwd_ops.features does. */
struct features_args {
    const real *x;     /* (n, D), rows ldx apart */
    const real *w;     /* (M, D) */
    const real *w_second; /* (M, D), of features with two projections */
    const real *w2;    /* (M) */
    const real *norm;  /* (NW - 1, M), norms of the rows beyond |w|^2 */
    const real *linear; /* (D, D), of features with a linear map */
    const real *s, *v; /* scalars; vectors (NV, D) */
    real *log, *sign;
    int64_t n, ldx;
    real scale;
    int D, M, side; /* side 0 = query, 1 = key */
};
static_assert(sizeof(features_args) == 112 + (sizeof(real) == 8 ? 8 : 0), "features_args");
