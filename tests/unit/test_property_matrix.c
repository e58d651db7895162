/* Weight matrices as the recipes of specs/matrix make them: moments over many draws, exact
 * structure of each draw, shapes, determinism. Every statistical bound is many standard errors
 * wide.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel/registry.h"
#include "math/blas.h"
#include "math/normal.h"
#include "matrix/recipe.h"
#include "support/oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_M = 4 * 64 + 3, MAX_D = 64, CANARIES = 16 };

static const char *const names[] = {"gaus", "orf",   "qmc",  "mm",       "sorf",   "sorf_chi",
                                    "rom",  "simrf", "scrf", "scrf_chi", "pmodel", "fastfood_fixed",
                                    "sgq",  "ssr",   "ssf"};
enum { NAMES = sizeof names / sizeof names[0] };

static const matrix_info *find(const char *name)
{
    const matrix_info *info = NULL;
    if (registry_matrix(name, &info) != SPECTRA_OK)
        fail_msg("%s", spectra_message());
    return info;
}

static void draw_weighted(const char *name, int64_t m, int64_t d, uint64_t seed, int64_t layer,
                          float *w, float *weight)
{
    if (sample_matrix(find(name), m, d, (matrix_draw){.seed = seed, .layer = layer}, w, weight) !=
        SPECTRA_OK)
        fail_msg("%s (%d, %d): %s", name, (int)m, (int)d, spectra_message());
}

static void draw(const char *name, int64_t m, int64_t d, uint64_t seed, int64_t layer, float *w)
{
    draw_weighted(name, m, d, seed, layer, w, NULL);
}

/* Where a construction does not exist. */
static bool refused(const char *name, int64_t m, int64_t d)
{
    return (strcmp(name, "mm") == 0 && m <= d) || (strcmp(name, "ssr") == 0 && (m < 2 || d < 3));
}

static double dot(int64_t n, const float *a, const float *b)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Largest |mean over draws and rows| and |mean of w w^T - I| of T draws of (m, d), rows weighted.
 */
static void moments(const char *name, int draws, int64_t m, int64_t d, double *first,
                    double *second)
{
    float w[32 * MAX_D], weight[32];
    double m1[MAX_D] = {0}, *m2 = calloc((size_t)(d * d), sizeof *m2);
    assert_non_null(m2);
    for (int t = 0; t < draws; t++) {
        draw_weighted(name, m, d, (uint64_t)t, 0, w, weight);
        for (int64_t r = 0; r < m; r++)
            for (int64_t i = 0; i < d; i++) {
                const double x = (double)weight[r] * (double)w[r * d + i];
                m1[i] += x;
                for (int64_t j = 0; j < d; j++)
                    m2[i * d + j] += x * (double)w[r * d + j];
            }
    }
    const double n = (double)draws * (double)m;
    *first = *second = 0;
    for (int64_t i = 0; i < d; i++) {
        *first = fmax(*first, fabs(m1[i] / n));
        for (int64_t j = 0; j < d; j++)
            *second = fmax(*second, fabs(m2[i * d + j] / n - (i == j)));
    }
    free(m2);
}

static void test_moments(void **state)
{
    (void)state;
    static const int64_t sizes[] = {16, 20, 24};
    for (int i = 0; i < NAMES; i++)
        for (int k = 0; k < 3; k++) {
            double first = 0, second = 0;
            moments(names[i], 2000, 32, sizes[k], &first, &second);
            if (!(first <= 0.03) || !(second <= 0.08))
                fail_msg("%s, d = %d: |E w| = %.3f (at most .03), |E w w^T - I| = %.3f (at most "
                         ".08)",
                         names[i], (int)sizes[k], first, second);
        }
}

/* Squared lengths of rows: chi^2 with d degrees of freedom. A fixed length must be found out. */
static void test_row_lengths(void **state)
{
    (void)state;
    enum { M = 32, D = 20, DRAWS = 125, ROWS = M * DRAWS };
    static const char *const exact[] = {"gaus", "orf"};
    double *length2 = malloc(ROWS * sizeof *length2);
    assert_non_null(length2);
    for (int i = 0; i < 2; i++) {
        for (int t = 0; t < DRAWS; t++) {
            float w[M * D];
            draw(exact[i], M, D, 7000 + (uint64_t)t, 0, w);
            for (int r = 0; r < M; r++)
                length2[t * M + r] = dot(D, w + r * D, w + r * D);
        }
        const double ks = oracle_ks_chi2(ROWS, length2, D);
        if (!(ks < 2.225))
            fail_msg("%s: |w|^2 is not chi^2_%d: sqrt(n) D = %.2f (2.225 has p = 1e-4)", exact[i],
                     D, ks);
    }
    for (int i = 0; i < ROWS; i++)
        length2[i] = D;
    assert_true(oracle_ks_chi2(ROWS, length2, D) > 10);
    free(length2);
}

