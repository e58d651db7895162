/* Causal linear attention: query i sees the keys j <= i. With the state S, z of the keys before a
 * segment (causal.h), A = phi_q phi_k' and G = g v' + gden 1', both only where j <= i,
 *     o = ([phi_q A] [S; v]) / den,   den = phi_q z + A 1,   then S += phi_k' v, z += phi_k' 1
 *     dphi_q = [g G] [S'; phi_k] + gden z'
 *     dphi_k = [G' v] [phi_q; dS'] + 1 dz',   dv = [A' phi_k] [g; dS]
 * with dS, dz of the queries behind the segment: dS += phi_q' g, dz += phi_q' gden. The two halves
 * of each product lie behind one another in memory, so that it is one. */
#include "stub.h"

#include "causal.h"

/* ---- forward --------------------------------------------------------------------------------- */

typedef struct causal_fwd {
    attn_side q, k;
    real *phi;    /* (block + TILE_ROWS, ldq)  [phi_q A], logs at first */
    real *psi;    /* (block, ldf)  logs, then features of keys */
    real *sign_q; /* (block, ldf)  only if SIGNED, like sign_k */
    real *sign_k;
    real *psi_t;                       /* (F, KB) */
    real *S;                           /* (F + KB, DVP)  the state, then the block's values */
    real *num;                         /* (TILE_ROWS, DVP)  numerators */
    real *top, *minus, *factor, *more; /* (F) */
    int64_t ldq, KB;
} causal_fwd;

VEC_FN int64_t causal_fwd_take(const attn_sizes *z, real *scratch, causal_fwd *w)
{
    attn_arena arena = {scratch, 0};
    int64_t rows = z->block + TILE_ROWS;
    w->KB = pad16(z->block);
    w->ldq = z->F + w->KB + PAD;
    take_side(z, &w->q, false, &arena);
    take_side(z, &w->k, false, &arena);
    w->phi = attn_take(&arena, rows * w->ldq);
    w->psi = attn_take(&arena, z->block * z->ldf);
    w->sign_q = attn_take(&arena, SIGNED ? z->block * z->ldf : 0);
    w->sign_k = attn_take(&arena, SIGNED ? z->block * z->ldf : 0);
    w->psi_t = attn_take(&arena, z->F * w->KB);
    w->S = attn_take(&arena, (z->F + w->KB) * z->DVP);
    w->num = attn_take(&arena, TILE_ROWS * z->DVP);
    w->top = attn_take(&arena, z->F);
    w->minus = attn_take(&arena, z->F);
    w->factor = attn_take(&arena, z->F);
    w->more = attn_take(&arena, z->F);
    return arena.used;
}

/* Values of the block's keys; notes those that are not finite, which start a segment of their own:
 * times 0 they would not be 0. */
VEC_FN void causal_values(const attn_sizes *z, causal_block *c, const real *v, int64_t ldv,
                          real *rows)
{
    c->wild = false;
    for (int64_t j = 0; j < c->keys; j++) {
        vec nothing = vset(0);
        real *row = rows + j * z->DVP;
        copy_padded(z->DV, v + (c->first + c->index[j]) * ldv, row);
        for (int64_t i = 0; i < z->DVP; i += VL)
            nothing += vload(row + i) * vset(0);
        c->wild_key[j] = vsum(nothing) != 0;
        c->wild |= c->wild_key[j];
    }
}

/* Opens the segment of token lo, whose key raises the references where it has to; returns its end.
 */
CAUSAL_FN int64_t causal_open(const attn_sizes *z, const causal_fwd *w, const causal_block *c,
                              int64_t lo, real *state, uint8_t *cut)
{
    int64_t j = lo > 0 ? c->visible[lo - 1] : 0;
    real *ref = state;
    if (causal_is_key(c, lo)) {
        const real *log = w->psi + j * z->ldf;
        if (lo > 0 || !causal_within(z, log, ref)) {
            causal_raise(z, log, ref, w->factor);
            causal_scale_rows(z, w->factor, state + z->F, w->S);
            key_minus(z, ref, w->minus);
            cut[lo] = 1;
        }
        j++;
    }
    if (!c->wild && causal_within(z, w->top, ref))
        return c->n;
    for (; j < c->keys; j++)
        if (c->wild_key[j] || !causal_within(z, w->psi + j * z->ldf, ref))
            return c->index[j];
    return c->n;
}

