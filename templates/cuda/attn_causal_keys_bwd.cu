/* Causal linear attention, backward, keys: blocks (splits of the sequence, heads, row blocks) of KW warps,
 * tiles from the last to the first, with the gradient of the state behind each. It starts with what the
 * later splits left, each by the references of its own start, and is brought from references to earlier,
 * smaller ones as it goes. */
#include "stub.cuh"

#include "tile.cuh"

enum { KEYS_PASS = 1 };

#include "causal.cuh"

enum {
    AT_KEPT = 0,
    AT_W = 6 * KEPT_ROWS,
    AT_W2 = AT_W + ROWS * LDX,
    AT_DS = AT_W2 + (NP > 1 ? ROWS * LDX : 0),
    AT_DZ = AT_DS + FB * LDV,
    AT_REF = AT_DZ + FB,   /* references that dS and dz are by */
    AT_START = AT_REF + FB, /* at the start of the tile */
    AT_XQ = AT_START + FB,
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
    AT_DU = AT_PHIQ + (MANY ? 2 * FB * TB : 0), /* else once the features are used up */
    AT_DU2 = AT_DU + ROWS * TB,
    AT_GV = AT_PHIK + FB * TB + (MANY ? NP * ROWS * TB : 0), /* (KW, TB, LDV) */
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

/* What a lane keeps of its rows g and g + 8. */
typedef struct causal_rows {
    int there[2];
    float norms[2][NW], weight[2];
    parameter_sums parameters;
} causal_rows;

/* What the later splits' gradients of row f are to be multiplied by. */
DEVICE float later_factor(const attn_cuda_args *a, int64_t head, int64_t split, int f, float after)
{
    const float start = parts_max(a, head, split, f);
    return after > -INFINITY ? exp_falling(after - start) : 0;
}

/* Gradient of the state behind the split and that state's references, by which it is, to shared memory. */
DEVICE void load_gradient(const attn_cuda_args *a, int64_t head, int first, float *memory)
{
    const int64_t heads = a->B * a->H;
    for (int i = THREAD; i < FB * (DV8 / 4); i += THREADS) {
        const int row = i / (DV8 / 4), c = i % (DV8 / 4) * 4, r = first + row % ROWS;
        const int f = row / ROWS * MP + r, later = r < M && BLOCK + 1 < a->q_splits;
        const float after = later ? parts_max(a, head, BLOCK + 1, f) : -INFINITY;
        float4 sum = make_float4(0, 0, 0, 0);
        float dz = 0;
        for (int64_t k = BLOCK + 1; k < a->q_splits && r < M; k++) {
            const float factor = later_factor(a, head, k, f, after);
            const float *from = a->dpart + (k * heads + head) * DSTATE;
            const float4 x = global_load4(from + F + (int64_t)f * DV8 + c);
            sum = add_scaled(sum, factor, x);
            if (c == 0)
                dz += factor * global_load(from + f);
        }
        shared_store4(memory + AT_DS + row * LDV + c, sum);
        if (c == 0) {
            shared_store(memory + AT_REF + row, after);
            shared_store(memory + AT_DZ + row, dz);
        }
    }
    for (int i = THREAD; LEARN && i < ROWS * LDX; i += THREADS)
        shared_store(memory + AT_DW + i, 0);
}

DEVICE void start_rows(const attn_cuda_args *a, int64_t head, int first, causal_rows *rows)
{
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int r = first + THREAD % 32 / 4 + 8 * i;
        row_norms(a, head, r, rows->norms[i]);
        rows->there[i] = r < M;
        rows->weight[i] = weight_of(a, r);
    }
    clear_parameters(&rows->parameters);
}

/* The gradient of the state to the references of the segment of token lo, the largest of those at the tile's
 * start and the logs of tokens that start a segment up to there. */
DEVICE void segment_references(const causal_rows *rows, const causal_side *k, float (*u)[NG][4],
                               float *memory, int warp_row, unsigned starts, int lo)
{
    float ref[LANES][2], log[LANES][2];
    UNROLL
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 2; i++)
            ref[l][i] = shared_load(memory + AT_START + kept_row(l, warp_row, i));
    NO_UNROLL
    for (int at = 0; at <= lo; at++) {
        if (!(starts >> at & 1))
            continue;
        if (MANY)
            project(u, k, memory + AT_W, memory + AT_W2, warp_row, groups_from(at));
        token_logs(k, u, rows->there, at, log);
        UNROLL
        for (int l = 0; l < LANES; l++)
            for (int i = 0; i < 2; i++)
                ref[l][i] = real_max(ref[l][i], log[l][i]);
    }
    UNROLL
    for (int l = 0; l < LANES; l++) {
        float factor[2];
        UNROLL
        for (int i = 0; i < 2; i++) {
            const float old = shared_load(memory + AT_REF + kept_row(l, warp_row, i));
            factor[i] = ref[l][i] > -INFINITY && old > -INFINITY ? exp_falling(ref[l][i] - old) : 0;
        }
        warp_sync(); /* the old ones were read by all */
        UNROLL
        for (int i = 0; i < 2; i++) {
            float *dz = memory + AT_DZ + kept_row(l, warp_row, i);
            if (THREAD % 4 != 0)
                continue;
            shared_store(memory + AT_REF + kept_row(l, warp_row, i), ref[l][i]);
            shared_store(dz, factor[i] * shared_load(dz));
        }
        scale_rows(memory + AT_DS + (l * ROWS + warp_row) * LDV, factor);
    }
    warp_sync();
}

