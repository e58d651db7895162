/* The classifier against a double-precision oracle (scores, loss, every gradient by central
 * differences), and its promises: packing, threads, memory, parameter counts, messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "math/rng.h"
#include "model/model.h"
#include "support/model_oracle.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static model_config tiny(void)
{
    return (model_config){.vocab = 11,
                          .length = 9,
                          .classes = 3,
                          .embed = 6,
                          .hidden = 10,
                          .heads = 2,
                          .head_dim = 4,
                          .layers = 2,
                          .seed = 5,
                          .attention = {.attn = "softmax"}};
}

static model *make(const model_config *c)
{
    model *m = NULL;
    if (model_new(c, &m) != SPECTRA_OK)
        fail_msg("%s", spectra_message());
    return m;
}

static void ok(spectra_status status)
{
    if (status != SPECTRA_OK)
        fail_msg("%s", spectra_message());
}

/* Random tokens, zeros scattered among them; the last sequence has none but zeros. */
typedef struct batch {
    model_batch b;
    int32_t *ids[2], *label;
} batch;

static batch batch_new(const model_config *c, int64_t B, bool empty)
{
    batch x = {.b = {.B = B}};
    for (uint32_t side = 0; side < (c->dual ? 2 : 1); side++) {
        rng_stream s = rng_open(21, RNG_TEST, side, 0);
        x.ids[side] = calloc((size_t)(B * c->length), sizeof(int32_t));
        for (int64_t i = 0; i < B * c->length; i++)
            if (rng_uniform(&s, (uint64_t)(2 * i)) < 0.7 && (!empty || i < (B - 1) * c->length))
                x.ids[side][i] = (int32_t)rng_below(&s, (uint64_t)(2 * i + 1), (uint64_t)c->vocab);
        x.b.ids[side] = x.ids[side];
    }
    x.label = calloc((size_t)B, sizeof *x.label);
    for (int64_t b = 0; b < B; b++)
        x.label[b] = (int32_t)(b * 7 % c->classes);
    x.b.label = x.label;
    return x;
}

static void batch_free(batch *x)
{
    free(x->ids[0]);
    free(x->ids[1]);
    free(x->label);
}

/* Initial values are small; this makes every part of the model matter. */
static void spread(model *m)
{
    rng_stream s = rng_open(22, RNG_TEST, 0, 0);
    float *p = model_params(m);
    for (int64_t i = 0; i < model_param_count(m); i++)
        p[i] += 0.3f * (float)rng_normal(&s, (uint64_t)i);
}

static const char *owner(const model *m, int64_t index)
{
    for (int i = 0; i < model_tensor_count(m); i++) {
        const model_tensor *t = model_tensor_at(m, i);
        if (index >= t->offset && index < t->offset + t->shape[0] * t->shape[1])
            return t->name;
    }
    return "?";
}

static void check_against_oracle(const model_config *c, uint64_t step, uint64_t part)
{
    enum { B = 4 };
    model *m = make(c);
    batch x = batch_new(c, B, true);
    spread(m);
    oracle o = oracle_new(m);
    float scores[B * 8];
    double want[B * 8], loss = 0, eps = 1e-5, scale = 0.5;

    ok(model_forward(m, &x.b, scores, &loss));
    assert_true(fabs(loss - oracle_loss(&o, &x.b, want)) < 1e-5);
    for (int64_t i = 0; i < B * c->classes; i++)
        assert_true(fabs((double)scores[i] - want[i]) < 2e-5);

    o.train = true;
    o.step = step;
    o.part = part;
    model_zero_grads(m);
    ok(model_step(m, &x.b, step, part, scale, scores, &loss));
    assert_true(fabs(loss - oracle_loss(&o, &x.b, want)) < 1e-5);
    for (int64_t i = 0; i < B * c->classes; i++)
        assert_true(fabs((double)scores[i] - want[i]) < 2e-5);
    for (int64_t i = 0; i < model_param_count(m); i++) {
        double keep = o.params[i];
        o.params[i] = keep + eps;
        double up = oracle_loss(&o, &x.b, NULL);
        o.params[i] = keep - eps;
        double down = oracle_loss(&o, &x.b, NULL), g = scale * (up - down) / (2 * eps);
        o.params[i] = keep;
        if (!(fabs((double)model_grads(m)[i] - g) < 5e-6 + 2e-5 * fabs(g)))
            fail_msg("gradient %lld (%s): %g, want %g", (long long)i, owner(m, i),
                     (double)model_grads(m)[i], g);
    }
    oracle_free(&o);
    batch_free(&x);
    model_free(m);
}

