/* The features of random-feature attention by themselves, and which matrix they may go with. */
#include "attention/performer/performer.h"

#include "base/status.h"

#include <stdlib.h>
#include <string.h>

bool performer_legal(const feature_info *f, const matrix_info *m, const char **why)
{
    const char *reason = NULL;
    if (f->counts != COUNTS_NONE && strcmp(m->law, "exact") != 0)
        reason = "counts are made from rows that are exactly N(0, I), which these are not";
    if (why)
        *why = reason;
    return reason == NULL;
}

static void *scratch_new(int64_t floats)
{
    void *scratch = aligned_alloc(PERFORMER_ALIGN, (size_t)performer_align(floats + 1) * 4);
    if (!scratch)
        fail(SPECTRA_ENOMEM, "features: no memory for %lld numbers", (long long)floats);
    return scratch;
}

spectra_status performer_features(const performer *pf, int side, int64_t B, int64_t H, int64_t n,
                                  const float *x, const float *blocks, float *log, float *sign)
{
    const attn_fwd_ops *ops = pf->kernels->fwd;
    const feature_info *f = pf->feature;
    float *scratch = scratch_new(ops->scratch(&pf->plan));
    if (!scratch)
        return SPECTRA_ENOMEM;
    for (int64_t i = 0; i < B * H; i++) {
        attn_plan plan;
        attn_params a;
        performer_view(pf, blocks + i * performer_block_floats(pf), &plan, &a);
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

spectra_status performer_prepare_heads(const performer *pf, int64_t B, int64_t H, int64_t T,
                                       int64_t S, const float *x, const float *y,
                                       const uint8_t *x_mask, const uint8_t *y_mask, float *blocks)
{
    int64_t D = pf->plan.D, scratch_floats = performer_head_scratch(pf);
    float *scratch = scratch_new(scratch_floats + MOMENTS * pf->plan.DP);
    if (!scratch)
        return SPECTRA_ENOMEM;
    for (int64_t i = 0; i < B * H; i++) {
        int64_t b = i / H;
        const performer_tokens xs = {x + i * T * D, T, D, 1, x_mask ? x_mask + b * T : NULL};
        const performer_tokens ys = {y + i * S * D, S, D, 1, y_mask ? y_mask + b * S : NULL};
        performer_prepare(pf, b, i % H, &xs, &ys, scratch + scratch_floats,
                          blocks + i * performer_block_floats(pf), scratch);
    }
    free(scratch);
    return SPECTRA_OK;
}
