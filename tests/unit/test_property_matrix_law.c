/* What the law of a weight matrix promises: with exact rows, or with row weights, the estimates of
 * the kernel are unbiased and rows are distributed as they should; what is biased is biased by as
 * much as the mathematics says. Estimates are made here in double (estimate.h). Seeds are fixed; a
 * mean passes when it is within five standard errors and these are small enough to prove something.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "math/blas.h"
#include "support/estimate.h"
#include "support/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DRAWS = 20000 };

/* Over draws: the three estimates; squared lengths of one row each, and of its component along z.
 */
typedef struct outcome {
    int64_t m;
    int draws;
    estimate_pair pair;
    oracle_sample estimate[ESTIMATES];
    double length2[MAX_DRAWS], along2[MAX_DRAWS];
} outcome;

/* clip: negative row weights become 0, which must not be done. */
static void measure(const matrix_info *info, int64_t m, int draws, bool clip, outcome *o)
{
    static float w[ESTIMATE_MAX_M * ESTIMATE_MAX_D], weight[ESTIMATE_MAX_M];
    const int64_t d = o->pair.d;
    o->m = m;
    o->draws = draws;
    memset(o->estimate, 0, sizeof o->estimate);
    for (int t = 0; t < draws; t++) {
        double value[ESTIMATES], row[ESTIMATE_MAX_D];
        estimate_draw(info, m, d, 5000 + (uint64_t)t, w, weight);
        for (int64_t r = 0; r < m && clip; r++)
            weight[r] = fmaxf(weight[r], 0);
        estimate_rows(&o->pair, m, w, weight, value);
        for (int i = 0; i < ESTIMATES; i++)
            oracle_add(&o->estimate[i], value[i]);
        for (int64_t l = 0; l < d; l++)
            row[l] = (double)w[t % m * d + l];
        o->length2[t] = oracle_dot(d, row, row);
        o->along2[t] = pow(oracle_dot(d, row, o->pair.z), 2) / o->pair.z2;
    }
}

static double off(const outcome *o, int which)
{
    return o->estimate[which].mean / o->pair.K - 1;
}

static double standard_errors(const outcome *o, int which, double expected)
{
    return (off(o, which) - expected) * o->pair.K / oracle_standard_error(&o->estimate[which]);
}

static void must_be_unbiased(const char *name, const outcome *o)
{
    for (int i = 0; i < ESTIMATES; i++) {
        const double z = standard_errors(o, i, 0);
        const double power = oracle_standard_error(&o->estimate[i]) / o->pair.K;
        if (!(fabs(z) <= 5) || !(power <= 0.015))
            fail_msg("%s (%d, %d), %s: off by %+.2f %%, %.1f standard errors of %.2f %% (at most 5 "
                     "of at most 1.5 %%)",
                     name, (int)o->m, (int)o->pair.d, estimate_names[i], 100 * off(o, i), z,
                     100 * power);
    }
}

/* Blocks of d and of 2^k, whole and cut: P of the reference, padded, and fewer rows than columns.
 */
static const int64_t sizes[][2] = {{32, 16}, {35, 20}, {18, 24}};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void pair_P(int64_t d, estimate_pair *p)
{
    estimate_pair_make(1, d, 0.9, 0.27, p);
}

/* One row of each of the draws: its length and its components are as those of a normal row. */
static void test_exact_rows(void **state)
{
    (void)state;
    static const char *const names[] = {"simrf",  "scrf",           "scrf_chi",
                                        "pmodel", "fastfood_fixed", "ssf"};
    static outcome o;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int k = 0; k < SIZES; k++) {
            pair_P(sizes[k][1], &o.pair);
            measure(estimate_matrix(names[i]), sizes[k][0], 4000, false, &o);
            must_be_unbiased(names[i], &o);
            const double length = oracle_ks_chi2(o.draws, o.length2, (double)o.pair.d);
            const double along = oracle_ks_chi2(o.draws, o.along2, 1);
            if (!(length < 2.225 && along < 2.225))
                fail_msg(
                    "%s (%d, %d): sqrt(n) D of |w|^2 is %.2f, of a component %.2f (2.225 has p "
                    "= 1e-4)",
                    names[i], (int)o.m, (int)o.pair.d, length, along);
        }
}

