/* Machine code of GPUs that `make gen ARCH=...` compiled ahead. It is part of the library, so that
 * an installed library finds it without knowing where it lies, and needs neither compiler nor
 * cache. */
#ifndef SPECTRA_DEVICE_CUDA_BUILT_H
#define SPECTRA_DEVICE_CUDA_BUILT_H

#include "kernel/internal.h"

typedef struct built_cubin {
    const char *name, *arch, *key; /* its file, "sm_80", nvrtc_key of text and arch */
    const char *data;
    size_t size;
} built_cubin;

extern const built_cubin built_cubins[]; /* build/cubins.c; ends with NULLs */

/* What runs on a GPU of compute capability arch / 10: made for it, else for the newest older one of
 * the same major number. The image is the library's. */
bool device_built(const char *text, int arch, byte_buffer *image);

#endif
