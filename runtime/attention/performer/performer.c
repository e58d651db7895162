/* Random-feature attention as a kind: what may go together, and its row of functions. */
#include "attention/performer/performer.h"
#include "base/status.h"
#include "kernel/registry.h"

#include <stdlib.h>
#include <string.h>

/* Refuses what does not go together, with the reason. */
static spectra_status check(const spectra_attention_desc *d, const feature_info *f)
{
    if (d->causal && d->through)
        return fail(SPECTRA_EUNSUPPORTED,
                    "causal attention has no gradient through computed parameters: it reads all "
                    "tokens, later ones too");
    if (d->causal && f->linear != LINEAR_NONE)
        return fail(
            SPECTRA_EINVAL,
            "causal attention cannot go with %s: its linear map is computed from all tokens, later "
            "ones too, and cannot be given",
            f->name);
    if (d->bf16 && d->causal)
        return fail(SPECTRA_EUNSUPPORTED, "causal attention has no products of bf16");
    if (d->bf16 && !registry_bf16())
        return fail(SPECTRA_EUNSUPPORTED,
                    "products of bf16 need a CPU with AVX512_BF16; this one's instructions are %s",
                    registry_isa_name(registry_isa()));
    if (d->through && (f->linear != LINEAR_NONE || f->counts != COUNTS_NONE))
        return fail(SPECTRA_EUNSUPPORTED,
                    "the parameters of %s come from a decomposition or a draw; they are constants "
                    "and cannot be differentiated through",
                    f->name);
    return SPECTRA_OK;
}

static spectra_status performer_init(spectra_attention *att, const void *options)
{
    performer *pf = calloc(1, sizeof *pf);
    if (!pf)
        return fail(SPECTRA_ENOMEM, "performer: out of memory");
    TRY(performer_choose(att, pf, options));
    TRY(check(&pf->desc, pf->feature));
    return performer_make(att, ATTN_ATTENTION | (pf->desc.causal ? ATTN_CAUSAL : 0));
}

static void performer_prefer(const spectra_attention_desc *desc, const void *options)
{
    performer_prefer_groups(desc, options, ATTN_ATTENTION);
}

static spectra_status performer_parameter(const spectra_attention *att, const spectra_problem *p,
                                          const char *name, const void *saved, float *out)
{
    const performer *pf = performer_of(att);
    const feature_info *f = pf->feature;
    const int64_t D = pf->plan.D, heads = p->B * pf->desc.H, size = performer_block_floats(pf);
    const float *blocks = performer_blocks(pf, p, saved);
    for (int i = 0; i < f->scalars; i++)
        if (strcmp(name, f->scalar_names[i]) == 0) {
            for (int64_t n = 0; n < heads; n++)
                out[n] = blocks[n * size + i];
            return SPECTRA_OK;
        }
    for (int i = 0; i < f->vectors; i++)
        if (strcmp(name, f->vector_names[i]) == 0) {
            for (int64_t n = 0; n < heads; n++)
                memcpy(out + n * D,
                       blocks + n * size + performer_align(f->scalars) + i * pf->plan.DP,
                       (size_t)D * sizeof *out);
            return SPECTRA_OK;
        }
    return fail(SPECTRA_ENOTFOUND, "%s has no parameter '%s'", f->name, name);
}

const attention_kind attention_performer = {
    .name = "performer",
    .doc = "random features: a component function of projections by a weight matrix",
    .traits = ATTENTION_CAUSAL | ATTENTION_BF16 | ATTENTION_FEATURES,
    .settings = performer_settings,
    .settings_count = PERFORMER_SETTINGS,
    .from_desc = performer_from_desc,
    .init = performer_init,
    .release = performer_release,
    .set = performer_set,
    .matrix = performer_matrix,
    .redraw = performer_redraw,
    .parameter = performer_parameter,
    .constants = performer_constants,
    .constants_changed = performer_constants_changed,
    .prefer = performer_prefer,
    .built_from = performer_built_from,
    .saved_bytes = performer_saved_bytes,
    .work_bytes = performer_work_bytes,
    .forward = performer_forward,
    .backward = performer_backward,
    .trained = &performer_trained,
    .decode = &performer_decode,
    .device = &performer_device_ops,
};
