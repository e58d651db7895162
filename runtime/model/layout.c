#include "model/internal.h"

#include "base/status.h"
#include "math/draw.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A name is a group ("model.transformer_0."), a module ("mha.W_q") and an ending. */
enum { GROUP_SIZE = 48, STEM_SIZE = 72 };

/* Appends a tensor; its memory follows the one before. m->tensor NULL: only counts. */
static int64_t add(model *m, const char *group, const char *name, int ndim, int64_t rows,
                   int64_t columns)
{
    int64_t offset = m->at.count;
    if (m->tensor) {
        char *text = m->name[m->tensors];
        snprintf(text, NAME_SIZE, "%s%s", group, name);
        m->tensor[m->tensors] =
            (model_tensor){.name = text, .ndim = ndim, .shape = {rows, columns}, .offset = offset};
    }
    m->tensors++;
    m->at.count += rows * columns;
    return offset;
}

static int64_t add_norm(model *m, const char *group, const char *name)
{
    char full[STEM_SIZE];
    snprintf(full, sizeof full, "%s%s", group, name);
    int64_t offset = add(m, full, ".weight", 1, m->config.embed, 1);
    add(m, full, ".bias", 1, m->config.embed, 1);
    return offset;
}

static void add_linear(model *m, const char *group, const char *name, int64_t in, int64_t out,
                       int64_t *weight, int64_t *bias)
{
    char full[STEM_SIZE];
    snprintf(full, sizeof full, "%s%s", group, name);
    *weight = add(m, full, ".weight", 2, out, in);
    *bias = add(m, full, ".bias", 1, out, 1);
}

static layer_offsets add_layer(model *m, const char *group)
{
    static const char *const projections[] = {"mha.W_q", "mha.W_k", "mha.W_v"};
    const int64_t E = m->config.embed, F = m->config.hidden, HD = model_inner(&m->config);
    layer_offsets at;
    char full[STEM_SIZE];
    at.norm1 = add_norm(m, group, "norm1");
    for (int i = 0; i < 3; i++) {
        snprintf(full, sizeof full, "%s%s", group, projections[i]);
        int64_t offset = add(m, full, ".weight", 2, HD, E);
        if (i == 0)
            at.qkv_w = offset;
    }
    for (int i = 0; i < 3; i++) {
        snprintf(full, sizeof full, "%s%s", group, projections[i]);
        int64_t offset = add(m, full, ".bias", 1, HD, 1);
        if (i == 0)
            at.qkv_b = offset;
    }
    add_linear(m, group, "mha.ff", HD, E, &at.out_w, &at.out_b);
    at.norm2 = add_norm(m, group, "norm2");
    add_linear(m, group, "mlpblock.0", E, F, &at.w1, &at.b1);
    add_linear(m, group, "mlpblock.3", F, E, &at.w2, &at.b2);
    return at;
}

/* What the attention of layer l trains: without slots, as attentions make their gradients whole. */
static void add_trained(model *m, int64_t l)
{
    const spectra_attention *att = m->attention[l];
    for (int i = 0; i < spectra_attention_trained_count(att); i++) {
        char name[STEM_SIZE];
        const spectra_trained t = spectra_attention_trained(att, i);
        if (m->config.tied)
            snprintf(name, sizeof name, "model.transformer.mha.attn.attn_fn.%s", t.name);
        else
            snprintf(name, sizeof name, "model.transformer_%lld.mha.attn.attn_fn.%s", (long long)l,
                     t.name);
        add(m, "", name, t.ndim, t.shape[0], t.shape[1]);
    }
}

static void add_all(model *m)
{
    const model_config *c = &m->config;
    m->tensors = 0;
    m->at.count = 0;
    m->at.tokens = add(m, "model.embeddings.", "word_embeddings.weight", 2, c->vocab, c->embed);
    m->at.positions =
        add(m, "model.embeddings.", "position_embeddings.weight", 2, c->length, c->embed);
    m->at.trained = m->at.count;
    for (int64_t l = 0; l < m->attentions; l++)
        add_trained(m, l);
    m->at.dense = m->at.count;
    for (int64_t l = 0; l < c->layers; l++) {
        char group[GROUP_SIZE];
        snprintf(group, sizeof group, "model.transformer_%lld.", (long long)l);
        if (c->tied)
            m->layer[l] = l == 0 ? add_layer(m, "model.transformer.") : m->layer[0];
        else
            m->layer[l] = add_layer(m, group);
    }
    m->at.norm = add_norm(m, "model.", "norm");
    add_linear(m, "seq_classifer.", "mlpblock.0", (c->dual ? 4 : 1) * c->embed, c->hidden,
               &m->at.head_w1, &m->at.head_b1);
    add_linear(m, "seq_classifer.", "mlpblock.2", c->hidden, c->classes, &m->at.head_w2,
               &m->at.head_b2);
}

spectra_status model_layout(model *m)
{
    m->layer = calloc((size_t)m->config.layers, sizeof *m->layer);
    if (!m->layer)
        return fail(SPECTRA_ENOMEM, "model: out of memory");
    add_all(m); /* counts */
    m->tensor = calloc((size_t)m->tensors, sizeof *m->tensor);
    m->name = calloc((size_t)m->tensors, sizeof *m->name);
    if (!m->tensor || !m->name)
        return fail(SPECTRA_ENOMEM, "model: out of memory");
    add_all(m);
    return SPECTRA_OK;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

static void fill(float *x, int64_t n, float value)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = value;
}

static void fill_uniform(float *x, int64_t n, const draw_stream *s, double bound)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(bound * (2 * draw_uniform(s, (uint64_t)i) - 1));
}

/* A linear layer's bias has the bound of its weight, which has the same name up to the ending. */
static int64_t fan_in(const model *m, const model_tensor *bias)
{
    size_t stem = strlen(bias->name) - strlen("bias");
    for (int64_t i = 0; i < m->tensors; i++)
        if (m->tensor[i].ndim == 2 && strncmp(m->tensor[i].name, bias->name, stem) == 0)
            return m->tensor[i].shape[1];
    return 1;
}

void model_init_params(model *m)
{
    int64_t trained = 0;
    for (int64_t i = 0; i < m->tensors; i++) {
        const model_tensor *t = &m->tensor[i];
        if (t->offset >= m->at.trained && t->offset < m->at.dense) {
            trained++;
            continue;
        }
        float *x = m->params + t->offset;
        int64_t n = t->shape[0] * t->shape[1];
        draw_stream s = draw_open(m->config.attention.rng, m->config.seed, RNG_INIT,
                                  (uint32_t)(i - trained), 0);
        bool norm = strstr(t->name, "norm") != NULL;
        if (strstr(t->name, "_embeddings"))
            for (int64_t j = 0; j < n; j++)
                x[j] = (float)(0.02 * draw_normal(&s, (uint64_t)j));
        else if (norm)
            fill(x, n, ends_with(t->name, ".weight") ? 1 : 0);
        else
            fill_uniform(x, n, &s, 1 / sqrt((double)(t->ndim == 2 ? t->shape[1] : fan_in(m, t))));
    }
    float *theta = m->params + m->at.trained;
    for (int64_t l = 0; l < m->attentions; l++) {
        spectra_attention_trained_start(m->attention[l], theta);
        theta += spectra_attention_trained_floats(m->attention[l]);
    }
}
