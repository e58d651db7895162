/* What the causal skeletons share. Query i sees the keys j <= i of the same tokens. A block takes tiles of
 * TB tokens, queries and keys of both, and has the state S, z of the keys before; with
 * A = phi_q' phi_k where j <= i, and g, gden as in attn_queries_bwd, P = g v' + gden 1' where j <= i,
 *     out = phi_q' S + A v,     den = phi_q' z + A 1,             then S += phi_k v, z += phi_k 1
 *     dphi_q = S g' + z gden + phi_k P'
 *     dphi_k = dS v' + dz + phi_q P,   dv = phi_k' dS + A' g,     then dS += phi_q g, dz += phi_q gden
 * the last line from the last tile to the first. A warp owns 16 rows of W and their state: only what a
 * token needs of all rows goes through shared memory.
 *
 * The log of a row of a key is reduced by the row's reference, that of a query raised by it. References
 * are logs of keys that came before, and no key is above its reference by more than GROWTH, so that
 * nothing overflows or vanishes that a query sees, and nothing that comes out depends on what comes later.
 * A tile is cut into segments to keep it so: a segment raises the references to the logs of its first
 * token, and ends before the first key that is too far above. Most tiles are one segment.
 */
#ifndef CAUSAL_CUH
#define CAUSAL_CUH

#include "backward.cuh"

enum {
    GROWTH = 30,
    FB = LANES * ROWS, /* rows of state of a block */
    LDP = TB + (KEYS_PASS ? 4 : 8) /* of P, free of bank conflicts as it is read */
};
static_assert(NG * 8 == TB, "a causal kernel takes the tokens of a tile at once");

/* One side of a tile, and hoisted values of it for rows g and g + 8 of the warp's. */
typedef struct causal_side {
    token_tile tile;
    float uni[NUNI], row[2][NROW];
} causal_side;

DEVICE void start_side(causal_side *side, int which, const float *params, float (*norms)[NW], float *s)
{
    load_scalars(params, which, s, side->uni);
    UNROLL
    for (int i = 0; i < 2; i++)
        phi_row(norms[i], side->uni, side->row[i]);
}

/* Projections of the tile's tokens by the warp's rows, rows down. */
DEVICE void project(float (*u)[NG][4], const causal_side *side, const float *w, const float *w_second,
                    int warp_row)
{
    rows_times_tokens(u[0], NG, w, LDX, D8, warp_row, side->tile.x, 0);
    if (NP > 1)
        rows_times_tokens(u[NP - 1], NG, w_second, LDX, D8, warp_row, side->tile.second, 0);
}

/* Column of element i of accumulator j: a token. */
DEVICE int column_of(int j, int i)
{
    return 8 * j + 2 * (THREAD % 4) + i % 2;
}

DEVICE void feature_at(const causal_side *side, float (*u)[NG][4], int j, int i, float *projections,
                       float *tok, float *logs, float *signs)
{
    const float *from = side->tile.tok + column_of(j, i) * NTOK;
    UNROLL
    for (int k = 0; k < NTOK; k++)
        tok[k] = shared_load(from + k);
    UNROLL
    for (int k = 0; k < NP; k++)
        projections[k] = u[k][j][i];
    phi(projections, side->row[i / 2], side->uni, tok, logs, signs);
}

/* Segments add to the gradients of the projections. */
DEVICE void clear_gradient(tile_gradient *g)
{
    UNROLL
    for (int j = 0; j < NG; j++)
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < NP; k++)
                g->u[k][j][i] = 0;
    clear_sums(g);
}

/* Logs and signs of the keys from token lo on; -inf where there is none, or no row. */
DEVICE void key_logs(const causal_side *side, float (*u)[NG][4], const int *rows_there, int lo,
                     float (*log)[NG][4], float (*sign)[NG][4])
{
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = column_of(j, i);
            const int there = at >= lo && rows_there[i / 2] && shared_load(side->tile.bias + at) == 0;
            float projections[NP], tok[NTOK], logs[LANES], signs[LANES];
            feature_at(side, u, j, i, projections, tok, logs, signs);
            UNROLL
            for (int l = 0; l < LANES; l++) {
                log[l][j][i] = there ? logs[l] : -INFINITY;
                if (SIGNED)
                    sign[l % SIGNS][j][i] = signs[l];
            }
        }
    }
}

/* Raises the references (2) of one lane's rows to the logs of token lo; factor (2): what was summed is to
 * be multiplied by. Returns the first token that has to begin a segment, as far as this thread sees. */
DEVICE int raise_reference(float (*log)[4], int lo, float *ref, float *factor)
{
    int end = TB;
    UNROLL
    for (int row = 0; row < 2; row++) {
        float max = -INFINITY;
        UNROLL
        for (int j = 0; j < NG; j++)
            for (int c = 0; c < 2; c++)
                max = column_of(j, c) == lo ? real_max(max, log[j][2 * row + c]) : max;
        max = real_max(quad_max(max), ref[row]);
        factor[row] = ref[row] == max ? 1 : exp_falling(ref[row] - max);
        ref[row] = max;
        UNROLL
        for (int j = NG - 1; j >= 0; j--)
            for (int c = 1; c >= 0; c--)
                if (log[j][2 * row + c] > max + GROWTH)
                    end = column_of(j, c) < end ? column_of(j, c) : end;
    }
    return end;
}