/* Tokens lo..hi-1 of the block: their outputs, then their keys into the state. */
CAUSAL_FN void causal_segment(const attn_plan *p, const attn_sizes *z, const causal_fwd *w,
                              const causal_block *c, int64_t lo, int64_t hi,
                              const attn_causal_args *x, real *state)
{
    const real *ref = state;
    real *zsum = state + z->F;
    int64_t from = lo > 0 ? c->visible[lo - 1] : 0, to = c->visible[hi - 1];
    causal_keys(z, from, to, w->minus, w->psi, z->ldf, w->sign_k, zsum, w->more);
    causal_transpose(to - from, z->F, w->psi + from * z->ldf, z->ldf, w->psi_t + from, w->KB);
    for (int64_t i = lo; i < hi; i += TILE_ROWS) {
        int64_t end = i + TILE_ROWS < hi ? i + TILE_ROWS : hi, keys = c->visible[end - 1];
        real den[TILE_ROWS], *rows = w->phi + i * w->ldq, *A = rows + z->F;
        for (int64_t t = i; t < end; t++)
            den[t - i] = causal_query(p, z, ref, w->phi + t * w->ldq, w->sign_q + t * z->ldf, zsum);
        if (keys == from)
            keys = 0; /* all that is seen is in the state */
        else
            tile_mul(TILE_ROWS, pad16(keys), z->F, rows, w->ldq, w->psi_t, w->KB, A, w->ldq);
        for (int64_t t = i; t < end; t++) {
            den[t - i] += causal_keep(A + (t - i) * w->ldq, keys, from, c->visible[t]);
        }
        tile_mul(TILE_ROWS, z->DVP, z->F + keys, rows, w->ldq, w->S, z->DVP, w->num, z->DVP);
        for (int64_t t = i; t < end; t++) {
            store_output(z, den[t - i], w->num + (t - i) * z->DVP, x->o + (c->first + t) * x->ldo);
            x->den[c->first + t] = den[t - i];
        }
    }
    memcpy(zsum, w->more, (size_t)z->F * sizeof(real));
    tile_rank(to - from, z->F, z->DVP, w->psi + from * z->ldf, z->ldf,
              w->S + (z->F + from) * z->DVP, z->DVP, w->S, z->DVP);
}

static void causal_forward(const attn_plan *p, const attn_params *a, const attn_causal_args *x,
                           real *state, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, CAUSAL_TILES);
    causal_fwd w;
    causal_fwd_take(&z, scratch, &w);
    hoist(p, &z, 0, a, &w.q.h);
    hoist(p, &z, 1, a, &w.k.h);
    memcpy(w.S, state + 2 * z.F, (size_t)(z.F * z.DVP) * sizeof(real));
    key_minus(&z, state, w.minus);
    for (int64_t first = 0; first < x->n; first += z.block) {
        causal_block c = causal_tokens(&z, first, x->n, x->mask);
        memcpy(x->refs + first / z.block * z.F, state, (size_t)z.F * sizeof(real));
        memset(x->cut + first, 0, (size_t)c.n);
        causal_load(p, &z, a, 0, &w.q, c.n, NULL, x->q + first * x->ldq, x->ldq);
        causal_logs(&z, &w.q, 0, c.n, w.phi, w.ldq, w.sign_q, NULL);
        causal_load(p, &z, a, 1, &w.k, c.keys, c.index, x->k + first * x->ldk, x->ldk);
        causal_logs(&z, &w.k, 0, c.keys, w.psi, z.ldf, w.sign_k, w.top);
        causal_values(&z, &c, x->v, x->ldv, w.S + z.F * z.DVP);
        for (int64_t lo = 0, hi; lo < c.n; lo = hi) {
            hi = causal_open(&z, &w, &c, lo, state, x->cut + first);
            causal_segment(p, &z, &w, &c, lo, hi, x, state);
        }
    }
    memcpy(state + 2 * z.F, w.S, (size_t)(z.F * z.DVP) * sizeof(real));
}

