/* runtime/math/rng_curand.c against cuRAND's generators for the host, which need no GPU: words and
 * uniform numbers equal, normal numbers within 2 units in the last place; what --rng curand draws,
 * rounded to float, equal. Known numbers hold without the library; the rest is skipped where there
 * is none. Each comparison must find out a mistake too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel/registry.h"
#include "math/draw.h"
#include "math/rng_curand.h"
#include "math/sobol.h"
#include "matrix/recipe.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PSEUDO_PHILOX = 161, QUASI_SOBOL32 = 201, ORDER_LEGACY = 103, JOE_KUO_32 = 101 };
enum { MATRIX_M = 512, MATRIX_D = 16 };
enum { LONG = 3 << 20, SHORT = 3001, POINTS = 5000, MAX_ULP = 2 };

typedef struct curand_state *curand_generator;

typedef struct curand_api {
    int (*version)(int *version);
    int (*create)(curand_generator *g, int type);
    int (*destroy)(curand_generator g);
    int (*seed)(curand_generator g, unsigned long long seed);
    int (*offset)(curand_generator g, unsigned long long offset);
    int (*order)(curand_generator g, int order);
    int (*dimensions)(curand_generator g, unsigned dimensions);
    int (*words)(curand_generator g, uint32_t *out, size_t n);
    int (*uniform)(curand_generator g, float *out, size_t n);
    int (*uniform_double)(curand_generator g, double *out, size_t n);
    int (*normal)(curand_generator g, float *out, size_t n, float mean, float deviation);
    int (*normal_double)(curand_generator g, double *out, size_t n, double mean, double deviation);
    int (*directions)(uint32_t (**v)[SOBOL_BITS], int set);
} curand_api;

static curand_api api;
static void *library;

static void resolve(const char *name, void *function)
{
    *(void **)function = dlsym(library, name);
    if (!*(void **)function)
        fail_msg("%s is missing in the library", name);
}

static int open_library(void **state)
{
    static const char *const names[] = {"libcurand.so.10", "libcurand.so",
                                        "/usr/local/cuda/lib64/libcurand.so.10",
                                        "/usr/local/cuda/lib64/libcurand.so"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names && !library; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        print_message("skipped: no libcurand on this machine, nothing compared with it\n");
        return 0;
    }
    resolve("curandGetVersion", &api.version);
    resolve("curandCreateGeneratorHost", &api.create);
    resolve("curandDestroyGenerator", &api.destroy);
    resolve("curandSetPseudoRandomGeneratorSeed", &api.seed);
    resolve("curandSetGeneratorOffset", &api.offset);
    resolve("curandSetGeneratorOrdering", &api.order);
    resolve("curandSetQuasiRandomGeneratorDimensions", &api.dimensions);
    resolve("curandGenerate", &api.words);
    resolve("curandGenerateUniform", &api.uniform);
    resolve("curandGenerateUniformDouble", &api.uniform_double);
    resolve("curandGenerateNormal", &api.normal);
    resolve("curandGenerateNormalDouble", &api.normal_double);
    resolve("curandGetDirectionVectors32", &api.directions);
    int version = 0;
    assert_int_equal(api.version(&version), 0);
    print_message("cuRAND %d\n", version);
    return 0;
}

static void need_library(void)
{
    if (!library) {
        print_message("skipped: no libcurand on this machine\n");
        skip();
    }
}

static void *numbers(int64_t n, size_t size)
{
    void *x = malloc((size_t)n * size);
    assert_non_null(x);
    memset(x, 0xff, (size_t)n * size); /* NaN */
    return x;
}

static curand_generator philox(uint64_t seed, uint64_t offset)
{
    curand_generator g = NULL;
    assert_int_equal(api.create(&g, PSEUDO_PHILOX), 0);
    assert_int_equal(api.seed(g, seed), 0);
    assert_int_equal(api.order(g, ORDER_LEGACY), 0);
    assert_int_equal(api.offset(g, offset), 0);
    return g;
}

/* Seeds of which both words of the key matter; offsets inside a block, about the end of all
 * subsequences' first blocks, where the lower word of the index ends, and far beyond. */
