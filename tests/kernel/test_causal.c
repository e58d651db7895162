/* Causal attention through the public API: it is the sum over the keys up to the query's own token,
 * in double precision, for every component function that may be causal; what comes later changes no
 * bit; inputs that are large or grow are no less exact; decoding token by token is the same thing.
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

/* One problem with random contents, T = S. */
typedef struct data {
    attend_shape n;
    float *q, *k, *v, *go;
    uint8_t *mask;
    int64_t nq, nv;
} data;

enum { UNMASKED, SCATTERED, FIRST_MASKED, LAST_SEQUENCE_EMPTY, MASKS };

static float *normals(oracle_rng *r, int64_t n, double deviation)
{
    float *x = attend_floats(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(deviation * oracle_normal(r));
    return x;
}

static data data_new(uint64_t seed, attend_shape n, double deviation, int masked)
{
    oracle_rng r = {seed};
    data d = {.n = n, .nq = n.B * n.H * n.T * n.D, .nv = n.B * n.H * n.T * n.DV};
    d.q = normals(&r, d.nq, deviation);
    d.k = normals(&r, d.nq, deviation);
    d.v = normals(&r, d.nv, 1);
    d.go = normals(&r, d.nv, 1);
    if (masked == UNMASKED)
        return d;
    d.mask = attend_alloc(n.B * n.S);
    for (int64_t i = 0; i < n.B * n.S; i++) {
        d.mask[i] = masked == FIRST_MASKED ? i % n.S != 0 : oracle_uniform(&r) < 0.6;
        if (masked == LAST_SEQUENCE_EMPTY && i / n.S == n.B - 1)
            d.mask[i] = 0;
    }
    return d;
}

static void data_free(data *d)
{
    free(d->q), free(d->k), free(d->v), free(d->go), free(d->mask);
}

/* Every parameter that would otherwise be computed from the tokens; what a feature does not have is
 * refused and does not matter. Shifts are below all numbers that occur. */
static void give_parameters(spectra_attention *att)
{
    static const struct {
        const char *name;
        float value, step; /* of head 0, and how it differs from one head to the next */
    } scalars[] = {{"A", -0.1F, -0.05F},    {"lambda", 0.4F, 0.1F}, {"p", 0.5F, 0.05F},
                   {"half_c2", 1.0F, 0.0F}, {"A_re", -0.1F, 0.0F},  {"A_im", 0.03F, 0.0F}};
    const int64_t H = att->desc.H, D = att->desc.D;
    const int64_t shape[] = {H, D};
    float values[4 * 64];
    for (size_t i = 0; i < sizeof scalars / sizeof scalars[0]; i++) {
        for (int64_t h = 0; h < H; h++)
            values[h % 256] = scalars[i].value + scalars[i].step * (float)(h % 4);
        (void)spectra_attention_set(att, scalars[i].name, values, 1, shape);
    }
    for (int64_t i = 0; i < D; i++)
        values[i] = 0.8F + 0.02F * (float)(i % 20);
    (void)spectra_attention_set(att, "psi", values, 1, &D);
    for (int64_t i = 0; i < D; i++)
        values[i] = -3.0F - 0.1F * (float)(i % 5);
    (void)spectra_attention_set(att, "c", values, 1, &D);
}

static spectra_attention *open_attention(const char *feat, const char *matrix,
                                         const attend_shape *n, int64_t m, bool causal)
{
    const spectra_attention_desc desc = {.attn = "performer",
                                         .feat = feat,
                                         .kernel = matrix,
                                         .H = n->H,
                                         .D = n->D,
                                         .DV = n->DV,
                                         .M = m,
                                         .seed = 20,
                                         .causal = causal};
    spectra_attention *att = NULL;
    if (spectra_attention_new(&desc, &att) != SPECTRA_OK)
        fail_msg("%s-%s: %s", feat, matrix, spectra_message());
    give_parameters(att);
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

static void check_close(const char *what, const char *name, int64_t n, const float *got,
                        const float *want, double tolerance)
{
    double scale = 0, worst = -1;
    for (int64_t i = 0; i < n; i++)
        scale = fmax(scale, fabs((double)want[i]));
    for (int64_t i = 0; i < n; i++) {
        const double off = fabs((double)got[i] - (double)want[i]);
        worst = off <= worst ? worst : off;
        if (!(off <= tolerance * scale))
            fail_msg("%s: %s[%d] is %.9g, want %.9g; allowed are %.1e of %g", what, name, (int)i,
                     (double)got[i], (double)want[i], tolerance, scale);
    }
}

/* ---- against the oracle ---- */

/* Logs and signs of the features of one head's tokens, (n, rows); q and k are scaled already. */
typedef struct logs {
    int64_t n, rows;
    double *lq, *sq, *lk, *sk;
} logs;

static double *doubles(int64_t n)
{
    double *x = calloc((size_t)(n > 0 ? n : 1), sizeof *x);
    assert_non_null(x);
    return x;
}

/* By the formula, of functions the oracle knows. */
static bool oracle_knows(const spectra_attention *att, int64_t h, double *psi, oracle_map *map)
{
    const char *feat = performer_of(att)->feature->name;
    *map = (oracle_map){.trig = strcmp(feat, "trigrf") == 0};
    if (strcmp(feat, "saderf") == 0) {
        for (int64_t l = 0; l < att->desc.D; l++)
            psi[l] = (double)performer_of(att)->vector[0].data[l];
        map->psi = psi;
    }
    if (strcmp(feat, "saderf") == 0 || strcmp(feat, "oprf") == 0 || strcmp(feat, "gerf") == 0)
        map->A = (double)performer_of(att)->scalar[0].data[h];
    return map->trig || map->A != 0 || strcmp(feat, "posrf") == 0;
}

/* By the library's own features, which other tests check, for the others. */
static void library_logs(const spectra_attention *att, int side, int64_t b, int64_t h,
                         const float *x, logs *l)
{
    const int64_t n = l->n, D = att->desc.D, count = n * l->rows;
    float *log_x = attend_floats(count), *sign = attend_floats(count);
    float *scaled = attend_floats(n * D);
    float *block = attend_floats(performer_block_floats(performer_of(att)));
    for (int64_t i = 0; i < n * D; i++)
        scaled[i] = x[i] * performer_of(att)->plan.scale;
    performer_prepare_given(performer_of(att), b, h, block);
    assert_int_equal(
        performer_features(performer_of(att), side, 1, 1, n, scaled, block, log_x, sign),
        SPECTRA_OK);
    for (int64_t i = 0; i < count; i++) {
        (side == 0 ? l->lq : l->lk)[i] = (double)log_x[i];
        (side == 0 ? l->sq : l->sk)[i] = (double)sign[i];
    }
    free(log_x), free(sign), free(scaled), free(block);
}

static logs logs_new(const spectra_attention *att, const data *d, int64_t b, int64_t h)
{
    const attend_shape *n = &d->n;
    const int64_t m = att->desc.M, at = (b * n->H + h) * n->T * n->D;
    logs l = {.n = n->T, .rows = m * performer_of(att)->feature->lanes};
    l.lq = doubles(l.n * l.rows), l.sq = doubles(l.n * l.rows);
    l.lk = doubles(l.n * l.rows), l.sk = doubles(l.n * l.rows);
    double psi[ORACLE_MAX_D], x[ORACLE_MAX_D];
    oracle_map map;
    if (!oracle_knows(att, h, psi, &map)) {
        library_logs(att, 0, b, h, d->q + at, &l);
        library_logs(att, 1, b, h, d->k + at, &l);
        return l;
    }
    double *w = doubles(m * n->D);
    for (int64_t i = 0; i < m * n->D; i++)
        w[i] = (double)spectra_attention_matrix(att)[i];
    for (int side = 0; side < 2; side++)
        for (int64_t t = 0; t < l.n; t++) {
            for (int64_t i = 0; i < n->D; i++)
                x[i] =
                    (double)(side == 0 ? d->q : d->k)[at + t * n->D + i] * pow((double)n->D, -0.25);
            oracle_features(&map, side, n->D, m, w, x, (side == 0 ? l.lq : l.lk) + t * l.rows,
                            (side == 0 ? l.sq : l.sk) + t * l.rows);
        }
    free(w);
    return l;
}

static void logs_free(logs *l)
{
    free(l->lq), free(l->sq), free(l->lk), free(l->sk);
}

/* Output i (dv) of one head, straight from the definition; weight (m) of the rows of W. Returns by
 * how much rounding is amplified: the sum of magnitudes over that of the terms. *size: the largest
 * log that matters. */
static double oracle_row(const logs *l, int64_t i, int64_t m, const float *weight, int64_t dv,
                         const float *v, const uint8_t *mask, double *o, double *size)
{
    const double *lq = l->lq + i * l->rows, *sq = l->sq + i * l->rows;
    double top = -INFINITY, den = 0, magnitude = 0;
    memset(o, 0, (size_t)dv * sizeof *o);
    for (int64_t j = 0; j <= i; j++)
        for (int64_t r = 0; r < l->rows && (!mask || mask[j]); r++) {
            top = fmax(top, lq[r] + l->lk[j * l->rows + r]);
            *size = fmax(*size, fmax(fabs(lq[r]), fabs(l->lk[j * l->rows + r])));
        }
    for (int64_t j = 0; j <= i; j++) {
        double K = 0;
        for (int64_t r = 0; r < l->rows && (!mask || mask[j]); r++) {
            const double e = exp(lq[r] + l->lk[j * l->rows + r] - top) * sq[r] *
                             l->sk[j * l->rows + r] * (double)weight[r % m];
            K += e;
            magnitude += fabs(e);
        }
        den += K;
        for (int64_t c = 0; c < dv; c++)
            o[c] += K * (double)v[j * dv + c];
    }
    for (int64_t c = 0; c < dv && den != 0; c++)
        o[c] /= den;
    return den != 0 ? magnitude / fabs(den) : 1;
}

static void check_oracle(const char *what, const spectra_attention *att, const data *d,
                         const float *o)
{
    const attend_shape *n = &d->n;
    const double rounding = 3e-6; /* of the features, where their logs are small */
    double *want = doubles(n->DV);
    for (int64_t bh = 0; bh < n->B * n->H; bh++) {
        logs l = logs_new(att, d, bh / n->H, bh % n->H);
        const float *v = d->v + bh * n->T * n->DV;
        const uint8_t *mask = d->mask ? d->mask + bh / n->H * n->S : NULL;
        for (int64_t i = 0; i < n->T; i++) {
            double size = 0;
            const double more = oracle_row(&l, i, att->desc.M, performer_of(att)->row_weight, n->DV,
                                           v, mask, want, &size);
            for (int64_t c = 0; c < n->DV; c++) {
                const double got = (double)o[(bh * n->T + i) * n->DV + c];
                if (!(fabs(got - want[c]) <= (rounding + 3e-7 * size) * more * 4))
                    fail_msg("%s, %s: head %d, o[%d, %d] is %.8g, want %.8g (logs to %g, "
                             "amplified %g)",
                             what, registry_isa_name(registry_isa()), (int)bh, (int)i, (int)c, got,
                             want[c], size, more);
            }
        }
        logs_free(&l);
    }
    free(want);
}

static void check_case(const char *feat, attend_shape n, int64_t m, int masked, double deviation)
{
    char what[128];
    snprintf(what, sizeof what, "%s T = %d, D = %d, DV = %d, M = %d, mask %d, std %g", feat,
             (int)n.T, (int)n.D, (int)n.DV, (int)m, masked, deviation);
    data d = data_new(3, n, deviation, masked);
    spectra_attention *att = open_attention(feat, "orf", &n, m, true);
    attend_run run = run_attention(att, &d, true);
    check_oracle(what, att, &d, run.o);
    for (int64_t i = 0; i < d.nq; i++)
        if (!isfinite(run.gq[i]) || !isfinite(run.gk[i]))
            fail_msg("%s: gradient %d is not finite", what, (int)i);
    for (int64_t i = 0; i < d.nq && d.mask; i++)
        if (!d.mask[i / (n.H * n.T * n.D) * n.T + i / n.D % n.T])
            assert_true(run.gk[i] == 0);
    attend_free(&run);
    spectra_attention_free(att);
    data_free(&d);
}

/* Component functions that may be causal; the next after f, NULL at the end. */
static const feature_info *next_feature(const feature_info *f)
{
    f = f ? f + 1 : generated_features;
    while (f->name && f->linear != LINEAR_NONE)
        f++;
    return f->name ? f : NULL;
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        int64_t B, T, D, DV, M;
    } sizes[] = {{2, 1, 8, 8, 8},
                 {2, 7, 20, 12, 96},
                 {1, 63, 32, 32, 100},
                 {2, 64, 60, 33, 12},
                 {1, 65, 64, 64, 256}};
    for (const feature_info *f = NULL; (f = next_feature(f));)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            for (int masked = 0; masked < MASKS; masked++) {
                const attend_shape n = {sizes[i].B, 1,          sizes[i].T,
                                        sizes[i].T, sizes[i].D, sizes[i].DV};
                if (masked == UNMASKED || sizes[i].M < 200)
                    check_case(f->name, n, sizes[i].M, masked, f->is_signed ? 0.3 : 1);
            }
}

/* Long enough for several blocks, and for the sequence to be done in parts. */
static void test_long(void **state)
{
    (void)state;
    static const char *const feats[] = {"posrf", "trigrf", "oprf+", "hrf"};
    for (int level = ISA_PORTABLE; level < ISA_COUNT; level++) {
        registry_isa_limit((isa)level);
        for (size_t i = 0; i < sizeof feats / sizeof feats[0]; i++) {
            check_case(feats[i], (attend_shape){1, 2, 1000, 1000, 8, 8}, 8, SCATTERED, 0.3);
            check_case(feats[i], (attend_shape){1, 1, 65, 65, 20, 12}, 20, FIRST_MASKED, 0.3);
        }
    }
    registry_isa_limit(ISA_COUNT - 1);
}

/* ---- inputs that are large or grow ---- */

static void test_large(void **state)
{
    (void)state;
    for (const feature_info *f = NULL; (f = next_feature(f));)
        if (!f->is_signed)
            check_case(f->name, (attend_shape){1, 2, 130, 130, 16, 8}, 24, SCATTERED,
                       f->counts ? 3 : 30);
}

/* Keys that grow, fall, or jump along the sequence, so that the references are raised often. */
static void test_growth(void **state)
{
    (void)state;
    static const char *const feats[] = {"posrf", "gerf+", "saderf"};
    const attend_shape n = {1, 1, 600, 600, 16, 8};
    for (size_t i = 0; i < sizeof feats / sizeof feats[0]; i++)
        for (int kind = 0; kind < 4; kind++) {
            char what[64];
            snprintf(what, sizeof what, "%s, growth %d", feats[i], kind);
            data d = data_new(5, n, 1, kind == 3 ? FIRST_MASKED : UNMASKED);
            for (int64_t t = 0; t < n.T; t++) {
                const float by = kind == 0   ? 0.2F * (float)t
                                 : kind == 1 ? 0.1F * (float)(n.T - t)
                                 : kind == 2 ? (t % 50 == 49 ? 40.0F : 0.5F)
                                             : expf(0.05F * (float)(t % 97));
                for (int64_t c = 0; c < n.D; c++)
                    d.k[t * n.D + c] *= by;
            }
            spectra_attention *att = open_attention(feats[i], "orf", &n, 24, true);
            attend_run run = run_attention(att, &d, true);
            check_oracle(what, att, &d, run.o);
            for (int64_t e = 0; e < d.nq; e++)
                if (!isfinite(run.gq[e]) || !isfinite(run.gk[e]))
                    fail_msg("%s: gradient %d is not finite", what, (int)e);
            attend_free(&run);
            spectra_attention_free(att);
            data_free(&d);
        }
}

/* ---- row weights ---- */

static void test_row_weights(void **state)
{
    (void)state;
    const attend_shape n = {1, 2, 600, 600, 16, 12};
    const int64_t m = 40;
    float weight[40];
    for (int64_t r = 0; r < m; r++)
        weight[r] = r % 5 == 4 ? -0.3F : 0.5F + 0.1F * (float)(r % 7);
    data d = data_new(8, n, 0.4, SCATTERED);
    spectra_attention *att = open_attention("posrf", "orf", &n, m, true);
    assert_int_equal(spectra_attention_set(att, "row_weight", weight, 1, &m), SPECTRA_OK);
    attend_run run = run_attention(att, &d, false);
    check_oracle("row weights", att, &d, run.o);
    attend_free(&run);
    spectra_attention_free(att);
    data_free(&d);
}

/* ---- causality ---- */

static void test_future(void **state)
{
    (void)state;
    static const int64_t cuts[] = {1, 12, 47, 48, 49, 100, 133, 290, 599};
    const attend_shape n = {1, 1, 600, 600, 20, 12};
    for (const feature_info *f = NULL; (f = next_feature(f));) {
        data d = data_new(7, n, f->is_signed ? 0.3 : 1, UNMASKED);
        spectra_attention *att = open_attention(f->name, "orf", &n, 36, true);
        attend_run before = run_attention(att, &d, false);
        for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
            const int64_t from = cuts[i];
            const float by = i % 4 < 2 ? NAN : i % 4 == 2 ? 25.0F : -0.5F;
            data changed = data_new(7, n, f->is_signed ? 0.3 : 1, UNMASKED);
            for (int64_t e = from * n.D; e < d.nq && i % 4 != 0; e++)
                changed.k[e] *= by, changed.q[e] *= by;
            for (int64_t e = from * n.DV; e < d.nv; e++)
                changed.v[e] *= by;
            attend_run after = run_attention(att, &changed, false);
            for (int64_t e = 0; e < from * n.DV; e++)
                if (before.o[e] != after.o[e])
                    fail_msg("%s: tokens from %d on times %g change o[%d, %d] from %.9g to %.9g",
                             f->name, (int)from, (double)by, (int)(e / n.DV), (int)(e % n.DV),
                             (double)before.o[e], (double)after.o[e]);
            attend_free(&after);
            data_free(&changed);
        }
        attend_free(&before);
        spectra_attention_free(att);
        data_free(&d);
    }
}

