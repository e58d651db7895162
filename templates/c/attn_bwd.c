/* Linear attention, backward: features are computed again, nothing of size tokens x features is
 * kept. With g = [go/den, -(go.o)/den] of a query and S~ = [S, z]:
 *     queries: dphi = S~ g, dS~ += phi g^T     keys: dphi = dS~ [v, 1], dv = dS^T phi
 * then through the feature, W, the map and the scale. The maxima are constants: o does not depend
 * on them. */
#include "stub.h"

#include "attn.h"

enum { BWD_TILES = 3 + SIGNED };

typedef struct bwd_scratch {
    attn_hoisted h;
    attn_block b;
    real *u;          /* (block, ldu)  projections, then their gradients */
    real *phi;        /* (block, ldf)  logs of queries, then features */
    real *sign;       /* (block, ldf)  only if SIGNED, of queries */
    real *dphi;       /* (block, ldf) */
    real *v;          /* (block, DVP)  g of queries, values of keys */
    real *gv;         /* (block, DVP) */
    real *u2;         /* (block, ldu)  second projections, then their gradients */
    real *gx;         /* (block, DP) */
    real *gsecond;    /* (block, DP)  through the second projections */
    real *gden;       /* (block)       last element of g */
    real *shift;      /* (F) */
    real *transposed; /* (DV, F)       S of queries, dS of keys */
    real *gs;         /* (NS, VL)      sums of the scalars' gradients */
    real *gw;         /* (NW, MP)      gradients of the norms of the rows of W */
    int64_t ldu;
} bwd_scratch;

VEC_FN int64_t bwd_take(const attn_sizes *z, real *scratch, bwd_scratch *w)
{
    attn_arena arena = {scratch, 0};
    w->ldu = z->MP + PAD;
    take_hoisted(z, &w->h, &arena);
    take_block(z, &w->b, &arena);
    w->u = attn_take(&arena, z->block * w->ldu);
    w->phi = attn_take(&arena, z->block * z->ldf);
    w->sign = attn_take(&arena, SIGNED ? z->block * z->ldf : 0);
    w->dphi = attn_take(&arena, z->block * z->ldf);
    w->v = attn_take(&arena, z->block * z->DVP);
    w->gv = attn_take(&arena, z->block * z->DVP);
    w->u2 = attn_take(&arena, NP > 1 ? z->block * w->ldu : 0);
    w->gx = attn_take(&arena, z->block * z->DP);
    w->gsecond = attn_take(&arena, NP > 1 ? z->block * z->DP : 0);
    w->gden = attn_take(&arena, z->block);
    w->shift = attn_take(&arena, z->F);
    w->transposed = attn_take(&arena, z->DV * z->F);
    w->gs = attn_take(&arena, PARAM_S * VL);
    w->gw = attn_take(&arena, NW * z->MP);
    return arena.used;
}

static int64_t bwd_reals(const attn_plan *p)
{
    attn_sizes z = attn_sizes_of(p, BWD_TILES);
    bwd_scratch w;
    return bwd_take(&z, NULL, &w);
}

VEC_FN void load_projections(const bwd_scratch *w, int64_t t, int64_t r, vec *u)
{
    u[0] = vload(w->u + t * w->ldu + r);
    if (NP > 1)
        u[NP - 1] = vload(w->u2 + t * w->ldu + r);
}

/* Through VL features from row r of token t: dphi to the gradients of the projections (stored) and
 * of the token's sums; value: exp of the shifted log. */
VEC_FN void feature_gradient(const attn_plan *p, const attn_sizes *z, const bwd_scratch *w,
                             int64_t t, int64_t r, const vec *row, const vec *value,
                             const vec *sign, const vec *dphi, sum_grad *sum, bool want_params)
{
    const attn_block *b = &w->b;
    const real *tok = b->tok + t * NTOK;
    vec u[NP], norms[NW], glog[LANES], gsign[LANES], gu[NP], gt[TOKEN];
    load_projections(w, t, r, u);
    load_norms(p, z, &w->h, r, norms);
    for (int l = 0; l < LANES; l++) {
        vec g = dphi[l] * value[l];
        gsign[l] = g;
        glog[l] = SIGNED ? g * sign[l] : g;
    }
    phi_grad(u, norms, row, w->h.uni, tok, glog, gsign, gu, gt);
    vstore(w->u + t * w->ldu + r, gu[0]);
    if (NP > 1)
        vstore(w->u2 + t * w->ldu + r, gu[NP - 1]);
    for (int i = 0; i < TOKEN; i++)
        sum->t[i] += gt[i];
    if (want_params) {
        vec gs[PARAM_S], gw[NW];
        phi_pgrad(u, norms, w->h.s, row, w->h.uni, tok, b->t + t * TOKEN, glog, gsign, gs, gw);
        for (int i = 0; i < NS; i++)
            vstore(w->gs + i * VL, vload(w->gs + i * VL) + gs[i]);
        for (int i = 0; i < NW; i++) {
            real *at = w->gw + i * z->MP + r;
            vstore(at, vload(at) + gw[i]);
        }
    }
}

