#include "train/report.h"

#include "base/outfile.h"
#include "base/status.h"
#include "file/jsonl.h"
#include "train/report_chart.h"
#include "train/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CURVE_POINTS = 300, CONFUSION_CLASSES = 20 };

/* Numbers of one split, step by step. */
typedef struct curve {
    int64_t n, capacity;
    double *x, *loss, *accuracy;
} curve;

typedef struct report {
    train_config config;
    curve train, dev;
    json_t *test, *end; /* last lines of that split, NULL if none */
    json_t *timing;     /* the last end of a session that made steps */
    double seconds;     /* of all sessions */
} report;

static spectra_status curve_add(curve *c, const json_t *line)
{
    if (c->n == c->capacity) {
        int64_t capacity = c->capacity ? 2 * c->capacity : 1024;
        double **field[] = {&c->x, &c->loss, &c->accuracy};
        for (int i = 0; i < 3; i++) {
            double *grown = realloc(*field[i], (size_t)capacity * sizeof **field[i]);
            if (!grown)
                return fail(SPECTRA_ENOMEM, "report: out of memory");
            *field[i] = grown;
        }
        c->capacity = capacity;
    }
    c->x[c->n] = json_number_value(json_object_get(line, "step"));
    c->loss[c->n] = json_number_value(json_object_get(line, "loss"));
    c->accuracy[c->n] = json_number_value(json_object_get(line, "accuracy"));
    c->n++;
    return SPECTRA_OK;
}

static void curve_free(curve *c)
{
    free(c->x);
    free(c->loss);
    free(c->accuracy);
}

static spectra_status take_line(void *context, const json_t *line)
{
    report *r = context;
    const char *split = json_string_value(json_object_get(line, "split"));
    if (strcmp(split, "train") == 0)
        return curve_add(&r->train, line);
    if (strcmp(split, "dev") == 0)
        return curve_add(&r->dev, line);
    json_t **last = strcmp(split, "test") == 0 ? &r->test : &r->end;
    json_decref(*last);
    *last = json_deep_copy(line);
    if (last == &r->end)
        r->seconds += json_number_value(json_object_get(line, "seconds"));
    if (last == &r->end && json_number_value(json_object_get(line, "steps")) > 0) {
        json_decref(r->timing);
        r->timing = json_incref(r->end);
    }
    return SPECTRA_OK;
}

static double number(const json_t *line, const char *key)
{
    return json_number_value(json_object_get(line, key));
}

/* ---- curves -----------------------------------------------------------------------------------
 */

typedef struct binned {
    int64_t n;
    double x[CURVE_POINTS], y[CURVE_POINTS], low[CURVE_POINTS], high[CURVE_POINTS];
} binned;

/* Means over neighbouring steps, at least five where there are many, with half a standard deviation
 * either side as the band. */
static void bin_curve(const curve *c, const double *y, binned *out)
{
    int64_t bins = c->n < 50 ? c->n : c->n < 5 * CURVE_POINTS ? c->n / 5 : CURVE_POINTS;
    out->n = bins;
    for (int64_t b = 0; b < bins; b++) {
        int64_t first = b * c->n / bins, end = (b + 1) * c->n / bins;
        double sum = 0, squares = 0, steps = 0, n = (double)(end - first);
        for (int64_t i = first; i < end; i++) {
            sum += y[i];
            squares += y[i] * y[i];
            steps += c->x[i];
        }
        double mean = sum / n, deviation = sqrt(fmax(squares / n - mean * mean, 0));
        out->x[b] = steps / n;
        out->y[b] = mean;
        out->low[b] = mean - deviation / 2;
        out->high[b] = mean + deviation / 2;
    }
}

static void write_curves(FILE *out, const report *r)
{
    static binned mean; /* too large for a stack frame, and a report is written by one thread */
    double last = r->train.n ? r->train.x[r->train.n - 1] : 1;
    for (int kind = 0; kind < 2; kind++) {
        bin_curve(&r->train, kind ? r->train.accuracy : r->train.loss, &mean);
        bool banded = mean.n < r->train.n;
        chart c = {
            .title = kind ? "Accuracy" : "Loss",
            .x_label = "step",
            .percent = kind,
            .x_high = last,
            .base = kind && r->test ? number(r->test, "majority_accuracy") : (double)NAN,
            .base_name = "always the most frequent class",
            .count = 2,
            .series = {{"training", mean.n, mean.x, mean.y, banded ? mean.low : NULL, mean.high,
                        false},
                       {"dev", r->dev.n, r->dev.x, kind ? r->dev.accuracy : r->dev.loss, NULL, NULL,
                        true}},
        };
        chart_write(out, &c);
    }
}

