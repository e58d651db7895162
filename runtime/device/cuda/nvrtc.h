/* NVRTC, NVIDIA's compiler of CUDA text, opened at run time. It needs neither a GPU nor a driver,
 * so it can also compile ahead for GPUs that this machine does not have. */
#ifndef SPECTRA_DEVICE_CUDA_NVRTC_H
#define SPECTRA_DEVICE_CUDA_NVRTC_H

#include "kernel/internal.h"

enum { NVRTC_ARCHS = 64, NVRTC_TARGET = 24 };

typedef struct nvrtc_info {
    int major, minor;
    const char *library; /* under which name it was found */
    int archs;           /* compute capabilities times 10 it compiles for, ascending */
    int arch[NVRTC_ARCHS];
    sha256_hex identity; /* of the version, for keys */
    char text[32];       /* "NVRTC 13.0" */
} nvrtc_info;

/* driver: CUDA version of the driver, 1000 * major + 10 * minor as it gives it, 0: none. What a
 * newer NVRTC makes an older driver may refuse, so one of the driver's major version or older is
 * preferred. Once found it stays. SPECTRA_EUNSUPPORTED. */
spectra_status nvrtc_open(int driver, const nvrtc_info **out);

/* What to compile for on a GPU of compute capability arch / 10: its machine code ("sm_80",
 * "sm_90a"), or where NVRTC does not know it yet the newest text the driver can compile on
 * ("compute_90"). info NULL: what an NVRTC that knows it would be asked for. SPECTRA_EUNSUPPORTED
 * where the GPU is too old. */
spectra_status nvrtc_target(const nvrtc_info *info, int arch, char out[NVRTC_TARGET]);
/* Can NVRTC be asked for all of these, with spaces or commas between them? `targets` is taken
 * apart. SPECTRA_EINVAL names those that it can. */
spectra_status nvrtc_check_targets(const nvrtc_info *info, char *targets);

/* Key of a text compiled for a target: options and text go into it. SPECTRA_ENOMEM. */
spectra_status nvrtc_key(const char *text, const char *target, sha256_hex out);

/* Machine code for "sm_..", PTX (a string) for "compute_..". SPECTRA_EFORMAT with what NVRTC says,
 * which names lines of specs and templates. */
spectra_status nvrtc_compile(const char *name, const char *text, const char *target,
                             byte_buffer *image);

/* The same through the cache of jit.h: load is given what was found or compiled. info NULL: there
 * is no NVRTC, for the reason `why`, and only the cache can help. What jit_make fails with. */
spectra_status nvrtc_make(const nvrtc_info *info, const char *why, const char *name,
                          const char *text, const char *target,
                          spectra_status (*load)(void *context, const byte_buffer *image),
                          void *context, bool *compiled);

#endif
