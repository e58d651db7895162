/* The approximation lab: closed-form moments against brute force over independent rows, quantiles,
 * and what the lab says of pairs whose answer is known. Seeds are fixed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel/find.h"
#include "kernel/registry.h"
#include "math/blas.h"
#include "study/approx.h"
#include "support/oracle.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { D = 8, TOKENS = 12, ROWS = 1024, DRAWS = 400 };

/* ---- moments ----------------------------------------------------------------------------------
 */

/* A few tokens, unalike on both sides and away from 0 in the mean, so that every parameter is put
 * to use; the first of either side are the pair. */
typedef struct tokens {
    float x[TOKENS * D], y[TOKENS * D];
    double xd[TOKENS * D], yd[TOKENS * D];
} tokens;

static void make_tokens(uint64_t seed, double deviation, tokens *t)
{
    oracle_rng r = {seed};
    for (int i = 0; i < TOKENS * D; i++) {
        double wide = i % D < 3 ? 1.4 : 0.8;
        t->x[i] = (float)(deviation * (wide * oracle_normal(&r) + 0.2));
        t->y[i] = (float)(deviation * (oracle_normal(&r) / wide + 0.1));
        t->xd[i] = (double)t->x[i];
        t->yd[i] = (double)t->y[i];
    }
}

static spectra_attention *open_feature(const char *feature, const char *matrix)
{
    const spectra_attention_desc desc = {.attn = "performer",
                                         .feat = feature,
                                         .kernel = matrix,
                                         .H = 1,
                                         .D = D,
                                         .DV = D,
                                         .M = ROWS,
                                         .seed = 5};
    spectra_attention *att = NULL;
    if (spectra_attention_new(&desc, &att) != SPECTRA_OK)
        fail_msg("%s: %s", feature, spectra_message());
    return att;
}

static float *floats(int64_t n)
{
    float *p = aligned_alloc(64, ((size_t)n * sizeof *p + 127) / 64 * 64);
    assert_non_null(p);
    return p;
}

/* Mean and variance of estimate / K by one row, over many draws of independent rows. */
static void brute_force(spectra_attention *att, const tokens *t, const float *block, double *mean,
                        double *variance)
{
    const int64_t width = performer_of(att)->feature->lanes * ROWS;
    float *log[2] = {floats(width), floats(width)}, *sign[2] = {floats(width), floats(width)};
    float *own = floats(performer_block_floats(performer_of(att)));
    const double log_k = oracle_dot(D, t->xd, t->yd);
    oracle_sample sample = {0};
    memcpy(own, block, (size_t)performer_block_floats(performer_of(att)) * sizeof *own);
    for (int draw = 0; draw < DRAWS; draw++) {
        assert_int_equal(spectra_attention_redraw(att, 1000 + (uint64_t)draw), SPECTRA_OK);
        assert_int_equal(performer_prepare_heads(performer_of(att), 1, 1, TOKENS, TOKENS, t->x,
                                                 t->y, NULL, NULL, own),
                         SPECTRA_OK);
        for (int side = 0; side < 2; side++)
            assert_int_equal(performer_features(performer_of(att), side, 1, 1, 1,
                                                side ? t->y : t->x, own, log[side], sign[side]),
                             SPECTRA_OK);
        for (int64_t row = 0; row < ROWS; row++) {
            double sum = 0;
            for (int64_t i = row; i < width; i += ROWS)
                sum += (double)sign[0][i] * (double)sign[1][i] *
                       exp((double)log[0][i] + (double)log[1][i] - log_k);
            oracle_add(&sample, sum);
        }
    }
    *mean = sample.mean;
    *variance = oracle_deviation(&sample) * oracle_deviation(&sample);
    for (int side = 0; side < 2; side++) {
        free(log[side]);
        free(sign[side]);
    }
    free(own);
}

typedef struct moment_case {
    const char *feature, *name; /* name: a scalar that is given, NULL: none */
    float value;
    double deviation;
} moment_case;

