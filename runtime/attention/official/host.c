/* The reference system's behaviour of random-feature attention on the CPU (official.h). */
#include "attention/official/official.h"
#include "base/status.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef struct layout {
    int64_t B, H, T, heads, scalars, vectors;
    int64_t state;
    int64_t saved_state, saved_s, saved_vec, saved_position, saved_head, saved_den, saved_total;
    int64_t work_k, work_v, work_dstate, work_ds, work_dvec, work_scratch, work_total;
    int64_t scratch;
    bool by_position;
} layout;

static layout layout_of(const performer *pf, const spectra_problem *p)
{
    const attn_plan *plan = &pf->plan;
    const feature_info *f = pf->feature;
    layout l = {.B = p->B, .H = pf->desc.H, .T = p->T, .heads = p->B * pf->desc.H};
    l.scalars = f->scalars, l.vectors = f->vectors;
    l.state = performer_align(attn_dstate_reals(plan, f->lanes));
    l.by_position = official_by_position(pf);
    int64_t at = 0;
    l.saved_state = at, at += l.heads * l.state;
    l.saved_s = at, at += performer_align(l.H * l.T * l.scalars);
    l.saved_vec = at, at += l.heads * l.vectors * plan->DP;
    l.saved_position = at, at += l.by_position ? l.H * l.T * 4 * plan->DP : 0;
    l.saved_head = at, at += l.vectors ? l.heads * 4 * plan->DP : 0;
    l.saved_den = at, at += performer_align(l.heads * l.T);
    l.saved_total = at;
    l.scratch = performer_align(pf->kernels->official->scratch(plan));
    at = 0;
    l.work_k = at, at += performer_align(l.heads * l.T * plan->D);
    l.work_v = at, at += performer_align(l.heads * l.T * plan->DV);
    l.work_dstate = at, at += l.heads * l.state;
    l.work_ds = at, at += performer_align(l.heads * l.T * l.scalars);
    l.work_dvec = at, at += l.heads * l.vectors * plan->DP;
    l.work_scratch = at, at += omp_get_max_threads() * l.scratch;
    l.work_total = at;
    return l;
}

static int64_t official_saved_bytes(const spectra_attention *att, const spectra_problem *p)
{
    return layout_of(performer_of(att), p).saved_total * (int64_t)sizeof(float);
}

static int64_t official_work_bytes(const spectra_attention *att, const spectra_problem *p)
{
    return layout_of(performer_of(att), p).work_total * (int64_t)sizeof(float);
}

/* A dense copy of (b, h)'s rows with the masked ones zero. */
static void masked_copy(const spectra_rows *x, const uint8_t *mask, int64_t b, int64_t h, int64_t T,
                        int64_t D, float *out)
{
    const float *from = x->data + rows_at(x, NULL, b, h);
    for (int64_t t = 0; t < T; t++)
        for (int64_t d = 0; d < D; d++)
            out[t * D + d] = !mask || mask[b * T + t] ? from[t * x->stride_t + d] : 0;
}

/* Moments over the batch at position (h, t): m1x, m1y, m2x, m2y. */
static void position_moments(const performer *pf, const attention_views *x, const float *keys,
                             const layout *l, int64_t h, int64_t t, float *m)
{
    int64_t D = pf->plan.D, DP = pf->plan.DP;
    const float *q = x->q.data + rows_at(&x->q, NULL, 0, h) + t * x->q.stride_t;
    const float *k = keys + (h * l->T + t) * D;
    performer_moments(l->B, D, q, x->q.stride_b, pf->plan.scale, NULL, m, m + 2 * DP);
    performer_moments(l->B, D, k, l->H * l->T * D, pf->plan.scale, NULL, m + DP, m + 3 * DP);
}

