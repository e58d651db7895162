/* Whole attentions, as the model calls them. */
#include "attention/performer/performer.h"
#include "study/bench.h"

#include "base/status.h"
#include "kernel/find.h"
#include "kernel/registry.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { Q, K, V, GO, O, GQ, GK, GV, ARRAYS, GIVEN = O };

typedef struct attention_bench {
    spectra_attention *att;
    spectra_problem p;
    float *data[ARRAYS]; /* (B, H, T, D or DV) */
    spectra_rows r[ARRAYS];
    void *saved, *work, *state, *step_work;
} attention_bench;

static bool is_wide(int array)
{
    return array == V || array == O || array == GO || array == GV;
}

static void release(attention_bench *b)
{
    for (int i = 0; i < ARRAYS; i++)
        free(b->data[i]);
    free(b->saved);
    free(b->work);
    free(b->state);
    free(b->step_work);
    spectra_attention_free(b->att);
}

/* ---- one call ---------------------------------------------------------------------------------
 */

static spectra_status run_forward(void *context)
{
    attention_bench *b = context;
    return spectra_attention_forward(b->att, &b->p, b->r[Q], b->r[K], b->r[V], b->r[O], b->saved,
                                     b->work);
}

static spectra_status run_backward(void *context)
{
    attention_bench *b = context;
    return spectra_attention_backward(b->att, &b->p, b->r[Q], b->r[K], b->r[V], b->r[O], b->r[GO],
                                      b->r[GQ], b->r[GK], b->r[GV], b->saved, b->work);
}

static spectra_status run_step(void *context)
{
    attention_bench *b = context;
    return spectra_attention_step(b->att, b->p.B, NULL, b->r[Q], b->r[K], b->r[V], b->r[O],
                                  b->state, b->step_work);
}

/* ---- what it takes ----------------------------------------------------------------------------
 */

double bench_projection_flops(const spectra_attention *att)
{
    const attn_plan *p = &performer_of(att)->plan;
    const attn_chain *c = p->chain;
    if (!c)
        return 2.0 * performer_of(att)->feature->projections * (double)(p->D * p->M);
    double each = 1; /* the scale */
    for (int i = 0; i < c->steps; i++)
        each += c->kind[i] == CHAIN_HADAMARD ? log2((double)c->n) : c->kind[i] == CHAIN_DIAGONAL;
    return each * (double)p->M;
}

bench_count bench_performer_count(const spectra_attention *att, bool backward)
{
    const attn_plan *p = &performer_of(att)->plan;
    const double L = performer_of(att)->feature->lanes, M = (double)p->M, D = (double)p->D,
                 DV = (double)p->DV;
    const double passes = backward ? 2 : 1, project = bench_projection_flops(att);
    return (bench_count){.flops = passes * (2 * project + 4 * L * M * DV + 3 * L * M),
                         .exponentials = 2 * performer_of(att)->feature->exponentials * M,
                         .bytes = passes * 4 * (2 * D + 2 * DV)};
}

static bench_count softmax_count(const bench_case *c, bool backward)
{
    const double S = (double)c->T, D = (double)c->D, DV = (double)c->DV;
    const double products = backward ? 6 * D + 4 * DV : 2 * D + 2 * DV;
    return (bench_count){.flops = S * (products + 2),
                         .exponentials = S,
                         .bytes = (backward ? 2 : 1) * 4 * (2 * D + 2 * DV)};
}

/* ---- setting up -------------------------------------------------------------------------------
 */

spectra_status bench_give(spectra_attention *att, const spectra_attention *from,
                          const spectra_problem *p, const void *saved)
{
    const feature_info *f = performer_of(from)->feature;
    const int64_t shape[] = {p->B, att->desc.H, att->desc.D};
    float *x = malloc((size_t)(shape[0] * shape[1] * shape[2]) * sizeof *x);
    spectra_status status =
        x ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "bench: no memory for parameters");
    for (int i = 0; i < f->scalars + f->vectors && status == SPECTRA_OK; i++) {
        const bool scalar = i < f->scalars;
        const char *name = scalar ? f->scalar_names[i] : f->vector_names[i - f->scalars];
        if (strcmp(name, "gaussian") == 0 || strcmp(name, "side") == 0)
            continue;
        status = spectra_attention_parameter(from, p, name, saved, x);
        if (status == SPECTRA_OK)
            status = spectra_attention_set(att, name, x, scalar ? 2 : 3, shape);
    }
    free(x);
    return status;
}

static spectra_status take(attention_bench *b, const bench_case *c, int64_t tokens)
{
    for (int i = 0; i < ARRAYS; i++) {
        const int64_t width = is_wide(i) ? c->DV : c->D, n = c->B * c->H * tokens * width;
        void *data = NULL;
        TRY(bench_memory(n * (int64_t)sizeof(float), &data));
        b->data[i] = data;
        b->r[i] = spectra_rows_dense(data, c->H, tokens, width);
        if (i < GIVEN)
            bench_fill(data, n, (uint32_t)i);
    }
    return SPECTRA_OK;
}

static spectra_status take_pass(attention_bench *b)
{
    TRY(bench_memory(spectra_attention_saved_bytes(b->att, &b->p), &b->saved));
    return bench_memory(spectra_attention_work_bytes(b->att, &b->p), &b->work);
}