static const moment_case moments[] = {
    {"trigrf", NULL, 0, 0.4},        {"posrf", NULL, 0, 0.35},
    {"posrf+", NULL, 0, 0.35},       {"oprf", NULL, 0, 0.4},
    {"oprf+", NULL, 0, 0.4},         {"gerf", "A", -0.2F, 0.4},
    {"gerf", "A", 0.03F, 0.15},      {"gerf+", "A", -0.1F, 0.4},
    {"saderf", NULL, 0, 0.4},        {"saderf+", NULL, 0, 0.4},
    {"aderf", NULL, 0, 0.4},         {"aderf+", NULL, 0, 0.4},
    {"sderf", NULL, 0, 0.4},         {"sderf+", NULL, 0, 0.4},
    {"cderf", NULL, 0, 0.4},         {"cderf+", NULL, 0, 0.4},
    {"gerf_complex", NULL, 0, 0.4},  {"gerf_complex", "s", -1, 0.4},
    {"gerf_complex+", NULL, 0, 0.4}, {"gerf_complex+", "s", -1, 0.4},
    {"poisrf", NULL, 0, 0.4},        {"poisrf_plus", NULL, 0, 0.2},
    {"geomrf", NULL, 0, 0.4},        {"geomrf_plus", NULL, 0, 0.25},
};

/* Variances agree within 10 %, and the standard error of the empirical one, by the kurtosis, is
 * small enough for that to mean something. */
static void test_moments(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        const moment_case *c = &moments[i];
        tokens t;
        make_tokens(31, c->deviation, &t);
        spectra_attention *att = open_feature(c->feature, "gaus");
        if (c->name &&
            spectra_attention_set(att, c->name, &c->value, 1, (int64_t[]){1}) != SPECTRA_OK)
            fail_msg("%s: %s", c->feature, spectra_message());
        float *block = floats(performer_block_floats(performer_of(att)));
        assert_int_equal(performer_prepare_heads(performer_of(att), 1, 1, TOKENS, TOKENS, t.x, t.y,
                                                 NULL, NULL, block),
                         SPECTRA_OK);
        const approx_row row = approx_iid_row(att, block, t.x, t.y);
        const double n = (double)ROWS * DRAWS, power = sqrt((row.kurtosis - 1) / n);
        double mean, variance;
        brute_force(att, &t, block, &mean, &variance);
        if (getenv("APPROX_SHOW"))
            print_message("%-14s variance %8.4f of %8.4f, kurtosis %9.1f, power %.4f, mean %.4f\n",
                          c->feature, variance, row.variance, row.kurtosis, power, mean);
        if (!(fabs(variance / row.variance - 1) < 0.1) || !(power < 0.04))
            fail_msg("%s: variance %.4f, the closed form has %.4f, to %.3f", c->feature, variance,
                     row.variance, power);
        if (!(fabs(mean - 1) < 5 * sqrt(row.variance / n)))
            fail_msg("%s: estimates %.4f of the kernel", c->feature, mean);
        free(block);
        spectra_attention_free(att);
    }
}

/* The oracle's variance, in double throughout, for the features it knows; parameters as in
 * attention on these tokens. */
static void test_oracle(void **state)
{
    (void)state;
    static const char *const features[] = {"trigrf", "posrf", "oprf", "saderf"};
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        tokens t;
        make_tokens(32, 0.6, &t);
        spectra_attention *att = open_feature(features[i], "gaus");
        float *block = floats(performer_block_floats(performer_of(att)));
        assert_int_equal(performer_prepare_heads(performer_of(att), 1, 1, TOKENS, TOKENS, t.x, t.y,
                                                 NULL, NULL, block),
                         SPECTRA_OK);
        double psi[D];
        oracle_psi(TOKENS, D, t.xd, t.yd, NULL, psi);
        oracle_map map = {.trig = i == 0, .psi = i == 3 ? psi : NULL};
        if (i > 1)
            map.A = oracle_optimum(oracle_pair_mean(TOKENS, D, t.xd, t.yd, NULL, map.psi));
        const double k = oracle_kernel(&map, D, t.xd, t.yd);
        const double expected = oracle_variance(&map, D, t.xd, t.yd) / (k * k);
        const double got = approx_iid_row(att, block, t.x, t.y).variance;
        if (!(fabs(got / expected - 1) < 1e-4))
            fail_msg("%s: variance %.8f, expected %.8f", features[i], got, expected);
        free(block);
        spectra_attention_free(att);
    }
}

/* A >= 1/8 has no variance, A >= 1/16 no kurtosis; hybrid features have no closed form; x = y
 * leaves trigonometric ones no variance at all. */