static spectra_status official_forward(const spectra_attention *att, const spectra_problem *p,
                                       const attention_views *x, void *saved_, void *work_)
{
    const official *of = official_of(att);
    const performer *pf = &of->performer;
    TRY(official_check(of, p));
    float *saved = saved_, *work = work_;
    const layout l = layout_of(pf, p);
    const attn_plan *plan = &pf->plan;
    const attn_official_ops *ops = pf->kernels->official;
    int64_t D = plan->D, DV = plan->DV, DP = plan->DP, T = l.T;
    float eps = official_epsilon(pf);
#pragma omp parallel
    {
        float *scratch = work + l.work_scratch + omp_get_thread_num() * l.scratch;
#pragma omp for
        for (int64_t n = 0; n < l.heads; n++) {
            int64_t b = n / l.H, h = n % l.H;
            masked_copy(&x->k, p->k_mask, b, h, T, D, work + l.work_k + n * T * D);
            masked_copy(&x->v, p->k_mask, b, h, T, DV, work + l.work_v + n * T * DV);
        }
#pragma omp for
        for (int64_t i = 0; i < l.H * T; i++) {
            float *m = l.by_position ? saved + l.saved_position + i * 4 * DP : NULL;
            if (m)
                position_moments(pf, x, work + l.work_k, &l, i / T, i % T, m);
            official_scalars(of, i / T, i % T, m, saved + l.saved_s + i * l.scalars);
        }
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < l.heads; n++) {
            int64_t b = n / l.H, h = n % l.H;
            const float *q = x->q.data + rows_at(&x->q, NULL, b, h);
            const float *k = work + l.work_k + n * T * D, *v = work + l.work_v + n * T * DV;
            float *state = saved + l.saved_state + n * l.state, s[MAX_SCALARS];
            float *vec = saved + l.saved_vec + n * l.vectors * DP;
            if (l.vectors) {
                float *m = saved + l.saved_head + n * 4 * DP;
                performer_moments(T, D, q, x->q.stride_t, plan->scale, NULL, m, m + 2 * DP);
                performer_moments(T, D, k, D, plan->scale, NULL, m + DP, m + 3 * DP);
                performer_adapt(pf, b, h, m, s, vec);
            }
            const float *scalars = saved + l.saved_s + h * T * l.scalars;
            memset(state, 0, (size_t)l.state * sizeof *state);
            ops->keys(plan, vec, T, scalars, k, D, v, DV, eps, state, scratch);
            ops->queries(plan, vec, T, scalars, q, x->q.stride_t, eps, state,
                         x->o.data + rows_at(&x->o, NULL, b, h), x->o.stride_t,
                         saved + l.saved_den + n * T, scratch);
        }
    }
    return SPECTRA_OK;
}

/* g += the gradient of the mean and mean square over `count` rows with respect to one row x. */
static void row_moments_grad(int64_t D, const float *x, float scale, int64_t count, const float *d1,
                             const float *d2, float *g)
{
    for (int64_t d = 0; d < D; d++)
        g[d] += scale * (d1[d] + 2 * scale * x[d] * d2[d]) / (float)count;
}

/* Through A at position (h, t): the sum over the batch of its gradients, back to every row. */
static void position_through(const performer *pf, const spectra_problem *p,
                             const attention_views *x, const layout *l, const float *m,
                             const float *ds_all, int64_t h, int64_t t)
{
    int64_t D = pf->plan.D, DP = pf->plan.DP;
    float ds[MAX_SCALARS] = {0}, dm[MOMENTS_SMOOTH * 256] = {0}, s[MAX_SCALARS];
    performer_given(pf, 0, h, s, NULL);
    for (int64_t b = 0; b < l->B; b++)
        for (int64_t i = 0; i < l->scalars; i++)
            ds[i] += ds_all[((b * l->H + h) * l->T + t) * l->scalars + i];
    pf->feature->adapt_grad(D, DP, m, s, ds, NULL, dm);
    for (int64_t b = 0; b < l->B; b++) {
        row_moments_grad(D, x->q.data + rows_at(&x->q, NULL, b, h) + t * x->q.stride_t,
                         pf->plan.scale, l->B, dm, dm + M2X * DP,
                         x->gq.data + rows_at(&x->gq, NULL, b, h) + t * x->gq.stride_t);
        if (!p->k_mask || p->k_mask[b * l->T + t])
            row_moments_grad(D, x->k.data + rows_at(&x->k, NULL, b, h) + t * x->k.stride_t,
                             pf->plan.scale, l->B, dm + M1Y * DP, dm + M2Y * DP,
                             x->gk.data + rows_at(&x->gk, NULL, b, h) + t * x->gk.stride_t);
    }
}

