/* The CUDA texts that are generated, run by the emulator, against the kernels for the CPU: features
 * of every kind in float and in double, row operators with their backward passes.
 */
#define _GNU_SOURCE
#include "device/emulated.h"

#include "attention/performer/performer.h"
#include "kernel/internal.h"
#include "kernel/registry.h"
#include "support/attend.h"
#include "support/oracle.h"

#include "../templates/cuda/args.h"
#include "kernel/generate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const emulator_kernel *from_file(const char *folder, const char *name, const char *file,
                                        const char *kernel)
{
    char path[256];
    byte_buffer text = {.data = NULL};
    snprintf(path, sizeof path, "%s/%s%s", folder, name, file);
    emulated_ok(read_whole_file(path, 1 << 20, &text));
    const emulator_kernel *k = emulated_kernel(path, text.data, kernel);
    free(text.data);
    return k;
}

static void check_near(const char *name, const char *what, int64_t i, double got, double want,
                       double tolerance)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s: %s %d is %.9g, want %.9g", name, what, (int)i, got, want);
}

/* ---- features ---------------------------------------------------------------------------------
 */

enum { D = 20, TOKENS = 7, MAX_F = 16 * 100 };

/* One head: parameters as the library computes them, tokens, and the CPU's features of these. */
typedef struct head {
    spectra_attention *att;
    int64_t M;
    attn_plan plan;
    attn_params params;
    float *block, *scratch;
    float x[TOKENS * D], y[TOKENS * D];
    float w[100 * D], second[100 * D], linear[4 * D * D], v[MAX_VECTORS * D], counts[2 * 100];
    float log[TOKENS * MAX_F], sign[TOKENS * MAX_F];
} head;

/* Rows of n numbers, ld apart, without what lies between. */
static void dense(float *to, const float *from, int64_t rows, int64_t n, int64_t ld)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * n, from + r * ld, (size_t)n * sizeof(float));
}

static void head_open(head *h, const char *feat, const char *matrix, int64_t M)
{
    const spectra_attention_desc desc = {
        .attn = "performer", .feat = feat, .kernel = matrix, .H = 1, .D = D, .DV = D, .M = M};
    oracle_rng r = {41};
    memset(h, 0, sizeof *h);
    h->M = M;
    emulated_ok(spectra_attention_new(&desc, &h->att));
    for (int i = 0; i < TOKENS * D; i++) {
        h->x[i] = (float)(0.4 * oracle_normal(&r));
        h->y[i] = (float)(0.5 * oracle_normal(&r) + 0.1);
    }
    h->block = attend_floats(performer_block_floats(performer_of(h->att)));
    emulated_ok(performer_prepare_heads(performer_of(h->att), 1, 1, TOKENS, TOKENS, h->x, h->y,
                                        NULL, NULL, h->block));
    performer_view(performer_of(h->att), h->block, &h->plan, &h->params);
    h->plan.scale = 1;
    h->scratch = attend_floats(performer_of(h->att)->kernels->fwd->scratch(&h->plan));
    const attn_plan *p = &h->plan;
    dense(h->w, p->w, M, D, p->DP);
    dense(h->second, p->w_second ? p->w_second : p->w, M, D, p->DP);
    dense(h->v, h->params.v, performer_of(h->att)->feature->vectors, D, p->DP);
    if (performer_of(h->att)->feature->counts != COUNTS_NONE)
        dense(h->counts, p->count_sums, 2, M, p->MP);
    for (int64_t i = 0; performer_of(h->att)->feature->linear != LINEAR_NONE && i < 4; i++)
        dense(h->linear + i * D * D, h->params.linear + i * p->DP * p->DP, D, D, p->DP);
}

static void head_close(head *h)
{
    spectra_attention_free(h->att);
    free(h->block);
    free(h->scratch);
}

static features_cuda_args arguments(const head *h, int side, float *log, float *sign)
{
    return (features_cuda_args){.x = side ? h->y : h->x,
                                .w = h->w,
                                .w_second = h->second,
                                .w2 = h->plan.w2,
                                .counts = h->counts,
                                .linear = h->linear + (side ? 3 : 1) * D * D,
                                .s = h->params.s,
                                .v = h->v,
                                .log = log,
                                .sign = sign,
                                .n = TOKENS,
                                .ldx = D,
                                .scale = 1,
                                .D = D,
                                .M = (int)h->M,
                                .side = side};
}

