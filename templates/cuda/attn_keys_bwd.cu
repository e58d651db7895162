/* Linear attention, backward, keys: blocks (splits of the keys, heads, row blocks) of KW warps. With the
 * queries' dS~ = [dS, dz]: dphi = dS~ [v, 1] and dv = dS' phi. The parts of dS~ are added up here, in the
 * order of the splits. */
#include "stub.cuh"

#include "tile.cuh"

#include "backward.cuh"

enum {
    AT_KEPT = 0,
    AT_W = 4 * KEPT_ROWS,
    AT_W2 = AT_W + ROWS * LDX,
    AT_DS = AT_W2 + (NP > 1 ? ROWS * LDX : 0),
    AT_X = AT_DS + LANES * ROWS * LDV,
    AT_X2 = AT_X + PARTS * TB * LDX,
    AT_V = AT_X2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_GX = AT_X, /* once the planes are used up */
    AT_GX2 = AT_X2,
    AT_GV = AT_V,
    AT_DU = AT_V + PARTS * TB * LDV,
    AT_DU2 = AT_DU + ROWS * TB,
    AT_PHI = AT_DU2 + (NP > 1 ? ROWS * TB : 0),
    AT_SUMS = AT_PHI + LANES * ROWS * TB,
    AT_TOK = AT_SUMS + KW * SUMS * TB,
    AT_T = AT_TOK + (TB * NTOK + 3) / 4 * 4,
    AT_BIAS = AT_T + (LEARN ? (TB * TOKEN + 3) / 4 * 4 : 0),
    AT_VECTORS = AT_BIAS + 2 * TB,
    AT_LINEAR = AT_VECTORS + NV * D8,
    AT_TRANSPOSED = AT_LINEAR + (LINEAR ? D8 * LDX : 0),
    AT_DW = AT_TRANSPOSED + (LINEAR ? D8 * LDX : 0),
    AT_STAGES = AT_DW + (LEARN ? ROWS * LDX : 0),
    STAGE_K = TB * STAGE_ROW(D), /* bytes */
    STAGE = STAGE_K + TB * STAGE_ROW(DV),
    AT_END = AT_STAGES + 2 * STAGE / 4
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_keys_bwd");

/* What a lane keeps of its rows g and g + 8. */
typedef struct key_rows {
    float row[2][NROW], norms[2][NW], shift[LANES][2], dz[LANES][2];
    float gs[S1], gw[2][NW];
} key_rows;

/* Gradient of one number of a head's state, of the splits in their order. */
DEVICE float merged(const attn_cuda_args *a, int64_t head, int r, int64_t at)
{
    const float *from = a->dpart + head * DSTATE + at;
    float sum = 0;
    for (int64_t i = 0; i < a->q_splits; i++)
        sum += global_load(from + i * a->B * a->H * DSTATE);
    return a->row_weight ? sum * global_load(a->row_weight + r) : sum;
}

DEVICE void start_rows(const attn_cuda_args *a, int64_t head, int first, const float *uni,
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
            rows->dz[l][i] = r < M ? merged(a, head, r, l * MP + r) : 0;
        }
        UNROLL
        for (int k = 0; k < NW; k++)
            rows->gw[i][k] = 0;
    }
    UNROLL
    for (int k = 0; k < NS; k++)
        rows->gs[k] = 0;
}

/* dS of the block's rows of W, (LANES, ROWS, LDV). */
DEVICE void load_gradient(const attn_cuda_args *a, int64_t head, int first, float *memory)
{
    const int64_t stride = a->B * a->H * DSTATE;
    for (int i = THREAD; i < LANES * ROWS * (DV8 / 4); i += THREADS) {
        const int row = i / (DV8 / 4), c = i % (DV8 / 4) * 4, r = first + row % ROWS;
        const float *from = a->dpart + head * DSTATE + F + (int64_t)(row / ROWS * MP + r) * DV8 + c;
        float4 sum = make_float4(0, 0, 0, 0);
        for (int64_t split = 0; split < a->q_splits && r < M; split++) {
            const float4 x = global_load4(from + split * stride);
            sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
        }
        const float weight = a->row_weight && r < M ? global_load(a->row_weight + r) : 1;
        shared_store4(memory + AT_DS + row * LDV + c,
                      make_float4(weight * sum.x, weight * sum.y, weight * sum.z, weight * sum.w));
    }
    for (int i = THREAD; LEARN && i < ROWS * LDX; i += THREADS)
        shared_store(memory + AT_DW + i, 0);
}