/* Through psi of (b, h). */
static void head_through(const performer *pf, const attention_views *x, const layout *l,
                         const float *m, const float *dvec, int64_t b, int64_t h)
{
    int64_t D = pf->plan.D, DP = pf->plan.DP;
    float ds[MAX_SCALARS] = {0}, dm[MOMENTS_SMOOTH * 256] = {0}, s[MAX_SCALARS];
    float vectors[MAX_VECTORS * 256];
    performer_given(pf, b, h, s, vectors);
    pf->feature->adapt_grad(D, DP, m, s, ds, dvec, dm);
    const float *q = x->q.data + rows_at(&x->q, NULL, b, h);
    const float *k = x->k.data + rows_at(&x->k, NULL, b, h);
    float *gq = x->gq.data + rows_at(&x->gq, NULL, b, h);
    float *gk = x->gk.data + rows_at(&x->gk, NULL, b, h);
    for (int64_t t = 0; t < l->T; t++) {
        row_moments_grad(D, q + t * x->q.stride_t, pf->plan.scale, l->T, dm, dm + M2X * DP,
                         gq + t * x->gq.stride_t);
        row_moments_grad(D, k + t * x->k.stride_t, pf->plan.scale, l->T, dm + M1Y * DP,
                         dm + M2Y * DP, gk + t * x->gk.stride_t);
    }
}

static void zero_masked(const spectra_rows *g, const uint8_t *mask, int64_t b, int64_t h, int64_t T,
                        int64_t D)
{
    float *rows = g->data + rows_at(g, NULL, b, h);
    for (int64_t t = 0; t < T; t++)
        if (mask && !mask[b * T + t])
            memset(rows + t * g->stride_t, 0, (size_t)D * sizeof *rows);
}

static void head_backward(const performer *pf, const spectra_problem *p, const attention_views *x,
                          const layout *l, const float *saved, float *work, int64_t n,
                          float *scratch)
{
    const attn_plan *plan = &pf->plan;
    const attn_official_ops *ops = pf->kernels->official;
    int64_t b = n / l->H, h = n % l->H, T = l->T, D = plan->D, DV = plan->DV, DP = plan->DP;
    const float *s = saved + l->saved_s + h * T * l->scalars;
    const float *vec = saved + l->saved_vec + n * l->vectors * DP;
    float *dstate = work + l->work_dstate + n * l->state;
    float *ds = work + l->work_ds + n * T * l->scalars;
    float *dvec = work + l->work_dvec + n * l->vectors * DP;
    float eps = official_epsilon(pf);
    memset(dstate, 0, (size_t)l->state * sizeof *dstate);
    memset(ds, 0, (size_t)(T * l->scalars) * sizeof *ds);
    memset(dvec, 0, (size_t)(l->vectors * DP) * sizeof *dvec);
    masked_copy(&x->k, p->k_mask, b, h, T, D, work + l->work_k + n * T * D);
    masked_copy(&x->v, p->k_mask, b, h, T, DV, work + l->work_v + n * T * DV);
#define ROWS(name) (x->name.data + rows_at(&x->name, NULL, b, h))
    ops->queries_bwd(plan, vec, T, s, ROWS(q), x->q.stride_t, eps,
                     saved + l->saved_state + n * l->state, ROWS(o), x->o.stride_t,
                     saved + l->saved_den + n * T, ROWS(go), x->go.stride_t, ROWS(gq),
                     x->gq.stride_t, dstate, ds, dvec, scratch);
    ops->keys_bwd(plan, vec, T, s, work + l->work_k + n * T * D, D, work + l->work_v + n * T * DV,
                  DV, eps, dstate, ROWS(gk), x->gk.stride_t, ROWS(gv), x->gv.stride_t, ds, dvec,
                  scratch);
#undef ROWS
    if (l->vectors)
        head_through(pf, x, l, saved + l->saved_head + n * 4 * DP, dvec, b, h);
    zero_masked(&x->gk, p->k_mask, b, h, T, D);
    zero_masked(&x->gv, p->k_mask, b, h, T, DV);
}

