/* The reference's behaviour on a device against the CPU's: every feature that has it, sizes that
 * fit no tile, masks, strided rows, parameters given and computed; in the emulator also that the
 * order of threads changes nothing and that nobody races.
 */
#include "device/device_case.h"

#include "attention/device.h"
#include "attention/performer/performer.h"
#include "device/emulator/emulator.h"
#include "support/attend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_VECTOR = 256 };

typedef struct official_case {
    const char *feat, *kernel;
    int64_t B, H, T, D, DV, M;
    bool mask, interleaved; /* rows of (B, T, H, D) */
    bool given;             /* A_pos and psi, where the feature has them */
} official_case;

static spectra_attention *attention_of(const official_case *c)
{
    const spectra_attention_desc d = {.attn = "performer",
                                      .feat = c->feat,
                                      .kernel = c->kernel,
                                      .H = c->H,
                                      .D = c->D,
                                      .DV = c->DV,
                                      .M = c->M,
                                      .seed = 7,
                                      .official = true};
    spectra_attention *att = NULL;
    ok(spectra_attention_new(&d, &att));
    if (!c->given)
        return att;
    float *a = random_floats(c->H * c->T, 8), psi[MOST_VECTOR];
    for (int64_t i = 0; i < c->H * c->T; i++)
        a[i] *= 0.2F; /* those above 0.124999 are cut */
    for (int64_t i = 0; i < c->D; i++)
        psi[i] = 0.5F + (float)(i % 5) / 4;
    ok(spectra_attention_set(att, "A_pos", a, 2, (int64_t[]){c->H, c->T}));
    if (performer_of(att)->feature->vectors)
        ok(spectra_attention_set(att, "psi", psi, 1, (int64_t[]){c->D}));
    free(a);
    return att;
}

/* ---- a batch, here and on the device -----------------------------------------------------------
 */

enum { Q, K, V, GO, O, GQ, GK, GV, ARRAYS };

typedef struct batch {
    const official_case *c;
    attention_device *ad;
    attention_device_problem problem;
    float *x[ARRAYS];          /* (B, H, T, width); inputs only */
    spectra_rows rows[ARRAYS]; /* the device's */
    uint8_t *mask;
    void *saved, *work;
} batch;

static int64_t width_of(const official_case *c, int i)
{
    return i == Q || i == K || i == GQ || i == GK ? c->D : c->DV;
}

static int64_t count_of(const official_case *c, int i)
{
    return c->B * c->H * c->T * width_of(c, i);
}

/* Between (B, H, T, n) and the layout of the case. */
static void reorder(const official_case *c, int64_t n, bool back, const float *from, float *to)
{
    for (int64_t row = 0; row < c->B * c->H * c->T; row++) {
        const int64_t b = row / (c->H * c->T), h = row / c->T % c->H, t = row % c->T;
        const int64_t other = c->interleaved ? (b * c->T + t) * c->H + h : row;
        memcpy(to + (back ? row : other) * n, from + (back ? other : row) * n,
               (size_t)n * sizeof *to);
    }
}

static spectra_rows rows_of(const official_case *c, float *at, int64_t n)
{
    if (!c->interleaved)
        return spectra_rows_dense(at, c->H, c->T, n);
    return (spectra_rows){
        .data = at, .stride_b = c->T * c->H * n, .stride_h = n, .stride_t = c->H * n};
}

static void batch_open(const official_case *c, attention_device *ad, batch *x)
{
    const int64_t rows = c->B * c->T;
    *x = (batch){.c = c, .ad = ad};
    x->problem = (attention_device_problem){
        .p = {.B = c->B, .T = c->T, .S = c->T}, .q_rows = rows, .k_rows = rows};
    for (int i = 0; i < ARRAYS; i++) {
        const int64_t n = count_of(c, i);
        float *at = room(n);
        x->rows[i] = rows_of(c, at, width_of(c, i));
        if (i > GO)
            continue;
        x->x[i] = random_floats(n, (uint32_t)i + 1);
        float *laid = malloc((size_t)n * sizeof *laid);
        reorder(c, width_of(c, i), false, x->x[i], laid);
        ok(device_write(dev, at, laid, n * (int64_t)sizeof *laid));
        free(laid);
    }
    x->mask = malloc((size_t)rows);
    for (int64_t i = 0; i < rows; i++) /* of the last sequence of several all */
        x->mask[i] = i * 7 % 5 != 0 && !(c->B > 1 && i >= (c->B - 1) * c->T);
    if (c->mask)
        x->problem.p.k_mask = put(x->mask, rows);
    x->saved = room(attention_device_saved_bytes(ad, &x->problem) / 4);
    x->work = room(attention_device_work_bytes(ad, &x->problem) / 4);
}

