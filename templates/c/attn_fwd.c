/* Linear attention, forward: keys into a state, queries out of it.
 *
 * Features exist for one block of tokens at a time. The shift of a key's log is the running maximum
 * of its feature row (the state is rescaled when it grows), which a query gives back and then
 * subtracts its own maximum: exact, and no number can overflow or all vanish.
 *
 * The three products are of reals, or with -DPAIRS=1 of pairs of bf16 (vec.h), along what
 * they sum over: coordinates of W and a token, neighbouring tokens of features and values,
 * neighbouring rows of features and state. Maxima, z, den and the state stay reals. */
#include "stub.h"

#include "attn.h"

#ifndef PAIRS
#define PAIRS 0
#endif

enum { FWD_TILES = 1 };

typedef struct fwd_scratch {
    attn_side s; /* its projections where features come to be, second ones with the same stride */
    real *phi;   /* (block, ldf) */
    real *v;     /* (block, DVP)  values of keys, numerators of queries */
    /* only if PAIRS */
    real *wt, *wt_second;        /* (DP / 2, MP)  of W, transposed */
    real *features, *values, *S; /* (block / 2, ldf), (block / 2, DVP), (F / 2, DVP) */
} fwd_scratch;

VEC_FN int64_t fwd_take(const attn_sizes *z, real *scratch, fwd_scratch *w)
{
    attn_arena arena = {scratch, 0};
    take_hoisted(z, &w->s.h, &arena);
    take_block(z, &w->s.b, &arena);
    w->s.ldu = z->ldf;
    w->s.u = w->phi = attn_take(&arena, z->block * z->ldf);
    w->s.u2 = attn_take(&arena, NP > 1 ? z->block * z->ldf : 0);
    w->v = attn_take(&arena, z->block * z->DVP);
    w->wt = attn_take(&arena, PAIRS ? z->DP / 2 * z->MP : 0);
    w->wt_second = attn_take(&arena, PAIRS && NP > 1 ? z->DP / 2 * z->MP : 0);
    w->features = attn_take(&arena, PAIRS ? z->block / 2 * z->ldf : 0);
    w->values = attn_take(&arena, PAIRS ? z->block / 2 * z->DVP : 0);
    w->S = attn_take(&arena, PAIRS ? z->F / 2 * z->DVP : 0);
    return arena.used;
}

static int64_t fwd_reals(const attn_plan *p)
{
    attn_sizes z = attn_sizes_of(p, FWD_TILES);
    fwd_scratch w;
    return fwd_take(&z, NULL, &w);
}

/* ---- pairs ------------------------------------------------------------------------------------
 */

/* Rows 2i and 2i + 1 of x (n, cols) as row i of `to` (n / 2 rounded up, cols). */
VEC_FN void pair_rows(int64_t n, int64_t cols, const real *x, int64_t ldx, real *to, int64_t ldto)
{
    for (int64_t i = 0; i < n; i += 2)
        for (int64_t c = 0; c < cols; c += VL) {
            const real *at = x + i * ldx + c;
            vstore(to + i / 2 * ldto + c,
                   vec_pair(vload(at), i + 1 < n ? vload(at + ldx) : vset(0)));
        }
}

/* Numbers 2i and 2i + 1 of each row of x (n, cols) as its number i, in place. */
VEC_FN void pair_neighbours(int64_t n, int64_t cols, real *x, int64_t ldx)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < cols; c += 2 * VL) {
            real *at = x + i * ldx;
            vec second = c + VL < cols ? vload(at + c + VL) : vset(0);
            vstore(at + c / 2, vec_pair_neighbours(vload(at + c), second));
        }
}

/* Those that project_block multiplies by. */
VEC_FN void pair_matrices(const attn_plan *p, const attn_sizes *z, const fwd_scratch *w)
{
    if (p->chain == NULL)
        pair_rows(z->D, z->MP, p->wt, z->MP, w->wt, z->MP);
    if (NP > 1)
        pair_rows(z->D, z->MP, p->wt_second, z->MP, w->wt_second, z->MP);
}

