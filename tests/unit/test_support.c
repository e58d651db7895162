/* Errors, random numbers and linear algebra: known answers, independence of how a stream is cut,
 * distributions (fixed seeds, bounds of five standard errors), naive loops in double.
 */
#include "base/status.h" /* before cmocka, whose macro fail hides the function from calls */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "math/blas.h"
#include "math/draw.h"
#include "math/normal.h"
#include "matrix/recipe.h"
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors --------------------------------------------------------------- */

static void *fail_elsewhere(void *unused)
{
    (void)unused;
    (fail)(SPECTRA_EIO, "of another thread");
    return NULL;
}

static void test_messages(void **state)
{
    (void)state;
    assert_int_equal((fail)(SPECTRA_ESHAPE, "size %d of %s", 7, "x"), SPECTRA_ESHAPE);
    assert_string_equal(spectra_message(), "size 7 of x");
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    pthread_join(thread, NULL);
    assert_string_equal(spectra_message(), "size 7 of x");
    (fail)(SPECTRA_EIO, "reading: %s", spectra_message());
    assert_string_equal(spectra_message(), "reading: size 7 of x");
    (fail)(SPECTRA_EIO, "%5000d", 1);
    assert_in_range(strlen(spectra_message()), 100, 4999);
    assert_string_equal(spectra_status_name(SPECTRA_OK), "SPECTRA_OK");
    assert_string_equal(spectra_status_name(SPECTRA_EINTERRUPTED), "SPECTRA_EINTERRUPTED");
    assert_string_equal(spectra_status_name((spectra_status)-1), "unknown status");
    assert_string_equal(spectra_status_name((spectra_status)99), "unknown status");
    assert_in_range(strlen(spectra_version()), 5, 20);
}

static void test_nearest_name(void **state)
{
    (void)state;
    static const char *const names[] = {"gaus", "orf", "saderf", "posrf", "fastfood_learnable"};
    static const struct {
        const char *name, *nearest;
    } cases[] = {
        {"saderf", "saderf"}, {"SADREF", "saderf"},     {"orff", "orf"},
        {"pos", "posrf"},     {"gauss", "gaus"},        {"fastfood_lernabel", "fastfood_learnable"},
        {"fastfood", NULL},   {"something else", NULL}, {"", NULL},
        {"xyzzy", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *found = nearest_name(cases[i].name, names, 5);
        if (!found != !cases[i].nearest || (found && strcmp(found, cases[i].nearest) != 0))
            fail_msg("'%s' is nearest to %s, found %s", cases[i].name,
                     cases[i].nearest ? cases[i].nearest : "nothing", found ? found : "nothing");
    }
    char longest[4000];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_null(nearest_name(longest, names, 5));
    assert_null(nearest_name("orf", names, 0));
}

/* ---- random numbers ------------------------------------------------------- */

/* The known answers published with Random123, and the first words of cuRAND's generator. */
static void test_philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
        {{0, 0, 0, 0}, {1234, 0}, {0x2090b348, 0xda7cf0ab, 0x4401906f, 0xcbca470e}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint32_t *c = cases[i].counter;
        rng_stream s = {{cases[i].key[0], cases[i].key[1]}, {c[2], c[3]}};
        uint32_t words[4];
        rng_block(&s, (uint64_t)c[1] << 32 | c[0], words);
        assert_memory_equal(words, cases[i].words, sizeof words);
    }
    rng_stream s = rng_open(0x0123456789abcdef, RNG_TEST, 0x456, 0x789);
    assert_int_equal(s.key[0], 0x89abcdef);
    assert_int_equal(s.key[1], 0x01234567);
    assert_int_equal(s.hi[0], (uint32_t)RNG_TEST << 24 | 0x456);
    assert_int_equal(s.hi[1], 0x789);
}

/* Beginnings near 2^34 words, where the counter's lower half overflows, among others. */
static const uint64_t beginnings[] = {0, 1, 63, 64, 1000, ((uint64_t)1 << 34) - 70};
static const int64_t lengths[] = {1, 3, 63, 64, 65, 127, 128, 129, 700};
enum { BEGINNINGS = 6, LENGTHS = 9, LONGEST = 700 };

static void test_words_however_cut(void **state)
{
    (void)state;
    const rng_stream s = rng_open(99, RNG_TEST, 5, 7);
    for (int b = 0; b < BEGINNINGS; b++)
        for (int l = 0; l < LENGTHS; l++) {
            uint32_t words[LONGEST + 1], block[4];
            words[lengths[l]] = 0xdeadbeef;
            rng_words(&s, beginnings[b], lengths[l], words);
            for (int64_t i = 0; i < lengths[l]; i++) {
                rng_block(&s, (beginnings[b] + (uint64_t)i) / 4, block);
                assert_int_equal(words[i], block[(beginnings[b] + (uint64_t)i) % 4]);
            }
            assert_int_equal(words[lengths[l]], 0xdeadbeef);
        }
}

