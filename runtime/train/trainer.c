#include "train/trainer.h"

#include "base/outfile.h"
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

model_config trainer_model(const train_config *c)
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

static spectra_status open_split(trainer *tr, int split)
{
    const train_config *c = tr->config;
    const task *t = &c->task;
    char file[32];
    snprintf(file, sizeof file, "%s.safetensors", train_split_names[split]);
    char *path = outfile_join(c->data, file);
    if (!path)
        return fail(SPECTRA_ENOMEM, "opening the data: out of memory");
    spectra_status status = dataset_open(path, &tr->data[split]);
    if (status == SPECTRA_EIO)
        status = fail(SPECTRA_EIO,
                      "%s; `spectraformer data generate|prepare %s --out %s` makes prepared data",
                      spectra_message(), t->name, c->data);
    const dataset *d = tr->data[split];
    const char *task_name = status == SPECTRA_OK ? dataset_metadata(d, "task") : NULL;
    if (task_name && strcmp(task_name, t->name) != 0)
        status =
            fail(SPECTRA_EINVAL, "%s: is data of %s, the task is %s", path, task_name, t->name);
    if (status == SPECTRA_OK)
        status = dataset_check(d, t->vocab, t->classes, (int)t->sequences);
    if (status == SPECTRA_OK)
        status = stream_open(d, (uint64_t)c->seed, split, t->batch, &tr->stream[split]);
    free(path);
    return status;
}

static spectra_status open_runner(trainer *tr)
{
    const train_config *c = tr->config;
    const task *t = &c->task;
    const runner_options options = {.batch = t->batch / t->accumulate,
                                    .parts = t->accumulate,
                                    .tf32 = strcmp(c->precision, "fast") == 0};
    if (options.tf32 && strcmp(c->device, "cpu") == 0)
        return fail(SPECTRA_EINVAL, "--precision fast is of devices: --device cuda or emu");
    TRY(runner_new(tr->model, c->device, &options, &tr->runner));
    tr->asked = malloc((size_t)(runner_steps(tr->runner) * t->batch) * sizeof *tr->asked);
    return tr->asked ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "a batch: out of memory");
}

static spectra_status open_all(trainer *tr, unsigned splits)
{
    const task *t = &tr->config->task;
    if (t->batch % t->accumulate != 0)
        return fail(SPECTRA_EINVAL, "a batch of %lld does not divide into %lld parts",
                    (long long)t->batch, (long long)t->accumulate);
    /* The model first: a wrong name is found before a file is looked for. */
    model_config settings = trainer_model(tr->config);
    TRY(model_new(&settings, &tr->model));
    TRY(open_runner(tr));
    for (int split = 0; split < 3; split++)
        if (splits >> split & 1)
            TRY(open_split(tr, split));
    size_t rows = (size_t)t->batch;
    tr->example = malloc(rows * sizeof *tr->example);
    tr->label = malloc(rows * sizeof *tr->label);
    bool full = tr->example && tr->label;
    for (int side = 0; side < t->sequences; side++) {
        tr->ids[side] = malloc(rows * (size_t)t->length * sizeof *tr->ids[side]);
        full = full && tr->ids[side];
    }
    return full ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "a batch: out of memory");
}

spectra_status trainer_open(const train_config *c, unsigned splits, trainer *out)
{
    trainer tr = {.config = c};
    spectra_status status = open_all(&tr, splits);
    if (status != SPECTRA_OK) {
        trainer_close(&tr);
        return status;
    }
    *out = tr;
    return SPECTRA_OK;
}

void trainer_close(trainer *tr)
{
    runner_free(tr->runner);
    free(tr->asked);
    if (tr->model)
        model_free(tr->model);
    for (int s = 0; s < 3; s++) {
        stream_close(&tr->stream[s]);
        dataset_close(tr->data[s]);
    }
    free(tr->example);
    free(tr->label);
    free(tr->ids[0]);
    free(tr->ids[1]);
    *tr = (trainer){0};
}

