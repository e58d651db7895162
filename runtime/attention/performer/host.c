/* Driver of random-feature attention on the CPU: parameters, splits of the sequence, threads. Each
 * head is a key pass (a state per split), a merge in split order and a query pass; backward is the
 * query pass first, which makes the state's gradient, then the key pass. */
#include "attention/performer/performer.h"

#include "base/status.h"

#include <omp.h>
#include <string.h>

/* Where things lie in `saved` and `work`, in floats. */
typedef struct layout {
    int64_t heads, splits_q, splits_k;
    int64_t state, dstate, block, params, moments; /* size of each, one head */
    int64_t saved_state, saved_block, saved_moments, saved_den, saved_total;
    int64_t work_state, work_dstate, work_dparams, work_gweight, work_scratch, work_total;
    int64_t scratch; /* one thread */
    int64_t den_rows;
} layout;

static layout layout_of(const performer *pf, const spectra_problem *p)
{
    const attn_plan *plan = &pf->plan;
    const feature_info *f = pf->feature;
    layout l = {.heads = p->B * pf->desc.H};
    l.splits_q = performer_split_count(l.heads, p->T);
    l.splits_k = performer_split_count(l.heads, p->S);
    l.state = performer_align(attn_state_reals(plan, f->lanes));
    l.dstate = performer_align(attn_dstate_reals(plan, f->lanes));
    l.block = performer_block_floats(pf);
    l.params = performer_align(f->scalars + f->vectors * plan->DP +
                               (plan->learn ? plan->MP * plan->DP : 0));
    l.moments = MOMENTS * plan->DP;
    l.den_rows = rows_total(p->q_begin, p->q_len, p->B, p->T);
    int64_t at = 0;
    l.saved_state = at, at += l.heads * l.state;
    l.saved_block = at, at += l.heads * l.block;
    l.saved_moments = at, at += l.heads * l.moments;
    l.saved_den = at, at += performer_align(pf->desc.H * l.den_rows);
    l.saved_total = at;
    int64_t fwd = pf->forward->scratch(plan), bwd = pf->kernels->bwd->scratch(plan);
    int64_t head = performer_head_scratch(pf);
    l.scratch = performer_align(fwd > bwd ? fwd : bwd);
    l.scratch = head > l.scratch ? head : l.scratch;
    at = 0;
    l.work_state = at, at += l.splits_k > 1 ? l.heads * l.splits_k * l.state : 0;
    l.work_dstate = at, at += l.heads * l.splits_q * l.dstate;
    l.work_dparams = at, at += l.heads * (l.splits_q + l.splits_k) * l.params;
    l.work_gweight = at, at += pf->training ? performer_align(l.heads * plan->M) : 0;
    l.work_scratch = at, at += omp_get_max_threads() * l.scratch;
    l.work_total = at;
    return l;
}

/* ---- forward --------------------------------------------------------------------------------- */

/* Head (b, h) of one side: begin, len, mask as in spectra_problem, `padded` rows a sequence. */
static performer_tokens tokens_of(const performer *pf, const spectra_rows *x, const int64_t *begin,
                                  const int64_t *len, const uint8_t *mask, int64_t padded,
                                  int64_t b, int64_t h)
{
    return (performer_tokens){x->data + rows_at(x, begin, b, h), rows_length(len, b, padded),
                              x->stride_t, pf->plan.scale,
                              mask ? mask + rows_first(begin, b, padded) : NULL};
}

static performer_tokens queries_of(const performer *pf, const spectra_problem *p,
                                   const spectra_rows *q, int64_t b, int64_t h)
{
    return tokens_of(pf, q, p->q_begin, p->q_len, p->q_mask, p->T, b, h);
}

static performer_tokens keys_of(const performer *pf, const spectra_problem *p,
                                const spectra_rows *k, int64_t b, int64_t h)
{
    return tokens_of(pf, k, p->k_begin, p->k_len, p->k_mask, p->S, b, h);
}

/* Multiplies each row of W's share of z, or of its gradient, and of S by the row's weight. `at` is
 * where z is. */
static void weight_rows(const performer *pf, float *at)
{
    const attn_plan *p = &pf->plan;
    int64_t F = pf->feature->lanes * p->MP;
    for (int64_t f = 0; f < F && pf->weighted; f++) {
        int64_t r = f % p->MP;
        float weight = r < p->M ? pf->row_weight[r] : 1;
        at[f] *= weight;
        for (int64_t c = 0; c < p->DVP; c++)
            at[F + f * p->DVP + c] *= weight;
    }
}

