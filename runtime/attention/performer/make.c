/* Making the parts of random-feature attention: its settings, the kernels, the matrix. */
#include "attention/performer/performer.h"
#include "base/status.h"
#include "kernel/find.h"
#include "kernel/jit.h"
#include "kernel/registry.h"
#include "math/blas.h"
#include "matrix/chain.h"
#include "matrix/recipe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- settings --------------------------------------------------------------------------------
 */

#define AT(field) offsetof(performer_options, field)

const setting performer_settings[PERFORMER_SETTINGS] = {
    {"feat", SETTING_STRING, AT(feat), .doc = "component function", .initial = "posrf"},
    {"kernel", SETTING_STRING, AT(kernel), .doc = "weight matrix", .initial = "orf"},
    {"m", SETTING_INT, AT(m), 1, 1024, .doc = "rows of the weight matrix", .initial = "128"},
    {"target", SETTING_STRING, AT(target), .choice = "softmax|gaussian",
     .doc = "kernel that is approximated", .initial = "softmax"},
    {"antithetic", SETTING_BOOL, AT(antithetic),
     .doc = "features of w and of -w, twice as many from one projection"},
    {"grad_through", SETTING_BOOL, AT(grad_through),
     .doc = "differentiate through data-dependent parameters", .alias = "through"},
    {"train_scalars", SETTING_BOOL, AT(train_scalars),
     .doc = "train the feature's own scalars (gerf's A), one a head", .alias = "learn",
     .training = true},
};

static const char *const target_names[] = {
    [SPECTRA_SOFTMAX] = "softmax", [SPECTRA_GAUSSIAN] = "gaussian"};

void performer_from_desc(const spectra_attention_desc *desc, void *options)
{
    performer_options *o = options;
    snprintf(o->feat, sizeof o->feat, "%s", desc->feat ? desc->feat : "");
    snprintf(o->kernel, sizeof o->kernel, "%s", desc->kernel ? desc->kernel : "");
    snprintf(o->target, sizeof o->target, "%s", target_names[desc->target]);
    o->m = desc->M;
    o->antithetic = desc->antithetic;
    o->grad_through = desc->through;
    o->train_scalars = desc->learn;
}

/* The other way round; texts are the options'. */
static void to_desc(const performer_options *o, spectra_attention_desc *desc)
{
    desc->feat = o->feat;
    desc->kernel = o->kernel;
    desc->target = strcmp(o->target, "gaussian") == 0 ? SPECTRA_GAUSSIAN : SPECTRA_SOFTMAX;
    desc->M = o->m;
    desc->antithetic = o->antithetic;
    desc->through = o->grad_through;
    desc->learn = o->train_scalars;
}

/* The feature's name, with a + where its antithetic form is asked for. */
static spectra_status find_feature(const spectra_attention_desc *d, const feature_info **out)
{
    char name[64];
    const feature_info *plain = NULL;
    TRY(kernel_feature(d->feat, &plain));
    if (!d->antithetic || plain->is_antithetic) {
        *out = plain;
        return SPECTRA_OK;
    }
    if (jit_spec_find(d->feat))
        return fail(
            SPECTRA_EUNSUPPORTED,
            "%s: the antithetic form of a spec of one's own has to be built: put the file into "
            "specs/feature",
            d->feat);
    if (!plain->may_antithetic)
        return fail(SPECTRA_EUNSUPPORTED,
                    "%s has no antithetic form: it is no exponential of w.x, or even in w",
                    d->feat);
    return kernel_feature(registry_form(plain->name, true, name, sizeof name), out);
}

spectra_status performer_choose(spectra_attention *att, performer *pf,
                                const performer_options *options)
{
    spectra_attention_desc *d = &pf->desc;
    const char *why = NULL;
    att->own = pf;
    *d = att->desc;
    to_desc(options, d);
    if (!*d->feat || !*d->kernel)
        return fail(SPECTRA_EINVAL, "performer needs a component function and a weight matrix");
    if (d->M < 1 || d->M > 1024)
        return fail(SPECTRA_ESHAPE, "performer: %lld features; allowed are 1 to 1024",
                    (long long)d->M);
    TRY(registry_matrix(d->kernel, &pf->matrix));
    if (jit_spec_find(d->feat)) /* known only once it is compiled */
        TRY(kernel_find(d->feat, d->kernel, d->D, d->DV, d->M, ATTN_ATTENTION, &pf->kernels));
    TRY(find_feature(d, &pf->feature));
    if (!performer_legal(pf->feature, pf->matrix, &why))
        return fail(SPECTRA_EUNSUPPORTED, "%s cannot go with %s: %s", pf->feature->name,
                    pf->matrix->name, why);
    d->feat = pf->feature->name;
    d->kernel = pf->matrix->name;
    att->desc = *d;
    return SPECTRA_OK;
}

/* ---- the draw --------------------------------------------------------------------------------
 */

/* The chain of the matrix just drawn, where it has one and is faster for it. */
static spectra_status find_chain(performer *pf)
{
    int64_t M = pf->plan.M, D = pf->plan.D;
    bool found = false;
    pf->plan.chain = NULL;
    if (!performer_chain_wins(M, D) || pf->uniform || pf->training)
        return SPECTRA_OK;
    if (!pf->chain_memory)
        pf->chain_memory = aligned_alloc(
            PERFORMER_ALIGN, (size_t)performer_align(sample_chain_floats(M)) * sizeof(float));
    if (!pf->chain_memory)
        return fail(SPECTRA_ENOMEM, "performer: out of memory");
    TRY(sample_chain(pf->matrix, M, D, matrix_draw_of(&pf->desc), pf->w, pf->chain_memory,
                     &pf->chain, &found));
    pf->plan.chain = found ? &pf->chain : NULL;
    return SPECTRA_OK;
}

