/* Sizes at which a block's memory does not fit shared memory, on the emulated device: against the
 * mathematics in double, every pair of tokens, and, where features are more than that, the CPU. */
#include "device/device_case.h"

#include "attention/attention.h"
#include "attention/performer/device.h"
#include "device/backend.h"
#include "support/attend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct big_case {
    const char *feat;
    int64_t T, D, DV, M;
    bool causal;
    performer_kernel kernel; /* one that has no shared memory there */
} big_case;

/* ---- in double --------------------------------------------------------------------------------
 */

/* Features of n tokens x and their gradients: (n, lanes * M), lane-major. */
typedef struct features {
    const spectra_attention *att;
    int64_t n, lanes;
    double *x, *value, *gradient;
} features;

static double *zeros(int64_t n)
{
    double *x = calloc((size_t)n, sizeof *x);
    assert_non_null(x);
    return x;
}

/* e^(w.x - |x|^2 / 2), or e^(|x|^2 / 2) times cos and sin of w.x; x are `from` times D^-1/4. */
static features features_of(const spectra_attention *att, int64_t n, const float *from)
{
    const int64_t D = att->desc.D, M = att->desc.M, lanes = performer_of(att)->feature->lanes;
    features f = {att, n, lanes, zeros(n * D), zeros(n * lanes * M), zeros(n * lanes * M)};
    for (int64_t i = 0; i < n * D; i++)
        f.x[i] = (double)from[i] * pow((double)D, -0.25);
    for (int64_t t = 0; t < n; t++) {
        double *value = f.value + t * lanes * M, norm = 0;
        for (int64_t d = 0; d < D; d++)
            norm += f.x[t * D + d] * f.x[t * D + d];
        for (int64_t r = 0; r < M; r++) {
            double u = 0;
            for (int64_t d = 0; d < D; d++)
                u += (double)performer_of(att)->w[r * D + d] * f.x[t * D + d];
            value[r] = lanes == 1 ? exp(u - norm / 2) : exp(norm / 2) * cos(u);
            if (lanes == 2)
                value[M + r] = exp(norm / 2) * sin(u);
        }
    }
    return f;
}

/* Of what the features were made from. */
static float *gradient_of(const features *f)
{
    const int64_t D = f->att->desc.D, M = f->att->desc.M;
    float *out = attend_floats(f->n * D);
    double *sum = zeros(D);
    for (int64_t t = 0; t < f->n; t++) {
        const double *value = f->value + t * f->lanes * M, *g = f->gradient + t * f->lanes * M;
        double own = 0;
        memset(sum, 0, (size_t)D * sizeof *sum);
        for (int64_t r = 0; r < M; r++) {
            double u = g[r] * value[r];
            own += f->lanes == 1 ? -u : u + g[M + r] * value[M + r];
            if (f->lanes == 2)
                u = g[M + r] * value[r] - g[r] * value[M + r];
            for (int64_t d = 0; d < D; d++)
                sum[d] += u * (double)performer_of(f->att)->w[r * D + d];
        }
        for (int64_t d = 0; d < D; d++)
            out[t * D + d] = (float)((sum[d] + own * f->x[t * D + d]) * pow((double)D, -0.25));
    }
    free(sum);
    return out;
}

typedef struct results {
    float *o, *gq, *gk, *gv;
} results;

/* One head; mask: keys that are there. */
static results expected(const spectra_attention *att, int64_t T, float *const *in,
                        const uint8_t *mask)
{
    const int64_t DV = att->desc.DV, F = performer_of(att)->feature->lanes * att->desc.M;
    features q = features_of(att, T, in[0]), k = features_of(att, T, in[1]);
    double *o = zeros(DV), *row = zeros(T), *gv = zeros(T * DV);
    results out = {.o = attend_floats(T * DV), .gv = attend_floats(T * DV)};
    for (int64_t i = 0; i < T; i++) {
        const int64_t end = att->desc.causal ? i + 1 : T;
        const float *go = in[3] + i * DV;
        double den = 0;
        memset(o, 0, (size_t)DV * sizeof *o);
        for (int64_t j = 0; j < end; j++) {
            row[j] = 0;
            for (int64_t f = 0; f < F && mask[j]; f++)
                row[j] += q.value[i * F + f] * k.value[j * F + f];
            den += row[j];
            for (int64_t d = 0; d < DV; d++)
                o[d] += row[j] * (double)in[2][j * DV + d];
        }
        for (int64_t d = 0; d < DV; d++)
            out.o[i * DV + d] = (float)(o[d] = den == 0 ? 0 : o[d] / den);
        for (int64_t j = 0; j < end; j++) {
            double g = 0;
            for (int64_t d = 0; d < DV && mask[j]; d++) {
                g += (double)go[d] * ((double)in[2][j * DV + d] - o[d]) / den;
                gv[j * DV + d] += row[j] / den * (double)go[d];
            }
            for (int64_t f = 0; f < F && mask[j]; f++) {
                q.gradient[i * F + f] += g * k.value[j * F + f];
                k.gradient[j * F + f] += g * q.value[i * F + f];
            }
        }
    }
    for (int64_t i = 0; i < T * DV; i++)
        out.gv[i] = (float)gv[i];
    out.gq = gradient_of(&q);
    out.gk = gradient_of(&k);
    free(o), free(row), free(gv);
    free(q.x), free(q.value), free(q.gradient), free(k.x), free(k.value), free(k.gradient);
    return out;
}