/* ---- tables -----------------------------------------------------------------------------------
 */

static void write_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        const char *entity = *text == '&'    ? "&amp;"
                             : *text == '<'  ? "&lt;"
                             : *text == '>'  ? "&gt;"
                             : *text == '\'' ? "&#39;"
                             : *text == '"'  ? "&quot;"
                                             : NULL;
        if (entity)
            fputs(entity, out);
        else
            putc(*text, out);
    }
}

static void write_duration(FILE *out, double seconds)
{
    long long s = (long long)(seconds + 0.5);
    if (s >= 3600)
        fprintf(out, "%lld h %02lld min", s / 3600, s / 60 % 60);
    else if (s >= 60)
        fprintf(out, "%lld min %02lld s", s / 60, s % 60);
    else
        fprintf(out, "%lld s", s);
}

static void write_results(FILE *out, const report *r)
{
    fputs("<section class=cards>\n", out);
    if (r->test) {
        double accuracy = number(r->test, "accuracy"), n = number(r->test, "examples");
        double base = number(r->test, "majority_accuracy");
        fprintf(out,
                "<div class=big><b>%.2f %%</b>test accuracy<small>± %.2f standard error, %.0f "
                "examples</small></div>\n",
                100 * accuracy, 100 * sqrt(accuracy * (1 - accuracy) / n), n);
        fprintf(out,
                "<div><b>%.2f %%</b>always class %.0f<small>the most frequent one; %+.2f points"
                "</small></div>\n",
                100 * base, number(r->test, "majority_class"), 100 * (accuracy - base));
        fprintf(out, "<div><b>%.4f</b>test loss<small>parameters of step %.0f%s</small></div>\n",
                number(r->test, "loss"), number(r->test, "parameters_step"),
                json_is_true(json_object_get(r->test, "parameters_last")) ? ", the last" : "");
    }
    double best = 0, best_step = 0;
    for (int64_t i = 0; i < r->dev.n; i++)
        if (r->dev.accuracy[i] > best) {
            best = r->dev.accuracy[i];
            best_step = r->dev.x[i];
        }
    if (r->dev.n)
        fprintf(out, "<div><b>%.2f %%</b>best dev accuracy<small>step %.0f</small></div>\n",
                100 * best, best_step);
    if (r->timing) {
        fprintf(out,
                "<div><b>%.0f ms</b>a step<small>%.0f ms model, %.1f ms optimiser</small></div>\n",
                1e3 * number(r->timing, "step_seconds"), 1e3 * number(r->timing, "model_seconds"),
                1e3 * number(r->timing, "update_seconds"));
        fprintf(
            out,
            "<div><b>%.0f k</b>tokens a second<small>%.0f k positions with padding</small></div>\n",
            1e-3 * number(r->timing, "tokens_per_s"), 1e-3 * number(r->timing, "positions_per_s"));
        fprintf(out,
                "<div><b>%.0f MiB</b>peak memory<small>%.0f MiB parameters and activations"
                "</small></div>\n",
                number(r->timing, "peak_bytes") / 1048576,
                number(r->timing, "model_bytes") / 1048576);
        const char *device = json_string_value(json_object_get(r->timing, "device"));
        if (device) {
            fprintf(out, "<div><b>%.0f MiB</b>peak memory of the device<small>",
                    number(r->timing, "device_peak_bytes") / 1048576);
            write_escaped(out, device);
            fputs("</small></div>\n", out);
        }
        fputs("<div><b>", out);
        write_duration(out, r->seconds);
        fputs("</b>in all</div>\n", out);
    }
    fputs("</section>\n", out);
}

static void write_ending(FILE *out, const report *r)
{
    const char *reason = r->end ? json_string_value(json_object_get(r->end, "reason")) : NULL;
    static const char *const said[][2] = {
        {"time", "Training ended early, at the time limit it was given."},
        {"stop-at", "This is an intermediate state: the run was stopped to be resumed."},
        {"interrupted", "This is an intermediate state: the run was interrupted."},
        {"diverged", "The run diverged: a number became NaN or infinite."},
    };
    for (size_t i = 0; reason && i < sizeof said / sizeof said[0]; i++)
        if (strcmp(reason, said[i][0]) == 0)
            fprintf(out, "<p class=note>%s %.0f of %lld steps are done.</p>\n", said[i][1],
                    number(r->end, "step"), (long long)r->config.task.steps);
}

