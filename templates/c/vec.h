/* vec: a vector of VL reals, and the functions that generated text may call on it.
 *
 * The width follows the instruction set the file is compiled for (AVX-512, AVX2 with FMA, else 16
 * bytes) and REAL. Arithmetic is GNU C vector arithmetic; intrinsics stand only where it gives bad
 * code, each beside the portable text. Every v_ function has a scalar twin s_ of the same meaning,
 * so that a formula can be printed for either.
 *
 * Float accuracy, checked by tests/kernel/vec_ulp.c: exp, log, sin, cos 2 ulp, erf 4 ulp. sin and
 * cos are for |x| < 1e4, log for positive normal numbers. exp below 2.8e-38 may be 0; NaN stays
 * NaN. Double is the verification build and calls libm lane by lane.
 */
#ifndef SPECTRA_VEC_H
#define SPECTRA_VEC_H

#include "kernel/kernel.h"
#include <math.h>
#include <string.h>

#define VEC_PASTE2(a, b) a##b
#define VEC_PASTE(a, b) VEC_PASTE2(a, b)
#define VEC_IS_float 0
#define VEC_IS_double 1
#define VEC_DOUBLE VEC_PASTE(VEC_IS_, REAL)

#if defined __AVX512F__ && defined __AVX512DQ__ && defined __AVX512VL__
#define VEC_BYTES 64
#define VEC_ISA_NAME avx512
#elif defined __AVX2__ && defined __FMA__
#define VEC_BYTES 32
#define VEC_ISA_NAME avx2
#else
#define VEC_BYTES 16
#define VEC_ISA_NAME portable
#endif
#ifndef ISA_NAME
#define ISA_NAME VEC_ISA_NAME
#endif

/* Intrinsics are for float only: VEC_X86 is 512, 256, or 0 for the portable text. */
#if VEC_DOUBLE || VEC_BYTES == 16
#define VEC_X86 0
#else
#define VEC_X86 (VEC_BYTES * 8)
#endif
#if VEC_X86 == 512
#include <immintrin.h> /* takes 0.4 s to compile, so the few of AVX2 are builtins */
#endif

/* The name of an exported table: attn_fwd_posrf_avx2. */
#define VEC_NAME3(name, feature, isa) name##_##feature##_##isa
#define VEC_NAME(name, feature, isa) VEC_NAME3(name, feature, isa)
#define EXPORT(name) VEC_NAME(name, FEATURE_ID, ISA_NAME)

enum { VL = VEC_BYTES / (int)sizeof(real) };

#if VEC_DOUBLE
typedef int64_t vec_int;
typedef uint64_t vec_uint;
#define VEC_SIGN INT64_MIN
#else
typedef int32_t vec_int;
typedef uint32_t vec_uint;
#define VEC_SIGN INT32_MIN
#endif
typedef real vec __attribute__((vector_size(VEC_BYTES)));
typedef vec_int ivec __attribute__((vector_size(VEC_BYTES)));
typedef vec_uint uvec __attribute__((vector_size(VEC_BYTES)));
typedef real vec_unaligned
    __attribute__((vector_size(VEC_BYTES), aligned(sizeof(real)), may_alias));

#define VEC_FN static inline __attribute__((always_inline, unused))

VEC_FN vec vset(real x)
{
    return x - (vec){0}; /* not x + 0, which would change -0 */
}

VEC_FN vec vload(const real *p)
{
    return *(const vec_unaligned *)p;
}

VEC_FN void vstore(real *p, vec x)
{
    *(vec_unaligned *)p = x;
}

/* 0, 1, 2 ... VL-1 */
VEC_FN vec viota(void)
{
    vec x;
    for (int i = 0; i < VL; i++)
        x[i] = (real)i;
    return x;
}

/* The first n of VL elements, the others 0 (nothing is read there). */
VEC_FN vec vloadn(const real *p, int64_t n)
{
#if VEC_X86 == 512
    return _mm512_maskz_loadu_ps((__mmask16)((1U << n) - 1), p);
#elif VEC_X86 == 256
    return __builtin_ia32_maskloadps256((const vec *)p, viota() < vset((real)n));
#else
    vec x = {0};
    memcpy(&x, p, (size_t)n * sizeof(real));
    return x;
#endif
}

