/* Accuracy of vec.h's float functions in units of the last place, against long double, one program
 * an instruction set. The bounds are those vec.h states. */
#define FEATURE_ID ulp
#include "vec.h"

#include "base/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

enum { STEPS = 2000000 };

static const cpu_level level = VEC_BYTES == 64   ? CPU_AVX512
                               : VEC_BYTES == 32 ? CPU_AVX2
                                                 : CPU_PORTABLE;

static double ulps(float got, long double want)
{
    float rounded = (float)want;
    if (got == rounded)
        return 0;
    int exponent;
    frexpf(rounded, &exponent);
    long double unit = ldexpl(1, (exponent > -125 ? exponent : -125) - 24);
    return (double)(fabsl((long double)got - want) / unit);
}

typedef struct function {
    const char *name;
    vec (*f)(vec);
    long double (*exact)(long double);
    double from, to, bound; /* x runs over [from, to] */
} function;

static vec call_exp(vec x)
{
    return v_exp(x);
}
static vec call_log(vec x)
{
    return v_log(x);
}
static vec call_sin(vec x)
{
    return v_sin(x);
}
static vec call_cos(vec x)
{
    return v_cos(x);
}
static vec call_erf(vec x)
{
    return v_erf(x);
}
static vec call_sqrt(vec x)
{
    return v_sqrt(x);
}

static const function functions[] = {
    {"exp", call_exp, expl, -86.5, 88, 2},
    {"exp", call_exp, expl, -1, 1, 2},
    {"log", call_log, logl, 1e-6, 4, 2},
    {"log", call_log, logl, 4, 1e30, 2},
    {"sin", call_sin, sinl, -1.5, 1.5, 2},
    {"cos", call_cos, cosl, -1.5, 1.5, 2},
    {"erf", call_erf, erfl, -5, 5, 4},
    {"erf", call_erf, erfl, -1e-3, 1e-3, 4},
    {"sqrt", call_sqrt, sqrtl, 1e-30, 1e30, 0.5},
};

static void test_ulp(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof functions / sizeof functions[0]; k++) {
        const function *f = &functions[k];
        double worst = 0, at = 0;
        for (int64_t i = 0; i < STEPS; i += VL) {
            vec x, y;
            for (int j = 0; j < VL; j++)
                x[j] = (float)(f->from + (f->to - f->from) * (double)(i + j) / STEPS);
            y = f->f(x);
            for (int j = 0; j < VL; j++) {
                double off = ulps(y[j], f->exact((long double)x[j]));
                if (!(off <= worst))
                    worst = off, at = (double)x[j];
            }
        }
        printf("%-5s [%g, %g]: %.2f ulp at %.9g\n", f->name, f->from, f->to, worst, at);
        if (!(worst <= f->bound))
            fail_msg("%s: %.2f ulp at %.9g, allowed %.1f", f->name, worst, at, f->bound);
    }
}

/* Of larger angles the error is absolute: what is left after subtracting multiples of pi/2. */
static void test_angles(void **state)
{
    (void)state;
    for (int64_t i = -100000; i < 100000; i += VL) {
        vec x;
        for (int j = 0; j < VL; j++)
            x[j] = (float)((double)(i + j) * 0.0999);
        vec s = v_sin(x), c = v_cos(x);
        for (int j = 0; j < VL; j++) {
            assert_true(fabs((double)s[j] - sin((double)x[j])) <= 1.2e-7);
            assert_true(fabs((double)c[j] - cos((double)x[j])) <= 1.2e-7);
        }
    }
}

static void test_limits(void **state)
{
    (void)state;
    const float inf = INFINITY;
    assert_true(v_exp(vset(-inf))[0] == 0);
    assert_true(v_exp(vset(-1e30F))[0] == 0);
    assert_true(isinf(v_exp(vset(100))[0]) && isinf(v_exp(vset(inf))[0]));
    assert_true(isnan(v_exp(vset(NAN))[0]));
    assert_true(v_exp(vset(0))[0] == 1);
    assert_true(v_erf(vset(10))[0] == 1 && v_erf(vset(-10))[0] == -1 && v_erf(vset(0))[0] == 0);
    assert_true(v_max(vset(1), vset(2))[0] == 2 && v_min(vset(1), vset(2))[0] == 1);
    assert_true(v_lt(vset(1), vset(2))[0] == 1 && v_lt(vset(2), vset(1))[0] == 0);
    assert_true(v_where(vset(1), vset(3), vset(4))[0] == 3);
    assert_true(v_where(vset(0), vset(3), vset(4))[0] == 4);
    assert_true(v_abs(vset(-3))[0] == 3);
}

