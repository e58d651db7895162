/* Inside of the model on a device.
 *
 * A pass is a list of launches for a shape: every address and size in it depends on the shape
 * alone, and what differs between batches of a shape is in the uploaded block. Launches do not fail
 * one by one: the first failure is kept in md->status and the rest of the pass does nothing.
 */
#ifndef SPECTRA_MODEL_DEVICE_INTERNAL_H
#define SPECTRA_MODEL_DEVICE_INTERNAL_H

#include "attention/device.h"
#include "model/device.h"
#include "model/internal.h"

enum {
    DEVICE_THREADS = 256,
    DEVICE_WARPS = DEVICE_THREADS / 32,
    MOST_BLOCKS = 1024, /* a large GPU runs as many at a time */
    DEVICE_ALIGN = 256,
    ADAMW_ROW = 1024, /* parameters are updated as rows of these; buffers are padded to them */
    SEGMENT = 64,     /* rows of one key of an embedding that one share of threads adds up */
    SHAPES = 32       /* recordings kept */
};

enum {
    K_DRAW,
    K_EMBED,
    K_TABLE_PART,
    K_TABLE_SUM,
    K_FILL,
    K_TAIL,
    K_COLUMN_PART,
    K_COLUMN_SUM,
    K_POOL_GRAD,
    K_JOIN,
    K_JOIN_GRAD,
    K_RECORD,
    K_NORM_PART,
    K_NORM_SUM,
    KERNELS
};
enum {
    ROW_LAYERNORM,
    ROW_GELU,
    ROW_DROPOUT_RESIDUAL,
    ROW_RELU,
    ROW_CROSS_ENTROPY,
    ROW_ADAMW,
    ROWS
};

/* A row operator, compiled for rows of n. */
typedef struct row_kernels {
    device_function *fwd, *bwd, *shared;
    int64_t n;
    int shares; /* of threads with a row each, in a block */
    int64_t
        shared_bytes; /* of bwd; 0: gradients of shared inputs have a part a share, not a block */
} row_kernels;

/* Sizes a pass is made for. rows and longest are rounded up. */
typedef struct pass_shape {
    bool train;
    int64_t B, rows, longest;
} pass_shape;

typedef struct recording {
    pass_shape shape;
    int64_t seen;
    device_graph *graph; /* NULL: not recorded yet */
} recording;

/* The uploaded block: the same layout on both sides. */
typedef struct upload {
    cuda_batch *batch;
    int64_t *begin, *len;  /* (sequences) */
    float *label, *g_loss; /* (B) */
    int32_t *token, *cell; /* (rows), -1: padding */
    uint8_t *mask;         /* (rows) of the reference's behaviour, which keeps every position */
    /* training only, see table_cuda_args */
    int32_t *sorted;  /* (2 rows) */
    int32_t *segment; /* (segments + 1) */
    int32_t *key;     /* (V + N + 1) */
} upload;

typedef struct device_layer {
    float *y1, *qkv, *mixed, *middle, *y2, *hidden, *z; /* LN1, ..., LN2, W1 LN2, gelu */
    void *saved[2];                                     /* one a call of the attention */
} device_layer;

/* All on the device; in evaluation layers share one. */
typedef struct device_values {
    float **x;           /* (L + 1) host array of (rows, E) */
    device_layer *layer; /* (L) host array */
    float *t;            /* (rows, E) product before its residual; at the end the final norm */
    float *pooled, *joined, *head1, *head2, *scores, *loss;
    void *work;
    unsigned char *bits; /* dropout of all uses */
    float *part;         /* of sums over rows */
    float *g, *gy, *gz, *g_mixed, *g_qkv;
    float *g_scores, *g_head1, *g_head2, *g_joined, *g_pooled;
} device_values;

struct model_device {
    model *m;
    device *dev;
    model_device_options options;
    spectra_status status; /* of the pass under way */
    device_function *kernel[KERNELS];
    row_kernels row[ROWS];
    attention_device **attention; /* (m->attentions) */
    float *params, *grads, *moment[2];
    int64_t padded; /* floats of each of them */
    void *memory;   /* of activations */
    int64_t memory_bytes;
    void *uploaded; /* (upload_bytes), and its twin on the host */
    char *staging;
    int64_t upload_bytes;
    arena pointers; /* host arrays of device_values */
    int *journal, *journal_host;
    int64_t journal_words; /* of an entry */
    int64_t *entry_B;      /* (entries) */
    int64_t entries;       /* used */
    int64_t read;          /* entries that journal_host holds */
    double *norm_part;     /* (NORM_BLOCKS) and as many int64_t */
    int64_t last_B;        /* of the last pass */
    int64_t replays;
    recording recorded[SHAPES];
    /* of the pass under way */
    pass_shape shape;
    upload host, up;
    device_values v;
};

