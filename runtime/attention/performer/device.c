/* The driver of the CUDA kernels of random-feature attention. Forward is a key pass (a state a
 * split) and a query pass that merges the states; backward is the query pass first, which makes the
 * state's gradient, then the key pass. Where there are clusters of blocks, and heads enough to fill
 * the device with them, each direction is one launch. */
#include "attention/performer/device.h"

#include "base/status.h"

#include <stdlib.h>
#include <string.h>

/* ---- sizes ----------------------------------------------------------------------------------- */

static int64_t splits(const performer_device *pd, const jit_cuda_plan *plan, int64_t blocks,
                      int64_t tokens)
{
    return performer_device_splits(pd, plan, blocks, tokens, plan->tile);
}

performer_layout performer_layout_of(const performer_device *pd, const attention_device_problem *x)
{
    const performer *pf = pd->pf;
    if (pf->desc.causal)
        return performer_causal_layout(pd, x);
    const spectra_problem *p = &x->p;
    const attn_plan *plan = &pf->plan;
    performer_layout l = {.heads = p->B * pf->desc.H, .den_rows = x->q_rows};
    int64_t at = 0;
    performer_place_params(pd, &l, &at);
    const jit_cuda_plan *keys = &pd->plan[KEYS], *queries = &pd->plan[QUERIES];
    const jit_cuda_plan *qb = &pd->plan[QUERIES_BWD], *kb = &pd->plan[KEYS_BWD];
    l.k_splits = splits(pd, keys, l.heads * keys->row_blocks * keys->value_blocks, p->S);
    l.q_splits = splits(pd, queries, l.heads * queries->value_blocks, p->T);
    l.forward = performer_cluster_blocks(pd, CLUSTER, l.heads, p->T > p->S ? p->T : p->S,
                                         l.heads * l.k_splits);
    l.backward = performer_cluster_blocks(pd, CLUSTER_BWD, l.heads, p->T > p->S ? p->T : p->S,
                                          l.heads * l.q_splits);
    l.at_state = at, at += whole_floats(l.heads * l.state);
    l.one_part = l.k_splits == 1 && !pf->weighted;
    l.at_den = at, at += whole_floats(pf->desc.H * l.den_rows);
    l.at_top = at, at += whole_floats(pf->desc.H * l.den_rows);
    l.saved = at;
    at = 0;
    l.at_part = at,
    at += l.one_part || l.forward ? 0 : whole_floats(l.k_splits * l.heads * l.state);
    const int64_t qs = l.backward ? l.backward : l.q_splits;
    const int64_t ks = l.backward ? l.backward : l.k_splits;
    l.at_dpart = at, at += l.backward && !pd->learn ? 0 : whole_floats(qs * l.heads * l.dstate);
    l.at_gq = at,
    at += qb->row_blocks > 1 ? whole_floats(qb->row_blocks * l.heads * p->T * plan->D) : 0;
    l.at_gk = at,
    at += kb->row_blocks > 1 ? whole_floats(kb->row_blocks * l.heads * p->S * plan->D) : 0;
    l.at_gv = at,
    at += kb->row_blocks > 1 ? whole_floats(kb->row_blocks * l.heads * p->S * plan->DV) : 0;
    l.splits = splits(pd, &(jit_cuda_plan){.blocks = 2, .tile = 128}, 2 * l.heads,
                      p->T > p->S ? p->T : p->S);
    l.at_moments = at, at += whole_floats(l.splits * 2 * l.heads * (5 * plan->D + 1));
    const int64_t tiles = pd->plan[PRODUCTS_OF].row_blocks; /* of a side's; 0: no linear map */
    if (tiles > 0) {
        l.product_splits = splits(pd, &(jit_cuda_plan){.blocks = 2, .tile = 64},
                                  2 * l.heads * tiles, p->T > p->S ? p->T : p->S);
        l.at_products = at, at += whole_floats(l.product_splits * 2 * l.heads * plan->D * plan->D);
    }
    if (pd->learn) {
        const int64_t scalars = l.heads * pf->feature->scalars,
                      matrix = l.heads * plan->M * plan->D;
        l.at_scalars = at, at += whole_floats(qs * qb->row_blocks * scalars);
        l.at_scalars_k = at, at += whole_floats(ks * kb->row_blocks * scalars);
        l.at_dw = at, at += whole_floats(qs * matrix);
        l.at_dw_k = at, at += whole_floats(ks * matrix);
    }
    l.at_spilled = performer_place_spilled(pd, &at);
    l.work = at;
    return l;
}

static int64_t saved_bytes(const attention_device *ad, const attention_device_problem *x)
{
    return performer_layout_of(ad->own, x).saved * (int64_t)sizeof(float);
}

static int64_t work_bytes(const attention_device *ad, const attention_device_problem *x)
{
    return performer_layout_of(ad->own, x).work * (int64_t)sizeof(float);
}

/* ---- construction ---------------------------------------------------------------------------- */

static int64_t matrix_floats(const performer *pf)
{
    const attn_plan *p = &pf->plan;
    return (pf->second ? 2 : 1) * whole_floats(p->M * p->D) + 2 * whole_floats(p->M);
}