static void test_mean(void **state)
{
    (void)state;
    model_config c = tiny();
    check_against_oracle(&c, 0, 0);
}

static void test_cls(void **state)
{
    (void)state;
    model_config c = tiny();
    c.cls = true;
    check_against_oracle(&c, 0, 0);
}

static void test_dual(void **state)
{
    (void)state;
    model_config c = tiny();
    c.dual = true;
    check_against_oracle(&c, 0, 0);
}

static void test_tied(void **state)
{
    (void)state;
    model_config c = tiny();
    c.tied = true;
    c.layers = 3;
    check_against_oracle(&c, 0, 0);
}

static void test_dropout(void **state)
{
    (void)state;
    model_config c = tiny();
    c.dropout = 0.2;
    c.attention_dropout = 0.3;
    check_against_oracle(&c, 17, 1);
}

/* Padding stays in the batch when the reference's behaviour is asked for. */
static void test_official(void **state)
{
    (void)state;
    model_config c = tiny();
    c.attention.official = true;
    check_against_oracle(&c, 0, 0);
    c.dual = true;
    c.dropout = 0.2;
    check_against_oracle(&c, 3, 2);
}

static model_config middling(void)
{
    model_config c = tiny();
    c.vocab = 40;
    c.length = 300;
    c.classes = 10;
    c.embed = 32;
    c.hidden = 48;
    c.head_dim = 16;
    c.dropout = 0.1;
    return c;
}

/* Several chunks; masks given from outside, so that token 0 is a token somewhere. */
static void test_packing(void **state)
{
    (void)state;
    model_config c = middling();
    batch x = batch_new(&c, 4, true);
    uint8_t *mask = calloc((size_t)(4 * c.length), 1);
    for (int64_t i = 0; i < 4 * c.length; i++)
        mask[i] = i % 3 != 0 && i % 7 != 2;
    x.b.mask[0] = mask;
    float *grads[2];
    double loss[2];
    model *m[2];
    for (int i = 0; i < 2; i++) {
        c.attention.official = i == 1;
        m[i] = make(&c);
        ok(model_step(m[i], &x.b, 4, 0, 1, NULL, &loss[i]));
        grads[i] = model_grads(m[i]);
    }
    assert_true(fabs(loss[0] - loss[1]) < 1e-6);
    double top = 0;
    for (int64_t i = 0; i < model_param_count(m[0]); i++)
        top = fmax(top, fabs((double)grads[0][i]));
    for (int64_t i = 0; i < model_param_count(m[0]); i++)
        if (!(fabs((double)(grads[0][i] - grads[1][i])) <= 1e-5 * top))
            fail_msg("%s: %g packed, %g padded", owner(m[0], i), (double)grads[0][i],
                     (double)grads[1][i]);
    for (int i = 0; i < 2; i++)
        model_free(m[i]);
    free(mask);
    batch_free(&x);
}

static void check_threads(const model_config *c)
{
    batch x = batch_new(c, 40, false); /* more chunks than slots */
    int before = omp_get_max_threads();
    float *first = NULL;
    double loss[4];
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        model *m = make(c);
        size_t bytes = (size_t)model_param_count(m) * sizeof *first;
        ok(model_step(m, &x.b, 4, 0, 1, NULL, &loss[threads]));
        if (!first)
            first = memcpy(malloc(bytes), model_grads(m), bytes);
        assert_memory_equal(first, model_grads(m), bytes);
        assert_memory_equal(&loss[1], &loss[threads], sizeof loss[1]);
        model_free(m);
    }
    omp_set_num_threads(before);
    free(first);
    batch_free(&x);
}

static void test_threads(void **state)
{
    (void)state;
    model_config c = middling();
    c.attention_dropout = 0.1;
    check_threads(&c);
    c.attention =
        (spectra_attention_desc){.attn = "performer", .feat = "saderf", .kernel = "orf", .M = 40};
    check_threads(&c);
    c.attention.official = true;
    c.attention.feat = "posrf";
    check_threads(&c);
}

