#include "model/device.h"

#include "base/status.h"
#include "model/device_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- making one ---------------------------------------------------------------------------------
 */

static int64_t padded_bytes(const model_device *md)
{
    return md->padded * (int64_t)sizeof(float);
}

/* The tail behind the parameters is updated with them: it is 0 and stays 0. */
static spectra_status make_buffers(model_device *md)
{
    const int64_t count = md->m->at.count;
    float **const buffer[] = {&md->params, &md->grads, &md->moment[0], &md->moment[1]};
    md->padded = (count + UPDATE_ROW - 1) / UPDATE_ROW * UPDATE_ROW;
    for (size_t i = 0; i < sizeof buffer / sizeof buffer[0]; i++) {
        void *memory = NULL;
        TRY(device_alloc(md->dev, padded_bytes(md), &memory));
        *buffer[i] = memory;
        TRY(device_zero(md->dev, memory, padded_bytes(md)));
    }
    void *parts = NULL;
    TRY(device_alloc(md->dev, NORM_BLOCKS * (int64_t)(sizeof(double) + sizeof(int64_t)), &parts));
    md->norm_part = parts;
    return SPECTRA_OK;
}

static spectra_status make_journal(model_device *md)
{
    const model_device_options *o = &md->options;
    md->journal_words = JOURNAL_HEAD + 2 * o->batch;
    int64_t bytes = o->entries * md->journal_words * (int64_t)sizeof(int);
    void *memory = NULL;
    TRY(device_alloc(md->dev, bytes, &memory));
    md->journal = memory;
    md->journal_host = malloc((size_t)bytes);
    md->entry_B = calloc((size_t)o->entries, sizeof *md->entry_B);
    if (!md->journal_host || !md->entry_B)
        return fail(SPECTRA_ENOMEM, "model: out of memory");
    return SPECTRA_OK;
}

static spectra_status model_device_fill(model_device *md)
{
    const model *m = md->m;
    md->attention = calloc((size_t)m->attentions, sizeof *md->attention);
    if (!md->attention)
        return fail(SPECTRA_ENOMEM, "model: out of memory");
    TRY(values_new(m->config.layers, &md->v));
    TRY(md_load_kernels(md));
    for (int64_t l = 0; l < m->attentions; l++)
        TRY(attention_device_new(m->attention[l], md->dev, md->options.tf32, &md->attention[l]));
    TRY(make_buffers(md));
    TRY(make_journal(md));
    return model_device_push(md, NULL);
}

spectra_status model_device_new(model *m, device *dev, const model_device_options *options,
                                model_device **out)
{
    if (options->batch < 1 || options->entries < 1)
        return fail(SPECTRA_EINVAL, "model: %lld examples, %lld entries; allowed are at least 1",
                    (long long)options->batch, (long long)options->entries);
    model_device *md = calloc(1, sizeof *md);
    if (!md)
        return fail(SPECTRA_ENOMEM, "model: out of memory");
    md->m = m;
    md->dev = dev;
    md->options = *options;
    spectra_status status = model_device_fill(md);
    if (status != SPECTRA_OK) {
        model_device_free(md);
        return status;
    }
    *out = md;
    return SPECTRA_OK;
}

void model_device_free(model_device *md)
{
    if (!md)
        return;
    md_forget(md);
    for (int64_t l = 0; md->attention && l < md->m->attentions; l++)
        attention_device_free(md->attention[l]);
    void *const held[] = {md->params,    md->grads,  md->moment[0], md->moment[1],
                          md->norm_part, md->memory, md->uploaded,  md->journal};
    for (size_t i = 0; i < sizeof held / sizeof held[0]; i++)
        device_free(md->dev, held[i]);
    free(md->attention);
    values_free(&md->v);
    free(md->staging);
    free(md->journal_host);
    free(md->entry_B);
    free(md);
}

int64_t model_device_bytes(const model_device *md)
{
    return 4 * padded_bytes(md) + md->memory_bytes + md->upload_bytes +
           md->options.entries * md->journal_words * (int64_t)sizeof(int) +
           NORM_BLOCKS * (int64_t)(sizeof(double) + sizeof(int64_t));
}

int64_t model_device_replays(const model_device *md)
{
    return md->replays;
}

