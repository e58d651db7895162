/* Log and sign of the features of n tokens, one block a token: 32 to 1024 threads, a multiple of
 * 32. For tests and for looking at features; attention itself never writes them to memory. */
#include "stub.cuh"

enum { MAX_D = 256 };

/* Sum over the block, the same in every thread; `part` holds one number a warp. */
DEVICE real block_sum(real x, real *part)
{
    x = warp_sum(x);
    block_sync();
    if (THREAD % 32 == 0)
        part[THREAD / 32] = x;
    block_sync();
    real total = 0;
    for (int i = 0; i < THREADS / 32; i++)
        total += part[i];
    return total;
}

KERNEL features(features_args a)
{
    SHARED real x[MAX_D];
    SHARED real part[32];
    const int D = CD ? CD : a.D, M = CM ? CM : a.M;
    real uni[NUNI], row[NROW], tok[NTOK], logs[LANES], signs[LANES];

    phi_uniform(a.s, uni);
    for (int64_t t = BLOCK; t < a.n; t += BLOCKS) {
        real r2 = 0, x2 = 0;
        for (int i = THREAD; i < D; i += THREADS) {
            real v[NV > 0 ? NV : 1];
            const real raw = a.scale * a.x[t * a.ldx + i];
            for (int k = 0; k < NV; k++)
                v[k] = a.v[k * D + i];
            const real mapped = a.side ? map_k(raw, v) : map_q(raw, v);
            r2 += raw * raw;
            x2 += mapped * mapped;
            x[i] = mapped;
        }
        r2 = block_sum(r2, part);
        x2 = block_sum(x2, part);
        phi_token(x2, r2, uni, tok);
        for (int r = THREAD; r < M; r += THREADS) {
            real u = 0;
            for (int i = 0; i < D; i++)
                u += x[i] * a.w[(int64_t)r * D + i];
            phi_row(a.w2[r], uni, row);
            phi(u, row, uni, tok, logs, signs);
            for (int lane = 0; lane < LANES; lane++) {
                const int64_t at = (t * LANES + lane) * M + r;
                a.log[at] = logs[lane];
                a.sign[at] = SIGNED ? signs[lane] : 1;
            }
        }
        block_sync();
    }
}