static const struct {
    uint64_t seed, offset;
    int64_t n;
} cases[] = {
    {0, 0, LONG},
    {1234, 0, LONG},
    {0x123456789abcdef0, 1, LONG},
    {UINT64_MAX, 2, SHORT},
    {7, 3, SHORT},
    {7, 4 * 65536 - 5, SHORT},
    {7, 1000003, SHORT},
    {7, ((uint64_t)1 << 33) - 7, SHORT},
    {1234, ((uint64_t)1 << 50) - 9, SHORT},
    {99, ((uint64_t)1 << 63) + 1, SHORT},
};
enum { CASES = sizeof cases / sizeof *cases };

/* ---- words and uniform numbers --------------------------------------------- */

static void test_words(void **state)
{
    (void)state;
    need_library();
    uint32_t *theirs = numbers(LONG, sizeof *theirs), *ours = numbers(LONG, sizeof *ours);
    for (int i = 0; i < CASES; i++) {
        const int64_t n = cases[i].n;
        curand_generator g = philox(cases[i].seed, cases[i].offset);
        /* in two calls, the second where the first has ended */
        assert_int_equal(api.words(g, theirs, 1001), 0);
        assert_int_equal(api.words(g, theirs + 1001, (size_t)n - 1001), 0);
        api.destroy(g);
        rng_curand_words(cases[i].seed, cases[i].offset, n, ours);
        for (int64_t k = 0; k < n; k++)
            if (ours[k] != theirs[k])
                fail_msg("seed %lu, offset %lu: word %ld is %08x, cuRAND's is %08x",
                         (unsigned long)cases[i].seed, (unsigned long)cases[i].offset, (long)k,
                         ours[k], theirs[k]);
    }
    /* A stream of rng.h has its numbers in another order after the first block. */
    const rng_stream stream = {{1234, 0}, {0, 0}};
    curand_generator g = philox(1234, 0);
    assert_int_equal(api.words(g, theirs, 8), 0);
    api.destroy(g);
    rng_words(&stream, 0, 8, ours);
    assert_memory_equal(ours, theirs, 16);
    assert_memory_not_equal(ours + 4, theirs + 4, 16);
    free(theirs);
    free(ours);
}

/* A stream of rng.h with counter words 2, 3 = s, 0 is cuRAND's subsequence s. */
static void test_subsequences(void **state)
{
    (void)state;
    need_library();
    enum { TURNS = 5 };
    const uint32_t subsequences[] = {0, 1, 777, 65535};
    for (int i = 0; i < 4; i++) {
        const rng_stream stream = {{0x9abcdef0, 0x12345678}, {subsequences[i], 0}};
        uint32_t ours[4 * TURNS], theirs[4];
        rng_words(&stream, 0, 4 * TURNS, ours);
        for (uint64_t turn = 0; turn < TURNS; turn++) {
            curand_generator g = philox(0x123456789abcdef0, 4 * (turn * 65536 + subsequences[i]));
            assert_int_equal(api.words(g, theirs, 4), 0);
            api.destroy(g);
            assert_memory_equal(ours + 4 * turn, theirs, sizeof theirs);
        }
    }
}

static void test_uniform(void **state)
{
    (void)state;
    need_library();
    float *theirs = numbers(LONG, sizeof *theirs), *ours = numbers(LONG, sizeof *ours);
    for (int i = 0; i < CASES; i++) {
        const int64_t n = cases[i].n;
        curand_generator g = philox(cases[i].seed, cases[i].offset);
        assert_int_equal(api.uniform(g, theirs, (size_t)n), 0);
        api.destroy(g);
        rng_curand_uniform(cases[i].seed, cases[i].offset, n, ours);
        for (int64_t k = 0; k < n; k++)
            if (!(ours[k] == theirs[k]))
                fail_msg("seed %lu, offset %lu: number %ld is %a, cuRAND's is %a",
                         (unsigned long)cases[i].seed, (unsigned long)cases[i].offset, (long)k,
                         (double)ours[k], (double)theirs[k]);
    }
    free(theirs);
    free(ours);
}

