/* The maps that a device makes of a head's second moments (attn_products, attn_maps), against those
 * of the CPU, which has LAPACK: sizes that fit no tile, masks, packed sequences, 16-bit inputs, and
 * tokens of which no good map can be made.
 */
#include "device_case.h"

#include "attend.h"
#include "bf16.h"
#include "device_internal.h"
#include "emulator.h"
#include "performer_device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MASK = 1, PACKED = 2, BF16_INPUT = 4 };

typedef struct maps_case {
    const char *feat;
    int64_t B, H, T, S, D;
    unsigned flags;
} maps_case;

/* A case on the device: all tokens of q and k, (B, H, T, D) or, packed, (H, all, D). */
typedef struct tokens_at {
    maps_case c;
    spectra_attention *att;
    attention_device *ad;
    attention_device_problem problem;
    attention_device_views x;
    float *q, *k, *v; /* the host's, as the device has them */
    uint8_t *mask;
    int64_t q_begin[4], q_len[4], k_begin[4], k_len[4];
    void *saved, *work;
} tokens_at;

enum { FEATURES = 32, VALUES = 8 };

static spectra_attention *attention_of(const char *name, int64_t H, int64_t D)
{
    char feat[32];
    snprintf(feat, sizeof feat, "%s", name);
    const bool antithetic = feat[strlen(feat) - 1] == '+';
    if (antithetic)
        feat[strlen(feat) - 1] = 0;
    const spectra_attention_desc d = {.attn = "performer",
                                      .feat = feat,
                                      .kernel = "gaus",
                                      .H = H,
                                      .D = D,
                                      .DV = VALUES,
                                      .M = FEATURES,
                                      .seed = 7,
                                      .antithetic = antithetic};
    spectra_attention *att = NULL;
    ok(spectra_attention_new(&d, &att));
    return att;
}

/* Tokens of coordinates that are of different size, not around 0 and depend on each other. */
static float *cloud(int64_t n, int64_t D, uint64_t seed)
{
    float *x = normal_floats(n * D, seed, 1);
    for (int64_t t = 0; t < n; t++) {
        float *row = x + t * D;
        for (int64_t d = 1; d < D; d++)
            row[d] += 0.4F * row[d - 1];
        for (int64_t d = 0; d < D; d++)
            row[d] = (0.5F + (float)((d * (int64_t)(seed + 2)) % D) / (float)D) * row[d] + 0.1F;
    }
    return x;
}

/* On the device, in the type of the case; `x` becomes what the device has. */
static void *put_rows(const maps_case *c, float *x, int64_t n)
{
    if (!(c->flags & BF16_INPUT))
        return put(x, n * 4);
    uint16_t *half = malloc((size_t)n * sizeof *half);
    for (int64_t i = 0; i < n; i++) {
        half[i] = bf16_from_float(x[i]);
        x[i] = bf16_to_float(half[i]);
    }
    void *at = put(half, n * 2);
    free(half);
    return at;
}

static spectra_rows rows_of(const maps_case *c, void *data, int64_t T, int64_t D)
{
    const bool packed = c->flags & PACKED;
    return packed ? (spectra_rows){data, 0, c->B * T * D, D} : spectra_rows_dense(data, c->H, T, D);
}

