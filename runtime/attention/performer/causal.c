/* Driver of causal random-feature attention: heads in parallel, and where they are few, parts of
 * the sequence. Each part starts from the state of the parts before it (their keys once more, added
 * in order); backward, the queries' pass goes first and makes each part's gradient of the state
 * before it, the sum of the later parts' is what the keys' pass starts from. */
#include "attention/performer/performer.h"

#include "base/status.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* Where things lie in `saved` (blocks first) and `work`, in floats. */
typedef struct layout {
    int64_t heads, splits, F;
    int64_t state, dstate, block, params, refs; /* size of each; refs of one split */
    int64_t saved_state, saved_refs, saved_den, saved_cut, saved_total;
    int64_t work_dstate, work_params, work_gweight, work_scratch, work_total;
    int64_t scratch; /* one thread: a state, then the kernels' */
    int64_t rows;
} layout;

static layout layout_of(const performer *pf, const spectra_problem *p)
{
    const attn_plan *plan = &pf->plan;
    const feature_info *f = pf->feature;
    const attn_causal_ops *ops = pf->kernels->causal;
    layout l = {.heads = p->B * pf->desc.H, .F = f->lanes * plan->MP};
    l.splits = performer_split_count(l.heads, p->T);
    int64_t tokens = (p->T + l.splits - 1) / l.splits, block = ops->block(plan);
    l.state = performer_align(attn_state_reals(plan, f->lanes));
    l.dstate = performer_align(attn_dstate_reals(plan, f->lanes));
    l.block = performer_block_floats(pf);
    l.params = performer_align(f->scalars + f->vectors * plan->DP +
                               (plan->learn ? plan->MP * plan->DP + plan->MP : 0));
    l.refs = (tokens + block - 1) / block * l.F;
    l.rows = rows_total(p->q_begin, p->q_len, p->B, p->T);
    int64_t at = l.heads * l.block;
    l.saved_state = at, at += l.heads * l.splits * l.state;
    l.saved_refs = at, at += performer_align(l.heads * l.splits * l.refs);
    l.saved_den = at, at += performer_align(pf->desc.H * l.rows);
    l.saved_cut = at, at += performer_align((pf->desc.H * l.rows + 3) / 4); /* bytes */
    l.saved_total = at;
    int64_t keys = pf->kernels->fwd->scratch(plan), causal = ops->scratch(plan);
    l.scratch = l.state + performer_align(causal > keys ? causal : keys);
    at = 0;
    l.work_dstate = at, at += l.splits > 1 ? l.heads * l.splits * l.dstate : 0;
    l.work_params = at, at += l.heads * l.splits * l.params;
    l.work_gweight = at, at += plan->learn ? performer_align(l.heads * plan->M) : 0;
    l.work_scratch = at, at += omp_get_max_threads() * l.scratch;
    l.work_total = at;
    return l;
}

int64_t causal_saved_bytes(const performer *pf, const spectra_problem *p)
{
    return layout_of(pf, p).saved_total * (int64_t)sizeof(float);
}

int64_t causal_work_bytes(const performer *pf, const spectra_problem *p)
{
    return layout_of(pf, p).work_total * (int64_t)sizeof(float);
}

/* ---- what may be causal ---------------------------------------------------------------------- */

/* Name of a parameter that adapt writes and that was not given, NULL if there is none. adapt leaves
 * what it does not compute as it is. */
static const char *missing(const performer *pf)
{
    static const float moment[MOMENTS] = {0.1F, 0.2F, 1.0F, 1.1F, 0.7F, 0.8F, -2.0F, 2.0F};
    const float unlikely = 0.0123456F;
    const feature_info *f = pf->feature;
    const int64_t DP = pf->plan.DP;
    float m[MOMENTS * 256], s[MAX_SCALARS], v[MAX_VECTORS * 256];
    if (!f->adapt || f->moments == 0)
        return NULL;
    for (int64_t i = 0; i < MOMENTS * DP; i++)
        m[i] = moment[i / DP];
    for (int i = 0; i < MAX_SCALARS; i++)
        s[i] = unlikely;
    for (int64_t i = 0; i < MAX_VECTORS * DP; i++)
        v[i] = unlikely;
    f->adapt(pf->plan.D, DP, m, s, v);
    for (int i = 0; i < f->scalars; i++)
        if (s[i] != unlikely && !pf->scalar[i].data)
            return f->scalar_names[i];
    for (int i = 0; i < f->vectors; i++)
        if (v[i * DP] != unlikely && !pf->vector[i].data)
            return f->vector_names[i];
    return NULL;
}

