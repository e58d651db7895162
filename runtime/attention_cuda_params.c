/* Parameters of heads on a device: what was given, what kernels make of the heads' moments, and,
 * where a decomposition is needed, what the host makes. */
#include "attention_cuda_internal.h"

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

bool cuda_kernel_wanted(const spectra_attention *att, cuda_kernel kernel)
{
    switch (kernel) {
    case MOMENTS_OF:
    case PARAMS_OF:
        return att->feature->adapt && !by_host(att);
    case COUNTS_OF:
        return cuda_counts(att);
    default:
        return true;
    }
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

static spectra_status reserve(attention_cuda *ac, int64_t floats)
{
    if (floats <= ac->host_floats)
        return SPECTRA_OK;
    float *more = realloc(ac->host, (size_t)floats * sizeof *more);
    if (!more)
        return fail(SPECTRA_ENOMEM, "attention on %s: no memory for %lld numbers",
                    device_name(ac->dev), (long long)floats);
    ac->host = more;
    ac->host_floats = floats;
    return SPECTRA_OK;
}

/* Defaults and what was given, for every head of the batch; again when the batch is another. */
static spectra_status base_update(attention_cuda *ac, const spectra_problem *p,
                                  const cuda_layout *l)
{
    const spectra_attention *att = ac->att;
    float s[MAX_SCALARS], v[MAX_VECTORS * 256];
    void *base = NULL;
    if (ac->base_batch == p->B)
        return SPECTRA_OK;
    const int64_t bytes = l->heads * l->params * (int64_t)sizeof(float);
    TRY(reserve(ac, l->heads * l->params));
    memset(ac->host, 0, (size_t)bytes);
    for (int64_t n = 0; n < l->heads; n++) {
        performer_given(att, n / att->desc.H, n % att->desc.H, s, v);
        pack(att, s, v, NULL, ac->host + n * l->params);
    }
    TRY(device_alloc(ac->dev, bytes, &base));
    device_free(ac->dev, ac->base);
    ac->base = base;
    TRY(device_write(ac->dev, base, ac->host, bytes));
    ac->base_batch = p->B;
    return SPECTRA_OK;
}

spectra_status cuda_uniform_update(attention_cuda *ac)
{
    const spectra_attention *att = ac->att;
    const int64_t bytes = att->plan.M * att->plan.D * (int64_t)sizeof(double);
    if (!cuda_counts(att))
        return SPECTRA_OK;
    if (!ac->uniform)
        TRY(device_alloc(ac->dev, bytes, (void **)&ac->uniform));
    return device_write(ac->dev, ac->uniform, att->uniform, bytes);
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
static spectra_status device_prepare(attention_cuda *ac, const cuda_layout *l,
                                     const params_cuda_args *args)
{
    const int64_t rows = 128, M = ac->att->plan.M;
    if (ac->kernel[PARAMS_OF]) {
        TRY(cuda_launch(ac, MOMENTS_OF, l->splits, l->heads, 2, args, sizeof *args));
        TRY(cuda_launch(ac, PARAMS_OF, l->heads, 1, 1, args, sizeof *args));
    } else {
        TRY(device_copy(ac->dev, args->params, ac->base,
                        l->heads * l->params * (int64_t)sizeof(float)));
    }
    if (!ac->kernel[COUNTS_OF])
        return SPECTRA_OK;
    return cuda_launch(ac, COUNTS_OF, (M + rows - 1) / rows, l->heads, 1, args, sizeof *args);
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

/* bf16 numbers, in the first half of x, to floats in place. */
static void widen(float *x, int64_t n)
{
    const uint16_t *half = (const uint16_t *)x;
    for (int64_t i = n - 1; i >= 0; i--) {
        const uint32_t bits = (uint32_t)half[i] << 16;
        memcpy(x + i, &bits, sizeof bits);
    }
}

static spectra_status bring_side(const attention_cuda *ac, const spectra_problem *p,
                                 const spectra_rows *x, const int64_t *begin, const int64_t *len,
                                 const uint8_t *mask, int64_t padded, host_side *out)
{
    const int64_t H = ac->att->desc.H, D = ac->att->plan.D, B = p->B;
    int64_t rows = padded, total = B * padded;
    TRY(bring(ac->dev, begin, B * (int64_t)sizeof *begin, &out->begin));
    TRY(bring(ac->dev, len, B * (int64_t)sizeof *len, &out->len));
    if (out->begin)
        rows = total = rows_total(out->begin, out->len, B, padded);
    const int64_t floats = (out->begin ? 0 : (B - 1) * x->stride_b) + (H - 1) * x->stride_h +
                           (rows - 1) * x->stride_t + D;
    const int64_t element = ac->options.bf16 ? 2 : 4;
    TRY(bring(ac->dev, mask, total, &out->mask));
    out->x = malloc((size_t)floats * sizeof(float));
    if (!out->x)
        return fail(SPECTRA_ENOMEM, "attention on %s: no memory for %lld numbers",
                    device_name(ac->dev), (long long)floats);
    TRY(device_read(ac->dev, out->x, x->data, floats * element));
    if (ac->options.bf16)
        widen(out->x, floats);
    return SPECTRA_OK;
}

static performer_tokens tokens_of(const spectra_attention *att, const spectra_rows *x,
                                  const host_side *s, int64_t padded, int64_t b, int64_t h)
{
    return (performer_tokens){s->x + rows_at(x, s->begin, b, h), rows_length(s->len, b, padded),
                              x->stride_t, att->plan.scale,
                              s->mask ? s->mask + rows_first(s->begin, b, padded) : NULL};
}

static spectra_status host_prepare(attention_cuda *ac, const spectra_problem *p,
                                   const cuda_layout *l, const spectra_rows *q,
                                   const spectra_rows *k, float *saved)
{
    const spectra_attention *att = ac->att;
    const int64_t block = performer_block_floats(att), moments = MOMENTS * att->plan.DP;
    const int64_t scratch = performer_head_scratch(att);
    host_side x = {0}, y = {0};
    float *room = aligned_alloc(
        PERFORMER_ALIGN,
        (size_t)performer_align(block + performer_align(moments) + scratch) * sizeof *room);
    spectra_status status =
        room ? reserve(ac, l->heads * l->params)
             : fail(SPECTRA_ENOMEM, "attention on %s: out of memory", device_name(ac->dev));
    if (status == SPECTRA_OK)
        status = bring_side(ac, p, q, p->q_begin, p->q_len, p->q_mask, p->T, &x);
    if (status == SPECTRA_OK)
        status = bring_side(ac, p, k, p->k_begin, p->k_len, p->k_mask, p->S, &y);
    for (int64_t n = 0; n < l->heads && status == SPECTRA_OK; n++) {
        const int64_t b = n / att->desc.H, h = n % att->desc.H;
        const performer_tokens a = tokens_of(att, q, &x, p->T, b, h);
        const performer_tokens c = tokens_of(att, k, &y, p->S, b, h);
        attn_plan plan;
        attn_params params;
        performer_prepare(att, b, h, &a, &c, room + block, room,
                          room + block + performer_align(moments));
        performer_view(att, room, &plan, &params);
        pack(att, params.s, params.v, params.linear, ac->host + n * l->params);
    }
    if (status == SPECTRA_OK)
        status = device_write(ac->dev, saved + l->at_params, ac->host,
                              l->heads * l->params * (int64_t)sizeof(float));
    host_side_free(&x);
    host_side_free(&y);
    free(room);
    return status;
}

spectra_status cuda_params_prepare(attention_cuda *ac, const spectra_problem *p,
                                   const cuda_layout *l, const spectra_rows *q,
                                   const spectra_rows *k, float *saved, float *work)
{
    const spectra_attention *att = ac->att;
    const int64_t M = att->plan.M;
    if (by_host(att))
        return host_prepare(ac, p, l, q, k, saved);
    TRY(base_update(ac, p, l));
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
        .base = ac->base,
        .params = saved + l->at_params,
        .uniform = ac->uniform,
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
    return device_prepare(ac, l, &args);
}
