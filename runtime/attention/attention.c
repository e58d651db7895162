#include "attention/attention.h"

#include "attention/softmax/softmax.h"
#include "base/status.h"
#include "kernel/registry.h"
#include "math/blas.h"

#include <stdlib.h>
#include <string.h>

/* Softmax has nothing to draw, set or keep: its functions only need the sizes. */

static spectra_status softmax_init(spectra_attention *att)
{
    att->desc.feat = att->desc.kernel = NULL;
    if (att->desc.bf16)
        return fail(SPECTRA_EUNSUPPORTED, "attention softmax has no products of bf16");
    return blas_open();
}

static void softmax_release(spectra_attention *att)
{
    (void)att;
}

static spectra_status softmax_set(spectra_attention *att, const char *name, const float *data,
                                  int ndim, const int64_t *shape)
{
    (void)att, (void)data, (void)ndim, (void)shape;
    return fail(SPECTRA_ENOTFOUND, "softmax attention has no input '%s'", name);
}

static int64_t softmax_saved(const spectra_attention *att, const spectra_problem *p)
{
    return softmax_saved_bytes(att->desc.H, p);
}

static int64_t softmax_work(const spectra_attention *att, const spectra_problem *p)
{
    return softmax_work_bytes(att->desc.H, att->desc.D, att->desc.DV, p);
}

static softmax_sizes softmax_sizes_of(const spectra_attention *att)
{
    return (softmax_sizes){att->desc.H, att->desc.D, att->desc.DV, att->desc.causal};
}

static spectra_status softmax_fwd(const spectra_attention *att, const spectra_problem *p,
                                  const attention_views *x, void *saved, void *work)
{
    return softmax_forward(softmax_sizes_of(att), p, x->q, x->k, x->v, x->o, saved, work);
}

static spectra_status softmax_bwd(const spectra_attention *att, const spectra_problem *p,
                                  const attention_views *x, void *saved, void *work)
{
    return softmax_backward(softmax_sizes_of(att), p, x->q, x->k, x->v, x->o, x->go, x->gq, x->gk,
                            x->gv, saved, work);
}

static const attention_kind attention_softmax = {
    "softmax",     softmax_init, softmax_release, softmax_set,
    softmax_saved, softmax_work, softmax_fwd,     softmax_bwd,
};

static const attention_kind *const kinds[] = {&attention_performer, &attention_softmax};
const char *const attention_names[] = {"performer", "softmax", NULL};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

int64_t rows_total(const int64_t *begin, const int64_t *len, int64_t B, int64_t padded)
{
    if (!begin)
        return B * padded;
    int64_t total = 0;
    for (int64_t b = 0; b < B; b++)
        if (begin[b] + len[b] > total)
            total = begin[b] + len[b];
    return total;
}

static spectra_status find_kind(const char *name, const attention_kind **out)
{
    for (int i = 0; i < KINDS; i++)
        if (name && strcmp(kinds[i]->name, name) == 0) {
            *out = kinds[i];
            return SPECTRA_OK;
        }
    const char *near = name ? nearest_name(name, attention_names, KINDS) : NULL;
    return fail(SPECTRA_ENOTFOUND, "unknown attention '%s'%s%s%s", name ? name : "(none)",
                near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

spectra_status spectra_attention_new(const spectra_attention_desc *desc, spectra_attention **out)
{
    const attention_kind *kind = NULL;
    TRY(find_kind(desc->attn, &kind));
    if (desc->H < 1 || desc->D < 1 || desc->D > 256 || desc->DV < 1 || desc->DV > 256)
        return fail(SPECTRA_ESHAPE,
                    "%s: %lld heads of size %lld with values of size %lld; allowed are at least 1 "
                    "head and sizes 1 to 256",
                    kind->name, (long long)desc->H, (long long)desc->D, (long long)desc->DV);
    spectra_attention *att = calloc(1, sizeof *att);
    if (!att)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", kind->name);
    att->kind = kind;
    att->desc = *desc;
    att->desc.attn = kind->name;
    spectra_status status = kind->init(att);
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

spectra_status spectra_attention_set(spectra_attention *att, const char *name, const float *data,
                                     int ndim, const int64_t *shape)
{
    return att->kind->set(att, name, data, ndim, shape);
}

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

spectra_status spectra_attention_forward(const spectra_attention *att, const spectra_problem *p,
                                         spectra_rows q, spectra_rows k, spectra_rows v,
                                         spectra_rows o, void *saved, void *work)
{
    const attention_views x = {.q = q, .k = k, .v = v, .o = o};
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
    return att->kind->backward(att, p, &x, saved, work);
}
