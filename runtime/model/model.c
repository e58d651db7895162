#include "model/model.h"

#include "attention/attention.h"
#include "base/status.h"
#include "kernel/registry.h"
#include "math/blas.h"
#include "model/internal.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- making a model -----------------------------------------------------------------------------
 */

static spectra_status check_config(const model_config *c)
{
    const struct {
        const char *name;
        int64_t value, low, high;
    } limit[] = {
        {"vocabulary", c->vocab, 1, 1 << 24},    {"length", c->length, 1, 1 << 24},
        {"classes", c->classes, 1, 1 << 20},     {"model width", c->embed, 1, 1 << 14},
        {"hidden width", c->hidden, 1, 1 << 16}, {"heads", c->heads, 1, 1024},
        {"head size", c->head_dim, 1, 256},      {"layers", c->layers, 1, MAX_LAYERS},
    };
    for (size_t i = 0; i < sizeof limit / sizeof limit[0]; i++)
        if (limit[i].value < limit[i].low || limit[i].value > limit[i].high)
            return fail(SPECTRA_EINVAL, "model: %s %lld, allowed are %lld to %lld", limit[i].name,
                        (long long)limit[i].value, (long long)limit[i].low,
                        (long long)limit[i].high);
    const struct {
        const char *name;
        double value;
    } rate[] = {{"dropout", c->dropout}, {"attention dropout", c->attention_dropout}};
    for (size_t i = 0; i < sizeof rate / sizeof rate[0]; i++)
        if (!(rate[i].value >= 0 && rate[i].value < 1))
            return fail(SPECTRA_EINVAL, "model: %s %g, allowed are 0 <= p < 1", rate[i].name,
                        rate[i].value);
    return SPECTRA_OK;
}

static spectra_status find_ops(row_ops *op)
{
    const struct {
        const char *name;
        const row_op **at;
    } wanted[] = {{"layernorm", &op->layernorm},
                  {"gelu", &op->gelu},
                  {"dropout_residual", &op->dropout_residual},
                  {"relu", &op->relu},
                  {"cross_entropy", &op->cross_entropy}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        TRY(registry_row(wanted[i].name, wanted[i].at));
    op->products = registry_products();
    return SPECTRA_OK;
}

static spectra_status copy_text(const char **text)
{
    if (!*text)
        return SPECTRA_OK;
    char *copy = strdup(*text);
    *text = copy;
    return copy ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "model: out of memory");
}

static spectra_status make_attentions(model *m)
{
    model_config *c = &m->config;
    m->attentions = c->tied ? 1 : c->layers;
    m->attention = calloc((size_t)m->attentions, sizeof *m->attention);
    if (!m->attention)
        return fail(SPECTRA_ENOMEM, "model: out of memory");
    for (int64_t l = 0; l < m->attentions; l++) {
        spectra_attention_desc desc = c->attention;
        desc.layer = l;
        TRY(spectra_attention_new(&desc, &m->attention[l]));
        if (m->attention[l]->kind->traits & ATTENTION_SHARED_QK)
            return fail(SPECTRA_EUNSUPPORTED, "the model has no layer whose q and k are the same");
    }
    return SPECTRA_OK;
}

static spectra_status make_buffers(model *m)
{
    const model_config *c = &m->config;
    int64_t widest = c->embed > c->hidden ? c->embed : c->hidden;
    size_t bytes = ((size_t)m->at.count * sizeof(float) + 63) / 64 * 64;
    m->params = aligned_alloc(64, bytes);
    m->grads = aligned_alloc(64, bytes);
    m->ones = malloc((size_t)widest * sizeof *m->ones);
    if (!m->params || !m->grads || !m->ones)
        return fail(SPECTRA_ENOMEM, "model: no memory for %lld parameters", (long long)m->at.count);
    memset(m->grads, 0, bytes);
    for (int64_t i = 0; i < widest; i++)
        m->ones[i] = 1;
    return SPECTRA_OK;
}

static spectra_status model_fill(model *m)
{
    spectra_attention_desc *a = &m->config.attention;
    const char **const text[] = {&a->attn, &a->feat, &a->kernel, &a->options};
    const char *given[] = {a->attn, a->feat, a->kernel, a->options};
    for (int i = 0; i < 4; i++)
        *text[i] = NULL; /* model_free must never see the caller's */
    for (int i = 0; i < 4; i++) {
        const char *copy = given[i];
        TRY(copy_text(&copy));
        *text[i] = copy;
    }
    a->H = m->config.heads;
    a->D = a->DV = m->config.head_dim;
    a->seed = m->config.seed;
    TRY(blas_open());
    TRY(find_ops(&m->op));
    TRY(make_attentions(m));
    TRY(model_layout(m));
    TRY(make_buffers(m));
    model_init_params(m);
    return SPECTRA_OK;
}

