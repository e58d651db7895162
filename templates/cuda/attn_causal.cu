/* Causal linear attention, forward: blocks (splits of the sequence, heads, row blocks) of KW warps. The
 * states of earlier splits, made by attn_keys, are merged into the first state. Each warp answers the
 * tile's queries from its own rows: a numerator, a denominator and the largest log, which the warps then
 * put together, as attn_combine does for row blocks. */
#include "stub.cuh"

#include "tile.cuh"

enum { KEYS_PASS = 0 };

#include "causal.cuh"

enum {
    HALVES = MANY ? 1 : 2, /* of the warp's rows, whose products with queries are there together */
    AT_KEPT = 0,
    AT_W = 4 * KEPT_ROWS,
    AT_W2 = AT_W + ROWS * LDX,
    AT_S = AT_W2 + (NP > 1 ? ROWS * LDX : 0),
    AT_REF = AT_S + FB * LDV,
    AT_Z = AT_REF + FB,
    AT_XQ = AT_Z + FB,
    AT_XQ2 = AT_XQ + PARTS * TB * LDX,
    AT_XK = AT_XQ2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_XK2 = AT_XK + PARTS * TB * LDX,
    AT_V = AT_XK2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_PHI = AT_V + PARTS * TB * LDV, /* of keys */
    AT_OUT = AT_PHI + FB * TB,        /* (KW, TB, LDV) */
    AT_TOP = AT_OUT + KW * TB * LDV,  /* (KW, TB) */
    AT_DEN = AT_TOP + KW * TB,
    AT_ENDS = AT_DEN + KW * TB, /* (KW) of the segment */
    AT_ROWS = AT_ENDS + (KW + 3) / 4 * 4, /* (ROWS, NROW) of queries, and their weights (ROWS) */
    AT_WEIGHT = AT_ROWS + ROWS * NROW,
    AT_TOKQ = AT_WEIGHT + ROWS,
    AT_TOKK = AT_TOKQ + (TB * NTOK + 3) / 4 * 4,
    AT_BIASQ = AT_TOKK + (TB * NTOK + 3) / 4 * 4,
    AT_BIASK = AT_BIASQ + 2 * TB,
    AT_VECTORS = AT_BIASK + 2 * TB,
    AT_LINEARQ = AT_VECTORS + NV * D8,
    AT_LINEARK = AT_LINEARQ + (LINEAR ? D8 * LDX : 0),
    AT_STAGES = AT_LINEARK + (LINEAR ? D8 * LDX : 0),
    STAGE = TB * STAGE_ROW(D), /* bytes */
    AT_END = AT_STAGES + (2 * STAGE + TB * STAGE_ROW(DV)) / 4
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_causal");

/* Row of W, of the warp's 16, of element i of accumulator n with tokens down. */
DEVICE int query_row(int n, int i)
{
    return 8 * n + 2 * (THREAD % 4) + i % 2;
}

/* there: of rows g and g + 8 of the warp's. */
DEVICE void start_rows(const attn_cuda_args *a, int64_t head, int first, int warp_row, const float *params,
                       float *memory, causal_side *q, causal_side *k, int *there)
{
    float norms[2][NW], row[NROW], s[S1];
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int r = first + warp_row + THREAD % 32 / 4 + 8 * i;
        row_norms(a, head, r, norms[i]);
        there[i] = r < M;
    }
    start_side(k, 1, params, norms, s);
    load_scalars(params, 0, s, q->uni);
    for (int i = THREAD; i < ROWS; i += THREADS) {
        row_norms(a, head, first + i, norms[0]);
        phi_row(norms[0], q->uni, row);
        for (int n = 0; n < NROW; n++)
            shared_store(memory + AT_ROWS + i * NROW + n, row[n]);
        shared_store(memory + AT_WEIGHT + i, weight_of(a, first + i));
    }
}

/* Projections of 16 queries from `token` by HALVES times 8 rows of W from 8 `half` of the warp's on. */
DEVICE void project_queries(const causal_side *q, const float *memory, int warp_row, int token, int half,
                            float (*u)[HALVES][4])
{
    const int row = warp_row + 8 * half;
    tokens_times_rows(u[0], HALVES, q->tile.x, memory + AT_W, token, row);
    if (NP > 1)
        tokens_times_rows(u[NP - 1], HALVES, q->tile.second, memory + AT_W2, token, row);
}

