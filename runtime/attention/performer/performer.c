/* Driver of random-feature attention: a head is a key pass (a state per split of the sequence), a
 * merge in split order and a query pass; backward is the query pass first, then the key pass. */
#include "attention/attention.h"

#include "base/status.h"
#include "kernel/find.h"
#include "kernel/jit.h"
#include "kernel/registry.h"
#include "math/blas.h"
#include "matrix/chain.h"
#include "matrix/recipe.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum {
    SPLIT_TASKS = 32,   /* a direction has at least this many tasks where the sequence allows */
    SPLIT_MINIMUM = 256 /* tokens a split is worth */
};

/* Where things lie in `saved` and `work`, in floats. */
typedef struct layout {
    int64_t heads, splits_q, splits_k;
    int64_t state, dstate, block, params, moments; /* size of each, one head */
    int64_t saved_state, saved_block, saved_moments, saved_den, saved_total;
    int64_t work_state, work_dstate, work_dparams, work_gweight, work_scratch, work_total;
    int64_t scratch; /* one thread */
    int64_t den_rows;
} layout;

/* Derived from the shape alone, so that results do not depend on the number of threads. */
int64_t performer_split_count(int64_t heads, int64_t tokens)
{
    int64_t wanted = (SPLIT_TASKS + heads - 1) / heads;
    int64_t possible = (tokens + SPLIT_MINIMUM - 1) / SPLIT_MINIMUM;
    int64_t n = wanted < possible ? wanted : possible;
    return n > 1 ? n : 1;
}

void performer_split_range(int64_t tokens, int64_t splits, int64_t i, int64_t *from, int64_t *count)
{
    int64_t each = (tokens + splits - 1) / splits;
    *from = i * each < tokens ? i * each : tokens;
    *count = *from + each < tokens ? each : tokens - *from;
}

static layout layout_of(const spectra_attention *att, const spectra_problem *p)
{
    const attn_plan *plan = &att->plan;
    const feature_info *f = att->feature;
    layout l = {.heads = p->B * att->desc.H};
    l.splits_q = performer_split_count(l.heads, p->T);
    l.splits_k = performer_split_count(l.heads, p->S);
    l.state = performer_align(attn_state_reals(plan, f->lanes));
    l.dstate = performer_align(attn_dstate_reals(plan, f->lanes));
    l.block = performer_block_floats(att);
    l.params = performer_align(f->scalars + f->vectors * plan->DP +
                               (plan->learn ? plan->MP * plan->DP : 0));
    l.moments = MOMENTS * plan->DP;
    l.den_rows = rows_total(p->q_begin, p->q_len, p->B, p->T);
    int64_t at = 0;
    l.saved_state = at, at += l.heads * l.state;
    l.saved_block = at, at += l.heads * l.block;
    l.saved_moments = at, at += l.heads * l.moments;
    l.saved_den = at, at += performer_align(att->desc.H * l.den_rows);
    l.saved_total = at;
    int64_t fwd = att->forward->scratch(plan), bwd = att->kernels->bwd->scratch(plan);
    int64_t head = performer_head_scratch(att);
    l.scratch = performer_align(fwd > bwd ? fwd : bwd);
    l.scratch = head > l.scratch ? head : l.scratch;
    at = 0;
    l.work_state = at, at += l.splits_k > 1 ? l.heads * l.splits_k * l.state : 0;
    l.work_dstate = at, at += l.heads * l.splits_q * l.dstate;
    l.work_dparams = at, at += l.heads * (l.splits_q + l.splits_k) * l.params;
    l.work_gweight = at, at += att->training ? performer_align(l.heads * plan->M) : 0;
    l.work_scratch = at, at += omp_get_max_threads() * l.scratch;
    l.work_total = at;
    return l;
}

/* ---- construction ---------------------------------------------------------------------------- */

