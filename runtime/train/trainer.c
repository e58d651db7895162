#include "base/outfile.h"
#include "base/status.h"
#include "train/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

model_config learner_model(const train_config *c)
{
    const task *t = &c->task;
    return (model_config){
        .vocab = t->vocab,
        .length = t->length,
        .classes = t->classes,
        .embed = t->embed,
        .hidden = t->hidden,
        .heads = t->heads,
        .head_dim = t->head_dim,
        .layers = t->layers,
        .tied = t->tied,
        .cls = t->cls,
        .dual = t->sequences == 2,
        .dropout = t->dropout,
        .attention_dropout = t->attention_dropout,
        .seed = (uint64_t)c->seed,
        .attention = train_attention(c),
    };
}

static spectra_status open_split(learner *l, int split)
{
    const train_config *c = l->config;
    const task *t = &c->task;
    char file[32];
    snprintf(file, sizeof file, "%s.safetensors", train_split_names[split]);
    char *path = outfile_join(c->data, file);
    if (!path)
        return fail(SPECTRA_ENOMEM, "opening the data: out of memory");
    spectra_status status = dataset_open(path, &l->data[split]);
    if (status == SPECTRA_EIO)
        status = fail(SPECTRA_EIO,
                      "%s; `spectraformer data generate|prepare %s --out %s` makes prepared data",
                      spectra_message(), t->name, c->data);
    const dataset *d = l->data[split];
    const char *task_name = status == SPECTRA_OK ? dataset_metadata(d, "task") : NULL;
    if (task_name && strcmp(task_name, t->name) != 0)
        status =
            fail(SPECTRA_EINVAL, "%s: is data of %s, the task is %s", path, task_name, t->name);
    if (status == SPECTRA_OK)
        status = dataset_check(d, t->vocab, t->classes, (int)t->sequences);
    if (status == SPECTRA_OK)
        status = stream_open(d, (uint64_t)c->seed, split, t->batch, &l->stream[split]);
    free(path);
    return status;
}

static spectra_status open_device(learner *l)
{
    const train_config *c = l->config;
    const task *t = &c->task;
    const bool fast = strcmp(c->precision, "fast") == 0;
    if (fast && strcmp(c->device, "cpu") == 0)
        return fail(SPECTRA_EINVAL, "--precision fast is of devices: --device cuda or emu");
    if (strcmp(c->device, "cpu") == 0)
        return SPECTRA_OK;
    TRY(device_open(c->device, &l->dev));
    const model_device_options options = {.batch = t->batch / t->accumulate,
                                          .entries = LEARNER_STEPS * t->accumulate,
                                          .fast = fast,
                                          .record = true};
    TRY(model_device_new(l->model, l->dev, &options, &l->on_device));
    l->asked = malloc((size_t)(LEARNER_STEPS * t->batch) * sizeof *l->asked);
    return l->asked ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "a batch: out of memory");
}

spectra_status learner_pull(learner *l, float *const moments[2])
{
    return l->on_device ? model_device_pull(l->on_device, moments) : SPECTRA_OK;
}

spectra_status learner_push(learner *l, float *const moments[2])
{
    const float *const held[2] = {moments ? moments[0] : NULL, moments ? moments[1] : NULL};
    return l->on_device ? model_device_push(l->on_device, moments ? held : NULL) : SPECTRA_OK;
}

static spectra_status open_all(learner *l, unsigned splits)
{
    const task *t = &l->config->task;
    if (t->batch % t->accumulate != 0)
        return fail(SPECTRA_EINVAL, "a batch of %lld does not divide into %lld parts",
                    (long long)t->batch, (long long)t->accumulate);
    /* The model first: a wrong name is found before a file is looked for. */
    model_config settings = learner_model(l->config);
    TRY(model_new(&settings, &l->model));
    TRY(open_device(l));
    for (int split = 0; split < 3; split++)
        if (splits >> split & 1)
            TRY(open_split(l, split));
    size_t rows = (size_t)t->batch;
    l->example = malloc(rows * sizeof *l->example);
    l->label = malloc(rows * sizeof *l->label);
    l->scores = malloc(rows * (size_t)t->classes * sizeof *l->scores);
    bool full = l->example && l->label && l->scores;
    for (int side = 0; side < t->sequences; side++) {
        l->ids[side] = malloc(rows * (size_t)t->length * sizeof *l->ids[side]);
        full = full && l->ids[side];
    }
    return full ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "a batch: out of memory");
}

spectra_status learner_open(const train_config *c, unsigned splits, learner *out)
{
    learner l = {.config = c};
    spectra_status status = open_all(&l, splits);
    if (status != SPECTRA_OK) {
        learner_close(&l);
        return status;
    }
    *out = l;
    return SPECTRA_OK;
}

void learner_close(learner *l)
{
    model_device_free(l->on_device);
    device_close(l->dev);
    free(l->asked);
    if (l->model)
        model_free(l->model);
    for (int s = 0; s < 3; s++) {
        stream_close(&l->stream[s]);
        dataset_close(l->data[s]);
    }
    free(l->example);
    free(l->label);
    free(l->scores);
    free(l->ids[0]);
    free(l->ids[1]);
    *l = (learner){0};
}

void learner_load(learner *l, train_split split, int64_t index)
{
    const task *t = &l->config->task;
    stream_batch(&l->stream[split], index, l->example);
    l->tokens = 0;
    for (int64_t b = 0; b < t->batch; b++) {
        int64_t example = l->example[b];
        l->label[b] = (int32_t)dataset_label(l->data[split], example);
        for (int side = 0; side < t->sequences; side++) {
            int32_t *ids = l->ids[side] + b * t->length;
            dataset_row(l->data[split], example, side, t->length, ids);
            for (int64_t i = 0; i < t->length; i++)
                l->tokens += ids[i] != 0;
        }
    }
}

