#include "study/bench.h"
#include "base/outfile.h"
#include "base/status.h"
#include "cli/cli.h"
#include "kernel/find.h"
#include "kernel/registry.h"
#include "math/blas.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LIST = 16, NAMES = 64 };

typedef struct int_list {
    int count;
    int64_t at[LIST];
} int_list;

/* What the options ask for, and what has come out. */
typedef struct bench_run {
    const cli_args *args;
    const feature_info *feature[NAMES];
    const matrix_info *matrix[NAMES];
    const bench_kind *kind[NAMES];
    int features, matrices, kinds;
    int_list B, H, T, D, DV, M, threads;
    double read_rate[LIST], copy_rate[LIST]; /* of the thread counts */
    machine_load rates_load;                 /* while rates were measured */
    outfile json;                            /* file NULL: not wanted */
    bool silent;                             /* JSON Lines have standard output for themselves */
    int cases, busy, left_out;
    machine_load most; /* in the busiest cases */
} bench_run;

/* ---- options ----------------------------------------------------------------------------------
 */

static spectra_status too_many(const char *option)
{
    return fail(SPECTRA_EINVAL, "--%s: more than %d names", option, (int)NAMES);
}

static spectra_status choose_features(bench_run *x)
{
    char item[SETTING_TEXT];
    const char *at = x->args->value[OPT_BENCH_FEATS].text;
    const bool all = strcmp(at, "all") == 0;
    for (const feature_info *f = generated_features; all && f->name && x->features < NAMES; f++)
        if (!f->is_antithetic)
            x->feature[x->features++] = f;
    while (!all && cli_next_item(&at, item)) {
        if (x->features == NAMES)
            return too_many("features");
        TRY(kernel_feature(item, &x->feature[x->features++]));
    }
    return SPECTRA_OK;
}

static spectra_status choose_matrices(bench_run *x)
{
    char item[SETTING_TEXT];
    const char *at = x->args->value[OPT_BENCH_KERNELS].text;
    const bool all = strcmp(at, "all") == 0;
    for (const matrix_info *m = generated_matrices; all && m->name && x->matrices < NAMES; m++)
        x->matrix[x->matrices++] = m;
    while (!all && cli_next_item(&at, item)) {
        if (x->matrices == NAMES)
            return too_many("kernels");
        TRY(registry_matrix(item, &x->matrix[x->matrices++]));
    }
    return SPECTRA_OK;
}

/* A kind's name or a group's. */
static spectra_status choose_kinds(bench_run *x)
{
    char item[SETTING_TEXT];
    const char *at = x->args->value[OPT_KINDS].text;
    while (cli_next_item(&at, item)) {
        const int before = x->kinds;
        for (const bench_kind *k = bench_kinds; k->name; k++) {
            const bool wanted =
                strcmp(k->name, item) == 0 || (k->group && strcmp(k->group, item) == 0);
            if (wanted && x->kinds == NAMES)
                return too_many("kinds");
            if (wanted)
                x->kind[x->kinds++] = k;
        }
        if (x->kinds == before)
            return bench_unknown(item);
    }
    return SPECTRA_OK;
}

/* A count that OpenMP does not give would be measured as one that it gives. */
static spectra_status check_threads(int64_t wanted)
{
    int got = 0;
#pragma omp parallel num_threads((int)wanted)
#pragma omp single
    got = omp_get_num_threads();
    if (got == wanted)
        return SPECTRA_OK;
    return fail(SPECTRA_EINVAL,
                "--threads has '%lld', allowed are 1 to %d here, which OpenMP is limited to "
                "(OMP_THREAD_LIMIT)",
                (long long)wanted, got);
}

static spectra_status choose_sizes(bench_run *x)
{
    const cli_args *a = x->args;
    const struct {
        option_id id;
        int64_t high;
        int_list *to;
    } rows[] = {{OPT_BENCH_BATCH, 4096, &x->B},        {OPT_BENCH_HEADS, 256, &x->H},
                {OPT_BENCH_TOKENS, 1 << 24, &x->T},    {OPT_BENCH_D, 256, &x->D},
                {OPT_BENCH_DV, 256, &x->DV},           {OPT_BENCH_M, 1024, &x->M},
                {OPT_BENCH_THREADS, 4096, &x->threads}};
    x->DV.count = x->threads.count = 1;
    x->threads.at[0] = omp_get_max_threads();
    if (x->threads.at[0] > omp_get_thread_limit())
        x->threads.at[0] = omp_get_thread_limit();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (a->value[rows[i].id].given || *a->value[rows[i].id].text)
            TRY(cli_integers(a, rows[i].id, 1, rows[i].high, LIST, rows[i].to->at,
                             &rows[i].to->count));
    omp_set_dynamic(0);
    for (int t = 0; t < x->threads.count; t++)
        TRY(check_threads(x->threads.at[t]));
    return SPECTRA_OK;
}