/* Parts of the memory are all of it, in training and evaluation; timing changes no bit. */
static void test_parts(void **state)
{
    (void)state;
    model_config c = middling();
    batch x = batch_new(&c, 5, true);
    model *m = make(&c);
    double loss[2];
    model_timing timing = {0};
    model_part part[MODEL_PARTS];
    for (int train = 0; train < 2; train++) {
        ok(train ? model_step(m, &x.b, 1, 0, 1, NULL, &loss[0])
                 : model_forward(m, &x.b, NULL, &loss[0]));
        int64_t sum = 0;
        for (int i = 0, n = model_parts(m, part); i < n; i++) {
            assert_true(part[i].bytes >= 0);
            sum += part[i].bytes;
        }
        assert_int_equal(sum, model_bytes(m));
    }
    assert_true(timing.attention_forward <= 0 && timing.attention_backward <= 0);
    model_set_timing(m, &timing);
    ok(model_step(m, &x.b, 1, 0, 1, NULL, &loss[1]));
    assert_memory_equal(&loss[0], &loss[1], sizeof loss[0]);
    assert_true(timing.attention_forward > 0 && timing.attention_backward > 0);
    model_free(m);
    batch_free(&x);
}

/* The same step again gives the same bits (added twice: the double), and no more memory. */
static void test_repeat(void **state)
{
    (void)state;
    model_config c = middling();
    batch x = batch_new(&c, 5, true);
    model *m = make(&c);
    double loss[2], idle;
    ok(model_step(m, &x.b, 1, 0, 1, NULL, &loss[0]));
    int64_t bytes = model_bytes(m), n = model_param_count(m);
    float *once =
        memcpy(malloc((size_t)n * sizeof *once), model_grads(m), (size_t)n * sizeof *once);
    ok(model_forward(m, &x.b, NULL, &idle));
    ok(model_step(m, &x.b, 1, 0, 1, NULL, &loss[1]));
    assert_memory_equal(&loss[0], &loss[1], sizeof loss[0]);
    for (int64_t i = 0; i < n; i++)
        assert_true(fabsf(model_grads(m)[i] - 2 * once[i]) <= 1e-6f);
    assert_int_equal(bytes, model_bytes(m));
    assert_true(bytes >= 2 * n * 4);
    model_zero_grads(m);
    ok(model_step(m, &x.b, 2, 0, 1, NULL, &loss[1])); /* another step drops others */
    assert_true(loss[0] != loss[1]);
    ok(model_step(m, &x.b, 1, 1, 1, NULL, &loss[1])); /* so does another part */
    assert_true(loss[0] != loss[1]);
    free(once);
    model_free(m);
    batch_free(&x);
}

static void test_counts(void **state)
{
    (void)state;
    static const struct {
        int64_t vocab, length, classes, count;
        bool dual;
    } task[] = {{32, 2048, 10, 209802, false},
                {512, 4096, 2, 370562, false},
                {512, 4096, 2, 395138, true},
                {256, 1024, 10, 158602, false},
                {512, 1024, 2, 173954, false}};
    for (size_t i = 0; i < sizeof task / sizeof task[0]; i++) {
        model_config c = {.vocab = task[i].vocab,
                          .length = task[i].length,
                          .classes = task[i].classes,
                          .embed = 64,
                          .hidden = 128,
                          .heads = 2,
                          .head_dim = 32,
                          .layers = 2,
                          .dual = task[i].dual,
                          .attention = {.attn = "softmax"}};
        model *m = make(&c);
        assert_int_equal(model_param_count(m), task[i].count);
        int64_t sum = 0;
        for (int t = 0; t < model_tensor_count(m); t++)
            sum += model_tensor_at(m, t)->shape[0] * model_tensor_at(m, t)->shape[1];
        assert_int_equal(sum, task[i].count);
        model_free(m);
    }
}

static const model_tensor *tensor(const model *m, const char *name)
{
    for (int i = 0; i < model_tensor_count(m); i++)
        if (strcmp(model_tensor_at(m, i)->name, name) == 0)
            return model_tensor_at(m, i);
    fail_msg("no tensor %s", name);
    return NULL;
}

static void moments(model *m, const char *name, double *mean, double *deviation, double *top)
{
    const model_tensor *t = tensor(m, name);
    int64_t n = t->shape[0] * t->shape[1];
    const float *x = model_params(m) + t->offset;
    *mean = *deviation = *top = 0;
    for (int64_t i = 0; i < n; i++)
        *mean += (double)x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        *deviation += ((double)x[i] - *mean) * ((double)x[i] - *mean) / (double)n;
        *top = fmax(*top, fabs((double)x[i]));
    }
    *deviation = sqrt(*deviation);
}