/* vec_exp_falling states a relative error instead; what it must give exactly, attention relies on.
 */
static void test_falling(void **state)
{
    (void)state;
    for (int64_t i = 0; i < STEPS; i++) {
        float x = (float)(-86.5 * (double)i / STEPS);
        double got = (double)vec_exp_falling(vset(x))[0], want = exp((double)x);
        assert_true(fabs(got - want) <= (1e-7 - 1.4e-8 * (double)x) * want);
    }
    assert_true(vec_exp_falling(vset(0))[0] == 1 && vec_exp_falling(vset(-INFINITY))[0] == 0);
    assert_true(vec_exp_falling(vset(-1e30F))[0] == 0 && isnan(vec_exp_falling(vset(NAN))[0]));
}

static void test_coarse(void **state)
{
    (void)state;
    for (int64_t i = 0; i < STEPS; i++) {
        float x = (float)(-86.5 * (double)i / STEPS);
        double got = (double)vec_exp_coarse(vset(x))[0], want = exp((double)x);
        assert_true(fabs(got - want) <= 1.1e-4 * want);
    }
    assert_true(vec_exp_coarse(vset(0))[0] == 1 && vec_exp_coarse(vset(-INFINITY))[0] == 0);
    assert_true(vec_exp_coarse(vset(-1e30F))[0] == 0 && isnan(vec_exp_coarse(vset(NAN))[0]));
}

/* Low and high half of a lane as numbers. */
static float half_of(vec pair, int lane, int which)
{
    uint32_t bits = ((uvec)pair)[lane];
    bits = which ? bits & 0xffff0000U : bits << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To the nearest number of 8 bits, ties to even, infinity beyond the largest. */
static void test_pairs(void **state)
{
    (void)state;
#if VEC_BYTES == 64
    if (!cpu_has_bf16())
        skip();
#endif
    static const struct {
        float x, rounded;
    } cases[] = {{1, 1},
                 {-1, -1},
                 {0x1.01p0F, 0x1p0F},
                 {0x1.03p0F, 0x1.04p0F},
                 {0x1.011p0F, 0x1.02p0F},
                 {-0x1.03p9F, -0x1.04p9F},
                 {0x1.fffp5F, 0x1p6F},
                 {0, 0},
                 {INFINITY, INFINITY},
                 {0x1.fffp127F, INFINITY}};
    enum { CASES = sizeof cases / sizeof cases[0] };
    vec a, b, numbers[2];
    for (int i = 0; i < VL; i++) {
        a[i] = cases[i % CASES].x, b[i] = cases[(i + 3) % CASES].x;
        numbers[0][i] = (float)i, numbers[1][i] = (float)(VL + i);
    }
    const vec pair = vec_pair(a, b), next = vec_pair_neighbours(numbers[0], numbers[1]);
    for (int i = 0; i < VL; i++) {
        assert_true(half_of(pair, i, 0) == cases[i % CASES].rounded);
        assert_true(half_of(pair, i, 1) == cases[(i + 3) % CASES].rounded);
        assert_true(half_of(next, i, 0) == (float)(2 * i));
        assert_true(half_of(next, i, 1) == (float)(2 * i + 1));
    }
    assert_true(isnan(half_of(vec_pair(vset(NAN), vset(1)), 0, 0)));
    const vec dot = vec_dot(vset(0.5F), next, vec_pair(vset(3), vset(-5)));
    for (int i = 0; i < VL; i++)
        assert_true(dot[i] == 0.5F + 3 * (float)(2 * i) - 5 * (float)(2 * i + 1));
}

static void test_parts(void **state)
{
    (void)state;
    float from[VL + 1], to[VL + 1];
    for (int i = 0; i <= VL; i++)
        from[i] = (float)(i + 1);
    for (int n = 0; n < VL; n++) {
        for (int i = 0; i <= VL; i++)
            to[i] = -1;
        vec x = vloadn(from, n);
        for (int i = 0; i < VL; i++)
            assert_true(x[i] == (i < n ? from[i] : 0));
        vstoren(to, vset(7), n);
        for (int i = 0; i <= VL; i++)
            assert_true(to[i] == (i < n ? 7 : -1));
    }
    assert_true(vsum(vload(from)) == VL * (VL + 1) / 2.0F && vhmax(vload(from)) == VL);
}

int main(void)
{
    if (level > cpu_best()) {
        printf("skipped: this CPU has no %s\n0 passed, 0 failed, 1 skipped\n",
               cpu_level_name(level));
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ulp),    cmocka_unit_test(test_angles),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_falling),
        cmocka_unit_test(test_coarse), cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