static spectra_status limit_isa(const cli_args *a)
{
    const isa best = registry_isa();
    const char *wanted = a->value[OPT_ISA].text;
    for (int i = 0; a->value[OPT_ISA].given && i < ISA_COUNT; i++)
        if (strcmp(wanted, registry_isa_name((isa)i)) == 0)
            registry_isa_limit((isa)i);
    if (a->value[OPT_ISA].given && strcmp(wanted, registry_isa_name(registry_isa())) != 0)
        return fail(SPECTRA_EUNSUPPORTED, "--target %s: this CPU has no more than %s", wanted,
                    registry_isa_name(best));
    return SPECTRA_OK;
}

/* ---- the machine ------------------------------------------------------------------------------
 */

static spectra_status flushed(FILE *file, const char *name)
{
    if (fflush(file) == 0 && !ferror(file))
        return SPECTRA_OK;
    return fail(SPECTRA_EIO, "%s: cannot write: %s", name, strerror(errno));
}

static spectra_status print_line(bench_run *x, json_t *line)
{
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    json_decref(line);
    if (!text)
        return fail(SPECTRA_ENOMEM, "result: out of memory");
    fprintf(x->json.file, "%s\n", text);
    free(text);
    return flushed(x->json.file, x->silent ? "standard output" : x->json.path);
}

/* {"avx2": {"1": 108.2, ...}} in GFLOP/s */
static json_t *fma_json(const bench_run *x, isa best)
{
    json_t *all = json_object();
    for (int i = 0; i <= (int)best; i++) {
        json_t *row = json_object();
        for (int t = 0; t < x->threads.count; t++) {
            char name[24];
            snprintf(name, sizeof name, "%lld", (long long)x->threads.at[t]);
            json_object_set_new(
                row, name, json_real(1e-9 * machine_fma_rate((isa)i, (int)x->threads.at[t], 0.1)));
        }
        json_object_set_new(all, registry_isa_name((isa)i), row);
    }
    return all;
}

static json_t *rates_json(const bench_run *x, const double *rate)
{
    json_t *row = json_object();
    for (int t = 0; t < x->threads.count; t++) {
        char name[24];
        snprintf(name, sizeof name, "%lld", (long long)x->threads.at[t]);
        json_object_set_new(row, name, json_real(1e-9 * rate[t]));
    }
    return row;
}

/* Watches the machine for a moment in which this process does nothing. */
static machine_load load_before(void)
{
    machine_watch w;
    machine_watch_start(&w);
    const struct timespec moment = {.tv_nsec = 500000000};
    nanosleep(&moment, NULL);
    return machine_watch_load(&w);
}

/* Of all threads that are asked for. */
static void sample_cores(const bench_run *x, machine_watch *w)
{
    enum { SAMPLES = 20 };
    for (int i = 0; i < SAMPLES; i++)
        for (int t = 0; t < x->threads.count; t++)
            machine_watch_sample(w, (int)x->threads.at[t]);
}

static void show_load(const machine_load *before, const machine_load *rates)
{
    if (before->others < 0 || rates->others < 0)
        puts("what others use of the machine cannot be told here, so everything counts as "
             "busy\n");
    else
        printf("others used %.0f %% of the machine before%s, %.0f %% and %.0f %% of the cores "
               "meanwhile%s\n\n",
               100 * before->others, machine_busy(before) ? ": busy" : "", 100 * rates->others,
               100 * rates->cores, machine_busy(rates) ? ": busy" : "");
}

