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

#include "tile.h"
#include <float.h>

#if VEC_DOUBLE
#define REAL_MAX DBL_MAX
#else
#define REAL_MAX FLT_MAX
#endif

enum { BLOCK_MAX = 48, PARAM_V = NV > 0 ? NV : 1, PARAM_S = NS > 0 ? NS : 1 };

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

/* A block of tokens: x (block, DP) mapped, x2 and r2 (block), tok (block, NTOK). */
typedef struct attn_block {
    int64_t n;
    real *x, *x2, *r2, *tok;
} attn_block;

/* A feature's hoisted values: of the head, and (NROW, MP) of the rows of W. */
typedef struct attn_hoisted {
    real uni[NUNI];
    real *row;
} attn_hoisted;

VEC_FN void hoist(const attn_plan *p, const attn_sizes *z, const real *s, attn_hoisted *h)
{
    phi_uniform(s, h->uni);
    for (int64_t r = 0; r < z->MP; r += VL) {
        vec row[NROW];
        phi_row(vload(p->w2 + r), h->uni, row);
        for (int i = 0; i < NROW; i++)
            vstore(h->row + i * z->MP + r, row[i]);
    }
}

VEC_FN void hoist_tokens(const attn_hoisted *h, const attn_block *b)
{
    for (int64_t t = 0; t < b->n; t++)
        phi_token(b->x2[t], b->r2[t], h->uni, b->tok + t * NTOK);
}

VEC_FN void load_row(const attn_sizes *z, const attn_hoisted *h, int64_t r, vec *row)
{
    for (int i = 0; i < NROW; i++)
        row[i] = vload(h->row + i * z->MP + r);
}

VEC_FN void take_block(const attn_sizes *z, attn_block *b, attn_arena *arena)
{
    b->x = attn_take(arena, z->block * z->DP);
    b->x2 = attn_take(arena, z->block);
    b->r2 = attn_take(arena, z->block);
    b->tok = attn_take(arena, z->block * NTOK);
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

/* Token t of the block: scaled, mapped (side 0 = query, 1 = key), its norms. */
VEC_FN void load_token(const attn_sizes *z, int side, real scale, const real *src, const real *v,
                       attn_block *b, int64_t t)
{
    real *x = b->x + t * z->DP;
    vec mapped2 = vset(0), raw2 = vset(0);
    for (int64_t c = 0; c < z->DP; c += VL) {
        int64_t left = z->D - c;
        if (left <= 0) {
            vstore(x + c, vset(0));
            continue;
        }
        vec par[PARAM_V];
        load_vectors(z, v, c, par);
        vec raw = load_part(src + c, left) * scale;
        vec mapped = side == 0 ? map_q(raw, par) : map_k(raw, par);
        if (left < VL)
            mapped = v_first(mapped, left);
        vstore(x + c, mapped);
        mapped2 += mapped * mapped;
        raw2 += raw * raw;
    }
    b->x2[t] = vsum(mapped2);
    b->r2[t] = NV > 0 ? vsum(raw2) : b->x2[t];
}

/* From the gradient gx (DP) of mapped token t and those of its norms to the gradient of the source;
 * adds to dv (NV, DP), the vectors' gradients, unless NULL. */
VEC_FN void store_gradient(const attn_sizes *z, int side, real scale, const real *src,
                           const real *v, const attn_block *b, int64_t t, const real *gx, real gx2,
                           real gr2, real *dst, real *dv)
{
    for (int64_t c = 0; c < z->D; c += VL) {
        int64_t left = z->D - c;
        vec par[PARAM_V], gpar[PARAM_V], graw;
        load_vectors(z, v, c, par);
        vec raw = load_part(src + c, left) * scale;
        vec g = vload(gx + c) + vload(b->x + t * z->DP + c) * (2 * gx2);
        if (side == 0)
            map_q_grad(raw, par, g, &graw, gpar);
        else
            map_k_grad(raw, par, g, &graw, gpar);
        store_part(dst + c, (graw + raw * (2 * gr2)) * scale, left);
        for (int i = 0; i < NV && dv != NULL; i++) {
            vec part = left < VL ? v_first(gpar[i], left) : gpar[i];
            vstore(dv + i * z->DP + c, vload(dv + i * z->DP + c) + part);
        }
    }
}

/* The rows up to a whole register block are 0. */
VEC_FN int64_t pad_block(int64_t n, int64_t ld, real *x)
{
    int64_t rows = (n + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    memset(x + n * ld, 0, (size_t)((rows - n) * ld) * sizeof(real));
    return rows;
}

/* Projections u = W x into the first MP columns of `u`. */
VEC_FN void project(const attn_plan *p, const attn_sizes *z, const attn_block *b, real *u,
                    int64_t ldu)
{
    int64_t rows = pad_block(b->n, z->DP, b->x);
    tile_mul(rows, z->MP, z->D, b->x, z->DP, p->wt, z->MP, u, ldu);
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

/* What a query adds to its logs: the keys' maxima and the weights of the rows. */
VEC_FN void query_shift(const attn_plan *p, const attn_sizes *z, const real *state, real *shift)
{
    for (int64_t f = 0; f < z->F; f += VL) {
        vec max = vload(state + f);
        vstore(shift + f, p->logw != NULL ? max + vload(p->logw + f % z->MP) : max);
    }
}

/* What is subtracted from a key's logs: the maxima, and +inf where W has no row. */
VEC_FN void key_shift(const attn_sizes *z, const real *state, real *shift)
{
    for (int64_t f = 0; f < z->F; f++)
        shift[f] = f % z->MP < z->M ? state[f] : (real)INFINITY;
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