static void test_last_token(void **state)
{
    (void)state;
    const attend_shape n = {2, 2, 100, 100, 32, 20};
    for (const feature_info *f = NULL; (f = next_feature(f));) {
        data d = data_new(9, n, f->is_signed ? 0.3 : 1, SCATTERED);
        spectra_attention *causal = open_attention(f->name, "orf", &n, 64, true);
        spectra_attention *plain = open_attention(f->name, "orf", &n, 64, false);
        attend_run a = run_attention(causal, &d, false), b = run_attention(plain, &d, false);
        for (int64_t bh = 0; bh < n.B * n.H; bh++)
            check_close(f->name, "o of the last token", n.DV, a.o + (bh * n.T + n.T - 1) * n.DV,
                        b.o + (bh * n.T + n.T - 1) * n.DV, f->is_signed ? 1e-3 : 3e-5);
        attend_free(&a), attend_free(&b);
        spectra_attention_free(causal), spectra_attention_free(plain);
        data_free(&d);
    }
}

/* ---- parts of the sequence, threads, packing ---- */

static void check_gradients(const char *what, const attend_run *got, const attend_run *want,
                            int64_t nq, int64_t nv, double tolerance)
{
    check_close(what, "o", nv, got->o, want->o, tolerance);
    check_close(what, "dq", nq, got->gq, want->gq, tolerance);
    check_close(what, "dk", nq, got->gk, want->gk, tolerance);
    check_close(what, "dv", nv, got->gv, want->gv, tolerance);
}