static spectra_status show_machine(bench_run *x)
{
    machine_info m;
    const machine_load before = load_before();
    machine_watch watch;
    machine_describe(&m);
    machine_watch_start(&watch);
    for (int t = 0; t < x->threads.count; t++)
        TRY(machine_memory_rate((int)x->threads.at[t], &x->read_rate[t], &x->copy_rate[t]));
    json_t *fma = fma_json(x, m.best);
    sample_cores(x, &watch);
    x->rates_load = machine_watch_load(&watch);
    const bool blas = blas_open() == SPECTRA_OK;
    if (!x->silent) {
        char *rates = json_dumps(fma, JSON_COMPACT | JSON_REAL_PRECISION(4));
        printf("%s, %d processors, %s%s; %s\nmultiply-adds, GFLOP/s by threads %s; memory %.1f "
               "GB/s read, %.1f copied\n",
               m.cpu, m.processors, registry_isa_name(m.best), m.bf16 ? ", bf16" : "",
               blas ? blas_config() : "no BLAS", rates ? rates : "", 1e-9 * x->read_rate[0],
               1e-9 * x->copy_rate[0]);
        show_load(&before, &x->rates_load);
        free(rates);
    }
    json_t *line = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:[I, I, I], s:s, s:b, s:s, s:I, s:o, s:o, s:o, s:f, "
        "s:f, s:f, s:b}",
        "record", "machine", "version", spectra_version(), "cpu", m.cpu, "kernel", m.kernel,
        "compiler", m.compiler, "processors", m.processors, "memory_bytes",
        (json_int_t)m.memory_bytes, "cache_bytes", (json_int_t)m.cache_bytes[0],
        (json_int_t)m.cache_bytes[1], (json_int_t)m.cache_bytes[2], "isa",
        registry_isa_name(m.best), "bf16", m.bf16, "blas", blas ? blas_config() : "", "time",
        (json_int_t)time(NULL), "fma_gflops", fma, "read_gbs", rates_json(x, x->read_rate),
        "copy_gbs", rates_json(x, x->copy_rate), "others", before.others, "rates_others",
        x->rates_load.others, "rates_cores", x->rates_load.cores, "busy",
        machine_busy(&before) || machine_busy(&x->rates_load));
    if (x->json.file)
        return print_line(x, line);
    json_decref(line);
    return SPECTRA_OK;
}

/* ---- a case -----------------------------------------------------------------------------------
 */

/* Percentages of busy cases are quoted only on demand. */
static bool quotes(const bench_run *x, const bench_result *r)
{
    return r->floor_ns > 0 && (!machine_busy(&r->load) || x->args->value[OPT_ALLOW_BUSY].given);
}

enum { COLUMNS = 7 };

/* What a case has of numbers, in the order of a row. */
typedef struct column {
    const char *name;
    unsigned counts;
    int width;
    int64_t number;
} column;

static void list_columns(const bench_case *c, column out[COLUMNS])
{
    const column all[COLUMNS] = {{"B", COUNTS_B, 4, c->B},
                                 {"H", COUNTS_H, 3, c->H},
                                 {"N", COUNTS_T, 6, c->T},
                                 {"D", COUNTS_D, 3, c->D},
                                 {"DV", COUNTS_DV, 3, c->DV},
                                 {"M", COUNTS_M, 4, c->M},
                                 {"threads", COUNTS_THREADS, 3, c->threads}};
    memcpy(out, all, sizeof all);
}

static json_t *case_json(const bench_run *x, const bench_kind *kind, const bench_case *c,
                         const bench_result *r)
{
    const double per_ns = r->count.flops / r->ns;
    column columns[COLUMNS];
    json_t *line =
        json_pack("{s:s, s:s, s:s, s:s}", "record", "case", "kind", c->kind, "feat",
                  kind->pairs > 0 ? c->feat : "", "kernel", kind->pairs > 1 ? c->kernel : "");
    list_columns(c, columns);
    for (int i = 0; i < COLUMNS; i++)
        json_object_set_new(line, columns[i].name,
                            kind->counts & columns[i].counts ? json_integer(columns[i].number)
                                                             : json_null());
    json_object_set_new(line, "isa", json_string(registry_isa_name(r->isa)));
    json_object_set_new(line, "precision", json_string("float32"));
    if (kind->measure != bench_training) { /* of a model's kernels it is not known */
        json_object_set_new(line, "exact", json_boolean(r->exact));
        json_object_set_new(line, "chain", json_boolean(r->chain));
    }
    json_t *numbers =
        json_pack("{s:I, s:I, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:s, s:o, "
                  "s:f, s:f, s:b}",
                  "repeats", (json_int_t)r->repeats, "inner", (json_int_t)r->inner, "unit", r->unit,
                  "units", r->units, "ns", r->ns, "ns_p10", r->ns_low, "ns_p90", r->ns_high,
                  "flops", r->count.flops, "exponentials", r->count.exponentials, "bytes",
                  r->count.bytes, "gflops", per_ns, "fma_gflops", 1e-9 * r->fma_rate, "floor_ns",
                  r->floor_ns, "floor", r->memory_bound ? "memory" : "multiply-adds", "share",
                  quotes(x, r) ? json_real(r->floor_ns / r->ns) : json_null(), "others",
                  r->load.others, "cores", r->load.cores, "busy", machine_busy(&r->load));
    json_object_update(line, numbers);
    json_decref(numbers);
    if (line && r->more)
        json_object_update(line, r->more);
    return line;
}