VEC_FN void params_begin(const attn_sizes *z, const bwd_scratch *w)
{
    memset(w->gs, 0, PARAM_S * VL * sizeof(real));
    memset(w->gw, 0, (size_t)(NW * z->MP) * sizeof(real));
}

/* dW += (gradients of the projections)' x, of one block. */
VEC_FN void matrix_gradient(const attn_plan *p, const attn_sizes *z, const bwd_scratch *w,
                            real *dparams)
{
    if (dparams == NULL || !p->learn)
        return;
    real *dw = dparams + NS + NV * z->DP;
    tile_rank(w->b.n, z->MP, z->DP, w->u, w->ldu, w->b.x, z->DP, dw, z->DP);
    if (NP > 1 && p->w_second == p->w)
        tile_rank(w->b.n, z->MP, z->DP, w->u2, w->ldu, w->b.second, z->DP, dw, z->DP);
}

/* The i-th weighted norm's gradient gw (MP) to that of its weights. */
VEC_FN void norm_gradient(const attn_plan *p, const attn_sizes *z, const real *gw, real *dweight)
{
    for (int64_t r = 0; r < z->M; r++)
        for (int64_t c = 0; c < z->DP; c += VL) {
            vec x = vload(p->w + r * z->DP + c);
            vstore(dweight + c, vload(dweight + c) + x * x * gw[r]);
        }
}

VEC_FN void params_end(const attn_plan *p, const attn_sizes *z, const attn_params *a,
                       const bwd_scratch *w, real *dparams)
{
    static const int weights[3] = {-1, NORM1, NORM2};
    if (dparams == NULL)
        return;
    for (int i = 0; i < NS; i++)
        dparams[i] += i == SIDE ? 0 : vsum(vload(w->gs + i * VL));
    for (int i = 1; i < NW; i++)
        if (weights[i] >= 0)
            norm_gradient(p, z, w->gw + i * z->MP, dparams + NS + weights[i] * z->DP);
    for (int i = 0; i < NW && p->learn; i++)
        for (int64_t r = 0; r < z->M && (i == 0 || weights[i] >= 0); r++)
            for (int64_t c = 0; c < z->D; c++) {
                real weight = i == 0 ? 1 : a->v[(weights[i] > 0 ? weights[i] : 0) * z->DP + c];
                dparams[NS + NV * z->DP + r * z->DP + c] +=
                    2 * weight * w->gw[i * z->MP + r] * p->w[r * z->DP + c];
            }
}

/* Gradients of the mapped tokens of the block from those of the projections. */
VEC_FN void project_back(const attn_plan *p, const attn_sizes *z, const bwd_scratch *w)
{
    int64_t rows = pad_block(w->b.n, w->ldu, w->u);
    if (p->chain != NULL)
        chain_back(p->chain, w->b.n, z->M, z->DP, w->u, w->ldu, w->gx, z->DP);
    else
        tile_mul(rows, z->DP, z->M, w->u, w->ldu, p->w, z->DP, w->gx, z->DP);
    if (NP > 1) {
        pad_block(w->b.n, w->ldu, w->u2);
        tile_mul(rows, z->DP, z->M, w->u2, w->ldu, p->w_second, z->DP, w->gsecond, z->DP);
    }
}

/* Logs of token t with the keys' maxima, signs; returns the largest log. */
VEC_FN real grad_logs(const attn_sizes *z, const bwd_scratch *w, int64_t t, const real *shift)
{
    vec max = vset(-REAL_MAX);
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], log[LANES], sign[LANES], u[NP];
        load_row(z, &w->h, r, row);
        load_projections(w, t, r, u);
        phi(u, row, w->h.uni, w->b.tok + t * NTOK, log, sign);
        for (int l = 0; l < LANES; l++) {
            int64_t f = l * z->MP + r;
            vec shifted = log[l] + vload(shift + f);
            vstore(w->phi + t * z->ldf + f, shifted);
            if (SIGNED)
                vstore(w->sign + t * z->ldf + f, sign[l]);
            max = v_max(max, shifted);
        }
    }
    return vhmax(max);
}