static void test_dropout_however_cut(void **state)
{
    (void)state;
    enum { T = 19661 }; /* .3 * 65536 */
    const rng_stream s = rng_open(99, RNG_TEST, 5, 7);
    const float kept = 65536.0f / (65536 - T);
    for (int b = 0; b < BEGINNINGS; b++)
        for (int l = 0; l < LENGTHS; l++) {
            float out[LONGEST + 1];
            uint32_t block[4];
            out[lengths[l]] = -1;
            rng_dropout(&s, 0.3, beginnings[b], lengths[l], out);
            for (int64_t i = 0; i < lengths[l]; i++) {
                const uint64_t e = beginnings[b] + (uint64_t)i;
                rng_block(&s, e / 128 * 16 + e % 16, block);
                const uint32_t bits = block[e / 16 % 4] >> (e % 128 < 64 ? 0 : 16) & 0xffff;
                assert_true(out[i] == (bits < T ? 0 : kept));
            }
            assert_true(out[lengths[l]] == -1);
        }
}

enum { DRAWS = 1 << 20 };

/* Standard errors by which the share of zeros differs from p. */
static double rate_error(const float *factor, double p)
{
    double zeros = 0;
    for (int i = 0; i < DRAWS; i++)
        zeros += factor[i] == 0;
    return fabs(zeros - p * DRAWS) / sqrt(p * (1 - p) * DRAWS);
}

/* Standard errors of the covariance of x[i] and y[i + lag], both of mean 1. */
static double covariance_error(const float *x, const float *y, int lag, double p)
{
    double sum = 0;
    for (int i = 0; i + lag < DRAWS; i++)
        sum += ((double)x[i] - 1) * ((double)y[i + lag] - 1);
    return fabs(sum) / (p / (1 - p) * sqrt(DRAWS));
}

