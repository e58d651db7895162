/* Properties of attention through the public API: it is the oracle's attention at awkward sizes,
 * the invariances that hold exactly, convergence to softmax attention, parameters computed from
 * data, independence of threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention/performer/performer.h"
#include "kernel/registry.h"
#include "support/attend.h"
#include "support/oracle.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const feats[] = {"trigrf", "posrf", "oprf", "gerf", "saderf"};
static const char *const matrices[] = {"gaus", "orf", "qmc", "mm"};
enum { FEATS = 5, MATRICES = 4 };

/* One problem with random contents; a mask over T = S tokens, NULL: none. */
typedef struct data {
    attend_shape n;
    float *q, *k, *v, *go;
    uint8_t *mask;
    int64_t nq, nk, nv, no;
} data;

static float *normals(oracle_rng *r, int64_t n, double deviation)
{
    float *x = attend_floats(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(deviation * oracle_normal(r));
    return x;
}

static data data_new(uint64_t seed, attend_shape n, double deviation, bool masked)
{
    oracle_rng r = {seed};
    const int64_t heads = n.B * n.H;
    data d = {.n = n,
              .nq = heads * n.T * n.D,
              .nk = heads * n.S * n.D,
              .nv = heads * n.S * n.DV,
              .no = heads * n.T * n.DV};
    d.q = normals(&r, d.nq, deviation);
    d.k = normals(&r, d.nk, deviation);
    d.v = normals(&r, d.nv, 1);
    d.go = normals(&r, d.no, 1);
    if (masked) { /* scattered, never all of a sequence */
        d.mask = attend_alloc(n.B * n.S);
        for (int64_t i = 0; i < n.B * n.S; i++)
            d.mask[i] = i % n.S == n.S / 2 || oracle_uniform(&r) < 0.6;
    }
    return d;
}

static void data_free(data *d)
{
    free(d->q), free(d->k), free(d->v), free(d->go), free(d->mask);
}

static spectra_attention *open_attention(const char *feat, const char *matrix,
                                         const attend_shape *n, int64_t m, spectra_target target)
{
    const spectra_attention_desc desc = {.attn = "performer",
                                         .feat = feat,
                                         .kernel = matrix,
                                         .H = n->H,
                                         .D = n->D,
                                         .DV = n->DV,
                                         .M = m,
                                         .seed = 20,
                                         .target = target};
    spectra_attention *att = NULL;
    if (spectra_attention_new(&desc, &att) != SPECTRA_OK)
        fail_msg("%s-%s: %s", feat, matrix, spectra_message());
    if (strcmp(feat, "gerf") == 0) {
        float A[8];
        for (int64_t h = 0; h < n->H; h++)
            A[h] = -0.1F - 0.05F * (float)h;
        assert_int_equal(spectra_attention_set(att, "A", A, 1, &n->H), SPECTRA_OK);
    }
    return att;
}

static attend_run run_attention(const spectra_attention *att, const data *d, bool gradients)
{
    const attend_inputs x = {.q = d->q,
                             .k = d->k,
                             .v = d->v,
                             .go = gradients ? d->go : NULL,
                             .q_mask = d->mask,
                             .k_mask = d->mask};
    attend_run run;
    if (attend(att, &d->n, &x, &run) != SPECTRA_OK)
        fail_msg("attention: %s", spectra_message());
    return run;
}

/* max|got - want| <= tolerance * max|want|, and everything finite. */
static void check_close(const char *what, const char *name, int64_t n, const float *got,
                        const float *want, double tolerance)
{
    double scale = 0, worst = -1;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++)
        scale = fmax(scale, fabs((double)want[i]));
    for (int64_t i = 0; i < n; i++) {
        const double off = fabs((double)got[i] - (double)want[i]);
        if (!(off <= worst)) {
            worst = off;
            at = i;
        }
        if (!isfinite(off))
            break;
    }
    if (n && !(worst <= tolerance * scale))
        fail_msg("%s: %s differs by %.2e of the largest, allowed %.1e; element %d is %.9g, want "
                 "%.9g",
                 what, name, worst / scale, tolerance, (int)at, (double)got[at], (double)want[at]);
}

static void check_same_gradients(const char *what, const data *d, const attend_run *got,
                                 const attend_run *want, double tolerance)
{
    check_close(what, "out", d->no, got->o, want->o, tolerance);
    check_close(what, "dq", d->nq, got->gq, want->gq, tolerance);
    check_close(what, "dk", d->nk, got->gk, want->gk, tolerance);
    check_close(what, "dv", d->nv, got->gv, want->gv, tolerance);
}

