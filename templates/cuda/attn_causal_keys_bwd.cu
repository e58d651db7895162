/* Causal linear attention, backward, keys: blocks (splits of the sequence, heads, row blocks) of KW warps,
 * tiles from the last to the first, with the gradient of the state behind each. It starts with what the
 * later splits left, each by the references of its own start, and is brought from references to earlier,
 * smaller ones as it goes. */
#include "stub.cuh"

#include "tile.cuh"

enum { KEYS_PASS = 1 };

#include "causal.cuh"

enum {
    AT_W = 0,
    AT_W2 = AT_W + ROWS * LDX,
    AT_DS = AT_W2 + (NP > 1 ? ROWS * LDX : 0),
    AT_XQ = AT_DS + FB * LDV,
    AT_XQ2 = AT_XQ + PARTS * TB * LDX,
    AT_XK = AT_XQ2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_XK2 = AT_XK + PARTS * TB * LDX,
    AT_V = AT_XK2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_G = AT_V + PARTS * TB * LDV,
    AT_GX = AT_XK, /* once the planes are used up */
    AT_GX2 = AT_XK2,
    AT_P = AT_G + PARTS * TB * LDV,
    AT_PHIQ = AT_P + TB * LDP,
    AT_PHIK = AT_PHIQ + FB * TB,
    AT_DU = AT_PHIQ, /* of the first lane's rows, once the features are used up */
    AT_DU2 = AT_PHIK,
    AT_GV = AT_PHIK + FB * TB, /* (KW, TB, LDV) */
    AT_SUMS = AT_GV + KW * TB * LDV,
    AT_GDEN = AT_SUMS + KW * SUMS * TB,
    AT_TOP = AT_GDEN + TB,
    AT_TOKQ = AT_TOP + TB,
    AT_TOKK = AT_TOKQ + (TB * NTOK + 3) / 4 * 4,
    AT_T = AT_TOKK + (TB * NTOK + 3) / 4 * 4,
    AT_BIASQ = AT_T + (LEARN ? (TB * TOKEN + 3) / 4 * 4 : 0),
    AT_BIASK = AT_BIASQ + 2 * TB,
    AT_VECTORS = AT_BIASK + 2 * TB,
    AT_LINEARQ = AT_VECTORS + NV * D8,
    AT_LINEARK = AT_LINEARQ + (LINEAR ? D8 * LDX : 0),
    AT_TRANSPOSED = AT_LINEARK + (LINEAR ? D8 * LDX : 0),
    AT_DW = AT_TRANSPOSED + (LINEAR ? D8 * LDX : 0),
    AT_STAGES = AT_DW + (LEARN ? ROWS * LDX : 0),
    STAGE_X = TB * STAGE_ROW(D), /* bytes; two of k, one of the others */
    STAGE_V = TB * STAGE_ROW(DV),
    AT_END = AT_STAGES + (3 * STAGE_X + 2 * STAGE_V) / 4
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_causal_keys_bwd");

/* What a lane keeps of its rows g and g + 8: references at the start of the tile, and those that the
 * state's gradient is by. */
typedef struct causal_rows {
    int there[2];
    float norms[2][NW], weight[2];
    float start[LANES][2], ref[LANES][2], dz[LANES][2];
    parameter_sums parameters;
} causal_rows;

/* What the later splits' gradients of row f are to be multiplied by. */
DEVICE float later_factor(const attn_cuda_args *a, int64_t head, int64_t split, int f, float after)
{
    const float start = parts_max(a, head, split, f);
    return after > -INFINITY ? exp_falling(after - start) : 0;
}

/* Gradient of the state behind the split, by that state's references: S of it to shared memory. */
DEVICE void load_gradient(const attn_cuda_args *a, int64_t head, int first, float *memory)
{
    const int64_t heads = a->B * a->H;
    for (int i = THREAD; i < FB * (DV8 / 4); i += THREADS) {
        const int row = i / (DV8 / 4), c = i % (DV8 / 4) * 4, r = first + row % ROWS;
        const int f = row / ROWS * MP + r, later = r < M && BLOCK + 1 < a->q_splits;
        const float after = later ? parts_max(a, head, BLOCK + 1, f) : -INFINITY;
        float4 sum = make_float4(0, 0, 0, 0);
        for (int64_t k = BLOCK + 1; k < a->q_splits && r < M; k++) {
            const float factor = later_factor(a, head, k, f, after);
            const float *from = a->dpart + (k * heads + head) * DSTATE + F + (int64_t)f * DV8 + c;
            const float4 x = global_load4(from);
            sum = add_scaled(sum, factor, x);
        }
        shared_store4(memory + AT_DS + row * LDV + c, sum);
    }
    for (int i = THREAD; LEARN && i < ROWS * LDX; i += THREADS)
        shared_store(memory + AT_DW + i, 0);
}

DEVICE void start_rows(const attn_cuda_args *a, int64_t head, int first, causal_rows *rows)
{
    const int64_t heads = a->B * a->H;
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int r = first + THREAD % 32 / 4 + 8 * i;
        row_norms(a, head, r, rows->norms[i]);
        rows->there[i] = r < M;
        rows->weight[i] = weight_of(a, r);
        UNROLL
        for (int l = 0; l < LANES; l++) {
            const int later = r < M && BLOCK + 1 < a->q_splits;
            const float after = later ? parts_max(a, head, BLOCK + 1, l * MP + r) : -INFINITY;
            rows->ref[l][i] = after;
            rows->dz[l][i] = 0;
            for (int64_t k = BLOCK + 1; k < a->q_splits && r < M; k++)
                rows->dz[l][i] += later_factor(a, head, k, l * MP + r, after) *
                                  global_load(a->dpart + (k * heads + head) * DSTATE + l * MP + r);
        }
    }
    clear_parameters(&rows->parameters);
}