static void check_features(head *h, const char *name, const float *log, const float *sign, int side)
{
    const int64_t count = TOKENS * performer_of(h->att)->feature->lanes * h->M;
    performer_of(h->att)->kernels->fwd->features(
        &h->plan, &h->params, side, TOKENS, side ? h->y : h->x, D, h->log, h->sign, h->scratch);
    for (int64_t i = 0; i < count; i++) {
        check_near(name, "log", i, (double)log[i], (double)h->log[i],
                   3e-5 * (1 + fabs((double)h->log[i])));
        check_near(name, "sign", i, (double)sign[i],
                   performer_of(h->att)->feature->is_signed ? (double)h->sign[i] : 1, 3e-5);
    }
}

typedef struct feature_case {
    const char *feat, *folder, *matrix;
} feature_case;

static const feature_case features[] = {
    {"posrf", "posrf", "gaus"},
    {"oprf+", "oprf_antithetic", "gaus"},
    {"trigrf", "trigrf", "orf"},
    {"gerf", "gerf", "gaus"},
    {"gerf_complex", "gerf_complex", "gaus"},
    {"sderf", "sderf", "gaus"},
    {"aderf+", "aderf_antithetic", "gaus"},
    {"saderf", "saderf", "orf"},
    {"cderf", "cderf", "gaus"},
    {"hrf", "hrf", "gaus"},
    {"hrf_gaussian", "hrf_gaussian", "gaus"},
    {"poisrf", "poisrf", "gaus"},
    {"geomrf_plus", "geomrf_plus", "gaus"},
};
enum { FEATURES = sizeof features / sizeof features[0], SHARED = (32 + 2 * 256) * 4 };

/* Few blocks for many tokens, and different orders. */
static void check_feature(const feature_case *f, int64_t M, int threads)
{
    static head h;
    static float log[2][TOKENS * MAX_F], sign[2][TOKENS * MAX_F];
    head_open(&h, f->feat, f->matrix, M);
    const emulator_kernel *k = from_file("build/base", f->folder, "/phi.cu", "features");
    const device_grid grid = {{3, 1, 1}, threads, 1, SHARED};
    for (int side = 0; side < 2; side++) {
        for (int order = 0; order < 2; order++) {
            const emulator_options options = {.order = order ? EMULATOR_RANDOM : EMULATOR_ASCENDING,
                                              .seed = 3};
            const features_cuda_args args = arguments(&h, side, log[order], sign[order]);
            for (int i = 0; i < TOKENS * MAX_F; i++)
                log[order][i] = sign[order][i] = NAN;
            emulated_ok(emulator_launch(k, &grid, &args, sizeof args, &options));
        }
        check_features(&h, f->feat, log[0], sign[0], side);
        assert_memory_equal(log[0], log[1], sizeof log[0]);
        assert_memory_equal(sign[0], sign[1], sizeof sign[0]);
    }
    head_close(&h);
}

static void features_are_the_cpus(void **state)
{
    (void)state;
    for (int i = 0; i < FEATURES; i++) {
        check_feature(&features[i], 24, 32);
        check_feature(&features[i], 100, 128);
    }
}

/* The struct of the same text with `real` double. */
typedef struct features_double_args {
    const double *x, *w, *w_second, *w2, *counts, *linear, *s, *v;
    double *log, *sign;
    int64_t n, ldx;
    double scale;
    int D, M, side;
} features_double_args;

static double *wide(const float *x, int64_t n)
{
    double *y = malloc((size_t)n * sizeof *y);
    assert_non_null(y);
    for (int64_t i = 0; i < n; i++)
        y[i] = (double)x[i];
    return y;
}

static void texts_in_double(void **state)
{
    (void)state;
    static head h;
    enum { M = 24 };
    static const char *const names[] = {"trigrf", "saderf"};
    static float log[TOKENS * MAX_F], sign[TOKENS * MAX_F];
    for (int f = 0; f < 2; f++) {
        generated_files files;
        emulated_ok(
            generate_pair("double", names[f], "gaus", (const int64_t[]){D, D, M}, "f64", &files));
        int i = 0;
        while (i < files.count && !strstr(files.file[i].path, "phi.cu"))
            i++;
        assert_true(i < files.count);
        const emulator_kernel *k = emulated_kernel("double", files.file[i].text, "features");
        head_open(&h, names[f], "gaus", M);
        const int64_t count = TOKENS * performer_of(h.att)->feature->lanes * M;
        double *const input[] = {wide(h.x, TOKENS * D),
                                 wide(h.w, M * D),
                                 wide(h.plan.w2, M),
                                 wide(h.counts, 2 * M),
                                 wide(h.params.s, performer_of(h.att)->feature->scalars),
                                 wide(h.v, MAX_VECTORS * D)};
        double *out = malloc(2 * (size_t)count * sizeof *out);
        assert_non_null(out);
        const features_double_args args = {.x = input[0],
                                           .w = input[1],
                                           .w2 = input[2],
                                           .counts = input[3],
                                           .s = input[4],
                                           .v = input[5],
                                           .log = out,
                                           .sign = out + count,
                                           .n = TOKENS,
                                           .ldx = D,
                                           .scale = 1,
                                           .D = D,
                                           .M = M};
        const device_grid grid = {{TOKENS, 1, 1}, 64, 1, 2 * SHARED};
        emulated_ok(emulator_launch(k, &grid, &args, sizeof args, NULL));
        for (int64_t j = 0; j < count; j++)
            log[j] = (float)out[j], sign[j] = (float)out[count + j];
        check_features(&h, names[f], log, sign, 0);
        for (size_t j = 0; j < sizeof input / sizeof input[0]; j++)
            free(input[j]);
        free(out);
        generated_files_free(&files);
        head_close(&h);
    }
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
} row_text;