DEVICE int warp_min(int x)
{
    return -(int)warp_max(-(float)x);
}

/* Logs to features; those too far above the reference, of a later segment, to 0. */
DEVICE void key_values(float (*log)[4], float (*sign)[4], const float *ref)
{
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const float max = ref[i / 2], shift = max > -INFINITY ? max : INFINITY;
            const float value = exp_falling(log[j][i] - shift);
            log[j][i] = log[j][i] > max + GROWTH ? 0 : SIGNED ? value * sign[j][i] : value;
        }
    }
}

/* Multiplies the warp's rows of one lane, (16, LDV) in shared memory, by factor (2). */
DEVICE void scale_rows(float *rows, const float *factor)
{
    if (!warp_any(factor[0] != 1 || factor[1] != 1))
        return;
    UNROLL
    for (int n = 0; n < NV8; n++) {
        float c[4];
        load_accumulator(c, rows + 8 * n, LDV);
        UNROLL
        for (int i = 0; i < 4; i++)
            c[i] *= factor[i / 2];
        store_accumulator(c, rows + 8 * n, LDV);
    }
}

/* The warp's rows of one lane, (16, LDV), += features (rows down, tokens across) times rows of planes. */
DEVICE void add_rows(float *rows, float (*feature)[4], const float *planes)
{
    UNROLL
    for (int n = 0; n < NV8; n++) {
        float sum[4];
        load_accumulator(sum, rows + 8 * n, LDV);
        UNROLL
        for (int j = 0; j < NG; j++) {
            left_tile a;
            right_tile b;
            left_accumulator(&a, feature[j]);
            right_planes(&b, planes, TB * LDV, LDV, 8 * j, 8 * n);
            multiply(sum, &a, &b);
        }
        store_accumulator(sum, rows + 8 * n, LDV);
    }
}

/* Right operand: rows `row`.. in the order 0 2 4 6 1 3 5 7 of an array as store_turned writes it, its
 * tokens n.. across. */
DEVICE void right_turned(right_tile *b, const float *from, int row, int n)
{
    const int g = THREAD % 32 / 4, r = row + 2 * (THREAD % 4);
    split(shared_load(from + turned(r, n + g)), &b->high[0], &b->low[0]);
    split(shared_load(from + turned(r + 1, n + g)), &b->high[1], &b->low[1]);
}

/* Right operand: columns k.. of a matrix down, in that order, its rows n.. across. */
DEVICE void right_pairs(right_tile *b, const float *matrix, int ld, int n, int k)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    const float2 x = shared_load2(matrix + (n + g) * ld + k + 2 * t);
    split(x.x, &b->high[0], &b->low[0]);
    split(x.y, &b->high[1], &b->low[1]);
}

/* P (TB, LDP), queries down, from planes of g and v: warps share the pieces. */
DEVICE void gradient_pairs(const float *g_planes, const float *v_planes, const float *gden, float *to)
{
    const int g = THREAD % 32 / 4;
    for (int piece = THREAD / 32; piece < TB / 16 * NG; piece += KW) {
        const int query = piece / NG * 16, key = piece % NG * 8;
        float sum[4] = {0, 0, 0, 0};
        UNROLL
        for (int k = 0; k < DV8; k += 8) {
            left_tile a;
            right_tile b;
            if (key >= query + 16)
                break;
            left_planes(&a, g_planes, TB * LDV, LDV, query, k);
            right_transposed(&b, v_planes, TB * LDV, LDV, key, k);
            multiply(sum, &a, &b);
        }
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = query + g + 8 * (i / 2);
            sum[i] = key + column_of(0, i) <= at ? sum[i] + shared_load(gden + at) : 0;
        }
        store_accumulator(sum, to + query * LDP + key, LDP);
    }
}

/* ---- the state before a split ---- */

/* State of the keys of the first `count` splits, of the block's rows: references (FB), z (FB), S. */
DEVICE void load_prefix(const attn_cuda_args *a, int64_t head, int64_t count, int first, float *ref,
                        float *zsum, float *to)
{
    for (int i = THREAD; i < FB * (DV8 / 4); i += THREADS) {
        const int row = i / (DV8 / 4), c = i % (DV8 / 4) * 4, r = first + row % ROWS;
        const int f = row / ROWS * MP + r;
        const float max = r < M ? parts_max(a, head, count, f) : -INFINITY;
        float4 sum = make_float4(0, 0, 0, 0);
        float z = 0;
        for (int64_t k = 0; k < count && max > -INFINITY; k++) {
            const float *part = a->part + (k * a->B * a->H + head) * STATE;
            const float factor = part_factor(global_load(part + f), max);
            const float4 x = global_load4(part + 2 * F + (int64_t)f * DV8 + c);
            sum = add_scaled(sum, factor, x);
            if (c == 0)
                z += factor * global_load(part + F + f);
        }
        shared_store4(to + row * LDV + c, sum);
        if (c == 0) {
            shared_store(ref + row, max);
            shared_store(zsum + row, z);
        }
    }
}

#endif
