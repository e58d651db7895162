#define _GNU_SOURCE
#include "train/train.h"

#include "base/outfile.h"
#include "base/status.h"
#include "train/report.h"
#include "train/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const file_names[FILES] = {"config.json", "log.jsonl", "checkpoint.safetensors",
                                              "best.safetensors", "report.html"};

/* Parameters are only kept from evaluations after this share of the steps. */
static const double keep_after = 0.2;

static bool stop_wanted(const session *s)
{
    return s->control->stop && *s->control->stop;
}

/* ---- the folder -------------------------------------------------------------------------------
 */

static spectra_status check_setting(const session *s, const setting *row, const void *held,
                                    const void *wanted)
{
    char a[SETTING_TEXT], b[SETTING_TEXT];
    if (setting_equal(row, held, wanted))
        return SPECTRA_OK;
    return fail(SPECTRA_EINVAL, "%s was begun with %s %s, it cannot go on with %s", s->run,
                row->name, setting_text(row, held, a, sizeof a),
                setting_text(row, wanted, b, sizeof b));
}

static spectra_status check_resumed(const session *s)
{
    train_config held;
    TRY(train_config_read(s->run, &held));
    for (int i = 0; i < TRAIN_SETTINGS + TASK_SETTINGS; i++) {
        const setting *row =
            i < TRAIN_SETTINGS ? &train_settings[i] : &task_settings[i - TRAIN_SETTINGS];
        if (row->offset != offsetof(train_config, data))
            TRY(check_setting(s, row, &held, s->config));
    }
    const attention_kind *kind = NULL; /* of both now */
    attention_options begun, wanted;
    TRY(train_attention_settings(&held, &kind, &begun));
    TRY(train_attention_settings(s->config, &kind, &wanted));
    for (int i = 0; i < kind->settings_count; i++)
        TRY(check_setting(s, &kind->settings[i], &begun, &wanted));
    return SPECTRA_OK;
}

static spectra_status check_folder(session *s)
{
    for (int i = 0; i < FILES; i++) {
        s->path[i] = outfile_join(s->run, file_names[i]);
        if (!s->path[i])
            return fail(SPECTRA_ENOMEM, "%s: out of memory", s->run);
    }
    if (s->control->resume)
        return check_resumed(s);
    for (int i = 0; i < FILES && !s->control->overwrite; i++)
        if (access(s->path[i], F_OK) == 0)
            return fail(SPECTRA_EINVAL,
                        "%s holds a run already (%s); --resume goes on with it, --overwrite begins "
                        "anew",
                        s->run, file_names[i]);
    return SPECTRA_OK;
}

/* Checkpoint, settings and log are made to fit each other. */
static spectra_status begin(session *s)
{
    TRY(outfile_folder(s->run));
    if (!s->control->resume)
        for (int i = 0; i < FILES; i++)
            unlink(s->path[i]); /* what is there to be overwritten may be absent */
    else if (access(s->path[FILE_CHECKPOINT], F_OK) == 0)
        TRY(checkpoint_load(s->path[FILE_CHECKPOINT], s->trainer.model, s->moment, &s->at));
    TRY(runner_push(s->trainer.runner, s->moment));
    s->first_step = s->at.step;
    TRY(train_config_write(s->run, s->config));
    return log_open(s->path[FILE_LOG], s->control->resume ? s->at.step : -1, &s->log);
}

/* Numbers and parameters come to the host first, wherever they are. */
static spectra_status write_checkpoint(session *s)
{
    TRY(session_flush(s));
    TRY(runner_pull(s->trainer.runner, s->moment));
    const float *moments[2] = {s->moment[0], s->moment[1]};
    return checkpoint_save(s->path[FILE_CHECKPOINT], s->trainer.model, moments, &s->at);
}

static spectra_status write_best(session *s)
{
    checkpoint at = s->at;
    TRY(runner_pull(s->trainer.runner, NULL));
    return checkpoint_save(s->path[FILE_BEST], s->trainer.model, NULL, &at);
}

/* ---- evaluation and the end -------------------------------------------------------------------
 */

