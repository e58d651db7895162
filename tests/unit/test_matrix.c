/* The primitives of sampling recipes one by one, on recipes written here: Sobol sequences and their
 * scrambling, Haar matrices, refusals. Each property comes with the mistake it must find out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "math/blas.h"
#include "math/rng.h"
#include "math/sobol.h"
#include "matrix/recipe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const recipe_op gaus[] = {{"normal", {0}}};
static const recipe_op orf[] = {{"haar", {0}}, {"chi_rows", {0}}};
static const recipe_op qmc[] = {{"sobol_owen", {0}}, {"normal_icdf", {0}}};
static const recipe_op mm[] = {{"normal", {0}}, {"center_columns", {0}}, {"whiten", {0}}};

static spectra_status sample(const char *name, const recipe_op *recipe, int ops, int64_t m,
                             int64_t d, uint64_t seed, float *w)
{
    const matrix_info info = {name, "", "", "exact", ops, recipe, "", NULL};
    return sample_matrix(&info, m, d, (matrix_draw){.seed = seed}, w, NULL);
}

static void draw(const recipe_op *recipe, int ops, int64_t m, int64_t d, uint64_t seed, float *w)
{
    if (sample("here", recipe, ops, m, d, seed, w) != SPECTRA_OK)
        fail_msg("%s", spectra_message());
}

/* ---- known values --------------------------------------------------------- */

/* Row 0 of (40, 4) for seed 42: computed once with NumPy and SciPy (their QR, eigenvectors and
 * quantile, Philox written out) and hence the same on every machine and in every version. */
static void test_known_values(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const recipe_op *recipe;
        int ops;
        float row[4];
    } cases[] = {
        {"gaus", gaus, 1, {0.613455176f, 0.366118193f, 0.264282912f, -0.000713557354f}},
        {"orf", orf, 2, {1.07989931f, -0.560367525f, -0.662421644f, -0.674958646f}},
        {"qmc", qmc, 2, {2.11080551f, -1.71819365f, -0.495490491f, 0.307566136f}},
        {"mm", mm, 3, {0.460633665f, 0.200415656f, 0.449373245f, -0.138722658f}},
    };
    for (int i = 0; i < 4; i++) {
        float w[40 * 4];
        draw(cases[i].recipe, cases[i].ops, 40, 4, 42, w);
        for (int j = 0; j < 4; j++)
            if (!(fabsf(w[j] - cases[i].row[j]) <= 3e-7f * fabsf(w[j])))
                fail_msg("%s: row 0 is %.9g %.9g %.9g %.9g", cases[i].name, (double)w[0],
                         (double)w[1], (double)w[2], (double)w[3]);
    }
}

/* ---- Sobol sequences ------------------------------------------------------ */

static void sobol_plain(int64_t dimension, int n, uint32_t *x)
{
    uint32_t v[SOBOL_BITS];
    sobol_direction(dimension, v);
    for (int i = 0; i < n; i++) {
        x[i] = 0;
        for (int b = 0; b < SOBOL_BITS; b++)
            if ((i ^ i >> 1) >> b & 1)
                x[i] ^= v[b];
    }
}

/* Sixteenths, as SciPy and cuRAND have them. */
static void test_sobol_first_points(void **state)
{
    (void)state;
    static const unsigned expected[3][8] = {
        {0, 8, 12, 4, 6, 14, 10, 2}, {0, 8, 4, 12, 6, 14, 2, 10}, {0, 8, 4, 12, 10, 2, 14, 6}};
    for (int d = 0; d < 3; d++) {
        uint32_t x[8];
        sobol_plain(d, 8, x);
        for (int i = 0; i < 8; i++)
            assert_int_equal(x[i], expected[d][i] << 28);
    }
}

/* The first n = 2^k numbers have one in each of n equal intervals. */
static bool is_net(const double *x, int64_t stride, int n)
{
    bool seen[1024] = {false};
    for (int i = 0; i < n; i++) {
        const int at = (int)(x[i * stride] * n);
        if (at < 0 || at >= n || seen[at])
            return false;
        seen[at] = true;
    }
    return true;
}

static void test_sobol_nets(void **state)
{
    (void)state;
    for (int d = 0; d < SOBOL_DIMENSIONS; d++) {
        uint32_t x[1024], v[SOBOL_BITS];
        double u[1024];
        sobol_plain(d, 1024, x);
        for (int i = 0; i < 1024; i++)
            u[i] = x[i] * 0x1p-32;
        for (int n = 1; n <= 1024; n *= 2)
            if (!is_net(u, 1, n))
                fail_msg("dimension %d: the first %d points are no net", d + 1, n);
        sobol_direction(d, v);
        for (int i = 0; i < SOBOL_BITS; i++)
            assert_true(v[i] << i == 1u << 31); /* all 32 levels: an odd number each */
    }
}

