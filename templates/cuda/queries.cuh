/* The pass over queries, forward: each warp 16 tokens of a tile, with CHUNK rows of W and of the state at
 * a time in shared memory. A query's maximum is raised as chunks go by, as in keys.cuh. */
#ifndef QUERIES_CUH
#define QUERIES_CUH
#include "forward.cuh"

enum {
    CHUNKS = (MP + CHUNK - 1) / CHUNK,
    FC = LANES * CHUNK, /* rows of state a chunk */
    QUERIES_W = 0,
    QUERIES_W2 = QUERIES_W + CHUNK * LDX,
    QUERIES_S = QUERIES_W2 + (NP > 1 ? CHUNK * LDX : 0),
    QUERIES_MAX = QUERIES_S + FC * LDV,
    QUERIES_Z = QUERIES_MAX + FC,
    QUERIES_ROW = QUERIES_Z + FC,
    QUERIES_X = QUERIES_ROW + (CHUNK * NROW + 3) / 4 * 4,
    QUERIES_X2 = QUERIES_X + PARTS * TB * LDX,
    QUERIES_TOK = QUERIES_X2 + (NP > 1 ? PARTS * TB * LDX : 0),
    QUERIES_BIAS = QUERIES_TOK + (TB * NTOK + 3) / 4 * 4,
    QUERIES_VECTORS = QUERIES_BIAS + 2 * TB,
    QUERIES_LINEAR = QUERIES_VECTORS + NV * D8,
    QUERIES_STAGE = QUERIES_LINEAR + (LINEAR ? D8 * LDX : 0),
    QUERIES_END = QUERIES_STAGE + TB * STAGE_ROW(D) / 4
};

/* What a warp keeps of its tokens g and g + 8. */
typedef struct query_state {
    float top[2], den[2], o[NV8][4];
} query_state;

/* Rows of state of the chunk from row `first` of W: maxima, z and S, and, for the block that
 * has to, the merged state itself. */
DEVICE void load_state(const attn_cuda_args *a, int64_t head, int first, int value, float *memory,
                       float *keep)
{
    const float *part = a->part + head * STATE;
    const int64_t stride = a->B * a->H * STATE;
    for (int i = THREAD; i < FC * (VB / 4); i += THREADS) {
        const int row = i / (VB / 4), c = i % (VB / 4) * 4, r = first + row % CHUNK;
        const int f = row / CHUNK * MP + r;
        float4 sum = make_float4(0, 0, 0, 0);
        float z = 0, max = -INFINITY;
        if (r < MP && value + c < DV8) {
            const float weight = weight_of(a, r);
            max = parts_max(a, head, a->k_splits, f);
            for (int64_t split = 0; split < a->k_splits; split++) {
                const float *from = part + split * stride;
                const float factor = weight * part_factor(global_load(from + f), max);
                sum = add_scaled(sum, factor, global_load4(from + 2 * F + (int64_t)f * DV8 + value + c));
                if (c == 0)
                    z += factor * global_load(from + F + f);
            }
            if (keep)
                global_store4(keep + 2 * F + (int64_t)f * DV8 + value + c, sum);
            if (keep && c == 0 && value == 0) {
                global_store(keep + f, max);
                global_store(keep + F + f, z);
            }
        }
        if (c == 0) {
            shared_store(memory + QUERIES_MAX + row, max);
            shared_store(memory + QUERIES_Z + row, z);
        }
        shared_store4(memory + QUERIES_S + row * LDV + c, sum);
    }
}

/* Rows of W of the chunk, unless they are there, and their hoisted values. */
DEVICE void load_rows(const attn_cuda_args *a, int64_t head, int first, int there, const float *uni,
                      float *memory)
{
    if (!there)
        load_matrices(a, head, first, CHUNK, memory + QUERIES_W);
    for (int i = THREAD; i < CHUNK; i += THREADS) {
        float norms[NW], row[NROW];
        row_norms(a, head, first + i, norms);
        phi_row(norms, uni, row);
        for (int k = 0; k < NROW; k++)
            shared_store(memory + QUERIES_ROW + i * NROW + k, row[k]);
    }
}

