/* Kernels alone, on data that stays in cache: every function of kernel.h's tables on one head a
 * thread, and the row operators on one block of rows. */
#include "attention/official/official.h"
#include "study/bench.h"

#include "base/status.h"
#include "kernel/find.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* ---- attention --------------------------------------------------------------------------------
 */

/* What a thread has of its own. */
typedef struct head {
    attn_plan plan;
    attn_params params;
    float *q, *k, *v, *go, *o, *gq, *gk, *gv; /* (T, D or DV) */
    float *state, *other, *dstate, *den, *scalars, *dscalars, *dvec, *refs, *log, *sign, *scratch,
        *block;
    uint8_t *cut;
} head;

typedef struct kernel_bench {
    spectra_attention *att;
    const attn_row *row;
    int64_t T;
    int threads, part;
    head *heads;
    void **memory;
} kernel_bench;

static attn_causal_args causal_args(const kernel_bench *b, const head *h)
{
    const int64_t D = h->plan.D, DV = h->plan.DV;
    return (attn_causal_args){.n = b->T,
                              .ldq = D,
                              .ldk = D,
                              .ldv = DV,
                              .ldo = DV,
                              .ldgo = DV,
                              .ldgq = D,
                              .ldgk = D,
                              .ldgv = DV,
                              .q = h->q,
                              .k = h->k,
                              .v = h->v,
                              .o = h->o,
                              .den = h->den,
                              .refs = h->refs,
                              .cut = h->cut,
                              .go = h->go,
                              .gq = h->gq,
                              .gk = h->gk,
                              .gv = h->gv};
}

/* States only grow, by what leaves every number finite over any number of repetitions. */
static void call_kernel(const kernel_bench *b, head *h)
{
    const attn_plan *p = &h->plan;
    const attn_params *a = &h->params;
    const int64_t T = b->T, D = p->D, DV = p->DV;
    const float *vec = a->v;
    const attn_causal_args x = causal_args(b, h);
    const float eps = official_epsilon(performer_of(b->att));
    switch (b->part) {
    case BENCH_KEYS:
        b->row->fwd->keys(p, a, T, h->k, D, h->v, DV, NULL, h->state, h->scratch);
        break;
    case BENCH_MERGE:
        b->row->fwd->merge(p, h->state, h->other);
        break;
    case BENCH_QUERIES:
        b->row->fwd->queries(p, a, T, h->q, D, h->state, h->o, DV, h->den, h->scratch);
        break;
    case BENCH_FEATURES:
        b->row->fwd->features(p, a, 0, T, h->q, D, h->log, h->sign, h->scratch);
        break;
    case BENCH_QUERIES_BWD:
        b->row->bwd->queries(p, a, T, h->q, D, h->state, h->o, DV, h->den, h->go, DV, h->gq, D,
                             h->dstate, NULL, h->scratch);
        break;
    case BENCH_KEYS_BWD:
        b->row->bwd->keys(p, a, T, h->k, D, h->v, DV, NULL, h->state, h->dstate, h->gk, D, h->gv,
                          DV, NULL, h->scratch);
        break;
    case BENCH_CAUSAL_FORWARD:
        performer_clear_state(performer_of(b->att), h->state);
        b->row->causal->forward(p, a, &x, h->state, h->scratch);
        break;
    case BENCH_CAUSAL_QUERIES_BWD:
        performer_clear_state(performer_of(b->att), h->other);
        b->row->causal->queries_bwd(p, a, &x, h->other, NULL, NULL, h->scratch);
        break;
    case BENCH_CAUSAL_KEYS_BWD:
        b->row->causal->keys_bwd(p, a, &x, NULL, NULL, NULL, h->scratch);
        break;
    case BENCH_CAUSAL_STEP:
        for (int64_t t = 0; t < T; t++)
            b->row->causal->step(p, a, h->q + t * D, h->k + t * D, h->v + t * DV, h->o + t * DV,
                                 h->state, h->scratch);
        break;
    case BENCH_OFFICIAL_KEYS:
        b->row->official->keys(p, vec, T, h->scalars, h->k, D, h->v, DV, eps, h->other, h->scratch);
        break;
    case BENCH_OFFICIAL_QUERIES:
        b->row->official->queries(p, vec, T, h->scalars, h->q, D, eps, h->other, h->o, DV, h->den,
                                  h->scratch);
        break;
    case BENCH_OFFICIAL_QUERIES_BWD:
        b->row->official->queries_bwd(p, vec, T, h->scalars, h->q, D, eps, h->other, h->o, DV,
                                      h->den, h->go, DV, h->gq, D, h->dstate, h->dscalars, h->dvec,
                                      h->scratch);
        break;
    case BENCH_OFFICIAL_KEYS_BWD:
        b->row->official->keys_bwd(p, vec, T, h->scalars, h->k, D, h->v, DV, eps, h->dstate, h->gk,
                                   D, h->gv, DV, h->dscalars, h->dvec, h->scratch);
        break;
    }
}