VEC_FN void vstoren(real *p, vec x, int64_t n)
{
#if VEC_X86 == 512
    _mm512_mask_storeu_ps(p, (__mmask16)((1U << n) - 1), x);
#elif VEC_X86 == 256
    __builtin_ia32_maskstoreps256((vec *)p, viota() < vset((real)n), x);
#else
    memcpy(p, &x, (size_t)n * sizeof(real));
#endif
}

/* Lanes of x where the mask is all ones, of y where it is 0. */
VEC_FN vec vec_select(ivec mask, vec x, vec y)
{
    return (vec)(((ivec)x & mask) | ((ivec)y & ~mask));
}

/* NaN in either argument may or may not come through, as with the instruction. */
VEC_FN vec v_max(vec x, vec y)
{
#if VEC_X86 == 512
    return _mm512_max_ps(x, y);
#elif VEC_X86 == 256
    return __builtin_ia32_maxps256(x, y);
#else
    return vec_select(x > y, x, y);
#endif
}

VEC_FN vec v_min(vec x, vec y)
{
#if VEC_X86 == 512
    return _mm512_min_ps(x, y);
#elif VEC_X86 == 256
    return __builtin_ia32_minps256(x, y);
#else
    return vec_select(x < y, x, y);
#endif
}

/* 1 where x < y, else 0 */
VEC_FN vec v_lt(vec x, vec y)
{
#if VEC_X86 == 512
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), vset(1));
#else
    return vec_select(x < y, vset(1), vset(0));
#endif
}

/* c != 0 ? x : y */
VEC_FN vec v_where(vec c, vec x, vec y)
{
#if VEC_X86 == 512
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(c, vset(0), _CMP_NEQ_UQ), x);
#else
    return vec_select(c != vset(0), x, y);
#endif
}

/* The first n lanes of x, the others 0 whatever they hold. */
VEC_FN vec v_first(vec x, int64_t n)
{
    return v_where(v_lt(viota(), vset((real)n)), x, vset(0));
}

VEC_FN vec v_abs(vec x)
{
    return (vec)((ivec)x & ~VEC_SIGN);
}

#if VEC_X86 == 256
typedef real vec_half __attribute__((vector_size(VEC_BYTES / 2)));
#define vec_low(x) __builtin_shufflevector(x, x, 0, 1, 2, 3)
#define vec_high(x) __builtin_shufflevector(x, x, 4, 5, 6, 7)
#endif

VEC_FN real vsum(vec x)
{
#if VEC_X86 == 512
    return _mm512_reduce_add_ps(x);
#elif VEC_X86 == 256
    vec_half h = vec_low(x) + vec_high(x);
    h = h + __builtin_shufflevector(h, h, 2, 3, 2, 3);
    return h[0] + h[1];
#else
    real s = x[0];
    for (int i = 1; i < VL; i++)
        s += x[i];
    return s;
#endif
}

VEC_FN real vhmax(vec x)
{
#if VEC_X86 == 512
    return _mm512_reduce_max_ps(x);
#elif VEC_X86 == 256
    vec_half h = __builtin_ia32_maxps(vec_low(x), vec_high(x));
    h = __builtin_ia32_maxps(h, __builtin_shufflevector(h, h, 2, 3, 2, 3));
    return __builtin_ia32_maxps(h, __builtin_shufflevector(h, h, 1, 1, 1, 1))[0];
#else
    real m = x[0];
    for (int i = 1; i < VL; i++)
        m = x[i] > m ? x[i] : m;
    return m;
#endif
}

#if VEC_DOUBLE

#define VEC_BY_LANE(name, function)  \
    static inline vec name(vec x)    \
    {                                \
        for (int i = 0; i < VL; i++) \
            x[i] = function(x[i]);   \
        return x;                    \
    }
VEC_BY_LANE(v_exp, exp)
VEC_BY_LANE(vec_exp_falling, exp)
VEC_BY_LANE(vec_exp_coarse, exp)
VEC_BY_LANE(v_log, log)
VEC_BY_LANE(v_sqrt, sqrt)
VEC_BY_LANE(v_sin, sin)
VEC_BY_LANE(v_cos, cos)
VEC_BY_LANE(v_erf, erf)
#define VEC_LIBM(name) name

