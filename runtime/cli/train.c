#define _GNU_SOURCE
#include "cli/cli.h"

#include "base/status.h"
#include "kernel/jit.h"
#include "train/train.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- progress ---------------------------------------------------------------------------------
 */

enum { PLAIN_STEPS = 50, PLAIN_SECONDS = 30 };

typedef struct progress_line {
    bool terminal;
    double shown_at; /* seconds of the session */
    int64_t shown_step;
    double loss, accuracy; /* smoothed over about 30 steps */
    bool begun;
} progress_line;

static void format_seconds(double seconds, char *buf, size_t size)
{
    long long s = (long long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(buf, size, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buf, size, "%lld:%02lld", s / 60, s % 60);
}

static void show_step(progress_line *line, const train_progress *p)
{
    int64_t done = p->step - p->first_step;
    double rate = p->seconds > 0 ? (double)done / p->seconds : 0;
    char left[32] = "?", dev[32] = "";
    if (rate > 0)
        format_seconds((double)(p->steps - p->step) / rate, left, sizeof left);
    if (p->dev_accuracy >= 0)
        snprintf(dev, sizeof dev, "  dev %.4f", p->dev_accuracy);
    fprintf(stderr, "%sstep %lld/%lld  %.2f/s  loss %.4f  accuracy %.3f%s  left %s%s",
            line->terminal ? "\r" : "", (long long)p->step, (long long)p->steps, rate, line->loss,
            line->accuracy, dev, left, line->terminal ? "\033[K" : "\n");
    line->shown_at = p->seconds;
    line->shown_step = p->step;
}

static void show_progress(void *context, const train_progress *p)
{
    progress_line *line = context;
    const char *clear = line->terminal ? "\r\033[K" : "";
    double since = p->seconds - line->shown_at;
    switch (p->phase) {
    case TRAIN_STEP: {
        double keep = line->begun ? 1 - 1.0 / 30 : 0;
        line->loss = keep * line->loss + (1 - keep) * p->loss;
        line->accuracy = keep * line->accuracy + (1 - keep) * p->accuracy;
        bool due =
            line->terminal ? since >= 0.1 : since >= PLAIN_SECONDS || p->step % PLAIN_STEPS == 0;
        if (due || !line->begun || p->step == p->steps)
            show_step(line, p);
        line->begun = true;
        break;
    }
    case TRAIN_DEV_DONE:
        fprintf(stderr, "%sstep %lld  dev accuracy %.4f\n", clear, (long long)p->step,
                p->dev_accuracy);
        break;
    default:
        if (line->terminal)
            fprintf(stderr, "%s%s %lld/%lld", clear, p->phase == TRAIN_TEST ? "test" : "dev",
                    (long long)p->batch, (long long)p->batches);
        break;
    }
}

static progress_line progress_start(void)
{
    const char *terminal = getenv("TERM");
    return (progress_line){.terminal = isatty(STDERR_FILENO) && terminal && *terminal &&
                                       strcmp(terminal, "dumb") != 0};
}

static void progress_end(const progress_line *line)
{
    if (line->terminal)
        fputs("\r\033[K", stderr);
}

/* ---- settings ---------------------------------------------------------------------------------
 */

/* Path of the component function's spec, where it is one's own, and its hash if keep is not set, as
 * then that of the run is what the text must have. */
static spectra_status set_spec(const attention_kind *kind, const attention_options *own, bool keep,
                               train_config *c)
{
    char feat[SETTING_TEXT] = "";
    if (attention_setting(kind, "feat"))
        setting_text(attention_setting(kind, "feat"), own, feat, sizeof feat);
    const jit_spec *spec = jit_spec_find(feat);
    if (spec && strlen(spec->path) >= sizeof c->spec)
        return fail(SPECTRA_EINVAL, "%s: the path is too long", spec->path);
    snprintf(c->spec, sizeof c->spec, "%s", spec ? spec->path : "");
    if (!keep)
        snprintf(c->spec_hash, sizeof c->spec_hash, "%s", spec ? spec->hash : "");
    return SPECTRA_OK;
}

/* What the options say of the attention's own settings, over its initial values or, with `keep`,
 * over what the run was begun with. */
static spectra_status set_attention(const cli_args *a, bool keep, train_config *c)
{
    const attention_kind *kind = NULL;
    attention_options own;
    TRY(attention_find(c->attn, c->official, &kind));
    attention_options_start(kind, &own);
    if (keep)
        TRY(attention_options_parse(kind, c->options, &own));
    TRY(cli_attention_settings(a, kind, &own));
    TRY(set_spec(kind, &own, keep, c));
    return attention_options_text(kind, &own, c->options, sizeof c->options);
}

/* A task's own defaults with what the options say. */
static spectra_status new_config(const cli_args *a, train_config *c)
{
    memset(c, 0, sizeof *c);
    TRY(task_load(a->value[OPT_TASK].text, &c->task));
    snprintf(c->attn, sizeof c->attn, "%s", a->value[OPT_ATTN].text);
    snprintf(c->rng, sizeof c->rng, "philox");
    snprintf(c->device, sizeof c->device, "%s", a->value[OPT_DEVICE].text);
    TRY(setting_parse(train_setting("precision"), c, a->value[OPT_PRECISION].text, "precision"));
    c->seed = a->value[OPT_SEED].integer;
    int length = snprintf(c->data, sizeof c->data, "data/%s", c->task.name);
    if (length >= (int)sizeof c->data)
        return fail(SPECTRA_EINVAL, "the task's name is too long");
    TRY(cli_apply_settings(a, c));
    TRY(set_attention(a, false, c));
    task *t = &c->task;
    if (a->value[OPT_DROPOUT].given && !a->value[OPT_ATTENTION_DROPOUT].given)
        t->attention_dropout = t->dropout;
    /* A short run keeps the shape of the schedule. */
    int64_t tenth = t->steps / 10 > 1 ? t->steps / 10 : 1;
    if (!a->value[OPT_WARMUP].given && t->warmup > tenth)
        t->warmup = tenth;
    if (!a->value[OPT_EVAL_EVERY].given && t->eval_every > t->steps)
        t->eval_every = t->steps;
    if (t->warmup > t->steps)
        return fail(SPECTRA_EINVAL, "--warmup is %lld, allowed are 1 to the %lld steps",
                    (long long)t->warmup, (long long)t->steps);
    return SPECTRA_OK;
}

/* The device an option names, for a run that is there; its precision stays only where the device
 * does.
 */
static spectra_status set_device(const cli_args *a, train_config *c)
{
    const cli_value *v = &a->value[OPT_DEVICE];
    if (v->given && strcmp(v->text, c->device) != 0) {
        TRY(setting_parse(train_setting("device"), c, v->text, "device"));
        TRY(setting_parse(train_setting("precision"), c, "float32", "precision"));
    }
    const cli_value *p = &a->value[OPT_PRECISION];
    return p->given ? setting_parse(train_setting("precision"), c, p->text, "precision")
                    : SPECTRA_OK;
}

/* The settings of a run that is there, with options that name others applied: train_run refuses
 * what does not fit. */
static spectra_status held_config(const cli_args *a, const char *run, train_config *c)
{
    char begun[SETTING_TEXT];
    TRY(train_config_read(run, c));
    snprintf(begun, sizeof begun, "%s", c->attn);
    static const struct {
        option_id id;
        const char *setting;
    } named[] = {
        {OPT_TASK, "task"}, {OPT_ATTN, "attn"}, {OPT_SEED, "seed"}, {OPT_DEVICE, "device"}};
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++)
        if (a->value[named[i].id].given)
            TRY(setting_parse(train_setting(named[i].setting), c, a->value[named[i].id].text,
                              named[i].setting));
    if (!jit_is_path(a->value[OPT_FEAT].text) && !jit_is_path(a->value[OPT_KERNEL].text))
        TRY(train_open_spec(c)); /* so that its name is known */
    TRY(set_device(a, c));
    TRY(cli_apply_settings(a, c));
    const bool same = strcmp(c->attn, begun) == 0; /* train_run refuses another */
    return same ? set_attention(a, true, c) : SPECTRA_OK;
}

