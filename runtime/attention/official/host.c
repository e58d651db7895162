/* The reference system's random-feature attention, as its code computes it: padded keys count in
 * the normaliser, the maximum is taken per token, an epsilon follows the exponential, A differs
 * from position to position (from statistics over the batch, or drawn and never trained), and
 * gradients flow through A, psi and the maxima. For comparison with its published numbers only.
 *
 * Which A: a feature whose adapt computes scalars only (oprf) gets it per position from the batch's
 * moments; any other feature with an A (gerf, saderf) a uniform draw from +-0.124999, unless given
 * as "A_pos". Vectors (psi) come from adapt per (batch, head), over all positions.
 */
#include "attention/attention.h"

#include "base/status.h"
#include "math/rng.h"

#include <math.h>
#include <omp.h>
#include <string.h>

static const float official_addend = 1e-4F;
static const float official_limit = 0.124999F;

typedef struct layout {
    int64_t B, H, T, heads, scalars, vectors;
    int64_t state;
    int64_t saved_state, saved_s, saved_vec, saved_position, saved_head, saved_den, saved_total;
    int64_t work_k, work_v, work_dstate, work_ds, work_dvec, work_scratch, work_total;
    int64_t scratch;
    bool by_position;
} layout;

bool official_by_position(const spectra_attention *att)
{
    return att->feature->adapt && att->feature->vectors == 0;
}

