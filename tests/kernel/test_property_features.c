/* The component functions beyond the first five, and antithetic forms, through the library alone:
 * unbiased for every exact matrix (z-tests with fixed seeds, controls that must fail), equal to
 * what they are defined by, parameters that solve their equations, nothing but finite numbers at
 * the edges.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention/performer/performer.h"
#include "kernel/registry.h"
#include "matrix/recipe.h"
#include "support/attend.h"
#include "support/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_D = 32, TOKENS = 12, MAX_F = 4096 };

/* ---- unbiasedness -----------------------------------------------------------------------------
 */

typedef struct given {
    const char *name;
    float value;
} given;

typedef struct feature_case {
    const char *feat;
    given set[3];
    double power; /* largest standard error, relative to K */
} feature_case;

static const feature_case exponential[] = {
    {"trigrf", {{0}}, 0.015},
    {"posrf", {{0}}, 0.015},
    {"posrf+", {{0}}, 0.015},
    {"oprf", {{0}}, 0.015},
    {"oprf+", {{0}}, 0.015},
    {"gerf", {{"A", -0.2F}}, 0.015},
    {"gerf", {{"A", 0.06F}}, 0.03}, /* heavy tails */
    {"gerf+", {{"A", -0.2F}}, 0.015},
    {"gerf_complex", {{"A_re", -0.1F}, {"A_im", 0.05F}, {"s", 1}}, 0.015},
    {"gerf_complex", {{"A_re", -0.1F}, {"A_im", 0.05F}, {"s", -1}}, 0.015},
    {"gerf_complex+", {{"A_re", -0.1F}, {"A_im", -0.05F}, {"s", 1}}, 0.015},
    {"sderf", {{0}}, 0.015},
    {"sderf+", {{0}}, 0.015},
    {"aderf", {{0}}, 0.015},
    {"aderf+", {{0}}, 0.015},
    {"saderf", {{0}}, 0.015},
    {"saderf+", {{0}}, 0.015},
    {"cderf", {{0}}, 0.015},
    {"cderf+", {{0}}, 0.015},
    {"hrf", {{0}}, 0.015},
    {"hrf_gaussian", {{"tau", 1.5F}}, 0.015},
};
enum { EXPONENTIAL = sizeof exponential / sizeof exponential[0] };

static const feature_case counting[] = {
    {"poisrf", {{0}}, 0.015},
    {"geomrf", {{0}}, 0.015},
    {"poisrf_plus", {{0}}, 0.03}, /* heavy tails */
    {"geomrf_plus", {{0}}, 0.03},
};
enum { COUNTING = sizeof counting / sizeof counting[0] };

/* A feature of a pair x, y with parameters for a few tokens around it. */
typedef struct estimator {
    const feature_case *c;
    spectra_attention *att;
    int64_t d, m;
    float x[MAX_D], y[MAX_D], tokens[2][TOKENS * MAX_D];
    float *block;
    oracle_sample sample;
} estimator;

static estimator estimator_new(const feature_case *c, const char *matrix, int64_t d, int64_t m,
                               const double *x, const double *y)
{
    const spectra_attention_desc desc = {
        .attn = "performer", .feat = c->feat, .kernel = matrix, .H = 1, .D = d, .DV = d, .M = m};
    estimator e = {.c = c, .d = d, .m = m};
    if (spectra_attention_new(&desc, &e.att) != SPECTRA_OK)
        fail_msg("%s-%s: %s", c->feat, matrix, spectra_message());
    for (int i = 0; i < 3 && c->set[i].name; i++)
        if (spectra_attention_set(e.att, c->set[i].name, &c->set[i].value, 1, (int64_t[]){1}) !=
            SPECTRA_OK)
            fail_msg("%s: %s", c->feat, spectra_message());
    oracle_rng r = {77};
    for (int64_t l = 0; l < d; l++) {
        e.x[l] = (float)x[l], e.y[l] = (float)y[l];
        for (int64_t i = 0; i < TOKENS; i++) {
            const double uneven = l % 3 == 0 ? 1.3 : 0.9;
            e.tokens[0][i * d + l] = (float)(x[l] * uneven + 0.1 * oracle_normal(&r));
            e.tokens[1][i * d + l] = (float)(y[l] / uneven + 0.1 * oracle_normal(&r));
        }
    }
    /* shifts must lie below the pair itself too */
    memcpy(e.tokens[0], e.x, (size_t)d * sizeof(float));
    memcpy(e.tokens[1], e.y, (size_t)d * sizeof(float));
    e.block = attend_floats(performer_block_floats(performer_of(e.att)));
    return e;
}

