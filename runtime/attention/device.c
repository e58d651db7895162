#include "attention/device.h"

#include "base/status.h"

#include <stdlib.h>

static const attention_device_ops *ops_of(const attention_device *ad)
{
    return ad->att->kind->device;
}

spectra_status attention_device_new(spectra_attention *att, device *dev, bool tf32,
                                    attention_device **out)
{
    return attention_device_new_typed(att, dev, tf32, false, out);
}

spectra_status attention_device_new_typed(spectra_attention *att, device *dev, bool tf32, bool bf16,
                                          attention_device **out)
{
    const attention_kind *kind = att->kind;
    if (!kind->device)
        return fail(SPECTRA_EUNSUPPORTED, "attention %s has no kernels for devices; use the CPU",
                    kind->name);
    if (bf16 && !(kind->traits & ATTENTION_BF16))
        return fail(SPECTRA_EUNSUPPORTED, "attention %s has no bf16 kernels", kind->name);
    attention_device *ad = calloc(1, sizeof *ad);
    if (!ad)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", kind->name);
    *ad = (attention_device){.att = att, .dev = dev, .tf32 = tf32, .bf16 = bf16};
    spectra_status status = kind->device->init(ad);
    if (status != SPECTRA_OK) {
        attention_device_free(ad);
        return status;
    }
    *out = ad;
    return SPECTRA_OK;
}

void attention_device_free(attention_device *ad)
{
    if (!ad)
        return;
    ops_of(ad)->release(ad);
    free(ad);
}

spectra_status attention_device_changed(attention_device *ad)
{
    return ops_of(ad)->changed ? ops_of(ad)->changed(ad) : SPECTRA_OK;
}

int64_t attention_device_saved_bytes(const attention_device *ad, const attention_device_problem *x)
{
    return ops_of(ad)->saved_bytes(ad, x);
}

int64_t attention_device_work_bytes(const attention_device *ad, const attention_device_problem *x)
{
    return ops_of(ad)->work_bytes(ad, x);
}

spectra_status attention_device_forward(const attention_device *ad,
                                        const attention_device_problem *x, const attention_views *v,
                                        void *saved, void *work)
{
    TRY(attention_check_padded(ad->att, &x->p));
    return ops_of(ad)->forward(ad, x, v, saved, work);
}

spectra_status attention_device_backward(const attention_device *ad,
                                         const attention_device_problem *x,
                                         const attention_views *v, void *saved, void *work)
{
    TRY(attention_check_padded(ad->att, &x->p));
    return ops_of(ad)->backward(ad, x, v, saved, work);
}

spectra_status attention_device_gradient(attention_device *ad, float *gtheta)
{
    if (!ops_of(ad)->gradient)
        return fail(SPECTRA_EUNSUPPORTED, "attention %s trains nothing on a device",
                    ad->att->kind->name);
    return ops_of(ad)->gradient(ad, gtheta);
}

/* ---- decoding --------------------------------------------------------------------------------
 */

static spectra_status can_decode(const attention_device *ad)
{
    if (!ops_of(ad)->decode)
        return fail(SPECTRA_EUNSUPPORTED, "attention %s cannot decode on a device",
                    ad->att->kind->name);
    if (!ad->att->desc.causal)
        return fail(SPECTRA_EINVAL, "decoding needs a causal attention, this one is not");
    return SPECTRA_OK;
}

int64_t attention_device_state_bytes(const attention_device *ad, int64_t B)
{
    return can_decode(ad) == SPECTRA_OK ? ops_of(ad)->decode->state_bytes(ad, B) : 0;
}

spectra_status attention_device_state_clear(const attention_device *ad, int64_t B, void *state)
{
    TRY(can_decode(ad));
    return ops_of(ad)->decode->clear(ad, B, state);
}

int64_t attention_device_prefill_bytes(const attention_device *ad,
                                       const attention_device_problem *x)
{
    return can_decode(ad) == SPECTRA_OK ? ops_of(ad)->decode->prefill_bytes(ad, x) : 0;
}

spectra_status attention_device_prefill(const attention_device *ad,
                                        const attention_device_problem *x, const attention_views *v,
                                        void *state, void *work)
{
    TRY(can_decode(ad));
    return ops_of(ad)->decode->prefill(ad, x, v, state, work);
}

spectra_status attention_device_step(const attention_device *ad, int64_t B, const uint8_t *active,
                                     const attention_views *v, void *state)
{
    TRY(can_decode(ad));
    return ops_of(ad)->decode->step(ad, B, active, v, state);
}
