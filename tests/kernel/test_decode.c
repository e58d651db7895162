/* Decoding: token by token is causal attention, with a prompt read at once or not, sequences that
 * pause, and inputs that grow; and what causal attention refuses.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention/performer/performer.h"
#include "support/attend.h"
#include "support/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { B = 3, H = 2, T = 65, D = 20, DV = 12, M = 36 };

typedef struct tokens {
    float q[B * H * T * D], k[B * H * T * D], v[B * H * T * DV];
} tokens;

static void draw(tokens *x, double deviation)
{
    oracle_rng r = {17};
    for (int i = 0; i < B * H * T * D; i++) {
        x->q[i] = (float)(deviation * oracle_normal(&r));
        x->k[i] = (float)(deviation * oracle_normal(&r));
    }
    for (int i = 0; i < B * H * T * DV; i++)
        x->v[i] = (float)oracle_normal(&r);
}

static spectra_attention_desc describe(const char *feat)
{
    return (spectra_attention_desc){.attn = "performer",
                                    .feat = feat,
                                    .kernel = "orf",
                                    .H = H,
                                    .D = D,
                                    .DV = DV,
                                    .M = M,
                                    .seed = 3,
                                    .causal = true};
}

/* With every parameter given that a feature would compute. */
static spectra_attention *open_attention(const char *feat)
{
    static const char *const names[] = {"A", "lambda", "p", "half_c2"};
    static const float values[][H] = {{-0.1F, -0.2F}, {0.4F, 0.6F}, {0.5F, 0.6F}, {1, 2}};
    const spectra_attention_desc desc = describe(feat);
    const int64_t heads = H, shape = D;
    float psi[D], c[D];
    spectra_attention *att = NULL;
    if (spectra_attention_new(&desc, &att) != SPECTRA_OK)
        fail_msg("%s: %s", feat, spectra_message());
    for (int i = 0; i < D; i++)
        psi[i] = 0.7F + 0.03F * (float)i, c[i] = -3 - 0.01F * (float)i;
    for (int i = 0; i < 4; i++)
        (void)spectra_attention_set(att, names[i], values[i], 1, &heads);
    (void)spectra_attention_set(att, "psi", psi, 1, &shape);
    (void)spectra_attention_set(att, "c", c, 1, &shape);
    return att;
}

static void forward(const spectra_attention *att, tokens *x, float *o)
{
    const attend_inputs in = {.q = x->q, .k = x->k, .v = x->v};
    attend_run run;
    if (attend(att, &(attend_shape){B, H, T, T, D, DV}, &in, &run) != SPECTRA_OK)
        fail_msg("%s", spectra_message());
    memcpy(o, run.o, sizeof(float) * B * H * T * DV);
    attend_free(&run);
}

/* Views of token t. */
static spectra_rows row(float *x, int64_t t, int64_t size)
{
    spectra_rows rows = spectra_rows_dense(x, H, T, size);
    rows.data += t * size;
    return rows;
}

/* Largest difference between o and want at token t of sequence b, relative to the largest number.
 */
static void check_token(const char *what, int64_t b, int64_t t, const float *o, const float *want,
                        double tolerance)
{
    for (int64_t h = 0; h < H; h++)
        for (int64_t c = 0; c < DV; c++) {
            const int64_t i = ((b * H + h) * T + t) * DV + c;
            const double off = fabs((double)o[i] - (double)want[i]);
            if (!(off <= tolerance * (1 + (double)want[i] * (double)want[i])))
                fail_msg("%s: sequence %d, token %d: o[%d] is %.8g, want %.8g", what, (int)b,
                         (int)t, (int)c, (double)o[i], (double)want[i]);
        }
}

/* Decodes all tokens; the first `prompt` are read at once, sequence b only takes part in steps
 * where it has not yet reached its end and (t + b) % pause != 0. */
