/* An attention on a device, beside the host's: the matrix and the parameters stay with the
 * spectra_attention it was made from, which must outlive it. Its functions are the kind's
 * (attention_kind.device).
 *
 * Nothing here waits for the device but what says so; forward and backward only ask for work, so
 * that a pass can be recorded and replayed.
 */
#ifndef SPECTRA_ATTENTION_DEVICE_H
#define SPECTRA_ATTENTION_DEVICE_H

#include "attention/attention.h"
#include "base/arena.h"
#include "device/args.h"
#include "device/device.h"

typedef struct attention_device {
    spectra_attention *att;
    device *dev;
    bool tf32; /* products that go through tensor cores are of one TF32 product, not of three */
    bool bf16; /* q, k, v, o and their gradients are bf16, strides count such (ATTENTION_BF16) */
    void *own; /* the kind's */
} attention_device;

/* One batch. Arrays are the device's: begins, lengths and masks of `p`, and the rows given to
 * forward and backward. T and S bound the lengths, launches are made for them. */
typedef struct attention_device_problem {
    spectra_problem p;
    int64_t q_rows, k_rows; /* rows that arrays of one entry a token have: B * T, or a bound of the
                               packed ones */
    /* What differs from batch to batch, read when the kernels run: the longest sequence, which
     * takes the place of T and S in the numbering of dropout, and step and part, which are added to
     * p.step's layer (bits 32 ...). NULL: T, S and p.step are exact. */
    const cuda_batch *batch;
} attention_device_problem;

/* Of attentions that decode: as attention_device_state_bytes ... _step. */
typedef struct attention_device_decode_ops {
    int64_t (*state_bytes)(const attention_device *ad, int64_t B);
    spectra_status (*clear)(const attention_device *ad, int64_t B, void *state);
    int64_t (*prefill_bytes)(const attention_device *ad, const attention_device_problem *x);
    spectra_status (*prefill)(const attention_device *ad, const attention_device_problem *x,
                              const attention_views *v, void *state, void *work);
    spectra_status (*step)(const attention_device *ad, int64_t B, const uint8_t *active,
                           const attention_views *v, void *state);
} attention_device_decode_ops;

/* The device's part of a kind. changed, gradient and decode may be NULL: it keeps nothing of the
 * host's, trains nothing, does not decode. */
typedef struct attention_device_ops {
    spectra_status (*init)(attention_device *ad); /* sets own; release follows in any case */
    void (*release)(attention_device *ad);
    spectra_status (*changed)(attention_device *ad);
    int64_t (*saved_bytes)(const attention_device *ad, const attention_device_problem *x);
    int64_t (*work_bytes)(const attention_device *ad, const attention_device_problem *x);
    spectra_status (*forward)(const attention_device *ad, const attention_device_problem *x,
                              const attention_views *v, void *saved, void *work);
    spectra_status (*backward)(const attention_device *ad, const attention_device_problem *x,
                               const attention_views *v, void *saved, void *work);
    spectra_status (*gradient)(attention_device *ad, float *gtheta);
    const attention_device_decode_ops *decode;
} attention_device_ops;

/* SPECTRA_EUNSUPPORTED names what the device cannot do: a kind, bf16. */
spectra_status attention_device_new(spectra_attention *att, device *dev, bool tf32,
                                    attention_device **out);
/* The same with bf16 in the place of float where `bf16` is set. */
spectra_status attention_device_new_typed(spectra_attention *att, device *dev, bool tf32, bool bf16,
                                          attention_device **out);
void attention_device_free(attention_device *ad);
/* The host's attention has another matrix or other parameters (a draw, a checkpoint, new values of
 * what is trained): they go to the device. Needed once before the first forward. */
spectra_status attention_device_changed(attention_device *ad);

/* Device memory, 256-byte aligned: `saved` is written by forward and read by backward, `work` is
 * scratch of either. */
int64_t attention_device_saved_bytes(const attention_device *ad, const attention_device_problem *x);
int64_t attention_device_work_bytes(const attention_device *ad, const attention_device_problem *x);
/* As spectra_attention_forward and _backward. Backward of an attention that trains something adds
 * up the gradients of its matrix and scalars in memory of the kind's own. */
spectra_status attention_device_forward(const attention_device *ad,
                                        const attention_device_problem *x, const attention_views *v,
                                        void *saved, void *work);
spectra_status attention_device_backward(const attention_device *ad,
                                         const attention_device_problem *x,
                                         const attention_views *v, void *saved, void *work);
/* As spectra_attention_state_bytes ... _step. The state is one array for all B sequences, cleared
 * at once (it waits for the device); `work` of prefill is scratch. */
int64_t attention_device_state_bytes(const attention_device *ad, int64_t B);
spectra_status attention_device_state_clear(const attention_device *ad, int64_t B, void *state);
int64_t attention_device_prefill_bytes(const attention_device *ad,
                                       const attention_device_problem *x);
spectra_status attention_device_prefill(const attention_device *ad,
                                        const attention_device_problem *x, const attention_views *v,
                                        void *state, void *work);
spectra_status attention_device_step(const attention_device *ad, int64_t B, const uint8_t *active,
                                     const attention_views *v, void *state);
/* gtheta (host, trained_floats of att) += what backward has added up since the last call. Waits for
 * the device: only called where spectra_attention_trained_floats is not 0. */
spectra_status attention_device_gradient(attention_device *ad, float *gtheta);

/* Rows as kernels take them. */
static inline cuda_rows attention_device_rows(const spectra_rows *x)
{
    return (cuda_rows){x->data, x->stride_b, x->stride_h, x->stride_t};
}

/* Floats rounded up so that every part of `saved` and `work` begins on ARENA_ALIGN bytes. */
static inline int64_t whole_floats(int64_t floats)
{
    return arena_round(floats * (int64_t)sizeof(float)) / (int64_t)sizeof(float);
}

#endif
