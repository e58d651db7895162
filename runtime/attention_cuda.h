/* Random-feature attention on a device: the kernels of templates/cuda for one attention's feature
 * and sizes, their launches and workspace. The attention itself (matrix, given parameters) stays
 * the host's; attention_cuda_update brings it over.
 */
#ifndef SPECTRA_ATTENTION_CUDA_H
#define SPECTRA_ATTENTION_CUDA_H

#include "attention.h"
#include "device.h"

typedef struct attention_cuda attention_cuda;

typedef struct attention_cuda_options {
    bool bf16;  /* q, k, v, o and their gradients are bf16; sums stay float */
    bool fast;  /* products of TF32; else three of them, as exact as float */
    bool learn; /* backward makes the gradients of W and of scalars */
} attention_cuda_options;

/* SPECTRA_EUNSUPPORTED for what the kernels do not do (the reference's behaviour, --through). */
spectra_status attention_cuda_new(const spectra_attention *att, device *dev,
                                  const attention_cuda_options *options, attention_cuda **out);
void attention_cuda_free(attention_cuda *ac);
/* After the attention's matrix or its given parameters changed, and at first. */
spectra_status attention_cuda_update(attention_cuda *ac);
/* Bytes of device memory, 256-byte aligned: `saved` from forward to backward, `work` of either. */
void attention_cuda_bytes(const attention_cuda *ac, const spectra_problem *p, int64_t *saved,
                          int64_t *work);
/* As spectra_attention_forward and _backward, everything the device's; the numbers that the strides
 * count are floats or bf16. Asked for, not waited for. */
spectra_status attention_cuda_forward(attention_cuda *ac, const spectra_problem *p, spectra_rows q,
                                      spectra_rows k, spectra_rows v, spectra_rows o, void *saved,
                                      void *work);
spectra_status attention_cuda_backward(attention_cuda *ac, const spectra_problem *p, spectra_rows q,
                                       spectra_rows k, spectra_rows v, spectra_rows o,
                                       spectra_rows go, spectra_rows gq, spectra_rows gk,
                                       spectra_rows gv, void *saved, void *work);

#endif