/* ---- on the device ----------------------------------------------------------------------------
 */

/* On a GPU it depends on which one it is. */
static void has_no_shared_memory(const attention_device *ad, performer_kernel kernel)
{
    const performer_device *pd = ad->own;
    assert_true(strcmp(kind, "emu") != 0 || pd->plan[kernel].memory > 0);
}

static void test_against_double(void **state)
{
    const big_case *c = *state;
    const spectra_attention_desc d = {.attn = "performer",
                                      .feat = c->feat,
                                      .kernel = "orf",
                                      .H = 1,
                                      .D = c->D,
                                      .DV = c->DV,
                                      .M = c->M,
                                      .seed = 7,
                                      .causal = c->causal};
    const int64_t T = c->T, width[4] = {c->D, c->D, c->DV, c->DV};
    spectra_attention *att;
    attention_device *ad;
    float *in[4];
    spectra_rows rows[8]; /* q k v go, gq gk gv o */
    uint8_t *mask = malloc((size_t)T);
    const int multiprocessors = dev->multiprocessors;
    dev->multiprocessors = 2; /* a block has several turns */
    ok(spectra_attention_new(&d, &att));
    ok(attention_device_new(att, dev, false, &ad));
    ok(attention_device_changed(ad));
    has_no_shared_memory(ad, c->kernel);
    for (int64_t i = 0; i < T; i++)
        mask[i] = i == 0 || i % 5 != 3;
    for (int i = 0; i < 4; i++) {
        /* of trigonometric ones the normaliser is near 0 where vectors are long */
        in[i] = normal_floats(T * width[i], (uint64_t)i + 1,
                              performer_of(att)->feature->is_signed ? 0.25 : 0.5);
        rows[i] = spectra_rows_dense(put(in[i], T * width[i] * 4), 1, T, width[i]);
        rows[4 + i] = spectra_rows_dense(room(T * width[i]), 1, T, width[i]);
    }
    const attention_device_problem p = {
        .p = {.B = 1, .T = T, .S = T, .k_mask = put(mask, T)}, .q_rows = T, .k_rows = T};
    const attention_views x = {rows[0], rows[1], rows[2], rows[7],
                               rows[3], rows[4], rows[5], rows[6]};
    void *saved = room(attention_device_saved_bytes(ad, &p) / 4);
    void *work = room(attention_device_work_bytes(ad, &p) / 4);
    ok(attention_device_forward(ad, &p, &x, saved, work));
    ok(attention_device_backward(ad, &p, &x, saved, work));
    dev->multiprocessors = multiprocessors;
    const results want = expected(att, T, in, mask);
    const double eo = error_of(x.o.data, T * c->DV, want.o),
                 eq = error_of(x.gq.data, T * c->D, want.gq),
                 ek = error_of(x.gk.data, T * c->D, want.gk),
                 ev = error_of(x.gv.data, T * c->DV, want.gv);
    printf("%-6s %s: o %.1e gq %.1e gk %.1e gv %.1e\n", c->feat, c->causal ? "causal" : "", eo, eq,
           ek, ev);
    assert_true(eo <= 2e-5 && eq <= 2e-5 && ek <= 2e-5 && ev <= 2e-5);
    free(want.o), free(want.gq), free(want.gk), free(want.gv), free(mask);
    for (int i = 0; i < 8; i++)
        device_free(dev, rows[i].data);
    for (int i = 0; i < 4; i++)
        free(in[i]);
    device_free(dev, saved), device_free(dev, work);
    device_free(dev, (void *)(uintptr_t)p.p.k_mask);
    attention_device_free(ad);
    spectra_attention_free(att);
}

