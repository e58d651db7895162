/* Mean squared errors of the estimates by each weight matrix in one setting, as ratios to the
 * variance that the same number of independent normal rows has by the closed form: what a
 * construction is good for, and that one which should cost variance does. Wide bounds around what
 * was observed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "math/blas.h"
#include "support/estimate.h"

#include <math.h>
#include <string.h>

enum { D = 32, M = 132 };

static void ratios(const matrix_info *info, int draws, double out[ESTIMATES])
{
    static float w[M * D], weight[M];
    estimate_pair p;
    estimate_pair_make(2, D, 0.6, 0.4, &p);
    double square[ESTIMATES] = {0};
    for (int t = 0; t < draws; t++) {
        double value[ESTIMATES];
        estimate_draw(info, M, D, 900 + (uint64_t)t, w, weight);
        estimate_rows(&p, M, w, weight, value);
        for (int i = 0; i < ESTIMATES; i++)
            square[i] += (value[i] - p.K) * (value[i] - p.K) / draws;
    }
    for (int i = 0; i < ESTIMATES; i++)
        out[i] = square[i] * M / estimate_variance(&p, i);
}

typedef struct error_case {
    const char *name;
    double low[ESTIMATES], high[ESTIMATES];
} error_case;

static const error_case cases[] = {
    {"gaus", {0.85, 0.85, 0.85}, {1.15, 1.15, 1.15}},
    {"orf", {0, 0, 0}, {0.25, 0.95, 0.95}},
    {"sorf", {0, 0, 0}, {0.15, 0.95, 0.95}},
    {"sorf_chi", {0, 0, 0}, {0.25, 0.95, 0.95}},
    {"rom", {0.5, 0.6, 0.6}, {1, 1.1, 1.1}},
    {"simrf", {0, 0, 0}, {0.35, 0.35, 0.35}},
    {"scrf", {1.3, 1, 1}, {2.5, 1.6, 1.6}},
    {"scrf_chi", {0.8, 0.8, 0.8}, {1.2, 1.2, 1.2}},
    {"pmodel", {1.3, 1, 1}, {2.5, 1.6, 1.6}},
    {"fastfood_fixed", {1.3, 1, 1}, {2.5, 1.6, 1.6}},
    {"sgq", {0.85, 0.85, 0.85}, {1.15, 1.15, 1.15}},
    {"ssr", {0, 0, 0}, {0.12, 0.12, 0.12}},
    {"ssf", {0, 0, 0}, {0.35, 0.35, 0.35}},
};
enum { CASES = sizeof cases / sizeof *cases };

static const double *of(const char *name, double (*all)[ESTIMATES])
{
    for (int k = 0; k < CASES; k++)
        if (strcmp(cases[k].name, name) == 0)
            return all[k];
    fail_msg("no case %s", name);
    return NULL;
}

static void test_errors(void **state)
{
    (void)state;
    double all[CASES][ESTIMATES];
    for (int k = 0; k < CASES; k++) {
        double *got = all[k];
        ratios(estimate_matrix(cases[k].name), 2500, got);
        for (int i = 0; i < ESTIMATES; i++)
            if (!(got[i] >= cases[k].low[i] && got[i] <= cases[k].high[i]))
                fail_msg("%s, %s: ratio %.3f is not in [%.2f, %.2f]", cases[k].name,
                         estimate_names[i], got[i], cases[k].low[i], cases[k].high[i]);
    }
    /* One simplex is better than as many orthogonal rows, antipodal ones with weights are better
     * still; a length of their own helps rows that share one. */
    assert_true(of("simrf", all)[OPRF] < of("orf", all)[OPRF]);
    assert_true(of("ssr", all)[OPRF] < of("simrf", all)[OPRF]);
    for (int i = 0; i < ESTIMATES; i++)
        assert_true(of("scrf_chi", all)[i] < of("scrf", all)[i]);
}

static int open_blas(void **state)
{
    (void)state;
    return blas_open() == SPECTRA_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, open_blas, NULL);
}
