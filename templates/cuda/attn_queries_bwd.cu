/* Linear attention, backward, queries: blocks (splits of the queries, heads, row blocks) of KW warps.
 * With g = [go / den, -(go.o) / den] and S~ = [S, z]: dphi = S~ g and dS~ += phi g', features computed
 * again. The query's maximum is the forward's, so a warp needs to know nothing of the others' rows. */
#include "stub.cuh"

#include "tile.cuh"

#include "backward.cuh"

enum {
    IN_REGISTERS = LANES * NV8 <= 8, /* sums of dS, maxima and z; else in shared memory */
    HELD = IN_REGISTERS ? LANES : 1,
    KEPT = IN_REGISTERS ? NV8 : 1,
    AT_KEPT = 0,
    AT_W = 4 * KEPT_ROWS,
    AT_W2 = AT_W + ROWS * LDX,
    AT_S = AT_W2 + (NP > 1 ? ROWS * LDX : 0),
    AT_DS = AT_S + LANES * ROWS * LDV,
    AT_MAX = AT_DS + (IN_REGISTERS ? 0 : LANES * ROWS * LDV),
    AT_Z = AT_MAX + (IN_REGISTERS ? 0 : LANES * ROWS),
    AT_X = AT_Z + (IN_REGISTERS ? 0 : LANES * ROWS),
    AT_X2 = AT_X + PARTS * TB * LDX,
    AT_G = AT_X2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_GX = AT_X, /* once the planes are used up */
    AT_GX2 = AT_X2,
    AT_DU = AT_G + PARTS * TB * LDV,
    AT_DU2 = AT_DU + ROWS * TB,
    AT_SUMS = AT_DU2 + (NP > 1 ? ROWS * TB : 0),
    AT_GDEN = AT_SUMS + KW * SUMS * TB,
    AT_TOP = AT_GDEN + TB,
    AT_TOK = AT_TOP + TB,
    AT_T = AT_TOK + (TB * NTOK + 3) / 4 * 4,
    AT_BIAS = AT_T + (LEARN ? (TB * TOKEN + 3) / 4 * 4 : 0),
    AT_VECTORS = AT_BIAS + 2 * TB,
    AT_LINEAR = AT_VECTORS + NV * D8,
    AT_TRANSPOSED = AT_LINEAR + (LINEAR ? D8 * LDX : 0),
    AT_DW = AT_TRANSPOSED + (LINEAR ? D8 * LDX : 0),
    AT_STAGES = AT_DW + (LEARN ? ROWS * LDX : 0),
    STAGE_Q = TB * STAGE_ROW(D), /* bytes */
    STAGE_O = TB * STAGE_ROW(DV),
    STAGE = STAGE_Q + 2 * STAGE_O,
    AT_END = AT_STAGES + 2 * STAGE / 4
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_queries_bwd");

/* What a lane keeps of its rows g and g + 8. */
typedef struct query_rows {
    float row[2][NROW], norms[2][NW], max[HELD][2], z[HELD][2], dz[LANES][2];
    float dS[LANES][KEPT][4];
    float gs[S1], gw[2][NW];
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

DEVICE void start_rows(const attn_cuda_args *a, int64_t head, int first, const float *uni,
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
        UNROLL
        for (int k = 0; k < NW; k++)
            rows->gw[i][k] = 0;
    }
    UNROLL
    for (int k = 0; k < NS; k++)
        rows->gs[k] = 0;
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
        shared_store(memory + AT_MAX + i, state_max(state, i / ROWS, first + i % ROWS));
        shared_store(memory + AT_Z + i, state_z(state, i / ROWS, first + i % ROWS));
    }
    for (int i = THREAD; i < LANES * ROWS * (DV8 / 4); i += THREADS) {
        const int row = i / (DV8 / 4), c = i % (DV8 / 4) * 4, r = first + row % ROWS;
        const float4 x = r < M ? global_load4(S + (int64_t)(row / ROWS * MP + r) * DV8 + c)
                               : make_float4(0, 0, 0, 0);
        shared_store4(memory + AT_S + row * LDV + c, x);
        if (!IN_REGISTERS)
            shared_store4(memory + AT_DS + row * LDV + c, make_float4(0, 0, 0, 0));
    }
    for (int i = THREAD; LEARN && i < ROWS * LDX; i += THREADS)
        shared_store(memory + AT_DW + i, 0);
}

