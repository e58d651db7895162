/* Arguments of kernels, one struct by value: the same text for the host and for the device.
 * Pointers are the device's. Sizes the kernels were generated for (D, DV, M, lanes ...) are
 * constants there and not repeated here.
 *
 * F = lanes * MP rows of state, lane-major, MP = pad16(M); DV8 is DV rounded up to 8. A head's state is
 *     max (F) | z (F) | S (F, DV8)      its gradient  dz (F) | dS (F, DV8)
 */
#ifndef SPECTRA_CUDA_ARGS_H
#define SPECTRA_CUDA_ARGS_H

/* Rows of an array (B, H, T, D) in elements of the kernel's type of inputs, as spectra_rows. */
typedef struct cuda_rows {
    void *data;
    int64_t stride_b, stride_h, stride_t;
} cuda_rows;

typedef struct attn_cuda_args {
    cuda_rows q, k, v, o, go, gq, gk, gv;
    const int64_t *q_begin, *q_len, *k_begin, *k_len; /* (B) of packed sequences, else NULL */
    const unsigned char *mask; /* (B, S), or a byte a packed row, 0 = skip the key; NULL: all valid */
    const float *w;            /* (M, D), heads w_stride apart, 0: one for all */
    const float *w_second;     /* (M, D) where second projections have a matrix of their own */
    const float *w2;           /* (M) |w_r|^2, a row of them a head where w_stride is not 0 */
    const float *counts;       /* (2, M) as attn_plan.count_sums, heads counts_stride apart */
    const float *row_weight;   /* (M), NULL: all 1 */
    const float *params;       /* a head: scalars | vectors (NV, D) | linear (4, D, D) */
    float *part;               /* (k_splits, heads, state): states of the keys' splits */
    /* (heads, state): merged, rows multiplied by their weights; part itself where there is one split
     * and no weight */
    float *state;
    float *dpart;              /* (q_splits, heads, gradient of the state) */
    float *den, *top;          /* (H, den_rows): normaliser of a query, the largest of its logs */
    float *gq_part;            /* (row blocks, heads, T, D), where there is more than one of them */
    float *gk_part, *gv_part;  /* likewise (row blocks, heads, S, D) and (.., S, DV) */
    /* parts of the gradients of parameters, from queries and from keys: (splits, row blocks, heads,
     * NS) of scalars, (splits, heads, M, D) of W; the two kernels may differ in row blocks */
    float *dscalars, *dw, *dscalars_k, *dw_k;
    float *learned;            /* (H, NS) | (M, D) | (M): sums that attn_learned adds to */
    /* Of causal kernels. What each row block knows of a query, where there is more than one: (row
     * blocks, heads, T, DV) by the largest log of its own, top_part (row blocks, heads, T) like den_part */
    float *o_part, *den_part, *top_part;
    float *gden;     /* (H, den_rows) -(go . o) / den */
    float *refs;     /* (heads, tiles, F) references at the start of every tile of the backward kernels */
    unsigned *starts; /* (row blocks, heads, tiles) bits of a tile's tokens that start a segment */
    float *dweights; /* (q_splits, heads, M) parts of the gradients of row weights */
    const unsigned char *active; /* (B) sequences that take a step; NULL: all */
    int64_t row_blocks, tiles;   /* of o_part; of refs */
    int64_t B, H, T, S, den_rows, w_stride, counts_stride, params_stride;
    int64_t q_splits, k_splits;
    int64_t q_row_blocks, k_row_blocks; /* of the two backward kernels */
    float scale; /* every element of q and k is multiplied by it on loading */
} attn_cuda_args;

/* Moments of every head, and the parameters made of them (attn_moments, attn_params, attn_counts; of
 * linear maps attn_moments, attn_products, attn_maps). */
