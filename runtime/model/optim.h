/* The optimiser, AdamW with gradients clipped by value, and the learning rate's schedule: the
 * linear one-cycle schedule (Smith 2018), in which beta1 moves against the rate. The arithmetic of
 * an update is generated from specs/row/adamw.lua.
 */
#ifndef SPECTRA_MODEL_OPTIM_H
#define SPECTRA_MODEL_OPTIM_H

#include "kernel/kernel.h"
#include "spectraformer.h"

typedef struct schedule {
    double max_lr, div, final_div; /* 25, 1e4 */
    double beta1_low, beta1_high;  /* 0.85, 0.95 */
    int64_t total, warmup;         /* steps */
} schedule;

/* Rate and beta1 of step s = 0 .. total-1. */
void schedule_at(const schedule *s, int64_t step, double *lr, double *beta1);

typedef struct adamw {
    double beta2, eps, weight_decay, clip;
    int64_t n;
    float *m, *v; /* (n) each, owned by the caller */
} adamw;

/* An optimiser as data: the row operator (specs/row) that makes an update. Its inputs are
 * parameters, gradients and slots, which are arrays as large as the parameters that it keeps from
 * update to update; its outputs are parameters and slots. */
enum { OPTIMISER_SLOTS = 2 };
typedef struct optimiser_kind {
    const char *spec;
    const char *slot[OPTIMISER_SLOTS]; /* names in checkpoints */
    /* the spec's constants for update number t */
    void (*constants)(const adamw *o, int64_t t, double lr, double beta1, float c[ROW_MAX]);
} optimiser_kind;
extern const optimiser_kind optimiser_adamw;

/* The operator's arguments for `rows` rows of n numbers that lie one behind the other. */
row_args optimiser_args(const optimiser_kind *kind, int64_t rows, int64_t n, float *params,
                        const float *g, float *const slot[OPTIMISER_SLOTS], const float c[ROW_MAX]);

/* Update number t = 1, 2, ... of params (n) with gradients g (n, not changed). */
void adamw_update(const adamw *o, int64_t t, double lr, double beta1, float *params,
                  const float *g);

#endif
