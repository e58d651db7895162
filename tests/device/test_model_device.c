/* The classifier on the emulated device against the host's: every pass, gradient and update with
 * softmax attention and all dropouts, recordings, determinism, the journal. */
#include "device/device_case.h"

#include "math/rng.h"
#include "model/device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static model_config tiny(void)
{
    return (model_config){.vocab = 11,
                          .length = 40,
                          .classes = 3,
                          .embed = 16,
                          .hidden = 24,
                          .heads = 2,
                          .head_dim = 8,
                          .layers = 2,
                          .dropout = 0.1,
                          .attention_dropout = 0.2,
                          .seed = 5,
                          .attention = {.attn = "softmax"}};
}

static model *make(const model_config *c)
{
    model *m = NULL;
    ok(model_new(c, &m));
    rng_stream s = rng_open(22, RNG_TEST, 0, 0);
    float *p = model_params(m); /* initial values are small: so that every part matters */
    for (int64_t i = 0; i < model_param_count(m); i++)
        p[i] += 0.1f * (float)rng_normal(&s, (uint64_t)i);
    return m;
}

static model_device *make_device(model *m, bool record)
{
    model_device *md = NULL;
    const model_device_options options = {.batch = 8, .entries = 64, .record = record};
    ok(model_device_new(m, dev, &options, &md));
    return md;
}

/* Random tokens, zeros scattered among them; the last sequence has none but zeros. */
typedef struct batch {
    model_batch b;
    int32_t *ids[2], *label;
} batch;

static batch batch_new(const model_config *c, int64_t B, uint32_t number)
{
    batch x = {.b = {.B = B}};
    for (uint32_t side = 0; side < (c->dual ? 2 : 1); side++) {
        rng_stream s = rng_open(21, RNG_TEST, side, number);
        x.ids[side] = calloc((size_t)(B * c->length), sizeof(int32_t));
        for (int64_t i = 0; i < B * c->length; i++)
            if (rng_uniform(&s, (uint64_t)(2 * i)) < 0.7 && (B == 1 || i < (B - 1) * c->length))
                x.ids[side][i] = (int32_t)rng_below(&s, (uint64_t)(2 * i + 1), (uint64_t)c->vocab);
        x.b.ids[side] = x.ids[side];
    }
    x.label = calloc((size_t)B, sizeof *x.label);
    for (int64_t b = 0; b < B; b++)
        x.label[b] = (int32_t)((b * 7 + number) % c->classes);
    x.b.label = x.label;
    return x;
}

static void batch_free(batch *x)
{
    free(x->ids[0]);
    free(x->ids[1]);
    free(x->label);
}

static double largest(const float *x, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fabs((double)x[i]) > most ? fabs((double)x[i]) : most;
    return most;
}

/* Tensor by tensor: |a - b| <= tolerance times the tensor's largest number. */
static void close_tensors(const model *m, const float *a, const float *b, double tolerance)
{
    for (int i = 0; i < model_tensor_count(m); i++) {
        const model_tensor *t = model_tensor_at(m, i);
        int64_t n = t->shape[0] * t->shape[1];
        double scale = largest(b + t->offset, n);
        for (int64_t k = t->offset; k < t->offset + n; k++)
            if (!(fabs((double)a[k] - (double)b[k]) <= tolerance * scale + 1e-7))
                fail_msg("%s, element %lld: %g, the host has %g (largest %g)", t->name,
                         (long long)(k - t->offset), (double)a[k], (double)b[k], scale);
    }
}

static double entry_loss(const model_device *md, int64_t i, model_device_entry *out)
{
    ok(model_device_entry_at(md, i, out));
    double sum = 0;
    for (int64_t b = 0; b < out->B; b++)
        sum += (double)out->loss[b];
    return sum / (double)out->B;
}

static void check_predictions(const model_device_entry *e, const float *scores, int64_t classes)
{
    for (int64_t b = 0; b < e->B; b++) {
        int64_t best = 0;
        for (int64_t k = 1; k < classes; k++)
            best = scores[b * classes + k] > scores[b * classes + best] ? k : best;
        assert_int_equal(e->predicted[b], best);
    }
}

