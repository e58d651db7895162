/* A whole training step of a task's classifier on random tokens, and what it holds of memory; the
 * making of a kernel. */
#include "study/bench.h"

#include "base/status.h"
#include "kernel/find.h"
#include "kernel/jit.h"
#include "model/runner.h"
#include "train/trainer.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM = 2 }; /* calls before those that count */

typedef struct training_bench {
    train_config config;
    model *model;
    runner *runner;
    model_batch batch;
    int32_t *ids[2], *label;
    float *moment[2];
    model_timing timing;
    bool peak_known;
    double attention[BENCH_REPEATS], whole[BENCH_REPEATS]; /* seconds of a step */
    int64_t steps;
} training_bench;

/* As session_step does it, without reading data; the rate does not matter. */
static spectra_status run_step(void *context)
{
    training_bench *b = context;
    const adamw o = {.beta2 = 0.999,
                     .eps = 1e-6,
                     .weight_decay = b->config.task.weight_decay,
                     .clip = 1,
                     .n = model_param_count(b->model),
                     .m = b->moment[0],
                     .v = b->moment[1]};
    const double from = omp_get_wtime();
    int64_t count = 0;
    runner_entry e;
    b->timing = (model_timing){0};
    TRY(runner_zero_grads(b->runner));
    TRY(runner_step(b->runner, &b->batch, (uint64_t)b->steps, 0, 1));
    TRY(runner_update(b->runner, &o, b->steps + 1, 1e-4, 0.9));
    TRY(runner_read(b->runner, &count));
    TRY(runner_entry_at(b->runner, 0, &e));
    if (!(e.norm >= 0))
        return fail(SPECTRA_EDIVERGED, "step %lld diverged", (long long)b->steps);
    const int64_t at = (b->steps++ + BENCH_REPEATS - WARM) % BENCH_REPEATS;
    b->whole[at] = omp_get_wtime() - from;
    b->attention[at] = b->timing.attention_forward + b->timing.attention_backward;
    return SPECTRA_OK;
}

static spectra_status configure(training_bench *b, const bench_case *c)
{
    train_config *t = &b->config;
    TRY(task_load(c->task, &t->task));
    t->task.batch = c->B;
    t->seed = 42;
    snprintf(t->attn, sizeof t->attn, "performer");
    snprintf(t->options, sizeof t->options, "feat=%s,kernel=%s,m=%lld,target=softmax", c->feat,
             c->kernel, (long long)c->M);
    kernel_prefer(c->feat, c->kernel, t->task.head_dim, t->task.head_dim, c->M, ATTN_ATTENTION);
    return SPECTRA_OK;
}

/* Full-length sequences: nothing that packing could leave out. */
static spectra_status make_batch(training_bench *b)
{
    const task *t = &b->config.task;
    const int64_t n = t->batch * t->length, last = t->vocab - 2; /* the last one may be CLS */
    b->batch.B = t->batch;
    void *p = NULL;
    for (int64_t side = 0; side < t->sequences; side++) {
        TRY(bench_memory(n * (int64_t)sizeof **b->ids, &p));
        b->ids[side] = p;
        uint32_t s = (uint32_t)side + 1;
        for (int64_t i = 0; i < n; i++) {
            s = s * 1664525 + 1013904223;
            b->ids[side][i] = 1 + (int32_t)((s >> 8) % (uint32_t)last);
        }
        b->batch.ids[side] = b->ids[side];
    }
    TRY(bench_memory(t->batch * (int64_t)sizeof *b->label, &p));
    b->label = p;
    for (int64_t i = 0; i < t->batch; i++)
        b->label[i] = (int32_t)(i % t->classes);
    b->batch.label = b->label;
    return SPECTRA_OK;
}

