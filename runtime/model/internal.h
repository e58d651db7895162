/* Inside of the model: what passes on the host and on devices have in common. That is the layout of
 * the parameters, the packed batch, the attention's view of it, and the description of one pass.
 * Nothing here depends on where the pass is computed.
 */
#ifndef SPECTRA_MODEL_INTERNAL_H
#define SPECTRA_MODEL_INTERNAL_H

#include "attention/attention.h"
#include "kernel/kernel.h"
#include "model/memory.h"

enum { MAX_LAYERS = 2048, MAX_PARTS = 4096, NAME_SIZE = 96 };

typedef struct param_layout {
    int64_t tokens, positions; /* (V, E), (N, E) */
    int64_t trained;           /* of the attentions, one after the other, up to dense */
    int64_t dense;             /* of layers and head */
    int64_t count;
} param_layout;

/* A batch as rows: the valid tokens of its sequences end to end (or every position, when masks
 * are left to the attention). Sequence = side * B + example. */
typedef struct packing {
    int64_t sequences, rows, max_seqlen;
    int64_t *seq_start, *seq_len;         /* (sequences) */
    int32_t *token, *position, *sequence; /* (rows) */
    uint8_t *mask;                        /* (sequences, N); NULL when packed */
    /* rows sorted by token and by position: those of key i are at start[i] .. start[i+1]-1 */
    int32_t *token_start, *token_rows;       /* (V + 1), (rows) */
    int32_t *position_start, *position_rows; /* (N + 1), (rows) */
} packing;

struct model {
    model_config config; /* attention's strings are owned */
    const row_op *row[ROW_OPERATORS];
    const product_ops *products;
    param_layout at;
    int64_t (*offset)[PARAMS]; /* (L + 1) of layers' tensors, then of the head's */
    int64_t tensors;
    model_tensor *tensor;    /* (tensors) */
    char (*name)[NAME_SIZE]; /* (tensors) */
    float *params, *grads;   /* (at.count) */
    int64_t attentions;      /* L, or 1 when tied */
    spectra_attention **attention;
    arena index;
    packing pack;
    struct host_pass *host; /* memory of passes on the host */
    model_timing *timing;   /* not owned; NULL: not wanted */
};

/* One pass over one batch. */
typedef struct pass {
    model *m;
    const model_batch *batch;
    bool train, loss; /* loss: wanted, labels are there */
    uint64_t step, part;
    double scale;
} pass;

/* The attention that a layer uses. */
static inline spectra_attention *attention_of(const model *m, int64_t layer)
{
    return m->attention[layer % m->attentions];
}

/* Where what the layer's attention trains begins. */
static inline int64_t model_trained_at(const model *m, int64_t layer)
{
    int64_t at = m->at.trained;
    for (int64_t i = 0; i < layer % m->attentions; i++)
        at += spectra_attention_trained_floats(m->attention[i]);
    return at;
}

/* ---- layout.c ---- */
/* Fills in at, offset, tensor, name. SPECTRA_ENOMEM. */
spectra_status model_layout(model *m);
/* Initial values of every parameter, from config.seed. */
void model_init_params(model *m);

/* ---- check.c ---- */
/* SPECTRA_ESHAPE, SPECTRA_EINVAL for what is no batch of this model. */
spectra_status model_check_batch(const model *m, const model_batch *batch, bool labels);
/* SPECTRA_EINVAL for a step or part that dropout has no number for. */
spectra_status model_check_step(uint64_t step, uint64_t part);
/* Index of the first NaN or Inf, or -1. */
int64_t first_bad(const float *x, int64_t n);
/* SPECTRA_EDIVERGED names the first tensor of `flat`, which is `what`, with a NaN or Inf. */
spectra_status model_bad_tensor(const model *m, const float *flat, const char *what);

/* ---- model.c ---- */
/* The attentions take their trained parameters from m->params. */
void model_set_trained(const model *m);

/* ---- batch.c ---- */
/* The batch's rows into m->pack; in training also sorted. SPECTRA_EINVAL for a token that is none.
 */
spectra_status model_pack(const pass *p);
/* The attention's view of the batch, call number `call` of attention_calls in this layer: one
 * for all sequences, or one a side where sequences of a batch influence each other. */
int attention_calls(const model *m);
/* The call's place in the numbering of dropout, above the layer's. */
enum { ATTENTION_CALL_BIT = 11 };
spectra_problem attention_problem(const pass *p, int64_t layer, int call);
/* Its rows of q, k, v, o and their gradients in arrays whose first row is given; sequences are
 * `length` apart where they are not packed. g_qkv NULL: no gradients. */
attention_views attention_rows(const model *m, int64_t length, int64_t first, float *qkv,
                               float *out, float *g_qkv, float *g_out);

#endif
