/* The classifier on a device: its forward and backward passes and the optimiser's update.
 *
 * The model on the host stays the owner of names, layout and matrices. The device holds parameters,
 * gradients and moments in the same flat order, so that a checkpoint is a copy. Calls ask for work
 * and return at once. What a step has to tell (losses, predictions, the gradients' norm, whether
 * something diverged) goes to a journal on the device, and model_device_read fetches it. Batches
 * are packed as on the host, but their number of rows is rounded up, so that few shapes occur: a
 * pass of a shape that was seen before is replayed from a recording (a CUDA graph).
 */
#ifndef SPECTRA_MODEL_DEVICE_H
#define SPECTRA_MODEL_DEVICE_H

#include "device/device.h"
#include "model/model.h"
#include "model/optim.h"

typedef struct model_device model_device;

typedef struct model_device_options {
    int64_t batch;   /* examples a pass has at most */
    int64_t entries; /* passes the journal holds */
    bool tf32;       /* products of TF32 */
    bool record;     /* replay passes of a shape that was seen before */
} model_device_options;

/* m and dev must outlive it. Parameters are those of m. SPECTRA_EUNSUPPORTED where the model has
 * something no kernel is there for. */
spectra_status model_device_new(model *m, device *dev, const model_device_options *options,
                                model_device **out);
void model_device_free(model_device *md);

/* Parameters of m, and moments (model_param_count each; NULL: left alone), to the device; also what
 * the attentions keep there. */
spectra_status model_device_push(model_device *md, const float *const moments[2]);
/* The same back; gradients go to model_grads. Waits. */
spectra_status model_device_pull(model_device *md, float *const moments[2]);

spectra_status model_device_zero_grads(model_device *md);
/* As model_forward and model_step; each takes an entry of the journal. SPECTRA_EINVAL when the
 * journal is full. */
spectra_status model_device_forward(model_device *md, const model_batch *batch);
spectra_status model_device_step(model_device *md, const model_batch *batch, uint64_t step,
                                 uint64_t part, double scale);
/* Norm of the gradients to the last entry; update number t = 1, 2 ... o's m and v are not used. */
spectra_status model_device_update(model_device *md, const adamw *o, int64_t t, double lr,
                                   double beta1);

/* One pass, after model_device_read. */
typedef struct model_device_entry {
    int64_t B;
    const float *loss;        /* (B) */
    const int32_t *predicted; /* (B) class with the largest score, the first of them */
    double norm;              /* of the gradients, if an update followed */
} model_device_entry;

int64_t model_device_room(const model_device *md); /* entries that are free */
/* Fetches the journal and makes it empty; `count` entries can then be looked at. Waits. */
spectra_status model_device_read(model_device *md, int64_t *count);
/* Valid until the next pass. SPECTRA_EDIVERGED says where the first NaN or Inf was. */
spectra_status model_device_entry_at(const model_device *md, int64_t i, model_device_entry *out);
/* Scores (B, C) of the last pass. Waits. */
spectra_status model_device_scores(model_device *md, float *scores);

/* Bytes of everything held on the device. */
int64_t model_device_bytes(const model_device *md);
/* Passes replayed from a recording so far. */
int64_t model_device_replays(const model_device *md);

#endif