/* A head alone is done in four parts, among 32 in one. */
static void test_parts(void **state)
{
    (void)state;
    const attend_shape one = {1, 1, 1000, 1000, 20, 12}, many = {1, 32, 1000, 1000, 20, 12};
    static const char *const feats[] = {"posrf", "trigrf", "saderf"};
    for (size_t i = 0; i < 3; i++)
        for (int grow = 0; grow < 2; grow++) {
            const bool is_signed = strcmp(feats[i], "trigrf") == 0;
            data d = data_new(10, one, is_signed ? 0.3 : 1, SCATTERED);
            for (int64_t e = 0; e < d.nq && grow && !is_signed; e++)
                d.k[e] *= 20 * expf(-0.005F * (float)(e / one.D)); /* ever larger logs */
            data all = data_new(11, many, 0.3, SCATTERED);
            memcpy(all.q, d.q, (size_t)d.nq * sizeof *d.q);
            memcpy(all.k, d.k, (size_t)d.nq * sizeof *d.k);
            memcpy(all.v, d.v, (size_t)d.nv * sizeof *d.v);
            memcpy(all.go, d.go, (size_t)d.nv * sizeof *d.go);
            memcpy(all.mask, d.mask, (size_t)one.T);
            spectra_attention *a = open_attention(feats[i], "orf", &one, 24, true);
            spectra_attention *b = open_attention(feats[i], "orf", &many, 24, true);
            attend_run x = run_attention(a, &d, true), y = run_attention(b, &all, true);
            check_gradients(feats[i], &x, &y, d.nq, d.nv, 1e-4);
            attend_free(&x), attend_free(&y);
            spectra_attention_free(a), spectra_attention_free(b);
            data_free(&d), data_free(&all);
        }
}

