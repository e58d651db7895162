/* Users' own component functions: specs that were read, by name. One that is known stays as it is
 * until the process ends. */
#define _GNU_SOURCE
#include "kernel/internal.h"

#include "base/status.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SPEC_LIMIT = 1 << 20 };

typedef struct own_spec {
    jit_spec view;
    char *name, *path, *text;
    sha256_hex hash;
    struct own_spec *next;
} own_spec;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static own_spec *specs; /* under the lock */

bool jit_is_path(const char *name)
{
    size_t n = strlen(name);
    return strchr(name, '/') && n > 4 && strcmp(name + n - 4, ".lua") == 0;
}

/* Under the lock. */
static own_spec *spec_find(const char *name)
{
    own_spec *s = specs;
    while (s && strcmp(s->name, name) != 0)
        s = s->next;
    return s;
}

const jit_spec *jit_spec_find(const char *name)
{
    pthread_mutex_lock(&lock);
    const own_spec *s = spec_find(name);
    pthread_mutex_unlock(&lock);
    return s ? &s->view : NULL;
}

static void spec_free(own_spec *s)
{
    free(s->name);
    free(s->path);
    free(s->text);
    free(s);
}

static spectra_status spec_read(const char *path, const char *hash, own_spec *s)
{
    byte_buffer text;
    TRY(read_whole_file(path, SPEC_LIMIT, &text));
    s->text = text.data;
    sha256_of(text.data, text.size, s->hash);
    if (strlen(text.data) != text.size)
        return fail(SPECTRA_EFORMAT, "%s: not a text", path);
    if (hash && strcmp(hash, s->hash) != 0)
        return fail(SPECTRA_EINVAL, "%s has changed: its SHA-256 is %s, it was %s", path, s->hash,
                    hash);
    s->path = realpath(path, NULL);
    if (!s->path)
        return fail(SPECTRA_EIO, "%s: cannot find where it is", path);
    return generate_check(path, s->text, &s->name);
}

spectra_status jit_spec_open(const char *path, const char *hash, const jit_spec **out)
{
    own_spec *s = calloc(1, sizeof *s);
    if (!s)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", path);
    spectra_status status = spec_read(path, hash, s);
    if (status != SPECTRA_OK) {
        spec_free(s);
        return status;
    }
    pthread_mutex_lock(&lock);
    own_spec *known = spec_find(s->name);
    if (!known) {
        s->view = (jit_spec){s->name, s->path, s->hash, s->text};
        s->next = specs;
        known = specs = s;
    }
    pthread_mutex_unlock(&lock);
    if (strcmp(known->hash, s->hash) != 0)
        status = fail(SPECTRA_EINVAL, "%s: another '%s' is loaded already, from %s", path, s->name,
                      known->path);
    else
        *out = &known->view;
    if (known != s)
        spec_free(s);
    return status;
}