/* Features of token t; dphi to the gradient of u; dz += phi gden. */
VEC_FN sum_grad query_gradient(const attn_plan *p, const attn_sizes *z, const bwd_scratch *w,
                               int64_t t, real max, const real *zsum, real *dz, bool want_params)
{
    sum_grad sum = {{vset(0), vset(0), vset(0)}};
    vec gden = vset(w->gden[t]);
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], value[LANES], sign[LANES], dphi[LANES];
        load_row(z, &w->h, r, row);
        for (int l = 0; l < LANES; l++) {
            int64_t f = l * z->MP + r, at = t * z->ldf + f;
            value[l] = vec_exp_falling(vload(w->phi + at) - max);
            vec feature = value[l];
            if (SIGNED) {
                sign[l] = vload(w->sign + at);
                feature *= sign[l];
            }
            vstore(w->phi + at, feature);
            vstore(dz + f, vload(dz + f) + feature * gden);
            dphi[l] = vload(w->dphi + at) + vload(zsum + f) * gden;
        }
        feature_gradient(p, z, w, t, r, row, value, sign, dphi, &sum, want_params);
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
    hoist(p, &z, 0, a, &w.h);
    params_begin(&z, &w);
    transpose(&z, state + 2 * z.F, w.transposed);
    real *dv = NV > 0 && dparams != NULL ? dparams + NS : NULL;
    sum_grad sums[BLOCK_MAX];
    real max[BLOCK_MAX];
    for (int64_t first = 0; first < n; first += w.b.n) {
        w.b.n = n - first < z.block ? n - first : z.block;
        for (int64_t t = 0; t < w.b.n; t++) {
            load_token(&z, 0, p->scale, q + (first + t) * ldq, a->v, &w.b, t);
            if (first + t + z.block < n) {
                expect_row(q + (first + t + z.block) * ldq, z.D);
                expect_row(o + (first + t + z.block) * ldo, z.DV);
                expect_row(go + (first + t + z.block) * ldgo, z.DV);
            }
            w.gden[t] = output_gradient(&z, den[first + t], o + (first + t) * ldo,
                                        go + (first + t) * ldgo, w.v + t * z.DVP);
        }
        finish_block(&z, 0, a, &w.b);
        hoist_tokens(&w.h, &w.b);
        project(p, &z, &w.b, w.u, w.ldu, w.u2);
        int64_t rows = pad_block(w.b.n, z.DVP, w.v);
        tile_mul(rows, z.F, z.DV, w.v, z.DVP, w.transposed, z.F, w.dphi, z.ldf);
        for (int64_t t = 0; t < w.b.n; t++)
            max[t] = grad_logs(&z, &w, t, state);
        for (int64_t t = 0; t < w.b.n; t++) {
            expect_row(gq + (first + t) * ldgq, z.D);
            if (first + t + z.block < n) {
                expect_row(q + (first + t + z.block) * ldq, z.D);
                expect_row(o + (first + t + z.block) * ldo, z.DV);
                expect_row(go + (first + t + z.block) * ldgo, z.DV);
            }
            sums[t] = dparams != NULL
                          ? query_gradient(p, &z, &w, t, max[t], state + z.F, dstate, true)
                          : query_gradient(p, &z, &w, t, max[t], state + z.F, dstate, false);
        }
        tile_rank(w.b.n, z.F, z.DVP, w.phi, z.ldf, w.v, z.DVP, dstate + z.F, z.DVP);
        matrix_gradient(p, &z, &w, dparams);
        project_back(p, &z, &w);
        for (int64_t t = 0; t < w.b.n; t++)
            store_gradient(&z, 0, p->scale, q + (first + t) * ldq, a->v, &w.b, t, w.gx + t * z.DP,
                           w.gsecond + t * z.DP, sums + t, gq + (first + t) * ldgq, dv);
        finish_gradients(&z, 0, p->scale, a, &w.b, NULL, gq + first * ldgq, ldgq);
    }
    params_end(p, &z, a, &w, dparams);
}

