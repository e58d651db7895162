/* The pass over keys, forward. A warp owns 16 rows of W (or ROW_GROUPS times 16): its share of the state
 * stays in registers while the tokens of the split stream by, and features never leave them either, since
 * the accumulator of u = W x is the left operand of S += phi v. The maximum of a feature row grows as
 * larger logs come, and what was summed is rescaled then: exact. */
#ifndef KEYS_CUH
#define KEYS_CUH
#include "forward.cuh"

enum {
    ROWS = 16 * KW * ROW_GROUPS, /* of W, a block */
    ROW_BLOCKS = (M + ROWS - 1) / ROWS,
    /* shared memory, in floats */
    KEYS_W = 0,
    KEYS_W2 = KEYS_W + ROWS * LDX,
    KEYS_X = KEYS_W2 + (NP > 1 ? ROWS * LDX : 0),
    KEYS_X2 = KEYS_X + PARTS * TB * LDX,
    KEYS_V = KEYS_X2 + (NP > 1 ? PARTS * TB * LDX : 0),
    KEYS_TOK = KEYS_V + PARTS * TB * LDV,
    KEYS_BIAS = KEYS_TOK + (TB * NTOK + 3) / 4 * 4,
    KEYS_VECTORS = KEYS_BIAS + 2 * TB,
    KEYS_LINEAR = KEYS_VECTORS + NV * D8,
    KEYS_STAGE_K = KEYS_LINEAR + (LINEAR ? D8 * LDX : 0),
    KEYS_STAGE_V = KEYS_STAGE_K + TB * STAGE_ROW(D) / 4,
    KEYS_END = KEYS_STAGE_V + TB * STAGE_ROW(DV) / 4
};

/* What a warp keeps: of rows g and g + 8 of a group of 16. */
typedef struct key_state {
    float max[LANES][2], z[LANES][2];
    float S[LANES][NV8][4];
} key_state;

/* exp of the logs relative to the raised maxima, times signs, in their place; S and z are rescaled where
 * a maximum grew. */
DEVICE void raise_max(key_state *state, int l, float (*log)[4])
{
    float shift[2], factor[2];
    int grew = 0;
    UNROLL
    for (int row = 0; row < 2; row++) {
        float max = -INFINITY;
        UNROLL
        for (int j = 0; j < NG; j++)
            max = real_max(max, real_max(log[j][2 * row], log[j][2 * row + 1]));
        max = quad_max(max);
        const float old = state->max[l][row];
        grew |= max > old;
        max = real_max(max, old);
        shift[row] = max > -INFINITY ? max : 0;
        factor[row] = exp_falling(old - shift[row]);
        state->max[l][row] = max;
    }
    if (warp_any(grew)) {
        UNROLL
        for (int row = 0; row < 2; row++)
            state->z[l][row] *= factor[row];
        UNROLL
        for (int n = 0; n < NV8; n++)
            for (int i = 0; i < 4; i++)
                state->S[l][n][i] *= factor[i / 2];
    }
    UNROLL
    for (int j = 0; j < NG; j++)
        for (int i = 0; i < 4; i++)
            log[j][i] = exp_falling(log[j][i] - shift[i / 2]);
}

/* One group of 8 NG tokens from `token` of the tile. */
DEVICE void take_tokens(key_state *state, const float *memory, const float *bias, int warp_row,
                       float (*row)[NROW], const float *uni, int token)
{
    float u[NP][NG][4], log[LANES][NG][4], sign[SIGNS][NG][4];
    rows_times_tokens(u[0], NG, memory + KEYS_W, LDX, D8, warp_row, memory + KEYS_X, token);
    if (NP > 1)
        rows_times_tokens(u[NP - 1], NG, memory + KEYS_W2, LDX, D8, warp_row, memory + KEYS_X2, token);
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = token + 8 * j + 2 * (THREAD % 4) + i % 2;
            float tok[NTOK], projections[NP], logs[LANES], signs[LANES];
            for (int k = 0; k < NTOK; k++)
                tok[k] = shared_load(memory + KEYS_TOK + at * NTOK + k);
            for (int k = 0; k < NP; k++)
                projections[k] = u[k][j][i];
            phi(projections, row[i / 2], uni, tok, logs, signs);
            const float there = shared_load(bias + at);
            for (int l = 0; l < LANES; l++) {
                log[l][j][i] = there == 0 ? logs[l] : -INFINITY;
                if (SIGNED)
                    sign[l % SIGNS][j][i] = signs[l];
            }
        }
    }
    UNROLL
    for (int l = 0; l < LANES; l++) {
        raise_max(state, l, log[l]);
        UNROLL
        for (int j = 0; j < NG; j++) {
            left_tile a;
            UNROLL
            for (int i = 0; i < 4; i++) {
                if (SIGNED)
                    log[l][j][i] *= sign[l % SIGNS][j][i];
                state->z[l][i / 2] += log[l][j][i];
            }
            left_accumulator(&a, log[l][j]);
            UNROLL
            for (int n = 0; n < NV8; n++) {
                right_tile b;
                right_planes(&b, memory + KEYS_V, TB * LDV, LDV, token + 8 * j, 8 * n);
                multiply(state->S[l][n], &a, &b);
            }
        }
    }
}

