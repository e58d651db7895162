/* Kernels for a component function, a matrix and sizes: those that were built, or where there are
 * none those that jit.h compiles. Whoever computes something asks here; registry.h knows only what
 * was built. */
#ifndef SPECTRA_KERNEL_FIND_H
#define SPECTRA_KERNEL_FIND_H

#include "kernel/kernel.h"
#include "spectraformer.h"

/* SPECTRA_ENOTFOUND names the nearest known name. A user's component function is known once
 * kernel_find has given a kernel of it. */
spectra_status kernel_feature(const char *name, const feature_info **out);
/* A row that has these groups (ATTN_ATTENTION | ...). SPECTRA_ENOTFOUND for an unknown component
 * function; SPECTRA_EUNSUPPORTED when nothing fits and nothing could be compiled. */
spectra_status kernel_find(const char *feat, const char *matrix, int64_t D, int64_t DV, int64_t M,
                           int groups, const attn_row **out);
/* Before a long job, where the policy is JIT_AUTO: exact sizes are compiled if none were built. No
 * failure: without a compiler nothing happens, and what else goes wrong is warned of. */
void kernel_prefer(const char *feat, const char *matrix, int64_t D, int64_t DV, int64_t M,
                   int groups);

#endif