static void test_uniform_double(void **state)
{
    (void)state;
    need_library();
    double *theirs = numbers(LONG, sizeof *theirs), *ours = numbers(LONG, sizeof *ours);
    for (int i = 0; i < CASES; i++) {
        const int64_t n = cases[i].n;
        curand_generator g = philox(cases[i].seed, cases[i].offset);
        assert_int_equal(api.uniform_double(g, theirs, 1001), 0);
        assert_int_equal(api.uniform_double(g, theirs + 1001, (size_t)n - 1001), 0);
        api.destroy(g);
        rng_curand_uniform_double(cases[i].seed, cases[i].offset, 0, n, ours);
        for (int64_t k = 0; k < n; k++)
            if (!(ours[k] == theirs[k]))
                fail_msg("seed %lu, offset %lu: number %ld is %a, cuRAND's is %a",
                         (unsigned long)cases[i].seed, (unsigned long)cases[i].offset, (long)k,
                         ours[k], theirs[k]);
    }
    free(theirs);
    free(ours);
}

/* ---- normal numbers -------------------------------------------------------- */

/* Units in the last place between a and b: how many numbers of the type lie between them. A NaN is
 * far from all numbers. */
static int64_t ulps(float a, float b)
{
    int32_t x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    if (isnan(a) || isnan(b))
        return INT64_MAX;
    return llabs((x < 0 ? INT32_MIN - (int64_t)x : x) - (y < 0 ? INT32_MIN - (int64_t)y : y));
}

static int64_t ulps_double(double a, double b)
{
    int64_t x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    if (isnan(a) || isnan(b) || (x < 0) != (y < 0))
        return a == b ? 0 : INT64_MAX;
    return llabs(x - y);
}

static void test_normal(void **state)
{
    (void)state;
    need_library();
    float *theirs = numbers(LONG, sizeof *theirs), *ours = numbers(LONG, sizeof *ours);
    int64_t worst = 0, differ = 0, count = 0;
    for (int i = 0; i < CASES; i++) {
        const int64_t n = cases[i].n;
        curand_generator g = philox(cases[i].seed, cases[i].offset);
        assert_int_equal(api.normal(g, theirs, 1001, 0, 1), 0);
        assert_int_equal(api.normal(g, theirs + 1001, (size_t)n - 1001, 0, 1), 0);
        api.destroy(g);
        rng_curand_normal(cases[i].seed, cases[i].offset, n, ours);
        for (int64_t k = 0; k < n; k++) {
            const int64_t error = ulps(ours[k], theirs[k]);
            if (error > MAX_ULP)
                fail_msg("seed %lu, offset %lu: number %ld is %a, cuRAND's is %a",
                         (unsigned long)cases[i].seed, (unsigned long)cases[i].offset, (long)k,
                         (double)ours[k], (double)theirs[k]);
            worst = error > worst ? error : worst;
            differ += error > 0;
            count++;
        }
    }
    print_message("normal, float: %ld of %ld differ, by at most %ld ulp\n", (long)differ,
                  (long)count, (long)worst);
    assert_true(ulps(ours[0], ours[0] * (1 + 0x1p-20f)) > MAX_ULP);
    free(theirs);
    free(ours);
}

static void test_normal_double(void **state)
{
    (void)state;
    need_library();
    double *theirs = numbers(LONG, sizeof *theirs), *ours = numbers(LONG, sizeof *ours);
    int64_t worst = 0, differ = 0, count = 0;
    for (int i = 0; i < CASES; i++) {
        const int64_t n = cases[i].n;
        curand_generator g = philox(cases[i].seed, cases[i].offset);
        assert_int_equal(api.normal_double(g, theirs, (size_t)n, 0, 1), 0);
        api.destroy(g);
        rng_curand_normal_double(cases[i].seed, cases[i].offset, 0, n, ours);
        for (int64_t k = 0; k < n; k++) {
            const int64_t error = ulps_double(ours[k], theirs[k]);
            if (error > MAX_ULP)
                fail_msg("seed %lu, offset %lu: number %ld is %a, cuRAND's is %a",
                         (unsigned long)cases[i].seed, (unsigned long)cases[i].offset, (long)k,
                         ours[k], theirs[k]);
            worst = error > worst ? error : worst;
            differ += error > 0;
            count++;
        }
    }
    print_message("normal, double: %ld of %ld differ, by at most %ld ulp\n", (long)differ,
                  (long)count, (long)worst);
    assert_true(ulps_double(ours[0], ours[0] * (1 + 0x1p-50)) > MAX_ULP);
    free(theirs);
    free(ours);
}