static void check_decode(const char *feat, double deviation, int64_t prompt, int64_t pause,
                         double tolerance)
{
    static tokens x;
    static float want[B * H * T * DV], o[B * H * T * DV];
    char what[64];
    snprintf(what, sizeof what, "%s, prompt %d, pause %d", feat, (int)prompt, (int)pause);
    draw(&x, deviation);
    spectra_attention *att = open_attention(feat);
    forward(att, &x, want);
    void *state = attend_alloc(spectra_attention_state_bytes(att, B));
    void *work = attend_alloc(spectra_attention_step_bytes(att));
    assert_int_equal(spectra_attention_state_clear(att, B, NULL, state), SPECTRA_OK);
    const spectra_problem p = {.B = B, .S = prompt};
    assert_int_equal(
        spectra_attention_prefill(att, &p, row(x.k, 0, D), row(x.v, 0, DV), state, work),
        SPECTRA_OK);
    int64_t at[B];
    for (int b = 0; b < B; b++)
        at[b] = prompt;
    for (int64_t step = 0, done = 0; done < B; step++) {
        uint8_t active[B];
        float q1[B * H * D], k1[B * H * D], v1[B * H * DV], o1[B * H * DV];
        memset(o1, 0x7f, sizeof o1);
        for (int b = 0; b < B; b++) {
            active[b] = at[b] < T && (pause == 0 || (step + b) % pause != 0);
            for (int h = 0; h < H && at[b] < T; h++) {
                const int64_t n = b * H + h, t = n * T + at[b];
                memcpy(q1 + n * D, x.q + t * D, D * sizeof(float));
                memcpy(k1 + n * D, x.k + t * D, D * sizeof(float));
                memcpy(v1 + n * DV, x.v + t * DV, DV * sizeof(float));
            }
        }
        assert_int_equal(spectra_attention_step(att, B, active, spectra_rows_dense(q1, H, 1, D),
                                                spectra_rows_dense(k1, H, 1, D),
                                                spectra_rows_dense(v1, H, 1, DV),
                                                spectra_rows_dense(o1, H, 1, DV), state, work),
                         SPECTRA_OK);
        done = 0;
        for (int b = 0; b < B; b++) {
            uint8_t untouched[DV * sizeof(float)];
            memset(untouched, 0x7f, sizeof untouched);
            if (!active[b])
                assert_memory_equal(o1 + b * H * DV, untouched, sizeof untouched);
            for (int h = 0; h < H && active[b]; h++)
                memcpy(o + ((b * H + h) * T + at[b]) * DV, o1 + (b * H + h) * DV,
                       DV * sizeof(float));
            if (active[b])
                check_token(what, b, at[b], o, want, tolerance);
            at[b] += active[b];
            done += at[b] == T;
        }
    }
    free(state), free(work);
    spectra_attention_free(att);
}

static void test_all(void **state)
{
    (void)state;
    for (const feature_info *f = generated_features; f->name; f++)
        if (f->linear == LINEAR_NONE) {
            check_decode(f->name, f->is_signed ? 0.3 : 1, 0, 0, f->is_signed ? 1e-4 : 2e-5);
            check_decode(f->name, f->is_signed ? 0.3 : 1, 40, 3, f->is_signed ? 1e-4 : 2e-5);
        }
}

/* Logs of a thousand: the rounding of the log itself is 1e-4. */
static void test_large(void **state)
{
    (void)state;
    check_decode("posrf", 30, 0, 0, 1e-2);
    check_decode("gerf+", 30, 20, 2, 1e-2);
}

/* A state starts again for some sequences only. */
static void test_clear(void **state)
{
    (void)state;
    static tokens x;
    float first[B * H * DV], again[B * H * DV];
    draw(&x, 1);
    spectra_attention *att = open_attention("posrf");
    void *memory = attend_alloc(spectra_attention_state_bytes(att, B));
    void *work = attend_alloc(spectra_attention_step_bytes(att));
    const uint8_t second[B] = {0, 1, 0};
    spectra_rows o = spectra_rows_dense(first, H, 1, DV);
    assert_int_equal(spectra_attention_state_clear(att, B, NULL, memory), SPECTRA_OK);
    assert_int_equal(spectra_attention_step(att, B, NULL, row(x.q, 0, D), row(x.k, 0, D),
                                            row(x.v, 0, DV), o, memory, work),
                     SPECTRA_OK);
    for (int t = 1; t < 5; t++)
        assert_int_equal(spectra_attention_step(att, B, NULL, row(x.q, t, D), row(x.k, t, D),
                                                row(x.v, t, DV),
                                                spectra_rows_dense(again, H, 1, DV), memory, work),
                         SPECTRA_OK);
    assert_int_equal(spectra_attention_state_clear(att, B, second, memory), SPECTRA_OK);
    o.data = again;
    assert_int_equal(spectra_attention_step(att, B, NULL, row(x.q, 0, D), row(x.k, 0, D),
                                            row(x.v, 0, DV), o, memory, work),
                     SPECTRA_OK);
    assert_memory_equal(first + H * DV, again + H * DV, H * DV * sizeof(float));
    assert_true(memcmp(first, again, H * DV * sizeof(float)) != 0);
    free(memory), free(work);
    spectra_attention_free(att);
}

