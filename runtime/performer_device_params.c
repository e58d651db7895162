/* Parameters of heads on a device: what was given, what kernels make of the heads' moments, and,
 * where a decomposition is needed, what the host makes. */
#include "performer_device.h"

#include "bf16.h"
#include "status.h"

#include <stdlib.h>
#include <string.h>

int64_t cuda_parameters(const spectra_attention *att)
{
    const int64_t D = att->plan.D;
    const feature_info *f = att->feature;
    return f->scalars + f->vectors * D + (f->linear != LINEAR_NONE ? 4 * D * D : 0);
}

bool cuda_counts(const spectra_attention *att)
{
    return att->feature->counts != COUNTS_NONE && !att->counts_given;
}

static bool by_host(const spectra_attention *att)
{
    return att->feature->linear != LINEAR_NONE;
}

/* Numbers of one head as kernels read them, from a block with padded vectors. */
static void pack(const spectra_attention *att, const float *s, const float *v, const float *linear,
                 float *to)
{
    const feature_info *f = att->feature;
    const int64_t D = att->plan.D, DP = att->plan.DP;
    memcpy(to, s, (size_t)f->scalars * sizeof *to);
    to += f->scalars;
    for (int i = 0; i < f->vectors; i++, to += D)
        memcpy(to, v + i * DP, (size_t)D * sizeof *to);
    for (int64_t r = 0; r < 4 * D && linear; r++, to += D)
        memcpy(to, linear + (r / D * DP + r % D) * DP, (size_t)D * sizeof *to);
}

spectra_status cuda_host_room(performer_device *pd, int64_t floats)
{
    if (floats <= pd->host_floats)
        return SPECTRA_OK;
    float *more = realloc(pd->host, (size_t)floats * sizeof *more);
    if (!more)
        return fail(SPECTRA_ENOMEM, "attention on %s: no memory for %lld numbers",
                    device_name(pd->dev), (long long)floats);
    pd->host = more;
    pd->host_floats = floats;
    return SPECTRA_OK;
}