/* ---- Sobol sequences ------------------------------------------------------- */

static void test_sobol_directions(void **state)
{
    (void)state;
    need_library();
    uint32_t(*theirs)[SOBOL_BITS];
    assert_int_equal(api.directions(&theirs, JOE_KUO_32), 0);
    for (int64_t j = 0; j < SOBOL_DIMENSIONS; j++) {
        uint32_t ours[SOBOL_BITS];
        sobol_direction(j, ours);
        assert_memory_equal(ours, theirs[j], sizeof ours);
        assert_memory_not_equal(ours, theirs[j + 1], sizeof ours);
    }
}

static void test_sobol_points(void **state)
{
    (void)state;
    need_library();
    const size_t all = (size_t)SOBOL_DIMENSIONS * POINTS;
    uint32_t *theirs = numbers((int64_t)all, sizeof *theirs), ours[POINTS];
    const uint32_t offsets[] = {0, 1, 0xdeadbeef};
    for (int o = 0; o < 3; o++) {
        curand_generator g = NULL;
        assert_int_equal(api.create(&g, QUASI_SOBOL32), 0);
        assert_int_equal(api.dimensions(g, SOBOL_DIMENSIONS), 0);
        assert_int_equal(api.offset(g, offsets[o]), 0);
        assert_int_equal(api.words(g, theirs, all), 0);
        api.destroy(g);
        for (int64_t j = 0; j < SOBOL_DIMENSIONS; j++) {
            rng_curand_sobol(j, offsets[o], POINTS, ours);
            if (memcmp(ours, theirs + j * POINTS, sizeof ours) != 0)
                fail_msg("offset %u: dimension %ld differs from cuRAND's", offsets[o], (long)j);
        }
    }
    free(theirs);
}

/* How cuRAND makes numbers of these words, as rng_curand.h says. */
static void test_sobol_uniform(void **state)
{
    (void)state;
    need_library();
    enum { D = 8, FIRST = 0x7654321 }; /* words of 27 bits */
    float *single = numbers(D * POINTS, sizeof *single);
    double *wide = numbers(D * POINTS, sizeof *wide);
    uint32_t words[POINTS];
    curand_generator g = NULL;
    assert_int_equal(api.create(&g, QUASI_SOBOL32), 0);
    assert_int_equal(api.dimensions(g, D), 0);
    assert_int_equal(api.offset(g, FIRST), 0);
    assert_int_equal(api.uniform(g, single, D * POINTS), 0);
    assert_int_equal(api.offset(g, FIRST), 0);
    assert_int_equal(api.uniform_double(g, wide, D * POINTS), 0);
    api.destroy(g);
    for (int j = 0; j < D; j++) {
        rng_curand_sobol(j, FIRST, POINTS, words);
        for (int i = 0; i < POINTS; i++) {
            const float expected = (float)words[i] * 0x1p-32f + 0x1p-33f;
            assert_true(single[j * POINTS + i] == expected);
            assert_true(wide[j * POINTS + i] == ((double)words[i] + 1) * 0x1p-32);
        }
    }
    free(single);
    free(wide);
}

/* ---- known numbers --------------------------------------------------------- */

/* Of seed 1234: the words are cuRAND's; all bits of the normal numbers are the same everywhere. */
static uint64_t hash(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    uint64_t h = 0xcbf29ce484222325; /* FNV-1a */
    for (size_t i = 0; i < size; i++)
        h = (h ^ bytes[i]) * 0x100000001b3;
    return h;
}

