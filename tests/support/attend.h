/* An attention run through the public API on dense arrays, with its memory: what the golden runner
 * and the property tests share. Outputs start as NaN, so that an element nobody wrote is seen.
 */
#ifndef TESTS_ATTEND_H
#define TESTS_ATTEND_H

#include "spectraformer.h"

typedef struct attend_shape {
    int64_t B, H, T, S, D, DV;
} attend_shape;

/* q (B, H, T, D), k (B, H, S, D), v (B, H, S, DV), go (B, H, T, DV); masks (B, T), (B, S) or NULL.
 * go NULL: no gradients. */
typedef struct attend_inputs {
    const float *q, *k, *v, *go;
    const uint8_t *q_mask, *k_mask;
} attend_inputs;

typedef struct attend_run {
    spectra_problem problem;
    float *o, *gq, *gk, *gv; /* shapes of go, q, k, v */
    void *saved, *work;
} attend_run;

/* Forward, and backward where x->go is given. Whatever happens, attend_free releases `run`. */
spectra_status attend(const spectra_attention *att, const attend_shape *n, const attend_inputs *x,
                      attend_run *run);
void attend_free(attend_run *run);

/* 64-byte aligned, contents undefined; exits the test program when memory is out. */
void *attend_alloc(int64_t bytes);
/* (count) floats, all NaN. */
float *attend_floats(int64_t count);

#endif
