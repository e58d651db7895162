/* What random-feature attention converges to, and the parameters it computes from data: errors
 * against exact attention fall like 1/sqrt(m) from the values measured for each pair; the
 * reference's shift by each key's own maximum does not converge; shifts that cancel do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention/performer/performer.h"
#include "support/attend.h"
#include "support/oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { D = 16, L = 64, DV = 16, SIZE = L * D, DRAWS = 15 };

/* One head: |x|^2, |y|^2 about 1.1, for which uniform weights have an error of about .2. */
typedef struct scene {
    double x[SIZE], y[SIZE], v[L * DV], exact[L * DV];
    float q[SIZE], k[SIZE], values[L * DV];
    oracle_head head;
} scene;

static scene *scene_new(void)
{
    scene *s = malloc(sizeof *s);
    assert_non_null(s);
    oracle_rng r = {4};
    const double scale = pow(D, 0.25);
    oracle_normals(&r, SIZE, sqrt(1.1 / D), s->x);
    oracle_normals(&r, SIZE, sqrt(1.1 / D), s->y);
    oracle_normals(&r, L * DV, 1, s->v);
    for (int i = 0; i < SIZE; i++) {
        s->q[i] = (float)(s->x[i] * scale);
        s->k[i] = (float)(s->y[i] * scale);
        s->values[i] = (float)s->v[i];
    }
    s->head = (oracle_head){L, L, D, DV, s->x, s->y, s->v, NULL};
    oracle_exact(&s->head, false, s->exact);
    return s;
}

static spectra_attention *open_pair(const char *feat, const char *matrix, int64_t m)
{
    const spectra_attention_desc desc = {
        .attn = "performer", .feat = feat, .kernel = matrix, .H = 1, .D = D, .DV = DV, .M = m};
    spectra_attention *att = NULL;
    if (spectra_attention_new(&desc, &att) != SPECTRA_OK)
        fail_msg("%s-%s: %s", feat, matrix, spectra_message());
    return att;
}

/* Median error of the library's attention over a few draws of the matrix. */
static double median_error(const scene *s, const char *feat, const char *matrix, int64_t m)
{
    spectra_attention *att = open_pair(feat, matrix, m);
    const attend_shape n = {1, 1, L, L, D, DV};
    const attend_inputs x = {.q = s->q, .k = s->k, .v = s->values};
    double error[DRAWS], o[L * DV];
    for (int t = 0; t < DRAWS; t++) {
        attend_run run;
        if (spectra_attention_redraw(att, (uint64_t)t) != SPECTRA_OK ||
            attend(att, &n, &x, &run) != SPECTRA_OK)
            fail_msg("%s-%s: %s", feat, matrix, spectra_message());
        for (int i = 0; i < L * DV; i++)
            o[i] = (double)run.o[i];
        error[t] = oracle_distance(L * DV, o, s->exact);
        attend_free(&run);
    }
    spectra_attention_free(att);
    return oracle_median(DRAWS, error);
}

static void test_convergence(void **state)
{
    (void)state;
    static const struct {
        const char *feat, *matrix;
        double at_64, at_1024;
    } pairs[] = {
        {"trigrf", "gaus", .23, .054}, {"posrf", "gaus", .28, .087}, {"oprf", "gaus", .25, .065},
        {"saderf", "gaus", .21, .054}, {"trigrf", "orf", .15, .036}, {"posrf", "orf", .26, .084},
        {"oprf", "orf", .20, .057},    {"saderf", "orf", .16, .045}, {"oprf", "qmc", .19, .040},
        {"posrf+", "gaus", .21, .058}, {"sderf", "gaus", .24, .061}, {"aderf", "gaus", .19, .051},
        {"poisrf", "gaus", .25, .064}, {"posrf+", "orf", .17, .051}, {"sderf", "orf", .21, .053},
        {"aderf", "orf", .16, .042},   {"poisrf", "orf", .22, .057}, {"aderf", "qmc", .13, .028},
    };
    scene *s = scene_new();
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        const double few = median_error(s, pairs[i].feat, pairs[i].matrix, 64);
        const double many = median_error(s, pairs[i].feat, pairs[i].matrix, 1024);
        if (!(few <= 1.5 * pairs[i].at_64) || !(many <= 1.5 * pairs[i].at_1024) ||
            !(many / few <= 0.5))
            fail_msg("%s-%s: error %.3f at m = 64 and %.3f at 1024, at most 1.5 times %.3f and "
                     "%.3f, and halved",
                     pairs[i].feat, pairs[i].matrix, few, many, pairs[i].at_64, pairs[i].at_1024);
    }
    free(s);
}

