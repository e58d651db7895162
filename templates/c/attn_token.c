/* The reference system's normalisation: every token's features are divided by
 * the exponential of its own maximum, on both sides, and an epsilon is added.
 * Keys of different size are thereby re-weighted; this is its behaviour, not an
 * estimate of softmax. Gradients flow through the maximum to the entry that
 * holds it. Clarity before speed: a token at a time, rows of W in the lanes.
 */
#include "kernel.h"
#include "vec.h"

#include "stub.h"

#include <math.h>
#include <string.h>

#define D (CD ? (int64_t)CD : p->D)
#define DV (CDV ? (int64_t)CDV : p->DV)
#define M (CM ? (int64_t)CM : p->M)

enum { NVEC = NV > 0 ? NV : 1 };

/* One token's values; arrays of F = LANES * MP reals unless said otherwise. */
typedef struct token {
    real *x;            /* (DP) scale * input, 0 beyond D */
    real *y;            /* (DP) mapped x */
    real *u;            /* (MP) projections */
    real *log, *sign;   /* as the feature gives them */
    real *factor, *phi; /* exp(log - maximum), the feature with epsilon */
    real *glog, *gsign;
    real *row; /* (DVP) value or gradient row, 0 beyond DV */
    real x2, r2;
    int64_t top; /* entry that holds the maximum */
} token;

static int64_t token_scratch(const attn_plan *p)
{
    return 2 * p->DP + p->MP + 6 * LANES * p->MP + p->DVP;
}

static token token_in(const attn_plan *p, real *scratch)
{
    int64_t F = LANES * p->MP;
    token t = {0};
    real **parts[] = {&t.log, &t.sign, &t.factor, &t.phi, &t.glog, &t.gsign};
    for (int i = 0; i < 6; i++, scratch += F)
        *parts[i] = scratch;
    t.u = scratch, scratch += p->MP;
    t.x = scratch, scratch += p->DP;
    t.y = scratch, scratch += p->DP;
    t.row = scratch;
    return t;
}

static void row_vectors(const attn_plan *p, const real *vectors, int64_t d, vec *v)
{
    for (int i = 0; i < NV; i++)
        v[i] = vload(vectors + i * p->DP + d);
}

static void token_project(const attn_plan *p, const real *vectors, int side, const real *in,
                          token *t)
{
    vec x2 = vset(0), r2 = vset(0), v[NVEC] = {vset(1)};
    for (int64_t d = 0; d < p->DP; d++)
        t->x[d] = d < D ? p->scale * in[d] : 0;
    for (int64_t d = 0; d < p->DP; d += VL) {
        row_vectors(p, vectors, d, v);
        vec x = vload(t->x + d), y = side ? map_k(x, v) : map_q(x, v);
        vstore(t->y + d, y);
        r2 += x * x;
        x2 += y * y;
    }
    t->x2 = vsum(x2);
    t->r2 = vsum(r2);
    for (int64_t m = 0; m < p->MP; m += VL) {
        vec u = vset(0);
        for (int64_t d = 0; d < D; d++)
            u += vset(t->y[d]) * vload(p->wt + d * p->MP + m);
        vstore(t->u + m, u);
    }
}

/* 1 in the lanes that hold rows of W, 0 in the padding. */
static inline vec row_valid(const attn_plan *p, int64_t m)
{
    return v_lt(viota() + vset((real)m), vset((real)M));
}

static void token_features(const attn_plan *p, const real *s, real eps, token *t)
{
    real top = -INFINITY;
    t->top = 0;
    for (int64_t m = 0; m < p->MP; m += VL) {
        vec log[LANES], sign[LANES];
        tphi(vload(t->u + m), vload(p->w2 + m), t->x2, t->r2, s, log, sign);
        for (int lane = 0; lane < LANES; lane++) {
            vstore(t->log + lane * p->MP + m, log[lane]);
            vstore(t->sign + lane * p->MP + m, SIGNED ? sign[lane] : vset(1));
        }
    }
    const real *norm = TOKEN_NORM ? t->sign : t->log;
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t m = 0; m < M; m++)
            if (norm[lane * p->MP + m] > top)
                top = norm[lane * p->MP + m], t->top = lane * p->MP + m;
    for (int64_t m = 0; m < p->MP; m += VL) {
        vec valid = row_valid(p, m);
        for (int lane = 0; lane < LANES; lane++) {
            int64_t f = lane * p->MP + m;
            vec factor = v_exp(vload(t->log + f) - vset(top)) * valid;
            vstore(t->factor + f, factor);
            vstore(t->phi + f, (vload(t->sign + f) * factor + vset(eps)) * valid);
        }
    }
}