/* ---- one token ------------------------------------------------------------------------------- */

enum { STEP_C = 4 }; /* vectors of a row of the state at a time */

/* One token of a side and its logs; u: projections (MP), twice where there are two. */
typedef struct causal_one {
    attn_side q, k;
    real *phi, *sign_q, *psi, *sign_k; /* (F) */
    real *num;                         /* (DVP) */
    real *factor;                      /* (F) */
} causal_one;

VEC_FN int64_t causal_one_take(const attn_sizes *z, real *scratch, causal_one *w)
{
    attn_arena arena = {scratch, 0};
    take_side(z, &w->q, false, &arena);
    take_side(z, &w->k, false, &arena);
    w->phi = attn_take(&arena, z->F);
    w->sign_q = attn_take(&arena, SIGNED ? z->ldf : 0);
    w->psi = attn_take(&arena, z->F);
    w->sign_k = attn_take(&arena, SIGNED ? z->ldf : 0);
    w->num = attn_take(&arena, z->DVP);
    w->factor = attn_take(&arena, z->F);
    return arena.used;
}

/* Sizes of a block of one token, padded to what is multiplied at once. */
VEC_FN attn_sizes causal_one_sizes(const attn_plan *p)
{
    attn_sizes z = attn_sizes_of(p, CAUSAL_TILES);
    z.block = TILE_ROWS;
    return z;
}

CAUSAL_FN void causal_load_one(const attn_plan *p, const attn_sizes *z, const attn_params *a,
                               int side, attn_side *s, const real *x)
{
    hoist(p, z, side, a, &s->h);
    s->b.n = 1;
    load_token(z, side, p->scale, x, a->v, &s->b, 0);
    finish_block(z, side, a, &s->b);
    hoist_tokens(&s->h, &s->b);
    if (p->chain != NULL)
        chain_project(p->chain, 1, z->M, z->DP, s->b.x, z->DP, s->u, s->ldu);
    else
        tile_row(z->MP, z->D, s->b.x, p->wt, z->MP, s->u);
    if (NP > 1)
        tile_row(z->MP, z->D, s->b.second, p->wt_second, z->MP, s->u2);
}

/* C vectors of columns of S (F, DVP): the token's value, which num holds, goes into S, and what the
 * query makes of S into num. */
VEC_FN void causal_step_columns(const attn_sizes *z, int C, const causal_one *w, real *S, real *num)
{
    vec value[ROW_C], sum[ROW_C];
#pragma GCC unroll 16
    for (int i = 0; i < C; i++)
        value[i] = vload(num + i * VL), sum[i] = vset(0);
    for (int64_t f = 0; f < z->F; f++)
#pragma GCC unroll 16
        for (int i = 0; i < C; i++) {
            real *at = S + f * z->DVP + i * VL;
            const vec s = vload(at) + value[i] * w->psi[f];
            vstore(at, s);
            sum[i] += s * w->phi[f];
        }
#pragma GCC unroll 16
    for (int i = 0; i < C; i++)
        vstore(num + i * VL, sum[i]);
}

static void causal_step(const attn_plan *p, const attn_params *a, const real *q, const real *k,
                        const real *v, real *o, real *state, real *scratch)
{
    attn_sizes z = causal_one_sizes(p);
    causal_one w;
    causal_one_take(&z, scratch, &w);
    real *ref = state, *zsum = state + z.F, *S = state + 2 * z.F;
    causal_load_one(p, &z, a, 0, &w.q, q);
    causal_load_one(p, &z, a, 1, &w.k, k);
    causal_logs(&z, &w.q, 0, 1, w.phi, z.F, w.sign_q, NULL);
    causal_logs(&z, &w.k, 0, 1, w.psi, z.F, w.sign_k, NULL);
    if (!causal_within(&z, w.psi, ref)) {
        causal_raise(&z, w.psi, ref, w.factor);
        causal_scale_rows(&z, w.factor, zsum, S);
    }
    key_minus(&z, ref, w.factor);
    causal_keys(&z, 0, 1, w.factor, w.psi, z.F, w.sign_k, zsum, zsum);
    real den = causal_query(p, &z, ref, w.phi, w.sign_q, zsum);
    copy_padded(z.DV, v, w.num);
    int64_t c = 0;
    for (; c + STEP_C * VL <= z.DVP; c += STEP_C * VL)
        causal_step_columns(&z, STEP_C, &w, S + c, w.num + c);
    for (; c < z.DVP; c += PAD)
        causal_step_columns(&z, PAD / VL, &w, S + c, w.num + c);
    store_output(&z, den, w.num, o);
}

