/* A model together with the data that it is trained and judged on: it makes the model that a
 * configuration asks for, opens the splits of the data, serves numbered batches, and evaluates the
 * model on a split. It does not train: steps are in step.c.
 */
#ifndef SPECTRA_TRAIN_TRAINER_H
#define SPECTRA_TRAIN_TRAINER_H

#include "data/dataset.h"
#include "model/runner.h"
#include "train/train.h"

/* A model, who runs it, and the batches it is fed; everything is owned. */
typedef struct trainer {
    const train_config *config;
    model *model; /* of a run on a device it holds what was copied last */
    runner *runner;
    int32_t *asked;      /* (runner_steps, batch) labels of batches whose scores are not read yet */
    int64_t asked_count; /* batches */
    dataset *data[3];    /* by train_split */
    stream stream[3];
    /* one batch: example numbers, ids (batch, length) a side, labels */
    int64_t *example;
    int32_t *ids[2], *label;
    int64_t tokens; /* not padding, of the batch held */
} trainer;

/* The model of a run; strings are the configuration's. */
model_config trainer_model(const train_config *c);

/* Opens the splits wanted (bit train_split of `splits`). */
spectra_status trainer_open(const train_config *c, unsigned splits, trainer *out);
void trainer_close(trainer *tr);
/* Batch number `index` of a split's stream into the buffers. */
void trainer_load(trainer *tr, train_split split, int64_t index);
/* Part p of the batch held. */
model_batch trainer_part(const trainer *tr, int64_t part, int64_t parts);

/* Batches first .. first+count-1 of a split without dropout. confusion may be NULL. Reports
 * progress as `at` with batch numbers filled in. SPECTRA_EINTERRUPTED as soon as control->stop is
 * set. */
spectra_status trainer_evaluate(trainer *tr, train_split split, int64_t first, int64_t count,
                                const train_control *control, train_progress at,
                                train_scores *scores);
/* The same over all whole batches of a once-shuffled split, with confusion and majority class. */
spectra_status trainer_test(trainer *tr, train_split split, const train_control *control,
                            train_progress at, train_scores *scores);

#endif