/* ---- parameters ---------------------------------------------------------------------------------
 */

/* What the attentions make of the host's trained parameters, and what they keep on the device. */
static spectra_status attentions_changed(model_device *md)
{
    const model *m = md->m;
    model_set_trained(m);
    for (int64_t l = 0; l < m->attentions; l++)
        TRY(attention_device_changed(md->attention[l]));
    return SPECTRA_OK;
}

spectra_status model_device_push(model_device *md, const float *const moments[2])
{
    const int64_t bytes = md->m->at.count * (int64_t)sizeof(float);
    TRY(device_write(md->dev, md->params, md->m->params, bytes));
    for (int i = 0; i < 2 && moments; i++)
        TRY(device_write(md->dev, md->moment[i], moments[i], bytes));
    return attentions_changed(md);
}

spectra_status model_device_pull(model_device *md, float *const moments[2])
{
    const int64_t bytes = md->m->at.count * (int64_t)sizeof(float);
    TRY(device_read(md->dev, md->m->params, md->params, bytes));
    TRY(device_read(md->dev, md->m->grads, md->grads, bytes));
    for (int i = 0; i < 2 && moments; i++)
        TRY(device_read(md->dev, moments[i], md->moment[i], bytes));
    return SPECTRA_OK;
}

spectra_status model_device_zero_grads(model_device *md)
{
    return device_zero(md->dev, md->grads, padded_bytes(md));
}

static int64_t trained_floats(const model *m)
{
    return m->at.dense - m->at.trained;
}

/* Attentions that train something make their matrices on the host. So a step of a model with such
 * attentions waits for the device twice: here, and for the gradients. */
static spectra_status fetch_trained(model_device *md)
{
    const model *m = md->m;
    int64_t n = trained_floats(m);
    if (n == 0)
        return SPECTRA_OK;
    TRY(device_read(md->dev, m->params + m->at.trained, md->params + m->at.trained,
                    n * (int64_t)sizeof(float)));
    return attentions_changed(md);
}

static spectra_status add_trained_gradients(model_device *md)
{
    const model *m = md->m;
    int64_t n = trained_floats(m), bytes = n * (int64_t)sizeof(float);
    if (n == 0)
        return SPECTRA_OK;
    float *g = m->grads + m->at.trained;
    TRY(device_read(md->dev, g, md->grads + m->at.trained, bytes));
    for (int64_t l = 0; l < m->attentions; l++) {
        int64_t own = spectra_attention_trained_floats(m->attention[l]);
        if (own > 0)
            TRY(attention_device_gradient(md->attention[l], g));
        g += own;
    }
    return device_write(md->dev, md->grads + m->at.trained, m->grads + m->at.trained, bytes);
}

/* ---- passes -------------------------------------------------------------------------------------
 */

static void run_direct(model_device *md)
{
    md_forward(md);
    if (md->pass.train)
        md_backward(md);
}

/* The recording of this shape, or a free one, or NULL when there are too many shapes. Only training
 * passes and evaluations with labels are looked up: their launches depend on the shape alone. */
static recording *find_recording(model_device *md)
{
    for (int i = 0; i < SHAPES; i++) {
        recording *r = &md->recorded[i];
        if (r->seen == 0)
            r->shape = md->shape;
        const pass_shape *a = &r->shape, *b = &md->shape;
        if (a->train == b->train && a->B == b->B && a->rows == b->rows &&
            a->max_seqlen == b->max_seqlen)
            return r;
    }
    return NULL;
}

/* A shape's first pass runs as it is, which also gives libraries the chance to set themselves up;
 * the second is recorded. */
static spectra_status run(model_device *md)
{
    recording *r = md->options.record && md->pass.loss ? find_recording(md) : NULL;
    md->status = SPECTRA_OK;
    if (r && r->graph) {
        md->replays++;
        return device_replay(md->dev, r->graph);
    }
    if (!r || r->seen++ == 0) {
        run_direct(md);
        return md->status;
    }
    TRY(device_record_begin(md->dev));
    run_direct(md);
    spectra_status status = device_record_end(md->dev, &r->graph);
    TRY(md->status);
    TRY(status);
    return device_replay(md->dev, r->graph);
}

