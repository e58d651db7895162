/* What every generated CUDA file starts from: types, and one name for every intrinsic, warp
 * primitive and memory access. No headers, so that NVRTC needs no include path. The text below and
 * in the skeletons is C as well as CUDA: with RT_EMULATED the compiler of the host has seen
 * runtime/device/emulator/rt.h, which gives the part between the #ifndef lines for fibres on a CPU and
 * checks every use. Plain dereferences work there, but are neither checked nor counted.
 */
#ifndef RT_CUH
#define RT_CUH
#ifndef REAL
#define REAL float
#endif
typedef REAL real;

#ifndef RT_EMULATED
#ifdef __CUDACC_RTC__ /* nvcc brings both from its own headers */
typedef long long int64_t;
#define INFINITY __int_as_float(0x7f800000)
#endif
typedef unsigned char byte;

#define DEVICE static __device__ __forceinline__
/* A kernel of one argument, a struct by value named `args`; blocks of at most N threads, at least K of
 * which fit one multiprocessor. */
#ifdef RT_FLAT /* a function instead, for an entry of the test's own that takes the struct apart */
#define KERNEL(name, type, N, K) DEVICE void name##_body(const type args)
#else
#define KERNEL(name, type, N, K) \
    extern "C" __global__ void __launch_bounds__(N, K) name(const __grid_constant__ type args)
#endif
#define UNROLL _Pragma("unroll")
#define UNROLL_TWICE _Pragma("unroll 2") /* where more would only cost registers */
#define NO_UNROLL _Pragma("unroll 1")
#define THREAD ((int)threadIdx.x)
#define THREADS ((int)blockDim.x)
#define BLOCK ((int64_t)blockIdx.x)
#define BLOCK_Y ((int64_t)blockIdx.y)
#define BLOCK_Z ((int64_t)blockIdx.z)
#define BLOCKS ((int64_t)gridDim.x)
/* The one dynamic block of shared memory, 16-byte aligned. */
#define SHARED_MEMORY(name) extern __shared__ __align__(16) byte name[]

DEVICE void block_sync(void)
{
    __syncthreads();
}

#ifdef CLUSTERS /* sm_90 and later: blocks along x that run together */
DEVICE void cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Number of this block in its cluster. */
DEVICE int cluster_rank(void)
{
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}

/* What lies at the place of `p`, an address of this block's shared memory, in that of another block
 * of the cluster; which must not end before it has been read. */
DEVICE unsigned cluster_address(const void *p, int rank)
{
    const unsigned at = (unsigned)__cvta_generic_to_shared(p);
    unsigned there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
    return there;
}

DEVICE float cluster_load(const float *p, int rank)
{
    float x;
    asm volatile("ld.shared::cluster.f32 %0, [%1];"
                 : "=f"(x)
                 : "r"(cluster_address(p, rank))
                 : "memory");
    return x;
}

DEVICE float4 cluster_load4(const float *p, int rank)
{
    float4 x;
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(cluster_address(p, rank))
                 : "memory");
    return x;
}
#endif

DEVICE void warp_sync(void)
{
    __syncwarp();
}

DEVICE real warp_shuffle_xor(real x, int lanes)
{
    return __shfl_xor_sync(0xffffffffu, x, lanes);
}

/* 1 where `x` is not 0 in any lane of the warp. */
DEVICE int warp_any(int x)
{
    return __any_sync(0xffffffffu, x);
}

/* ---- memory: global loads and stores of 1, 2 or 4 numbers, aligned to their size ---- */

DEVICE float4 global_load4(const float *p)
{
    return *(const float4 *)p;
}

/* The compiler makes four stores of an assignment where it sees fit. */
DEVICE void global_store4(float *p, float4 x)
{
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "f"(x.x),
                 "f"(x.y), "f"(x.z), "f"(x.w));
}

DEVICE real global_load(const real *p)
{
    return *p;
}

DEVICE void global_store(real *p, real x)
{
    *p = x;
}

DEVICE byte global_load_byte(const byte *p)
{
    return *p;
}

/* 8 numbers of bf16 as 4 words, low half first. */
DEVICE uint4 global_load_words(const void *p)
{
    return *(const uint4 *)p;
}

DEVICE void global_store_words(void *p, uint4 x)
{
    *(uint4 *)p = x;
}

DEVICE unsigned short global_load_half(const void *p)
{
    return *(const unsigned short *)p;
}

DEVICE void global_store_half(void *p, unsigned short x)
{
    *(unsigned short *)p = x;
}

DEVICE float shared_load(const float *p)
{
    return *p;
}

DEVICE void shared_store(float *p, float x)
{
    *p = x;
}

DEVICE float4 shared_load4(const float *p)
{
    return *(const float4 *)p;
}

DEVICE void shared_store4(float *p, float4 x)
{
    *(float4 *)p = x;
}

DEVICE float2 shared_load2(const float *p)
{
    return *(const float2 *)p;
}

DEVICE void shared_store2(float *p, float2 x)
{
    *(float2 *)p = x;
}

/* 16 bytes from global to shared memory, both aligned, without waiting; visible to the thread
 * itself after async_wait, to others after a barrier behind that. */
DEVICE void async_copy16(void *shared, const void *global)
{
    const unsigned at = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(global) : "memory");
}