/* ---- against the oracle ---- */

static double *widened(int64_t n, const float *x, double factor)
{
    double *to = malloc((size_t)(n ? n : 1) * sizeof *to);
    assert_non_null(to);
    for (int64_t i = 0; i < n; i++)
        to[i] = factor * (double)x[i];
    return to;
}

/* Parameters of head (b, h) from the tokens themselves, in double. */
static oracle_map map_of(const char *feat, bool gaussian, const spectra_attention *att, int64_t h,
                         int64_t n, int64_t d, const double *x, const double *y,
                         const uint8_t *mask, double *psi)
{
    oracle_map map = {.trig = strcmp(feat, "trigrf") == 0, .gaussian = gaussian};
    if (strcmp(feat, "saderf") == 0) {
        oracle_psi(n, d, x, y, mask, psi);
        for (int64_t l = 0; l < d; l++)
            psi[l] = fmin(fmax(psi[l], 0.125), 8);
        map.psi = psi;
    }
    if (strcmp(feat, "saderf") == 0 || strcmp(feat, "oprf") == 0)
        map.A = oracle_optimum(oracle_pair_mean(n, d, x, y, mask, map.psi));
    if (strcmp(feat, "gerf") == 0)
        map.A = (double)performer_of(att)->scalar[0].data[h];
    return map;
}

static void check_oracle(const char *feat, const char *matrix, const data *d, int64_t m,
                         spectra_target target)
{
    const attend_shape *n = &d->n;
    char what[128];
    snprintf(what, sizeof what, "%s-%s %s T = %d, D = %d, DV = %d, M = %d%s, %s", feat, matrix,
             target ? "gaussian" : "softmax", (int)n->T, (int)n->D, (int)n->DV, (int)m,
             d->mask ? ", masked" : "", registry_isa_name(registry_isa()));
    spectra_attention *att = open_attention(feat, matrix, n, m, target);
    attend_run run = run_attention(att, d, false);
    double *w = widened(m * n->D, spectra_attention_matrix(att), 1);
    float *want = attend_floats(d->no);
    double *o = widened(n->T * n->DV, d->go, 1);
    for (int64_t i = 0; i < n->B * n->H; i++) {
        const double scale = pow((double)n->D, -0.25);
        double *x = widened(n->T * n->D, d->q + i * n->T * n->D, scale);
        double *y = widened(n->S * n->D, d->k + i * n->S * n->D, scale);
        double *v = widened(n->S * n->DV, d->v + i * n->S * n->DV, 1), psi[ORACLE_MAX_D];
        const uint8_t *mask = d->mask ? d->mask + i / n->H * n->S : NULL;
        const oracle_map map =
            map_of(feat, target == SPECTRA_GAUSSIAN, att, i % n->H, n->T, n->D, x, y, mask, psi);
        const oracle_head head = {n->T, n->S, n->D, n->DV, x, y, v, mask};
        oracle_attend(&head, &map, m, w, NULL, o);
        for (int64_t e = 0; e < n->T * n->DV; e++)
            want[i * n->T * n->DV + e] = (float)o[e];
        free(x), free(y), free(v);
    }
    check_close(what, "out", d->no, run.o, want, 3e-5);
    free(w), free(o), free(want);
    attend_free(&run);
    spectra_attention_free(att);
}

static void test_oracle_sizes(void **state)
{
    (void)state;
    static const struct {
        int64_t B, H, T, D, DV, M;
    } sizes[] = {
        {1, 1, 1, 8, 8, 8},     {2, 2, 7, 20, 20, 100},  {1, 2, 63, 32, 32, 128},
        {2, 1, 64, 60, 60, 96}, {1, 2, 65, 64, 64, 256}, {1, 1, 1000, 16, 16, 32},
        {2, 2, 33, 20, 12, 24}, {1, 1, 130, 7, 9, 13},   {1, 1, 9, 1, 1, 1},
    };
    for (int level = ISA_PORTABLE; level < ISA_COUNT; level++) {
        registry_isa_limit((isa)level);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && registry_isa() == (isa)level; i++)
            for (int f = 0; f < FEATS; f++) {
                const attend_shape n = {sizes[i].B, sizes[i].H, sizes[i].T,
                                        sizes[i].T, sizes[i].D, sizes[i].DV};
                const bool small = sizes[i].M < 16; /* few features: trigrf's den may vanish */
                data d = data_new(i + 1, n, small ? 0.2 : 0.6, i % 2);
                check_oracle(feats[f], "gaus", &d, sizes[i].M,
                             f % 2 ? SPECTRA_SOFTMAX : SPECTRA_GAUSSIAN);
                check_oracle(feats[f], "orf", &d, sizes[i].M,
                             f % 2 ? SPECTRA_GAUSSIAN : SPECTRA_SOFTMAX);
                data_free(&d);
            }
    }
    registry_isa_limit(ISA_AVX512);
}

