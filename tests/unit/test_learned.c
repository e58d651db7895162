/* Trained parameters: learned matrices by themselves, through attention, through the model and
 * through a checkpoint. Gradients against central differences in double; the first values against
 * the laws they start from.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention/performer/performer.h"
#include "kernel/registry.h"
#include "math/normal.h"
#include "matrix/learner.h"
#include "matrix/recipe.h"
#include "model/model.h"
#include "support/attend.h"
#include "support/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const learners[] = {"fastfood", "gmm", "bbq", "dgm", "inn"};
static const char *const matrices[] = {"fastfood_learnable", "gmm", "bbq", "dgm", "inn"};
enum { LEARNERS = 5 };

/* ---- learners by themselves -------------------------------------------------------------------
 */

typedef struct problem {
    matrix_learner l;
    double *sample, *theta, *w, *weight, *scratch, *gw, *gweight, *gtheta;
} problem;

static double *numbers(int64_t n)
{
    double *x = calloc((size_t)n + 1, sizeof *x);
    assert_non_null(x);
    return x;
}

static problem problem_new(const char *name, int64_t m, int64_t d)
{
    problem p = {.sample = numbers(m * d)};
    oracle_rng r = {5};
    const draw_stream s = draw_open(SPECTRA_RNG_PHILOX, 3, RNG_TEST, 0, 0);
    for (int64_t i = 0; i < m * d; i++)
        p.sample[i] = strcmp(name, "bbq") == 0 ? oracle_uniform(&r) : oracle_normal(&r);
    if (learner_open_matrix(name, name, m, d, p.sample, &s, &p.l) != SPECTRA_OK)
        fail_msg("%s: %s", name, spectra_message());
    p.theta = numbers(p.l.count), p.gtheta = numbers(p.l.count), p.scratch = numbers(p.l.scratch);
    p.w = numbers(m * d), p.gw = numbers(m * d), p.weight = numbers(m), p.gweight = numbers(m);
    p.l.kind->start(&p.l, &s, p.theta);
    oracle_normals(&r, m * d, 1, p.gw);
    oracle_normals(&r, m, 1, p.gweight);
    return p;
}

static void problem_free(problem *p)
{
    learner_close_matrix(&p->l);
    free(p->sample), free(p->theta), free(p->gtheta), free(p->scratch), free(p->w), free(p->gw);
    free(p->weight), free(p->gweight);
}

static double loss(problem *p)
{
    p->l.kind->forward(&p->l, p->theta, p->w, p->weight, p->scratch);
    return oracle_dot(p->l.m * p->l.d, p->w, p->gw) + oracle_dot(p->l.m, p->weight, p->gweight);
}

static void check_gradient(const char *name, int64_t m, int64_t d)
{
    const double step = 1e-5;
    problem p = problem_new(name, m, d);
    oracle_rng r = {6};
    for (int64_t i = 0; i < p.l.count; i++) /* away from what is special about the first values */
        p.theta[i] += 0.3 * oracle_normal(&r);
    loss(&p);
    p.l.kind->backward(&p.l, p.theta, p.scratch, p.gw, p.gweight, p.gtheta);
    double scale = 0;
    for (int64_t i = 0; i < p.l.count; i++)
        scale = fmax(scale, fabs(p.gtheta[i]));
    for (int64_t i = 0; i < p.l.count; i++) {
        const double x = p.theta[i];
        p.theta[i] = x + step;
        const double above = loss(&p);
        p.theta[i] = x - step;
        const double below = loss(&p);
        p.theta[i] = x;
        const double want = (above - below) / (2 * step);
        if (!(fabs(p.gtheta[i] - want) <= 1e-6 * scale))
            fail_msg("%s (%d, %d): gradient %d is %.10g, want %.10g", name, (int)m, (int)d, (int)i,
                     p.gtheta[i], want);
    }
    problem_free(&p);
}

static void test_gradients(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{16, 16}, {5, 8}, {35, 8}, {20, 5}, {3, 2}};
    for (int i = 0; i < LEARNERS; i++)
        for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++)
            check_gradient(learners[i], sizes[k][0], sizes[k][1]);
}

/* First values: the sample itself for gmm, dgm, inn; normal quantiles of it for bbq. */
static void test_first_values(void **state)
{
    (void)state;
    enum { M = 24, D = 6 };
    for (int i = 1; i < LEARNERS; i++) {
        problem p = problem_new(learners[i], M, D);
        loss(&p);
        for (int k = 0; k < M * D; k++) {
            const double u = p.sample[k], edge = fmin(u, 1 - u);
            const bool quantile = strcmp(learners[i], "bbq") == 0;
            const double want = quantile ? normal_quantile(u) : u;
            /* between knots a quantile function is only near to straight, beyond them less so */
            const double allowed = quantile ? (edge > 0.05 ? 0.02 : 2) : 1e-12;
            if (!(fabs(p.w[k] - want) <= allowed))
                fail_msg("%s: w[%d] = %g at first, want %g", learners[i], k, p.w[k], want);
        }
        for (int r = 0; r < M; r++)
            assert_true(fabs(p.weight[r] - 1) <= 1e-12);
        problem_free(&p);
    }
}