static void estimator_free(estimator *e)
{
    spectra_attention_free(e->att);
    free(e->block);
}

/* (1/m) sum of w_r times the products of the features of x and y, with the matrix as it is now. */
static double estimate(estimator *e)
{
    static float lx[MAX_F], sx[MAX_F], ly[MAX_F], sy[MAX_F];
    const int64_t features = performer_of(e->att)->feature->lanes * e->m;
    assert_true(features <= MAX_F);
    if (performer_prepare_heads(performer_of(e->att), 1, 1, TOKENS, TOKENS, e->tokens[0],
                                e->tokens[1], NULL, NULL, e->block) != SPECTRA_OK ||
        performer_features(performer_of(e->att), 0, 1, 1, 1, e->x, e->block, lx, sx) !=
            SPECTRA_OK ||
        performer_features(performer_of(e->att), 1, 1, 1, 1, e->y, e->block, ly, sy) != SPECTRA_OK)
        fail_msg("%s: %s", e->c->feat, spectra_message());
    double sum = 0;
    for (int64_t f = 0; f < features; f++)
        sum += (double)performer_of(e->att)->row_weight[f % e->m] * (double)sx[f] * (double)sy[f] *
               exp((double)lx[f] + (double)ly[f]);
    return sum / (double)e->m;
}

static double exact(const estimator *e)
{
    double dot = 0;
    for (int64_t l = 0; l < e->d; l++)
        dot += (double)e->x[l] * (double)e->y[l];
    return exp(dot);
}

static void check_unbiased(const estimator *e, const char *matrix)
{
    char why[128];
    if (*oracle_z_test(&e->sample, exact(e), e->c->power, why, sizeof why))
        fail_msg("%s-%s: %s", e->c->feat, matrix, why);
}

/* All exponential features on the same draws of one matrix, those with an A far from the best one
 * on more of them. */
static void unbiased(const char *matrix, int draws)
{
    enum { D = 16, M = 32, FEWER = 8000 };
    double x[D], y[D];
    oracle_pair(1, D, 0.9, 0.27, x, y);
    estimator all[EXPONENTIAL];
    for (int i = 0; i < EXPONENTIAL; i++)
        all[i] = estimator_new(&exponential[i], matrix, D, M, x, y);
    for (int t = 0; t < draws; t++) {
        const int64_t w[] = {M, D};
        if (spectra_attention_redraw(all[0].att, 1000 + (uint64_t)t) != SPECTRA_OK)
            fail_msg("%s: %s", matrix, spectra_message());
        for (int i = 0; i < EXPONENTIAL; i++) {
            spectra_attention *att = all[i].att;
            if (t >= FEWER && strncmp(exponential[i].feat, "gerf", 4) != 0)
                continue;
            if (performer_of(att)->second) {
                assert_int_equal(spectra_attention_redraw(att, 1000 + (uint64_t)t), SPECTRA_OK);
            } else {
                assert_int_equal(spectra_attention_set(att, "W", performer_of(all[0].att)->w, 2, w),
                                 SPECTRA_OK);
                assert_int_equal(spectra_attention_set(att, "row_weight",
                                                       performer_of(all[0].att)->row_weight, 1, w),
                                 SPECTRA_OK);
            }
            oracle_add(&all[i].sample, estimate(&all[i]));
        }
    }
    for (int i = 0; i < EXPONENTIAL; i++) {
        check_unbiased(&all[i], matrix);
        estimator_free(&all[i]);
    }
}