/* The sizes that pairs are generated for by default, so that their kernels are met where made. */
static void test_oracle_pairs(void **state)
{
    (void)state;
    data d = data_new(50, (attend_shape){2, 2, 65, 65, 32, 32}, 0.7, true);
    for (int f = 0; f < FEATS; f++)
        for (int k = 0; k < MATRICES; k++)
            check_oracle(feats[f], matrices[k], &d, 128, SPECTRA_SOFTMAX);
    data_free(&d);
}

/* ---- invariances ---- */

static const attend_shape usual = {2, 2, 65, 65, 20, 12};

/* Keys, values and mask in another order. */
static void test_key_order(void **state)
{
    (void)state;
    data a = data_new(1, usual, 0.7, true), b = data_new(1, usual, 0.7, true);
    const attend_shape *n = &a.n;
    for (int64_t i = 0; i < n->B * n->H; i++)
        for (int64_t t = 0; t < n->S; t++) {
            const int64_t to = i * n->S + t, from = i * n->S + (t * 17 + 5) % n->S;
            memcpy(b.k + to * n->D, a.k + from * n->D, (size_t)n->D * sizeof *b.k);
            memcpy(b.v + to * n->DV, a.v + from * n->DV, (size_t)n->DV * sizeof *b.v);
            b.mask[i / n->H * n->S + t] = a.mask[from - i * n->S + i / n->H * n->S];
        }
    for (int f = 0; f < FEATS; f++) {
        spectra_attention *att = open_attention(feats[f], "orf", n, 100, SPECTRA_SOFTMAX);
        const attend_inputs x = {.q = a.q, .k = b.k, .v = b.v, .q_mask = a.mask, .k_mask = b.mask};
        attend_run want = run_attention(att, &a, false), got;
        assert_int_equal(attend(att, n, &x, &got), SPECTRA_OK);
        check_close(feats[f], "out with keys in another order", a.no, got.o, want.o, 1e-5);
        attend_free(&want);
        attend_free(&got);
        spectra_attention_free(att);
    }
    data_free(&a);
    data_free(&b);
}

/* What stands in masked keys and values is never looked at. */
static void test_masked_garbage(void **state)
{
    (void)state;
    static const float garbage[] = {1e4F, -3e18F, 3e38F};
    data a = data_new(2, usual, 0.7, true), b = data_new(2, usual, 0.7, true);
    const attend_shape *n = &a.n;
    for (int g = 0; g < 3; g++) {
        for (int64_t i = 0; i < n->B * n->H * n->S; i++) {
            if (a.mask[i / (n->H * n->S) * n->S + i % n->S])
                continue;
            for (int64_t l = 0; l < n->D; l++)
                b.k[i * n->D + l] = garbage[g] * (l % 2 ? 1 : -0.5F);
            for (int64_t l = 0; l < n->DV; l++)
                b.v[i * n->DV + l] = garbage[g];
        }
        for (int f = 0; f < FEATS; f++) {
            spectra_attention *att = open_attention(feats[f], "orf", n, 100, SPECTRA_SOFTMAX);
            attend_run want = run_attention(att, &a, true), got = run_attention(att, &b, true);
            char what[64];
            snprintf(what, sizeof what, "%s with %g in masked keys", feats[f], (double)garbage[g]);
            check_same_gradients(what, &a, &got, &want, 1e-6);
            attend_free(&want);
            attend_free(&got);
            spectra_attention_free(att);
        }
    }
    data_free(&a);
    data_free(&b);
}

/* Masked keys get no gradient. */
static void test_masked_gradient(void **state)
{
    (void)state;
    data d = data_new(3, usual, 0.7, true);
    const attend_shape *n = &d.n;
    for (int f = 0; f < FEATS; f++) {
        spectra_attention *att = open_attention(feats[f], "orf", n, 100, SPECTRA_SOFTMAX);
        attend_run run = run_attention(att, &d, true);
        for (int64_t i = 0; i < n->B * n->H * n->S; i++) {
            if (d.mask[i / (n->H * n->S) * n->S + i % n->S])
                continue;
            for (int64_t l = 0; l < n->D; l++)
                assert_true(run.gk[i * n->D + l] == 0);
            for (int64_t l = 0; l < n->DV; l++)
                assert_true(run.gv[i * n->DV + l] == 0);
        }
        attend_free(&run);
        spectra_attention_free(att);
    }
    data_free(&d);
}

