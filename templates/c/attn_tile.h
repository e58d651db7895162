/* What the forward and backward skeletons share: a head's hoisted values, and a
 * tile of tokens with its projections, logs and signs. Included after the
 * prologue.
 *
 * A tile holds valid tokens only: masked keys are left out when it is filled,
 * so they cost nothing and their contents do not matter. Its last token is
 * repeated up to a multiple of TILE_STEP.
 */
#ifndef SPECTRA_ATTN_TILE_H
#define SPECTRA_ATTN_TILE_H

#include "tile_block.h"

#define D (CD ? (int64_t)CD : p->D)
#define DV (CDV ? (int64_t)CDV : p->DV)
#define M (CM ? (int64_t)CM : p->M)
#define MP (CM ? (int64_t)(CM + PAD - 1) / PAD * PAD : p->MP)
#define DP (CD ? (int64_t)(CD + PAD - 1) / PAD * PAD : p->DP)
#define DVP (CDV ? (int64_t)(CDV + PAD - 1) / PAD * PAD : p->DVP)
#define F (LANES * MP)

enum { VECTORS = NV > 0 ? NV : 1 };

/* The log of a padded row of W: below any maximum, yet finite. */
static const real no_log = (real)-1e30;

typedef struct head {
    const attn_plan *p;
    const real *s, *vectors;
    real uni[NUNI];
    real *row; /* (NROW, MP) */
} head;

typedef struct tile {
    int64_t n, padded;   /* tokens, and their number with repetitions */
    int64_t index[TILE]; /* the caller's numbers of the tokens */
    real *x, *y;         /* (TILE, DP) scaled input; mapped, y = x without maps */
    real *u;             /* (TILE, MP) projections */
    real *log, *sign;    /* (LANES, TILE, MP); log becomes exp(log - maximum) */
    real *phi;           /* (LANES, TILE, MP) features; the same array as log when unsigned */
    real *v;             /* (TILE, DVP) value or gradient rows */
    real x2[TILE], r2[TILE];
    real tok[TILE][NTOK];
} tile;

static int64_t tile_reals(const attn_plan *p)
{
    return NROW * MP + TILE * (2 * DP + MP + 3 * F + DVP);
}

static real *head_open(head *h, const attn_plan *p, const attn_params *a, real *scratch)
{
    h->p = p;
    h->s = a->s;
    h->vectors = a->v;
    h->row = scratch;
    phi_uniform(a->s, h->uni);
    for (int64_t m = 0; m < MP; m += VL) {
        vec row[NROW] = {vset(0)};
        phi_row(vload(p->w2 + m), h->uni, row);
        for (int i = 0; i < NROW; i++)
            vstore(h->row + i * MP + m, row[i]);
    }
    return scratch + NROW * MP;
}

static real *tile_open(tile *t, const attn_plan *p, real *scratch)
{
    t->x = scratch, scratch += TILE * DP;
    t->y = NV ? scratch : t->x, scratch += TILE * DP;
    t->u = scratch, scratch += TILE * MP;
    t->log = scratch, scratch += TILE * F;
    t->sign = scratch, scratch += TILE * F;
    t->phi = SIGNED ? scratch : t->log, scratch += TILE * F;
    t->v = scratch, scratch += TILE * DVP;
    return scratch;
}

VEC_FN void head_vectors(const head *h, int64_t d, vec *v)
{
    const attn_plan *p = h->p;
    for (int i = 0; i < NV; i++)
        v[i] = vload(h->vectors + i * DP + d);
}

/* A row of `count` numbers into one of `width`, the rest 0. */
static inline void copy_row(real *to, const real *from, int64_t count, int64_t width)
{
    memcpy(to, from, (size_t)count * sizeof *to);
    memset(to + count, 0, (size_t)(width - count) * sizeof *to);
}

/* Token `number` becomes entry i: scaled, mapped, its norms and hoisted values.
 */
static inline void tile_token(const head *h, tile *t, int side, int64_t i, const real *in)
{
    const attn_plan *p = h->p;
    real *x = t->x + i * DP, *y = t->y + i * DP;
    vec r2 = vset(0), x2 = vset(0), v[VECTORS] = {vset(1)};
    copy_row(x, in, D, DP);
    for (int64_t d = 0; d < DP; d += VL) {
        vec a = vload(x + d) * vset(p->scale);
        vstore(x + d, a);
        r2 += a * a;
        if (NV) {
            head_vectors(h, d, v);
            vec b = side ? map_k(a, v) : map_q(a, v);
            vstore(y + d, b);
            x2 += b * b;
        }
    }
    t->r2[i] = vsum(r2);
    t->x2[i] = NV ? vsum(x2) : t->r2[i];
    phi_token(t->x2[i], t->r2[i], h->uni, t->tok[i]);
}

/* Fills the tile from token `from` on; returns the token after the last one
 * looked at. */
static int64_t tile_fill(const head *h, tile *t, int side, int64_t from, int64_t n, const real *in,
                         int64_t ld, const uint8_t *mask)
{
    const attn_plan *p = h->p;
    t->n = 0;
    for (; from < n && t->n < TILE; from++)
        if (!mask || mask[from]) {
            t->index[t->n] = from;
            tile_token(h, t, side, t->n++, in + from * ld);
        }
    t->padded = (t->n + TILE_STEP - 1) / TILE_STEP * TILE_STEP;
    for (int64_t i = t->n; i < t->padded; i++) {
        memcpy(t->y + i * DP, t->y + (t->n - 1) * DP, (size_t)DP * sizeof *t->y);
        memcpy(t->tok[i], t->tok[t->n - 1], sizeof t->tok[i]);
    }
    return from;
}