/* As `project` does; tokens become pairs, but of a chain's, which is no product. */
VEC_FN void project_block(const attn_plan *p, const attn_sizes *z, const fwd_scratch *w)
{
    const attn_block *b = &w->s.b;
    if (!PAIRS) {
        project(p, z, b, w->s.u, w->s.u2, z->ldf);
        return;
    }
    const int64_t rows = pad_block(b->n, z->DP, b->x), K = (z->D + 1) / 2;
    if (p->chain != NULL) {
        chain_project(p->chain, b->n, z->M, z->DP, b->x, z->DP, w->phi, z->ldf);
    } else {
        pair_neighbours(rows, z->DP, b->x, z->DP);
        tile_mul_pairs(rows, z->MP, K, b->x, z->DP, w->wt, z->MP, w->phi, z->ldf);
    }
    if (NP > 1) {
        pad_block(b->n, z->DP, b->second);
        pair_neighbours(rows, z->DP, b->second, z->DP);
        tile_mul_pairs(rows, z->MP, K, b->second, z->DP, w->wt_second, z->MP, w->s.u2, z->ldf);
    }
}

/* S += features of the block's keys, which become pairs, times values (n, DVP). */
VEC_FN void add_pairs(const attn_sizes *z, const fwd_scratch *w, const real *values, int64_t ld,
                      real *S)
{
    pair_rows(w->s.b.n, z->F, w->phi, z->ldf, w->features, z->ldf);
    pair_rows(w->s.b.n, z->DVP, values, ld, w->values, z->DVP);
    tile_rank_pairs((w->s.b.n + 1) / 2, z->F, z->DVP, w->features, z->ldf, w->values, z->DVP, S,
                    z->DVP);
}

/* Maxima (LANES) of the logs of VL rows of W from r over the tokens of the block. */
VEC_FN void block_maxima(const fwd_scratch *w, int64_t r, const vec *row, vec *max)
{
    for (int l = 0; l < LANES; l++)
        max[l] = vset(-(real)INFINITY);
    for (int64_t t = 0; t < w->s.b.n; t++) {
        vec u[NP], log[LANES], sign[LANES];
        side_logs(&w->s, t, r, row, u, log, sign);
        for (int l = 0; l < LANES; l++)
            max[l] = v_max(max[l], log[l]);
    }
}

/* Raises the maxima of VL feature rows from f to those of the block and rescales the state. Returns
 * what the logs are to be reduced by: infinity where W has no row. */
VEC_FN vec raise_max(const attn_sizes *z, int64_t f, int64_t valid_rows, vec max, real *state)
{
    vec old = vload(state + f), new = v_max(old, max), shift = new;
    if (valid_rows < VL) {
        vec valid = v_lt(viota(), vset((real)valid_rows));
        new = v_where(valid, new, vset(-(real)INFINITY));
        shift = v_where(valid, new, vset((real)INFINITY));
    }
    if (vsum(v_lt(old, new)) > 0) {
        scale_rows(z, growth(old, new), state + z->F + f, state + 2 * z->F + f * z->DVP);
        vstore(state + f, new);
    }
    return shift;
}

/* The block's features of VL rows of W from r, in place of the projections; adds their sums to z.
 */
VEC_FN void key_features(const attn_sizes *z, const fwd_scratch *w, int64_t r, real *state)
{
    vec max[LANES], shift[LANES], sum[LANES], row[NROW];
    load_row(z, &w->s.h, r, row);
    block_maxima(w, r, row, max);
    for (int l = 0; l < LANES; l++) {
        shift[l] = raise_max(z, l * z->MP + r, z->M - r, max[l], state);
        sum[l] = vload(state + z->F + l * z->MP + r);
    }
    for (int64_t t = 0; t < w->s.b.n; t++) {
        vec u[NP], log[LANES], sign[LANES], value[LANES];
        side_logs(&w->s, t, r, row, u, log, sign);
        for (int l = 0; l < LANES; l++)
            log[l] -= shift[l];
        lane_values(log, PAIRS, value);
        for (int l = 0; l < LANES; l++) {
            vec feature = SIGNED ? value[l] * sign[l] : value[l];
            vstore(w->phi + t * z->ldf + l * z->MP + r, feature);
            sum[l] += feature;
        }
    }
    for (int l = 0; l < LANES; l++)
        vstore(state + z->F + l * z->MP + r, sum[l]);
}