/* The chain of the matrix just drawn, where it has one and is faster for it. */
static spectra_status find_chain(spectra_attention *att)
{
    int64_t M = att->plan.M, D = att->plan.D;
    bool found = false;
    att->plan.chain = NULL;
    if (!performer_chain_wins(M, D) || att->uniform || att->training)
        return SPECTRA_OK;
    if (!att->chain_memory)
        att->chain_memory = aligned_alloc(
            PERFORMER_ALIGN, (size_t)performer_align(sample_chain_floats(M)) * sizeof(float));
    if (!att->chain_memory)
        return fail(SPECTRA_ENOMEM, "performer: out of memory");
    TRY(sample_chain(att->matrix, M, D, matrix_draw_of(&att->desc), att->w, att->chain_memory,
                     &att->chain, &found));
    att->plan.chain = found ? &att->chain : NULL;
    return SPECTRA_OK;
}

static spectra_status performer_redraw(spectra_attention *att, uint64_t seed)
{
    static const uint64_t other = 0x9e3779b97f4a7c15; /* the second matrix's seed is this far off */
    const matrix_info *directions = NULL;
    int64_t M = att->plan.M, D = att->plan.D;
    att->desc.seed = seed;
    att->counts_given = false;
    if (att->second) {
        TRY(registry_matrix("orf", &directions));
        const matrix_draw second = {seed + other, att->desc.layer, att->desc.rng};
        TRY(sample_matrix(directions, M, D, second, att->second, NULL));
    }
    if (!att->matrix->learner) /* training_redraw draws those that are learned */
        TRY(sample_matrix(att->matrix, M, D, matrix_draw_of(&att->desc), att->w, att->row_weight));
    TRY(training_redraw(att, seed));
    TRY(find_chain(att));
    performer_pack(att);
    return SPECTRA_OK;
}

/* Refuses what does not go together, with the reason. */
static spectra_status check_pair(const spectra_attention_desc *d, const feature_info *f,
                                 const matrix_info *m)
{
    const char *why = NULL;
    if (!attention_legal(f, m, &why))
        return fail(SPECTRA_EUNSUPPORTED, "%s cannot go with %s: %s", f->name, m->name, why);
    if (d->official && !f->has_official)
        return fail(SPECTRA_EINVAL, "%s has no official behaviour: the reference lacks it",
                    f->name);
    if (d->official && (d->learn || m->learner))
        return fail(SPECTRA_EUNSUPPORTED, "the official behaviour trains no parameter of %s",
                    d->learn ? f->name : m->name);
    if (d->official && d->target != SPECTRA_SOFTMAX)
        return fail(SPECTRA_EINVAL, "the official behaviour has no choice of target kernel");
    if (d->causal && (d->official || d->through))
        return fail(SPECTRA_EUNSUPPORTED,
                    "causal attention has no %s: it reads all tokens, later ones too",
                    d->official ? "official behaviour" : "gradient through computed parameters");
    if (d->causal && f->linear != LINEAR_NONE)
        return fail(
            SPECTRA_EINVAL,
            "causal attention cannot go with %s: its linear map is computed from all tokens, later "
            "ones too, and cannot be given",
            f->name);
    if (d->bf16 && (d->causal || d->official))
        return fail(SPECTRA_EUNSUPPORTED, "%s has no products of bf16",
                    d->causal ? "causal attention" : "the official behaviour");
    if (d->bf16 && !registry_bf16())
        return fail(SPECTRA_EUNSUPPORTED,
                    "products of bf16 need a CPU with AVX512_BF16; this one's instructions are %s",
                    registry_isa_name(registry_isa()));
    if (d->through && (f->linear != LINEAR_NONE || f->counts != COUNTS_NONE))
        return fail(SPECTRA_EUNSUPPORTED,
                    "the parameters of %s come from a decomposition or a draw; they are constants "
                    "and cannot be differentiated through",
                    f->name);
    return SPECTRA_OK;
}

