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

enum { FWD_TILES = 1 + SIGNED };

typedef struct fwd_scratch {
    attn_hoisted h;
    attn_block b;
    real *phi;  /* (block, ldf)  projections, then logs, then features */
    real *sign; /* (block, ldf)  only if SIGNED */
    real *u2;   /* (block, MP + PAD)  second projections */
    real *v;    /* (block, DVP)  values of keys, numerators of queries */
    /* only if PAIRS */
    real *wt, *wt_second;        /* (DP / 2, MP)  of W, transposed */
    real *features, *values, *S; /* (block / 2, ldf), (block / 2, DVP), (F / 2, DVP) */
} fwd_scratch;

VEC_FN int64_t fwd_take(const attn_sizes *z, real *scratch, fwd_scratch *w)
{
    attn_arena arena = {scratch, 0};
    take_hoisted(z, &w->h, &arena);
    take_block(z, &w->b, &arena);
    w->phi = attn_take(&arena, z->block * z->ldf);
    w->sign = attn_take(&arena, SIGNED ? z->block * z->ldf : 0);
    w->u2 = attn_take(&arena, NP > 1 ? z->block * (z->MP + PAD) : 0);
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
    const attn_block *b = &w->b;
    if (!PAIRS) {
        project(p, z, b, w->phi, z->ldf, w->u2);
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
        tile_mul_pairs(rows, z->MP, K, b->second, z->DP, w->wt_second, z->MP, w->u2, z->MP + PAD);
    }
}

/* S += features of the block's keys, which become pairs, times values (n, DVP). */
VEC_FN void add_pairs(const attn_sizes *z, const fwd_scratch *w, const real *values, int64_t ld,
                      real *S)
{
    pair_rows(w->b.n, z->F, w->phi, z->ldf, w->features, z->ldf);
    pair_rows(w->b.n, z->DVP, values, ld, w->values, z->DVP);
    tile_rank_pairs((w->b.n + 1) / 2, z->F, z->DVP, w->features, z->ldf, w->values, z->DVP, S,
                    z->DVP);
}

/* With one lane and no sign a log is a few operations: made a second time, not kept in between. */
enum { AGAIN = LANES == 1 && !SIGNED && NP == 1 };

/* phi of VL rows of W from r for token t, whose first projections are still in the place of phi. */
VEC_FN void row_features(const attn_sizes *z, const fwd_scratch *w, int64_t t, int64_t r,
                         const vec *row, vec *log, vec *sign)
{
    vec u[NP];
    u[0] = vload(w->phi + t * z->ldf + r);
    if (NP > 1)
        u[NP - 1] = vload(w->u2 + t * (z->MP + PAD) + r);
    phi(u, row, w->h.uni, w->b.tok + t * NTOK, log, sign);
}

VEC_FN vec log_again(const fwd_scratch *w, int64_t t, const vec *row, const real *u)
{
    vec log[LANES], sign[LANES], projection[NP];
    projection[0] = vload(u);
    phi(projection, row, w->h.uni, w->b.tok + t * NTOK, log, sign);
    return log[0];
}

