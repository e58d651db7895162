/* The pass over queries, backward. With g = [go / den, -(go.o) / den] and S~ = [S, z]: dphi = S~ g and
 * dS~ += phi g', features computed again. The query's maximum is the forward's, so a warp needs to know
 * nothing of the others' rows. */
#ifndef QUERIES_BWD_CUH
#define QUERIES_BWD_CUH
#include "backward.cuh"

enum {
    IN_REGISTERS = LANES * NV8 <= 8, /* sums of dS, maxima and z; else in shared memory */
    HELD = IN_REGISTERS ? LANES : 1,
    KEPT = IN_REGISTERS ? NV8 : 1,
    QUERIES_KEPT = 0,
    QUERIES_W = 4 * KEPT_ROWS,
    QUERIES_W2 = QUERIES_W + ROWS * LDX,
    QUERIES_S = QUERIES_W2 + (NP > 1 ? ROWS * LDX : 0),
    QUERIES_DS = QUERIES_S + LANES * ROWS * LDV,
    QUERIES_MAX = QUERIES_DS + (IN_REGISTERS ? 0 : LANES * ROWS * LDV),
    QUERIES_Z = QUERIES_MAX + (IN_REGISTERS ? 0 : LANES * ROWS),
    QUERIES_X = QUERIES_Z + (IN_REGISTERS ? 0 : LANES * ROWS),
    QUERIES_X2 = QUERIES_X + PARTS * TB * LDX,
    QUERIES_G = QUERIES_X2 + (NP > 1 ? PARTS * TB * LDX : 0),
    QUERIES_GX = QUERIES_X, /* once the planes are used up */
    QUERIES_GX2 = QUERIES_X2,
    QUERIES_DU = QUERIES_G + PARTS * TB * LDV,
    QUERIES_DU2 = QUERIES_DU + ROWS * TB,
    QUERIES_SUMS = QUERIES_DU2 + (NP > 1 ? ROWS * TB : 0),
    QUERIES_GDEN = QUERIES_SUMS + KW * SUMS * TB,
    QUERIES_TOP = QUERIES_GDEN + TB,
    QUERIES_TOK = QUERIES_TOP + TB,
    QUERIES_T = QUERIES_TOK + (TB * NTOK + 3) / 4 * 4,
    QUERIES_BIAS = QUERIES_T + (LEARN ? (TB * TOKEN + 3) / 4 * 4 : 0),
    QUERIES_VECTORS = QUERIES_BIAS + 2 * TB,
    QUERIES_LINEAR = QUERIES_VECTORS + NV * D8,
    QUERIES_TRANSPOSED = QUERIES_LINEAR + (LINEAR ? D8 * LDX : 0),
    QUERIES_DW = QUERIES_TRANSPOSED + (LINEAR ? D8 * LDX : 0),
    QUERIES_STAGES = QUERIES_DW + (LEARN ? ROWS * LDX : 0),
    QUERIES_STAGE_Q = TB * STAGE_ROW(D), /* bytes */
    QUERIES_STAGE_O = TB * STAGE_ROW(DV),
    QUERIES_STAGE = QUERIES_STAGE_Q + 2 * QUERIES_STAGE_O,
    QUERIES_END = QUERIES_STAGES + 2 * QUERIES_STAGE / 4
};

/* What a lane keeps of its rows g and g + 8. */
typedef struct query_rows {
    float row[2][NROW], norms[2][NW], max[HELD][2], z[HELD][2], dz[LANES][2];
    float dS[LANES][KEPT][4];
    parameter_sums parameters;
} query_rows;

/* The maximum and z of row r of the state's lane l; beyond M none. */
DEVICE float state_max(const float *state, int l, int r)
{
    return r < M ? global_load(state + l * MP + r) : -INFINITY;
}

DEVICE float state_z(const float *state, int l, int r)
{
    return r < M ? global_load(state + F + l * MP + r) : 0;
}