/* Logs and signs of element i of accumulator n of these, whose row of the block is `row`. */
DEVICE void query_logs(const causal_side *q, const float *memory, int row, int token,
                       float (*u)[HALVES][4], int n, int i, float *logs, float *signs)
{
    const float *from = q->tile.tok + (token + THREAD % 32 / 4 + 8 * (i / 2)) * NTOK;
    float projections[NP], tok[NTOK], hoisted[NROW];
    UNROLL
    for (int k = 0; k < NTOK; k++)
        tok[k] = shared_load(from + k);
    UNROLL
    for (int k = 0; k < NROW; k++)
        hoisted[k] = shared_load(memory + AT_ROWS + row * NROW + k);
    UNROLL
    for (int k = 0; k < NP; k++)
        projections[k] = u[k][n][i];
    phi(projections, hoisted, q->uni, tok, logs, signs);
    UNROLL
    for (int l = 0; l < LANES; l++)
        logs[l] += shared_load(memory + AT_REF + l * ROWS + row);
    if (MANY)
        warp_sync();
}

/* The largest logs of the queries g and g + 8 of the tile's 16 from `token`; finite. */
DEVICE void largest_logs(const causal_side *q, const float *memory, int warp_row, int token,
                         float (*u)[HALVES][4], float *top)
{
    float logs[LANES], signs[LANES];
    top[0] = top[1] = -3.4028234e38f; /* with no key all logs are -inf */
    NO_UNROLL
    for (int half = 0; half < 2; half += HALVES) {
        project_queries(q, memory, warp_row, token, half, u);
        UNROLL
        for (int n = 0; n < HALVES; n++) {
            UNROLL
            for (int i = 0; i < 4; i++) {
                query_logs(q, memory, warp_row + query_row(half + n, i), token, u, n, i, logs, signs);
                UNROLL
                for (int l = 0; l < LANES; l++)
                    top[i / 2] = real_max(top[i / 2], logs[l]);
            }
        }
    }
    top[0] = quad_max(top[0]);
    top[1] = quad_max(top[1]);
}

/* Features of 16 queries from `token` for rows of accumulator n, tokens down; den gets their products with
 * the state's z. */
DEVICE void query_features(const causal_side *q, const float *memory, int warp_row, int token,
                           float (*u)[HALVES][4], int half, int n, const float *top,
                           float (*feature)[4], float *den)
{
    UNROLL
    for (int i = 0; i < 4; i++) {
        const int row = warp_row + query_row(half + n, i);
        const float weight = shared_load(memory + AT_WEIGHT + row);
        float logs[LANES], signs[LANES];
        query_logs(q, memory, row, token, u, n, i, logs, signs);
        UNROLL
        for (int l = 0; l < LANES; l++) {
            const float value = weight * exp_falling(logs[l] - top[i / 2]);
            feature[l][i] = SIGNED ? value * signs[l] : value;
            den[i / 2] += feature[l][i] * shared_load(memory + AT_Z + l * ROWS + row);
        }
    }
}

/* The warp's share of what 16 queries from `token` get: of the state, and features' products with the
 * tile's keys; den: of the state's z. */
DEVICE void ask_state(const causal_side *q, const float *memory, int warp_row, int token,
                      float (*out)[4], float (*pairs)[4], float *top, float *den)
{
    float u[NP][HALVES][4], feature[LANES][4];
    largest_logs(q, memory, warp_row, token, u, top);
    NO_UNROLL
    for (int half = 0; half < 2; half += HALVES) {
        if (MANY)
            project_queries(q, memory, warp_row, token, half, u);
        UNROLL
        for (int k = 0; k < HALVES; k++) {
            query_features(q, memory, warp_row, token, u, half, k, top, feature, den);
            UNROLL
            for (int l = 0; l < LANES; l++) {
                const int f = l * ROWS + warp_row + 8 * (half + k);
                left_tile a;
                right_tile b;
                left_accumulator(&a, feature[l]);
                UNROLL
                for (int n = 0; n < NV8; n++) {
                    right_rows(&b, memory + AT_S, LDV, f, 8 * n);
                    multiply(out[n], &a, &b);
                }
                UNROLL
                for (int j = 0; j < GROUPS; j++) {
                    if (8 * j >= token + 16)
                        continue;
                    right_turned(&b, features_of(memory + AT_PHI, l, warp_row), 8 * (half + k), 8 * j);
                    multiply(pairs[j], &a, &b);
                }
            }
        }
    }
}