#else /* float */

/* Polynomials below are minimax fits of the stated functions on the stated ranges. */

/* Nearest integer of |x| < 2^22 by adding 1.5 * 2^23, which leaves it in the low bits. */
#define VEC_ROUNDER 0x1.8p23f

/* n = x / ln 2 rounded, as its shifted form; e = exp(x - n ln 2). */
VEC_FN vec vec_exp_parts(vec x, vec *shifted)
{
    *shifted = x * 0x1.715476p0F + VEC_ROUNDER;
    vec n = *shifted - VEC_ROUNDER;
    vec r = x - n * 0x1.62e4p-1F; /* ln 2 in two parts; the first product is exact */
    r = r - n * 0x1.7f7d1cp-20F;
    /* (e^r - 1) / r, |r| < ln(2)/2 */
    vec q = r * 0.001384347067F + 0.008374316629F;
    q = q * r + 0.04166801274F;
    q = q * r + 0.1666642941F;
    q = q * r + 0.4999999414F;
    q = q * r + 1.000000033F;
    return q * r + 1.0F;
}

/* The order of arguments lets NaN through the maximum instructions. */
VEC_FN vec v_exp(vec x)
{
    vec shifted;
#if VEC_X86 == 512
    vec e = vec_exp_parts(_mm512_min_ps(vset(130), _mm512_max_ps(vset(-110), x)), &shifted);
    return _mm512_scalef_ps(e, shifted - VEC_ROUNDER);
#else
#if VEC_X86 == 256
    vec y = __builtin_ia32_minps256(vset(89), __builtin_ia32_maxps256(vset(-87), x));
#else
    vec y = vec_select(x < vset(-87), vset(-87), x);
    y = vec_select(y > vset(89), vset(89), y);
#endif
    vec e = vec_exp_parts(y, &shifted);
    /* 2^(n-1) stays in range for every n of the clamped x; NaN comes through e. */
    ivec exponent = ((ivec)shifted + 126) << 23;
    return vec_select(x < vset(-86.5F), vset(0), e * (vec)exponent * 2.0F);
#endif
}

/* 2^n 2^rest = exp(x) of x <= 0, |rest| < 1/2: the rest, and n as its shifted form. x is not below
 * what 2^n can say, NaN stays NaN. */
VEC_FN vec vec_falling_rest(vec x, vec *shifted)
{
#if VEC_X86 == 512
    vec y = _mm512_max_ps(vset(-110), x);
#elif VEC_X86 == 256
    vec y = __builtin_ia32_maxps256(vset(-87), x);
#else
    vec y = vec_select(x < vset(-87), vset(-87), x);
#endif
    *shifted = y * 0x1.715476p0F + VEC_ROUNDER;
    return y * 0x1.715476p0F - (*shifted - VEC_ROUNDER);
}

/* 2^n e, where e = 2^rest of x; 0 below -86.5. */
VEC_FN vec vec_falling_scale(vec x, vec e, vec shifted)
{
#if VEC_X86 == 512
    (void)x;
    return _mm512_scalef_ps(e, shifted - VEC_ROUNDER);
#else
    e = (vec)((ivec)e + ((ivec)shifted << 23));
    return (vec)((ivec)e & ~(x < vset(-86.5F)));
#endif
}

/* exp(x) of x <= 0, cheaper: the relative error is 1e-7 - 1.4e-8 x, less than the rounding of x
 * has cost already. 0 below -86.5, -infinity included. */
VEC_FN vec vec_exp_falling(vec x)
{
#if VEC_X86 == 0
    return v_exp(x);
#else
    vec shifted, r = vec_falling_rest(x, &shifted);
    /* (2^r - 1) / r, by pairs: loops wait for this chain more than for its instructions */
    vec r2 = r * r, high = r * 1.535315912e-4F + 1.339913252e-3F;
    vec middle = r * 9.618439829e-3F + 0.05550331854F, low = r * 0.2402264788F + 0.6931472031F;
    vec q = (high * r2 + middle) * r2 + low;
    return vec_falling_scale(x, q * r + 1.0F, shifted);
#endif
}

