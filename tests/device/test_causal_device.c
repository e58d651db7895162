/* Causal attention's CUDA kernels in the emulator, against the CPU's kernels for every query and
 * the keys it sees. Every buffer is exact and checked, shared memory is watched for races, outputs
 * start as NaN.
 */
#include "attention/performer/performer.h"
#include "base/bf16.h"
#include "device/args.h"
#include "device/emulated.h"
#include "support/attend.h"
#include "support/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { MASK_NONE, MASK_SOME, MASK_FIRST, MASK_ALL } mask_kind;

typedef struct causal_case {
    const char *feat, *kernel;
    int64_t B, H, T, D, DV, M, splits;
    mask_kind mask;
    bool fast, bf16, learn, growth;
} causal_case;

enum { KEYS, FORWARD, COMBINE, QUERIES_BWD, KEYS_BWD, SUM, LEARNED, KERNELS };
static const char *const kernel_names[KERNELS] = {
    "attn_keys", "attn_causal", "attn_combine", "attn_causal_queries_bwd", "attn_causal_keys_bwd",
    "attn_sum",  "attn_learned"};

/* ---- memory of a case --------------------------------------------------------------------------
 */

enum { RANGES = 64 };
static emulator_range ranges[RANGES];
static int range_count;

/* Exact, filled with NaN, and known to the emulator until the case ends. */
static void *fresh(int64_t bytes)
{
    void *p = aligned_alloc(256, (size_t)((bytes + 255) / 256 * 256 + 256));
    assert_non_null(p);
    assert_true(range_count < RANGES);
    memset(p, 0xff, (size_t)bytes);
    ranges[range_count++] = (emulator_range){p, bytes};
    return p;
}

static float *fresh_floats(int64_t n)
{
    return fresh(n * 4);
}

static void forget(void)
{
    while (range_count > 0)
        free((void *)(uintptr_t)ranges[--range_count].start);
}

static uint64_t random_state = 1;

static float normal(void)
{
    double sum = 0;
    for (int k = 0; k < 4; k++) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(random_state >> 40) / (1 << 24) - 0.5;
    }
    return (float)(sum * sqrt(3));
}

/* Rows (B, H, T, n): the numbers in float and, as the kernels see them, in device memory. */
typedef struct rows {
    float *x;
    void *device;
    int64_t count, n;
} rows;

static rows rows_new(const causal_case *c, int64_t n, double std, bool filled)
{
    rows r = {.count = c->B * c->H * c->T * n, .n = n};
    r.x = attend_floats(r.count);
    r.device = fresh(r.count * (c->bf16 ? 2 : 4));
    for (int64_t i = 0; i < r.count && filled; i++) {
        const double growth = c->growth ? 1 + 8.0 * (double)(i / n % c->T) / (double)c->T : 1;
        r.x[i] = (float)(std * growth) * normal();
        if (c->bf16) {
            ((uint16_t *)r.device)[i] = bf16_from_float(r.x[i]);
            r.x[i] = bf16_to_float(bf16_from_float(r.x[i]));
        } else {
            ((float *)r.device)[i] = r.x[i];
        }
    }
    return r;
}

static cuda_rows rows_arg(const causal_case *c, const rows *r)
{
    return (cuda_rows){r->device, c->H * c->T * r->n, c->T * r->n, r->n};
}

/* The largest difference, by the largest number. */
static double worst(const causal_case *c, const rows *r)
{
    double most = 0, scale = 0;
    for (int64_t i = 0; i < r->count; i++) {
        const float y =
            c->bf16 ? bf16_to_float(((uint16_t *)r->device)[i]) : ((float *)r->device)[i];
        const double d = fabs((double)y - (double)r->x[i]);
        if (!(d <= 1e30))
            return INFINITY;
        most = fmax(most, d);
        scale = fmax(scale, fabs((double)r->x[i]));
    }
    return most / fmax(scale, 0.05); /* what is all but 0 is noise */
}

/* ---- what should come out ----------------------------------------------------------------------
 */

typedef struct problem {
    const causal_case *c;
    spectra_attention *att;
    int64_t N, MP, F, DV8, state, dparams, block;
    float *blocks;
    uint8_t *mask;
    rows q, k, v, o, go, gq, gk, gv;
    int64_t NS;
    float *learned; /* (H, NS) | (M, D) | (M) */
} problem;