spectra_status causal_check(const performer *pf)
{
    const char *feat = pf->feature->name;
    const char *name = missing(pf);
    if (name)
        return fail(SPECTRA_EINVAL,
                    "causal attention with %s: parameter %s would be computed from all tokens, "
                    "later ones too; give it (--input %s=FILE.npy, spectra_attention_set)",
                    feat, name, name);
    return SPECTRA_OK;
}

/* ---- tasks ----------------------------------------------------------------------------------- */

/* Split i of head n: its kernels' arguments, and where its parts of saved are. */
typedef struct task {
    attn_plan plan;
    attn_params params;
    attn_causal_args args;
    float *before; /* state */
    int64_t n, i;
} task;

static task open_task(const performer *pf, const spectra_problem *p, const attention_views *x,
                      const layout *l, int64_t number, float *saved)
{
    task t = {.n = number / l->splits, .i = number % l->splits};
    const int64_t b = t.n / pf->desc.H, h = t.n % pf->desc.H;
    attn_causal_args *a = &t.args;
    int64_t from;
    performer_view(pf, saved + t.n * l->block, &t.plan, &t.params);
    performer_split_range(rows_length(p->q_len, b, p->T), l->splits, t.i, &from, &a->n);
    const int64_t row = h * l->rows + rows_first(p->q_begin, b, p->T) + from;
#define ROWS(name, begin) \
    (x->name.data + rows_at(&x->name, p->begin, b, h) + from * x->name.stride_t)
    a->q = ROWS(q, q_begin), a->ldq = x->q.stride_t;
    a->k = ROWS(k, k_begin), a->ldk = x->k.stride_t;
    a->v = ROWS(v, k_begin), a->ldv = x->v.stride_t;
    a->o = ROWS(o, q_begin), a->ldo = x->o.stride_t;
    if (x->go.data) {
        a->go = ROWS(go, q_begin), a->ldgo = x->go.stride_t;
        a->gq = ROWS(gq, q_begin), a->ldgq = x->gq.stride_t;
        a->gk = ROWS(gk, k_begin), a->ldgk = x->gk.stride_t;
        a->gv = ROWS(gv, k_begin), a->ldgv = x->gv.stride_t;
    }
#undef ROWS
    a->mask = p->k_mask ? p->k_mask + rows_first(p->k_begin, b, p->S) + from : NULL;
    a->den = saved + l->saved_den + row;
    a->cut = (uint8_t *)(saved + l->saved_cut) + row;
    a->refs = saved + l->saved_refs + number * l->refs;
    t.before = saved + l->saved_state + number * l->state;
    return t;
}

/* ---- forward --------------------------------------------------------------------------------- */

spectra_status causal_forward(const performer *pf, const spectra_problem *p,
                              const attention_views *x, void *saved_, void *work_)
{
    float *saved = saved_, *work = work_;
    TRY(causal_check(pf));
    const layout l = layout_of(pf, p);
    const attn_fwd_ops *fwd = pf->kernels->fwd;
#pragma omp parallel
    {
        float *state = work + l.work_scratch + omp_get_thread_num() * l.scratch;
        float *scratch = state + l.state;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < l.heads; n++)
            performer_prepare_given(pf, n / pf->desc.H, n % pf->desc.H, saved + n * l.block);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < l.heads * l.splits; i++) {
            task t = open_task(pf, p, x, &l, i, saved);
            const attn_causal_args *a = &t.args;
            if (t.i == 0)
                performer_clear_state(pf, t.before);
            if (t.i == l.splits - 1)
                continue; /* nothing comes after its keys */
            performer_clear_state(pf, t.before + l.state);
            fwd->keys(&t.plan, &t.params, a->n, a->k, a->ldk, a->v, a->ldv, a->mask,
                      t.before + l.state, scratch);
        }
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < l.heads; n++) {
            float *first = saved + l.saved_state + n * l.splits * l.state;
            for (int64_t i = 2; i < l.splits; i++)
                fwd->merge(&pf->plan, first + i * l.state, first + (i - 1) * l.state);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < l.heads * l.splits; i++) {
            task t = open_task(pf, p, x, &l, i, saved);
            memcpy(state, t.before, (size_t)l.state * sizeof *state);
            pf->kernels->causal->forward(&t.plan, &t.params, &t.args, state, scratch);
        }
    }
    return SPECTRA_OK;
}

