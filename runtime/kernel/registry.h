/* The tables that the generator wrote, and looking things up in them. A kernel is found by what it
 * computes and for which sizes: the highest instruction set in use wins, then a
 * kernel for exactly these sizes over one for any size. Nothing is compiled here; find.h does that
 * where there is no such kernel. */
#ifndef SPECTRA_KERNEL_REGISTRY_H
#define SPECTRA_KERNEL_REGISTRY_H

#include "kernel/kernel.h"
#include "spectraformer.h"

/* The highest instruction set in use: cpu_best(), or less after registry_isa_limit. */
isa registry_isa(void);
const char *registry_isa_name(isa level); /* "portable", "avx2", "avx512" */
/* Takes kernels of no more than `level` from now on, to compare levels within a process; what is
 * outside kernels keeps to cpu.h alone. Not thread-safe. */
void registry_isa_limit(isa level);

/* The name of a feature, or of its antithetic form: with a + at its end. */
const char *registry_form(const char *feat, bool antithetic, char *buf, size_t size);
/* A built-in component function or matrix. SPECTRA_ENOTFOUND names the nearest known name. */
spectra_status registry_feature(const char *name, const feature_info **out);
spectra_status registry_matrix(const char *name, const matrix_info **out);
/* The best row built for these sizes that has these groups (ATTN_ATTENTION | ...); NULL. */
const attn_row *registry_attn(const char *feat, const char *matrix, int64_t D, int64_t DV,
                              int64_t M, int groups);
/* The groups a row has. */
int registry_groups(const attn_row *row);
/* Whether kernels of ATTN_BF16 run at the instruction set in use. */
bool registry_bf16(void);
spectra_status registry_row(const char *name, const row_op **out);
/* Never NULL. */
const product_ops *registry_products(void);

#endif
