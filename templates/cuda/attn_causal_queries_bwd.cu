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
    AT_KEPT = 0,
    AT_W = 6 * KEPT_ROWS,
    AT_W2 = AT_W + ROWS * LDX,
    AT_S = AT_W2 + (NP > 1 ? ROWS * LDX : 0),
    AT_DS = AT_S + FB * LDV,
    AT_REF = AT_DS + (IN_REGISTERS ? 0 : FB * LDV),
    AT_Z = AT_REF + FB,
    AT_DZ = AT_Z + FB,
    AT_SHRINK = AT_DZ + FB, /* of references since the split began */
    AT_XQ = AT_SHRINK + FB,
    AT_XQ2 = AT_XQ + PARTS * TB * LDX,
    AT_XK = AT_XQ2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_XK2 = AT_XK + PARTS * TB * LDX,
    AT_V = AT_XK2 + (NP > 1 ? PARTS * TB * LDX : 0),
    AT_G = AT_V + PARTS * TB * LDV,
    AT_GX = AT_XQ, /* once the planes are used up */
    AT_GX2 = AT_XQ2,
    AT_P = AT_G + PARTS * TB * LDV,
    AT_PHI = AT_P + TB * LDP, /* of keys */
    AT_DU = AT_PHI + (MANY ? FB * TB : 0), /* else once the features are used up */
    AT_DU2 = AT_DU + ROWS * TB,
    AT_SUMS = MANY || NP > LANES ? AT_DU + NP * ROWS * TB : AT_PHI + FB * TB,
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

/* What a lane keeps of its rows g and g + 8. */
typedef struct causal_rows {
    int there[2];
    float norms[2][NW], weight[2];
    float dS[LANES][KEPT][4];
    parameter_sums parameters;
    float gweight[2];
} causal_rows;

/* Behind load_prefix and a barrier. */
DEVICE void start_rows(const attn_cuda_args *a, int64_t head, int first, int warp_row, float *memory,
                       causal_rows *rows)
{
    UNROLL
    for (int i = 0; i < 2; i++) {
        const int r = first + warp_row + THREAD % 32 / 4 + 8 * i;
        row_norms(a, head, r, rows->norms[i]);
        rows->there[i] = r < M;
        rows->weight[i] = weight_of(a, r);
        rows->gweight[i] = 0;
    }
    clear_parameters(&rows->parameters);
    UNROLL
    for (int l = 0; l < LANES; l++)
        for (int n = 0; n < KEPT; n++)
            for (int i = 0; i < 4; i++)
                rows->dS[l][n][i] = 0;
    for (int i = THREAD; i < FB; i += THREADS) {
        shared_store(memory + AT_DZ + i, 0);
        shared_store(memory + AT_SHRINK + i, shared_load(memory + AT_REF + i) > -INFINITY ? 1 : 0);
    }
    for (int i = THREAD; !IN_REGISTERS && i < FB * LDV; i += THREADS)
        shared_store(memory + AT_DS + i, 0);
    for (int i = THREAD; LEARN && i < ROWS * LDX; i += THREADS)
        shared_store(memory + AT_DW + i, 0);
}

/* References of the warp's rows at the start of a tile. */
DEVICE void store_references(const float *memory, int first, int warp_row, float *to)
{
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int i = 0; i < 2; i++) {
            const int r = first + warp_row + THREAD % 32 / 4 + 8 * i;
            if (THREAD % 4 == 0 && r < MP)
                global_store(to + l * MP + r, shared_load(memory + AT_REF + kept_row(l, warp_row, i)));
        }
    }
}

/* dphi_q of one lane, of NG groups of tokens from `token` on: S g' + z gden + phi_k P', of keys before token
 * hi. */
DEVICE void query_gradients(const float *memory, int l, int warp_row, int hi, int token, float (*dphi)[4])
{
    float phi_k[GROUPS][4];
    load_keys(memory + AT_PHI, l, warp_row, hi, phi_k);
    rows_times_tokens(dphi, NG, memory + AT_S, LDV, DV8, l * ROWS + warp_row, memory + AT_G, token);
    UNROLL
    for (int k = 0; k < GROUPS; k++) {
        left_tile a;
        left_accumulator(&a, phi_k[k]);
        UNROLL
        for (int j = 0; j < NG; j++) {
            right_tile b;
            if (8 * k > token + 8 * j)
                continue;
            right_pairs(&b, memory + AT_P, LDP, token + 8 * j, 8 * k);
            multiply(dphi[j], &a, &b);
        }
    }
    UNROLL
    for (int j = 0; j < NG; j++)
        for (int i = 0; i < 4; i++)
            dphi[j][i] += shared_load(memory + AT_Z + kept_row(l, warp_row, i / 2)) *
                          shared_load(memory + AT_GDEN + token + column_of(j, i));
    if (MANY)
        warp_sync();
}