/* The rest of the pairs: no measured values, but the error must fall. */
static void test_others_converge(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"trigrf", "qmc"}, {"posrf", "qmc"}, {"saderf", "qmc"},
                                           {"trigrf", "mm"},  {"posrf", "mm"},  {"oprf", "mm"},
                                           {"saderf", "mm"},  {"gerf", "gaus"}, {"gerf", "orf"},
                                           {"gerf", "qmc"},   {"gerf", "mm"}};
    scene *s = scene_new();
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        const double few = median_error(s, pairs[i][0], pairs[i][1], 64);
        const double many = median_error(s, pairs[i][0], pairs[i][1], 1024);
        if (!(few < 0.35) || !(many < 0.13) || !(many / few <= 0.5))
            fail_msg("%s-%s: error %.3f at m = 64 and %.3f at 1024", pairs[i][0], pairs[i][1], few,
                     many);
    }
    free(s);
}

/* Every component function with one exact matrix, every exact or weighted matrix with one function.
 */
static void test_all_converge(void **state)
{
    (void)state;
    scene *s = scene_new();
    for (const feature_info *f = generated_features; f->name; f++) {
        const double few = median_error(s, f->name, "simrf", 64);
        const double many = median_error(s, f->name, "simrf", 1024);
        if (!(few < 0.45) || !(many < 0.16) || !(many / few <= 0.5))
            fail_msg("%s-simrf: error %.3f at m = 64 and %.3f at 1024", f->name, few, many);
    }
    for (const matrix_info *m = generated_matrices; m->name; m++) {
        if (strcmp(m->law, "exact") != 0 && strcmp(m->law, "weighted") != 0)
            continue;
        const double few = median_error(s, "oprf", m->name, 64);
        const double many = median_error(s, "oprf", m->name, 1024);
        if (!(few < 0.4) || !(many < 0.13) || !(many / few <= 0.5))
            fail_msg("oprf-%s: error %.3f at m = 64 and %.3f at 1024", m->name, few, many);
    }
    free(s);
}

/* The control: one maximum per key, with the same matrices. */
static void test_key_maximum_does_not_converge(void **state)
{
    (void)state;
    static double w[1024 * D];
    scene *s = scene_new();
    const oracle_map pos = {0};
    const oracle_shift shift = {.per_key_max = true};
    double median[2], error[5], o[L * DV];
    for (int big = 0; big < 2; big++) {
        const int64_t m = big ? 1024 : 64;
        spectra_attention *att = open_pair("posrf", "gaus", m);
        for (int t = 0; t < 5; t++) {
            assert_int_equal(spectra_attention_redraw(att, (uint64_t)t), SPECTRA_OK);
            for (int64_t i = 0; i < m * D; i++)
                w[i] = (double)spectra_attention_matrix(att)[i];
            oracle_attend(&s->head, &pos, m, w, &shift, o);
            error[t] = oracle_distance(L * DV, o, s->exact);
        }
        median[big] = oracle_median(5, error);
        spectra_attention_free(att);
    }
    if (!(median[1] / median[0] > 0.5) || !(median[1] > 1.5 * .087))
        fail_msg("one maximum per key: error %.3f at m = 64, %.3f at 1024: the test above proves "
                 "nothing",
                 median[0], median[1]);
    free(s);
}

/* Constants per query, per feature (compensated) and one for all keys cancel; one per key does not.
 */
static void test_shifts(void **state)
{
    (void)state;
    enum { M = 64 };
    static double w[M * D], query[L], feature[2 * M];
    scene *s = scene_new();
    oracle_rng r = {8};
    double want[L * DV], got[L * DV];
    oracle_normals(&r, M * D, 1, w);
    oracle_normals(&r, L, 2, query);
    oracle_normals(&r, 2 * M, 2, feature);
    const oracle_map maps[] = {{.trig = true}, {.A = -0.1}};
    const oracle_shift shifts[] = {{.query = query}, {.feature = feature}, {.key = 3}};
    for (int k = 0; k < 2; k++) {
        oracle_attend(&s->head, &maps[k], M, w, NULL, want);
        for (int i = 0; i < 3; i++) {
            oracle_attend(&s->head, &maps[k], M, w, &shifts[i], got);
            assert_true(oracle_distance(L * DV, got, want) < 1e-9);
        }
        const oracle_shift wrong = {.per_key_max = true};
        oracle_attend(&s->head, &maps[k], M, w, &wrong, got);
        assert_true(k == 0 || oracle_distance(L * DV, got, want) > 1e-2);
    }
    free(s);
}

