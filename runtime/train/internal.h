/* Inside of training: a model with the data it is trained and judged on. */
#ifndef SPECTRA_TRAIN_INTERNAL_H
#define SPECTRA_TRAIN_INTERNAL_H

#include "data/dataset.h"
#include "device/device.h"
#include "model/device.h"
#include "model/model.h"
#include "train/train.h"

enum { LEARNER_STEPS = 64 }; /* batches a device works on before its numbers are read */

/* Makes models and serves batches; everything is owned. */
typedef struct learner {
    const train_config *config;
    model *model;
    /* of a run on a device, else NULL; the model then holds what was copied last */
    device *dev;
    model_device *on_device;
    int32_t *asked;   /* (LEARNER_STEPS, batch) labels of batches whose scores are not read yet */
    dataset *data[3]; /* by train_split */
    stream stream[3];
    /* one batch: example numbers, ids (batch, length) a side, labels, scores (batch, classes) */
    int64_t *example;
    int32_t *ids[2], *label;
    float *scores;
    int64_t tokens; /* not padding, of the batch held */
} learner;

/* Parameters, and moments unless NULL, of the device to the host and back; nothing without one. */
spectra_status learner_pull(learner *l, float *const moments[2]);
spectra_status learner_push(learner *l, float *const moments[2]);

/* The model of a run; strings are the configuration's. */
model_config learner_model(const train_config *c);

/* Opens the splits wanted (bit train_split of `splits`). */
spectra_status learner_open(const train_config *c, unsigned splits, learner *out);
void learner_close(learner *l);
/* Batch number `index` of a split's stream into the buffers. */
void learner_load(learner *l, train_split split, int64_t index);
/* Part p of the batch held. */
model_batch learner_part(const learner *l, int64_t part, int64_t parts);
/* Correct predictions among scores of n examples; adds to confusion (may be NULL). */
int64_t learner_correct(const learner *l, const float *scores, const int32_t *label, int64_t n,
                        int64_t *confusion);

/* Batches first .. first+count-1 of a split without dropout. confusion may be NULL. Reports
 * progress as `at` with batch numbers filled in. SPECTRA_EINTERRUPTED as soon as control->stop is
 * set. */
spectra_status learner_evaluate(learner *l, train_split split, int64_t first, int64_t count,
                                const train_control *control, train_progress at,
                                train_scores *scores);
/* The same over all whole batches of a once-shuffled split, with confusion and majority class. */
spectra_status learner_test(learner *l, train_split split, const train_control *control,
                            train_progress at, train_scores *scores);

#endif
