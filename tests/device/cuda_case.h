/* Cases of the CUDA attention kernels: one problem with everything its kernels read, what they
 * wrote, and what the CPU's kernels make of the same numbers. Shared by whatever runs the kernels.
 */
#ifndef TESTS_CUDA_CASE_H
#define TESTS_CUDA_CASE_H

#include "attention/performer/performer.h"

/* In the order of launches; a causal case takes the first and the last three. */
enum {
    CUDA_KEYS,
    CUDA_QUERIES,
    CUDA_QUERIES_BWD,
    CUDA_KEYS_BWD,
    CUDA_CAUSAL,
    CUDA_CAUSAL_QUERIES_BWD,
    CUDA_CAUSAL_KEYS_BWD,
    CUDA_KERNELS
};
extern const char *const cuda_kernels[CUDA_KERNELS];

enum {
    CASE_MASK = 1,       /* a third of the keys; with two sequences all of the second's */
    CASE_GAUSSIAN = 2,   /* target */
    CASE_LEARN = 4,      /* gradients of W and of the scalars */
    CASE_PACKED = 8,     /* sequences of different lengths, one behind the other */
    CASE_STRIDED = 16,   /* arrays (B, T, H, D) instead of (B, H, T, D) */
    CASE_BF16 = 32,      /* inputs and outputs */
    CASE_FAST = 64,      /* one product of TF32 instead of three */
    CASE_NEGATIVE = 128, /* some row weights are negative */
    CASE_NAN = 256,      /* one number of q is not one */
    CASE_LONG = 512,     /* only in the longer list */
    CASE_CAUSAL = 1024   /* splits of q and k are the same, and S is T */
};

typedef struct cuda_case {
    const char *name, *feat, *matrix;
    int64_t B, H, T, S, D, DV, M;
    int64_t q_splits, k_splits;
    unsigned flags;
} cuda_case;

/* Constants of a kernel's text that its launch or a check needs, by their names there; group is NG
 * or QN. */
typedef struct cuda_plan {
    int64_t threads, shared, row_blocks, value_blocks, chunks;
    int64_t KW, TB, VB, CHUNK, group, LANES, NP, NS, PRODUCTS, LEARN, SECOND_OWN;
} cuda_plan;

/* Arrays of numbers of q, k, v, o, go and gradients are the kernel's type; their float twins, for
 * the CPU, are in `cpu`. */
typedef struct cuda_problem {
    cuda_case c;
    spectra_attention *att;
    spectra_problem problem;
    int64_t heads, F, DV8, state, dstate, params, NS, element;
    int64_t q_rows, k_rows;                     /* rows of an array of one entry a token */
    int64_t *q_begin, *q_len, *k_begin, *k_len; /* packed */
    uint8_t *mask;
    /* what kernels read; NULL where there is none */
    void *q, *k, *v, *go;
    float *w, *second, *w2, *counts, *row_weight, *param;
    int64_t w_stride, counts_stride;
    struct {
        float *q, *k, *v, *go, *o, *gq, *gk, *gv;
        float *dscalars, *dw, *dweight; /* sums over sequences stay apart: (heads, ...) */
    } cpu;
} cuda_problem;

/* Whether a case launches a kernel, and which of them are its backward. */
bool cuda_case_runs(const cuda_case *c, int kernel);
int cuda_case_queries_bwd(const cuda_case *c);
int cuda_case_keys_bwd(const cuda_case *c);

/* Draws the inputs and computes what the CPU makes of them; exits where that fails. */
void cuda_problem_new(const cuda_case *c, cuda_problem *p);
void cuda_problem_free(cuda_problem *p);

/* Strides (b, h, t) of an array of rows of `width` numbers. */
void cuda_strides(const cuda_problem *p, int64_t rows, int64_t width, int64_t stride[3]);

#endif
