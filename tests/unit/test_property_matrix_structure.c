/* Exact structure of every draw of the structured matrices: what holds to rounding, whatever the
 * random numbers. Each check is made from the matrix alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel/registry.h"
#include "math/blas.h"
#include "matrix/recipe.h"

#include <math.h>
#include <string.h>

enum { MAX_M = 150, MAX_D = 64 };

typedef struct drawn {
    int m, d;
    float w[MAX_M * MAX_D], weight[MAX_M];
} drawn;

static drawn draw(const char *name, int m, int d, uint64_t seed)
{
    drawn x = {.m = m, .d = d};
    const matrix_info *info = NULL;
    if (registry_matrix(name, &info) != SPECTRA_OK ||
        sample_matrix(info, m, d, (matrix_draw){.seed = seed}, x.w, x.weight) != SPECTRA_OK)
        fail_msg("%s (%d, %d): %s", name, m, d, spectra_message());
    return x;
}

static double at(const drawn *x, int r, int j)
{
    return (double)x->w[r * x->d + j];
}

static double dot(const drawn *x, int r, int s)
{
    double sum = 0;
    for (int j = 0; j < x->d; j++)
        sum += at(x, r, j) * at(x, s, j);
    return sum;
}

static double length(const drawn *x, int r)
{
    return sqrt(dot(x, r, r));
}

static double cosine(const drawn *x, int r, int s)
{
    return dot(x, r, s) / (length(x, r) * length(x, s));
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* All cosines in a block of n rows are -1/(n-1), lengths differ. */
static void test_simplices(void **state)
{
    (void)state;
    static const int sizes[][2] = {{5, 16},  {16, 16}, {64, 16}, {67, 16},
                                   {51, 24}, {41, 20}, {4, 2}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const int m = sizes[k][0], d = sizes[k][1];
        const drawn x = draw("simrf", m, d, 3);
        for (int r = 0; r < m; r++)
            for (int s = r + 1; s < smaller(m, (r / d + 1) * d); s++) {
                const int rows = smaller(d, m - r / d * d);
                if (!(fabs(cosine(&x, r, s) + 1.0 / (rows - 1)) <= 1e-5))
                    fail_msg("simrf (%d, %d): rows %d and %d have cosine %g", m, d, r, s,
                             cosine(&x, r, s));
                assert_true(length(&x, r) != length(&x, s));
            }
    }
}

/* d a power of two: whole blocks are orthogonal matrices times sqrt(d), what is left of a cut one
 * has different rows of it. With chi lengths, still orthogonal. */
static void test_hadamard_blocks(void **state)
{
    (void)state;
    static const int sizes[][2] = {{5, 16}, {16, 16}, {64, 16}, {67, 16}, {130, 32}, {8, 4}};
    static const char *const names[] = {"sorf", "sorf_chi"};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int i = 0; i < 2; i++) {
            const int m = sizes[k][0], d = sizes[k][1];
            const drawn x = draw(names[i], m, d, 3);
            for (int r = 0; r < m; r++) {
                if (i == 0 && !(fabs(length(&x, r) - sqrt(d)) <= 1e-4))
                    fail_msg("sorf (%d, %d): row %d has length %g", m, d, r, length(&x, r));
                for (int s = r + 1; s < smaller(m, (r / d + 1) * d); s++)
                    if (!(fabs(cosine(&x, r, s)) <= 1e-5))
                        fail_msg("%s (%d, %d): rows %d and %d have cosine %g", names[i], m, d, r, s,
                                 cosine(&x, r, s));
            }
        }
}

/* Of identities one below the other: whole blocks stay, of the last each row is as likely as
 * another.
 */
static void test_cut_takes_random_rows(void **state)
{
    (void)state;
    static const recipe_op recipe[] = {{"basis", {0}}, {"cut", {0}}};
    const matrix_info info = {"rows", "", "", "exact", 2, recipe, "", NULL};
    enum { M = 19, D = 16, DRAWS = 800 };
    int taken[D] = {0};
    for (uint64_t t = 0; t < DRAWS; t++) {
        drawn x = {.m = M, .d = D};
        assert_int_equal(sample_matrix(&info, M, D, (matrix_draw){.seed = t}, x.w, NULL),
                         SPECTRA_OK);
        for (int r = 0; r < M; r++) {
            int which = 0;
            while (x.w[r * D + which] == 0)
                which++;
            assert_true(r < D ? which == r : x.w[r * D + which] == 1);
            taken[which] += r >= D;
        }
    }
    for (int j = 0; j < D; j++) /* 150 each, deviation 11 */
        assert_in_range(taken[j], 150 - 60, 150 + 60);
}

/* Element j of row r is that of row 0 at j - r, up to signs of the columns; rows of a block have
 * one length. */
