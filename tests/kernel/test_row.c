/* Row operators in every instruction set of this machine against their formulas in double, written
 * out here: awkward lengths, strided rows with canaries between them, shared inputs, accumulation,
 * gradients that are not wanted, outputs in place of inputs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel/registry.h"
#include "support/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 3, MAX_N = 200, GAP = 5, MAX_LD = MAX_N + GAP, BUFFER = ROWS * MAX_LD };

static const float canary = 42.5F;
static const int64_t lengths[] = {1, 7, 63, 64, 65, 200};
enum { LENGTHS = sizeof lengths / sizeof lengths[0] };

/* One row in double: inputs x, constants c, outputs y; gradients gy of outputs, gx of inputs (of
 * this row alone). A shared input is passed like any other. */
typedef struct row_data {
    int64_t n;
    double x[4][MAX_N], c[ROW_MAX], y[3][MAX_N], gy[MAX_N], gx[4][MAX_N];
} row_data;

static double phi_cdf(double z)
{
    return 0.5 * (1 + erf(z / sqrt(2)));
}

static double phi_density(double z)
{
    return exp(-z * z / 2) / sqrt(2 * 3.14159265358979323846);
}

static void layernorm(row_data *r)
{
    const double n = (double)r->n;
    double mean = 0, variance = 0, g1 = 0, g2 = 0;
    for (int64_t i = 0; i < r->n; i++)
        mean += r->x[0][i] / n;
    for (int64_t i = 0; i < r->n; i++)
        variance += (r->x[0][i] - mean) * (r->x[0][i] - mean) / n;
    const double rstd = 1 / sqrt(variance + r->c[0]);
    for (int64_t i = 0; i < r->n; i++) {
        const double xhat = (r->x[0][i] - mean) * rstd, g = r->gy[i] * r->x[1][i];
        r->y[0][i] = xhat * r->x[1][i] + r->x[2][i];
        r->gx[1][i] = r->gy[i] * xhat;
        r->gx[2][i] = r->gy[i];
        g1 += g / n;
        g2 += g * xhat / n;
    }
    for (int64_t i = 0; i < r->n; i++) {
        const double xhat = (r->x[0][i] - mean) * rstd;
        r->gx[0][i] = rstd * (r->gy[i] * r->x[1][i] - g1 - xhat * g2);
    }
}

static void gelu(row_data *r)
{
    for (int64_t i = 0; i < r->n; i++) {
        const double z = r->x[0][i] + r->x[1][i], keep = r->x[2][i];
        r->y[0][i] = z * phi_cdf(z) * keep;
        r->gx[0][i] = r->gx[1][i] = r->gy[i] * keep * (phi_cdf(z) + z * phi_density(z));
        r->gx[2][i] = r->gy[i] * z * phi_cdf(z);
    }
}

static void relu(row_data *r)
{
    for (int64_t i = 0; i < r->n; i++) {
        const double z = r->x[0][i] + r->x[1][i];
        r->y[0][i] = z > 0 ? z : 0;
        r->gx[0][i] = r->gx[1][i] = z > 0 ? r->gy[i] : 0;
    }
}

static void dropout_residual(row_data *r)
{
    for (int64_t i = 0; i < r->n; i++) {
        r->y[0][i] = r->x[0][i] + (r->x[1][i] + r->x[2][i]) * r->x[3][i];
        r->gx[0][i] = r->gy[i];
        r->gx[1][i] = r->gx[2][i] = r->gy[i] * r->x[3][i];
        r->gx[3][i] = r->gy[i] * (r->x[1][i] + r->x[2][i]);
    }
}

static void cross_entropy(row_data *r)
{
    const int64_t label = (int64_t)r->x[1][0];
    double total = 0, top = -INFINITY;
    for (int64_t i = 0; i < r->n; i++)
        top = fmax(top, r->x[0][i]);
    for (int64_t i = 0; i < r->n; i++)
        total += exp(r->x[0][i] - top);
    r->y[0][0] = log(total) + top - r->x[0][label];
    for (int64_t i = 0; i < r->n; i++)
        r->gx[0][i] = r->gy[0] * (exp(r->x[0][i] - top) / total - (i == label));
}