static void test_initial_values(void **state)
{
    (void)state;
    model_config c = middling();
    model *m = make(&c);
    double mean, deviation, top, bound = 1 / sqrt(32.0);
    moments(m, "model.embeddings.position_embeddings.weight", &mean, &deviation, &top);
    assert_true(fabs(deviation - 0.02) < 0.001 && fabs(mean) < 0.001);
    moments(m, "model.transformer_1.mha.W_k.weight", &mean, &deviation, &top);
    assert_true(top <= bound && fabs(deviation - bound / sqrt(3.0)) < 0.01);
    moments(m, "model.transformer_0.mlpblock.3.bias", &mean, &deviation, &top);
    bound = 1 / sqrt(48.0); /* the layer's input width */
    assert_true(top <= bound && top > 0.8 * bound);
    moments(m, "model.transformer_0.norm2.weight", &mean, &deviation, &top);
    assert_true(mean == 1 && top == 1);
    moments(m, "model.norm.bias", &mean, &deviation, &top);
    assert_true(top == 0);
    model_free(m);
}

static void expect(spectra_status got, spectra_status want, const char *part)
{
    if (got != want || !strstr(spectra_message(), part))
        fail_msg("status %s (%s), want %s with '%s'", spectra_status_name(got), spectra_message(),
                 spectra_status_name(want), part);
}

static void test_divergence(void **state)
{
    (void)state;
    model_config c = tiny();
    batch x = batch_new(&c, 4, false);
    model *m = make(&c);
    double loss = 7;
    float *w2 = model_params(m) + tensor(m, "model.transformer_1.mlpblock.3.weight")->offset;
    w2[5] = NAN;
    expect(model_step(m, &x.b, 0, 0, 1, NULL, &loss), SPECTRA_EDIVERGED,
           "model.transformer_1.mlpblock.3.weight");
    expect(model_forward(m, &x.b, NULL, &loss), SPECTRA_EDIVERGED,
           "model.transformer_1.mlpblock.3.weight");
    w2[5] = 0;
    float *q = model_params(m) + tensor(m, "model.transformer_1.mha.W_q.weight")->offset;
    for (int i = 0; i < 8; i++)
        q[i] = 3e38f;
    expect(model_step(m, &x.b, 0, 0, 1, NULL, &loss), SPECTRA_EDIVERGED, "of layer 1");
    assert_true(loss == 7);
    for (int64_t i = 0; i < model_param_count(m); i++)
        assert_true(model_grads(m)[i] == 0);
    model_free(m);
    batch_free(&x);
}

static void test_refusals(void **state)
{
    (void)state;
    model_config c = tiny(), bad = c;
    model *m = make(&c), *none = NULL;
    batch x = batch_new(&c, 4, false);
    bad.attention.attn = "sofmax";
    expect(model_new(&bad, &none), SPECTRA_ENOTFOUND, "softmax");
    bad = c;
    bad.dropout = 1;
    expect(model_new(&bad, &none), SPECTRA_EINVAL, "dropout");
    bad = c;
    bad.head_dim = 257;
    expect(model_new(&bad, &none), SPECTRA_EINVAL, "257");
    assert_null(none);
    x.ids[0][3] = 11;
    expect(model_forward(m, &x.b, NULL, NULL), SPECTRA_EINVAL, "token 11");
    x.ids[0][3] = 1;
    x.label[2] = 3;
    expect(model_step(m, &x.b, 0, 0, 1, NULL, NULL), SPECTRA_EINVAL, "label 3 of example 2");
    ok(model_forward(m, &x.b, NULL, NULL)); /* no loss, no label needed */
    model_free(m);
    batch_free(&x);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mean),           cmocka_unit_test(test_cls),
        cmocka_unit_test(test_dual),           cmocka_unit_test(test_tied),
        cmocka_unit_test(test_dropout),        cmocka_unit_test(test_official),
        cmocka_unit_test(test_packing),        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_repeat),         cmocka_unit_test(test_counts),
        cmocka_unit_test(test_initial_values), cmocka_unit_test(test_divergence),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
