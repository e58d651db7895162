/* Linear attention, forward, queries: blocks (splits of the queries, heads, value blocks) of KW warps,
 * each warp 16 tokens of a tile. The state's parts are merged here, in the order of the splits, while
 * they are loaded, CHUNK rows of W at a time; the first block of a head leaves the merged state for the
 * backward. A query's maximum is raised as chunks go by, as in keys. */
#include "stub.cuh"

#include "tile.cuh"

enum {
    CHUNKS = (MP + CHUNK - 1) / CHUNK,
    FC = LANES * CHUNK, /* rows of state a chunk */
    LDV = VB + 4,
    NV8 = VB / 8,
    AT_W = 0,
    AT_W2 = AT_W + CHUNK * LDX,
    AT_S = AT_W2 + (NP > 1 ? CHUNK * LDX : 0),
    AT_MAX = AT_S + FC * LDV,
    AT_Z = AT_MAX + FC,
    AT_ROW = AT_Z + FC,
    AT_X = AT_ROW + (CHUNK * NROW + 3) / 4 * 4,
    AT_X2 = AT_X + PARTS * TB * LDX,
    AT_TOK = AT_X2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_BIAS = AT_TOK + (TB * NTOK + 3) / 4 * 4,
    AT_VECTORS = AT_BIAS + 2 * TB,
    AT_LINEAR = AT_VECTORS + NV * D8,
    AT_STAGE = AT_LINEAR + (LINEAR ? D8 * LDX : 0),
    AT_END = AT_STAGE + TB * STAGE_ROW(D) / 4
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_queries");

/* What a warp keeps of its tokens g and g + 8. */
typedef struct query_state {
    float top[2], den[2], o[NV8][4];
} query_state;

/* Row f of the state, merged: its maximum, and the weight its parts are multiplied by, which is that of
 * the row of W. */
DEVICE float merged_max(const float *part, int64_t splits, int64_t stride, int f)
{
    float max = -INFINITY;
    for (int64_t i = 0; i < splits; i++)
        max = real_max(max, global_load(part + i * stride + f));
    return max;
}

DEVICE float part_factor(const float *part, int64_t stride, int64_t i, int f, float max)
{
    return max > -INFINITY ? exp_falling(global_load(part + i * stride + f) - max) : 0;
}

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
        float sum[4] = {0, 0, 0, 0}, z = 0, max = -INFINITY;
        if (r < MP && value + c < DV8) {
            const float weight = a->row_weight && r < M ? global_load(a->row_weight + r) : 1;
            max = merged_max(part, a->k_splits, stride, f);
            for (int64_t split = 0; split < a->k_splits; split++) {
                const float factor = weight * part_factor(part, stride, split, f, max);
                const float *from = part + split * stride;
                const float4 S = global_load4(from + 2 * F + (int64_t)f * DV8 + value + c);
                sum[0] += factor * S.x;
                sum[1] += factor * S.y;
                sum[2] += factor * S.z;
                sum[3] += factor * S.w;
                if (c == 0)
                    z += factor * global_load(from + F + f);
            }
            if (keep)
                global_store4(keep + 2 * F + (int64_t)f * DV8 + value + c,
                              make_float4(sum[0], sum[1], sum[2], sum[3]));
            if (keep && c == 0 && value == 0) {
                global_store(keep + f, max);
                global_store(keep + F + f, z);
            }
        }
        if (c == 0) {
            shared_store(memory + AT_MAX + row, max);
            shared_store(memory + AT_Z + row, z);
        }
        shared_store4(memory + AT_S + row * LDV + c, make_float4(sum[0], sum[1], sum[2], sum[3]));
    }
}