/* The first draw of fastfood_learnable: second moments I, rows orthogonal within a block. */
static void test_fastfood_start(void **state)
{
    (void)state;
    enum { M = 16, D = 16, DRAWS = 2000 };
    const matrix_info *info = NULL;
    assert_int_equal(registry_matrix("fastfood_learnable", &info), SPECTRA_OK);
    double second[D][D] = {{0}}, length = 0;
    for (int t = 0; t < DRAWS; t++) {
        float w[M * D];
        assert_int_equal(sample_matrix(info, M, D, (matrix_draw){.seed = (uint64_t)t}, w, NULL),
                         SPECTRA_OK);
        for (int r = 0; r < M; r++)
            for (int i = 0; i < D; i++) {
                length += (double)w[r * D + i] * (double)w[r * D + i] / (M * DRAWS);
                for (int j = 0; j < D; j++)
                    second[i][j] += (double)w[r * D + i] * (double)w[r * D + j] / (M * DRAWS);
            }
    }
    assert_true(fabs(length - D) < 0.2);
    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++)
            if (!(fabs(second[i][j] - (i == j)) <= 0.08))
                fail_msg("second moment [%d][%d] is %g", i, j, second[i][j]);
}

/* ---- through attention ------------------------------------------------------------------------
 */

enum { B = 2, H = 2, T = 30, AD = 8, AM = 12 };

typedef struct attention_loss {
    spectra_attention *att;
    float x[4][B * H * T * AD]; /* q, k, v, go */
    uint8_t mask[B * T];
} attention_loss;

static double run_attention(attention_loss *c, const float *theta, float *gtheta)
{
    const attend_inputs in = {c->x[0], c->x[1], c->x[2], gtheta ? c->x[3] : NULL, c->mask, c->mask};
    attend_run run;
    double sum = 0;
    spectra_attention_trained_set(c->att, theta);
    if (attend(c->att, &(attend_shape){B, H, T, T, AD, AD}, &in, &run) != SPECTRA_OK)
        fail_msg("%s", spectra_message());
    for (int i = 0; i < B * H * T * AD; i++)
        sum += (double)run.o[i] * (double)c->x[3][i];
    if (gtheta)
        spectra_attention_trained_gradient(c->att, &run.problem, run.work, theta, gtheta);
    attend_free(&run);
    return sum;
}

/* Directional derivatives in float: a step large enough to rise above rounding, errors accordingly.
 */
static void check_attention(const char *feat, const char *matrix, bool learn, bool causal)
{
    const spectra_attention_desc desc = {.attn = "performer",
                                         .feat = feat,
                                         .kernel = matrix,
                                         .H = H,
                                         .D = AD,
                                         .DV = AD,
                                         .M = AM,
                                         .learn = learn,
                                         .causal = causal};
    static attention_loss c;
    oracle_rng r = {4};
    if (spectra_attention_new(&desc, &c.att) != SPECTRA_OK)
        fail_msg("%s-%s: %s", feat, matrix, spectra_message());
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < B * H * T * AD; i++)
            c.x[k][i] = (float)oracle_normal(&r);
    for (int i = 0; i < B * T; i++)
        c.mask[i] = i % 5 != 3;
    const int64_t n = spectra_attention_trained_floats(c.att);
    float *theta = attend_floats(n), *moved = attend_floats(n), *g = attend_floats(n);
    spectra_attention_trained_start(c.att, theta);
    for (int64_t i = 0; i < n; i++) {
        theta[i] += (float)(0.1 * oracle_normal(&r));
        g[i] = 0;
    }
    run_attention(&c, theta, g);
    for (int trial = 0; trial < 4; trial++) {
        double got = 0, size = 0, along, side[4];
        const float step = 4e-3F;
        float *direction = attend_floats(n);
        for (int64_t i = 0; i < n; i++)
            direction[i] = (float)(oracle_normal(&r) / sqrt((double)n));
        for (int k = 0; k < 4; k++) {
            const float h = (k < 2 ? 1 : 2) * (k % 2 ? -step : step);
            for (int64_t i = 0; i < n; i++)
                moved[i] = theta[i] + h * direction[i];
            side[k] = run_attention(&c, moved, NULL);
        }
        along = (8 * (side[0] - side[1]) - (side[2] - side[3])) / (12 * (double)step);
        for (int64_t i = 0; i < n; i++) {
            got += (double)g[i] * (double)direction[i];
            size += (double)g[i] * (double)g[i];
        }
        free(direction);
        if (!(fabs(got - along) <= 1e-2 * sqrt(size / (double)n) + 2e-3))
            fail_msg("%s-%s%s: derivative %g along a direction, want %g (gradient %g)", feat,
                     matrix, causal ? " causal" : "", got, along, sqrt(size));
    }
    free(theta), free(moved), free(g);
    spectra_attention_free(c.att);
}