static spectra_status official_backward(const spectra_attention *att, const spectra_problem *p,
                                        const attention_views *x, void *saved_, void *work_)
{
    const official *of = official_of(att);
    const performer *pf = &of->performer;
    TRY(official_check(of, p));
    float *saved = saved_, *work = work_;
    const layout l = layout_of(pf, p);
#pragma omp parallel
    {
        float *scratch = work + l.work_scratch + omp_get_thread_num() * l.scratch;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < l.heads; n++)
            head_backward(pf, p, x, &l, saved, work, n, scratch);
        if (l.by_position) {
#pragma omp for
            for (int64_t i = 0; i < l.H * l.T; i++)
                position_through(pf, p, x, &l, saved + l.saved_position + i * 4 * pf->plan.DP,
                                 work + l.work_ds, i / l.T, i % l.T);
        }
    }
    return SPECTRA_OK;
}

/* ---- the kind --------------------------------------------------------------------------------
 */

static spectra_status check_pair(const performer *pf)
{
    const spectra_attention_desc *d = &pf->desc;
    const feature_info *f = pf->feature;
    if (!f->has_official)
        return fail(SPECTRA_EINVAL, "%s has no official behaviour: the reference lacks it",
                    f->name);
    if (d->learn || pf->matrix->learner)
        return fail(SPECTRA_EUNSUPPORTED, "the official behaviour trains no parameter of %s",
                    d->learn ? f->name : pf->matrix->name);
    if (d->target != SPECTRA_SOFTMAX)
        return fail(SPECTRA_EINVAL, "the official behaviour has no choice of target kernel");
    return SPECTRA_OK;
}

static spectra_status official_init(spectra_attention *att, const void *options)
{
    official *of = calloc(1, sizeof *of);
    if (!of)
        return fail(SPECTRA_ENOMEM, "performer: out of memory");
    TRY(performer_choose(att, &of->performer, options));
    TRY(check_pair(&of->performer));
    return performer_make(att, ATTN_ATTENTION | ATTN_OFFICIAL);
}

static void official_release(spectra_attention *att)
{
    if (att->own)
        free(official_of(att)->a_pos.data);
    performer_release(att);
}

static spectra_status official_set(spectra_attention *att, const char *name, const float *data,
                                   int ndim, const int64_t *shape)
{
    const performer *pf = performer_of(att);
    if (strcmp(name, "A_pos") != 0 || pf->feature->scalars < 2)
        return performer_set(att, name, data, ndim, shape);
    if (ndim != 2 || shape[0] != pf->desc.H)
        return fail(SPECTRA_ESHAPE, "input A_pos: needs shape (%lld, positions)",
                    (long long)pf->desc.H);
    return performer_keep_input(&official_of(att)->a_pos, name, data, ndim, shape);
}

static void official_prefer(const spectra_attention_desc *desc, const void *options)
{
    performer_prefer_groups(desc, options, ATTN_ATTENTION | ATTN_OFFICIAL);
}

const attention_kind attention_official = {
    .name = "performer (official behaviour)",
    .doc = "performer as the reference system computes it",
    .traits = ATTENTION_PADDED | ATTENTION_COUPLES_BATCH | ATTENTION_FEATURES,
    .settings = performer_settings,
    .settings_count = PERFORMER_SETTINGS,
    .from_desc = performer_from_desc,
    .init = official_init,
    .release = official_release,
    .set = official_set,
    .matrix = performer_matrix,
    .redraw = performer_redraw,
    .constants = performer_constants,
    .constants_changed = performer_constants_changed,
    .prefer = official_prefer,
    .built_from = performer_built_from,
    .saved_bytes = official_saved_bytes,
    .work_bytes = official_work_bytes,
    .forward = official_forward,
    .backward = official_backward,
    .device = &official_device_ops,
};
