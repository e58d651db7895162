/* What the attention skeletons share: sizes, blocks of tokens, the feature's constants.
 *
 * Tokens are taken in blocks of at most `block`; a block's features live in scratch that stays in
 * cache, a row a token, F = LANES * MP columns (lane-major) and stride `ldf`. Only valid keys are
 * taken into a block, so nothing behind the loading knows of masks.
 *
 * Rows of W beyond M are padding. Their features are made 0 by an infinite shift of the log: the
 * state keeps max = -inf there, which a query adds and a key does not subtract (it subtracts inf).
 */
#ifndef SPECTRA_ATTN_H
#define SPECTRA_ATTN_H

#include "chain.h"
#include "tile.h"
#include <float.h>

#if VEC_DOUBLE
#define REAL_MAX DBL_MAX
#else
#define REAL_MAX FLT_MAX
#endif

enum { BLOCK_MAX = 48, PARAM_V = NV > 0 ? NV : 1, PARAM_S = NS > 0 ? NS : 1, TOKEN = 3 };

/* Sizes, constants where the generator knew them. */
typedef struct attn_sizes {
    int64_t D, DV, M, DP, DVP, MP, F, ldf, block;
} attn_sizes;

/* tiles: how many arrays of (block, ldf) are in use at a time; all should fit in 128 KiB. */
VEC_FN attn_sizes attn_sizes_of(const attn_plan *p, int tiles)
{
    attn_sizes z;
    z.D = CD > 0 ? CD : p->D;
    z.DV = CDV > 0 ? CDV : p->DV;
    z.M = CM > 0 ? CM : p->M;
    z.DP = pad16(z.D);
    z.DVP = pad16(z.DV);
    z.MP = pad16(z.M);
    z.F = LANES * z.MP;
    z.ldf = z.F + PAD; /* rows a power of two apart would fall on the same few cache sets */
    int64_t fit = 32768 / (z.ldf * tiles);
    z.block = fit >= 48 ? 48 : fit >= 24 ? 24 : 12;
    return z;
}

/* value = exp(log) of each lane, log <= 0; lanes that have one log (LOG_LANE) share it. coarse: for
 * what is rounded to bf16 next. */
VEC_FN void lane_values(const vec *log, bool coarse, vec *value)
{
#pragma GCC unroll 16
    for (int l = 0; l < LANES; l++)
        if (LOG_LANE[l] == l)
            value[l] = coarse ? vec_exp_coarse(log[l]) : vec_exp_falling(log[l]);
        else
            value[l] = value[LOG_LANE[l]];
}

/* Hands out scratch in whole cache lines; without a base it only counts. */
typedef struct attn_arena {
    real *base;
    int64_t used;
} attn_arena;

VEC_FN real *attn_take(attn_arena *arena, int64_t n)
{
    real *p = arena->base != NULL ? arena->base + arena->used : NULL;
    arena->used += pad16(n);
    return p;
}

/* A block of tokens: x (block, DP) mapped, second likewise for the second projection; t (block,
 * TOKEN): |x mapped|^2, |x as it came|^2, the feature's own sum; tok (block, NTOK). Features with a
 * linear map: raw (block, DP) before it, y (block, DP) after it. */
typedef struct attn_block {
    int64_t n;
    real *x, *second, *t, *tok, *raw, *y;
} attn_block;

/* A feature's hoisted values: of the head, and of the rows of W: row (NROW, MP) and norms beyond
 * |w|^2 (NW - 1, MP). s: the scalars, with the side in its place. */
typedef struct attn_hoisted {
    real uni[NUNI], s[PARAM_S];
    real *row, *norm;
} attn_hoisted;

/* |w|^2 and the other norms of VL rows of W from r. */
VEC_FN void load_norms(const attn_plan *p, const attn_sizes *z, const attn_hoisted *h, int64_t r,
                       vec *w)
{
    w[0] = vload(p->w2 + r);
    for (int i = 1; i < NW; i++)
        w[i] = vload(h->norm + (i - 1) * z->MP + r);
}

/* norm (MP) = sum of weight_d w_rd^2. */
VEC_FN void weighted_norms(const attn_plan *p, const attn_sizes *z, const real *weight, real *norm)
{
    for (int64_t r = 0; r < z->MP; r++) {
        vec sum = vset(0);
        for (int64_t c = 0; c < z->DP; c += VL) {
            vec w = vload(p->w + r * z->DP + c);
            sum += w * w * vload(weight + c);
        }
        norm[r] = vsum(sum);
    }
}