static void test_value_scale(void **state)
{
    (void)state;
    data d = data_new(4, usual, 0.7, true);
    for (int f = 0; f < FEATS; f++) {
        spectra_attention *att = open_attention(feats[f], "orf", &d.n, 100, SPECTRA_SOFTMAX);
        attend_run want = run_attention(att, &d, false);
        for (int64_t i = 0; i < d.nv; i++)
            d.v[i] *= 4;
        attend_run got = run_attention(att, &d, false);
        for (int64_t i = 0; i < d.no; i++)
            want.o[i] *= 4;
        check_close(feats[f], "out for 4 v", d.no, got.o, want.o, 0);
        for (int64_t i = 0; i < d.nv; i++)
            d.v[i] *= 0.25F;
        attend_free(&want);
        attend_free(&got);
        spectra_attention_free(att);
    }
    data_free(&d);
}

/* One key, or keys that are all alike: the output is the value, or the mean of the values. */
static void check_few_keys(int f, bool same)
{
    /* trigrf's normaliser is only safely away from 0 for tokens that are near each other */
    data d = data_new(5, usual, strcmp(feats[f], "trigrf") == 0 ? 0.3 : 0.7, true);
    const attend_shape *n = &d.n;
    float *want = attend_floats(d.no);
    for (int64_t i = 0; i < n->B * n->S; i++)
        d.mask[i] = same || i % n->S == 13;
    for (int64_t i = 0; i < n->B * n->H * n->S; i++)
        for (int64_t l = 0; l < n->D && same; l++)
            d.k[i * n->D + l] = d.k[i / n->S * n->S * n->D + l];
    for (int64_t i = 0; i < d.no; i++) {
        const float *v = d.v + i / (n->T * n->DV) * n->S * n->DV + i % n->DV;
        double mean = 0;
        for (int64_t t = 0; t < n->S; t++)
            mean += (double)v[t * n->DV] / (double)n->S;
        want[i] = same ? (float)mean : v[13 * n->DV];
    }
    spectra_attention *att = open_attention(feats[f], "orf", n, 100, SPECTRA_SOFTMAX);
    attend_run run = run_attention(att, &d, false);
    check_close(feats[f], same ? "mean of values" : "the only value", d.no, run.o, want, 1e-5);
    attend_free(&run);
    spectra_attention_free(att);
    free(want);
    data_free(&d);
}

static void test_few_keys(void **state)
{
    (void)state;
    for (int f = 0; f < FEATS; f++) {
        check_few_keys(f, false);
        check_few_keys(f, true);
    }
}

static void test_no_keys(void **state)
{
    (void)state;
    data d = data_new(6, usual, 0.7, true);
    const attend_shape *n = &d.n;
    memset(d.mask + n->S, 0, (size_t)n->S); /* of the second sequence */
    for (int f = 0; f < FEATS; f++) {
        spectra_attention *att = open_attention(feats[f], "orf", n, 100, SPECTRA_SOFTMAX);
        attend_run run = run_attention(att, &d, true);
        const struct {
            const char *name;
            const float *x;
            int64_t count;
        } all[] = {
            {"out", run.o, d.no}, {"dq", run.gq, d.nq}, {"dk", run.gk, d.nk}, {"dv", run.gv, d.nv}};
        for (int k = 0; k < 4; k++)
            for (int64_t i = 0; i < all[k].count; i++)
                if (i < all[k].count / 2 ? !isfinite(all[k].x[i]) : all[k].x[i] != 0)
                    fail_msg("%s: %s[%d] is %g, want %s", feats[f], all[k].name, (int)i,
                             (double)all[k].x[i], i < all[k].count / 2 ? "a number" : "0");
        attend_free(&run);
        spectra_attention_free(att);
    }
    data_free(&d);
}

static void test_large_inputs(void **state)
{
    (void)state;
    data d = data_new(7, usual, 30, true);
    for (int f = 0; f < FEATS; f++) {
        spectra_attention *att = open_attention(feats[f], "orf", &d.n, 100, SPECTRA_SOFTMAX);
        attend_run run = run_attention(att, &d, true);
        check_same_gradients(feats[f], &d, &run, &run, 0);
        attend_free(&run);
        spectra_attention_free(att);
    }
    data_free(&d);
}