static void test_unbiased(void **state)
{
    (void)state;
    /* the more rows depend on each other, the more draws for the same standard error */
    static const struct {
        const char *matrix;
        int draws;
    } all[] = {{"gaus", 4000},    {"orf", 4000},
               {"simrf", 4000},   {"qmc", 4000},
               {"ssf", 4000},     {"ssr", 60000},
               {"scrf", 16000},   {"scrf_chi", 12000},
               {"pmodel", 16000}, {"fastfood_fixed", 16000}};
    const char *every = getenv("TEST_ALL");
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].draws <= 4000 || (every && *every))
            unbiased(all[i].matrix, all[i].draws);
}

static void test_unbiased_counts(void **state)
{
    (void)state;
    enum { D = 8, M = 16, DRAWS = 6000 };
    static const char *const matrices[] = {"gaus", "orf", "qmc"};
    double x[D], y[D];
    oracle_pair(4, D, 0.8, 0.3, x, y);
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < COUNTING; i++) {
            estimator e = estimator_new(&counting[i], matrices[k], D, M, x, y);
            for (int t = 0; t < DRAWS; t++) {
                assert_int_equal(spectra_attention_redraw(e.att, 50 + (uint64_t)t), SPECTRA_OK);
                oracle_add(&e.sample, estimate(&e));
            }
            check_unbiased(&e, matrices[k]);
            estimator_free(&e);
        }
}

/* Rows of one length are not normal in each coordinate: counts made from them are biased, and the
 * library refuses the pair. */
static void test_control_counts(void **state)
{
    (void)state;
    enum { D = 8, M = 16, DRAWS = 6000 };
    double x[D], y[D];
    oracle_pair(4, D, 0.8, 0.3, x, y);
    estimator e = estimator_new(&counting[0], "gaus", D, M, x, y);
    const matrix_info *sorf = NULL;
    assert_int_equal(registry_matrix("sorf", &sorf), SPECTRA_OK);
    estimate(&e);
    const double lambda = (double)e.block[0];
    for (int t = 0; t < DRAWS; t++) {
        float w[M * D];
        assert_int_equal(sample_matrix(sorf, M, D, (matrix_draw){.seed = (uint64_t)t}, w, NULL),
                         SPECTRA_OK);
        for (int i = 0; i < M * D; i++) {
            const double u = oracle_normal_cdf((double)w[i]);
            double mass = exp(-lambda), total = mass;
            int k = 0;
            for (; u > total && k < 99; total += mass)
                mass *= lambda / ++k;
            w[i] = (float)k;
        }
        assert_int_equal(spectra_attention_set(e.att, "W", w, 2, (int64_t[]){M, D}), SPECTRA_OK);
        oracle_add(&e.sample, estimate(&e));
    }
    char why[128];
    if (!*oracle_z_test(&e.sample, exact(&e), 1, why, sizeof why))
        fail_msg("counts from rows of one length pass the z-test: the test proves nothing");
    estimator_free(&e);
    const spectra_attention_desc desc = {
        .attn = "performer", .feat = "poisrf", .kernel = "sorf", .H = 1, .D = D, .DV = D, .M = M};
    spectra_attention *att = NULL;
    assert_int_equal(spectra_attention_new(&desc, &att), SPECTRA_EUNSUPPORTED);
    assert_non_null(strstr(spectra_message(), "poisrf cannot go with sorf"));
}

/* ---- definitions ------------------------------------------------------------------------------
 */

/* The antithetic form of any feature is the feature on [W; -W]. */
static void test_antithetic(void **state)
{
    (void)state;
    enum { D = 12, M = 20 };
    double x[D], y[D];
    float w[2 * M * D];
    oracle_pair(9, D, 0.7, -0.2, x, y);
    oracle_rng r = {2};
    for (int i = 0; i < M * D; i++)
        w[M * D + i] = -(w[i] = (float)oracle_normal(&r));
    int seen = 0;
    for (const feature_info *f = generated_features; f->name; f++) {
        if (!f->is_antithetic)
            continue;
        char plain[64];
        snprintf(plain, sizeof plain, "%.*s", (int)strlen(f->name) - 1, f->name);
        const feature_case both[] = {{f->name, {{0}}, 0}, {plain, {{0}}, 0}};
        estimator a = estimator_new(&both[0], "gaus", D, M, x, y);
        estimator b = estimator_new(&both[1], "gaus", D, 2 * M, x, y);
        spectra_attention_set(a.att, "W", w, 2, (int64_t[]){M, D});
        spectra_attention_set(b.att, "W", w, 2, (int64_t[]){2 * M, D});
        const double got = estimate(&a), want = estimate(&b);
        if (!(fabs(got - want) <= 1e-5 * fabs(want)))
            fail_msg("%s estimates %.8g, %s on [W; -W] %.8g", f->name, got, plain, want);
        estimator_free(&a), estimator_free(&b);
        seen++;
    }
    assert_true(seen >= 8);
}