/* The first of the block's rows of W that are the warp's in a group. */
DEVICE int group_row(int group)
{
    return 16 * (THREAD / 32 + KW * group);
}

DEVICE void clear_keys(key_state *state)
{
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            state->max[l][i] = -INFINITY;
            state->z[l][i] = 0;
        }
        UNROLL
        for (int j = 0; j < NV8; j++)
            for (int i = 0; i < 4; i++)
                state->S[l][j][i] = 0;
    }
}

/* Sums of part BLOCK of `splits` of a head's keys, parts of whole `unit`s of tokens: for the block's rows
 * of W from `first`, of which group i of a warp are rows 16 (THREAD / 32 + KW i).., and columns of v
 * from `value`. */
DEVICE void keys_pass(const attn_cuda_args *a, int64_t head, int first, int value, int64_t splits,
                      int unit, float *memory, key_state *state)
{
    byte *stage_k = (byte *)(memory + KEYS_STAGE_K), *stage_v = (byte *)(memory + KEYS_STAGE_V);
    const int64_t b = head / a->H, h = head % a->H;
    const float *params = a->params + head * a->params_stride;
    const int64_t n = a->k_len ? a->k_len[b] : a->S;
    const byte *mask = a->mask ? a->mask + (a->k_begin ? a->k_begin[b] : b * a->S) : 0;
    const head_rows k = rows_of(&a->k, a->k_begin, b, h), v = rows_of(&a->v, a->k_begin, b, h);
    int64_t from, to;
    split_range(n, splits, BLOCK, unit, &from, &to);

    float s[S1], uni[NUNI], row[ROW_GROUPS][2][NROW];
    load_scalars(params, 1, s, uni);
    load_vectors(params, memory + KEYS_VECTORS);
    load_linear(params, 3, memory + KEYS_LINEAR);
    load_matrices(a, head, first, ROWS, memory + KEYS_W);
    if (from < to) {
        stage_rows(&k, from, to, D, stage_k);
        stage_rows(&v, from, to, DV, stage_v);
        mark_tokens(from, to, mask, memory + KEYS_BIAS);
    }
    async_commit();
    block_sync();
    UNROLL
    for (int group = 0; group < ROW_GROUPS; group++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            const int r = group_row(group) + THREAD % 32 / 4 + 8 * i;
            float norms[NW];
            row_norms(a, head, first + r, norms);
            phi_row(norms, uni, row[group][i]);
        }
        clear_keys(&state[group]);
    }
    token_tile tile;
    place_tile(&tile, memory + KEYS_X, memory + KEYS_X2, memory + KEYS_TOK, 0);
    for (int odd = 0; from < to; from += TB, odd ^= 1) {
        tile.bias = memory + KEYS_BIAS + odd * TB;
        async_wait(0);
        block_sync();
        map_tile(stage_k, 1, a->scale, memory + KEYS_VECTORS, memory + KEYS_LINEAR, uni, &tile);
        plain_tile(stage_v, DV, value, VB, LDV, tile.bias, memory + KEYS_V);
        block_sync();
        if (from + TB < to) {
            stage_rows(&k, from + TB, to, D, stage_k);
            stage_rows(&v, from + TB, to, DV, stage_v);
            mark_tokens(from + TB, to, mask, memory + KEYS_BIAS + (odd ^ 1) * TB);
        }
        async_commit();
        NO_UNROLL
        for (int token = 0; token < TB; token += 8 * NG) {
            UNROLL
            for (int group = 0; group < ROW_GROUPS; group++) {
                if (group > 0) /* its operands are not to be loaded before: registers */
                    warp_sync();
                take_tokens(&state[group], memory, tile.bias, group_row(group), row[group], uni,
                            token);
            }
        }
    }
}
#endif
