/* Parameters of heads on a device: what was given, and what kernels make of the heads' moments. */
#include "attention/performer/device.h"

#include "base/status.h"

#include <stdlib.h>
#include <string.h>

/* What was given of one head as kernels read it, from padded vectors. */
static void pack(const performer *pf, const float *s, const float *v, float *to)
{
    const feature_info *f = pf->feature;
    const int64_t D = pf->plan.D, DP = pf->plan.DP;
    memcpy(to, s, (size_t)f->scalars * sizeof *to);
    to += f->scalars;
    for (int i = 0; i < f->vectors; i++, to += D)
        memcpy(to, v + i * DP, (size_t)D * sizeof *to);
}

/* Defaults and what was given, for every head of the batch; again when the batch is another. */
static spectra_status base_update(performer_device *pd, int64_t batch)
{
    const performer *pf = pd->pf;
    const int64_t heads = batch * pf->desc.H, stride = whole_floats(performer_base_floats(pf));
    const int64_t bytes = heads * stride * (int64_t)sizeof(float);
    float s[MAX_SCALARS], v[MAX_VECTORS * 256];
    if (pd->base_batch == batch)
        return SPECTRA_OK;
    TRY(performer_host_room(pd, heads * stride));
    memset(pd->host, 0, (size_t)bytes);
    for (int64_t n = 0; n < heads; n++) {
        performer_given(pf, n / pf->desc.H, n % pf->desc.H, s, v);
        pack(pf, s, v, pd->host + n * stride);
    }
    if (batch > pd->base_room) {
        void *base = NULL;
        TRY(device_alloc(pd->dev, bytes, &base));
        device_free(pd->dev, pd->base);
        pd->base = base;
        pd->base_room = batch;
    }
    TRY(device_write(pd->dev, pd->base, pd->host, bytes));
    pd->base_batch = batch;
    return SPECTRA_OK;
}

spectra_status performer_given_update(performer_device *pd)
{
    const performer *pf = pd->pf;
    const int64_t bytes = pf->plan.M * pf->plan.D * (int64_t)sizeof(double);
    const int64_t batch = pd->base_batch;
    pd->base_batch = 0;
    if (batch > 0)
        TRY(base_update(pd, batch));
    if (!performer_counts(pf))
        return SPECTRA_OK;
    if (!pd->uniform)
        TRY(device_alloc(pd->dev, bytes, (void **)&pd->uniform));
    return device_write(pd->dev, pd->uniform, pf->uniform, bytes);
}

/* Bits of the scalars and vectors that were given. */
static unsigned given_bits(const performer *pf)
{
    const feature_info *f = pf->feature;
    unsigned bits = 0;
    for (int i = 0; i < f->scalars; i++)
        bits |= pf->scalar[i].data ? 1u << i : 0;
    for (int i = 0; i < f->vectors; i++)
        bits |= pf->vector[i].data ? 1u << (f->scalars + i) : 0;
    return bits;
}

/* Moments, products and maps or parameters, counts; or a copy of what was given. */
static spectra_status device_prepare(performer_device *pd, const performer_layout *l,
                                     const params_cuda_args *args)
{
    const int64_t rows = 128, M = pd->pf->plan.M;
    if (pd->kernel[MOMENTS_OF]) /* else what adapt would make of them is given */
        TRY(performer_launch(pd, MOMENTS_OF, l->splits, l->heads, 2, args, sizeof *args));
    if (pd->kernel[MAPS_OF]) {
        TRY(performer_launch(pd, PRODUCTS_OF, l->product_splits, l->heads,
                             2 * pd->plan[PRODUCTS_OF].row_blocks, args, sizeof *args));
        TRY(performer_launch(pd, MAPS_OF, l->heads, 1, 1, args, sizeof *args));
    } else if (pd->kernel[PARAMS_OF]) {
        TRY(performer_launch(pd, PARAMS_OF, l->heads, 1, 1, args, sizeof *args));
    } else {
        TRY(device_copy(pd->dev, args->params, pd->base,
                        l->heads * l->params * (int64_t)sizeof(float)));
    }
    if (!performer_counts(pd->pf))
        return SPECTRA_OK;
    return performer_launch(pd, COUNTS_OF, (M + rows - 1) / rows, l->heads, 1, args, sizeof *args);
}

spectra_status performer_params_prepare(performer_device *pd, const attention_device_problem *x,
                                        const performer_layout *l, const attention_views *views,
                                        float *saved, float *work)
{
    const spectra_problem *p = &x->p;
    const spectra_rows *q = &views->q, *k = &views->k;
    const performer *pf = pd->pf;
    const int64_t M = pf->plan.M;
    TRY(base_update(pd, p->B));
    const params_cuda_args args = {
        .q = attention_device_rows(q),
        .k = attention_device_rows(k),
        .q_begin = p->q_begin,
        .q_len = p->q_len,
        .k_begin = p->k_begin,
        .k_len = p->k_len,
        .q_mask = p->q_mask,
        .k_mask = p->k_mask,
        .part = work + l->at_moments,
        .products = work + l->at_products,
        .base = pd->base,
        .params = saved + l->at_params,
        .uniform = pd->uniform,
        .w = saved + l->at_w,
        .w2 = saved + l->at_counts + l->heads * 2 * M,
        .counts = saved + l->at_counts,
        .B = p->B,
        .H = pf->desc.H,
        .T = p->T,
        .S = p->S,
        .splits = l->splits,
        .product_splits = l->product_splits,
        .base_stride = whole_floats(performer_base_floats(pf)),
        .params_stride = l->params,
        .w_stride = l->w,
        .scale = pf->plan.scale,
        .given = given_bits(pf),
        .counts_law = (int)pf->feature->counts,
        .counts_slot = pf->feature->counts_scalar,
    };
    return device_prepare(pd, l, &args);
}
