/* Twins of what rt.cuh takes from the device, for fibres on a CPU: the same names, the same
 * meaning, and a check of each use. It comes after abi.h in front of a CUDA text, which is
 * then compiled as C; the library itself does not include it.
 */
#ifndef SPECTRA_DEVICE_EMULATOR_RT_H
#define SPECTRA_DEVICE_EMULATOR_RT_H

#ifndef SPECTRA_DEVICE_EMULATOR_ABI_H
#include "device/emulator/abi.h"
#endif

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define RT_EMULATED 1

typedef unsigned char byte;
typedef struct float2 {
    float x, y;
} __attribute__((aligned(8))) float2;
typedef struct float4 {
    float x, y, z, w;
} __attribute__((aligned(16))) float4;
static inline float2 make_float2(float x, float y)
{
    return (float2){x, y};
}
static inline float4 make_float4(float x, float y, float z, float w)
{
    return (float4){x, y, z, w};
}
typedef struct uint2 {
    unsigned x, y;
} __attribute__((aligned(8))) uint2;
typedef struct uint4 {
    unsigned x, y, z, w;
} __attribute__((aligned(16))) uint4;

#define DEVICE static inline __attribute__((always_inline, unused))
#define EMULATOR_PUBLIC __attribute__((visibility("default")))
#define KERNEL(name, type, N, K)                                                           \
    static void name##_thread(const type args);                                            \
    static void name##_run(const void *args)                                               \
    {                                                                                      \
        name##_thread(*(const type *)args);                                                \
    }                                                                                      \
    extern const emulator_kernel name##_kernel EMULATOR_PUBLIC;                            \
    const emulator_kernel name##_kernel = {#name, name##_run, (int64_t)sizeof(type), (N)}; \
    static void name##_thread(const type args)
#define UNROLL
#define UNROLL_TWICE
#define NO_UNROLL

#define THREAD ((int)emulator_self()->thread)
#define THREADS ((int)emulator_self()->threads)
#define BLOCK (emulator_self()->block[0])
#define BLOCK_Y (emulator_self()->block[1])
#define BLOCK_Z (emulator_self()->block[2])
#define BLOCKS (emulator_self()->grid[0])
#define SHARED_MEMORY(name) byte *const name = (byte *)emulator_self()->shared

/* The place of this line, the same object each time it is passed. */
#define EMULATOR_PLACE(what)                                                   \
    (__extension__({                                                           \
        static emulator_place emulator_place_ = {what, __FILE__, __LINE__, 0}; \
        &emulator_place_;                                                      \
    }))
/* A call of a function of rt.cuh that waits inside: its own line is the one to be named. */
#define EMULATOR_INSIDE(what, call)                                           \
    (__extension__({                                                          \
        emulator_lane *const emulator_lane_ = emulator_self();                \
        const emulator_place *const emulator_outer_ = emulator_lane_->caller; \
        emulator_lane_->caller = EMULATOR_PLACE(what);                        \
        const real emulator_result_ = (call);                                 \
        emulator_lane_->caller = emulator_outer_;                             \
        emulator_result_;                                                     \
    }))

#define block_sync() emulator_here()->api->block_sync(emulator_self(), EMULATOR_PLACE("block_sync"))
#define cluster_sync() \
    emulator_here()->api->cluster_sync(emulator_self(), EMULATOR_PLACE("cluster_sync"))
#define warp_sync() emulator_here()->api->warp_sync(emulator_self(), EMULATOR_PLACE("warp_sync"))
#define cluster_rank() ((int)emulator_self()->rank)
#define warp_any(x) emulator_here()->api->any(emulator_self(), (x), EMULATOR_PLACE("warp_any"))
#define warp_shuffle_xor(x, lanes)                                                                \
    (__extension__({                                                                              \
        real emulator_x_ = (x);                                                                   \
        emulator_here()->api->shuffle_xor(emulator_self(), &emulator_x_, (int)sizeof emulator_x_, \
                                          (lanes), EMULATOR_PLACE("warp_shuffle_xor"));           \
        emulator_x_;                                                                              \
    }))
#define mma_tf32(c, a, b)                                                            \
    emulator_here()->api->mma(emulator_self(), (c), (a), (b), emulator_product_tf32, \
                              EMULATOR_PLACE("mma_tf32"))

/* ---- memory -----------------------------------------------------------------------------------
 */

DEVICE const void *emulator_global(const void *p, int size, emulator_access kind,
                                   emulator_place *at)
{
    emulator_lane *const self = emulator_self();
    if (__builtin_expect((((uintptr_t)p & (uintptr_t)(size - 1)) | self->watch) != 0, 0))
        emulator_here()->api->global(self, p, size, kind, at);
    return p;
}

DEVICE const void *emulator_shared(const void *p, int size, emulator_access kind,
                                   emulator_place *at)
{
    emulator_lane *const self = emulator_self();
    const uintptr_t first = (uintptr_t)p;
    if (__builtin_expect(first < self->shared || first + (uintptr_t)size > self->shared_end ||
                             ((first & (uintptr_t)(size - 1)) | self->watch) != 0,
                         0))
        emulator_here()->api->shared(self, p, size, kind, at);
    return p;
}