/* No two of the 256 dimensions are the same. */
static void test_sobol_dimensions_differ(void **state)
{
    (void)state;
    uint32_t v[SOBOL_DIMENSIONS][SOBOL_BITS];
    for (int d = 0; d < SOBOL_DIMENSIONS; d++) {
        sobol_direction(d, v[d]);
        for (int e = 0; e < d; e++)
            assert_memory_not_equal(v[d], v[e], 16 * sizeof v[d][0]);
    }
}

static const recipe_op scrambled[] = {{"sobol_owen", {0}}};

/* 128 points only: of more, some lie so near an interval's end that float rounds them over it. */
static void test_scrambled_nets(void **state)
{
    (void)state;
    enum { M = 128, D = SOBOL_DIMENSIONS };
    static float w[M * D];
    static double u[M * D];
    draw(scrambled, 1, M, D, 8, w);
    for (int i = 0; i < M * D; i++) {
        u[i] = (double)w[i];
        assert_true(u[i] > 0 && u[i] < 1);
    }
    for (int d = 0; d < D; d++)
        for (int n = 1; n <= M; n *= 2)
            if (!is_net(u + d, D, n))
                fail_msg("dimension %d: the first %d scrambled points are no net", d + 1, n);
    /* Dimensions 1 and 2 together: one point in each of 128 boxes of every shape. */
    for (int wide = 1; wide <= M; wide *= 2) {
        bool seen[M] = {false};
        for (int i = 0; i < M; i++) {
            const int at = (int)(u[i * D] * wide) * (M / wide) + (int)(u[i * D + 1] * (M / wide));
            assert_false(seen[at]);
            seen[at] = true;
        }
    }
}

/* Over seeds: a number is uniform; bits below different bits flip independently, as do dimensions
 * (with a mere shift by a random number, the first of these correlations would be 1). */
static void test_scrambling_is_nested(void **state)
{
    (void)state;
    enum { TRIES = 4000, D = 3, M = 4 };
    double mean = 0, square = 0, nested = 0, across = 0, first = 0;
    for (int t = 0; t < TRIES; t++) {
        float w[M * D];
        draw(scrambled, 1, M, D, (uint64_t)t, w);
        const double x = (double)w[0];
        mean += x / TRIES;
        square += x * x / TRIES;
        /* points 0 and 3 of dimension 1 are 0 and 1/4, points 1 and 2 are 1/2 and 3/4 */
        const int lower = w[0 * D] < w[3 * D] ? 1 : -1, upper = w[1 * D] < w[2 * D] ? 1 : -1;
        const int top = w[0 * D] < w[1 * D] ? 1 : -1, other = w[1] < w[D + 1] ? 1 : -1;
        nested += lower * upper;
        first += top;
        across += top * other;
    }
    const double five = 5 * sqrt(TRIES);
    assert_true(fabs(mean - 0.5) < 5 * sqrt(1.0 / 12 / TRIES));
    assert_true(fabs(square - 1.0 / 3) < 5 * sqrt(4.0 / 45 / TRIES));
    assert_true(fabs(nested) < five && fabs(first) < five && fabs(across) < five);
}

/* Standard deviation of the lengths of rows of w (m, d), or of its transpose. */
static double length_spread(const float *w, int m, int d, bool transposed)
{
    const int rows = transposed ? d : m, columns = transposed ? m : d;
    double sum = 0, sum2 = 0;
    for (int r = 0; r < rows; r++) {
        double length2 = 0;
        for (int j = 0; j < columns; j++) {
            const double x = (double)(transposed ? w[j * d + r] : w[r * d + j]);
            length2 += x * x;
        }
        sum += sqrt(length2) / rows;
        sum2 += length2 / rows;
    }
    return sqrt(sum2 - sum * sum);
}

/* A normal row of 32 has a length of deviation .70. When rows are coordinates of the sequence and
 * not its points, each is a stratified sample and all are nearly equally long. */
static void test_points_are_rows(void **state)
{
    (void)state;
    enum { M = 128, D = 32 };
    float w[M * D];
    for (uint64_t seed = 0; seed < 20; seed++) {
        draw(qmc, 2, M, D, seed, w);
        const double spread = length_spread(w, M, D, false);
        assert_true(spread > 0.5 && spread < 0.9);
        draw(qmc, 2, D, M, seed, w);
        assert_true(length_spread(w, D, M, true) < 0.5);
    }
}