VEC_FN void hoist(const attn_plan *p, const attn_sizes *z, int side, const attn_params *a,
                  attn_hoisted *h)
{
    for (int i = 0; i < NS; i++)
        h->s[i] = i == SIDE ? (real)(side == 0 ? 1 : -1) : a->s[i];
    phi_uniform(h->s, h->uni);
    if (NORM1 >= 0)
        weighted_norms(p, z, a->v + (NORM1 > 0 ? NORM1 : 0) * z->DP, h->norm);
    if (NORM2 >= 0)
        weighted_norms(p, z, a->v + (NORM2 > 0 ? NORM2 : 0) * z->DP, h->norm + z->MP);
    if (COUNTS)
        memcpy(h->norm, p->count_sums, 2 * (size_t)z->MP * sizeof(real));
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], w[NW];
        load_norms(p, z, h, r, w);
        phi_row(w, h->uni, row);
        for (int i = 0; i < NROW; i++)
            vstore(h->row + i * z->MP + r, row[i]);
    }
}

VEC_FN void take_hoisted(const attn_sizes *z, attn_hoisted *h, attn_arena *arena)
{
    h->row = attn_take(arena, NROW * z->MP);
    h->norm = attn_take(arena, (NW - 1) * z->MP);
}

VEC_FN void hoist_tokens(const attn_hoisted *h, const attn_block *b)
{
    for (int64_t t = 0; t < b->n; t++)
        phi_token(b->t + t * TOKEN, h->uni, b->tok + t * NTOK);
}

VEC_FN void load_row(const attn_sizes *z, const attn_hoisted *h, int64_t r, vec *row)
{
    for (int i = 0; i < NROW; i++)
        row[i] = vload(h->row + i * z->MP + r);
}

VEC_FN void take_block(const attn_sizes *z, attn_block *b, attn_arena *arena)
{
    b->x = attn_take(arena, z->block * z->DP);
    b->second = attn_take(arena, NP > 1 ? z->block * z->DP : 0);
    b->raw = attn_take(arena, LINEAR ? z->block * z->DP : 0);
    b->y = attn_take(arena, LINEAR ? z->block * z->DP : 0);
    b->t = attn_take(arena, z->block * TOKEN);
    b->tok = attn_take(arena, z->block * NTOK);
}

/* Tokens of one side of a block with their projections, and what becomes of these. */
typedef struct attn_side {
    attn_hoisted h;
    attn_block b;
    real *u;       /* (block, ldu)  projections, then their gradients */
    real *u2;      /* (block, ldu)  second projections, likewise */
    real *gx;      /* (block, DP) */
    real *gsecond; /* (block, DP)  through the second projections */
    real *gs;      /* (NS, VL)     sums of the scalars' gradients */
    real *gw;      /* (NW, MP)     gradients of the norms of the rows of W */
    int64_t ldu;
} attn_side;

/* Without gradients only what comes before them. */
VEC_FN void take_side(const attn_sizes *z, attn_side *w, bool gradients, attn_arena *arena)
{
    w->ldu = z->MP + PAD;
    take_hoisted(z, &w->h, arena);
    take_block(z, &w->b, arena);
    w->u = attn_take(arena, z->block * w->ldu);
    w->u2 = attn_take(arena, NP > 1 ? z->block * w->ldu : 0);
    w->gx = attn_take(arena, gradients ? z->block * z->DP : 0);
    w->gsecond = attn_take(arena, gradients && NP > 1 ? z->block * z->DP : 0);
    w->gs = attn_take(arena, gradients ? PARAM_S * VL : 0);
    w->gw = attn_take(arena, gradients ? NW * z->MP : 0);
}

VEC_FN void load_projections(const attn_side *w, int64_t t, int64_t r, vec *u)
{
    u[0] = vload(w->u + t * w->ldu + r);
    if (NP > 1)
        u[NP - 1] = vload(w->u2 + t * w->ldu + r);
}

/* Logs and signs of VL rows of W from r for token t, from its projections u (NP). They are made
 * where they are needed, a few operations each; of signs that nobody asks for the compiler makes
 * nothing. */
VEC_FN void side_logs(const attn_side *s, int64_t t, int64_t r, const vec *row, vec *u, vec *log,
                      vec *sign)
{
    load_projections(s, t, r, u);
    phi(u, row, s->h.uni, s->b.tok + t * NTOK, log, sign);
}