static void test_attention(void **state)
{
    (void)state;
    for (int i = 0; i < LEARNERS; i++) {
        check_attention("posrf", matrices[i], false, false);
        check_attention("gerf", matrices[i], true, false);
        check_attention("oprf+", matrices[i], false, false);
        check_attention("posrf", matrices[i], false, true);
        check_attention("gerf+", matrices[i], true, true);
    }
    check_attention("gerf", "orf", true, false);
    check_attention("gerf+", "orf", true, false);
    check_attention("gerf", "orf", true, true);
}

/* The first values are those the attention has without them. */
static void test_start_is_untrained(void **state)
{
    (void)state;
    const spectra_attention_desc plain = {
        .attn = "performer", .feat = "posrf", .kernel = "gaus", .H = 1, .D = 8, .DV = 8, .M = 16};
    spectra_attention_desc learned = plain;
    learned.kernel = "dgm";
    spectra_attention *a = NULL, *b = NULL;
    assert_int_equal(spectra_attention_new(&plain, &a), SPECTRA_OK);
    assert_int_equal(spectra_attention_new(&learned, &b), SPECTRA_OK);
    assert_memory_equal(performer_of(a)->w, performer_of(b)->w, 16 * 8 * sizeof(float));
    assert_int_equal(spectra_attention_trained_floats(a), 0);
    spectra_attention_free(a), spectra_attention_free(b);
}

static void test_refusals(void **state)
{
    (void)state;
    spectra_attention_desc d = {
        .attn = "performer", .feat = "posrf", .kernel = "orf", .H = 1, .D = 8, .DV = 8, .M = 16};
    spectra_attention *att = NULL;
    d.learn = true;
    assert_int_equal(spectra_attention_new(&d, &att), SPECTRA_EUNSUPPORTED);
    d.learn = false, d.kernel = "gmm", d.official = true;
    assert_int_equal(spectra_attention_new(&d, &att), SPECTRA_EUNSUPPORTED);
    d.official = false, d.feat = "poisrf";
    assert_int_equal(spectra_attention_new(&d, &att), SPECTRA_EUNSUPPORTED);
    d.feat = "posrf", d.kernel = "inn", d.D = 1;
    assert_int_equal(spectra_attention_new(&d, &att), SPECTRA_ESHAPE);
    assert_null(att);
}

/* ---- through the model ------------------------------------------------------------------------
 */

/* A few steps of plain gradient descent on one batch move every trained tensor and lower the loss.
 */
static void test_model(void **state)
{
    (void)state;
    for (int i = 0; i <= LEARNERS; i++) {
        const bool scalar = i == LEARNERS;
        model_config c = {.vocab = 12,
                          .length = 24,
                          .classes = 3,
                          .embed = 16,
                          .hidden = 16,
                          .heads = 2,
                          .head_dim = 8,
                          .layers = 2,
                          .seed = 5,
                          .attention = {.attn = "performer",
                                        .feat = scalar ? "gerf" : "posrf",
                                        .kernel = scalar ? "orf" : matrices[i],
                                        .M = 12,
                                        .learn = scalar}};
        model *m = NULL;
        if (model_new(&c, &m) != SPECTRA_OK)
            fail_msg("%s", spectra_message());
        int32_t ids[4 * 24], label[4] = {0, 1, 2, 1};
        for (int k = 0; k < 4 * 24; k++)
            ids[k] = 1 + k * 7 % 11;
        const model_batch batch = {4, {ids, NULL}, {NULL, NULL}, label};
        const int64_t n = model_param_count(m);
        float *before = malloc((size_t)n * sizeof *before);
        assert_non_null(before);
        memcpy(before, model_params(m), (size_t)n * sizeof *before);
        double first = 0, last = 0;
        for (int step = 0; step < 20; step++) {
            model_zero_grads(m);
            if (model_step(m, &batch, (uint64_t)step, 0, 1, NULL, step ? &last : &first) !=
                SPECTRA_OK)
                fail_msg("%s", spectra_message());
            for (int64_t k = 0; k < n; k++)
                model_params(m)[k] -= 0.1F * model_grads(m)[k];
        }
        assert_true(last < first);
        int seen = 0;
        for (int t = 0; t < model_tensor_count(m); t++) {
            const model_tensor *x = model_tensor_at(m, t);
            double moved = 0;
            if (!strstr(x->name, "attn_fn"))
                continue;
            for (int64_t k = 0; k < x->shape[0] * x->shape[1]; k++)
                moved += fabs((double)(model_params(m)[x->offset + k] - before[x->offset + k]));
            if (!(moved > 0))
                fail_msg("%s was not trained", x->name);
            seen++;
        }
        assert_true(seen >= 2);
        free(before);
        model_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_first_values),
        cmocka_unit_test(test_fastfood_start),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_start_is_untrained),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
