/* Properties of the state of random-feature attention, on the kernel table itself, for every kernel
 * this machine can run: keys in chunks of any size, merged in any grouping, leave the same state;
 * queries read it in any portions; its maxima are arbitrary; the normaliser of positive features
 * lies between 1 and the number of features times keys.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel/find.h"
#include "kernel/kernel.h"
#include "kernel/registry.h"
#include "support/attend.h"
#include "support/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 150, CANARIES = 16 };

/* One head and its kernels. */
typedef struct head {
    const attn_row *kernels;
    const feature_info *info;
    char name[96];
    attn_plan plan;
    float *w, *wt, *w2, *count_sums, *linear;
    float s[MAX_SCALARS], *vec;
    int64_t ldx, ldv, state_size;
    float *q, *k, *v, *go;
    uint8_t mask[N];
    float *scratch;
} head;

static float *normals(oracle_rng *r, int64_t n, double deviation)
{
    float *x = attend_floats(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(deviation * oracle_normal(r));
    return x;
}

static float *zeros(int64_t n)
{
    float *x = attend_floats(n);
    memset(x, 0, (size_t)n * sizeof *x);
    return x;
}

static void make_plan(head *h, oracle_rng *r, int64_t D, int64_t DV, int64_t M)
{
    attn_plan *p = &h->plan;
    *p = (attn_plan){.D = D,
                     .DV = DV,
                     .M = M,
                     .MP = pad16(M),
                     .DP = pad16(D),
                     .DVP = pad16(DV),
                     .scale = (float)pow((double)D, -0.25)};
    h->w = zeros(p->MP * p->DP);
    h->wt = zeros(D * p->MP);
    h->w2 = zeros(p->MP);
    h->count_sums = zeros(2 * p->MP);
    h->linear = zeros(4 * p->DP * p->DP);
    for (int64_t i = 0; i < M; i++)
        for (int64_t d = 0; d < D; d++) {
            const double normal = oracle_normal(r);
            const float x = h->info->counts ? (float)(normal > 2.3) : (float)normal;
            h->w[i * p->DP + d] = h->wt[d * p->MP + i] = x;
            h->w2[i] += x * x;
            h->count_sums[i] += x;
        }
    for (int64_t i = 0; i < 4 * D; i++)
        h->linear[i / D * p->DP * p->DP + i % D * (p->DP + 1)] = 1;
    p->w = p->w_second = h->w, p->wt = p->wt_second = h->wt, p->w2 = h->w2;
    p->count_sums = h->count_sums;
}

typedef struct sizes {
    int64_t D, DV, M;
} sizes;

/* Sizes are those the kernels are made for, else the given ones. */
static head head_new(const attn_row *row, const sizes *z, double deviation)
{
    oracle_rng r = {3};
    head h = {.kernels = row};
    if (kernel_feature(row->feat, &h.info) != SPECTRA_OK)
        fail_msg("%s", spectra_message());
    if (row->D)
        make_plan(&h, &r, row->D, row->DV, row->M);
    else
        make_plan(&h, &r, z->D, z->DV, z->M);
    snprintf(h.name, sizeof h.name, "%s (%s, %s sizes), D = %d, DV = %d, M = %d", row->feat,
             registry_isa_name(row->isa), row->D ? "fixed" : "any", (int)h.plan.D, (int)h.plan.DV,
             (int)h.plan.M);
    for (int i = 0; i < h.info->scalars - 1; i++)
        h.s[i] = (float)h.info->scalar_default[i] - 0.05F;
    h.vec = attend_floats(h.info->vectors * h.plan.DP + 1);
    for (int64_t i = 0; i < h.info->vectors * h.plan.DP; i++) {
        const double size = exp(0.2 * oracle_normal(&r));
        const bool weight = h.info->linear == LINEAR_EIGEN_SUM && i < h.plan.DP;
        const bool imaginary = h.info->linear != LINEAR_NONE && i >= 2 * h.plan.DP;
        h.vec[i] = (float)(h.info->counts ? -1
                           : weight       ? -0.01 * size
                           : imaginary    ? 0.1 * size
                                          : size);
    }
    /* a normaliser near 0 leaves few digits of anything */
    deviation *= h.info->is_signed ? 0.4 : 1;
    h.ldx = h.plan.D + 3, h.ldv = h.plan.DV + 5;
    h.q = normals(&r, N * h.ldx, deviation);
    h.k = normals(&r, N * h.ldx, deviation);
    h.v = normals(&r, N * h.ldv, 1);
    h.go = normals(&r, N * h.ldv, 1);
    for (int j = 0; j < N; j++)
        h.mask[j] = oracle_uniform(&r) < 0.7;
    h.mask[64] = 1; /* a chunk of one valid key, and below chunks of none */
    memset(h.mask + 85, 0, 17);
    h.state_size = attn_state_reals(&h.plan, h.info->lanes);
    const int64_t a = row->fwd->scratch(&h.plan), b = row->bwd->scratch(&h.plan);
    h.scratch = attend_floats(a > b ? a : b);
    return h;
}

static void head_free(head *h)
{
    free(h->w), free(h->wt), free(h->w2), free(h->vec), free(h->q), free(h->k), free(h->v);
    free(h->go), free(h->scratch), free(h->count_sums), free(h->linear);
}

static void for_each(void (*check)(head *), double deviation)
{
    int seen = 0;
    for (const attn_row *row = generated_attn; row->feat; row++) {
        if (row->isa > registry_isa())
            continue;
        head h = head_new(row, &(sizes){20, 12, 100}, deviation);
        check(&h);
        head_free(&h);
        seen++;
    }
    assert_true(seen > 0);
}

/* An empty state, canaries behind it. */
static float *state_new(const head *h)
{
    const int64_t F = h->info->lanes * h->plan.MP;
    float *state = zeros(h->state_size + CANARIES);
    for (int64_t f = 0; f < F; f++)
        state[f] = -INFINITY;
    for (int i = 0; i < CANARIES; i++)
        state[h->state_size + i] = 42;
    return state;
}

static void state_free(const head *h, float *state)
{
    for (int i = 0; i < CANARIES; i++)
        if (state[h->state_size + i] != 42)
            fail_msg("%s: written behind the state", h->name);
    free(state);
}

static void add_keys(const head *h, int64_t first, int64_t n, float *state)
{
    const attn_params a = {h->s, h->vec, h->linear};
    h->kernels->fwd->keys(&h->plan, &a, n, h->k + first * h->ldx, h->ldx, h->v + first * h->ldv,
                          h->ldv, h->mask + first, state, h->scratch);
}

/* All keys, in chunks of the given size. */
static float *state_of_chunks(const head *h, int64_t chunk)
{
    float *state = state_new(h);
    for (int64_t first = 0; first < N; first += chunk)
        add_keys(h, first, N - first < chunk ? N - first : chunk, state);
    return state;
}

typedef struct result {
    float o[N * 300], den[N];
} result;

static void read_state(const head *h, const float *state, int64_t chunk, result *out)
{
    const attn_params a = {h->s, h->vec, h->linear};
    for (int64_t i = 0; i < N * 300; i++)
        out->o[i] = 42;
    for (int64_t first = 0; first < N; first += chunk)
        h->kernels->fwd->queries(&h->plan, &a, N - first < chunk ? N - first : chunk,
                                 h->q + first * h->ldx, h->ldx, state, out->o + first * h->ldv,
                                 h->ldv, out->den + first, h->scratch);
    for (int64_t i = 0; i < N * 300; i++)
        if ((i >= N * h->ldv || i % h->ldv >= h->plan.DV) && out->o[i] != 42)
            fail_msg("%s: output element %d between rows was written", h->name, (int)i);
}

static void check_close(const char *name, const char *what, int64_t n, const float *got,
                        const float *want, double tolerance)
{
    double scale = 0.2; /* values and gradients are of order 1, and so is what is rounded */
    for (int64_t i = 0; i < n; i++)
        scale = fmax(scale, fabs((double)want[i]));
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance * scale))
            fail_msg("%s: %s: element %d is %.9g, want %.9g", name, what, (int)i, (double)got[i],
                     (double)want[i]);
}

