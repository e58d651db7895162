#include "train/checkpoint.h"

#include "attention/attention.h"
#include "base/status.h"
#include "file/safetensors.h"
#include "model/optim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 80 };

static const char *const keys[] = {"step", "evaluated", "best", "best_step"};
enum { KEYS = sizeof keys / sizeof keys[0] };

/* What, with the parameters, makes the matrices of a layer's attention; none where it shares those
 * of another. */
static int layer_constants(model *m, int64_t layer, attention_constant out[ATTENTION_CONSTANTS])
{
    bool shared = model_config_of(m)->tied && layer > 0;
    return shared ? 0 : attention_constants(model_attention(m, layer), out);
}

static void constant_name(int64_t layer, const attention_constant *c, char name[NAME_SIZE])
{
    snprintf(name, NAME_SIZE, "model.transformer_%lld.mha.attn.attn_fn.%s", (long long)layer,
             c->name);
}

spectra_status checkpoint_save(const char *path, model *m, const float *const moments[2],
                               const checkpoint *at)
{
    int64_t layers = model_config_of(m)->layers;
    int parameters = model_tensor_count(m), count = 0;
    size_t constants = (size_t)layers * ATTENTION_CONSTANTS;
    st_tensor *tensor = calloc((size_t)parameters + constants + OPTIMISER_SLOTS, sizeof *tensor);
    char(*names)[NAME_SIZE] = calloc(constants, NAME_SIZE);
    if (!tensor || !names) {
        free(tensor);
        free(names);
        return fail(SPECTRA_ENOMEM, "%s: out of memory", path);
    }
    for (int i = 0; i < parameters; i++) {
        const model_tensor *t = model_tensor_at(m, i);
        tensor[count++] = (st_tensor){
            t->name, NPY_F32, t->ndim, {t->shape[0], t->shape[1]}, model_params(m) + t->offset};
    }
    for (int64_t l = 0; l < layers; l++) {
        attention_constant held[ATTENTION_CONSTANTS];
        int n = layer_constants(m, l, held);
        for (int i = 0; i < n; i++) {
            char *name = names[l * ATTENTION_CONSTANTS + i];
            constant_name(l, &held[i], name);
            tensor[count++] = (st_tensor){
                name, NPY_F32, held[i].ndim, {held[i].shape[0], held[i].shape[1]}, held[i].data};
        }
    }
    for (int i = 0; i < OPTIMISER_SLOTS && moments; i++)
        tensor[count++] =
            (st_tensor){optimiser_adamw.slot[i], NPY_F32, 1, {model_param_count(m)}, moments[i]};
    char value[KEYS][32];
    snprintf(value[0], sizeof value[0], "%lld", (long long)at->step);
    snprintf(value[1], sizeof value[1], "%lld", (long long)at->evaluated);
    snprintf(value[2], sizeof value[2], "%.17g", at->best);
    snprintf(value[3], sizeof value[3], "%lld", (long long)at->best_step);
    const char *metadata[2 * KEYS + 3] = {"format", "spectraformer 1"};
    for (int i = 0; i < KEYS; i++) {
        metadata[2 * i + 2] = keys[i];
        metadata[2 * i + 3] = value[i];
    }
    spectra_status status = st_write(path, tensor, count, metadata);
    free(tensor);
    free(names);
    return status;
}

static spectra_status find(const st_file *f, const char *path, const char *name, int ndim,
                           const int64_t *shape, const float **data)
{
    const st_tensor *t = st_find(f, name);
    if (!t)
        return fail(SPECTRA_EFORMAT, "%s: has no tensor '%s'; it is of another model", path, name);
    bool same = t->type == NPY_F32 && t->ndim == ndim;
    for (int i = 0; i < ndim && same; i++)
        same = t->shape[i] == shape[i];
    if (!same) {
        char found[64], wanted[64];
        return fail(SPECTRA_EFORMAT, "%s: '%s' has shape %s, the model's is %s (float32)", path,
                    name, npy_shape_text(t->ndim, t->shape, found, sizeof found),
                    npy_shape_text(ndim, shape, wanted, sizeof wanted));
    }
    *data = t->data;
    return SPECTRA_OK;
}

static spectra_status read_position(const st_file *f, const char *path, checkpoint *at)
{
    double value[KEYS];
    for (int i = 0; i < KEYS; i++) {
        const char *text = st_metadata(f, keys[i]);
        char *end = NULL;
        value[i] = text ? strtod(text, &end) : -1;
        if (!text || end == text || *end || !(value[i] >= 0 && value[i] < 1e15))
            return fail(SPECTRA_EFORMAT, "%s: metadata '%s' is '%s', allowed is a number from 0",
                        path, keys[i], text ? text : "(missing)");
    }
    *at = (checkpoint){(int64_t)value[0], (int64_t)value[1], value[2], (int64_t)value[3]};
    return SPECTRA_OK;
}

/* Once over everything: with `store` false only checks. */
static spectra_status read_tensors(const st_file *f, const char *path, model *m,
                                   float *const moments[2], bool store)
{
    const float *data = NULL;
    for (int i = 0; i < model_tensor_count(m); i++) {
        const model_tensor *t = model_tensor_at(m, i);
        TRY(find(f, path, t->name, t->ndim, t->shape, &data));
        int64_t n = t->shape[0] * (t->ndim > 1 ? t->shape[1] : 1);
        if (store)
            memcpy(model_params(m) + t->offset, data, (size_t)n * sizeof *data);
    }
    for (int64_t l = 0; l < model_config_of(m)->layers; l++) {
        attention_constant held[ATTENTION_CONSTANTS];
        char name[NAME_SIZE];
        int n = layer_constants(m, l, held);
        for (int i = 0; i < n; i++) {
            int64_t size = held[i].shape[0] * held[i].shape[1];
            constant_name(l, &held[i], name);
            TRY(find(f, path, name, held[i].ndim, held[i].shape, &data));
            if (store)
                memcpy(held[i].data, data, (size_t)size * sizeof *data);
        }
        if (store && n > 0)
            attention_constants_changed(model_attention(m, l));
    }
    for (int i = 0; i < OPTIMISER_SLOTS && moments; i++) {
        int64_t n = model_param_count(m);
        TRY(find(f, path, optimiser_adamw.slot[i], 1, &n, &data));
        if (store)
            memcpy(moments[i], data, (size_t)n * sizeof *data);
    }
    return SPECTRA_OK;
}

spectra_status checkpoint_load(const char *path, model *m, float *const moments[2], checkpoint *at)
{
    st_file *f = NULL;
    TRY(st_open(path, &f));
    checkpoint position;
    spectra_status status = read_position(f, path, &position);
    if (status == SPECTRA_OK)
        status = read_tensors(f, path, m, moments, false);
    if (status == SPECTRA_OK)
        status = read_tensors(f, path, m, moments, true);
    st_close(f);
    if (status == SPECTRA_OK && at)
        *at = position;
    return status;
}