/* One group of 8 NG tokens from `token` of the tile. */
DEVICE void take_group(key_rows *rows, float *memory, const float *bias, int warp_row, const float *s,
                       const float *uni, int token)
{
    float u[NP][NG][4], dphi[LANES][NG][4], sums[SUMS][2 * NG];
    rows_times_tokens(u[0], NG, memory + AT_W, LDX, D8, warp_row, memory + AT_X, token);
    if (NP > 1)
        rows_times_tokens(u[NP - 1], NG, memory + AT_W2, LDX, D8, warp_row, memory + AT_X2, token);
    UNROLL
    for (int l = 0; l < LANES; l++)
        rows_times_tokens(dphi[l], NG, memory + AT_DS, LDV, DV8, l * ROWS + warp_row, memory + AT_V,
                          token);
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
            float tok[NTOK], projections[NP], logs[LANES], signs[LANES], value[LANES], d[LANES];
            float gu[NP], part[SUMS];
            for (int k = 0; k < NTOK; k++)
                tok[k] = shared_load(memory + AT_TOK + at * NTOK + k);
            for (int k = 0; k < NP; k++)
                projections[k] = u[k][j][i];
            phi(projections, rows->row[row], uni, tok, logs, signs);
            for (int l = 0; l < LANES; l++) {
                value[l] = there ? exp_falling(logs[l] - rows->shift[l][row]) : 0;
                d[l] = dphi[l][j][i] + rows->dz[l][row];
                dphi[l][j][i] = SIGNED ? value[l] * signs[l] : value[l];
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
        }
    }
    UNROLL
    for (int k = 0; k < SUMS; k++)
        sum_columns(sums[k], memory + AT_SUMS + ((THREAD / 32) * SUMS + k) * TB + token);
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int l = 0; l < LANES; l++)
            store_turned(memory + AT_PHI + l * ROWS * TB, warp_row, token + 8 * j, dphi[l][j]);
        store_turned(memory + AT_DU, warp_row, token + 8 * j, u[0][j]);
        if (NP > 1)
            store_turned(memory + AT_DU2, warp_row, token + 8 * j, u[NP - 1][j]);
    }
    if (LEARN)
        matrix_gradient(memory + AT_DW, warp_row, u[0], memory + AT_X, token);
    if (LEARN && NP > 1 && !SECOND_OWN)
        matrix_gradient(memory + AT_DW, warp_row, u[NP - 1], memory + AT_X2, token);
}

/* (TB, LDV) gradients of values to rows from.. of `to` or to the block's part (rows, DV). */
DEVICE void store_values(const float *gv, const head_rows *to, float *part, int64_t from, int64_t end)
{
    const int each = (DV + 3) / 4;
    for (int i = THREAD; i < TB * each; i += THREADS) {
        const int token = i / each, c = i % each * 4;
        const float4 x = shared_load4(gv + token * LDV + c);
        const float four[4] = {x.x, x.y, x.z, x.w};
        if (from + token >= end)
            continue;
        if (ROW_BLOCKS > 1)
            for (int k = 0; k < 4 && c + k < DV; k++)
                global_store(part + (from + token) * DV + c + k, four[k]);
        else
            store_row4(to, from + token, c, DV, four);
    }
}