static void test_known_numbers(void **state)
{
    (void)state;
    enum { N = 1 << 16 };
    static const uint32_t words[8] = {0x2090b348, 0xda7cf0ab, 0x4401906f, 0xcbca470e,
                                      0xd115a128, 0x52fc7c75, 0xc7f33f17, 0x0f1539db};
    uint32_t w[8];
    rng_curand_words(1234, 0, 8, w);
    assert_memory_equal(w, words, sizeof words);
    float *x = numbers(N, sizeof *x);
    double *y = numbers(N, sizeof *y);
    rng_curand_normal(1234, 0, N, x);
    rng_curand_normal_double(1234, 0, 0, N, y);
    assert_true(x[0] == -0x1.9dd252p+0f && x[1] == 0x1.3aa9ecp+0f);
    assert_true(y[0] == -0x1.143cd7d47b537p-1 && y[1] == 0x1.48fa22ccec992p-3);
    assert_true(hash(x, N * sizeof *x) == 0x790d27175d1793c2);
    assert_true(hash(y, N * sizeof *y) == 0x28904c34d0938c1f);
    free(x);
    free(y);
}

static void test_however_cut(void **state)
{
    (void)state;
    enum { N = 2000 };
    static const uint64_t beginnings[] = {0, 4 * 65536 - 1001, ((uint64_t)1 << 50) - 333};
    uint32_t words[N], w;
    float uniform[N], normal[N], x;
    double uniform_double[N], normal_double[N], y;
    for (int b = 0; b < 3; b++) {
        const uint64_t first = beginnings[b];
        rng_curand_words(5, first, N, words);
        rng_curand_uniform(5, first, N, uniform);
        rng_curand_normal(5, first, N, normal);
        rng_curand_uniform_double(5, 77, first, N, uniform_double);
        rng_curand_normal_double(5, 77, first, N, normal_double);
        for (uint64_t i = 0; i < N; i++) {
            rng_curand_words(5, first + i, 1, &w);
            assert_int_equal(w, words[i]);
            rng_curand_uniform(5, first + i, 1, &x);
            assert_true(x == uniform[i] && x > 0 && x <= 1);
            rng_curand_normal(5, first + i, 1, &x);
            assert_true(x == normal[i]);
            rng_curand_uniform_double(5, 77, first + i, 1, &y);
            assert_true(y == uniform_double[i] && y > 0 && y <= 1);
            rng_curand_normal_double(5, 77, first + i, 1, &y);
            assert_true(y == normal_double[i]);
        }
    }
}

/* ---- what the program draws ------------------------------------------------ */

/* Element i of what `number` gives for it against that of cuRAND's generator, float for float. */
static void compare_stream(const draw_stream *s, double (*number)(const draw_stream *s, uint64_t i),
                           const double *theirs, int64_t n)
{
    int64_t equal = 0;
    for (int64_t i = 0; i < n; i++)
        equal += (float)number(s, (uint64_t)i) == (float)theirs[i];
    assert_int_equal(equal, n);
}

/* Streams have the offsets that draw.h says. */
static void test_streams(void **state)
{
    (void)state;
    need_library();
    static const struct {
        rng_use use;
        uint32_t layer, step;
        uint64_t number;
    } streams[] = {{RNG_MATRIX, 0, 0, 0},          {RNG_MATRIX, 0, 2, 2},
                   {RNG_MATRIX, 3, 1, 3 * 64 + 1}, {RNG_MATRIX, 3, DRAW_LEARNER, 3 * 64 + 63},
                   {RNG_INIT, 0, 0, 1 << 30},      {RNG_INIT, 17, 0, (1 << 30) + 17}};
    double *theirs = numbers(SHORT, sizeof *theirs);
    for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++) {
        const uint64_t seed = 42 + i, offset = streams[i].number << 32;
        const draw_stream s =
            draw_open(SPECTRA_RNG_CURAND, seed, streams[i].use, streams[i].layer, streams[i].step);
        curand_generator g = philox(seed, offset);
        assert_int_equal(api.normal_double(g, theirs, SHORT - 1, 0, 1), 0);
        compare_stream(&s, draw_normal, theirs, SHORT - 1);
        assert_int_equal(api.offset(g, offset), 0);
        assert_int_equal(api.uniform_double(g, theirs, SHORT), 0);
        compare_stream(&s, draw_uniform, theirs, SHORT);
        uint32_t word[8];
        assert_int_equal(api.offset(g, offset + ((uint64_t)1 << 31)), 0);
        assert_int_equal(api.words(g, word, 8), 0);
        api.destroy(g);
        for (uint64_t k = 0; k < 8; k++)
            assert_int_equal(draw_word(&s, k), word[k]);
        assert_int_equal(draw_below(&s, 3, (uint64_t)1 << 32), word[7]);
    }
    free(theirs);
}

