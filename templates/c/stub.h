/* The features a skeleton compiles with when it stands alone, and what tests/kernel_stub.c knows
 * by heart: PosRF, exp(u - |x|^2/2); or with -DSTUB_SIGNED two signed lanes of a trigonometric map
 * behind a diagonal one, so that lanes, signs and vectors are exercised as well. A generated
 * prologue takes the place of this file. */
#ifndef SPECTRA_STUB_H
#define SPECTRA_STUB_H

#include "vec.h"

enum { CD = 0, CDV = 0, CM = 0, NUNI = 1, NROW = 1, NTOK = 1 };

#ifndef STUB_SIGNED

#define FEATURE_ID stub
enum { LANES = 1, SIGNED = 0, NS = 1, NV = 0, TOKEN_NORM = 0 };

VEC_FN void phi_uniform(const real *s, real *uni)
{
    uni[0] = s[0] / 2;
}

VEC_FN void phi_row(vec w2, const real *uni, vec *row)
{
    (void)w2, (void)uni;
    row[0] = vset(0);
}

VEC_FN void phi_token(real x2, real r2, const real *uni, real *tok)
{
    tok[0] = -x2 / 2 - uni[0] * r2;
}

VEC_FN void phi(vec u, const vec *row, const real *uni, const real *tok, vec *log, vec *sign)
{
    (void)row, (void)uni, (void)sign;
    log[0] = u + tok[0];
}

VEC_FN void phi_grad(vec u, vec w2, const vec *row, const real *uni, const real *tok,
                     const vec *glog, const vec *gsign, vec *gu, vec *gx2, vec *gr2)
{
    (void)u, (void)w2, (void)row, (void)tok, (void)gsign;
    *gu = glog[0];
    *gx2 = glog[0] * (real)-0.5;
    *gr2 = -glog[0] * uni[0];
}

VEC_FN void phi_pgrad(vec u, vec w2, const real *s, const vec *row, const real *uni,
                      const real *tok, real x2, real r2, const vec *glog, const vec *gsign, vec *gs)
{
    (void)u, (void)w2, (void)s, (void)row, (void)uni, (void)tok, (void)x2, (void)gsign;
    gs[0] = glog[0] * (r2 * (real)-0.5);
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
enum { LANES = 2, SIGNED = 1, NS = 2, NV = 1, TOKEN_NORM = 1 };

VEC_FN void phi_uniform(const real *s, real *uni)
{
    uni[0] = s[0];
}

VEC_FN void phi_row(vec w2, const real *uni, vec *row)
{
    row[0] = w2 * uni[0];
}

VEC_FN void phi_token(real x2, real r2, const real *uni, real *tok)
{
    (void)uni;
    tok[0] = x2 / 2 - r2 / 4;
}

VEC_FN void phi(vec u, const vec *row, const real *uni, const real *tok, vec *log, vec *sign)
{
    (void)uni;
    log[0] = log[1] = row[0] + tok[0];
    sign[0] = v_cos(u);
    sign[1] = v_sin(u);
}

VEC_FN void phi_grad(vec u, vec w2, const vec *row, const real *uni, const real *tok,
                     const vec *glog, const vec *gsign, vec *gu, vec *gx2, vec *gr2)
{
    (void)w2, (void)row, (void)uni, (void)tok;
    *gu = gsign[1] * v_cos(u) - gsign[0] * v_sin(u);
    *gx2 = (glog[0] + glog[1]) * (real)0.5;
    *gr2 = (glog[0] + glog[1]) * (real)-0.25;
}

VEC_FN void phi_pgrad(vec u, vec w2, const real *s, const vec *row, const real *uni,
                      const real *tok, real x2, real r2, const vec *glog, const vec *gsign, vec *gs)
{
    (void)u, (void)s, (void)row, (void)uni, (void)tok, (void)x2, (void)r2, (void)gsign;
    gs[0] = (glog[0] + glog[1]) * w2;
    gs[1] = vset(0);
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

#endif
