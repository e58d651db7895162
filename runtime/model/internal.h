/* Inside of the model: layout of parameters, layout of one batch, and the passes over it.
 *
 * Dense work goes over the rows (tokens) of a batch in chunks of CHUNK; a chunk is the unit of
 * parallel work and its scratch stays in cache. Between the chunks' stages stands the attention,
 * which mixes rows:
 *
 *     forward, stage s = 0 .. L:   [s > 0: second half of layer s-1]  [s < L: first half of layer
 * s] backward, stage s = L .. 0:  the same halves in reverse
 *
 * First half: LN1 and the projections to q, k, v. Second half: output projection, LN2, MLP. What
 * backward needs and is cheap is computed again (LayerNorms, GELU, dropout factors).
 *
 * Parameter gradients of chunk c are added up in slot c % SLOTS, in order of c, and the slots are
 * added in order: the sums do not depend on the number of threads.
 */
#ifndef SPECTRA_MODEL_INTERNAL_H
#define SPECTRA_MODEL_INTERNAL_H

#include "kernel/kernel.h"
#include "model/model.h"

enum { CHUNK = 120, SLOTS = 32, MAX_LAYERS = 2048, MAX_PARTS = 4096, NAME_SIZE = 96 };

/* A block of memory handed out in 64-byte aligned pieces; base NULL: only counts. */
typedef struct arena {
    char *base;
    int64_t size, used;
} arena;

/* NULL while counting. */
void *arena_take(arena *a, int64_t bytes);
/* Makes room for `bytes`; contents are lost. SPECTRA_ENOMEM. */
spectra_status arena_reserve(arena *a, int64_t bytes);
void arena_release(arena *a);

/* Offsets of a layer's tensors in params. A norm is scale (E) then shift (E). The three projections
 * are one (3*H*d, E) matrix and one (3*H*d) bias. */
typedef struct layer_offsets {
    int64_t norm1, qkv_w, qkv_b, out_w, out_b, norm2, w1, b1, w2, b2;
} layer_offsets;

typedef struct param_layout {
    int64_t tokens, positions; /* (V, E), (N, E): first, they have no slots */
    int64_t trained;           /* of the attentions, one after the other, up to dense */
    int64_t dense;             /* offset of everything that has slots */
    int64_t norm, head_w1, head_b1, head_w2, head_b2;
    int64_t count;
} param_layout;

/* A batch as rows: the valid tokens of its sequences end to end (or every position, when masks
 * are left to the attention). Sequence = side * B + example. */
typedef struct packing {
    int64_t sequences, rows, longest;
    int64_t *begin, *len;                 /* (sequences) */
    int32_t *token, *position, *sequence; /* (rows) */
    uint8_t *mask;                        /* (sequences, N); NULL when packed */
    /* rows sorted by token and by position: those of key i are at start[i] .. start[i+1]-1 */
    int32_t *token_start, *token_rows;       /* (V + 1), (rows) */
    int32_t *position_start, *position_rows; /* (N + 1), (rows) */
} packing;

/* What forward leaves for backward, per layer. In evaluation all layers share one. */
typedef struct layer_values {
    float *qkv;     /* (rows, 3*H*d) */
    float *mixed;   /* (rows, H*d)  output of the attention */
    float *middle;  /* (rows, E)    after the attention's residual */
    float *hidden;  /* (rows, F)    W1 LN2(middle), without bias */
    void *saved[2]; /* the attention's, per call */
} layer_values;

typedef struct chunk_scratch {
    float *narrow[2]; /* (CHUNK, E) */
    float *wide[2];   /* (CHUNK, F) */
    float *keep;      /* (CHUNK, max(E, F)) dropout factors */
} chunk_scratch;

typedef struct activations {
    float **x;            /* (L + 1) pointers to (rows, E): x[l] enters layer l */
    layer_values *layer;  /* (L) */
    chunk_scratch *local; /* (threads) */
    float *pooled;        /* (sequences, E) */
    float *joined;        /* (B, 4E) dual head's input, else = pooled */
    float *head1, *head2; /* (B, F) before and after the rectifier */
    float *scores;        /* (B, C) */
    float *label, *loss;  /* (B) */
    void *work;           /* of the attention */
    float *turned; /* (count - dense) transposes of tiled matrices at their offsets; NULL: none */
    /* training only */
    float *g;               /* (rows, E) gradient of x, in place */
    float *g_mixed, *g_qkv; /* (rows, H*d), (rows, 3*H*d) */
    float *g_scores, *g_head1, *g_head2, *g_joined, *g_pooled, *g_loss;
    float *slots; /* (SLOTS, count - dense) */
} activations;

typedef struct row_ops {
    const row_op *layernorm, *gelu, *dropout_residual, *relu, *cross_entropy;
    const product_ops *products;
} row_ops;

struct model {
    model_config config; /* attention's strings are owned */
    row_ops op;
    param_layout at;
    layer_offsets *layer; /* (L); all the same when tied */
    int64_t tensors;
    model_tensor *tensor;    /* (tensors) */
    char (*name)[NAME_SIZE]; /* (tensors) */
    float *params, *grads;   /* (at.count) */
    int64_t attentions;      /* L, or 1 when tied */
    spectra_attention **attention;
    float *ones; /* (max(E, F, CHUNK)) */
    arena index, values;
    packing pack;
    activations act;
    model_timing *timing; /* not owned; NULL: not wanted */
};

