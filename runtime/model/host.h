/* The plan on the host: forward and backward passes in C, spread over threads.
 *
 * Tokens are worked on in chunks of CHUNK rows: all operations between two attentions are done for
 * one chunk before the next, so that what they pass on stays in cache and cheap values (memory.h)
 * need memory for a chunk only. Attention and the head work on the whole batch.
 *
 * Backward computes cheap values again. A matrix whose input is cheap gets its gradient when the
 * operation that makes this input is walked over, which is then there once more.
 *
 * Parameter gradients of chunk c are added up in slot c % SLOTS, in order of c, and the slots are
 * added in order: the sums do not depend on the number of threads.
 */
#ifndef SPECTRA_MODEL_HOST_H
#define SPECTRA_MODEL_HOST_H

#include "model/internal.h"

typedef struct host_pass host_pass;

spectra_status host_new(const model_config *c, host_pass **out);
void host_free(host_pass *h);

/* Packs the batch and gives every array of the pass its memory. */
spectra_status host_prepare(const pass *p);
/* The plan's operations before number `until` of plan_count. */
spectra_status host_forward(const pass *p, int64_t until);
spectra_status host_backward(const pass *p);

/* Of the last pass. */
float *host_value(const model *m, value_id id, int64_t layer);
/* SPECTRA_EDIVERGED names the first value of the pass that is not finite. */
spectra_status host_diverged(const pass *p);

/* Bytes held now, and what the last pass used them for; returns how many parts. */
int64_t host_bytes(const host_pass *h);
int host_parts(const host_pass *h, const model_part **parts);

#endif