/* The feature's name, with a + where its antithetic form is asked for. */
static spectra_status find_feature(const spectra_attention_desc *d, const feature_info **out)
{
    char name[64];
    const feature_info *plain = NULL;
    TRY(kernel_feature(d->feat, &plain));
    if (!d->antithetic || plain->is_antithetic) {
        *out = plain;
        return SPECTRA_OK;
    }
    if (jit_spec_find(d->feat))
        return fail(
            SPECTRA_EUNSUPPORTED,
            "%s: the antithetic form of a spec of one's own has to be built: put the file into "
            "specs/feature",
            d->feat);
    if (!plain->may_antithetic)
        return fail(SPECTRA_EUNSUPPORTED,
                    "%s has no antithetic form: it is no exponential of w.x, or even in w",
                    d->feat);
    return kernel_feature(registry_form(plain->name, true, name, sizeof name), out);
}

static spectra_status find_kernels(spectra_attention *att)
{
    const spectra_attention_desc *d = &att->desc;
    const char *feat = att->feature->name, *matrix = att->matrix->name;
    const int more = (d->causal ? ATTN_CAUSAL : 0) | (d->official ? ATTN_OFFICIAL : 0);
    TRY(kernel_find(feat, matrix, d->D, d->DV, d->M, ATTN_ATTENTION | more, &att->kernels));
    att->forward = att->kernels->fwd;
    if (!d->bf16)
        return SPECTRA_OK;
    const attn_row *row = NULL;
    TRY(kernel_find(feat, matrix, d->D, d->DV, d->M, ATTN_BF16, &row));
    att->forward = row->bf16;
    return SPECTRA_OK;
}

static spectra_status performer_init(spectra_attention *att)
{
    spectra_attention_desc *d = &att->desc;
    if (!d->feat || !d->kernel)
        return fail(SPECTRA_EINVAL, "performer needs a component function and a weight matrix");
    if (d->M < 1 || d->M > 1024)
        return fail(SPECTRA_ESHAPE, "performer: %lld features; allowed are 1 to 1024",
                    (long long)d->M);
    TRY(registry_matrix(d->kernel, &att->matrix));
    if (jit_spec_find(d->feat)) /* known only once it is compiled */
        TRY(kernel_find(d->feat, d->kernel, d->D, d->DV, d->M, ATTN_ATTENTION, &att->kernels));
    TRY(find_feature(d, &att->feature));
    const feature_info *f = att->feature;
    TRY(check_pair(d, f, att->matrix));
    TRY(find_kernels(att));
    d->feat = f->name;
    d->kernel = att->matrix->name;
    attn_plan *p = &att->plan;
    *p = (attn_plan){.D = d->D, .DV = d->DV, .M = d->M};
    p->MP = pad16(d->M), p->DP = pad16(d->D), p->DVP = pad16(d->DV);
    p->scale = (float)pow((double)d->D, -0.25);
    size_t floats = (size_t)(d->M * d->D) * sizeof(float);
    att->w = malloc(floats);
    att->second = f->second_own ? malloc(floats) : NULL;
    att->uniform = f->counts != COUNTS_NONE ? malloc(2 * floats) : NULL;
    att->row_weight = malloc((size_t)d->M * sizeof(float));
    att->packed = aligned_alloc(
        PERFORMER_ALIGN, (size_t)performer_align(performer_packed_floats(att)) * sizeof(float));
    if (!att->w || !att->row_weight || !att->packed || (f->second_own && !att->second) ||
        (f->counts != COUNTS_NONE && !att->uniform))
        return fail(SPECTRA_ENOMEM, "performer: no memory for a %lld x %lld matrix",
                    (long long)d->M, (long long)d->D);
    if (f->linear != LINEAR_NONE)
        TRY(blas_open());
    TRY(training_init(att));
    return performer_redraw(att, d->seed);
}

