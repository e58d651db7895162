/* Generated kernels on a device against the CPU's: row operators with their backward passes,
 * component functions in float and in double; their texts against the generator's; products against
 * double.
 */
#include "device/device_case.h"
#include "support/program.h"

#include "attention/performer/device_features.h"
#include "base/bytes.h"
#include "device/emulator/emulator.h"
#include "kernel/generate.h"
#include "kernel/programs.h"
#include "kernel/registry.h"
#include "support/attend.h"
#include "support/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* the kernels' numbers are float here */
#include "../templates/cuda/args.h"

static void check_near(const char *name, const char *what, int64_t i, double got, double want,
                       double tolerance)
{
    if (!(fabs(got - want) <= tolerance) && got != want)
        fail_msg("%s: %s %lld is %.9g, want %.9g", name, what, (long long)i, got, want);
}

/* Launches of the emulator in another order, checked for races. */
static void checked(void)
{
    device_emulate(
        dev, &(emulator_options){.order = EMULATOR_RANDOM, .seed = 9, .check_races = true}, true);
}

/* ---- row operators ----------------------------------------------------------------------------
 */

enum {
    ROWS = 11,
    MAX_N = 200,
    BUFFER = ROWS * (MAX_N + 8),
    BLOCKS = 3,
    THREADS = 64,
    PARTS = BLOCKS * THREADS / 4, /* at most: 4 threads a row */
    SHARED_INPUTS = 2,
    BITS_LD = (MAX_N + 127) / 128 * 16
};
static const float keep_factor = 1.25F;

/* What a text is compiled for: rows of n or of any length, so many elements at once. */
typedef struct row_text {
    int64_t n; /* 0: any */
    int unit;
    bool full; /* only where all cases are asked for */
} row_text;

/* Arguments: r a row, s a row shared by all, o one number, i a class number, v a row >= 0, k
 * factors of dropout, bits for the device. */
typedef struct row_case {
    const char *name, *in, *out;
    float c[ROW_MAX];
} row_case;

static const row_case rows[] = {
    {"layernorm", "rss", "r", {1e-5F}},
    {"gelu", "rsk", "r", {0}},
    {"relu", "rs", "r", {0}},
    {"dropout_residual", "rrsk", "r", {0}},
    {"cross_entropy", "ri", "o", {0}},
    {"adamw", "rrrv", "rrr", {0.01F, 0.9F, 0.999F, 1e-6F, 0.02F, 0.19F, 0.0447F, 1}},
};

/* Everything that an operator reads and writes, here and at `there` on the device. */
typedef struct row_memory {
    float in[4][BUFFER], gout[BUFFER], out[3][BUFFER], gin[4][BUFFER];
} row_memory;
static row_memory here, back;
static char *there;
static uint8_t row_bits[ROWS * BITS_LD];
static row_text compiled; /* under test */

static int64_t stride(char kind_of, int64_t n)
{
    return kind_of == 's'                     ? 0
           : kind_of == 'o' || kind_of == 'i' ? 1
                                              : n + (compiled.unit == 4 ? 8 : 5);
}

/* Threads that have a row, as gen/cuda_requests.lua chooses them; shares of threads in a block. */
static int lanes(void)
{
    int n = 4;
    while (n < 32 && (compiled.n == 0 || n * compiled.unit < compiled.n))
        n *= 2;
    return n;
}

static int shares(void)
{
    return THREADS / lanes();
}

/* Of the CPU. add: gradients of inputs are added. */
static row_args row_arguments(const row_case *c, int64_t n, bool add)
{
    row_args a = {.rows = ROWS, .n = n, .add = add ? 15 : 0};
    for (int i = 0; c->in[i]; i++) {
        a.in[i] = here.in[i], a.gin[i] = here.gin[i];
        a.ld_in[i] = a.ld_gin[i] = stride(c->in[i], n);
        if (c->in[i] == 'i' || c->in[i] == 'k')
            a.gin[i] = NULL;
    }
    for (int i = 0; c->out[i]; i++)
        a.out[i] = here.out[i], a.ld_out[i] = stride(c->out[i], n);
    a.gout[0] = here.gout, a.ld_gout[0] = stride(c->out[0], n);
    memcpy(a.c, c->c, sizeof a.c);
    return a;
}

static float *on_device(const float *x)
{
    return x ? (float *)(void *)(there + ((const char *)x - (const char *)&here)) : NULL;
}