static void test_threads(void **state)
{
    (void)state;
    const attend_shape n = {1, 2, 1000, 1000, 20, 12};
    const int before = omp_get_max_threads();
    data d = data_new(12, n, 0.4, SCATTERED);
    attend_run first = {.o = NULL};
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        spectra_attention *att = open_attention("hrf", "orf", &n, 16, true);
        attend_run run = run_attention(att, &d, true);
        if (!first.o)
            first = run;
        assert_memory_equal(first.o, run.o, (size_t)d.nv * sizeof *run.o);
        assert_memory_equal(first.gq, run.gq, (size_t)d.nq * sizeof *run.o);
        assert_memory_equal(first.gk, run.gk, (size_t)d.nq * sizeof *run.o);
        assert_memory_equal(first.gv, run.gv, (size_t)d.nv * sizeof *run.o);
        if (first.o != run.o)
            attend_free(&run);
        spectra_attention_free(att);
    }
    attend_free(&first);
    omp_set_num_threads(before);
    data_free(&d);
}

/* Sequences of 5, 0 and 130 tokens behind one another, against each by itself. */
static void test_packed(void **state)
{
    (void)state;
    enum { B = 3, ROWS = 135, D = 8 };
    static const int64_t begin[B] = {0, 5, 5}, len[B] = {5, 0, 130};
    const attend_shape all = {1, 1, ROWS, ROWS, D, D};
    data d = data_new(13, all, 1, UNMASKED);
    spectra_attention *att = open_attention("posrf", "orf", &all, 16, true);
    const spectra_problem p = {
        .B = B, .T = 130, .S = 130, .q_begin = begin, .k_begin = begin, .q_len = len, .k_len = len};
    void *saved = attend_alloc(spectra_attention_saved_bytes(att, &p));
    void *work = attend_alloc(spectra_attention_work_bytes(att, &p));
    attend_run got = {.o = attend_floats(d.nv),
                      .gq = attend_floats(d.nq),
                      .gk = attend_floats(d.nq),
                      .gv = attend_floats(d.nv),
                      .saved = saved,
                      .work = work};
#define ROWS_OF(x) ((spectra_rows){x, 0, 0, D})
    assert_int_equal(spectra_attention_forward(att, &p, ROWS_OF(d.q), ROWS_OF(d.k), ROWS_OF(d.v),
                                               ROWS_OF(got.o), saved, work),
                     SPECTRA_OK);
    assert_int_equal(spectra_attention_backward(att, &p, ROWS_OF(d.q), ROWS_OF(d.k), ROWS_OF(d.v),
                                                ROWS_OF(got.o), ROWS_OF(d.go), ROWS_OF(got.gq),
                                                ROWS_OF(got.gk), ROWS_OF(got.gv), saved, work),
                     SPECTRA_OK);
#undef ROWS_OF
    for (int b = 0; b < B; b += 2) {
        const int64_t at = begin[b] * D;
        data part = {.n = {1, 1, len[b], len[b], D, D}};
        part.q = d.q + at, part.k = d.k + at, part.v = d.v + at, part.go = d.go + at;
        attend_run want = run_attention(att, &part, true);
        assert_memory_equal(got.o + at, want.o, (size_t)(len[b] * D) * sizeof *want.o);
        assert_memory_equal(got.gq + at, want.gq, (size_t)(len[b] * D) * sizeof *want.o);
        assert_memory_equal(got.gk + at, want.gk, (size_t)(len[b] * D) * sizeof *want.o);
        assert_memory_equal(got.gv + at, want.gv, (size_t)(len[b] * D) * sizeof *want.o);
        attend_free(&want);
    }
    attend_free(&got);
    spectra_attention_free(att);
    data_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),       cmocka_unit_test(test_long),
        cmocka_unit_test(test_large),       cmocka_unit_test(test_growth),
        cmocka_unit_test(test_row_weights), cmocka_unit_test(test_future),
        cmocka_unit_test(test_last_token),  cmocka_unit_test(test_parts),
        cmocka_unit_test(test_threads),     cmocka_unit_test(test_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