/* dS of the warp's rows += phi_q g, dz likewise, of one lane and NG groups from `token` on, for the state
 * before the split. */
DEVICE void add_state(causal_rows *rows, float *memory, int l, int warp_row, int token, float (*feature)[4])
{
    UNROLL
    for (int i = 0; i < 4; i++) {
        const float factor =
            rows->weight[i / 2] * shared_load(memory + AT_SHRINK + kept_row(l, warp_row, i / 2));
        for (int j = 0; j < NG; j++)
            feature[j][i] *= factor;
    }
    add_sums(memory + AT_DZ, l, warp_row, feature, NG, memory + AT_GDEN + token);
    if (IN_REGISTERS)
        add_held(rows->dS[l], feature, NG, memory + AT_G, token);
    else
        add_rows(memory + AT_DS + (l * ROWS + warp_row) * LDV, feature, NG, memory + AT_G, token);
}

/* Queries lo to hi - 1 of NG groups of the tile from `token` on. dphi comes in, and goes out as their
 * features. */
DEVICE void take_queries(causal_rows *rows, const causal_side *q, const float *memory, int warp_row,
                         const float *s, int lo, int hi, int token, float (*dphi)[NG][4],
                         tile_gradient *to)
{
    float u[NP][NG][4];
    project(u, q, memory + AT_W, memory + AT_W2, warp_row, token);
    UNROLL
    for (int j = 0; j < NG; j++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int at = token + column_of(j, i), row = i / 2;
            const int there = at >= lo && at < hi && shared_load(q->tile.bias + at) == 0;
            const float top = shared_load(memory + AT_TOP + at);
            float projections[NP], tok[NTOK], logs[LANES], signs[LANES], value[LANES], d[LANES];
            float gu[NP];
            feature_at(q, u, j, i, at, projections, tok, logs, signs);
            UNROLL
            for (int l = 0; l < LANES; l++) {
                const float ref = shared_load(memory + AT_REF + kept_row(l, warp_row, row));
                float *element = &dphi[l][j][i];
                value[l] = there ? exp_falling(logs[l] + ref - top) : 0;
                d[l] = rows->weight[row] * *element;
                const float feature = SIGNED ? value[l] * signs[l] : value[l];
                if (LEARN)
                    rows->gweight[row] += feature * *element;
                *element = feature;
            }
            feature_gradient(projections, rows->norms[row], s, q->row[row], q->uni, tok,
                             memory + AT_T + at * TOKEN, d, value, signs, j, i, gu, to,
                             &rows->parameters);
            UNROLL
            for (int k = 0; k < NP; k++)
                to->u[k][j][i] += there ? gu[k] : 0;
            if (MANY)
                warp_sync();
        }
    }
}