/* hrf is exact at y = x and, with |x| = |y|, at y = -x. */
static void test_hybrid_is_exact(void **state)
{
    (void)state;
    enum { D = 16, M = 8 };
    double x[D], y[D];
    oracle_pair(3, D, 0.9, 0.5, x, y);
    for (int k = 0; k < 2; k++) {
        for (int l = 0; l < D; l++)
            y[l] = k ? -x[l] : x[l];
        const feature_case c = {"hrf", {{0}}, 0};
        estimator e = estimator_new(&c, "gaus", D, M, x, y);
        const double got = estimate(&e), want = exact(&e);
        if (!(fabs(got - want) <= 1e-5 * want))
            fail_msg("hrf at y = %sx: %.8g, want %.8g", k ? "-" : "", got, want);
        estimator_free(&e);
    }
}

/* Of one row: gerf_complex with A real and s = 1 is gerf, with A = 0 and s = -1 it is trigrf; cderf
 * with tilt 0 is sderf. */
static void test_special_cases(void **state)
{
    (void)state;
    enum { D = 12, M = 24 };
    static const feature_case pairs[][2] = {
        {{"gerf_complex", {{"A_re", -0.15F}, {"A_im", 0}, {"s", 1}}, 0},
         {"gerf", {{"A", -0.15F}}, 0}},
        {{"gerf_complex", {{"A_re", 0}, {"A_im", 0}, {"s", -1}}, 0}, {"trigrf", {{0}}, 0}},
        {{"cderf", {{"tilt", 0}}, 0}, {"sderf", {{0}}, 0}},
    };
    double x[D], y[D];
    oracle_pair(6, D, 0.8, 0.1, x, y);
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        estimator a = estimator_new(&pairs[i][0], "orf", D, M, x, y);
        estimator b = estimator_new(&pairs[i][1], "orf", D, M, x, y);
        const double got = estimate(&a), want = estimate(&b);
        if (!(fabs(got - want) <= 1e-5 * fabs(want)))
            fail_msg("%s: %.8g, %s: %.8g", a.c->feat, got, b.c->feat, want);
        estimator_free(&a), estimator_free(&b);
    }
}

/* ---- parameters -------------------------------------------------------------------------------
 */

enum { N = 40, PD = 16 };
typedef struct cloud {
    float x[N * PD], y[N * PD];
} cloud;

static cloud make_cloud(void)
{
    cloud c;
    oracle_rng r = {9};
    for (int i = 0; i < N * PD; i++) {
        const double scale = 0.2 + 0.03 * (i % PD);
        c.x[i] = (float)(scale * oracle_normal(&r) + 0.1);
        c.y[i] = (float)((1 - 1.2 * scale) * (0.2 + oracle_normal(&r)));
    }
    return c;
}

static estimator fitted(const char *feat, const cloud *c, int64_t n)
{
    static feature_case held;
    held = (feature_case){feat, {{0}}, 0};
    const double zero[PD] = {0};
    estimator e = estimator_new(&held, "gaus", PD, 32, zero, zero);
    if (performer_prepare_heads(performer_of(e.att), 1, 1, n, n, c->x, c->y, NULL, NULL, e.block) !=
        SPECTRA_OK)
        fail_msg("%s: %s", feat, spectra_message());
    return e;
}