DEVICE void start_query_rows(const attn_cuda_args *a, int64_t head, int first, const float *uni,
                             query_rows *rows)
{
    const float *state = a->state + head * STATE;
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int r = first + THREAD % 32 / 4 + 8 * i;
        row_norms(a, head, r, rows->norms[i]);
        phi_row(rows->norms[i], uni, rows->row[i]);
        UNROLL
        for (int l = 0; l < LANES; l++) {
            if (IN_REGISTERS) {
                rows->max[l % HELD][i] = state_max(state, l, r);
                rows->z[l % HELD][i] = state_z(state, l, r);
            }
            rows->dz[l][i] = 0;
        }
    }
    clear_parameters(&rows->parameters);
    UNROLL
    for (int l = 0; l < LANES; l++)
        for (int n = 0; n < KEPT; n++)
            for (int i = 0; i < 4; i++)
                rows->dS[l][n][i] = 0;
}

/* S of the block's rows of W, (LANES, ROWS, LDV), and zeros for its gradient; maxima and z (LANES, ROWS)
 * where registers do not hold them. */
DEVICE void load_state(const attn_cuda_args *a, int64_t head, int first, float *memory)
{
    const float *state = a->state + head * STATE, *S = state + 2 * F;
    for (int i = THREAD; !IN_REGISTERS && i < LANES * ROWS; i += THREADS) {
        shared_store(memory + QUERIES_MAX + i, state_max(state, i / ROWS, first + i % ROWS));
        shared_store(memory + QUERIES_Z + i, state_z(state, i / ROWS, first + i % ROWS));
    }
    for (int i = THREAD; i < LANES * ROWS * (DV8 / 4); i += THREADS) {
        const int row = i / (DV8 / 4), c = i % (DV8 / 4) * 4, r = first + row % ROWS;
        const float4 x = r < M ? global_load4(S + (int64_t)(row / ROWS * MP + r) * DV8 + c)
                               : make_float4(0, 0, 0, 0);
        shared_store4(memory + QUERIES_S + row * LDV + c, x);
        if (!IN_REGISTERS)
            shared_store4(memory + QUERIES_DS + row * LDV + c, make_float4(0, 0, 0, 0));
    }
    for (int i = THREAD; LEARN && i < ROWS * LDX; i += THREADS)
        shared_store(memory + QUERIES_DW + i, 0);
}

/* dS of the warp's rows += phi' g, of one lane. */
DEVICE void add_state(query_rows *rows, float *memory, int l, int warp_row, float (*feature)[4],
                      int token)
{
    if (IN_REGISTERS)
        add_held(rows->dS[l], feature, NG, memory + QUERIES_G, token);
    else
        add_rows(memory + QUERIES_DS + (l * ROWS + warp_row) * LDV, feature, NG, memory + QUERIES_G, token);
}