/* Raises the tokens' maxima to those of the logs and rescales what was summed; logs become exp of them
 * relative to the maxima. */
DEVICE void raise_top(query_state *state, float (*log)[QN][4])
{
    UNROLL
    for (int row = 0; row < 2; row++) {
        float max = state->top[row];
        UNROLL
        for (int l = 0; l < LANES; l++)
            for (int j = 0; j < QN; j++)
                max = real_max(max, real_max(log[l][j][2 * row], log[l][j][2 * row + 1]));
        max = quad_max(max);
        const float factor = exp_falling(state->top[row] - max);
        state->top[row] = max;
        state->den[row] *= factor;
        UNROLL
        for (int n = 0; n < NV8; n++) {
            state->o[n][2 * row] *= factor;
            state->o[n][2 * row + 1] *= factor;
        }
    }
    UNROLL
    for (int l = 0; l < LANES; l++)
        for (int j = 0; j < QN; j++)
            for (int i = 0; i < 4; i++)
                log[l][j][i] = exp_falling(log[l][j][i] - state->top[i / 2]);
}

/* 8 QN rows of W from `row` of the chunk. */
DEVICE void take_rows(query_state *state, const float *memory, const float *uni, int token, int row)
{
    const int t = THREAD % 4, g = THREAD % 32 / 4;
    float u[NP][QN][4], log[LANES][QN][4], sign[SIGNS][QN][4], tok[2][NTOK];
    tokens_times_rows(u[0], QN, memory + QUERIES_X, memory + QUERIES_W, token, row);
    if (NP > 1)
        tokens_times_rows(u[NP - 1], QN, memory + QUERIES_X2, memory + QUERIES_W2, token, row);
    UNROLL
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < NTOK; k++)
            tok[i][k] = shared_load(memory + QUERIES_TOK + (token + g + 8 * i) * NTOK + k);
    UNROLL
    for (int j = 0; j < QN; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int r = row + 8 * j + 2 * t + i % 2;
            float hoisted[NROW], projections[NP], logs[LANES], signs[LANES];
            for (int k = 0; k < NROW; k++)
                hoisted[k] = shared_load(memory + QUERIES_ROW + r * NROW + k);
            for (int k = 0; k < NP; k++)
                projections[k] = u[k][j][i];
            phi(projections, hoisted, uni, tok[i / 2], logs, signs);
            for (int l = 0; l < LANES; l++) {
                log[l][j][i] = logs[l] + shared_load(memory + QUERIES_MAX + l * CHUNK + r);
                if (SIGNED)
                    sign[l % SIGNS][j][i] = signs[l];
            }
        }
    }
    raise_top(state, log);
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int j = 0; j < QN; j++) {
            left_tile a;
            const int f = l * CHUNK + row + 8 * j;
            UNROLL
            for (int i = 0; i < 4; i++) {
                if (SIGNED)
                    log[l][j][i] *= sign[l % SIGNS][j][i];
                state->den[i / 2] += log[l][j][i] * shared_load(memory + QUERIES_Z + f + 2 * t + i % 2);
            }
            left_accumulator(&a, log[l][j]);
            UNROLL
            for (int n = 0; n < NV8; n++) {
                right_tile b;
                right_rows(&b, memory + QUERIES_S, LDV, f, 8 * n);
                multiply(state->o[n], &a, &b);
            }
        }
    }
}