static void fwd_keys(const attn_plan *p, const attn_params *a, int64_t n, const real *k,
                     int64_t ldk, const real *v, int64_t ldv, const uint8_t *mask, real *state,
                     real *scratch)
{
    attn_sizes z = attn_sizes_of(p, FWD_TILES);
    fwd_scratch w;
    fwd_take(&z, scratch, &w);
    hoist(p, &z, 1, a, &w.s.h);
    if (PAIRS)
        pair_matrices(p, &z, &w);
    int64_t index[BLOCK_MAX + 1];
    for (int64_t first = 0; first < n;) {
        first = choose_tokens(first, n, mask, z.block, index, &w.s.b.n);
        for (int64_t t = 0; t < w.s.b.n; t++)
            load_token(&z, 1, p->scale, k + index[t] * ldk, a->v, &w.s.b, t);
        if (w.s.b.n == 0)
            continue;
        int64_t ld;
        const real *values = gather_rows(index, w.s.b.n, z.DV, v, ldv, w.v, &ld);
        finish_block(&z, 1, a, &w.s.b);
        hoist_tokens(&w.s.h, &w.s.b);
        project_block(p, &z, &w);
        for (int64_t r = 0, t = 0; r < z.MP; r += VL) {
            key_features(&z, &w, r, state);
            for (; t < w.s.b.n * (r + VL) / z.MP && index[t] + z.block < n; t++) {
                expect_row(k + (index[t] + z.block) * ldk, z.D);
                expect_row(v + (index[t] + z.block) * ldv, z.DV);
            }
        }
        if (PAIRS)
            add_pairs(&z, &w, values, ld, state + 2 * z.F);
        else
            tile_rank(w.s.b.n, z.F, z.DVP, w.phi, z.ldf, values, ld, state + 2 * z.F, z.DVP);
    }
}

static void fwd_merge(const attn_plan *p, real *dst, const real *src)
{
    attn_sizes z = attn_sizes_of(p, 1);
    for (int64_t f = 0; f < z.F; f += VL) {
        vec a = vload(dst + f), b = vload(src + f), max = v_max(a, b);
        vec fa = growth(a, max), fb = growth(b, max);
        vstore(dst + f, max);
        vstore(dst + z.F + f, vload(dst + z.F + f) * fa + vload(src + z.F + f) * fb);
        for (int i = 0; i < VL; i++) {
            int64_t row = 2 * z.F + (f + i) * z.DVP;
            for (int64_t c = row; c < row + z.DVP; c += VL)
                vstore(dst + c, vload(dst + c) * fa[i] + vload(src + c) * fb[i]);
        }
    }
}

/* Features of token t relative to its largest, in place of the projections; returns den. */
VEC_FN real query_features(const attn_sizes *z, const fwd_scratch *w, int64_t t, real max,
                           const real *shift, const real *zsum)
{
    vec den = vset(0);
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], u[NP], log[LANES], sign[LANES], value[LANES];
        load_row(z, &w->s.h, r, row);
        side_logs(&w->s, t, r, row, u, log, sign);
        for (int l = 0; l < LANES; l++)
            log[l] = log[l] + vload(shift + l * z->MP + r) - max;
        lane_values(log, PAIRS, value);
        for (int l = 0; l < LANES; l++) {
            vec feature = SIGNED ? value[l] * sign[l] : value[l];
            vstore(w->phi + t * z->ldf + l * z->MP + r, feature);
            den += feature * vload(zsum + l * z->MP + r);
        }
    }
    return vsum(den);
}

