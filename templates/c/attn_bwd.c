/* Linear attention, backward: features are computed again, nothing of size tokens x features is
 * kept. With g = [go/den, -(go.o)/den] of a query and S~ = [S, z]:
 *     queries: dphi = S~ g, dS~ += phi g^T     keys: dphi = dS~ [v, 1], dv = dS^T phi
 * then through the feature, W, the map and the scale. The maxima are constants: o does not depend
 * on them. */
#include "stub.h"

#include "attn_grad.h"

enum { BWD_TILES = 3 };

typedef struct bwd_scratch {
    attn_side s;
    real *phi;        /* (block, ldf) */
    real *dphi;       /* (block, ldf) */
    real *v;          /* (block, DVP)  g of queries, values of keys */
    real *gv;         /* (block, DVP) */
    real *gden;       /* (block)       last element of g */
    real *minus;      /* (F) */
    real *transposed; /* (DV, F)       S of queries, dS of keys */
} bwd_scratch;

VEC_FN int64_t bwd_take(const attn_sizes *z, real *scratch, bwd_scratch *w)
{
    attn_arena arena = {scratch, 0};
    take_side(z, &w->s, true, &arena);
    w->phi = attn_take(&arena, z->block * z->ldf);
    w->dphi = attn_take(&arena, z->block * z->ldf);
    w->v = attn_take(&arena, z->block * z->DVP);
    w->gv = attn_take(&arena, z->block * z->DVP);
    w->gden = attn_take(&arena, z->block);
    w->minus = attn_take(&arena, z->F);
    w->transposed = attn_take(&arena, z->DV * z->F);
    return arena.used;
}

static int64_t bwd_reals(const attn_plan *p)
{
    attn_sizes z = attn_sizes_of(p, BWD_TILES);
    bwd_scratch w;
    return bwd_take(&z, NULL, &w);
}

/* Features of token t; dphi to the gradient of u; dz += phi gden. */
VEC_FN sum_grad query_gradient(const attn_plan *p, const attn_sizes *z, const bwd_scratch *w,
                               int64_t t, real max, const real *shift, const real *zsum, real *dz,
                               bool want_params)
{
    sum_grad sum = {{vset(0), vset(0), vset(0)}};
    vec gden = vset(w->gden[t]);
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], log[LANES], sign[LANES], value[LANES], dphi[LANES], u[NP];
        load_row(z, &w->s.h, r, row);
        side_logs(&w->s, t, r, row, u, log, sign);
        for (int l = 0; l < LANES; l++)
            log[l] = log[l] + vload(shift + l * z->MP + r) - max;
        lane_values(log, false, value);
        for (int l = 0; l < LANES; l++) {
            int64_t f = l * z->MP + r, at = t * z->ldf + f;
            vec feature = SIGNED ? value[l] * sign[l] : value[l];
            vstore(w->phi + at, feature);
            vstore(dz + f, vload(dz + f) + feature * gden);
            dphi[l] = vload(w->dphi + at) + vload(zsum + f) * gden;
        }
        feature_gradient(p, z, &w->s, t, r, row, u, value, sign, dphi, &sum, want_params);
    }
    return sum;
}

static void bwd_queries(const attn_plan *p, const attn_params *a, int64_t n, const real *q,
                        int64_t ldq, const real *state, const real *o, int64_t ldo, const real *den,
                        const real *go, int64_t ldgo, real *gq, int64_t ldgq, real *dstate,
                        real *dparams, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, BWD_TILES);
    bwd_scratch w;
    bwd_take(&z, scratch, &w);
    hoist(p, &z, 0, a, &w.s.h);
    params_begin(&z, &w.s);
    transpose(&z, state + 2 * z.F, w.transposed);
    real *dv = NV > 0 && dparams != NULL ? dparams + NS : NULL;
    sum_grad sums[BLOCK_MAX];
    real max[BLOCK_MAX];
    for (int64_t first = 0; first < n; first += w.s.b.n) {
        w.s.b.n = n - first < z.block ? n - first : z.block;
        for (int64_t t = 0; t < w.s.b.n; t++) {
            load_token(&z, 0, p->scale, q + (first + t) * ldq, a->v, &w.s.b, t);
            if (first + t + z.block < n) {
                expect_row(q + (first + t + z.block) * ldq, z.D);
                expect_row(o + (first + t + z.block) * ldo, z.DV);
                expect_row(go + (first + t + z.block) * ldgo, z.DV);
            }
            w.gden[t] = output_gradient(&z, den[first + t], o + (first + t) * ldo,
                                        go + (first + t) * ldgo, w.v + t * z.DVP);
        }
        finish_block(&z, 0, a, &w.s.b);
        hoist_tokens(&w.s.h, &w.s.b);
        project(p, &z, &w.s.b, w.s.u, w.s.u2, w.s.ldu);
        int64_t rows = pad_block(w.s.b.n, z.DVP, w.v);
        tile_mul(rows, z.F, z.DV, w.v, z.DVP, w.transposed, z.F, w.dphi, z.ldf);
        for (int64_t t = 0; t < w.s.b.n; t++)
            max[t] = largest_log(&z, &w.s, t, state);
        for (int64_t t = 0; t < w.s.b.n; t++) {
            expect_row(gq + (first + t) * ldgq, z.D);
            if (first + t + z.block < n) {
                expect_row(q + (first + t + z.block) * ldq, z.D);
                expect_row(o + (first + t + z.block) * ldo, z.DV);
                expect_row(go + (first + t + z.block) * ldgo, z.DV);
            }
            sums[t] = dparams != NULL
                          ? query_gradient(p, &z, &w, t, max[t], state, state + z.F, dstate, true)
                          : query_gradient(p, &z, &w, t, max[t], state, state + z.F, dstate, false);
        }
        tile_rank(w.s.b.n, z.F, z.DVP, w.phi, z.ldf, w.v, z.DVP, dstate + z.F, z.DVP);
        matrix_gradient(p, &z, &w.s, dparams);
        project_back(p, &z, &w.s);
        for (int64_t t = 0; t < w.s.b.n; t++)
            store_gradient(&z, 0, p->scale, q + (first + t) * ldq, a->v, &w.s.b, t,
                           w.s.gx + t * z.DP, w.s.gsecond + t * z.DP, sums + t,
                           gq + (first + t) * ldgq, dv);
        finish_gradients(&z, 0, p->scale, a, &w.s.b, NULL, gq + first * ldgq, ldgq);
    }
    params_end(p, &z, a, &w.s, dparams);
}