KERNEL(attn_keys_bwd, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    byte *stages = (byte *)(memory + AT_STAGES);
    const int64_t head = BLOCK_Y, b = head / args.H, h = head % args.H, heads = args.B * args.H;
    const int first = (int)BLOCK_Z * ROWS, warp_row = THREAD / 32 * 16;
    const float *params = args.params + head * args.params_stride;
    const int64_t n = args.k_len ? args.k_len[b] : args.S;
    const byte *mask = args.mask ? args.mask + (args.k_begin ? args.k_begin[b] : b * args.S) : 0;
    const head_rows k = rows_of(&args.k, args.k_begin, b, h), v = rows_of(&args.v, args.k_begin, b, h),
                    gk = rows_of(&args.gk, args.k_begin, b, h),
                    gv = rows_of(&args.gv, args.k_begin, b, h);
    float *part_k = args.gk_part + (BLOCK_Z * heads + head) * args.S * D;
    float *part_v = args.gv_part + (BLOCK_Z * heads + head) * args.S * DV;
    int64_t from, to;
    split_range(n, args.k_splits, BLOCK, TB, &from, &to);

    float s[S1], uni[NUNI];
    key_rows rows;
    load_scalars(params, 1, s, uni);
    load_vectors(params, memory + AT_VECTORS);
    load_linear(params, 3, memory + AT_LINEAR);
    load_linear(params, 2, memory + AT_TRANSPOSED);
    load_matrix(args.w + head * args.w_stride, first, ROWS, memory + AT_W);
    if (NP > 1)
        load_matrix(second_matrix(&args, head), first, ROWS, memory + AT_W2);
    load_gradient(&args, head, first, memory);
    start_rows(&args, head, first + warp_row, uni, &rows);
    if (from < to) {
        stage_rows(&k, from, to, D, stages);
        stage_rows(&v, from, to, DV, stages + STAGE_K);
        mark_tokens(from, to, mask, memory + AT_BIAS);
    }
    async_commit();
    float *kept = memory + AT_KEPT;
    keep_rows(kept, &args.k, &k);
    keep_rows(kept + KEPT_ROWS, &args.v, &v);
    keep_rows(kept + 2 * KEPT_ROWS, &args.gk, &gk);
    keep_rows(kept + 3 * KEPT_ROWS, &args.gv, &gv);
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
            const head_rows k_next = kept_rows(kept, &args.k), v_next = kept_rows(kept + KEPT_ROWS, &args.v);
            stage_rows(&k_next, from + TB, to, D, next);
            stage_rows(&v_next, from + TB, to, DV, next + STAGE_K);
            mark_tokens(from + TB, to, mask, memory + AT_BIAS + (odd ^ 1) * TB);
        }
        async_commit();
        map_tile(stage, 1, args.scale, memory + AT_VECTORS, memory + AT_LINEAR, uni, &tile);
        plain_tile(stage + STAGE_K, DV, 0, DV8, LDV, tile.bias, memory + AT_V);
        block_sync();
        NO_UNROLL
        for (int token = 0; token < TB; token += 8 * NG)
            take_group(&rows, memory, tile.bias, warp_row, s, uni, token);
        block_sync();
        tokens_from_rows(memory + AT_DU, memory + AT_W, ROWS, LDX, D8, memory + AT_GX);
        if (NP > 1)
            tokens_from_rows(memory + AT_DU2, memory + AT_W2, ROWS, LDX, D8, memory + AT_GX2);
        tokens_from_rows(memory + AT_PHI, memory + AT_DS, LANES * ROWS, LDV, DV8, memory + AT_GV);
        block_sync();
        const head_rows gk_now = kept_rows(kept + 2 * KEPT_ROWS, &args.gk),
                        gv_now = kept_rows(kept + 3 * KEPT_ROWS, &args.gv);
        store_gradients(1, stage, args.scale, memory + AT_VECTORS, memory + AT_LINEAR,
                        memory + AT_TRANSPOSED, memory + AT_GX, memory + AT_GX2, memory + AT_SUMS,
                        tile.bias, &gk_now, part_k, from, to);
        store_values(memory + AT_GV, &gv_now, part_v, from, to);
    }
    if (LEARN) {
        block_sync();
        store_parameters(&args, head, first, warp_row, memory + AT_DW, memory + AT_SUMS, rows.gs,
                         rows.gw, args.dscalars_k, args.dw_k);
    }
}
