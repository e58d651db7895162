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

/* Coordinate i of token t after the scale and the linear map; r2 gets the square before the map. */
DEVICE real coordinate(const features_cuda_args *a, int D, int64_t t, int i, real *r2)
{
    const real raw = a->scale * a->x[t * a->ldx + i];
    *r2 = raw * raw;
    if (!LINEAR)
        return raw;
    real y = 0;
    for (int j = 0; j < D; j++)
        y += a->linear[i * D + j] * (a->scale * a->x[t * a->ldx + j]);
    return y;
}

/* Norm k of row r of W beyond |w|^2. */
DEVICE real row_norm(const features_cuda_args *a, int D, int M, int r, int k)
{
    const int slot = k == 1 ? NORM1 : NORM2;
    if (COUNTS)
        return a->counts[(int64_t)(k - 1) * M + r];
    real sum = 0;
    for (int i = 0; i < D; i++) {
        const real w = a->w[(int64_t)r * D + i];
        sum += w * w * a->v[(slot > 0 ? slot : 0) * D + i];
    }
    return sum;
}

/* Shared memory: 32 + 2 * MAX_D reals. */
KERNEL(features, features_cuda_args, 1024, 1)
{
    SHARED_MEMORY(memory);
    real *part = (real *)memory, *x = part + 32, *second = x + MAX_D;
    const features_cuda_args a = args;
    const int D = CD ? CD : a.D, M = CM ? CM : a.M;
    real s[NS], uni[NUNI], row[NROW], tok[NTOK], logs[LANES], signs[LANES];

    for (int i = 0; i < NS; i++)
        s[i] = i == SIDE ? (real)(a.side ? -1 : 1) : a.s[i];
    phi_uniform(s, uni);
    for (int64_t t = BLOCK; t < a.n; t += BLOCKS) {
        real sums[3] = {0, 0, 0};
        for (int i = THREAD; i < D; i += THREADS) {
            real v[NV > 0 ? NV : 1], raw2;
            const real y = coordinate(&a, D, t, i, &raw2);
            for (int k = 0; k < NV; k++)
                v[k] = a.v[k * D + i];
            x[i] = a.side ? map_k(y, v) : map_q(y, v);
            if (NP > 1)
                second[i] = map2(y, v);
            sums[0] += x[i] * x[i];
            sums[1] += raw2;
            if (SUM)
                sums[2] += token_sum(y, v);
        }
        for (int i = 0; i < 3; i++)
            sums[i] = block_sum(sums[i], part);
        phi_token(sums, uni, tok);
        for (int r = THREAD; r < M; r += THREADS) {
            real u[NP], norms[NW];
            for (int k = 0; k < NP; k++) {
                const real *w = k == 0 ? a.w : a.w_second;
                u[k] = 0;
                for (int i = 0; i < D; i++)
                    u[k] += (k == 0 ? x[i] : second[i]) * w[(int64_t)r * D + i];
            }
            norms[0] = a.w2[r];
            for (int k = 1; k < NW; k++)
                norms[k] = row_norm(&a, D, M, r, k);
            phi_row(norms, uni, row);
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
