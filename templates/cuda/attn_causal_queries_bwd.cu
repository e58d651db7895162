/* Causal linear attention, backward, queries: blocks (splits of the sequence, heads, row blocks) of KW
 * warps. The keys are read again with the queries, so that the state before each tile is there. It leaves
 * what attn_causal_keys_bwd needs: references and segments of every tile, gden, and the gradient of the
 * state before the split, by the references of that state. */
#include "stub.cuh"

#include "tile.cuh"

enum { KEYS_PASS = 0 };

#include "causal.cuh"

enum {
    IN_REGISTERS = LANES * NV8 <= 4, /* the sums of dS; else in shared memory */
    KEPT = IN_REGISTERS ? NV8 : 1,
    AT_W = 0,
    AT_W2 = AT_W + ROWS * LDX,
    AT_S = AT_W2 + (NP > 1 ? ROWS * LDX : 0),
    AT_DS = AT_S + FB * LDV,
    AT_REF = AT_DS + (IN_REGISTERS ? 0 : FB * LDV),
    AT_Z = AT_REF + FB,
    AT_XQ = AT_Z + FB,
    AT_XQ2 = AT_XQ + PARTS * TB * LDX,
    AT_XK = AT_XQ2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_XK2 = AT_XK + PARTS * TB * LDX,
    AT_V = AT_XK2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_G = AT_V + PARTS * TB * LDV,
    AT_GX = AT_XQ, /* once the planes are used up */
    AT_GX2 = AT_XQ2,
    AT_P = AT_G + PARTS * TB * LDV,
    AT_DU = AT_P + TB * LDP,
    AT_DU2 = AT_DU + ROWS * TB,
    AT_SUMS = AT_DU2 + (NP > 1 ? ROWS * TB : 0),
    AT_GDEN = AT_SUMS + KW * SUMS * TB,
    AT_TOP = AT_GDEN + TB,
    AT_ENDS = AT_TOP + TB, /* (KW) of the segment */
    AT_TOKQ = AT_ENDS + (KW + 3) / 4 * 4,
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
    STAGE_X = TB * STAGE_ROW(D), /* bytes; two of q, one of the others */
    STAGE_V = TB * STAGE_ROW(DV),
    AT_END = AT_STAGES + (3 * STAGE_X + 3 * STAGE_V) / 4
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_causal_queries_bwd");

/* What a lane keeps of its rows g and g + 8; shrink: of references since the split began. */
typedef struct causal_rows {
    int there[2];
    float norms[2][NW], weight[2];
    float ref[LANES][2], z[LANES][2], dz[LANES][2], shrink[LANES][2];
    float dS[LANES][KEPT][4];
    parameter_sums parameters;
    float gweight[2];
} causal_rows;

DEVICE void start_rows(const attn_cuda_args *a, int64_t head, int first, int warp_row, float *memory,
                       causal_rows *rows)
{
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int row = warp_row + THREAD % 32 / 4 + 8 * i, r = first + row;
        row_norms(a, head, r, rows->norms[i]);
        rows->there[i] = r < M;
        rows->weight[i] = weight_of(a, r);
        rows->gweight[i] = 0;
        UNROLL
        for (int l = 0; l < LANES; l++) {
            rows->ref[l][i] = shared_load(memory + AT_REF + l * ROWS + row);
            rows->z[l][i] = shared_load(memory + AT_Z + l * ROWS + row);
            rows->shrink[l][i] = rows->ref[l][i] > -INFINITY ? 1 : 0;
            rows->dz[l][i] = 0;
        }
    }
    clear_parameters(&rows->parameters);
    UNROLL
    for (int l = 0; l < LANES; l++)
        for (int n = 0; n < KEPT; n++)
            for (int i = 0; i < 4; i++)
                rows->dS[l][n][i] = 0;
    for (int i = THREAD; !IN_REGISTERS && i < FB * LDV; i += THREADS)
        shared_store(memory + AT_DS + i, 0);
    for (int i = THREAD; LEARN && i < ROWS * LDX; i += THREADS)
        shared_store(memory + AT_DW + i, 0);
}

/* References of the warp's rows at the start of a tile. */
DEVICE void store_references(const causal_rows *rows, int row, float *to)
{
    UNROLL
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 2; i++)
            if (THREAD % 4 == 0 && row + 8 * i < MP)
                global_store(to + l * MP + row + 8 * i, rows->ref[l][i]);
}

/* Logs of the segment's keys, the state to the raised references. Returns the first token that has to
 * begin a segment, as far as the warp sees. */