static void print_head(const bench_run *x)
{
    if (!x->silent)
        printf("%-24s %-14s %-14s %4s %3s %6s %3s %3s %4s %3s %10s %10s %10s %8s %9s %6s\n", "kind",
               "feature", "matrix", "B", "H", "N", "D", "DV", "M", "thr", "ns", "10 %", "90 %",
               "GFLOP/s", "floor ns", "%");
}

static spectra_status print_case(const bench_run *x, const bench_kind *kind, const bench_case *c,
                                 const bench_result *r)
{
    char share[16] = "", floor[24] = "-";
    column columns[COLUMNS];
    if (r->floor_ns > 0)
        snprintf(floor, sizeof floor, "%.2f", r->floor_ns);
    if (quotes(x, r))
        snprintf(share, sizeof share, "%.1f", 100 * r->floor_ns / r->ns);
    printf("%-24s %-14s %-14s", c->kind, kind->pairs > 0 ? c->feat : "-",
           kind->pairs > 1 ? c->kernel : "-");
    list_columns(c, columns);
    for (int i = 0; i < COLUMNS; i++)
        if (kind->counts & columns[i].counts)
            printf(" %*lld", columns[i].width, (long long)columns[i].number);
        else
            printf(" %*s", columns[i].width, "-");
    printf(" %10.2f %10.2f %10.2f %8.1f %9s %6s", r->ns, r->ns_low, r->ns_high,
           r->count.flops / r->ns, floor, share);
    if (strcmp(r->unit, "token-head") != 0)
        printf("  per %s", r->unit);
    if (machine_busy(&r->load)) {
        char what[64];
        machine_busy_text(&r->load, what, sizeof what);
        printf("  busy (%s)", what);
    }
    putchar('\n');
    return flushed(stdout, "standard output");
}

static spectra_status run_case(bench_run *x, const bench_kind *kind, const bench_case *c, int t)
{
    const bench_options o = {.repeat = x->args->value[OPT_REPEAT].integer,
                             .seconds = x->args->value[OPT_SECONDS].real,
                             .memory_rate = fmax(x->read_rate[t], x->copy_rate[t])};
    bench_result r = {.isa = registry_isa()};
    TRY(kind->measure(kind, c, &o, &r));
    x->cases++;
    if (r.memory_bound) /* its floor is as good as the rate */
        r.load = machine_load_larger(r.load, x->rates_load);
    if (machine_busy(&r.load)) {
        x->busy++;
        x->most = machine_load_larger(x->most, r.load);
    }
    spectra_status status = x->silent ? SPECTRA_OK : print_case(x, kind, c, &r);
    if (status == SPECTRA_OK && x->json.file)
        status = print_line(x, case_json(x, kind, c, &r));
    json_decref(r.more);
    return status;
}

/* A kind is measured once over what it does not depend on: the pair, its matrix, sizes (first:
 * those that are their list's first), threads. */
