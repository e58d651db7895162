/* Row operators alone, on a block of rows as the model has them, on one thread each. */
#include "study/bench.h"

#include "base/status.h"
#include "kernel/registry.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 120, WIDTH = 64, ARRAYS = 3 * ROW_MAX };

/* Inputs of each: r a row, p one without negative numbers, s one row for all, 1 a number a row.
 * Outputs: rows, or a number a row. */
static const struct {
    const char *name, *in, *out;
    float c[ROW_MAX];
} operators[] = {
    {"layernorm", "rss", "r", {1e-5F}},
    {"gelu", "rsr", "r", {0}},
    {"dropout_residual", "rrsr", "r", {0}},
    {"relu", "rs", "r", {0}},
    {"cross_entropy", "r1", "1", {0}},
    {"adamw", "rrrp", "rrr", {1e-4F, 0.9F, 0.999F, 1e-6F, 0, 0.1F, 0.03F, 1}},
};

typedef struct row_bench {
    const row_op *op;
    bool backward;
    int threads;
    row_args *args; /* (threads) */
    void *memory;
} row_bench;

static spectra_status run_rows(void *context)
{
    row_bench *b = context;
#pragma omp parallel num_threads(b->threads)
    {
        const row_args *a = &b->args[omp_get_thread_num()];
        if (b->backward)
            b->op->bwd(a);
        else
            b->op->fwd(a);
    }
    return SPECTRA_OK;
}

/* Every input and output has an array of its own, also of gradients. */
static void bind(row_args *a, int which, bool backward, float *arrays)
{
    const int64_t each = ROWS * WIDTH;
    const char *in = operators[which].in, *out = operators[which].out;
    int used = 0;
    *a = (row_args){.rows = ROWS, .n = WIDTH};
    memcpy(a->c, operators[which].c, sizeof a->c);
    for (int i = 0; in[i]; i++) {
        float *x = arrays + used++ * each;
        bench_fill(x, each, (uint32_t)i);
        for (int64_t j = 0; j < each && in[i] == '1'; j++)
            x[j] = 0; /* a label */
        for (int64_t j = 0; j < each && in[i] == 'p'; j++)
            x[j] *= x[j];
        a->in[i] = x;
        a->ld_in[i] = in[i] == 's' ? 0 : in[i] == '1' ? 1 : WIDTH;
        if (backward && in[i] != '1') {
            a->gin[i] = arrays + used++ * each;
            a->ld_gin[i] = a->ld_in[i];
        }
    }
    for (int i = 0; out[i]; i++) {
        a->out[i] = arrays + used++ * each;
        a->ld_out[i] = out[i] == 'r' ? WIDTH : 1;
        if (backward) {
            float *g = arrays + used++ * each;
            bench_fill(g, each, 7);
            a->gout[i] = g;
            a->ld_gout[i] = a->ld_out[i];
        }
    }
}

/* An element; of what a row or a block has one of, its part. A gradient is as large, of a label
 * there is none. */
static double count_bytes(const char *letters, bool inputs, bool backward)
{
    double sum = 0;
    for (; *letters; letters++) {
        const double shared = *letters == '1' ? WIDTH : *letters == 's' ? (double)ROWS : 1;
        sum += 4 / shared * (backward && !(inputs && *letters == '1') ? 2 : 1);
    }
    return sum;
}

static spectra_status measure(row_bench *b, const bench_kind *kind, const bench_case *c,
                              const bench_options *o, bench_result *out)
{
    const int which = kind->part / 2;
    const int64_t each = (int64_t)ARRAYS * ROWS * WIDTH;
    TRY(registry_row(operators[which].name, &b->op));
    TRY(bench_memory(each * c->threads * (int64_t)sizeof(float), &b->memory));
    for (int t = 0; t < c->threads; t++)
        bind(&b->args[t], which, b->backward, (float *)b->memory + t * each);
    bench_result r = {.isa = b->op->isa, .unit = "element"};
    TRY(bench_time(c, o, run_rows, b, (double)ROWS * WIDTH * c->threads, &r));
    r.count.bytes = count_bytes(operators[which].in, true, b->backward) +
                    count_bytes(operators[which].out, false, b->backward);
    *out = r;
    return SPECTRA_OK;
}

spectra_status bench_row(const bench_kind *kind, const bench_case *c, const bench_options *o,
                         bench_result *out)
{
    row_bench b = {.backward = kind->part % 2, .threads = c->threads};
    b.args = calloc((size_t)c->threads, sizeof *b.args);
    spectra_status status =
        b.args ? measure(&b, kind, c, o, out) : fail(SPECTRA_ENOMEM, "bench: out of memory");
    free(b.args);
    free(b.memory);
    return status;
}
