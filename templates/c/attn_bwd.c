/* Linear attention, backward; features are made again, a block of tokens at a time.
 *
 * The queries come first: they give their own gradients and the state's, dz and dS. Then the keys.
 * With g = [go | -(go.o)] / den and the state as rows [S | z]:
 *
 *     queries  dphi = g [S | z]^T      d[S | z] += phi^T g
 *     keys     dphi = [v | 1] d[S | z]^T      dv = phi dS
 *
 * phi_grad turns dphi into gradients of u, |x|^2 and the parameters; maxima are constants. */
#include "stub.h"

#include "attn.h"

typedef struct bwd_scratch {
    attn_hoisted h;
    attn_block b;
    int64_t ldu;
    real *u;         /* (block, ldu)  projections, then their gradients */
    real *phi;       /* (block, ldf)  features */
    real *e;         /* (block, ldf)  their exponential part; the same array unless SIGNED */
    real *dphi;      /* (block, ldf) */
    real *g;         /* (block, DVP)  left columns of g, or values */
    real *last;      /* (block)  last column of g, or ones */
    real *out;       /* (block, max(DP, DVP)) */
    real *across;    /* (DV, F)  S or dS transposed */
    real *shift;     /* (F) */
    real *gx2, *gr2; /* (block) */
} bwd_scratch;

static attn_sizes bwd_sizes(const attn_plan *p)
{
    return attn_sizes_of(p, 3 + SIGNED);
}

VEC_FN real *bwd_take(const attn_sizes *z, real *at, bwd_scratch *w)
{
    w->ldu = z->MP + PAD;
    w->h.row = attn_take(&at, NROW * z->MP);
    take_block(z, &w->b, &at);
    w->u = attn_take(&at, z->block * w->ldu);
    w->phi = attn_take(&at, z->block * z->ldf);
    w->e = SIGNED ? attn_take(&at, z->block * z->ldf) : w->phi;
    w->dphi = attn_take(&at, z->block * z->ldf);
    w->g = attn_take(&at, z->block * z->DVP);
    w->last = attn_take(&at, z->block);
    w->out = attn_take(&at, z->block * (z->DP > z->DVP ? z->DP : z->DVP));
    w->across = attn_take(&at, z->DV * z->F);
    w->shift = attn_take(&at, z->F);
    w->gx2 = attn_take(&at, z->block);
    w->gr2 = attn_take(&at, z->block);
    return at;
}

static int64_t scratch_reals(const attn_plan *p)
{
    attn_sizes z = bwd_sizes(p);
    bwd_scratch w;
    real base[1];
    return bwd_take(&z, base, &w) - base;
}

VEC_FN void transpose(const attn_sizes *z, const real *S, real *across)
{
    for (int64_t f = 0; f < z->F; f++)
        for (int64_t c = 0; c < z->DV; c++)
            across[c * z->F + f] = S[f * z->DVP + c];
}

/* Features of the block's keys, from the finished maxima. */
VEC_FN void key_features(const attn_sizes *z, const bwd_scratch *w)
{
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW];
        load_row(z, &w->h, r, row);
        for (int64_t t = 0; t < w->b.n; t++) {
            vec log[LANES], sign[LANES];
            phi(vload(w->u + t * w->ldu + r), row, w->h.uni, w->b.tok + t * NTOK, log, sign);
            for (int l = 0; l < LANES; l++) {
                int64_t at = t * z->ldf + l * z->MP + r;
                vec e = v_exp(log[l] - vload(w->shift + l * z->MP + r));
                vstore(w->e + at, e);
                if (SIGNED)
                    vstore(w->phi + at, e * sign[l]);
            }
        }
    }
}

/* Features of query t relative to its largest. */
VEC_FN void query_features(const attn_sizes *z, const bwd_scratch *w, int64_t t)
{
    real *e_t = w->e + t * z->ldf, *phi_t = w->phi + t * z->ldf;
    vec max = vset(-REAL_MAX);
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], log[LANES], sign[LANES];
        load_row(z, &w->h, r, row);
        phi(vload(w->u + t * w->ldu + r), row, w->h.uni, w->b.tok + t * NTOK, log, sign);
        for (int l = 0; l < LANES; l++) {
            vec shifted = log[l] + vload(w->shift + l * z->MP + r);
            vstore(e_t + l * z->MP + r, shifted);
            if (SIGNED)
                vstore(phi_t + l * z->MP + r, sign[l]);
            max = v_max(max, shifted);
        }
    }
    max = vset(vhmax(max));
    for (int64_t f = 0; f < z->F; f += VL) {
        vec e = v_exp(vload(e_t + f) - max);
        vstore(e_t + f, e);
        if (SIGNED)
            vstore(phi_t + f, e * vload(phi_t + f));
    }
}