/* ---- refusals ---- */

static void says(spectra_status got, spectra_status want, const char *part)
{
    if (got != want || !strstr(spectra_message(), part))
        fail_msg("%s '%s', want %s with '%s'", spectra_status_name(got), spectra_message(),
                 spectra_status_name(want), part);
}

static spectra_status try_forward(const spectra_attention *att, int64_t queries, int64_t keys)
{
    static tokens x;
    attend_run run;
    const attend_inputs in = {.q = x.q, .k = x.k, .v = x.v};
    spectra_status status = attend(att, &(attend_shape){1, H, queries, keys, D, DV}, &in, &run);
    attend_free(&run);
    return status;
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"oprf", "parameter A "},
                                           {"saderf", "parameter A "},
                                           {"poisrf", "parameter lambda"},
                                           {"geomrf", "parameter p "}};
    static const char *const linear[] = {"sderf", "aderf", "cderf"};
    spectra_attention *att = NULL;
    spectra_attention_desc desc = describe("oprf");
    float memory[1];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        desc = describe(names[i][0]);
        assert_int_equal(spectra_attention_new(&desc, &att), SPECTRA_OK);
        says(try_forward(att, 5, 5), SPECTRA_EINVAL, names[i][1]);
        says(spectra_attention_state_clear(att, 1, NULL, memory), SPECTRA_EINVAL, names[i][1]);
        spectra_attention_free(att);
    }
    for (size_t i = 0; i < sizeof linear / sizeof linear[0]; i++) {
        desc = describe(linear[i]);
        says(spectra_attention_new(&desc, &att), SPECTRA_EINVAL, "linear map");
    }
    const float A[H] = {-0.1F, -0.1F};
    const int64_t heads = H;
    desc = describe("saderf");
    assert_int_equal(spectra_attention_new(&desc, &att), SPECTRA_OK);
    assert_int_equal(spectra_attention_set(att, "A", A, 1, &heads), SPECTRA_OK);
    says(try_forward(att, 5, 5), SPECTRA_EINVAL, "--input psi=FILE.npy");
    spectra_attention_free(att);
    att = open_attention("posrf");
    says(try_forward(att, 5, 6), SPECTRA_ESHAPE, "as many queries as keys, here are 5 and 6");
    spectra_attention_free(att);
    att = NULL;
    desc = describe("posrf");
    desc.official = true;
    says(spectra_attention_new(&desc, &att), SPECTRA_EUNSUPPORTED,
         "official behaviour) cannot be causal");
    desc.official = false, desc.through = true;
    says(spectra_attention_new(&desc, &att), SPECTRA_EUNSUPPORTED, "computed parameters");
    desc.through = false, desc.causal = false;
    assert_int_equal(spectra_attention_new(&desc, &att), SPECTRA_OK);
    says(spectra_attention_state_clear(att, 1, NULL, memory), SPECTRA_EINVAL, "made causal");
    spectra_attention_free(att);
    desc.attn = "softmax";
    assert_int_equal(spectra_attention_new(&desc, &att), SPECTRA_OK);
    says(spectra_attention_state_clear(att, 1, NULL, memory), SPECTRA_EUNSUPPORTED, "softmax");
    assert_int_equal(spectra_attention_state_bytes(att, 1), 0);
    spectra_attention_free(att);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_clear),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
