/* Devices: generated kernels against the CPU's, products against double. */
#include "device/device_case.h"
#include "support/program.h"

#include "attention/performer/device_features.h"
#include "kernel/registry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* the kernels' numbers are float here */
#include "../templates/cuda/args.h"
#include "base/bytes.h"
#include "kernel/programs.h"

/* ---- kernels ----------------------------------------------------------------------------------
 */

static device_program *row_program(const char *name)
{
    char *text = NULL;
    device_program *p = NULL;
    ok(program_row_text(name, &text));
    ok(device_program_get(dev, name, text, &p));
    free(text);
    return p;
}

static void launch(device_program *p, const char *kernel, const row_cuda_args *args)
{
    device_function *f = NULL;
    const device_grid grid = {.blocks = {2, 1, 1}, .threads = 64};
    ok(device_function_get(p, kernel, 0, &f));
    ok(device_launch(f, &grid, args, sizeof *args));
}

static void near(const float *got, const float *expected, int64_t count, float tolerance,
                 const char *what)
{
    for (int64_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - expected[i]) <= tolerance * (1 + fabsf(expected[i]))) &&
            got[i] != expected[i])
            fail_msg("%s: number %lld is %.9g instead of %.9g", what, (long long)i, (double)got[i],
                     (double)expected[i]);
}

/* Forward and backward of an operator; its inputs: r a row, s shared by all rows, k factors of
 * dropout, all 1. */
static void row_operator(const char *name, const char *inputs)
{
    enum { ROWS = 21, N = 45, WARPS = 4 };
    const row_op *op = NULL;
    float *in[3], *gin[3], *out = malloc(ROWS * N * 4), *gout = random_floats(ROWS * N, 7);
    row_args host = {.rows = ROWS, .n = N, .c = {1e-5F}};
    row_cuda_args args = {.rows = ROWS, .n = N, .parts = WARPS, .c = {1e-5F}};
    ok(registry_row(name, &op));
    for (int i = 0; inputs[i]; i++) {
        const int64_t ld = inputs[i] == 's' ? 0 : N, count = ld ? ROWS * N : N;
        in[i] = random_floats(count, 10 + (uint32_t)i);
        gin[i] = random_floats(count, 20 + (uint32_t)i);
        host.in[i] = in[i], host.ld_in[i] = ld, host.gin[i] = gin[i], host.ld_gin[i] = ld;
        for (int64_t j = 0; inputs[i] == 'k' && j < count; j++)
            in[i][j] = 1;
        if (inputs[i] == 'k') { /* bits on the device, none: 1 */
            host.gin[i] = NULL;
            continue;
        }
        args.in[i] = put(in[i], count * 4), args.ld_in[i] = ld;
        args.gin[i] = put(gin[i], count * 4), args.ld_gin[i] = ld;
    }
    host.out[0] = out, host.ld_out[0] = N, host.gout[0] = gout, host.ld_gout[0] = N;
    args.out[0] = room(ROWS * N), args.ld_out[0] = N;
    args.gout[0] = put(gout, ROWS * N * 4), args.ld_gout[0] = N;
    args.part = room(2 * WARPS * N);
    op->fwd(&host);
    op->bwd(&host);
    device_program *p = row_program(name);
    launch(p, "row_fwd", &args);
    launch(p, "row_bwd", &args);
    launch(p, "row_bwd_shared", &args);
    float *got = get(args.out[0], ROWS * N);
    near(got, out, ROWS * N, 2e-6F, name);
    free(got);
    for (int i = 0; inputs[i]; i++) {
        const int64_t count = inputs[i] == 'r' ? ROWS * N : N;
        if (args.gin[i]) {
            got = get(args.gin[i], count);
            near(got, gin[i], count, 1e-5F, "gradient");
            free(got);
        }
        free(in[i]);
        free(gin[i]);
        device_free(dev, (void *)(uintptr_t)args.in[i]);
        device_free(dev, args.gin[i]);
    }
    device_free(dev, args.out[0]);
    device_free(dev, (void *)(uintptr_t)args.gout[0]);
    device_free(dev, args.part);
    free(out);
    free(gout);
}

static void row_operators_are_the_cpus(void **state)
{
    (void)state;
    row_operator("layernorm", "rss");
    row_operator("gelu", "rsk");
    row_operator("relu", "rs");
}

/* Of every component function, for sizes that are no multiple of anything, both sides. */
static void features_are_the_cpus(void **state)
{
    (void)state;
    enum { H = 2, T = 9, D = 20, M = 30 };
    const int64_t used = device_used_bytes(dev);
    float *x = random_floats(H * T * D, 3), *y = random_floats(H * T * D, 4);
    int count = 0;
    for (const feature_info *f = generated_features; f->name; f++) {
        spectra_attention *att = NULL;
        const spectra_attention_desc desc = {.attn = "performer",
                                             .feat = f->name,
                                             .kernel = "gaus",
                                             .H = H,
                                             .D = D,
                                             .DV = D,
                                             .M = M,
                                             .seed = 5};
        ok(spectra_attention_new(&desc, &att));
        const int64_t out = H * T * f->lanes * M;
        float *blocks =
            aligned_alloc(64, (size_t)(H * performer_block_floats(performer_of(att))) * 4);
        float *log[2], *sign[2];
        for (int i = 0; i < 2; i++) {
            log[i] = malloc((size_t)out * 4);
            sign[i] = malloc((size_t)out * 4);
        }
        ok(performer_prepare_heads(performer_of(att), 1, H, T, T, x, y, NULL, NULL, blocks));
        for (int side = 0; side < 2; side++) {
            const float *tokens = side ? y : x;
            ok(performer_features(performer_of(att), side, 1, H, T, tokens, blocks, log[0],
                                  sign[0]));
            ok(performer_device_features(dev, performer_of(att), side, 1, H, T, tokens, blocks,
                                         log[1], sign[1]));
            for (int64_t i = 0; i < out; i++) {
                /* of a sine or cosine the logarithm is steep near its zeros: compare values there
                 */
                const float a = sign[0][i] * expf(log[0][i]), b = sign[1][i] * expf(log[1][i]);
                if (!(fabsf(log[0][i] - log[1][i]) < 2e-4F || fabsf(a - b) < 2e-5F ||
                      log[0][i] == log[1][i]))
                    fail_msg("%s, side %d, number %lld: log %.9g sign %g instead of %.9g, %g",
                             f->name, side, (long long)i, (double)log[1][i], (double)sign[1][i],
                             (double)log[0][i], (double)sign[0][i]);
            }
        }
        for (int i = 0; i < 2; i++) {
            free(log[i]);
            free(sign[i]);
        }
        free(blocks);
        spectra_attention_free(att);
        count++;
    }
    assert_true(count > 20);
    assert_int_equal(device_used_bytes(dev), used);
    free(x);
    free(y);
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
        cmocka_unit_test(row_operators_are_the_cpus),
        cmocka_unit_test(features_are_the_cpus),
        cmocka_unit_test(texts_are_the_generators),
        cmocka_unit_test(products_are_row_major),
    };
    return run_on_device(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