static void test_normal_matrix(void **state)
{
    (void)state;
    need_library();
    enum { M = 128, D = 32 };
    static float w[M * D];
    double *theirs = numbers(M * D, sizeof *theirs);
    const matrix_info *gaus;
    assert_int_equal(registry_matrix("gaus", &gaus), SPECTRA_OK);
    for (int64_t layer = 0; layer < 3; layer++) {
        const matrix_draw draw = {7, layer, SPECTRA_RNG_CURAND};
        assert_int_equal(sample_matrix(gaus, M, D, draw, w, NULL), SPECTRA_OK);
        curand_generator g = philox(7, (uint64_t)(64 * layer) << 32);
        assert_int_equal(api.normal_double(g, theirs, (size_t)M * D, 0, 1), 0);
        api.destroy(g);
        for (int i = 0; i < M * D; i++)
            assert_true(w[i] == (float)theirs[i]);
    }
    free(theirs);
}

/* Mean of the columns and of the squares, the first over 5 standard errors of a normal matrix. */
static void check_moments(const char *name, const double *mean, double square, int64_t rows)
{
    for (int j = 0; j < MATRIX_D; j++)
        if (!(fabs(mean[j]) < 5 / sqrt((double)rows)))
            fail_msg("%s: column %d has mean %g", name, j, mean[j]);
    if (!(fabs(square - 1) < 0.1))
        fail_msg("%s: second moments of %g, expected is 1", name, square);
}

/* Every matrix can be drawn, is another than that of our streams, and has rows of mean 0 and second
 * moments I, whichever generator is asked. */
static void test_every_matrix(void **state)
{
    (void)state;
    enum { DRAWS = 8, ALL = DRAWS * MATRIX_M };
    static float w[2][MATRIX_M * MATRIX_D], weight[MATRIX_M];
    for (const matrix_info *info = generated_matrices; info->name; info++) {
        double square[2] = {0}, mean[2][MATRIX_D] = {{0}};
        for (int i = 0; i < 2 * DRAWS; i++) {
            const int kind = i % 2;
            const matrix_draw draw = {(uint64_t)i / 2, 1,
                                      kind ? SPECTRA_RNG_CURAND : SPECTRA_RNG_PHILOX};
            assert_int_equal(sample_matrix(info, MATRIX_M, MATRIX_D, draw, w[kind], weight),
                             SPECTRA_OK);
            for (int k = 0; k < MATRIX_M * MATRIX_D; k++) {
                const double x = (double)w[kind][k], share = (double)weight[k / MATRIX_D] / ALL;
                square[kind] += share * x * x / MATRIX_D;
                mean[kind][k % MATRIX_D] += share * x;
            }
            if (kind && memcmp(w[0], w[1], sizeof w[0]) == 0)
                fail_msg("%s: both generators give the same matrix", info->name);
        }
        for (int kind = 0; kind < 2; kind++)
            check_moments(info->name, mean[kind], square[kind], ALL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_numbers),
        cmocka_unit_test(test_however_cut),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_subsequences),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_uniform_double),
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_normal_double),
        cmocka_unit_test(test_sobol_directions),
        cmocka_unit_test(test_sobol_points),
        cmocka_unit_test(test_sobol_uniform),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_normal_matrix),
        cmocka_unit_test(test_every_matrix),
    };
    return cmocka_run_group_tests(tests, open_library, NULL);
}
