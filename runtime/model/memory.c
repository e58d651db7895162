#include "model/internal.h"

#include <stdlib.h>
#include <string.h>

/* Where in the arena of values an array begins; it ends where the next one does, so that sizes are
 * those that were taken. What is not named belongs to the one before. */
typedef struct mark {
    const char *name;
    const char *at;
} mark;

typedef struct marks {
    mark *mark;
    int64_t count;
} marks;

static void add(marks *k, const char *name, const void *at)
{
    if (at)
        k->mark[k->count++] = (mark){name, at};
}

static int by_address(const void *a, const void *b)
{
    const mark *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

static void mark_all(const model *m, marks *k)
{
    const activations *act = &m->act;
    add(k, "inputs of layers", act->x);
    for (int64_t l = 0; l < m->config.layers; l++) {
        const layer_values *v = &act->layer[l];
        if (l > 0 && v->qkv == act->layer[0].qkv)
            break; /* evaluation: all layers share one */
        add(k, "q, k, v", v->qkv);
        add(k, "attention outputs", v->mixed);
        add(k, "sums after attention", v->middle);
        add(k, "hidden units", v->hidden);
        add(k, "kept by attention", v->saved[0]);
        add(k, "kept by attention", v->saved[1]);
    }
    add(k, "work of attention", act->work);
    add(k, "transposed weights", act->turned);
    add(k, "head", act->pooled);
    add(k, "chunks' scratch", act->local);
    add(k, "gradient of the stream", act->g);
    add(k, "gradient of attention outputs", act->g_mixed);
    add(k, "gradient of q, k, v", act->g_qkv);
    add(k, "partial gradients", act->slots);
}

static void count(model_part *out, int *parts, const char *name, int64_t bytes)
{
    int i = 0;
    while (i < *parts && strcmp(out[i].name, name) != 0)
        i++;
    if (i == *parts)
        out[(*parts)++] = (model_part){name, 0};
    out[i].bytes += bytes;
}

int model_parts(const model *m, model_part out[MODEL_PARTS])
{
    const int64_t params = m->at.count * (int64_t)sizeof(float);
    const char *end = m->values.base + m->values.used;
    int parts = 0;
    count(out, &parts, "parameters", params);
    count(out, &parts, "gradients", params);
    count(out, &parts, "rows of the batch", m->index.size);
    marks k = {.mark = malloc((size_t)(9 + 6 * m->config.layers) * sizeof *k.mark)};
    if (!k.mark || !m->act.layer) {
        free(k.mark);
        count(out, &parts, "activations", m->values.size);
        return parts;
    }
    mark_all(m, &k);
    qsort(k.mark, (size_t)k.count, sizeof *k.mark, by_address);
    for (int64_t i = 0; i < k.count; i++) {
        const char *next = i + 1 < k.count ? k.mark[i + 1].at : end;
        count(out, &parts, k.mark[i].name, next - k.mark[i].at);
    }
    count(out, &parts, "spare", m->values.base + m->values.size - end);
    free(k.mark);
    return parts;
}
