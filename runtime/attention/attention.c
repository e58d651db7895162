/* The public functions of an attention. Each finds its function in the kind; what the kind lacks is
 * refused here. */
#include "attention/attention.h"

#include "base/status.h"

#include <stdlib.h>
#include <string.h>

/* ---- construction ----------------------------------------------------------------------------
 */

static spectra_status check_sizes(const spectra_attention_desc *d, const char *name)
{
    if (d->H < 1 || d->D < 1 || d->D > 256 || d->DV < 1 || d->DV > 256)
        return fail(SPECTRA_ESHAPE,
                    "%s: %lld heads of size %lld with values of size %lld; allowed are at least 1 "
                    "head and sizes 1 to 256",
                    name, (long long)d->H, (long long)d->D, (long long)d->DV);
    return SPECTRA_OK;
}

static spectra_status check_traits(const spectra_attention_desc *d, const attention_kind *kind)
{
    if (d->causal && !(kind->traits & ATTENTION_CAUSAL))
        return fail(SPECTRA_EUNSUPPORTED, "attention %s cannot be causal", kind->name);
    if (d->bf16 && !(kind->traits & ATTENTION_BF16))
        return fail(SPECTRA_EUNSUPPORTED, "attention %s has no products of bf16", kind->name);
    return SPECTRA_OK;
}

static spectra_status make(spectra_attention *att, const spectra_attention_desc *desc,
                           const attention_options *options)
{
    att->desc = *desc;
    att->desc.attn = att->kind->name;
    att->desc.feat = att->desc.kernel = att->desc.options = NULL; /* they are the caller's */
    return att->kind->init(att, options);
}

spectra_status spectra_attention_new(const spectra_attention_desc *desc, spectra_attention **out)
{
    const attention_kind *kind = NULL;
    attention_options options;
    TRY(attention_read_desc(desc, &kind, &options));
    TRY(check_sizes(desc, kind->name));
    TRY(check_traits(desc, kind));
    spectra_attention *att = calloc(1, sizeof *att);
    if (!att)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", kind->name);
    att->kind = kind;
    spectra_status status = make(att, desc, &options);
    if (status != SPECTRA_OK) {
        spectra_attention_free(att);
        return status;
    }
    *out = att;
    return SPECTRA_OK;
}

void spectra_attention_free(spectra_attention *att)
{
    if (!att)
        return;
    att->kind->release(att);
    free(att);
}

void attention_prefer(const spectra_attention_desc *desc)
{
    const attention_kind *kind = NULL;
    attention_options options;
    if (attention_read_desc(desc, &kind, &options) == SPECTRA_OK && kind->prefer)
        kind->prefer(desc, &options);
}

spectra_status attention_built_from(const spectra_attention_desc *desc, json_t *build)
{
    const attention_kind *kind = NULL;
    attention_options options;
    TRY(attention_read_desc(desc, &kind, &options));
    return kind->built_from ? kind->built_from(desc, &options, build) : SPECTRA_OK;
}

/* ---- what it draws and computes --------------------------------------------------------------
 */

spectra_status spectra_attention_set(spectra_attention *att, const char *name, const float *data,
                                     int ndim, const int64_t *shape)
{
    if (!att->kind->set)
        return fail(SPECTRA_ENOTFOUND, "%s attention has no input '%s'", att->kind->name, name);
    return att->kind->set(att, name, data, ndim, shape);
}

const float *spectra_attention_matrix(const spectra_attention *att)
{
    return att->kind->matrix ? att->kind->matrix(att) : NULL;
}

spectra_status spectra_attention_redraw(spectra_attention *att, uint64_t seed)
{
    if (!att->kind->redraw)
        return fail(SPECTRA_EUNSUPPORTED, "%s attention draws nothing", att->kind->name);
    return att->kind->redraw(att, seed);
}

spectra_status spectra_attention_parameter(const spectra_attention *att, const spectra_problem *p,
                                           const char *name, const void *saved, float *out)
{
    if (!att->kind->parameter)
        return fail(SPECTRA_ENOTFOUND, "%s has no parameter '%s' per head", att->kind->name, name);
    return att->kind->parameter(att, p, name, saved, out);
}

int attention_constants(spectra_attention *att, attention_constant out[ATTENTION_CONSTANTS])
{
    return att->kind->constants ? att->kind->constants(att, out) : 0;
}

void attention_constants_changed(spectra_attention *att)
{
    if (att->kind->constants_changed)
        att->kind->constants_changed(att);
}

/* ---- what it trains --------------------------------------------------------------------------
 */

int64_t spectra_attention_trained_floats(const spectra_attention *att)
{
    return att->kind->trained ? att->kind->trained->floats(att) : 0;
}

int spectra_attention_trained_count(const spectra_attention *att)
{
    return att->kind->trained ? att->kind->trained->count(att) : 0;
}

