/* The features a skeleton compiles with when it stands alone, and what tests/kernel/kernel_stub.c
 * knows by heart: PosRF, exp(u - |x|^2/2); or with -DSTUB_SIGNED two signed lanes of a
 * trigonometric map behind a diagonal one, so that lanes, signs and vectors are exercised as well.
 * A generated prologue takes the place of this file. */
#ifndef SPECTRA_STUB_H
#define SPECTRA_STUB_H

#include "vec.h"

enum { CD = 0, CDV = 0, CM = 0, NUNI = 1, NROW = 1, NTOK = 1, NP = 1, NW = 1, SUM = 0, LINEAR = 0 };
enum { SIDE = -1, NORM1 = -1, NORM2 = -1, COUNTS = 0 };

#ifndef STUB_SIGNED

#define FEATURE_ID stub
enum { LANES = 1, SIGNED = 0, NS = 1, NV = 0, TOKEN_NORM = 0, IDENTITY = 1 };
static const int LOG_LANE[LANES] = {0};

VEC_FN void phi_uniform(const real *s, real *uni)
{
    uni[0] = s[0] / 2;
}

VEC_FN void phi_row(const vec *w, const real *uni, vec *row)
{
    (void)w, (void)uni;
    row[0] = vset(0);
}

VEC_FN void phi_token(const real *t, const real *uni, real *tok)
{
    tok[0] = -t[0] / 2 - uni[0] * t[1];
}

VEC_FN void phi(const vec *u, const vec *row, const real *uni, const real *tok, vec *log, vec *sign)
{
    (void)row, (void)uni, (void)sign;
    log[0] = u[0] + tok[0];
}

VEC_FN void phi_grad(const vec *u, const vec *w, const vec *row, const real *uni, const real *tok,
                     const vec *glog, const vec *gsign, vec *gu, vec *gt)
{
    (void)u, (void)w, (void)row, (void)tok, (void)gsign;
    gu[0] = glog[0];
    gt[0] = glog[0] * (real)-0.5;
    gt[1] = -glog[0] * uni[0];
    gt[2] = vset(0);
}

VEC_FN void phi_pgrad(const vec *u, const vec *w, const real *s, const vec *row, const real *uni,
                      const real *tok, const real *t, const vec *glog, const vec *gsign, vec *gs,
                      vec *gw)
{
    (void)u, (void)w, (void)s, (void)row, (void)uni, (void)tok, (void)gsign;
    gs[0] = glog[0] * (t[1] * (real)-0.5);
    gw[0] = vset(0);
}

VEC_FN vec map_q(vec x, const vec *v)
{
    (void)v;
    return x;
}

VEC_FN vec map_k(vec x, const vec *v)
{
    (void)v;
    return x;
}

VEC_FN void map_q_grad(vec x, const vec *v, vec g, vec *gx, vec *gv)
{
    (void)x, (void)v, (void)gv;
    *gx = g;
}

VEC_FN void map_k_grad(vec x, const vec *v, vec g, vec *gx, vec *gv)
{
    (void)x, (void)v, (void)gv;
    *gx = g;
}

VEC_FN void tphi(vec u, vec w2, real x2, real r2, const real *s, vec *log, vec *sign)
{
    (void)x2, (void)r2, (void)sign;
    log[0] = u + w2 * s[0];
}

VEC_FN void tphi_grad(vec u, vec w2, real x2, real r2, const real *s, const vec *glog,
                      const vec *gsign, vec *gu, vec *gx2, vec *gr2, vec *gs)
{
    (void)u, (void)x2, (void)r2, (void)s, (void)gsign;
    *gu = glog[0];
    *gx2 = *gr2 = vset(0);
    gs[0] = glog[0] * w2;
}

#else /* STUB_SIGNED: exp(a |w|^2 + |x'|^2/2 - |x|^2/4) (cos u, sin u), x' = x v or x / v */

