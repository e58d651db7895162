/* The reference system's attention, forward and backward: every token's features are divided by the
 * exponential of its own maximum, on both sides, and an epsilon is added to each. Keys of different
 * size are thereby re-weighted: it is that system's behaviour, not an estimate of softmax.
 * Gradients flow through the maximum to the entry that holds it, and into the scalars, which are a
 * token's. */
#include "stub.h"

#include "attn.h"

enum { TOKEN_TILES = 5 };

typedef struct token_scratch {
    attn_block b;
    real *u;          /* (block, ldu)  projections, then their gradients */
    real *factor;     /* (block, ldf)  logs, then exp(log - maximum) */
    real *sign;       /* (block, ldf) */
    real *phi;        /* (block, ldf)  sign * factor + eps */
    real *dphi;       /* (block, ldf) */
    real *v;          /* (block, DVP)  values of keys, g or numerators of queries */
    real *gv;         /* (block, DVP) */
    real *gx;         /* (block, DP) */
    real *gden;       /* (block) */
    real *transposed; /* (DV, F)       S of queries, dS of keys */
    int64_t ldu;
} token_scratch;

VEC_FN int64_t token_take(const attn_sizes *z, real *scratch, token_scratch *w)
{
    attn_arena arena = {scratch, 0};
    w->ldu = z->MP + PAD;
    take_block(z, &w->b, &arena);
    w->u = attn_take(&arena, z->block * w->ldu);
    w->factor = attn_take(&arena, z->block * z->ldf);
    w->sign = attn_take(&arena, z->block * z->ldf);
    w->phi = attn_take(&arena, z->block * z->ldf);
    w->dphi = attn_take(&arena, z->block * z->ldf);
    w->v = attn_take(&arena, z->block * z->DVP);
    w->gv = attn_take(&arena, z->block * z->DVP);
    w->gx = attn_take(&arena, z->block * z->DP);
    w->gden = attn_take(&arena, z->block);
    w->transposed = attn_take(&arena, z->DV * z->F);
    return arena.used;
}

static int64_t token_reals(const attn_plan *p)
{
    attn_sizes z = attn_sizes_of(p, TOKEN_TILES);
    token_scratch w;
    return token_take(&z, NULL, &w);
}

/* The next block of at most n tokens x: mapped and projected; s (n, NS) are its tokens' scalars. */
VEC_FN void token_load(const attn_plan *p, const attn_sizes *z, const token_scratch *w, int side,
                       const real *vectors, const real *x, int64_t ldx)
{
    attn_block b = w->b;
    for (int64_t t = 0; t < b.n; t++)
        load_token(z, side, p->scale, x + t * ldx, vectors, &b, t);
    project(p, z, &b, w->u, NULL, w->ldu);
}

/* 1 in the lanes that hold rows of W, 0 in the padding. */
VEC_FN vec token_valid(const attn_sizes *z, int64_t r)
{
    return v_lt(viota(), vset((real)(z->M - r)));
}

/* Logs and signs of token t; returns the maximum that normalises them. */
VEC_FN real token_logs(const attn_plan *p, const attn_sizes *z, const token_scratch *w, int64_t t,
                       const real *s)
{
    vec max = vset(-(real)INFINITY);
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec log[LANES], sign[LANES], valid = token_valid(z, r);
        tphi(vload(w->u + t * w->ldu + r), vload(p->w2 + r), w->b.t[t * TOKEN],
             w->b.t[t * TOKEN + 1], s, log, sign);
        for (int l = 0; l < LANES; l++) {
            int64_t at = t * z->ldf + l * z->MP + r;
            if (!SIGNED)
                sign[l] = vset(1);
            vstore(w->factor + at, log[l]);
            vstore(w->sign + at, sign[l]);
            max = v_max(max,
                        v_where(valid, TOKEN_NORM == 0 ? log[l] : sign[l], vset(-(real)INFINITY)));
        }
    }
    return vhmax(max);
}

/* Features of token t; returns the first entry that holds the maximum. */
VEC_FN int64_t token_features(const attn_plan *p, const attn_sizes *z, const token_scratch *w,
                              int64_t t, const real *s, real eps)
{
    real max = token_logs(p, z, w, t, s);
    const real *norm = (TOKEN_NORM == 0 ? w->factor : w->sign) + t * z->ldf;
    int64_t top = 0;
    while (top < z->F - 1 && (norm[top] != max || top % z->MP >= z->M))
        top++;
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec valid = token_valid(z, r);
        for (int l = 0; l < LANES; l++) {
            int64_t at = t * z->ldf + l * z->MP + r;
            vec factor = v_where(valid, v_exp(vload(w->factor + at) - max), vset(0));
            vstore(w->factor + at, factor);
            vstore(w->phi + at, vload(w->sign + at) * factor + valid * eps);
        }
    }
    return top;
}

