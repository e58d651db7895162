/* The classifier as a list of operations: embeddings, `layers` times the list of a layer, the head.
 * An operation names what it reads, what it writes, its parameters and its dropout; plan.c shows
 * all of them on one screen. The forward pass walks the list from the first operation to the last,
 * the backward pass from the last to the first. host.c and device_exec.c are the two that walk it:
 * nothing here computes anything or knows where it is done.
 */
#ifndef SPECTRA_MODEL_PLAN_H
#define SPECTRA_MODEL_PLAN_H

#include "math/rng.h"
#include "model/model.h"

/* Sizes that shapes are made of. */
typedef enum dim_id {
    DIM_ONE,
    DIM_EMBED,  /* E, width of the model */
    DIM_HIDDEN, /* F, width of the MLP and of the head */
    DIM_INNER,  /* H*d, all heads of the attention */
    DIM_QKV,    /* 3*H*d, queries, keys and values side by side */
    DIM_JOINED, /* what the head reads: E, or 4*E of two sequences */
    DIM_CLASSES,
    DIM_VOCAB,
    DIM_LENGTH, /* N, positions of a padded sequence */
    DIMS
} dim_id;
int64_t plan_dim(const model_config *c, dim_id d);

/* Tensors of parameters. A norm is its scale (E), then its shift (E). The projections to q, k, v
 * are one matrix (3*H*d, E) and one bias. Those up to PARAM_W2_BIAS belong to a layer. */
typedef enum param_id {
    PARAM_NONE,
    PARAM_NORM1,
    PARAM_QKV,
    PARAM_QKV_BIAS,
    PARAM_OUT,
    PARAM_OUT_BIAS,
    PARAM_NORM2,
    PARAM_W1,
    PARAM_W1_BIAS,
    PARAM_W2,
    PARAM_W2_BIAS,
    PARAM_NORM,
    PARAM_HEAD1,
    PARAM_HEAD1_BIAS,
    PARAM_HEAD2,
    PARAM_HEAD2_BIAS,
    PARAMS
} param_id;

/* Arrays that a pass computes; memory.c says which shape each has and how long it lives. */
typedef enum value_id {
    VALUE_NONE,
    X, /* the residual stream as it enters the layer, or the head */
    NORM1,
    QKV,
    ATTN_OUT,
    PRODUCT,   /* of the matrix product before a residual connection */
    RESID_MID, /* the stream between attention and MLP */
    NORM2,
    HIDDEN, /* W1 NORM2, without bias */
    GELU,
    POOLED,
    JOINED,
    HEAD1, /* before the rectifier, without bias */
    HEAD2, /* behind it */
    SCORES,
    LABEL,
    LOSS,
    /* gradients; several values may share one */
    G_STREAM, /* of X and RESID_MID, added to in place */
    G_NARROW, /* of norms and products, on its way down */
    G_WIDE,   /* of HIDDEN and GELU */
    G_ATTN_OUT,
    G_QKV,
    G_POOLED,
    G_JOINED,
    G_HEAD,
    G_SCORES,
    G_LOSS,
    VALUES,
    NEXT_X /* X of the next layer */
} value_id;

/* What an operation does; the first ones are row operators (specs/row, rows.h). */
typedef enum plan_kind {
    OP_LAYERNORM,
    OP_GELU,
    OP_RESIDUAL, /* beside + dropout(in + bias) */
    OP_RELU,
    OP_CROSS_ENTROPY,
    ROW_OPERATORS,
    OP_LINEAR = ROW_OPERATORS, /* out = in W' + bias */
    OP_EMBED,                  /* token + position */
    OP_ATTENTION,
    OP_POOL, /* normalise, then the mean over all N positions, or the first one (CLS) */
    OP_JOIN  /* two sequences a, b become a, b, a*b, a-b */
} plan_kind;

/* The uses of dropout, in the order in which a layer's come. */
typedef enum dropout_use {
    DROPOUT_NONE,
    DROPOUT_EMBED,
    DROPOUT_ATTN,
    DROPOUT_GELU,
    DROPOUT_MLP,
    DROPOUT_USES
} dropout_use;
extern const rng_use dropout_streams[DROPOUT_USES];

typedef struct plan_op {
    plan_kind kind;
    value_id in, beside, out; /* beside: a second input, of which no gradient is computed here */
    param_id weight, bias;    /* a norm's scale and shift are its weight */
    dropout_use dropout;
} plan_op;

/* Operation i of plan_count. The head's have layer = layers. */
typedef struct plan_step {
    const plan_op *op;
    int64_t layer;
} plan_step;
int64_t plan_count(const model_config *c);
plan_step plan_at(const model_config *c, int64_t i);
/* Number of the layer's attention in the list. */
int64_t plan_attention(const model_config *c, int64_t layer);

#endif