/* Features of queries lo to hi - 1 of group j from `token` by the references, times the rows' weights; 0
 * for others. */
DEVICE void query_features(const causal_rows *rows, const causal_side *q, float (*u)[NG][4],
                           const float *memory, int warp_row, int token, int j, int lo, int hi,
                           float (*feature)[4])
{
    UNROLL
    for (int i = 0; i < 4; i++) {
        const int at = token + column_of(j, i), row = i / 2;
        const int there = at >= lo && at < hi && shared_load(q->tile.bias + at) == 0;
        const float top = shared_load(memory + AT_TOP + at);
        float projections[NP], tok[NTOK], logs[LANES], signs[LANES];
        feature_at(q, u, j, i, at, projections, tok, logs, signs);
        UNROLL
        for (int l = 0; l < LANES; l++) {
            const float ref = shared_load(memory + AT_REF + kept_row(l, warp_row, row));
            const float value = there ? exp_falling(logs[l] + ref - top) : 0;
            feature[l][i] = rows->weight[row] * (SIGNED ? value * signs[l] : value);
        }
        if (MANY)
            warp_sync();
    }
}

/* The warp's share of the gradients of 16 values from `token` on: phi_k' dS + A' g. */
DEVICE void value_gradients(float *memory, int warp_row, int token)
{
    const int g = THREAD % 32 / 4;
    float out[NV8][4], pairs[GROUPS][4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        for (int n = 0; n < NV8; n++)
            out[n][i] = 0;
        for (int j = 0; j < GROUPS; j++)
            pairs[j][i] = 0;
    }
    NO_UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int k = 0; k < 2; k++) {
            const int f = l * ROWS + warp_row + 8 * k;
            left_tile a;
            right_tile b;
            left_turned(&a, features_of(memory + AT_PHIK, l, warp_row), token, 8 * k);
            UNROLL
            for (int n = 0; n < NV8; n++) {
                right_rows(&b, memory + AT_DS, LDV, f, 8 * n);
                multiply(out[n], &a, &b);
            }
            UNROLL
            for (int j = 0; j < GROUPS; j++) {
                if (8 * j + 8 > token) {
                    right_turned(&b, features_of(memory + AT_PHIQ, l, warp_row), 8 * k, 8 * j);
                    multiply(pairs[j], &a, &b);
                }
            }
        }
    }
    UNROLL
    for (int j = 0; j < GROUPS; j++) {
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

/* dphi_k of one lane, of NG groups of tokens from `token` on: dS v' + dz + phi_q P. */
DEVICE void key_gradients(const float *memory, int l, int warp_row, int token, float (*dphi)[4])
{
    rows_times_tokens(dphi, NG, memory + AT_DS, LDV, DV8, l * ROWS + warp_row, memory + AT_V, token);
    UNROLL
    for (int k = 0; k < GROUPS; k++) {
        float phi_q[4];
        left_tile a;
        load_turned(phi_q, features_of(memory + AT_PHIQ, l, warp_row), 8 * k);
        left_accumulator(&a, phi_q);
        UNROLL
        for (int j = 0; j < NG; j++) {
            right_tile b;
            if (token + 8 * j > 8 * k)
                continue;
            right_rows(&b, memory + AT_P, LDP, 8 * k, token + 8 * j);
            multiply(dphi[j], &a, &b);
        }
    }
    UNROLL
    for (int j = 0; j < NG; j++)
        for (int i = 0; i < 4; i++)
            dphi[j][i] += shared_load(memory + AT_DZ + kept_row(l, warp_row, i / 2));
    if (MANY)
        warp_sync();
}

/* Keys of NG groups from `token` on, projections u, through their features; value: features without sign. */
DEVICE void take_keys(causal_rows *rows, const causal_side *k, const float *memory, float (*u)[NG][4],
                      int warp_row, const float *s, int lo, int hi, int token, float (*dphi)[NG][4],
                      tile_gradient *to)
{
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = token + column_of(j, i), row = i / 2;
            const int there = at >= lo && at < hi && shared_load(k->tile.bias + at) == 0;
            float projections[NP], tok[NTOK], logs[LANES], signs[LANES], value[LANES], d[LANES];
            float gu[NP];
            feature_at(k, u, j, i, at, projections, tok, logs, signs);
            UNROLL
            for (int l = 0; l < LANES; l++) {
                const float ref = shared_load(memory + AT_REF + kept_row(l, warp_row, row));
                value[l] = there && ref > -INFINITY ? exp_falling(logs[l] - ref) : 0;
                d[l] = dphi[l][j][i];
            }
            feature_gradient(projections, rows->norms[row], s, k->row[row], k->uni, tok,
                             memory + AT_T + at * TOKEN, d, value, signs, j, i, gu, to,
                             &rows->parameters);
            UNROLL
            for (int n = 0; n < NP; n++)
                to->u[n][j][i] += there ? gu[n] : 0;
            if (MANY)
                warp_sync();
        }
    }
}

