/* The model's matrix products in every instruction set of this machine against sums in double: any
 * number of rows, canaries around results, rows that do not depend on their neighbours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel/registry.h"
#include "support/oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 1000, MAX_N = 192, GAP = 16 };

static const int64_t row_counts[] = {0, 1, 7, 12, 63, 64, 65, 120, MAX_ROWS};
static const int64_t shapes[][2] = {{16, 16}, {64, 192}, {128, 64}, {48, 80}};
static const float canary = 42.5F;
static float x[MAX_ROWS * MAX_N], y[MAX_ROWS * MAX_N + GAP], a[MAX_ROWS * MAX_N];
static float b[MAX_N * MAX_N + GAP], bias[MAX_N], other[12 * MAX_N];

static void draw(oracle_rng *r, float *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = (float)oracle_normal(r);
}

/* Every instruction set, number of rows and shape. */
static void for_each(void (*check)(const product_ops *ops, int64_t rows, int64_t in, int64_t out))
{
    for (const product_row *row = generated_products; row->ops; row++)
        for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; i++)
            for (size_t j = 0; j < sizeof shapes / sizeof *shapes && row->isa <= registry_isa();
                 j++)
                check(row->ops, row_counts[i], shapes[j][0], shapes[j][1]);
}

/* got = start + sum of n products, the k-th of left[k ls] and right[k rs]. */
static void check_sum(float got, double start, int64_t n, const float *left, int64_t ls,
                      const float *right, int64_t rs)
{
    double want = start, scale = 1;
    for (int64_t k = 0; k < n; k++) {
        const double term = (double)left[k * ls] * (double)right[k * rs];
        want += term;
        scale += fabs(term);
    }
    assert_true(fabs((double)got - want) <= 1e-6 * scale);
}

static void check_mul(const product_ops *ops, int64_t rows, int64_t in, int64_t out)
{
    oracle_rng r = {(uint64_t)(rows + in)};
    draw(&r, x, rows * in);
    draw(&r, b, in * out);
    draw(&r, bias, out);
    for (int with = 0; with < 2; with++) {
        for (int64_t i = 0; i < rows * out; i++)
            y[i] = NAN;
        y[rows * out] = canary;
        ops->mul(rows, in, out, x, b, with ? bias : NULL, y);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t o = 0; o < out; o++)
                check_sum(y[i * out + o], with ? (double)bias[o] : 0, in, x + i * in, 1, b + o,
                          out);
        assert_true(y[rows * out] == canary);
    }
}

static void check_rank(const product_ops *ops, int64_t rows, int64_t in, int64_t out)
{
    oracle_rng r = {(uint64_t)(rows * in)};
    draw(&r, a, rows * out);
    draw(&r, x, rows * in);
    for (int64_t i = 0; i < in * out; i++)
        b[i] = 0.5F;
    b[in * out] = canary;
    ops->rank(rows, in, out, a, x, b);
    for (int64_t o = 0; o < out; o++)
        for (int64_t k = 0; k < in; k++)
            check_sum(b[o * in + k], 0.5, rows, a + o, out, x + k, in);
    assert_true(b[in * out] == canary);
}

/* The last rows of a call have the bits they have as rows of a larger one. */
static void check_alone(const product_ops *ops, int64_t rows, int64_t in, int64_t out)
{
    oracle_rng r = {(uint64_t)rows};
    draw(&r, x, rows * in);
    draw(&r, b, in * out);
    ops->mul(rows, in, out, x, b, NULL, y);
    for (int64_t n = 1; n <= 12 && n <= rows; n++) {
        ops->mul(n, in, out, x + (rows - n) * in, b, NULL, other);
        assert_memory_equal(other, y + (rows - n) * out, (size_t)(n * out) * sizeof *other);
    }
}

static void test_mul(void **state)
{
    (void)state;
    for_each(check_mul);
}

static void test_rank(void **state)
{
    (void)state;
    for_each(check_rank);
}

static void test_rows_stand_alone(void **state)
{
    (void)state;
    for_each(check_alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mul),
        cmocka_unit_test(test_rank),
        cmocka_unit_test(test_rows_stand_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