static void test_weighted_rows(void **state)
{
    (void)state;
    static outcome o;
    for (int k = 0; k < SIZES; k++) {
        pair_P(sizes[k][1], &o.pair);
        measure(estimate_matrix("ssr"), sizes[k][0], 4000, false, &o);
        must_be_unbiased("ssr", &o);
    }
}

/* The row 0 must keep its negative weights: its share of the sum, 1 less the mean of 16 independent
 * d/rho^2 (variance 2/(d-2) each), is nearly normal and on average 0, but clipped .4 deviations. */
static void test_control_clipped_weights(void **state)
{
    (void)state;
    static outcome o;
    pair_P(16, &o.pair);
    measure(estimate_matrix("ssr"), 32, 4000, true, &o);
    const double share = sqrt(2.0 / 14 / 16) * 0.3989422804014327;
    const double at_zero[] = {exp(o.pair.x2y2 / 2), exp(-o.pair.x2y2 / 2)};
    for (int i = TRIG; i <= POS; i++) {
        const double bias = share * at_zero[i] / o.pair.K;
        if (!(fabs(standard_errors(&o, i, bias)) <= 5))
            fail_msg("clipped ssr, %s: off by %+.2f %%, expected %+.2f %%", estimate_names[i],
                     100 * off(&o, i), 100 * bias);
    }
    assert_true(standard_errors(&o, TRIG, 0) > 20 && standard_errors(&o, OPRF, 0) > 10);
}

/* Mean of exp(w.v) (sign 1) or cos(w.v) (sign -1) over directions of a row of squared length
 * length2 in d dimensions, v2 = |v|^2: the series of a Bessel function. */
static double sphere_mean(int64_t d, double length2, double v2, double sign)
{
    double term = 1, sum = 1;
    for (int k = 0; k < 200; k++)
        sum += term *= sign * length2 * v2 / 4 / ((k + 1) * ((double)d / 2 + k));
    return sum;
}

/* Bias of pos and trig by rows of squared length length2, relative. */
static void fixed_length_bias(const estimate_pair *p, double length2, double bias[2])
{
    bias[TRIG] = sphere_mean(p->d, length2, p->delta2, -1) / exp(-p->delta2 / 2) - 1;
    bias[POS] = sphere_mean(p->d, length2, p->z2, 1) / exp(p->z2 / 2) - 1;
}

static void must_be_off(const char *name, const outcome *o, const double bias[2], double allowed)
{
    for (int i = TRIG; i <= POS; i++)
        if (!(fabs(off(o, i) - bias[i]) <= allowed))
            fail_msg("%s, %s: off by %+.2f %%, expected %+.2f +- %.2f %%", name, estimate_names[i],
                     100 * off(o, i), 100 * bias[i], 100 * allowed);
}

/* Haar rows of length sqrt(d): unbiasedness must fail, and by what the series says. */
static void test_control_fixed_length(void **state)
{
    (void)state;
    static const recipe_op recipe[] = {{"haar", {0}}, {"fixed_rows", {0}}};
    const matrix_info info = {"fixed", "", "", "fixed-norm", 2, recipe, "", NULL};
    static outcome o;
    double bias[2];
    pair_P(16, &o.pair);
    fixed_length_bias(&o.pair, 16, bias);
    assert_true(fabs(bias[POS] + 0.050) < 0.001 && fabs(bias[TRIG] + 0.021) < 0.001);
    measure(&info, 16, 20000, false, &o);
    for (int i = TRIG; i <= POS; i++)
        if (!(standard_errors(&o, i, 0) < -5) || !(fabs(standard_errors(&o, i, bias[i])) <= 5))
            fail_msg("rows of length 4, %s: off by %+.2f %%, expected %+.2f %%", estimate_names[i],
                     100 * off(&o, i), 100 * bias[i]);
    assert_true(standard_errors(&o, TRIG, 0) < -40);
    assert_true(oracle_ks_chi2(o.draws, o.length2, 16) > 10);
}

