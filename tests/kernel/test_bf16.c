/* Forward with products of bf16, compiled now: against the same attention in float, whatever the
 * mask and the threads, with the model of the instructions on any CPU and with the instructions
 * where they are; gradients; what has no such products.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention/performer/performer.h"
#include "kernel/jit.h"
#include "kernel/registry.h"
#include "support/attend.h"
#include "support/oracle.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { B = 2, H = 2, T = 70, S = 131 };

typedef struct bf16_case {
    const char *feat, *kernel;
    int64_t D, DV, M;
    double limit; /* of outputs; where large features cancel each other more is lost */
} bf16_case;

/* Of each class of feature; odd sizes, a chain in place of a product, a second projection. */
static const bf16_case cases[] = {
    {"posrf", "orf", 32, 32, 128, 1.5e-2}, {"trigrf", "orf", 21, 24, 40, 1.5e-2},
    {"saderf", "qmc", 16, 7, 33, 1.5e-2},  {"hrf", "orf", 16, 16, 32, 6e-2},
    {"sderf", "orf", 20, 16, 48, 6e-2},    {"posrf", "sorf", 128, 16, 128, 1.5e-2},
};

static attend_shape shape_of(const bf16_case *c)
{
    return (attend_shape){B, H, T, S, c->D, c->DV};
}

static spectra_attention *open_attention(const bf16_case *c, bool bf16)
{
    const spectra_attention_desc d = {"performer", c->feat, c->kernel, H,           c->D,
                                      c->DV,       c->M,    .seed = 5, .bf16 = bf16};
    spectra_attention *att = NULL;
    if (spectra_attention_new(&d, &att) != SPECTRA_OK)
        fail_msg("%s: %s", c->feat, spectra_message());
    return att;
}

static float *normals(int64_t n, uint64_t seed, double deviation)
{
    oracle_rng r = {seed};
    float *x = attend_floats(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(deviation * oracle_normal(&r));
    return x;
}

static double error_of(int64_t n, const float *got, const float *want)
{
    double most = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(got[i]));
        most = fmax(most, fabs((double)got[i] - (double)want[i]));
        scale = fmax(scale, fabs((double)want[i]));
    }
    return most / scale;
}

/* Both attentions on the same tokens, the one of bf16 a second time with other threads. */
static void compare(const bf16_case *c)
{
    spectra_attention *plain = open_attention(c, false), *bf16 = open_attention(c, true);
    const attend_shape n = shape_of(c);
    const int64_t nq = B * H * T, nk = B * H * S;
    const double deviation = performer_of(plain)->feature->is_signed ? 0.4 : 0.7;
    uint8_t mask[B * S];
    for (int i = 0; i < B * S; i++)
        mask[i] = i % 5 != 2;
    float *q = normals(nq * c->D, 1, deviation), *k = normals(nk * c->D, 2, deviation);
    float *v = normals(nk * c->DV, 3, 1), *go = normals(nq * c->DV, 4, 1);
    const attend_inputs in = {q, k, v, go, NULL, mask};
    attend_run want, got, again;
    const int threads = omp_get_max_threads();
    assert_int_equal(attend(plain, &n, &in, &want), SPECTRA_OK);
    assert_int_equal(attend(bf16, &n, &in, &got), SPECTRA_OK);
    omp_set_num_threads(threads + 1);
    assert_int_equal(attend(bf16, &n, &in, &again), SPECTRA_OK);
    omp_set_num_threads(threads);
    assert_memory_equal(got.o, again.o, (size_t)(nq * c->DV) * sizeof *got.o);
    const double o = error_of(nq * c->DV, got.o, want.o), gq = error_of(nq * c->D, got.gq, want.gq),
                 gk = error_of(nk * c->D, got.gk, want.gk),
                 gv = error_of(nk * c->DV, got.gv, want.gv);
    printf("%-7s %-5s D %3d DV %2d M %3d %s: o %.1e, gradients %.1e %.1e %.1e\n", c->feat,
           c->kernel, (int)c->D, (int)c->DV, (int)c->M, registry_isa_name(registry_isa()), o, gq,
           gk, gv);
    /* a product of two numbers of 8 bits is good to 2^-8 */
    assert_true(o > 1e-5 && o < c->limit);
    assert_true(gq < 4 * c->limit && gk < 4 * c->limit && gv < 2 * c->limit);
    attend_free(&want), attend_free(&got), attend_free(&again);
    free(q), free(k), free(v), free(go);
    spectra_attention_free(plain);
    spectra_attention_free(bf16);
}

static void model_of_the_instructions(void **state)
{
    (void)state;
    registry_isa_limit(ISA_PORTABLE);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        compare(&cases[i]);
    registry_isa_limit(ISA_AVX512);
}

static void the_instructions(void **state)
{
    (void)state;
    if (registry_isa() != ISA_AVX512 || !registry_bf16()) {
        printf("skipped: this CPU has no AVX512_BF16\n");
        skip();
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        compare(&cases[i]);
}

static void refused(spectra_attention_desc d, const char *part)
{
    spectra_attention *att = NULL;
    d.feat = d.feat ? d.feat : "posrf", d.kernel = "orf";
    d.H = 1, d.D = d.DV = 16, d.M = 32, d.bf16 = true;
    if (spectra_attention_new(&d, &att) != SPECTRA_EUNSUPPORTED || !strstr(spectra_message(), part))
        fail_msg("'%s' instead of '%s'", spectra_message(), part);
}

static void what_has_none(void **state)
{
    (void)state;
    refused((spectra_attention_desc){.attn = "performer", .causal = true}, "causal attention");
    refused((spectra_attention_desc){.attn = "performer", .official = true}, "official behaviour");
    refused((spectra_attention_desc){.attn = "softmax"}, "softmax");
    registry_isa_limit(ISA_AVX2);
    if (registry_isa() == ISA_AVX2)
        refused((spectra_attention_desc){.attn = "performer"},
                "AVX512_BF16; this one's instructions are avx2");
    registry_isa_limit(ISA_AVX512);
}

static char folder[64];

static int open_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/spectraformer-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    const jit_options options = {.policy = JIT_AUTO, .search = getenv("PATH"), .temporary = folder};
    return jit_configure(&options) == SPECTRA_OK ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model_of_the_instructions),
        cmocka_unit_test(the_instructions),
        cmocka_unit_test(what_has_none),
    };
    return cmocka_run_group_tests(tests, open_folder, remove_folder);
}
