/* A model at work: passes, updates and copies of parameters through one interface, so that
 * training, evaluation and benchmarks need not know whether the host or a device computes.
 *
 * Work may be asked for only. What a pass has to tell (losses, predictions, the gradients' norm,
 * whether something diverged) is an entry of the runner's journal, which runner_read fetches. The
 * host's journal holds the passes of one step, a device's many, as reading makes the device wait.
 */
#ifndef SPECTRA_MODEL_RUNNER_H
#define SPECTRA_MODEL_RUNNER_H

#include "model/device.h"

typedef struct runner runner;

typedef struct runner_options {
    int64_t batch; /* examples that a pass has at most */
    int64_t parts; /* passes of a step */
    bool tf32;     /* products of a device */
} runner_options;

/* where: "cpu" for the host, or a kind of device (device_open). m must outlive it. */
spectra_status runner_new(model *m, const char *where, const runner_options *options, runner **out);
void runner_free(runner *r);

/* Evaluation of a batch: an entry. */
spectra_status runner_forward(runner *r, const model_batch *batch);
/* A step is runner_zero_grads, then runner_step for each part of the batch (an entry each; as
 * model_step), then runner_update (number t = 1, 2 ...), which adds the gradients' norm to the last
 * entry. Between the two the gradients are complete: who adds up those of several machines does it
 * there. SPECTRA_EDIVERGED may come here or from runner_entry_at. */
spectra_status runner_zero_grads(runner *r);
spectra_status runner_step(runner *r, const model_batch *batch, uint64_t step, uint64_t part,
                           double scale);
spectra_status runner_update(runner *r, const adamw *o, int64_t t, double lr, double beta1);

/* Steps that the journal holds, and whether it has room for none: then it must be read. */
int64_t runner_steps(const runner *r);
bool runner_full(const runner *r);
/* Fetches the journal and makes it empty; its `count` entries can then be looked at until the next
 * pass. Waits. */
spectra_status runner_read(runner *r, int64_t *count);
typedef model_device_entry runner_entry;
spectra_status runner_entry_at(const runner *r, int64_t i, runner_entry *out);

/* Parameters of the model, and moments unless NULL, to where they are worked on, and back; pull
 * waits and brings gradients too. The host works on the model and on adamw's moments themselves. */
spectra_status runner_push(runner *r, float *const moments[2]);
spectra_status runner_pull(runner *r, float *const moments[2]);

/* The device's name, bytes held there for the model, and of everything at most; NULL and 0 of the
 * host. */
const char *runner_device(const runner *r);
int64_t runner_device_bytes(const runner *r);
int64_t runner_device_peak(const runner *r);

#endif