/* Features of token t, dphi to the gradient of u. */
VEC_FN sum_grad key_gradient(const attn_plan *p, const attn_sizes *z, const bwd_scratch *w,
                             int64_t t, const real *dz, bool want_params)
{
    sum_grad sum = {{vset(0), vset(0), vset(0)}};
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], log[LANES], sign[LANES], value[LANES], dphi[LANES], u[NP];
        load_row(z, &w->s.h, r, row);
        side_logs(&w->s, t, r, row, u, log, sign);
        for (int l = 0; l < LANES; l++)
            log[l] += vload(w->minus + l * z->MP + r);
        lane_values(log, false, value);
        for (int l = 0; l < LANES; l++) {
            int64_t f = l * z->MP + r, at = t * z->ldf + f;
            vstore(w->phi + at, SIGNED ? value[l] * sign[l] : value[l]);
            dphi[l] = vload(w->dphi + at) + vload(dz + f);
        }
        feature_gradient(p, z, &w->s, t, r, row, u, value, sign, dphi, &sum, want_params);
    }
    return sum;
}

static void bwd_keys(const attn_plan *p, const attn_params *a, int64_t n, const real *k,
                     int64_t ldk, const real *v, int64_t ldv, const uint8_t *mask,
                     const real *state, const real *dstate, real *gk, int64_t ldgk, real *gv,
                     int64_t ldgv, real *dparams, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, BWD_TILES);
    bwd_scratch w;
    bwd_take(&z, scratch, &w);
    hoist(p, &z, 1, a, &w.s.h);
    params_begin(&z, &w.s);
    transpose(&z, dstate + z.F, w.transposed);
    key_minus(&z, state, w.minus);
    zero_masked(n, mask, z.D, gk, ldgk);
    zero_masked(n, mask, z.DV, gv, ldgv);
    real *dv = NV > 0 && dparams != NULL ? dparams + NS : NULL;
    sum_grad sums[BLOCK_MAX];
    int64_t index[BLOCK_MAX];
    for (int64_t first = 0; first < n;) {
        first = choose_tokens(first, n, mask, z.block, index, &w.s.b.n);
        if (w.s.b.n == 0)
            continue;
        for (int64_t t = 0; t < w.s.b.n; t++) {
            load_token(&z, 1, p->scale, k + index[t] * ldk, a->v, &w.s.b, t);
            if (index[t] + z.block < n) {
                expect_row(k + (index[t] + z.block) * ldk, z.D);
                expect_row(v + (index[t] + z.block) * ldv, z.DV);
            }
        }
        int64_t ld;
        const real *values = gather_rows(index, w.s.b.n, z.DV, v, ldv, w.v, &ld);
        finish_block(&z, 1, a, &w.s.b);
        hoist_tokens(&w.s.h, &w.s.b);
        project(p, &z, &w.s.b, w.s.u, w.s.u2, w.s.ldu);
        int64_t rows = pad_block(w.s.b.n, z.DP, w.s.b.x);
        tile_mul(rows, z.F, z.DV, values, ld, w.transposed, z.F, w.dphi, z.ldf);
        for (int64_t t = 0; t < w.s.b.n; t++) {
            expect_row(gk + index[t] * ldgk, z.D);
            expect_row(gv + index[t] * ldgv, z.DV);
            if (index[t] + z.block < n) {
                expect_row(k + (index[t] + z.block) * ldk, z.D);
                expect_row(v + (index[t] + z.block) * ldv, z.DV);
            }
            sums[t] = dparams != NULL ? key_gradient(p, &z, &w, t, dstate, true)
                                      : key_gradient(p, &z, &w, t, dstate, false);
        }
        pad_block(w.s.b.n, z.ldf, w.phi);
        tile_mul(rows, z.DVP, z.F, w.phi, z.ldf, dstate + z.F, z.DVP, w.gv, z.DVP);
        matrix_gradient(p, &z, &w.s, dparams);
        project_back(p, &z, &w.s);
        for (int64_t t = 0; t < w.s.b.n; t++) {
            store_gradient(&z, 1, p->scale, k + index[t] * ldk, a->v, &w.s.b, t, w.s.gx + t * z.DP,
                           w.s.gsecond + t * z.DP, sums + t, gk + index[t] * ldgk, dv);
            copy_out(z.DV, w.gv + t * z.DVP, gv + index[t] * ldgv);
        }
        finish_gradients(&z, 1, p->scale, a, &w.s.b, index, gk, ldgk);
    }
    params_end(p, &z, a, &w.s, dparams);
}

extern const attn_bwd_ops EXPORT(attn_bwd);
const attn_bwd_ops EXPORT(attn_bwd) = {
    .scratch = bwd_reals,
    .queries = bwd_queries,
    .keys = bwd_keys,
};