static int64_t causal_block_tokens(const attn_plan *p)
{
    return attn_sizes_of(p, CAUSAL_TILES).block;
}

/* ---- backward, queries ----------------------------------------------------------------------- */

typedef struct causal_queries {
    attn_side q, k;
    real *g;                     /* (block + TILE_ROWS, ldg)  [g G] */
    real *gden;                  /* (block) */
    real *T;                     /* (DVP + KB, ldf)  S transposed, then the block's key features */
    real *sign;                  /* (block, ldf)  only if SIGNED, of keys */
    real *v, *vt;                /* (block, DVP), (DVP, KB) */
    real *dphi;                  /* (block + TILE_ROWS, ldf) */
    real *phi;                   /* (block, ldf) */
    real *ref, *zsum;            /* (F) */
    real *minus, *factor, *more; /* (F) */
    int64_t ldg, KB;
} causal_queries;

VEC_FN int64_t causal_queries_take(const attn_sizes *z, real *scratch, causal_queries *w)
{
    attn_arena arena = {scratch, 0};
    int64_t rows = z->block + TILE_ROWS;
    w->KB = pad16(z->block);
    w->ldg = z->DVP + w->KB + PAD;
    take_side(z, &w->q, true, &arena);
    take_side(z, &w->k, false, &arena);
    w->g = attn_take(&arena, rows * w->ldg);
    w->gden = attn_take(&arena, z->block);
    w->T = attn_take(&arena, (z->DVP + w->KB) * z->ldf);
    w->sign = attn_take(&arena, SIGNED ? z->block * z->ldf : 0);
    w->v = attn_take(&arena, z->block * z->DVP);
    w->vt = attn_take(&arena, z->DVP * w->KB);
    w->dphi = attn_take(&arena, rows * z->ldf);
    w->phi = attn_take(&arena, z->block * z->ldf);
    w->ref = attn_take(&arena, z->F);
    w->zsum = attn_take(&arena, z->F);
    w->minus = attn_take(&arena, z->F);
    w->factor = attn_take(&arena, z->F);
    w->more = attn_take(&arena, z->F);
    return arena.used;
}

/* What queries lo..hi-1 are to the keys before `state`: dstate, by its references. */
CAUSAL_FN void causal_before(const attn_sizes *z, const causal_queries *w, int64_t lo, int64_t hi,
                             const real *start, real *dstate)
{
    for (int64_t f = 0; f < z->F; f += VL) {
        vec dz = vload(dstate + f), shrink = growth(vload(start + f), vload(w->ref + f));
        for (int64_t t = lo; t < hi; t++) {
            vec feature = vload(w->phi + t * z->ldf + f) * shrink;
            vstore(w->phi + t * z->ldf + f, feature);
            dz += feature * w->gden[t];
        }
        vstore(dstate + f, dz);
    }
    tile_rank(hi - lo, z->F, z->DVP, w->phi + lo * z->ldf, z->ldf, w->g + lo * w->ldg, w->ldg,
              dstate + z->F, z->DVP);
}