/* mapped = R x of the side; R is (PD, PD) here. */
static void apply_map(const estimator *e, int side, const float *x, double *mapped)
{
    attn_plan plan;
    attn_params a;
    performer_view(performer_of(e->att), e->block, &plan, &a);
    const float *R = a.linear + (2 * side + 1) * plan.DP * plan.DP;
    for (int i = 0; i < PD; i++) {
        mapped[i] = 0;
        for (int j = 0; j < PD; j++)
            mapped[i] += (double)R[i * plan.DP + j] * (double)x[j];
    }
}

/* R_q' R_k = I, and after aderf's maps both sides have the same, diagonal second moments. */
static void test_linear_maps(void **state)
{
    (void)state;
    const cloud c = make_cloud();
    for (int f = 0; f < 2; f++) {
        estimator e = fitted(f ? "aderf" : "sderf", &c, N);
        double columns[2][PD][PD], second[2][PD][PD] = {{{0}}};
        for (int side = 0; side < 2; side++)
            for (int j = 0; j < PD; j++) {
                float unit[PD] = {0};
                unit[j] = 1;
                apply_map(&e, side, unit, columns[side][j]);
            }
        for (int i = 0; i < PD; i++)
            for (int j = 0; j < PD; j++) {
                const double product = oracle_dot(PD, columns[0][i], columns[1][j]);
                if (!(fabs(product - (i == j)) <= 1e-5))
                    fail_msg("%s: R_q'R_k[%d][%d] = %g", e.c->feat, i, j, product);
            }
        for (int t = 0; t < N && f; t++)
            for (int side = 0; side < 2; side++) {
                double mapped[PD];
                apply_map(&e, side, (side ? c.y : c.x) + t * PD, mapped);
                for (int i = 0; i < PD * PD; i++)
                    second[side][i / PD][i % PD] += mapped[i / PD] * mapped[i % PD] / N;
            }
        for (int i = 0; i < PD && f; i++)
            for (int j = 0; j < PD; j++) {
                const double scale = sqrt(second[0][i][i] * second[0][j][j]);
                if (!(fabs(second[0][i][j] - second[1][i][j]) <= 3e-3 * scale) ||
                    (i != j && !(fabs(second[0][i][j]) <= 3e-3 * scale)))
                    fail_msg("aderf: second moments [%d][%d] are %g and %g", i, j, second[0][i][j],
                             second[1][i][j]);
            }
        estimator_free(&e);
    }
}

/* Log second moment of one row's estimate, N(0, I). */
static double log_second_moment(const estimator *e, const float *x, const float *y)
{
    double mx[PD], my[PD], log_m = 0, x2 = 0, y2 = 0;
    const float *a = performer_vectors(performer_of(e->att), e->block);
    const bool dense = strcmp(e->c->feat, "sderf") == 0,
               map = performer_of(e->att)->feature->linear != 0;
    const double A = performer_of(e->att)->feature->scalars > 1 && !dense ? (double)e->block[0] : 0;
    for (int i = 0; i < PD && !map; i++) {
        const double psi = performer_of(e->att)->feature->vectors ? (double)a[i] : 1;
        mx[i] = (double)x[i] * psi, my[i] = (double)y[i] / psi;
    }
    if (map)
        apply_map(e, 0, x, mx), apply_map(e, 1, y, my);
    for (int i = 0; i < PD; i++) {
        const double al = dense ? (double)a[i] : A, z = mx[i] + my[i];
        log_m += log(1 - 4 * al) - 0.5 * log(1 - 8 * al) + 2 * (1 - 4 * al) / (1 - 8 * al) * z * z;
        x2 += mx[i] * mx[i], y2 += my[i] * my[i];
    }
    return log_m - x2 - y2;
}

/* Mean log second moment over all pairs: the more a feature fits, the lower. */
static void test_fit_order(void **state)
{
    (void)state;
    static const char *const names[] = {"posrf", "oprf", "sderf", "saderf", "aderf"};
    const cloud c = make_cloud();
    double mean[5] = {0};
    for (int k = 0; k < 5; k++) {
        estimator e = fitted(names[k], &c, N);
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++)
                mean[k] += log_second_moment(&e, c.x + i * PD, c.y + j * PD) / (N * N);
        estimator_free(&e);
    }
    if (!(mean[0] > mean[1] && mean[1] > mean[2] && mean[1] > mean[3] && mean[3] > mean[4]))
        fail_msg(
            "mean log second moments of posrf, oprf, sderf, saderf, aderf: %.3f %.3f %.3f %.3f "
            "%.3f",
            mean[0], mean[1], mean[2], mean[3], mean[4]);
}