static void open_case(tokens_at *p, const maps_case *c)
{
    const int64_t nq = c->B * c->H * c->T, nk = c->B * c->H * c->S;
    *p = (tokens_at){.c = *c, .att = attention_of(c->feat, c->H, c->D)};
    p->q = cloud(nq, c->D, 1), p->k = cloud(nk, c->D, 2), p->v = normal_floats(nk * VALUES, 3, 1);
    p->mask = malloc((size_t)(c->B * c->S));
    for (int64_t i = 0; i < c->B * c->S; i++)
        p->mask[i] = (i * 7) % 5 != 0;
    ok(attention_device_new_typed(p->att, dev, false, (c->flags & BF16_INPUT) != 0, &p->ad));
    ok(attention_device_changed(p->ad));
    p->problem = (attention_device_problem){
        .p = {.B = c->B, .T = c->T, .S = c->S}, .q_rows = c->B * c->T, .k_rows = c->B * c->S};
    if (c->flags & MASK)
        p->problem.p.k_mask = put(p->mask, c->B * c->S);
    for (int64_t b = 0; b < c->B; b++) { /* a token less every sequence */
        p->q_begin[b] = b * c->T, p->q_len[b] = c->T - b;
        p->k_begin[b] = b * c->S, p->k_len[b] = c->S - b;
    }
    if (c->flags & PACKED) {
        p->problem.p.q_begin = put(p->q_begin, c->B * 8);
        p->problem.p.q_len = put(p->q_len, c->B * 8);
        p->problem.p.k_begin = put(p->k_begin, c->B * 8);
        p->problem.p.k_len = put(p->k_len, c->B * 8);
    }
    p->saved = room(attention_device_saved_bytes(p->ad, &p->problem) / 4);
    p->work = room(attention_device_work_bytes(p->ad, &p->problem) / 4);
    p->x.q = rows_of(c, put_rows(c, p->q, nq * c->D), c->T, c->D);
    p->x.k = rows_of(c, put_rows(c, p->k, nk * c->D), c->S, c->D);
    p->x.v = rows_of(c, put_rows(c, p->v, nk * VALUES), c->S, VALUES);
    p->x.go = rows_of(c, put_rows(c, p->v, nq * VALUES), c->T, VALUES);
    p->x.o = rows_of(c, room(nq * VALUES), c->T, VALUES);
    p->x.gq = rows_of(c, room(nq * c->D), c->T, c->D);
    p->x.gk = rows_of(c, room(nk * c->D), c->S, c->D);
    p->x.gv = rows_of(c, room(nk * VALUES), c->S, VALUES);
}

static void close_case(tokens_at *p)
{
    const void *all[] = {p->x.q.data,          p->x.k.data,        p->x.v.data,
                         p->x.go.data,         p->x.o.data,        p->x.gq.data,
                         p->x.gk.data,         p->x.gv.data,       p->problem.p.k_mask,
                         p->problem.p.q_begin, p->problem.p.q_len, p->problem.p.k_begin,
                         p->problem.p.k_len,   p->saved,           p->work};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        device_free(dev, (void *)(uintptr_t)all[i]);
    attention_device_free(p->ad);
    spectra_attention_free(p->att);
    free(p->q), free(p->k), free(p->v), free(p->mask);
}

static void forward(tokens_at *p)
{
    ok(attention_device_forward(p->ad, &p->problem, &p->x, p->saved, p->work));
}

/* Parameters of head n as kernels read them: scalars, vectors, maps; to be freed. */
static float *device_head(const tokens_at *p, int64_t n)
{
    const cuda_layout l = cuda_layout_of(p->ad->own, &p->problem);
    return get((float *)p->saved + l.at_params + n * l.params, cuda_parameters(p->att));
}

/* The same as the CPU makes them of the same tokens; to be freed. */
static float *host_head(const tokens_at *p, int64_t n)
{
    const maps_case *c = &p->c;
    const int64_t b = n / c->H, h = n % c->H, D = c->D, DP = p->att->plan.DP;
    const feature_info *f = p->att->feature;
    const bool packed = c->flags & PACKED;
    float *block = attend_floats(performer_block_floats(p->att));
    float *out = malloc((size_t)cuda_parameters(p->att) * sizeof *out), *to = out;
    const float scale = p->att->plan.scale;
    const int64_t T = packed ? p->q_len[b] : c->T, S = packed ? p->k_len[b] : c->S;
    float *x = malloc((size_t)(T * D) * sizeof *x), *y = malloc((size_t)(S * D) * sizeof *y);
    const float *q = p->q + (packed ? h * c->B * c->T + b * c->T : n * c->T) * D;
    const float *k = p->k + (packed ? h * c->B * c->S + b * c->S : n * c->S) * D;
    for (int64_t i = 0; i < T * D; i++)
        x[i] = q[i] * scale;
    for (int64_t i = 0; i < S * D; i++)
        y[i] = k[i] * scale;
    ok(attention_adapt(p->att, 1, 1, T, S, x, y, NULL, c->flags & MASK ? p->mask + b * c->S : NULL,
                       block));
    attn_plan plan;
    attn_params a;
    performer_view(p->att, block, &plan, &a);
    memcpy(to, a.s, (size_t)f->scalars * sizeof *to);
    to += f->scalars;
    for (int64_t i = 0; i < f->vectors; i++, to += D)
        memcpy(to, a.v + i * DP, (size_t)D * sizeof *to);
    for (int64_t i = 0; i < 4 * D; i++, to += D)
        memcpy(to, a.linear + (i / D * DP + i % D) * DP, (size_t)D * sizeof *to);
    free(block), free(x), free(y);
    return out;
}