CAUSAL_FN void causal_queries_segment(const attn_plan *p, const attn_sizes *z,
                                      const causal_queries *w, const causal_block *c, int64_t lo,
                                      int64_t hi, sum_grad *sums, real *dparams)
{
    int64_t from = lo > 0 ? c->visible[lo - 1] : 0, to = c->visible[hi - 1];
    real *psi = w->T + z->DVP * z->ldf;
    causal_keys(z, from, to, w->minus, psi, z->ldf, w->sign, w->zsum, w->more);
    for (int64_t i = lo; i < hi; i += TILE_ROWS) {
        int64_t end = i + TILE_ROWS < hi ? i + TILE_ROWS : hi, keys = c->visible[end - 1];
        real *rows = w->g + i * w->ldg;
        if (keys == from)
            keys = 0;
        else
            tile_mul(TILE_ROWS, pad16(keys), z->DV, rows, w->ldg, w->vt, w->KB, rows + z->DVP,
                     w->ldg);
        for (int64_t t = i; t < end; t++) {
            real *G = w->g + t * w->ldg + z->DVP;
            for (int64_t j = from; j < c->visible[t]; j++)
                G[j] += w->gden[t];
            (void)causal_keep(G, keys, from, c->visible[t]);
        }
        tile_mul(TILE_ROWS, z->F, z->DVP + keys, rows, w->ldg, w->T, z->ldf, w->dphi + i * z->ldf,
                 z->ldf);
        for (int64_t t = i; t < end; t++)
            sums[t] = causal_gradient(p, z, &w->q, t, w->ref, largest_log(z, &w->q, t, w->ref),
                                      w->dphi + t * z->ldf, w->zsum, w->gden[t], p->row_weight,
                                      causal_gweight(p, z, dparams), w->phi + t * z->ldf,
                                      dparams != NULL);
    }
    memcpy(w->zsum, w->more, (size_t)z->F * sizeof(real));
    tile_rank(to - from, z->DVP, z->F, w->v + from * z->DVP, z->DVP, psi + from * z->ldf, z->ldf,
              w->T, z->ldf);
}

static void causal_queries_bwd(const attn_plan *p, const attn_params *a, const attn_causal_args *x,
                               const real *state, real *dstate, real *dparams, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, CAUSAL_TILES);
    causal_queries w;
    causal_queries_take(&z, scratch, &w);
    hoist(p, &z, 0, a, &w.q.h);
    hoist(p, &z, 1, a, &w.k.h);
    params_begin(&z, &w.q);
    memcpy(w.ref, state, (size_t)z.F * sizeof(real));
    memcpy(w.zsum, state + z.F, (size_t)z.F * sizeof(real));
    causal_transpose(z.F, z.DVP, state + 2 * z.F, z.DVP, w.T, z.ldf);
    key_minus(&z, w.ref, w.minus);
    real *psi = w.T + z.DVP * z.ldf;
    sum_grad sums[BLOCK_MAX];
    for (int64_t first = 0; first < x->n; first += z.block) {
        causal_block c = causal_tokens(&z, first, x->n, x->mask);
        causal_load(p, &z, a, 0, &w.q, c.n, NULL, x->q + first * x->ldq, x->ldq);
        causal_load(p, &z, a, 1, &w.k, c.keys, c.index, x->k + first * x->ldk, x->ldk);
        causal_logs(&z, &w.k, 0, c.keys, psi, z.ldf, w.sign, NULL);
        causal_values(&z, &c, x->v, x->ldv, w.v);
        causal_transpose(c.keys, z.DVP, w.v, z.DVP, w.vt, w.KB);
        causal_outputs(&z, &c, x, w.g, w.ldg, w.gden);
        for (int64_t lo = 0, hi; lo < c.n; lo = hi) {
            hi = causal_end(&c, lo, x->cut + first);
            if (x->cut[first + lo] != 0) {
                causal_raise(&z, psi + (c.visible[lo] - 1) * z.ldf, w.ref, w.factor);
                causal_scale_columns(&z, w.factor, w.T);
                for (int64_t f = 0; f < z.F; f++)
                    w.zsum[f] *= w.factor[f];
                key_minus(&z, w.ref, w.minus);
            }
            causal_queries_segment(p, &z, &w, &c, lo, hi, sums, dparams);
            if (dstate != NULL)
                causal_before(&z, &w, lo, hi, state, dstate);
        }
        causal_tokens_back(p, &z, a, 0, &w.q, sums, NULL, x->q + first * x->ldq, x->ldq,
                           x->gq + first * x->ldgq, x->ldgq, dparams);
    }
    params_end(p, &z, a, &w.q, dparams);
}