/* The same for what is rounded to bf16 next, which is 20 times coarser: the relative error
 * is 1.1e-4. */
VEC_FN vec vec_exp_coarse(vec x)
{
    vec shifted, r = vec_falling_rest(x, &shifted);
    vec q = r * 0.05500893106F + 0.2422109593F; /* (2^r - 1) / r */
    q = q * r + 0.6932829271F;
    return vec_falling_scale(x, q * r + 1.0F, shifted);
}

VEC_FN vec v_log(vec x)
{
    /* x = 2^n (1 + f), 1 + f in [sqrt(1/2), sqrt(2)) */
    ivec bits = (ivec)x - 0x3f3504f3;
    ivec exponent = bits >> 23;
    vec f = (vec)((ivec)x - (exponent << 23)) - 1.0F;
    vec n = __builtin_convertvector(exponent, vec);
    /* (log(1+f) - f + f^2/2) / f^3 */
    vec p = f * 0.06746517798F - 0.1168362329F;
    p = p * f + 0.1189248718F;
    p = p * f - 0.1240468685F;
    p = p * f + 0.1421889628F;
    p = p * f - 0.1666801765F;
    p = p * f + 0.2000214853F;
    p = p * f - 0.2500000968F;
    p = p * f + 0.3333331223F;
    vec square = f * f;
    vec low = p * (square * f) + n * -2.12194440e-4F; /* ln 2 = 0.693359375 - 2.1219444e-4 */
    low = low - square * 0.5F;
    return n * 0.693359375F + (f + low);
}

VEC_FN vec v_sqrt(vec x)
{
#if VEC_X86 == 512
    return _mm512_sqrt_ps(x);
#elif VEC_X86 == 256
    return __builtin_ia32_sqrtps256(x);
#else
    for (int i = 0; i < VL; i++)
        x[i] = sqrtf(x[i]);
    return x;
#endif
}

/* sin(x + quarter*pi/2). pi/2 in four parts: the first three have 11 bits, so that their products
 * with n < 2^13 and the first two differences are exact. */
VEC_FN vec vec_sine(vec x, int quarter)
{
    vec shifted = x * 0x1.45f306p-1f + VEC_ROUNDER;
    vec n = shifted - VEC_ROUNDER;
    ivec quadrant = (ivec)shifted + quarter;
    vec r = x - n * 0x1.92p0f;
    r = r - n * 0x1.fb4p-12f;
    r = r - n * 0x1.444p-24f;
    r = r - n * 0x1.68c234p-39f;
    vec z = r * r;
    vec s = z * -1.951398003e-4F + 8.332151332e-3F;
    s = (s * z - 0.1666665446F) * (z * r) + r;
    vec c = z * 2.443166824e-5F - 1.388730346e-3F;
    c = (c * z + 4.166664543e-2F) * (z * z) - z * 0.5F + 1.0F;
    vec y = vec_select((quadrant & 1) == 0, s, c);
    return (vec)((ivec)y ^ ((quadrant & 2) << 30));
}

VEC_FN vec v_sin(vec x)
{
    return vec_sine(x, 0);
}

VEC_FN vec v_cos(vec x)
{
    return vec_sine(x, 1);
}

VEC_FN vec v_erf(vec x)
{
    vec a = v_abs(x), z = x * x;
    /* erf(x)/x - 2/sqrt(pi), |x| < 1 */
    vec p = z * 7.853861891e-5F - 8.010193741e-4F;
    p = p * z + 5.188327693e-3F;
    p = p * z - 2.685381194e-2F;
    p = p * z + 0.1128358515F;
    p = p * z - 0.3761262582F;
    p = p * z - 1.368790201e-9F;
    vec small = p * x + x * 1.128379167F;
    /* log(1 - erf(a)), 1 <= a < 4; erf is 1 in float beyond */
    a = v_min(a, vset(4));
    vec q = a * -2.169761074e-5F + 4.41472616e-4F;
    q = q * a - 4.205284612e-3F;
    q = q * a + 2.521033951e-2F;
    q = q * a - 0.1084220995F;
    q = q * a - 0.6332163965F;
    q = q * a - 1.129580312F;
    q = q * a + 1.884680196e-4F;
    ivec sign = (ivec)x & VEC_SIGN;
    vec large = (vec)((ivec)(1.0F - v_exp(q)) | sign);
    return vec_select(a > vset(1), large, small);
}