/* Gradients of the row weights, from a state and its gradient, both weighted. */
static void weight_gradient(const performer *pf, const float *state, const float *dstate,
                            float *gweight)
{
    const attn_plan *p = &pf->plan;
    int64_t F = pf->feature->lanes * p->MP;
    for (int64_t r = 0; r < p->M; r++)
        gweight[r] = 0;
    for (int64_t f = 0; f < F; f++) {
        int64_t r = f % p->MP;
        double sum = (double)state[F + f] * (double)dstate[f];
        for (int64_t c = 0; c < p->DVP && r < p->M; c++)
            sum += (double)state[2 * F + f * p->DVP + c] * (double)dstate[F + f * p->DVP + c];
        if (r < p->M)
            gweight[r] += (float)(sum / (double)pf->row_weight[r]);
    }
}

/* Keys of split i of head n into state. */
static void split_keys(const performer *pf, const spectra_problem *p, const attention_views *x,
                       const layout *l, int64_t n, int64_t i, const float *block, float *state,
                       float *scratch)
{
    int64_t b = n / pf->desc.H, h = n % pf->desc.H, from, count;
    performer_split_range(rows_length(p->k_len, b, p->S), l->splits_k, i, &from, &count);
    attn_plan plan;
    attn_params a;
    performer_view(pf, block, &plan, &a);
    performer_clear_state(pf, state);
    const uint8_t *mask = p->k_mask ? p->k_mask + rows_first(p->k_begin, b, p->S) + from : NULL;
    pf->forward->keys(
        &plan, &a, count, x->k.data + rows_at(&x->k, p->k_begin, b, h) + from * x->k.stride_t,
        x->k.stride_t, x->v.data + rows_at(&x->v, p->k_begin, b, h) + from * x->v.stride_t,
        x->v.stride_t, mask, state, scratch);
}

static void split_queries(const performer *pf, const spectra_problem *p, const attention_views *x,
                          const layout *l, int64_t n, int64_t i, float *saved, float *scratch)
{
    int64_t b = n / pf->desc.H, h = n % pf->desc.H, from, count;
    performer_split_range(rows_length(p->q_len, b, p->T), l->splits_q, i, &from, &count);
    attn_plan plan;
    attn_params a;
    performer_view(pf, saved + l->saved_block + n * l->block, &plan, &a);
    float *den = saved + l->saved_den + h * l->den_rows + rows_first(p->q_begin, b, p->T) + from;
    pf->forward->queries(&plan, &a, count,
                         x->q.data + rows_at(&x->q, p->q_begin, b, h) + from * x->q.stride_t,
                         x->q.stride_t, saved + l->saved_state + n * l->state,
                         x->o.data + rows_at(&x->o, p->q_begin, b, h) + from * x->o.stride_t,
                         x->o.stride_t, den, scratch);
}

spectra_status performer_forward(const spectra_attention *att, const spectra_problem *p,
                                 const attention_views *x, void *saved_, void *work_)
{
    const performer *pf = performer_of(att);
    if (pf->desc.causal)
        return causal_forward(pf, p, x, saved_, work_);
    float *saved = saved_, *work = work_;
    const layout l = layout_of(pf, p);
    const attn_fwd_ops *ops = pf->forward;
#pragma omp parallel
    {
        float *scratch = work + l.work_scratch + omp_get_thread_num() * l.scratch;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < l.heads; n++) {
            int64_t b = n / pf->desc.H, h = n % pf->desc.H;
            performer_tokens q = queries_of(pf, p, &x->q, b, h), k = keys_of(pf, p, &x->k, b, h);
            performer_prepare(pf, b, h, &q, &k, saved + l.saved_moments + n * l.moments,
                              saved + l.saved_block + n * l.block, scratch);
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < l.heads * l.splits_k; task++) {
            int64_t n = task / l.splits_k, i = task % l.splits_k;
            float *state = l.splits_k > 1 ? work + l.work_state + task * l.state
                                          : saved + l.saved_state + n * l.state;
            split_keys(pf, p, x, &l, n, i, saved + l.saved_block + n * l.block, state, scratch);
        }
        if (l.splits_k > 1 || pf->weighted) {
#pragma omp for schedule(dynamic)
            for (int64_t n = 0; n < l.heads; n++) {
                float *state = saved + l.saved_state + n * l.state;
                const float *part = work + l.work_state + n * l.splits_k * l.state;
                if (l.splits_k > 1)
                    performer_clear_state(pf, state);
                for (int64_t i = 0; i < l.splits_k && l.splits_k > 1; i++)
                    ops->merge(&pf->plan, state, part + i * l.state);
                weight_rows(pf, state + pf->feature->lanes * pf->plan.MP);
            }
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < l.heads * l.splits_q; task++)
            split_queries(pf, p, x, &l, task / l.splits_q, task % l.splits_q, saved, scratch);
    }
    return SPECTRA_OK;
}

