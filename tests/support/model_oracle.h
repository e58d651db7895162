/* The classifier in double precision, from the specification: one sequence at a time on the padded
 * grid, nothing packed, nothing saved. Softmax attention only. */
#ifndef TESTS_MODEL_ORACLE_H
#define TESTS_MODEL_ORACLE_H

#include "model/model.h"

typedef struct oracle {
    const model *m; /* for its configuration and its tensors' names */
    double *params; /* (model_param_count) */
    bool train;     /* dropout of (step, part) */
    uint64_t step, part;
} oracle;

/* Parameters copied from the model. */
oracle oracle_new(model *m);
void oracle_free(oracle *o);
/* Mean loss; scores (B, C) may be NULL. */
double oracle_loss(const oracle *o, const model_batch *batch, double *scores);

#endif
