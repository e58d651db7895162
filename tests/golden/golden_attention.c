#include "cli/attend.h"
#include "golden/golden.h"
#include "support/attend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Arrays of an attention case; masks as bytes, 1 = token. */
typedef struct arrays {
    attend_shape n;
    npy_array q, k, v, mask, dout;
    uint8_t *valid; /* NULL: no mask */
} arrays;

static void arrays_free(arrays *a)
{
    npy_free(&a->q);
    npy_free(&a->k);
    npy_free(&a->v);
    npy_free(&a->mask);
    npy_free(&a->dout);
    free(a->valid);
}

static bool read_arrays(const golden_case *c, golden_result *r, arrays *a)
{
    if (!golden_read(c, r, "q", &a->q) || !golden_read(c, r, "k", &a->k) ||
        !golden_read(c, r, "v", &a->v) || !golden_read_optional(c, r, "dout", &a->dout) ||
        !golden_read_optional(c, r, "mask", &a->mask))
        return false;
    if (!golden_shape(r, "q", &a->q, 4, (int64_t[]){-1, -1, -1, -1}))
        return false;
    const int64_t *s = a->q.shape;
    a->n = (attend_shape){.B = s[0], .H = s[1], .T = s[2], .D = s[3]};
    if (!golden_shape(r, "k", &a->k, 4, (int64_t[]){s[0], s[1], -1, s[3]}))
        return false;
    a->n.S = a->k.shape[2];
    if (!golden_shape(r, "v", &a->v, 4, (int64_t[]){s[0], s[1], a->n.S, -1}))
        return false;
    a->n.DV = a->v.shape[3];
    if (a->dout.data &&
        !golden_shape(r, "dout", &a->dout, 4, (int64_t[]){s[0], s[1], s[2], a->n.DV}))
        return false;
    if (!a->mask.data)
        return true;
    if (a->n.T != a->n.S)
        return golden_stop(r, GOLDEN_UNUSABLE, "one mask for %lld queries and %lld keys",
                           (long long)a->n.T, (long long)a->n.S);
    if (!golden_shape(r, "mask", &a->mask, 2, (int64_t[]){s[0], s[2]}))
        return false;
    const int64_t count = s[0] * s[2];
    a->valid = attend_alloc(count);
    for (int64_t i = 0; i < count; i++)
        a->valid[i] = ((const float *)a->mask.data)[i] != 0;
    return true;
}

/* What an index calls a setting that has another name here, or none there. */
static const struct {
    const char *setting, *param, *otherwise;
} settings[] = {
    {"feat", "component", NULL},
    {"m", "features", NULL},
    {"kernel", NULL, "gaus"}, /* replaced by the case's W */
};

/* The case's value of a setting as text; false where it has none. */
static bool case_value(const golden_case *c, const setting *s, char *value, size_t size)
{
    const char *param = s->name, *otherwise = NULL;
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++)
        if (strcmp(settings[i].setting, s->name) == 0)
            param = settings[i].param, otherwise = settings[i].otherwise;
    const json_t *x = param ? json_object_get(c->params, param) : NULL;
    if (json_is_string(x) || !x)
        snprintf(value, size, "%s", x ? json_string_value(x) : otherwise ? otherwise : "");
    else if (json_is_boolean(x))
        snprintf(value, size, "%s", json_is_true(x) ? "true" : "false");
    else
        snprintf(value, size, "%.15g", json_number_value(x));
    return *value;
}

/* The description of the case's attention without its sizes: whichever of the kind's settings the
 * case names are its options. False where this build has no such attention. */
static bool describe(const golden_case *c, golden_result *r, bool through,
                     char options[ATTENTION_OPTIONS], spectra_attention_desc *out)
{
    const attention_kind *kind = NULL;
    size_t used = 0;
    *out = (spectra_attention_desc){
        .attn = c->attn, .official = strcmp(c->behaviour, "official") == 0, .options = options};
    if (attention_find(c->attn, out->official, &kind) != SPECTRA_OK)
        return golden_stop(r, GOLDEN_SKIPPED, "%s", spectra_message());
    *options = 0;
    for (int i = 0; i < kind->settings_count; i++) {
        const setting *s = &kind->settings[i];
        char value[SETTING_TEXT];
        if (case_value(c, s, value, sizeof value))
            used += (size_t)snprintf(options + used, ATTENTION_OPTIONS - used, "%s%s=%s",
                                     used ? "," : "", s->name, value);
    }
    if (through)
        snprintf(options + used, ATTENTION_OPTIONS - used, ",grad_through=true");
    return golden_known(r, out);
}

/* A new attention of the case, with everything set that the case gives. */
static bool open_attention(const golden_case *c, golden_result *r, const arrays *a, bool through,
                           spectra_attention **out)
{
    char options[ATTENTION_OPTIONS];
    spectra_attention_desc desc;
    if (!describe(c, r, through, options, &desc))
        return false;
    desc.H = a->n.H, desc.D = a->n.D, desc.DV = a->n.DV;
    spectra_attention *att = NULL;
    if (!golden_ok(r, "spectra_attention_new", spectra_attention_new(&desc, &att)))
        return false;
    const char *key;
    json_t *file;
    json_object_foreach(c->files, key, file)
    {
        const char *role = golden_role(file);
        static const char *const ours[] = {"q", "k", "v", "mask", "dout"};
        bool given = strcmp(role, "output") != 0 && strcmp(role, "intermediate") != 0;
        for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
            given = given && strcmp(key, ours[i]) != 0;
        if (!given)
            continue;
        npy_array x;
        if (!golden_read(c, r, key, &x))
            break;
        const char *name = strcmp(key, "A_head") == 0 ? "A" : key;
        golden_ok(r, key, spectra_attention_set(att, name, x.data, x.ndim, x.shape));
        npy_free(&x);
        if (r->verdict != GOLDEN_PASSED)
            break;
    }
    if (r->verdict == GOLDEN_PASSED) {
        *out = att;
        return true;
    }
    spectra_attention_free(att);
    return false;
}