/* Rows of W of the chunk, and their hoisted values. */
DEVICE void load_rows(const attn_cuda_args *a, int64_t head, int first, const float *uni, float *memory)
{
    load_matrix(a->w + head * a->w_stride, first, CHUNK, memory + AT_W);
    if (NP > 1)
        load_matrix(second_matrix(a, head), first, CHUNK, memory + AT_W2);
    for (int i = THREAD; i < CHUNK; i += THREADS) {
        float norms[NW], row[NROW];
        row_norms(a, head, first + i, norms);
        phi_row(norms, uni, row);
        for (int k = 0; k < NROW; k++)
            shared_store(memory + AT_ROW + i * NROW + k, row[k]);
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
    tokens_times_rows(u[0], QN, memory + AT_X, memory + AT_W, token, row);
    if (NP > 1)
        tokens_times_rows(u[NP - 1], QN, memory + AT_X2, memory + AT_W2, token, row);
    UNROLL
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < NTOK; k++)
            tok[i][k] = shared_load(memory + AT_TOK + (token + g + 8 * i) * NTOK + k);
    UNROLL
    for (int j = 0; j < QN; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int r = row + 8 * j + 2 * t + i % 2;
            float hoisted[NROW], projections[NP], logs[LANES], signs[LANES];
            for (int k = 0; k < NROW; k++)
                hoisted[k] = shared_load(memory + AT_ROW + r * NROW + k);
            for (int k = 0; k < NP; k++)
                projections[k] = u[k][j][i];
            phi(projections, hoisted, uni, tok[i / 2], logs, signs);
            for (int l = 0; l < LANES; l++) {
                log[l][j][i] = logs[l] + shared_load(memory + AT_MAX + l * CHUNK + r);
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
                state->den[i / 2] += log[l][j][i] * shared_load(memory + AT_Z + f + 2 * t + i % 2);
            }
            left_accumulator(&a, log[l][j]);
            UNROLL
            for (int n = 0; n < NV8; n++) {
                right_tile b;
                right_rows(&b, memory + AT_S, LDV, f, 8 * n);
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

KERNEL(attn_queries, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    byte *stage = (byte *)(memory + AT_STAGE);
    const int64_t head = BLOCK_Y, b = head / args.H, h = head % args.H;
    const int value = (int)BLOCK_Z * VB, warp_token = THREAD / 32 * 16;
    const float *params = args.params + head * args.params_stride;
    const int64_t n = args.q_len ? args.q_len[b] : args.T;
    const int64_t den_row = h * args.den_rows + (args.q_begin ? args.q_begin[b] : b * args.T);
    const head_rows q = rows_of(&args.q, args.q_begin, b, h), o = rows_of(&args.o, args.q_begin, b, h);
    float *keep = BLOCK == 0 && args.state != args.part ? args.state + head * STATE : 0;
    int64_t from, to;
    split_range(n, args.q_splits, BLOCK, TB, &from, &to);

    float s[S1], uni[NUNI];
    load_scalars(params, 0, s, uni);
    load_vectors(params, memory + AT_VECTORS);
    load_linear(params, 1, memory + AT_LINEAR);
    if (from < to) {
        stage_rows(&q, from, to, D, stage);
        mark_tokens(from, to, 0, memory + AT_BIAS);
    }
    async_commit();
    for (int chunk = 0; chunk < CHUNKS && (CHUNKS == 1 || keep); chunk++) {
        load_state(&args, head, chunk * CHUNK, value, memory, keep);
        load_rows(&args, head, chunk * CHUNK, uni, memory);
        if (CHUNKS > 1)
            block_sync();
    }
    token_tile tile;
    tile.x = memory + AT_X;
    tile.second = memory + AT_X2;
    tile.tok = memory + AT_TOK;
    tile.t = 0;
    for (int odd = 0; from < to; from += TB, odd ^= 1) {
        query_state state;
        clear_queries(&state);
        tile.bias = memory + AT_BIAS + odd * TB;
        async_wait(0);
        block_sync();
        map_tile(stage, 0, args.scale, memory + AT_VECTORS, memory + AT_LINEAR, uni, &tile);
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            if (CHUNKS > 1) {
                if (chunk > 0)
                    block_sync();
                load_state(&args, head, chunk * CHUNK, value, memory, 0);
                load_rows(&args, head, chunk * CHUNK, uni, memory);
            }
            block_sync();
            if (chunk == 0) {
                if (from + TB < to) {
                    stage_rows(&q, from + TB, to, D, stage);
                    mark_tokens(from + TB, to, 0, memory + AT_BIAS + (odd ^ 1) * TB);
                }
                async_commit();
            }
            NO_UNROLL
            for (int row = 0; row < CHUNK; row += 8 * QN)
                take_rows(&state, memory, uni, warp_token, row);
        }
        store_queries(&args, &state, &o, from + warp_token, to, value, den_row);
    }
}