static spectra_status evaluate_dev(session *s)
{
    const task *t = &s->config->task;
    TRY(session_flush(s));
    double start = session_now();
    train_scores scores = {.examples = 0};
    s->progress.seconds = start - s->started;
    int64_t number = s->at.step / t->eval_every - 1;
    TRY(trainer_evaluate(&s->trainer, SPLIT_DEV, number * t->eval_batches, t->eval_batches,
                         s->control, s->progress, &scores));
    s->evaluation_seconds += session_now() - start;
    s->at.evaluated = s->at.step;
    s->progress.dev_accuracy = scores.accuracy;
    s->progress.phase = TRAIN_DEV_DONE;
    session_report(s);
    bool better = scores.accuracy > s->at.best;
    bool keep = better && (double)s->at.step > keep_after * (double)t->steps;
    if (better)
        s->at.best = scores.accuracy;
    if (keep) {
        s->at.best_step = s->at.step;
        TRY(write_best(s));
    }
    TRY(log_line(s->log,
                 json_pack("{s:I, s:s, s:f, s:f, s:I, s:b, s:b, s:f}", "step",
                           (json_int_t)s->at.step, "split", "dev", "loss", scores.loss, "accuracy",
                           scores.accuracy, "examples", (json_int_t)scores.examples, "best", better,
                           "kept", keep, "seconds", session_now() - start)));
    return write_checkpoint(s);
}

/* Steps and evaluations until something ends them; s->reason says what. */
static spectra_status train_loop(session *s)
{
    const task *t = &s->config->task;
    const train_control *control = s->control;
    for (;;) {
        bool due = s->at.step > 0 && s->at.step % t->eval_every == 0;
        if (due && s->at.evaluated != s->at.step)
            TRY(evaluate_dev(s));
        if (s->at.step >= t->steps) {
            s->reason = "schedule";
            return SPECTRA_OK;
        }
        if (control->stop_at > 0 && s->at.step >= control->stop_at) {
            s->reason = "stop-at";
            return SPECTRA_OK;
        }
        if (control->max_seconds > 0 && session_now() - s->started >= control->max_seconds) {
            s->reason = "time";
            return SPECTRA_OK;
        }
        if (stop_wanted(s))
            return fail(SPECTRA_EINTERRUPTED, "interrupted");
        TRY(session_step(s));
    }
}

static json_t *confusion_json(const int64_t *confusion, int64_t classes)
{
    json_t *rows = json_array();
    for (int64_t i = 0; i < classes; i++) {
        json_t *row = json_array();
        for (int64_t j = 0; j < classes; j++)
            json_array_append_new(row, json_integer(confusion[i * classes + j]));
        json_array_append_new(rows, row);
    }
    return rows;
}

/* The kept parameters, or the last ones if none were kept, judged on the test split. */
static spectra_status final_test(session *s, train_result *result)
{
    bool last = s->at.best_step == 0;
    s->testing = true;
    if (last) {
        TRY(write_best(s));
    } else {
        TRY(checkpoint_load(s->path[FILE_BEST], s->trainer.model, NULL, NULL));
        TRY(runner_push(s->trainer.runner, NULL));
    }
    train_scores scores;
    s->progress.seconds = session_now() - s->started;
    TRY(trainer_test(&s->trainer, SPLIT_TEST, s->control, s->progress, &scores));
    result->test = scores;
    result->complete = true;
    result->best_is_last = last;
    return log_line(
        s->log, json_pack("{s:I, s:s, s:f, s:f, s:I, s:I, s:b, s:I, s:f, s:o}", "step",
                          (json_int_t)s->at.step, "split", "test", "loss", scores.loss, "accuracy",
                          scores.accuracy, "examples", (json_int_t)scores.examples,
                          "parameters_step", (json_int_t)(last ? s->at.step : s->at.best_step),
                          "parameters_last", last, "majority_class", (json_int_t)scores.majority,
                          "majority_accuracy", scores.majority_share, "confusion",
                          confusion_json(scores.confusion, s->config->task.classes)));
}

static spectra_status log_end(session *s, const char *reason, train_result *result)
{
    int64_t steps = s->at.step - s->first_step;
    double seconds = session_now() - s->started;
    double stepping = s->data_seconds + s->model_seconds + s->update_seconds;
    double per = steps ? (double)steps : 1, rate = stepping > 0 ? 1 / stepping : 0;
    const task *t = &s->config->task;
    double positions = (double)(steps * t->batch * t->length * t->sequences);
    result->seconds = seconds;
    result->step_seconds = stepping / per;
    result->tokens_per_s = (double)s->tokens * rate;
    result->peak_bytes = session_peak_bytes();
    result->device_peak_bytes = runner_device_peak(s->trainer.runner);
    json_t *line = json_pack(
        "{s:I, s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I}", "step",
        (json_int_t)s->at.step, "split", "end", "reason", reason, "steps", (json_int_t)steps,
        "seconds", seconds, "step_seconds", result->step_seconds, "data_seconds",
        s->data_seconds / per, "model_seconds", s->model_seconds / per, "update_seconds",
        s->update_seconds / per, "evaluation_seconds", s->evaluation_seconds, "tokens_per_s",
        result->tokens_per_s, "positions_per_s", positions * rate, "peak_bytes",
        (json_int_t)result->peak_bytes, "model_bytes", (json_int_t)model_bytes(s->trainer.model));
    const char *where = runner_device(s->trainer.runner);
    if (line && where) {
        json_object_set_new(line, "device", json_string(where));
        json_object_set_new(line, "device_peak_bytes", json_integer(result->device_peak_bytes));
        json_object_set_new(line, "device_model_bytes",
                            json_integer(runner_device_bytes(s->trainer.runner)));
    }
    return log_line(s->log, line);
}

