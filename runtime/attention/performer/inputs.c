/* Parameters of random-feature attention: the packed matrices, inputs given from outside, and the
 * features by themselves. */
#include "attention/attention.h"

#include "base/status.h"
#include "matrix/chain.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the matrix and given inputs ------------------------------------------------------------- */

int64_t performer_packed_floats(const spectra_attention *att)
{
    const attn_plan *p = &att->plan;
    int64_t matrix = p->D * p->MP + p->MP * p->DP + p->MP;
    return (att->feature->second_own ? 2 : 1) * matrix + 3 * p->MP;
}

static float *pack_matrix(const attn_plan *p, const float *from, float *at, float *sums)
{
    float *wt = at, *w = wt + p->D * p->MP, *w2 = w + p->MP * p->DP;
    for (int64_t r = 0; r < p->M; r++)
        performer_pack_row(p->D, p->MP, p->DP, r, from + r * p->D, wt, w, w2, sums);
    return w2 + p->MP;
}

/* Measured (bench/structured.c): transforms of n numbers take less time than n products for each of
 * them from n = 128 on; at 64 there is no difference. */
bool performer_chain_wins(int64_t M, int64_t D)
{
    return D > 64 && M >= 128;
}

void performer_pack(spectra_attention *att)
{
    attn_plan *p = &att->plan;
    float *sums = att->packed + performer_packed_floats(att) - 3 * p->MP;
    float *weights = sums + 2 * p->MP;
    memset(att->packed, 0, (size_t)performer_packed_floats(att) * sizeof *att->packed);
    float *next = pack_matrix(p, att->w, att->packed, att->counts_given ? sums : NULL);
    p->wt = p->wt_second = att->packed;
    p->w = p->w_second = att->packed + p->D * p->MP;
    p->w2 = p->w + p->MP * p->DP;
    p->count_sums = sums;
    if (att->second) {
        pack_matrix(p, att->second, next, NULL);
        p->wt_second = next;
        p->w_second = next + p->D * p->MP;
    }
    for (int64_t i = 0; i < p->M * p->D && att->uniform; i++)
        att->uniform[i] = 0.5 * erfc(-(double)att->w[i] * M_SQRT1_2);
    att->weighted = false;
    for (int64_t r = 0; r < p->M; r++) {
        att->weighted |= att->row_weight[r] != 1;
        weights[r] = att->row_weight[r];
    }
    p->row_weight = att->weighted ? weights : NULL;
}

void performer_replaced(spectra_attention *att, bool counts_given)
{
    if (att->plan.chain && !sample_chain_is(att->plan.chain, att->plan.M, att->plan.D, att->w))
        att->plan.chain = NULL;
    att->counts_given = counts_given;
    performer_pack(att);
}

static spectra_status keep_input(attention_input *in, const char *name, const float *data, int ndim,
                                 const int64_t *shape)
{
    int64_t n = 1;
    for (int i = 0; i < ndim; i++)
        n *= shape[i];
    float *copy = malloc((size_t)n * sizeof *copy);
    if (!copy)
        return fail(SPECTRA_ENOMEM, "input %s: no memory for %lld numbers", name, (long long)n);
    memcpy(copy, data, (size_t)n * sizeof *copy);
    free(in->data);
    *in = (attention_input){.data = copy, .ndim = ndim};
    memcpy(in->shape, shape, (size_t)ndim * sizeof *shape);
    return SPECTRA_OK;
}

static spectra_status set_matrix(spectra_attention *att, const char *name, float *to,
                                 const float *data, int ndim, const int64_t *shape)
{
    int64_t M = att->plan.M, D = att->plan.D;
    if (ndim != 2 || shape[0] != M || shape[1] != D)
        return fail(SPECTRA_ESHAPE, "input %s: needs shape (%lld, %lld), features x head size",
                    name, (long long)M, (long long)D);
    bool counts = att->feature->counts != COUNTS_NONE;
    for (int64_t i = 0; i < M * D && counts; i++)
        if (!(data[i] >= 0) || data[i] != floorf(data[i]))
            return fail(SPECTRA_EINVAL,
                        "input %s: entry %lld is %g, %s needs whole numbers from 0 up", name,
                        (long long)i, (double)data[i], att->feature->name);
    memcpy(to, data, (size_t)(M * D) * sizeof *data);
    performer_replaced(att, counts);
    return SPECTRA_OK;
}

static spectra_status set_row_weights(spectra_attention *att, const float *data, int ndim,
                                      const int64_t *shape)
{
    if (ndim != 1 || shape[0] != att->plan.M)
        return fail(SPECTRA_ESHAPE, "input row_weight: needs shape (%lld), features",
                    (long long)att->plan.M);
    memcpy(att->row_weight, data, (size_t)att->plan.M * sizeof *data);
    performer_pack(att);
    return SPECTRA_OK;
}