DEVICE int read_keys(causal_rows *rows, const causal_side *k, float *memory, int warp_row, int lo,
                     float (*log)[NG][4], float (*sign)[NG][4])
{
    float u[NP][NG][4];
    int end = TB;
    project(u, k, memory + AT_W, memory + AT_W2, warp_row);
    key_logs(k, u, rows->there, lo, log, sign);
    UNROLL
    for (int l = 0; l < LANES; l++) {
        float factor[2];
        const int own = raise_reference(log[l], lo, rows->ref[l], factor);
        end = own < end ? own : end;
        scale_rows(memory + AT_S + (l * ROWS + warp_row) * LDV, factor);
        UNROLL
        for (int i = 0; i < 2; i++) {
            rows->z[l][i] *= factor[i];
            rows->shrink[l][i] *= factor[i];
        }
    }
    return warp_min(end);
}

/* Logs of keys to features of the segment's keys, those before token hi. */
DEVICE void segment_values(float (*log)[4], float (*sign)[4], const float *ref, int hi)
{
    key_values(log, sign, ref);
    UNROLL
    for (int j = 0; j < NG; j++)
        for (int i = 0; i < 4; i++)
            log[j][i] = column_of(j, i) < hi ? log[j][i] : 0;
}

/* dphi_q of one lane, but for z: S g' + phi_k P'. */
DEVICE void query_gradients(const float *memory, int f, float (*phi_k)[4], float (*dphi)[4])
{
    rows_times_tokens(dphi, NG, memory + AT_S, LDV, DV8, f, memory + AT_G, 0);
    UNROLL
    for (int k = 0; k < NG; k++) {
        left_tile a;
        left_accumulator(&a, phi_k[k]);
        UNROLL
        for (int j = k; j < NG; j++) {
            right_tile b;
            right_pairs(&b, memory + AT_P, LDP, 8 * j, 8 * k);
            multiply(dphi[j], &a, &b);
        }
    }
}

/* dS of the warp's rows += phi_q g, of one lane. */
DEVICE void add_state(causal_rows *rows, float *memory, int l, int warp_row, float (*feature)[4])
{
    if (!IN_REGISTERS) {
        add_rows(memory + AT_DS + (l * ROWS + warp_row) * LDV, feature, memory + AT_G);
        return;
    }
    UNROLL
    for (int j = 0; j < NG; j++) {
        left_tile a;
        left_accumulator(&a, feature[j]);
        UNROLL
        for (int n = 0; n < NV8; n++) {
            right_tile b;
            right_planes(&b, memory + AT_G, TB * LDV, LDV, 8 * j, 8 * n);
            multiply(rows->dS[l][n % KEPT], &a, &b);
        }
    }
}

/* Queries lo to hi - 1 of the tile. dphi comes in, and goes out as features for the state before the
 * split. */
DEVICE void take_queries(causal_rows *rows, const causal_side *q, const float *memory, int warp_row,
                         const float *s, int lo, int hi, float (*dphi)[NG][4], tile_gradient *to)
{
    float u[NP][NG][4];
    project(u, q, memory + AT_W, memory + AT_W2, warp_row);
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = column_of(j, i), row = i / 2;
            const int there = at >= lo && at < hi && shared_load(q->tile.bias + at) == 0;
            const float gden = shared_load(memory + AT_GDEN + at), top = shared_load(memory + AT_TOP + at);
            float projections[NP], tok[NTOK], logs[LANES], signs[LANES], value[LANES], d[LANES];
            float gu[NP];
            feature_at(q, u, j, i, projections, tok, logs, signs);
            UNROLL
            for (int l = 0; l < LANES; l++) {
                value[l] = there ? exp_falling(logs[l] + rows->ref[l][row] - top) : 0;
                d[l] = dphi[l][j][i] + rows->z[l][row] * gden;
                if (LEARN)
                    rows->gweight[row] += (SIGNED ? value[l] * signs[l] : value[l]) * d[l];
                d[l] *= rows->weight[row];
                dphi[l][j][i] = rows->weight[row] * rows->shrink[l][row] *
                                (SIGNED ? value[l] * signs[l] : value[l]);
                rows->dz[l][row] += dphi[l][j][i] * gden;
            }
            feature_gradient(projections, rows->norms[row], s, q->row[row], q->uni, tok,
                             memory + AT_T + at * TOKEN, d, value, signs, j, i, gu, to,
                             &rows->parameters);
            UNROLL
            for (int k = 0; k < NP; k++)
                to->u[k][j][i] += there ? gu[k] : 0;
        }
    }
}

