/* CUDA text that this library carries, put together for a device's compiler. */
#ifndef SPECTRA_CUDA_TEXT_H
#define SPECTRA_CUDA_TEXT_H

#include "spectraformer.h"

/* `defines` (lines, NULL: none), then the files of templates/cuda in the order of `names`, which
 * ends with NULL. To be freed. SPECTRA_ENOTFOUND, SPECTRA_ENOMEM. */
spectra_status cuda_text(const char *defines, const char *const *names, char **out);

#endif