/* Features of the segment of tokens lo to hi - 1 to shared memory, of keys, whose projections are u unless
 * MANY, and of queries. */
DEVICE void store_features(const causal_rows *rows, const causal_side *q, const causal_side *k,
                           float (*u)[NG][4], float *memory, int warp_row, int lo, int hi)
{
    const float *ref = memory + AT_REF;
    float u_q[NP][NG][4], value[LANES][4];
    NO_UNROLL
    for (int token = 0; token < TB; token += 8 * NG) {
        if (MANY)
            project(u, k, memory + AT_W, memory + AT_W2, warp_row, token);
        UNROLL
        for (int j = 0; j < NG; j++) {
            key_features(k, u, rows->there, warp_row, ref, token, j, lo, hi, TB, value);
            UNROLL
            for (int l = 0; l < LANES; l++)
                store_turned(features_of(memory + AT_PHIK, l, warp_row), 0, token + 8 * j, value[l]);
        }
        project(u_q, q, memory + AT_W, memory + AT_W2, warp_row, token);
        UNROLL
        for (int j = 0; j < NG; j++) {
            query_features(rows, q, u_q, memory, warp_row, token, j, lo, hi, value);
            UNROLL
            for (int l = 0; l < LANES; l++)
                store_turned(features_of(memory + AT_PHIQ, l, warp_row), 0, token + 8 * j, value[l]);
        }
    }
    warp_sync();
}

/* The segment of tokens lo to hi - 1: features to shared memory, the state's gradient to its references.
 * Then keys' gradients, and the segment's queries into the state's gradient. */
DEVICE void take_segment(causal_rows *rows, const causal_side *q, const causal_side *k, float *memory,
                         int warp_row, const float *s, unsigned starts, int lo, int hi,
                         const gradient_places *sums, tile_gradient *to)
{
    float u[NP][NG][4];
    if (!MANY)
        project(u, k, memory + AT_W, memory + AT_W2, warp_row, 0);
    segment_references(rows, k, u, memory, warp_row, starts, lo);
    store_features(rows, q, k, u, memory, warp_row, lo, hi);
    for (int token = 0; token < TB; token += 16)
        value_gradients(memory, warp_row, token);
    NO_UNROLL
    for (int token = 0; token < TB; token += 8 * NG) {
        float dphi[LANES][NG][4];
        if (MANY) {
            project(u, k, memory + AT_W, memory + AT_W2, warp_row, token);
            clear_gradient(to);
        }
        UNROLL
        for (int l = 0; l < LANES; l++)
            key_gradients(memory, l, warp_row, token, dphi[l]);
        take_keys(rows, k, memory, u, warp_row, s, lo, hi, token, dphi, to);
        if (MANY)
            add_tile_gradient(to, sums, warp_row, token);
    }
    warp_sync(); /* dS and dz were read by all of the warp */
    NO_UNROLL
    for (int l = 0; l < LANES; l++) {
        float phi_q[GROUPS][4];
        UNROLL
        for (int j = 0; j < GROUPS; j++)
            load_turned(phi_q[j], features_of(memory + AT_PHIQ, l, warp_row), 8 * j);
        add_sums(memory + AT_DZ, l, warp_row, phi_q, GROUPS, memory + AT_GDEN);
        add_rows(memory + AT_DS + (l * ROWS + warp_row) * LDV, phi_q, GROUPS, memory + AT_G, 0);
    }
}

/* A tile's references at its start. */
DEVICE void load_references(const causal_rows *rows, float *memory, int first, int warp_row,
                            const float *from)
{
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            const float *at = from + l * MP + first + warp_row + THREAD % 32 / 4 + 8 * i;
            if (THREAD % 4 == 0)
                shared_store(memory + AT_START + kept_row(l, warp_row, i),
                             rows->there[i] ? global_load(at) : -INFINITY);
        }
    }
}

