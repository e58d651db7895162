#include "study/approx.h"
#include "base/outfile.h"
#include "base/status.h"
#include "cli/cli.h"
#include "file/npy.h"
#include "kernel/find.h"
#include "kernel/registry.h"
#include "math/draw.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- lists ------------------------------------------------------------------------------------
 */

static bool is_matrix(const char *name)
{
    for (const matrix_info *m = generated_matrices; m->name; m++)
        if (strcmp(m->name, name) == 0)
            return true;
    return false;
}

static bool is_feature(const char *name)
{
    for (const feature_info *f = generated_features; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return true;
    return false;
}

static spectra_status add_feature(approx_lab *lab, const char *name)
{
    const feature_info *f = NULL;
    TRY(kernel_feature(name, &f));
    for (int i = 0; i < lab->features; i++)
        if (lab->feature[i] == f)
            return SPECTRA_OK;
    if (lab->features == APPROX_FEATURES)
        return fail(SPECTRA_EINVAL, "more than %d component functions", (int)APPROX_FEATURES);
    lab->feature[lab->features++] = f;
    return SPECTRA_OK;
}

static spectra_status add_matrix(approx_lab *lab, const char *name)
{
    const matrix_info *m = NULL;
    TRY(registry_matrix(name, &m));
    for (int i = 0; i < lab->matrices; i++)
        if (lab->matrix[i] == m)
            return SPECTRA_OK;
    if (lab->matrices == APPROX_MATRICES)
        return fail(SPECTRA_EINVAL, "more than %d weight matrices", (int)APPROX_MATRICES);
    lab->matrix[lab->matrices++] = m;
    return SPECTRA_OK;
}

/* Names of either kind may be in either list, as the reference system has them the other way
 * round; one that nobody knows is looked for among those the option is for. */
static spectra_status named(const cli_args *a, option_id id, approx_lab *lab)
{
    char item[SETTING_TEXT];
    const char *at = a->value[id].given ? a->value[id].text : NULL;
    while (cli_next_item(&at, item)) {
        bool matrix = id == OPT_KERNELS ? !is_feature(item) : is_matrix(item);
        TRY(matrix ? add_matrix(lab, item) : add_feature(lab, item));
    }
    return SPECTRA_OK;
}

/* After each component function its antithetic form, where it has one. */
static spectra_status add_antithetic(approx_lab *lab)
{
    const feature_info *plain[APPROX_FEATURES];
    int count = lab->features;
    memcpy(plain, lab->feature, sizeof plain);
    lab->features = 0;
    for (int i = 0; i < count; i++) {
        char name[SETTING_TEXT];
        TRY(add_feature(lab, plain[i]->name));
        snprintf(name, sizeof name, "%s+", plain[i]->name);
        if (is_feature(name))
            TRY(add_feature(lab, name));
    }
    if (lab->features == count)
        return fail(SPECTRA_EINVAL,
                    "--antithetic: %s has no antithetic form: it is no exponential of w.x, or even "
                    "in w",
                    plain[0]->name);
    return SPECTRA_OK;
}

static spectra_status choose_pairs(const cli_args *a, approx_lab *lab)
{
    TRY(named(a, OPT_FEATS, lab));
    TRY(named(a, OPT_KERNELS, lab));
    bool all_features = lab->features == 0, all_matrices = lab->matrices == 0;
    for (const feature_info *f = generated_features; all_features && f->name; f++)
        if (!f->is_antithetic)
            TRY(add_feature(lab, f->name));
    for (const matrix_info *m = generated_matrices; all_matrices && m->name; m++)
        TRY(add_matrix(lab, m->name));
    if (a->value[OPT_ANTITHETIC].given)
        TRY(add_antithetic(lab));
    const char *why = NULL;
    for (int i = 0; i < lab->features; i++)
        for (int j = 0; j < lab->matrices; j++)
            if (performer_legal(lab->feature[i], lab->matrix[j], NULL))
                return SPECTRA_OK;
    performer_legal(lab->feature[0], lab->matrix[0], &why);
    return fail(SPECTRA_EUNSUPPORTED, "%s cannot go with %s: %s", lab->feature[0]->name,
                lab->matrix[0]->name, why);
}

/* ---- data -------------------------------------------------------------------------------------
 */

/* Options that only mean something together with a source of data, and those sources. */
enum { RANDOM = 1, ARRAYS = 2, RUN = 4 };

static spectra_status check_source(const cli_args *a, int source)
{
    static const struct {
        option_id id;
        const char *name;
        int with;
    } rows[] = {
        {OPT_Q, "q", ARRAYS},
        {OPT_K, "k", ARRAYS},
        {OPT_V, "v", ARRAYS},
        {OPT_TRAINED, "run", RUN},
        {OPT_LAYER, "layer", RUN},
        {OPT_DATA, "data", RUN},
        {OPT_CHECKPOINT, "checkpoint", RUN},
        {OPT_D, "d", RANDOM},
        {OPT_INPUT_STD, "input-std", RANDOM},
        {OPT_LENGTH, "tokens", RANDOM | RUN},
    };
    static const char *const said[] = {[RANDOM] = "without --q and --k or --run",
                                       [ARRAYS] = "with --q and --k",
                                       [RUN] = "with --run"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (a->value[rows[i].id].given && !(rows[i].with & source))
            return fail(SPECTRA_EINVAL, "--%s has no meaning %s", rows[i].name, said[source]);
    return SPECTRA_OK;
}

/* Takes the array's data; its shape goes to shape (4). */
static spectra_status read_array(const cli_args *a, option_id id, const char *name, float **data,
                                 int64_t *shape)
{
    const char *path = NULL;
    char text[96];
    npy_array array = {.data = NULL};
    TRY(cli_need(a, id, &path));
    TRY(npy_read_f32(path, &array));
    *data = array.data;
    npy_shape_text(array.ndim, array.shape, text, sizeof text);
    if (array.ndim != 4 || npy_count(&array) < 1)
        return fail(SPECTRA_ESHAPE, "--%s %s has shape %s, allowed is (B, H, tokens, size)", name,
                    path, text);
    memcpy(shape, array.shape, 4 * sizeof *shape);
    return SPECTRA_OK;
}

static spectra_status need_same(const char *what, const int64_t *x, const int64_t *y,
                                const int *dims)
{
    char a[96], b[96];
    for (int i = 0; i < 3; i++)
        if (x[dims[i]] != y[dims[i]])
            return fail(SPECTRA_ESHAPE, "%s: their shapes are %s and %s", what,
                        npy_shape_text(4, x, a, sizeof a), npy_shape_text(4, y, b, sizeof b));
    return SPECTRA_OK;
}

static spectra_status read_arrays(const cli_args *a, uint64_t seed, approx_data *x)
{
    int64_t q[4], k[4], v[4];
    TRY(read_array(a, OPT_Q, "q", &x->q, q));
    TRY(read_array(a, OPT_K, "k", &x->k, k));
    TRY(need_same("--q and --k must agree in batch, heads and size", q, k, (const int[]){0, 1, 3}));
    x->B = q[0], x->H = q[1], x->T = q[2], x->S = k[2], x->D = q[3];
    bool given = a->value[OPT_V].given;
    snprintf(x->source, sizeof x->source, "%.75s, %.75s, %s%.75s", a->value[OPT_Q].text,
             a->value[OPT_K].text, given ? "" : "random values", a->value[OPT_V].text);
    if (!given)
        return approx_random_values(seed, x);
    TRY(read_array(a, OPT_V, "v", &x->v, v));
    x->DV = v[3];
    return need_same("--k and --v must agree in batch, heads and tokens", k, v,
                     (const int[]){0, 1, 2});
}

static spectra_status read_data(const cli_args *a, approx_lab *lab)
{
    bool arrays = a->value[OPT_Q].given || a->value[OPT_K].given || a->value[OPT_V].given;
    int source = a->value[OPT_TRAINED].given ? RUN : arrays ? ARRAYS : RANDOM;
    int64_t length = a->value[OPT_LENGTH].integer;
    TRY(check_source(a, source));
    if (source == RUN)
        return approx_from_run(a->value[OPT_TRAINED].text,
                               a->value[OPT_DATA].given ? a->value[OPT_DATA].text : NULL,
                               a->value[OPT_CHECKPOINT].text, a->value[OPT_LAYER].integer,
                               a->value[OPT_LENGTH].given ? length : 0, &lab->data);
    return source == ARRAYS ? read_arrays(a, lab->seed, &lab->data)
                            : approx_random(length, a->value[OPT_D].integer,
                                            a->value[OPT_INPUT_STD].real, lab->seed, &lab->data);
}

/* ---- results ----------------------------------------------------------------------------------
 */

/* jansson has no NaN and no infinity. */
static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *cell_json(const approx_cell *c)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "error",
                     number(c->error[APPROX_MEDIAN]), "error_10", number(c->error[APPROX_LOW]),
                     "error_90", number(c->error[APPROX_HIGH]), "bias", number(c->bias),
                     "bias_error", number(c->bias_error), "bias_z", number(approx_z(c)), "variance",
                     number(c->variance), "variance_iid", number(c->iid), "variance_ratio",
                     number(c->ratio), "variance_ratio_error", number(c->ratio_error), "ns",
                     number(c->ns));
}

