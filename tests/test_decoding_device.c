/* Causal attention on the emulated device, through its driver, against the CPU's: forward,
 * backward, and decoding after a prompt. */
#include "attend.h"
#include "attention_device.h"
#include "emulated.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 1;

/* Of variance 1. */
static float uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(sqrt(12) * ((double)(random_state >> 40) / (1 << 24) - 0.5));
}

/* The largest difference, by the largest number. */
static double worst_floats(int64_t n, const float *got, const float *want)
{
    double most = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= 1e30))
            return INFINITY;
        most = fmax(most, d);
        scale = fmax(scale, fabs((double)want[i]));
    }
    return most / scale;
}

static device *dev;

static void *on_device(const void *x, int64_t bytes)
{
    void *p;
    emulated_ok(device_alloc(dev, bytes, &p));
    if (x)
        emulated_ok(device_write(dev, p, x, bytes));
    return p;
}

static double from_device(int64_t n, const void *got, const float *want)
{
    float *x = attend_floats(n);
    emulated_ok(device_read(dev, x, got, n * 4));
    const double error = worst_floats(n, x, want);
    free(x);
    return error;
}

enum { HEADS = 2, TOKENS = 150, PROMPT = 70, SIZE = 16 };

static spectra_rows rows_from(float *x, int64_t t)
{
    spectra_rows r = spectra_rows_dense(x, HEADS, TOKENS, SIZE);
    r.data = x + t * SIZE;
    return r;
}

/* A prompt, then token by token: what the whole forward pass gave. */
static void check_decoding(attention_device *ad, const attention_device_views *x,
                           const uint8_t *active, const float *o, int64_t n)
{
    void *state = on_device(NULL, attention_device_state_bytes(ad, 2));
    const attention_device_problem prompt = {
        .p = {.B = 2, .T = PROMPT, .S = PROMPT}, .q_rows = 2 * PROMPT, .k_rows = 2 * PROMPT};
    void *work = on_device(NULL, attention_device_prefill_bytes(ad, &prompt));
    float *out = on_device(NULL, n * 4);
    emulated_ok(device_zero(dev, out, n * 4));
    emulated_ok(attention_device_state_clear(ad, 2, state));
    emulated_ok(attention_device_prefill(ad, &prompt, x, state, work));
    for (int64_t t = PROMPT; t < TOKENS; t++) {
        const attention_device_views y = {.q = rows_from(x->q.data, t),
                                          .k = rows_from(x->k.data, t),
                                          .v = rows_from(x->v.data, t),
                                          .o = rows_from(out, t)};
        emulated_ok(attention_device_step(ad, 2, t == TOKENS - 1 ? active : NULL, &y, state));
    }
    float *want = attend_floats(n);
    for (int64_t i = 0; i < n; i++) {
        const int64_t t = i / SIZE % TOKENS, b = i / (HEADS * TOKENS * SIZE);
        want[i] = t < PROMPT || (t == TOKENS - 1 && b == 1) ? 0 : o[i];
    }
    const double error = from_device(n, out, want);
    printf("decoding %.1e\n", error);
    assert_true(error <= 2e-5);
    free(want);
    device_free(dev, state), device_free(dev, work), device_free(dev, out);
}

static void driver_of(const char *feat, int64_t M)
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
    emulated_ok(spectra_attention_new(&d, &att));
    float c[HEADS * SIZE]; /* below every number */
    for (int i = 0; i < HEADS * SIZE; i++)
        c[i] = -1.5F;
    if (strcmp(feat, "geomrf_plus") == 0)
        emulated_ok(spectra_attention_set(att, "c", c, 2, (const int64_t[]){HEADS, SIZE}));
    static const char *const given[] = {"p", "half_c2"};
    const float value[2][HEADS] = {{0.4F, 0.5F}, {2, 2.5F}};
    for (int i = 0; i < 2 && strcmp(feat, "geomrf_plus") == 0; i++)
        emulated_ok(spectra_attention_set(att, given[i], value[i], 1, (const int64_t[]){HEADS}));
    float *in[4];
    for (int i = 0; i < 4; i++) {
        in[i] = attend_floats(n);
        for (int64_t j = 0; j < n; j++)
            in[i][j] = 0.7F * uniform();
    }
    attend_run run;
    emulated_ok(
        attend(att, &shape, &(attend_inputs){in[0], in[1], in[2], in[3], NULL, NULL}, &run));
    attention_device *ad;
    emulated_ok(attention_device_new(att, dev, false, &ad));
    emulated_ok(attention_device_changed(ad));
    const attention_device_problem p = {
        .p = {.B = 2, .T = TOKENS, .S = TOKENS}, .q_rows = 2 * TOKENS, .k_rows = 2 * TOKENS};
    void *saved = on_device(NULL, attention_device_saved_bytes(ad, &p));
    void *work = on_device(NULL, attention_device_work_bytes(ad, &p));
    const attention_device_views x = {.q = rows_from(on_device(in[0], n * 4), 0),
                                      .k = rows_from(on_device(in[1], n * 4), 0),
                                      .v = rows_from(on_device(in[2], n * 4), 0),
                                      .go = rows_from(on_device(in[3], n * 4), 0),
                                      .o = rows_from(on_device(NULL, n * 4), 0),
                                      .gq = rows_from(on_device(NULL, n * 4), 0),
                                      .gk = rows_from(on_device(NULL, n * 4), 0),
                                      .gv = rows_from(on_device(NULL, n * 4), 0)};
    emulated_ok(attention_device_forward(ad, &p, &x, saved, work));
    emulated_ok(attention_device_backward(ad, &p, &x, saved, work));
    const double eo = from_device(n, x.o.data, run.o), eq = from_device(n, x.gq.data, run.gq);
    const double ek = from_device(n, x.gk.data, run.gk), ev = from_device(n, x.gv.data, run.gv);
    printf("%s M %d on a device: o %.1e gq %.1e gk %.1e gv %.1e\n", feat, (int)M, eo, eq, ek, ev);
    assert_true(eo <= 2e-5 && eq <= 2e-5 && ek <= 2e-5 && ev <= 2e-5);
    const uint8_t active[2] = {1, 0};
    void *on = on_device(active, 2);
    check_decoding(ad, &x, on, run.o, n);
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
    driver_of("posrf", 48);
}

static void several_blocks_of_rows(void **state)
{
    (void)state;
    driver_of("posrf", 272);
}

static void a_matrix_a_head(void **state)
{
    (void)state;
    driver_of("geomrf_plus", 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_block_of_rows),
        cmocka_unit_test(several_blocks_of_rows),
        cmocka_unit_test(a_matrix_a_head),
    };
    emulated_open();
    if (device_open("emu", &dev) != SPECTRA_OK) {
        printf("test_decoding_device: skipped: %s\n0 passed, 0 failed, 1 skipped\n",
               spectra_message());
        return 0;
    }
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device_close(dev);
    emulated_close();
    return failed;
}