static row_cuda_args row_cuda_arguments(const row_args *a, float *part, const uint8_t *bits)
{
    row_cuda_args b = {.rows = a->rows,
                       .n = a->n,
                       .part = part,
                       .parts = BLOCKS * (compiled.n > 0 ? 1 : shares()),
                       .add = a->add,
                       .keep_factor = keep_factor,
                       .keep = bits,
                       .ld_keep = BITS_LD};
    for (int i = 0; i < ROW_MAX; i++) {
        b.in[i] = on_device(a->in[i]), b.ld_in[i] = a->ld_in[i];
        b.gout[i] = on_device(a->gout[i]), b.ld_gout[i] = a->ld_gout[i];
        b.out[i] = on_device(a->out[i]), b.ld_out[i] = a->ld_out[i];
        b.gin[i] = on_device(a->gin[i]), b.ld_gin[i] = a->ld_gin[i];
    }
    memcpy(b.c, a->c, sizeof b.c);
    return b;
}

/* What is not written keeps 3. */
static void row_reset(const row_case *c, int64_t n)
{
    oracle_rng r = {(uint64_t)n};
    for (int i = 0; i < BUFFER; i++) {
        here.gout[i] = (float)oracle_normal(&r);
        for (int k = 0; k < 4; k++) {
            const float x = (float)oracle_normal(&r);
            const char kind_of = (size_t)k < strlen(c->in) ? c->in[k] : 'r';
            here.in[k][i] = kind_of == 'v'   ? x * x
                            : kind_of == 'k' ? 0
                            : kind_of == 'i' ? (float)(oracle_bits(&r) % (uint64_t)n)
                                             : x;
            here.gin[k][i] = 3;
            if (k < 3)
                here.out[k][i] = 3;
        }
    }
    memset(row_bits, 0, sizeof row_bits);
    const char *keep = strchr(c->in, 'k');
    for (int64_t i = 0; keep && i < ROWS * n; i++) { /* three of four are kept */
        const int64_t row = i / n, j = i % n;
        if (oracle_bits(&r) % 4 == 0)
            continue;
        here.in[keep - c->in][row * stride('k', n) + j] = keep_factor;
        row_bits[row * BITS_LD + j / 128 * 16 + j % 16] |= (uint8_t)(1 << j % 128 / 16);
    }
}

static device_program *row_program(const char *name)
{
    char *plain = NULL, all[128 + (1 << 16)];
    device_program *p = NULL;
    ok(program_row_text(name, &plain));
    assert_in_range(snprintf(all, sizeof all,
                             "#define ROW_N %d\n#define ROW_UNIT %d\n#define ROW_LANES %d\n"
                             "#define ROW_SHORT %d\n%s",
                             (int)compiled.n, compiled.unit, lanes(), compiled.n > 0, plain),
                    1, sizeof all - 1);
    ok(device_program_get(dev, name, all, &p));
    free(plain);
    return p;
}

static void row_launch(device_program *p, const char *kernel, const row_cuda_args *a)
{
    const bool whole = strcmp(kernel, "row_bwd") == 0 && compiled.n > 0; /* a row a share */
    const int64_t shared = whole ? shares() * compiled.n * (int64_t)sizeof(float) : 0;
    const device_grid grid = {{BLOCKS, 1, 1}, THREADS, 1, shared};
    device_function *f = NULL;
    ok(device_function_get(p, kernel, shared, &f));
    ok(device_launch(f, &grid, a, sizeof *a));
}

static void row_compare(const row_case *c, int64_t n, const char *what, const float *x,
                        const float *y)
{
    char name[96];
    snprintf(name, sizeof name, "%s, n = %d, text for %d and %d", c->name, (int)n, (int)compiled.n,
             compiled.unit);
    for (int64_t i = 0; i < BUFFER; i++)
        check_near(name, what, i, (double)x[i], (double)y[i], 2e-5 * (1 + fabs((double)y[i])));
}

static void check_row(const row_case *c, int64_t n, bool add)
{
    const row_op *op;
    ok(registry_row(c->name, &op));
    row_reset(c, n);
    there = put(&here, sizeof here);
    float *part = room(SHARED_INPUTS * PARTS * MAX_N);
    uint8_t *bits = put(row_bits, sizeof row_bits);
    const row_args cpu = row_arguments(c, n, add);
    const row_cuda_args args = row_cuda_arguments(&cpu, part, bits);
    device_program *p = row_program(c->name);
    op->fwd(&cpu);
    row_launch(p, "row_fwd", &args);
    if (op->bwd) {
        op->bwd(&cpu);
        row_launch(p, "row_bwd", &args);
        if (strchr(c->in, 's'))
            row_launch(p, "row_bwd_shared", &args);
    }
    ok(device_read(dev, &back, there, sizeof back));
    for (int i = 0; c->out[i]; i++)
        row_compare(c, n, "output", back.out[i], here.out[i]);
    for (int i = 0; c->in[i] && op->bwd; i++)
        row_compare(c, n, "gradient", back.gin[i], here.gin[i]);
    device_free(dev, there), device_free(dev, part), device_free(dev, bits);
}

