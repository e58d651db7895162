/* Causal linear attention, forward: blocks (splits of the sequence, heads, row blocks) of KW warps. The
 * states of earlier splits, made by attn_keys, are merged into the first state. Each warp answers the
 * tile's queries from its own rows: a numerator, a denominator and the largest log, which the warps then
 * put together, as attn_combine does for row blocks. */
#include "stub.cuh"

#include "tile.cuh"

enum { KEYS_PASS = 0 };

#include "causal.cuh"

enum {
    AT_W = 0,
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
    AT_TOKQ = AT_ENDS + (KW + 3) / 4 * 4,
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

/* What a lane keeps: of rows g and g + 8, and of rows 2t, 2t + 1, 2t + 8, 2t + 9. */
typedef struct causal_rows {
    int there[2];
    float ref[LANES][2], z[LANES][2];
    float query[4][NROW], weight[4];
} causal_rows;

DEVICE int query_row(int k)
{
    return 2 * (THREAD % 4) + k % 2 + k / 2 * 8;
}

DEVICE void start_rows(const attn_cuda_args *a, int64_t head, int first, int warp_row,
                       const float *params, causal_side *q, causal_side *k, causal_rows *rows)
{
    float norms[2][NW], s[S1];
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int r = first + warp_row + THREAD % 32 / 4 + 8 * i;
        row_norms(a, head, r, norms[i]);
        rows->there[i] = r < M;
    }
    start_side(k, 1, params, norms, s);
    load_scalars(params, 0, s, q->uni);
    UNROLL
    for (int i = 0; i < 4; i++) {
        const int r = first + warp_row + query_row(i);
        row_norms(a, head, r, norms[0]);
        phi_row(norms[0], q->uni, rows->query[i]);
        rows->weight[i] = weight_of(a, r);
    }
}

/* Features of the segment's keys to shared memory, the state to the raised references. Returns the first
 * token that has to begin a segment, as far as the warp sees. */
DEVICE int read_keys(causal_rows *rows, const causal_side *k, float *memory, int warp_row, int lo)
{
    float u[NP][NG][4], log[LANES][NG][4], sign[SIGNS][NG][4];
    int end = TB;
    project(u, k, memory + AT_W, memory + AT_W2, warp_row);
    key_logs(k, u, rows->there, lo, log, sign);
    UNROLL
    for (int l = 0; l < LANES; l++) {
        const int f = l * ROWS + warp_row;
        float factor[2];
        const int own = raise_reference(log[l], lo, rows->ref[l], factor);
        end = own < end ? own : end;
        scale_rows(memory + AT_S + f * LDV, factor);
        key_values(log[l], sign[l % SIGNS], rows->ref[l]);
        UNROLL
        for (int j = 0; j < NG; j++)
            store_turned(memory + AT_PHI, f, 8 * j, log[l][j]);
        UNROLL
        for (int i = 0; i < 2; i++) {
            const int at = f + THREAD % 32 / 4 + 8 * i;
            rows->z[l][i] *= factor[i];
            if (THREAD % 4 == 0) {
                shared_store(memory + AT_REF + at, rows->ref[l][i]);
                shared_store(memory + AT_Z + at, rows->z[l][i]);
            }
        }
    }
    return warp_min(end);
}

/* Logs of 16 queries from `token` and the warp's rows, tokens down, to features by the largest, `top`; den
 * gets their products with the state's z. */
DEVICE void query_features(const causal_rows *rows, const causal_side *q, const float *memory,
                           int warp_row, int token, float (*log)[2][4], float *top, float *den)
{
    const int g = THREAD % 32 / 4;
    float u[NP][2][4], sign[SIGNS][2][4], tok[2][NTOK];
    tokens_times_rows(u[0], 2, q->tile.x, memory + AT_W, token, warp_row);
    if (NP > 1)
        tokens_times_rows(u[NP - 1], 2, q->tile.second, memory + AT_W2, token, warp_row);
    UNROLL
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < NTOK; k++)
            tok[i][k] = shared_load(q->tile.tok + (token + g + 8 * i) * NTOK + k);
    top[0] = top[1] = -3.4028234e38f; /* finite: with no key all logs are -inf */
    UNROLL
    for (int n = 0; n < 2; n++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int k = 2 * n + i % 2, at = warp_row + query_row(k);
            float projections[NP], logs[LANES], signs[LANES];
            for (int p = 0; p < NP; p++)
                projections[p] = u[p][n][i];
            phi(projections, rows->query[k], q->uni, tok[i / 2], logs, signs);
            for (int l = 0; l < LANES; l++) {
                log[l][n][i] = logs[l] + shared_load(memory + AT_REF + l * ROWS + at);
                top[i / 2] = real_max(top[i / 2], log[l][n][i]);
                if (SIGNED)
                    sign[l % SIGNS][n][i] = signs[l];
            }
        }
    }
    top[0] = quad_max(top[0]);
    top[1] = quad_max(top[1]);
    den[0] = den[1] = 0;
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int n = 0; n < 2; n++) {
            UNROLL
            for (int i = 0; i < 4; i++) {
                const int k = 2 * n + i % 2, f = l * ROWS + warp_row + query_row(k);
                float value = rows->weight[k] * exp_falling(log[l][n][i] - top[i / 2]);
                if (SIGNED)
                    value *= sign[l % SIGNS][n][i];
                log[l][n][i] = value;
                den[i / 2] += value * shared_load(memory + AT_Z + f);
            }
        }
    }
}