static void test_orthogonal_blocks(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{5, 16}, {16, 16}, {64, 16}, {67, 16}, {51, 24}, {130, 32}};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        const int64_t m = sizes[k][0], d = sizes[k][1];
        float w[MAX_M * MAX_D];
        draw("orf", m, d, 3, 0, w);
        for (int64_t r = 0; r < m; r++)
            for (int64_t s = r + 1; s < m && s / d == r / d; s++) {
                const float *a = w + r * d, *b = w + s * d;
                const double cosine = dot(d, a, b) / sqrt(dot(d, a, a) * dot(d, b, b));
                if (!(fabs(cosine) <= 1e-5))
                    fail_msg("orf (%d, %d): rows %d and %d have cosine %g", (int)m, (int)d, (int)r,
                             (int)s, cosine);
            }
    }
}

/* The blocks of one matrix are independent: their rows are neither equal nor orthogonal. */
static void test_blocks_differ(void **state)
{
    (void)state;
    enum { M = 32, D = 16 };
    float w[M * D];
    draw("orf", M, D, 3, 0, w);
    double largest = 0;
    for (int r = 0; r < D; r++) {
        const float *a = w + r * D, *b = w + (D + r) * D;
        const double cosine = dot(D, a, b) / sqrt(dot(D, a, a) * dot(D, b, b));
        assert_true(fabs(cosine) < 0.999);
        largest = fmax(largest, fabs(cosine));
    }
    assert_true(largest > 1e-3);
}

static void test_moment_matching(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{17, 16}, {64, 16}, {67, 16}, {96, 24}, {128, 32}};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        const int64_t m = sizes[k][0], d = sizes[k][1];
        float w[MAX_M * MAX_D];
        draw("mm", m, d, 11, 0, w);
        for (int64_t i = 0; i < d; i++) {
            double mean = 0;
            for (int64_t r = 0; r < m; r++)
                mean += (double)w[r * d + i] / (double)m;
            if (!(fabs(mean) <= 1e-5))
                fail_msg("mm (%d, %d): mean of column %d is %g", (int)m, (int)d, (int)i, mean);
            for (int64_t j = 0; j < d; j++) {
                double cov = 0;
                for (int64_t r = 0; r < m; r++)
                    cov += (double)w[r * d + i] * (double)w[r * d + j] / (double)m;
                if (!(fabs(cov - (i == j)) <= 1e-4))
                    fail_msg("mm (%d, %d): covariance (%d, %d) is %g", (int)m, (int)d, (int)i,
                             (int)j, cov);
            }
        }
    }
}

static void test_what_does_not_exist(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t m, d;
        const char *message;
    } cases[] = {
        {"mm", 16, 16, "matrix mm needs m > d, got m = 16, d = 16"},
        {"ssr", 1, 16, "matrix ssr needs m >= 2 and d >= 3, got m = 1, d = 16"},
        {"ssr", 16, 2, "matrix ssr needs m >= 2 and d >= 3, got m = 16, d = 2"},
        {"sorf", 1, 20000,
         "matrix sorf: m = 1 and d = 20000 take 32768 x 32768 numbers, at most 268435456 are "
         "allowed"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        float w[16 * 16], weight[16];
        for (int i = 0; i < 16 * 16; i++)
            w[i] = weight[i % 16] = 42;
        assert_int_equal(sample_matrix(find(cases[k].name), cases[k].m, cases[k].d,
                                       (matrix_draw){.seed = 1}, w, weight),
                         SPECTRA_ESHAPE);
        assert_string_equal(spectra_message(), cases[k].message);
        for (int i = 0; i < 16 * 16; i++)
            assert_true(w[i] == 42 && weight[i % 16] == 42);
    }
}

/* m points in d dimensions: every column has one point in each of m equal intervals, and rows have
 * lengths as a normal row's (the transposed construction gives spread .24 instead of .7). */
static void test_sobol_points(void **state)
{
    (void)state;
    enum { M = 128, D = 32 };
    float w[M * D];
    draw("qmc", M, D, 5, 0, w);
    for (int i = 0; i < D; i++) {
        int seen[M] = {0};
        for (int r = 0; r < M; r++)
            seen[(int)(oracle_normal_cdf((double)w[r * D + i]) * M)]++;
        for (int r = 0; r < M; r++)
            if (seen[r] != 1)
                fail_msg("qmc: coordinate %d has %d points in interval %d of %d", i, seen[r], r, M);
    }
    oracle_sample length = {0};
    for (int r = 0; r < M; r++)
        oracle_add(&length, sqrt(dot(D, w + r * D, w + r * D)));
    const double spread = oracle_deviation(&length);
    if (!(spread > 0.5 && spread < 0.9))
        fail_msg("qmc: row lengths have deviation %.2f, a normal row's is .70", spread);
}