static spectra_status performer_device_init(attention_device *ad)
{
    const performer *pf = performer_of(ad->att);
    if (pf->desc.through)
        return fail(
            SPECTRA_EUNSUPPORTED,
            "on a device the parameters of %s cannot be differentiated through: use the cpu",
            pf->desc.feat);
    performer_device *pd = calloc(1, sizeof *pd);
    if (!pd)
        return fail(SPECTRA_ENOMEM, "performer on %s: out of memory", device_name(ad->dev));
    ad->own = pd;
    pd->pf = pf;
    pd->dev = ad->dev;
    pd->bf16 = ad->bf16;
    pd->tf32 = ad->tf32;
    pd->learn = pf->training != NULL;
    TRY(performer_open_kernels(pd, "attention"));
    const int64_t bytes = matrix_floats(pf) * (int64_t)sizeof(float);
    pd->staged = malloc((size_t)bytes);
    if (!pd->staged)
        return fail(SPECTRA_ENOMEM, "performer on %s: out of memory", device_name(ad->dev));
    TRY(device_alloc(pd->dev, bytes, (void **)&pd->w));
    if (!pd->learn)
        return SPECTRA_OK;
    const int64_t learned = performer_learned_floats(pf) * (int64_t)sizeof(float);
    TRY(device_alloc(pd->dev, learned, (void **)&pd->learned));
    return device_zero(pd->dev, pd->learned, learned);
}

static void performer_device_release(attention_device *ad)
{
    performer_device *pd = ad->own;
    if (!pd)
        return;
    device_free(pd->dev, pd->step_spilled);
    device_free(pd->dev, pd->w);
    device_free(pd->dev, pd->base);
    device_free(pd->dev, pd->uniform);
    device_free(pd->dev, pd->learned);
    free(pd->staged);
    free(pd->host);
    free(pd);
}

static spectra_status performer_device_changed(attention_device *ad)
{
    performer_device *pd = ad->own;
    const performer *pf = pd->pf;
    const attn_plan *p = &pf->plan;
    const int64_t matrix = p->M * p->D;
    float *at = pd->staged;
    memset(at, 0, (size_t)matrix_floats(pf) * sizeof *at);
    memcpy(at, pf->w, (size_t)matrix * sizeof *at);
    at += whole_floats(matrix);
    if (pf->second) {
        memcpy(at, pf->second, (size_t)matrix * sizeof *at);
        at += whole_floats(matrix);
    }
    memcpy(at, p->w2, (size_t)p->M * sizeof *at);
    memcpy(at + whole_floats(p->M), pf->row_weight, (size_t)p->M * sizeof *at);
    TRY(performer_given_update(pd));
    return device_write(pd->dev, pd->w, pd->staged, matrix_floats(pf) * (int64_t)sizeof(float));
}

/* ---- passes ---------------------------------------------------------------------------------- */

static spectra_status performer_device_forward(const attention_device *ad,
                                               const attention_device_problem *x,
                                               const attention_views *v, void *saved, void *work)
{
    performer_device *pd = ad->own;
    if (pd->pf->desc.causal)
        return performer_causal_forward(pd, x, v, saved, work);
    const performer_layout l = performer_layout_of(pd, x);
    const attn_cuda_args args = performer_args(pd, x, &l, v, saved, work);
    TRY(performer_params_prepare(pd, x, &l, v, saved, work));
    if (l.forward)
        return performer_cluster_launch(pd, CLUSTER, l.forward, l.heads, &args);
    TRY(performer_read_keys(pd, l.k_splits, l.heads, &args));
    return performer_pass(pd, QUERIES, l.q_splits, l.heads, pd->plan[QUERIES].value_blocks, &args);
}

static spectra_status performer_device_backward(const attention_device *ad,
                                                const attention_device_problem *x,
                                                const attention_views *v, void *saved, void *work)
{
    performer_device *pd = ad->own;
    if (pd->pf->desc.causal)
        return performer_causal_backward(pd, x, v, saved, work);
    const performer_layout l = performer_layout_of(pd, x);
    attn_cuda_args args = performer_args(pd, x, &l, v, saved, work);
    if (l.backward) {
        args.q_splits = args.k_splits = l.backward; /* parts of the parameters' gradients */
        args.q_row_blocks = args.k_row_blocks = 1;
        TRY(performer_cluster_launch(pd, CLUSTER_BWD, l.backward, l.heads, &args));
    } else {
        TRY(performer_pass(pd, QUERIES_BWD, l.q_splits, l.heads, pd->plan[QUERIES_BWD].row_blocks,
                           &args));
        TRY(performer_pass(pd, KEYS_BWD, l.k_splits, l.heads, pd->plan[KEYS_BWD].row_blocks,
                           &args));
    }
    return performer_sums(pd, &l, x, &args);
}

static spectra_status performer_device_gradient(attention_device *ad, float *gtheta)
{
    performer_device *pd = ad->own;
    const performer *pf = pd->pf;
    const int64_t floats = performer_learned_floats(pf), bytes = floats * (int64_t)sizeof(float);
    const int64_t scalars = pf->desc.H * pf->feature->scalars;
    TRY(performer_host_room(pd, floats));
    TRY(device_read(pd->dev, pd->host, pd->learned, bytes));
    TRY(device_zero(pd->dev, pd->learned, bytes));
    training_gradient(pf, pd->host, pd->host + scalars,
                      pd->host + scalars + pf->plan.M * pf->plan.D, gtheta);
    return SPECTRA_OK;
}

const attention_device_ops performer_device_ops = {
    .init = performer_device_init,
    .release = performer_device_release,
    .changed = performer_device_changed,
    .saved_bytes = saved_bytes,
    .work_bytes = work_bytes,
    .forward = performer_device_forward,
    .backward = performer_device_backward,
    .gradient = performer_device_gradient,
    .decode = &performer_device_decode,
};