spectra_trained spectra_attention_trained(const spectra_attention *att, int i)
{
    return att->kind->trained->tensor(att, i);
}

void spectra_attention_trained_start(const spectra_attention *att, float *theta)
{
    if (att->kind->trained)
        att->kind->trained->start(att, theta);
}

void spectra_attention_trained_set(spectra_attention *att, const float *theta)
{
    if (att->kind->trained)
        att->kind->trained->set(att, theta);
}

void spectra_attention_trained_gradient(const spectra_attention *att, const spectra_problem *p,
                                        const void *work, const float *theta, float *gtheta)
{
    if (att->kind->trained)
        att->kind->trained->gradient(att, p, work, theta, gtheta);
}

/* ---- forward and backward --------------------------------------------------------------------
 */

int64_t spectra_attention_saved_bytes(const spectra_attention *att, const spectra_problem *p)
{
    return att->kind->saved_bytes(att, p);
}

int64_t spectra_attention_work_bytes(const spectra_attention *att, const spectra_problem *p)
{
    return att->kind->work_bytes(att, p);
}

/* Every sequence has as many queries as keys. */
static spectra_status check_causal(const spectra_problem *p)
{
    if (!p->q_len && !p->k_len && p->T != p->S)
        return fail(SPECTRA_ESHAPE,
                    "causal attention needs as many queries as keys, here are %lld and %lld",
                    (long long)p->T, (long long)p->S);
    for (int64_t b = 0; b < p->B; b++) {
        int64_t queries = rows_length(p->q_len, b, p->T), keys = rows_length(p->k_len, b, p->S);
        if (queries != keys)
            return fail(SPECTRA_ESHAPE,
                        "causal attention needs as many queries as keys, sequence %lld has %lld "
                        "and %lld",
                        (long long)b, (long long)queries, (long long)keys);
    }
    return SPECTRA_OK;
}

spectra_status attention_check_padded(const spectra_attention *att, const spectra_problem *p)
{
    if ((att->kind->traits & ATTENTION_PADDED) && (p->q_begin || p->k_begin))
        return fail(SPECTRA_EINVAL, "%s needs padded sequences, not packed", att->kind->name);
    return SPECTRA_OK;
}

spectra_status spectra_attention_forward(const spectra_attention *att, const spectra_problem *p,
                                         spectra_rows q, spectra_rows k, spectra_rows v,
                                         spectra_rows o, void *saved, void *work)
{
    const attention_views x = {.q = q, .k = k, .v = v, .o = o};
    TRY(attention_check_padded(att, p));
    if (att->desc.causal)
        TRY(check_causal(p));
    return att->kind->forward(att, p, &x, saved, work);
}

spectra_status spectra_attention_backward(const spectra_attention *att, const spectra_problem *p,
                                          spectra_rows q, spectra_rows k, spectra_rows v,
                                          spectra_rows o, spectra_rows go, spectra_rows gq,
                                          spectra_rows gk, spectra_rows gv, void *saved, void *work)
{
    const attention_views x = {q, k, v, o, go, gq, gk, gv};
    TRY(attention_check_padded(att, p));
    return att->kind->backward(att, p, &x, saved, work);
}

/* ---- decoding --------------------------------------------------------------------------------
 */

static spectra_status can_decode(const spectra_attention *att)
{
    if (!att->kind->decode)
        return fail(SPECTRA_EUNSUPPORTED, "%s attention has no state of constant size",
                    att->kind->name);
    if (!att->desc.causal)
        return fail(SPECTRA_EINVAL, "decoding needs an attention that was made causal");
    return SPECTRA_OK;
}

int64_t spectra_attention_state_bytes(const spectra_attention *att, int64_t B)
{
    return can_decode(att) == SPECTRA_OK ? att->kind->decode->state_bytes(att, B) : 0;
}

int64_t spectra_attention_step_bytes(const spectra_attention *att)
{
    return can_decode(att) == SPECTRA_OK ? att->kind->decode->step_bytes(att) : 0;
}

spectra_status spectra_attention_state_clear(const spectra_attention *att, int64_t B,
                                             const uint8_t *active, void *state)
{
    TRY(can_decode(att));
    return att->kind->decode->clear(att, B, active, state);
}

spectra_status spectra_attention_prefill(const spectra_attention *att, const spectra_problem *p,
                                         spectra_rows k, spectra_rows v, void *state, void *work)
{
    const attention_views x = {.k = k, .v = v};
    TRY(can_decode(att));
    return att->kind->decode->prefill(att, p, &x, state, work);
}

spectra_status spectra_attention_step(const spectra_attention *att, int64_t B,
                                      const uint8_t *active, spectra_rows q, spectra_rows k,
                                      spectra_rows v, spectra_rows o, void *state, void *work)
{
    const attention_views x = {.q = q, .k = k, .v = v, .o = o};
    TRY(can_decode(att));
    return att->kind->decode->step(att, B, active, &x, state, work);
}