/* Logs and signs of VL rows of W from r for all tokens of the block; maxima (LANES). */
VEC_FN void block_logs(const attn_sizes *z, const fwd_scratch *w, int64_t r, const vec *row,
                       bool keep, vec *max)
{
    for (int l = 0; l < LANES; l++)
        max[l] = vset(-(real)INFINITY);
    for (int64_t t = 0; t < w->b.n; t++) {
        vec log[LANES], sign[LANES];
        row_features(z, w, t, r, row, log, sign);
        for (int l = 0; l < LANES; l++) {
            if (keep)
                vstore(w->phi + t * z->ldf + l * z->MP + r, log[l]);
            if (keep && SIGNED)
                vstore(w->sign + t * z->ldf + l * z->MP + r, sign[l]);
            max[l] = v_max(max[l], log[l]);
        }
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

/* exp(x) of x <= 0 as what becomes of it needs. */
VEC_FN vec falling(vec x)
{
    return PAIRS ? vec_exp_coarse(x) : vec_exp_falling(x);
}

/* The block's features of VL rows of W from r, in place of the projections; adds their sums to z.
 */
VEC_FN void key_features(const attn_sizes *z, const fwd_scratch *w, int64_t r, real *state)
{
    vec max[LANES], row[NROW];
    load_row(z, &w->h, r, row);
    block_logs(z, w, r, row, !AGAIN, max);
    for (int l = 0; l < LANES; l++) {
        int64_t f = l * z->MP + r;
        vec shift = raise_max(z, f, z->M - r, max[l], state), sum = vload(state + z->F + f);
        for (int64_t t = 0; t < w->b.n; t++) {
            int64_t at = t * z->ldf + f;
            vec log = AGAIN ? log_again(w, t, row, w->phi + at) : vload(w->phi + at);
            vec e = falling(log - shift);
            if (SIGNED)
                e *= vload(w->sign + at);
            vstore(w->phi + at, e);
            sum += e;
        }
        vstore(state + z->F + f, sum);
    }
}

static void fwd_keys(const attn_plan *p, const attn_params *a, int64_t n, const real *k,
                     int64_t ldk, const real *v, int64_t ldv, const uint8_t *mask, real *state,
                     real *scratch)
{
    attn_sizes z = attn_sizes_of(p, FWD_TILES);
    fwd_scratch w;
    fwd_take(&z, scratch, &w);
    hoist(p, &z, 1, a, &w.h);
    if (PAIRS)
        pair_matrices(p, &z, &w);
    int64_t index[BLOCK_MAX + 1];
    for (int64_t first = 0; first < n;) {
        first = choose_tokens(first, n, mask, z.block, index, &w.b.n);
        for (int64_t t = 0; t < w.b.n; t++)
            load_token(&z, 1, p->scale, k + index[t] * ldk, a->v, &w.b, t);
        if (w.b.n == 0)
            continue;
        int64_t ld;
        const real *values = gather_rows(index, w.b.n, z.DV, v, ldv, w.v, &ld);
        finish_block(&z, 1, a, &w.b);
        hoist_tokens(&w.h, &w.b);
        project_block(p, &z, &w);
        for (int64_t r = 0, t = 0; r < z.MP; r += VL) {
            key_features(&z, &w, r, state);
            for (; t < w.b.n * (r + VL) / z.MP && index[t] + z.block < n; t++) {
                expect_row(k + (index[t] + z.block) * ldk, z.D);
                expect_row(v + (index[t] + z.block) * ldv, z.DV);
            }
        }
        if (PAIRS)
            add_pairs(&z, &w, values, ld, state + 2 * z.F);
        else
            tile_rank(w.b.n, z.F, z.DVP, w.phi, z.ldf, values, ld, state + 2 * z.F, z.DVP);
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

/* Logs of token t with the keys' maxima, and signs, in place of the projections; returns the
 * largest. */
VEC_FN real query_logs(const attn_sizes *z, const fwd_scratch *w, int64_t t, const real *shift)
{
    real *phi_t = w->phi + t * z->ldf, *sign_t = w->sign + t * z->ldf;
    vec max = vset(-REAL_MAX); /* finite, so that an empty state gives exp(-inf) = 0 */
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], log[LANES], sign[LANES];
        load_row(z, &w->h, r, row);
        row_features(z, w, t, r, row, log, sign);
        for (int l = 0; l < LANES; l++) {
            vec shifted = log[l] + vload(shift + l * z->MP + r);
            if (!AGAIN)
                vstore(phi_t + l * z->MP + r, shifted);
            if (SIGNED)
                vstore(sign_t + l * z->MP + r, sign[l]);
            max = v_max(max, shifted);
        }
    }
    return vhmax(max);
}

/* Features of token t relative to its largest; returns den. */
VEC_FN real query_features(const attn_sizes *z, const fwd_scratch *w, int64_t t, real max,
                           const real *shift, const real *zsum)
{
    real *phi_t = w->phi + t * z->ldf, *sign_t = w->sign + t * z->ldf;
    vec den = vset(0);
    for (int64_t f = 0; f < z->F; f += VL) {
        vec log, row[NROW];
        if (AGAIN) {
            load_row(z, &w->h, f, row);
            log = log_again(w, t, row, phi_t + f) + vload(shift + f);
        } else {
            log = vload(phi_t + f);
        }
        vec e = falling(log - max);
        if (SIGNED)
            e *= vload(sign_t + f);
        vstore(phi_t + f, e);
        den += e * vload(zsum + f);
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
    hoist(p, &z, 0, a, &w.h);
    if (PAIRS) {
        pair_matrices(p, &z, &w);
        pair_rows(z.F, z.DVP, state + 2 * z.F, z.DVP, w.S, z.DVP);
    }
    for (int64_t first = 0; first < n; first += w.b.n) {
        w.b.n = n - first < z.block ? n - first : z.block;
        for (int64_t t = 0; t < w.b.n; t++)
            load_token(&z, 0, p->scale, q + (first + t) * ldq, a->v, &w.b, t);
        finish_block(&z, 0, a, &w.b);
        hoist_tokens(&w.h, &w.b);
        project_block(p, &z, &w);
        real max[BLOCK_MAX]; /* apart from what follows, or every token would wait for its own */
        for (int64_t t = 0; t < w.b.n; t++)
            max[t] = query_logs(&z, &w, t, state);
        for (int64_t t = 0; t < w.b.n; t++) {
            den[first + t] = query_features(&z, &w, t, max[t], state, state + z.F);
            expect_row(o + (first + t) * ldo, z.DV);
            if (first + t + z.block < n)
                expect_row(q + (first + t + z.block) * ldq, z.D);
        }
        int64_t rows = pad_block(w.b.n, z.ldf, w.phi);
        if (PAIRS) {
            pair_neighbours(rows, z.F, w.phi, z.ldf);
            tile_mul_pairs(rows, z.DVP, z.F / 2, w.phi, z.ldf, w.S, z.DVP, w.v, z.DVP);
        } else {
            tile_mul(rows, z.DVP, z.F, w.phi, z.ldf, state + 2 * z.F, z.DVP, w.v, z.DVP);
        }
        for (int64_t t = 0; t < w.b.n; t++)
            store_output(&z, den[first + t], w.v + t * z.DVP, o + (first + t) * ldo);
    }
}

/* Logs and signs of one block into (n, LANES, M). */
VEC_FN void write_features(const attn_sizes *z, const fwd_scratch *w, real *log, real *sign)
{
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec max[LANES], row[NROW];
        load_row(z, &w->h, r, row);
        block_logs(z, w, r, row, true, max);
    }
    for (int64_t t = 0; t < w->b.n; t++)
        for (int64_t l = 0; l < LANES; l++) {
            int64_t in = t * z->ldf + l * z->MP, out = (t * LANES + l) * z->M;
            for (int64_t r = 0; r < z->M; r += VL) {
                vec s = SIGNED ? vload(w->sign + in + r) : vset(1);
                store_part(log + out + r, vload(w->phi + in + r), z->M - r);
                store_part(sign + out + r, s, z->M - r);
            }
        }
}

static void fwd_features(const attn_plan *p, const attn_params *a, int side, int64_t n,
                         const real *x, int64_t ldx, real *log, real *sign, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, FWD_TILES);
    fwd_scratch w;
    fwd_take(&z, scratch, &w);
    hoist(p, &z, side, a, &w.h);
    for (int64_t first = 0; first < n; first += w.b.n) {
        w.b.n = n - first < z.block ? n - first : z.block;
        for (int64_t t = 0; t < w.b.n; t++)
            load_token(&z, side, p->scale, x + (first + t) * ldx, a->v, &w.b, t);
        finish_block(&z, side, a, &w.b);
        hoist_tokens(&w.h, &w.b);
        project(p, &z, &w.b, w.phi, z.ldf, w.u2);
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