/* p of geomrf minimises -d log p + sum log I0(2 s / sqrt(1 - p)). */
static void test_geometric_parameter(void **state)
{
    (void)state;
    const cloud c = make_cloud();
    estimator e = fitted("geomrf", &c, N);
    const double p = (double)e.block[0];
    double value[3] = {0};
    for (int k = 0; k < 3; k++) {
        const double q = p + (k - 1) * 1e-3 * (1 - p);
        value[k] = -PD * log(q);
        for (int l = 0; l < PD; l++) {
            double s[2] = {0}, term = 1, bessel = 0;
            for (int t = 0; t < N; t++) {
                s[0] += fabs((double)c.x[t * PD + l]) / N;
                s[1] += fabs((double)c.y[t * PD + l]) / N;
            }
            const double half = s[0] * s[1] / sqrt(1 - q);
            for (int n = 1; n < 60; n++) {
                bessel += term;
                term *= half * half / (n * n);
            }
            value[k] += log(bessel);
        }
    }
    if (!(value[1] <= value[0] && value[1] <= value[2]))
        fail_msg("p = %.6g is no minimum: %.10g, %.10g, %.10g around it", p, value[0], value[1],
                 value[2]);
    estimator_free(&e);
}

/* One token, fewer tokens than coordinates, all zero, one huge token: finite results, also of the
 * gradients, and no NaN where inputs are 30 times as large. */
static void test_edges(void **state)
{
    (void)state;
    enum { D = 8, MOST = 20 };
    for (const feature_info *f = generated_features; f->name; f++)
        for (int edge = 0; edge < 5; edge++) {
            const int64_t tokens = edge == 0 ? 1 : edge == 1 ? 5 : MOST;
            const spectra_attention_desc desc = {.attn = "performer",
                                                 .feat = f->name,
                                                 .kernel = "orf",
                                                 .H = 1,
                                                 .D = D,
                                                 .DV = D,
                                                 .M = 24};
            spectra_attention *att = NULL;
            if (spectra_attention_new(&desc, &att) != SPECTRA_OK)
                fail_msg("%s: %s", f->name, spectra_message());
            float x[4][MOST * D];
            oracle_rng r = {8};
            for (int k = 0; k < 4; k++)
                for (int i = 0; i < MOST * D; i++)
                    x[k][i] = edge == 2 && k < 2 ? 0 : (float)oracle_normal(&r);
            for (int i = 0; i < MOST * D && edge > 2; i++)
                for (int k = 0; k < 2; k++)
                    x[k][i] *= edge == 4 ? 30 : i < D ? 100 : 1;
            const attend_inputs in = {x[0], x[1], x[2], x[3], NULL, NULL};
            attend_run run;
            if (attend(att, &(attend_shape){1, 1, tokens, tokens, D, D}, &in, &run) != SPECTRA_OK)
                fail_msg("%s: %s", f->name, spectra_message());
            for (int64_t i = 0; i < tokens * D; i++)
                if (!isfinite(run.o[i]) || !isfinite(run.gq[i]) || !isfinite(run.gk[i]) ||
                    !isfinite(run.gv[i]))
                    fail_msg("%s, edge %d: element %d is %g, gradients %g %g %g", f->name, edge,
                             (int)i, (double)run.o[i], (double)run.gq[i], (double)run.gk[i],
                             (double)run.gv[i]);
            attend_free(&run);
            spectra_attention_free(att);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unbiased),
        cmocka_unit_test(test_unbiased_counts),
        cmocka_unit_test(test_control_counts),
        cmocka_unit_test(test_antithetic),
        cmocka_unit_test(test_hybrid_is_exact),
        cmocka_unit_test(test_special_cases),
        cmocka_unit_test(test_linear_maps),
        cmocka_unit_test(test_fit_order),
        cmocka_unit_test(test_geometric_parameter),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
