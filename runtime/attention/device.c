#include "attention/device.h"

#include "base/status.h"

#include <stdlib.h>
#include <string.h>

static const attention_device_kind *const kinds[] = {&attention_device_softmax,
                                                     &attention_device_performer};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

spectra_status attention_device_new(spectra_attention *att, device *dev, bool fast,
                                    attention_device **out)
{
    return attention_device_new_typed(att, dev, fast, false, out);
}

spectra_status attention_device_new_typed(spectra_attention *att, device *dev, bool fast, bool bf16,
                                          attention_device **out)
{
    const attention_device_kind *kind = NULL;
    for (int i = 0; i < KINDS; i++)
        if (strcmp(kinds[i]->name, att->desc.attn) == 0)
            kind = kinds[i];
    if (!kind)
        return fail(SPECTRA_EUNSUPPORTED, "attention %s has no kernels for devices; use the CPU",
                    att->desc.attn);
    if (att->desc.official && kind == &attention_device_performer)
        kind = &attention_device_official;
    if (bf16 && kind == &attention_device_official)
        return fail(
            SPECTRA_EUNSUPPORTED,
            "the reference's behaviour (official) runs in float32 on a device, not in bf16");
    if (bf16 && kind != &attention_device_performer)
        return fail(SPECTRA_EUNSUPPORTED, "attention %s has no bf16 kernels", att->desc.attn);
    attention_device *ad = calloc(1, sizeof *ad);
    if (!ad)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", kind->name);
    *ad = (attention_device){.kind = kind, .att = att, .dev = dev, .fast = fast, .bf16 = bf16};
    spectra_status status = kind->init(ad);
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
    ad->kind->release(ad);
    free(ad);
}

spectra_status attention_device_changed(attention_device *ad)
{
    return ad->kind->changed(ad);
}

int64_t attention_device_saved_bytes(const attention_device *ad, const attention_device_problem *x)
{
    return ad->kind->saved_bytes(ad, x);
}

int64_t attention_device_work_bytes(const attention_device *ad, const attention_device_problem *x)
{
    return ad->kind->work_bytes(ad, x);
}

spectra_status attention_device_forward(const attention_device *ad,
                                        const attention_device_problem *x,
                                        const attention_device_views *v, void *saved, void *work)
{
    return ad->kind->forward(ad, x, v, saved, work);
}

spectra_status attention_device_backward(const attention_device *ad,
                                         const attention_device_problem *x,
                                         const attention_device_views *v, void *saved, void *work)
{
    return ad->kind->backward(ad, x, v, saved, work);
}

spectra_status attention_device_gradient(attention_device *ad, float *gtheta)
{
    if (!ad->kind->gradient)
        return fail(SPECTRA_EUNSUPPORTED, "attention %s trains nothing on a device",
                    ad->kind->name);
    return ad->kind->gradient(ad, gtheta);
}