/* What 16 queries from `token` get of the warp's rows. */
DEVICE void answer(const causal_side *q, float *memory, int warp_row, int token)
{
    const int g = THREAD % 32 / 4, warp = THREAD / 32;
    float out[NV8][4], pairs[GROUPS][4], top[2], den[2] = {0, 0};
    UNROLL
    for (int i = 0; i < 4; i++) {
        for (int n = 0; n < NV8; n++)
            out[n][i] = 0;
        for (int j = 0; j < GROUPS; j++)
            pairs[j][i] = 0;
    }
    ask_state(q, memory, warp_row, token, out, pairs, top, den);
    UNROLL
    for (int j = 0; j < GROUPS; j++) {
        left_tile a;
        UNROLL
        for (int i = 0; i < 4; i++) {
            if (column_of(j, i) > token + g + 8 * (i / 2))
                pairs[j][i] = 0;
            den[i / 2] += pairs[j][i];
        }
        if (8 * j >= token + 16)
            continue;
        left_accumulator(&a, pairs[j]);
        UNROLL
        for (int n = 0; n < NV8; n++) {
            right_tile b;
            right_planes(&b, memory + AT_V, TB * LDV, LDV, 8 * j, 8 * n);
            multiply(out[n], &a, &b);
        }
    }
    UNROLL
    for (int n = 0; n < NV8; n++)
        store_accumulator(out[n], memory + AT_OUT + (warp * TB + token) * LDV + 8 * n, LDV);
    UNROLL
    for (int i = 0; i < 2; i++) {
        const float sum = quad_sum(den[i]);
        if (THREAD % 4 == 0) {
            shared_store(memory + AT_TOP + warp * TB + token + g + 8 * i, top[i]);
            shared_store(memory + AT_DEN + warp * TB + token + g + 8 * i, sum);
        }
    }
}

/* Puts the warps' answers together, tokens lo to hi of the tile that starts with `from`. */
DEVICE void store_answers(const attn_cuda_args *a, const float *memory, const head_rows *o, int64_t head,
                          int64_t den_row, int64_t from, int64_t to, int lo, int hi)
{
    const int64_t part = (BLOCK_Z * a->B * a->H + head) * a->T;
    for (int i = THREAD; i < TB * (DV8 / 4); i += THREADS) {
        const int token = i / (DV8 / 4), c = i % (DV8 / 4) * 4;
        const int64_t t = from + token;
        float top = -3.4028234e38f, den = 0, four[4] = {0, 0, 0, 0};
        if (token < lo || token >= hi || t >= to)
            continue;
        UNROLL
        for (int w = 0; w < KW; w++)
            top = real_max(top, shared_load(memory + AT_TOP + w * TB + token));
        UNROLL
        for (int w = 0; w < KW; w++) {
            const float factor = exp_falling(shared_load(memory + AT_TOP + w * TB + token) - top);
            const float4 x = shared_load4(memory + AT_OUT + (w * TB + token) * LDV + c);
            four[0] += factor * x.x;
            four[1] += factor * x.y;
            four[2] += factor * x.z;
            four[3] += factor * x.w;
            den += factor * shared_load(memory + AT_DEN + w * TB + token);
        }
        if (c == 0) {
            global_store(ROW_BLOCKS > 1 ? a->den_part + part + t : a->den + den_row + t, den);
            global_store(ROW_BLOCKS > 1 ? a->top_part + part + t : a->top + den_row + t, top);
        }
        if (ROW_BLOCKS > 1) {
            for (int k = 0; k < 4 && c + k < DV; k++)
                global_store(a->o_part + (part + t) * DV + c + k, four[k]);
        } else if (c < DV) {
            const float inverse = den != 0 ? 1 / den : 0;
            for (int k = 0; k < 4; k++)
                four[k] *= inverse;
            store_row4(o, t, c, DV, four);
        }
    }
}

/* The segment's keys, those before token hi, into the state of the warp's rows. */
DEVICE void keep_keys(float *memory, int warp_row, int hi)
{
    NO_UNROLL
    for (int l = 0; l < LANES; l++) {
        float feature[GROUPS][4];
        load_keys(memory + AT_PHI, l, warp_row, hi, feature);
        add_sums(memory + AT_Z, l, warp_row, feature, GROUPS, 0);
        add_rows(memory + AT_S + (l * ROWS + warp_row) * LDV, feature, GROUPS, memory + AT_V, 0);
    }
}

/* The head's arrays to where they are kept, while tiles go by. */
DEVICE void keep_arrays(const attn_cuda_args *a, int64_t b, int64_t h, float *to)
{
    const head_rows q = rows_of(&a->q, a->q_begin, b, h), k = rows_of(&a->k, a->k_begin, b, h),
                    v = rows_of(&a->v, a->k_begin, b, h), o = rows_of(&a->o, a->q_begin, b, h);
    keep_rows(to, &a->q, &q);
    keep_rows(to + KEPT_ROWS, &a->k, &k);
    keep_rows(to + 2 * KEPT_ROWS, &a->v, &v);
    keep_rows(to + 3 * KEPT_ROWS, &a->o, &o);
}