#define VEC_LIBM(name) VEC_PASTE(name, f)

#endif

/* ---- pairs of bf16 ----------------------------------------------------------------------------
 * A lane of a vec, and so a place of an array of reals, holds two: the first in its low half. NaN
 * stays NaN. What is not AVX-512 is a model of the instructions for tests; of double it is nothing.
 */

#if VEC_X86 == 512
VEC_FN vec vec_pair_neighbours(vec a, vec b)
{
    vec both;
    __asm__("vcvtne2ps2bf16 %2, %1, %0" : "=v"(both) : "v"(b), "v"(a));
    return both;
}

VEC_FN vec vec_pair(vec a, vec b)
{
    static const uint16_t mixed[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                       21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                       11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return (vec)_mm512_permutexvar_epi16(_mm512_loadu_si512(mixed),
                                         (__m512i)vec_pair_neighbours(a, b));
}

VEC_FN vec vec_dot(vec sum, vec a, vec b)
{
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}
#else
/* To the nearest, ties to even; the low half is 0. */
VEC_FN ivec vec_to_bf16(vec x)
{
    ivec bits = (ivec)x;
    ivec rounded = (ivec)((uvec)bits + 0x7fff + ((uvec)bits >> 16 & 1));
    return (ivec)vec_select(x == x, (vec)rounded, (vec)(bits | 0x400000)) & ~0xffff;
}

/* Lane i: (a_i, b_i). */
VEC_FN vec vec_pair(vec a, vec b)
{
    return (vec)((ivec)((uvec)vec_to_bf16(a) >> 16) | vec_to_bf16(b));
}

/* Lane i: the numbers 2i and 2i + 1 of a and b behind each other. */
VEC_FN vec vec_pair_neighbours(vec a, vec b)
{
    vec even = a, odd = b;
    for (int i = 0; i < VL / 2; i++) {
        even[i] = a[2 * i], odd[i] = a[2 * i + 1];
        even[VL / 2 + i] = b[2 * i], odd[VL / 2 + i] = b[2 * i + 1];
    }
    return vec_pair(even, odd);
}

/* Lane i: sum_i + the product of the first numbers of a and b + that of the second. */
VEC_FN vec vec_dot(vec sum, vec a, vec b)
{
    sum += (vec)((ivec)a & ~0xffff) * (vec)((ivec)b & ~0xffff);
    return sum + (vec)((ivec)a << 16) * (vec)((ivec)b << 16);
}
#endif

VEC_FN real s_exp(real x)
{
    return VEC_LIBM(exp)(x);
}

VEC_FN real s_log(real x)
{
    return VEC_LIBM(log)(x);
}

VEC_FN real s_sqrt(real x)
{
    return VEC_LIBM(sqrt)(x);
}

VEC_FN real s_sin(real x)
{
    return VEC_LIBM(sin)(x);
}

VEC_FN real s_cos(real x)
{
    return VEC_LIBM(cos)(x);
}

VEC_FN real s_atan(real x)
{
    return VEC_LIBM(atan)(x);
}

/* I1(x) / I0(x), x >= 0: Gauss's continued fraction, beyond 50 the asymptotic series. */
VEC_FN real s_bessel_ratio(real x)
{
    if (x > 50)
        return 1 - (real)0.5 / x - (real)0.125 / (x * x) - (real)0.125 / (x * x * x);
    real ratio = 0;
    for (int n = 12 + (int)(x + x / 2); n > 0; n--)
        ratio = x / ((real)(2 * n) + x * ratio);
    return ratio;
}

VEC_FN real s_erf(real x)
{
    return VEC_LIBM(erf)(x);
}

VEC_FN real s_abs(real x)
{
    return VEC_LIBM(fabs)(x);
}

VEC_FN real s_max(real x, real y)
{
    return x > y ? x : y;
}

VEC_FN real s_min(real x, real y)
{
    return x < y ? x : y;
}

VEC_FN real s_lt(real x, real y)
{
    return x < y ? 1 : 0;
}

VEC_FN real s_where(real c, real x, real y)
{
    return c != 0 ? x : y;
}

#endif