static void test_dropout_rates(void **state)
{
    (void)state;
    float *x = malloc(DRAWS * sizeof *x), *y = malloc(DRAWS * sizeof *y);
    assert_true(x && y);
    const rng_stream s = rng_open(1, RNG_DROPOUT_MLP, 0, 1);
    static const double rates[] = {0.1, 0.2, 0.5, 0.9};
    for (int k = 0; k < 4; k++) {
        rng_dropout(&s, rates[k], 0, DRAWS, x);
        assert_true(rate_error(x, rates[k]) < 5);
        static const int lags[] = {1, 2, 16, 64, 128};
        for (int l = 0; l < 5; l++)
            if (!(covariance_error(x, x, lags[l], rates[k]) < 5))
                fail_msg("dropout %g: elements %d apart are not independent", rates[k], lags[l]);
    }
    rng_dropout(&s, 0.1, 0, DRAWS, x);
    assert_true(rate_error(x, 0.102) > 5); /* the measure sees a rate wrong by 2 % */
    const rng_stream others[] = {
        rng_open(2, RNG_DROPOUT_MLP, 0, 1), rng_open(1, RNG_DROPOUT_GELU, 0, 1),
        rng_open(1, RNG_DROPOUT_MLP, 1, 1), rng_open(1, RNG_DROPOUT_MLP, 0, 2)};
    for (int k = 0; k < 4; k++) {
        rng_dropout(&others[k], 0.1, 0, DRAWS, y);
        assert_true(covariance_error(x, y, 0, 0.1) < 5);
    }
    assert_true(covariance_error(x, x, 0, 0.1) > 5);
    rng_dropout(&s, 0, 0, 1000, x);
    rng_dropout(&s, 1, 0, 1000, y);
    for (int i = 0; i < 1000; i++)
        assert_true(x[i] == 1 && y[i] == 0);
    free(x);
    free(y);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* sqrt(n) times Kolmogorov's distance of x from the uniform distribution; sorts x. 2.225 has p =
 * 1e-4. */
static double kolmogorov(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    double largest = 0;
    for (int i = 0; i < n; i++)
        largest = fmax(largest, fmax((i + 1.0) / n - x[i], x[i] - (double)i / n));
    return largest * sqrt(n);
}

static void test_distributions(void **state)
{
    (void)state;
    enum { N = 200000, BELOW = 7 };
    double *x = malloc(N * sizeof *x);
    assert_non_null(x);
    const rng_stream s = rng_open(3, RNG_TEST, 0, 0);
    for (int i = 0; i < N; i++) {
        x[i] = rng_uniform(&s, (uint64_t)i);
        assert_true(x[i] > 0 && x[i] <= 1);
    }
    assert_true(kolmogorov(x, N) < 2.225);
    for (int i = 0; i < N; i++)
        x[i] = erfc(-rng_normal(&s, (uint64_t)i) / sqrt(2)) / 2;
    assert_true(kolmogorov(x, N) < 2.225);
    for (int i = 0; i < N; i++)
        x[i] = erfc(-1.05 * rng_normal(&s, (uint64_t)i) / sqrt(2)) / 2;
    assert_true(kolmogorov(x, N) > 2.225); /* the measure sees a deviation of .95 */
    free(x);
    double count[BELOW] = {0};
    for (int i = 0; i < N; i++) {
        const uint64_t k = rng_below(&s, (uint64_t)i, BELOW);
        assert_true(k < BELOW);
        count[k]++;
    }
    for (int k = 0; k < BELOW; k++)
        assert_true(fabs(count[k] - (double)N / BELOW) < 5 * sqrt((double)N / BELOW));
}

static void test_permutations(void **state)
{
    (void)state;
    enum { N = 1000, TRIES = 6000 };
    int64_t order[N];
    bool seen[N] = {false};
    const draw_stream s = draw_open(SPECTRA_RNG_PHILOX, 3, RNG_SHUFFLE, 0, 0);
    draw_permutation(&s, 0, N, order);
    for (int i = 0; i < N; i++) {
        assert_true(order[i] >= 0 && order[i] < N && !seen[order[i]]);
        seen[order[i]] = true;
    }
    draw_permutation(&s, 0, 0, order);
    int count[6] = {0};
    for (uint32_t t = 0; t < TRIES; t++) {
        const draw_stream other = draw_open(SPECTRA_RNG_PHILOX, 3, RNG_SHUFFLE, 0, t);
        int64_t p[3];
        draw_permutation(&other, 0, 3, p);
        count[2 * p[0] + (p[1] > p[2])]++;
    }
    for (int k = 0; k < 6; k++)
        assert_in_range(count[k], 1000 - 150, 1000 + 150); /* 5 sqrt(6000 * 5/36) = 144 */
}

/* A step of Newton's method in 80 bits, on the tail's own probability, gives the error. */
static void test_quantile(void **state)
{
    (void)state;
    const rng_stream s = rng_open(4, RNG_TEST, 0, 0);
    double worst = 0, at = 0;
    for (int i = 0; i < 40000; i++) {
        const double e = rng_uniform(&s, (uint64_t)i), tail = exp2(-1 - (i % 2 ? 52 : 59) * e);
        const bool upper = i % 2;
        const double u = upper ? 1 - tail : tail;
        if (u == 0.5)
            continue;
        const long double p = upper ? 1 - (long double)u : (long double)u;
        const double x = normal_quantile(u);
        assert_true(upper ? x > 0 : x < 0);
        const long double z = fabsl((long double)x), root = 1.41421356237309504880168872420969808L;
        const long double density = expl(-z * z / 2) * 0.398942280401432677939946059934381868L;
        const double error = (double)fabsl((erfcl(z / root) / 2 - p) / density / z);
        if (error > worst) {
            worst = error;
            at = u;
        }
    }
    if (!(worst < 1e-12))
        fail_msg("normal_quantile(%.17g) has a relative error of %.2g", at, worst);
    assert_true(normal_quantile(0.5) == 0);
    assert_true(isfinite(normal_quantile(0x1p-60)) && isfinite(normal_quantile(1 - 0x1p-53)));
}

/* ---- linear algebra ------------------------------------------------------- */

static void fill(double *x, int n, uint32_t step)
{
    const rng_stream s = rng_open(5, RNG_TEST, 0, step);
    for (int i = 0; i < n; i++)
        x[i] = rng_normal(&s, (uint64_t)i);
}

enum { ROOM = 70 * 75 };

static void check_product(const int64_t size[3], bool ta, bool tb, double alpha, double beta)
{
    double a[ROOM], b[ROOM], c[ROOM], d[ROOM];
    float fa[ROOM], fb[ROOM], fc[ROOM];
    const int64_t m = size[0], n = size[1], k = size[2];
    const int64_t lda = (ta ? m : k) + 1, ldb = (tb ? k : n) + 2, ldc = n + 3;
    fill(a, ROOM, 1);
    fill(b, ROOM, 2);
    fill(c, ROOM, 3);
    for (int i = 0; i < ROOM; i++) {
        fa[i] = (float)a[i];
        fb[i] = (float)b[i];
        fc[i] = (float)c[i];
    }
    memcpy(d, c, sizeof d);
    blas_dgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, d, ldc);
    blas_sgemm(ta, tb, m, n, k, (float)alpha, fa, lda, fb, ldb, (float)beta, fc, ldc);
    for (int64_t i = 0; i < ROOM; i++) {
        const int64_t row = i / ldc, column = i % ldc;
        double expected = c[i];
        if (row < m && column < n) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += (ta ? a[l * lda + row] : a[row * lda + l]) *
                       (tb ? b[column * ldb + l] : b[l * ldb + column]);
            expected = alpha * sum + beta * c[i];
        }
        if (!(fabs(d[i] - expected) <= 1e-12) || !(fabs((double)fc[i] - expected) <= 1e-4))
            fail_msg("%d x %d x %d, ta %d, tb %d: element %d is %g and %g instead of %g", (int)m,
                     (int)n, (int)k, ta, tb, (int)i, d[i], (double)fc[i], expected);
    }
}

