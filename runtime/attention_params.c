/* Parameters of random-feature attention: the packed matrix, inputs given from outside, values
 * computed from the data (A, psi ...), and the features themselves. */
#include "attention.h"

#include "status.h"

#include <stdlib.h>
#include <string.h>

/* ---- the matrix and given inputs ------------------------------------------------------------- */

void performer_pack(spectra_attention *att)
{
    attn_plan *plan = &att->plan;
    int64_t M = plan->M, D = plan->D;
    float *wt = att->packed, *w = wt + D * plan->MP, *w2 = w + plan->MP * plan->DP;
    memset(att->packed, 0, (size_t)(D * plan->MP + plan->MP * plan->DP + plan->MP) * sizeof *wt);
    for (int64_t m = 0; m < M; m++) {
        double sum = 0;
        for (int64_t d = 0; d < D; d++) {
            float x = att->w[m * D + d];
            wt[d * plan->MP + m] = w[m * plan->DP + d] = x;
            sum += (double)x * (double)x;
        }
        w2[m] = (float)sum;
    }
    plan->wt = wt;
    plan->w = w;
    plan->w2 = w2;
    plan->logw = NULL;
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

static spectra_status set_matrix(spectra_attention *att, const float *data, int ndim,
                                 const int64_t *shape)
{
    int64_t M = att->plan.M, D = att->plan.D;
    if (ndim != 2 || shape[0] != M || shape[1] != D)
        return fail(SPECTRA_ESHAPE, "input W: needs shape (%lld, %lld), features x head size",
                    (long long)M, (long long)D);
    memcpy(att->w, data, (size_t)(M * D) * sizeof *data);
    performer_pack(att);
    return SPECTRA_OK;
}

spectra_status performer_set(spectra_attention *att, const char *name, const float *data, int ndim,
                             const int64_t *shape)
{
    const feature_info *f = att->feature;
    int64_t H = att->desc.H, D = att->desc.D;
    if (strcmp(name, "W") == 0)
        return set_matrix(att, data, ndim, shape);
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
    for (int i = 0; i < f->vectors; i++)
        for (int64_t d = 0; d < DP; d++)
            v[i * DP + d] =
                d < D && att->vector[i].data ? input_at(&att->vector[i], 1, H, D, b, h)[d] : 1.0F;
}

/* Parameters that adapt computed, except where they were given. */
void performer_adapt(const spectra_attention *att, int64_t b, int64_t h, const float *m, float *s,
                     float *v)
{
    const feature_info *f = att->feature;
    int64_t D = att->plan.D, DP = att->plan.DP;
    performer_given(att, b, h, s, v);
    if (!f->adapt)
        return;
    float given_s[MAX_SCALARS], given_v[MAX_VECTORS * 256];
    memcpy(given_s, s, (size_t)f->scalars * sizeof *s);
    memcpy(given_v, v, (size_t)(f->vectors * DP) * sizeof *v);
    f->adapt(D, DP, m, m + DP, m + 2 * DP, m + 3 * DP, s, v);
    for (int i = 0; i < f->scalars; i++)
        if (att->scalar[i].data)
            s[i] = given_s[i];
    for (int i = 0; i < f->vectors; i++)
        if (att->vector[i].data)
            memcpy(v + i * DP, given_v + i * DP, (size_t)DP * sizeof *v);
}

void performer_moments(int64_t n, int64_t D, const float *x, int64_t ld, float scale,
                       const uint8_t *mask, float *m1, float *m2, int64_t *count)
{
    double sum1[256] = {0}, sum2[256] = {0};
    int64_t valid = 0;
    for (int64_t from = 0; from < n; from += 128) {
        float part1[256] = {0}, part2[256] = {0};
        int64_t to = from + 128 < n ? from + 128 : n;
        for (int64_t t = from; t < to; t++) {
            if (mask && !mask[t])
                continue;
            valid++;
            for (int64_t d = 0; d < D; d++) {
                float y = x[t * ld + d] * scale;
                part1[d] += y;
                part2[d] += y * y;
            }
        }
        for (int64_t d = 0; d < D; d++) {
            sum1[d] += (double)part1[d];
            sum2[d] += (double)part2[d];
        }
    }
    double inverse = valid ? 1.0 / (double)valid : 0.0;
    for (int64_t d = 0; d < D; d++) {
        m1[d] = (float)(sum1[d] * inverse);
        m2[d] = (float)(sum2[d] * inverse);
    }
    if (count)
        *count = valid;
}

/* g += scale * (d1 + 2 x d2) / valid over the unmasked tokens: the moments' gradients. */
void performer_moments_grad(int64_t n, int64_t D, const float *x, int64_t ldx, float scale,
                            const uint8_t *mask, const float *d1, const float *d2, float *g,
                            int64_t ldg)
{
    int64_t valid = 0;
    for (int64_t t = 0; t < n; t++)
        valid += !mask || mask[t];
    float each = valid ? scale / (float)valid : 0;
    for (int64_t t = 0; t < n; t++)
        for (int64_t d = 0; d < D && (!mask || mask[t]); d++)
            g[t * ldg + d] += each * (d1[d] + 2 * scale * x[t * ldx + d] * d2[d]);
}

/* ---- features on their own --------------------------------------------------------------------
 */

static spectra_status need_performer(const spectra_attention *att)
{
    if (att->kind != &attention_performer)
        return fail(SPECTRA_EINVAL, "%s attention has no features", att->kind->name);
    return SPECTRA_OK;
}

spectra_status attention_features(const spectra_attention *att, int side, int64_t B, int64_t H,
                                  int64_t n, const float *x, const float *s, const float *v,
                                  float *log, float *sign)
{
    TRY(need_performer(att));
    attn_plan plan = att->plan;
    plan.scale = 1;
    const attn_fwd_ops *ops = att->kernels->fwd;
    int64_t bytes = performer_align(ops->scratch(&plan)) * (int64_t)sizeof(float);
    float *scratch = aligned_alloc(PERFORMER_ALIGN, (size_t)bytes);
    if (!scratch)
        return fail(SPECTRA_ENOMEM, "features: no memory for %lld bytes", (long long)bytes);
    const feature_info *f = att->feature;
    for (int64_t i = 0; i < B * H; i++) {
        int64_t out = i * n * f->lanes * plan.M;
        const attn_params a = {s + i * f->scalars, v ? v + i * f->vectors * plan.DP : NULL};
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
                               const uint8_t *y_mask, float *s, float *v)
{
    TRY(need_performer(att));
    const feature_info *f = att->feature;
    int64_t D = att->plan.D, DP = att->plan.DP;
    float m[4][256], none[1];
    for (int64_t i = 0; i < B * H; i++) {
        int64_t b = i / H, h = i % H;
        const uint8_t *xm = x_mask ? x_mask + b * T : NULL, *ym = y_mask ? y_mask + b * S : NULL;
        performer_moments(T, D, x + i * T * D, D, 1, xm, m[0], m[2], NULL);
        performer_moments(S, D, y + i * S * D, D, 1, ym, m[1], m[3], NULL);
        float moments[4 * 256];
        for (int k = 0; k < 4; k++)
            memcpy(moments + k * DP, m[k], (size_t)D * sizeof(float));
        performer_adapt(att, b, h, moments, s + i * f->scalars, v ? v + i * f->vectors * DP : none);
    }
    return SPECTRA_OK;
}