static int64_t learned_floats(const problem *p)
{
    return p->c->H * p->NS + p->c->M * (p->c->D + 1);
}

static void weigh(const problem *p, float *z, int64_t DVP)
{
    for (int64_t f = 0; f < p->F; f++) {
        const float w = f % p->MP < p->c->M ? performer_of(p->att)->row_weight[f % p->MP] : 1;
        z[f] *= w;
        for (int64_t i = 0; i < DVP; i++)
            z[p->F + f * DVP + i] *= w;
    }
}

/* One head: every query with the state of the keys up to it. */
static void expect_head(problem *p, int64_t n)
{
    const causal_case *c = p->c;
    const attn_fwd_ops *fwd = performer_of(p->att)->kernels->fwd;
    const attn_bwd_ops *bwd = performer_of(p->att)->kernels->bwd;
    attn_plan plan;
    attn_params a;
    performer_view(performer_of(p->att), p->blocks + n * p->block, &plan, &a);
    plan.learn = c->learn;
    const int64_t T = c->T, D = c->D, DV = c->DV, DVP = plan.DVP,
                  NS = performer_of(p->att)->feature->scalars;
    const int64_t vectors = performer_of(p->att)->feature->vectors;
    float *state = attend_floats(p->F * (2 + DVP)), *dstate = attend_floats(p->F * (1 + DVP));
    float *scratch = attend_floats(fwd->scratch(&plan) + bwd->scratch(&plan));
    float *gk = attend_floats(T * D), *gv = attend_floats(T * DV), den;
    double *sk = calloc((size_t)(T * D), 8), *sv = calloc((size_t)(T * DV), 8);
    const int64_t params = NS + vectors * plan.DP + plan.MP * plan.DP;
    float *dparams = attend_floats(params);
    memset(dparams, 0, (size_t)params * 4);
    const float *k = p->k.x + n * T * D, *v = p->v.x + n * T * DV;
    const uint8_t *mask = p->mask ? p->mask + n / c->H * T : NULL;
    float *weights = p->learned + c->H * NS + c->M * D;
    for (int64_t i = 0; i < T; i++) {
        const float *q = p->q.x + (n * T + i) * D, *go = p->go.x + (n * T + i) * DV;
        float *o = p->o.x + (n * T + i) * DV;
        for (int64_t f = 0; f < p->F; f++)
            state[f] = -INFINITY;
        memset(state + p->F, 0, (size_t)(p->F * (1 + DVP)) * 4);
        memset(dstate, 0, (size_t)(p->F * (1 + DVP)) * 4);
        fwd->keys(&plan, &a, i + 1, k, D, v, DV, mask, state, scratch);
        weigh(p, state + p->F, DVP);
        fwd->queries(&plan, &a, 1, q, D, state, o, DV, &den, scratch);
        bwd->queries(&plan, &a, 1, q, D, state, o, DV, &den, go, DV, p->gq.x + (n * T + i) * D, D,
                     dstate, dparams, scratch);
        for (int64_t f = 0; f < p->F; f++) {
            double sum = (double)state[p->F + f] * (double)dstate[f];
            for (int64_t j = 0; j < DV && f % p->MP < c->M; j++)
                sum += (double)state[2 * p->F + f * DVP + j] * (double)dstate[p->F + f * DVP + j];
            if (f % p->MP < c->M)
                weights[f % p->MP] +=
                    (float)(sum / (double)performer_of(p->att)->row_weight[f % p->MP]);
        }
        weigh(p, dstate, DVP);
        bwd->keys(&plan, &a, i + 1, k, D, v, DV, mask, state, dstate, gk, D, gv, DV, dparams,
                  scratch);
        for (int64_t j = 0; j < (i + 1) * D; j++)
            sk[j] += (double)gk[j];
        for (int64_t j = 0; j < (i + 1) * DV; j++)
            sv[j] += (double)gv[j];
    }
    for (int64_t j = 0; j < T * D; j++)
        p->gk.x[n * T * D + j] = (float)sk[j];
    for (int64_t j = 0; j < T * DV; j++)
        p->gv.x[n * T * DV + j] = (float)sv[j];
    float *at = p->learned, *dw = dparams + NS + vectors * plan.DP;
    for (int64_t i = 0; i < NS; i++)
        at[n % c->H * NS + i] += dparams[i];
    at += c->H * NS;
    for (int64_t i = 0; i < c->M * D; i++)
        at[i] += dw[i / D * plan.DP + i % D];
    free(state), free(dstate), free(scratch), free(gk), free(gv), free(sk), free(sv), free(dparams);
}