static void rows_of_any_length(void **state)
{
    (void)state;
    static const int64_t lengths[] = {1, 7, 64, 200};
    checked();
    compiled = (row_text){0, 1, false};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++)
            for (int add = 0; add < 2; add++)
                check_row(&rows[i], lengths[k], add != 0);
}

static void rows_of_a_known_length(void **state)
{
    (void)state;
    static const row_text texts[] = {{1, 1, true},  {7, 1, false},   {36, 1, true},
                                     {0, 4, true},  {4, 4, true},    {24, 4, true},
                                     {64, 4, true}, {132, 4, false}, {200, 4, true}};
    checked();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
            compiled = texts[k];
            if (!compiled.full || all_cases())
                check_row(&rows[i], compiled.n ? compiled.n : 64, k % 2 == 0);
        }
}

/* ---- component functions ----------------------------------------------------------------------
 */

/* Tokens of H heads, their parameters, and features of one side. */
typedef struct feature_run {
    spectra_attention *att;
    int64_t H, T, count; /* numbers a side */
    float *tokens[2], *blocks;
    int side;
} feature_run;

static void features_open(feature_run *x, const char *feat, const char *matrix, int64_t H,
                          int64_t T, int64_t D, int64_t M)
{
    const spectra_attention_desc d = {.attn = "performer",
                                      .feat = feat,
                                      .kernel = matrix,
                                      .H = H,
                                      .D = D,
                                      .DV = D,
                                      .M = M,
                                      .seed = 5};
    *x = (feature_run){.H = H, .T = T};
    ok(spectra_attention_new(&d, &x->att));
    x->count = H * T * performer_of(x->att)->feature->lanes * M;
    for (int side = 0; side < 2; side++)
        x->tokens[side] = normal_floats(H * T * D, 3 + (uint64_t)side, 0.5);
    x->blocks = attend_floats(H * performer_block_floats(performer_of(x->att)));
    ok(performer_prepare_heads(performer_of(x->att), 1, H, T, T, x->tokens[0], x->tokens[1], NULL,
                               NULL, x->blocks));
}

static void features_close(feature_run *x)
{
    free(x->tokens[0]), free(x->tokens[1]), free(x->blocks);
    spectra_attention_free(x->att);
}

/* Logs, then signs, on the device; to be freed: of same_in_any_order. */
static float *device_results(void *of, int64_t *count)
{
    const feature_run *x = of;
    float *all = attend_floats(2 * x->count);
    ok(performer_device_features(dev, performer_of(x->att), x->side, 1, x->H, x->T,
                                 x->tokens[x->side], x->blocks, all, all + x->count));
    *count = 2 * x->count;
    return all;
}

/* Logs, then signs. Of a sine or cosine the logarithm is steep near its zeros: there values are
 * compared. */
static void compare_features(const feature_run *x, const float *got, const float *want)
{
    const feature_info *f = performer_of(x->att)->feature;
    const float *sign = got + x->count, *want_sign = want + x->count;
    for (int64_t i = 0; i < x->count; i++) {
        const float a = sign[i] * expf(got[i]), b = want_sign[i] * expf(want[i]);
        if (f->is_signed && fabsf(a - b) < 2e-5F)
            continue;
        check_near(f->name, "log", i, (double)got[i], (double)want[i],
                   3e-5 * (1 + fabs((double)want[i])));
        check_near(f->name, "sign", i, (double)sign[i], f->is_signed ? (double)want_sign[i] : 1,
                   3e-5);
    }
}

static void check_features(const feature_run *x)
{
    int64_t n = 0;
    float *got = device_results((void *)(uintptr_t)x, &n), *want = attend_floats(n);
    ok(performer_features(performer_of(x->att), x->side, 1, x->H, x->T, x->tokens[x->side],
                          x->blocks, want, want + x->count));
    compare_features(x, got, want);
    free(got), free(want);
}