static void test_circulant_blocks(void **state)
{
    (void)state;
    static const int sizes[][2] = {{5, 16}, {67, 16}, {51, 24}, {41, 20}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const int m = sizes[k][0], d = sizes[k][1];
        const drawn x = draw("scrf", m, d, 3), chi = draw("scrf_chi", m, d, 3);
        for (int r = 0; r < m; r++) {
            const int first = r / d * d, turn = r - first;
            const int next = first + 1 < m ? first + 1 : first;
            double product = 1; /* of the signs e_0 e_1, e_1 e_2 ... that row 1 shows */
            int negative = 0;
            for (int j = 0; j < d; j++) {
                const double x0 = at(&x, first, j), x1 = at(&x, r, (j + turn) % d);
                assert_true(fabs(x1) == fabs(x0));
                assert_true(fabs(fabs(at(&chi, r, (j + turn) % d)) / length(&chi, r) -
                                 fabs(at(&chi, first, j)) / length(&chi, first)) < 1e-6);
                const int sign = at(&x, next, (j + 1) % d) * x0 > 0 ? 1 : -1;
                product *= sign;
                negative += sign < 0;
            }
            assert_true(next == first || (product == 1 && negative > 0));
            assert_true(turn == 0 || length(&chi, r) != length(&chi, first));
        }
        assert_true(m <= d || fabs(length(&x, 0) - length(&x, d)) > 1e-3);
    }
}

/* Before the last transform a row is h_i * g / |g|, h_i a row of H: the cosine of rows i and j
 * depends on i xor j only. */
static void test_fastfood_blocks(void **state)
{
    (void)state;
    enum { M = 96, D = 32 };
    const drawn x = draw("fastfood_fixed", M, D, 3);
    double largest = 0;
    for (int first = 0; first < M; first += D)
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++) {
                const double have = cosine(&x, first + i, first + j);
                assert_true(fabs(have - cosine(&x, first, first + (i ^ j))) < 1e-5);
                largest = fmax(largest, i == j ? 0 : fabs(have));
            }
    assert_true(largest > 0.1 && largest < 0.999);
    assert_true(fabs(length(&x, 0) - length(&x, 1)) > 1e-3);
    assert_true(fabs(cosine(&x, 0, 1) - cosine(&x, D, D + 1)) > 1e-4);
}

/* Rows 2i and 2i+1 are opposite; those of different pairs of a block have cosine +-1/d; weights are
 * d/rho^2, and with the row 0 they add up to m. */
static void test_spherical_radial(void **state)
{
    (void)state;
    static const int sizes[][2] = {{2, 3},    {5, 16},  {34, 16}, {35, 16},
                                   {140, 16}, {83, 20}, {99, 24}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const int m = sizes[k][0], d = sizes[k][1], block = 2 * (d + 1);
        const drawn x = draw("ssr", m, d, 3);
        double sum = (double)x.weight[m - 1];
        for (int r = 0; r < m - 1; r++) {
            const double want = d / dot(&x, r, r) * m / (m - 1);
            if (!(fabs((double)x.weight[r] - want) <= 1e-5 * want))
                fail_msg("ssr (%d, %d): row %d has weight %g, want %g", m, d, r,
                         (double)x.weight[r], want);
            sum += (double)x.weight[r];
            for (int s = r + 1; s < smaller(m - 1, (r / block + 1) * block); s++) {
                const bool paired = r / 2 == s / 2;
                const double c = cosine(&x, r, s) * (r % 2 == s % 2 ? 1 : -1);
                if (!(fabs(c - (paired ? 1 : -1.0 / d)) <= 1e-5))
                    fail_msg("ssr (%d, %d): rows %d and %d have cosine %g", m, d, r, s, c);
                assert_true((length(&x, r) == length(&x, s)) == paired);
            }
        }
        for (int j = 0; j < d; j++)
            assert_true(at(&x, m - 1, j) == 0);
        assert_true(fabs(sum - m) < 1e-4 * m);
    }
}

/* A quarter of the row 0's weights or more is negative, as many as make their mean 0. */
static void test_weight_of_row_0(void **state)
{
    (void)state;
    enum { M = 34, D = 16, DRAWS = 2000 };
    int negative = 0;
    double mean = 0;
    for (uint64_t t = 0; t < DRAWS; t++) {
        const drawn x = draw("ssr", M, D, t);
        negative += x.weight[M - 1] < 0;
        mean += (double)x.weight[M - 1] / DRAWS;
    }
    assert_in_range(negative, DRAWS / 4, DRAWS * 3 / 4);
    assert_true(fabs(mean) < 5 * M * sqrt(2.0 / 14 / 17 / DRAWS));
}

/* Every number is a root of the Hermite polynomial of degree 12, as often as its weight
 * 12! / (12 He_11)^2 says. */