static spectra_status prepare(training_bench *b, const bench_case *c)
{
    TRY(configure(b, c));
    b->peak_known = machine_peak_reset();
    const model_config settings = trainer_model(&b->config);
    TRY(model_new(&settings, &b->model));
    const runner_options options = {.batch = b->config.task.batch, .parts = 1};
    TRY(runner_new(b->model, "cpu", &options, &b->runner));
    for (int i = 0; i < 2; i++) {
        void *p = NULL;
        TRY(bench_memory(model_param_count(b->model) * (int64_t)sizeof(float), &p));
        b->moment[i] = p;
    }
    model_set_timing(b->model, &b->timing);
    return make_batch(b);
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Bytes by buffer; "rest of the process" is code, libraries, stacks, the batch. Spare memory is
 * kept for longer batches and not touched. */
static json_t *memory_json(const training_bench *b, int64_t peak)
{
    model_part part[MODEL_PARTS];
    const int parts = model_parts(b->model, part);
    const int64_t moments = 2 * model_param_count(b->model) * (int64_t)sizeof(float);
    json_t *all = json_object();
    int64_t touched = moments;
    for (int i = 0; i < parts; i++) {
        json_object_set_new(all, part[i].name, json_integer(part[i].bytes));
        touched += strcmp(part[i].name, "spare") == 0 ? 0 : part[i].bytes;
    }
    json_object_set_new(all, "optimiser's moments", json_integer(moments));
    if (b->peak_known)
        json_object_set_new(all, "rest of the process", json_integer(peak - touched));
    return all;
}

static json_t *more_json(training_bench *b)
{
    const int64_t n = b->steps - WARM < BENCH_REPEATS ? b->steps - WARM : BENCH_REPEATS;
    const int64_t peak = machine_peak_bytes();
    qsort(b->whole, (size_t)n, sizeof *b->whole, ascending);
    qsort(b->attention, (size_t)n, sizeof *b->attention, ascending);
    const double whole = b->whole[n / 2], attention = b->attention[n / 2];
    const task *t = &b->config.task;
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:o, s:o}", "task", t->name, "H",
        (json_int_t)t->heads, "N", (json_int_t)t->length, "D", (json_int_t)t->head_dim, "DV",
        (json_int_t)t->head_dim, "layers", (json_int_t)t->layers, "parameters",
        (json_int_t)model_param_count(b->model), "step_ms", 1e3 * whole, "attention_ms",
        1e3 * attention, "outside_over_attention", whole / attention - 1, "peak_bytes",
        b->peak_known ? json_integer(peak) : json_null(), "buffers", memory_json(b, peak));
}

/* What a sequence needs at least: attention, and the linear maps of the layers three times
 * (forward, gradients of the input and of the weights); what works on elements is not counted. */
static bench_count count(const training_bench *b)
{
    const task *t = &b->config.task;
    const spectra_attention *att = model_attention(b->model, 0);
    const bench_count f = bench_performer_count(att, false), g = bench_performer_count(att, true);
    const double E = (double)t->embed, F = (double)t->hidden, H = (double)t->heads;
    const double linear = 6 * (4 * E * H * (double)t->head_dim + 2 * E * F);
    const double tokens = (double)(t->layers * t->length);
    return (bench_count){.flops = tokens * (H * (f.flops + g.flops) + linear),
                         .exponentials = tokens * H * (f.exponentials + g.exponentials)};
}

static spectra_status measure(training_bench *b, const bench_case *c, const bench_options *o,
                              bench_result *out)
{
    TRY(prepare(b, c));
    bench_result r = {.isa = out->isa, .unit = "sequence"};
    const task *t = &b->config.task;
    r.count = count(b);
    TRY(bench_time(c, o, run_step, b, (double)(t->batch * t->sequences), &r));
    bench_floor(&(bench_options){.memory_rate = 0}, &r);
    r.more = more_json(b);
    *out = r;
    return r.more ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "bench: out of memory");
}

spectra_status bench_training(const bench_kind *kind, const bench_case *c, const bench_options *o,
                              bench_result *out)
{
    (void)kind;
    void *memory = NULL;
    TRY(bench_memory(sizeof(training_bench), &memory));
    training_bench *b = memory;
    omp_set_num_threads(c->threads);
    spectra_status status = measure(b, c, o, out);
    runner_free(b->runner);
    model_free(b->model);
    for (int i = 0; i < 2; i++) {
        free(b->ids[i]);
        free(b->moment[i]);
    }
    free(b->label);
    free(b);
    return status;
}

/* ---- making a kernel --------------------------------------------------------------------------
 */

spectra_status bench_compile(const bench_kind *kind, const bench_case *c, const bench_options *o,
                             bench_result *out)
{
    (void)kind, (void)o;
    machine_watch watch;
    bool compiled = false;
    machine_watch_start(&watch);
    const double from = omp_get_wtime();
    TRY(jit_warm(c->feat, c->D, c->DV, c->M, ATTN_ATTENTION, &compiled));
    const double seconds = omp_get_wtime() - from;
    if (!compiled)
        return fail(SPECTRA_EINVAL,
                    "compile: the kernel of %s was there already; SPECTRA_CACHE_DIR must name an "
                    "empty folder, and the sizes must be new in this run",
                    c->feat);
    *out = (bench_result){.unit = "kernel",
                          .repeats = 1,
                          .inner = 1,
                          .units = 1,
                          .ns = 1e9 * seconds,
                          .ns_low = 1e9 * seconds,
                          .ns_high = 1e9 * seconds,
                          .isa = out->isa,
                          .exact = true,
                          .load = machine_watch_load(&watch)};
    return SPECTRA_OK;
}