/* Of every component function, for sizes that are no multiple of anything, both sides. */
static void features_are_the_cpus(void **state)
{
    (void)state;
    static const int64_t rows_of_w[] = {100, 24, 30};
    const int64_t used = device_used_bytes(dev);
    int count = 0;
    checked();
    for (const feature_info *f = generated_features; f->name; f++, count++)
        for (size_t m = 0; m < (all_cases() ? sizeof rows_of_w / sizeof rows_of_w[0] : 1); m++) {
            feature_run x;
            features_open(&x, f->name, m == 1 ? "orf" : "gaus", 2, 9, 20, rows_of_w[m]);
            for (x.side = 0; x.side < 2; x.side++) {
                check_features(&x);
                if (m == 0 && strcmp(kind, "emu") == 0)
                    same_in_any_order(device_results, &x);
            }
            features_close(&x);
        }
    assert_true(count > 20);
    assert_int_equal(device_used_bytes(dev), used);
}

/* The struct of the same text with `real` double. */
typedef struct features_double_args {
    const double *x, *w, *w_second, *w2, *counts, *linear, *s, *v;
    double *log, *sign;
    int64_t n, ldx;
    double scale;
    int D, M, side;
} features_double_args;

/* Rows of n numbers, ld apart, behind each other on the device. */
static double *put_wide(const float *x, int64_t rows_of_x, int64_t n, int64_t ld)
{
    double *y = malloc((size_t)(rows_of_x * n + 1) * sizeof *y);
    for (int64_t i = 0; i < rows_of_x * n; i++)
        y[i] = (double)x[i / n * ld + i % n];
    double *at = put(y, rows_of_x * n * 8);
    free(y);
    return at;
}

static device_program *double_program(const char *feat, int64_t D, int64_t M)
{
    generated_files files;
    device_program *p = NULL;
    int i = 0;
    ok(generate_pair("double", feat, "gaus", (const int64_t[]){D, D, M}, "f64", &files));
    while (i < files.count && !strstr(files.file[i].path, "phi.cu"))
        i++;
    assert_true(i < files.count);
    ok(device_program_get(dev, "double", files.file[i].text, &p));
    generated_files_free(&files);
    return p;
}

static void check_double(const char *feat)
{
    enum { D = 20, M = 24, TOKENS = 7, SHARED = 2 * (32 + 2 * 256) * 4 };
    const device_grid grid = {{TOKENS, 1, 1}, 64, 1, SHARED};
    feature_run x;
    attn_plan plan;
    attn_params a;
    device_function *f = NULL;
    features_open(&x, feat, "gaus", 1, TOKENS, D, M);
    performer_view(performer_of(x.att), x.blocks, &plan, &a);
    const feature_info *info = performer_of(x.att)->feature;
    double *in[] = {put_wide(x.tokens[0], TOKENS, D, D), put_wide(plan.w, M, D, plan.DP),
                    put_wide(plan.w2, 1, M, M), put_wide(a.s, 1, info->scalars, info->scalars),
                    put_wide(a.v, info->vectors, D, plan.DP)};
    double *out = (void *)room(4 * x.count), *wide = malloc((size_t)x.count * 16);
    const features_double_args args = {.x = in[0],
                                       .w = in[1],
                                       .w2 = in[2],
                                       .s = in[3],
                                       .v = in[4],
                                       .log = out,
                                       .sign = out + x.count,
                                       .n = TOKENS,
                                       .ldx = D,
                                       .scale = 1,
                                       .D = D,
                                       .M = M};
    ok(device_function_get(double_program(feat, D, M), "features", SHARED, &f));
    ok(device_launch(f, &grid, &args, sizeof args));
    ok(device_read(dev, wide, out, x.count * 16));
    float *narrow = attend_floats(2 * x.count), *want = attend_floats(2 * x.count);
    float *scratch = attend_floats(performer_of(x.att)->kernels->fwd->scratch(&plan));
    for (int64_t i = 0; i < 2 * x.count; i++)
        narrow[i] = (float)wide[i];
    plan.scale = 1; /* without the constant that performer_features adds */
    performer_of(x.att)->kernels->fwd->features(&plan, &a, 0, TOKENS, x.tokens[0], D, want,
                                                want + x.count, scratch);
    compare_features(&x, narrow, want);
    for (size_t i = 0; i < sizeof in / sizeof in[0]; i++)
        device_free(dev, in[i]);
    device_free(dev, out);
    free(narrow), free(wide), free(want), free(scratch);
    features_close(&x);
}

static void texts_in_double(void **state)
{
    (void)state;
    check_double("trigrf");
    check_double("saderf");
}

/* What is made at run time has to be what `make gen` writes, or nothing made ahead would be found.
 */