/* c: lr, beta1, beta2, eps, weight_decay, correction1, correction2, clip */
static void adamw(row_data *r)
{
    const double *c = r->c;
    for (int64_t i = 0; i < r->n; i++) {
        const double g = fmin(fmax(r->x[1][i], -c[7]), c[7]);
        r->y[1][i] = c[1] * r->x[2][i] + (1 - c[1]) * g;
        r->y[2][i] = c[2] * r->x[3][i] + (1 - c[2]) * g * g;
        r->y[0][i] = r->x[0][i] * (1 - c[0] * c[4]) -
                     c[0] / c[5] * r->y[1][i] / (sqrt(r->y[2][i]) / c[6] + c[3]);
    }
}

/* Arguments: r a row, s a row shared by all, o one number, i a class number, v a row >= 0. */
typedef struct row_case {
    const char *name, *in, *out;
    void (*reference)(row_data *);
    double c[ROW_MAX];
} row_case;

static const row_case cases[] = {
    {"layernorm", "rss", "r", layernorm, {1e-5}},
    {"gelu", "rsr", "r", gelu, {0}},
    {"relu", "rs", "r", relu, {0}},
    {"dropout_residual", "rrsr", "r", dropout_residual, {0}},
    {"cross_entropy", "ri", "o", cross_entropy, {0}},
    {"adamw", "rrrv", "rrr", adamw, {0.01, 0.9, 0.999, 1e-6, 0.02, 0.19, 0.0447, 1}},
};

/* An operator's arguments on buffers full of canaries, and what they should become. */
typedef struct row_run {
    const row_op *op;
    const row_case *c;
    row_args a;
    float in[4][BUFFER], out[3][BUFFER], gout[BUFFER], gin[4][BUFFER];
    row_data want[ROWS];
} row_run;

static int64_t width(char kind, int64_t n)
{
    return kind == 'o' || kind == 'i' ? 1 : n;
}

static int64_t stride(char kind, int64_t n)
{
    return kind == 's' ? 0 : kind == 'o' || kind == 'i' ? 1 : n + GAP;
}

static void fill(float *x, float value)
{
    for (int i = 0; i < BUFFER; i++)
        x[i] = value;
}

/* Every row of x (ld, w) becomes `value`; what lies between stays. */
static void fill_rows(float *x, int64_t ld, int64_t w, float value)
{
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t i = 0; i < w; i++)
            x[r * ld + i] = value;
}

static double sample(oracle_rng *r, char kind, int64_t n)
{
    const double x = oracle_normal(r);
    return kind == 'v' ? x * x : kind == 'i' ? (double)(oracle_bits(r) % (uint64_t)n) : x;
}

static void run_open(row_run *k, const row_op *op, const row_case *c, int64_t n)
{
    oracle_rng r = {(uint64_t)n};
    memset(k, 0, sizeof *k);
    k->op = op, k->c = c;
    k->a = (row_args){.rows = ROWS, .n = n};
    for (int i = 0; i < ROW_MAX; i++)
        k->a.c[i] = (real)c->c[i];
    for (int i = 0; c->in[i]; i++) {
        const int64_t w = width(c->in[i], n), ld = stride(c->in[i], n);
        fill(k->in[i], canary);
        fill(k->gin[i], canary);
        for (int64_t row = 0; row < (ld ? ROWS : 1); row++)
            for (int64_t j = 0; j < w; j++)
                k->in[i][row * ld + j] = (float)sample(&r, c->in[i], n);
        k->a.in[i] = k->in[i];
        k->a.ld_in[i] = k->a.ld_gin[i] = ld;
    }
    for (int i = 0; c->out[i]; i++) {
        k->a.out[i] = k->out[i];
        k->a.ld_out[i] = stride(c->out[i], n);
        fill(k->out[i], canary);
        fill_rows(k->out[i], k->a.ld_out[i], width(c->out[i], n), NAN);
    }
    fill(k->gout, canary);
    k->a.gout[0] = k->gout;
    k->a.ld_gout[0] = stride(c->out[0], n);
    for (int64_t row = 0; row < ROWS; row++)
        for (int64_t j = 0; j < width(c->out[0], n); j++)
            k->gout[row * k->a.ld_gout[0] + j] = (float)oracle_normal(&r);
}