static void test_edges(void **state)
{
    (void)state;
    tokens t;
    make_tokens(33, 0.4, &t);
    for (int i = 0; i < 3; i++) {
        const float A = (float[]){0.05F, 0.07F, 0.13F}[i];
        spectra_attention *att = open_feature("gerf", "gaus");
        float *block = floats(performer_block_floats(performer_of(att)));
        assert_int_equal(spectra_attention_set(att, "A", &A, 1, (int64_t[]){1}), SPECTRA_OK);
        assert_int_equal(performer_prepare_heads(performer_of(att), 1, 1, TOKENS, TOKENS, t.x, t.y,
                                                 NULL, NULL, block),
                         SPECTRA_OK);
        approx_row row = approx_iid_row(att, block, t.x, t.y);
        assert_int_equal(isfinite(row.variance), i < 2);
        assert_int_equal(isfinite(row.kurtosis), i < 1);
        free(block);
        spectra_attention_free(att);
    }
    static const char *const features[] = {"hrf", "trigrf"};
    for (int i = 0; i < 2; i++) {
        spectra_attention *att = open_feature(features[i], "gaus");
        float *block = floats(performer_block_floats(performer_of(att)));
        assert_int_equal(performer_prepare_heads(performer_of(att), 1, 1, TOKENS, TOKENS, t.x, t.y,
                                                 NULL, NULL, block),
                         SPECTRA_OK);
        approx_row row = approx_iid_row(att, block, t.x, t.x);
        assert_true(i == 0 ? isnan(row.variance) : row.variance < 1e-12);
        free(block);
        spectra_attention_free(att);
    }
}

static void test_quantile(void **state)
{
    (void)state;
    double x[] = {3, 1, 4, 1.5, 9}, one[] = {7}, two[] = {1, 0};
    assert_true(approx_quantile(5, x, 0) == 1);
    assert_true(x[0] == 1 && x[1] == 1.5 && x[4] == 9);
    assert_true(approx_quantile(5, x, 0.5) == 3);
    assert_true(approx_quantile(5, x, 1) == 9);
    assert_true(fabs(approx_quantile(5, x, 0.1) - 1.2) < 1e-12);
    assert_true(fabs(approx_quantile(5, x, 0.9) - 7) < 1e-12);
    assert_true(approx_quantile(1, one, 0.9) == 7);
    assert_true(approx_quantile(2, two, 0.25) == 0.25);
    double endless[] = {INFINITY, 2, INFINITY};
    assert_true(isinf(approx_quantile(3, endless, 0.9)));
    assert_true(approx_quantile(3, endless, 0) == 2);
}

/* ---- the lab ----------------------------------------------------------------------------------
 */

static void lab_new(approx_lab *lab, const char *const *features, const char *const *matrices,
                    int64_t m, double deviation)
{
    *lab = (approx_lab){.seed = 11, .trials = 200, .sizes = 1, .size = {m}};
    for (; features[lab->features]; lab->features++)
        assert_int_equal(kernel_feature(features[lab->features], &lab->feature[lab->features]),
                         SPECTRA_OK);
    for (; matrices[lab->matrices]; lab->matrices++)
        assert_int_equal(registry_matrix(matrices[lab->matrices], &lab->matrix[lab->matrices]),
                         SPECTRA_OK);
    if (approx_random(48, 16, deviation, 3, &lab->data) != SPECTRA_OK)
        fail_msg("%s", spectra_message());
}

static void lab_run(approx_lab *lab, int threads)
{
    omp_set_num_threads(threads);
    if (approx_measure(lab) != SPECTRA_OK)
        fail_msg("%s", spectra_message());
}

/* Independent rows are unbiased with the closed form's variance; rows of one length are not, and
 * are found out; more rows come nearer to exact attention. */
