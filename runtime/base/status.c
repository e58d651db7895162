#include "base/status.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#ifndef SPECTRA_VERSION
#define SPECTRA_VERSION "0.1.0"
#endif

static _Thread_local char message[1024];

static const char *const status_names[] = {
    [SPECTRA_OK] = "SPECTRA_OK",
    [SPECTRA_EINVAL] = "SPECTRA_EINVAL",
    [SPECTRA_ESHAPE] = "SPECTRA_ESHAPE",
    [SPECTRA_EIO] = "SPECTRA_EIO",
    [SPECTRA_EFORMAT] = "SPECTRA_EFORMAT",
    [SPECTRA_ENOMEM] = "SPECTRA_ENOMEM",
    [SPECTRA_ENOTFOUND] = "SPECTRA_ENOTFOUND",
    [SPECTRA_EUNSUPPORTED] = "SPECTRA_EUNSUPPORTED",
    [SPECTRA_EDIVERGED] = "SPECTRA_EDIVERGED",
    [SPECTRA_EINTERRUPTED] = "SPECTRA_EINTERRUPTED",
    [SPECTRA_EBUSY] = "SPECTRA_EBUSY",
};

spectra_status fail(spectra_status status, const char *format, ...)
{
    /* Through a second buffer: the arguments may quote the previous message. */
    char text[sizeof message];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(message, text, sizeof message);
    return status;
}

const char *spectra_message(void)
{
    return message;
}

const char *spectra_status_name(spectra_status status)
{
    unsigned i = (unsigned)status;
    return i < sizeof status_names / sizeof *status_names ? status_names[i] : "unknown status";
}

const char *spectra_version(void)
{
    return SPECTRA_VERSION;
}

enum { NAME_MAX_LENGTH = 64 };

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* Levenshtein distance without regard to case; both at most NAME_MAX_LENGTH long. */
static int edit_distance(const char *a, int na, const char *b, int nb)
{
    int row[NAME_MAX_LENGTH + 1];
    for (int j = 0; j <= nb; j++)
        row[j] = j;
    for (int i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            int differ = tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]);
            int best = min_int(diagonal + differ, 1 + min_int(row[j], row[j - 1]));
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[nb];
}

const char *nearest_name(const char *name, const char *const *names, int count)
{
    size_t length = strlen(name);
    if (length > NAME_MAX_LENGTH)
        return NULL;
    int limit = length / 3 > 2 ? (int)(length / 3) : 2;
    const char *nearest = NULL;
    for (int i = 0; i < count; i++) {
        size_t other = strlen(names[i]);
        if (other > NAME_MAX_LENGTH)
            continue;
        int distance = edit_distance(name, (int)length, names[i], (int)other);
        if (distance > limit)
            continue;
        nearest = names[i];
        limit = distance - 1;
    }
    return nearest;
}