static void write_confusion(FILE *out, const report *r)
{
    const json_t *rows = r->test ? json_object_get(r->test, "confusion") : NULL;
    size_t classes = json_array_size(rows);
    if (!classes || classes > CONFUSION_CLASSES)
        return;
    fputs("<figure><figcaption><b>Confusion on the test split</b>"
          "<span>rows are labels, columns predictions, shading is the share of the row</span>"
          "</figcaption>\n<table class=confusion><tr><th></th>",
          out);
    for (size_t j = 0; j < classes; j++)
        fprintf(out, "<th>%zu</th>", j);
    fputs("</tr>\n", out);
    for (size_t i = 0; i < classes; i++) {
        const json_t *row = json_array_get(rows, i);
        double sum = 0;
        for (size_t j = 0; j < classes; j++)
            sum += json_number_value(json_array_get(row, j));
        fprintf(out, "<tr><th>%zu</th>", i);
        for (size_t j = 0; j < classes; j++) {
            double n = json_number_value(json_array_get(row, j)), share = sum > 0 ? n / sum : 0;
            fprintf(out, "<td class='%s%s' style='--p:%.0f%%'>%.0f</td>", i == j ? "hit" : "",
                    share > 0.55 ? " deep" : "", 100 * share, n);
        }
        fputs("</tr>\n", out);
    }
    fputs("</table></figure>\n", out);
}

static void write_setting(FILE *out, const setting *s, const void *base)
{
    char text[SETTING_TEXT];
    setting_text(s, base, text, sizeof text);
    if (!*text)
        return;
    fprintf(out, "<tr><th>%s</th><td>", s->name);
    write_escaped(out, text);
    fprintf(out, "</td><td>%s</td></tr>\n", s->doc);
}

static void write_settings(FILE *out, const report *r)
{
    const attention_kind *kind = NULL;
    attention_options own;
    fputs("<details open><summary>Settings</summary><table class=settings>\n", out);
    for (int i = 0; i < TRAIN_SETTINGS; i++)
        write_setting(out, &train_settings[i], &r->config);
    if (train_attention_settings(&r->config, &kind, &own) == SPECTRA_OK)
        for (int i = 0; i < kind->settings_count; i++)
            write_setting(out, &kind->settings[i], &own);
    for (int i = 0; i < TASK_SETTINGS; i++)
        write_setting(out, &task_settings[i], &r->config);
    fputs("</table></details>\n", out);
}

/* The attention's name, and the names and numbers among its settings. */
static void write_attention(FILE *out, const train_config *c)
{
    const attention_kind *kind = NULL;
    attention_options own;
    char text[SETTING_TEXT];
    write_escaped(out, c->attn);
    if (train_attention_settings(c, &kind, &own) != SPECTRA_OK)
        return;
    for (int i = 0; i < kind->settings_count; i++) {
        const setting *s = &kind->settings[i];
        if (s->type == SETTING_BOOL || s->choice)
            continue;
        fprintf(out, " · %s", s->type == SETTING_STRING ? "" : s->name);
        fputs(s->type == SETTING_STRING ? "" : " ", out);
        write_escaped(out, setting_text(s, &own, text, sizeof text));
    }
}