static void load_row(const attn_plan *p, const real *in, real *row)
{
    memcpy(row, in, (size_t)DV * sizeof *row);
    memset(row + DV, 0, (size_t)(p->DVP - DV) * sizeof *row);
}

static void attn_token_keys(const attn_plan *p, const real *vectors, int64_t n, const real *s,
                            const real *k, int64_t ldk, const real *v, int64_t ldv, real eps,
                            real *state, real *scratch)
{
    int64_t F = LANES * p->MP;
    real *z = state, *S = state + F;
    token t = token_in(p, scratch);
    for (int64_t j = 0; j < n; j++) {
        token_project(p, vectors, 1, k + j * ldk, &t);
        token_features(p, s + j * NS, eps, &t);
        load_row(p, v + j * ldv, t.row);
        for (int64_t f = 0; f < F; f++) {
            z[f] += t.phi[f];
            for (int64_t d = 0; d < p->DVP; d += VL)
                vstore(S + f * p->DVP + d,
                       vload(S + f * p->DVP + d) + vset(t.phi[f]) * vload(t.row + d));
        }
    }
}

static void attn_token_queries(const attn_plan *p, const real *vectors, int64_t n, const real *s,
                               const real *q, int64_t ldq, real eps, const real *state, real *o,
                               int64_t ldo, real *den, real *scratch)
{
    int64_t F = LANES * p->MP;
    const real *z = state, *S = state + F;
    token t = token_in(p, scratch);
    for (int64_t i = 0; i < n; i++) {
        token_project(p, vectors, 0, q + i * ldq, &t);
        token_features(p, s + i * NS, eps, &t);
        memset(t.row, 0, (size_t)p->DVP * sizeof *t.row);
        real sum = 0;
        for (int64_t f = 0; f < F; f++) {
            sum += t.phi[f] * z[f];
            for (int64_t d = 0; d < p->DVP; d += VL)
                vstore(t.row + d, vload(t.row + d) + vset(t.phi[f]) * vload(S + f * p->DVP + d));
        }
        den[i] = sum;
        real inverse = sum == 0 ? 0 : 1 / sum;
        for (int64_t d = 0; d < DV; d++)
            o[i * ldo + d] = t.row[d] * inverse;
    }
}

/* t.phi holds the features' gradients: to logs, signs, the projection, the
 * scalars, x. */
static void token_backward(const attn_plan *p, const real *vectors, int side, const real *s,
                           token *t, real *gx, real *ds, real *dvec)
{
    real through_top = 0;
    for (int64_t f = 0; f < LANES * p->MP; f++) {
        t->gsign[f] = t->phi[f] * t->factor[f];
        t->glog[f] = t->gsign[f] * t->sign[f];
        through_top -= t->glog[f];
    }
    (TOKEN_NORM ? t->gsign : t->glog)[t->top] += through_top;
    vec gx2 = vset(0), gr2 = vset(0), gs[NS];
    for (int i = 0; i < NS; i++)
        gs[i] = vset(0);
    for (int64_t m = 0; m < p->MP; m += VL) {
        vec glog[LANES], gsign[LANES], gu, x2, r2, scalar[NS];
        for (int lane = 0; lane < LANES; lane++) {
            glog[lane] = vload(t->glog + lane * p->MP + m);
            gsign[lane] = vload(t->gsign + lane * p->MP + m);
        }
        tphi_grad(vload(t->u + m), vload(p->w2 + m), t->x2, t->r2, s, glog, gsign, &gu, &x2, &r2,
                  scalar);
        vstore(t->u + m, gu);
        gx2 += x2;
        gr2 += r2;
        for (int i = 0; i < NS; i++)
            gs[i] += scalar[i];
    }
    for (int i = 0; i < NS; i++)
        ds[i] += vsum(gs[i]);
    vec to_y = vset(2 * vsum(gx2)), to_x = vset(2 * vsum(gr2));
    for (int64_t d = 0; d < p->DP; d += VL) {
        vec x = vload(t->x + d), g = to_y * vload(t->y + d), v[NVEC] = {vset(1)}, gv[NVEC], back;
        for (int64_t m = 0; m < M; m++)
            g += vset(t->u[m]) * vload(p->w + m * p->DP + d);
        row_vectors(p, vectors, d, v);
        if (side)
            map_k_grad(x, v, g, &back, gv);
        else
            map_q_grad(x, v, g, &back, gv);
        back = (back + to_x * x) * vset(p->scale);
        if (d + VL <= D)
            vstore(gx + d, back);
        else if (d < D)
            vstoren(gx + d, back, D - d);
        for (int i = 0; i < NV; i++)
            vstore(dvec + i * p->DP + d, vload(dvec + i * p->DP + d) + gv[i]);
    }
}