/* ---- backward, keys -------------------------------------------------------------------------- */

typedef struct causal_key_pass {
    attn_side k, q;
    real *phi;   /* (KB + DVP, ldf)  features of queries, then dS transposed */
    real *sign;  /* (block, ldf)  only if SIGNED, of queries */
    real *gv;    /* (block + TILE_ROWS, ldg)  [G' v] */
    real *gS;    /* (KB + F, DVP)  g, then dS */
    real *gt;    /* (DVP, KB) */
    real *phi_t; /* (F, KB) */
    real *psi;   /* (block + TILE_ROWS, ldp)  [A' phi_k] */
    real *dphi;  /* (block + TILE_ROWS, ldf) */
    real *dv;    /* (TILE_ROWS, DVP) */
    real *gden;  /* (block) */
    real *ref, *minus, *factor, *log, *dz; /* (F) */
    real *of;                              /* (F)  what dS, dz refer to */
    int64_t ldg, ldp, KB;
} causal_key_pass;

VEC_FN int64_t causal_key_take(const attn_sizes *z, real *scratch, causal_key_pass *w)
{
    attn_arena arena = {scratch, 0};
    int64_t rows = z->block + TILE_ROWS;
    w->KB = pad16(z->block);
    w->ldg = w->KB + z->DVP + PAD;
    w->ldp = w->KB + z->F + PAD;
    take_side(z, &w->k, true, &arena);
    take_side(z, &w->q, false, &arena);
    w->phi = attn_take(&arena, (w->KB + z->DVP) * z->ldf);
    w->sign = attn_take(&arena, SIGNED ? z->block * z->ldf : 0);
    w->gv = attn_take(&arena, rows * w->ldg);
    w->gS = attn_take(&arena, (w->KB + z->F) * z->DVP);
    w->gt = attn_take(&arena, z->DVP * w->KB);
    w->phi_t = attn_take(&arena, z->F * w->KB);
    w->psi = attn_take(&arena, rows * w->ldp);
    w->dphi = attn_take(&arena, rows * z->ldf);
    w->dv = attn_take(&arena, TILE_ROWS * z->DVP);
    w->gden = attn_take(&arena, z->block);
    w->ref = attn_take(&arena, z->F);
    w->minus = attn_take(&arena, z->F);
    w->factor = attn_take(&arena, z->F);
    w->log = attn_take(&arena, z->F);
    w->dz = attn_take(&arena, z->F);
    w->of = attn_take(&arena, z->F);
    return arena.used;
}

/* The references of segment lo: those of the block's start, raised by each key that cut it. */
CAUSAL_FN void causal_references(const attn_sizes *z, const causal_key_pass *w,
                                 const causal_block *c, int64_t lo, const uint8_t *cut,
                                 const real *start)
{
    memcpy(w->ref, start, (size_t)z->F * sizeof(real));
    for (int64_t t = 0; t <= lo; t++)
        if (cut[t] != 0) {
            causal_logs(z, &w->k, c->visible[t] - 1, 1, w->log, z->ldf, NULL, NULL);
            causal_raise(z, w->log, w->ref, w->factor);
        }
    key_minus(z, w->ref, w->minus);
}

/* dS and dz of later queries, by later references, to those of this segment. */
CAUSAL_FN void causal_lower(const attn_sizes *z, const causal_key_pass *w)
{
    vec least = vset(1);
    for (int64_t f = 0; f < z->F; f += VL) {
        vec shrink = growth(vload(w->ref + f), vload(w->of + f));
        vstore(w->factor + f, shrink);
        least = v_min(least, shrink);
    }
    memcpy(w->of, w->ref, (size_t)z->F * sizeof(real));
    if (vsum(least) == (real)VL)
        return;
    causal_scale_rows(z, w->factor, w->dz, w->gS + w->KB * z->DVP);
    causal_scale_columns(z, w->factor, w->phi + w->KB * z->ldf);
}