/* What the rows should give, from the inputs as they are. */
static void run_reference(row_run *k)
{
    for (int64_t row = 0; row < ROWS; row++) {
        row_data *d = &k->want[row];
        d->n = k->a.n;
        for (int i = 0; i < ROW_MAX; i++)
            d->c[i] = (double)k->a.c[i];
        for (int i = 0; k->c->in[i]; i++)
            for (int64_t j = 0; j < width(k->c->in[i], k->a.n); j++)
                d->x[i][j] = (double)k->in[i][row * k->a.ld_in[i] + j];
        for (int64_t j = 0; j < width(k->c->out[0], k->a.n); j++)
            d->gy[j] = (double)k->gout[row * k->a.ld_gout[0] + j];
        k->c->reference(d);
    }
}

static void describe(const row_run *k, char *buf, size_t size)
{
    snprintf(buf, size, "%s, %s, n = %d", k->c->name, registry_isa_name(k->op->isa), (int)k->a.n);
}

static void check_near(const row_run *k, const char *what, int argument, int64_t row, int64_t j,
                       float got, double want, double scale)
{
    char text[96];
    describe(k, text, sizeof text);
    if (!(fabs((double)got - want) <= 2e-5 * scale + 2e-6))
        fail_msg("%s: %s %d, row %d, element %d is %.8g, want %.8g", text, what, argument, (int)row,
                 (int)j, (double)got, want);
}

/* Everything but the rows' own elements is still a canary. */
static void check_canaries(const row_run *k, const char *what, const float *x, int64_t ld,
                           int64_t w)
{
    const int64_t rows = ld ? ROWS : 1, span = ld ? ld : w;
    char text[96];
    describe(k, text, sizeof text);
    for (int64_t i = 0; i < BUFFER; i++) {
        const bool ours = i / span < rows && i % span < w;
        if (!ours && x[i] != canary)
            fail_msg("%s: %s: element %d outside the rows was written", text, what, (int)i);
    }
}

static void check_outputs(const row_run *k)
{
    for (int i = 0; k->c->out[i]; i++) {
        const int64_t w = width(k->c->out[i], k->a.n), ld = k->a.ld_out[i];
        double scale = 0;
        for (int64_t row = 0; row < ROWS; row++)
            for (int64_t j = 0; j < w; j++)
                scale = fmax(scale, fabs(k->want[row].y[i][j]));
        for (int64_t row = 0; row < ROWS; row++)
            for (int64_t j = 0; j < w; j++)
                check_near(k, "output", i, row, j, k->a.out[i][row * ld + j], k->want[row].y[i][j],
                           scale);
        check_canaries(k, "output", k->out[i], ld, w);
    }
}

/* before: what stood in the gradients of shared inputs, and of those whose bit of `add` is set. */
static void check_gradients(const row_run *k, double before)
{
    const int64_t n = k->a.n;
    for (int i = 0; k->c->in[i]; i++) {
        const int64_t w = width(k->c->in[i], n), ld = k->a.ld_gin[i];
        const bool added = ld == 0 || (k->a.add >> i & 1);
        if (!k->a.gin[i])
            continue;
        for (int64_t row = 0; row < (ld ? ROWS : 1); row++)
            for (int64_t j = 0; j < w; j++) {
                double want = added ? before : 0, scale = 1;
                for (int64_t from = row; from < (ld ? row + 1 : ROWS); from++) {
                    want += k->want[from].gx[i][j];
                    scale += fabs(k->want[from].gx[i][j]);
                }
                check_near(k, "gradient", i, row, j, k->gin[i][row * ld + j], want, scale);
            }
        check_canaries(k, "gradient", k->gin[i], ld, w);
    }
}

/* Gradients of the inputs whose bit of `wanted` is set; label gradients never. */
static void run_backward(row_run *k, unsigned wanted, unsigned add, float before)
{
    for (int i = 0; k->c->in[i]; i++) {
        const bool give = k->c->in[i] != 'i' && (wanted >> i & 1);
        const bool keeps = k->a.ld_gin[i] == 0 || (add >> i & 1);
        const int64_t w = width(k->c->in[i], k->a.n);
        k->a.gin[i] = give ? k->gin[i] : NULL;
        fill(k->gin[i], canary);
        fill_rows(k->gin[i], k->a.ld_gin[i], w, keeps ? before : NAN);
    }
    k->a.add = add;
    k->op->bwd(&k->a);
    check_gradients(k, (double)before);
}