static json_t *lab_json(const approx_lab *lab)
{
    const approx_data *d = &lab->data;
    json_t *cells = json_array(), *skipped = json_array();
    for (int s = 0; s < lab->sizes; s++)
        for (int f = 0; f < lab->features; f++)
            for (int m = 0; m < lab->matrices; m++) {
                const approx_cell *c = approx_at(lab, s, f, m);
                json_t *row =
                    json_pack("{s:s, s:s, s:I}", "feature", lab->feature[f]->name, "matrix",
                              lab->matrix[m]->name, "m", (json_int_t)lab->size[s]);
                json_t *rest = c->measured ? cell_json(c) : json_pack("{s:s}", "why", c->why);
                json_object_update(row, rest);
                json_decref(rest);
                json_array_append_new(c->measured ? cells : skipped, row);
            }
    return json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:o, s:o, s:o, s:o, "
        "s:o, s:o, s:o}",
        "data", d->source, "target", lab->target == SPECTRA_GAUSSIAN ? "gaussian" : "softmax",
        "batch", (json_int_t)d->B, "heads", (json_int_t)d->H, "queries", (json_int_t)d->T, "keys",
        (json_int_t)d->S, "d", (json_int_t)d->D, "dv", (json_int_t)d->DV, "seed",
        (json_int_t)lab->seed, "rng", draw_name(lab->rng), "trials", (json_int_t)lab->trials,
        "uniform_error", number(lab->uniform), "softmax_ns", number(lab->softmax_ns),
        "logit_spread", number(lab->logit_spread), "z2", number(lab->z2), "seconds",
        number(lab->seconds), "cells", cells, "skipped", skipped);
}