/* One segment, from token lo, of the tile; returns its end. */
DEVICE int take_segment(causal_rows *rows, const causal_side *q, const causal_side *k, float *memory,
                        int warp_row, const float *s, int lo, tile_gradient *to)
{
    float phi_k[LANES][NG][4], sign[SIGNS][NG][4], dphi[LANES][NG][4];
    int hi = read_keys(rows, k, memory, warp_row, lo, phi_k, sign);
    if (THREAD % 32 == 0)
        shared_store(memory + AT_ENDS + THREAD / 32, (float)hi);
    block_sync();
    for (int w = 0; w < KW; w++) {
        const int other = (int)shared_load(memory + AT_ENDS + w);
        hi = other < hi ? other : hi;
    }
    UNROLL
    for (int l = 0; l < LANES; l++) {
        segment_values(phi_k[l], sign[l % SIGNS], rows->ref[l], hi);
        query_gradients(memory, l * ROWS + warp_row, phi_k[l], dphi[l]);
    }
    take_queries(rows, q, memory, warp_row, s, lo, hi, dphi, to);
    warp_sync(); /* S was read by all of the warp */
    UNROLL
    for (int l = 0; l < LANES; l++) {
        add_state(rows, memory, l, warp_row, dphi[l]);
        add_rows(memory + AT_S + (l * ROWS + warp_row) * LDV, phi_k[l], memory + AT_V);
        UNROLL
        for (int i = 0; i < 2; i++) {
            float sum = 0;
            for (int j = 0; j < NG; j++)
                sum += phi_k[l][j][2 * i] + phi_k[l][j][2 * i + 1];
            rows->z[l][i] += quad_sum(sum);
        }
    }
    if (hi < TB)
        block_sync(); /* the segment's end was read by all */
    return hi;
}

/* The warp's share of the gradient of the state before the split. */
DEVICE void store_state(causal_rows *rows, const float *memory, int first, int warp_row, float *to)
{
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            const int r = first + warp_row + THREAD % 32 / 4 + 8 * i;
            const float dz = quad_sum(rows->dz[l][i]);
            if (THREAD % 4 == 0 && r < MP)
                global_store(to + l * MP + r, dz);
        }
        const int r = first + warp_row + pair_row();
        UNROLL
        for (int n = 0; n < NV8; n++) {
            float sum[4], four[4];
            if (IN_REGISTERS)
                for (int i = 0; i < 4; i++)
                    sum[i] = rows->dS[l][n % KEPT][i];
            else
                load_accumulator(sum, memory + AT_DS + (l * ROWS + warp_row) * LDV + 8 * n, LDV);
            exchange_pairs(sum, four);
            if (r < MP)
                global_store4(to + F + (int64_t)(l * MP + r) * DV8 + 8 * n + pair_column(),
                              make_float4(four[0], four[1], four[2], four[3]));
        }
    }
}

DEVICE void store_weights(const causal_rows *rows, int row, float *to)
{
    UNROLL
    for (int i = 0; i < 2; i++) {
        const float sum = quad_sum(rows->gweight[i]);
        if (THREAD % 4 == 0 && row + 8 * i < M)
            global_store(to + row + 8 * i, sum);
    }
}

