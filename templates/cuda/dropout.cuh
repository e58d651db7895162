/* Dropout with the streams of runtime/math/rng.h: the same bits as on the host.
 *
 * Factors are kept as bits: a row of n elements has 16 bytes for every 128 of them, and bit t of
 * byte 16 g + i is that of element 128 g + 16 t + i, so that one block of random words makes one
 * byte, and a 4-byte word has the bits of 4 neighbouring elements.
 */
#ifndef DROPOUT_CUH
#define DROPOUT_CUH

typedef struct philox_block {
    unsigned w[4];
} philox_block;

/* Philox4x32-10 (Salmon et al. 2011). word2, word3: the upper half of the counter. */
DEVICE philox_block philox(const unsigned *seed, unsigned word2, unsigned word3,
                           unsigned long long index)
{
    unsigned a = (unsigned)index, b = (unsigned)(index >> 32), c = word2, d = word3;
    unsigned k0 = seed[0], k1 = seed[1];
    philox_block out;
    UNROLL
    for (int round = 0; round < 10; round++) {
        const unsigned long long p = (unsigned long long)a * 0xD2511F53u;
        const unsigned long long q = (unsigned long long)c * 0xCD9E8D57u;
        a = (unsigned)(q >> 32) ^ b ^ k0;
        b = (unsigned)q;
        c = (unsigned)(p >> 32) ^ d ^ k1;
        d = (unsigned)p;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out.w[0] = a;
    out.w[1] = b;
    out.w[2] = c;
    out.w[3] = d;
    return out;
}

/* Block of a stream that element e of dropout comes from, and the 16 bits of it. */
DEVICE unsigned long long dropout_block(unsigned long long e)
{
    return e / 128 * 16 + e % 16;
}

DEVICE unsigned dropout_bits(const philox_block *x, unsigned long long e)
{
    const int k = (int)(e / 16 % 4);
    const unsigned low = k & 1 ? x->w[1] : x->w[0], high = k & 1 ? x->w[3] : x->w[2];
    const unsigned word = k & 2 ? high : low;
    return e % 128 < 64 ? word & 0xffffu : word >> 16;
}

/* Factor of element j of a row of bits; NULL: 1. */
DEVICE real keep_at(const byte *row, int64_t j, real factor)
{
    if (!row)
        return 1;
    const int at = (int)(j % 128);
    const unsigned bits = global_load_byte(row + j / 128 * 16 + at % 16);
    return bits >> at / 16 & 1 ? factor : 0;
}

/* Those of elements j .. j + 3, j a multiple of 4. */
DEVICE void keep_four(real *keep, const byte *row, int64_t j, real factor)
{
    const int at = (int)(j % 128);
    const unsigned bits =
        row ? as_bits(global_load((const real *)(row + j / 128 * 16 + at % 16))) >> at / 16 : 0;
    UNROLL
    for (int i = 0; i < 4; i++)
        keep[i] = !row ? 1 : bits >> 8 * i & 1 ? factor : 0;
}
#endif