/* ---- Haar ----------------------------------------------------------------- */

static const recipe_op haar[] = {{"haar", {0}}};

/* Standard errors of the mean of Q's diagonal, 0 for Haar: its elements have variance 1/d. LAPACK's
 * Q without the signs of R's diagonal has elements of mean far from 0. */
static void test_haar_diagonal(void **state)
{
    (void)state;
    enum { TRIES = 2000, D = 16 };
    double fixed = 0, unfixed = 0;
    for (int t = 0; t < TRIES; t++) {
        float w[D * D];
        double q[D * D], diagonal[D];
        draw(haar, 1, D, D, (uint64_t)t, w);
        const rng_stream s = rng_open((uint64_t)t, RNG_TEST, 0, 0);
        for (int i = 0; i < D * D; i++)
            q[i] = rng_normal(&s, (uint64_t)i);
        assert_int_equal(lapack_qr_square(D, q, diagonal), SPECTRA_OK);
        for (int i = 0; i < D; i++) {
            fixed += (double)w[i * D + i];
            unfixed += q[i * D + i];
        }
    }
    const double deviation = sqrt(TRIES); /* of a sum of TRIES * D with variance 1/D */
    assert_true(fabs(fixed) < 5 * deviation);
    assert_true(fabs(unfixed) > 20 * deviation);
}

/* Determinants of both signs: the whole group, not the rotations only. */
static void test_haar_reflections(void **state)
{
    (void)state;
    int reflections = 0;
    for (uint64_t t = 0; t < 400; t++) {
        float w[4];
        draw(haar, 1, 2, 2, t, w);
        reflections += w[0] * w[3] - w[1] * w[2] < 0;
    }
    assert_in_range(reflections, 200 - 50, 200 + 50);
}

static void test_haar_blocks(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{3, 20}, {20, 20}, {80, 20}, {83, 20}, {27, 24}, {5, 1}};
    for (int k = 0; k < 6; k++) {
        const int64_t m = sizes[k][0], d = sizes[k][1];
        float w[83 * 24];
        draw(haar, 1, m, d, 3, w);
        for (int64_t r = 0; r < m; r++)
            for (int64_t s = r; s < m && s / d == r / d; s++) {
                double dot = 0;
                for (int64_t j = 0; j < d; j++)
                    dot += (double)w[r * d + j] * (double)w[s * d + j];
                assert_true(fabs(dot - (r == s)) < 1e-6);
            }
        for (int64_t i = 0; d > 1 && i < m * d - d * d; i++)
            assert_true(w[i] != w[i + d * d]);
    }
}

/* ---- Hadamard transforms, Toeplitz matrices ------------------------------- */

enum { ORDER = 16 };

/* Sylvester's matrix, normalised: the sign says whether i and j share an odd number of ones. */
static double hadamard_element(int i, int j)
{
    return (__builtin_popcount((unsigned)(i & j)) % 2 ? -1 : 1) / sqrt(ORDER);
}

static void times_hadamard(double *w)
{
    double product[ORDER * ORDER] = {0};
    for (int i = 0; i < ORDER; i++)
        for (int j = 0; j < ORDER; j++)
            for (int k = 0; k < ORDER; k++)
                product[i * ORDER + j] += w[i * ORDER + k] * hadamard_element(k, j);
    memcpy(w, product, sizeof product);
}

/* Largest difference of elements; of two unlike matrices it is far above rounding. */
static double difference(const double *want, const float *got)
{
    double worst = 0;
    for (int i = 0; i < ORDER * ORDER; i++)
        worst = fmax(worst, fabs((double)got[i] - want[i]));
    return worst;
}

static void test_fast_transform(void **state)
{
    (void)state;
    static const recipe_op once[] = {{"normal", {0}}, {"hadamard", {0}}};
    static const recipe_op twice[] = {{"normal", {0}}, {"hadamard", {0}}, {"hadamard", {0}}};
    float w[ORDER * ORDER], back[ORDER * ORDER];
    double want[ORDER * ORDER];
    draw(gaus, 1, ORDER, ORDER, 4, w);
    draw(twice, 3, ORDER, ORDER, 4, back);
    for (int i = 0; i < ORDER * ORDER; i++)
        want[i] = (double)w[i];
    assert_true(difference(want, back) < 1e-6);
    draw(once, 2, ORDER, ORDER, 4, w);
    assert_true(difference(want, w) > 0.1);
    times_hadamard(want);
    assert_true(difference(want, w) < 1e-6);
}