/* Scores, loss, predictions of an evaluation, then of a training pass whose gradients are added to
 * those of another part. */
static void check_model_within(const model_config *c, double tolerance)
{
    enum { B = 4 };
    model *m = make(c);
    model_device *md = make_device(m, false);
    const int64_t n = model_param_count(m);
    float *grads = malloc((size_t)n * sizeof *grads), scores[B * 8], want[B * 8];
    batch x[] = {batch_new(c, B, 0), batch_new(c, B, 1)};
    double loss = 0, sum = 0;
    int64_t count = 0;
    model_device_entry e;

    ok(model_forward(m, &x[0].b, want, &loss));
    ok(model_device_forward(md, &x[0].b));
    ok(model_device_scores(md, scores));
    for (int64_t i = 0; i < B * c->classes; i++)
        assert_true(fabs((double)scores[i] - (double)want[i]) < 1e-5);
    ok(model_device_read(md, &count));
    assert_int_equal(count, 1);
    assert_true(fabs(entry_loss(md, 0, &e) - loss) < 1e-5);
    check_predictions(&e, scores, c->classes);

    model_zero_grads(m);
    ok(model_device_zero_grads(md));
    for (uint64_t part = 0; part < 2; part++) {
        ok(model_step(m, &x[part].b, 7, part, 0.5, want, &loss));
        ok(model_device_step(md, &x[part].b, 7, part, 0.5));
        ok(model_device_scores(md, scores));
        for (int64_t i = 0; i < B * c->classes; i++)
            assert_true(fabs((double)scores[i] - (double)want[i]) < 1e-5);
    }
    memcpy(grads, model_grads(m), (size_t)n * sizeof *grads);
    for (int64_t i = 0; i < n; i++)
        sum += (double)grads[i] * (double)grads[i];
    const adamw none = {.beta2 = 0.999, .eps = 1e-6, .clip = 1, .n = n};
    ok(model_device_update(md, &none, 1, 0, 0.9));
    ok(model_device_pull(md, NULL));
    close_tensors(m, model_grads(m), grads, tolerance);
    ok(model_device_read(md, &count));
    assert_int_equal(count, 2);
    assert_true(fabs(entry_loss(md, 1, &e) - loss) < 1e-5);
    assert_true(fabs(e.norm - sqrt(sum)) < tolerance / 2 * sqrt(sum));
    for (int i = 0; i < 2; i++)
        batch_free(&x[i]);
    free(grads);
    model_device_free(md);
    model_free(m);
}

static void check_model(const model_config *c)
{
    check_model_within(c, 2e-5);
}

static void one_pass_is_the_hosts(void **state)
{
    (void)state;
    model_config c = tiny();
    check_model(&c);
}

static void without_dropout(void **state)
{
    (void)state;
    model_config c = tiny();
    c.dropout = c.attention_dropout = 0;
    check_model(&c);
}

static void odd_sizes(void **state)
{
    (void)state;
    model_config c = tiny();
    c.embed = 6;
    c.hidden = 10;
    c.head_dim = 5;
    c.length = 9;
    check_model(&c);
}

static void wide_rows(void **state)
{
    (void)state;
    model_config c = tiny();
    c.embed = 132;
    c.hidden = 260;
    c.heads = 1;
    c.head_dim = 68;
    c.layers = 1;
    check_model(&c);
}

static void two_sequences(void **state)
{
    (void)state;
    model_config c = tiny();
    c.dual = true;
    check_model(&c);
}

static void first_position(void **state)
{
    (void)state;
    model_config c = tiny();
    c.cls = true;
    check_model(&c);
}

static void tied_layers(void **state)
{
    (void)state;
    model_config c = tiny();
    c.tied = true;
    c.layers = 3;
    check_model(&c);
}

/* The reference's behaviour: every position stays, padding is masked, two sequences are attended
 * one after the other. */