/* ---- backward -------------------------------------------------------------------------------- */

static void split_queries_bwd(const performer *pf, const spectra_problem *p,
                              const attention_views *x, const layout *l, int64_t task,
                              const float *saved, float *dstate, float *dparams, float *scratch)
{
    int64_t n = task / l->splits_q, b = n / pf->desc.H, h = n % pf->desc.H, from, count;
    performer_split_range(rows_length(p->q_len, b, p->T), l->splits_q, task % l->splits_q, &from,
                          &count);
    attn_plan plan;
    attn_params a;
    performer_view(pf, saved + l->saved_block + n * l->block, &plan, &a);
    memset(dstate, 0, (size_t)l->dstate * sizeof *dstate);
#define ROWS(name) (x->name.data + rows_at(&x->name, p->q_begin, b, h) + from * x->name.stride_t)
    pf->kernels->bwd->queries(
        &plan, &a, count, ROWS(q), x->q.stride_t, saved + l->saved_state + n * l->state, ROWS(o),
        x->o.stride_t,
        saved + l->saved_den + h * l->den_rows + rows_first(p->q_begin, b, p->T) + from, ROWS(go),
        x->go.stride_t, ROWS(gq), x->gq.stride_t, dstate, dparams, scratch);
#undef ROWS
}

static void split_keys_bwd(const performer *pf, const spectra_problem *p, const attention_views *x,
                           const layout *l, int64_t task, const float *saved, const float *dstate,
                           float *dparams, float *scratch)
{
    int64_t n = task / l->splits_k, b = n / pf->desc.H, h = n % pf->desc.H, from, count;
    performer_split_range(rows_length(p->k_len, b, p->S), l->splits_k, task % l->splits_k, &from,
                          &count);
    attn_plan plan;
    attn_params a;
    performer_view(pf, saved + l->saved_block + n * l->block, &plan, &a);
    const uint8_t *mask = p->k_mask ? p->k_mask + rows_first(p->k_begin, b, p->S) + from : NULL;
#define ROWS(name) (x->name.data + rows_at(&x->name, p->k_begin, b, h) + from * x->name.stride_t)
    pf->kernels->bwd->keys(&plan, &a, count, ROWS(k), x->k.stride_t, ROWS(v), x->v.stride_t, mask,
                           saved + l->saved_state + n * l->state, dstate, ROWS(gk), x->gk.stride_t,
                           ROWS(gv), x->gv.stride_t, dparams, scratch);
#undef ROWS
}

static void add(float *to, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] += from[i];
}

/* The gradient through A, psi ... of head n; parameters that were given are constants. */
static void through_params(const performer *pf, const spectra_problem *p, const attention_views *x,
                           const float *m, const float *s, float *dparams, int64_t n)
{
    const feature_info *f = pf->feature;
    int64_t D = pf->plan.D, DP = pf->plan.DP, b = n / pf->desc.H, h = n % pf->desc.H;
    float *ds = dparams, *dv = dparams + f->scalars, dm[MOMENTS_SMOOTH * 256] = {0};
    for (int i = 0; i < f->scalars; i++)
        if (pf->scalar[i].data)
            ds[i] = 0;
    for (int i = 0; i < f->vectors; i++)
        if (pf->vector[i].data)
            memset(dv + i * DP, 0, (size_t)DP * sizeof *dv);
    f->adapt_grad(D, DP, m, s, ds, dv, dm);
    performer_tokens q = queries_of(pf, p, &x->q, b, h), k = keys_of(pf, p, &x->k, b, h);
    performer_moments_grad(q.n, D, q.x, q.ld, q.scale, q.mask, dm + M1X * DP, dm + M2X * DP,
                           x->gq.data + rows_at(&x->gq, p->q_begin, b, h), x->gq.stride_t);
    performer_moments_grad(k.n, D, k.x, k.ld, k.scale, k.mask, dm + M1Y * DP, dm + M2Y * DP,
                           x->gk.data + rows_at(&x->gk, p->k_begin, b, h), x->gk.stride_t);
}

