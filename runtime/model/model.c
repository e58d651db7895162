#include "model/model.h"

#include "attention/attention.h"
#include "base/status.h"
#include "kernel/registry.h"
#include "math/blas.h"
#include "model/call.h"
#include "model/host.h"

#include <assert.h>
#include <math.h>
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

static spectra_status find_ops(model *m)
{
    for (plan_kind i = 0; i < ROW_OPERATORS; i++)
        TRY(registry_row(row_operators[i].name, &m->row[i]));
    m->products = registry_products();
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
    size_t bytes = ((size_t)m->at.count * sizeof(float) + 63) / 64 * 64;
    m->params = aligned_alloc(64, bytes);
    m->grads = aligned_alloc(64, bytes);
    if (!m->params || !m->grads)
        return fail(SPECTRA_ENOMEM, "model: no memory for %lld parameters", (long long)m->at.count);
    memset(m->grads, 0, bytes);
    return host_new(&m->config, &m->host);
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
    TRY(find_ops(m));
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
    host_free(m->host);
    free(m->offset);
    free(m->tensor);
    free(m->name);
    free(m->params);
    free(m->grads);
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
    return 2 * m->at.count * (int64_t)sizeof(float) + m->index.size + host_bytes(m->host);
}

int model_parts(const model *m, model_part out[MODEL_PARTS])
{
    const int64_t params = m->at.count * (int64_t)sizeof(float);
    const model_part *held;
    const int count = host_parts(m->host, &held);
    int parts = 0;
    assert(count + 3 <= MODEL_PARTS);
    out[parts++] = (model_part){"parameters", params};
    out[parts++] = (model_part){"gradients", params};
    out[parts++] = (model_part){"rows of the batch", m->index.size};
    for (int i = 0; i < count; i++)
        out[parts++] = held[i];
    return parts;
}

void model_set_trained(const model *m)
{
    const float *theta = m->params + m->at.trained;
    for (int64_t l = 0; l < m->attentions; l++) {
        spectra_attention_trained_set(m->attention[l], theta);
        theta += spectra_attention_trained_floats(m->attention[l]);
    }
}

/* ---- passes -------------------------------------------------------------------------------------
 */

/* Sum of the examples' losses. */
static double loss_sum(const pass *p)
{
    const float *loss = host_value(p->m, LOSS, 0);
    double sum = 0;
    for (int64_t b = 0; b < p->batch->B; b++)
        sum += (double)loss[b];
    return sum;
}

/* Forward with everything checked. */
static spectra_status run_forward(const pass *p, double *loss)
{
    const model *m = p->m;
    const model_config *c = &m->config;
    TRY(model_check_batch(m, p->batch, p->loss));
    TRY(host_prepare(p));
    model_set_trained(m);
    TRY(host_forward(p, plan_count(c) - (p->loss ? 0 : 1))); /* the loss is the last */
    if (p->loss)
        *loss = loss_sum(p) / (double)p->batch->B;
    /* the head's rectifier may turn a NaN into 0: look before it, too */
    if ((p->loss && !isfinite(*loss)) ||
        first_bad(host_value(m, POOLED, 0), m->pack.sequences * c->embed) >= 0 ||
        first_bad(host_value(m, SCORES, 0), p->batch->B * c->classes) >= 0) {
        TRY(model_bad_tensor(m, m->params, "parameter"));
        return host_diverged(p);
    }
    return SPECTRA_OK;
}

static void copy_scores(const pass *p, float *scores)
{
    if (scores)
        memcpy(scores, host_value(p->m, SCORES, 0),
               (size_t)(p->batch->B * p->m->config.classes) * sizeof *scores);
}

spectra_status model_forward(model *m, const model_batch *batch, float *scores, double *loss)
{
    const pass p = {.m = m, .batch = batch, .loss = loss != NULL};
    double value = 0;
    TRY(run_forward(&p, &value));
    copy_scores(&p, scores);
    if (loss)
        *loss = value;
    return SPECTRA_OK;
}

spectra_status model_step(model *m, const model_batch *batch, uint64_t step, uint64_t part,
                          double scale, float *scores, double *loss)
{
    const pass p = {.m = m,
                    .batch = batch,
                    .train = true,
                    .loss = true,
                    .step = step,
                    .part = part,
                    .scale = scale};
    double value = 0;
    TRY(model_check_step(step, part));
    TRY(run_forward(&p, &value));
    TRY(host_backward(&p));
    TRY(model_bad_tensor(m, m->grads, "gradient of"));
    copy_scores(&p, scores);
    if (loss)
        *loss = value;
    return SPECTRA_OK;
}
