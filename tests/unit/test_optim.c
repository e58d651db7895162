/* The schedule against the specification's numbers, AdamW against its definition in double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "file/npy.h"
#include "math/rng.h"
#include "model/optim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_schedule(const schedule *s, int64_t step, double want_lr, double want_beta1)
{
    double lr = 0, beta1 = 0;
    schedule_at(s, step, &lr, &beta1);
    if (fabs(lr - want_lr) > 1e-12 * fabs(s->max_lr) || fabs(beta1 - want_beta1) > 1e-12)
        fail_msg("step %lld: %g %g, want %g %g", (long long)step, lr, beta1, want_lr, want_beta1);
}

static void test_schedule(void **state)
{
    (void)state;
    schedule s = {1e-4, 25, 1e4, 0.85, 0.95, 50000, 1000}; /* listops */
    check_schedule(&s, 0, 4e-6, 0.95);
    check_schedule(&s, 333, 4e-6 + 9.6e-5 / 3, 0.95 - 0.1 / 3);
    check_schedule(&s, 999, 1e-4, 0.85);
    check_schedule(&s, 999 + 24500, (1e-4 + 4e-10) / 2, 0.9);
    check_schedule(&s, 49999, 4e-10, 0.95);
    s.warmup = 1; /* the ramp has no length: the peak at once */
    check_schedule(&s, 0, 1e-4, 0.85);
    check_schedule(&s, 49999, 4e-10, 0.95);
    s.warmup = s.total = 10; /* all of it ramp */
    check_schedule(&s, 9, 1e-4, 0.85);
}

typedef struct oracle {
    double p, m, v;
} oracle;

static void oracle_update(oracle *x, int64_t t, double lr, double beta1, double beta2, double eps,
                          double decay, double clip, double g)
{
    g = fmin(fmax(g, -clip), clip);
    x->p *= 1 - lr * decay;
    x->m = beta1 * x->m + (1 - beta1) * g;
    x->v = beta2 * x->v + (1 - beta2) * g * g;
    x->p -= lr / (1 - pow(beta1, (double)t)) * x->m /
            (sqrt(x->v) / sqrt(1 - pow(beta2, (double)t)) + eps);
}

/* Enough parameters for several blocks and a ragged end; some gradients beyond the clip. */
static void test_adamw(void **state)
{
    (void)state;
    enum { N = 20003, STEPS = 6 };
    schedule s = {0.01, 25, 1e4, 0.85, 0.95, STEPS, 2};
    float *p = calloc(N + 1, sizeof *p), *g = calloc(N, sizeof *g);
    float *m = calloc(N + 1, sizeof *m), *v = calloc(N + 1, sizeof *v);
    oracle *want = calloc(N, sizeof *want);
    adamw o = {.beta2 = 0.999, .eps = 1e-6, .weight_decay = 0.1, .clip = 1, .n = N, .m = m, .v = v};
    rng_stream r = rng_open(3, RNG_TEST, 0, 0);
    for (int64_t i = 0; i < N; i++)
        want[i].p = (double)(p[i] = (float)rng_normal(&r, (uint64_t)i));
    p[N] = m[N] = v[N] = 7;
    for (int64_t t = 1; t <= STEPS; t++) {
        double lr, beta1;
        schedule_at(&s, t - 1, &lr, &beta1);
        r = rng_open(3, RNG_TEST, 0, (uint32_t)t);
        for (int64_t i = 0; i < N; i++) {
            g[i] = (float)rng_normal(&r, (uint64_t)i) * (i % 3 == 0 ? 2.0f : 1e-3f);
            oracle_update(&want[i], t, lr, beta1, o.beta2, o.eps, o.weight_decay, o.clip,
                          (double)g[i]);
        }
        adamw_update(&o, t, lr, beta1, p, g);
    }
    for (int64_t i = 0; i < N; i++)
        if (!(fabs((double)p[i] - want[i].p) <= 2e-6 * (0.1 + fabs(want[i].p))))
            fail_msg("parameter %lld: %.9g, want %.9g", (long long)i, (double)p[i], want[i].p);
    assert_true(p[N] == 7 && m[N] == 7 && v[N] == 7);
    free(p);
    free(g);
    free(m);
    free(v);
    free(want);
}

/* A parameter starting at 0 shows relative errors of the update itself: rounding beta2 to float
 * moves 1 - beta2 by 1.3e-5, which the bias correction must undo. */
static void test_correction(void **state)
{
    (void)state;
    const double rates[] = {0.95, 0.9, 0.85, 0.86};
    float p = 0, g = 0.5f, m = 0, v = 0;
    oracle want = {0};
    adamw o = {.beta2 = 0.999, .eps = 1e-6, .clip = 1, .n = 1, .m = &m, .v = &v};
    for (int64_t t = 1; t <= 4; t++) {
        oracle_update(&want, t, 0.01, rates[t - 1], o.beta2, o.eps, 0, o.clip, (double)g);
        adamw_update(&o, t, 0.01, rates[t - 1], &p, &g);
        assert_true(fabs((double)p / want.p - 1) < 1e-6);
    }
}

static bool golden_array(const char *name, npy_array *out)
{
    const char *shared = getenv("SPECTRA_SHARED");
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/optimizer_a/%s.npy", shared ? shared : "../shared",
             name);
    return npy_read_f32(path, out) == SPECTRA_OK;
}

static void test_golden(void **state)
{
    (void)state;
    npy_array p, g, after, lr, beta1;
    if (!golden_array("param", &p)) {
        print_message("skipped: no golden vectors (SPECTRA_SHARED, ../shared)\n");
        skip();
    }
    assert_true(golden_array("grad_sequence", &g) &&
                golden_array("param_after_each_step", &after) && golden_array("lr", &lr) &&
                golden_array("beta1", &beta1));
    int64_t n = p.shape[0], steps = g.shape[0];
    schedule s = {0.01, 25, 1e4, 0.85, 0.95, steps, 3};
    float *m = calloc((size_t)n, sizeof *m), *v = calloc((size_t)n, sizeof *v);
    adamw o = {.beta2 = 0.999, .eps = 1e-6, .clip = 1, .n = n, .m = m, .v = v};
    double top = 0;
    for (int64_t i = 0; i < n * steps; i++)
        top = fmax(top, fabs((double)((const float *)after.data)[i]));
    for (int64_t t = 1; t <= steps; t++) {
        double rate, b1;
        schedule_at(&s, t - 1, &rate, &b1);
        assert_true(fabs(rate - (double)((const float *)lr.data)[t - 1]) < 1e-6 * 0.01);
        assert_true(fabs(b1 - (double)((const float *)beta1.data)[t - 1]) < 1e-6);
        adamw_update(&o, t, rate, b1, p.data, (const float *)g.data + (t - 1) * n);
        for (int64_t i = 0; i < n; i++) {
            double d = fabs((double)(((const float *)p.data)[i] -
                                     ((const float *)after.data)[(t - 1) * n + i]));
            if (!(d <= 1e-6 * top))
                fail_msg("update %lld, parameter %lld differs by %g", (long long)t, (long long)i,
                         d);
        }
    }
    npy_free(&p);
    npy_free(&g);
    npy_free(&after);
    npy_free(&lr);
    npy_free(&beta1);
    free(m);
    free(v);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedule),
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_correction),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
