/* A run's state as one safetensors file: parameters, the optimiser's moments, and how far the run
 * has come. Tensors have the names of the reference system's state_dict. The matrices of the
 * attentions are among them (model.transformer_0.mha.attn.attn_fn.projection_matrix), so that the
 * file is complete without the configuration's seed.
 */
#ifndef SPECTRA_TRAIN_CHECKPOINT_H
#define SPECTRA_TRAIN_CHECKPOINT_H

#include "model/model.h"

typedef struct checkpoint {
    int64_t step;      /* steps finished */
    int64_t evaluated; /* step of the last dev evaluation, 0 before the first */
    double best;       /* best dev accuracy so far */
    int64_t best_step; /* whose parameters best.safetensors holds, 0: none */
} checkpoint;

/* moments: first and second, (model_param_count) each; NULL: parameters only. Atomic. */
spectra_status checkpoint_save(const char *path, model *m, const float *const moments[2],
                               const checkpoint *at);
/* SPECTRA_EFORMAT when a tensor is missing or has another shape; the model is then untouched. */
spectra_status checkpoint_load(const char *path, model *m, float *const moments[2], checkpoint *at);

#endif
