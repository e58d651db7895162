#include "golden/golden.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool golden_stop(golden_result *r, golden_verdict verdict, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(r->reason, sizeof r->reason, format, args);
    va_end(args);
    r->verdict = verdict;
    return false;
}

bool golden_ok(golden_result *r, const char *what, spectra_status status)
{
    if (status == SPECTRA_OK)
        return true;
    return golden_stop(r, GOLDEN_FAILED, "%s: %s: %s", what, spectra_status_name(status),
                       spectra_message());
}

bool golden_known(golden_result *r, const spectra_attention_desc *desc)
{
    spectra_attention *att = NULL;
    spectra_attention_desc probe = *desc;
    probe.H = 1, probe.D = probe.DV = 16;
    if (spectra_attention_new(&probe, &att) == SPECTRA_ENOTFOUND)
        return golden_stop(r, GOLDEN_SKIPPED, "%s", spectra_message());
    spectra_attention_free(att);
    return true;
}

bool golden_number(golden_result *r, const json_t *from, const char *key, double *out)
{
    const json_t *value = json_object_get(from, key);
    if (!json_is_number(value))
        return golden_stop(r, GOLDEN_UNUSABLE, "setting '%s' is missing or not a number", key);
    *out = json_number_value(value);
    return true;
}

bool golden_integer(golden_result *r, const json_t *from, const char *key, int64_t *out)
{
    const json_t *value = json_object_get(from, key);
    if (!json_is_integer(value))
        return golden_stop(r, GOLDEN_UNUSABLE, "setting '%s' is missing or not an integer", key);
    *out = json_integer_value(value);
    return true;
}

bool golden_has(const golden_case *c, const char *key)
{
    return json_object_get(c->files, key) != NULL;
}

const char *golden_role(const json_t *file)
{
    const char *role = json_string_value(json_object_get(file, "role"));
    return role ? role : "";
}

bool golden_read(const golden_case *c, golden_result *r, const char *key, npy_array *out)
{
    const json_t *file = json_object_get(c->files, key);
    const char *name = json_string_value(json_object_get(file, "path"));
    *out = (npy_array){0};
    if (!name)
        return golden_stop(r, GOLDEN_UNUSABLE, "the case has no file '%s'", key);
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", c->dir, name) >= (int)sizeof path)
        return golden_stop(r, GOLDEN_UNUSABLE, "the path of '%s' is too long", key);
    if (npy_read_f32(path, out) != SPECTRA_OK)
        return golden_stop(r, GOLDEN_UNUSABLE, "%s", spectra_message());
    return true;
}

bool golden_read_optional(const golden_case *c, golden_result *r, const char *key, npy_array *out)
{
    *out = (npy_array){0};
    return !golden_has(c, key) || golden_read(c, r, key, out);
}

bool golden_shape(golden_result *r, const char *key, const npy_array *a, int ndim,
                  const int64_t *shape)
{
    bool same = a->ndim == ndim;
    for (int i = 0; same && i < ndim; i++)
        same = shape[i] < 0 || a->shape[i] == shape[i];
    if (same)
        return true;
    char is[128], wanted[128];
    return golden_stop(r, GOLDEN_UNUSABLE, "'%s' has shape %s, the other arrays need %s (-1: any)",
                       key, npy_shape_text(a->ndim, a->shape, is, sizeof is),
                       npy_shape_text(ndim, shape, wanted, sizeof wanted));
}

double golden_tolerance(const golden_case *c, const char *key)
{
    const json_t *own = json_object_get(c->tolerance, key);
    if (json_is_number(own))
        return json_number_value(own);
    const char *dot = strchr(key, '.');
    if (!dot)
        return -1;
    char family[64];
    snprintf(family, sizeof family, "%.*s.*", (int)(dot - key), key);
    const json_t *shared = json_object_get(c->tolerance, family);
    return json_is_number(shared) ? json_number_value(shared) : -1;
}

/* "(1, 0, 5)" of flat element `at`. */
static const char *index_text(const npy_array *a, int64_t at, char *buf, size_t size)
{
    int64_t index[NPY_MAX_DIM];
    for (int i = a->ndim - 1; i >= 0; i--) {
        index[i] = at % a->shape[i];
        at /= a->shape[i];
    }
    return npy_shape_text(a->ndim, index, buf, size);
}

/* Largest difference, infinite where something is not a number; *at is where. */
static double largest_difference(const float *got, const float *want, int64_t n, int64_t *at)
{
    double worst = 0;
    *at = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!isfinite(d))
            d = INFINITY;
        if (d > worst) {
            worst = d;
            *at = i;
        }
    }
    return worst;
}

static double largest_magnitude(const float *x, int64_t n)
{
    double largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs((double)x[i]));
    return largest;
}

void golden_compare(const golden_case *c, golden_result *r, const char *key, const float *got,
                    int64_t got_count, double tolerance, double scale)
{
    npy_array ref;
    if (!golden_read(c, r, key, &ref))
        return;
    const float *want = ref.data;
    const int64_t n = npy_count(&ref);
    char buf[128];
    if (n != got_count) {
        golden_stop(r, GOLDEN_FAILED, "%s: %lld numbers computed, the reference has shape %s", key,
                    (long long)got_count, npy_shape_text(ref.ndim, ref.shape, buf, sizeof buf));
        npy_free(&ref);
        return;
    }
    int64_t at = 0;
    double error = largest_difference(got, want, n, &at);
    scale = scale < 0 ? largest_magnitude(want, n) : scale;
    error = error == 0 ? 0 : error / scale; /* a reference of zeros demands zeros */
    if (r->compared++ == 0 || error * r->tolerance > r->worst * tolerance) {
        r->worst = error;
        r->tolerance = tolerance;
        snprintf(r->output, sizeof r->output, "%s", key);
    }
    if (!(error <= tolerance)) {
        r->verdict = r->verdict == GOLDEN_UNUSABLE ? r->verdict : GOLDEN_FAILED;
        printf("     %s: %s: %.2e is beyond %.1e; at %s got %.9g, want %.9g\n", c->name, key, error,
               tolerance, index_text(&ref, at, buf, sizeof buf), (double)got[at], (double)want[at]);
    }
    npy_free(&ref);
}