/* ---- what does ---------------------------------------------------------------------------------
 */

typedef struct kernels {
    const emulator_kernel *kernel[KERNELS];
    jit_cuda_plan plan[KERNELS];
} kernels;

static void kernel_get(const causal_case *c, int i, kernels *out)
{
    const bool learn = c->learn && i >= QUERIES_BWD && i <= SUM;
    char defines[128];
    snprintf(defines, sizeof defines, "D=%d DV=%d M=%d dtype=%s precision=%s learn=%s", (int)c->D,
             (int)c->DV, (int)c->M, c->bf16 ? "bf16" : "f32", c->fast ? "fast" : "float32",
             learn ? "true" : "false");
    const jit_cuda_request r = {.kind = kernel_names[i], .feat = c->feat, .defines = defines};
    char *text = NULL;
    emulated_ok(program_text(&r, NULL, &out->plan[i], &text));
    out->kernel[i] = emulated_kernel(kernel_names[i], text, kernel_names[i]);
    free(text);
}

static emulator_order order;

static void launch(const kernels *k, int i, int64_t x, int64_t y, int64_t z,
                   const attn_cuda_args *args)
{
    const device_grid grid = {{x, y, z}, k->plan[i].threads, 1, k->plan[i].shared};
    emulator_options o = {
        .check_races = true, .allocations = ranges, .allocation_count = range_count};
    o.order = order;
    o.seed = 7;
    emulated_ok(emulator_launch(k->kernel[i], &grid, args, sizeof *args, &o));
}

/* Parameters and matrices of heads as the kernels read them. */
static void parameters(const problem *p, attn_cuda_args *args)
{
    const causal_case *c = p->c;
    const feature_info *f = performer_of(p->att)->feature;
    const int64_t D = c->D, M = c->M;
    const int64_t each = f->scalars + f->vectors * D + (f->linear != LINEAR_NONE ? 4 * D * D : 0);
    const bool counts = f->counts != COUNTS_NONE;
    const int64_t matrices = counts ? p->N : 1;
    float *params = fresh_floats(p->N * each), *w = fresh_floats(matrices * M * D);
    float *w2 = fresh_floats(matrices * M), *sums = fresh_floats(counts ? p->N * 2 * M : 1);
    float *second = performer_of(p->att)->second ? fresh_floats(M * D) : w, *weight = NULL;
    for (int64_t n = 0; n < p->N; n++) {
        attn_plan plan;
        attn_params a;
        float *to = params + n * each;
        performer_view(performer_of(p->att), p->blocks + n * p->block, &plan, &a);
        memcpy(to, a.s, (size_t)f->scalars * 4);
        to += f->scalars;
        for (int i = 0; i < f->vectors; i++, to += D)
            memcpy(to, a.v + i * plan.DP, (size_t)D * 4);
        for (int64_t r = 0; f->linear != LINEAR_NONE && r < 4 * D; r++, to += D)
            memcpy(to, a.linear + (r / D * plan.DP + r % D) * plan.DP, (size_t)D * 4);
        if (n >= matrices)
            continue;
        for (int64_t r = 0; r < M; r++) {
            memcpy(w + (n * M + r) * D, plan.w + r * plan.DP, (size_t)D * 4);
            if (performer_of(p->att)->second)
                memcpy(second + r * D, plan.w_second + r * plan.DP, (size_t)D * 4);
        }
        memcpy(w2 + n * M, plan.w2, (size_t)M * 4);
        for (int i = 0; counts && i < 2; i++)
            memcpy(sums + (n * 2 + i) * M, plan.count_sums + i * plan.MP, (size_t)M * 4);
    }
    if (performer_of(p->att)->weighted) {
        weight = fresh_floats(M);
        memcpy(weight, performer_of(p->att)->row_weight, (size_t)M * 4);
    }
    args->w = w;
    args->w_second = second;
    args->w2 = w2;
    args->counts = sums;
    args->row_weight = weight;
    args->params = params;
    args->w_stride = counts ? M * D : 0;
    args->counts_stride = counts ? 2 * M : 0;
    args->params_stride = each;
}

