#include "model/runner.h"

#include "base/status.h"
#include "model/host.h"

#include <stdlib.h>
#include <string.h>

enum { DEVICE_STEPS = 64 }; /* that a device works on before its journal must be read */

/* One pass on the host. */
typedef struct host_entry {
    int64_t B;
    float *loss;        /* (batch) owned */
    int32_t *predicted; /* (batch) owned */
    double norm;
} host_entry;

struct runner {
    model *m;
    runner_options options;
    device *dev; /* NULL, like on_device: the host */
    model_device *on_device;
    host_entry *entry; /* (parts) */
    int64_t entries, read;
};

/* ---- making one ---------------------------------------------------------------------------------
 */

static spectra_status open_host(runner *r)
{
    const size_t batch = (size_t)r->options.batch;
    r->entry = calloc((size_t)r->options.parts, sizeof *r->entry);
    for (int64_t i = 0; r->entry && i < r->options.parts; i++) {
        host_entry *e = &r->entry[i];
        e->loss = malloc(batch * sizeof *e->loss);
        e->predicted = malloc(batch * sizeof *e->predicted);
        if (!e->loss || !e->predicted)
            return fail(SPECTRA_ENOMEM, "model: out of memory");
    }
    return r->entry ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "model: out of memory");
}

static spectra_status open_device(runner *r, const char *where)
{
    const model_device_options options = {.batch = r->options.batch,
                                          .entries = DEVICE_STEPS * r->options.parts,
                                          .tf32 = r->options.tf32,
                                          .record = true};
    TRY(device_open(where, &r->dev));
    return model_device_new(r->m, r->dev, &options, &r->on_device);
}

spectra_status runner_new(model *m, const char *where, const runner_options *options, runner **out)
{
    runner *r = calloc(1, sizeof *r);
    if (!r)
        return fail(SPECTRA_ENOMEM, "model: out of memory");
    r->m = m;
    r->options = *options;
    spectra_status status = strcmp(where, "cpu") == 0 ? open_host(r) : open_device(r, where);
    if (status != SPECTRA_OK) {
        runner_free(r);
        return status;
    }
    *out = r;
    return SPECTRA_OK;
}

void runner_free(runner *r)
{
    if (!r)
        return;
    model_device_free(r->on_device);
    device_close(r->dev);
    for (int64_t i = 0; r->entry && i < r->options.parts; i++) {
        free(r->entry[i].loss);
        free(r->entry[i].predicted);
    }
    free(r->entry);
    free(r);
}

/* ---- passes -------------------------------------------------------------------------------------
 */

/* Of the host, like model_device's. */
static spectra_status check_room(const runner *r, const model_batch *batch)
{
    if (batch->B > r->options.batch)
        return fail(SPECTRA_ESHAPE, "model: a batch of %lld examples, made for %lld",
                    (long long)batch->B, (long long)r->options.batch);
    if (r->entries >= r->options.parts)
        return fail(SPECTRA_EINVAL, "model: the journal's %lld entries are full",
                    (long long)r->options.parts);
    return SPECTRA_OK;
}

/* Losses and predictions of the pass just made on the host; of equal scores the first counts. */
static void add_entry(runner *r, int64_t B)
{
    host_entry *e = &r->entry[r->entries++];
    const int64_t C = model_config_of(r->m)->classes;
    e->B = B;
    e->norm = 0;
    memcpy(e->loss, host_value(r->m, LOSS, 0), (size_t)B * sizeof *e->loss);
    for (int64_t b = 0; b < B; b++) {
        const float *scores = host_value(r->m, SCORES, 0) + b * C;
        int32_t best = 0;
        for (int32_t c = 1; c < C; c++)
            best = scores[c] > scores[best] ? c : best;
        e->predicted[b] = best;
    }
}

spectra_status runner_forward(runner *r, const model_batch *batch)
{
    if (r->on_device)
        return model_device_forward(r->on_device, batch);
    double loss = 0;
    TRY(check_room(r, batch));
    TRY(model_forward(r->m, batch, NULL, &loss));
    add_entry(r, batch->B);
    return SPECTRA_OK;
}

spectra_status runner_zero_grads(runner *r)
{
    if (r->on_device)
        return model_device_zero_grads(r->on_device);
    model_zero_grads(r->m);
    return SPECTRA_OK;
}

spectra_status runner_step(runner *r, const model_batch *batch, uint64_t step, uint64_t part,
                           double scale)
{
    if (r->on_device)
        return model_device_step(r->on_device, batch, step, part, scale);
    TRY(check_room(r, batch));
    TRY(model_step(r->m, batch, step, part, scale, NULL, NULL));
    add_entry(r, batch->B);
    return SPECTRA_OK;
}

spectra_status runner_update(runner *r, const adamw *o, int64_t t, double lr, double beta1)
{
    if (r->on_device)
        return model_device_update(r->on_device, o, t, lr, beta1);
    if (r->entries > 0)
        r->entry[r->entries - 1].norm = model_grad_norm(r->m);
    adamw_update(o, t, lr, beta1, model_params(r->m), model_grads(r->m));
    return SPECTRA_OK;
}

/* ---- journal ------------------------------------------------------------------------------------
 */

int64_t runner_steps(const runner *r)
{
    return r->on_device ? DEVICE_STEPS : 1;
}

bool runner_full(const runner *r)
{
    const int64_t room =
        r->on_device ? model_device_room(r->on_device) : r->options.parts - r->entries;
    return room < r->options.parts;
}

spectra_status runner_read(runner *r, int64_t *count)
{
    if (r->on_device)
        return model_device_read(r->on_device, count);
    *count = r->read = r->entries;
    r->entries = 0;
    return SPECTRA_OK;
}

spectra_status runner_entry_at(const runner *r, int64_t i, runner_entry *out)
{
    if (r->on_device)
        return model_device_entry_at(r->on_device, i, out);
    if (i < 0 || i >= r->read)
        return fail(SPECTRA_EINVAL, "model: entry %lld of the journal, allowed are 0 to %lld",
                    (long long)i, (long long)r->read - 1);
    const host_entry *e = &r->entry[i];
    *out = (runner_entry){e->B, e->loss, e->predicted, e->norm};
    return SPECTRA_OK;
}

/* ---- parameters ---------------------------------------------------------------------------------
 */

spectra_status runner_push(runner *r, float *const moments[2])
{
    const float *const held[2] = {moments ? moments[0] : NULL, moments ? moments[1] : NULL};
    return r->on_device ? model_device_push(r->on_device, moments ? held : NULL) : SPECTRA_OK;
}

spectra_status runner_pull(runner *r, float *const moments[2])
{
    return r->on_device ? model_device_pull(r->on_device, moments) : SPECTRA_OK;
}

const char *runner_device(const runner *r)
{
    return r->dev ? device_name(r->dev) : NULL;
}

int64_t runner_device_bytes(const runner *r)
{
    return r->on_device ? model_device_bytes(r->on_device) : 0;
}

int64_t runner_device_peak(const runner *r)
{
    return r->dev ? device_peak_bytes(r->dev) : 0;
}