static void batch_close(batch *x)
{
    for (int i = 0; i < ARRAYS; i++) {
        device_free(dev, x->rows[i].data);
        free(x->x[i]);
    }
    device_free(dev, (void *)(uintptr_t)x->problem.p.k_mask);
    device_free(dev, x->saved);
    device_free(dev, x->work);
    free(x->mask);
}

static attention_views views_of(const batch *x)
{
    const spectra_rows *r = x->rows;
    return (attention_views){.q = r[Q],
                             .k = r[K],
                             .v = r[V],
                             .go = r[GO],
                             .o = r[O],
                             .gq = r[GQ],
                             .gk = r[GK],
                             .gv = r[GV]};
}

static void forward_backward(const batch *x)
{
    const attention_views v = views_of(x);
    ok(attention_device_forward(x->ad, &x->problem, &v, x->saved, x->work));
    ok(attention_device_backward(x->ad, &x->problem, &v, x->saved, x->work));
}

/* Result i as (B, H, T, width), to be freed. */
static float *result(const batch *x, int i)
{
    const int64_t n = count_of(x->c, i);
    float *laid = get(x->rows[i].data, n), *out = malloc((size_t)n * sizeof *out);
    reorder(x->c, width_of(x->c, i), true, laid, out);
    free(laid);
    return out;
}

/* The largest difference by the largest number, or by 0.01, by 1 with one key (gradients of q and k
 * are 0 then but for rounding); NaN where one is. */
static double worst(const batch *x, int i, const float *ref)
{
    double most = 0, scale = x->c->T == 1 ? 1 : 0.01;
    float *got = result(x, i);
    for (int64_t k = 0; k < count_of(x->c, i); k++) {
        const double d = fabs((double)got[k] - (double)ref[k]);
        scale = fmax(scale, fabs((double)ref[k]));
        most = d > most || isnan(d) ? d : most;
        if (isnan(d))
            break;
    }
    free(got);
    return most / scale;
}

/* Device against CPU. */
static void compare(const official_case *c, const spectra_attention *att, attention_device *ad)
{
    static const double limit = 2e-5;
    attend_run run;
    batch x;
    batch_open(c, ad, &x);
    ok(attend(att, &(attend_shape){c->B, c->H, c->T, c->T, c->D, c->DV},
              &(attend_inputs){x.x[Q], x.x[K], x.x[V], x.x[GO], NULL, c->mask ? x.mask : NULL},
              &run));
    forward_backward(&x);
    const double eo = worst(&x, O, run.o), eq = worst(&x, GQ, run.gq), ek = worst(&x, GK, run.gk),
                 ev = worst(&x, GV, run.gv);
    printf("%-7s %-5s B %lld H %lld T %4lld D %3lld DV %3lld M %4lld: o %.1e gq %.1e gk %.1e gv "
           "%.1e\n",
           c->feat, c->kernel, (long long)c->B, (long long)c->H, (long long)c->T, (long long)c->D,
           (long long)c->DV, (long long)c->M, eo, eq, ek, ev);
    assert_true(eo <= limit && eq <= limit && ek <= limit && ev <= limit);
    attend_free(&run);
    batch_close(&x);
}

static attention_device *open_on_device(spectra_attention *att)
{
    attention_device *ad = NULL;
    ok(attention_device_new(att, dev, false, &ad));
    ok(attention_device_changed(ad));
    return ad;
}