spectra_status model_new(const model_config *config, model **out)
{
    TRY(check_config(config));
    model *m = calloc(1, sizeof *m);
    if (!m)
        return fail(SPECTRA_ENOMEM, "model: out of memory");
    m->config = *config;
    spectra_status status = model_fill(m);
    if (status != SPECTRA_OK) {
        model_free(m);
        return status;
    }
    *out = m;
    return SPECTRA_OK;
}

void model_free(model *m)
{
    if (!m)
        return;
    for (int64_t l = 0; m->attention && l < m->attentions; l++)
        spectra_attention_free(m->attention[l]);
    free(m->attention);
    arena_release(&m->index);
    arena_release(&m->values);
    free(m->layer);
    free(m->tensor);
    free(m->name);
    free(m->params);
    free(m->grads);
    free(m->ones);
    free((char *)(uintptr_t)m->config.attention.attn);
    free((char *)(uintptr_t)m->config.attention.feat);
    free((char *)(uintptr_t)m->config.attention.kernel);
    free((char *)(uintptr_t)m->config.attention.options);
    free(m);
}

/* ---- looking at it ------------------------------------------------------------------------------
 */

const model_config *model_config_of(const model *m)
{
    return &m->config;
}

int64_t model_param_count(const model *m)
{
    return m->at.count;
}

int model_tensor_count(const model *m)
{
    return (int)m->tensors;
}

const model_tensor *model_tensor_at(const model *m, int i)
{
    return &m->tensor[i];
}

float *model_params(model *m)
{
    return m->params;
}

float *model_grads(model *m)
{
    return m->grads;
}

spectra_attention *model_attention(model *m, int64_t layer)
{
    return m->attention[layer % m->attentions];
}

void model_zero_grads(model *m)
{
    memset(m->grads, 0, (size_t)m->at.count * sizeof *m->grads);
}

double model_grad_norm(const model *m)
{
    double sum = 0;
    for (int64_t i = 0; i < m->at.count; i++)
        sum += (double)m->grads[i] * (double)m->grads[i];
    return sqrt(sum);
}

void model_set_timing(model *m, model_timing *timing)
{
    m->timing = timing;
}

int64_t model_bytes(const model *m)
{
    return 2 * m->at.count * (int64_t)sizeof(float) + m->index.size + m->values.size;
}

/* ---- divergence ---------------------------------------------------------------------------------
 */

/* Index of the first NaN or Inf, or -1. */
static int64_t first_bad(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return i;
    return -1;
}

static spectra_status bad_tensor(const model *m, const float *flat, const char *what)
{
    for (int64_t i = 0; i < m->tensors; i++) {
        const model_tensor *t = &m->tensor[i];
        int64_t at = first_bad(flat + t->offset, t->shape[0] * t->shape[1]);
        if (at >= 0)
            return fail(SPECTRA_EDIVERGED, "diverged: %s %s has %g at element %lld", what, t->name,
                        (double)flat[t->offset + at], (long long)at);
    }
    return SPECTRA_OK;
}

/* The first array of the pass with something that is not a number. In evaluation the layers share
 * their memory, so that only the ends can be told. */
static spectra_status diverged(const pass *p)
{
    const model *m = p->m;
    const model_config *c = &m->config;
    const activations *act = &m->act;
    const int64_t R = m->pack.rows, E = c->embed, HD = model_inner(c);
    TRY(bad_tensor(m, m->params, "parameter"));
    if (p->train && first_bad(act->x[0], R * E) >= 0)
        return fail(SPECTRA_EDIVERGED, "diverged: NaN or Inf first in the embeddings");
    for (int64_t l = 0; p->train && l < c->layers; l++) {
        const layer_values *v = &act->layer[l];
        const struct {
            const char *name;
            const float *x;
            int64_t width;
        } part[] = {{"projections q, k, v", v->qkv, 3 * HD},
                    {"attention output", v->mixed, HD},
                    {"sum after the attention", v->middle, E},
                    {"hidden units", v->hidden, c->hidden},
                    {"output", act->x[l + 1], E}};
        for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
            int64_t at = first_bad(part[i].x, R * part[i].width);
            if (at >= 0)
                return fail(SPECTRA_EDIVERGED,
                            "diverged: NaN or Inf first in the %s of layer %lld, sequence %lld",
                            part[i].name, (long long)l,
                            (long long)m->pack.sequence[at / part[i].width]);
        }
    }
    if (first_bad(act->pooled, m->pack.sequences * E) >= 0)
        return fail(SPECTRA_EDIVERGED, "diverged: NaN or Inf first in the pooled vectors");
    return fail(SPECTRA_EDIVERGED, "diverged: NaN or Inf first in the scores");
}