CAUSAL_FN void causal_keys_segment(const attn_plan *p, const attn_sizes *z,
                                   const causal_key_pass *w, const causal_block *c,
                                   const attn_causal_args *x, int64_t lo, int64_t hi,
                                   sum_grad *sums, real *dparams)
{
    int64_t from = lo > 0 ? c->visible[lo - 1] : 0, to = c->visible[hi - 1];
    for (int64_t t = lo; t < hi; t++)
        (void)causal_query(p, z, w->ref, w->phi + t * z->ldf, w->sign + t * z->ldf, w->dz);
    causal_transpose(hi - lo, z->F, w->phi + lo * z->ldf, z->ldf, w->phi_t + lo, w->KB);
    for (int64_t j = from; j < to; j += TILE_ROWS) {
        int64_t end = j + TILE_ROWS < to ? j + TILE_ROWS : to;
        int64_t i = c->index[j], low = i / PAD * PAD; /* from the first query that sees any */
        real *G = w->gv + j * w->ldg, *A = w->psi + j * w->ldp;
        tile_mul(TILE_ROWS, w->KB - low, z->DV, G + w->KB, w->ldg, w->gt + low, w->KB, G + low,
                 w->ldg);
        for (int64_t t = j; t < end; t++) {
            real *Gt = w->gv + t * w->ldg;
            for (int64_t s = c->index[t]; s < hi; s++)
                Gt[s] += w->gden[s];
            (void)causal_keep(Gt, w->KB, c->index[t], hi);
        }
        tile_mul(TILE_ROWS, z->F, w->KB - i + z->DVP, G + i, w->ldg, w->phi + i * z->ldf, z->ldf,
                 w->dphi + j * z->ldf, z->ldf);
        for (int64_t t = j; t < end; t++)
            sums[t] = causal_gradient(p, z, &w->k, t, w->minus, 0, w->dphi + t * z->ldf, w->dz, 1,
                                      NULL, NULL, w->psi + t * w->ldp + w->KB, dparams != NULL);
        tile_mul(TILE_ROWS, w->KB - low, z->F, A + w->KB, w->ldp, w->phi_t + low, w->KB, A + low,
                 w->ldp);
        for (int64_t t = j; t < end; t++)
            (void)causal_keep(w->psi + t * w->ldp, w->KB, c->index[t], hi);
        tile_mul(TILE_ROWS, z->DVP, w->KB - i + z->F, A + i, w->ldp, w->gS + i * z->DVP, z->DVP,
                 w->dv, z->DVP);
        for (int64_t t = j; t < end; t++)
            copy_out(z->DV, w->dv + (t - j) * z->DVP, x->gv + (c->first + c->index[t]) * x->ldgv);
    }
    for (int64_t f = 0; f < z->F; f += VL) {
        vec dz = vload(w->dz + f);
        for (int64_t t = lo; t < hi; t++)
            dz += vload(w->phi + t * z->ldf + f) * w->gden[t];
        vstore(w->dz + f, dz);
    }
    real *dS = w->gS + w->KB * z->DVP;
    tile_rank(hi - lo, z->F, z->DVP, w->phi + lo * z->ldf, z->ldf, w->gS + lo * z->DVP, z->DVP, dS,
              z->DVP);
    causal_transpose(z->F, z->DVP, dS, z->DVP, w->phi + w->KB * z->ldf, z->ldf);
}