static void check_same(const head *h, const char *what, const result *got, const result *want,
                       double tolerance)
{
    check_close(h->name, what, N * h->ldv, got->o, want->o, tolerance);
}

static result whole, other;

static void check_chunks(head *h)
{
    static const int64_t chunks[] = {1, 17, 64, 149};
    float *all = state_of_chunks(h, N);
    read_state(h, all, N, &whole);
    for (int i = 0; i < 4; i++) {
        char what[64];
        float *state = state_of_chunks(h, chunks[i]);
        read_state(h, state, N, &other);
        snprintf(what, sizeof what, "keys in chunks of %d", (int)chunks[i]);
        check_same(h, what, &other, &whole, 1e-5);
        state_free(h, state);
        read_state(h, all, chunks[i], &other);
        snprintf(what, sizeof what, "queries in chunks of %d", (int)chunks[i]);
        check_same(h, what, &other, &whole, 1e-6);
    }
    state_free(h, all);
}

static void merge(const head *h, float *dst, const float *src)
{
    h->kernels->fwd->merge(&h->plan, dst, src);
}

static void check_merge(head *h)
{
    static const int64_t bounds[] = {0, 1, 18, 85, 102, N}; /* the fourth part has no valid key */
    float *all = state_of_chunks(h, N), *left = state_new(h), *right = state_new(h), *part[5];
    read_state(h, all, N, &whole);
    for (int i = 0; i < 5; i++) {
        part[i] = state_new(h);
        add_keys(h, bounds[i], bounds[i + 1] - bounds[i], part[i]);
    }
    for (int i = 0; i < 5; i++) /* ((((empty + 0) + 1) + 2) + 3) + 4 */
        merge(h, left, part[i]);
    read_state(h, left, N, &other);
    check_same(h, "parts merged from the left", &other, &whole, 1e-5);
    merge(h, part[3], part[4]); /* 4 into an empty one, and 0 + (1 + (2 + (3 + 4))) */
    merge(h, part[2], part[3]);
    merge(h, part[1], part[2]);
    merge(h, part[0], part[1]);
    merge(h, part[0], right);
    read_state(h, part[0], N, &other);
    check_same(h, "parts merged from the right", &other, &whole, 1e-5);
    for (int i = 0; i < 5; i++)
        state_free(h, part[i]);
    state_free(h, all), state_free(h, left), state_free(h, right);
}