/* The head's arrays to where they are kept, while tiles go by. */
DEVICE void keep_arrays(const attn_cuda_args *a, int64_t b, int64_t h, float *to)
{
    const head_rows q = rows_of(&a->q, a->q_begin, b, h), k = rows_of(&a->k, a->k_begin, b, h),
                    v = rows_of(&a->v, a->k_begin, b, h), go = rows_of(&a->go, a->q_begin, b, h),
                    gk = rows_of(&a->gk, a->k_begin, b, h), gv = rows_of(&a->gv, a->k_begin, b, h);
    keep_rows(to, &a->q, &q);
    keep_rows(to + KEPT_ROWS, &a->k, &k);
    keep_rows(to + 2 * KEPT_ROWS, &a->v, &v);
    keep_rows(to + 3 * KEPT_ROWS, &a->go, &go);
    keep_rows(to + 4 * KEPT_ROWS, &a->gk, &gk);
    keep_rows(to + 5 * KEPT_ROWS, &a->gv, &gv);
}

/* Asks for the tile that starts with `from`; odd: of the two places of k and of marks. */
DEVICE void stage_tile(const attn_cuda_args *a, float *memory, const byte *mask, int64_t from, int64_t to,
                       int odd)
{
    const float *kept = memory + AT_KEPT;
    byte *stage_q = (byte *)(memory + AT_STAGES) + 2 * STAGE_X, *stage_v = stage_q + STAGE_X;
    const head_rows q = kept_rows(kept, &a->q), k = kept_rows(kept + KEPT_ROWS, &a->k),
                    v = kept_rows(kept + 2 * KEPT_ROWS, &a->v),
                    go = kept_rows(kept + 3 * KEPT_ROWS, &a->go);
    stage_rows(&q, from, to, D, stage_q);
    stage_rows(&k, from, to, D, (byte *)(memory + AT_STAGES) + odd * STAGE_X);
    stage_rows(&v, from, to, DV, stage_v);
    stage_rows(&go, from, to, DV, stage_v + STAGE_V);
    mark_tokens(from, to, 0, memory + AT_BIASQ + odd * TB);
    mark_tokens(from, to, mask, memory + AT_BIASK + odd * TB);
}

TILED_KERNEL(attn_causal_keys_bwd, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
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
    keep_arrays(&args, b, h, memory + AT_KEPT);
    block_sync();
    if (begin < to)
        stage_tile(&args, memory, mask, from, to, 0);
    async_commit();
    load_vectors(params, memory + AT_VECTORS);
    load_linear(params, 1, memory + AT_LINEARQ);
    load_linear(params, 3, memory + AT_LINEARK);
    load_linear(params, 2, memory + AT_TRANSPOSED);
    load_matrices(&args, head, first, ROWS, memory + AT_W);
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
        load_references(&rows, memory, first, warp_row, args.refs + (head * args.tiles + tile) * F);
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
        if (from > begin)
            stage_tile(&args, memory, mask, from - TB, to, odd ^ 1);
        async_commit();
        gradient_pairs(memory + AT_G, memory + AT_V, memory + AT_GDEN, memory + AT_P);
        block_sync();
        clear_gradient(&gradient);
        if (MANY)
            clear_tile(&places, warp_row);
        for (int lo = TB, hi; lo > 0;) {
            hi = lo--;
            while (!(starts >> lo & 1))
                lo--;
            if (hi < TB)
                block_sync(); /* the values' gradients were read by all */
            take_segment(&rows, &side_q, &side_k, memory, warp_row, s, starts, lo, hi, &places,
                         &gradient);
            block_sync();
            const head_rows gv = kept_rows(memory + AT_KEPT + 5 * KEPT_ROWS, &args.gv);
            store_values(memory, &gv, part_v, from, to, lo, hi);
        }
        if (!MANY)
            store_tile_gradient(&gradient, &places, warp_row, 0);
        block_sync();
        mapped_gradients(memory + AT_DU, memory + AT_W, memory + AT_GX);
        block_sync();
        const head_rows gk = kept_rows(memory + AT_KEPT + 4 * KEPT_ROWS, &args.gk);
        store_gradients(1, stage, args.scale, memory + AT_VECTORS, memory + AT_LINEARK,
                        memory + AT_TRANSPOSED, memory + AT_GX, memory + AT_GX2, memory + AT_SUMS,
                        side_k.tile.bias, &gk, part_k, from, to);
    }
    if (LEARN) {
        block_sync();
        store_parameters(&args, head, first, warp_row, memory + AT_DW, memory + AT_SUMS, &rows.parameters, args.dscalars_k, args.dw_k);
    }
}