/* A causal attention that has its parameters from one that is not. */
static spectra_status make_causal(attention_bench *b, const spectra_attention_desc *plain)
{
    spectra_attention *causal = NULL;
    spectra_attention_desc desc = *plain;
    desc.causal = true;
    TRY(take_pass(b));
    TRY(run_forward(b));
    TRY(spectra_attention_new(&desc, &causal));
    spectra_status status = bench_give(causal, b->att, &b->p, b->saved);
    spectra_attention_free(b->att);
    b->att = causal;
    free(b->saved);
    free(b->work);
    b->saved = b->work = NULL;
    return status;
}

static spectra_status prepare(attention_bench *b, const bench_case *c, int part)
{
    const bool softmax = part >= BENCH_SOFTMAX, step = part == BENCH_STEP;
    const bool causal = part == BENCH_CAUSAL || part == BENCH_CAUSAL_BACKWARD || step;
    const int64_t tokens = step ? 1 : c->T;
    const spectra_attention_desc desc = {.attn = softmax ? "softmax" : "performer",
                                         .feat = c->feat,
                                         .kernel = c->kernel,
                                         .H = c->H,
                                         .D = c->D,
                                         .DV = c->DV,
                                         .M = c->M,
                                         .seed = 42,
                                         .bf16 = part == BENCH_BF16};
    if (!softmax)
        kernel_prefer(c->feat, c->kernel, c->D, c->DV, c->M,
                      ATTN_ATTENTION | (causal ? ATTN_CAUSAL : 0));
    TRY(spectra_attention_new(&desc, &b->att));
    b->p = (spectra_problem){.B = c->B, .T = tokens, .S = tokens};
    TRY(take(b, c, tokens));
    if (causal)
        TRY(make_causal(b, &desc));
    if (step) {
        TRY(bench_memory(spectra_attention_state_bytes(b->att, c->B), &b->state));
        TRY(bench_memory(spectra_attention_step_bytes(b->att), &b->step_work));
        return spectra_attention_state_clear(b->att, c->B, NULL, b->state);
    }
    TRY(take_pass(b));
    return run_forward(b);
}

/* {"precision", "error"}: the largest difference from the same attention in float, by its largest
 * output. */
static spectra_status bf16_error(attention_bench *b, const bench_case *c, json_t **out)
{
    const int64_t n = c->B * c->H * b->p.T * c->DV;
    attention_bench plain = *b;
    spectra_attention_desc desc = b->att->desc;
    float *o = malloc((size_t)n * sizeof *o);
    plain.att = NULL, plain.saved = plain.work = NULL;
    plain.r[O].data = o;
    desc.bf16 = false;
    spectra_status status = o ? spectra_attention_new(&desc, &plain.att)
                              : fail(SPECTRA_ENOMEM, "bench: no memory for outputs");
    if (status == SPECTRA_OK)
        status = take_pass(&plain);
    if (status == SPECTRA_OK)
        status = run_forward(&plain);
    double most = 0, scale = 0;
    for (int64_t i = 0; i < n && status == SPECTRA_OK; i++) {
        most = fmax(most, fabs((double)o[i] - (double)b->data[O][i]));
        scale = fmax(scale, fabs((double)o[i]));
    }
    if (status == SPECTRA_OK)
        *out = json_pack("{s:s, s:f}", "precision", "bf16", "error", most / scale);
    free(o);
    free(plain.saved);
    free(plain.work);
    spectra_attention_free(plain.att);
    return status;
}

static spectra_status measure(attention_bench *b, const bench_kind *kind, const bench_case *c,
                              const bench_options *o, bench_result *out)
{
    const bool backward = kind->part == BENCH_BACKWARD || kind->part == BENCH_CAUSAL_BACKWARD ||
                          kind->part == BENCH_SOFTMAX_BACKWARD;
    const bool softmax = kind->part >= BENCH_SOFTMAX;
    const bench_call call = kind->part == BENCH_STEP ? run_step
                            : backward               ? run_backward
                                                     : run_forward;
    bench_result r = {.isa = softmax ? registry_isa() : performer_of(b->att)->kernels->isa};
    TRY(bench_time(c, o, call, b, (double)(c->B * c->H * b->p.T), &r));
    r.count = softmax ? softmax_count(c, backward) : bench_performer_count(b->att, backward);
    r.exact = !softmax && performer_of(b->att)->kernels->D > 0;
    r.chain = !softmax && performer_of(b->att)->plan.chain;
    if (kind->part == BENCH_BF16) /* the rate measured is of multiply-adds */
        TRY(bf16_error(b, c, &r.more));
    else
        bench_floor(o, &r);
    *out = r;
    return SPECTRA_OK;
}

spectra_status bench_attention(const bench_kind *kind, const bench_case *c, const bench_options *o,
                               bench_result *out)
{
    attention_bench b = {.att = NULL};
    omp_set_num_threads(c->threads);
    spectra_status status = prepare(&b, c, kind->part);
    if (status == SPECTRA_OK)
        status = measure(&b, kind, c, o, out);
    release(&b);
    return status;
}
