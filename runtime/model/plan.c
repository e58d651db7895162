#include "model/plan.h"

/* The model, to be read from top to bottom; 0: none. Which shape and how long a life each value has
 * is in memory.c. */

/* clang-format off */
static const plan_op embedding =
    /* operation        in         beside     out        weight       bias              dropout */
    {OP_EMBED,          0,         0,         X,         0,           0,                DROPOUT_EMBED};

static const plan_op layer[] = {
    /* x + attention(norm(x)); one product projects to q, k and v, whose widths are DIM_QKV's */
    {OP_LAYERNORM,      X,         0,         NORM1,     PARAM_NORM1, 0,                0},
    {OP_LINEAR,         NORM1,     0,         QKV,       PARAM_QKV,   PARAM_QKV_BIAS,   0},
    {OP_ATTENTION,      QKV,       0,         ATTN_OUT,  0,           0,                0},
    {OP_LINEAR,         ATTN_OUT,  0,         PRODUCT,   PARAM_OUT,   0,                0},
    {OP_RESIDUAL,       PRODUCT,   X,         RESID_MID, 0,           PARAM_OUT_BIAS,   DROPOUT_ATTN},
    /* x + MLP(norm(x)) */
    {OP_LAYERNORM,      RESID_MID, 0,         NORM2,     PARAM_NORM2, 0,                0},
    {OP_LINEAR,         NORM2,     0,         HIDDEN,    PARAM_W1,    0,                0},
    {OP_GELU,           HIDDEN,    0,         GELU,      0,           PARAM_W1_BIAS,    DROPOUT_GELU},
    {OP_LINEAR,         GELU,      0,         PRODUCT,   PARAM_W2,    0,                0},
    {OP_RESIDUAL,       PRODUCT,   RESID_MID, NEXT_X,    0,           PARAM_W2_BIAS,    DROPOUT_MLP},
};

static const plan_op head[] = {
    /* one vector for each sequence; those of two are joined, a single one is taken as it is */
    {OP_POOL,           X,         0,         POOLED,    PARAM_NORM,  0,                0},
    {OP_JOIN,           POOLED,    0,         JOINED,    0,           0,                0},
    /* a classifier with one hidden layer */
    {OP_LINEAR,         JOINED,    0,         HEAD1,     PARAM_HEAD1, 0,                0},
    {OP_RELU,           HEAD1,     0,         HEAD2,     0,           PARAM_HEAD1_BIAS, 0},
    {OP_LINEAR,         HEAD2,     0,         SCORES,    PARAM_HEAD2, PARAM_HEAD2_BIAS, 0},
    {OP_CROSS_ENTROPY,  SCORES,    LABEL,     LOSS,      0,           0,                0},
};
/* clang-format on */

const rng_use dropout_streams[DROPOUT_USES] = {
    [DROPOUT_EMBED] = RNG_DROPOUT_EMBED,
    [DROPOUT_ATTN] = RNG_DROPOUT_ATTN,
    [DROPOUT_GELU] = RNG_DROPOUT_GELU,
    [DROPOUT_MLP] = RNG_DROPOUT_MLP,
};

enum { LAYER = sizeof layer / sizeof layer[0], HEAD = sizeof head / sizeof head[0] };

int64_t plan_count(const model_config *c)
{
    return 1 + c->layers * LAYER + HEAD;
}

plan_step plan_at(const model_config *c, int64_t i)
{
    if (i == 0)
        return (plan_step){&embedding, 0};
    i--;
    if (i < c->layers * LAYER)
        return (plan_step){&layer[i % LAYER], i / LAYER};
    return (plan_step){&head[i - c->layers * LAYER], c->layers};
}

int64_t plan_attention(const model_config *c, int64_t number)
{
    int64_t i = 1 + number * LAYER;
    while (plan_at(c, i).op->kind != OP_ATTENTION)
        i++;
    return i;
}

int64_t plan_dim(const model_config *c, dim_id d)
{
    const int64_t size[DIMS] = {
        [DIM_ONE] = 1,
        [DIM_EMBED] = c->embed,
        [DIM_HIDDEN] = c->hidden,
        [DIM_INNER] = c->heads * c->head_dim,
        [DIM_QKV] = 3 * c->heads * c->head_dim,
        [DIM_JOINED] = (c->dual ? 4 : 1) * c->embed,
        [DIM_CLASSES] = c->classes,
        [DIM_VOCAB] = c->vocab,
        [DIM_LENGTH] = c->length,
    };
    return size[d];
}