/* g of the staged tile: planes of go / den, and -(go.o) / den. */
DEVICE void output_gradient(const attn_cuda_args *a, const byte *stage_o, const byte *stage_go,
                            int64_t den_row, int64_t from, const float *bias, float *memory)
{
    const int token = THREAD / TOKEN_THREADS, part = THREAD % TOKEN_THREADS;
    if (token >= TB)
        return;
    const int there = shared_load(bias + token) == 0;
    const float den = there ? global_load(a->den + den_row + from + token) : 0;
    const float inverse = den != 0 ? 1 / den : 0;
    float dot = 0;
    for (int i = part; i < DV8; i += TOKEN_THREADS) {
        float g = 0;
        if (there && i < DV) {
            const float go = stage_get(stage_go, token, DV, i);
            dot += go * stage_get(stage_o, token, DV, i);
            g = go * inverse;
        }
        store_parts(memory + AT_G + token * LDV + i, TB * LDV, g);
    }
    UNROLL
    for (int lanes = TOKEN_THREADS / 2; lanes > 0; lanes /= 2)
        dot += warp_shuffle_xor(dot, lanes);
    if (part == 0) {
        shared_store(memory + AT_GDEN + token, -dot * inverse);
        shared_store(memory + AT_TOP + token, there ? global_load(a->top + den_row + from + token) : 0);
    }
}

/* dS of the warp's rows += phi' g, of one lane. */
DEVICE void add_state(query_rows *rows, float *memory, int l, int warp_row, float (*feature)[4],
                      int token)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    UNROLL
    for (int n = 0; n < NV8; n++) {
        float *at = memory + AT_DS + (l * ROWS + warp_row + g) * LDV + 8 * n + 2 * t;
        float kept[4], *sum = IN_REGISTERS ? rows->dS[l][n % KEPT] : kept;
        if (!IN_REGISTERS) {
            const float2 upper = shared_load2(at), lower = shared_load2(at + 8 * LDV);
            sum[0] = upper.x, sum[1] = upper.y, sum[2] = lower.x, sum[3] = lower.y;
        }
        UNROLL
        for (int j = 0; j < NG; j++) {
            left_tile a;
            right_tile b;
            left_accumulator(&a, feature[j]);
            right_planes(&b, memory + AT_G, TB * LDV, LDV, token + 8 * j, 8 * n);
            multiply(sum, &a, &b);
        }
        if (!IN_REGISTERS) {
            shared_store2(at, make_float2(sum[0], sum[1]));
            shared_store2(at + 8 * LDV, make_float2(sum[2], sum[3]));
        }
    }
}