/* ---- backward -------------------------------------------------------------------------------- */

/* Of one head: dstate of each split i > 0, by the references `before` it, gets the later splits'
 * added; it is then the gradient, by all that comes after split i - 1, of the state behind that. */
static void add_later(const layout *l, const float *before, float *dstate)
{
    const int64_t width = l->dstate / l->F - 1;
    for (int64_t i = l->splits - 2; i > 0; i--) {
        const float *ref = before + i * l->state, *later = ref + l->state;
        float *to = dstate + i * l->dstate, *from = to + l->dstate;
        for (int64_t f = 0; f < l->F; f++) {
            float shrink = ref[f] < later[f] ? expf(ref[f] - later[f]) : 1;
            float *row = to + l->F + f * width;
            const float *add = from + l->F + f * width;
            to[f] += from[f] * shrink;
            for (int64_t c = 0; c < width; c++)
                row[c] += add[c] * shrink;
        }
    }
}

/* Sums the gradients of a head's splits into the first, and takes those of the row weights out. */
static void sum_params(const performer *pf, const layout *l, float *params, float *gweight)
{
    const attn_plan *p = &pf->plan;
    for (int64_t i = 1; i < l->splits; i++)
        for (int64_t k = 0; k < l->params; k++)
            params[k] += params[i * l->params + k];
    if (p->learn)
        memcpy(gweight,
               params + pf->feature->scalars + pf->feature->vectors * p->DP + p->MP * p->DP,
               (size_t)p->M * sizeof *gweight);
}

spectra_status causal_backward(const performer *pf, const spectra_problem *p,
                               const attention_views *x, void *saved_, void *work_)
{
    float *saved = saved_, *work = work_;
    const layout l = layout_of(pf, p);
    const attn_causal_ops *ops = pf->kernels->causal;
    float *dstates = work + l.work_dstate, *params = work + l.work_params;
#pragma omp parallel
    {
        float *scratch = work + l.work_scratch + omp_get_thread_num() * l.scratch + l.state;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < l.heads * l.splits; i++) {
            task t = open_task(pf, p, x, &l, i, saved);
            float *dstate = t.i > 0 ? dstates + i * l.dstate : NULL;
            float *dparams = pf->training ? params + i * l.params : NULL;
            if (dstate)
                memset(dstate, 0, (size_t)l.dstate * sizeof *dstate);
            if (dparams)
                memset(dparams, 0, (size_t)l.params * sizeof *dparams);
            ops->queries_bwd(&t.plan, &t.params, &t.args, t.before, dstate, dparams, scratch);
        }
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < l.heads; n++)
            add_later(&l, saved + l.saved_state + n * l.splits * l.state,
                      dstates + n * l.splits * l.dstate);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < l.heads * l.splits; i++) {
            task t = open_task(pf, p, x, &l, i, saved);
            bool last = t.i == l.splits - 1;
            ops->keys_bwd(&t.plan, &t.params, &t.args, last ? NULL : t.before + l.state,
                          last ? NULL : dstates + (i + 1) * l.dstate,
                          pf->training ? params + i * l.params : NULL, scratch);
        }
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < l.heads; n++)
            if (pf->training)
                sum_params(pf, &l, params + n * l.splits * l.params,
                           work + l.work_gweight + n * pf->plan.M);
    }
    return SPECTRA_OK;
}

void causal_gradients(const performer *pf, const spectra_problem *p, const void *work,
                      const float **params, int64_t *stride, const float **weights)
{
    const layout l = layout_of(pf, p);
    *params = (const float *)work + l.work_params;
    *stride = l.splits * l.params;
    *weights = (const float *)work + l.work_gweight;
}
