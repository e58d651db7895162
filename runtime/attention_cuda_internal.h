/* Inside of attention_cuda*.c: the attention's kernels, what lies where on the device. */
#ifndef SPECTRA_ATTENTION_CUDA_INTERNAL_H
#define SPECTRA_ATTENTION_CUDA_INTERNAL_H

#include "attention_cuda.h"
#include "jit.h"

#include "../templates/cuda/args.h"

typedef enum cuda_kernel {
    KEYS,
    QUERIES,
    QUERIES_BWD,
    KEYS_BWD,
    MOMENTS_OF,
    PARAMS_OF,
    COUNTS_OF,
    CUDA_KERNELS
} cuda_kernel;

struct attention_cuda {
    const spectra_attention *att;
    device *dev;
    attention_cuda_options options;
    device_function *kernel[CUDA_KERNELS];
    jit_cuda_plan plan[CUDA_KERNELS];
    float *w;      /* (M, D) | second (M, D) | w2 (M) | row weights (M), the device's */
    float *staged; /* the same, the host's */
    float *base;   /* (heads, parameters) for base_batch sequences: defaults and what was given */
    int64_t base_batch;
    double *uniform; /* (M, D) of count matrices */
    float *host;     /* room for what is made by the host: see cuda_params_prepare */
    int64_t host_floats;
};

/* Where things lie in `saved` and `work`, in floats; every part starts on 256 bytes. */
typedef struct cuda_layout {
    int64_t heads, den_rows, state, dstate, params, w;
    int64_t k_splits, q_splits, splits; /* of keys, of queries, of the moments' tokens */
    int64_t at_state, at_den, at_top, at_params, at_w, at_counts, saved;
    int64_t at_part, at_dpart, at_gq, at_gk, at_gv, at_moments, at_scalars, at_scalars_k, at_dw,
        at_dw_k, work;
} cuda_layout;

/* Floats rounded up to 256 bytes. */
static inline int64_t cuda_whole(int64_t floats)
{
    return (floats + 63) / 64 * 64;
}

cuda_layout cuda_layout_of(const attention_cuda *ac, const spectra_problem *p);
cuda_rows cuda_rows_of(spectra_rows x);
spectra_status cuda_launch(const attention_cuda *ac, cuda_kernel kernel, int64_t x, int64_t y,
                           int64_t z, const void *args, int64_t size);

/* ---- attention_cuda_params.c: parameters of heads
 * ------------------------------------------------
 */

/* Floats of a head's parameters: scalars, vectors, linear maps. */
int64_t cuda_parameters(const spectra_attention *att);
/* Is W made for every head, from counts? */
bool cuda_counts(const spectra_attention *att);
bool cuda_kernel_wanted(const spectra_attention *att, cuda_kernel kernel);
spectra_status cuda_uniform_update(attention_cuda *ac);
/* Fills the parameters in `saved`. Where they come from a decomposition (linear maps) q and k are
 * read back and the host makes them, which waits. */
spectra_status cuda_params_prepare(attention_cuda *ac, const spectra_problem *p,
                                   const cuda_layout *l, const spectra_rows *q,
                                   const spectra_rows *k, float *saved, float *work);

#endif
