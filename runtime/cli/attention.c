/* The attention that options name: its kind, its settings, its component function and matrix. */
#include "cli/cli.h"

#include "base/status.h"
#include "kernel/find.h"
#include "kernel/jit.h"
#include "kernel/registry.h"

#include <string.h>

static bool is_feature(const char *name)
{
    if (jit_spec_find(name))
        return true;
    for (const feature_info *f = generated_features; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return true;
    return false;
}

static bool is_matrix(const char *name)
{
    for (const matrix_info *m = generated_matrices; m->name; m++)
        if (strcmp(m->name, name) == 0)
            return true;
    return false;
}

/* The path of a spec into the spec's name. */
static spectra_status open_path(const char **name)
{
    const jit_spec *spec = NULL;
    if (!*name || !jit_is_path(*name))
        return SPECTRA_OK;
    TRY(jit_spec_open(*name, NULL, &spec));
    *name = spec->name;
    return SPECTRA_OK;
}

spectra_status cli_pair(const cli_args *a, const char **feat, const char **kernel)
{
    const char *given_feat = a->value[OPT_FEAT].given ? a->value[OPT_FEAT].text : NULL;
    const char *given_kernel = a->value[OPT_KERNEL].given ? a->value[OPT_KERNEL].text : NULL;
    TRY(open_path(&given_feat));
    TRY(open_path(&given_kernel));
    bool swapped = (!given_feat || is_matrix(given_feat)) &&
                   (!given_kernel || is_feature(given_kernel)) && (given_feat || given_kernel);
    if (swapped) {
        const char *held = given_feat;
        given_feat = given_kernel;
        given_kernel = held;
    }
    const char *f = given_feat ? given_feat : "posrf";
    const char *k = given_kernel ? given_kernel : "orf";
    const feature_info *feature = NULL;
    const matrix_info *matrix = NULL;
    if (is_matrix(f) && is_matrix(k))
        return fail(SPECTRA_EINVAL, "%s and %s are both weight matrices", f, k);
    if (is_feature(f) && is_feature(k))
        return fail(SPECTRA_EINVAL, "%s and %s are both component functions", f, k);
    if (is_matrix(f)) /* the other way round, with a name nobody knows */
        return kernel_feature(k, &feature);
    if (is_feature(k))
        return registry_matrix(f, &matrix);
    const jit_spec *own = jit_spec_find(f);
    if (!own)
        TRY(kernel_feature(f, &feature));
    TRY(registry_matrix(k, &matrix));
    *feat = own ? own->name : feature->name;
    *kernel = matrix->name;
    return SPECTRA_OK;
}

spectra_status cli_attention(const cli_args *a, const attention_kind **kind)
{
    return attention_find(a->value[OPT_ATTN].text, a->value[OPT_OFFICIAL].given, kind);
}

/* --feat and --kernel, which may be the other way round or paths. */
static spectra_status put_pair(const cli_args *a, const attention_kind *kind,
                               attention_options *settings)
{
    const char *feat, *kernel;
    if (!attention_setting(kind, "feat") ||
        (!a->value[OPT_FEAT].given && !a->value[OPT_KERNEL].given))
        return SPECTRA_OK;
    TRY(cli_pair(a, &feat, &kernel));
    TRY(setting_put_text(attention_setting(kind, "feat"), settings, feat, "--feat"));
    return setting_put_text(attention_setting(kind, "kernel"), settings, kernel, "--kernel");
}

spectra_status cli_attention_settings(const cli_args *a, const attention_kind *kind,
                                      attention_options *settings)
{
    const setting *s = NULL;
    for (int i = 0; (s = attention_setting_at(i)); i++) {
        const cli_value *given = cli_given(a, s->name);
        const setting *own = attention_setting(kind, s->name);
        char said[64];
        if (!given)
            continue;
        cli_option_text(s->name, said, sizeof said);
        if (!own)
            return fail(SPECTRA_EINVAL, "%s has no meaning for %s attention", said, kind->name);
        TRY(setting_parse(own, settings, given->text, said));
    }
    return put_pair(a, kind, settings);
}