static void fwd_queries(const attn_plan *p, const attn_params *a, int64_t n, const real *q,
                        int64_t ldq, const real *state, real *o, int64_t ldo, real *den,
                        real *scratch)
{
    attn_sizes z = attn_sizes_of(p, FWD_TILES);
    fwd_scratch w;
    fwd_take(&z, scratch, &w);
    hoist(p, &z, 0, a, &w.s.h);
    if (PAIRS) {
        pair_matrices(p, &z, &w);
        pair_rows(z.F, z.DVP, state + 2 * z.F, z.DVP, w.S, z.DVP);
    }
    for (int64_t first = 0; first < n; first += w.s.b.n) {
        w.s.b.n = n - first < z.block ? n - first : z.block;
        for (int64_t t = 0; t < w.s.b.n; t++)
            load_token(&z, 0, p->scale, q + (first + t) * ldq, a->v, &w.s.b, t);
        finish_block(&z, 0, a, &w.s.b);
        hoist_tokens(&w.s.h, &w.s.b);
        project_block(p, &z, &w);
        real max[BLOCK_MAX]; /* apart from what follows, or every token would wait for its own */
        for (int64_t t = 0; t < w.s.b.n; t++)
            max[t] = largest_log(&z, &w.s, t, state);
        for (int64_t t = 0; t < w.s.b.n; t++) {
            den[first + t] = query_features(&z, &w, t, max[t], state, state + z.F);
            expect_row(o + (first + t) * ldo, z.DV);
            if (first + t + z.block < n)
                expect_row(q + (first + t + z.block) * ldq, z.D);
        }
        int64_t rows = pad_block(w.s.b.n, z.ldf, w.phi);
        if (PAIRS) {
            pair_neighbours(rows, z.F, w.phi, z.ldf);
            tile_mul_pairs(rows, z.DVP, z.F / 2, w.phi, z.ldf, w.S, z.DVP, w.v, z.DVP);
        } else {
            tile_mul(rows, z.DVP, z.F, w.phi, z.ldf, state + 2 * z.F, z.DVP, w.v, z.DVP);
        }
        for (int64_t t = 0; t < w.s.b.n; t++)
            store_output(&z, den[first + t], w.v + t * z.DVP, o + (first + t) * ldo);
    }
}

/* Logs and signs of one block into (n, LANES, M). */
VEC_FN void write_features(const attn_sizes *z, const fwd_scratch *w, real *log_out, real *sign_out)
{
    for (int64_t r = 0; r < z->M; r += VL) {
        vec row[NROW];
        load_row(z, &w->s.h, r, row);
        for (int64_t t = 0; t < w->s.b.n; t++) {
            vec u[NP], log[LANES], sign[LANES];
            side_logs(&w->s, t, r, row, u, log, sign);
            for (int64_t l = 0; l < LANES; l++) {
                const int64_t at = (t * LANES + l) * z->M + r;
                store_part(log_out + at, log[l], z->M - r);
                store_part(sign_out + at, SIGNED ? sign[l] : vset(1), z->M - r);
            }
        }
    }
}

static void fwd_features(const attn_plan *p, const attn_params *a, int side, int64_t n,
                         const real *x, int64_t ldx, real *log, real *sign, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, FWD_TILES);
    fwd_scratch w;
    fwd_take(&z, scratch, &w);
    hoist(p, &z, side, a, &w.s.h);
    for (int64_t first = 0; first < n; first += w.s.b.n) {
        w.s.b.n = n - first < z.block ? n - first : z.block;
        for (int64_t t = 0; t < w.s.b.n; t++)
            load_token(&z, side, p->scale, x + (first + t) * ldx, a->v, &w.s.b, t);
        finish_block(&z, side, a, &w.s.b);
        hoist_tokens(&w.s.h, &w.s.b);
        project(p, &z, &w.s.b, w.s.u, w.s.u2, z.ldf);
        write_features(&z, &w, log + first * LANES * z.M, sign + first * LANES * z.M);
    }
}

#if PAIRS
#define FWD_NAME attn_bf16
#else
#define FWD_NAME attn_fwd
#endif
extern const attn_fwd_ops EXPORT(FWD_NAME);
const attn_fwd_ops EXPORT(FWD_NAME) = {
    .scratch = fwd_reals,
    .keys = fwd_keys,
    .merge = fwd_merge,
    .queries = fwd_queries,
    .features = fwd_features,
};