static void test_hermite_nodes(void **state)
{
    (void)state;
    enum { N = 12, M = 128, D = 64, DRAWS = 40 };
    const double total = (double)M * D * DRAWS;
    double node[N], he11[N];
    int count[N] = {0}, nodes = 0;
    for (uint64_t t = 0; t < DRAWS; t++) {
        const drawn x = draw("sgq", M, D, t);
        for (int i = 0; i < M * D; i++) {
            const double v = (double)x.w[i];
            double before = 1, here = v; /* He_0, He_1 */
            for (int k = 1; k < N; k++) {
                const double next = v * here - k * before;
                before = here;
                here = next;
            }
            assert_true(fabs(here / (N * before)) < 1e-6); /* Newton's step: He' = 12 He_11 */
            int which = 0;
            while (which < nodes && node[which] != v)
                which++;
            assert_true(which < N);
            if (which == nodes) {
                node[nodes] = v;
                he11[nodes++] = before;
            }
            count[which]++;
        }
    }
    assert_true(nodes >= 8);
    for (int k = 0; k < nodes; k++) {
        const double p = 479001600.0 / pow(N * he11[k], 2), want = p * total;
        if (!(fabs(count[k] - want) <= 5 * sqrt(want) + 1))
            fail_msg("node %g came %d times of %g, expected %g", node[k], count[k], total, want);
    }
}

/* Unit vectors, all different, their angles kept by the turn. All 2 N of them, N = 37 for d = 20,
 * are a tight frame of mean 0, and each has another at a right angle: multiplication by i. */
static void test_sphere_lattice(void **state)
{
    (void)state;
    static const recipe_op plain[] = {{"fourier_sphere", {0}}};
    static const recipe_op turned[] = {{"fourier_sphere", {0}}, {"rotate", {0}}};
    const matrix_info lattice = {"lattice", "", "", "exact", 1, plain, "", NULL};
    const matrix_info rotated = {"rotated", "", "", "exact", 2, turned, "", NULL};
    static const int sizes[][2] = {{5, 16}, {67, 20}, {74, 20}, {150, 24}, {7, 2}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const int m = sizes[k][0], d = sizes[k][1];
        drawn x = {.m = m, .d = d}, y = x;
        assert_int_equal(sample_matrix(&lattice, m, d, (matrix_draw){.seed = 5}, x.w, NULL),
                         SPECTRA_OK);
        assert_int_equal(sample_matrix(&rotated, m, d, (matrix_draw){.seed = 5}, y.w, NULL),
                         SPECTRA_OK);
        const drawn z = draw("ssf", m, d, 5);
        for (int r = 0; r < m; r++) {
            assert_true(fabs(length(&x, r) - 1) < 1e-6);
            for (int s = 0; s < r; s++) {
                assert_true(fabs(dot(&x, r, s)) < 0.999);
                assert_true(fabs(dot(&x, r, s) - dot(&y, r, s)) < 1e-5);
                assert_true(fabs(dot(&y, r, s) - cosine(&z, r, s)) < 1e-5);
            }
        }
        for (int r = 0; m == 74 && r < m; r++) {
            double smallest = 1;
            for (int s = 0; s < m; s++)
                smallest = fmin(smallest, fabs(dot(&x, r, s)));
            assert_true(smallest < 1e-6);
        }
        for (int i = 0; m == 74 && i < d; i++)
            for (int j = 0; j < d; j++) {
                double sum = 0, product = 0;
                for (int r = 0; r < m; r++) {
                    sum += at(&x, r, i);
                    product += at(&x, r, i) * at(&x, r, j);
                }
                assert_true(fabs(sum) < 1e-5 && fabs(product - (i == j) * (double)m / d) < 1e-5);
            }
    }
}

/* Frequencies are drawn: with fixed ones, all 2 N points would have the same cosines in every draw.
 */
static void test_lattices_differ(void **state)
{
    (void)state;
    double sum[2] = {0};
    for (int t = 0; t < 2; t++) {
        const drawn x = draw("ssf", 74, 20, 5 + (uint64_t)t);
        for (int r = 0; r < x.m; r++)
            for (int s = 0; s < r; s++)
                sum[t] += pow(cosine(&x, r, s), 4);
    }
    assert_true(fabs(sum[0] / sum[1] - 1) > 1e-3);
}

static int open_blas(void **state)
{
    (void)state;
    return blas_open() == SPECTRA_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_simplices),
        cmocka_unit_test(test_hadamard_blocks),
        cmocka_unit_test(test_cut_takes_random_rows),
        cmocka_unit_test(test_circulant_blocks),
        cmocka_unit_test(test_fastfood_blocks),
        cmocka_unit_test(test_spherical_radial),
        cmocka_unit_test(test_weight_of_row_0),
        cmocka_unit_test(test_hermite_nodes),
        cmocka_unit_test(test_sphere_lattice),
        cmocka_unit_test(test_lattices_differ),
    };
    return cmocka_run_group_tests(tests, open_blas, NULL);
}
