/* An attention on a device, beside the host's: the matrix and the parameters stay with the
 * spectra_attention it was made from, which must outlive it. Kinds are rows of a table in
 * attention_device.c.
 *
 * Nothing here waits for the device but what says so; forward and backward only ask for work, so
 * that a pass can be recorded and replayed.
 */
#ifndef SPECTRA_ATTENTION_DEVICE_H
#define SPECTRA_ATTENTION_DEVICE_H

#include "attention/attention.h"
#include "device/args.h"
#include "device/device.h"

typedef struct attention_device attention_device;

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

typedef struct attention_device_views {
    spectra_rows q, k, v, o, go, gq, gk, gv;
} attention_device_views;

typedef struct attention_device_kind {
    const char *name;
    /* fills ad->own */
    spectra_status (*init)(attention_device *ad);
    void (*release)(attention_device *ad);
    spectra_status (*changed)(attention_device *ad);
    int64_t (*saved_bytes)(const attention_device *ad, const attention_device_problem *x);
    int64_t (*work_bytes)(const attention_device *ad, const attention_device_problem *x);
    spectra_status (*forward)(const attention_device *ad, const attention_device_problem *x,
                              const attention_device_views *v, void *saved, void *work);
    spectra_status (*backward)(const attention_device *ad, const attention_device_problem *x,
                               const attention_device_views *v, void *saved, void *work);
    /* of attentions that train something; NULL: none does */
    spectra_status (*gradient)(attention_device *ad, float *gtheta);
} attention_device_kind;

struct attention_device {
    const attention_device_kind *kind;
    spectra_attention *att;
    device *dev;
    bool fast; /* TF32 where products go through tensor cores */
    bool bf16; /* q, k, v, o and their gradients are bf16, strides count such; performer only */
    void *own; /* the kind's */
};

/* The last is performer's with the reference's behaviour. */
extern const attention_device_kind attention_device_softmax, attention_device_performer,
    attention_device_official;

/* SPECTRA_EUNSUPPORTED names what the device cannot do: a kind, bf16. */
spectra_status attention_device_new(spectra_attention *att, device *dev, bool fast,
                                    attention_device **out);
/* The same with bf16 in the place of float where `bf16` is set. */
spectra_status attention_device_new_typed(spectra_attention *att, device *dev, bool fast, bool bf16,
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
                                        const attention_device_problem *x,
                                        const attention_device_views *v, void *saved, void *work);
spectra_status attention_device_backward(const attention_device *ad,
                                         const attention_device_problem *x,
                                         const attention_device_views *v, void *saved, void *work);
/* As spectra_attention_state_bytes ... _step, of a causal performer. The state is one array for all
 * B sequences, cleared at once (it waits for the device); `work` of prefill is scratch. */
int64_t attention_device_state_bytes(const attention_device *ad, int64_t B);
spectra_status attention_device_state_clear(const attention_device *ad, int64_t B, void *state);
int64_t attention_device_prefill_bytes(const attention_device *ad,
                                       const attention_device_problem *x);
spectra_status attention_device_prefill(const attention_device *ad,
                                        const attention_device_problem *x,
                                        const attention_device_views *v, void *state, void *work);
spectra_status attention_device_step(const attention_device *ad, int64_t B, const uint8_t *active,
                                     const attention_device_views *v, void *state);
/* gtheta (host, trained_floats of att) += what backward has added up since the last call. Waits for
 * the device: only called where spectra_attention_trained_floats is not 0. */
spectra_status attention_device_gradient(attention_device *ad, float *gtheta);

#endif
