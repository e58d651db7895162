/* The maps that a device makes of a head's second moments (attn_products, attn_maps), against those
 * of the CPU, which has LAPACK: sizes that fit no tile, masks, packed sequences, 16-bit inputs, and
 * tokens of which no good map can be made.
 */
#include "device/device_case.h"

#include "attention/performer/device.h"
#include "device/backend.h"
#include "device/emulator/emulator.h"
#include "support/attend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MASK = 1, PACKED = 2, BF16_INPUT = 4, FULL = 8 }; /* only where all cases are asked for */

typedef struct maps_case {
    const char *feat;
    int64_t B, H, T, S, D;
    unsigned flags;
} maps_case;

/* A case on the device: all tokens of q and k, (B, H, T, D) or, packed, (H, all, D). Only the
 * kernels that make parameters are compiled, and run in as many splits as the test says. */
typedef struct tokens_at {
    maps_case c;
    spectra_attention *att;
    performer_device pd;
    attention_device_problem problem;
    attention_views x;
    float *q, *k; /* the host's, as the device has them */
    uint8_t *mask;
    int64_t q_begin[4], q_len[4], k_begin[4], k_len[4];
    performer_layout l;
    float *saved, *work;
} tokens_at;

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
                                      .DV = 8,
                                      .M = 32,
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

static spectra_rows rows_of(const maps_case *c, void *data, int64_t T, int64_t D)
{
    const bool packed = c->flags & PACKED;
    return packed ? (spectra_rows){data, 0, c->B * T * D, D} : spectra_rows_dense(data, c->H, T, D);
}

/* What is made of q and k of the host. */
static void open_tokens(tokens_at *p, const maps_case *c, float *q, float *k)
{
    static const performer_kernel kernels[] = {MOMENTS_OF, PRODUCTS_OF, MAPS_OF};
    const int64_t heads = c->B * c->H, D = c->D;
    *p = (tokens_at){.c = *c, .att = attention_of(c->feat, c->H, D), .q = q, .k = k};
    p->pd = (performer_device){
        .pf = performer_of(p->att), .dev = dev, .bf16 = (c->flags & BF16_INPUT) != 0};
    ok(performer_open_kernels(&p->pd, "parameters"));
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++)
        assert_non_null(p->pd.kernel[kernels[i]]);
    p->mask = malloc((size_t)(c->B * c->S));
    for (int64_t i = 0; i < c->B * c->S; i++)
        p->mask[i] = (i * 7) % 5 != 0;
    p->problem = (attention_device_problem){.p = {.B = c->B, .T = c->T, .S = c->S}};
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
    p->x.q = rows_of(c, put_typed(q, heads * c->T * D, 0, p->pd.bf16), c->T, D);
    p->x.k = rows_of(c, put_typed(k, heads * c->S * D, 0, p->pd.bf16), c->S, D);
    p->l = (performer_layout){.heads = heads,
                              .params = whole_floats(performer_parameters(performer_of(p->att)))};
    p->l.splits = 1 + c->T % 3, p->l.product_splits = 1 + c->S % 3;
    p->l.at_products = whole_floats(p->l.splits * 2 * heads * (5 * D + 1));
    p->saved = room(heads * p->l.params);
    p->work = room(p->l.at_products + p->l.product_splits * 2 * heads * D * D);
}

static void open_case(tokens_at *p, const maps_case *c)
{
    open_tokens(p, c, cloud(c->B * c->H * c->T, c->D, 1), cloud(c->B * c->H * c->S, c->D, 2));
}

static void close_case(tokens_at *p)
{
    const spectra_problem *x = &p->problem.p;
    const void *all[] = {p->x.q.data, p->x.k.data, x->k_mask, x->q_begin, x->q_len,
                         x->k_begin,  x->k_len,    p->saved,  p->work,    p->pd.base};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        device_free(dev, (void *)(uintptr_t)all[i]);
    spectra_attention_free(p->att);
    free(p->q), free(p->k), free(p->mask), free(p->pd.host);
}

static void make_maps(tokens_at *p)
{
    ok(performer_params_prepare(&p->pd, &p->problem, &p->l, &p->x, p->saved, p->work));
}

/* Parameters of head n as kernels read them: scalars, vectors, maps; to be freed. */
static float *device_head(const tokens_at *p, int64_t n)
{
    return get(p->saved + n * p->l.params, performer_parameters(performer_of(p->att)));
}