static layout layout_of(const spectra_attention *att, const spectra_problem *p)
{
    const attn_plan *plan = &att->plan;
    const feature_info *f = att->feature;
    layout l = {.B = p->B, .H = att->desc.H, .T = p->T, .heads = p->B * att->desc.H};
    l.scalars = f->scalars, l.vectors = f->vectors;
    l.state = performer_align(attn_dstate_reals(plan, f->lanes));
    l.by_position = official_by_position(att);
    int64_t at = 0;
    l.saved_state = at, at += l.heads * l.state;
    l.saved_s = at, at += performer_align(l.H * l.T * l.scalars);
    l.saved_vec = at, at += l.heads * l.vectors * plan->DP;
    l.saved_position = at, at += l.by_position ? l.H * l.T * 4 * plan->DP : 0;
    l.saved_head = at, at += l.vectors ? l.heads * 4 * plan->DP : 0;
    l.saved_den = at, at += performer_align(l.heads * l.T);
    l.saved_total = at;
    l.scratch = performer_align(att->kernels->token->scratch(plan));
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

int64_t official_saved_bytes(const spectra_attention *att, const spectra_problem *p)
{
    return layout_of(att, p).saved_total * (int64_t)sizeof(float);
}

int64_t official_work_bytes(const spectra_attention *att, const spectra_problem *p)
{
    return layout_of(att, p).work_total * (int64_t)sizeof(float);
}

spectra_status official_check(const spectra_attention *att, const spectra_problem *p)
{
    if (p->q_begin || p->k_begin)
        return fail(SPECTRA_EINVAL, "the official behaviour needs padded sequences, not packed");
    if (p->T != p->S)
        return fail(SPECTRA_ESHAPE,
                    "the official behaviour is self-attention: %lld queries, %lld keys",
                    (long long)p->T, (long long)p->S);
    if (att->a_pos.data && att->a_pos.shape[1] != p->T)
        return fail(SPECTRA_ESHAPE, "input A_pos has %lld positions, the sequence has %lld",
                    (long long)att->a_pos.shape[1], (long long)p->T);
    return SPECTRA_OK;
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
static void position_moments(const spectra_attention *att, const attention_views *x,
                             const float *keys, const layout *l, int64_t h, int64_t t, float *m)
{
    int64_t D = att->plan.D, DP = att->plan.DP;
    const float *q = x->q.data + rows_at(&x->q, NULL, 0, h) + t * x->q.stride_t;
    const float *k = keys + (h * l->T + t) * D;
    performer_moments(l->B, D, q, x->q.stride_b, att->plan.scale, NULL, m, m + 2 * DP);
    performer_moments(l->B, D, k, l->H * l->T * D, att->plan.scale, NULL, m + DP, m + 3 * DP);
}

void official_scalars(const spectra_attention *att, int64_t h, int64_t t, const float *m, float *s)
{
    const feature_info *f = att->feature;
    int64_t DP = att->plan.DP;
    float none[MAX_VECTORS * 256];
    performer_given(att, 0, h, s, none);
    if (f->scalars == 1)
        return;
    if (official_by_position(att)) {
        f->adapt(att->plan.D, DP, m, s, none);
        return;
    }
    if (att->a_pos.data) {
        s[0] = att->a_pos.data[h * att->a_pos.shape[1] + t];
    } else {
        const rng_stream r = rng_open(att->desc.seed, RNG_MATRIX, (uint32_t)att->desc.layer, 0xA);
        double u = rng_uniform(&r, (uint64_t)(h << 32 | t));
        s[0] = (float)(2 * u - 1) * official_limit;
    }
    if (s[0] > official_limit)
        s[0] = official_limit;
}

float official_epsilon(const spectra_attention *att)
{
    return att->feature->is_signed ? 0 : official_addend;
}

spectra_status official_forward(const spectra_attention *att, const spectra_problem *p,
                                const attention_views *x, void *saved_, void *work_)
{
    TRY(official_check(att, p));
    float *saved = saved_, *work = work_;
    const layout l = layout_of(att, p);
    const attn_plan *plan = &att->plan;
    const attn_token_ops *ops = att->kernels->token;
    int64_t D = plan->D, DV = plan->DV, DP = plan->DP, T = l.T;
    float eps = official_epsilon(att);
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
                position_moments(att, x, work + l.work_k, &l, i / T, i % T, m);
            official_scalars(att, i / T, i % T, m, saved + l.saved_s + i * l.scalars);
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
                performer_adapt(att, b, h, m, s, vec);
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
static void position_through(const spectra_attention *att, const spectra_problem *p,
                             const attention_views *x, const layout *l, const float *m,
                             const float *ds_all, int64_t h, int64_t t)
{
    int64_t D = att->plan.D, DP = att->plan.DP;
    float ds[MAX_SCALARS] = {0}, dm[MOMENTS_SMOOTH * 256] = {0}, s[MAX_SCALARS];
    performer_given(att, 0, h, s, NULL);
    for (int64_t b = 0; b < l->B; b++)
        for (int64_t i = 0; i < l->scalars; i++)
            ds[i] += ds_all[((b * l->H + h) * l->T + t) * l->scalars + i];
    att->feature->adapt_grad(D, DP, m, s, ds, NULL, dm);
    for (int64_t b = 0; b < l->B; b++) {
        row_moments_grad(D, x->q.data + rows_at(&x->q, NULL, b, h) + t * x->q.stride_t,
                         att->plan.scale, l->B, dm, dm + M2X * DP,
                         x->gq.data + rows_at(&x->gq, NULL, b, h) + t * x->gq.stride_t);
        if (!p->k_mask || p->k_mask[b * l->T + t])
            row_moments_grad(D, x->k.data + rows_at(&x->k, NULL, b, h) + t * x->k.stride_t,
                             att->plan.scale, l->B, dm + M1Y * DP, dm + M2Y * DP,
                             x->gk.data + rows_at(&x->gk, NULL, b, h) + t * x->gk.stride_t);
    }
}

/* Through psi of (b, h). */
static void head_through(const spectra_attention *att, const attention_views *x, const layout *l,
                         const float *m, const float *dvec, int64_t b, int64_t h)
{
    int64_t D = att->plan.D, DP = att->plan.DP;
    float ds[MAX_SCALARS] = {0}, dm[MOMENTS_SMOOTH * 256] = {0}, s[MAX_SCALARS];
    float vectors[MAX_VECTORS * 256];
    performer_given(att, b, h, s, vectors);
    att->feature->adapt_grad(D, DP, m, s, ds, dvec, dm);
    const float *q = x->q.data + rows_at(&x->q, NULL, b, h);
    const float *k = x->k.data + rows_at(&x->k, NULL, b, h);
    float *gq = x->gq.data + rows_at(&x->gq, NULL, b, h);
    float *gk = x->gk.data + rows_at(&x->gk, NULL, b, h);
    for (int64_t t = 0; t < l->T; t++) {
        row_moments_grad(D, q + t * x->q.stride_t, att->plan.scale, l->T, dm, dm + M2X * DP,
                         gq + t * x->gq.stride_t);
        row_moments_grad(D, k + t * x->k.stride_t, att->plan.scale, l->T, dm + M1Y * DP,
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

static void head_backward(const spectra_attention *att, const spectra_problem *p,
                          const attention_views *x, const layout *l, const float *saved,
                          float *work, int64_t n, float *scratch)
{
    const attn_plan *plan = &att->plan;
    const attn_token_ops *ops = att->kernels->token;
    int64_t b = n / l->H, h = n % l->H, T = l->T, D = plan->D, DV = plan->DV, DP = plan->DP;
    const float *s = saved + l->saved_s + h * T * l->scalars;
    const float *vec = saved + l->saved_vec + n * l->vectors * DP;
    float *dstate = work + l->work_dstate + n * l->state;
    float *ds = work + l->work_ds + n * T * l->scalars;
    float *dvec = work + l->work_dvec + n * l->vectors * DP;
    float eps = official_epsilon(att);
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
        head_through(att, x, l, saved + l->saved_head + n * 4 * DP, dvec, b, h);
    zero_masked(&x->gk, p->k_mask, b, h, T, D);
    zero_masked(&x->gv, p->k_mask, b, h, T, DV);
}

spectra_status official_backward(const spectra_attention *att, const spectra_problem *p,
                                 const attention_views *x, void *saved_, void *work_)
{
    TRY(official_check(att, p));
    float *saved = saved_, *work = work_;
    const layout l = layout_of(att, p);
#pragma omp parallel
    {
        float *scratch = work + l.work_scratch + omp_get_thread_num() * l.scratch;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < l.heads; n++)
            head_backward(att, p, x, &l, saved, work, n, scratch);
        if (l.by_position) {
#pragma omp for
            for (int64_t i = 0; i < l.H * l.T; i++)
                position_through(att, p, x, &l, saved + l.saved_position + i * 4 * att->plan.DP,
                                 work + l.work_ds, i / l.T, i % l.T);
        }
    }
    return SPECTRA_OK;
}