static spectra_status run_kernels(void *context)
{
    kernel_bench *b = context;
#pragma omp parallel num_threads(b->threads)
    call_kernel(b, &b->heads[omp_get_thread_num()]);
    return SPECTRA_OK;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t scratch_floats(const kernel_bench *b)
{
    const attn_plan *p = &performer_of(b->att)->plan;
    int64_t n = most(b->row->fwd->scratch(p), b->row->bwd->scratch(p));
    n = most(n, most(b->row->causal->scratch(p), b->row->causal->step_scratch(p)));
    n = most(n, performer_head_scratch(performer_of(b->att)));
    return b->row->official ? most(n, b->row->official->scratch(p)) : n;
}

/* All arrays of a head in one block; base NULL: only counts. Returns its floats. */
static int64_t lay_out(const kernel_bench *b, head *h, float *base)
{
    const attn_plan *p = &performer_of(b->att)->plan;
    const feature_info *f = performer_of(b->att)->feature;
    const int64_t T = b->T, blocks = T / b->row->causal->block(p) + 1;
    const int64_t F = f->lanes * p->MP, D = T * p->D, DV = T * p->DV;
    const int64_t state = attn_state_reals(p, f->lanes);
    const struct {
        float **to;
        int64_t n;
    } rows[] = {{&h->q, D},
                {&h->k, D},
                {&h->v, DV},
                {&h->go, DV},
                {&h->o, DV},
                {&h->gq, D},
                {&h->gk, D},
                {&h->gv, DV},
                {&h->state, state},
                {&h->other, state},
                {&h->dstate, attn_dstate_reals(p, f->lanes)},
                {&h->den, T},
                {&h->scalars, T * f->scalars},
                {&h->dscalars, T * f->scalars},
                {&h->dvec, f->vectors * p->DP},
                {&h->refs, blocks * F},
                {&h->log, b->part == BENCH_FEATURES ? T * f->lanes * p->M : 0},
                {&h->sign, b->part == BENCH_FEATURES ? T * f->lanes * p->M : 0},
                {&h->scratch, scratch_floats(b)},
                {&h->block, performer_block_floats(performer_of(b->att))}};
    int64_t at = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        *rows[i].to = base ? base + at : NULL;
        at += performer_align(rows[i].n);
    }
    h->cut = base ? (uint8_t *)(base + at) : NULL;
    return at + performer_align((T + 3) / 4);
}

/* What a kernel needs of those that come before it. */
static void before(const kernel_bench *b, head *h)
{
    const attn_plan *p = &h->plan;
    const attn_params *a = &h->params;
    const attn_row *row = b->row;
    const int64_t T = b->T, D = p->D, DV = p->DV;
    performer_clear_state(performer_of(b->att), h->state);
    if (b->part == BENCH_CAUSAL_QUERIES_BWD || b->part == BENCH_CAUSAL_KEYS_BWD) {
        const attn_causal_args args = causal_args(b, h);
        row->causal->forward(p, a, &args, h->state, h->scratch);
    } else if (b->part >= BENCH_OFFICIAL_KEYS) { /* other: z and S without maxima */
        const float eps = official_epsilon(performer_of(b->att));
        row->official->keys(p, a->v, T, h->scalars, h->k, D, h->v, DV, eps, h->other, h->scratch);
        row->official->queries(p, a->v, T, h->scalars, h->q, D, eps, h->other, h->o, DV, h->den,
                               h->scratch);
    } else {
        row->fwd->keys(p, a, T, h->k, D, h->v, DV, NULL, h->state, h->scratch);
        memcpy(h->other, h->state,
               (size_t)attn_state_reals(p, performer_of(b->att)->feature->lanes) *
                   sizeof *h->other);
        row->fwd->queries(p, a, T, h->q, D, h->state, h->o, DV, h->den, h->scratch);
    }
}

