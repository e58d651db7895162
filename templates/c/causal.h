/* What the causal passes share: blocks that hold a token's query and its key, and the segments a
 * block is cut into.
 *
 * Log of feature row r of a key is reduced by a reference, log of a query raised by it. A reference
 * is the log of some key that came before, so that den >= 1 for positive features, and no key of a
 * segment is above it by more than GROWTH, so that nothing overflows or vanishes. A key that would
 * be starts a segment, and all references are raised to it: exact, whatever comes later, and what
 * comes later has no part in what comes out before. Within a segment the references stay, so its
 * tokens are done as products of matrices. */
#ifndef SPECTRA_CAUSAL_H
#define SPECTRA_CAUSAL_H

#include "attn_grad.h"

#define CAUSAL_FN static __attribute__((noinline, unused))

enum { CAUSAL_TILES = 4 + SIGNED, GROWTH = 30 };

/* Where a block of tokens lies and which of its tokens are keys. */
typedef struct causal_block {
    int64_t first, n, keys;
    int64_t index[BLOCK_MAX + 1];   /* (keys) tokens, counted from `first` */
    int64_t visible[BLOCK_MAX];     /* (n)    keys up to and with this token */
    bool wild, wild_key[BLOCK_MAX]; /* any, and which (keys), have values that are not finite */
} causal_block;

VEC_FN causal_block causal_tokens(const attn_sizes *z, int64_t first, int64_t n,
                                  const uint8_t *mask)
{
    causal_block c = {.first = first, .n = n - first < z->block ? n - first : z->block};
    choose_tokens(0, c.n, mask != NULL ? mask + first : NULL, c.n, c.index, &c.keys);
    for (int64_t t = 0, j = 0; t < c.n; t++) {
        j += j < c.keys && c.index[j] == t;
        c.visible[t] = j;
    }
    return c;
}

VEC_FN bool causal_is_key(const causal_block *c, int64_t t)
{
    return c->visible[t] > (t > 0 ? c->visible[t - 1] : 0);
}

/* Loads and projects n tokens of a side; index NULL: neighbours. */
CAUSAL_FN void causal_load(const attn_plan *p, const attn_sizes *z, const attn_params *a, int side,
                           attn_side *s, int64_t n, const int64_t *index, const real *x, int64_t ld)
{
    s->b.n = n;
    for (int64_t t = 0; t < n; t++)
        load_token(z, side, p->scale, x + (index != NULL ? index[t] : t) * ld, a->v, &s->b, t);
    finish_block(z, side, a, &s->b);
    hoist_tokens(&s->h, &s->b);
    if (n > 0)
        project(p, z, &s->b, s->u, s->u2, s->ldu);
}

/* Logs of n tokens from `from` into log (n, ld), -inf where W has no row, and signs; their maxima
 * into top (F) unless NULL. */
CAUSAL_FN void causal_logs(const attn_sizes *z, const attn_side *s, int64_t from, int64_t n,
                           real *log_out, int64_t ld, real *sign_out, real *top)
{
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], max[LANES];
        vec edge = v_where(v_lt(viota(), vset((real)(z->M - r))), vset(0), vset(-(real)INFINITY));
        load_row(z, &s->h, r, row);
        for (int l = 0; l < LANES; l++)
            max[l] = vset(-(real)INFINITY);
        for (int64_t t = 0; t < n; t++) {
            vec u[NP], log[LANES], sign[LANES];
            side_logs(s, from + t, r, row, u, log, sign);
            for (int l = 0; l < LANES; l++) {
                log[l] += edge;
                vstore(log_out + t * ld + l * z->MP + r, log[l]);
                if (SIGNED && sign_out != NULL)
                    vstore(sign_out + t * z->ldf + l * z->MP + r, sign[l]);
                max[l] = v_max(max[l], log[l]);
            }
        }
        for (int l = 0; l < LANES && top != NULL; l++)
            vstore(top + l * z->MP + r, max[l]);
    }
}

/* Whether no log (F) is above its reference by more than GROWTH; NaN is. */
CAUSAL_FN bool causal_within(const attn_sizes *z, const real *log, const real *ref)
{
    vec inside = vset(0);
    for (int64_t f = 0; f < z->F; f += VL) {
        vec bound = vload(ref + f) + (real)GROWTH, x = vload(log + f);
        inside += v_where(v_lt(bound, x), vset(0), v_where(v_lt(x, vset(INFINITY)), vset(1), x));
    }
    return vsum(inside) == (real)z->F;
}