/* References (2) of one lane's rows in the segment of token lo: the largest of those at the tile's start
 * and the logs of tokens that start a segment up to there. */
DEVICE void segment_reference(float (*log)[4], unsigned starts, int lo, const float *start, float *ref)
{
    UNROLL
    for (int row = 0; row < 2; row++) {
        float max = start[row];
        UNROLL
        for (int j = 0; j < NG; j++)
            for (int c = 0; c < 2; c++)
                if (column_of(j, c) <= lo && (starts >> column_of(j, c) & 1))
                    max = real_max(max, log[j][2 * row + c]);
        ref[row] = quad_max(max);
    }
}

/* Features of queries lo to hi - 1 by the references, times the rows' weights; 0 for others. */
DEVICE void query_features(const causal_rows *rows, const causal_side *q, const float *memory,
                           int warp_row, int lo, int hi, float (*feature)[NG][4])
{
    float u[NP][NG][4];
    project(u, q, memory + AT_W, memory + AT_W2, warp_row);
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = column_of(j, i), row = i / 2;
            const int there = at >= lo && at < hi && shared_load(q->tile.bias + at) == 0;
            const float top = shared_load(memory + AT_TOP + at);
            float projections[NP], tok[NTOK], logs[LANES], signs[LANES];
            feature_at(q, u, j, i, projections, tok, logs, signs);
            UNROLL
            for (int l = 0; l < LANES; l++) {
                const float value = there ? exp_falling(logs[l] + rows->ref[l][row] - top) : 0;
                feature[l][j][i] = rows->weight[row] * (SIGNED ? value * signs[l] : value);
            }
        }
    }
}

/* The warp's share of the gradients of 16 values from `token` on: phi_k' dS + A' g. */
DEVICE void value_gradients(float *memory, int warp_row, int token)
{
    const int g = THREAD % 32 / 4;
    float out[NV8][4], pairs[NG][4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        for (int n = 0; n < NV8; n++)
            out[n][i] = 0;
        for (int j = 0; j < NG; j++)
            pairs[j][i] = 0;
    }
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int k = 0; k < 2; k++) {
            const int f = l * ROWS + warp_row + 8 * k;
            left_tile a;
            right_tile b;
            left_turned(&a, memory + AT_PHIK, token, f);
            UNROLL
            for (int n = 0; n < NV8; n++) {
                right_rows(&b, memory + AT_DS, LDV, f, 8 * n);
                multiply(out[n], &a, &b);
            }
            UNROLL
            for (int j = 0; j < NG; j++) {
                if (8 * j + 8 > token) {
                    right_turned(&b, memory + AT_PHIQ, f, 8 * j);
                    multiply(pairs[j], &a, &b);
                }
            }
        }
    }
    UNROLL
    for (int j = 0; j < NG; j++) {
        left_tile a;
        if (8 * j + 8 <= token)
            continue;
        UNROLL
        for (int i = 0; i < 4; i++)
            if (column_of(j, i) < token + g + 8 * (i / 2))
                pairs[j][i] = 0;
        left_accumulator(&a, pairs[j]);
        UNROLL
        for (int n = 0; n < NV8; n++) {
            right_tile b;
            right_planes(&b, memory + AT_G, TB * LDV, LDV, 8 * j, 8 * n);
            multiply(out[n], &a, &b);
        }
    }
    UNROLL
    for (int n = 0; n < NV8; n++)
        store_accumulator(out[n], memory + AT_GV + (THREAD / 32 * TB + token) * LDV + 8 * n, LDV);
}

