/* Inside of the model on a device.
 *
 * A pass is a list of launches for a shape: every address and size in it depends on the shape
 * alone, and what differs between batches of a shape is in the uploaded block. Launches do not fail
 * one by one: the first failure is kept in md->status and the rest of the pass does nothing.
 */
#ifndef SPECTRA_MODEL_DEVICE_INTERNAL_H
#define SPECTRA_MODEL_DEVICE_INTERNAL_H

#include "attention/device.h"
#include "model/call.h"
#include "model/device.h"

enum {
    DEVICE_THREADS = 256,
    DEVICE_WARPS = DEVICE_THREADS / 32,
    MOST_BLOCKS = 1024, /* a large GPU runs as many at a time */
    UPDATE_ROW = 1024,  /* parameters are updated as rows of these; buffers are padded to them */
    SEGMENT = 64,       /* rows of one key of an embedding that one share of threads adds up */
    SHAPES = 32         /* recordings kept */
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
    K_JOURNAL,
    K_NORM_PART,
    K_NORM_SUM,
    KERNELS
};

/* A row operator, compiled for rows of n. */
typedef struct row_kernels {
    device_function *fwd, *bwd, *shared;
    int64_t n;
    int shares; /* of threads with a row each, in a block */
    int64_t
        shared_bytes; /* of bwd; 0: gradients of shared inputs have a part a share, not a block */
} row_kernels;
/* Behind the plan's operators, that of the optimiser. */
enum { ROW_UPDATE = ROW_OPERATORS, ROW_KERNELS };

typedef struct recording {
    pass_shape shape;
    int64_t seen;
    device_graph *graph; /* NULL: not recorded yet */
} recording;

/* The uploaded block: the same layout on both sides. */
typedef struct upload {
    cuda_batch *batch;
    int64_t *seq_start, *seq_len; /* (sequences) */
    float *label, *g_loss;        /* (B) */
    int32_t *token, *cell;        /* (rows), -1: padding */
    uint8_t *mask;                /* (rows) where every position is kept */
    /* training only, see table_cuda_args */
    int32_t *sorted;  /* (2 rows) */
    int32_t *segment; /* (segments + 1) */
    int32_t *key;     /* (V + N + 1) */
} upload;

struct model_device {
    model *m;
    device *dev;
    model_device_options options;
    spectra_status status; /* of the pass under way */
    device_function *kernel[KERNELS];
    row_kernels row[ROW_KERNELS];
    attention_device **attention; /* (m->attentions) */
    float *params, *grads, *moment[2];
    int64_t padded; /* floats of each of them */
    void *memory;   /* of activations */
    int64_t memory_bytes;
    void *uploaded; /* (upload_bytes), and its twin on the host */
    char *staging;
    int64_t upload_bytes;
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
    pass pass;
    pass_shape shape;
    upload host, up;
    values v;
    unsigned char *bits; /* dropout of all uses */
    float *part;         /* of sums over rows */
};

enum { NORM_BLOCKS = 64 };

/* ---- device_batch.c ---- */
/* Packs the batch, gives every array of its shape a place, uploads it. `entry`: of the journal. */
spectra_status md_prepare(model_device *md, int64_t entry);
/* The attention's view of the batch, or of its part that a call (of attention_calls) attends. */
attention_device_problem md_problem(const model_device *md, int64_t layer, int call);
/* Forgets recordings, which hold addresses. */
void md_forget(model_device *md);

/* ---- device_ops.c: launches in the model's terms ---- */
spectra_status md_load_kernels(model_device *md);
/* Floats of `part` that sums over `rows` rows take. */
int64_t md_part_floats(const model_device *md, int64_t rows);
/* Bytes of a token's bits of dropout, of all uses and layers. */
int64_t md_bits_bytes(const model_config *c);
/* The pass's bits of dropout. */
void md_draw(model_device *md);
/* Operations of the plan, forward and backward. */
void md_embed(model_device *md, const plan_call *c);
void md_embed_grad(model_device *md, const plan_call *c);
void md_linear(model_device *md, const plan_call *c);
void md_linear_grad(model_device *md, const plan_call *c);
void md_join(model_device *md, const plan_call *c);
void md_join_grad(model_device *md, const plan_call *c);
/* A row operator, which need not be c->op's, with the dropout of c->op. */
void md_row(model_device *md, const plan_call *c, plan_kind kind, bool backward);
/* Sums of the sequences' rows of z to pooled, and their gradient. */
void md_pool(model_device *md, const float *z, float *pooled);
void md_pool_grad(model_device *md, const float *g_pooled, float *gz);
/* Rows of y behind the batch's become 0. */
void md_clear_tail(model_device *md, int64_t n, float *y);
/* What an entry of the journal says of the pass. */
void md_journal(model_device *md);
/* The gradients' norm, to the entry. */
void md_norm(model_device *md);
void md_update(model_device *md, const adamw *o, int64_t t, double lr, double beta1);

/* ---- device_exec.c ---- */
/* Launches of the plan's operations, in order and in reverse. */
void md_forward(model_device *md);
void md_backward(model_device *md);

#endif