static void official(void **state)
{
    static const char *const feats[] = {"saderf", "gerf", "posrf", "oprf", "trigrf"};
    (void)state;
    model_config c = tiny();
    c.attention.official = true;
    check_model(&c);
    c.dual = true;
    check_model(&c);
    for (int i = 0; i < (all_cases() ? 5 : 2); i++) {
        c.dual = i == 0;
        c.cls = i == 1;
        c.attention = (spectra_attention_desc){
            .attn = "performer", .feat = feats[i], .kernel = "gaus", .M = 16, .official = true};
        c.attention_dropout = 0;
        /* sums of signed features, which nothing stabilises, come close to 0 */
        check_model_within(&c, strcmp(feats[i], "trigrf") == 0 ? 1e-4 : 2e-5);
    }
}

/* ---- runs ---------------------------------------------------------------------------------------
 */

enum { STEPS = 20, BATCH = 4 };

static adamw optimiser(const model *m, float *moment)
{
    const int64_t n = model_param_count(m);
    return (adamw){.beta2 = 0.999,
                   .eps = 1e-6,
                   .weight_decay = 0.01,
                   .clip = 1,
                   .n = n,
                   .m = moment,
                   .v = moment + n};
}

static void rate(int64_t step, double *lr, double *beta1)
{
    const schedule plan = {.max_lr = 3e-3,
                           .div = 25,
                           .final_div = 1e4,
                           .beta1_low = 0.85,
                           .beta1_high = 0.95,
                           .total = STEPS,
                           .warmup = 5};
    schedule_at(&plan, step, lr, beta1);
}

static void run_host(model *m, double *losses, float *moment)
{
    const adamw o = optimiser(m, moment);
    for (int64_t s = 0; s < STEPS; s++) {
        double lr, beta1;
        batch x = batch_new(model_config_of(m), BATCH, (uint32_t)s % 6);
        model_zero_grads(m);
        ok(model_step(m, &x.b, (uint64_t)s, 0, 1, NULL, &losses[s]));
        rate(s, &lr, &beta1);
        adamw_update(&o, s + 1, lr, beta1, model_params(m), model_grads(m));
        batch_free(&x);
    }
}

/* Steps first .. end-1; the losses are read at once at the end. */
static void run_device(model_device *md, model *m, int64_t first, int64_t end, double *losses)
{
    const adamw o = optimiser(m, NULL);
    int64_t count = 0;
    model_device_entry e;
    for (int64_t s = first; s < end; s++) {
        double lr, beta1;
        batch x = batch_new(model_config_of(m), BATCH, (uint32_t)s % 6);
        ok(model_device_zero_grads(md));
        ok(model_device_step(md, &x.b, (uint64_t)s, 0, 1));
        rate(s, &lr, &beta1);
        ok(model_device_update(md, &o, s + 1, lr, beta1));
        batch_free(&x);
    }
    ok(model_device_read(md, &count));
    assert_int_equal(count, end - first);
    for (int64_t s = first; s < end; s++)
        losses[s] = entry_loss(md, s - first, &e);
}

static void check_run(const model_config *c)
{
    model *m = make(c), *host = make(c);
    const int64_t n = model_param_count(m);
    float *moment = calloc((size_t)n, 2 * sizeof *moment);
    double want[STEPS], got[STEPS];
    model_device *md = make_device(m, false);
    run_host(host, want, moment);
    run_device(md, m, 0, STEPS, got);
    double worst = 0;
    for (int s = 0; s < STEPS; s++)
        worst = fabs(got[s] - want[s]) > worst ? fabs(got[s] - want[s]) : worst;
    print_message("largest difference of %d losses: %.2g (from %.4f to %.4f)\n", (int)STEPS, worst,
                  want[0], want[STEPS - 1]);
    assert_true(worst < 1e-4);
    ok(model_device_pull(md, NULL));
    close_tensors(m, model_params(m), model_params(host), 1e-3);
    free(moment);
    model_device_free(md);
    model_free(m);
    model_free(host);
}

static void a_run_is_the_hosts(void **state)
{
    (void)state;
    model_config c = tiny();
    check_run(&c);
}