KERNEL(attn_causal_queries_bwd, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    byte *stage_q = (byte *)(memory + AT_STAGES), *stage_k = stage_q + 2 * STAGE_X,
         *stage_v = stage_k + STAGE_X, *stage_o = stage_v + STAGE_V, *stage_go = stage_o + STAGE_V;
    const int64_t head = BLOCK_Y, b = head / args.H, h = head % args.H, heads = args.B * args.H;
    const int first = (int)BLOCK_Z * ROWS, warp_row = THREAD / 32 * 16;
    const float *params = args.params + head * args.params_stride;
    const int64_t n = args.q_len ? args.q_len[b] : args.T;
    const int64_t den_row = h * args.den_rows + (args.q_begin ? args.q_begin[b] : b * args.T);
    const byte *mask = args.mask ? args.mask + (args.k_begin ? args.k_begin[b] : b * args.S) : 0;
    const head_rows q = rows_of(&args.q, args.q_begin, b, h), k = rows_of(&args.k, args.k_begin, b, h),
                    v = rows_of(&args.v, args.k_begin, b, h), o = rows_of(&args.o, args.q_begin, b, h),
                    go = rows_of(&args.go, args.q_begin, b, h),
                    gq = rows_of(&args.gq, args.q_begin, b, h);
    float *part = args.gq_part + (BLOCK_Z * heads + head) * args.T * D;
    int64_t from, to;
    split_range(n, args.q_splits, BLOCK, SPLIT, &from, &to);

    const gradient_places places = {memory + AT_DU, memory + AT_DU2, memory + AT_SUMS,
                                    memory + AT_DW, memory + AT_XQ, memory + AT_XQ2};
    float s[S1];
    causal_side side_q, side_k;
    causal_rows rows;
    load_vectors(params, memory + AT_VECTORS);
    load_linear(params, 1, memory + AT_LINEARQ);
    load_linear(params, 3, memory + AT_LINEARK);
    load_linear(params, 0, memory + AT_TRANSPOSED);
    load_matrix(args.w + head * args.w_stride, first, ROWS, memory + AT_W);
    if (NP > 1)
        load_matrix(second_matrix(&args, head), first, ROWS, memory + AT_W2);
    if (from < to) {
        stage_rows(&q, from, to, D, stage_q);
        stage_rows(&k, from, to, D, stage_k);
        stage_rows(&v, from, to, DV, stage_v);
        stage_rows(&o, from, to, DV, stage_o);
        stage_rows(&go, from, to, DV, stage_go);
        mark_tokens(from, to, 0, memory + AT_BIASQ);
        mark_tokens(from, to, mask, memory + AT_BIASK);
    }
    async_commit();
    load_prefix(&args, head, BLOCK, first, memory + AT_REF, memory + AT_Z, memory + AT_S);
    block_sync();
    start_rows(&args, head, first, warp_row, memory, &rows);
    start_side(&side_k, 1, params, rows.norms, s);
    start_side(&side_q, 0, params, rows.norms, s);
    place_tile(&side_q.tile, memory + AT_XQ, memory + AT_XQ2, memory + AT_TOKQ,
               LEARN ? memory + AT_T : 0);
    place_tile(&side_k.tile, memory + AT_XK, memory + AT_XK2, memory + AT_TOKK, 0);
    for (int odd = 0; from < to; from += TB, odd ^= 1) {
        const int64_t tile = from / TB;
        byte *stage = stage_q + odd * STAGE_X;
        unsigned starts = 0;
        tile_gradient gradient;
        side_q.tile.bias = memory + AT_BIASQ + odd * TB;
        side_k.tile.bias = memory + AT_BIASK + odd * TB;
        async_wait(0);
        block_sync();
        map_tile(stage, 0, args.scale, memory + AT_VECTORS, memory + AT_LINEARQ, side_q.uni,
                 &side_q.tile);
        map_tile(stage_k, 1, args.scale, memory + AT_VECTORS, memory + AT_LINEARK, side_k.uni,
                 &side_k.tile);
        plain_tile(stage_v, DV, 0, DV8, LDV, side_k.tile.bias, memory + AT_V);
        token_gradients(&args, stage_go, stage_o, 1, den_row, from, side_q.tile.bias, memory + AT_G,
                        memory + AT_GDEN, memory + AT_TOP);
        block_sync();
        if (from + TB < to) {
            stage_rows(&q, from + TB, to, D, stage_q + (odd ^ 1) * STAGE_X);
            stage_rows(&k, from + TB, to, D, stage_k);
            stage_rows(&v, from + TB, to, DV, stage_v);
            stage_rows(&o, from + TB, to, DV, stage_o);
            stage_rows(&go, from + TB, to, DV, stage_go);
            mark_tokens(from + TB, to, 0, memory + AT_BIASQ + (odd ^ 1) * TB);
            mark_tokens(from + TB, to, mask, memory + AT_BIASK + (odd ^ 1) * TB);
        }
        async_commit();
        gradient_pairs(memory + AT_G, memory + AT_V, memory + AT_GDEN, memory + AT_P);
        store_references(&rows, first + warp_row + THREAD % 32 / 4,
                         args.refs + (head * args.tiles + tile) * F);
        clear_gradient(&gradient);
        for (int lo = 0; lo < TB;) {
            starts |= 1u << lo;
            lo = take_segment(&rows, &side_q, &side_k, memory, warp_row, s, lo, &gradient);
        }
        if (THREAD == 0) {
            unsigned *at = args.starts + (BLOCK_Z * heads + head) * args.tiles + tile;
            global_store((float *)at, as_float(starts));
        }
        store_tile_gradient(&gradient, &places, warp_row, 0);
        block_sync();
        tokens_from_rows(memory + AT_DU, memory + AT_W, ROWS, LDX, D8, memory + AT_GX);
        if (NP > 1)
            tokens_from_rows(memory + AT_DU2, memory + AT_W2, ROWS, LDX, D8, memory + AT_GX2);
        block_sync();
        store_gradients(0, stage, args.scale, memory + AT_VECTORS, memory + AT_LINEARQ,
                        memory + AT_TRANSPOSED, memory + AT_GX, memory + AT_GX2, memory + AT_SUMS,
                        side_q.tile.bias, &gq, part, from, to);
    }
    block_sync();
    store_state(&rows, memory, first, warp_row, args.dpart + (BLOCK * heads + head) * DSTATE);
    if (LEARN) {
        store_weights(&rows, first + warp_row + THREAD % 32 / 4, args.dweights + (BLOCK * heads + head) * M);
        store_parameters(&args, head, first, warp_row, memory + AT_DW, memory + AT_SUMS, &rows.parameters, args.dscalars, args.dw);
    }
}
