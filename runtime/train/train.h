/* Trains a classifier on a prepared data set, and evaluates one that was trained.
 *
 * A run depends on its configuration only: batches, dropout and matrices are functions of the seed
 * and the number of the step, not of what was drawn before. A checkpoint of parameters, moments and
 * the step is therefore all that is needed to stop and to go on. Everything goes into the run's
 * folder: config.json, log.jsonl, checkpoint.safetensors, best.safetensors, report.html.
 */
#ifndef SPECTRA_TRAIN_TRAIN_H
#define SPECTRA_TRAIN_TRAIN_H

#include "attention/attention.h"
#include "data/task.h"

#include <signal.h>

/* Every setting that takes part in a result, and where and how it was computed. */
typedef struct train_config {
    task task; /* first: task_settings apply to the whole */
    char attn[SETTING_TEXT];
    bool official;
    char options[ATTENTION_OPTIONS]; /* settings of the attention's own, attention_options_text */
    int64_t seed;
    char rng[SETTING_TEXT];  /* "philox", "curand": of matrices and initial weights */
    char data[SETTING_TEXT]; /* folder of train, dev, test.safetensors */
    int64_t threads;         /* recorded; results do not depend on it */
    /* recorded; results differ in rounding, and a run may go on on another device */
    char device[SETTING_TEXT];    /* "cpu", "cuda", "emu" */
    char precision[SETTING_TEXT]; /* of a device's products: "float32", "fast" */
    /* of a component function of one's own: absolute path, and SHA-256 of the text (jit.h) */
    char spec[SETTING_TEXT], spec_hash[72];
} train_config;

enum { TRAIN_SETTINGS = 6 };
/* task's name, and everything behind train_config.task but the attention's own settings. */
extern const setting train_settings[TRAIN_SETTINGS];
/* The row of either table, or NULL. */
const setting *train_setting(const char *name);

/* The attention of a run, for any layer; texts are the configuration's. */
spectra_attention_desc train_attention(const train_config *c);
/* Its kind and settings. */
spectra_status train_attention_settings(const train_config *c, const attention_kind **kind,
                                        attention_options *settings);

/* config.json of a run's folder. Reading ignores what it does not know. */
spectra_status train_config_write(const char *run, const train_config *c);
spectra_status train_config_read(const char *run, train_config *out);

/* Opens the component function if it is one's own. SPECTRA_EINVAL if its text has changed. */
spectra_status train_open_spec(const train_config *c);

typedef enum train_phase { TRAIN_STEP, TRAIN_DEV, TRAIN_DEV_DONE, TRAIN_TEST } train_phase;

typedef struct train_progress {
    train_phase phase;
    int64_t step, steps;    /* finished, of all */
    int64_t first_step;     /* where this session began */
    int64_t batch, batches; /* of an evaluation */
    double loss, accuracy;  /* of the last training batch */
    double dev_accuracy;    /* of the last evaluation, -1 before the first */
    double seconds;         /* of this session */
} train_progress;

typedef struct train_control {
    const volatile sig_atomic_t *stop; /* not 0: write a checkpoint and return; may be NULL */
    bool resume, overwrite;
    double max_seconds; /* > 0: training ends early when this session has taken that long */
    int64_t stop_at;    /* > 0: this session ends after that step, to be resumed */
    void (*progress)(void *context, const train_progress *p); /* may be NULL */
    void *context;
} train_control;

typedef struct train_scores {
    int64_t examples;
    double loss, accuracy;
    int64_t majority; /* most frequent label and its share of all examples of the split */
    double majority_share;
    int64_t *confusion; /* (classes, classes), row = label, column = prediction; to be freed */
} train_scores;

typedef struct train_result {
    int64_t step;       /* finished */
    bool complete;      /* test was evaluated */
    const char *reason; /* "schedule", "time", "stop-at" */
    double best_dev;    /* best dev accuracy seen, 0 if none */
    int64_t best_step;  /* whose parameters best.safetensors holds */
    bool best_is_last;  /* because no evaluation qualified */
    train_scores test;  /* if complete */
    double seconds, step_seconds, tokens_per_s;
    int64_t peak_bytes, device_peak_bytes; /* of the process; of the device, 0: none */
} train_result;

/* Trains into the folder `run`. SPECTRA_EINVAL when it holds a run and neither resume nor overwrite
 * is set, or when resume meets other settings; SPECTRA_EDIVERGED with step and tensor;
 * SPECTRA_EINTERRUPTED after a checkpoint. */
spectra_status train_run(const train_config *c, const char *run, const train_control *control,
                         train_result *out);

typedef enum train_split { SPLIT_TRAIN, SPLIT_DEV, SPLIT_TEST } train_split;
extern const char *const train_split_names[3];

/* Scores of a run's parameters, "best" or "last", on all whole batches of a split. */
spectra_status train_evaluate(const train_config *c, const char *run, train_split split,
                              const char *parameters, const train_control *control,
                              train_scores *out);

#endif
