/* Exact softmax attention, streamed in tiles: no N x N array exists, one number per query row
 * (logarithm of its sum of exponentials) is kept between forward and backward.
 *
 * Valid keys of a sequence are gathered first, so padding costs nothing wherever it is. Dropout on
 * the probabilities (p->dropout) draws element ((b*H + h)*T + i)*S8 + j of the stream (p->seed,
 * RNG_DROPOUT_PROB, layer word p->step >> 32, step word p->step), with i the query's row, j the
 * key's rank among the valid keys of its sequence, S8 = p->S rounded up to 8; the same factors are
 * drawn again in backward.
 *
 * Arguments are as in spectra_attention_forward and _backward (spectraformer.h). The workspace
 * depends on the number of threads: it must not change between softmax_work_bytes and the call.
 */
#ifndef SPECTRA_ATTENTION_SOFTMAX_SOFTMAX_H
#define SPECTRA_ATTENTION_SOFTMAX_SOFTMAX_H

#include "spectraformer.h"

int64_t softmax_saved_bytes(int64_t H, const spectra_problem *p);
int64_t softmax_work_bytes(int64_t H, int64_t D, int64_t DV, const spectra_problem *p);

/* causal: query i sees the keys j <= i, of which every sequence has as many as queries. */
typedef struct softmax_sizes {
    int64_t H, D, DV;
    bool causal;
} softmax_sizes;

spectra_status softmax_forward(softmax_sizes n, const spectra_problem *p, spectra_rows q,
                               spectra_rows k, spectra_rows v, spectra_rows o, void *saved,
                               void *work);
spectra_status softmax_backward(softmax_sizes n, const spectra_problem *p, spectra_rows q,
                                spectra_rows k, spectra_rows v, spectra_rows o, spectra_rows go,
                                spectra_rows gq, spectra_rows gk, spectra_rows gv, void *saved,
                                void *work);

extern const struct attention_device_ops softmax_device_ops;

#endif