static void performer_runs_are_the_hosts(void **state)
{
    static const struct {
        const char *feat, *kernel;
        bool learn;
    } pairs[] = {{"saderf", "fastfood_learnable", false},
                 {"saderf", "qmc", false},
                 {"gerf", "orf", true},
                 {"trigrf", "sorf", false},
                 {"posrf", "orf", false},
                 {"posrf", "fastfood_learnable", false}};
    (void)state;
    for (size_t i = 0; i < (all_cases() ? sizeof pairs / sizeof pairs[0] : 1); i++) {
        model_config c = tiny();
        c.attention = (spectra_attention_desc){
            .attn = "performer",
            .feat = pairs[i].feat,
            .kernel = pairs[i].kernel,
            .M = i == 3 ? 128 : 16, /* of waves: so few as 16 nearly cancel */
            .learn = pairs[i].learn};
        print_message("%s x %s: ", pairs[i].feat, pairs[i].kernel);
        check_run(&c);
    }
}

/* Parameters and both moments after a run; losses into `losses`. */
static float *after_run(const spectra_attention_desc *attention, bool record, double *losses,
                        int64_t *replays)
{
    model_config c = tiny();
    c.attention = *attention;
    model *m = make(&c);
    const int64_t n = model_param_count(m);
    float *out = calloc((size_t)n, 3 * sizeof *out);
    model_device *md = make_device(m, record);
    run_device(md, m, 0, STEPS, losses);
    float *moments[2] = {out + n, out + 2 * n};
    ok(model_device_pull(md, moments));
    memcpy(out, model_params(m), (size_t)n * sizeof *out);
    *replays = model_device_replays(md);
    model_device_free(md);
    model_free(m);
    return out;
}

static const spectra_attention_desc exact = {.attn = "softmax"};

static void check_replays(const spectra_attention_desc *attention)
{
    model_config c = tiny();
    model *m = make(&c);
    const size_t bytes = 3 * (size_t)model_param_count(m) * sizeof(float);
    double a[STEPS], b[STEPS], again[STEPS];
    int64_t none, some;
    float *direct = after_run(attention, false, a, &none),
          *twice = after_run(attention, false, again, &none),
          *replayed = after_run(attention, true, b, &some);
    assert_int_equal(none, 0);
    assert_true(some > STEPS / 2);
    assert_memory_equal(direct, twice, bytes);
    assert_memory_equal(direct, replayed, bytes);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_equal(a, again, sizeof a);
    free(direct);
    free(twice);
    free(replayed);
    model_free(m);
}

static void replayed_steps_have_the_same_bits(void **state)
{
    (void)state;
    check_replays(&exact);
}

/* Nor do steps whose parameters come from a decomposition go back to the host. */
static void replayed_steps_with_maps_have_the_same_bits(void **state)
{
    (void)state;
    check_replays(
        &(spectra_attention_desc){.attn = "performer", .feat = "sderf", .kernel = "orf", .M = 16});
}

static void a_run_goes_on_from_copies(void **state)
{
    (void)state;
    model_config c = tiny();
    model *m = make(&c), *other = make(&c);
    const int64_t n = model_param_count(m);
    float *moment = calloc((size_t)n, 2 * sizeof *moment);
    float *const moments[2] = {moment, moment + n};
    double whole[STEPS], parts[STEPS];
    int64_t replays;
    float *want = after_run(&exact, false, whole, &replays);
    model_device *md = make_device(m, false);
    run_device(md, m, 0, 8, parts);
    ok(model_device_pull(md, moments));
    model_device_free(md);
    memcpy(model_params(other), model_params(m), (size_t)n * sizeof(float));
    md = make_device(other, true);
    ok(model_device_push(md, (const float *const[2]){moments[0], moments[1]}));
    run_device(md, other, 8, STEPS, parts);
    ok(model_device_pull(md, moments));
    assert_memory_equal(whole, parts, sizeof whole);
    assert_memory_equal(want, model_params(other), (size_t)n * sizeof(float));
    assert_memory_equal(want + n, moment, 2 * (size_t)n * sizeof(float));
    free(want);
    free(moment);
    model_device_free(md);
    model_free(m);
    model_free(other);
}

