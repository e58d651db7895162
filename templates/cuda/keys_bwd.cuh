/* The pass over keys, backward. With the queries' dS~ = [dS, dz]: dphi = dS~ [v, 1] and dv = dS' phi. */
#ifndef KEYS_BWD_CUH
#define KEYS_BWD_CUH
#include "backward.cuh"

enum {
    KEYS_KEPT = 0,
    KEYS_W = 4 * KEPT_ROWS,
    KEYS_W2 = KEYS_W + ROWS * LDX,
    KEYS_DS = KEYS_W2 + (NP > 1 ? ROWS * LDX : 0),
    KEYS_X = KEYS_DS + LANES * ROWS * LDV,
    KEYS_X2 = KEYS_X + PARTS * TB * LDX,
    KEYS_V = KEYS_X2 + (NP > 1 ? PARTS * TB * LDX : 0),
    KEYS_GX = KEYS_X, /* once the planes are used up */
    KEYS_GX2 = KEYS_X2,
    KEYS_GV = KEYS_V,
    KEYS_DU = KEYS_V + PARTS * TB * LDV,
    KEYS_DU2 = KEYS_DU + ROWS * TB,
    KEYS_PHI = KEYS_DU2 + (NP > 1 ? ROWS * TB : 0),
    KEYS_SUMS = KEYS_PHI + LANES * ROWS * TB,
    KEYS_TOK = KEYS_SUMS + KW * SUMS * TB,
    KEYS_T = KEYS_TOK + (TB * NTOK + 3) / 4 * 4,
    KEYS_BIAS = KEYS_T + (LEARN ? (TB * TOKEN + 3) / 4 * 4 : 0),
    KEYS_VECTORS = KEYS_BIAS + 2 * TB,
    KEYS_LINEAR = KEYS_VECTORS + NV * D8,
    KEYS_TRANSPOSED = KEYS_LINEAR + (LINEAR ? D8 * LDX : 0),
    KEYS_DW = KEYS_TRANSPOSED + (LINEAR ? D8 * LDX : 0),
    KEYS_STAGES = KEYS_DW + (LEARN ? ROWS * LDX : 0),
    KEYS_STAGE_K = TB * STAGE_ROW(D), /* bytes */
    KEYS_STAGE = KEYS_STAGE_K + TB * STAGE_ROW(DV),
    KEYS_END = KEYS_STAGES + 2 * KEYS_STAGE / 4
};

/* What a lane keeps of its rows g and g + 8. */
typedef struct key_rows {
    float row[2][NROW], norms[2][NW], shift[LANES][2], dz[LANES][2];
    parameter_sums parameters;
} key_rows;

/* All but dz. */
DEVICE void start_key_rows(const attn_cuda_args *a, int64_t head, int first, const float *uni,
                           key_rows *rows)
{
    const float *state = a->state + head * STATE;
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int r = first + THREAD % 32 / 4 + 8 * i;
        row_norms(a, head, r, rows->norms[i]);
        phi_row(rows->norms[i], uni, rows->row[i]);
        UNROLL
        for (int l = 0; l < LANES; l++) {
            const float max = r < M ? global_load(state + l * MP + r) : -INFINITY;
            rows->shift[l][i] = max > -INFINITY ? max : INFINITY;
        }
    }
    clear_parameters(&rows->parameters);
}

/* One group of 8 NG tokens from `token` of the tile. */
DEVICE void take_keys(key_rows *rows, float *memory, const float *bias, int warp_row, const float *s,
                      const float *uni, int token)
{
    float dphi[LANES][NG][4];
    tile_gradient gradient;
    float (*u)[NG][4] = gradient.u; /* projections first */
    const gradient_places places = {memory + KEYS_DU, memory + KEYS_DU2, memory + KEYS_SUMS,
                                    memory + KEYS_DW, memory + KEYS_X,   memory + KEYS_X2};
    rows_times_tokens(u[0], NG, memory + KEYS_W, LDX, D8, warp_row, memory + KEYS_X, token);
    if (NP > 1)
        rows_times_tokens(u[NP - 1], NG, memory + KEYS_W2, LDX, D8, warp_row, memory + KEYS_X2, token);
    UNROLL
    for (int l = 0; l < LANES; l++)
        rows_times_tokens(dphi[l], NG, memory + KEYS_DS, LDV, DV8, l * ROWS + warp_row, memory + KEYS_V,
                          token);
    clear_sums(&gradient);
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = token + 8 * j + 2 * (THREAD % 4) + i % 2, row = i / 2;
            const int there = shared_load(bias + at) == 0;
            float tok[NTOK], projections[NP], logs[LANES], signs[LANES], value[LANES], d[LANES];
            float gu[NP];
            for (int k = 0; k < NTOK; k++)
                tok[k] = shared_load(memory + KEYS_TOK + at * NTOK + k);
            for (int k = 0; k < NP; k++)
                projections[k] = u[k][j][i];
            phi(projections, rows->row[row], uni, tok, logs, signs);
            for (int l = 0; l < LANES; l++) {
                value[l] = there ? exp_falling(logs[l] - rows->shift[l][row]) : 0;
                d[l] = dphi[l][j][i] + rows->dz[l][row];
                dphi[l][j][i] = SIGNED ? value[l] * signs[l] : value[l];
            }
            feature_gradient(projections, rows->norms[row], s, rows->row[row], uni, tok,
                             memory + KEYS_T + at * TOKEN, d, value, signs, j, i, gu, &gradient,
                             &rows->parameters);
            for (int k = 0; k < NP; k++)
                u[k][j][i] = gu[k];
        }
    }
    store_tile_gradient(&gradient, &places, warp_row, token);
    UNROLL
    for (int j = 0; j < NG; j++)
        for (int l = 0; l < LANES; l++)
            store_turned(memory + KEYS_PHI + l * ROWS * TB, warp_row, token + 8 * j, dphi[l][j]);
}

