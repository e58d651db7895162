/* Random-feature attention on a device: its kernels and where things lie in its memory. device.c
 * has the passes and is the only one that uses device_causal.c and device_decode.c; all use
 * launch.c.
 */
#ifndef SPECTRA_ATTENTION_PERFORMER_DEVICE_H
#define SPECTRA_ATTENTION_PERFORMER_DEVICE_H

#include "attention/device.h"
#include "attention/performer/performer.h"
#include "kernel/programs.h"

typedef enum performer_kernel {
    KEYS,
    QUERIES,
    QUERIES_BWD,
    KEYS_BWD,
    CLUSTER,     /* KEYS and QUERIES, in one launch */
    CLUSTER_BWD, /* QUERIES_BWD and KEYS_BWD */
    MOMENTS_OF,
    PARAMS_OF,
    PRODUCTS_OF, /* and MAPS_OF: of features with a linear map, instead of PARAMS_OF */
    MAPS_OF,
    COUNTS_OF,
    CAUSAL,
    CAUSAL_QUERIES_BWD,
    CAUSAL_KEYS_BWD,
    COMBINE, /* these two are for several row blocks */
    SUM,
    LEARNED,
    STEP, /* of decoding */
    MERGE,
    CUDA_KERNELS
} performer_kernel;

typedef struct performer_device {
    const performer *pf;
    device *dev;
    bool bf16, tf32, learn;
    device_function *kernel[CUDA_KERNELS];
    jit_cuda_plan plan[CUDA_KERNELS];
    float *w;      /* (M, D) | second (M, D) | w2 (M) | row weights (M), the device's */
    float *staged; /* the same, the host's */
    float *base;   /* (heads, parameters) for base_batch sequences: defaults and what was given */
    int64_t base_batch, base_room;
    double *uniform;    /* (M, D) of count matrices */
    float *learned;     /* (H, scalars) | (M, D) | (M): gradients since they were last asked for */
    void *spilled;      /* where blocks of kernels whose plan has `memory` find it: in `work` */
    void *step_spilled; /* and those of STEP */
    float *host;        /* room for what goes between host and device */
    int64_t host_floats;
} performer_device;

/* Where things lie in `saved` and `work`, in floats; every part starts on 256 bytes. */
typedef struct performer_layout {
    int64_t heads, den_rows, state, dstate, params, w;
    bool one_part;                  /* the keys' only part is the state */
    int64_t k_splits, q_splits;     /* of keys, of queries */
    int64_t splits, product_splits; /* of the moments' tokens, of their products' */
    int forward, backward;          /* blocks a cluster of one launch; 0: two launches */
    int64_t at_state, at_den, at_top, at_params, at_w, at_counts, saved;
    int64_t at_spilled, at_part, at_dpart, at_gq, at_gk, at_gv, at_moments, at_products, at_scalars,
        at_scalars_k, at_dw, at_dw_k, work;
    /* of causal passes; at_part is in `saved` there */
    int64_t tiles, at_o, at_den_part, at_top_part, at_gden, at_refs, at_starts, at_dweights;
} performer_layout;

enum { PERFORMER_SPLIT = 64 }; /* tokens a split is a multiple of, as in templates/cuda/tile.cuh */

static inline int64_t ceil_div(int64_t n, int64_t each)
{
    return (n + each - 1) / each;
}

/* Of the passes that are not causal and those that are. */
performer_layout performer_layout_of(const performer_device *pd, const attention_device_problem *x);
/* Blocks a cluster of CLUSTER or CLUSTER_BWD over so many heads and tokens; 0: there is no such
 * kernel, or heads are so few that two launches of `blocks` blocks keep twice as much of the
 * device busy. */
int performer_cluster_blocks(const performer_device *pd, performer_kernel kernel, int64_t heads,
                             int64_t tokens, int64_t blocks);
/* A cluster of so many blocks a head: what CLUSTER and CLUSTER_BWD are launched with. */
spectra_status performer_cluster_launch(const performer_device *pd, performer_kernel kernel,
                                        int blocks, int64_t heads, const attn_cuda_args *args);

/* ---- launch.c ---------------------------------------------------------------------------------
 */

/* Sizes of a head's state, parameters and matrix, and where the last two lie in `saved`, from *at
 * on. */
void performer_place_params(const performer_device *pd, performer_layout *l, int64_t *at);
attn_cuda_args performer_args(performer_device *pd, const attention_device_problem *x,
                              const performer_layout *l, const attention_views *v, float *saved,
                              float *work);
/* Bytes that the blocks of a kernel that run at a time have in place of shared memory. */
int64_t performer_spilled_bytes(const performer_device *pd, performer_kernel kernel);
/* Room at *at, in floats, for the most of any kernel that has its part of `work`; where it begins.
 */
int64_t performer_place_spilled(const performer_device *pd, int64_t *at);
/* Splits of a sequence so that the blocks of one launch about fill the device once; from the shape
 * and the device alone. A split is worth at least two times `unit` tokens. */
int64_t performer_device_splits(const performer_device *pd, const jit_cuda_plan *plan,
                                int64_t blocks, int64_t tokens, int64_t unit);
/* The kernels of "attention" or "decoding" (jit_cuda_request): what is not among them stays NULL.
 */
spectra_status performer_open_kernels(performer_device *pd, const char *kind);
/* After backward's passes: sums over row blocks, and of what is trained. */
spectra_status performer_sums(const performer_device *pd, const performer_layout *l,
                              const attention_device_problem *x, const attn_cuda_args *args);
spectra_status performer_launch(const performer_device *pd, performer_kernel kernel, int64_t x,
                                int64_t y, int64_t z, const void *args, int64_t size);
/* The same of a pass. */
spectra_status performer_pass(const performer_device *pd, performer_kernel kernel, int64_t x,
                              int64_t y, int64_t z, const attn_cuda_args *args);
spectra_status performer_read_keys(const performer_device *pd, int64_t splits, int64_t heads,
                                   const attn_cuda_args *args);
/* Floats of a head's parameters that can be given: scalars, vectors; and of all: linear maps too.
 */
int64_t performer_base_floats(const performer *pf);
int64_t performer_parameters(const performer *pf);
/* Is W made for every head, from counts? */
bool performer_counts(const performer *pf);
/* Of the gradients that are summed: of scalars, of W, of row weights. */
int64_t performer_learned_floats(const performer *pf);
/* At least so much room in pd->host. SPECTRA_ENOMEM. */
spectra_status performer_host_room(performer_device *pd, int64_t floats);

/* ---- device_causal.c, device_decode.c ---------------------------------------------------------
 */

performer_layout performer_causal_layout(const performer_device *pd,
                                         const attention_device_problem *x);
spectra_status performer_causal_forward(performer_device *pd, const attention_device_problem *x,
                                        const attention_views *v, float *saved, float *work);
spectra_status performer_causal_backward(performer_device *pd, const attention_device_problem *x,
                                         const attention_views *v, float *saved, float *work);

extern const attention_device_decode_ops performer_device_decode;

/* ---- device_params.c: parameters of heads -----------------------------------------------------
 */

/* After given parameters or the draw changed. */
spectra_status performer_given_update(performer_device *pd);
/* Fills the parameters in `saved`. */
spectra_status performer_params_prepare(performer_device *pd, const attention_device_problem *x,
                                        const performer_layout *l, const attention_views *views,
                                        float *saved, float *work);

#endif