static void performer_release(spectra_attention *att)
{
    training_release(att);
    free(att->w);
    free(att->second);
    free(att->uniform);
    free(att->row_weight);
    free(att->packed);
    free(att->chain_memory);
    for (int i = 0; i < MAX_SCALARS; i++)
        free(att->scalar[i].data);
    for (int i = 0; i < MAX_VECTORS; i++)
        free(att->vector[i].data);
    free(att->a_pos.data);
}

/* ---- forward --------------------------------------------------------------------------------- */

/* Head (b, h) of one side: begin, len, mask as in spectra_problem, `padded` rows a sequence. */
static performer_tokens tokens_of(const spectra_attention *att, const spectra_rows *x,
                                  const int64_t *begin, const int64_t *len, const uint8_t *mask,
                                  int64_t padded, int64_t b, int64_t h)
{
    return (performer_tokens){x->data + rows_at(x, begin, b, h), rows_length(len, b, padded),
                              x->stride_t, att->plan.scale,
                              mask ? mask + rows_first(begin, b, padded) : NULL};
}

static performer_tokens queries_of(const spectra_attention *att, const spectra_problem *p,
                                   const spectra_rows *q, int64_t b, int64_t h)
{
    return tokens_of(att, q, p->q_begin, p->q_len, p->q_mask, p->T, b, h);
}

static performer_tokens keys_of(const spectra_attention *att, const spectra_problem *p,
                                const spectra_rows *k, int64_t b, int64_t h)
{
    return tokens_of(att, k, p->k_begin, p->k_len, p->k_mask, p->S, b, h);
}

void performer_clear_state(const spectra_attention *att, float *state)
{
    int64_t F = att->feature->lanes * att->plan.MP;
    for (int64_t i = 0; i < F; i++)
        state[i] = -INFINITY;
    memset(state + F, 0, (size_t)(F * (1 + att->plan.DVP)) * sizeof *state);
}

/* Multiplies each row of W's share of z, or of its gradient, and of S by the row's weight. `at` is
 * where z is. */
static void weight_rows(const spectra_attention *att, float *at)
{
    const attn_plan *p = &att->plan;
    int64_t F = att->feature->lanes * p->MP;
    for (int64_t f = 0; f < F && att->weighted; f++) {
        int64_t r = f % p->MP;
        float weight = r < p->M ? att->row_weight[r] : 1;
        at[f] *= weight;
        for (int64_t c = 0; c < p->DVP; c++)
            at[F + f * p->DVP + c] *= weight;
    }
}

/* Gradients of the row weights, from a state and its gradient, both weighted. */
static void weight_gradient(const spectra_attention *att, const float *state, const float *dstate,
                            float *gweight)
{
    const attn_plan *p = &att->plan;
    int64_t F = att->feature->lanes * p->MP;
    for (int64_t r = 0; r < p->M; r++)
        gweight[r] = 0;
    for (int64_t f = 0; f < F; f++) {
        int64_t r = f % p->MP;
        double sum = (double)state[F + f] * (double)dstate[f];
        for (int64_t c = 0; c < p->DVP && r < p->M; c++)
            sum += (double)state[2 * F + f * p->DVP + c] * (double)dstate[F + f * p->DVP + c];
        if (r < p->M)
            gweight[r] += (float)(sum / (double)att->row_weight[r]);
    }
}

/* Keys of split i of head n into state. */
static void split_keys(const spectra_attention *att, const spectra_problem *p,
                       const attention_views *x, const layout *l, int64_t n, int64_t i,
                       const float *block, float *state, float *scratch)
{
    int64_t b = n / att->desc.H, h = n % att->desc.H, from, count;
    performer_split_range(rows_length(p->k_len, b, p->S), l->splits_k, i, &from, &count);
    attn_plan plan;
    attn_params a;
    performer_view(att, block, &plan, &a);
    performer_clear_state(att, state);
    const uint8_t *mask = p->k_mask ? p->k_mask + rows_first(p->k_begin, b, p->S) + from : NULL;
    att->forward->keys(
        &plan, &a, count, x->k.data + rows_at(&x->k, p->k_begin, b, h) + from * x->k.stride_t,
        x->k.stride_t, x->v.data + rows_at(&x->v, p->k_begin, b, h) + from * x->v.stride_t,
        x->v.stride_t, mask, state, scratch);
}