static void texts_are_the_generators(void **state)
{
    (void)state;
    static const char *const features[] = {"saderf", "posrf+", "poisrf"};
    for (int i = 0; i < 4; i++) {
        char path[128], command[320], *text = NULL;
        byte_buffer expected;
        snprintf(path, sizeof path, "%s/text.cu", folder);
        snprintf(command, sizeof command,
                 "lua5.4 gen/main.lua --cuda FEAT=%s D=20 DV=8 M=100 OUT=%s", features[i % 3],
                 path);
        if (i < 3)
            assert_int_equal(system(command), 0);
        const jit_cuda_request request = {
            .kind = "phi", .feat = features[i % 3], .defines = "D=20 DV=8 M=100"};
        ok(i < 3 ? program_text(&request, NULL, NULL, &text)
                 : program_row_text("layernorm", &text));
        ok(read_whole_file(i < 3 ? path : "build/base/row/layernorm.cu", 1 << 24, &expected));
        assert_string_equal(text, expected.data);
        free(expected.data);
        free(text);
    }
}

/* ---- products ---------------------------------------------------------------------------------
 */

/* Against double, with gaps in the rows; C is NaN where beta is 0. */
static void product(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, float beta,
                    bool fast)
{
    const int64_t rows_a = ta ? k : m, lda = (ta ? m : k) + 3, rows_b = tb ? n : k;
    const int64_t ldb = (tb ? k : n) + 1, ldc = n + 2;
    float *A = random_floats(rows_a * lda, 1), *B = random_floats(rows_b * ldb, 2);
    float *C = random_floats(m * ldc, 3);
    for (int64_t i = 0; i < m * ldc && beta == 0; i++)
        C[i] = NAN;
    float *a = put(A, rows_a * lda * 4), *b = put(B, rows_b * ldb * 4), *c = put(C, m * ldc * 4);
    ok(device_gemm(dev, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, fast));
    float *got = get(c, m * ldc);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < ldc; j++) {
            double sum = 0, size = 0;
            for (int64_t l = 0; l < k && j < n; l++) {
                const double p = (double)(ta ? A[l * lda + i] : A[i * lda + l]) *
                                 (double)(tb ? B[j * ldb + l] : B[l * ldb + j]);
                sum += p, size += fabs(p);
            }
            const double old = beta == 0 ? 0 : (double)beta * (double)C[i * ldc + j];
            const double expected = (double)alpha * sum + old, x = (double)got[i * ldc + j];
            const double bound = (fast ? 0x1p-10 : 0x1p-21) * (size + fabs(old) + 1e-3);
            if (j < n ? !(fabs(x - expected) <= bound)
                      : memcmp(&got[i * ldc + j], &C[i * ldc + j], 4) != 0)
                fail_msg("(%lld, %lld) of %lld x %lld x %lld is %g instead of %g", (long long)i,
                         (long long)j, (long long)m, (long long)n, (long long)k, x, expected);
        }
    }
    device_free(dev, a);
    device_free(dev, b);
    device_free(dev, c);
    free(A);
    free(B);
    free(C);
    free(got);
}

static void products_are_row_major(void **state)
{
    (void)state;
    for (int t = 0; t < 4; t++) {
        product(t & 1, t & 2, 5, 7, 9, 1, 0, false);
        product(t & 1, t & 2, 17, 1, 3, -0.5F, 2, false);
        product(t & 1, t & 2, 8, 33, 40, 1, 1, true);
    }
    float *a = room(16);
    fails(device_gemm(dev, false, false, 4, 4, 4, 1, a, 3, a, 4, 0, a, 4, false), SPECTRA_EINVAL,
          "are 3, 4, 4 apart");
    fails(device_gemm(dev, false, false, 4, 4, 0, 1, a, 4, a, 4, 0, a, 4, false), SPECTRA_EINVAL,
          "4 x 4 by 0");
    fails(device_gemm(dev, false, false, 5, 4, 4, 1, a, 4, a, 4, 0, a, 4, false), SPECTRA_EINVAL,
          "A, 80 bytes");
    ok(device_gemm(dev, false, false, 0, 4, 4, 1, a, 4, a, 4, 0, a, 4, false));
    device_free(dev, a);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_any_length),     cmocka_unit_test(rows_of_a_known_length),
        cmocka_unit_test(features_are_the_cpus),  cmocka_unit_test(texts_are_the_generators),
        cmocka_unit_test(products_are_row_major), cmocka_unit_test(texts_in_double),
    };
    const bool emulator = argc < 2 || strcmp(argv[1], "emu") == 0; /* the last is for it alone */
    return run_on_device(argc, argv, tests, sizeof tests / sizeof tests[0] - !emulator);
}