static void multiply_rows(const arrays *a, float *o)
{
    const int64_t per_batch = a->n.H * a->n.T;
    for (int64_t row = 0; row < a->n.B * per_batch; row++) {
        const float m = a->valid[row / per_batch * a->n.T + row % a->n.T] ? 1.0F : 0.0F;
        for (int64_t i = 0; i < a->n.DV; i++)
            o[row * a->n.DV + i] *= m;
    }
}

/* A parameter the attention computed from the data, compared with output `key`. */
static void compare_parameter(const golden_case *c, golden_result *r, const spectra_attention *att,
                              const arrays *a, const attend_run *run, const char *key)
{
    npy_array ref;
    if (!golden_read(c, r, key, &ref))
        return;
    /* A parameter is one number or one row of D a head. */
    const int64_t count = npy_count(&ref), heads = a->n.B * a->n.H;
    const bool fits = count == heads || count == heads * a->n.D;
    npy_free(&ref);
    if (!fits) {
        golden_stop(r, GOLDEN_UNUSABLE, "output '%s' is neither (B, H) nor (B, H, D)", key);
        return;
    }
    float *got = attend_floats(heads * (a->n.D + 16));
    if (golden_ok(r, key, spectra_attention_parameter(att, &run->problem, key, run->saved, got)))
        golden_compare(c, r, key, got, count, golden_tolerance(c, key), -1);
    free(got);
}

/* Compares the outputs of one run: those named *_through, or all others. */
static void compare_outputs(const golden_case *c, golden_result *r, const spectra_attention *att,
                            const arrays *a, attend_run *run, bool through)
{
    const int64_t queries = a->n.B * a->n.H * a->n.T, keys = a->n.B * a->n.H * a->n.S;
    const struct {
        const char *key, *through_key;
        const float *data;
        int64_t count;
    } outputs[] = {
        {"out", "out_through", run->o, queries * a->n.DV},
        {"dq", "dq_through", run->gq, queries * a->n.D},
        {"dk", "dk_through", run->gk, keys * a->n.D},
        {"dv", "dv_through", run->gv, keys * a->n.DV},
    };
    const char *rows = json_string_value(json_object_get(c->json, "dout_rows"));
    if (a->valid && rows && strcmp(rows, "valid") == 0)
        multiply_rows(a, run->o);
    const char *key;
    json_t *file;
    json_object_foreach(c->files, key, file)
    {
        const double tolerance = golden_tolerance(c, key);
        const char *suffix = strstr(key, "_through");
        if (strcmp(golden_role(file), "output") != 0 || tolerance < 0 ||
            (suffix != NULL) != through)
            continue;
        size_t i = 0, n = sizeof outputs / sizeof outputs[0];
        while (i < n && strcmp(key, through ? outputs[i].through_key : outputs[i].key) != 0)
            i++;
        if (i == n)
            compare_parameter(c, r, att, a, run, key);
        else if (!outputs[i].data)
            golden_stop(r, GOLDEN_UNUSABLE, "output '%s' without an input 'dout'", key);
        else
            golden_compare(c, r, key, outputs[i].data, outputs[i].count, tolerance, -1);
    }
}

static bool wants_through(const golden_case *c)
{
    const char *key;
    json_t *file;
    json_object_foreach(c->files, key, file) if (strstr(key, "_through") &&
                                                 golden_tolerance(c, key) >= 0) return true;
    return false;
}

/* The same once more on the device, in the place of the CPU's results. */
static bool on_device(golden_result *r, spectra_attention *att, const attend_shape *n,
                      const attend_inputs *x, attend_run *run)
{
    const attend_call call = {.problem = run->problem,
                              .H = n->H,
                              .D = n->D,
                              .DV = n->DV,
                              .q = x->q,
                              .k = x->k,
                              .v = x->v,
                              .go = x->go,
                              .o = run->o,
                              .gq = run->gq,
                              .gk = run->gk,
                              .gv = run->gv};
    spectra_status status = attend_on_device(golden_device, att, "float32", &call);
    if (status == SPECTRA_EUNSUPPORTED)
        return golden_stop(r, GOLDEN_SKIPPED, "%s", spectra_message());
    return golden_ok(r, "attention on the device", status);
}

static void run_once(const golden_case *c, golden_result *r, const arrays *a, bool through)
{
    spectra_attention *att = NULL;
    if (!open_attention(c, r, a, through, &att))
        return;
    const attend_inputs x = {.q = a->q.data,
                             .k = a->k.data,
                             .v = a->v.data,
                             .go = a->dout.data,
                             .q_mask = a->valid,
                             .k_mask = a->valid};
    attend_run run;
    if (golden_ok(r, "attention", attend(att, &a->n, &x, &run)) &&
        (!golden_device || on_device(r, att, &a->n, &x, &run)))
        compare_outputs(c, r, att, a, &run, through);
    attend_free(&run);
    spectra_attention_free(att);
}

void golden_attention(const golden_case *c, golden_result *result)
{
    /* Other attentions may have other inputs: ask before reading any. */
    char options[ATTENTION_OPTIONS];
    spectra_attention_desc desc;
    if (!describe(c, result, false, options, &desc))
        return;
    arrays a = {0};
    if (read_arrays(c, result, &a)) {
        run_once(c, result, &a, false);
        if (wants_through(c) && !golden_device) /* gradients through parameters are the CPU's */
            run_once(c, result, &a, true);
    }
    arrays_free(&a);
}