/* ---- what goes wrong ----------------------------------------------------------------------------
 */

static void divergence_is_named(void **state)
{
    (void)state;
    model_config c = tiny();
    model *m = make(&c);
    batch x = batch_new(&c, BATCH, 0);
    int64_t count = 0;
    model_device_entry e;
    model_params(m)[0] = NAN; /* the padding's row of the table: no token has it */
    model_device *md = make_device(m, false);
    ok(model_device_forward(md, &x.b));
    ok(model_device_read(md, &count));
    ok(model_device_entry_at(md, 0, &e));
    model_params(m)[0] = 0;
    model_params(m)[model_tensor_at(m, 5)->offset] = INFINITY;
    ok(model_device_push(md, NULL));
    ok(model_device_forward(md, &x.b));
    ok(model_device_read(md, &count));
    fails(model_device_entry_at(md, 0, &e), SPECTRA_EDIVERGED, "pooled vectors");
    batch_free(&x);
    model_device_free(md);
    model_free(m);
}

static void bad_gradients_are_named(void **state)
{
    (void)state;
    model_config c = tiny();
    model *m = make(&c);
    model_device *md = make_device(m, false);
    batch x = batch_new(&c, BATCH, 0);
    int64_t count = 0;
    model_device_entry e;
    const adamw o = optimiser(m, NULL);
    ok(model_device_step(md, &x.b, 0, 0, INFINITY)); /* scores are fine, gradients are not */
    ok(model_device_update(md, &o, 1, 1e-3, 0.9));
    ok(model_device_read(md, &count));
    fails(model_device_entry_at(md, 0, &e), SPECTRA_EDIVERGED, "gradient of model.embeddings.");
    batch_free(&x);
    model_device_free(md);
    model_free(m);
}

static void requests_that_cannot_be_met(void **state)
{
    (void)state;
    model_config c = tiny();
    model *m = make(&c);
    const model_device_options options = {.batch = 2, .entries = 1};
    model_device *md = NULL;
    model_device_entry e;
    ok(model_device_new(m, dev, &options, &md));
    batch x = batch_new(&c, 3, 0), y = batch_new(&c, 2, 0);
    fails(model_device_forward(md, &x.b), SPECTRA_ESHAPE, "3 examples, made for 2");
    ok(model_device_forward(md, &y.b));
    assert_int_equal(model_device_room(md), 0);
    fails(model_device_forward(md, &y.b), SPECTRA_EINVAL, "full");
    fails(model_device_entry_at(md, 0, &e), SPECTRA_EINVAL, "entry 0");
    y.ids[0][3] = 99;
    int64_t count;
    ok(model_device_read(md, &count));
    fails(model_device_forward(md, &y.b), SPECTRA_EINVAL, "token 99");
    fails(model_device_step(md, &y.b, 1ULL << 32, 0, 1), SPECTRA_EINVAL, "step 4294967296");
    batch_free(&x);
    batch_free(&y);
    model_device_free(md);
    model_free(m);
}

int main(int argc, char **argv)
{
    enum { FULL = 2 }; /* the last ones only where all cases are asked for */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_pass_is_the_hosts),
        cmocka_unit_test(without_dropout),
        cmocka_unit_test(odd_sizes),
        cmocka_unit_test(two_sequences),
        cmocka_unit_test(first_position),
        cmocka_unit_test(tied_layers),
        cmocka_unit_test(official),
        cmocka_unit_test(a_run_is_the_hosts),
        cmocka_unit_test(performer_runs_are_the_hosts),
        cmocka_unit_test(replayed_steps_have_the_same_bits),
        cmocka_unit_test(a_run_goes_on_from_copies),
        cmocka_unit_test(divergence_is_named),
        cmocka_unit_test(bad_gradients_are_named),
        cmocka_unit_test(requests_that_cannot_be_met),
        cmocka_unit_test(wide_rows),
        cmocka_unit_test(replayed_steps_with_maps_have_the_same_bits),
    };
    return run_on_device(argc, argv, tests,
                         sizeof tests / sizeof tests[0] - (all_cases() ? 0 : FULL));
}