static spectra_status make_head(kernel_bench *b, int thread)
{
    head *h = &b->heads[thread];
    const attn_plan *plan = &performer_of(b->att)->plan;
    const feature_info *f = performer_of(b->att)->feature;
    const int64_t T = b->T;
    TRY(bench_memory(lay_out(b, h, NULL) * (int64_t)sizeof(float), &b->memory[thread]));
    lay_out(b, h, b->memory[thread]);
    bench_fill(h->q, T * plan->D, 1);
    bench_fill(h->k, T * plan->D, 2);
    bench_fill(h->v, T * plan->DV, 3);
    bench_fill(h->go, T * plan->DV, 4);
    const performer_tokens x = {h->q, T, plan->D, plan->scale, NULL};
    const performer_tokens y = {h->k, T, plan->D, plan->scale, NULL};
    float moments[MOMENTS * 256] = {0};
    performer_prepare(performer_of(b->att), 0, 0, &x, &y, moments, h->block, h->scratch);
    performer_view(performer_of(b->att), h->block, &h->plan, &h->params);
    for (int64_t i = 0; i < T * f->scalars; i++)
        h->scalars[i] = h->params.s[i % f->scalars];
    before(b, h);
    return SPECTRA_OK;
}

/* As bench_attention.c counts; a pass over one side has half of it. */
static bench_count kernel_count(const kernel_bench *b)
{
    const attn_plan *p = &performer_of(b->att)->plan;
    const double LM = (double)(performer_of(b->att)->feature->lanes * p->M), DV = (double)p->DV;
    const double project = bench_projection_flops(b->att), bytes = 4.0 * (double)(p->D + p->DV);
    switch (b->part) {
    case BENCH_MERGE:
        return (bench_count){2 * LM * (DV + 1), LM, 12 * LM * (DV + 2)};
    case BENCH_FEATURES:
        return (bench_count){project, 0, 4 * ((double)p->D + 2 * LM)};
    case BENCH_KEYS:
    case BENCH_OFFICIAL_KEYS:
        return (bench_count){project + 2 * LM * DV + LM, LM, bytes};
    case BENCH_QUERIES:
    case BENCH_OFFICIAL_QUERIES:
        return (bench_count){project + 2 * LM * DV + 2 * LM, LM, bytes};
    case BENCH_CAUSAL_FORWARD:
    case BENCH_CAUSAL_STEP:
        return (bench_count){2 * project + 4 * LM * DV + 3 * LM, 2 * LM, 2 * bytes};
    default:
        return (bench_count){2 * project + 4 * LM * DV + 3 * LM, LM, 2 * bytes};
    }
}

static spectra_status measure(kernel_bench *b, const bench_case *c, const bench_options *o,
                              bench_result *out)
{
    const spectra_attention_desc desc = {.attn = "performer",
                                         .feat = c->feat,
                                         .kernel = c->kernel,
                                         .H = 1,
                                         .D = c->D,
                                         .DV = c->DV,
                                         .M = c->M,
                                         .seed = 42};
    const int group = b->part >= BENCH_OFFICIAL_KEYS    ? ATTN_OFFICIAL
                      : b->part >= BENCH_CAUSAL_FORWARD ? ATTN_CAUSAL
                                                        : ATTN_ATTENTION;
    kernel_prefer(c->feat, c->kernel, c->D, c->DV, c->M, ATTN_ATTENTION | group);
    TRY(spectra_attention_new(&desc, &b->att));
    TRY(kernel_find(c->feat, c->kernel, c->D, c->DV, c->M, ATTN_ATTENTION | group, &b->row));
    for (int t = 0; t < c->threads; t++)
        TRY(make_head(b, t));
    bench_result r = {.isa = b->row->isa,
                      .unit = b->part == BENCH_MERGE ? "state" : NULL,
                      .exact = b->row->D > 0,
                      .chain = performer_of(b->att)->plan.chain};
    const double units = b->part == BENCH_MERGE ? 1 : (double)b->T;
    TRY(bench_time(c, o, run_kernels, b, units * c->threads, &r));
    r.count = kernel_count(b);
    const bench_options cached = {.memory_rate = 0}; /* nothing waits for memory */
    bench_floor(&cached, &r);
    *out = r;
    return SPECTRA_OK;
}

spectra_status bench_kernel(const bench_kind *kind, const bench_case *c, const bench_options *o,
                            bench_result *out)
{
    kernel_bench b = {.T = c->T, .threads = c->threads, .part = kind->part};
    b.heads = calloc((size_t)c->threads, sizeof *b.heads);
    b.memory = calloc((size_t)c->threads, sizeof *b.memory);
    spectra_status status =
        b.heads && b.memory ? measure(&b, c, o, out) : fail(SPECTRA_ENOMEM, "bench: out of memory");
    for (int t = 0; t < c->threads && b.memory; t++)
        free(b.memory[t]);
    free(b.heads);
    free(b.memory);
    spectra_attention_free(b.att);
    return status;
}
