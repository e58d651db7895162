/* Causal attention on the emulated device, through its driver, against the CPU's: forward,
 * backward, and decoding after a prompt. */
#include "device/device_case.h"

#include "attention/device.h"
#include "attention/performer/performer.h"
#include "support/attend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 2, TOKENS = 100, PROMPT = 60, SIZE = 16 };

static spectra_rows rows_from(float *x, int64_t t)
{
    spectra_rows r = spectra_rows_dense(x, HEADS, TOKENS, SIZE);
    r.data = x + t * SIZE;
    return r;
}

/* A prompt, then token by token: what the whole forward pass gave. */
static void check_decoding(attention_device *ad, const attention_views *x, const uint8_t *active,
                           const float *o, int64_t n)
{
    void *state = room(attention_device_state_bytes(ad, 2) / 4);
    const attention_device_problem prompt = {
        .p = {.B = 2, .T = PROMPT, .S = PROMPT}, .q_rows = 2 * PROMPT, .k_rows = 2 * PROMPT};
    void *work = room(attention_device_prefill_bytes(ad, &prompt) / 4);
    float *out = room(n);
    ok(device_zero(dev, out, n * 4));
    ok(attention_device_state_clear(ad, 2, state));
    ok(attention_device_prefill(ad, &prompt, x, state, work));
    for (int64_t t = PROMPT; t < TOKENS; t++) {
        const attention_views y = {.q = rows_from(x->q.data, t),
                                   .k = rows_from(x->k.data, t),
                                   .v = rows_from(x->v.data, t),
                                   .o = rows_from(out, t)};
        ok(attention_device_step(ad, 2, t == TOKENS - 1 ? active : NULL, &y, state));
    }
    float *want = attend_floats(n);
    for (int64_t i = 0; i < n; i++) {
        const int64_t t = i / SIZE % TOKENS, b = i / (HEADS * TOKENS * SIZE);
        want[i] = t < PROMPT || (t == TOKENS - 1 && b == 1) ? 0 : o[i];
    }
    const double error = error_of(out, n, want);
    printf("decoding %.1e\n", error);
    assert_true(error <= 2e-5);
    free(want);
    device_free(dev, state), device_free(dev, work), device_free(dev, out);
}

static void driver_of(const char *feat, int64_t M, bool masked)
{
    const spectra_attention_desc d = {.attn = "performer",
                                      .feat = feat,
                                      .kernel = "orf",
                                      .H = HEADS,
                                      .D = SIZE,
                                      .DV = SIZE,
                                      .M = M,
                                      .seed = 7,
                                      .causal = true};
    const attend_shape shape = {2, HEADS, TOKENS, TOKENS, SIZE, SIZE};
    const int64_t n = 2 * HEADS * TOKENS * SIZE;
    spectra_attention *att;
    ok(spectra_attention_new(&d, &att));
    float c[HEADS * SIZE]; /* below every number */
    for (int i = 0; i < HEADS * SIZE; i++)
        c[i] = -1.5F;
    if (strcmp(feat, "geomrf_plus") == 0)
        ok(spectra_attention_set(att, "c", c, 2, (const int64_t[]){HEADS, SIZE}));
    static const char *const given[] = {"p", "half_c2"};
    const float value[2][HEADS] = {{0.4F, 0.5F}, {2, 2.5F}};
    for (int i = 0; i < 2 && strcmp(feat, "geomrf_plus") == 0; i++)
        ok(spectra_attention_set(att, given[i], value[i], 1, (const int64_t[]){HEADS}));
    float *in[4];
    /* sums of signed features come close to 0 where inputs are large, and no digits are left */
    const double spread = performer_of(att)->feature->is_signed ? 0.5 : 0.7;
    for (int i = 0; i < 4; i++)
        in[i] = normal_floats(n, (uint64_t)i + 1, spread);
    uint8_t mask[2 * TOKENS];
    for (int i = 0; i < 2 * TOKENS; i++)
        mask[i] = !masked || i % 7 != 3;
    attend_run run;
    ok(attend(att, &shape, &(attend_inputs){in[0], in[1], in[2], in[3], NULL, mask}, &run));
    attention_device *ad;
    ok(attention_device_new(att, dev, false, &ad));
    ok(attention_device_changed(ad));
    uint8_t *on_device = put(mask, sizeof mask);
    const attention_device_problem p = {
        .p = {.B = 2, .T = TOKENS, .S = TOKENS, .k_mask = masked ? on_device : NULL},
        .q_rows = 2 * TOKENS,
        .k_rows = 2 * TOKENS};
    void *saved = room(attention_device_saved_bytes(ad, &p) / 4);
    void *work = room(attention_device_work_bytes(ad, &p) / 4);
    const attention_views x = {.q = rows_from(put(in[0], n * 4), 0),
                               .k = rows_from(put(in[1], n * 4), 0),
                               .v = rows_from(put(in[2], n * 4), 0),
                               .go = rows_from(put(in[3], n * 4), 0),
                               .o = rows_from(room(n), 0),
                               .gq = rows_from(room(n), 0),
                               .gk = rows_from(room(n), 0),
                               .gv = rows_from(room(n), 0)};
    ok(attention_device_forward(ad, &p, &x, saved, work));
    ok(attention_device_backward(ad, &p, &x, saved, work));
    const double eo = error_of(x.o.data, n, run.o), eq = error_of(x.gq.data, n, run.gq);
    const double ek = error_of(x.gk.data, n, run.gk), ev = error_of(x.gv.data, n, run.gv);
    printf("%s M %d on a device: o %.1e gq %.1e gk %.1e gv %.1e\n", feat, (int)M, eo, eq, ek, ev);
    assert_true(eo <= 2e-5 && eq <= 2e-5 && ek <= 2e-5 && ev <= 2e-5);
    const uint8_t active[2] = {1, 0};
    void *on = put(active, 2);
    if (!masked)
        check_decoding(ad, &x, on, run.o, n);
    device_free(dev, on_device);
    device_free(dev, on), device_free(dev, saved), device_free(dev, work);
    const spectra_rows *rows_of[] = {&x.q, &x.k, &x.v, &x.go, &x.o, &x.gq, &x.gk, &x.gv};
    for (int i = 0; i < 8; i++)
        device_free(dev, rows_of[i]->data);
    for (int i = 0; i < 4; i++)
        free(in[i]);
    attention_device_free(ad);
    attend_free(&run);
    spectra_attention_free(att);
}

static void one_block_of_rows(void **state)
{
    (void)state;
    driver_of("posrf", 48, false);
}

static void several_blocks_of_rows(void **state)
{
    (void)state;
    driver_of("posrf", 272, false);
}

static void a_matrix_a_head(void **state)
{
    (void)state;
    driver_of("geomrf_plus", 32, false);
}

static void lanes_and_signs(void **state)
{
    (void)state;
    driver_of("trigrf", 64, false);
    driver_of("hrf", 33, false);
}

static void masked_keys(void **state)
{
    (void)state;
    driver_of("posrf", 48, true);
    driver_of("hrf", 33, true);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_block_of_rows), cmocka_unit_test(several_blocks_of_rows),
        cmocka_unit_test(a_matrix_a_head),   cmocka_unit_test(lanes_and_signs),
        cmocka_unit_test(masked_keys),
    };
    return run_on_device(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