/* A prompt, then a token at a time, where neither kernel has shared memory. */
static void test_decoding(void **state)
{
    enum { T = 4, PROMPT = 2, SIZE = 256, VALUES = 8, ROWS = 1024, SMALL = 86 };
    static const int64_t width[4] = {SIZE, SIZE, VALUES, VALUES}; /* of q k v o */
    const spectra_attention_desc d = {.attn = "performer",
                                      .feat = "hrf",
                                      .kernel = "orf",
                                      .H = 2,
                                      .D = SIZE,
                                      .DV = VALUES,
                                      .M = ROWS,
                                      .seed = 7,
                                      .causal = true};
    const attend_shape shape = {1, 2, T, T, SIZE, VALUES};
    const attention_device_problem prompt = {
        .p = {.B = 1, .T = PROMPT, .S = PROMPT}, .q_rows = PROMPT, .k_rows = PROMPT};
    spectra_attention *att;
    attention_device *ad;
    attend_run run;
    float *in[4];
    spectra_rows rows[4];
    const int arch = dev->arch;
    (void)state;
    if (strcmp(kind, "emu") == 0)
        dev->arch = SMALL;
    ok(spectra_attention_new(&d, &att));
    ok(attention_device_new(att, dev, false, &ad));
    ok(attention_device_changed(ad));
    for (int i = 0; i < 4; i++) {
        in[i] = normal_floats(2 * T * width[i], (uint64_t)i + 1, 0.25);
        rows[i] = spectra_rows_dense(put(in[i], 2 * T * width[i] * 4), 2, T, width[i]);
    }
    ok(attend(att, &shape, &(attend_inputs){in[0], in[1], in[2], NULL, NULL, NULL}, &run));
    void *decoded = room(attention_device_state_bytes(ad, 1) / 4);
    void *work = room(attention_device_prefill_bytes(ad, &prompt) / 4);
    attention_views x = {.q = rows[0], .k = rows[1], .v = rows[2], .o = rows[3]};
    ok(attention_device_state_clear(ad, 1, decoded));
    ok(attention_device_prefill(ad, &prompt, &x, decoded, work));
    for (int t = PROMPT; t < T; t++) {
        spectra_rows *const at[4] = {&x.q, &x.k, &x.v, &x.o};
        for (int i = 0; i < 4; i++)
            at[i]->data = (float *)rows[i].data + t * width[i];
        ok(attention_device_step(ad, 1, NULL, &x, decoded));
    }
    has_no_shared_memory(ad, KEYS);
    has_no_shared_memory(ad, STEP);
    dev->arch = arch;
    for (int i = 0; i < 2 * T * VALUES; i++) /* the prompt's are not computed */
        run.o[i] = i / VALUES % T < PROMPT ? in[3][i] : run.o[i];
    const double error = error_of(rows[3].data, 2 * T * VALUES, run.o);
    printf("hrf decoding: %.1e\n", error);
    assert_true(error <= 2e-5);
    for (int i = 0; i < 4; i++) {
        device_free(dev, rows[i].data);
        free(in[i]);
    }
    device_free(dev, decoded), device_free(dev, work);
    attention_device_free(ad);
    attend_free(&run);
    spectra_attention_free(att);
}

static const big_case cases[] = {
    {"posrf", 65, 256, 256, 1024, false, KEYS_BWD},
    {"posrf", 65, 256, 256, 1024, true, CAUSAL},
    {"trigrf", 65, 256, 256, 160, false, QUERIES_BWD},
};

int main(int argc, char **argv)
{
    enum { COUNT = sizeof cases / sizeof cases[0] };
    struct CMUnitTest tests[COUNT + 1];
    static char names[COUNT][64];
    for (size_t i = 0; i < COUNT; i++) {
        const big_case *c = &cases[i];
        snprintf(names[i], sizeof names[i], "%s%s D=%d DV=%d M=%d", c->feat,
                 c->causal ? " causal" : "", (int)c->D, (int)c->DV, (int)c->M);
        tests[i] =
            (struct CMUnitTest){names[i], test_against_double, NULL, NULL, (void *)(uintptr_t)c};
    }
    tests[COUNT] = (struct CMUnitTest)cmocka_unit_test(test_decoding);
    return run_on_device(argc, argv, tests, COUNT + 1);
}
