/* Arguments of the model's kernels, as args.h: the same text for the host and for the device. */
#ifndef SPECTRA_CUDA_MODEL_ARGS_H
#define SPECTRA_CUDA_MODEL_ARGS_H

/* What differs between batches of one shape. It is in device memory and written with the batch, so
 * that a recorded pass can be replayed for another. */
typedef struct cuda_batch {
    int64_t rows;    /* tokens; arrays have room for more, and rows behind these are padding */
    int64_t longest; /* sequence */
    int64_t entry;   /* of the journal */
    unsigned step, part; /* of the dropout streams */
} cuda_batch;

/* Who does what of (rows, n): 2^shift neighbouring threads a row, each `unit` elements (1 or 4) at
 * a time. 4: rows and what is added to them are 16-byte aligned, n is a multiple of 4. */
typedef struct cuda_share {
    int64_t rows, n;
    int unit, shift;
} cuda_share;

/* Factors of dropout as bits (dropout.cuh), rows `ld` bytes apart; NULL: all 1. */
typedef struct cuda_keep {
    const unsigned char *bits;
    int64_t ld;
    float factor;
} cuda_keep;

/* Bits of the streams of one pass: of embeddings, then of each layer's attention, gelu, mlp. */
typedef struct draw_cuda_args {
    unsigned char *bits;
    const cuda_batch *batch;
    const int *cell; /* (rows) place in the padded grid, sequence * N + position; -1: padding */
    int64_t rows, narrow, wide; /* E, F */
    unsigned seed[2], use[4];   /* of the embeddings, and the three of a layer */
    unsigned threshold;         /* an element whose 16 bits are below is dropped */
} draw_cuda_args;

typedef struct embed_cuda_args {
    cuda_share share;        /* (rows, E) */
    const int *token, *cell; /* (rows), -1: padding, which gives 0 */
    const float *tokens, *positions;
    cuda_keep keep;
    float *x;
    int64_t length; /* N */
} embed_cuda_args;

/* Gradient of both tables, which lie one behind the other: rows of g sorted by key, a key a row of
 * the tables, are added by segments of neighbours of one key, then those of a key in order. */
typedef struct table_cuda_args {
    cuda_share share;            /* (segments at most, E); of the second kernel (keys, E) */
    const int *row;              /* (2 rows) sorted */
    const int *segment;          /* (segments + 1) where each begins in row */
    const int *key;              /* (keys + 1) first segment of each */
    const float *g;              /* (rows, E) */
    cuda_keep keep;              /* g is multiplied by it */
    float *part;                 /* (segments, E) */
    float *table;                /* (keys, E) += */
    int64_t keys;
} table_cuda_args;

/* y (rows, n) = bias (n). */
typedef struct fill_cuda_args {
    cuda_share share;
    const float *bias;
    float *y;
} fill_cuda_args;

/* y (rows, n): rows from batch->rows on become 0. */
typedef struct tail_cuda_args {
    cuda_share share;
    const cuda_batch *batch;
    float *y;
} tail_cuda_args;

/* Sums of columns of x, slabs of `slab` rows: part (sequences, slabs, n), then out (sequences, n)
 * = or += factor * their sum. begin NULL: one sequence, all rows; else rows begin[s] ..., at most
 * `limit` of len[s]. mask: rows of 0 do not count. */
typedef struct column_cuda_args {
    cuda_share share;
    const float *x;
    const int64_t *begin, *len;
    const unsigned char *mask; /* (rows) or NULL */
    int64_t limit, slab, slabs, sequences;
    float *part, *out;
    float factor;
    int add;
} column_cuda_args;

/* y (rows, E) = factor * the pooled gradient of the row's sequence; first: only at position 0;
 * mask: 0 where it is 0. */
typedef struct pool_cuda_args {
    cuda_share share;
    const int *cell;
    const unsigned char *mask; /* (rows) or NULL */
    const float *g; /* (sequences, E) */
    float *y;
    int64_t length;
    float factor;
    int first;
} pool_cuda_args;

/* Input of the head for two sequences, a | b | a*b | a-b, and its gradient. */
typedef struct join_cuda_args {
    int64_t B, E;
    const float *pooled;   /* (2 B, E) */
    float *joined;         /* (B, 4 E) */
    const float *g_joined; /* (B, 4 E) */
    float *g_pooled;       /* (2 B, E) */
} join_cuda_args;

/* An entry of the journal is 4 + 2 B words: what is wrong (0: nothing, JOURNAL_...), the place of
 * the first gradient that is not a number (low and high word), the gradient's norm, then the losses
 * and the predicted classes of the examples. */
enum { JOURNAL_HEAD = 4, JOURNAL_GOOD = 0, JOURNAL_POOLED, JOURNAL_SCORES, JOURNAL_GRADIENT };
typedef struct record_cuda_args {
    const cuda_batch *batch;
    const float *pooled, *scores, *loss; /* (pooled_floats), (B, C), (B) */
    int64_t pooled_floats, B, C, words;  /* words: of an entry */
    int *journal;
} record_cuda_args;

/* The norm of n gradients: part (blocks) and bad (blocks) of the first kernel, an entry of the
 * journal of the second. bad: the first element that is not a number, else n. */
typedef struct norm_cuda_args {
    const float *g;
    int64_t n, parts;
    double *part;
    int64_t *bad;
    const cuda_batch *batch;
    int64_t words;
    int *journal;
} norm_cuda_args;
#endif
