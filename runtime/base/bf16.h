/* Conversions between float and bf16 on the host. A bf16 number is the upper half of a float's
 * bits: the same exponent, 8 bits of precision. Arithmetic in bf16 is the kernels' business, not
 * done here. */
#ifndef SPECTRA_BASE_BF16_H
#define SPECTRA_BASE_BF16_H

#include <stdint.h>
#include <string.h>

static inline float bf16_to_float(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To nearest, ties to even; what is no number stays none. As to_bf16 in templates/cuda/rt.cuh. */
static inline uint16_t bf16_from_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* n numbers of bf16 at the start of x to floats in their place. */
static inline void bf16_widen(float *x, int64_t n)
{
    const uint16_t *half = (const uint16_t *)x;
    for (int64_t i = n - 1; i >= 0; i--)
        x[i] = bf16_to_float(half[i]);
}

#endif