static void token_keys(const attn_plan *p, const real *vectors, int64_t n, const real *s,
                       const real *k, int64_t ldk, const real *v, int64_t ldv, real eps,
                       real *state, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, TOKEN_TILES);
    token_scratch w;
    token_take(&z, scratch, &w);
    for (int64_t first = 0; first < n; first += w.b.n) {
        w.b.n = n - first < z.block ? n - first : z.block;
        token_load(p, &z, &w, 1, vectors, k + first * ldk, ldk);
        for (int64_t t = 0; t < w.b.n; t++) {
            token_features(p, &z, &w, t, s + (first + t) * NS, eps);
            for (int64_t f = 0; f < z.F; f += VL)
                vstore(state + f, vload(state + f) + vload(w.phi + t * z.ldf + f));
            copy_padded(z.DV, v + (first + t) * ldv, w.v + t * z.DVP);
        }
        tile_rank(w.b.n, z.F, z.DVP, w.phi, z.ldf, w.v, z.DVP, state + z.F, z.DVP);
    }
}

static void token_queries(const attn_plan *p, const real *vectors, int64_t n, const real *s,
                          const real *q, int64_t ldq, real eps, const real *state, real *o,
                          int64_t ldo, real *den, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, TOKEN_TILES);
    token_scratch w;
    token_take(&z, scratch, &w);
    for (int64_t first = 0; first < n; first += w.b.n) {
        w.b.n = n - first < z.block ? n - first : z.block;
        token_load(p, &z, &w, 0, vectors, q + first * ldq, ldq);
        for (int64_t t = 0; t < w.b.n; t++) {
            token_features(p, &z, &w, t, s + (first + t) * NS, eps);
            vec sum = vset(0);
            for (int64_t f = 0; f < z.F; f += VL)
                sum += vload(w.phi + t * z.ldf + f) * vload(state + f);
            den[first + t] = vsum(sum);
        }
        int64_t rows = pad_block(w.b.n, z.ldf, w.phi);
        tile_mul(rows, z.DVP, z.F, w.phi, z.ldf, state + z.F, z.DVP, w.v, z.DVP);
        for (int64_t t = 0; t < w.b.n; t++)
            store_output(&z, den[first + t], w.v + t * z.DVP, o + (first + t) * ldo);
    }
}

/* dphi + last z of token t through the normalisation and the features: to the gradients of u and
 * of the norms, and of the token's scalars. dphi becomes the gradient of signs, factor of logs. */
VEC_FN void token_gradient(const attn_plan *p, const attn_sizes *z, const token_scratch *w,
                           int64_t t, int64_t top, const real *s, real last, const real *zsum,
                           real *ds, sum_grad *sums)
{
    real *gsigns = w->dphi + t * z->ldf, *glogs = w->factor + t * z->ldf;
    vec through = vset(0), sum[PARAM_S];
    for (int64_t f = 0; f < z->F; f += VL) {
        vec gsign = (vload(gsigns + f) + vload(zsum + f) * last) * vload(glogs + f);
        vec glog = gsign * vload(w->sign + t * z->ldf + f);
        vstore(gsigns + f, gsign);
        vstore(glogs + f, glog);
        through += glog;
    }
    (TOKEN_NORM == 0 ? glogs : gsigns)[top] -= vsum(through);
    for (int i = 0; i < TOKEN; i++)
        sums->t[i] = vset(0);
    for (int i = 0; i < NS; i++)
        sum[i] = vset(0);
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec glog[LANES], gsign[LANES], gu, gx2, gr2, gs[PARAM_S];
        real *u = w->u + t * w->ldu + r;
        for (int l = 0; l < LANES; l++) {
            glog[l] = vload(glogs + l * z->MP + r);
            gsign[l] = vload(gsigns + l * z->MP + r);
        }
        tphi_grad(vload(u), vload(p->w2 + r), w->b.t[t * TOKEN], w->b.t[t * TOKEN + 1], s, glog,
                  gsign, &gu, &gx2, &gr2, gs);
        vstore(u, gu);
        sums->t[0] += gx2;
        sums->t[1] += gr2;
        for (int i = 0; i < NS; i++)
            sum[i] += gs[i];
    }
    for (int i = 0; i < NS; i++)
        ds[i] += vsum(sum[i]);
}

/* The block's dphi to the gradients of its inputs x and scalars; z is [z | ..] of the state or of
 * its gradient, last (block) its factor in dphi. */
