/* The runner on the host: its journal says what the model's passes say, its updates are the
 * optimiser's, and a full journal is refused. Devices are compared with the host elsewhere
 * (test_model_device.c, train_device.sh). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { B = 3, N = 8, CLASSES = 4, PARTS = 2 };

static const int32_t ids[PARTS * B * N] = {1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0, 0, 6, 0, 1, 0,
                                           9, 9, 9, 1, 0, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0,
                                           8, 7, 6, 5, 4, 3, 2, 1, 5, 0, 5, 0, 5, 0, 5, 0};
static const int32_t label[PARTS * B] = {0, 3, 1, 2, 2, 0};

static void ok(spectra_status status)
{
    if (status != SPECTRA_OK)
        fail_msg("%s", spectra_message());
}

static void fails(spectra_status status, spectra_status want, const char *says)
{
    assert_int_equal(status, want);
    if (!strstr(spectra_message(), says))
        fail_msg("'%s' does not say '%s'", spectra_message(), says);
}

static model *make(void)
{
    const model_config c = {.vocab = 10,
                            .length = N,
                            .classes = CLASSES,
                            .embed = 8,
                            .hidden = 12,
                            .heads = 2,
                            .head_dim = 4,
                            .layers = 2,
                            .dropout = 0.1,
                            .seed = 3,
                            .attention = {.attn = "softmax"}};
    model *m = NULL;
    ok(model_new(&c, &m));
    return m;
}

static model_batch part_of(int part)
{
    return (model_batch){.B = B, .ids = {ids + part * B * N, NULL}, .label = label + part * B};
}

static runner *make_runner(model *m)
{
    runner *r = NULL;
    ok(runner_new(m, "cpu", &(runner_options){.batch = B, .parts = PARTS}, &r));
    return r;
}

static adamw settings(const model *m, float *moments)
{
    const int64_t n = model_param_count(m);
    return (adamw){.beta2 = 0.999, .eps = 1e-6, .clip = 1, .n = n, .m = moments, .v = moments + n};
}

/* Loss, and predictions as the first largest score. */
static void check_entry(const runner *r, int64_t i, double loss, const float *scores)
{
    runner_entry e;
    double sum = 0;
    ok(runner_entry_at(r, i, &e));
    assert_int_equal(e.B, B);
    for (int b = 0; b < B; b++) {
        int best = 0;
        for (int c = 1; c < CLASSES; c++)
            best = scores[b * CLASSES + c] > scores[b * CLASSES + best] ? c : best;
        assert_int_equal(e.predicted[b], best);
        sum += (double)e.loss[b];
    }
    assert_true(sum / B == loss);
}

static void evaluation(void **state)
{
    (void)state;
    model *m = make();
    runner *r = make_runner(m);
    float scores[B * CLASSES];
    double loss = 0;
    int64_t count = 0;
    assert_int_equal(runner_steps(r), 1);
    assert_false(runner_full(r));
    for (int part = 0; part < PARTS; part++) {
        const model_batch x = part_of(part);
        ok(runner_forward(r, &x));
    }
    assert_true(runner_full(r));
    ok(runner_read(r, &count));
    assert_int_equal(count, PARTS);
    for (int part = 0; part < PARTS; part++) {
        const model_batch x = part_of(part);
        ok(model_forward(m, &x, scores, &loss));
        check_entry(r, part, loss, scores);
    }
    runner_free(r);
    model_free(m);
}

/* Three steps of two parts, beside the same with the model's own functions: the same bits. */
static void steps(void **state)
{
    (void)state;
    model *m = make(), *direct = make();
    runner *r = make_runner(m);
    const int64_t n = model_param_count(m);
    float *moments = calloc((size_t)n, 4 * sizeof *moments);
    const adamw o = settings(m, moments), want = settings(direct, moments + 2 * n);
    float scores[PARTS][B * CLASSES];
    for (uint64_t step = 0; step < 3; step++) {
        double loss[PARTS];
        int64_t count = 0;
        runner_entry last;
        ok(runner_zero_grads(r));
        model_zero_grads(direct);
        for (int part = 0; part < PARTS; part++) {
            const model_batch x = part_of(part);
            ok(runner_step(r, &x, step, (uint64_t)part, 0.5));
            ok(model_step(direct, &x, step, (uint64_t)part, 0.5, scores[part], &loss[part]));
        }
        assert_true(runner_full(r));
        ok(runner_update(r, &o, (int64_t)step + 1, 1e-2, 0.9));
        ok(runner_read(r, &count));
        assert_int_equal(count, PARTS);
        assert_false(runner_full(r));
        for (int part = 0; part < PARTS; part++)
            check_entry(r, part, loss[part], scores[part]);
        ok(runner_entry_at(r, PARTS - 1, &last));
        assert_true(last.norm == model_grad_norm(direct));
        adamw_update(&want, (int64_t)step + 1, 1e-2, 0.9, model_params(direct),
                     model_grads(direct));
        assert_memory_equal(model_params(m), model_params(direct), (size_t)n * sizeof(float));
    }
    assert_memory_equal(moments, moments + 2 * n, 2 * (size_t)n * sizeof *moments);
    ok(runner_push(r, NULL)); /* the host has nothing to copy */
    ok(runner_pull(r, (float *const[2]){o.m, o.v}));
    assert_null(runner_device(r));
    assert_int_equal(runner_device_bytes(r) + runner_device_peak(r), 0);
    free(moments);
    runner_free(r);
    model_free(m);
    model_free(direct);
}

static void requests_that_cannot_be_met(void **state)
{
    (void)state;
    model *m = make();
    runner *r = make_runner(m);
    const model_batch x = part_of(0);
    model_batch large = x;
    int64_t count = 0;
    runner_entry e;
    large.B = B + 1;
    fails(runner_forward(r, &large), SPECTRA_ESHAPE, "4 examples, made for 3");
    fails(runner_entry_at(r, 0, &e), SPECTRA_EINVAL, "entry 0");
    for (int part = 0; part < PARTS; part++)
        ok(runner_forward(r, &x));
    fails(runner_step(r, &x, 0, 0, 1), SPECTRA_EINVAL, "2 entries are full");
    ok(runner_read(r, &count));
    fails(runner_entry_at(r, PARTS, &e), SPECTRA_EINVAL, "allowed are 0 to 1");
    model_params(m)[model_tensor_at(m, 5)->offset] = NAN;
    fails(runner_step(r, &x, 0, 0, 1), SPECTRA_EDIVERGED, "parameter");
    runner_free(r);
    fails(runner_new(m, "tpu", &(runner_options){.batch = B, .parts = PARTS}, &r), SPECTRA_EINVAL,
          "tpu");
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evaluation),
        cmocka_unit_test(steps),
        cmocka_unit_test(requests_that_cannot_be_met),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
