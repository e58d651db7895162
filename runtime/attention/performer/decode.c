/* Decoding with a causal performer, one token at a time: a head's state is its parameters, then
 * what its keys were read into. */
#include "attention/performer/performer.h"

#include "base/status.h"

#include <omp.h>

/* Floats of a head: its parameters, its state. */
static int64_t head_floats(const performer *pf)
{
    return performer_block_floats(pf) +
           performer_align(attn_state_reals(&pf->plan, pf->feature->lanes));
}

static int64_t step_scratch(const performer *pf)
{
    const int64_t keys = pf->kernels->fwd->scratch(&pf->plan);
    const int64_t step = pf->kernels->causal->step_scratch(&pf->plan);
    return performer_align(step > keys ? step : keys);
}

static int64_t state_bytes(const spectra_attention *att, int64_t B)
{
    const performer *pf = performer_of(att);
    return B * pf->desc.H * head_floats(pf) * (int64_t)sizeof(float);
}

static int64_t step_bytes(const spectra_attention *att)
{
    return omp_get_max_threads() * step_scratch(performer_of(att)) * (int64_t)sizeof(float);
}

static spectra_status clear(const spectra_attention *att, int64_t B, const uint8_t *active,
                            void *state_)
{
    const performer *pf = performer_of(att);
    TRY(causal_check(pf));
    const int64_t H = pf->desc.H;
    for (int64_t n = 0; n < B * H; n++) {
        float *block = (float *)state_ + n * head_floats(pf);
        if (active && !active[n / H])
            continue;
        performer_prepare_given(pf, n / H, n % H, block);
        performer_clear_state(pf, block + performer_block_floats(pf));
    }
    return SPECTRA_OK;
}

static spectra_status prefill(const spectra_attention *att, const spectra_problem *p,
                              const attention_views *x, void *state_, void *work_)
{
    const performer *pf = performer_of(att);
    const spectra_rows *k = &x->k, *v = &x->v;
    const int64_t H = pf->desc.H, size = head_floats(pf), scratch = step_scratch(pf);
    float *work = work_, *states = state_;
#pragma omp parallel for schedule(dynamic)
    for (int64_t n = 0; n < p->B * H; n++) {
        const int64_t b = n / H, h = n % H;
        float *block = states + n * size;
        attn_plan plan;
        attn_params params;
        performer_view(pf, block, &plan, &params);
        pf->kernels->fwd->keys(
            &plan, &params, rows_length(p->k_len, b, p->S), k->data + rows_at(k, p->k_begin, b, h),
            k->stride_t, v->data + rows_at(v, p->k_begin, b, h), v->stride_t,
            p->k_mask ? p->k_mask + rows_first(p->k_begin, b, p->S) : NULL,
            block + performer_block_floats(pf), work + omp_get_thread_num() * scratch);
    }
    return SPECTRA_OK;
}

static spectra_status step(const spectra_attention *att, int64_t B, const uint8_t *active,
                           const attention_views *x, void *state_, void *work_)
{
    const performer *pf = performer_of(att);
    const spectra_rows *q = &x->q, *k = &x->k, *v = &x->v, *o = &x->o;
    const int64_t H = pf->desc.H, size = head_floats(pf), scratch = step_scratch(pf);
    float *work = work_, *states = state_;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < B * H; n++) {
        const int64_t b = n / H, h = n % H;
        float *block = states + n * size;
        attn_plan plan;
        attn_params params;
        if (active && !active[b])
            continue;
        performer_view(pf, block, &plan, &params);
        pf->kernels->causal->step(
            &plan, &params, q->data + rows_at(q, NULL, b, h), k->data + rows_at(k, NULL, b, h),
            v->data + rows_at(v, NULL, b, h), o->data + rows_at(o, NULL, b, h),
            block + performer_block_floats(pf), work + omp_get_thread_num() * scratch);
    }
    return SPECTRA_OK;
}

const attention_decode_ops performer_decode = {
    .state_bytes = state_bytes,
    .step_bytes = step_bytes,
    .clear = clear,
    .prefill = prefill,
    .step = step,
};