/* Arguments: r a row, s a row shared by all, o one number, i a class number, v a row >= 0, k
 * factors of dropout, bits for the emulator. */
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

/* Of the CPU and of the emulator. */
typedef struct row_arrays {
    float out[3][BUFFER], gin[4][BUFFER];
} row_arrays;

#define ALIGNED __attribute__((aligned(16)))
static float row_in[4][BUFFER] ALIGNED, row_gout[BUFFER] ALIGNED;
static float row_part[SHARED_INPUTS * PARTS * MAX_N];
static uint8_t row_bits[ROWS * BITS_LD] ALIGNED;
static row_arrays want ALIGNED, got ALIGNED;
static row_text text; /* under test */

static int64_t stride(char kind, int64_t n)
{
    return kind == 's' ? 0 : kind == 'o' || kind == 'i' ? 1 : n + (text.unit == 4 ? 8 : 5);
}

/* Shares of threads in a block, as in templates/cuda/row.cuh. */
static int shares(void)
{
    int lanes = 4;
    while (lanes < 32 && (text.n == 0 || lanes * text.unit < text.n))
        lanes *= 2;
    return THREADS / lanes;
}

/* The same arguments for both, pointing to `to`; `add`: gradients of inputs are added. */
static row_args row_arguments(const row_case *c, int64_t n, bool add, row_arrays *to)
{
    row_args a = {.rows = ROWS, .n = n, .add = add ? 15 : 0};
    for (int i = 0; c->in[i]; i++) {
        a.in[i] = row_in[i], a.gin[i] = to->gin[i];
        a.ld_in[i] = a.ld_gin[i] = stride(c->in[i], n);
        if (c->in[i] == 'i' || c->in[i] == 'k')
            a.gin[i] = NULL;
    }
    for (int i = 0; c->out[i]; i++)
        a.out[i] = to->out[i], a.ld_out[i] = stride(c->out[i], n);
    a.gout[0] = row_gout, a.ld_gout[0] = stride(c->out[0], n);
    memcpy(a.c, c->c, sizeof a.c);
    return a;
}

static row_cuda_args row_cuda_arguments(const row_args *a)
{
    row_cuda_args b = {.rows = a->rows,
                       .n = a->n,
                       .part = row_part,
                       .parts = BLOCKS * (text.n > 0 ? 1 : shares()),
                       .add = a->add,
                       .keep_factor = keep_factor,
                       .keep = row_bits,
                       .ld_keep = BITS_LD};
    memcpy(b.in, a->in, sizeof b.in), memcpy(b.ld_in, a->ld_in, sizeof b.ld_in);
    memcpy(b.out, a->out, sizeof b.out), memcpy(b.ld_out, a->ld_out, sizeof b.ld_out);
    memcpy(b.gout, a->gout, sizeof b.gout), memcpy(b.ld_gout, a->ld_gout, sizeof b.ld_gout);
    memcpy(b.gin, a->gin, sizeof b.gin), memcpy(b.ld_gin, a->ld_gin, sizeof b.ld_gin);
    memcpy(b.c, a->c, sizeof b.c);
    return b;
}