/* The largest log of query t, each with the maximum of the keys. */
VEC_FN real largest_log(const attn_sizes *z, const attn_side *s, int64_t t, const real *shift)
{
    vec max = vset(-REAL_MAX); /* finite, so that an empty state gives exp(-inf) = 0 */
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW], u[NP], log[LANES], sign[LANES];
        load_row(z, &s->h, r, row);
        side_logs(s, t, r, row, u, log, sign);
        for (int l = 0; l < LANES; l++)
            if (LOG_LANE[l] == l)
                max = v_max(max, log[l] + vload(shift + l * z->MP + r));
    }
    return vhmax(max);
}

VEC_FN vec load_part(const real *p, int64_t left)
{
    return left >= VL ? vload(p) : vloadn(p, left);
}

VEC_FN void store_part(real *p, vec x, int64_t left)
{
    if (left >= VL)
        vstore(p, x);
    else
        vstoren(p, x, left);
}

VEC_FN void load_vectors(const attn_sizes *z, const real *v, int64_t c, vec *par)
{
    for (int i = 0; i < NV; i++)
        par[i] = vload(v + i * z->DP + c);
}

/* n numbers padded with zeros to a multiple of PAD. */
VEC_FN void copy_padded(int64_t n, const real *src, real *dst)
{
    int64_t c = 0;
    for (; c + VL <= n; c += VL)
        vstore(dst + c, vload(src + c));
    for (; c < pad16(n); c += VL)
        vstore(dst + c, c < n ? vloadn(src + c, n - c) : vset(0));
}

/* Asks for a row that will soon be read or written. Called between pieces of work, as a core waits
 * once a few dozen lines are on their way; into the second-level cache, as the first is full of
 * features by the time the row is used. */
VEC_FN void expect_row(const real *p, int64_t n)
{
    for (int64_t c = 0; c < n; c += 64 / (int64_t)sizeof(real))
        __builtin_prefetch(p + c, 0, 2);
}

/* Sums over a token's coordinates. */
typedef struct token_sums {
    vec mapped2, raw2, own;
} token_sums;

/* Coordinates c.. of token t through the feature's maps. */
VEC_FN void map_part(const attn_sizes *z, int side, const real *v, int64_t c, vec raw,
                     attn_block *b, int64_t t, token_sums *sums)
{
    int64_t left = z->D - c;
    vec par[PARAM_V];
    load_vectors(z, v, c, par);
    vec mapped = side == 0 ? map_q(raw, par) : map_k(raw, par);
    if (left < VL)
        mapped = v_first(mapped, left);
    vstore(b->x + t * z->DP + c, mapped);
    sums->mapped2 += mapped * mapped;
    if (NP > 1) {
        vec second = map2(raw, par);
        vstore(b->second + t * z->DP + c, left < VL ? v_first(second, left) : second);
    }
    if (SUM) {
        vec own = token_sum(raw, par);
        sums->own += left < VL ? v_first(own, left) : own;
    }
}

VEC_FN void pad_part(const attn_sizes *z, int64_t c, attn_block *b, int64_t t)
{
    vstore(b->x + t * z->DP + c, vset(0));
    if (NP > 1)
        vstore(b->second + t * z->DP + c, vset(0));
}

VEC_FN void store_sums(const token_sums *sums, real *t)
{
    t[0] = vsum(sums->mapped2);
    t[1] = IDENTITY ? t[0] : vsum(sums->raw2);
    t[2] = SUM ? vsum(sums->own) : 0;
}

/* Token t of the block: scaled, mapped (side 0 = query, 1 = key), its sums. Where there is a linear
 * map only scaled; finish_block does the rest. */
VEC_FN void load_token(const attn_sizes *z, int side, real scale, const real *src, const real *v,
                       attn_block *b, int64_t t)
{
    token_sums sums = {vset(0), vset(0), vset(0)};
    for (int64_t c = 0; c < z->DP; c += VL) {
        int64_t left = z->D - c;
        vec raw = left > 0 ? load_part(src + c, left) * scale : vset(0);
        if (LINEAR)
            vstore(b->raw + t * z->DP + c, raw);
        else if (left > 0)
            map_part(z, side, v, c, raw, b, t, &sums);
        else
            pad_part(z, c, b, t);
        if (!IDENTITY)
            sums.raw2 += raw * raw;
    }
    store_sums(&sums, b->t + t * TOKEN);
}

VEC_FN int64_t pad_block(int64_t n, int64_t ld, real *x);