static void test_sorf_bias(void **state)
{
    (void)state;
    static outcome o;
    double bias[2];
    pair_P(16, &o.pair);
    fixed_length_bias(&o.pair, 16, bias);
    measure(estimate_matrix("sorf"), 32, 8000, false, &o);
    must_be_off("sorf", &o, bias, 0.012);
}

/* Lengths of rom's rows are those of sqrt(2) (cos t_1, ..., cos t_n). */
static void test_rom_bias(void **state)
{
    (void)state;
    enum { N = 16, TRIES = 20000 };
    static outcome o;
    double bias[2] = {0};
    oracle_rng r = {3};
    pair_P(N, &o.pair);
    for (int t = 0; t < TRIES; t++) {
        double length2 = 0, one[2];
        for (int l = 0; l < N; l++)
            length2 += 2 * pow(cos(6.28318530717958647693 * oracle_uniform(&r)), 2);
        fixed_length_bias(&o.pair, length2, one);
        for (int i = TRIG; i <= POS; i++)
            bias[i] += one[i] / TRIES;
    }
    measure(estimate_matrix("rom"), 32, 8000, false, &o);
    must_be_off("rom", &o, bias, 0.012);
}

static void test_sorf_chi_bias(void **state)
{
    (void)state;
    static const double none[2] = {0, 0};
    static outcome o;
    for (int k = 0; k < SIZES; k++) {
        pair_P(sizes[k][1], &o.pair);
        measure(estimate_matrix("sorf_chi"), sizes[k][0], 4000, false, &o);
        must_be_off("sorf_chi", &o, none, 0.012);
        if (o.pair.d == 16)
            assert_true(oracle_ks_chi2(o.draws, o.length2, 16) < 2.225);
    }
}

/* 12 nodes: nothing to see; 2 nodes, which are -1 and 1, lose the fourth moment. */
static void test_sgq_bias(void **state)
{
    (void)state;
    static const recipe_op two[] = {{"gauss_hermite", {2}}};
    const matrix_info rademacher = {"two", "", "", "approximate", 1, two, "", NULL};
    static outcome o;
    pair_P(16, &o.pair);
    measure(estimate_matrix("sgq"), 32, 8000, false, &o);
    for (int i = 0; i < ESTIMATES; i++) {
        const double error = oracle_standard_error(&o.estimate[i]) / o.pair.K;
        if (!(fabs(off(&o, i)) <= 1e-3 + 5 * error) || !(error <= 0.015))
            fail_msg("sgq, %s: off by %+.2f %%, standard error %.2f %%", estimate_names[i],
                     100 * off(&o, i), 100 * error);
    }
    measure(&rademacher, 32, 8000, false, &o);
    double exact = 1;
    for (int l = 0; l < 16; l++)
        exact *= cosh(o.pair.z[l]) / exp(o.pair.z[l] * o.pair.z[l] / 2);
    assert_true(fabs(standard_errors(&o, POS, exact - 1)) <= 5);
    assert_true(fabs(standard_errors(&o, TRIG, 0)) > 5);
}

static int open_blas(void **state)
{
    (void)state;
    return blas_open() == SPECTRA_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_rows),
        cmocka_unit_test(test_weighted_rows),
        cmocka_unit_test(test_control_clipped_weights),
        cmocka_unit_test(test_control_fixed_length),
        cmocka_unit_test(test_sorf_bias),
        cmocka_unit_test(test_rom_bias),
        cmocka_unit_test(test_sorf_chi_bias),
        cmocka_unit_test(test_sgq_bias),
    };
    return cmocka_run_group_tests(tests, open_blas, NULL);
}
