/* Attention on the emulated device against the CPU's kernels: every skeleton with every class of
 * feature, sizes that fit no tile, masks, packed and strided rows, forward and backward. */
#include "attend.h"
#include "attention_device.h"
#include "emulated.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct device_case {
    const char *feat, *kernel;
    int64_t B, H, T, S, D, DV, M;
    bool mask, gaussian, fast, learn;
} device_case;

static device *dev;

static float *random_floats(int64_t n, unsigned seed, float std)
{
    float *x = attend_alloc(n * (int64_t)sizeof *x);
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 1;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int k = 0; k < 4; k++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            sum += (double)(s >> 40) / (1 << 24) - 0.5;
        }
        x[i] = std * (float)(sum * sqrt(3));
    }
    return x;
}

static double worst(int64_t n, const float *x, const float *ref)
{
    double most = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs((double)x[i] - (double)ref[i]);
        scale = fmax(scale, fabs((double)ref[i]));
        most = d > most || isnan(d) ? d : most;
        if (isnan(d))
            return NAN;
    }
    return most / (scale > 0 ? scale : 1);
}

static void ok(spectra_status status)
{
    if (status != SPECTRA_OK)
        fail_msg("%s", spectra_message());
}

/* Device memory of n floats, holding x or, where that is NULL, NaN. */
static float *on_device(const float *x, int64_t n)
{
    void *p = NULL;
    ok(device_alloc(dev, n * 4, &p));
    float *empty = x ? NULL : attend_floats(n);
    ok(device_write(dev, p, x ? x : empty, n * 4));
    free(empty);
    return p;
}

static float *back(const float *p, int64_t n)
{
    float *x = attend_floats(n);
    ok(device_read(dev, x, p, n * 4));
    return x;
}

/* Gradients of what is trained, against the CPU's. */
static void check_learned(const device_case *c, const spectra_attention *att, attention_device *ad,
                          const attend_run *run)
{
    const int64_t n = spectra_attention_trained_floats(att);
    if (n == 0)
        return;
    float *theta = attend_floats(n), *ref = calloc((size_t)n, 4), *got = calloc((size_t)n, 4);
    spectra_attention_trained_start(att, theta);
    spectra_attention_trained_gradient(att, &run->problem, run->work, theta, ref);
    ok(attention_device_gradient(ad, got));
    const double error = worst(n, got, ref);
    printf("%-12s %-6s trained %lld: %.1e\n", c->feat, c->kernel, (long long)n, error);
    assert_true(error <= 2e-5);
    free(theta);
    free(ref);
    free(got);
}

static void run_case(const device_case *c)
{
    const attend_shape n = {c->B, c->H, c->T, c->S, c->D, c->DV};
    const int64_t nq = c->B * c->H * c->T, nk = c->B * c->H * c->S;
    spectra_attention_desc d = {.attn = "performer",
                                .feat = c->feat,
                                .kernel = c->kernel,
                                .H = c->H,
                                .D = c->D,
                                .DV = c->DV,
                                .M = c->M,
                                .seed = 7,
                                .learn = c->learn,
                                .target = c->gaussian ? SPECTRA_GAUSSIAN : SPECTRA_SOFTMAX};
    char feat[32];
    snprintf(feat, sizeof feat, "%s", c->feat);
    if (feat[strlen(feat) - 1] == '+') {
        feat[strlen(feat) - 1] = 0;
        d.feat = feat;
        d.antithetic = true;
    }
    spectra_attention *att = NULL;
    ok(spectra_attention_new(&d, &att));
    /* of signed features the normaliser is near 0 where vectors are long */
    const float std = att->feature->is_signed ? 0.5f : 1;
    float *q = random_floats(nq * c->D, 1, std), *k = random_floats(nk * c->D, 2, std);
    float *v = random_floats(nk * c->DV, 3, 1), *go = random_floats(nq * c->DV, 4, 1);
    uint8_t *mask = malloc((size_t)(c->B * c->S));
    for (int64_t i = 0; i < c->B * c->S; i++)
        mask[i] = (i * 7) % 5 != 0 && !(c->B > 1 && i >= (c->B - 1) * c->S);
    attend_run run;
    ok(attend(att, &n, &(attend_inputs){q, k, v, go, NULL, c->mask ? mask : NULL}, &run));

    attention_device *ad = NULL;
    ok(attention_device_new(att, dev, c->fast, &ad));
    ok(attention_device_changed(ad));
    attention_device_problem p = {
        .p = {.B = c->B, .T = c->T, .S = c->S}, .q_rows = c->B * c->T, .k_rows = c->B * c->S};
    void *device_mask = NULL;
    if (c->mask) {
        ok(device_alloc(dev, c->B * c->S, &device_mask));
        ok(device_write(dev, device_mask, mask, c->B * c->S));
        p.p.k_mask = device_mask;
    }
    void *saved = NULL, *work = NULL;
    ok(device_alloc(dev, attention_device_saved_bytes(ad, &p), &saved));
    ok(device_alloc(dev, attention_device_work_bytes(ad, &p), &work));
    attention_device_views x = {
        .q = spectra_rows_dense(on_device(q, nq * c->D), c->H, c->T, c->D),
        .k = spectra_rows_dense(on_device(k, nk * c->D), c->H, c->S, c->D),
        .v = spectra_rows_dense(on_device(v, nk * c->DV), c->H, c->S, c->DV),
        .go = spectra_rows_dense(on_device(go, nq * c->DV), c->H, c->T, c->DV),
        .o = spectra_rows_dense(on_device(NULL, nq * c->DV), c->H, c->T, c->DV),
        .gq = spectra_rows_dense(on_device(NULL, nq * c->D), c->H, c->T, c->D),
        .gk = spectra_rows_dense(on_device(NULL, nk * c->D), c->H, c->S, c->D),
        .gv = spectra_rows_dense(on_device(NULL, nk * c->DV), c->H, c->S, c->DV),
    };
    ok(attention_device_forward(ad, &p, &x, saved, work));
    float *o = back(x.o.data, nq * c->DV);
    const double eo = worst(nq * c->DV, o, run.o);
    ok(attention_device_backward(ad, &p, &x, saved, work));
    float *hq = back(x.gq.data, nq * c->D), *hk = back(x.gk.data, nk * c->D),
          *hv = back(x.gv.data, nk * c->DV);
    const double eq = worst(nq * c->D, hq, run.gq), ek = worst(nk * c->D, hk, run.gk),
                 ev = worst(nk * c->DV, hv, run.gv);
    printf("%-12s %-6s T %4lld S %4lld D %2lld DV %2lld M %3lld: o %.1e gq %.1e gk %.1e gv %.1e\n",
           c->feat, c->kernel, (long long)c->T, (long long)c->S, (long long)c->D, (long long)c->DV,
           (long long)c->M, eo, eq, ek, ev);
    fflush(stdout);
    const double limit = c->fast ? 5e-3 : 2e-5;
    assert_true(eo <= limit && eq <= limit && ek <= limit && ev <= limit);
    check_learned(c, att, ad, &run);
    attention_device_free(ad);
    spectra_attention_free(att);
    attend_free(&run);
}