DEVICE void async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most `groups` of the groups committed last are still on their way (0 or 1). */
DEVICE void async_wait(int groups)
{
    if (groups == 0)
        asm volatile("cp.async.wait_group 0;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 1;" ::: "memory");
}

/* ---- arithmetic ---- */

DEVICE float as_float(unsigned x)
{
    return __uint_as_float(x);
}

DEVICE unsigned as_bits(float x)
{
    return __float_as_uint(x);
}

/* Rounded to the 10 bits of a tensor core's float, to nearest, ties away. */
DEVICE float to_tf32(float x)
{
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return __uint_as_float(y);
}

/* c += a b of a warp: a (16, 8) row-major, b (8, 8) column-major, c (16, 8); with g = lane / 4 and
 * t = lane % 4 a lane holds a: rows g, g + 8, columns t (a[0], a[1]) and t + 4 (a[2], a[3]); b: rows t
 * and t + 4 of column g; c: columns 2t, 2t + 1 of row g (c[0], c[1]) and of row g + 8. PTX ISA,
 * "Matrix Fragments for mma.m16n8k8". */
DEVICE void mma_tf32(float *c, const float *a, const float *b)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

/* 2^x; relative error below 2^-22, 0 below 2^-126. */
DEVICE float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* x * y + z, rounded once. */
DEVICE float multiply_add(float x, float y, float z)
{
    return __fmaf_rn(x, y, z);
}
#endif

/* e^x for x <= 0, -inf included, NaN of NaN; relative error about 2^-22. The product with log2(e) is rounded, and
 * what it lost multiplied back in. */
DEVICE float exp_falling(float x)
{
    const float log2e = 1.4426950408889634f, low = 1.92596299e-8f;
    const float y = x < -104.0f ? -104.0f : x, high = y * log2e;
    const float lost = multiply_add(y, low, multiply_add(y, log2e, -high));
    const float e = exp2_fast(high);
    return x < -104.0f ? 0 : multiply_add(e, lost * 0.6931471805599453f, e);
}

/* sin and cos; three-part reduction by pi/2, good for |x| up to 1e5, with no slow path and so no
 * memory of a thread's own. */
DEVICE float reduced_sin(float r)
{
    const float s = r * r;
    float p = multiply_add(s, 2.718311493989822e-6f, -1.9839334836096632e-4f);
    p = multiply_add(s, p, 8.33332938588946e-3f);
    p = multiply_add(s, p, -1.6666666641626524e-1f);
    return multiply_add(s * p, r, r);
}

DEVICE float reduced_cos(float r)
{
    const float s = r * r;
    float p = multiply_add(s, -2.6051615e-7f, 2.4760495e-5f);
    p = multiply_add(s, p, -1.3888378e-3f);
    p = multiply_add(s, p, 4.1666638e-2f);
    p = multiply_add(s, p, -0.5f);
    return multiply_add(s, p, 1);
}

DEVICE float quarter_turn(float x, int *quarter)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    const float sum = multiply_add(x, 0.6366197723675814f, magic), n = sum - magic;
    *quarter = (int)as_bits(sum);
    float r = multiply_add(n, -1.5707855224609375f, x);
    r = multiply_add(n, -1.0804273188114166e-5f, r);
    return multiply_add(n, -6.0770999344e-11f, r);
}

DEVICE float rt_sinf(float x)
{
    int quarter;
    const float r = quarter_turn(x, &quarter);
    const float y = quarter & 1 ? reduced_cos(r) : reduced_sin(r);
    return quarter & 2 ? -y : y;
}

DEVICE float rt_cosf(float x)
{
    int quarter;
    const float r = quarter_turn(x, &quarter);
    const float y = quarter & 1 ? reduced_sin(r) : reduced_cos(r);
    return (quarter + 1) & 2 ? -y : y;
}

#define rt_sin sin /* of double; its own slow path is no matter there */
#define rt_cos cos

/* I1(x) / I0(x), x >= 0: Gauss's continued fraction, beyond 50 the asymptotic series. */
DEVICE float bessel_ratio(float x)
{
    if (x > 50)
        return 1 - 0.5f / x - 0.125f / (x * x) - 0.125f / (x * x * x);
    float ratio = 0;
    for (int n = 12 + (int)(x + x / 2); n > 0; n--)
        ratio = x / ((float)(2 * n) + x * ratio);
    return ratio;
}

DEVICE real real_max(real x, real y)
{
    return x > y ? x : y;
}

/* Sum and maximum over a warp, the same bits in every lane. */
DEVICE real warp_sum(real x)
{
    for (int lanes = 16; lanes > 0; lanes /= 2)
        x += warp_shuffle_xor(x, lanes);
    return x;
}

DEVICE real warp_max(real x)
{
    for (int lanes = 16; lanes > 0; lanes /= 2)
        x = real_max(x, warp_shuffle_xor(x, lanes));
    return x;
}
#ifdef RT_EMULATED /* so that a message names the line that calls them */
#define warp_sum(x) EMULATOR_INSIDE("warp_sum", warp_sum(x))
#define warp_max(x) EMULATOR_INSIDE("warp_max", warp_max(x))
#endif

/* Numbers of bf16: the upper half of a float's bits; to nearest, ties to even. */
DEVICE float from_bf16(unsigned half)
{
    return as_float(half << 16);
}

DEVICE unsigned to_bf16(float x)
{
    const unsigned bits = as_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 0x7fc0;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#endif