/* One group of 8 NG tokens from `token` of the tile. */
DEVICE void take_queries(query_rows *rows, float *memory, const float *bias, int warp_row,
                       const float *s, const float *uni, int token)
{
    float dphi[LANES][NG][4];
    tile_gradient gradient;
    float (*u)[NG][4] = gradient.u; /* projections first */
    const gradient_places places = {memory + QUERIES_DU, memory + QUERIES_DU2, memory + QUERIES_SUMS,
                                    memory + QUERIES_DW, memory + QUERIES_X,   memory + QUERIES_X2};
    rows_times_tokens(u[0], NG, memory + QUERIES_W, LDX, D8, warp_row, memory + QUERIES_X, token);
    if (NP > 1)
        rows_times_tokens(u[NP - 1], NG, memory + QUERIES_W2, LDX, D8, warp_row, memory + QUERIES_X2, token);
    UNROLL
    for (int l = 0; l < LANES; l++) {
        rows_times_tokens(dphi[l], NG, memory + QUERIES_S, LDV, DV8, l * ROWS + warp_row, memory + QUERIES_G,
                          token);
        if (!IN_REGISTERS) /* later lanes' operands are not to be loaded now: registers */
            warp_sync();
    }
    clear_sums(&gradient);
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = token + 8 * j + 2 * (THREAD % 4) + i % 2, row = i / 2;
            const int there = shared_load(bias + at) == 0;
            const float gden = shared_load(memory + QUERIES_GDEN + at), top = shared_load(memory + QUERIES_TOP + at);
            float tok[NTOK], projections[NP], logs[LANES], signs[LANES], value[LANES], d[LANES];
            float gu[NP];
            for (int k = 0; k < NTOK; k++)
                tok[k] = shared_load(memory + QUERIES_TOK + at * NTOK + k);
            for (int k = 0; k < NP; k++)
                projections[k] = u[k][j][i];
            phi(projections, rows->row[row], uni, tok, logs, signs);
            for (int l = 0; l < LANES; l++) {
                const int r = l * ROWS + warp_row + THREAD % 32 / 4 + 8 * row;
                const float max =
                    IN_REGISTERS ? rows->max[l % HELD][row] : shared_load(memory + QUERIES_MAX + r);
                const float z = IN_REGISTERS ? rows->z[l % HELD][row] : shared_load(memory + QUERIES_Z + r);
                value[l] = there ? exp_falling(logs[l] + max - top) : 0;
                d[l] = dphi[l][j][i] + z * gden;
                dphi[l][j][i] = SIGNED ? value[l] * signs[l] : value[l];
                rows->dz[l][row] += dphi[l][j][i] * gden;
            }
            feature_gradient(projections, rows->norms[row], s, rows->row[row], uni, tok,
                             memory + QUERIES_T + at * TOKEN, d, value, signs, j, i, gu, &gradient,
                             &rows->parameters);
            for (int k = 0; k < NP; k++)
                u[k][j][i] = gu[k];
            if (!IN_REGISTERS)
                warp_sync();
        }
    }
    UNROLL
    for (int l = 0; l < LANES; l++) {
        add_state(rows, memory, l, warp_row, dphi[l], token);
        if (!IN_REGISTERS)
            warp_sync();
    }
    store_tile_gradient(&gradient, &places, warp_row, token);
}

/* The warp's share of the state's gradient. */
DEVICE void store_state(query_rows *rows, const float *memory, int first, int warp_row, float *to)
{
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            const int r = first + warp_row + THREAD % 32 / 4 + 8 * i;
            const float dz = quad_sum(rows->dz[l][i]);
            if (THREAD % 4 == 0 && r < MP)
                global_store(to + l * MP + r, r < M ? dz : 0);
        }
        const int r = first + warp_row + pair_row();
        UNROLL
        for (int n = 0; n < NV8; n++) {
            float four[4];
            const int c = 8 * n + pair_column();
            if (IN_REGISTERS) {
                exchange_pairs(rows->dS[l][n % KEPT], four);
            } else {
                const float *at = memory + QUERIES_DS + (l * ROWS + warp_row + pair_row()) * LDV + c;
                const float4 x = shared_load4(at);
                four[0] = x.x, four[1] = x.y, four[2] = x.z, four[3] = x.w;
            }
            if (r < MP)
                global_store4(to + F + (int64_t)(l * MP + r) * DV8 + c,
                              make_float4(four[0], four[1], four[2], four[3]));
        }
    }
}

/* Part BLOCK of `splits` of a head's queries, for the block's rows of W from `first`: the sums are left in
 * `rows` and, where there are too many, in shared memory, which others are done with. */