/* The linear map of all tokens of the block, and the maps after it. */
VEC_FN void finish_block(const attn_sizes *z, int side, const attn_params *a, attn_block *b)
{
    if (!LINEAR)
        return;
    int64_t rows = pad_block(b->n, z->DP, b->raw);
    tile_mul(rows, z->DP, z->D, b->raw, z->DP, a->linear + 2 * side * z->DP * z->DP, z->DP, b->y,
             z->DP);
    for (int64_t t = 0; t < b->n; t++) {
        token_sums sums = {vset(0), vset(0), vset(0)};
        for (int64_t c = 0; c < z->DP; c += VL) {
            if (c < z->D)
                map_part(z, side, a->v, c, vload(b->y + t * z->DP + c), b, t, &sums);
            else
                pad_part(z, c, b, t);
        }
        real raw2 = b->t[t * TOKEN + 1];
        store_sums(&sums, b->t + t * TOKEN);
        b->t[t * TOKEN + 1] = raw2;
    }
}

/* Gradients of one token's sums (TOKEN). */
typedef struct sum_grad {
    vec t[TOKEN];
} sum_grad;

/* From the gradients gx, gsecond (DP) of mapped token t and those of its sums to the gradient of
 * the source; adds to dv (NV, DP), the vectors' gradients, unless NULL. With a linear map: to the
 * gradient of y, in its place, and the sums' gradients to theirs; finish_gradients does the rest.
 */
VEC_FN void store_gradient(const attn_sizes *z, int side, real scale, const real *src,
                           const real *v, const attn_block *b, int64_t t, const real *gx,
                           const real *gsecond, const sum_grad *sums, real *dst, real *dv)
{
    const real gx2 = vsum(sums->t[0]), gr2 = vsum(sums->t[1]), gown = SUM ? vsum(sums->t[2]) : 0;
    for (int64_t c = 0; c < z->D; c += VL) {
        int64_t left = z->D - c;
        vec par[PARAM_V], gpar[PARAM_V], graw;
        load_vectors(z, v, c, par);
        vec raw = LINEAR ? vload(b->y + t * z->DP + c) : load_part(src + c, left) * scale;
        vec g = vload(gx + c) + vload(b->x + t * z->DP + c) * (2 * gx2);
        if (side == 0)
            map_q_grad(raw, par, g, &graw, gpar);
        else
            map_k_grad(raw, par, g, &graw, gpar);
        if (NP > 1) {
            vec more, gmore[PARAM_V];
            map2_grad(raw, par, vload(gsecond + c), &more, gmore);
            graw += more;
            for (int i = 0; i < NV; i++)
                gpar[i] += gmore[i];
        }
        if (SUM) {
            vec more, gmore[PARAM_V];
            token_sum_grad(raw, par, gown, &more, gmore);
            graw += more;
            for (int i = 0; i < NV; i++)
                gpar[i] += gmore[i];
        }
        for (int i = 0; i < NV && dv != NULL; i++) {
            vec part = left < VL ? v_first(gpar[i], left) : gpar[i];
            vstore(dv + i * z->DP + c, vload(dv + i * z->DP + c) + part);
        }
        if (LINEAR)
            vstore(b->y + t * z->DP + c, graw);
        else
            store_part(dst + c, (graw + raw * (2 * gr2)) * scale, left);
    }
    if (LINEAR)
        b->t[t * TOKEN + 1] = gr2;
}

/* Gradients of the block's tokens back through the linear map; index NULL: tokens are neighbours.
 */
VEC_FN void finish_gradients(const attn_sizes *z, int side, real scale, const attn_params *a,
                             const attn_block *b, const int64_t *index, real *dst, int64_t ld)
{
    if (!LINEAR)
        return;
    int64_t rows = pad_block(b->n, z->DP, b->y);
    tile_mul(rows, z->DP, z->D, b->y, z->DP, a->linear + (2 * side + 1) * z->DP * z->DP, z->DP,
             b->x, z->DP);
    for (int64_t t = 0; t < b->n; t++)
        for (int64_t c = 0; c < z->D; c += VL) {
            vec g = vload(b->x + t * z->DP + c) +
                    vload(b->raw + t * z->DP + c) * (2 * b->t[t * TOKEN + 1]);
            store_part(dst + (index != NULL ? index[t] : t) * ld + c, g * scale, z->D - c);
        }
}

