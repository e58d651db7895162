/* One call of an attention on dense arrays on a device, for the command attend and the golden
 * runner. */
#ifndef SPECTRA_CLI_ATTEND_H
#define SPECTRA_CLI_ATTEND_H

#include "attention/attention.h"
#include "device/device.h"

/* q, o, go, gq (B, H, T, D or DV), k, v, gk, gv (B, H, S, D or DV); go NULL: no gradients. */
typedef struct attend_call {
    spectra_problem problem;
    int64_t H, D, DV;
    const float *q, *k, *v, *go;
    float *o, *gq, *gk, *gv;
} attend_call;

/* precision: "float32", "fast" (products of TF32) or "bf16" (numbers of bf16, products of TF32).
 * Waits for the result. */
spectra_status attend_on_device(device *dev, spectra_attention *att, const char *precision,
                                const attend_call *call);

#endif