enum { NORM_BLOCKS = 64 };

/* ---- model_device_batch.c ---- */
/* Packs the batch, gives every array of its shape a place, uploads it. `entry`: of the journal. */
spectra_status device_prepare(model_device *md, pass *p, int64_t entry);
/* The attention's view of the batch, or of its part that a call (of attention_calls) attends. */
attention_device_problem device_problem(const model_device *md, const pass *p, int64_t layer,
                                        int call);
/* Forgets recordings, which hold addresses. */
void device_forget(model_device *md);

/* ---- model_device_ops.c: launches in the model's terms ---- */
spectra_status device_load_kernels(model_device *md);
/* Floats of `part` that sums over `rows` rows take. */
int64_t device_part_floats(const model_device *md, int64_t rows);
/* Rows `ld` bytes apart of dropout's bits, or none. */
typedef struct keep_bits {
    const unsigned char *bits;
    int64_t ld;
} keep_bits;
/* use: 0 embeddings, 1 attention, 2 gelu, 3 mlp. */
keep_bits device_keep(const model_device *md, const pass *p, int use, int64_t layer);
void device_draw(model_device *md, const pass *p);
void device_embed(model_device *md, const pass *p);
void device_embed_grad(model_device *md, const pass *p);
/* Rows of y behind the batch's become 0. */
void device_clear_tail(model_device *md, int64_t n, float *y);
/* out (n) += columns of x (rows, n). */
void device_column_sums(model_device *md, int64_t rows, int64_t n, const float *x, float *out);
void device_pool(model_device *md, const float *z, float *pooled);
void device_pool_grad(model_device *md, const float *g_pooled, float *gz);
void device_join(model_device *md, bool grad);
void device_record(model_device *md, bool loss);
void device_norm(model_device *md);
void device_adamw(model_device *md, const adamw *o, int64_t t, double lr, double beta1);
/* y (rows, out) = x (rows, in) W'; bias NULL: none. */
void device_linear(model_device *md, int64_t rows, int64_t in, int64_t out, const float *x,
                   const float *w, const float *bias, float *y);
/* gx = gy W unless NULL; gw += gy' x. */
void device_linear_grad(model_device *md, int64_t rows, int64_t in, int64_t out, const float *x,
                        const float *w, const float *gy, float *gx, float *gw);
void device_layernorm(model_device *md, int64_t rows, const float *x, const float *norm, float *y);
void device_layernorm_grad(model_device *md, int64_t rows, const float *x, const float *norm,
                           const float *gy, float *gx, float *gnorm, bool add);
void device_gelu(model_device *md, int64_t rows, const float *x, const float *bias, keep_bits keep,
                 float *y);
void device_gelu_grad(model_device *md, int64_t rows, const float *x, const float *bias,
                      keep_bits keep, const float *gy, float *gx, float *gbias);
void device_dropout_residual(model_device *md, int64_t rows, const float *residual, const float *x,
                             const float *bias, keep_bits keep, float *y);
void device_dropout_residual_grad(model_device *md, int64_t rows, const float *bias, keep_bits keep,
                                  const float *gy, float *gx, float *gbias);
void device_relu(model_device *md, int64_t rows, const float *x, const float *bias, float *y);
void device_relu_grad(model_device *md, int64_t rows, const float *x, const float *bias,
                      const float *gy, float *gx, float *gbias);
void device_cross_entropy(model_device *md, int64_t rows, const float *scores, const float *label,
                          float *loss);
void device_cross_entropy_grad(model_device *md, int64_t rows, const float *scores,
                               const float *label, const float *g_loss, float *g_scores);

/* ---- model_device_pass.c ---- */
void device_forward_pass(model_device *md, const pass *p);
void device_backward_pass(model_device *md, const pass *p);

#endif