/* What 16 queries from `token` get of the warp's rows. */
DEVICE void answer(const causal_rows *rows, const causal_side *q, float *memory, int warp_row, int token)
{
    const int g = THREAD % 32 / 4, warp = THREAD / 32;
    float phi_q[LANES][2][4], out[NV8][4], pairs[NG][4], top[2], den[2];
    query_features(rows, q, memory, warp_row, token, phi_q, top, den);
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
            left_accumulator(&a, phi_q[l][k]);
            UNROLL
            for (int n = 0; n < NV8; n++) {
                right_rows(&b, memory + AT_S, LDV, f, 8 * n);
                multiply(out[n], &a, &b);
            }
            UNROLL
            for (int j = 0; j < NG; j++) {
                if (8 * j < token + 16) {
                    right_turned(&b, memory + AT_PHI, f, 8 * j);
                    multiply(pairs[j], &a, &b);
                }
            }
        }
    }
    UNROLL
    for (int j = 0; j < NG; j++) {
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
DEVICE void keep_keys(causal_rows *rows, float *memory, int warp_row, int hi)
{
    const int g = THREAD % 32 / 4, t = THREAD % 4;
    UNROLL
    for (int l = 0; l < LANES; l++) {
        const int f = l * ROWS + warp_row;
        float feature[NG][4], sum[2] = {0, 0};
        UNROLL
        for (int j = 0; j < NG; j++) {
            const int at = 8 * j + 2 * t;
            const float2 upper = shared_load2(memory + AT_PHI + turned(f + g, at));
            const float2 lower = shared_load2(memory + AT_PHI + turned(f + g + 8, at));
            feature[j][0] = at < hi ? upper.x : 0;
            feature[j][1] = at + 1 < hi ? upper.y : 0;
            feature[j][2] = at < hi ? lower.x : 0;
            feature[j][3] = at + 1 < hi ? lower.y : 0;
            sum[0] += feature[j][0] + feature[j][1];
            sum[1] += feature[j][2] + feature[j][3];
        }
        rows->z[l][0] += quad_sum(sum[0]);
        rows->z[l][1] += quad_sum(sum[1]);
        add_rows(memory + AT_S + f * LDV, feature, memory + AT_V);
    }
}

KERNEL(attn_causal, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
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
    const head_rows q = rows_of(&args.q, args.q_begin, b, h), k = rows_of(&args.k, args.k_begin, b, h),
                    v = rows_of(&args.v, args.k_begin, b, h), o = rows_of(&args.o, args.q_begin, b, h);
    int64_t from, to;
    split_range(n, args.q_splits, BLOCK, SPLIT, &from, &to);
    if (from >= to)
        return;
    causal_side side_q, side_k;
    causal_rows rows;
    load_vectors(params, memory + AT_VECTORS);
    load_linear(params, 1, memory + AT_LINEARQ);
    load_linear(params, 3, memory + AT_LINEARK);
    load_matrix(args.w + head * args.w_stride, first, ROWS, memory + AT_W);
    if (NP > 1)
        load_matrix(second_matrix(&args, head), first, ROWS, memory + AT_W2);
    stage_rows(&q, from, to, D, stage_q);
    stage_rows(&k, from, to, D, stage_k);
    stage_rows(&v, from, to, DV, stage_v);
    mark_tokens(from, to, 0, memory + AT_BIASQ);
    mark_tokens(from, to, mask, memory + AT_BIASK);
    async_commit();
    load_prefix(&args, head, BLOCK, first, memory + AT_REF, memory + AT_Z, memory + AT_S);
    start_rows(&args, head, first, warp_row, params, &side_q, &side_k, &rows);
    block_sync();
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            const int f = l * ROWS + warp_row + THREAD % 32 / 4 + 8 * i;
            rows.ref[l][i] = shared_load(memory + AT_REF + f);
            rows.z[l][i] = shared_load(memory + AT_Z + f);
        }
    }
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
        if (from + TB < to) {
            stage_rows(&q, from + TB, to, D, stage_q);
            stage_rows(&k, from + TB, to, D, stage_k);
            stage_rows(&v, from + TB, to, DV, stage_v);
            mark_tokens(from + TB, to, 0, memory + AT_BIASQ + (odd ^ 1) * TB);
            mark_tokens(from + TB, to, mask, memory + AT_BIASK + (odd ^ 1) * TB);
        }
        async_commit();
        for (int lo = 0, hi; lo < TB; lo = hi) {
            const int end = read_keys(&rows, &side_k, memory, warp_row, lo);
            if (lo > 0)
                block_sync(); /* what follows is still read */
            if (THREAD % 32 == 0)
                shared_store(memory + AT_ENDS + THREAD / 32, (float)end);
            warp_sync();
            for (int token = 0; token < TB; token += 16)
                answer(&rows, &side_q, memory, warp_row, token);
            block_sync();
            hi = TB;
            for (int w = 0; w < KW; w++) {
                const int other = (int)shared_load(memory + AT_ENDS + w);
                hi = other < hi ? other : hi;
            }
            store_answers(&args, memory, &o, head, den_row, from, to, lo, hi);
            keep_keys(&rows, memory, warp_row, hi);
        }
    }
}