/* One group of 8 NG tokens from `token` of the tile. */
DEVICE void take_group(query_rows *rows, float *memory, const float *bias, int warp_row,
                       const float *s, const float *uni, int token)
{
    float u[NP][NG][4], dphi[LANES][NG][4], sums[SUMS][2 * NG];
    rows_times_tokens(u[0], NG, memory + AT_W, LDX, D8, warp_row, memory + AT_X, token);
    if (NP > 1)
        rows_times_tokens(u[NP - 1], NG, memory + AT_W2, LDX, D8, warp_row, memory + AT_X2, token);
    UNROLL
    for (int l = 0; l < LANES; l++) {
        rows_times_tokens(dphi[l], NG, memory + AT_S, LDV, DV8, l * ROWS + warp_row, memory + AT_G,
                          token);
        if (!IN_REGISTERS) /* later lanes' operands are not to be loaded now: registers */
            warp_sync();
    }
    UNROLL
    for (int k = 0; k < SUMS; k++)
        for (int j = 0; j < 2 * NG; j++)
            sums[k][j] = 0;
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = token + 8 * j + 2 * (THREAD % 4) + i % 2, row = i / 2;
            const int there = shared_load(bias + at) == 0;
            const float gden = shared_load(memory + AT_GDEN + at), top = shared_load(memory + AT_TOP + at);
            float tok[NTOK], projections[NP], logs[LANES], signs[LANES], value[LANES], d[LANES];
            float gu[NP], part[SUMS];
            for (int k = 0; k < NTOK; k++)
                tok[k] = shared_load(memory + AT_TOK + at * NTOK + k);
            for (int k = 0; k < NP; k++)
                projections[k] = u[k][j][i];
            phi(projections, rows->row[row], uni, tok, logs, signs);
            for (int l = 0; l < LANES; l++) {
                const int r = l * ROWS + warp_row + THREAD % 32 / 4 + 8 * row;
                const float max = IN_REGISTERS ? rows->max[l % HELD][row] : shared_load(memory + AT_MAX + r);
                const float z = IN_REGISTERS ? rows->z[l % HELD][row] : shared_load(memory + AT_Z + r);
                value[l] = there ? exp_falling(logs[l] + max - top) : 0;
                d[l] = dphi[l][j][i] + z * gden;
                dphi[l][j][i] = SIGNED ? value[l] * signs[l] : value[l];
                rows->dz[l][row] += dphi[l][j][i] * gden;
            }
            for (int k = 0; k < SUMS; k++)
                part[k] = sums[k][2 * j + i % 2];
            feature_gradient(projections, rows->norms[row], rows->row[row], uni, tok, d, value, signs, gu,
                             part);
            if (LEARN)
                parameter_gradient(projections, rows->norms[row], s, rows->row[row], uni, tok,
                                   memory + AT_T + at * TOKEN, d, value, signs, rows->gs,
                                   rows->gw[row]);
            for (int k = 0; k < SUMS; k++)
                sums[k][2 * j + i % 2] = part[k];
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
    UNROLL
    for (int k = 0; k < SUMS; k++)
        sum_columns(sums[k], memory + AT_SUMS + ((THREAD / 32) * SUMS + k) * TB + token);
    UNROLL
    for (int j = 0; j < NG; j++) {
        store_turned(memory + AT_DU, warp_row, token + 8 * j, u[0][j]);
        if (NP > 1)
            store_turned(memory + AT_DU2, warp_row, token + 8 * j, u[NP - 1][j]);
    }
    if (LEARN)
        matrix_gradient(memory + AT_DW, warp_row, u[0], memory + AT_X, token);
    if (LEARN && NP > 1 && !SECOND_OWN)
        matrix_gradient(memory + AT_DW, warp_row, u[NP - 1], memory + AT_X2, token);
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
                const float *at = memory + AT_DS + (l * ROWS + warp_row + pair_row()) * LDV + c;
                const float4 x = shared_load4(at);
                four[0] = x.x, four[1] = x.y, four[2] = x.z, four[3] = x.w;
            }
            if (r < MP)
                global_store4(to + F + (int64_t)(l * MP + r) * DV8 + c,
                              make_float4(four[0], four[1], four[2], four[3]));
        }
    }
}