#define EMULATOR_LOAD_OF(space, type, name, p)                                         \
    (__extension__({                                                                   \
        const type *const emulator_p_ = (const type *)(p);                             \
        *(const type *)emulator_##space(emulator_p_, (int)sizeof(type), EMULATOR_LOAD, \
                                        EMULATOR_PLACE(name));                         \
    }))
#define EMULATOR_STORE_OF(space, type, name, p, x)                                \
    (__extension__({                                                              \
        type *const emulator_p_ = (type *)(p);                                    \
        const type emulator_x_ = (x);                                             \
        *(type *)emulator_##space(emulator_p_, (int)sizeof(type), EMULATOR_STORE, \
                                  EMULATOR_PLACE(name)) = emulator_x_;            \
    }))

#define global_load(p) EMULATOR_LOAD_OF(global, real, "global_load", p)
#define global_load4(p) EMULATOR_LOAD_OF(global, float4, "global_load4", p)
#define global_load_byte(p) EMULATOR_LOAD_OF(global, byte, "global_load_byte", p)
#define global_load_words(p) EMULATOR_LOAD_OF(global, uint4, "global_load_words", p)
#define global_load_half(p) EMULATOR_LOAD_OF(global, unsigned short, "global_load_half", p)
#define global_store(p, x) EMULATOR_STORE_OF(global, real, "global_store", p, x)
#define global_store4(p, x) EMULATOR_STORE_OF(global, float4, "global_store4", p, x)
#define global_store_words(p, x) EMULATOR_STORE_OF(global, uint4, "global_store_words", p, x)
#define global_store_half(p, x) EMULATOR_STORE_OF(global, unsigned short, "global_store_half", p, x)
#define shared_load(p) EMULATOR_LOAD_OF(shared, float, "shared_load", p)
#define shared_load2(p) EMULATOR_LOAD_OF(shared, float2, "shared_load2", p)
#define shared_load4(p) EMULATOR_LOAD_OF(shared, float4, "shared_load4", p)
#define shared_store(p, x) EMULATOR_STORE_OF(shared, float, "shared_store", p, x)
#define shared_store2(p, x) EMULATOR_STORE_OF(shared, float2, "shared_store2", p, x)
#define shared_store4(p, x) EMULATOR_STORE_OF(shared, float4, "shared_store4", p, x)

#define cluster_load(p, rank)                                                       \
    (*(const float *)emulator_here()->api->cluster(emulator_self(), (p), 4, (rank), \
                                                   EMULATOR_PLACE("cluster_load")))
#define cluster_load4(p, rank)                                                        \
    (*(const float4 *)emulator_here()->api->cluster(emulator_self(), (p), 16, (rank), \
                                                    EMULATOR_PLACE("cluster_load4")))

#define async_copy16(shared, global) \
    emulator_here()->api->copy(emulator_self(), (shared), (global), EMULATOR_PLACE("async_copy16"))
#define async_commit() emulator_here()->api->commit(emulator_self())
#define async_wait(groups) emulator_here()->api->wait(emulator_self(), (groups))

/* ---- arithmetic -------------------------------------------------------------------------------
 */

DEVICE float as_float(unsigned x)
{
    float y;
    memcpy(&y, &x, sizeof y);
    return y;
}

DEVICE unsigned as_bits(float x)
{
    unsigned y;
    memcpy(&y, &x, sizeof y);
    return y;
}

/* What a tensor core reads of a float. */
DEVICE double emulator_tf32(float x)
{
    return (double)as_float(as_bits(x) & ~0x1fffu);
}

/* The sums are in double and rounded once, which is as good as exact: a product has 22 bits. */
static __attribute__((unused)) void emulator_product_tf32(float (*c)[4], const float (*a)[4],
                                                          const float (*b)[2])
{
    typedef double row __attribute__((vector_size(64)));
    double A[16][8];
    row B[8], C[16];
    for (int lane = 0; lane < EMULATOR_WARP; lane++) {
        const int g = lane / 4, t = lane % 4;
        for (int r = 0; r < 4; r++)
            A[g + 8 * (r & 1)][t + 4 * (r >> 1)] = emulator_tf32(a[lane][r]);
        for (int r = 0; r < 2; r++)
            B[t + 4 * r][g] = emulator_tf32(b[lane][r]);
    }
    for (int i = 0; i < 16; i++) {
        C[i] = A[i][0] * B[0];
        for (int k = 1; k < 8; k++)
            C[i] += A[i][k] * B[k];
    }
    for (int lane = 0; lane < EMULATOR_WARP; lane++) {
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++)
            c[lane][i] = (float)((double)c[lane][i] + C[g + 8 * (i >> 1)][2 * t + (i & 1)]);
    }
}

/* Half of the last place kept is added to the magnitude; what is no number stays as it is. */
DEVICE float to_tf32(float x)
{
    const unsigned bits = as_bits(x);
    return (bits & 0x7f800000u) == 0x7f800000u ? x : as_float((bits + 0x1000u) & ~0x1fffu);
}

/* The nearest float, where the device is a unit or two off in the last place; like there, results
 * too small for a normal number are 0. */
DEVICE float exp2_fast(float x)
{
    return x < -126.0f ? 0.0f : exp2f(x);
}

DEVICE float multiply_add(float x, float y, float z)
{
    return fmaf(x, y, z);
}
#endif