/* dphi + last * row, through the feature: u becomes the projections' gradient. */
VEC_FN void feature_grad(const attn_plan *p, const attn_sizes *z, const bwd_scratch *w,
                         const real *s, const real *row_of_last, vec *params)
{
    for (int64_t t = 0; t < w->b.n; t++) {
        vec gx2 = vset(0), gr2 = vset(0), last = vset(w->last[t]);
        const real *tok = w->b.tok + t * NTOK;
        for (int64_t r = 0; r < z->MP; r += VL) {
            vec glog[LANES], gsign[LANES], row[NROW], gu, x2, r2;
            real *u = w->u + t * w->ldu + r;
            vec proj = vload(u), w2 = vload(p->w2 + r);
            load_row(z, &w->h, r, row);
            for (int l = 0; l < LANES; l++) {
                int64_t f = l * z->MP + r, at = t * z->ldf + f;
                vec dphi = vload(w->dphi + at) + last * vload(row_of_last + f);
                glog[l] = dphi * vload(w->phi + at);
                gsign[l] = SIGNED ? dphi * vload(w->e + at) : vset(0);
            }
            phi_grad(proj, w2, row, w->h.uni, tok, glog, gsign, &gu, &x2, &r2);
            vstore(u, gu);
            gx2 += x2;
            gr2 += r2;
            if (params) {
                vec gs[PARAM_S];
                phi_pgrad(proj, w2, s, row, w->h.uni, tok, w->b.x2[t], w->b.r2[t], glog, gsign, gs);
                for (int i = 0; i < NS; i++)
                    params[i] += gs[i];
            }
        }
        w->gx2[t] = vsum(gx2);
        w->gr2[t] = vsum(gr2);
    }
}

/* The gradient of token t, whose input was src, into gx; w->out has W^T du. */
VEC_FN void token_grad(const attn_plan *p, const attn_sizes *z, const bwd_scratch *w, int side,
                       int64_t t, const real *src, const real *v, real *gx, real *dvectors)
{
    vec x2 = vset(2 * w->gx2[t]), r2 = vset(2 * w->gr2[t]);
    for (int64_t c = 0; c < z->D; c += VL) {
        vec par[PARAM_V], gpar[PARAM_V], gin;
        vec raw = load_part(src + c, z->D - c) * p->scale;
        vec g = vload(w->out + t * z->DP + c) + x2 * vload(w->b.x + t * z->DP + c);
        load_vectors(z, v, c, par);
        if (side == 0)
            map_q_grad(raw, par, g, &gin, gpar);
        else
            map_k_grad(raw, par, g, &gin, gpar);
        store_part(gx + c, (gin + r2 * raw) * p->scale, z->D - c);
        for (int i = 0; i < NV && dvectors; i++) {
            real *to = dvectors + i * z->DP + c;
            vstore(to, vload(to) + gpar[i]);
        }
    }
}

/* From dphi to the tokens' gradients and the parameters'. */
VEC_FN void block_grad(const attn_plan *p, const attn_sizes *z, const bwd_scratch *w,
                       const attn_params *a, int side, const real *row_of_last,
                       const int64_t *index, const real *x, int64_t ldx, real *gx, int64_t ldgx,
                       real *dparams)
{
    vec scalars[PARAM_S];
    for (int i = 0; i < NS; i++)
        scalars[i] = vset(0);
    feature_grad(p, z, w, a->s, row_of_last, dparams ? scalars : NULL);
    for (int i = 0; i < NS && dparams; i++)
        dparams[i] += vsum(scalars[i]);
    int64_t rows = pad_block(w->b.n, w->ldu, w->u);
    tile_mul(rows, z->DP, z->MP, w->u, w->ldu, p->w, z->DP, w->out, z->DP);
    for (int64_t t = 0; t < w->b.n; t++)
        token_grad(p, z, w, side, t, x + index[t] * ldx, a->v, gx + index[t] * ldgx,
                   dparams ? dparams + NS : NULL);
}

/* g of token t: go / den and -(go.o) / den. */
VEC_FN void output_grad(const attn_sizes *z, const bwd_scratch *w, int64_t t, const real *o,
                        real den, const real *go)
{
    real inverse = den != 0 ? 1 / den : 0;
    vec dot = vset(0);
    for (int64_t c = 0; c < z->DVP; c += VL) {
        int64_t left = z->DV - c;
        vec g = left > 0 ? load_part(go + c, left) * inverse : vset(0);
        vstore(w->g + t * z->DVP + c, g);
        if (left > 0)
            dot += g * load_part(o + c, left);
    }
    w->last[t] = -vsum(dot);
}

static bool is_empty(const real *state)
{
    return state[0] == -(real)INFINITY;
}

static void zero_row(int64_t n, real *x)
{
    memset(x, 0, (size_t)n * sizeof *x);
}

