#define _GNU_SOURCE
#include "device/emulated.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const char *const jit_source_name[], *const jit_source_text[];

typedef struct object {
    char *text;
    void *handle;
    struct object *next;
} object;
static object *objects;

void emulated_fails(spectra_status status, const char *const *parts)
{
    if (status != SPECTRA_EINVAL)
        fail_msg("%s instead of SPECTRA_EINVAL", spectra_status_name(status));
    for (; *parts; parts++)
        if (!strstr(spectra_message(), *parts))
            fail_msg("no '%s' in: %s", *parts, spectra_message());
}

const emulator_kernel *emulated_kernel(const char *name, const char *text, const char *kernel)
{
    const emulator_kernel *k;
    object *o = objects;
    while (o && strcmp(o->text, text) != 0)
        o = o->next;
    if (!o) {
        o = calloc(1, sizeof *o);
        assert_non_null(o);
        ok(emulator_compile(name, text, &o->handle));
        o->text = strdup(text);
        o->next = objects;
        objects = o;
    }
    ok(emulator_load(o->handle, kernel, &k));
    return k;
}

const emulator_kernel *emulated_small(const char *name, const char *text, const char *kernel)
{
    int i = 0;
    while (jit_source_name[i] && strcmp(jit_source_name[i], "templates/cuda/rt.cuh") != 0)
        i++;
    assert_non_null(jit_source_name[i]);
    char *all = NULL;
    assert_true(asprintf(&all, "#line 1 \"rt.cuh\"\n%s\n#line 1 \"%s\"\n%s", jit_source_text[i],
                         name, text) > 0);
    const emulator_kernel *k = emulated_kernel(name, all, kernel);
    free(all);
    return k;
}