/* The same as the CPU makes them of the same tokens; to be freed. */
static float *host_head(const tokens_at *p, int64_t n)
{
    const maps_case *c = &p->c;
    const int64_t b = n / c->H, h = n % c->H, D = c->D, DP = performer_of(p->att)->plan.DP;
    const feature_info *f = performer_of(p->att)->feature;
    const bool packed = c->flags & PACKED;
    float *block = attend_floats(performer_block_floats(performer_of(p->att)));
    float *out = malloc((size_t)performer_parameters(performer_of(p->att)) * sizeof *out),
          *to = out;
    const float scale = performer_of(p->att)->plan.scale;
    const int64_t T = packed ? p->q_len[b] : c->T, S = packed ? p->k_len[b] : c->S;
    float *x = malloc((size_t)(T * D) * sizeof *x), *y = malloc((size_t)(S * D) * sizeof *y);
    const float *q = p->q + (packed ? h * c->B * c->T + b * c->T : n * c->T) * D;
    const float *k = p->k + (packed ? h * c->B * c->S + b * c->S : n * c->S) * D;
    for (int64_t i = 0; i < T * D; i++)
        x[i] = q[i] * scale;
    for (int64_t i = 0; i < S * D; i++)
        y[i] = k[i] * scale;
    ok(performer_prepare_heads(performer_of(p->att), 1, 1, T, S, x, y, NULL,
                               c->flags & MASK ? p->mask + b * c->S : NULL, block));
    attn_plan plan;
    attn_params a;
    performer_view(performer_of(p->att), block, &plan, &a);
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
    const int64_t D = performer_of(att)->plan.D;
    const float *linear = params + performer_parameters(performer_of(att)) - 4 * D * D;
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
    make_maps(&p);
    for (int64_t n = 0; n < c->B * c->H; n++) {
        const int64_t small = performer_parameters(performer_of(p.att)) - 4 * c->D * c->D;
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
    /* rounding turns eigenvectors by the more, the closer their eigenvalues are */
    assert_true(maps <= 2e-4 && params <= 1e-6 && identity <= 2e-6);
}

static const maps_case cases[] = {
    {"cderf", 2, 1, 130, 65, 20, MASK},
    {"aderf", 2, 2, 90, 130, 20, PACKED},
    {"aderf", 1, 1, 65, 100, 20, MASK | BF16_INPUT},
    {"sderf", 1, 1, 257, 100, 20, MASK},
    {"sderf", 1, 2, 65, 70, 8, MASK | FULL},
    {"aderf", 1, 2, 64, 70, 8, MASK | FULL},
    {"cderf+", 1, 1, 63, 100, 32, FULL},
    {"aderf+", 1, 1, 257, 100, 32, MASK | FULL},
    {"sderf", 1, 1, 200, 130, 60, MASK | FULL},
    {"aderf", 1, 1, 200, 130, 60, FULL},
    {"sderf", 1, 2, 300, 1000, 64, FULL},
    {"aderf", 1, 1, 1000, 300, 64, MASK | FULL},
    {"sderf", 3, 2, 64, 99, 7, PACKED | FULL},
    {"aderf", 1, 1, 300, 400, 136, FULL}, /* no block has shared memory for it: in tiles */
};

static void maps_are_the_cpus(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (!(cases[i].flags & FULL) || all_cases())
            check_case(&cases[i]);
}

/* ---- tokens of which no good map can be made ---------------------------------------------------
 */

typedef enum tokens_kind {
    ONE_TOKEN,
    FEW_TOKENS,
    ZEROS,
    HUGE_TOKEN,
    TINY,
    NOT_A_NUMBER
} tokens_kind;

/* Maps are finite and each other's inverse, whatever the tokens are; NaN of what is none. */
static void check_awkward(const char *feat, tokens_kind tokens)
{
    const int64_t n = tokens == ONE_TOKEN ? 1 : 7, D = 20;
    const maps_case c = {feat, 1, 1, n, n, D, 0};
    float *q = cloud(n, D, 1), *k = cloud(n, D, 2);
    for (int64_t i = 0; i < n * D && tokens >= ZEROS; i++) {
        const float factor = tokens == ZEROS ? 0 : tokens == TINY ? 1e-12F : 1;
        q[i] *= factor, k[i] *= factor;
    }
    for (int64_t i = 0; i < D && tokens == HUGE_TOKEN; i++)
        q[i] *= 1e5F;
    if (tokens == NOT_A_NUMBER)
        k[5] = NAN;
    tokens_at p;
    open_tokens(&p, &c, q, k);
    make_maps(&p);
    float *got = device_head(&p, 0);
    const int64_t small = performer_parameters(performer_of(p.att)) - 4 * D * D;
    for (int64_t i = 0; i < 4 * D * D; i++)
        if (isnan(got[small + i]) != (tokens == NOT_A_NUMBER))
            fail_msg("%s, tokens %d: map %d is %g", feat, tokens, (int)i, (double)got[small + i]);
    for (int64_t i = 0; i < small && tokens != NOT_A_NUMBER; i++)
        if (!isfinite(got[i]))
            fail_msg("%s, tokens %d: parameter %d is %g", feat, tokens, (int)i, (double)got[i]);
    const double error = tokens == NOT_A_NUMBER ? 0 : identity_error(p.att, got);
    printf("%s, tokens %d: identity %.1e\n", feat, tokens, error);
    assert_true(error <= 2e-6);
    free(got);
    close_case(&p);
}

static void awkward_tokens(void **state)
{
    (void)state;
    for (int tokens = ONE_TOKEN; tokens <= NOT_A_NUMBER; tokens++) {
        check_awkward("sderf", tokens);
        check_awkward("aderf", tokens);
    }
}

/* ---- how it is done ---------------------------------------------------------------------------
 */

static float *maps_made(void *of, int64_t *count)
{
    tokens_at *p = of;
    make_maps(p);
    *count = performer_parameters(performer_of(p->att));
    return device_head(p, 0);
}

static void any_order(void **state)
{
    static const struct {
        maps_case c;
        int arch; /* of a GPU that the emulator is to be; 0: as it is */
    } checked[] = {{{"sderf", 1, 1, 40, 70, 20, MASK}, 0},
                   {{"aderf", 1, 1, 70, 33, 32, FULL}, 0},
                   {{"aderf", 1, 1, 20, 20, 88, 0}, 86}}; /* matrices not in shared memory */
    const int arch = dev->arch;
    (void)state;
    for (size_t i = 0; i < sizeof checked / sizeof checked[0]; i++) {
        tokens_at p;
        if ((checked[i].arch && strcmp(kind, "emu") != 0) ||
            (checked[i].c.flags & FULL && !all_cases()))
            continue;
        dev->arch = checked[i].arch ? checked[i].arch : arch;
        open_case(&p, &checked[i].c);
        same_in_any_order(maps_made, &p);
        close_case(&p);
    }
    dev->arch = arch;
}

/* Nothing is read back or waited for, nothing allocated: what is recorded once makes the maps of
 * whatever tokens are there when it is replayed. */
static void recorded(void **state)
{
    (void)state;
    const maps_case c = {"aderf", 1, 2, 33, 40, 20, 0};
    tokens_at p;
    device_graph *graph = NULL;
    open_case(&p, &c);
    make_maps(&p); /* once before: defaults go to the device */
    ok(device_record_begin(dev));
    make_maps(&p);
    ok(device_record_end(dev, &graph));
    float *other = cloud(c.H * c.T, c.D, 5);
    ok(device_write(dev, p.x.q.data, other, c.H * c.T * c.D * 4));
    ok(device_replay(dev, graph));
    float *replayed = device_head(&p, 1);
    make_maps(&p);
    float *direct = device_head(&p, 1);
    assert_memory_equal(replayed, direct,
                        (size_t)performer_parameters(performer_of(p.att)) * sizeof *direct);
    memcpy(p.q, other, (size_t)(c.H * c.T * c.D) * sizeof *other);
    float *want = host_head(&p, 1);
    assert_true(largest_error(performer_parameters(performer_of(p.att)), direct, want) <= 1e-5);
    device_graph_free(dev, graph);
    free(other), free(replayed), free(direct), free(want);
    close_case(&p);
}

/* Gradients do not go through a decomposition, here or on the CPU: refused before anything runs. */
static void no_gradient_through_maps(void **state)
{
    static const char *const feats[] = {"sderf", "aderf", "cderf"};
    (void)state;
    for (size_t i = 0; i < sizeof feats / sizeof feats[0]; i++) {
        spectra_attention *att = NULL;
        char part[64];
        const spectra_attention_desc d = {.attn = "performer",
                                          .feat = feats[i],
                                          .kernel = "gaus",
                                          .H = 1,
                                          .D = 8,
                                          .DV = 8,
                                          .M = 32,
                                          .through = true};
        snprintf(part, sizeof part, "the parameters of %s come from a decomposition", feats[i]);
        fails(spectra_attention_new(&d, &att), SPECTRA_EUNSUPPORTED, part);
        assert_null(att);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_are_the_cpus),
        cmocka_unit_test(awkward_tokens),
        cmocka_unit_test(any_order),
        cmocka_unit_test(recorded),
        cmocka_unit_test(no_gradient_through_maps),
    };
    return run_on_device(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