static const device_case cases[] = {
    {"posrf", "orf", 1, 1, 16, 16, 8, 8, 16, false, false, false, false},
    {"posrf", "orf", 1, 2, 70, 70, 32, 32, 128, true, false, false, false},
    {"posrf", "gaus", 1, 1, 200, 300, 32, 32, 128, false, true, false, false},
    {"posrf", "orf", 2, 1, 33, 65, 20, 60, 100, true, false, false, false},
    {"posrf", "orf", 1, 1, 1, 7, 64, 64, 128, true, false, false, false},
    {"trigrf", "orf", 1, 1, 40, 40, 32, 32, 64, true, false, false, false},
    {"oprf", "orf", 1, 1, 40, 40, 32, 32, 64, true, false, false, false},
    {"saderf", "qmc", 1, 2, 65, 130, 32, 32, 128, true, false, false, false},
    {"saderf+", "qmc", 1, 1, 40, 40, 16, 24, 48, true, false, false, false},
    {"gerf", "orf", 1, 1, 40, 40, 16, 16, 32, true, false, false, false},
    {"sderf", "orf", 1, 1, 40, 70, 8, 8, 32, true, false, false, false},
    {"aderf", "orf", 1, 1, 40, 70, 16, 8, 32, true, false, false, false},
    {"cderf", "orf", 1, 1, 40, 40, 8, 8, 32, true, false, false, false},
    {"hrf", "orf", 1, 1, 40, 40, 16, 16, 32, true, false, false, false},
    {"poisrf", "orf", 1, 2, 40, 40, 16, 16, 32, true, false, false, false},
    {"geomrf", "orf", 1, 1, 40, 40, 16, 16, 32, true, false, false, false},
    {"geomrf_plus", "orf", 1, 1, 40, 40, 16, 16, 32, true, false, false, false},
    {"gerf", "orf", 2, 2, 40, 40, 16, 16, 32, true, false, false, true},
    {"posrf", "fastfood_learnable", 2, 2, 40, 200, 16, 16, 32, true, false, false, false},
    {"posrf", "gmm", 1, 2, 40, 40, 16, 16, 32, true, false, false, false},
    {"posrf", "ssr", 1, 1, 40, 40, 16, 16, 33, true, false, false, false},
    {"posrf", "orf", 1, 1, 70, 70, 32, 32, 128, true, false, true, false},
};

static void test_case_run(void **state)
{
    run_case(*state);
}

int main(void)
{
    enum { COUNT = sizeof cases / sizeof cases[0] };
    struct CMUnitTest tests[COUNT];
    static char names[COUNT][64];
    emulated_open();
    if (device_open("emu", &dev) != SPECTRA_OK) {
        printf("test_attention_device: skipped: %s\n0 passed, 0 failed, 1 skipped\n",
               spectra_message());
        return 0;
    }
    for (int i = 0; i < COUNT; i++) {
        const device_case *c = &cases[i];
        snprintf(names[i], sizeof names[i], "%s %s T=%d D=%d M=%d", c->feat, c->kernel, (int)c->T,
                 (int)c->D, (int)c->M);
        tests[i] = (struct CMUnitTest){names[i], test_case_run, NULL, NULL, (void *)&cases[i]};
    }
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device_close(dev);
    emulated_close();
    return failed;
}