/* (TB, LDV) gradients of values to rows from.. of `to` or to the block's part (rows, DV). */
DEVICE void store_values(const float *gv, const head_rows *to, float *part, int64_t from, int64_t end)
{
    const int each = (DV + 3) / 4;
    for (int i = THREAD; i < TB * each; i += THREADS) {
        const int token = i / each, c = i % each * 4;
        const float4 x = shared_load4(gv + token * LDV + c);
        const float four[4] = {x.x, x.y, x.z, x.w};
        if (from + token < end)
            store_four(to, part, from + token, c, DV, four);
    }
}

/* Part BLOCK of `splits` of a head's keys, for the block's rows of W from `first`. dz is in `rows`, dS in
 * shared memory; there: W as well. */
DEVICE void keys_pass(const attn_cuda_args *a, int64_t head, int first, int64_t splits, int there,
                      float *memory, key_rows *rows)
{
    byte *stages = (byte *)(memory + KEYS_STAGES);
    const int64_t b = head / a->H, h = head % a->H, heads = a->B * a->H;
    const int warp_row = THREAD / 32 * 16;
    const float *params = a->params + head * a->params_stride;
    const int64_t n = a->k_len ? a->k_len[b] : a->S;
    const byte *mask = a->mask ? a->mask + (a->k_begin ? a->k_begin[b] : b * a->S) : 0;
    const head_rows k = rows_of(&a->k, a->k_begin, b, h), v = rows_of(&a->v, a->k_begin, b, h),
                    gk = rows_of(&a->gk, a->k_begin, b, h),
                    gv = rows_of(&a->gv, a->k_begin, b, h);
    float *part_k = a->gk_part + (BLOCK_Z * heads + head) * a->S * D;
    float *part_v = a->gv_part + (BLOCK_Z * heads + head) * a->S * DV;
    int64_t from, to;
    split_range(n, splits, BLOCK, TB, &from, &to);

    float s[S1], uni[NUNI];
    load_scalars(params, 1, s, uni);
    load_vectors(params, memory + KEYS_VECTORS);
    load_linear(params, 3, memory + KEYS_LINEAR);
    load_linear(params, 2, memory + KEYS_TRANSPOSED);
    if (!there)
        load_matrices(a, head, first, ROWS, memory + KEYS_W);
    for (int i = THREAD; LEARN && i < ROWS * LDX; i += THREADS)
        shared_store(memory + KEYS_DW + i, 0);
    start_key_rows(a, head, first + warp_row, uni, rows);
    if (from < to) {
        stage_rows(&k, from, to, D, stages);
        stage_rows(&v, from, to, DV, stages + KEYS_STAGE_K);
        mark_tokens(from, to, mask, memory + KEYS_BIAS);
    }
    async_commit();
    float *kept = memory + KEYS_KEPT;
    keep_rows(kept, &a->k, &k);
    keep_rows(kept + KEPT_ROWS, &a->v, &v);
    keep_rows(kept + 2 * KEPT_ROWS, &a->gk, &gk);
    keep_rows(kept + 3 * KEPT_ROWS, &a->gv, &gv);
    token_tile tile;
    place_tile(&tile, memory + KEYS_X, memory + KEYS_X2, memory + KEYS_TOK,
               LEARN ? memory + KEYS_T : 0);
    for (int odd = 0; from < to; from += TB, odd ^= 1) {
        byte *stage = stages + odd * KEYS_STAGE, *next = stages + (odd ^ 1) * KEYS_STAGE;
        tile.bias = memory + KEYS_BIAS + odd * TB;
        async_wait(0);
        block_sync();
        if (from + TB < to) {
            const head_rows k_next = kept_rows(kept, &a->k), v_next = kept_rows(kept + KEPT_ROWS, &a->v);
            stage_rows(&k_next, from + TB, to, D, next);
            stage_rows(&v_next, from + TB, to, DV, next + KEYS_STAGE_K);
            mark_tokens(from + TB, to, mask, memory + KEYS_BIAS + (odd ^ 1) * TB);
        }
        async_commit();
        map_tile(stage, 1, a->scale, memory + KEYS_VECTORS, memory + KEYS_LINEAR, uni, &tile);
        plain_tile(stage + KEYS_STAGE_K, DV, 0, DV8, LDV, tile.bias, memory + KEYS_V);
        block_sync();
        NO_UNROLL
        for (int token = 0; token < TB; token += 8 * NG)
            take_keys(rows, memory, tile.bias, warp_row, s, uni, token);
        block_sync();
        mapped_gradients(memory + KEYS_DU, memory + KEYS_W, memory + KEYS_GX);
        tokens_from_rows(memory + KEYS_PHI, memory + KEYS_DS, LANES * ROWS, LDV, DV8, memory + KEYS_GV);
        block_sync();
        const head_rows gk_now = kept_rows(kept + 2 * KEPT_ROWS, &a->gk),
                        gv_now = kept_rows(kept + 3 * KEPT_ROWS, &a->gv);
        store_gradients(1, stage, a->scale, memory + KEYS_VECTORS, memory + KEYS_LINEAR,
                        memory + KEYS_TRANSPOSED, memory + KEYS_GX, memory + KEYS_GX2, memory + KEYS_SUMS,
                        tile.bias, &gk_now, part_k, from, to);
        store_values(memory + KEYS_GV, &gv_now, part_v, from, to);
    }
    if (LEARN) {
        block_sync();
        store_parameters(a, head, first, warp_row, memory + KEYS_DW, memory + KEYS_SUMS, &rows->parameters, a->dscalars_k, a->dw_k);
    }
}
#endif