/* One pass over one batch. */
typedef struct pass {
    model *m;
    const model_batch *batch;
    bool train;
    uint64_t step, part;
    double scale;
    int threads;
    int64_t chunks;
} pass;

typedef struct chunk {
    int64_t first, rows;
    chunk_scratch *s;
    float *grad; /* the slot's gradients; index them by offset - at.dense */
} chunk;

static inline int64_t model_inner(const model_config *c)
{
    return c->heads * c->head_dim;
}

/* ---- model_layout.c ---- */
/* Fills in at, layer, tensor, name. SPECTRA_ENOMEM. */
spectra_status model_layout(model *m);
/* Initial values of every parameter, from config.seed. */
void model_init_params(model *m);

/* ---- model.c ---- */
/* SPECTRA_ESHAPE, SPECTRA_EINVAL for what is no batch of this model. */
spectra_status model_check_batch(const model *m, const model_batch *batch, bool labels);

/* ---- model_batch.c ---- */
/* The batch's rows into m->pack; in training also sorted. SPECTRA_EINVAL for a token that is none.
 */
spectra_status model_pack(const pass *p);
/* Packs the batch and gives every array of the pass its memory. */
spectra_status model_prepare(pass *p);
/* The attention's view of the batch, call number `call` of attention_calls in this layer: one
 * for all sequences, or one a side where sequences of a batch influence each other. */
int attention_calls(const model *m);
/* The call's place in the numbering of dropout, above the layer's. */
enum { ATTENTION_CALL_BIT = 11 };
spectra_problem attention_problem(const pass *p, int64_t layer, int call);

/* ---- model_forward.c ---- */
spectra_status forward_layers(pass *p);
/* The same up to a layer's q, k, v, which are then in act.layer[layer].qkv. */
spectra_status forward_until(pass *p, int64_t layer);
void forward_head(pass *p);
/* Sum of the examples' losses. */
double forward_loss(pass *p);
/* Dropout factors of `width` columns for the chunk's rows, into c->s->keep; returns the distance
 * between rows: 0 where one row of ones serves all (*keep points to the factors). */
int64_t chunk_keep(const pass *p, const chunk *c, int use, int64_t layer, int64_t width,
                   const float **keep);
chunk chunk_at(const pass *p, int64_t index, int thread);

/* ---- model_backward.c ---- */
spectra_status backward(pass *p);

/* ---- model_ops.c: row operators and matrix products in the model's terms ---- */
void op_layernorm(const row_ops *op, int64_t rows, int64_t n, const float *x, const float *norm,
                  float *y);
/* gx += ; gnorm (2n) += ; y is written again unless NULL. */
void op_layernorm_grad(const row_ops *op, int64_t rows, int64_t n, const float *x,
                       const float *norm, const float *gy, float *gx, float *gnorm, float *y);
void op_gelu(const row_ops *op, int64_t rows, int64_t n, const float *x, const float *bias,
             const float *keep, int64_t ld_keep, float *y);
/* gx is written and may be gy; gbias += ; y is written again. */
void op_gelu_grad(const row_ops *op, int64_t rows, int64_t n, const float *x, const float *bias,
                  const float *keep, int64_t ld_keep, const float *gy, float *gx, float *gbias,
                  float *y);
/* y = residual + (x + bias) * keep; y may be residual. */
void op_dropout_residual(const row_ops *op, int64_t rows, int64_t n, const float *residual,
                         const float *x, const float *bias, const float *keep, int64_t ld_keep,
                         float *y);
/* gx is written, gbias += ; the residual's gradient is gy itself. */
void op_dropout_residual_grad(const row_ops *op, int64_t rows, int64_t n, const float *bias,
                              const float *keep, int64_t ld_keep, const float *gy, float *gx,
                              float *gbias);
void op_relu(const row_ops *op, int64_t rows, int64_t n, const float *x, const float *bias,
             float *y);
void op_relu_grad(const row_ops *op, int64_t rows, int64_t n, const float *x, const float *bias,
                  const float *gy, float *gx, float *gbias);
void op_cross_entropy(const row_ops *op, int64_t rows, int64_t n, const float *scores,
                      const float *label, float *loss);
void op_cross_entropy_grad(const row_ops *op, int64_t rows, int64_t n, const float *scores,
                           const float *label, const float *gloss, float *gscores);
/* Whether products with a matrix W (out, in) are tiles of our own, which read W' in op_linear;
 * OpenBLAS makes the others, and those of few rows. */
bool op_tiled(int64_t in, int64_t out);
/* y (rows, out) = x (rows, in) W', W (out, in); bias NULL: none. turned: W', or NULL unless tiled.
 */
void op_linear(const row_ops *op, int64_t rows, int64_t in, int64_t out, const float *x,
               const float *w, const float *turned, const float *bias, float *y);
/* gx (rows, in) = gy W. */
void op_linear_input_grad(const row_ops *op, int64_t rows, int64_t in, int64_t out, const float *w,
                          const float *gy, float *gx);
/* gw += gy' x. */
void op_linear_weight_grad(const row_ops *op, int64_t rows, int64_t in, int64_t out, const float *x,
                           const float *gy, float *gw);
/* turned (in, out) = W', W (out, in). */
void op_turn(int64_t in, int64_t out, const float *w, float *turned);
/* sums (n) += the columns of x (rows, n). */
void op_column_sums(int64_t rows, int64_t n, const float *x, float *sums);

#endif