/* The warps' shares of the gradients of values lo to hi - 1 to rows from.. of `to` or to the block's part
 * (rows, DV). */
DEVICE void store_values(const float *memory, const head_rows *to, float *part, int64_t from, int64_t end,
                         int lo, int hi)
{
    const int each = (DV + 3) / 4;
    for (int i = THREAD; i < TB * each; i += THREADS) {
        const int token = i / each, c = i % each * 4;
        float four[4] = {0, 0, 0, 0};
        if (token < lo || token >= hi || from + token >= end)
            continue;
        UNROLL
        for (int w = 0; w < KW; w++) {
            const float4 x = shared_load4(memory + AT_GV + (w * TB + token) * LDV + c);
            four[0] += x.x;
            four[1] += x.y;
            four[2] += x.z;
            four[3] += x.w;
        }
        store_four(to, part, from + token, c, DV, four);
    }
}

/* dphi_k of one lane, but for dz: dS v' + phi_q P. */
DEVICE void key_gradients(const float *memory, int f, float (*phi_q)[4], float (*dphi)[4])
{
    rows_times_tokens(dphi, NG, memory + AT_DS, LDV, DV8, f, memory + AT_V, 0);
    UNROLL
    for (int k = 0; k < NG; k++) {
        left_tile a;
        left_accumulator(&a, phi_q[k]);
        UNROLL
        for (int j = 0; j <= k; j++) {
            right_tile b;
            right_rows(&b, memory + AT_P, LDP, 8 * k, 8 * j);
            multiply(dphi[j], &a, &b);
        }
    }
}

/* Keys of the segment through their features; value: features without sign. */
DEVICE void take_keys(causal_rows *rows, const causal_side *k, const float *memory, float (*u)[NG][4],
                      const float *s, int lo, int hi, float (*dphi)[NG][4], tile_gradient *to)
{
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = column_of(j, i), row = i / 2;
            const int there = at >= lo && at < hi && shared_load(k->tile.bias + at) == 0;
            float projections[NP], tok[NTOK], logs[LANES], signs[LANES], value[LANES], d[LANES];
            float gu[NP];
            feature_at(k, u, j, i, projections, tok, logs, signs);
            UNROLL
            for (int l = 0; l < LANES; l++) {
                const float ref = rows->ref[l][row];
                value[l] = there && ref > -INFINITY ? exp_falling(logs[l] - ref) : 0;
                d[l] = dphi[l][j][i] + rows->dz[l][row];
            }
            feature_gradient(projections, rows->norms[row], s, k->row[row], k->uni, tok,
                             memory + AT_T + at * TOKEN, d, value, signs, j, i, gu, to,
                             &rows->parameters);
            UNROLL
            for (int n = 0; n < NP; n++)
                to->u[n][j][i] += there ? gu[n] : 0;
        }
    }
}

/* The segment of tokens lo to hi - 1: features to shared memory, the state's gradient to its references.
 * Then keys' gradients, and the segment's queries into the state's gradient. */