/* A stopped or diverged session leaves a checkpoint and a report; the sentence of the first failure
 * is the one returned. */
static spectra_status end_early(session *s, spectra_status status, train_result *result)
{
    char why[900];
    snprintf(why, sizeof why, "%s", spectra_message());
    bool interrupted = status == SPECTRA_EINTERRUPTED;
    if (interrupted) {
        if (!s->testing)
            TRY(write_checkpoint(s));
        snprintf(why, sizeof why, "interrupted after step %lld; --resume goes on from there",
                 (long long)s->at.step);
    }
    if ((interrupted || status == SPECTRA_EDIVERGED) &&
        log_end(s, interrupted ? "interrupted" : "diverged", result) == SPECTRA_OK)
        report_write(s->run);
    return fail(status, "%s", why);
}

static spectra_status run_session(session *s, train_result *result)
{
    const train_config *c = s->config;
    TRY(check_folder(s));
    TRY(train_open_spec(c));
    const spectra_attention_desc attention = train_attention(c);
    if (strcmp(c->device, "cpu") == 0)
        attention_prefer(&attention);
    TRY(trainer_open(s->config, 7, &s->trainer));
    if (dataset_count(s->trainer.data[SPLIT_TEST]) < s->config->task.batch)
        return fail(SPECTRA_ESHAPE, "test has %lld examples, less than a batch of %lld",
                    (long long)dataset_count(s->trainer.data[SPLIT_TEST]),
                    (long long)s->config->task.batch);
    for (int i = 0; i < 2; i++) {
        s->moment[i] = calloc((size_t)model_param_count(s->trainer.model), sizeof(float));
        if (!s->moment[i])
            return fail(SPECTRA_ENOMEM, "the optimiser: out of memory");
    }
    TRY(session_open_steps(s));
    TRY(begin(s));
    s->progress = (train_progress){.step = s->at.step,
                                   .steps = s->config->task.steps,
                                   .first_step = s->first_step,
                                   .dev_accuracy = -1};
    spectra_status status = train_loop(s);
    if (status == SPECTRA_OK)
        status = write_checkpoint(s);
    if (status == SPECTRA_OK && strcmp(s->reason, "stop-at") != 0)
        status = final_test(s, result);
    result->step = s->at.step;
    result->best_dev = s->at.best;
    result->best_step = result->best_is_last ? s->at.step : s->at.best_step;
    if (status != SPECTRA_OK)
        return end_early(s, status, result);
    result->reason = s->reason;
    TRY(log_end(s, s->reason, result));
    return report_write(s->run);
}

spectra_status train_run(const train_config *c, const char *run, const train_control *control,
                         train_result *out)
{
    session s = {.config = c, .run = run, .control = control, .started = session_now()};
    train_result result = {.step = 0};
    spectra_status status = run_session(&s, &result);
    session_close_steps(&s);
    trainer_close(&s.trainer);
    log_close(s.log);
    for (int i = 0; i < 2; i++)
        free(s.moment[i]);
    for (int i = 0; i < FILES; i++)
        free(s.path[i]);
    if (status == SPECTRA_OK)
        *out = result;
    else
        free(result.test.confusion);
    return status;
}

spectra_status train_evaluate(const train_config *c, const char *run, train_split split,
                              const char *parameters, const train_control *control,
                              train_scores *out)
{
    bool best = strcmp(parameters, "best") == 0;
    char *path = outfile_join(run, file_names[best ? FILE_BEST : FILE_CHECKPOINT]);
    if (!path)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", run);
    trainer tr = {.config = c};
    spectra_status status = train_open_spec(c);
    if (status == SPECTRA_OK)
        status = trainer_open(c, 1U << split, &tr);
    if (status == SPECTRA_OK)
        status = checkpoint_load(path, tr.model, NULL, NULL);
    if (status == SPECTRA_OK)
        status = runner_push(tr.runner, NULL);
    if (status == SPECTRA_OK) {
        train_progress at = {.dev_accuracy = -1};
        status = trainer_test(&tr, split, control, at, out);
    }
    trainer_close(&tr);
    free(path);
    return status;
}