static spectra_status run_pass(model_device *md, const pass *p)
{
    if (p->batch->B > md->options.batch)
        return fail(SPECTRA_ESHAPE, "model: a batch of %lld examples, made for %lld",
                    (long long)p->batch->B, (long long)md->options.batch);
    if (md->entries >= md->options.entries)
        return fail(SPECTRA_EINVAL, "model: the journal's %lld entries are full",
                    (long long)md->options.entries);
    TRY(model_check_batch(md->m, p->batch, p->train));
    if (p->train)
        TRY(fetch_trained(md));
    md->pass = *p;
    TRY(md_prepare(md, md->entries));
    TRY(run(md));
    if (p->train)
        TRY(add_trained_gradients(md));
    md->last_B = p->batch->B;
    md->entry_B[md->entries++] = p->batch->B;
    md->read = 0;
    return SPECTRA_OK;
}

spectra_status model_device_forward(model_device *md, const model_batch *batch)
{
    const pass p = {.m = md->m, .batch = batch, .loss = batch->label != NULL};
    return run_pass(md, &p);
}

spectra_status model_device_step(model_device *md, const model_batch *batch, uint64_t step,
                                 uint64_t part, double scale)
{
    const pass p = {.m = md->m,
                    .batch = batch,
                    .train = true,
                    .loss = true,
                    .step = step,
                    .part = part,
                    .scale = scale};
    TRY(model_check_step(step, part));
    return run_pass(md, &p);
}

spectra_status model_device_update(model_device *md, const adamw *o, int64_t t, double lr,
                                   double beta1)
{
    md->status = SPECTRA_OK;
    md_norm(md);
    md_update(md, o, t, lr, beta1);
    return md->status;
}

/* ---- journal ------------------------------------------------------------------------------------
 */

int64_t model_device_room(const model_device *md)
{
    return md->options.entries - md->entries;
}

spectra_status model_device_read(model_device *md, int64_t *count)
{
    int64_t bytes = md->entries * md->journal_words * (int64_t)sizeof(int);
    if (bytes > 0)
        TRY(device_read(md->dev, md->journal_host, md->journal, bytes));
    md->read = md->entries;
    md->entries = 0;
    *count = md->read;
    return SPECTRA_OK;
}

static spectra_status diverged(const model_device *md, const int *entry)
{
    const model *m = md->m;
    const int64_t bad = (int64_t)(uint32_t)entry[1] | (int64_t)entry[2] << 32;
    if (entry[0] != JOURNAL_GRADIENT)
        return fail(SPECTRA_EDIVERGED, "diverged: NaN or Inf first in the %s",
                    entry[0] == JOURNAL_POOLED ? "pooled vectors" : "scores");
    for (int64_t i = 0; i < m->tensors; i++) {
        const model_tensor *t = &m->tensor[i];
        if (bad >= t->offset && bad < t->offset + t->shape[0] * t->shape[1])
            return fail(SPECTRA_EDIVERGED, "diverged: gradient of %s is NaN or Inf at element %lld",
                        t->name, (long long)(bad - t->offset));
    }
    return fail(SPECTRA_EDIVERGED, "diverged: NaN or Inf in the gradients");
}

spectra_status model_device_entry_at(const model_device *md, int64_t i, model_device_entry *out)
{
    if (i < 0 || i >= md->read)
        return fail(SPECTRA_EINVAL, "model: entry %lld of the journal, allowed are 0 to %lld",
                    (long long)i, (long long)md->read - 1);
    const int *entry = md->journal_host + i * md->journal_words;
    const int64_t B = md->entry_B[i];
    if (entry[0] != JOURNAL_GOOD)
        return diverged(md, entry);
    float norm;
    memcpy(&norm, entry + 3, sizeof norm);
    *out = (model_device_entry){.B = B,
                                .loss = (const float *)(entry + JOURNAL_HEAD),
                                .predicted = entry + JOURNAL_HEAD + B,
                                .norm = (double)norm};
    return SPECTRA_OK;
}

spectra_status model_device_scores(model_device *md, float *scores)
{
    return device_read(md->dev, scores, value_at(&md->v, SCORES, 0),
                       md->last_B * md->m->config.classes * (int64_t)sizeof *scores);
}
