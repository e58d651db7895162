/* Attention on the emulated device against the CPU's kernels: every skeleton with every class of
 * feature, sizes that fit no tile, masks, packed and strided rows, forward and backward. */
#include "attend.h"
#include "attention_cuda.h"
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
    bool mask, gaussian, fast, bf16;
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

static void run_case(const device_case *c)
{
    const attend_shape n = {c->B, c->H, c->T, c->S, c->D, c->DV};
    const int64_t nq = c->B * c->H * c->T, nk = c->B * c->H * c->S;
    spectra_attention_desc d = {.attn = "performer", .feat = c->feat, .kernel = c->kernel, .H = c->H,
                                .D = c->D, .DV = c->DV, .M = c->M, .seed = 7,
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
    float *q = random_floats(nq * c->D, 1, 1), *k = random_floats(nk * c->D, 2, 1);
    float *v = random_floats(nk * c->DV, 3, 1), *go = random_floats(nq * c->DV, 4, 1);
    uint8_t *mask = malloc((size_t)(c->B * c->S));
    for (int64_t i = 0; i < c->B * c->S; i++)
        mask[i] = (i * 7) % 5 != 0 && !(c->B > 1 && i >= (c->B - 1) * c->S);
    attend_run run;
    ok(attend(att, &n, &(attend_inputs){q, k, v, go, NULL, c->mask ? mask : NULL}, &run));

    attention_cuda *ac = NULL;
    ok(attention_cuda_new(att, dev, &(attention_cuda_options){.fast = c->fast, .bf16 = c->bf16}, &ac));
    spectra_problem p = {.B = c->B, .T = c->T, .S = c->S};
    void *device_mask = NULL;
    if (c->mask) {
        ok(device_alloc(dev, c->B * c->S, &device_mask));
        ok(device_write(dev, device_mask, mask, c->B * c->S));
        p.k_mask = device_mask;
    }
    int64_t saved_bytes, work_bytes;
    void *saved = NULL, *work = NULL;
    attention_cuda_bytes(ac, &p, &saved_bytes, &work_bytes);
    ok(device_alloc(dev, saved_bytes, &saved));
    ok(device_alloc(dev, work_bytes, &work));
    const spectra_rows dq = spectra_rows_dense(on_device(q, nq * c->D), c->H, c->T, c->D);
    const spectra_rows dk = spectra_rows_dense(on_device(k, nk * c->D), c->H, c->S, c->D);
    const spectra_rows dv = spectra_rows_dense(on_device(v, nk * c->DV), c->H, c->S, c->DV);
    const spectra_rows dgo = spectra_rows_dense(on_device(go, nq * c->DV), c->H, c->T, c->DV);
    const spectra_rows dout = spectra_rows_dense(on_device(NULL, nq * c->DV), c->H, c->T, c->DV);
    const spectra_rows gq = spectra_rows_dense(on_device(NULL, nq * c->D), c->H, c->T, c->D);
    const spectra_rows gk = spectra_rows_dense(on_device(NULL, nk * c->D), c->H, c->S, c->D);
    const spectra_rows gv = spectra_rows_dense(on_device(NULL, nk * c->DV), c->H, c->S, c->DV);
    ok(attention_cuda_forward(ac, &p, dq, dk, dv, dout, saved, work));
    float *o = back(dout.data, nq * c->DV);
    const double eo = worst(nq * c->DV, o, run.o);
    ok(attention_cuda_backward(ac, &p, dq, dk, dv, dout, dgo, gq, gk, gv, saved, work));
    float *hq = back(gq.data, nq * c->D), *hk = back(gk.data, nk * c->D), *hv = back(gv.data, nk * c->DV);
    const double eq = worst(nq * c->D, hq, run.gq), ek = worst(nk * c->D, hk, run.gk),
                 ev = worst(nk * c->DV, hv, run.gv);
    printf("%-12s %-6s T %4lld S %4lld D %2lld DV %2lld M %3lld: o %.1e gq %.1e gk %.1e gv %.1e\n", c->feat,
           c->kernel, (long long)c->T, (long long)c->S, (long long)c->D, (long long)c->DV,
           (long long)c->M, eo, eq, ek, ev);
    fflush(stdout);
    const double limit = c->fast ? 5e-3 : 2e-5;
    assert_true(eo <= limit && eq <= limit && ek <= limit && ev <= limit);
    attention_cuda_free(ac);
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
        printf("test_attention_device: skipped: %s\n0 passed, 0 failed, 1 skipped\n", spectra_message());
        return 0;
    }
    for (int i = 0; i < COUNT; i++) {
        const device_case *c = &cases[i];
        snprintf(names[i], sizeof names[i], "%s %s T=%d D=%d M=%d", c->feat, c->kernel, (int)c->T, (int)c->D,
                 (int)c->M);
        tests[i] = (struct CMUnitTest){names[i], test_case_run, NULL, NULL, (void *)&cases[i]};
    }
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device_close(dev);
    emulated_close();
    return failed;
}