model_batch learner_part(const learner *l, int64_t part, int64_t parts)
{
    const task *t = &l->config->task;
    int64_t rows = t->batch / parts, first = part * rows;
    return (model_batch){
        .B = rows,
        .ids = {l->ids[0] + first * t->length, l->ids[1] ? l->ids[1] + first * t->length : NULL},
        .label = l->label + first,
    };
}

int64_t learner_correct(const learner *l, const float *scores, const int32_t *label, int64_t n,
                        int64_t *confusion)
{
    int64_t classes = l->config->task.classes, correct = 0;
    for (int64_t b = 0; b < n; b++) {
        const float *s = scores + b * classes;
        int64_t best = 0;
        for (int64_t c = 1; c < classes; c++)
            best = s[c] > s[best] ? c : best;
        correct += best == label[b];
        if (confusion)
            confusion[label[b] * classes + best]++;
    }
    return correct;
}

/* One batch that is held, on the host. */
static spectra_status score_on_host(learner *l, double *loss_sum, int64_t *correct,
                                    int64_t *confusion)
{
    const task *t = &l->config->task;
    for (int64_t p = 0; p < t->accumulate; p++) {
        model_batch part = learner_part(l, p, t->accumulate);
        double loss = 0;
        TRY(model_forward(l->model, &part, l->scores, &loss));
        *loss_sum += loss * (double)part.B;
        *correct += learner_correct(l, l->scores, part.label, part.B, confusion);
    }
    return SPECTRA_OK;
}

/* Scores of everything asked for so far. */
static spectra_status score_asked(learner *l, double *loss_sum, int64_t *correct,
                                  int64_t *confusion)
{
    const int64_t classes = l->config->task.classes;
    const int32_t *label = l->asked;
    int64_t count = 0;
    TRY(model_device_read(l->on_device, &count));
    for (int64_t i = 0; i < count; i++) {
        model_device_entry e;
        TRY(model_device_entry_at(l->on_device, i, &e));
        for (int64_t b = 0; b < e.B; b++, label++) {
            *loss_sum += (double)e.loss[b];
            *correct += e.predicted[b] == *label;
            if (confusion)
                confusion[*label * classes + e.predicted[b]]++;
        }
    }
    return SPECTRA_OK;
}

/* Asks the device for the batch that is held; scores are read when many have been asked for, or
 * with the last. */
static spectra_status score_on_device(learner *l, int64_t number, bool last, double *loss_sum,
                                      int64_t *correct, int64_t *confusion)
{
    const task *t = &l->config->task;
    const int64_t place = number % LEARNER_STEPS;
    memcpy(l->asked + place * t->batch, l->label, (size_t)t->batch * sizeof *l->label);
    for (int64_t p = 0; p < t->accumulate; p++) {
        model_batch part = learner_part(l, p, t->accumulate);
        TRY(model_device_forward(l->on_device, &part));
    }
    if (last || place == LEARNER_STEPS - 1)
        return score_asked(l, loss_sum, correct, confusion);
    return SPECTRA_OK;
}

spectra_status learner_evaluate(learner *l, train_split split, int64_t first, int64_t count,
                                const train_control *control, train_progress at,
                                train_scores *scores)
{
    const task *t = &l->config->task;
    int64_t correct = 0;
    double loss_sum = 0;
    at.phase = split == SPLIT_TEST ? TRAIN_TEST : TRAIN_DEV;
    at.batches = count;
    for (int64_t i = 0; i < count; i++) {
        if (control && control->stop && *control->stop)
            return fail(SPECTRA_EINTERRUPTED, "interrupted");
        learner_load(l, split, first + i);
        spectra_status status =
            l->on_device
                ? score_on_device(l, i, i + 1 == count, &loss_sum, &correct, scores->confusion)
                : score_on_host(l, &loss_sum, &correct, scores->confusion);
        if (status != SPECTRA_OK)
            return fail(status, "evaluation on %s: %s", train_split_names[split],
                        spectra_message());
        at.batch = i + 1;
        if (control && control->progress)
            control->progress(control->context, &at);
    }
    scores->examples = count * t->batch;
    scores->accuracy = (double)correct / (double)scores->examples;
    scores->loss = loss_sum / (double)scores->examples;
    return SPECTRA_OK;
}

spectra_status learner_test(learner *l, train_split split, const train_control *control,
                            train_progress at, train_scores *scores)
{
    const task *t = &l->config->task;
    int64_t batches = dataset_count(l->data[split]) / t->batch;
    if (!batches)
        return fail(SPECTRA_ESHAPE, "%s has %lld examples, less than a batch of %lld",
                    train_split_names[split], (long long)dataset_count(l->data[split]),
                    (long long)t->batch);
    train_scores s = {.examples = 0};
    s.confusion = calloc((size_t)(t->classes * t->classes), sizeof *s.confusion);
    if (!s.confusion)
        return fail(SPECTRA_ENOMEM, "evaluation: out of memory");
    s.majority = dataset_majority(l->data[split], &s.majority_share);
    spectra_status status = learner_evaluate(l, split, 0, batches, control, at, &s);
    if (status == SPECTRA_OK)
        *scores = s;
    else
        free(s.confusion);
    return status;
}
