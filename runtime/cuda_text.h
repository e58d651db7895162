/* CUDA text that this library carries, put together for a device's compiler. */
#ifndef SPECTRA_CUDA_TEXT_H
#define SPECTRA_CUDA_TEXT_H

#include "spectraformer.h"

/* `defines` (lines, NULL: none), then the files of templates/cuda in the order of `names`, which
 * ends with NULL. To be freed. SPECTRA_ENOTFOUND, SPECTRA_ENOMEM. */
spectra_status cuda_text(const char *defines, const char *const *names, char **out);
/* Kernels of a row operator behind `defines` (ROW_N and ROW_UNIT, see gen/target_cuda.lua). To be
 * freed. SPECTRA_EFORMAT, SPECTRA_ENOMEM. */
spectra_status cuda_row_text(const char *defines, const char *name, char **out);

#endif