/* ---- passes -------------------------------------------------------------------------------------
 */

spectra_status model_check_batch(const model *m, const model_batch *batch, bool labels)
{
    if (batch->B < 1)
        return fail(SPECTRA_ESHAPE, "model: a batch of %lld examples, allowed is at least 1",
                    (long long)batch->B);
    for (int side = 0; side < (m->config.dual ? 2 : 1); side++)
        if (!batch->ids[side])
            return fail(SPECTRA_EINVAL, "model: sequence %d of the examples is missing", side);
    int64_t rows = batch->B * m->config.length * (m->config.dual ? 2 : 1);
    if (batch->B > INT32_MAX || rows > INT32_MAX)
        return fail(SPECTRA_ESHAPE, "model: a batch of %lld positions, allowed are 2^31-1",
                    (long long)rows);
    if (labels && !batch->label)
        return fail(SPECTRA_EINVAL, "model: a loss needs labels");
    for (int64_t b = 0; labels && b < batch->B; b++)
        if (batch->label[b] < 0 || batch->label[b] >= m->config.classes)
            return fail(SPECTRA_EINVAL, "model: label %d of example %lld, allowed are 0 to %lld",
                        (int)batch->label[b], (long long)b, (long long)(m->config.classes - 1));
    return SPECTRA_OK;
}

/* Forward with everything checked; loss NULL: scores only. */
static spectra_status run_forward(pass *p, double *loss)
{
    const model *m = p->m;
    TRY(model_check_batch(m, p->batch, loss != NULL));
    TRY(model_prepare(p));
    const float *theta = m->params + m->at.trained;
    for (int64_t l = 0; l < m->attentions; l++) {
        spectra_attention_trained_set(m->attention[l], theta);
        theta += spectra_attention_trained_floats(m->attention[l]);
    }
    TRY(forward_layers(p));
    forward_head(p);
    if (loss)
        *loss = forward_loss(p) / (double)p->batch->B;
    /* the head's rectifier may turn a NaN into 0: look before it, too */
    if ((loss && !isfinite(*loss)) ||
        first_bad(m->act.pooled, m->pack.sequences * m->config.embed) >= 0 ||
        first_bad(m->act.scores, p->batch->B * m->config.classes) >= 0)
        return diverged(p);
    return SPECTRA_OK;
}

static void copy_scores(const pass *p, float *scores)
{
    if (scores)
        memcpy(scores, p->m->act.scores,
               (size_t)(p->batch->B * p->m->config.classes) * sizeof *scores);
}

spectra_status model_forward(model *m, const model_batch *batch, float *scores, double *loss)
{
    pass p = {.m = m, .batch = batch, .threads = omp_get_max_threads()};
    double value = 0;
    TRY(run_forward(&p, loss ? &value : NULL));
    copy_scores(&p, scores);
    if (loss)
        *loss = value;
    return SPECTRA_OK;
}

spectra_status model_step(model *m, const model_batch *batch, uint64_t step, uint64_t part,
                          double scale, float *scores, double *loss)
{
    if (step > UINT32_MAX || part >= MAX_PARTS)
        return fail(SPECTRA_EINVAL, "model: step %llu, part %llu; allowed are below 2^32 and %d",
                    (unsigned long long)step, (unsigned long long)part, (int)MAX_PARTS);
    pass p = {.m = m,
              .batch = batch,
              .train = true,
              .step = step,
              .part = part,
              .scale = scale,
              .threads = omp_get_max_threads()};
    double value = 0;
    TRY(run_forward(&p, &value));
    TRY(backward(&p));
    TRY(bad_tensor(m, m->grads, "gradient of"));
    copy_scores(&p, scores);
    if (loss)
        *loss = value;
    return SPECTRA_OK;
}
