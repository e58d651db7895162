/* Backward, non-causal; features are made again. Query pass first: it gives the
 * queries' gradients and the state's, dz and dS. Then the key pass. With g =
 * [go | -(go.o)] / den and [S | z]:
 *
 *     query: dphi = g [S | z]^T     d[S | z] += phi^T g
 *     key:   dphi = [v | 1] d[S | z]^T     dv = phi dS
 *
 * and in both phi_grad turns dphi into gradients of u, |x|^2 and parameters;
 * maxima are constants.
 */
#include "kernel.h"
#include "vec.h"

#include "stub.h"

#include "attn_tile.h"

typedef struct back {
    real *dphi;      /* (LANES, TILE, MP) */
    real *across;    /* (DV, F): S or dS transposed */
    real *out;       /* (TILE, max(DP, DVP)) */
    real *row;       /* (F): shift or maximum's stand-in */
    real *extra;     /* (TILE): the last column of g, or ones */
    real *gx2, *gr2; /* (TILE) */
} back;

static int64_t bwd_scratch(const attn_plan *p)
{
    int64_t wide = DP > DVP ? DP : DVP;
    return tile_reals(p) + TILE * F + DV * F + TILE * wide + F + 3 * TILE;
}

static void back_open(back *b, const attn_plan *p, real *scratch)
{
    int64_t wide = DP > DVP ? DP : DVP;
    b->dphi = scratch, scratch += TILE * F;
    b->across = scratch, scratch += DV * F;
    b->out = scratch, scratch += TILE * wide;
    b->row = scratch, scratch += F;
    b->extra = scratch, scratch += TILE;
    b->gx2 = scratch, scratch += TILE;
    b->gr2 = scratch;
}

static void transpose(const attn_plan *p, const real *S, real *across)
{
    for (int64_t f = 0; f < F; f++)
        for (int64_t d = 0; d < DV; d++)
            across[d * F + f] = S[f * DVP + d];
}

typedef struct store_context {
    const attn_plan *p;
    real *to;
} store_context;

/* Column m of the (LANES, MP) columns belongs to lane m / MP. */
VEC_FN void store_epilogue(void *context, int64_t i, int64_t m, vec u)
{
    const store_context *c = context;
    const attn_plan *p = c->p;
    int64_t lane = LANES == 1 ? 0 : m / MP;
    vstore(c->to + (lane * TILE + i) * MP + m - lane * MP, u);
}

/* dphi + extra[i] * last[f], through the feature: t->u becomes the projections'
 * gradient. */
static void tile_feature_grad(const head *h, tile *t, const back *b, const real *last,
                              real *dparams)
{
    const attn_plan *p = h->p;
    vec scalars[NS];
    for (int k = 0; k < NS; k++)
        scalars[k] = vset(0);
    for (int64_t i = 0; i < t->n; i++) {
        vec gx2 = vset(0), gr2 = vset(0), extra = vset(b->extra[i]);
        for (int64_t m = 0; m < MP; m += VL) {
            vec glog[LANES], gsign[LANES], row[NROW], gu, x2, r2;
            vec u = vload(t->u + i * MP + m), w2 = vload(p->w2 + m);
            for (int lane = 0; lane < LANES; lane++) {
                int64_t at = (lane * TILE + i) * MP + m;
                vec dphi = vload(b->dphi + at) + extra * vload(last + lane * MP + m);
                glog[lane] = dphi * vload(t->phi + at);
                gsign[lane] = SIGNED ? dphi * vload(t->log + at) : vset(0);
            }
            for (int k = 0; k < NROW; k++)
                row[k] = vload(h->row + k * MP + m);
            phi_grad(u, w2, row, h->uni, t->tok[i], glog, gsign, &gu, &x2, &r2);
            vstore(t->u + i * MP + m, gu);
            gx2 += x2;
            gr2 += r2;
            if (dparams) {
                vec gs[NS];
                phi_pgrad(u, w2, h->s, row, h->uni, t->tok[i], t->x2[i], t->r2[i], glog, gsign, gs);
                for (int k = 0; k < NS; k++)
                    scalars[k] += gs[k];
            }
        }
        b->gx2[i] = vsum(gx2);
        b->gr2[i] = vsum(gr2);
    }
    for (int k = 0; k < NS && dparams; k++)
        dparams[k] += vsum(scalars[k]);
}

/* From the projections' gradient to the tokens', written to rows of gx. */
static void tile_input_grad(const head *h, tile *t, const back *b, int side, real *gx, int64_t ldgx,
                            real *dparams)
{
    const attn_plan *p = h->p;
    memset(b->out, 0, (size_t)(t->padded * DP) * sizeof *b->out);
    for (int64_t i = t->n; i < t->padded; i++)
        memset(t->u + i * MP, 0, (size_t)MP * sizeof *t->u);
    tile_combine(t->padded, MP, DP, t->u, MP, p->w, DP, b->out, DP);
    for (int64_t i = 0; i < t->n; i++) {
        vec x2 = vset(2 * b->gx2[i]), r2 = vset(2 * b->gr2[i]);
        for (int64_t d = 0; d < DP; d += VL) {
            vec x = vload(t->x + i * DP + d), v[VECTORS] = {vset(1)}, gv[VECTORS];
            vec g = vload(b->out + i * DP + d) + x2 * vload(t->y + i * DP + d), gin = g;
            if (NV) {
                head_vectors(h, d, v);
                if (side)
                    map_k_grad(x, v, g, &gin, gv);
                else
                    map_q_grad(x, v, g, &gin, gv);
                for (int k = 0; k < NV && dparams; k++) {
                    real *to = dparams + NS + k * DP + d;
                    vstore(to, vload(to) + gv[k]);
                }
            }
            gin = (gin + r2 * x) * vset(p->scale);
            real *to = gx + t->index[i] * ldgx + d;
            if (d + VL <= D)
                vstore(to, gin);
            else if (d < D)
                vstoren(to, gin, D - d);
        }
    }
}