static void check_rows(const char *name, int64_t m, int64_t d, const float *w, const float *weight)
{
    const bool weighted = strcmp(find(name)->law, "weighted") == 0;
    for (int64_t r = 0; r < m; r++) {
        const double length2 = dot(d, w + r * d, w + r * d);
        /* Products of Hadamard matrices of order 4 may be permutations: then a row of sorf has its
         * only number in the column that d = 3 leaves out. */
        const bool zero =
            (weighted && r == m - 1) || (length2 == 0 && d == 3 && strncmp(name, "sorf", 4) == 0);
        if (!(isfinite(length2) && (length2 == 0) == zero))
            fail_msg("%s (%d, %d): row %d has squared length %g", name, (int)m, (int)d, (int)r,
                     length2);
        if (!(isfinite(weight[r]) && (weight[r] == 1) == !weighted))
            fail_msg("%s (%d, %d): row %d has weight %g", name, (int)m, (int)d, (int)r,
                     (double)weight[r]);
    }
}

/* Exactly m x d numbers and m weights are written, all finite, no row is zero but ssr's last, and
 * weights are 1 where the law is not "weighted". */
static void test_shapes(void **state)
{
    (void)state;
    static const int64_t dims[] = {1, 2, 3, 8, 16, 20, 24, 60, 64};
    for (size_t k = 0; k < sizeof dims / sizeof dims[0]; k++) {
        const int64_t d = dims[k], rows[] = {1, d / 2 + 1, d, 4 * d, 4 * d + 3};
        for (int i = 0; i < NAMES; i++)
            for (int j = 0; j < 5; j++) {
                const int64_t m = rows[j];
                float w[MAX_M * MAX_D + CANARIES], weight[MAX_M + CANARIES];
                for (int64_t e = 0; e < m * d + CANARIES; e++)
                    w[e] = e < m * d ? NAN : 42;
                for (int64_t e = 0; e < m + CANARIES; e++)
                    weight[e] = e < m ? NAN : 42;
                if (refused(names[i], m, d))
                    continue;
                draw_weighted(names[i], m, d, 1, 0, w, weight);
                check_rows(names[i], m, d, w, weight);
                for (int e = 0; e < CANARIES; e++)
                    assert_true(w[m * d + e] == 42 && weight[m + e] == 42);
            }
    }
}

static void test_same_seed_same_matrix(void **state)
{
    (void)state;
    enum { M = 100, D = 20 };
    for (int i = 0; i < NAMES; i++) {
        float a[M * D], b[M * D];
        draw(names[i], M, D, 42, 1, a);
        draw(names[i], M, D, 42, 1, b);
        assert_memory_equal(a, b, sizeof a);
        draw(names[i], M, D, 43, 1, b);
        assert_memory_not_equal(a, b, sizeof a);
        draw(names[i], M, D, 42, 2, b);
        assert_memory_not_equal(a, b, sizeof a);
    }
}

static void test_quantile(void **state)
{
    (void)state;
    static const double at[] = {
        1e-300, 1e-20, 2.3283064365386963e-10, 1e-3, 0.02, 0.3, 0.5, 0.7, 0.97, 0.999, 1 - 0x1p-32};
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        const double x = normal_quantile(at[i]), back = oracle_normal_cdf(x);
        /* The slope of the distribution function turns an error of x into one of u. */
        const double slope = exp(-x * x / 2) / 2.5066282746310002;
        const double allowed = 2e-12 * slope * fmax(fabs(x), 1) + 1e-15 * fmin(at[i], 1);
        if (!(fabs(back - at[i]) <= allowed + 2e-13 * at[i]))
            fail_msg("normal_quantile(%.17g) = %.17g, whose probability is %.17g", at[i], x, back);
    }
}

static int open_blas(void **state)
{
    (void)state;
    return blas_open() == SPECTRA_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_row_lengths),
        cmocka_unit_test(test_orthogonal_blocks),
        cmocka_unit_test(test_blocks_differ),
        cmocka_unit_test(test_moment_matching),
        cmocka_unit_test(test_what_does_not_exist),
        cmocka_unit_test(test_sobol_points),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_same_seed_same_matrix),
        cmocka_unit_test(test_quantile),
    };
    return cmocka_run_group_tests(tests, open_blas, NULL);
}