/* A and psi of tokens x, y (n, D), in double and as the library computes them. */
static void fitted(const char *feat, int64_t n, const float *x, const float *y, const uint8_t *mask,
                   double *A, double *psi)
{
    spectra_attention *att = open_pair(feat, "gaus", 32);
    float block[MAX_VECTORS * D];
    assert_true(performer_block_floats(performer_of(att)) <= MAX_VECTORS * D);
    if (performer_prepare_heads(performer_of(att), 1, 1, n, n, x, y, mask, mask, block) !=
        SPECTRA_OK)
        fail_msg("%s: %s", feat, spectra_message());
    *A = (double)block[0];
    for (int i = 0; i < D; i++)
        psi[i] = performer_of(att)->feature->vectors
                     ? (double)performer_vectors(performer_of(att), block)[i]
                     : 1;
    spectra_attention_free(att);
}

static const char *const fitting[] = {"oprf", "saderf"};

static void test_fitted_values(void **state)
{
    (void)state;
    enum { N = 37 };
    float x[N * D], y[N * D];
    double wide[2][N * D], A = 0, psi[D], want_psi[D];
    uint8_t mask[N];
    oracle_rng r = {15};
    for (int i = 0; i < N * D; i++) {
        x[i] = (float)((0.3 + 0.05 * (i % D)) * oracle_normal(&r) + 0.1);
        y[i] = (float)((1.2 - 0.04 * (i % D)) * oracle_normal(&r) - 0.2);
        wide[0][i] = (double)x[i];
        wide[1][i] = (double)y[i];
        mask[i / D] = i / D % 3 != 1;
    }
    for (int masked = 0; masked < 2; masked++)
        for (int f = 0; f < 2; f++) {
            const uint8_t *m = masked ? mask : NULL;
            fitted(fitting[f], N, x, y, m, &A, psi);
            if (f == 1)
                oracle_psi(N, D, wide[0], wide[1], m, want_psi);
            for (int i = 0; i < D && f == 1; i++)
                if (!(fabs(psi[i] / want_psi[i] - 1) <= 1e-5))
                    fail_msg("psi[%d] is %.8g, want %.8g", i, psi[i], want_psi[i]);
            const double want = oracle_optimum(
                oracle_pair_mean(N, D, wide[0], wide[1], m, f == 1 ? want_psi : NULL));
            if (!(fabs(A / want - 1) <= 1e-5))
                fail_msg("%s: A is %.8g, want %.8g", fitting[f], A, want);
        }
}

/* psi makes the second moments of both sides equal, coordinate by coordinate. */
static void test_psi_balances(void **state)
{
    (void)state;
    enum { N = 50 };
    float x[N * D], y[N * D];
    double A = 0, psi[D];
    oracle_rng r = {16};
    for (int i = 0; i < N * D; i++) {
        x[i] = (float)((0.2 + 0.1 * (i % D)) * oracle_normal(&r));
        y[i] = (float)(0.8 * oracle_normal(&r));
    }
    fitted("saderf", N, x, y, NULL, &A, psi);
    for (int l = 0; l < D; l++) {
        double x2 = 0, y2 = 0;
        for (int i = 0; i < N; i++) {
            x2 += pow((double)x[i * D + l] * psi[l], 2);
            y2 += pow((double)y[i * D + l] / psi[l], 2);
        }
        if (!(fabs(x2 / y2 - 1) <= 1e-4))
            fail_msg("coordinate %d: second moments %g and %g", l, x2, y2);
    }
}

static void test_fitted_extremes(void **state)
{
    (void)state;
    enum { N = 5 };
    static const char *const what[] = {"one token", "tokens of zeros", "one huge token",
                                       "no valid token", "keys of zeros"};
    for (int kind = 0; kind < 5; kind++)
        for (int f = 0; f < 2; f++) {
            float x[N * D], y[N * D];
            uint8_t mask[N] = {1, 1, 1, 1, 1};
            double A = NAN, psi[D];
            oracle_rng r = {17};
            for (int i = 0; i < N * D; i++) {
                x[i] = kind == 1 ? 0 : (float)oracle_normal(&r);
                y[i] = kind == 1 || kind == 4 ? 0 : (float)oracle_normal(&r);
                if (kind == 2 && i < D)
                    x[i] = y[i] = 1e6F;
                if (kind == 3)
                    mask[i / D] = 0;
            }
            fitted(fitting[f], kind == 0 ? 1 : N, x, y, mask, &A, psi);
            if (!(A <= 0 && A >= -64))
                fail_msg("%s, %s: A = %g", fitting[f], what[kind], A);
            for (int i = 0; i < D; i++)
                if (!(psi[i] >= 0.125 && psi[i] <= 8))
                    fail_msg("%s, %s: psi[%d] = %g", fitting[f], what[kind], i, psi[i]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_convergence),  cmocka_unit_test(test_others_converge),
        cmocka_unit_test(test_all_converge), cmocka_unit_test(test_key_maximum_does_not_converge),
        cmocka_unit_test(test_shifts),       cmocka_unit_test(test_fitted_values),
        cmocka_unit_test(test_psi_balances), cmocka_unit_test(test_fitted_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