/* g of the tile: t->v = go / den, extra = -(go.o) / den. */
static void tile_output_grad(const attn_plan *p, tile *t, const back *b, const real *o, int64_t ldo,
                             const real *den, const real *go, int64_t ldgo)
{
    tile_rows(p, t, go, ldgo);
    for (int64_t i = 0; i < t->n; i++) {
        real d_i = den[t->index[i]], inverse = d_i == 0 ? 0 : 1 / d_i, dot = 0;
        real *g = t->v + i * DVP;
        const real *out = o + t->index[i] * ldo;
        for (int64_t d = 0; d < DV; d++) {
            g[d] *= inverse;
            dot += g[d] * out[d];
        }
        b->extra[i] = -dot;
    }
}

static void zero_rows(int64_t n, int64_t width, real *x, int64_t ld)
{
    for (int64_t i = 0; i < n; i++)
        memset(x + i * ld, 0, (size_t)width * sizeof *x);
}

static void bwd_queries(const attn_plan *p, const attn_params *a, int64_t n, const real *q,
                        int64_t ldq, const real *state, const real *o, int64_t ldo, const real *den,
                        const real *go, int64_t ldgo, real *gq, int64_t ldgq, real *dstate,
                        real *dparams, real *scratch)
{
    if (state_empty(state)) {
        zero_rows(n, D, gq, ldgq);
        return;
    }
    head h;
    tile t;
    back b;
    back_open(&b, p, tile_open(&t, p, head_open(&h, p, a, scratch)));
    const real *z = state + F, *S = z + F;
    real *dz = dstate, *dS = dstate + F;
    query_shift(p, state, b.row);
    transpose(p, S, b.across);
    store_context c = {p, b.dphi};
    for (int64_t at = 0; at < n;) {
        at = tile_fill(&h, &t, 0, at, n, q, ldq, NULL);
        tile_queries(&h, &t, b.row, 1);
        tile_output_grad(p, &t, &b, o, ldo, den, go, ldgo);
        tile_project(t.padded, DV, F, t.v, DVP, b.across, F, store_epilogue, &c);
        for (int lane = 0; lane < LANES; lane++) {
            const real *phis = t.phi + lane * TILE * MP;
            for (int64_t m = 0; m < MP; m += VL) {
                vec sum = vload(dz + lane * MP + m);
                for (int64_t i = 0; i < t.n; i++)
                    sum += vload(phis + i * MP + m) * vset(b.extra[i]);
                vstore(dz + lane * MP + m, sum);
            }
            tile_outer(t.n, MP, DVP, phis, MP, t.v, DVP, dS + lane * MP * DVP, DVP);
        }
        tile_feature_grad(&h, &t, &b, z, dparams);
        tile_input_grad(&h, &t, &b, 0, gq, ldgq, dparams);
    }
}

static void bwd_keys(const attn_plan *p, const attn_params *a, int64_t n, const real *k,
                     int64_t ldk, const real *v, int64_t ldv, const uint8_t *mask,
                     const real *state, const real *dstate, real *gk, int64_t ldgk, real *gv,
                     int64_t ldgv, real *dparams, real *scratch)
{
    for (int64_t i = 0; i < n; i++)
        if (state_empty(state) || (mask && !mask[i])) {
            zero_rows(1, D, gk + i * ldgk, ldgk);
            zero_rows(1, DV, gv + i * ldgv, ldgv);
        }
    if (state_empty(state))
        return;
    head h;
    tile t;
    back b;
    back_open(&b, p, tile_open(&t, p, head_open(&h, p, a, scratch)));
    const real *dz = dstate, *dS = dstate + F;
    transpose(p, dS, b.across);
    for (int64_t i = 0; i < TILE; i++)
        b.extra[i] = 1;
    store_context c = {p, b.dphi};
    for (int64_t at = 0; at < n;) {
        at = tile_fill(&h, &t, 1, at, n, k, ldk, mask);
        if (t.n == 0)
            break;
        tile_rows(p, &t, v, ldv);
        tile_keys(&h, &t, b.row, 1);
        tile_key_features(&h, &t, state);
        tile_project(t.padded, DV, F, t.v, DVP, b.across, F, store_epilogue, &c);
        memset(b.out, 0, (size_t)(t.padded * DVP) * sizeof *b.out);
        for (int lane = 0; lane < LANES; lane++)
            tile_combine(t.padded, MP, DVP, t.phi + lane * TILE * MP, MP, dS + lane * MP * DVP, DVP,
                         b.out, DVP);
        for (int64_t i = 0; i < t.n; i++)
            memcpy(gv + t.index[i] * ldgv, b.out + i * DVP, (size_t)DV * sizeof *gv);
        tile_feature_grad(&h, &t, &b, dz, dparams);
        tile_input_grad(&h, &t, &b, 1, gk, ldgk, dparams);
    }
}

extern const attn_bwd_ops EXPORT(attn_bwd);
const attn_bwd_ops EXPORT(attn_bwd) = {bwd_scratch, bwd_queries, bwd_keys};