/* The rows up to a whole register block are 0. */
VEC_FN int64_t pad_block(int64_t n, int64_t ld, real *x)
{
    int64_t rows = (n + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    memset(x + n * ld, 0, (size_t)((rows - n) * ld) * sizeof(real));
    return rows;
}

/* Projections u = W x into the first MP columns of `u`, those of the second kind into `second`. */
VEC_FN void project(const attn_plan *p, const attn_sizes *z, const attn_block *b, real *u,
                    real *second, int64_t ldu)
{
    int64_t rows = pad_block(b->n, z->DP, b->x);
    if (p->chain != NULL)
        chain_project(p->chain, b->n, z->M, z->DP, b->x, z->DP, u, ldu);
    else
        tile_mul(rows, z->MP, z->D, b->x, z->DP, p->wt, z->MP, u, ldu);
    if (NP > 1) {
        pad_block(b->n, z->DP, b->second);
        tile_mul(rows, z->MP, z->D, b->second, z->DP, p->wt_second, z->MP, second, ldu);
    }
}

/* Tokens first..n-1 that are valid, at most `block` of them: their indices; returns where to go on.
 */
VEC_FN int64_t choose_tokens(int64_t first, int64_t n, const uint8_t *mask, int64_t block,
                             int64_t *index, int64_t *count)
{
    int64_t m = 0;
    for (; first < n && m < block; first++) {
        index[m] = first;
        m += mask == NULL || mask[first] != 0;
    }
    *count = m;
    return first;
}

/* Rows of x (.., ld) of the chosen tokens, whole vectors: where they are if they can be
 * multiplied there, else copied into `tile` (block, pad16(width)). Sets the stride to use. */
VEC_FN const real *gather_rows(const int64_t *index, int64_t count, int64_t width, const real *x,
                               int64_t ld, real *tile, int64_t *stride)
{
    const real *first = x + index[0] * ld;
    bool together = index[count - 1] - index[0] == count - 1 && count % TILE_ROWS == 0;
    if (together && width % PAD == 0 && (uintptr_t)first % 64 == 0 && ld % PAD == 0) {
        *stride = ld;
        return first;
    }
    *stride = pad16(width);
    for (int64_t t = 0; t < count; t++)
        copy_padded(width, x + index[t] * ld, tile + t * *stride);
    pad_block(count, *stride, tile);
    return tile;
}

/* What is added to the logs of keys: minus the maxima or references (F), -inf where W has no row.
 */
VEC_FN void key_minus(const attn_sizes *z, const real *ref, real *minus)
{
    for (int l = 0; l < LANES; l++)
        for (int64_t r = 0; r < z->MP; r += VL) {
            const vec inside = v_lt(viota(), vset((real)(z->M - r)));
            const int64_t f = l * z->MP + r;
            vstore(minus + f, v_where(inside, -vload(ref + f), vset(-(real)INFINITY)));
        }
}

/* Multiplies VL rows of z and S by factor's lanes. */
VEC_FN void scale_rows(const attn_sizes *z, vec factor, real *zsum, real *S)
{
    vstore(zsum, vload(zsum) * factor);
    for (int i = 0; i < VL; i++)
        for (int64_t c = 0; c < z->DVP; c += VL)
            vstore(S + i * z->DVP + c, vload(S + i * z->DVP + c) * factor[i]);
}

/* exp(old - new) where the maximum grew, else 1 (also where both are -inf). */
VEC_FN vec growth(vec old, vec new)
{
    vec grew = v_lt(old, new);
    return v_where(grew, vec_exp_falling(v_where(grew, old - new, vset(0))), vset(1));
}

/* S (F, DVP) into (DV, F). */
VEC_FN void transpose(const attn_sizes *z, const real *S, real *transposed)
{
    for (int64_t c = 0; c < z->DV; c++)
        for (int64_t f = 0; f < z->F; f++)
            transposed[c * z->F + f] = S[f * z->DVP + c];
}

/* Of one query, from the gradient go of its output: g (DVP) = go / den; returns -(go.o) / den, the
 * gradient of den. Both are 0 where den is. */
VEC_FN real output_gradient(const attn_sizes *z, real den, const real *o, const real *go, real *g)
{
    real inverse = den != 0 ? 1 / den : 0;
    vec dot = vset(0);
    for (int64_t c = 0; c < z->DVP; c += VL) {
        int64_t left = z->DV - c;
        vec part = left > 0 ? load_part(go + c, left) : vset(0);
        if (left > 0)
            dot += part * load_part(o + c, left);
        vstore(g + c, part * inverse);
    }
    return -vsum(dot) * inverse;
}

/* o (DV) = the numerators / den. */
VEC_FN void store_output(const attn_sizes *z, real den, const real *numerator, real *o)
{
    real inverse = den != 0 ? 1 / den : 0;
    for (int64_t c = 0; c < z->DV; c += VL)
        store_part(o + c, vload(numerator + c) * inverse, z->DV - c);
}

VEC_FN void copy_out(int64_t n, const real *from, real *to)
{
    for (int64_t c = 0; c < n; c += VL)
        store_part(to + c, vload(from + c), n - c);
}

#endif