/* Raises the references to a key's logs; factor (F) gets what the state is to be multiplied by. */
CAUSAL_FN void causal_raise(const attn_sizes *z, const real *log, real *ref, real *factor)
{
    for (int64_t f = 0; f < z->F; f += VL) {
        vec old = vload(ref + f), new = v_max(old, vload(log + f));
        vstore(ref + f, new);
        vstore(factor + f, growth(old, new));
    }
}

CAUSAL_FN void causal_scale_rows(const attn_sizes *z, const real *factor, real *zsum, real *S)
{
    for (int64_t f = 0; f < z->F; f += VL)
        scale_rows(z, vload(factor + f), zsum + f, S + f * z->DVP);
}

/* T (DVP, ldf) is S transposed. */
CAUSAL_FN void causal_scale_columns(const attn_sizes *z, const real *factor, real *T)
{
    for (int64_t c = 0; c < z->DVP; c++)
        for (int64_t f = 0; f < z->F; f += VL)
            vstore(T + c * z->ldf + f, vload(T + c * z->ldf + f) * vload(factor + f));
}

/* Features of keys from..to-1 in place of their logs phi (.., ld); more (F) = zsum + their sums. */
CAUSAL_FN void causal_keys(const attn_sizes *z, int64_t from, int64_t to, const real *minus,
                           real *phi_k, int64_t ld, const real *sign, const real *zsum, real *more)
{
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec sum[LANES], log[LANES], value[LANES];
        for (int l = 0; l < LANES; l++)
            sum[l] = vload(zsum + l * z->MP + r);
        for (int64_t t = from; t < to; t++) {
            for (int l = 0; l < LANES; l++) {
                int64_t f = l * z->MP + r;
                log[l] = vload(phi_k + t * ld + f) + vload(minus + f);
            }
            lane_values(log, false, value);
            for (int l = 0; l < LANES; l++) {
                int64_t f = l * z->MP + r;
                vec e = SIGNED ? value[l] * vload(sign + t * z->ldf + f) : value[l];
                vstore(phi_k + t * ld + f, e);
                sum[l] += e;
            }
        }
        for (int l = 0; l < LANES; l++)
            vstore(more + l * z->MP + r, sum[l]);
    }
}

VEC_FN vec causal_weight(const attn_plan *p, int64_t r)
{
    return p->row_weight != NULL ? vload(p->row_weight + r) : vset(1);
}

/* Features of a query relative to its largest, times the rows' weights, in place of its logs;
 * returns its part of den from the state's z. */
CAUSAL_FN real causal_query(const attn_plan *p, const attn_sizes *z, const real *ref, real *phi_q,
                            const real *sign, const real *zsum)
{
    vec max = vset(-REAL_MAX), den = vset(0);
    for (int64_t f = 0; f < z->F; f += VL)
        max = v_max(max, vload(phi_q + f) + vload(ref + f));
    const real top = vhmax(max);
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec log[LANES], value[LANES];
        for (int l = 0; l < LANES; l++) {
            int64_t f = l * z->MP + r;
            log[l] = vload(phi_q + f) + vload(ref + f) - top;
        }
        lane_values(log, false, value);
        for (int l = 0; l < LANES; l++) {
            int64_t f = l * z->MP + r;
            vec e = (SIGNED ? value[l] * vload(sign + f) : value[l]) * causal_weight(p, r);
            vstore(phi_q + f, e);
            den += e * vload(zsum + f);
        }
    }
    return vsum(den);
}

typedef real causal_four
    __attribute__((vector_size(4 * sizeof(real)), aligned(sizeof(real)), may_alias));

/* Four rows of four numbers into their transpose. */
VEC_FN void causal_transpose_four(const real *x, int64_t ld, real *t, int64_t ldt)
{
    causal_four a = *(const causal_four *)x, b = *(const causal_four *)(x + ld);
    causal_four c = *(const causal_four *)(x + 2 * ld), d = *(const causal_four *)(x + 3 * ld);
    causal_four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    causal_four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    causal_four ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    causal_four cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(causal_four *)t = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    *(causal_four *)(t + ldt) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    *(causal_four *)(t + 2 * ldt) = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
    *(causal_four *)(t + 3 * ldt) = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
}

/* x (rows, width) with stride ld into its transpose t (width, ldt); width is a multiple of PAD. */
CAUSAL_FN void causal_transpose(int64_t rows, int64_t width, const real *x, int64_t ld, real *t,
                                int64_t ldt)
{
    const int64_t fours = rows / 4 * 4;
    for (int64_t i = 0; i < fours; i += 4)
        for (int64_t c = 0; c < width; c += 4)
            causal_transpose_four(x + i * ld + c, ld, t + c * ldt + i, ldt);
    for (int64_t i = fours; i < rows; i++)
        for (int64_t c = 0; c < width; c++)
            t[c * ldt + i] = x[i * ld + c];
}