/* Asks for the tile that starts with `from`; odd: of the two places of marks. */
DEVICE void stage_tile(const attn_cuda_args *a, float *memory, const byte *mask, int64_t from, int64_t to,
                       int odd)
{
    const float *kept = memory + AT_KEPT;
    byte *stage = (byte *)(memory + AT_STAGES);
    const head_rows q = kept_rows(kept, &a->q), k = kept_rows(kept + KEPT_ROWS, &a->k),
                    v = kept_rows(kept + 2 * KEPT_ROWS, &a->v);
    stage_rows(&q, from, to, D, stage);
    stage_rows(&k, from, to, D, stage + STAGE);
    stage_rows(&v, from, to, DV, stage + 2 * STAGE);
    mark_tokens(from, to, 0, memory + AT_BIASQ + odd * TB);
    mark_tokens(from, to, mask, memory + AT_BIASK + odd * TB);
}

TILED_KERNEL(attn_causal, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    byte *stage_q = (byte *)(memory + AT_STAGES), *stage_k = stage_q + STAGE, *stage_v = stage_k + STAGE;
    const int64_t head = BLOCK_Y, b = head / args.H, h = head % args.H;
    const int first = (int)BLOCK_Z * ROWS, warp_row = THREAD / 32 * 16;
    const float *params = args.params + head * args.params_stride;
    const int64_t n = args.q_len ? args.q_len[b] : args.T;
    const int64_t den_row = h * args.den_rows + (args.q_begin ? args.q_begin[b] : b * args.T);
    const byte *mask = args.mask ? args.mask + (args.k_begin ? args.k_begin[b] : b * args.S) : 0;
    int64_t from, to;
    split_range(n, args.q_splits, BLOCK, SPLIT, &from, &to);
    if (from >= to)
        return;
    const key_places places = {memory + AT_W, memory + AT_W2, memory + AT_REF, memory + AT_S,
                               memory + AT_Z, 0,              memory + AT_PHI};
    causal_side side_q, side_k;
    int there[2];
    keep_arrays(&args, b, h, memory + AT_KEPT);
    block_sync();
    stage_tile(&args, memory, mask, from, to, 0);
    async_commit();
    load_vectors(params, memory + AT_VECTORS);
    load_linear(params, 1, memory + AT_LINEARQ);
    load_linear(params, 3, memory + AT_LINEARK);
    load_matrices(&args, head, first, ROWS, memory + AT_W);
    load_prefix(&args, head, BLOCK, first, memory + AT_REF, memory + AT_Z, memory + AT_S);
    start_rows(&args, head, first, warp_row, params, memory, &side_q, &side_k, there);
    place_tile(&side_q.tile, memory + AT_XQ, memory + AT_XQ2, memory + AT_TOKQ, 0);
    place_tile(&side_k.tile, memory + AT_XK, memory + AT_XK2, memory + AT_TOKK, 0);
    for (int odd = 0; from < to; from += TB, odd ^= 1) {
        side_q.tile.bias = memory + AT_BIASQ + odd * TB;
        side_k.tile.bias = memory + AT_BIASK + odd * TB;
        async_wait(0);
        block_sync();
        map_tile(stage_q, 0, args.scale, memory + AT_VECTORS, memory + AT_LINEARQ, side_q.uni,
                 &side_q.tile);
        map_tile(stage_k, 1, args.scale, memory + AT_VECTORS, memory + AT_LINEARK, side_k.uni,
                 &side_k.tile);
        plain_tile(stage_v, DV, 0, DV8, LDV, side_k.tile.bias, memory + AT_V);
        block_sync();
        if (from + TB < to)
            stage_tile(&args, memory, mask, from + TB, to, odd ^ 1);
        async_commit();
        for (int lo = 0, hi; lo < TB; lo = hi) {
            const int end = read_keys(&side_k, &places, there, warp_row, lo);
            if (lo > 0)
                block_sync(); /* what follows is still read */
            if (THREAD % 32 == 0)
                shared_store(memory + AT_ENDS + THREAD / 32, (float)end);
            warp_sync();
            for (int token = 0; token < TB; token += 16)
                answer(&side_q, memory, warp_row, token);
            block_sync();
            hi = TB;
            for (int w = 0; w < KW; w++) {
                const int other = (int)shared_load(memory + AT_ENDS + w);
                hi = other < hi ? other : hi;
            }
            const head_rows o = kept_rows(memory + AT_KEPT + 3 * KEPT_ROWS, &args.o);
            store_answers(&args, memory, &o, head, den_row, from, to, lo, hi);
            keep_keys(memory, warp_row, hi);
        }
    }
}
