/* The classifier of the Long Range Arena: embeddings, pre-norm Transformer layers, pooling and a
 * head. This header makes a model and runs it on the host; runner.h runs it on the host or a
 * device.
 *
 * Parameters are one flat array of floats and gradients another of the same layout; tensors have
 * the names of the reference's state_dict ("model.transformer_0.mha.W_q.weight" ...). Activations
 * come from one block of memory that grows to the largest batch seen; after that a step allocates
 * nothing.
 *
 * Padding (token 0) has no part in anything that the loss sees. With attentions that look at valid
 * keys only, the model therefore leaves padding out and works on the valid tokens alone, wherever
 * they are in the sequence. Attentions in which padding takes part (ATTENTION_PADDED) keep it.
 */
#ifndef SPECTRA_MODEL_MODEL_H
#define SPECTRA_MODEL_MODEL_H

#include "spectraformer.h"

typedef struct model_config {
    int64_t vocab, length, classes; /* V, padded length N, C */
    int64_t embed, hidden;          /* E = 64, F = 128 */
    int64_t heads, head_dim;        /* 2, 32 */
    int64_t layers;
    bool tied; /* one layer's parameters, used `layers` times */
    bool cls;  /* CLS pooling instead of the mean over all N positions */
    bool dual; /* two sequences an example (retrieval) */
    double dropout, attention_dropout;
    uint64_t seed;                    /* initial values and matrices */
    spectra_attention_desc attention; /* H, D, DV, layer and seed are filled in by the model; rng
                                         is of initial values too */
} model_config;

typedef struct model_tensor {
    const char *name;
    int ndim;
    int64_t shape[2];
    int64_t offset; /* in floats, into params and grads */
} model_tensor;

/* One batch: ids (B, N) row-major, 0 = padding. mask (B, N): 1 = token; NULL: ids != 0. */
typedef struct model_batch {
    int64_t B;
    const int32_t *ids[2];  /* ids[1] NULL unless dual */
    const uint8_t *mask[2]; /* may be NULL */
    const int32_t *label;   /* (B) */
} model_batch;

typedef struct model model;

spectra_status model_new(const model_config *config, model **out);
void model_free(model *m);
const model_config *model_config_of(const model *m);

int64_t model_param_count(const model *m); /* floats in params */
int model_tensor_count(const model *m);
const model_tensor *model_tensor_at(const model *m, int i);
float *model_params(model *m);
float *model_grads(model *m);
spectra_attention *model_attention(model *m, int64_t layer);

/* Evaluation: scores (B, C), no dropout. loss (mean over the batch) may be NULL. */
spectra_status model_forward(model *m, const model_batch *batch, float *scores, double *loss);
/* Training: forward with dropout of (seed, step, part), backward; gradients of scale * mean loss
 * are added to model_grads. scores (B, C) and loss as above. SPECTRA_EDIVERGED names the tensor. */
spectra_status model_step(model *m, const model_batch *batch, uint64_t step, uint64_t part,
                          double scale, float *scores, double *loss);
void model_zero_grads(model *m);
double model_grad_norm(const model *m); /* Euclidean */
/* Bytes of parameters, gradients, activations and workspaces now held. */
int64_t model_bytes(const model *m);
/* The same by what it is for, after a pass: parts whose sum that is. Returns how many. */
typedef struct model_part {
    const char *name;
    int64_t bytes;
} model_part;
enum { MODEL_PARTS = 24 };
int model_parts(const model *m, model_part out[MODEL_PARTS]);

/* Seconds that model_step spent in attention, added up; set to NULL, as at first: not measured. */
typedef struct model_timing {
    double attention_forward, attention_backward;
} model_timing;
void model_set_timing(model *m, model_timing *timing);

#endif