DEVICE void take_segment(causal_rows *rows, const causal_side *q, const causal_side *k, float *memory,
                         int warp_row, const float *s, unsigned starts, int lo, int hi, tile_gradient *to)
{
    float u[NP][NG][4], phi_k[LANES][NG][4], sign[SIGNS][NG][4], phi_q[LANES][NG][4];
    float dphi[LANES][NG][4];
    project(u, k, memory + AT_W, memory + AT_W2, warp_row);
    key_logs(k, u, rows->there, 0, phi_k, sign);
    UNROLL
    for (int l = 0; l < LANES; l++) {
        const int f = l * ROWS + warp_row;
        float ref[2], factor[2];
        segment_reference(phi_k[l], starts, lo, rows->start[l], ref);
        UNROLL
        for (int i = 0; i < 2; i++) {
            factor[i] = ref[i] > -INFINITY && rows->ref[l][i] > -INFINITY
                            ? exp_falling(ref[i] - rows->ref[l][i])
                            : 0;
            rows->ref[l][i] = ref[i];
            rows->dz[l][i] *= factor[i];
        }
        scale_rows(memory + AT_DS + f * LDV, factor);
        key_values(phi_k[l], sign[l % SIGNS], ref);
        UNROLL
        for (int j = 0; j < NG; j++) {
            for (int i = 0; i < 4; i++)
                phi_k[l][j][i] = column_of(j, i) >= lo && column_of(j, i) < hi ? phi_k[l][j][i] : 0;
            store_turned(memory + AT_PHIK, f, 8 * j, phi_k[l][j]);
        }
    }
    query_features(rows, q, memory, warp_row, lo, hi, phi_q);
    UNROLL
    for (int l = 0; l < LANES; l++)
        for (int j = 0; j < NG; j++)
            store_turned(memory + AT_PHIQ, l * ROWS + warp_row, 8 * j, phi_q[l][j]);
    warp_sync();
    UNROLL
    for (int l = 0; l < LANES; l++)
        key_gradients(memory, l * ROWS + warp_row, phi_q[l], dphi[l]);
    for (int token = 0; token < TB; token += 16)
        value_gradients(memory, warp_row, token);
    take_keys(rows, k, memory, u, s, lo, hi, dphi, to);
    warp_sync(); /* dS was read by all of the warp */
    UNROLL
    for (int l = 0; l < LANES; l++) {
        float sum[2] = {0, 0};
        UNROLL
        for (int j = 0; j < NG; j++)
            for (int i = 0; i < 4; i++)
                sum[i / 2] += phi_q[l][j][i] * shared_load(memory + AT_GDEN + column_of(j, i));
        rows->dz[l][0] += quad_sum(sum[0]);
        rows->dz[l][1] += quad_sum(sum[1]);
        add_rows(memory + AT_DS + (l * ROWS + warp_row) * LDV, phi_q[l], memory + AT_G);
    }
}

/* A tile's references at its start. */
DEVICE void load_references(causal_rows *rows, int row, const float *from)
{
    UNROLL
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 2; i++)
            rows->start[l][i] = rows->there[i] ? global_load(from + l * MP + row + 8 * i) : -INFINITY;
}