/* runs/TASK-ATTN, then the attention's names and numbers (FEAT-KERNEL-mM), then -sSEED. */
static spectra_status run_name(const train_config *c, char run[SETTING_TEXT])
{
    const attention_kind *kind = NULL;
    attention_options own;
    TRY(train_attention_settings(c, &kind, &own));
    int n = snprintf(run, SETTING_TEXT, "runs/%.80s-%.40s", c->task.name, c->attn);
    for (int i = 0; i < kind->settings_count && n < SETTING_TEXT; i++) {
        const setting *s = &kind->settings[i];
        char value[SETTING_TEXT];
        if (s->type != SETTING_BOOL && !s->choice)
            n += snprintf(run + n, SETTING_TEXT - (size_t)n, "-%s%.40s",
                          s->type == SETTING_STRING ? "" : s->name,
                          setting_text(s, &own, value, sizeof value));
    }
    if (n < SETTING_TEXT)
        n += snprintf(run + n, SETTING_TEXT - (size_t)n, "-s%lld", (long long)c->seed);
    return n < SETTING_TEXT ? SPECTRA_OK
                            : fail(SPECTRA_EINVAL, "the run's name is too long; give --run");
}

/* --run, --out, or the name the settings give. */
static spectra_status run_folder(const cli_args *a, char run[SETTING_TEXT])
{
    for (int i = 0; i < 2; i++) {
        const cli_value *v = &a->value[i ? OPT_OUT : OPT_RUN];
        if (!v->given)
            continue;
        if (!*v->text)
            return fail(SPECTRA_EINVAL, "--%s is empty", i ? "out" : "run");
        snprintf(run, SETTING_TEXT, "%s", v->text);
        return SPECTRA_OK;
    }
    train_config c;
    TRY(new_config(a, &c));
    return run_name(&c, run);
}

static void use_threads(const cli_args *a, train_config *c)
{
    if (a->value[OPT_THREADS].given)
        omp_set_num_threads((int)a->value[OPT_THREADS].integer);
    c->threads = omp_get_max_threads();
}

