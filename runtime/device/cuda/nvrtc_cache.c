/* NVRTC behind the cache; apart, because what compiles ahead has no cache. */
#include "device/cuda/nvrtc.h"

#include "base/bytes.h"
#include "base/status.h"

#include <stdio.h>
#include <string.h>

typedef struct making {
    const nvrtc_info *info;
    const char *why, *name, *text, *target;
    spectra_status (*load)(void *context, const byte_buffer *image);
    void *context;
} making;

static spectra_status compile(void *context, byte_buffer *image)
{
    const making *m = context;
    if (!m->info)
        return fail(SPECTRA_EUNSUPPORTED, "no kernel of %s for %s was built, and %s", m->name,
                    m->target, m->why);
    return nvrtc_compile(m->name, m->text, m->target, image);
}

static spectra_status load_image(void *context, const byte_buffer *image)
{
    const making *m = context;
    return m->load(m->context, image);
}

spectra_status nvrtc_make(const nvrtc_info *info, const char *why, const char *name,
                          const char *text, const char *target,
                          spectra_status (*load)(void *context, const byte_buffer *image),
                          void *context, bool *compiled)
{
    making m = {info, why, name, text, target, load, context};
    jit_job job = {.context = &m, .compile = compile, .load = load_image};
    TRY(nvrtc_key(text, target, job.key.text));
    snprintf(job.about.feature, sizeof job.about.feature, "%s", name);
    snprintf(job.about.isa, sizeof job.about.isa, "%.15s", target);
    if (info) {
        snprintf(job.about.compiler, sizeof job.about.compiler, "%s", info->text);
        memcpy(job.key.compiler, info->identity, sizeof job.key.compiler);
    }
    return jit_make(&job, compiled);
}