static const char style[] =
    ":root{--bg:#fff;--card:#f5f6f8;--ink:#1c2330;--soft:#667085;--line:#e3e6eb;"
    "--c0:#2f6fde;--c1:#e2711d;color-scheme:light dark}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1b2029;--ink:#e6e9ef;"
    "--soft:#98a2b3;--line:#2b323e;--c0:#6ea0ff;--c1:#ff9d55}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);"
    "font:15px/1.5 system-ui,sans-serif}main{max-width:1100px;margin:0 auto;padding:2rem 1.25rem}\n"
    "h1{font-size:1.55rem;margin:0;letter-spacing:-.01em}header p{color:var(--soft);margin:.2rem 0 "
    "1.5rem}\n"
    ".cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(215px,1fr));gap:.75rem}\n"
    ".cards div{background:var(--card);border-radius:10px;padding:.8rem 1rem}\n"
    ".cards b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}\n"
    ".cards .big{box-shadow:inset 3px 0 var(--c0)}.cards small{display:block;color:var(--soft)}\n"
    ".note{border-left:3px solid var(--c1);padding:.4rem .9rem;background:var(--card)}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:1rem}\n"
    "@media(max-width:500px){.charts{grid-template-columns:1fr}}\n"
    "figure{margin:1.5rem 0 0;overflow-x:auto}figcaption span{color:var(--soft);margin-left:1rem}\n"
    "svg{width:100%;height:auto;display:block}.grid,.axis{stroke:var(--line);fill:none}\n"
    ".axis{stroke:var(--soft)}.tick{fill:var(--soft);font-size:12px}\n"
    ".s0{--c:var(--c0)}.s1{--c:var(--c1)}.line{fill:none;stroke:var(--c);stroke-width:1.8;"
    "stroke-linejoin:round}.band{fill:var(--c);opacity:.16}.dot{fill:var(--c)}\n"
    "path.base{stroke:var(--soft);stroke-dasharray:5 4;fill:none}\n"
    ".key::before{content:'';display:inline-block;width:1.1em;height:3px;margin-right:.4em;"
    "vertical-align:middle;background:var(--c)}.key.base::before{height:0;background:none;"
    "border-top:2px dashed var(--soft)}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin-top:.5rem}\n"
    ".confusion td,.confusion th{width:3.4em;height:2.3em;text-align:center;padding:0;"
    "font-size:13px}.confusion th{color:var(--soft);font-weight:500}\n"
    ".confusion td{border:1px solid var(--bg);"
    "background:color-mix(in srgb,var(--c0) var(--p),var(--card))}\n"
    ".confusion .hit{font-weight:700}.confusion .deep{color:var(--bg)}\n"
    "details{margin-top:1.5rem}summary{cursor:pointer;font-weight:600}\n"
    ".settings th{text-align:left;font-weight:500}.settings td,.settings th{padding:.15rem 1.5rem "
    ".15rem 0;border-bottom:1px solid var(--line)}.settings td+td{color:var(--soft)}\n"
    "footer{margin-top:2rem;color:var(--soft);font-size:13px}\n";

static void write_page(FILE *out, const report *r)
{
    const train_config *c = &r->config;
    fputs("<!doctype html>\n<html lang=en><meta charset=utf-8>"
          "<meta name=viewport content='width=device-width,initial-scale=1'>\n<title>",
          out);
    write_escaped(out, c->task.name);
    fputs("</title>\n<style>\n", out);
    fputs(style, out);
    fputs("</style>\n<main><header><h1>", out);
    write_escaped(out, c->task.name);
    fputs(" · ", out);
    write_attention(out, c);
    fprintf(out, "</h1><p>seed %lld, %lld layers, %s</p></header>\n", (long long)c->seed,
            (long long)c->task.layers,
            c->official ? "the reference system's behaviour" : "correct mathematics");
    write_ending(out, r);
    write_results(out, r);
    fputs("<section class=charts>\n", out);
    write_curves(out, r);
    fputs("</section>\n", out);
    write_confusion(out, r);
    write_settings(out, r);
    fprintf(out, "<footer>spectraformer %s</footer></main></html>\n", spectra_version());
}

static spectra_status read_run(const char *run, report *r)
{
    TRY(train_config_read(run, &r->config));
    char *path = outfile_join(run, "log.jsonl");
    if (!path)
        return fail(SPECTRA_ENOMEM, "report: out of memory");
    spectra_status status = log_read(path, take_line, r);
    free(path);
    return status;
}

spectra_status report_write(const char *run)
{
    report r = {.seconds = 0};
    char *path = outfile_join(run, "report.html");
    spectra_status status =
        path ? read_run(run, &r) : fail(SPECTRA_ENOMEM, "report: out of memory");
    outfile out;
    if (status == SPECTRA_OK)
        status = outfile_open(path, &out);
    if (status == SPECTRA_OK) {
        write_page(out.file, &r);
        status = outfile_commit(&out);
    }
    curve_free(&r.train);
    curve_free(&r.dev);
    json_decref(r.test);
    json_decref(r.end);
    json_decref(r.timing);
    free(path);
    return status;
}
