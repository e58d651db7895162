/* What the backward skeletons share: from the gradients of features to those of the projections,
 * the tokens, the parameters and W. */
#ifndef SPECTRA_ATTN_GRAD_H
#define SPECTRA_ATTN_GRAD_H

#include "attn.h"

/* Through VL features from row r of token t: dphi to the gradients of the projections (stored) and
 * of the token's sums; u: the projections, from which the compiler has cosines already; value: exp
 * of the shifted log. */
VEC_FN void feature_gradient(const attn_plan *p, const attn_sizes *z, const attn_side *w, int64_t t,
                             int64_t r, const vec *row, const vec *u, const vec *value,
                             const vec *sign, const vec *dphi, sum_grad *sum, bool want_params)
{
    const attn_block *b = &w->b;
    const real *tok = b->tok + t * NTOK;
    vec norms[NW], glog[LANES], gsign[LANES], gu[NP], gt[TOKEN];
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

VEC_FN void params_begin(const attn_sizes *z, const attn_side *w)
{
    memset(w->gs, 0, PARAM_S * VL * sizeof(real));
    memset(w->gw, 0, (size_t)(NW * z->MP) * sizeof(real));
}

/* dW += (gradients of the projections)' x, of one block. */
VEC_FN void matrix_gradient(const attn_plan *p, const attn_sizes *z, const attn_side *w,
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
                       const attn_side *w, real *dparams)
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
VEC_FN void project_back(const attn_plan *p, const attn_sizes *z, const attn_side *w)
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

/* Masked keys have gradient 0. */
VEC_FN void zero_masked(int64_t n, const uint8_t *mask, int64_t width, real *g, int64_t ld)
{
    for (int64_t t = 0; t < n && mask != NULL; t++)
        if (mask[t] == 0)
            memset(g + t * ld, 0, (size_t)width * sizeof(real));
}

#endif