#define FEATURE_ID stub_signed
enum { LANES = 2, SIGNED = 1, NS = 2, NV = 1, TOKEN_NORM = 1, IDENTITY = 0 };
static const int LOG_LANE[LANES] = {0, 0};

VEC_FN void phi_uniform(const real *s, real *uni)
{
    uni[0] = s[0];
}

VEC_FN void phi_row(const vec *w, const real *uni, vec *row)
{
    row[0] = w[0] * uni[0];
}

VEC_FN void phi_token(const real *t, const real *uni, real *tok)
{
    (void)uni;
    tok[0] = t[0] / 2 - t[1] / 4;
}

VEC_FN void phi(const vec *u, const vec *row, const real *uni, const real *tok, vec *log, vec *sign)
{
    (void)uni;
    log[0] = log[1] = row[0] + tok[0];
    sign[0] = v_cos(u[0]);
    sign[1] = v_sin(u[0]);
}

VEC_FN void phi_grad(const vec *u, const vec *w, const vec *row, const real *uni, const real *tok,
                     const vec *glog, const vec *gsign, vec *gu, vec *gt)
{
    (void)w, (void)row, (void)uni, (void)tok;
    gu[0] = gsign[1] * v_cos(u[0]) - gsign[0] * v_sin(u[0]);
    gt[0] = (glog[0] + glog[1]) * (real)0.5;
    gt[1] = (glog[0] + glog[1]) * (real)-0.25;
    gt[2] = vset(0);
}

VEC_FN void phi_pgrad(const vec *u, const vec *w, const real *s, const vec *row, const real *uni,
                      const real *tok, const real *t, const vec *glog, const vec *gsign, vec *gs,
                      vec *gw)
{
    (void)u, (void)row, (void)uni, (void)tok, (void)t, (void)gsign;
    gs[0] = (glog[0] + glog[1]) * w[0];
    gs[1] = vset(0);
    gw[0] = (glog[0] + glog[1]) * s[0];
}

VEC_FN vec map_q(vec x, const vec *v)
{
    return x * v[0];
}

VEC_FN vec map_k(vec x, const vec *v)
{
    return x / v[0];
}

VEC_FN void map_q_grad(vec x, const vec *v, vec g, vec *gx, vec *gv)
{
    *gx = g * v[0];
    gv[0] = g * x;
}

VEC_FN void map_k_grad(vec x, const vec *v, vec g, vec *gx, vec *gv)
{
    *gx = g / v[0];
    gv[0] = -g * x / (v[0] * v[0]);
}

VEC_FN void tphi(vec u, vec w2, real x2, real r2, const real *s, vec *log, vec *sign)
{
    (void)r2;
    log[0] = log[1] = w2 * s[0] + x2 / 2;
    sign[0] = v_cos(u);
    sign[1] = v_sin(u);
}

VEC_FN void tphi_grad(vec u, vec w2, real x2, real r2, const real *s, const vec *glog,
                      const vec *gsign, vec *gu, vec *gx2, vec *gr2, vec *gs)
{
    (void)x2, (void)r2, (void)s;
    *gu = gsign[1] * v_cos(u) - gsign[0] * v_sin(u);
    *gx2 = (glog[0] + glog[1]) * (real)0.5;
    *gr2 = vset(0);
    gs[0] = (glog[0] + glog[1]) * w2;
    gs[1] = vset(0);
}

#endif

/* What these features do not have: a second projection, a sum of their own. */

VEC_FN vec map2(vec x, const vec *v)
{
    (void)v;
    return x;
}

VEC_FN void map2_grad(vec x, const vec *v, vec g, vec *gx, vec *gv)
{
    (void)x, (void)v, (void)gv;
    *gx = g;
}

VEC_FN vec token_sum(vec x, const vec *v)
{
    (void)v;
    return x;
}

VEC_FN void token_sum_grad(vec x, const vec *v, real gsum, vec *gx, vec *gv)
{
    (void)x, (void)v, (void)gv;
    *gx = vset(gsum);
}

#endif