/* One block: everything loaded, its segments from the last to the first, gradients stored. */
CAUSAL_FN void causal_keys_block(const attn_plan *p, const attn_sizes *z, const attn_params *a,
                                 causal_key_pass *w, causal_block *c, const attn_causal_args *x,
                                 real *dparams)
{
    int64_t first = c->first;
    const uint8_t *cut = x->cut + first;
    sum_grad sums[BLOCK_MAX];
    causal_load(p, z, a, 1, &w->k, c->keys, c->index, x->k + first * x->ldk, x->ldk);
    causal_load(p, z, a, 0, &w->q, c->n, NULL, x->q + first * x->ldq, x->ldq);
    causal_logs(z, &w->q, 0, c->n, w->phi, z->ldf, w->sign, NULL);
    for (int64_t j = 0; j < c->keys; j++)
        copy_padded(z->DV, x->v + (first + c->index[j]) * x->ldv, w->gv + j * w->ldg + w->KB);
    causal_outputs(z, c, x, w->gS, z->DVP, w->gden);
    causal_transpose(c->n, z->DVP, w->gS, z->DVP, w->gt, w->KB);
    for (int64_t hi = c->n, lo; hi > 0; hi = lo) {
        for (lo = hi - 1; lo > 0 && cut[lo] == 0;)
            lo--;
        causal_references(z, w, c, lo, cut, x->refs + first / z->block * z->F);
        causal_lower(z, w);
        causal_keys_segment(p, z, w, c, x, lo, hi, sums, dparams);
    }
    causal_tokens_back(p, z, a, 1, &w->k, sums, c->index, x->k + first * x->ldk, x->ldk,
                       x->gk + first * x->ldgk, x->ldgk, dparams);
}

static void causal_keys_bwd(const attn_plan *p, const attn_params *a, const attn_causal_args *x,
                            const real *after, const real *dstate, real *dparams, real *scratch)
{
    attn_sizes z = attn_sizes_of(p, CAUSAL_TILES);
    causal_key_pass w;
    causal_key_take(&z, scratch, &w);
    hoist(p, &z, 1, a, &w.k.h);
    hoist(p, &z, 0, a, &w.q.h);
    params_begin(&z, &w.k);
    zero_masked(x->n, x->mask, z.D, x->gk, x->ldgk);
    zero_masked(x->n, x->mask, z.DV, x->gv, x->ldgv);
    /* rows of queries that a short block does not have are multiplied by 0 */
    memset(w.phi, 0, (size_t)((w.KB + z.DVP) * z.ldf) * sizeof(real));
    memset(w.gS, 0, (size_t)((w.KB + z.F) * z.DVP) * sizeof(real));
    memset(w.dz, 0, (size_t)z.F * sizeof(real));
    for (int64_t f = 0; f < z.F; f++)
        w.of[f] = dstate != NULL ? after[f] : -(real)INFINITY;
    if (dstate != NULL) {
        memcpy(w.dz, dstate, (size_t)z.F * sizeof(real));
        memcpy(w.gS + w.KB * z.DVP, dstate + z.F, (size_t)(z.F * z.DVP) * sizeof(real));
        causal_transpose(z.F, z.DVP, dstate + z.F, z.DVP, w.phi + w.KB * z.ldf, z.ldf);
    }
    int64_t blocks = (x->n + z.block - 1) / z.block;
    for (int64_t first = (blocks - 1) * z.block; first >= 0; first -= z.block) {
        causal_block c = causal_tokens(&z, first, x->n, x->mask);
        causal_keys_block(p, &z, a, &w, &c, x, dparams);
    }
    params_end(p, &z, a, &w.k, dparams);
}

/* ---- the table ------------------------------------------------------------------------------- */

static int64_t causal_reals(const attn_plan *p)
{
    attn_sizes z = attn_sizes_of(p, CAUSAL_TILES);
    causal_fwd forward;
    causal_queries queries;
    causal_key_pass keys;
    int64_t n = causal_fwd_take(&z, NULL, &forward), more = causal_queries_take(&z, NULL, &queries);
    n = more > n ? more : n;
    more = causal_key_take(&z, NULL, &keys);
    return more > n ? more : n;
}

static int64_t causal_step_reals(const attn_plan *p)
{
    attn_sizes z = causal_one_sizes(p);
    causal_one w;
    return causal_one_take(&z, NULL, &w);
}

extern const attn_causal_ops EXPORT(attn_causal);
const attn_causal_ops EXPORT(attn_causal) = {
    .block = causal_block_tokens,
    .scratch = causal_reals,
    .forward = causal_forward,
    .queries_bwd = causal_queries_bwd,
    .keys_bwd = causal_keys_bwd,
    .step_scratch = causal_step_reals,
    .step = causal_step,
};