/* One segment, from token lo, of the tile; returns its end. */
DEVICE int take_segment(causal_rows *rows, const causal_side *q, const causal_side *k, float *memory,
                        int warp_row, const float *s, int lo, const gradient_places *sums, tile_gradient *to)
{
    const key_places places = {memory + AT_W,   memory + AT_W2, memory + AT_REF,   memory + AT_S,
                               memory + AT_Z, memory + AT_SHRINK, memory + AT_PHI};
    int hi = read_keys(k, &places, rows->there, warp_row, lo);
    if (THREAD % 32 == 0)
        shared_store(memory + AT_ENDS + THREAD / 32, (float)hi);
    block_sync();
    for (int w = 0; w < KW; w++) {
        const int other = (int)shared_load(memory + AT_ENDS + w);
        hi = other < hi ? other : hi;
    }
    NO_UNROLL
    for (int token = 0; token < TB; token += 8 * NG) {
        float dphi[LANES][NG][4];
        if (MANY)
            clear_gradient(to);
        UNROLL
        for (int l = 0; l < LANES; l++)
            query_gradients(memory, l, warp_row, hi, token, dphi[l]);
        take_queries(rows, q, memory, warp_row, s, lo, hi, token, dphi, to);
        UNROLL
        for (int l = 0; l < LANES; l++)
            add_state(rows, memory, l, warp_row, token, dphi[l]);
        if (MANY)
            add_tile_gradient(to, sums, warp_row, token);
    }
    warp_sync(); /* S and z were read by all of the warp */
    NO_UNROLL
    for (int l = 0; l < LANES; l++) {
        float phi_k[GROUPS][4];
        load_keys(memory + AT_PHI, l, warp_row, hi, phi_k);
        add_rows(memory + AT_S + (l * ROWS + warp_row) * LDV, phi_k, GROUPS, memory + AT_V, 0);
        add_sums(memory + AT_Z, l, warp_row, phi_k, GROUPS, 0);
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
            if (THREAD % 4 == 0 && r < MP)
                global_store(to + l * MP + r, shared_load(memory + AT_DZ + kept_row(l, warp_row, i)));
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

/* The head's arrays to where they are kept, while tiles go by. */
DEVICE void keep_arrays(const attn_cuda_args *a, int64_t b, int64_t h, float *to)
{
    const head_rows q = rows_of(&a->q, a->q_begin, b, h), k = rows_of(&a->k, a->k_begin, b, h),
                    v = rows_of(&a->v, a->k_begin, b, h), o = rows_of(&a->o, a->q_begin, b, h),
                    go = rows_of(&a->go, a->q_begin, b, h), gq = rows_of(&a->gq, a->q_begin, b, h);
    keep_rows(to, &a->q, &q);
    keep_rows(to + KEPT_ROWS, &a->k, &k);
    keep_rows(to + 2 * KEPT_ROWS, &a->v, &v);
    keep_rows(to + 3 * KEPT_ROWS, &a->o, &o);
    keep_rows(to + 4 * KEPT_ROWS, &a->go, &go);
    keep_rows(to + 5 * KEPT_ROWS, &a->gq, &gq);
}

/* Asks for the tile that starts with `from`; odd: of the two places of q and of marks. */
DEVICE void stage_tile(const attn_cuda_args *a, float *memory, const byte *mask, int64_t from, int64_t to,
                       int odd)
{
    const float *kept = memory + AT_KEPT;
    byte *stage_k = (byte *)(memory + AT_STAGES) + 2 * STAGE_X, *stage_v = stage_k + STAGE_X;
    const head_rows q = kept_rows(kept, &a->q), k = kept_rows(kept + KEPT_ROWS, &a->k),
                    v = kept_rows(kept + 2 * KEPT_ROWS, &a->v),
                    o = kept_rows(kept + 3 * KEPT_ROWS, &a->o),
                    go = kept_rows(kept + 4 * KEPT_ROWS, &a->go);
    stage_rows(&q, from, to, D, (byte *)(memory + AT_STAGES) + odd * STAGE_X);
    stage_rows(&k, from, to, D, stage_k);
    stage_rows(&v, from, to, DV, stage_v);
    stage_rows(&o, from, to, DV, stage_v + STAGE_V);
    stage_rows(&go, from, to, DV, stage_v + 2 * STAGE_V);
    mark_tokens(from, to, 0, memory + AT_BIASQ + odd * TB);
    mark_tokens(from, to, mask, memory + AT_BIASK + odd * TB);
}

TILED_KERNEL(attn_causal_queries_bwd, attn_cuda_args, BLOCK_THREADS, MIN_BLOCKS)
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
    float *part = args.gq_part + (BLOCK_Z * heads + head) * args.T * D;
    int64_t from, to;
    split_range(n, args.q_splits, BLOCK, SPLIT, &from, &to);

    const gradient_places places = {memory + AT_DU, memory + AT_DU2, memory + AT_SUMS,
                                    memory + AT_DW, memory + AT_XQ, memory + AT_XQ2};
    float s[S1];
    causal_side side_q, side_k;
    causal_rows rows;
    keep_arrays(&args, b, h, memory + AT_KEPT);
    block_sync();
    if (from < to)
        stage_tile(&args, memory, mask, from, to, 0);
    async_commit();
    load_vectors(params, memory + AT_VECTORS);
    load_linear(params, 1, memory + AT_LINEARQ);
    load_linear(params, 3, memory + AT_LINEARK);
    load_linear(params, 0, memory + AT_TRANSPOSED);
    load_matrices(&args, head, first, ROWS, memory + AT_W);
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
        if (from + TB < to)
            stage_tile(&args, memory, mask, from + TB, to, odd ^ 1);
        async_commit();
        gradient_pairs(memory + AT_G, memory + AT_V, memory + AT_GDEN, memory + AT_P);
        store_references(memory, first, warp_row, args.refs + (head * args.tiles + tile) * F);
        clear_gradient(&gradient);
        if (MANY)
            clear_tile(&places, warp_row);
        for (int lo = 0; lo < TB;) {
            starts |= 1u << lo;
            lo = take_segment(&rows, &side_q, &side_k, memory, warp_row, s, lo, &places, &gradient);
        }
        if (THREAD == 0) {
            unsigned *at = args.starts + (BLOCK_Z * heads + head) * args.tiles + tile;
            global_store((float *)at, as_float(starts));
        }
        if (!MANY)
            store_tile_gradient(&gradient, &places, warp_row, 0);
        block_sync();
        mapped_gradients(memory + AT_DU, memory + AT_W, memory + AT_GX);
        block_sync();
        const head_rows gq = kept_rows(memory + AT_KEPT + 5 * KEPT_ROWS, &args.gq);
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