KERNEL(attn_queries_bwd, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    byte *stages = (byte *)(memory + AT_STAGES);
    const int64_t head = BLOCK_Y, b = head / args.H, h = head % args.H, heads = args.B * args.H;
    const int first = (int)BLOCK_Z * ROWS, warp_row = THREAD / 32 * 16;
    const float *params = args.params + head * args.params_stride;
    const int64_t n = args.q_len ? args.q_len[b] : args.T;
    const int64_t den_row = h * args.den_rows + (args.q_begin ? args.q_begin[b] : b * args.T);
    const head_rows q = rows_of(&args.q, args.q_begin, b, h), o = rows_of(&args.o, args.q_begin, b, h),
                    go = rows_of(&args.go, args.q_begin, b, h),
                    gq = rows_of(&args.gq, args.q_begin, b, h);
    float *part = args.gq_part + (BLOCK_Z * heads + head) * args.T * D;
    int64_t from, to;
    split_range(n, args.q_splits, BLOCK, TB, &from, &to);

    float s[S1], uni[NUNI];
    query_rows rows;
    load_scalars(params, 0, s, uni);
    load_vectors(params, memory + AT_VECTORS);
    load_linear(params, 1, memory + AT_LINEAR);
    load_linear(params, 0, memory + AT_TRANSPOSED);
    load_matrix(args.w + head * args.w_stride, first, ROWS, memory + AT_W);
    if (NP > 1)
        load_matrix(second_matrix(&args, head), first, ROWS, memory + AT_W2);
    load_state(&args, head, first, memory);
    start_rows(&args, head, first + warp_row, uni, &rows);
    if (from < to) {
        stage_rows(&q, from, to, D, stages);
        stage_rows(&o, from, to, DV, stages + STAGE_Q);
        stage_rows(&go, from, to, DV, stages + STAGE_Q + STAGE_O);
        mark_tokens(from, to, 0, memory + AT_BIAS);
    }
    async_commit();
    float *kept = memory + AT_KEPT;
    keep_rows(kept, &args.q, &q);
    keep_rows(kept + KEPT_ROWS, &args.o, &o);
    keep_rows(kept + 2 * KEPT_ROWS, &args.go, &go);
    keep_rows(kept + 3 * KEPT_ROWS, &args.gq, &gq);
    token_tile tile;
    tile.x = memory + AT_X;
    tile.second = memory + AT_X2;
    tile.tok = memory + AT_TOK;
    tile.t = LEARN ? memory + AT_T : 0;
    for (int odd = 0; from < to; from += TB, odd ^= 1) {
        byte *stage = stages + odd * STAGE, *next = stages + (odd ^ 1) * STAGE;
        tile.bias = memory + AT_BIAS + odd * TB;
        async_wait(0);
        block_sync();
        if (from + TB < to) {
            const head_rows q_next = kept_rows(kept, &args.q), o_next = kept_rows(kept + KEPT_ROWS, &args.o),
                            go_next = kept_rows(kept + 2 * KEPT_ROWS, &args.go);
            stage_rows(&q_next, from + TB, to, D, next);
            stage_rows(&o_next, from + TB, to, DV, next + STAGE_Q);
            stage_rows(&go_next, from + TB, to, DV, next + STAGE_Q + STAGE_O);
            mark_tokens(from + TB, to, 0, memory + AT_BIAS + (odd ^ 1) * TB);
        }
        async_commit();
        map_tile(stage, 0, args.scale, memory + AT_VECTORS, memory + AT_LINEAR, uni, &tile);
        output_gradient(&args, stage + STAGE_Q, stage + STAGE_Q + STAGE_O, den_row, from, tile.bias,
                        memory);
        block_sync();
        NO_UNROLL
        for (int token = 0; token < TB; token += 8 * NG)
            take_group(&rows, memory, tile.bias, warp_row, s, uni, token);
        block_sync();
        tokens_from_rows(memory + AT_DU, memory + AT_W, ROWS, LDX, D8, memory + AT_GX);
        if (NP > 1)
            tokens_from_rows(memory + AT_DU2, memory + AT_W2, ROWS, LDX, D8, memory + AT_GX2);
        block_sync();
        const head_rows gq_now = kept_rows(kept + 3 * KEPT_ROWS, &args.gq);
        store_gradients(0, stage, args.scale, memory + AT_VECTORS, memory + AT_LINEAR,
                        memory + AT_TRANSPOSED, memory + AT_GX, memory + AT_GX2, memory + AT_SUMS,
                        tile.bias, &gq_now, part, from, to);
    }
    block_sync();
    store_state(&rows, memory, first, warp_row, args.dpart + (BLOCK * heads + head) * DSTATE);
    if (LEARN)
        store_parameters(&args, head, first, warp_row, memory + AT_DW, memory + AT_SUMS, rows.gs,
                         rows.gw, args.dscalars, args.dw);
}