/* Defaults and what was given, for every head of the batch; again when the batch is another. */
static spectra_status base_update(performer_device *pd, int64_t batch)
{
    const spectra_attention *att = pd->att;
    const int64_t heads = batch * att->desc.H, stride = cuda_whole(cuda_parameters(att));
    const int64_t bytes = heads * stride * (int64_t)sizeof(float);
    float s[MAX_SCALARS], v[MAX_VECTORS * 256];
    if (pd->base_batch == batch)
        return SPECTRA_OK;
    TRY(cuda_host_room(pd, heads * stride));
    memset(pd->host, 0, (size_t)bytes);
    for (int64_t n = 0; n < heads; n++) {
        performer_given(att, n / att->desc.H, n % att->desc.H, s, v);
        pack(att, s, v, NULL, pd->host + n * stride);
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

spectra_status cuda_given_update(performer_device *pd)
{
    const spectra_attention *att = pd->att;
    const int64_t bytes = att->plan.M * att->plan.D * (int64_t)sizeof(double);
    const int64_t batch = pd->base_batch;
    pd->base_batch = 0;
    if (batch > 0)
        TRY(base_update(pd, batch));
    if (!cuda_counts(att))
        return SPECTRA_OK;
    if (!pd->uniform)
        TRY(device_alloc(pd->dev, bytes, (void **)&pd->uniform));
    return device_write(pd->dev, pd->uniform, att->uniform, bytes);
}

/* Bits of the scalars and vectors that were given. */
static unsigned given_bits(const spectra_attention *att)
{
    const feature_info *f = att->feature;
    unsigned bits = 0;
    for (int i = 0; i < f->scalars; i++)
        bits |= att->scalar[i].data ? 1u << i : 0;
    for (int i = 0; i < f->vectors; i++)
        bits |= att->vector[i].data ? 1u << (f->scalars + i) : 0;
    return bits;
}

/* Moments, parameters, counts: three launches at most, or a copy of what was given. */
static spectra_status device_prepare(performer_device *pd, const cuda_layout *l,
                                     const params_cuda_args *args)
{
    const int64_t rows = 128, M = pd->att->plan.M;
    if (pd->kernel[PARAMS_OF]) {
        if (pd->kernel[MOMENTS_OF]) /* else what adapt would make of them is given */
            TRY(cuda_launch(pd, MOMENTS_OF, l->splits, l->heads, 2, args, sizeof *args));
        TRY(cuda_launch(pd, PARAMS_OF, l->heads, 1, 1, args, sizeof *args));
    } else {
        TRY(device_copy(pd->dev, args->params, pd->base,
                        l->heads * l->params * (int64_t)sizeof(float)));
    }
    if (!cuda_counts(pd->att))
        return SPECTRA_OK;
    return cuda_launch(pd, COUNTS_OF, (M + rows - 1) / rows, l->heads, 1, args, sizeof *args);
}

/* ---- by the host ----------------------------------------------------------------------------- */

/* Rows of one side brought back: as floats, with the arrays that say where sequences are. */
typedef struct host_side {
    float *x;
    int64_t *begin, *len;
    uint8_t *mask;
} host_side;

static void host_side_free(host_side *s)
{
    free(s->x);
    free(s->begin);
    free(s->len);
    free(s->mask);
    *s = (host_side){0};
}

static spectra_status bring(device *dev, const void *from, int64_t bytes, void *out_)
{
    void **out = out_;
    if (!from)
        return SPECTRA_OK;
    *out = malloc((size_t)(bytes ? bytes : 1));
    if (!*out)
        return fail(SPECTRA_ENOMEM, "attention on %s: no memory for %lld bytes", device_name(dev),
                    (long long)bytes);
    return device_read(dev, *out, from, bytes);
}

static spectra_status bring_side(const performer_device *pd, const spectra_problem *p,
                                 const spectra_rows *x, const int64_t *begin, const int64_t *len,
                                 const uint8_t *mask, int64_t padded, host_side *out)
{
    const int64_t H = pd->att->desc.H, D = pd->att->plan.D, B = p->B;
    int64_t rows = padded, total = B * padded;
    TRY(bring(pd->dev, begin, B * (int64_t)sizeof *begin, &out->begin));
    TRY(bring(pd->dev, len, B * (int64_t)sizeof *len, &out->len));
    if (out->begin)
        rows = total = rows_total(out->begin, out->len, B, padded);
    const int64_t floats = (out->begin ? 0 : (B - 1) * x->stride_b) + (H - 1) * x->stride_h +
                           (rows - 1) * x->stride_t + D;
    const int64_t element = pd->bf16 ? 2 : 4;
    TRY(bring(pd->dev, mask, total, &out->mask));
    out->x = malloc((size_t)floats * sizeof(float));
    if (!out->x)
        return fail(SPECTRA_ENOMEM, "attention on %s: no memory for %lld numbers",
                    device_name(pd->dev), (long long)floats);
    TRY(device_read(pd->dev, out->x, x->data, floats * element));
    if (pd->bf16)
        bf16_widen(out->x, floats);
    return SPECTRA_OK;
}

static performer_tokens tokens_of(const spectra_attention *att, const spectra_rows *x,
                                  const host_side *s, int64_t padded, int64_t b, int64_t h)
{
    spectra_rows rows = *x;
    rows.data = s->x;
    return performer_tokens_of(att, &rows, s->begin, s->len, s->mask, padded, b, h);
}

static spectra_status host_prepare(performer_device *pd, const spectra_problem *p,
                                   const cuda_layout *l, const spectra_rows *q,
                                   const spectra_rows *k, float *saved)
{
    const spectra_attention *att = pd->att;
    const int64_t block = performer_block_floats(att), moments = MOMENTS * att->plan.DP;
    const int64_t scratch = performer_head_scratch(att);
    host_side x = {0}, y = {0};
    float *room = aligned_alloc(
        PERFORMER_ALIGN,
        (size_t)performer_align(block + performer_align(moments) + scratch) * sizeof *room);
    spectra_status status =
        room ? cuda_host_room(pd, l->heads * l->params)
             : fail(SPECTRA_ENOMEM, "attention on %s: out of memory", device_name(pd->dev));
    if (status == SPECTRA_OK)
        status = bring_side(pd, p, q, p->q_begin, p->q_len, p->q_mask, p->T, &x);
    if (status == SPECTRA_OK)
        status = bring_side(pd, p, k, p->k_begin, p->k_len, p->k_mask, p->S, &y);
    for (int64_t n = 0; n < l->heads && status == SPECTRA_OK; n++) {
        const int64_t b = n / att->desc.H, h = n % att->desc.H;
        const performer_tokens a = tokens_of(att, q, &x, p->T, b, h);
        const performer_tokens c = tokens_of(att, k, &y, p->S, b, h);
        attn_plan plan;
        attn_params params;
        performer_prepare(att, b, h, &a, &c, room + block, room,
                          room + block + performer_align(moments));
        performer_view(att, room, &plan, &params);
        pack(att, params.s, params.v, params.linear, pd->host + n * l->params);
    }
    if (status == SPECTRA_OK)
        status = device_write(pd->dev, saved + l->at_params, pd->host,
                              l->heads * l->params * (int64_t)sizeof(float));
    host_side_free(&x);
    host_side_free(&y);
    free(room);
    return status;
}

spectra_status cuda_params_prepare(performer_device *pd, const attention_device_problem *x,
                                   const cuda_layout *l, const attention_device_views *views,
                                   float *saved, float *work)
{
    const spectra_problem *p = &x->p;
    const spectra_rows *q = &views->q, *k = &views->k;
    const spectra_attention *att = pd->att;
    const int64_t M = att->plan.M;
    if (by_host(att))
        return host_prepare(pd, p, l, q, k, saved);
    TRY(base_update(pd, p->B));
    const params_cuda_args args = {
        .q = cuda_rows_of(*q),
        .k = cuda_rows_of(*k),
        .q_begin = p->q_begin,
        .q_len = p->q_len,
        .k_begin = p->k_begin,
        .k_len = p->k_len,
        .q_mask = p->q_mask,
        .k_mask = p->k_mask,
        .part = work + l->at_moments,
        .base = pd->base,
        .params = saved + l->at_params,
        .uniform = pd->uniform,
        .w = saved + l->at_w,
        .w2 = saved + l->at_counts + l->heads * 2 * M,
        .counts = saved + l->at_counts,
        .B = p->B,
        .H = att->desc.H,
        .T = p->T,
        .S = p->S,
        .splits = l->splits,
        .params_stride = l->params,
        .w_stride = l->w,
        .scale = att->plan.scale,
        .given = given_bits(att),
        .counts_law = (int)att->feature->counts,
        .counts_slot = att->feature->counts_scalar,
    };
    return device_prepare(pd, l, &args);
}