/* ---- train ------------------------------------------------------------------------------------
 */

static void print_scores(const char *split, const train_scores *s)
{
    printf("%-5s accuracy  %.4f  of %lld examples\n", split, s->accuracy, (long long)s->examples);
    printf("%-5s loss      %.4f\n", split, s->loss);
    printf("always class %-2lld %.4f\n", (long long)s->majority, s->majority_share);
}

static json_t *scores_json(const train_scores *s)
{
    return json_pack("{s:f, s:f, s:I, s:I, s:f}", "accuracy", s->accuracy, "loss", s->loss,
                     "examples", (json_int_t)s->examples, "majority_class", (json_int_t)s->majority,
                     "majority_accuracy", s->majority_share);
}

static spectra_status print_result(const cli_args *a, const char *run, const train_config *c,
                                   const train_result *r)
{
    if (a->value[OPT_JSON].given)
        return cli_print_json(
            json_pack("{s:s, s:I, s:s, s:f, s:I, s:b, s:f, s:f, s:f, s:I, s:I, s:o}", "run", run,
                      "step", (json_int_t)r->step, "reason", r->reason, "best_dev_accuracy",
                      r->best_dev, "parameters_step", (json_int_t)r->best_step, "parameters_last",
                      r->best_is_last, "seconds", r->seconds, "step_seconds", r->step_seconds,
                      "tokens_per_s", r->tokens_per_s, "peak_bytes", (json_int_t)r->peak_bytes,
                      "device_peak_bytes", (json_int_t)r->device_peak_bytes, "test",
                      r->complete ? scores_json(&r->test) : json_null()));
    if (r->complete) {
        print_scores("test", &r->test);
        printf("best dev        %.4f\n", r->best_dev);
        printf("parameters of   step %lld%s\n", (long long)r->best_step,
               r->best_is_last ? " (the last; no evaluation qualified)" : "");
    }
    printf("steps           %lld of %lld%s\n", (long long)r->step, (long long)c->task.steps,
           strcmp(r->reason, "time") == 0      ? ", ended by --max-seconds"
           : strcmp(r->reason, "stop-at") == 0 ? ", stopped by --stop-at; --resume goes on"
                                               : "");
    if (r->step_seconds > 0)
        printf("a step          %.1f ms, %.0f tokens/s, peak memory %.0f MiB\n",
               1e3 * r->step_seconds, r->tokens_per_s, (double)r->peak_bytes / 1048576);
    if (r->device_peak_bytes > 0)
        printf("on the device   peak memory %.0f MiB\n", (double)r->device_peak_bytes / 1048576);
    printf("report          %s/report.html\n", run);
    return SPECTRA_OK;
}

spectra_status cli_train(const cli_args *a)
{
    char run[SETTING_TEXT];
    train_config c;
    TRY(run_folder(a, run));
    bool resume = a->value[OPT_RESUME].given;
    if (resume && a->value[OPT_OVERWRITE].given)
        return fail(SPECTRA_EINVAL, "--resume and --overwrite exclude each other");
    if (resume)
        TRY(held_config(a, run, &c));
    else
        TRY(new_config(a, &c));
    use_threads(a, &c);
    progress_line line = progress_start();
    const train_control control = {.stop = &cli_stop,
                                   .resume = resume,
                                   .overwrite = a->value[OPT_OVERWRITE].given,
                                   .max_seconds = a->value[OPT_MAX_SECONDS].real,
                                   .stop_at = a->value[OPT_STOP_AT].integer,
                                   .progress = show_progress,
                                   .context = &line};
    train_result result;
    cli_catch_signals();
    spectra_status status = train_run(&c, run, &control, &result);
    progress_end(&line);
    TRY(status);
    status = print_result(a, run, &c, &result);
    free(result.test.confusion);
    return status;
}

/* ---- eval -------------------------------------------------------------------------------------
 */

spectra_status cli_eval(const cli_args *a)
{
    char run[SETTING_TEXT];
    train_config c;
    TRY(run_folder(a, run));
    TRY(train_config_read(run, &c));
    static const option_id local[] = {OPT_DATA, OPT_BATCH, OPT_ACCUMULATE};
    static const char *const setting_name[] = {"data", "batch", "accumulate"};
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++)
        if (a->value[local[i]].given)
            TRY(setting_parse(train_setting(setting_name[i]), &c, a->value[local[i]].text,
                              setting_name[i]));
    TRY(set_device(a, &c));
    use_threads(a, &c);
    int split = SPLIT_TRAIN;
    while (strcmp(train_split_names[split], a->value[OPT_SPLIT].text) != 0)
        split++;
    progress_line line = progress_start();
    const train_control control = {.stop = &cli_stop, .progress = show_progress, .context = &line};
    train_scores scores;
    cli_catch_signals();
    spectra_status status = train_evaluate(&c, run, (train_split)split,
                                           a->value[OPT_CHECKPOINT].text, &control, &scores);
    progress_end(&line);
    TRY(status);
    if (a->value[OPT_JSON].given)
        status = cli_print_json(scores_json(&scores));
    else
        print_scores(train_split_names[split], &scores);
    free(scores.confusion);
    return status;
}