spectra_status performer_backward(const spectra_attention *att, const spectra_problem *p,
                                  const attention_views *x, void *saved_, void *work_)
{
    const performer *pf = performer_of(att);
    if (pf->desc.causal)
        return causal_backward(pf, p, x, saved_, work_);
    float *saved = saved_, *work = work_;
    const layout l = layout_of(pf, p);
    bool through = pf->desc.through && pf->feature->adapt;
    bool wanted = through || pf->training;
    float *dparams = work + l.work_dparams; /* splits of queries, then splits of keys */
    if (wanted)
        memset(dparams, 0,
               (size_t)(l.heads * (l.splits_q + l.splits_k) * l.params) * sizeof *dparams);
    float *dparams_k = dparams + l.heads * l.splits_q * l.params;
#pragma omp parallel
    {
        float *scratch = work + l.work_scratch + omp_get_thread_num() * l.scratch;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < l.heads * l.splits_q; task++)
            split_queries_bwd(pf, p, x, &l, task, saved, work + l.work_dstate + task * l.dstate,
                              wanted ? dparams + task * l.params : NULL, scratch);
        if (l.splits_q > 1 || pf->weighted || pf->training) {
#pragma omp for schedule(dynamic)
            for (int64_t n = 0; n < l.heads; n++) {
                float *sum = work + l.work_dstate + n * l.splits_q * l.dstate;
                for (int64_t i = 1; i < l.splits_q; i++)
                    add(sum, sum + i * l.dstate, l.dstate);
                if (pf->training)
                    weight_gradient(pf, saved + l.saved_state + n * l.state, sum,
                                    work + l.work_gweight + n * pf->plan.M);
                weight_rows(pf, sum);
            }
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < l.heads * l.splits_k; task++)
            split_keys_bwd(pf, p, x, &l, task, saved,
                           work + l.work_dstate + task / l.splits_k * l.splits_q * l.dstate,
                           wanted ? dparams_k + task * l.params : NULL, scratch);
        if (wanted) {
#pragma omp for schedule(dynamic)
            for (int64_t n = 0; n < l.heads; n++) {
                float *sum = dparams + n * l.splits_q * l.params;
                for (int64_t i = 1; i < l.splits_q; i++)
                    add(sum, sum + i * l.params, l.params);
                for (int64_t i = 0; i < l.splits_k; i++)
                    add(sum, dparams_k + (n * l.splits_k + i) * l.params, l.params);
                if (through)
                    through_params(pf, p, x, saved + l.saved_moments + n * l.moments,
                                   saved + l.saved_block + n * l.block, sum, n);
            }
        }
    }
    return SPECTRA_OK;
}

void performer_gradients(const performer *pf, const spectra_problem *p, const void *work,
                         const float **params, int64_t *stride, const float **weights)
{
    if (pf->desc.causal) {
        causal_gradients(pf, p, work, params, stride, weights);
        return;
    }
    const layout l = layout_of(pf, p);
    *params = (const float *)work + l.work_dparams;
    *stride = l.splits_q * l.params;
    *weights = (const float *)work + l.work_gweight;
}

int64_t performer_saved_bytes(const spectra_attention *att, const spectra_problem *p)
{
    const performer *pf = performer_of(att);
    if (pf->desc.causal)
        return causal_saved_bytes(pf, p);
    return layout_of(pf, p).saved_total * (int64_t)sizeof(float);
}

int64_t performer_work_bytes(const spectra_attention *att, const spectra_problem *p)
{
    const performer *pf = performer_of(att);
    if (pf->desc.causal)
        return causal_work_bytes(pf, p);
    return layout_of(pf, p).work_total * (int64_t)sizeof(float);
}

const float *performer_blocks(const performer *pf, const spectra_problem *p, const void *saved)
{
    const float *at = saved; /* of a causal attention they come first */
    return pf->desc.causal ? at : at + layout_of(pf, p).saved_block;
}