spectra_status performer_redraw(spectra_attention *att, uint64_t seed)
{
    static const uint64_t other = 0x9e3779b97f4a7c15; /* the second matrix's seed is this far off */
    performer *pf = performer_of(att);
    const matrix_info *directions = NULL;
    int64_t M = pf->plan.M, D = pf->plan.D;
    pf->desc.seed = att->desc.seed = seed;
    pf->counts_given = false;
    if (pf->second) {
        TRY(registry_matrix("orf", &directions));
        const matrix_draw second = {seed + other, pf->desc.layer, pf->desc.rng};
        TRY(sample_matrix(directions, M, D, second, pf->second, NULL));
    }
    if (!pf->matrix->learner) /* training_redraw draws those that are learned */
        TRY(sample_matrix(pf->matrix, M, D, matrix_draw_of(&pf->desc), pf->w, pf->row_weight));
    TRY(training_redraw(pf, seed));
    TRY(find_chain(pf));
    performer_pack(pf);
    return SPECTRA_OK;
}

const float *performer_matrix(const spectra_attention *att)
{
    return performer_of(att)->w;
}

/* ---- kernels and memory ----------------------------------------------------------------------
 */

static spectra_status find_kernels(performer *pf, int groups)
{
    const spectra_attention_desc *d = &pf->desc;
    const char *feat = pf->feature->name, *matrix = pf->matrix->name;
    TRY(kernel_find(feat, matrix, d->D, d->DV, d->M, groups, &pf->kernels));
    pf->forward = pf->kernels->fwd;
    if (!d->bf16)
        return SPECTRA_OK;
    const attn_row *row = NULL;
    TRY(kernel_find(feat, matrix, d->D, d->DV, d->M, ATTN_BF16, &row));
    pf->forward = row->bf16;
    return SPECTRA_OK;
}

spectra_status performer_make(spectra_attention *att, int groups)
{
    performer *pf = performer_of(att);
    const spectra_attention_desc *d = &pf->desc;
    const feature_info *f = pf->feature;
    TRY(find_kernels(pf, groups));
    attn_plan *p = &pf->plan;
    *p = (attn_plan){.D = d->D, .DV = d->DV, .M = d->M};
    p->MP = pad16(d->M), p->DP = pad16(d->D), p->DVP = pad16(d->DV);
    p->scale = (float)pow((double)d->D, -0.25);
    size_t floats = (size_t)(d->M * d->D) * sizeof(float);
    pf->w = malloc(floats);
    pf->second = f->second_own ? malloc(floats) : NULL;
    pf->uniform = f->counts != COUNTS_NONE ? malloc(2 * floats) : NULL;
    pf->row_weight = malloc((size_t)d->M * sizeof(float));
    pf->packed = aligned_alloc(
        PERFORMER_ALIGN, (size_t)performer_align(performer_packed_floats(pf)) * sizeof(float));
    if (!pf->w || !pf->row_weight || !pf->packed || (f->second_own && !pf->second) ||
        (f->counts != COUNTS_NONE && !pf->uniform))
        return fail(SPECTRA_ENOMEM, "performer: no memory for a %lld x %lld matrix",
                    (long long)d->M, (long long)d->D);
    if (f->linear != LINEAR_NONE)
        TRY(blas_open());
    TRY(training_init(pf));
    return performer_redraw(att, d->seed);
}

void performer_release(spectra_attention *att)
{
    performer *pf = performer_of(att);
    if (!pf)
        return;
    training_release(pf);
    free(pf->w);
    free(pf->second);
    free(pf->uniform);
    free(pf->row_weight);
    free(pf->packed);
    free(pf->chain_memory);
    for (int i = 0; i < MAX_SCALARS; i++)
        free(pf->scalar[i].data);
    for (int i = 0; i < MAX_VECTORS; i++)
        free(pf->vector[i].data);
    free(pf);
}

/* ---- before it is made -----------------------------------------------------------------------
 */

void performer_prefer_groups(const spectra_attention_desc *desc, const performer_options *options,
                             int groups)
{
    char feat[SETTING_TEXT + 1];
    kernel_prefer(registry_form(options->feat, options->antithetic, feat, sizeof feat),
                  options->kernel, desc->D, desc->DV, options->m, groups);
}

spectra_status performer_built_from(const spectra_attention_desc *desc, const void *options,
                                    json_t *build)
{
    const performer_options *o = options;
    const feature_info *feature;
    const matrix_info *matrix;
    const attn_row *row;
    TRY(kernel_feature(o->feat, &feature));
    TRY(registry_matrix(o->kernel, &matrix));
    TRY(kernel_find(o->feat, o->kernel, desc->D, desc->DV, o->m, ATTN_ATTENTION, &row));
    json_t *kernel = json_pack("{s:s, s:s, s:s, s:s}", "feature_spec", feature->hash, "matrix_spec",
                               matrix->hash, "kernel_text", row->hash, "instructions",
                               registry_isa_name(row->isa));
    return json_object_set_new(build, "kernel", kernel) == 0
               ? SPECTRA_OK
               : fail(SPECTRA_ENOMEM, "%s: out of memory", o->feat);
}