static void split_queries(const spectra_attention *att, const spectra_problem *p,
                          const attention_views *x, const layout *l, int64_t n, int64_t i,
                          float *saved, float *scratch)
{
    int64_t b = n / att->desc.H, h = n % att->desc.H, from, count;
    performer_split_range(rows_length(p->q_len, b, p->T), l->splits_q, i, &from, &count);
    attn_plan plan;
    attn_params a;
    performer_view(att, saved + l->saved_block + n * l->block, &plan, &a);
    float *den = saved + l->saved_den + h * l->den_rows + rows_first(p->q_begin, b, p->T) + from;
    att->forward->queries(&plan, &a, count,
                          x->q.data + rows_at(&x->q, p->q_begin, b, h) + from * x->q.stride_t,
                          x->q.stride_t, saved + l->saved_state + n * l->state,
                          x->o.data + rows_at(&x->o, p->q_begin, b, h) + from * x->o.stride_t,
                          x->o.stride_t, den, scratch);
}

static spectra_status performer_forward(const spectra_attention *att, const spectra_problem *p,
                                        const attention_views *x, void *saved_, void *work_)
{
    if (att->desc.official)
        return official_forward(att, p, x, saved_, work_);
    if (att->desc.causal)
        return causal_forward(att, p, x, saved_, work_);
    float *saved = saved_, *work = work_;
    const layout l = layout_of(att, p);
    const attn_fwd_ops *ops = att->forward;
#pragma omp parallel
    {
        float *scratch = work + l.work_scratch + omp_get_thread_num() * l.scratch;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < l.heads; n++) {
            int64_t b = n / att->desc.H, h = n % att->desc.H;
            performer_tokens q = queries_of(att, p, &x->q, b, h), k = keys_of(att, p, &x->k, b, h);
            performer_prepare(att, b, h, &q, &k, saved + l.saved_moments + n * l.moments,
                              saved + l.saved_block + n * l.block, scratch);
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < l.heads * l.splits_k; task++) {
            int64_t n = task / l.splits_k, i = task % l.splits_k;
            float *state = l.splits_k > 1 ? work + l.work_state + task * l.state
                                          : saved + l.saved_state + n * l.state;
            split_keys(att, p, x, &l, n, i, saved + l.saved_block + n * l.block, state, scratch);
        }
        if (l.splits_k > 1 || att->weighted) {
#pragma omp for schedule(dynamic)
            for (int64_t n = 0; n < l.heads; n++) {
                float *state = saved + l.saved_state + n * l.state;
                const float *part = work + l.work_state + n * l.splits_k * l.state;
                if (l.splits_k > 1)
                    performer_clear_state(att, state);
                for (int64_t i = 0; i < l.splits_k && l.splits_k > 1; i++)
                    ops->merge(&att->plan, state, part + i * l.state);
                weight_rows(att, state + att->feature->lanes * att->plan.MP);
            }
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < l.heads * l.splits_q; task++)
            split_queries(att, p, x, &l, task / l.splits_q, task % l.splits_q, saved, scratch);
    }
    return SPECTRA_OK;
}

/* ---- backward -------------------------------------------------------------------------------- */