static void queries(const attn_plan *p, const attn_params *a, int64_t n, const real *q, int64_t ldq,
                    const real *state, const real *o, int64_t ldo, const real *den, const real *go,
                    int64_t ldgo, real *gq, int64_t ldgq, real *dstate, real *dparams,
                    real *scratch)
{
    attn_sizes z = bwd_sizes(p);
    bwd_scratch w;
    bwd_take(&z, scratch, &w);
    for (int64_t i = 0; i < n && is_empty(state); i++)
        zero_row(z.D, gq + i * ldgq);
    if (is_empty(state))
        return;
    const real *zsum = state + z.F, *S = zsum + z.F;
    real *dz = dstate, *dS = dstate + z.F;
    hoist(p, &z, a->s, &w.h);
    query_shift(p, &z, state, w.shift);
    transpose(&z, S, w.across);
    int64_t index[BLOCK_MAX + 1];
    for (int64_t first = 0; first < n;) {
        first = choose_tokens(first, n, NULL, z.block, index, &w.b.n);
        for (int64_t t = 0; t < w.b.n; t++) {
            load_token(&z, 0, p->scale, q + index[t] * ldq, a->v, &w.b, t);
            output_grad(&z, &w, t, o + index[t] * ldo, den[index[t]], go + index[t] * ldgo);
        }
        project(p, &z, &w.h, &w.b, w.u, w.ldu);
        for (int64_t t = 0; t < w.b.n; t++)
            query_features(&z, &w, t);
        int64_t rows = pad_block(w.b.n, z.DVP, w.g);
        tile_mul(rows, z.F, z.DV, w.g, z.DVP, w.across, z.F, w.dphi, z.ldf);
        for (int64_t f = 0; f < z.F; f += VL) {
            vec sum = vload(dz + f);
            for (int64_t t = 0; t < w.b.n; t++)
                sum += vload(w.phi + t * z.ldf + f) * w.last[t];
            vstore(dz + f, sum);
        }
        tile_rank(w.b.n, z.F, z.DVP, w.phi, z.ldf, w.g, z.DVP, dS, z.DVP);
        block_grad(p, &z, &w, a, 0, zsum, index, q, ldq, gq, ldgq, dparams);
    }
}

static void keys(const attn_plan *p, const attn_params *a, int64_t n, const real *k, int64_t ldk,
                 const real *v, int64_t ldv, const uint8_t *mask, const real *state,
                 const real *dstate, real *gk, int64_t ldgk, real *gv, int64_t ldgv, real *dparams,
                 real *scratch)
{
    attn_sizes z = bwd_sizes(p);
    bwd_scratch w;
    bwd_take(&z, scratch, &w);
    for (int64_t i = 0; i < n; i++)
        if (is_empty(state) || (mask && !mask[i])) {
            zero_row(z.D, gk + i * ldgk);
            zero_row(z.DV, gv + i * ldgv);
        }
    if (is_empty(state))
        return;
    const real *dz = dstate, *dS = dstate + z.F;
    hoist(p, &z, a->s, &w.h);
    key_shift(&z, state, w.shift);
    transpose(&z, dS, w.across);
    for (int64_t t = 0; t < z.block; t++)
        w.last[t] = 1;
    int64_t index[BLOCK_MAX + 1];
    for (int64_t first = 0; first < n;) {
        first = choose_tokens(first, n, mask, z.block, index, &w.b.n);
        if (w.b.n == 0)
            continue;
        for (int64_t t = 0; t < w.b.n; t++) {
            load_token(&z, 1, p->scale, k + index[t] * ldk, a->v, &w.b, t);
            copy_padded(z.DV, v + index[t] * ldv, w.g + t * z.DVP);
        }
        project(p, &z, &w.h, &w.b, w.u, w.ldu);
        key_features(&z, &w);
        int64_t rows = pad_block(w.b.n, z.ldf, w.phi);
        tile_mul(rows, z.DVP, z.F, w.phi, z.ldf, dS, z.DVP, w.out, z.DVP);
        for (int64_t t = 0; t < w.b.n; t++)
            for (int64_t c = 0; c < z.DV; c += VL)
                store_part(gv + index[t] * ldgv + c, vload(w.out + t * z.DVP + c), z.DV - c);
        pad_block(w.b.n, z.DVP, w.g);
        tile_mul(rows, z.F, z.DV, w.g, z.DVP, w.across, z.F, w.dphi, z.ldf);
        block_grad(p, &z, &w, a, 1, dz, index, k, ldk, gk, ldgk, dparams);
    }
}

extern const attn_bwd_ops EXPORT(attn_bwd);
const attn_bwd_ops EXPORT(attn_bwd) = {.scratch = scratch_reals, .queries = queries, .keys = keys};