VEC_FN void token_inputs(const attn_plan *p, const attn_sizes *z, const token_scratch *w, int side,
                         const real *vectors, const int64_t *top, const real *s, const real *zsum,
                         const real *x, int64_t ldx, real *gx, int64_t ldgx, real *ds, real *dvec)
{
    sum_grad sums[BLOCK_MAX];
    for (int64_t t = 0; t < w->b.n; t++)
        token_gradient(p, z, w, t, top[t], s + t * NS, w->gden[t], zsum, ds + t * NS, sums + t);
    int64_t rows = pad_block(w->b.n, w->ldu, w->u);
    tile_mul(rows, z->DP, z->M, w->u, w->ldu, p->w, z->DP, w->gx, z->DP);
    for (int64_t t = 0; t < w->b.n; t++)
        store_gradient(z, side, p->scale, x + t * ldx, vectors, &w->b, t, w->gx + t * z->DP, NULL,
                       sums + t, gx + t * ldgx, dvec);
}

static void token_queries_bwd(const attn_plan *p, const real *vectors, int64_t n, const real *s,
                              const real *q, int64_t ldq, real eps, const real *state,
                              const real *o, int64_t ldo, const real *den, const real *go,
                              int64_t ldgo, real *gq, int64_t ldgq, real *dstate, real *ds,
                              real *dvec, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, TOKEN_TILES);
    token_scratch w;
    token_take(&z, scratch, &w);
    transpose(&z, state + z.F, w.transposed);
    int64_t top[BLOCK_MAX];
    for (int64_t first = 0; first < n; first += w.b.n) {
        w.b.n = n - first < z.block ? n - first : z.block;
        token_load(p, &z, &w, 0, vectors, q + first * ldq, ldq);
        for (int64_t t = 0; t < w.b.n; t++) {
            top[t] = token_features(p, &z, &w, t, s + (first + t) * NS, eps);
            w.gden[t] = output_gradient(&z, den[first + t], o + (first + t) * ldo,
                                        go + (first + t) * ldgo, w.v + t * z.DVP);
            for (int64_t f = 0; f < z.F; f += VL)
                vstore(dstate + f, vload(dstate + f) + vload(w.phi + t * z.ldf + f) * w.gden[t]);
        }
        tile_rank(w.b.n, z.F, z.DVP, w.phi, z.ldf, w.v, z.DVP, dstate + z.F, z.DVP);
        int64_t rows = pad_block(w.b.n, z.DVP, w.v);
        tile_mul(rows, z.F, z.DV, w.v, z.DVP, w.transposed, z.F, w.dphi, z.ldf);
        token_inputs(p, &z, &w, 0, vectors, top, s + first * NS, state, q + first * ldq, ldq,
                     gq + first * ldgq, ldgq, ds + first * NS, dvec);
    }
}

static void token_keys_bwd(const attn_plan *p, const real *vectors, int64_t n, const real *s,
                           const real *k, int64_t ldk, const real *v, int64_t ldv, real eps,
                           const real *dstate, real *gk, int64_t ldgk, real *gv, int64_t ldgv,
                           real *ds, real *dvec, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, TOKEN_TILES);
    token_scratch w;
    token_take(&z, scratch, &w);
    transpose(&z, dstate + z.F, w.transposed);
    for (int64_t t = 0; t < z.block; t++)
        w.gden[t] = 1;
    int64_t top[BLOCK_MAX];
    for (int64_t first = 0; first < n; first += w.b.n) {
        w.b.n = n - first < z.block ? n - first : z.block;
        token_load(p, &z, &w, 1, vectors, k + first * ldk, ldk);
        for (int64_t t = 0; t < w.b.n; t++) {
            top[t] = token_features(p, &z, &w, t, s + (first + t) * NS, eps);
            copy_padded(z.DV, v + (first + t) * ldv, w.v + t * z.DVP);
        }
        int64_t rows = pad_block(w.b.n, z.ldf, w.phi);
        tile_mul(rows, z.DVP, z.F, w.phi, z.ldf, dstate + z.F, z.DVP, w.gv, z.DVP);
        pad_block(w.b.n, z.DVP, w.v);
        tile_mul(rows, z.F, z.DV, w.v, z.DVP, w.transposed, z.F, w.dphi, z.ldf);
        token_inputs(p, &z, &w, 1, vectors, top, s + first * NS, dstate, k + first * ldk, ldk,
                     gk + first * ldgk, ldgk, ds + first * NS, dvec);
        for (int64_t t = 0; t < w.b.n; t++)
            copy_out(z.DV, w.gv + t * z.DVP, gv + (first + t) * ldgv);
    }
}

extern const attn_official_ops EXPORT(attn_official);
const attn_official_ops EXPORT(attn_official) = {
    .scratch = token_reals,
    .keys = token_keys,
    .queries = token_queries,
    .queries_bwd = token_queries_bwd,
    .keys_bwd = token_keys_bwd,
};
