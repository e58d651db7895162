/* Parameters of random-feature attention: the packed matrices and inputs given from outside. */
#include "attention/performer/performer.h"

#include "base/status.h"
#include "matrix/chain.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the matrix and given inputs ------------------------------------------------------------- */

int64_t performer_packed_floats(const performer *pf)
{
    const attn_plan *p = &pf->plan;
    int64_t matrix = p->D * p->MP + p->MP * p->DP + p->MP;
    return (pf->feature->second_own ? 2 : 1) * matrix + 3 * p->MP;
}

void performer_pack_row(int64_t D, int64_t MP, int64_t DP, int64_t r, const float *row, float *wt,
                        float *w, float *w2, float *sums)
{
    double square = 0, total = 0, factorials = 0;
    int sign;
    for (int64_t d = 0; d < D; d++) {
        double x = (double)row[d];
        wt[d * MP + r] = w[r * DP + d] = row[d];
        square += x * x;
        total += x;
        factorials += sums && x > 1 ? lgamma_r(x + 1, &sign) : 0;
    }
    w2[r] = (float)square;
    if (sums) {
        sums[r] = (float)total;
        sums[MP + r] = (float)factorials;
    }
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

void performer_pack(performer *pf)
{
    attn_plan *p = &pf->plan;
    float *sums = pf->packed + performer_packed_floats(pf) - 3 * p->MP;
    float *weights = sums + 2 * p->MP;
    memset(pf->packed, 0, (size_t)performer_packed_floats(pf) * sizeof *pf->packed);
    float *next = pack_matrix(p, pf->w, pf->packed, pf->counts_given ? sums : NULL);
    p->wt = p->wt_second = pf->packed;
    p->w = p->w_second = pf->packed + p->D * p->MP;
    p->w2 = p->w + p->MP * p->DP;
    p->count_sums = sums;
    if (pf->second) {
        pack_matrix(p, pf->second, next, NULL);
        p->wt_second = next;
        p->w_second = next + p->D * p->MP;
    }
    for (int64_t i = 0; i < p->M * p->D && pf->uniform; i++)
        pf->uniform[i] = 0.5 * erfc(-(double)pf->w[i] * M_SQRT1_2);
    pf->weighted = false;
    for (int64_t r = 0; r < p->M; r++) {
        pf->weighted |= pf->row_weight[r] != 1;
        weights[r] = pf->row_weight[r];
    }
    p->row_weight = pf->weighted ? weights : NULL;
}

void performer_replaced(performer *pf, bool counts_given)
{
    if (pf->plan.chain && !sample_chain_is(pf->plan.chain, pf->plan.M, pf->plan.D, pf->w))
        pf->plan.chain = NULL;
    pf->counts_given = counts_given;
    performer_pack(pf);
}

spectra_status performer_keep_input(attention_input *in, const char *name, const float *data,
                                    int ndim, const int64_t *shape)
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

static spectra_status set_matrix(performer *pf, const char *name, float *to, const float *data,
                                 int ndim, const int64_t *shape)
{
    int64_t M = pf->plan.M, D = pf->plan.D;
    if (ndim != 2 || shape[0] != M || shape[1] != D)
        return fail(SPECTRA_ESHAPE, "input %s: needs shape (%lld, %lld), features x head size",
                    name, (long long)M, (long long)D);
    bool counts = pf->feature->counts != COUNTS_NONE;
    for (int64_t i = 0; i < M * D && counts; i++)
        if (!(data[i] >= 0) || data[i] != floorf(data[i]))
            return fail(SPECTRA_EINVAL,
                        "input %s: entry %lld is %g, %s needs whole numbers from 0 up", name,
                        (long long)i, (double)data[i], pf->feature->name);
    memcpy(to, data, (size_t)(M * D) * sizeof *data);
    performer_replaced(pf, counts);
    return SPECTRA_OK;
}

static spectra_status set_row_weights(performer *pf, const float *data, int ndim,
                                      const int64_t *shape)
{
    if (ndim != 1 || shape[0] != pf->plan.M)
        return fail(SPECTRA_ESHAPE, "input row_weight: needs shape (%lld), features",
                    (long long)pf->plan.M);
    memcpy(pf->row_weight, data, (size_t)pf->plan.M * sizeof *data);
    performer_pack(pf);
    return SPECTRA_OK;
}

spectra_status performer_set(spectra_attention *att, const char *name, const float *data, int ndim,
                             const int64_t *shape)
{
    performer *pf = performer_of(att);
    const feature_info *f = pf->feature;
    int64_t H = pf->desc.H, D = pf->desc.D;
    if (strcmp(name, "W") == 0)
        return set_matrix(pf, name, pf->w, data, ndim, shape);
    if (strcmp(name, "T") == 0 && pf->second)
        return set_matrix(pf, name, pf->second, data, ndim, shape);
    if (strcmp(name, "row_weight") == 0)
        return set_row_weights(pf, data, ndim, shape);
    for (int i = 0; i < f->scalars - 1; i++)
        if (strcmp(name, f->scalar_names[i]) == 0) {
            if (ndim < 1 || ndim > 2 || shape[ndim - 1] != H)
                return fail(SPECTRA_ESHAPE, "input %s: needs shape (%lld) or (batch, %lld), heads",
                            name, (long long)H, (long long)H);
            return performer_keep_input(&pf->scalar[i], name, data, ndim, shape);
        }
    for (int i = 0; i < f->vectors; i++)
        if (strcmp(name, f->vector_names[i]) == 0) {
            if (ndim < 1 || ndim > 3 || shape[ndim - 1] != D || (ndim > 1 && shape[ndim - 2] != H))
                return fail(SPECTRA_ESHAPE,
                            "input %s: needs shape (%lld), (%lld, %lld) or (batch, %lld, %lld)",
                            name, (long long)D, (long long)H, (long long)D, (long long)H,
                            (long long)D);
            return performer_keep_input(&pf->vector[i], name, data, ndim, shape);
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

void performer_given(const performer *pf, int64_t b, int64_t h, float *s, float *v)
{
    const feature_info *f = pf->feature;
    int64_t D = pf->plan.D, DP = pf->plan.DP, H = pf->desc.H;
    for (int i = 0; i < f->scalars; i++)
        s[i] = pf->scalar[i].data ? *input_at(&pf->scalar[i], 0, H, 1, b, h) : f->scalar_default[i];
    s[f->scalars - 1] = pf->desc.target == SPECTRA_GAUSSIAN ? 1.0F : 0.0F;
    for (int i = 0; i < f->vectors && v; i++)
        for (int64_t d = 0; d < DP; d++)
            v[i * DP + d] =
                d < D && pf->vector[i].data ? input_at(&pf->vector[i], 1, H, D, b, h)[d] : 1.0F;
}