typedef struct params_cuda_args {
    cuda_rows q, k;
    const int64_t *q_begin, *q_len, *k_begin, *k_len;
    const unsigned char *q_mask, *k_mask;
    float *part;         /* (splits, 2 sides, heads, 5 D + 1) */
    float *products;     /* (product_splits, 2 sides, heads, D, D), of which attn_maps overwrites the first */
    const float *base;   /* (heads, base_stride) scalars | vectors: defaults and what was given */
    float *params;       /* (heads, params_stride) the result, as attn_cuda_args.params */
    const double *uniform; /* (M, D) */
    float *w, *w2, *counts; /* a head: (M, D) w_stride apart, (M), (2, M) */
    int64_t B, H, T, S, splits, product_splits, base_stride, params_stride, w_stride;
    float scale;
    unsigned given;      /* bits of scalars and, behind them, of vectors that were given */
    int counts_law, counts_slot; /* count_law of kernel.h, and which scalar is its parameter */
} params_cuda_args;

/* The reference system's behaviour (attn_official, attn_official_adapt): T queries and T keys a sequence, padded
 * ones too. A head's state, and its gradient, is z (F) | S (F, DV), F = LANES * M, lane-major. Side 0 =
 * queries, 1 = keys. */
typedef struct official_cuda_args {
    cuda_rows q, k, v, o, go, gq, gk, gv;
    const unsigned char *mask; /* (B, T), 0 = the key's row and its value are zeros; NULL: none */
    const float *w, *wt;       /* (M, D) and its transpose */
    const float *w2;           /* (M) |w_r|^2 */
    const float *base;         /* (B, H, NS) scalars of a head: defaults and what was given */
    const float *base_vectors; /* (B, H, NV, D) likewise */
    float *s;                  /* (H, T, NS) scalars of a position, heads s_stride floats apart */
    float *vectors;            /* (B, H, NV, D) those in use */
    float *part;               /* (splits, B, H, state) what attn_official_keys or .._queries_bwd leave */
    float *sum;                /* (B, H, state) where attn_official_sum puts their sum; part if splits = 1 */
    float *state, *dstate;     /* likewise */
    float *den;                /* (B, H, T) normalisers */
    float *ds;                 /* (2 sides, B, H, T, NS) */
    float *dvectors;           /* (2 sides, splits, B, H, NV, D) */
    int64_t B, H, T, splits, s_stride;
    float scale, eps; /* of every element of q and k on loading; added to every feature */
    unsigned given;   /* bits of the vectors that were given */
} official_cuda_args;

/* Features of n tokens: log and sign (n, LANES, M), as attn_fwd_ops.features does. */
typedef struct features_cuda_args {
    const real *x;        /* (n, D), rows ldx apart */
    const real *w;        /* (M, D) */
    const real *w_second; /* (M, D), of features with two projections */
    const real *w2;       /* (M) */
    const real *counts;   /* (2, M) as attn_plan.count_sums, of features whose W holds counts */
    const real *linear;   /* (D, D), of features with a linear map */
    const real *s, *v;    /* scalars; vectors (NV, D) */
    real *log, *sign;
    int64_t n, ldx;
    real scale;
    int D, M, side; /* side 0 = query, 1 = key */
} features_cuda_args;

/* Row operators, as row_args in kernel.h. part (shared inputs, parts, n) gets the gradients of shared
 * inputs; row_bwd_shared adds them up. parts: blocks of row_bwd's launch where the text was made for
 * rows of n <= 1024 (ROW_N), which then needs n floats of shared memory for each share of ROW_LANES
 * threads; else shares of all blocks. */
enum { ROW_CUDA_MAX = 8 };
typedef struct row_cuda_args {
    int64_t rows, n;
    const real *in[ROW_CUDA_MAX];
    int64_t ld_in[ROW_CUDA_MAX];
    real *out[ROW_CUDA_MAX];
    int64_t ld_out[ROW_CUDA_MAX];
    const real *gout[ROW_CUDA_MAX];
    int64_t ld_gout[ROW_CUDA_MAX];
    real *gin[ROW_CUDA_MAX];
    int64_t ld_gin[ROW_CUDA_MAX];
    real *part;
    int64_t parts;
    real c[ROW_CUDA_MAX];
    unsigned add;
    real keep_factor;          /* of what dropout keeps */
    const unsigned char *keep; /* an input "keep" as bits (dropout.cuh); NULL: all 1 */
    int64_t ld_keep;           /* bytes */
} row_cuda_args;

#endif
