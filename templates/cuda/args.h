/* Arguments of kernels, one struct by value: the same text for the host and for the device.
 * Pointers are the device's. Sizes the kernels were generated for (D, DV, M, lanes ...) are
 * constants there and not repeated here.
 *
 * F = lanes * MP rows of state, MP = pad16(M), DVP = pad16(DV), as in kernel.h: a head's state is
 *     max (F) | z (F) | S (F, DVP)      its gradient  dz (F) | dS (F, DVP)
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
    const float *w, *w_second; /* (M, D) each; heads w_stride apart, 0: one for all */
    const float *counts;       /* (2, M) as attn_plan.count_sums, heads counts_stride apart */
    const float *row_weight;   /* (M), NULL: all 1 */
    const float *params;       /* a head: scalars | vectors (NV, D) | linear (4, D, D) */
    float *part;               /* (k_splits, heads, state): states of the keys' splits */
    float *state;              /* (heads, state): merged, rows multiplied by their weights */
    float *dpart;              /* (q_splits, heads, gradient of the state) */
    float *den, *top;          /* (H, den_rows): normaliser of a query, the largest of its logs */
    float *gx_part;            /* (row blocks, heads, T or S, D): where there are several of them */
    /* (q_splits + k_splits, heads, NS + NV * D + M * D): parts of the parameters' gradients */
    float *dparams;
    int64_t B, H, T, S, den_rows, w_stride, counts_stride, params_stride;
    int64_t q_splits, k_splits;
    float scale; /* every element of q and k is multiplied by it on loading */
    int learn;   /* dparams holds the gradient of W as well */
} attn_cuda_args;

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