/* sqrt(n) H D1 H D2 H D3 as a product of explicit matrices; a diagonal shows itself on identities
 * in the place of the steps before it. */
static void test_sorf_is_its_product(void **state)
{
    (void)state;
    static const recipe_op sorf[] = {{"basis", {0}},    {"hadamard", {0}},   {"signs", {0}},
                                     {"hadamard", {0}}, {"signs", {0}},      {"hadamard", {0}},
                                     {"signs", {0}},    {"fixed_rows", {0}}, {"cut", {0}}};
    float w[ORDER * ORDER], all[ORDER * ORDER];
    double want[ORDER * ORDER] = {0};
    draw(sorf, 9, ORDER, ORDER, 4, all);
    for (int i = 0; i < ORDER; i++)
        want[i * ORDER + i] = sqrt(ORDER);
    for (int step = 2; step <= 6; step += 2) {
        recipe_op alone[7];
        for (int i = 0; i < step; i++)
            alone[i] = sorf[0];
        alone[step] = sorf[2];
        draw(alone, step + 1, ORDER, ORDER, 4, w);
        assert_true(difference(want, all) > 0.1);
        times_hadamard(want);
        int negative = 0;
        for (int j = 0; j < ORDER; j++) {
            assert_true(fabsf(w[j * ORDER + j]) == 1);
            negative += w[j * ORDER + j] < 0;
            for (int i = 0; i < ORDER; i++)
                want[i * ORDER + j] *= (double)w[j * ORDER + j];
        }
        assert_in_range(negative, 2, ORDER - 2);
    }
    assert_true(difference(want, all) < 1e-6);
}

/* Element (i, j) depends on i - j, and neighbouring diagonals differ. */
static void test_toeplitz(void **state)
{
    (void)state;
    static const recipe_op toeplitz[] = {{"toeplitz", {0}}};
    enum { M = 40, D = 32 };
    float w[M * D];
    draw(toeplitz, 1, M, D, 2, w);
    for (int i = 1; i < M; i++)
        for (int j = 1; j < D; j++) {
            assert_true(w[i * D + j] == w[(i - 1) * D + j - 1]);
            assert_true(w[i * D + j] != w[(i - 1) * D + j]);
        }
}

/* Each block has its own permutation and its own normal diagonal. */
static void test_permutation_of_columns(void **state)
{
    (void)state;
    static const recipe_op permuted[] = {
        {"basis", {0}}, {"normal_columns", {0}}, {"permute_columns", {0}}};
    enum { D = 16, M = 3 * D };
    float w[M * D], v[M * D];
    int place[M], moved = 0;
    draw(permuted, 3, M, D, 2, w);
    draw(permuted, 2, M, D, 2, v);
    for (int r = 0; r < M; r++) {
        place[r] = -1;
        for (int j = 0; j < D; j++) {
            if (w[r * D + j] == 0)
                continue;
            assert_true(place[r] < 0 && w[r * D + j] == v[r * D + r % D]);
            place[r] = j;
        }
        assert_true(place[r] >= 0);
        moved += place[r] != r % D;
        for (int s = r / D * D; s < r; s++)
            assert_true(place[s] != place[r]);
    }
    assert_true(moved > M / 2);
    assert_memory_not_equal(place, place + D, D * sizeof *place);
    assert_true(v[0] != v[D * D]);
}

/* ---- the interpreter ------------------------------------------------------ */

/* A primitive's numbers depend on its place in the recipe. */
static void test_primitives_have_own_streams(void **state)
{
    (void)state;
    static const recipe_op later[] = {{"haar", {0}}, {"normal", {0}}};
    float a[12], b[12];
    draw(gaus, 1, 3, 4, 1, a);
    draw(later, 2, 3, 4, 1, b);
    for (int i = 0; i < 12; i++)
        assert_true(a[i] != b[i]);
}

