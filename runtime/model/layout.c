#include "model/internal.h"

#include "base/status.h"
#include "math/draw.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A name is a group ("model.transformer_0.") and the tensor's own. */
enum { GROUP_SIZE = 48 };

/* A tensor without a param lies behind the one before it and is addressed with it. */
typedef struct tensor_row {
    param_id id;
    const char *name;
    dim_id rows, columns; /* columns DIM_ONE: a vector */
} tensor_row;

static const tensor_row layer_tensors[] = {
    {PARAM_NORM1, "norm1.weight", DIM_EMBED, DIM_ONE},
    {PARAM_NONE, "norm1.bias", DIM_EMBED, DIM_ONE},
    {PARAM_QKV, "mha.W_q.weight", DIM_INNER, DIM_EMBED},
    {PARAM_NONE, "mha.W_k.weight", DIM_INNER, DIM_EMBED},
    {PARAM_NONE, "mha.W_v.weight", DIM_INNER, DIM_EMBED},
    {PARAM_QKV_BIAS, "mha.W_q.bias", DIM_INNER, DIM_ONE},
    {PARAM_NONE, "mha.W_k.bias", DIM_INNER, DIM_ONE},
    {PARAM_NONE, "mha.W_v.bias", DIM_INNER, DIM_ONE},
    {PARAM_OUT, "mha.ff.weight", DIM_EMBED, DIM_INNER},
    {PARAM_OUT_BIAS, "mha.ff.bias", DIM_EMBED, DIM_ONE},
    {PARAM_NORM2, "norm2.weight", DIM_EMBED, DIM_ONE},
    {PARAM_NONE, "norm2.bias", DIM_EMBED, DIM_ONE},
    {PARAM_W1, "mlpblock.0.weight", DIM_HIDDEN, DIM_EMBED},
    {PARAM_W1_BIAS, "mlpblock.0.bias", DIM_HIDDEN, DIM_ONE},
    {PARAM_W2, "mlpblock.3.weight", DIM_EMBED, DIM_HIDDEN},
    {PARAM_W2_BIAS, "mlpblock.3.bias", DIM_EMBED, DIM_ONE},
};

static const tensor_row head_tensors[] = {
    {PARAM_NORM, "model.norm.weight", DIM_EMBED, DIM_ONE},
    {PARAM_NONE, "model.norm.bias", DIM_EMBED, DIM_ONE},
    {PARAM_HEAD1, "seq_classifer.mlpblock.0.weight", DIM_HIDDEN, DIM_JOINED},
    {PARAM_HEAD1_BIAS, "seq_classifer.mlpblock.0.bias", DIM_HIDDEN, DIM_ONE},
    {PARAM_HEAD2, "seq_classifer.mlpblock.2.weight", DIM_CLASSES, DIM_HIDDEN},
    {PARAM_HEAD2_BIAS, "seq_classifer.mlpblock.2.bias", DIM_CLASSES, DIM_ONE},
};

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

static void add_rows(model *m, const char *group, const tensor_row *row, size_t count,
                     int64_t offset[PARAMS])
{
    for (size_t i = 0; i < count; i++) {
        const int64_t at =
            add(m, group, row[i].name, row[i].columns == DIM_ONE ? 1 : 2,
                plan_dim(&m->config, row[i].rows), plan_dim(&m->config, row[i].columns));
        if (row[i].id)
            offset[row[i].id] = at;
    }
}

/* What the attention of layer l trains: without slots, as attentions make their gradients whole. */
static void add_trained(model *m, int64_t l)
{
    const spectra_attention *att = m->attention[l];
    for (int i = 0; i < spectra_attention_trained_count(att); i++) {
        char name[NAME_SIZE];
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
        char group[GROUP_SIZE] = "model.transformer.";
        if (!c->tied)
            snprintf(group, sizeof group, "model.transformer_%lld.", (long long)l);
        if (c->tied && l > 0)
            memcpy(m->offset[l], m->offset[0], sizeof m->offset[l]);
        else
            add_rows(m, group, layer_tensors, sizeof layer_tensors / sizeof layer_tensors[0],
                     m->offset[l]);
    }
    add_rows(m, "", head_tensors, sizeof head_tensors / sizeof head_tensors[0],
             m->offset[c->layers]);
}

spectra_status model_layout(model *m)
{
    m->offset = calloc((size_t)m->config.layers + 1, sizeof *m->offset);
    if (!m->offset)
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