/* Sequences of other lengths end to end give what the padded ones give. */
static void test_packed(void **state)
{
    (void)state;
    data d = data_new(8, usual, 0.7, true);
    const attend_shape *n = &d.n;
    const int64_t len[2] = {n->S, 23}, begin[2] = {0, n->S}, rows = n->S + 23;
    for (int64_t i = 0; i < n->B * n->S; i++)
        d.mask[i] = i % n->S < len[i / n->S];
    float *q = attend_floats(rows * n->H * n->D), *k = attend_floats(rows * n->H * n->D);
    float *v = attend_floats(rows * n->H * n->DV);
    for (int64_t b = 0; b < 2; b++)
        for (int64_t h = 0; h < n->H; h++)
            for (int64_t t = 0; t < len[b]; t++) {
                const int64_t to = (begin[b] + t) * n->H + h, from = (b * n->H + h) * n->S + t;
                memcpy(q + to * n->D, d.q + from * n->D, (size_t)n->D * sizeof *q);
                memcpy(k + to * n->D, d.k + from * n->D, (size_t)n->D * sizeof *k);
                memcpy(v + to * n->DV, d.v + from * n->DV, (size_t)n->DV * sizeof *v);
            }
    const spectra_problem p = {.B = 2,
                               .T = n->T,
                               .S = n->S,
                               .q_begin = begin,
                               .q_len = len,
                               .k_begin = begin,
                               .k_len = len};
    for (int f = 0; f < FEATS; f++) {
        spectra_attention *att = open_attention(feats[f], "orf", n, 100, SPECTRA_SOFTMAX);
        attend_run want = run_attention(att, &d, false);
        float *o = attend_floats(rows * n->H * n->DV), *dense = attend_floats(d.no);
        void *saved = attend_alloc(spectra_attention_saved_bytes(att, &p));
        void *work = attend_alloc(spectra_attention_work_bytes(att, &p));
        const spectra_rows x = {q, 0, n->D, n->H * n->D}, y = {k, 0, n->D, n->H * n->D};
        const spectra_rows z = {v, 0, n->DV, n->H * n->DV}, out = {o, 0, n->DV, n->H * n->DV};
        assert_int_equal(spectra_attention_forward(att, &p, x, y, z, out, saved, work), SPECTRA_OK);
        for (int64_t i = 0; i < n->B * n->H * n->T; i++) {
            const int64_t b = i / (n->H * n->T), h = i / n->T % n->H, t = i % n->T;
            const float *row = o + ((begin[b] + t) * n->H + h) * n->DV;
            memcpy(dense + i * n->DV, t < len[b] ? row : want.o + i * n->DV,
                   (size_t)n->DV * sizeof *o);
        }
        check_close(feats[f], "packed out", d.no, dense, want.o, 1e-5);
        free(o), free(dense), free(saved), free(work);
        attend_free(&want);
        spectra_attention_free(att);
    }
    free(q), free(k), free(v);
    data_free(&d);
}

/* ---- determinism ---- */

static void test_threads(void **state)
{
    (void)state;
    data d = data_new(9, (attend_shape){3, 2, 1000, 1000, 20, 20}, 0.7, true);
    const int before = omp_get_max_threads();
    for (int f = 0; f < FEATS; f++) {
        spectra_attention *att = open_attention(feats[f], "orf", &d.n, 100, SPECTRA_SOFTMAX);
        omp_set_num_threads(1);
        attend_run want = run_attention(att, &d, true);
        for (int threads = 2; threads <= 5; threads += 3) {
            omp_set_num_threads(threads);
            attend_run got = run_attention(att, &d, true);
            char what[64];
            snprintf(what, sizeof what, "%s with %d threads", feats[f], threads);
            check_same_gradients(what, &d, &got, &want, 0);
            attend_free(&got);
        }
        attend_free(&want);
        spectra_attention_free(att);
    }
    omp_set_num_threads(before);
    data_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle_sizes),    cmocka_unit_test(test_oracle_pairs),
        cmocka_unit_test(test_key_order),       cmocka_unit_test(test_masked_garbage),
        cmocka_unit_test(test_masked_gradient), cmocka_unit_test(test_value_scale),
        cmocka_unit_test(test_few_keys),        cmocka_unit_test(test_no_keys),
        cmocka_unit_test(test_large_inputs),    cmocka_unit_test(test_packed),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