/* Rows that go with the tile's tokens (values, gradients) into t->v. */
static void tile_rows(const attn_plan *p, tile *t, const real *in, int64_t ld)
{
    for (int64_t i = 0; i < t->padded; i++)
        copy_row(t->v + i * DVP, in + t->index[i < t->n ? i : t->n - 1] * ld, DV, DVP);
}

/* 1 where column m + lane is a row of W. */
VEC_FN vec row_valid(const attn_plan *p, int64_t m)
{
    return v_lt(viota() + vset((real)m), vset((real)M));
}

/* Logs and signs of one vector of projections. */
VEC_FN void features_at(const head *h, tile *t, int64_t i, int64_t m, vec u, vec *log)
{
    const attn_plan *p = h->p;
    vec row[NROW], sign[LANES];
    for (int k = 0; k < NROW; k++)
        row[k] = vload(h->row + k * MP + m);
    phi(u, row, h->uni, t->tok[i], log, sign);
    for (int lane = 0; lane < LANES; lane++) {
        if (M < MP && m + VL > M)
            log[lane] = v_where(row_valid(p, m), log[lane], vset(no_log));
        if (SIGNED)
            vstore(t->sign + (lane * TILE + i) * MP + m, sign[lane]);
    }
}

typedef struct key_context {
    const head *h;
    tile *t;
    real *top; /* (F) maximum of the tile, per row */
    int keep_u;
} key_context;

VEC_FN void key_epilogue(void *context, int64_t i, int64_t m, vec u)
{
    key_context *c = context;
    const attn_plan *p = c->h->p;
    vec log[LANES];
    features_at(c->h, c->t, i, m, u, log);
    if (c->keep_u)
        vstore(c->t->u + i * MP + m, u);
    for (int lane = 0; lane < LANES; lane++) {
        real *top = c->top + lane * MP + m;
        vstore(c->t->log + (lane * TILE + i) * MP + m, log[lane]);
        vstore(top, v_max(vload(top), log[lane]));
    }
}

typedef struct query_context {
    const head *h;
    tile *t;
    const real *shift; /* (F) added to the logs */
    real *top;         /* (TILE, VL) maxima of each token, lane by lane */
    int keep_u;
} query_context;

VEC_FN void query_epilogue(void *context, int64_t i, int64_t m, vec u)
{
    query_context *c = context;
    const attn_plan *p = c->h->p;
    vec log[LANES], top = vload(c->top + i * VL);
    features_at(c->h, c->t, i, m, u, log);
    if (c->keep_u)
        vstore(c->t->u + i * MP + m, u);
    for (int lane = 0; lane < LANES; lane++) {
        log[lane] += vload(c->shift + lane * MP + m);
        vstore(c->t->log + (lane * TILE + i) * MP + m, log[lane]);
        top = v_max(top, log[lane]);
    }
    vstore(c->top + i * VL, top);
}

/* Logs of a tile of keys, and their maximum per row. */
static inline void tile_keys(const head *h, tile *t, real *top, int keep_u)
{
    const attn_plan *p = h->p;
    key_context c = {h, t, top, keep_u};
    for (int64_t f = 0; f < F; f++)
        top[f] = -(real)INFINITY;
    tile_project(t->padded, D, MP, t->y, DP, p->wt, MP, key_epilogue, &c);
}

/* Logs of a tile of queries plus shift, then exp(log - the token's maximum) and
 * features. */
static inline void tile_queries(const head *h, tile *t, const real *shift, int keep_u)
{
    const attn_plan *p = h->p;
    real top[TILE * VL] __attribute__((aligned(64)));
    query_context c = {h, t, shift, top, keep_u};
    for (int64_t i = 0; i < t->padded * VL; i++)
        top[i] = -(real)INFINITY;
    tile_project(t->padded, D, MP, t->y, DP, p->wt, MP, query_epilogue, &c);
    for (int64_t i = 0; i < t->padded; i++) {
        vec most = vset(vhmax(vload(top + i * VL)));
        for (int lane = 0; lane < LANES; lane++)
            for (int64_t m = 0; m < MP; m += VL) {
                int64_t at = (lane * TILE + i) * MP + m;
                vec e = v_exp(vload(t->log + at) - most);
                vstore(t->log + at, e);
                if (SIGNED)
                    vstore(t->phi + at, e * vload(t->sign + at));
            }
    }
}

/* exp(log - top) and features of a tile of keys. */
static inline void tile_key_features(const head *h, tile *t, const real *top)
{
    const attn_plan *p = h->p;
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t m = 0; m < MP; m += VL) {
            vec most = vload(top + lane * MP + m);
            vec valid = M < MP && m + VL > M ? row_valid(p, m) : vset(1);
            if (M < MP)
                most = v_where(valid, most, vset(0));
            for (int64_t i = 0; i < t->padded; i++) {
                int64_t at = (lane * TILE + i) * MP + m;
                vec e = v_exp(vload(t->log + at) - most);
                if (M < MP)
                    e *= valid;
                vstore(t->log + at, e);
                if (SIGNED)
                    vstore(t->phi + at, e * vload(t->sign + at));
            }
        }
}

/* What is added to query logs: the keys' maximum of the row, and its weight. */
static void query_shift(const attn_plan *p, const real *max, real *shift)
{
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t m = 0; m < MP; m++)
            shift[lane * MP + m] = m < M ? max[lane * MP + m] + (p->logw ? p->logw[m] : 0) : no_log;
}

/* A state that has seen no key. */
static inline int state_empty(const real *state)
{
    return state[0] == -(real)INFINITY;
}

#endif