static void check_empty(head *h)
{
    float *state = state_new(h), *src = state_new(h);
    merge(h, state, src);
    memset(h->mask, 0, sizeof h->mask);
    add_keys(h, 0, N, state);
    read_state(h, state, N, &other);
    for (int64_t i = 0; i < N; i++) {
        if (other.den[i] != 0)
            fail_msg("%s: no keys, but den[%d] = %g", h->name, (int)i, (double)other.den[i]);
        for (int64_t e = 0; e < h->plan.DV; e++)
            if (other.o[i * h->ldv + e] != 0)
                fail_msg("%s: no keys, but o is %g", h->name, (double)other.o[i * h->ldv + e]);
    }
    state_free(h, state), state_free(h, src);
}

/* z and S stand for z e^max and S e^max: moving a factor between them changes nothing. */
static void check_rebase(head *h)
{
    const int64_t F = h->info->lanes * h->plan.MP;
    float *state = state_of_chunks(h, N), *z = state + F, *S = z + F;
    read_state(h, state, N, &whole);
    for (int64_t f = 0; f < F; f++) {
        const float c = (float)(f % 7) - 3;
        state[f] += c;
        z[f] *= expf(-c);
        for (int64_t e = 0; e < h->plan.DVP; e++)
            S[f * h->plan.DVP + e] *= expf(-c);
    }
    read_state(h, state, N, &other);
    check_same(h, "maxima moved", &other, &whole, 1e-5);
    state_free(h, state);
}

static void check_normaliser(head *h)
{
    if (h->info->is_signed)
        return;
    float *state = state_of_chunks(h, 64);
    read_state(h, state, N, &whole);
    double keys = 0;
    for (int j = 0; j < N; j++)
        keys += h->mask[j];
    const double most = keys * (double)(h->info->lanes * h->plan.M);
    for (int i = 0; i < N; i++)
        if (!((double)whole.den[i] >= 1 - 1e-5 && (double)whole.den[i] <= most * (1 + 1e-5)))
            fail_msg("%s: den[%d] = %g is not in [1, %g]", h->name, i, (double)whole.den[i], most);
    state_free(h, state);
}

typedef struct gradients {
    float *gq, *gk, *gv, *dstate, *dparams;
} gradients;

static int64_t params_size(const head *h)
{
    return h->info->scalars + h->info->vectors * h->plan.DP;
}

/* The backward pass in chunks; sums of dstate are the only thing chunks share. */
static gradients backward(const head *h, const float *state, int64_t chunk)
{
    const attn_bwd_ops *ops = h->kernels->bwd;
    const attn_params a = {h->s, h->vec, h->linear};
    gradients g = {zeros(N * h->ldx), zeros(N * h->ldx), zeros(N * h->ldv),
                   zeros(attn_dstate_reals(&h->plan, h->info->lanes)), zeros(params_size(h))};
    for (int64_t i = 0; i < N; i += chunk)
        ops->queries(&h->plan, &a, N - i < chunk ? N - i : chunk, h->q + i * h->ldx, h->ldx, state,
                     whole.o + i * h->ldv, h->ldv, whole.den + i, h->go + i * h->ldv, h->ldv,
                     g.gq + i * h->ldx, h->ldx, g.dstate, g.dparams, h->scratch);
    for (int64_t j = 0; j < N; j += chunk)
        ops->keys(&h->plan, &a, N - j < chunk ? N - j : chunk, h->k + j * h->ldx, h->ldx,
                  h->v + j * h->ldv, h->ldv, h->mask + j, state, g.dstate, g.gk + j * h->ldx,
                  h->ldx, g.gv + j * h->ldv, h->ldv, g.dparams, h->scratch);
    return g;
}