static void test_known_answers(void **state)
{
    (void)state;
    static const char *const features[] = {"trigrf", "oprf", "posrf+", "hrf", NULL};
    static const char *const matrices[] = {"gaus", "orf", "sorf", NULL};
    approx_lab few, many;
    lab_new(&few, features, matrices, 64, 0.4);
    lab_new(&many, features, matrices, 256, 0.4);
    lab_run(&few, 2);
    lab_run(&many, 2);
    for (int f = 0; f < 4; f++) {
        for (int m = 0; m < 3; m++) {
            const approx_cell *c = approx_at(&few, 0, f, m);
            assert_true(c->measured && c->ns > 0);
            assert_true(c->error[APPROX_LOW] <= c->error[APPROX_MEDIAN]);
            assert_true(c->error[APPROX_MEDIAN] <= c->error[APPROX_HIGH]);
            assert_true(c->error[APPROX_MEDIAN] >
                        1.3 * approx_at(&many, 0, f, m)->error[APPROX_MEDIAN]);
            assert_int_equal(isnan(c->iid), f == 3);
            if (m < 2 && !(fabs(approx_z(c)) < 5))
                fail_msg("%s x %s: bias of %.1f standard errors", features[f], matrices[m],
                         approx_z(c));
        }
        const approx_cell *gaus = approx_at(&few, 0, f, 0), *sorf = approx_at(&few, 0, f, 2);
        if (f < 3 && !(fabs(gaus->ratio - 1) < 0.15 && approx_resolved(gaus)))
            fail_msg("%s x gaus: variance %.3f of the closed form", features[f], gaus->ratio);
        if (f != 3 && !(fabs(approx_z(sorf)) > 5))
            fail_msg("%s x sorf: a bias of only %.1f standard errors", features[f], approx_z(sorf));
    }
    assert_true(few.uniform > approx_at(&many, 0, 0, 0)->error[APPROX_MEDIAN]);
    assert_true(few.softmax_ns > 0);
    approx_free(&few);
    approx_free(&many);
}

/* A pair that is not legal and a matrix that does not exist say why; the others do not suffer. */
static void test_reasons(void **state)
{
    (void)state;
    static const char *const features[] = {"poisrf", "posrf", NULL};
    static const char *const matrices[] = {"sorf", "mm", "orf", NULL};
    approx_lab lab;
    lab_new(&lab, features, matrices, 16, 0.5);
    lab.trials = 2;
    lab_run(&lab, 2);
    assert_false(approx_at(&lab, 0, 0, 0)->measured);
    assert_non_null(strstr(approx_at(&lab, 0, 0, 0)->why, "exactly N(0, I)"));
    assert_false(approx_at(&lab, 0, 1, 1)->measured);
    assert_non_null(strstr(approx_at(&lab, 0, 1, 1)->why, "mm"));
    assert_true(approx_at(&lab, 0, 0, 2)->measured && approx_at(&lab, 0, 1, 0)->measured);
    approx_free(&lab);
}

static void test_threads(void **state)
{
    (void)state;
    static const char *const features[] = {"saderf", "poisrf", "cderf+", NULL};
    static const char *const matrices[] = {"ssr", "qmc", NULL};
    approx_lab a, b;
    lab_new(&a, features, matrices, 40, 0.7);
    lab_new(&b, features, matrices, 40, 0.7);
    a.trials = b.trials = 20;
    a.target = b.target = SPECTRA_GAUSSIAN;
    lab_run(&a, 1);
    lab_run(&b, 3);
    for (int i = 0; i < a.features * a.matrices; i++) {
        a.cell[i].ns = b.cell[i].ns = 0;
        assert_memory_equal(&a.cell[i], &b.cell[i], offsetof(approx_cell, ns));
    }
    approx_free(&a);
    approx_free(&b);
}

/* Kernel and exact attention are those of the target. */
static void test_gaussian(void **state)
{
    (void)state;
    static const char *const features[] = {"trigrf", "oprf", NULL};
    static const char *const matrices[] = {"orf", NULL};
    approx_lab lab;
    lab_new(&lab, features, matrices, 512, 0.5);
    lab.target = SPECTRA_GAUSSIAN;
    lab_run(&lab, 2);
    for (int f = 0; f < 2; f++) {
        assert_true(fabs(approx_z(approx_at(&lab, 0, f, 0))) < 5);
        assert_true(approx_at(&lab, 0, f, 0)->error[APPROX_HIGH] < 0.15);
    }
    approx_free(&lab);
}

static int open_blas(void **state)
{
    (void)state;
    return blas_open() == SPECTRA_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moments),       cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_edges),         cmocka_unit_test(test_quantile),
        cmocka_unit_test(test_known_answers), cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_threads),       cmocka_unit_test(test_gaussian),
    };
    return cmocka_run_group_tests(tests, open_blas, NULL);
}
