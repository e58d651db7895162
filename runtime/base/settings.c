#include "base/settings.h"

#include "base/status.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *field(const setting *s, void *base)
{
    return (char *)base + s->offset;
}

static const void *field_const(const setting *s, const void *base)
{
    return (const char *)base + s->offset;
}

const setting *setting_find(const setting *table, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(table[i].name, name) == 0 ||
            (table[i].alias && strcmp(table[i].alias, name) == 0))
            return &table[i];
    return NULL;
}

const char *setting_allowed(const setting *s, char *buf, size_t size)
{
    switch (s->type) {
    case SETTING_INT:
        if (s->high >= 1e15)
            snprintf(buf, size, "a whole number from %.0f", s->low);
        else
            snprintf(buf, size, "a whole number from %.0f to %.0f", s->low, s->high);
        break;
    case SETTING_REAL:
        snprintf(buf, size, "a number from %g to %g", s->low, s->high);
        break;
    case SETTING_BOOL:
        snprintf(buf, size, "true or false");
        break;
    default:
        snprintf(buf, size, "%s", s->choice ? s->choice : "a text");
    }
    return buf;
}

static spectra_status refuse(const setting *s, const char *where, const char *value)
{
    char allowed[256];
    return fail(SPECTRA_EINVAL, "%s is '%s', allowed is %s", where, value,
                setting_allowed(s, allowed, sizeof allowed));
}

spectra_status setting_put_int(const setting *s, void *base, int64_t value, const char *where)
{
    if (s->type == SETTING_REAL)
        return setting_put_real(s, base, (double)value, where);
    if (s->type != SETTING_INT || (double)value < s->low || (double)value > s->high) {
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)value);
        return refuse(s, where, text);
    }
    memcpy(field(s, base), &value, sizeof value);
    return SPECTRA_OK;
}

spectra_status setting_put_real(const setting *s, void *base, double value, const char *where)
{
    if (s->type != SETTING_REAL || !(value >= s->low && value <= s->high)) {
        char text[32];
        snprintf(text, sizeof text, "%g", value);
        return refuse(s, where, text);
    }
    /* To 15 digits: config.json then gives back the same bits. */
    char digits[40];
    snprintf(digits, sizeof digits, "%.15g", value);
    value = strtod(digits, NULL);
    memcpy(field(s, base), &value, sizeof value);
    return SPECTRA_OK;
}

spectra_status setting_put_bool(const setting *s, void *base, bool value, const char *where)
{
    if (s->type != SETTING_BOOL)
        return refuse(s, where, value ? "true" : "false");
    memcpy(field(s, base), &value, sizeof value);
    return SPECTRA_OK;
}

static bool is_choice(const char *choice, const char *value)
{
    size_t n = strlen(value);
    for (const char *at = choice; at; at = strchr(at, '|')) {
        at += *at == '|';
        if (strncmp(at, value, n) == 0 && (at[n] == '|' || at[n] == 0))
            return true;
    }
    return false;
}

spectra_status setting_put_text(const setting *s, void *base, const char *value, const char *where)
{
    size_t n = strlen(value);
    if (s->type != SETTING_STRING || n >= SETTING_TEXT ||
        (s->choice && (!n || !is_choice(s->choice, value))))
        return refuse(s, where, value);
    char *at = field(s, base);
    memset(at, 0, SETTING_TEXT);
    memcpy(at, value, n);
    return SPECTRA_OK;
}

spectra_status setting_parse(const setting *s, void *base, const char *text, const char *where)
{
    char *end = NULL;
    errno = 0;
    switch (s->type) {
    case SETTING_INT: {
        long long value = strtoll(text, &end, 10);
        if (end == text || *end || errno)
            return refuse(s, where, text);
        return setting_put_int(s, base, value, where);
    }
    case SETTING_REAL: {
        double value = strtod(text, &end);
        if (end == text || *end || !isfinite(value))
            return refuse(s, where, text);
        return setting_put_real(s, base, value, where);
    }
    case SETTING_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return refuse(s, where, text);
        return setting_put_bool(s, base, text[0] == 't', where);
    default:
        return setting_put_text(s, base, text, where);
    }
}

const char *setting_text(const setting *s, const void *base, char *buf, size_t size)
{
    const void *at = field_const(s, base);
    switch (s->type) {
    case SETTING_INT:
        snprintf(buf, size, "%lld", (long long)*(const int64_t *)at);
        break;
    case SETTING_REAL:
        snprintf(buf, size, "%.15g", *(const double *)at);
        break;
    case SETTING_BOOL:
        snprintf(buf, size, "%s", *(const bool *)at ? "true" : "false");
        break;
    default:
        snprintf(buf, size, "%s", (const char *)at);
    }
    return buf;
}

bool setting_equal(const setting *s, const void *a, const void *b)
{
    a = field_const(s, a);
    b = field_const(s, b);
    switch (s->type) {
    case SETTING_INT:
        return *(const int64_t *)a == *(const int64_t *)b;
    case SETTING_REAL:
        return *(const double *)a == *(const double *)b;
    case SETTING_BOOL:
        return *(const bool *)a == *(const bool *)b;
    default:
        return strcmp(a, b) == 0;
    }
}

spectra_status settings_to_json(const setting *table, int count, const void *base, json_t *object)
{
    for (int i = 0; i < count; i++) {
        const void *at = field_const(&table[i], base);
        json_t *value = NULL;
        switch (table[i].type) {
        case SETTING_INT:
            value = json_integer(*(const int64_t *)at);
            break;
        case SETTING_REAL:
            value = json_real(*(const double *)at);
            break;
        case SETTING_BOOL:
            value = json_boolean(*(const bool *)at);
            break;
        default:
            value = json_string(at);
        }
        if (json_object_set_new(object, table[i].name, value) != 0)
            return fail(SPECTRA_EINVAL, "%s: not valid UTF-8 text", table[i].name);
    }
    return SPECTRA_OK;
}

spectra_status settings_from_json(const setting *table, int count, void *base, const json_t *object,
                                  const char *where)
{
    for (int i = 0; i < count; i++) {
        const setting *s = &table[i];
        const json_t *value = json_object_get(object, s->name);
        if (!value && s->alias)
            value = json_object_get(object, s->alias);
        char place[SETTING_TEXT];
        snprintf(place, sizeof place, "%s: %s", where, s->name);
        if (!value)
            return fail(SPECTRA_EFORMAT, "%s is missing", place);
        if (json_is_integer(value))
            TRY(setting_put_int(s, base, json_integer_value(value), place));
        else if (json_is_real(value))
            TRY(setting_put_real(s, base, json_real_value(value), place));
        else if (json_is_boolean(value))
            TRY(setting_put_bool(s, base, json_is_true(value), place));
        else if (json_is_string(value))
            TRY(setting_put_text(s, base, json_string_value(value), place));
        else
            return fail(SPECTRA_EFORMAT, "%s must be a number, true, false or a text", place);
    }
    return SPECTRA_OK;
}