static spectra_status run_pair(bench_run *x, bench_case *c, unsigned first, int f, int m)
{
    const char *why = NULL;
    for (int k = 0; k < x->kinds; k++) {
        const bench_kind *kind = x->kind[k];
        if ((kind->pairs < 2 && m > 0) || (kind->pairs < 1 && f > 0) ||
            (COUNTS_SIZES & ~(kind->counts | first)))
            continue;
        if (!bench_applies(kind, x->feature[f], x->matrix[m], &why)) {
            fprintf(stderr, "%s of %s x %s is left out: %s\n", kind->name, x->feature[f]->name,
                    x->matrix[m]->name, why);
            x->left_out++;
            continue;
        }
        c->kind = kind->name;
        for (int t = 0; t < (kind->counts & COUNTS_THREADS ? x->threads.count : 1); t++) {
            c->threads = (int)x->threads.at[t];
            TRY(run_case(x, kind, c, t));
        }
    }
    return SPECTRA_OK;
}

static spectra_status run_shape(bench_run *x, bench_case *c, unsigned first)
{
    for (int f = 0; f < x->features; f++)
        for (int m = 0; m < x->matrices; m++) {
            c->feat = x->feature[f]->name;
            c->kernel = x->matrix[m]->name;
            TRY(run_pair(x, c, first, f, m));
        }
    return SPECTRA_OK;
}

static spectra_status run_shapes(bench_run *x)
{
    const int_list *lists[] = {&x->B, &x->H, &x->T, &x->D, &x->DV, &x->M};
    int64_t all = 1;
    for (int i = 0; i < 6; i++)
        all *= lists[i]->count;
    for (int64_t n = 0; n < all; n++) {
        int64_t size[6], rest = n;
        unsigned first = 0;
        for (int i = 5; i >= 0; i--) {
            size[i] = lists[i]->at[rest % lists[i]->count];
            first |= rest % lists[i]->count == 0 ? 1U << i : 0;
            rest /= lists[i]->count;
        }
        bench_case c = {.B = size[0],
                        .H = size[1],
                        .T = size[2],
                        .D = size[3],
                        .DV = size[4] ? size[4] : size[3],
                        .M = size[5],
                        .task = x->args->value[OPT_BENCH_TASK].text};
        TRY(run_shape(x, &c, first));
    }
    return SPECTRA_OK;
}

/* ---- all of it --------------------------------------------------------------------------------
 */

static spectra_status busy_run(const bench_run *x)
{
    char most[96] = "how much of it is not known here";
    if (x->most.others >= 0)
        snprintf(most, sizeof most,
                 "up to %.0f %% of its processors' time and %.0f %% of its cores' instructions",
                 100 * x->most.others, 100 * x->most.cores);
    return fail(SPECTRA_EBUSY,
                "%d of %d cases were measured while others used the machine (%s, allowed are "
                "%.0f %% and %.0f %%): no percentages of those; --allow-busy quotes them, marked",
                x->busy, x->cases, most, 100 * machine_busy_share, 100 * machine_busy_cores);
}

static spectra_status bench_all(bench_run *x)
{
    const cli_value *file = &x->args->value[OPT_JSON_FILE];
    if (file->given && !*file->text)
        return fail(SPECTRA_EINVAL, "--json has '', allowed are a file's name and -");
    TRY(limit_isa(x->args));
    TRY(choose_features(x));
    TRY(choose_matrices(x));
    TRY(choose_kinds(x));
    TRY(choose_sizes(x));
    x->silent = strcmp(file->text, "-") == 0;
    if (x->silent)
        x->json.file = stdout;
    else if (file->given)
        TRY(outfile_open(file->text, &x->json));
    TRY(show_machine(x));
    print_head(x);
    TRY(run_shapes(x));
    if (x->cases == 0)
        return fail(SPECTRA_EUNSUPPORTED, "nothing to measure: all %d cases were left out",
                    x->left_out);
    if (file->given && !x->silent)
        TRY(outfile_commit(&x->json));
    return x->busy > 0 && !x->args->value[OPT_ALLOW_BUSY].given ? busy_run(x) : SPECTRA_OK;
}

spectra_status cli_bench(const cli_args *a)
{
    bench_run x = {.args = a};
    spectra_status status = bench_all(&x);
    if (x.json.file && !x.silent)
        outfile_abort(&x.json);
    return status;
}

void cli_bench_kinds(void)
{
    puts("\nkinds");
    for (const bench_kind *k = bench_kinds; k->name; k++)
        printf("  %-22s %s%s%s%s\n", k->name, k->doc, k->group ? " (" : "",
               k->group ? k->group : "", k->group ? ")" : "");
}