/* Features of token t, dphi to the gradient of u. */
VEC_FN sum_grad key_gradient(const attn_plan *p, const attn_sizes *z, const bwd_scratch *w,
                             int64_t t, const real *dz, bool want_params)
{
    sum_grad sum = {{vset(0), vset(0), vset(0)}};
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], value[LANES], sign[LANES], dphi[LANES], log[LANES], u[NP];
        load_row(z, &w->h, r, row);
        load_projections(w, t, r, u);
        phi(u, row, w->h.uni, w->b.tok + t * NTOK, log, sign);
        for (int l = 0; l < LANES; l++) {
            int64_t f = l * z->MP + r, at = t * z->ldf + f;
            value[l] = vec_exp_falling(log[l] - vload(w->shift + f));
            vstore(w->phi + at, SIGNED ? value[l] * sign[l] : value[l]);
            dphi[l] = vload(w->dphi + at) + vload(dz + f);
        }
        feature_gradient(p, z, w, t, r, row, value, sign, dphi, &sum, want_params);
    }
    return sum;
}

/* Masked keys have gradient 0. */
VEC_FN void zero_masked(int64_t n, const uint8_t *mask, int64_t width, real *g, int64_t ld)
{
    for (int64_t t = 0; t < n && mask != NULL; t++)
        if (mask[t] == 0)
            memset(g + t * ld, 0, (size_t)width * sizeof(real));
}

static void bwd_keys(const attn_plan *p, const attn_params *a, int64_t n, const real *k,
                     int64_t ldk, const real *v, int64_t ldv, const uint8_t *mask,
                     const real *state, const real *dstate, real *gk, int64_t ldgk, real *gv,
                     int64_t ldgv, real *dparams, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, BWD_TILES);
    bwd_scratch w;
    bwd_take(&z, scratch, &w);
    hoist(p, &z, 1, a, &w.h);
    params_begin(&z, &w);
    transpose(&z, dstate + z.F, w.transposed);
    key_shift(&z, state, w.shift);
    zero_masked(n, mask, z.D, gk, ldgk);
    zero_masked(n, mask, z.DV, gv, ldgv);
    real *dv = NV > 0 && dparams != NULL ? dparams + NS : NULL;
    sum_grad sums[BLOCK_MAX];
    int64_t index[BLOCK_MAX];
    for (int64_t first = 0; first < n;) {
        first = choose_tokens(first, n, mask, z.block, index, &w.b.n);
        if (w.b.n == 0)
            continue;
        for (int64_t t = 0; t < w.b.n; t++) {
            load_token(&z, 1, p->scale, k + index[t] * ldk, a->v, &w.b, t);
            if (index[t] + z.block < n) {
                expect_row(k + (index[t] + z.block) * ldk, z.D);
                expect_row(v + (index[t] + z.block) * ldv, z.DV);
            }
        }
        int64_t ld;
        const real *values = gather_rows(index, w.b.n, z.DV, v, ldv, w.v, &ld);
        finish_block(&z, 1, a, &w.b);
        hoist_tokens(&w.h, &w.b);
        project(p, &z, &w.b, w.u, w.ldu, w.u2);
        int64_t rows = pad_block(w.b.n, z.DP, w.b.x);
        tile_mul(rows, z.F, z.DV, values, ld, w.transposed, z.F, w.dphi, z.ldf);
        for (int64_t t = 0; t < w.b.n; t++) {
            expect_row(gk + index[t] * ldgk, z.D);
            expect_row(gv + index[t] * ldgv, z.DV);
            if (index[t] + z.block < n) {
                expect_row(k + (index[t] + z.block) * ldk, z.D);
                expect_row(v + (index[t] + z.block) * ldv, z.DV);
            }
            sums[t] = dparams != NULL ? key_gradient(p, &z, &w, t, dstate, true)
                                      : key_gradient(p, &z, &w, t, dstate, false);
        }
        pad_block(w.b.n, z.ldf, w.phi);
        tile_mul(rows, z.DVP, z.F, w.phi, z.ldf, dstate + z.F, z.DVP, w.gv, z.DVP);
        matrix_gradient(p, &z, &w, dparams);
        project_back(p, &z, &w);
        for (int64_t t = 0; t < w.b.n; t++) {
            store_gradient(&z, 1, p->scale, k + index[t] * ldk, a->v, &w.b, t, w.gx + t * z.DP,
                           w.gsecond + t * z.DP, sums + t, gk + index[t] * ldgk, dv);
            copy_out(z.DV, w.gv + t * z.DVP, gv + index[t] * ldgv);
        }
        finish_gradients(&z, 1, p->scale, a, &w.b, index, gk, ldgk);
    }
    params_end(p, &z, a, &w, dparams);
}

extern const attn_bwd_ops EXPORT(attn_bwd);
const attn_bwd_ops EXPORT(attn_bwd) = {
    .scratch = bwd_reals,
    .queries = bwd_queries,
    .keys = bwd_keys,
};