static void attn_token_queries_bwd(const attn_plan *p, const real *vectors, int64_t n,
                                   const real *s, const real *q, int64_t ldq, real eps,
                                   const real *state, const real *o, int64_t ldo, const real *den,
                                   const real *go, int64_t ldgo, real *gq, int64_t ldgq,
                                   real *dstate, real *ds, real *dvec, real *scratch)
{
    int64_t F = LANES * p->MP;
    const real *z = state, *S = state + F;
    real *dz = dstate, *dS = dstate + F;
    token t = token_in(p, scratch);
    for (int64_t i = 0; i < n; i++) {
        token_project(p, vectors, 0, q + i * ldq, &t);
        token_features(p, s + i * NS, eps, &t);
        real inverse = den[i] == 0 ? 0 : 1 / den[i], dot = 0;
        load_row(p, go + i * ldgo, t.row);
        for (int64_t d = 0; d < DV; d++) {
            t.row[d] *= inverse;
            dot -= t.row[d] * o[i * ldo + d];
        }
        for (int64_t f = 0; f < F; f++) {
            real phi = t.phi[f];
            vec g = vset(0);
            for (int64_t d = 0; d < p->DVP; d += VL) {
                vec row = vload(t.row + d);
                g += row * vload(S + f * p->DVP + d);
                vstore(dS + f * p->DVP + d, vload(dS + f * p->DVP + d) + vset(phi) * row);
            }
            dz[f] += phi * dot;
            t.phi[f] = vsum(g) + dot * z[f];
        }
        token_backward(p, vectors, 0, s + i * NS, &t, gq + i * ldgq, ds + i * NS, dvec);
    }
}

static void attn_token_keys_bwd(const attn_plan *p, const real *vectors, int64_t n, const real *s,
                                const real *k, int64_t ldk, const real *v, int64_t ldv, real eps,
                                const real *dstate, real *gk, int64_t ldgk, real *gv, int64_t ldgv,
                                real *ds, real *dvec, real *scratch)
{
    int64_t F = LANES * p->MP;
    const real *dz = dstate, *dS = dstate + F;
    token t = token_in(p, scratch);
    for (int64_t j = 0; j < n; j++) {
        token_project(p, vectors, 1, k + j * ldk, &t);
        token_features(p, s + j * NS, eps, &t);
        load_row(p, v + j * ldv, t.row);
        for (int64_t d = 0; d < DV; d++) {
            real sum = 0;
            for (int64_t f = 0; f < F; f++)
                sum += t.phi[f] * dS[f * p->DVP + d];
            gv[j * ldgv + d] = sum;
        }
        for (int64_t f = 0; f < F; f++) {
            vec g = vset(0);
            for (int64_t d = 0; d < p->DVP; d += VL)
                g += vload(t.row + d) * vload(dS + f * p->DVP + d);
            t.phi[f] = vsum(g) + dz[f];
        }
        token_backward(p, vectors, 1, s + j * NS, &t, gk + j * ldgk, ds + j * NS, dvec);
    }
}

const attn_token_ops EXPORT(attn_token);
const attn_token_ops EXPORT(attn_token) = {
    token_scratch, attn_token_keys, attn_token_queries, attn_token_queries_bwd, attn_token_keys_bwd,
};