/* The warp's 16 tokens: o, and once a token den and top. */
DEVICE void store_queries(const attn_cuda_args *a, query_state *state, const head_rows *o, int64_t token,
                          int64_t to, int value, int64_t den_row)
{
    const int g = THREAD % 32 / 4;
    float inverse[2];
    UNROLL
    for (int i = 0; i < 2; i++) {
        const float den = quad_sum(state->den[i]);
        const int64_t t = token + g + 8 * i;
        inverse[i] = den != 0 ? 1 / den : 0;
        if (THREAD % 4 == 0 && value == 0 && t < to) {
            global_store(a->den + den_row + t, den);
            global_store(a->top + den_row + t, state->top[i]);
        }
    }
    UNROLL
    for (int n = 0; n < NV8; n++) {
        float four[4], scaled[4];
        for (int i = 0; i < 4; i++)
            scaled[i] = state->o[n][i] * inverse[i / 2];
        exchange_pairs(scaled, four);
        const int c = value + 8 * n + pair_column();
        if (token + pair_row() < to && c < DV)
            store_row4(o, token + pair_row(), c, DV, four);
    }
}

DEVICE void clear_queries(query_state *state)
{
    UNROLL
    for (int i = 0; i < 2; i++) {
        state->top[i] = -3.4028234e38f; /* finite: with no key all logs are -inf */
        state->den[i] = 0;
    }
    UNROLL
    for (int j = 0; j < NV8; j++)
        for (int i = 0; i < 4; i++)
            state->o[j][i] = 0;
}

/* Part BLOCK of `splits` of a head's queries, columns of v from `value`. keep: where the merged state
 * goes, NULL: nowhere. there: the merged state and W already lie in shared memory, all rows of them. */
DEVICE void queries_pass(const attn_cuda_args *a, int64_t head, int value, int64_t splits, float *keep,
                         int there, float *memory)
{
    byte *stage = (byte *)(memory + QUERIES_STAGE);
    const int64_t b = head / a->H, h = head % a->H;
    const int warp_token = THREAD / 32 * 16;
    const float *params = a->params + head * a->params_stride;
    const int64_t n = a->q_len ? a->q_len[b] : a->T;
    const int64_t den_row = h * a->den_rows + (a->q_begin ? a->q_begin[b] : b * a->T);
    const head_rows q = rows_of(&a->q, a->q_begin, b, h), o = rows_of(&a->o, a->q_begin, b, h);
    int64_t from, to;
    split_range(n, splits, BLOCK, TB, &from, &to);

    float s[S1], uni[NUNI];
    load_scalars(params, 0, s, uni);
    load_vectors(params, memory + QUERIES_VECTORS);
    load_linear(params, 1, memory + QUERIES_LINEAR);
    if (from < to) {
        stage_rows(&q, from, to, D, stage);
        mark_tokens(from, to, 0, memory + QUERIES_BIAS);
    }
    async_commit();
    for (int chunk = 0; chunk < CHUNKS && (CHUNKS == 1 || keep); chunk++) {
        if (!there)
            load_state(a, head, chunk * CHUNK, value, memory, keep);
        load_rows(a, head, chunk * CHUNK, there, uni, memory);
        if (CHUNKS > 1)
            block_sync();
    }
    token_tile tile;
    place_tile(&tile, memory + QUERIES_X, memory + QUERIES_X2, memory + QUERIES_TOK, 0);
    for (int odd = 0; from < to; from += TB, odd ^= 1) {
        query_state state;
        clear_queries(&state);
        tile.bias = memory + QUERIES_BIAS + odd * TB;
        async_wait(0);
        block_sync();
        map_tile(stage, 0, a->scale, memory + QUERIES_VECTORS, memory + QUERIES_LINEAR, uni, &tile);
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            if (CHUNKS > 1) {
                if (chunk > 0)
                    block_sync();
                load_state(a, head, chunk * CHUNK, value, memory, 0);
                load_rows(a, head, chunk * CHUNK, 0, uni, memory);
            }
            block_sync();
            if (chunk == 0) {
                if (from + TB < to) {
                    stage_rows(&q, from + TB, to, D, stage);
                    mark_tokens(from + TB, to, 0, memory + QUERIES_BIAS + (odd ^ 1) * TB);
                }
                async_commit();
            }
            NO_UNROLL
            for (int row = 0; row < CHUNK; row += 8 * QN)
                take_rows(&state, memory, uni, warp_token, row);
        }
        store_queries(a, &state, &o, from + warp_token, to, value, den_row);
    }
}
#endif