static void gradients_free(gradients *g)
{
    free(g->gq), free(g->gk), free(g->gv), free(g->dstate), free(g->dparams);
}

static void check_gradients(const head *h, const char *what, const gradients *got,
                            const gradients *want, double tolerance)
{
    const struct {
        const char *name;
        const float *got, *want;
        int64_t n;
    } all[] = {{"dq", got->gq, want->gq, N * h->ldx},
               {"dk", got->gk, want->gk, N * h->ldx},
               {"dv", got->gv, want->gv, N * h->ldv},
               {"dparams", got->dparams, want->dparams, params_size(h)}};
    char text[96];
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        snprintf(text, sizeof text, "%s %s", all[i].name, what);
        /* the scalars' terms |w|^2 dlog cancel: sum of dlog = 0 */
        check_close(h->name, text, all[i].n, all[i].got, all[i].want, i < 3 ? tolerance : 3e-3);
    }
}

static void check_backward(head *h)
{
    static const int64_t chunks[] = {1, 17, 64};
    float *state = state_of_chunks(h, N);
    read_state(h, state, N, &whole);
    gradients want = backward(h, state, N);
    for (int i = 0; i < 3; i++) {
        gradients got = backward(h, state, chunks[i]);
        check_gradients(h, "in chunks", &got, &want, 1e-5);
        gradients_free(&got);
    }
    gradients_free(&want);
    state_free(h, state);
}

/* Kernels for any size in portable C, whose derivatives test_gradient has checked. */
static const attn_row *plain_kernels(const char *feat)
{
    const attn_row *row = generated_attn;
    while (row->feat && (strcmp(row->feat, feat) != 0 || row->D || row->isa != ISA_PORTABLE))
        row++;
    if (!row->feat)
        fail_msg("%s has no portable kernels for any size", feat);
    return row;
}

/* The same numbers from every instruction set and from kernels made for their sizes. */
static void check_plain(const attn_row *row, const sizes *z)
{
    head h = head_new(row, z, 0.5), plain = h;
    plain.kernels = plain_kernels(row->feat);
    const int64_t a = plain.kernels->fwd->scratch(&h.plan);
    const int64_t b = plain.kernels->bwd->scratch(&h.plan);
    plain.scratch = attend_floats(a > b ? a : b);
    float *state = state_of_chunks(&plain, N);
    read_state(&plain, state, N, &whole);
    gradients want = backward(&plain, state, N);
    state_free(&plain, state);
    state = state_of_chunks(&h, N);
    read_state(&h, state, N, &other);
    check_same(&h, "outputs, against portable kernels", &other, &whole, 1e-5);
    whole = other;
    gradients got = backward(&h, state, N);
    check_gradients(&h, "against portable kernels", &got, &want, 3e-5);
    gradients_free(&want), gradients_free(&got);
    state_free(&h, state);
    free(plain.scratch);
    head_free(&h);
}

static void test_plain(void **state)
{
    (void)state;
    static const sizes any[] = {{20, 12, 100}, {64, 60, 256}, {8, 8, 8},
                                {33, 17, 13},  {1, 1, 3},     {60, 128, 96}};
    for (const attn_row *row = generated_attn; row->feat; row++)
        for (size_t i = 0; i < (row->D ? 1 : sizeof any / sizeof any[0]); i++)
            if (row->isa <= registry_isa())
                check_plain(row, &any[i]);
}

static void test_chunks(void **state)
{
    (void)state;
    for_each(check_chunks, 0.7);
}

static void test_merge(void **state)
{
    (void)state;
    for_each(check_merge, 0.7);
}

static void test_empty(void **state)
{
    (void)state;
    for_each(check_empty, 0.7);
}

static void test_rebase(void **state)
{
    (void)state;
    for_each(check_rebase, 0.7);
}

static void test_normaliser(void **state)
{
    (void)state;
    for_each(check_normaliser, 0.7);
    for_each(check_normaliser, 20); /* exponents in the hundreds */
}

static void test_backward(void **state)
{
    (void)state;
    for_each(check_backward, 0.7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks),     cmocka_unit_test(test_merge),
        cmocka_unit_test(test_empty),      cmocka_unit_test(test_rebase),
        cmocka_unit_test(test_normaliser), cmocka_unit_test(test_backward),
        cmocka_unit_test(test_plain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