spectra_status performer_set(spectra_attention *att, const char *name, const float *data, int ndim,
                             const int64_t *shape)
{
    const feature_info *f = att->feature;
    int64_t H = att->desc.H, D = att->desc.D;
    if (strcmp(name, "W") == 0)
        return set_matrix(att, name, att->w, data, ndim, shape);
    if (strcmp(name, "T") == 0 && att->second)
        return set_matrix(att, name, att->second, data, ndim, shape);
    if (strcmp(name, "row_weight") == 0)
        return set_row_weights(att, data, ndim, shape);
    for (int i = 0; i < f->scalars - 1; i++)
        if (strcmp(name, f->scalar_names[i]) == 0) {
            if (ndim < 1 || ndim > 2 || shape[ndim - 1] != H)
                return fail(SPECTRA_ESHAPE, "input %s: needs shape (%lld) or (batch, %lld), heads",
                            name, (long long)H, (long long)H);
            return keep_input(&att->scalar[i], name, data, ndim, shape);
        }
    for (int i = 0; i < f->vectors; i++)
        if (strcmp(name, f->vector_names[i]) == 0) {
            if (ndim < 1 || ndim > 3 || shape[ndim - 1] != D || (ndim > 1 && shape[ndim - 2] != H))
                return fail(SPECTRA_ESHAPE,
                            "input %s: needs shape (%lld), (%lld, %lld) or (batch, %lld, %lld)",
                            name, (long long)D, (long long)H, (long long)D, (long long)H,
                            (long long)D);
            return keep_input(&att->vector[i], name, data, ndim, shape);
        }
    if (strcmp(name, "A_pos") == 0 && att->desc.official && f->scalars > 1) {
        if (ndim != 2 || shape[0] != H)
            return fail(SPECTRA_ESHAPE, "input A_pos: needs shape (%lld, positions)", (long long)H);
        return keep_input(&att->a_pos, name, data, ndim, shape);
    }
    return fail(SPECTRA_ENOTFOUND, "%s has no input '%s'", f->name, name);
}

/* ---- values per head ------------------------------------------------------------------------- */

/* Entry (b, h, 0) of an input of shape (H), (B, H), (D), (H, D) or (B, H, D); D = 1 for scalars. */
static const float *input_at(const attention_input *in, int vector, int64_t H, int64_t D, int64_t b,
                             int64_t h)
{
    int batched = in->ndim - vector;
    int64_t i =
        batched == 2 ? (in->shape[0] > b ? b : in->shape[0] - 1) * H + h : (batched == 1 ? h : 0);
    return in->data + i * D;
}

void performer_given(const spectra_attention *att, int64_t b, int64_t h, float *s, float *v)
{
    const feature_info *f = att->feature;
    int64_t D = att->plan.D, DP = att->plan.DP, H = att->desc.H;
    for (int i = 0; i < f->scalars; i++)
        s[i] =
            att->scalar[i].data ? *input_at(&att->scalar[i], 0, H, 1, b, h) : f->scalar_default[i];
    s[f->scalars - 1] = att->desc.target == SPECTRA_GAUSSIAN ? 1.0F : 0.0F;
    for (int i = 0; i < f->vectors && v; i++)
        for (int64_t d = 0; d < DP; d++)
            v[i * DP + d] =
                d < D && att->vector[i].data ? input_at(&att->vector[i], 1, H, D, b, h)[d] : 1.0F;
}

/* ---- features on their own --------------------------------------------------------------------
 */

static spectra_status need_performer(const spectra_attention *att)
{
    if (att->kind != &attention_performer)
        return fail(SPECTRA_EINVAL, "%s attention has no features", att->kind->name);
    return SPECTRA_OK;
}

static void *scratch_new(int64_t floats)
{
    void *scratch = aligned_alloc(PERFORMER_ALIGN, (size_t)performer_align(floats + 1) * 4);
    if (!scratch)
        fail(SPECTRA_ENOMEM, "features: no memory for %lld numbers", (long long)floats);
    return scratch;
}

spectra_status attention_features(const spectra_attention *att, int side, int64_t B, int64_t H,
                                  int64_t n, const float *x, const float *blocks, float *log,
                                  float *sign)
{
    TRY(need_performer(att));
    const attn_fwd_ops *ops = att->kernels->fwd;
    const feature_info *f = att->feature;
    float *scratch = scratch_new(ops->scratch(&att->plan));
    if (!scratch)
        return SPECTRA_ENOMEM;
    for (int64_t i = 0; i < B * H; i++) {
        attn_plan plan;
        attn_params a;
        performer_view(att, blocks + i * performer_block_floats(att), &plan, &a);
        plan.scale = 1;
        int64_t out = i * n * f->lanes * plan.M;
        ops->features(&plan, &a, side, n, x + i * n * plan.D, plan.D, log + out, sign + out,
                      scratch);
        float constant = f->constant ? f->constant(plan.D, a.s) : 0;
        for (int64_t k = out; k < out + n * f->lanes * plan.M; k++)
            log[k] += constant;
    }
    free(scratch);
    return SPECTRA_OK;
}

spectra_status attention_adapt(const spectra_attention *att, int64_t B, int64_t H, int64_t T,
                               int64_t S, const float *x, const float *y, const uint8_t *x_mask,
                               const uint8_t *y_mask, float *blocks)
{
    TRY(need_performer(att));
    int64_t D = att->plan.D, scratch_floats = performer_head_scratch(att);
    float *scratch = scratch_new(scratch_floats + MOMENTS * att->plan.DP);
    if (!scratch)
        return SPECTRA_ENOMEM;
    for (int64_t i = 0; i < B * H; i++) {
        int64_t b = i / H;
        const performer_tokens xs = {x + i * T * D, T, D, 1, x_mask ? x_mask + b * T : NULL};
        const performer_tokens ys = {y + i * S * D, S, D, 1, y_mask ? y_mask + b * S : NULL};
        performer_prepare(att, b, i % H, &xs, &ys, scratch + scratch_floats,
                          blocks + i * performer_block_floats(att), scratch);
    }
    free(scratch);
    return SPECTRA_OK;
}

/* ---- which go together ------------------------------------------------------------------------
 */

bool attention_legal(const feature_info *f, const matrix_info *m, const char **why)
{
    const char *reason = NULL;
    if (f->counts != COUNTS_NONE && strcmp(m->law, "exact") != 0)
        reason = "counts are made from rows that are exactly N(0, I), which these are not";
    if (why)
        *why = reason;
    return reason == NULL;
}