static void split_queries_bwd(const spectra_attention *att, const spectra_problem *p,
                              const attention_views *x, const layout *l, int64_t task,
                              const float *saved, float *dstate, float *dparams, float *scratch)
{
    int64_t n = task / l->splits_q, b = n / att->desc.H, h = n % att->desc.H, from, count;
    performer_split_range(rows_length(p->q_len, b, p->T), l->splits_q, task % l->splits_q, &from,
                          &count);
    attn_plan plan;
    attn_params a;
    performer_view(att, saved + l->saved_block + n * l->block, &plan, &a);
    memset(dstate, 0, (size_t)l->dstate * sizeof *dstate);
#define ROWS(name) (x->name.data + rows_at(&x->name, p->q_begin, b, h) + from * x->name.stride_t)
    att->kernels->bwd->queries(
        &plan, &a, count, ROWS(q), x->q.stride_t, saved + l->saved_state + n * l->state, ROWS(o),
        x->o.stride_t,
        saved + l->saved_den + h * l->den_rows + rows_first(p->q_begin, b, p->T) + from, ROWS(go),
        x->go.stride_t, ROWS(gq), x->gq.stride_t, dstate, dparams, scratch);
#undef ROWS
}

static void split_keys_bwd(const spectra_attention *att, const spectra_problem *p,
                           const attention_views *x, const layout *l, int64_t task,
                           const float *saved, const float *dstate, float *dparams, float *scratch)
{
    int64_t n = task / l->splits_k, b = n / att->desc.H, h = n % att->desc.H, from, count;
    performer_split_range(rows_length(p->k_len, b, p->S), l->splits_k, task % l->splits_k, &from,
                          &count);
    attn_plan plan;
    attn_params a;
    performer_view(att, saved + l->saved_block + n * l->block, &plan, &a);
    const uint8_t *mask = p->k_mask ? p->k_mask + rows_first(p->k_begin, b, p->S) + from : NULL;
#define ROWS(name) (x->name.data + rows_at(&x->name, p->k_begin, b, h) + from * x->name.stride_t)
    att->kernels->bwd->keys(&plan, &a, count, ROWS(k), x->k.stride_t, ROWS(v), x->v.stride_t, mask,
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
static void through_params(const spectra_attention *att, const spectra_problem *p,
                           const attention_views *x, const float *m, const float *s, float *dparams,
                           int64_t n)
{
    const feature_info *f = att->feature;
    int64_t D = att->plan.D, DP = att->plan.DP, b = n / att->desc.H, h = n % att->desc.H;
    float *ds = dparams, *dv = dparams + f->scalars, dm[MOMENTS_SMOOTH * 256] = {0};
    for (int i = 0; i < f->scalars; i++)
        if (att->scalar[i].data)
            ds[i] = 0;
    for (int i = 0; i < f->vectors; i++)
        if (att->vector[i].data)
            memset(dv + i * DP, 0, (size_t)DP * sizeof *dv);
    f->adapt_grad(D, DP, m, s, ds, dv, dm);
    performer_tokens q = queries_of(att, p, &x->q, b, h), k = keys_of(att, p, &x->k, b, h);
    performer_moments_grad(q.n, D, q.x, q.ld, q.scale, q.mask, dm + M1X * DP, dm + M2X * DP,
                           x->gq.data + rows_at(&x->gq, p->q_begin, b, h), x->gq.stride_t);
    performer_moments_grad(k.n, D, k.x, k.ld, k.scale, k.mask, dm + M1Y * DP, dm + M2Y * DP,
                           x->gk.data + rows_at(&x->gk, p->k_begin, b, h), x->gk.stride_t);
}

static spectra_status performer_backward(const spectra_attention *att, const spectra_problem *p,
                                         const attention_views *x, void *saved_, void *work_)
{
    if (att->desc.official)
        return official_backward(att, p, x, saved_, work_);
    if (att->desc.causal)
        return causal_backward(att, p, x, saved_, work_);
    float *saved = saved_, *work = work_;
    const layout l = layout_of(att, p);
    bool through = att->desc.through && att->feature->adapt;
    bool wanted = through || att->training;
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
            split_queries_bwd(att, p, x, &l, task, saved, work + l.work_dstate + task * l.dstate,
                              wanted ? dparams + task * l.params : NULL, scratch);
        if (l.splits_q > 1 || att->weighted || att->training) {
#pragma omp for schedule(dynamic)
            for (int64_t n = 0; n < l.heads; n++) {
                float *sum = work + l.work_dstate + n * l.splits_q * l.dstate;
                for (int64_t i = 1; i < l.splits_q; i++)
                    add(sum, sum + i * l.dstate, l.dstate);
                if (att->training)
                    weight_gradient(att, saved + l.saved_state + n * l.state, sum,
                                    work + l.work_gweight + n * att->plan.M);
                weight_rows(att, sum);
            }
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < l.heads * l.splits_k; task++)
            split_keys_bwd(att, p, x, &l, task, saved,
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
                    through_params(att, p, x, saved + l.saved_moments + n * l.moments,
                                   saved + l.saved_block + n * l.block, sum, n);
            }
        }
    }
    return SPECTRA_OK;
}