static attn_cuda_args arguments(const problem *p, const kernels *k)
{
    const causal_case *c = p->c;
    const int64_t N = p->N, T = c->T, blocks = k->plan[FORWARD].row_blocks;
    attn_cuda_args a = {.q = rows_arg(c, &p->q),
                        .k = rows_arg(c, &p->k),
                        .v = rows_arg(c, &p->v),
                        .o = rows_arg(c, &p->o),
                        .go = rows_arg(c, &p->go),
                        .gq = rows_arg(c, &p->gq),
                        .gk = rows_arg(c, &p->gk),
                        .gv = rows_arg(c, &p->gv)};
    a.B = c->B, a.H = c->H, a.T = a.S = T;
    a.den_rows = c->B * T;
    a.q_splits = a.k_splits = c->splits;
    a.scale = performer_of(p->att)->plan.scale;
    if (p->mask) {
        uint8_t *mask = fresh(c->B * T);
        memcpy(mask, p->mask, (size_t)(c->B * T));
        a.mask = mask;
    }
    parameters(p, &a);
    a.part = fresh_floats(c->splits * N * p->state);
    a.den = fresh_floats(N * T);
    a.top = fresh_floats(N * T);
    a.gden = fresh_floats(N * T);
    a.row_blocks = blocks;
    if (blocks > 1) {
        a.o_part = fresh_floats(blocks * N * T * c->DV);
        a.den_part = fresh_floats(blocks * N * T);
        a.top_part = fresh_floats(blocks * N * T);
    }
    return a;
}

static void backward_arguments(const problem *p, const kernels *k, attn_cuda_args *a)
{
    const causal_case *c = p->c;
    const int64_t N = p->N, T = c->T, NS = performer_of(p->att)->feature->scalars;
    const jit_cuda_plan *qb = &k->plan[QUERIES_BWD], *kb = &k->plan[KEYS_BWD];
    assert_int_equal(qb->tile, kb->tile);
    assert_int_equal(qb->row_blocks, kb->row_blocks);
    a->q_row_blocks = qb->row_blocks, a->k_row_blocks = kb->row_blocks;
    a->tiles = (T + qb->tile - 1) / qb->tile;
    a->dpart = fresh_floats(c->splits * N * p->F * (1 + p->DV8));
    a->refs = fresh_floats(N * a->tiles * p->F);
    a->starts = fresh(qb->row_blocks * N * a->tiles * (int64_t)sizeof *a->starts);
    if (qb->row_blocks > 1) {
        a->gq_part = fresh_floats(qb->row_blocks * N * T * c->D);
        a->gk_part = fresh_floats(kb->row_blocks * N * T * c->D);
        a->gv_part = fresh_floats(kb->row_blocks * N * T * c->DV);
    }
    if (c->learn) {
        a->dscalars = fresh_floats(c->splits * qb->row_blocks * N * NS);
        a->dscalars_k = fresh_floats(c->splits * kb->row_blocks * N * NS);
        a->dw = fresh_floats(c->splits * N * c->M * c->D);
        a->dw_k = fresh_floats(c->splits * N * c->M * c->D);
        a->dweights = fresh_floats(c->splits * N * c->M);
        a->learned = fresh_floats(learned_floats(p));
        memset(a->learned, 0, (size_t)learned_floats(p) * 4);
    }
}

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
    return most / fmax(scale, 0.05); /* what is all but 0 is noise */
}