static void test_products(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},    {1, 33, 7},  {5, 3, 64},  {64, 64, 64},
                                       {63, 65, 17}, {31, 1, 70}, {20, 24, 0}, {65, 32, 33}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int t = 0; t < 4; t++) {
            check_product(sizes[i], t & 1, t & 2, 1, 0);
            check_product(sizes[i], t & 1, t & 2, 1, 1);
            check_product(sizes[i], t & 1, t & 2, -0.5, 0.25);
        }
    assert_non_null(strstr(blas_config(), "OpenBLAS"));
}

/* Q is orthogonal, Q'A upper triangular with the diagonal that was returned. */
static void test_qr(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 20, 70};
    for (int s = 0; s < 4; s++) {
        const int64_t n = sizes[s];
        double a[70 * 70], q[70 * 70], diagonal[70];
        fill(a, (int)(n * n), 4);
        memcpy(q, a, sizeof q);
        assert_int_equal(lapack_qr_square(n, q, diagonal), SPECTRA_OK);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                double qq = 0, qa = 0;
                for (int64_t k = 0; k < n; k++) {
                    qq += q[k * n + i] * q[k * n + j];
                    qa += q[k * n + i] * a[k * n + j];
                }
                assert_true(fabs(qq - (i == j)) < 1e-12);
                assert_true(i < j || fabs(qa - (i == j ? diagonal[i] : 0)) < 1e-12);
            }
    }
}

/* Rows are orthonormal, A v = w v, w ascends. */
static void test_eigenvectors(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 20, 70};
    for (int s = 0; s < 4; s++) {
        const int64_t n = sizes[s];
        double a[70 * 70], v[70 * 70], w[70];
        fill(a, (int)(n * n), 5);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < i; j++)
                a[i * n + j] = a[j * n + i];
        memcpy(v, a, sizeof v);
        assert_int_equal(lapack_eigh(n, v, w), SPECTRA_OK);
        for (int64_t i = 0; i < n; i++) {
            assert_true(i == 0 || w[i] >= w[i - 1]);
            for (int64_t j = 0; j < n; j++) {
                double vv = 0, av = 0;
                for (int64_t k = 0; k < n; k++) {
                    vv += v[i * n + k] * v[j * n + k];
                    av += a[j * n + k] * v[i * n + k];
                }
                assert_true(fabs(vv - (i == j)) < 1e-12);
                assert_true(fabs(av - w[i] * v[i * n + j]) < 1e-11);
            }
        }
    }
}

/* Loading it left the variables OpenBLAS reads as they were. */
static int open_blas(void **state)
{
    (void)state;
    setenv("OPENBLAS_CORETYPE", "Prescott", 1);
    unsetenv("OPENBLAS_NUM_THREADS");
    if (blas_open() != SPECTRA_OK || blas_open() != SPECTRA_OK)
        return -1;
    const char *core = getenv("OPENBLAS_CORETYPE");
    return core && strcmp(core, "Prescott") == 0 && !getenv("OPENBLAS_NUM_THREADS") ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_nearest_name),
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_words_however_cut),
        cmocka_unit_test(test_dropout_however_cut),
        cmocka_unit_test(test_dropout_rates),
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_permutations),
        cmocka_unit_test(test_quantile),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_qr),
        cmocka_unit_test(test_eigenvectors),
    };
    return cmocka_run_group_tests(tests, open_blas, NULL);
}
