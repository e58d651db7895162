/* Names of attentions and the settings of their own, as the table of kinds has them. */
#include "attention/attention.h"

#include "base/status.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { MOST_NAMES = 64 };

const char *const attention_trait_names[] = {
    "padded", "couples the batch", "shared q and k", "dropout", "causal", "bf16", "features", NULL};

spectra_status attention_find(const char *name, bool official, const attention_kind **out)
{
    const char *names[MOST_NAMES];
    int count = 0;
    for (const attention_row *row = attention_table; row->kind; row++) {
        if (!name || strcmp(row->kind->name, name) != 0) {
            names[count++] = row->kind->name;
            continue;
        }
        if (official && !row->official)
            return fail(SPECTRA_EINVAL, "%s has no official behaviour", name);
        *out = official ? row->official : row->kind;
        return SPECTRA_OK;
    }
    const char *near = name ? nearest_name(name, names, count) : NULL;
    return fail(SPECTRA_ENOTFOUND, "unknown attention '%s'%s%s%s", name ? name : "(none)",
                near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

const setting *attention_setting(const attention_kind *kind, const char *name)
{
    return setting_find(kind->settings, kind->settings_count, name);
}

/* A kind before this one has a setting of this name. */
static bool seen(const attention_kind *kind, const char *name)
{
    for (const attention_row *row = attention_table; row->kind != kind; row++)
        if (attention_setting(row->kind, name))
            return true;
    return false;
}

const setting *attention_setting_at(int i)
{
    for (const attention_row *row = attention_table; row->kind; row++)
        for (int k = 0; k < row->kind->settings_count; k++) {
            const setting *s = &row->kind->settings[k];
            if (!seen(row->kind, s->name) && i-- == 0)
                return s;
        }
    return NULL;
}

void attention_options_start(const attention_kind *kind, attention_options *out)
{
    memset(out, 0, sizeof *out);
    for (int i = 0; i < kind->settings_count; i++) {
        const setting *s = &kind->settings[i];
        assert(s->offset + (s->type == SETTING_STRING ? SETTING_TEXT : 8) <= sizeof *out);
        if (s->initial && setting_parse(s, out, s->initial, s->name) != SPECTRA_OK)
            assert(!"an initial value that its setting does not allow");
    }
}

/* "name=value" */
static spectra_status parse_item(const attention_kind *kind, const char *item,
                                 attention_options *out)
{
    char name[64], where[128];
    const char *equals = strchr(item, '=');
    const char *names[MOST_NAMES];
    if (!equals || equals == item)
        return fail(SPECTRA_EINVAL, "options of %s: '%s' is not NAME=VALUE", kind->name, item);
    snprintf(name, sizeof name, "%.*s", (int)(equals - item), item);
    snprintf(where, sizeof where, "%s: %s", kind->name, name);
    const setting *s = attention_setting(kind, name);
    if (s)
        return setting_parse(s, out, equals + 1, where);
    for (int i = 0; i < kind->settings_count; i++)
        names[i] = kind->settings[i].name;
    const char *near = nearest_name(name, names, kind->settings_count);
    return fail(SPECTRA_EINVAL, "%s has no setting '%s'%s%s%s", kind->name, name,
                near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

spectra_status attention_options_parse(const attention_kind *kind, const char *text,
                                       attention_options *out)
{
    while (*text) {
        char item[2 * SETTING_TEXT];
        const size_t n = strcspn(text, ",");
        if (n >= sizeof item)
            return fail(SPECTRA_EINVAL, "options of %s: a text of %zu bytes", kind->name, n);
        snprintf(item, sizeof item, "%.*s", (int)n, text);
        TRY(parse_item(kind, item, out));
        text += n + (text[n] == ',');
    }
    return SPECTRA_OK;
}

spectra_status attention_options_text(const attention_kind *kind, const attention_options *options,
                                      char *buf, size_t size)
{
    size_t used = 0;
    *buf = 0;
    for (int i = 0; i < kind->settings_count && used < size; i++) {
        const setting *s = &kind->settings[i];
        char value[SETTING_TEXT];
        used += (size_t)snprintf(buf + used, size - used, "%s%s=%s", i ? "," : "", s->name,
                                 setting_text(s, options, value, sizeof value));
    }
    if (used >= size)
        return fail(SPECTRA_EINVAL, "the settings of %s take more than %zu bytes", kind->name,
                    size - 1);
    return SPECTRA_OK;
}

/* Numbers that a caller may have put where names of an enum belong. */
static spectra_status check_enums(const spectra_attention_desc *desc)
{
    if ((unsigned)desc->target > SPECTRA_GAUSSIAN)
        return fail(SPECTRA_EINVAL, "target is %d; allowed are SPECTRA_SOFTMAX, SPECTRA_GAUSSIAN",
                    (int)desc->target);
    if ((unsigned)desc->rng > SPECTRA_RNG_CURAND)
        return fail(SPECTRA_EINVAL, "rng is %d; allowed are SPECTRA_RNG_PHILOX, SPECTRA_RNG_CURAND",
                    (int)desc->rng);
    return SPECTRA_OK;
}

spectra_status attention_read_desc(const spectra_attention_desc *desc, const attention_kind **kind,
                                   attention_options *options)
{
    TRY(check_enums(desc));
    TRY(attention_find(desc->attn, desc->official, kind));
    attention_options_start(*kind, options);
    if ((*kind)->from_desc)
        (*kind)->from_desc(desc, options);
    return desc->options ? attention_options_parse(*kind, desc->options, options) : SPECTRA_OK;
}