/* a (columns, padded) = 0 outside from..to-1; returns the sum. */
CAUSAL_FN real causal_keep(real *a, int64_t columns, int64_t from, int64_t to)
{
    const vec low = vset((real)from) - (real)0.5, high = vset((real)to);
    vec sum = vset(0), at = viota();
    for (int64_t j = 0; j < columns; j += VL, at += vset(VL)) {
        vec inside = v_lt(low, at) * v_lt(at, high), x = v_where(inside, vload(a + j), vset(0));
        vstore(a + j, x);
        sum += x;
    }
    return vsum(sum);
}

/* Through the features of token t: dphi (F) and zvec (F) times c to the gradients of its
 * projections. add (F) and top as the forward pass shifts logs. features (F) gets what the products
 * need. weight, gweight (MP): rows' weights and their gradients; NULL: not of this side. */
CAUSAL_FN sum_grad causal_gradient(const attn_plan *p, const attn_sizes *z, const attn_side *s,
                                   int64_t t, const real *add, real top, const real *dphi_t,
                                   const real *zvec, real c, const real *weight, real *gweight,
                                   real *features, bool want_params)
{
    sum_grad sum = {{vset(0), vset(0), vset(0)}};
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], u[NP], log[LANES], value[LANES], sign[LANES], dphi[LANES];
        vec w = weight != NULL ? vload(weight + r) : vset(1);
        load_row(z, &s->h, r, row);
        side_logs(s, t, r, row, u, log, sign);
        for (int l = 0; l < LANES; l++)
            log[l] = log[l] + vload(add + l * z->MP + r) - top;
        lane_values(log, false, value);
        for (int l = 0; l < LANES; l++) {
            int64_t f = l * z->MP + r;
            vec feature = SIGNED ? value[l] * sign[l] : value[l];
            dphi[l] = vload(dphi_t + f) + vload(zvec + f) * c;
            if (gweight != NULL)
                vstore(gweight + r, vload(gweight + r) + feature * dphi[l]);
            dphi[l] *= w;
            vstore(features + f, feature * w);
        }
        feature_gradient(p, z, s, t, r, row, u, value, sign, dphi, &sum, want_params);
    }
    return sum;
}

/* Gradients of n tokens from those of their projections; index NULL: neighbours. */
CAUSAL_FN void causal_tokens_back(const attn_plan *p, const attn_sizes *z, const attn_params *a,
                                  int side, attn_side *s, const sum_grad *sums,
                                  const int64_t *index, const real *x, int64_t ldx, real *gx,
                                  int64_t ldgx, real *dparams)
{
    if (s->b.n == 0)
        return;
    matrix_gradient(p, z, s, dparams);
    project_back(p, z, s);
    for (int64_t t = 0; t < s->b.n; t++) {
        int64_t at = index != NULL ? index[t] : t;
        store_gradient(z, side, p->scale, x + at * ldx, a->v, &s->b, t, s->gx + t * z->DP,
                       s->gsecond + t * z->DP, sums + t, gx + at * ldgx,
                       NV > 0 && dparams != NULL ? dparams + NS : NULL);
    }
    finish_gradients(z, side, p->scale, a, &s->b, index, gx, ldgx);
}

/* g (n, ld) = go / den and gden (n) of a block's queries. */
CAUSAL_FN void causal_outputs(const attn_sizes *z, const causal_block *c, const attn_causal_args *x,
                              real *g, int64_t ld, real *gden)
{
    for (int64_t t = 0; t < c->n; t++) {
        int64_t at = c->first + t;
        gden[t] =
            output_gradient(z, x->den[at], x->o + at * x->ldo, x->go + at * x->ldgo, g + t * ld);
    }
}

/* Where the segment of token lo ends. */
VEC_FN int64_t causal_end(const causal_block *c, int64_t lo, const uint8_t *cut)
{
    int64_t hi = lo + 1;
    while (hi < c->n && cut[hi] == 0)
        hi++;
    return hi;
}

VEC_FN real *causal_gweight(const attn_plan *p, const attn_sizes *z, real *dparams)
{
    return dparams != NULL && p->learn ? dparams + NS + NV * z->DP + z->MP * z->DP : NULL;
}

#endif