KERNEL(attn_causal_keys_bwd, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    byte *stage_k = (byte *)(memory + AT_STAGES), *stage_q = stage_k + 2 * STAGE_X,
         *stage_v = stage_q + STAGE_X, *stage_go = stage_v + STAGE_V;
    const int64_t head = BLOCK_Y, b = head / args.H, h = head % args.H, heads = args.B * args.H;
    const int first = (int)BLOCK_Z * ROWS, warp_row = THREAD / 32 * 16;
    const float *params = args.params + head * args.params_stride;
    const int64_t n = args.k_len ? args.k_len[b] : args.S;
    const int64_t den_row = h * args.den_rows + (args.q_begin ? args.q_begin[b] : b * args.T);
    const byte *mask = args.mask ? args.mask + (args.k_begin ? args.k_begin[b] : b * args.S) : 0;
    const head_rows q = rows_of(&args.q, args.q_begin, b, h), k = rows_of(&args.k, args.k_begin, b, h),
                    v = rows_of(&args.v, args.k_begin, b, h), go = rows_of(&args.go, args.q_begin, b, h),
                    gk = rows_of(&args.gk, args.k_begin, b, h),
                    gv = rows_of(&args.gv, args.k_begin, b, h);
    float *part_k = args.gk_part + (BLOCK_Z * heads + head) * args.S * D;
    float *part_v = args.gv_part + (BLOCK_Z * heads + head) * args.S * DV;
    int64_t begin, to;
    split_range(n, args.q_splits, BLOCK, SPLIT, &begin, &to);
    int64_t from = begin + (to - begin - 1) / TB * TB;

    const gradient_places places = {memory + AT_DU, memory + AT_DU2, memory + AT_SUMS,
                                    memory + AT_DW, memory + AT_XK, memory + AT_XK2};
    float s[S1];
    causal_side side_q, side_k;
    causal_rows rows;
    load_vectors(params, memory + AT_VECTORS);
    load_linear(params, 1, memory + AT_LINEARQ);
    load_linear(params, 3, memory + AT_LINEARK);
    load_linear(params, 2, memory + AT_TRANSPOSED);
    load_matrix(args.w + head * args.w_stride, first, ROWS, memory + AT_W);
    if (NP > 1)
        load_matrix(second_matrix(&args, head), first, ROWS, memory + AT_W2);
    if (begin < to) {
        stage_rows(&q, from, to, D, stage_q);
        stage_rows(&k, from, to, D, stage_k);
        stage_rows(&v, from, to, DV, stage_v);
        stage_rows(&go, from, to, DV, stage_go);
        mark_tokens(from, to, 0, memory + AT_BIASQ);
        mark_tokens(from, to, mask, memory + AT_BIASK);
    }
    async_commit();
    load_gradient(&args, head, first, memory);
    start_rows(&args, head, first + warp_row, &rows);
    start_side(&side_q, 0, params, rows.norms, s);
    start_side(&side_k, 1, params, rows.norms, s);
    place_tile(&side_q.tile, memory + AT_XQ, memory + AT_XQ2, memory + AT_TOKQ, 0);
    place_tile(&side_k.tile, memory + AT_XK, memory + AT_XK2, memory + AT_TOKK,
               LEARN ? memory + AT_T : 0);
    for (int odd = 0; begin < to && from >= begin; from -= TB, odd ^= 1) {
        const int64_t tile = from / TB;
        const unsigned *at = args.starts + (BLOCK_Z * heads + head) * args.tiles + tile;
        const unsigned starts = as_bits(global_load((const float *)at));
        byte *stage = stage_k + odd * STAGE_X;
        tile_gradient gradient;
        side_q.tile.bias = memory + AT_BIASQ + odd * TB;
        side_k.tile.bias = memory + AT_BIASK + odd * TB;
        load_references(&rows, first + warp_row + THREAD % 32 / 4,
                        args.refs + (head * args.tiles + tile) * F);
        async_wait(0);
        block_sync();
        map_tile(stage_q, 0, args.scale, memory + AT_VECTORS, memory + AT_LINEARQ, side_q.uni,
                 &side_q.tile);
        map_tile(stage, 1, args.scale, memory + AT_VECTORS, memory + AT_LINEARK, side_k.uni,
                 &side_k.tile);
        plain_tile(stage_v, DV, 0, DV8, LDV, side_k.tile.bias, memory + AT_V);
        token_gradients(&args, stage_go, 0, 0, den_row, from, side_q.tile.bias, memory + AT_G,
                        memory + AT_GDEN, memory + AT_TOP);
        block_sync();
        if (from > begin) {
            stage_rows(&q, from - TB, to, D, stage_q);
            stage_rows(&k, from - TB, to, D, stage_k + (odd ^ 1) * STAGE_X);
            stage_rows(&v, from - TB, to, DV, stage_v);
            stage_rows(&go, from - TB, to, DV, stage_go);
            mark_tokens(from - TB, to, 0, memory + AT_BIASQ + (odd ^ 1) * TB);
            mark_tokens(from - TB, to, mask, memory + AT_BIASK + (odd ^ 1) * TB);
        }
        async_commit();
        gradient_pairs(memory + AT_G, memory + AT_V, memory + AT_GDEN, memory + AT_P);
        block_sync();
        clear_gradient(&gradient);
        for (int lo = TB, hi; lo > 0;) {
            hi = lo--;
            while (!(starts >> lo & 1))
                lo--;
            if (hi < TB)
                block_sync(); /* the values' gradients were read by all */
            take_segment(&rows, &side_q, &side_k, memory, warp_row, s, starts, lo, hi, &gradient);
            block_sync();
            store_values(memory, &gv, part_v, from, to, lo, hi);
        }
        store_tile_gradient(&gradient, &places, warp_row, 0);
        block_sync();
        tokens_from_rows(memory + AT_DU, memory + AT_W, ROWS, LDX, D8, memory + AT_GX);
        if (NP > 1)
            tokens_from_rows(memory + AT_DU2, memory + AT_W2, ROWS, LDX, D8, memory + AT_GX2);
        block_sync();
        store_gradients(1, stage, args.scale, memory + AT_VECTORS, memory + AT_LINEARK,
                        memory + AT_TRANSPOSED, memory + AT_GX, memory + AT_GX2, memory + AT_SUMS,
                        side_k.tile.bias, &gk, part_k, from, to);
    }
    if (LEARN) {
        block_sync();
        store_parameters(&args, head, first, warp_row, memory + AT_DW, memory + AT_SUMS, &rows.parameters, args.dscalars_k, args.dw_k);
    }
}