static void test_cases(void **state)
{
    static const official_case cases[] = {
        {"posrf", "orf", 1, 1, 1, 8, 8, 8, false, false, false},
        {"posrf", "orf", 2, 2, 63, 20, 60, 100, true, true, false},
        {"posrf", "gaus", 1, 1, 1000, 32, 32, 128, true, false, false},
        {"trigrf", "orf", 2, 1, 65, 32, 24, 96, true, false, false},
        {"trigrf", "orf", 1, 2, 7, 60, 32, 33, false, true, false},
        {"gerf", "orf", 2, 2, 64, 32, 32, 64, true, false, false},
        {"gerf", "orf", 3, 2, 65, 20, 20, 40, true, true, true},
        {"oprf", "orf", 4, 2, 63, 32, 32, 128, true, true, false},
        {"oprf", "qmc", 1, 1, 70, 8, 16, 40, false, false, false},
        {"saderf", "qmc", 3, 2, 130, 32, 32, 128, true, true, false},
        {"saderf", "orf", 1, 3, 65, 20, 8, 100, true, false, true},
        {"posrf", "orf", 1, 1, 40, 256, 256, 1024, true, false, false},
        {"trigrf", "orf", 1, 1, 9, 256, 256, 1024, true, false, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        spectra_attention *att = attention_of(&cases[i]);
        attention_device *ad = open_on_device(att);
        compare(&cases[i], att, ad);
        attention_device_free(ad);
        spectra_attention_free(att);
    }
}

/* What the host makes is kept for batches that are no larger. */
static void test_changing_batches(void **state)
{
    static const int64_t shapes[][2] = {{1, 5}, {3, 33}, {2, 9}, {4, 7}};
    static const char *const feats[] = {"gerf", "saderf", "oprf"};
    (void)state;
    for (size_t f = 0; f < sizeof feats / sizeof feats[0]; f++) {
        official_case c = {feats[f], "orf", 1, 2, 5, 16, 16, 32, true, false, false};
        spectra_attention *att = attention_of(&c);
        attention_device *ad = open_on_device(att);
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            c.B = shapes[i][0], c.T = shapes[i][1];
            compare(&c, att, ad);
        }
        ok(spectra_attention_redraw(att, 9));
        ok(attention_device_changed(ad));
        compare(&c, att, ad);
        attention_device_free(ad);
        spectra_attention_free(att);
    }
}

/* All that is written, behind each other. */
static float *results(void *of, int64_t *count)
{
    batch *x = of;
    float *all = NULL;
    *count = 0;
    forward_backward(x);
    for (int k = O; k < ARRAYS; k++) {
        const int64_t n = count_of(x->c, k);
        float *got = result(x, k);
        all = realloc(all, (size_t)(*count + n) * sizeof *all);
        memcpy(all + *count, got, (size_t)n * sizeof *all);
        *count += n;
        free(got);
    }
    return all;
}

static void test_orders(void **state)
{
    static const official_case checked[] = {
        {"posrf", "orf", 1, 2, 70, 20, 24, 40, true, false, false},
        {"trigrf", "orf", 1, 1, 40, 32, 32, 48, true, true, false},
        {"oprf", "orf", 3, 1, 33, 16, 16, 32, true, false, false},
        {"saderf", "orf", 2, 1, 65, 16, 16, 32, true, false, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof checked / sizeof checked[0] && strcmp(kind, "emu") == 0; i++) {
        const official_case *c = &checked[i];
        spectra_attention *att = attention_of(c);
        attention_device *ad = open_on_device(att);
        batch x;
        batch_open(c, ad, &x);
        same_in_any_order(results, &x);
        batch_close(&x);
        attention_device_free(ad);
        spectra_attention_free(att);
    }
}

static void test_refusals(void **state)
{
    static const official_case c = {"gerf", "orf", 1, 2, 9, 16, 16, 32, false, false, true};
    static const int64_t begin[] = {0};
    spectra_attention *att = attention_of(&c);
    attention_device *ad = open_on_device(att), *none = NULL;
    batch x;
    (void)state;
    batch_open(&c, ad, &x);
    const attention_views v = views_of(&x);
    attention_device_problem problem = x.problem;
    problem.p.q_begin = problem.p.k_begin = begin;
    fails(attention_device_forward(ad, &problem, &v, x.saved, x.work), SPECTRA_EINVAL, "packed");
    problem = x.problem;
    problem.p.S = 8;
    fails(attention_device_forward(ad, &problem, &v, x.saved, x.work), SPECTRA_ESHAPE,
          "9 queries, 8 keys");
    problem.p.T = 8;
    fails(attention_device_forward(ad, &problem, &v, x.saved, x.work), SPECTRA_ESHAPE,
          "A_pos has 9 positions");
    fails(attention_device_new_typed(att, dev, true, true, &none), SPECTRA_EUNSUPPORTED, "bf16");
    assert_null(none);
    batch_close(&x);
    attention_device_free(ad);
    spectra_attention_free(att);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_changing_batches),
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_refusals),
    };
    return run_on_device(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
