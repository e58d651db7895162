/* Decoding on a device: a state a head, with the parameters it was cleared for. */
#include "attention/performer/device.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

/* A state: parameters of all heads, then (heads, state). */
static performer_layout state_layout(const performer_device *pd, int64_t B)
{
    performer_layout l = {.heads = B * pd->pf->desc.H};
    int64_t at = 0;
    performer_place_params(pd, &l, &at);
    l.at_state = at, at += whole_floats(l.heads * l.state);
    l.saved = at;
    return l;
}

/* When it is first needed. Of its kernels MERGE is opened last. */
static spectra_status open_decoding(performer_device *pd)
{
    return pd->kernel[MERGE] ? SPECTRA_OK : performer_open_kernels(pd, "decoding");
}

static int64_t state_bytes(const attention_device *ad, int64_t B)
{
    return state_layout(ad->own, B).saved * (int64_t)sizeof(float);
}

static spectra_status clear(const attention_device *ad, int64_t B, void *state_)
{
    performer_device *pd = ad->own;
    TRY(causal_check(pd->pf));
    const performer_layout l = state_layout(pd, B);
    const attention_device_problem x = {.p = {.B = B}};
    const attention_views none = {.q = {0}};
    const int64_t F = pd->pf->feature->lanes * pd->pf->plan.MP, all = l.heads * l.state;
    float *state = state_;
    TRY(performer_params_prepare(pd, &x, &l, &none, state, NULL));
    TRY(performer_host_room(pd, all));
    memset(pd->host, 0, (size_t)all * sizeof *pd->host);
    for (int64_t n = 0; n < l.heads; n++)
        for (int64_t f = 0; f < F; f++)
            pd->host[n * l.state + f] = -INFINITY;
    return device_write(pd->dev, state + l.at_state, pd->host, all * (int64_t)sizeof(float));
}

/* Of what reads a prompt into such a state. */
static performer_layout prompt_layout(const performer_device *pd, const attention_device_problem *x)
{
    const jit_cuda_plan *keys = &pd->plan[KEYS];
    performer_layout l = state_layout(pd, x->p.B);
    l.k_splits = performer_device_splits(pd, keys, l.heads * keys->row_blocks * keys->value_blocks,
                                         x->p.S, PERFORMER_SPLIT);
    l.work = whole_floats(l.k_splits * l.heads * l.state);
    l.at_spilled = performer_place_spilled(pd, &l.work);
    return l;
}

static int64_t prefill_bytes(const attention_device *ad, const attention_device_problem *x)
{
    const performer_device *pd = ad->own;
    return prompt_layout(pd, x).work * (int64_t)sizeof(float);
}

static spectra_status prefill(const attention_device *ad, const attention_device_problem *x,
                              const attention_views *v, void *state_, void *work)
{
    performer_device *pd = ad->own;
    float *state = state_;
    const performer_layout l = prompt_layout(pd, x);
    attn_cuda_args args = performer_args(pd, x, &l, v, state, work);
    TRY(open_decoding(pd));
    const int64_t F = pd->pf->feature->lanes * pd->pf->plan.MP;
    TRY(performer_read_keys(pd, l.k_splits, l.heads, &args));
    return performer_pass(pd, MERGE, F / pd->plan[MERGE].tile, l.heads, 1, &args);
}

static spectra_status step(const attention_device *ad, int64_t B, const uint8_t *active,
                           const attention_views *v, void *state_)
{
    performer_device *pd = ad->own;
    float *state = state_;
    const performer_layout l = state_layout(pd, B);
    const attention_device_problem x = {.p = {.B = B, .T = 1, .S = 1}, .q_rows = B, .k_rows = B};
    attn_cuda_args args = performer_args(pd, &x, &l, v, state, state);
    args.active = active;
    TRY(open_decoding(pd));
    return performer_pass(pd, STEP, 1, l.heads, 1, &args);
}

const attention_device_decode_ops performer_device_decode = {
    .state_bytes = state_bytes,
    .clear = clear,
    .prefill_bytes = prefill_bytes,
    .prefill = prefill,
    .step = step,
};