static spectra_status print_json(const approx_lab *lab)
{
    json_t *object = lab_json(lab);
    char *text = object ? json_dumps(object, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(object);
    if (!text)
        return fail(SPECTRA_ENOMEM, "result: out of memory");
    puts(text);
    free(text);
    return SPECTRA_OK;
}

/* A number in at most five characters, "-" where there is none. */
static const char *short_number(double x, char buf[16])
{
    if (isnan(x))
        return "-";
    double size = fabs(x);
    snprintf(buf, 16,
             size >= 1000 || (size < 0.001 && x != 0) ? "%.0e"
             : size >= 100                            ? "%.0f"
             : size >= 10                             ? "%.1f"
             : size >= 1                              ? "%.2f"
                                                      : "%.3f",
             x);
    return buf;
}

static void print_row(const approx_lab *lab, int s, int f, int m)
{
    const approx_cell *c = approx_at(lab, s, f, m);
    char t[8][16];
    printf("%-14s %-14s %5lld  %7s %7s %7s  %8.2f %6.2f %6.1f  %8s %6s%c %7.0f\n",
           lab->feature[f]->name, lab->matrix[m]->name, (long long)lab->size[s],
           short_number(c->error[APPROX_MEDIAN], t[0]), short_number(c->error[APPROX_LOW], t[1]),
           short_number(c->error[APPROX_HIGH], t[2]), 100 * c->bias, 100 * c->bias_error,
           approx_z(c), short_number(c->variance, t[3]), short_number(c->ratio, t[4]),
           isnan(c->ratio) || approx_resolved(c) ? ' ' : '~', c->ns);
}

static void print_table(const approx_lab *lab)
{
    const approx_data *d = &lab->data;
    bool unresolved = false;
    printf(
        "%s\n%lld queries and %lld keys of size %lld in %lld heads, %s kernel, %lld draws of "
        "each matrix\nlogits spread by %.2f, mean |x+y|^2 %.1f; uniform attention has error %.3f",
        d->source, (long long)d->T, (long long)d->S, (long long)d->D, (long long)(d->B * d->H),
        lab->target == SPECTRA_GAUSSIAN ? "gaussian" : "softmax", (long long)lab->trials,
        lab->logit_spread, lab->z2, lab->uniform);
    if (isfinite(lab->softmax_ns))
        printf(", exact softmax takes %.0f ns", lab->softmax_ns);
    printf("\n\n%-14s %-14s %5s  %7s %7s %7s  %8s %6s %6s  %8s %6s  %7s\n", "feature", "matrix",
           "m", "error", "10 %", "90 %", "bias %", "+-", "z", "variance", "/iid", "ns");
    for (int f = 0; f < lab->features; f++)
        for (int m = 0; m < lab->matrices; m++)
            for (int s = 0; s < lab->sizes; s++)
                if (approx_at(lab, s, f, m)->measured) {
                    print_row(lab, s, f, m);
                    const approx_cell *c = approx_at(lab, s, f, m);
                    unresolved |= !isnan(c->ratio) && !approx_resolved(c);
                }
    puts("\nerror     of attention, |o - exact| / |exact|: median, 10 % and 90 % quantiles\n"
         "bias      of the kernel's estimate, relative, with its standard error; z is their ratio\n"
         "variance  of the same, and as a multiple of what independent rows have: medians\n"
         "ns        a token of a head, forward, one thread");
    if (unresolved)
        puts("~         heavy tails: so few draws say little about the variance");
}

/* ---- progress ---------------------------------------------------------------------------------
 */

enum { PLAIN_SECONDS = 20 };

typedef struct progress_line {
    bool terminal;
    double started, shown;
} progress_line;

static void show_progress(void *context, const approx_progress *p)
{
    progress_line *line = context;
    double now = omp_get_wtime(), since = now - line->shown;
    if (since < (line->terminal ? 0.1 : PLAIN_SECONDS))
        return;
    line->shown = now;
    double left = (now - line->started) / (double)p->done * (double)(p->all - p->done);
    fprintf(stderr, "%s%lld/%lld  %s x %s  left %.0f s%s", line->terminal ? "\r" : "",
            (long long)p->done, (long long)p->all, p->feature, p->matrix, left,
            line->terminal ? "\033[K" : "\n");
}

/* ---- all of it --------------------------------------------------------------------------------
 */

/* Refuses before hours of work what could not be written after them. */
static spectra_status try_out(const cli_args *a)
{
    outfile probe;
    if (!a->value[OPT_OUT].given)
        return SPECTRA_OK;
    TRY(outfile_open(a->value[OPT_OUT].text, &probe));
    outfile_abort(&probe);
    return SPECTRA_OK;
}

static spectra_status write_page(const cli_args *a, const approx_lab *lab)
{
    outfile out;
    if (!a->value[OPT_OUT].given)
        return SPECTRA_OK;
    TRY(outfile_open(a->value[OPT_OUT].text, &out));
    approx_page(out.file, lab);
    return outfile_commit(&out);
}

static spectra_status measure(approx_lab *lab)
{
    const char *terminal = getenv("TERM");
    progress_line line = {.terminal = isatty(STDERR_FILENO) && terminal && *terminal &&
                                      strcmp(terminal, "dumb") != 0,
                          .started = omp_get_wtime()};
    line.shown = line.started;
    lab->progress = show_progress;
    lab->context = &line;
    spectra_status status = approx_measure(lab);
    if (line.terminal)
        fputs("\r\033[K", stderr);
    TRY(status);
    const int64_t all = (int64_t)lab->sizes * lab->features * lab->matrices;
    int64_t skipped = 0;
    for (int64_t i = 0; i < all; i++)
        skipped += !lab->cell[i].measured;
    if (skipped == all)
        return fail(SPECTRA_EUNSUPPORTED, "nothing to measure: %s", lab->cell[0].why);
    if (skipped > 0)
        fprintf(stderr, "%lld of %lld left out, which do not go together\n", (long long)skipped,
                (long long)all);
    return SPECTRA_OK;
}

static spectra_status approx_all(const cli_args *a, approx_lab *lab)
{
    lab->seed = (uint64_t)a->value[OPT_SEED].integer;
    lab->rng = draw_kind(a->value[OPT_RNG].text);
    lab->trials = a->value[OPT_TRIALS].integer;
    lab->target = a->value[OPT_TARGET].text[0] == 'g' ? SPECTRA_GAUSSIAN : SPECTRA_SOFTMAX;
    if (a->value[OPT_THREADS].given)
        omp_set_num_threads((int)a->value[OPT_THREADS].integer);
    TRY(cli_integers(a, OPT_SIZES, 1, 1024, APPROX_SIZES, lab->size, &lab->sizes));
    TRY(choose_pairs(a, lab));
    TRY(read_data(a, lab));
    TRY(try_out(a));
    TRY(measure(lab));
    TRY(write_page(a, lab));
    if (a->value[OPT_JSON].given)
        return print_json(lab);
    print_table(lab);
    return SPECTRA_OK;
}

spectra_status cli_approx(const cli_args *a)
{
    approx_lab lab = {.cell = NULL};
    spectra_status status = approx_all(a, &lab);
    approx_free(&lab);
    return status;
}