DEVICE void queries_pass(const attn_cuda_args *a, int64_t head, int first, int64_t splits, float *memory,
                         query_rows *rows)
{
    byte *stages = (byte *)(memory + QUERIES_STAGES);
    const int64_t b = head / a->H, h = head % a->H, heads = a->B * a->H;
    const int warp_row = THREAD / 32 * 16;
    const float *params = a->params + head * a->params_stride;
    const int64_t n = a->q_len ? a->q_len[b] : a->T;
    const int64_t den_row = h * a->den_rows + (a->q_begin ? a->q_begin[b] : b * a->T);
    const head_rows q = rows_of(&a->q, a->q_begin, b, h), o = rows_of(&a->o, a->q_begin, b, h),
                    go = rows_of(&a->go, a->q_begin, b, h),
                    gq = rows_of(&a->gq, a->q_begin, b, h);
    float *part = a->gq_part + (BLOCK_Z * heads + head) * a->T * D;
    int64_t from, to;
    split_range(n, splits, BLOCK, TB, &from, &to);

    float s[S1], uni[NUNI];
    load_scalars(params, 0, s, uni);
    load_vectors(params, memory + QUERIES_VECTORS);
    load_linear(params, 1, memory + QUERIES_LINEAR);
    load_linear(params, 0, memory + QUERIES_TRANSPOSED);
    load_matrices(a, head, first, ROWS, memory + QUERIES_W);
    load_state(a, head, first, memory);
    start_query_rows(a, head, first + warp_row, uni, rows);
    if (from < to) {
        stage_rows(&q, from, to, D, stages);
        stage_rows(&o, from, to, DV, stages + QUERIES_STAGE_Q);
        stage_rows(&go, from, to, DV, stages + QUERIES_STAGE_Q + QUERIES_STAGE_O);
        mark_tokens(from, to, 0, memory + QUERIES_BIAS);
    }
    async_commit();
    float *kept = memory + QUERIES_KEPT;
    keep_rows(kept, &a->q, &q);
    keep_rows(kept + KEPT_ROWS, &a->o, &o);
    keep_rows(kept + 2 * KEPT_ROWS, &a->go, &go);
    keep_rows(kept + 3 * KEPT_ROWS, &a->gq, &gq);
    token_tile tile;
    place_tile(&tile, memory + QUERIES_X, memory + QUERIES_X2, memory + QUERIES_TOK,
               LEARN ? memory + QUERIES_T : 0);
    for (int odd = 0; from < to; from += TB, odd ^= 1) {
        byte *stage = stages + odd * QUERIES_STAGE, *next = stages + (odd ^ 1) * QUERIES_STAGE;
        tile.bias = memory + QUERIES_BIAS + odd * TB;
        async_wait(0);
        block_sync();
        if (from + TB < to) {
            const head_rows q_next = kept_rows(kept, &a->q), o_next = kept_rows(kept + KEPT_ROWS, &a->o),
                            go_next = kept_rows(kept + 2 * KEPT_ROWS, &a->go);
            stage_rows(&q_next, from + TB, to, D, next);
            stage_rows(&o_next, from + TB, to, DV, next + QUERIES_STAGE_Q);
            stage_rows(&go_next, from + TB, to, DV, next + QUERIES_STAGE_Q + QUERIES_STAGE_O);
            mark_tokens(from + TB, to, 0, memory + QUERIES_BIAS + (odd ^ 1) * TB);
        }
        async_commit();
        map_tile(stage, 0, a->scale, memory + QUERIES_VECTORS, memory + QUERIES_LINEAR, uni, &tile);
        token_gradients(a, stage + QUERIES_STAGE_Q + QUERIES_STAGE_O, stage + QUERIES_STAGE_Q, 0, den_row, from,
                        tile.bias, memory + QUERIES_G, memory + QUERIES_GDEN, memory + QUERIES_TOP);
        block_sync();
        NO_UNROLL
        for (int token = 0; token < TB; token += 8 * NG)
            take_queries(rows, memory, tile.bias, warp_row, s, uni, token);
        block_sync();
        mapped_gradients(memory + QUERIES_DU, memory + QUERIES_W, memory + QUERIES_GX);
        block_sync();
        const head_rows gq_now = kept_rows(kept + 3 * KEPT_ROWS, &a->gq);
        store_gradients(0, stage, a->scale, memory + QUERIES_VECTORS, memory + QUERIES_LINEAR,
                        memory + QUERIES_TRANSPOSED, memory + QUERIES_GX, memory + QUERIES_GX2, memory + QUERIES_SUMS,
                        tile.bias, &gq_now, part, from, to);
    }
    block_sync();
    if (LEARN)
        store_parameters(a, head, first, warp_row, memory + QUERIES_DW, memory + QUERIES_SUMS, &rows->parameters, a->dscalars, a->dw);
}
#endif