static void problem_new(problem *p, const causal_case *c)
{
    spectra_attention_desc d = {.attn = "performer",
                                .feat = c->feat,
                                .kernel = c->kernel,
                                .H = c->H,
                                .D = c->D,
                                .DV = c->DV,
                                .M = c->M,
                                .seed = 3};
    const size_t length = strlen(c->feat);
    char name[32];
    snprintf(name, sizeof name, "%s", c->feat);
    if (name[length - 1] == '+') {
        name[length - 1] = 0;
        d.antithetic = true;
    }
    d.feat = name;
    memset(p, 0, sizeof *p);
    p->c = c;
    emulated_ok(spectra_attention_new(&d, &p->att));
    p->N = c->B * c->H;
    p->NS = performer_of(p->att)->feature->scalars;
    p->MP = performer_of(p->att)->plan.MP;
    p->F = performer_of(p->att)->feature->lanes * p->MP;
    p->DV8 = (c->DV + 7) / 8 * 8;
    p->state = p->F * (2 + p->DV8);
    /* of signed features the normaliser is near 0 where vectors are long */
    const double std = performer_of(p->att)->feature->is_signed ? 0.5 : 1;
    p->q = rows_new(c, c->D, std, true);
    p->k = rows_new(c, c->D, std, true);
    p->v =
        rows_new(&(causal_case){.B = c->B, .H = c->H, .T = c->T, .bf16 = c->bf16}, c->DV, 1, true);
    p->go =
        rows_new(&(causal_case){.B = c->B, .H = c->H, .T = c->T, .bf16 = c->bf16}, c->DV, 1, true);
    p->o = rows_new(c, c->DV, 0, false);
    p->gq = rows_new(c, c->D, 0, false);
    p->gk = rows_new(c, c->D, 0, false);
    p->gv = rows_new(c, c->DV, 0, false);
    if (c->mask != MASK_NONE) {
        p->mask = malloc((size_t)(c->B * c->T));
        for (int64_t i = 0; i < c->B * c->T; i++)
            p->mask[i] = c->mask == MASK_SOME    ? normal() > -0.6F
                         : c->mask == MASK_FIRST ? i % c->T >= 19 % c->T
                                                 : i >= c->T;
    }
    float *x = attend_floats(p->q.count), *y = attend_floats(p->q.count);
    for (int64_t i = 0; i < p->q.count; i++) {
        x[i] = p->q.x[i] * performer_of(p->att)->plan.scale;
        y[i] = p->k.x[i] * performer_of(p->att)->plan.scale;
    }
    p->block = performer_block_floats(performer_of(p->att));
    p->blocks = attend_floats(p->N * p->block);
    emulated_ok(performer_prepare_heads(performer_of(p->att), c->B, c->H, c->T, c->T, x, y, NULL,
                                        p->mask, p->blocks));
    free(x), free(y);
    p->learned = calloc((size_t)learned_floats(p), sizeof *p->learned);
    for (int64_t n = 0; n < p->N; n++)
        expect_head(p, n);
}

static void problem_free(problem *p)
{
    rows *all[] = {&p->q, &p->k, &p->v, &p->o, &p->go, &p->gq, &p->gk, &p->gv};
    for (int i = 0; i < 8; i++)
        free(all[i]->x);
    free(p->learned), free(p->blocks), free(p->mask);
    spectra_attention_free(p->att);
    forget();
}

static void run_case(const causal_case *c)
{
    problem p;
    kernels k = {0};
    problem_new(&p, c);
    kernel_get(c, KEYS, &k);
    kernel_get(c, FORWARD, &k);
    attn_cuda_args a = arguments(&p, &k);
    if (c->splits > 1)
        launch(&k, KEYS, c->splits - 1, p.N, k.plan[KEYS].row_blocks * k.plan[KEYS].value_blocks,
               &a);
    launch(&k, FORWARD, c->splits, p.N, k.plan[FORWARD].row_blocks, &a);
    if (k.plan[FORWARD].row_blocks > 1) {
        kernel_get(c, COMBINE, &k);
        launch(&k, COMBINE, (c->T + 31) / 32, p.N, 1, &a);
    }
    for (int i = QUERIES_BWD; i <= KEYS_BWD; i++)
        kernel_get(c, i, &k);
    backward_arguments(&p, &k, &a);
    launch(&k, QUERIES_BWD, c->splits, p.N, k.plan[QUERIES_BWD].row_blocks, &a);
    launch(&k, KEYS_BWD, c->splits, p.N, k.plan[KEYS_BWD].row_blocks, &a);
    if (k.plan[QUERIES_BWD].row_blocks > 1) {
        kernel_get(c, SUM, &k);
        launch(&k, SUM, 3, p.N, 3, &a);
    }
    const double eo = worst(c, &p.o), eq = worst(c, &p.gq), ek = worst(c, &p.gk),
                 ev = worst(c, &p.gv);
    printf("%s %s T %d: o %.1e gq %.1e gk %.1e gv %.1e", c->feat, c->kernel, (int)c->T, eo, eq, ek,
           ev);
    const double limit = c->bf16                                                ? 1e-2
                         : c->fast                                              ? 5e-3
                         : c->growth || performer_of(p.att)->feature->is_signed ? 2e-4
                                                                                : 5e-6;
    double el = 0; /* sums over all pairs of tokens, which cancel */
    if (c->learn) {
        const int64_t scalars = p.NS * c->H, matrix = c->M * c->D;
        kernel_get(c, LEARNED, &k);
        launch(&k, LEARNED, 2, 1, 1, &a);
        el = fmax(
            worst_floats(scalars, a.learned, p.learned),
            fmax(worst_floats(matrix, a.learned + scalars, p.learned + scalars),
                 worst_floats(c->M, a.learned + scalars + matrix, p.learned + scalars + matrix)));
        printf(" learned %.1e", el);
    }
    printf("\n");
    fflush(stdout);
    problem_free(&p);
    assert_true(eo <= limit && eq <= limit && ek <= limit && ev <= limit && el <= 20 * limit);
}

