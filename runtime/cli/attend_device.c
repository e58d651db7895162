/* attend on a device: dense arrays go over, the kernels run, results come back. */
#include "attention/device.h"
#include "base/bf16.h"
#include "base/status.h"
#include "cli/attend.h"
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

/* What lies on the device, all freed at the end. */
enum { MOST = 16 };
typedef struct on_device {
    device *dev;
    bool bf16;
    int count;
    void *at[MOST];
} on_device;

static spectra_status room(on_device *m, int64_t bytes, void **out)
{
    TRY(device_alloc(m->dev, bytes, out));
    m->at[m->count++] = *out;
    return SPECTRA_OK;
}

/* (n) numbers to the device as the kernels want them; x NULL: room for results. */
static spectra_status send(on_device *m, const float *x, int64_t n, float **out)
{
    const int64_t bytes = n * (m->bf16 ? 2 : 4);
    void *at = NULL;
    TRY(room(m, bytes, &at));
    *out = at;
    if (!x)
        return SPECTRA_OK;
    if (!m->bf16)
        return device_write(m->dev, at, x, bytes);
    uint16_t *half = malloc((size_t)bytes);
    if (!half)
        return fail(SPECTRA_ENOMEM, "out of memory for %lld bytes", (long long)bytes);
    for (int64_t i = 0; i < n; i++)
        half[i] = bf16_from_float(x[i]);
    spectra_status status = device_write(m->dev, at, half, bytes);
    free(half);
    return status;
}

static spectra_status fetch(on_device *m, float *x, const float *from, int64_t n)
{
    TRY(device_read(m->dev, x, from, n * (m->bf16 ? 2 : 4)));
    if (m->bf16)
        bf16_widen(x, n);
    return SPECTRA_OK;
}

/* One array: its rows on the device and, after the run, where they go. */
typedef struct array {
    spectra_rows *rows;
    const float *in;
    float *out;
    int64_t tokens, size;
} array;

static spectra_status run(on_device *m, attention_device *ad, const attend_call *c)
{
    attention_device_problem x = {.p = c->problem,
                                  .q_rows = c->problem.B * c->problem.T,
                                  .k_rows = c->problem.B * c->problem.S};
    attention_views v = {.q = {.data = NULL}};
    const int64_t T = c->problem.T, S = c->problem.S, B = c->problem.B;
    const bool gradients = c->go != NULL;
    const array arrays[] = {
        {&v.q, c->q, NULL, T, c->D},    {&v.k, c->k, NULL, S, c->D},
        {&v.v, c->v, NULL, S, c->DV},   {&v.o, NULL, c->o, T, c->DV},
        {&v.go, c->go, NULL, T, c->DV}, {&v.gq, NULL, c->gq, T, c->D},
        {&v.gk, NULL, c->gk, S, c->D},  {&v.gv, NULL, c->gv, S, c->DV},
    };
    const int used = gradients ? 8 : 4;
    for (int i = 0; i < used; i++) {
        float *at = NULL;
        TRY(send(m, arrays[i].in, B * c->H * arrays[i].tokens * arrays[i].size, &at));
        *arrays[i].rows = spectra_rows_dense(at, c->H, arrays[i].tokens, arrays[i].size);
    }
    void *mask = NULL, *saved = NULL, *work = NULL;
    if (c->problem.k_mask) {
        TRY(room(m, B * S, &mask));
        TRY(device_write(m->dev, mask, c->problem.k_mask, B * S));
        x.p.k_mask = mask;
        x.p.q_mask = c->problem.q_mask ? mask : NULL;
    }
    TRY(attention_device_changed(ad));
    TRY(room(m, attention_device_saved_bytes(ad, &x), &saved));
    TRY(room(m, attention_device_work_bytes(ad, &x), &work));
    TRY(attention_device_forward(ad, &x, &v, saved, work));
    if (gradients)
        TRY(attention_device_backward(ad, &x, &v, saved, work));
    for (int i = 0; i < used; i++)
        if (arrays[i].out)
            TRY(fetch(m, arrays[i].out, arrays[i].rows->data,
                      B * c->H * arrays[i].tokens * arrays[i].size));
    return SPECTRA_OK;
}

spectra_status attend_on_device(device *dev, spectra_attention *att, const char *precision,
                                const attend_call *call)
{
    on_device m = {.dev = dev, .bf16 = strcmp(precision, "bf16") == 0};
    attention_device *ad = NULL;
    spectra_status status =
        attention_device_new_typed(att, dev, m.bf16 || strcmp(precision, "fast") == 0, m.bf16, &ad);
    if (status == SPECTRA_OK)
        status = run(&m, ad, call);
    attention_device_free(ad);
    while (m.count)
        device_free(dev, m.at[--m.count]);
    return status;
}