/* Calls check for every operator, instruction set and length. */
static void for_each(void (*check)(row_run *))
{
    static row_run k;
    int seen = 0;
    for (const row_op *op = generated_rows; op->name; op++) {
        size_t i = 0, count = sizeof cases / sizeof cases[0];
        while (i < count && strcmp(cases[i].name, op->name) != 0)
            i++;
        if (i == count)
            fail_msg("row operator '%s' is not in the table of this test", op->name);
        seen |= 1 << i;
        for (int j = 0; j < LENGTHS && op->isa <= registry_isa(); j++) {
            run_open(&k, op, &cases[i], lengths[j]);
            run_reference(&k);
            check(&k);
        }
    }
    assert_int_equal(seen, (1 << sizeof cases / sizeof cases[0]) - 1);
}

static void check_forward(row_run *k)
{
    k->op->fwd(&k->a);
    check_outputs(k);
}

static void check_backward(row_run *k)
{
    if (!k->op->bwd)
        return;
    for (int i = 0; k->c->out[i]; i++)
        fill_rows(k->out[i], k->a.ld_out[i], width(k->c->out[i], k->a.n), NAN);
    run_backward(k, ~0U, 0, 0); /* all, written, and the outputs again */
    if (k->c->out[0] == 'r')
        check_outputs(k);
    memset(k->a.out, 0, sizeof k->a.out);
    run_backward(k, ~0U, 0, 0);
    run_backward(k, ~0U, 0, 1.5F);    /* shared ones are added to */
    run_backward(k, ~0U, ~0U, -0.5F); /* all are added to */
    for (unsigned i = 0; k->c->in[i]; i++) {
        run_backward(k, 1U << i, 0, 0.5F);       /* one alone */
        run_backward(k, ~0U, 1U << i, 0.25F);    /* one added to */
        run_backward(k, ~(1U << i), 1U << i, 1); /* one left out */
    }
    run_backward(k, 0, 0, 0);
}

/* Outputs over the inputs they have the shape of. */
static void check_in_place(row_run *k)
{
    static const struct {
        const char *name;
        int from[3];
    } pairs[] = {{"adamw", {0, 2, 3}},
                 {"gelu", {0}},
                 {"relu", {0}},
                 {"layernorm", {0}},
                 {"dropout_residual", {0}},
                 {"dropout_residual", {1}}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        if (strcmp(pairs[i].name, k->c->name) != 0)
            continue;
        static float before[4][BUFFER];
        memcpy(before, k->in, sizeof before);
        for (int o = 0; k->c->out[o]; o++)
            k->a.out[o] = k->in[pairs[i].from[o]];
        k->op->fwd(&k->a);
        check_outputs(k);
        memcpy(k->in, before, sizeof before);
    }
}

static void test_forward(void **state)
{
    (void)state;
    for_each(check_forward);
}

static void test_backward(void **state)
{
    (void)state;
    for_each(check_backward);
}

static void test_in_place(void **state)
{
    (void)state;
    for_each(check_in_place);
}

static void check_extremes(row_run *k)
{
    const float scores[] = {3e38F, -3e38F, 1e4F, -1e4F};
    if (strcmp(k->c->name, "cross_entropy") == 0) {
        for (int64_t row = 0; row < ROWS; row++)
            for (int64_t j = 0; j < k->a.n; j++)
                k->in[0][row * k->a.ld_in[0] + j] = scores[2 + j % 2];
        run_reference(k);
        k->op->fwd(&k->a);
        check_outputs(k);
        run_backward(k, 1, 0, 0);
    }
    if (strcmp(k->c->name, "gelu") == 0) { /* far from 0 it is x or 0, never a NaN */
        for (int64_t j = 0; j < k->a.n; j++)
            k->in[0][j] = scores[j % 2] / 1e10F;
        run_reference(k);
        k->op->fwd(&k->a);
        for (int64_t j = 0; j < k->a.n; j++)
            check_near(k, "output", 0, 0, j, k->out[0][j], k->want[0].y[0][j],
                       fabs(k->want[0].y[0][j]));
    }
    if (strcmp(k->c->name, "adamw") == 0) { /* divergence must show */
        k->in[1][0] = NAN;
        k->op->fwd(&k->a);
        assert_true(isnan(k->out[0][0]));
    }
}

static void test_extremes(void **state)
{
    (void)state;
    for_each(check_extremes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_backward),
        cmocka_unit_test(test_in_place),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