/* What is not written keeps 3 in both. */
static void row_reset(const row_case *c, int64_t n)
{
    oracle_rng r = {(uint64_t)n};
    for (int i = 0; i < BUFFER; i++) {
        row_gout[i] = (float)oracle_normal(&r);
        for (int k = 0; k < 4; k++) {
            const float x = (float)oracle_normal(&r);
            const char kind = c->in[0] && (size_t)k < strlen(c->in) ? c->in[k] : 'r';
            row_in[k][i] = kind == 'v'   ? x * x
                           : kind == 'k' ? 0
                           : kind == 'i' ? (float)(oracle_bits(&r) % (uint64_t)n)
                                         : x;
            want.gin[k][i] = got.gin[k][i] = 3;
            if (k < 3)
                want.out[k][i] = got.out[k][i] = 3;
        }
    }
    for (size_t i = 0; i < sizeof row_part / sizeof row_part[0]; i++)
        row_part[i] = NAN;
    memset(row_bits, 0, sizeof row_bits);
    const char *keep = strchr(c->in, 'k');
    for (int64_t i = 0; keep && i < ROWS * n; i++) { /* three of four are kept */
        const int64_t row = i / n, j = i % n;
        if (oracle_bits(&r) % 4 == 0)
            continue;
        row_in[keep - c->in][row * stride('k', n) + j] = keep_factor;
        row_bits[row * BITS_LD + j / 128 * 16 + j % 16] |= (uint8_t)(1 << j % 128 / 16);
    }
}

static void row_launch(const char *name, const char *kernel, const row_cuda_args *a)
{
    const bool whole = strcmp(kernel, "row_bwd") == 0 && text.n > 0; /* a row a share */
    const device_grid grid = {
        {BLOCKS, 1, 1}, THREADS, 1, whole ? shares() * text.n * (int64_t)sizeof(float) : 0};
    const emulator_options options = {.order = EMULATOR_RANDOM, .seed = 9, .check_races = true};
    char path[64], *all = NULL;
    byte_buffer file = {.data = NULL};
    snprintf(path, sizeof path, "build/base/row/%s.cu", name);
    emulated_ok(read_whole_file(path, 1 << 20, &file));
    assert_true(asprintf(&all, "#define ROW_N %d\n#define ROW_UNIT %d\n%s", (int)text.n, text.unit,
                         file.data) > 0);
    const emulator_kernel *k = emulated_kernel(path, all, kernel);
    emulated_ok(emulator_launch(k, &grid, a, sizeof *a, &options));
    free(file.data);
    free(all);
}

static void row_compare(const row_case *c, int64_t n, const char *what, const float *x,
                        const float *y)
{
    char name[96];
    snprintf(name, sizeof name, "%s, n = %d, text for %d and %d", c->name, (int)n, (int)text.n,
             text.unit);
    for (int64_t i = 0; i < BUFFER; i++)
        check_near(name, what, i, (double)x[i], (double)y[i], 2e-5 * (1 + fabs((double)y[i])));
}

static void check_row(const row_case *c, int64_t n, bool add)
{
    const row_op *op;
    emulated_ok(registry_row(c->name, &op));
    row_reset(c, n);
    const row_args cpu = row_arguments(c, n, add, &want), emulated = row_arguments(c, n, add, &got);
    const row_cuda_args args = row_cuda_arguments(&emulated);
    op->fwd(&cpu);
    row_launch(c->name, "row_fwd", &args);
    for (int i = 0; c->out[i]; i++)
        row_compare(c, n, "output", got.out[i], want.out[i]);
    if (!op->bwd)
        return;
    op->bwd(&cpu);
    row_launch(c->name, "row_bwd", &args);
    if (strchr(c->in, 's'))
        row_launch(c->name, "row_bwd_shared", &args);
    for (int i = 0; c->in[i]; i++)
        row_compare(c, n, "gradient", got.gin[i], want.gin[i]);
}

static void rows_are_the_cpus(void **state)
{
    (void)state;
    static const int64_t lengths[] = {1, 7, 64, 200};
    text = (row_text){0, 1};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++)
            for (int add = 0; add < 2; add++)
                check_row(&rows[i], lengths[k], add != 0);
}

static void rows_of_a_known_length(void **state)
{
    (void)state;
    static const row_text texts[] = {{1, 1},  {7, 1},  {36, 1},  {0, 4},  {4, 4},
                                     {24, 4}, {64, 4}, {132, 4}, {200, 4}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
            text = texts[k];
            check_row(&rows[i], text.n ? text.n : 64, k % 2 == 0);
        }
}

static int group_open(void **state)
{
    (void)state;
    emulated_open();
    return 0;
}

static int group_close(void **state)
{
    (void)state;
    emulated_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_are_the_cpus),
        cmocka_unit_test(texts_in_double),
        cmocka_unit_test(rows_are_the_cpus),
        cmocka_unit_test(rows_of_a_known_length),
    };
    return cmocka_run_group_tests(tests, group_open, group_close);
}