void trainer_load(trainer *tr, train_split split, int64_t index)
{
    const task *t = &tr->config->task;
    stream_batch(&tr->stream[split], index, tr->example);
    tr->tokens = 0;
    for (int64_t b = 0; b < t->batch; b++) {
        int64_t example = tr->example[b];
        tr->label[b] = (int32_t)dataset_label(tr->data[split], example);
        for (int side = 0; side < t->sequences; side++) {
            int32_t *ids = tr->ids[side] + b * t->length;
            dataset_row(tr->data[split], example, side, t->length, ids);
            for (int64_t i = 0; i < t->length; i++)
                tr->tokens += ids[i] != 0;
        }
    }
}

model_batch trainer_part(const trainer *tr, int64_t part, int64_t parts)
{
    const task *t = &tr->config->task;
    int64_t rows = t->batch / parts, first = part * rows;
    return (model_batch){
        .B = rows,
        .ids = {tr->ids[0] + first * t->length, tr->ids[1] ? tr->ids[1] + first * t->length : NULL},
        .label = tr->label + first,
    };
}

/* Scores of everything asked for so far. */
static spectra_status score_asked(trainer *tr, double *loss_sum, int64_t *correct,
                                  int64_t *confusion)
{
    const int64_t classes = tr->config->task.classes;
    const int32_t *label = tr->asked;
    int64_t count = 0;
    tr->asked_count = 0;
    TRY(runner_read(tr->runner, &count));
    for (int64_t i = 0; i < count; i++) {
        runner_entry e;
        TRY(runner_entry_at(tr->runner, i, &e));
        for (int64_t b = 0; b < e.B; b++, label++) {
            *loss_sum += (double)e.loss[b];
            *correct += e.predicted[b] == *label;
            if (confusion)
                confusion[*label * classes + e.predicted[b]]++;
        }
    }
    return SPECTRA_OK;
}

/* Asks for the batch that is held; scores are read when the journal is full, or with the last. */
static spectra_status score(trainer *tr, bool last, double *loss_sum, int64_t *correct,
                            int64_t *confusion)
{
    const task *t = &tr->config->task;
    memcpy(tr->asked + tr->asked_count++ * t->batch, tr->label,
           (size_t)t->batch * sizeof *tr->label);
    for (int64_t p = 0; p < t->accumulate; p++) {
        model_batch part = trainer_part(tr, p, t->accumulate);
        TRY(runner_forward(tr->runner, &part));
    }
    if (last || runner_full(tr->runner))
        return score_asked(tr, loss_sum, correct, confusion);
    return SPECTRA_OK;
}

spectra_status trainer_evaluate(trainer *tr, train_split split, int64_t first, int64_t count,
                                const train_control *control, train_progress at,
                                train_scores *scores)
{
    const task *t = &tr->config->task;
    int64_t correct = 0;
    double loss_sum = 0;
    at.phase = split == SPLIT_TEST ? TRAIN_TEST : TRAIN_DEV;
    at.batches = count;
    for (int64_t i = 0; i < count; i++) {
        if (control && control->stop && *control->stop)
            return fail(SPECTRA_EINTERRUPTED, "interrupted");
        trainer_load(tr, split, first + i);
        spectra_status status = score(tr, i + 1 == count, &loss_sum, &correct, scores->confusion);
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

spectra_status trainer_test(trainer *tr, train_split split, const train_control *control,
                            train_progress at, train_scores *scores)
{
    const task *t = &tr->config->task;
    int64_t batches = dataset_count(tr->data[split]) / t->batch;
    if (!batches)
        return fail(SPECTRA_ESHAPE, "%s has %lld examples, less than a batch of %lld",
                    train_split_names[split], (long long)dataset_count(tr->data[split]),
                    (long long)t->batch);
    train_scores s = {.examples = 0};
    s.confusion = calloc((size_t)(t->classes * t->classes), sizeof *s.confusion);
    if (!s.confusion)
        return fail(SPECTRA_ENOMEM, "evaluation: out of memory");
    s.majority = dataset_majority(tr->data[split], &s.majority_share);
    spectra_status status = trainer_evaluate(tr, split, 0, batches, control, at, &s);
    if (status == SPECTRA_OK)
        *scores = s;
    else
        free(s.confusion);
    return status;
}