static const causal_case cases[] = {
    {"posrf", "orf", 1, 1, 7, 8, 8, 8, 1, MASK_NONE, 0, 0, 0, 0},
    {"posrf", "gaus", 1, 1, 1, 20, 8, 100, 1, MASK_NONE, 0, 0, 0, 0},
    {"posrf", "orf", 1, 2, 65, 32, 32, 128, 1, MASK_SOME, 0, 0, 0, 0},
    {"posrf", "gaus", 2, 1, 130, 20, 20, 33, 2, MASK_FIRST, 0, 0, 0, 0},
    {"posrf", "gaus", 2, 1, 33, 16, 32, 64, 1, MASK_ALL, 0, 0, 0, 0},
    {"posrf", "gaus", 1, 1, 200, 32, 32, 64, 3, MASK_SOME, 0, 0, 0, 1},
    {"posrf", "orf", 1, 1, 40, 64, 64, 256, 1, MASK_SOME, 0, 0, 1, 0},
    {"posrf", "ssr", 1, 1, 130, 16, 16, 33, 3, MASK_SOME, 0, 0, 1, 0},
    {"posrf", "orf", 1, 1, 130, 32, 32, 64, 2, MASK_SOME, 1, 0, 0, 0},
    {"posrf", "orf", 1, 2, 40, 20, 60, 64, 1, MASK_SOME, 0, 1, 0, 0},
    {"posrf+", "orf", 1, 1, 65, 20, 20, 33, 2, MASK_SOME, 0, 0, 1, 1},
    {"trigrf", "orf", 1, 1, 65, 20, 20, 128, 2, MASK_SOME, 0, 0, 1, 0},
    {"gerf", "orf", 1, 1, 65, 20, 20, 33, 2, MASK_SOME, 0, 0, 1, 0},
    {"saderf", "qmc", 1, 1, 70, 20, 32, 48, 2, MASK_SOME, 0, 0, 1, 0},
    {"sderf", "orf", 1, 2, 70, 8, 8, 33, 2, MASK_SOME, 0, 0, 0, 0},
    {"hrf", "orf", 1, 1, 70, 16, 16, 33, 2, MASK_SOME, 0, 0, 1, 0},
    {"poisrf", "orf", 1, 2, 40, 16, 16, 64, 1, MASK_SOME, 0, 0, 0, 0},
    {"geomrf_plus", "orf", 1, 1, 40, 8, 8, 32, 1, MASK_SOME, 0, 0, 0, 0},
};

static void kernels_agree(void **state)
{
    run_case(*state);
}

/* Any order of threads gives what this one does, as both agree with the CPU. */
static void other_order(void **state)
{
    (void)state;
    order = EMULATOR_RANDOM;
    run_case(&cases[3]);
    order = EMULATOR_ASCENDING;
}

int main(void)
{
    enum { COUNT = sizeof cases / sizeof cases[0] };
    struct CMUnitTest tests[COUNT + 1];
    static char names[COUNT][64];
    emulated_open();
    for (int i = 0; i < COUNT; i++) {
        const causal_case *c = &cases[i];
        snprintf(names[i], sizeof names[i], "%s %s T=%d D=%d M=%d", c->feat, c->kernel, (int)c->T,
                 (int)c->D, (int)c->M);
        tests[i] = (struct CMUnitTest){names[i], kernels_agree, NULL, NULL, (void *)(uintptr_t)c};
    }
    tests[COUNT] = (struct CMUnitTest)cmocka_unit_test(other_order);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    emulated_close();
    return failed;
}