void performer_gradients(const spectra_attention *att, const spectra_problem *p, const void *work,
                         const float **params, int64_t *stride, const float **weights)
{
    if (att->desc.causal) {
        causal_gradients(att, p, work, params, stride, weights);
        return;
    }
    const layout l = layout_of(att, p);
    *params = (const float *)work + l.work_dparams;
    *stride = l.splits_q * l.params;
    *weights = (const float *)work + l.work_gweight;
}

static int64_t performer_saved_bytes(const spectra_attention *att, const spectra_problem *p)
{
    if (att->desc.official)
        return official_saved_bytes(att, p);
    if (att->desc.causal)
        return causal_saved_bytes(att, p);
    return layout_of(att, p).saved_total * (int64_t)sizeof(float);
}

static int64_t performer_work_bytes(const spectra_attention *att, const spectra_problem *p)
{
    if (att->desc.official)
        return official_work_bytes(att, p);
    if (att->desc.causal)
        return causal_work_bytes(att, p);
    return layout_of(att, p).work_total * (int64_t)sizeof(float);
}

spectra_status spectra_attention_redraw(spectra_attention *att, uint64_t seed)
{
    if (att->kind != &attention_performer)
        return fail(SPECTRA_EINVAL, "%s attention draws no matrix", att->kind->name);
    return performer_redraw(att, seed);
}

const float *spectra_attention_matrix(const spectra_attention *att)
{
    return att->w;
}

spectra_status spectra_attention_parameter(const spectra_attention *att, const spectra_problem *p,
                                           const char *name, const void *saved, float *out)
{
    if (att->kind != &attention_performer || att->desc.official)
        return fail(SPECTRA_ENOTFOUND, "%s has no parameter '%s' per head", att->kind->name, name);
    const feature_info *f = att->feature;
    const int64_t D = att->plan.D, heads = p->B * att->desc.H, size = performer_block_floats(att);
    const float *blocks = saved; /* of a causal attention they come first */
    if (!att->desc.causal)
        blocks += layout_of(att, p).saved_block;
    for (int i = 0; i < f->scalars; i++)
        if (strcmp(name, f->scalar_names[i]) == 0) {
            for (int64_t n = 0; n < heads; n++)
                out[n] = blocks[n * size + i];
            return SPECTRA_OK;
        }
    for (int i = 0; i < f->vectors; i++)
        if (strcmp(name, f->vector_names[i]) == 0) {
            for (int64_t n = 0; n < heads; n++)
                memcpy(out + n * D,
                       blocks + n * size + performer_align(f->scalars) + i * att->plan.DP,
                       (size_t)D * sizeof *out);
            return SPECTRA_OK;
        }
    return fail(SPECTRA_ENOTFOUND, "%s has no parameter '%s'", f->name, name);
}

const attention_kind attention_performer = {
    "performer",           performer_init,       performer_release, performer_set,
    performer_saved_bytes, performer_work_bytes, performer_forward, performer_backward,
};