/* The largest entry of |R_q' R_k - I|, and of what is not the transpose it should be. */
static double identity_error(const spectra_attention *att, const float *params)
{
    const int64_t D = att->plan.D;
    const float *linear = params + cuda_parameters(att) - 4 * D * D;
    double most = 0;
    for (int64_t i = 0; i < D; i++)
        for (int64_t j = 0; j < D; j++) {
            double sum = 0;
            for (int64_t r = 0; r < D; r++)
                sum += (double)linear[(D + r) * D + i] * (double)linear[(3 * D + r) * D + j];
            most = fmax(most, fabs(sum - (i == j)));
            if (linear[i * D + j] != linear[(D + j) * D + i] ||
                linear[(2 * D + i) * D + j] != linear[(3 * D + j) * D + i])
                return INFINITY;
        }
    return most;
}

/* ---- against the CPU --------------------------------------------------------------------------
 */

static void check_case(const maps_case *c)
{
    tokens_at p;
    double maps = 0, params = 0, identity = 0;
    open_case(&p, c);
    forward(&p);
    for (int64_t n = 0; n < c->B * c->H; n++) {
        const int64_t small = cuda_parameters(p.att) - 4 * c->D * c->D;
        float *got = device_head(&p, n), *want = host_head(&p, n);
        maps = fmax(maps, largest_error(4 * c->D * c->D, got + small, want + small));
        params = fmax(params, largest_error(small, got, want));
        identity = fmax(identity, identity_error(p.att, got));
        free(got), free(want);
    }
    printf("%-7s B %lld H %lld T %4lld S %4lld D %3lld%s%s%s: maps %.1e parameters %.1e identity "
           "%.1e\n",
           c->feat, (long long)c->B, (long long)c->H, (long long)c->T, (long long)c->S,
           (long long)c->D, c->flags & MASK ? " mask" : "", c->flags & PACKED ? " packed" : "",
           c->flags & BF16_INPUT ? " bf16" : "", maps, params, identity);
    fflush(stdout);
    close_case(&p);
    assert_true(maps <= 1e-3 && params <= 1e-4 && identity <= 2e-5);
}

static const maps_case cases[] = {
    {"sderf", 1, 2, 65, 70, 8, MASK},        {"aderf", 1, 2, 65, 70, 8, MASK},
    {"cderf", 1, 1, 65, 70, 8, MASK},        {"sderf", 2, 1, 130, 65, 20, MASK},
    {"aderf", 2, 2, 90, 130, 20, PACKED},    {"cderf", 1, 1, 63, 100, 32, 0},
    {"aderf+", 1, 1, 257, 100, 32, MASK},    {"sderf", 3, 2, 90, 130, 20, PACKED},
    {"sderf", 1, 1, 200, 130, 60, MASK},     {"aderf", 1, 1, 200, 130, 60, 0},
    {"sderf", 1, 2, 1000, 300, 64, MASK},    {"aderf", 1, 1, 1000, 300, 64, MASK},
    {"cderf+", 1, 1, 300, 300, 64, 0},       {"sderf", 1, 1, 65, 100, 20, MASK | BF16_INPUT},
    {"aderf", 1, 1, 65, 100, 7, BF16_INPUT}, {"aderf", 1, 1, 300, 400, 128, 0},
};

static void maps_are_the_cpus(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_case(&cases[i]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_are_the_cpus),
    };
    return run_on_device(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