static void test_whitening_of_one_more_row(void **state)
{
    (void)state;
    enum { D = 24, M = D + 1 };
    for (uint64_t seed = 0; seed < 50; seed++) {
        float w[M * D];
        draw(mm, 3, M, D, seed, w);
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++) {
                double sum = 0;
                for (int r = 0; r < M; r++)
                    sum += (double)w[r * D + i] * (double)w[r * D + j] / M;
                assert_true(fabs(sum - (i == j)) < 1e-5);
            }
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static const recipe_op unknown[] = {{"sobol_ovan", {0}}}, strange[] = {{"xyzzy", {0}}};
    static const recipe_op odd[] = {{"normal", {0}}, {"hadamard", {0}}};
    static const recipe_op uncut[] = {{"basis", {0}}}, nothing[] = {{"signs", {0}}};
    static const recipe_op no_nodes[] = {{"gauss_hermite", {0}}};
    static const recipe_op part_nodes[] = {{"gauss_hermite", {2.5}}};
    static const struct {
        const recipe_op *recipe;
        int ops;
        int64_t m, d;
        spectra_status status;
        const char *message;
    } cases[] = {
        {mm, 3, 16, 16, SPECTRA_ESHAPE, "matrix test needs m > d, got m = 16, d = 16"},
        {mm, 3, 8, 16, SPECTRA_ESHAPE, "matrix test needs m > d, got m = 8, d = 16"},
        {qmc, 2, 8, 257, SPECTRA_ESHAPE,
         "matrix test has Sobol sequences up to d = 256, got d = 257"},
        {qmc, 2, 65537, 1, SPECTRA_ESHAPE,
         "matrix test has Sobol sequences up to m = 65536, got m = 65537"},
        {gaus, 1, 0, 4, SPECTRA_ESHAPE, NULL},
        {gaus, 1, 4, -1, SPECTRA_ESHAPE, NULL},
        {gaus, 1, INT64_MAX, INT64_MAX, SPECTRA_ESHAPE, NULL},
        {unknown, 1, 4, 4, SPECTRA_ENOTFOUND,
         "matrix test: unknown primitive 'sobol_ovan', did you mean 'sobol_owen'?"},
        {strange, 1, 4, 4, SPECTRA_ENOTFOUND, "matrix test: unknown primitive 'xyzzy'"},
        {odd, 2, 4, 3, SPECTRA_ESHAPE,
         "matrix test: 'hadamard' needs a power of two of columns, got 3"},
        {uncut, 1, 3, 3, SPECTRA_EINVAL,
         "matrix test: the recipe makes 4 x 4 numbers, wanted are 3 x 3; 'cut' is missing"},
        {uncut, 0, 4, 4, SPECTRA_EINVAL,
         "matrix test: the recipe makes 0 x 0 numbers, wanted are 4 x 4; 'cut' is missing"},
        {nothing, 1, 4, 4, SPECTRA_EINVAL, "matrix test: 'signs' comes before any matrix is made"},
        {no_nodes, 1, 4, 4, SPECTRA_EINVAL,
         "matrix test: 'gauss_hermite' takes 1 to 64 nodes, got 0"},
        {part_nodes, 1, 4, 4, SPECTRA_EINVAL,
         "matrix test: 'gauss_hermite' takes 1 to 64 nodes, got 2.5"},
        {uncut, 1, 1, 1 << 28, SPECTRA_ESHAPE, NULL},
    };
    float w[4] = {42, 42, 42, 42};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(
            sample("test", cases[i].recipe, cases[i].ops, cases[i].m, cases[i].d, 1, w),
            cases[i].status);
        if (cases[i].message)
            assert_string_equal(spectra_message(), cases[i].message);
    }
    const matrix_info info = {"test", "", "", "exact", 1, gaus, "", NULL};
    assert_int_equal(
        sample_matrix(&info, 2, 2, (matrix_draw){.seed = 1, .layer = 1 << 24}, w, NULL),
        SPECTRA_EINVAL);
    assert_int_equal(sample_matrix(&info, 2, 2, (matrix_draw){.seed = 1, .layer = -1}, w, NULL),
                     SPECTRA_EINVAL);
    for (int i = 0; i < 4; i++)
        assert_true(w[i] == 42);
}

static int open_blas(void **state)
{
    (void)state;
    return blas_open() == SPECTRA_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_values),
        cmocka_unit_test(test_sobol_first_points),
        cmocka_unit_test(test_sobol_nets),
        cmocka_unit_test(test_sobol_dimensions_differ),
        cmocka_unit_test(test_scrambled_nets),
        cmocka_unit_test(test_scrambling_is_nested),
        cmocka_unit_test(test_points_are_rows),
        cmocka_unit_test(test_haar_diagonal),
        cmocka_unit_test(test_haar_reflections),
        cmocka_unit_test(test_haar_blocks),
        cmocka_unit_test(test_fast_transform),
        cmocka_unit_test(test_sorf_is_its_product),
        cmocka_unit_test(test_toeplitz),
        cmocka_unit_test(test_permutation_of_columns),
        cmocka_unit_test(test_primitives_have_own_streams),
        cmocka_unit_test(test_whitening_of_one_more_row),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_blas, NULL);
}
