#define _GNU_SOURCE
#include "train/session.h"

#include "base/status.h"
#include "model/optim.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

/* The optimiser of the benchmark; rate, steps and weight decay are settings. */
static const double beta2 = 0.999, epsilon = 1e-6, clip = 1.0;
static const double rate_div = 25, rate_final_div = 1e4, beta1_low = 0.85, beta1_high = 0.95;
/* A device is asked for its numbers after so many seconds, or when its journal is full. */
static const double flush_seconds = 0.5;

double session_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t session_peak_bytes(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)usage.ru_maxrss * 1024;
}

int64_t session_device_bytes(const session *s)
{
    return s->learner.dev ? device_peak_bytes(s->learner.dev) : 0;
}

void session_report(session *s)
{
    s->progress.seconds = session_now() - s->started;
    if (s->control->progress)
        s->control->progress(s->control->context, &s->progress);
}

/* ---- what both have in common -------------------------------------------------------------------
 */

static void rate_at(const task *t, int64_t step, double *lr, double *beta1)
{
    const schedule plan = {.max_lr = t->lr,
                           .div = rate_div,
                           .final_div = rate_final_div,
                           .beta1_low = beta1_low,
                           .beta1_high = beta1_high,
                           .total = t->steps,
                           .warmup = t->warmup};
    schedule_at(&plan, step, lr, beta1);
}

static adamw optimiser(const session *s)
{
    return (adamw){.beta2 = beta2,
                   .eps = epsilon,
                   .weight_decay = s->config->task.weight_decay,
                   .clip = clip,
                   .n = model_param_count(s->learner.model),
                   .m = s->moment[0],
                   .v = s->moment[1]};
}

/* What one step has to tell; `finished`: steps after it. */
typedef struct step_numbers {
    int64_t finished, correct, tokens;
    double loss, lr, norm, seconds;
} step_numbers;

static spectra_status log_step(session *s, const step_numbers *n)
{
    double accuracy = (double)n->correct / (double)s->config->task.batch;
    s->tokens += n->tokens;
    s->progress.phase = TRAIN_STEP;
    s->progress.step = n->finished;
    s->progress.loss = n->loss;
    s->progress.accuracy = accuracy;
    session_report(s);
    json_t *line =
        json_pack("{s:I, s:s, s:f, s:f, s:f, s:f, s:f, s:I}", "step", (json_int_t)n->finished,
                  "split", "train", "loss", n->loss, "accuracy", accuracy, "lr", n->lr, "grad_norm",
                  n->norm, "tokens_per_s", (double)n->tokens / n->seconds, "peak_bytes",
                  (json_int_t)session_peak_bytes());
    if (line && s->learner.dev)
        json_object_set_new(line, "device_peak_bytes", json_integer(session_device_bytes(s)));
    return log_line(s->log, line);
}

/* ---- on the host --------------------------------------------------------------------------------
 */

static spectra_status step_on_host(session *s)
{
    learner *l = &s->learner;
    const task *t = &s->config->task;
    const int64_t step = s->at.step;
    step_numbers n = {.finished = step + 1};
    double beta1, start = session_now();
    learner_load(l, SPLIT_TRAIN, step);
    double loaded = session_now();
    model_zero_grads(l->model);
    for (int64_t p = 0; p < t->accumulate; p++) {
        model_batch part = learner_part(l, p, t->accumulate);
        double loss = 0;
        spectra_status status = model_step(l->model, &part, (uint64_t)step, (uint64_t)p,
                                           1.0 / (double)t->accumulate, l->scores, &loss);
        if (status != SPECTRA_OK)
            return fail(status, "step %lld: %s", (long long)step + 1, spectra_message());
        n.loss += loss / (double)t->accumulate;
        n.correct += learner_correct(l, l->scores, part.label, part.B, NULL);
    }
    double computed = session_now();
    n.norm = model_grad_norm(l->model);
    rate_at(t, step, &n.lr, &beta1);
    const adamw o = optimiser(s);
    adamw_update(&o, step + 1, n.lr, beta1, model_params(l->model), model_grads(l->model));
    double updated = session_now();
    s->at.step++;
    s->data_seconds += loaded - start;
    s->model_seconds += computed - loaded;
    s->update_seconds += updated - computed;
    n.tokens = l->tokens;
    n.seconds = updated - start;
    return log_step(s, &n);
}

/* ---- on a device --------------------------------------------------------------------------------
 */

spectra_status session_open_steps(session *s)
{
    if (!s->learner.on_device)
        return SPECTRA_OK;
    s->pending = calloc(LEARNER_STEPS, sizeof *s->pending);
    for (int i = 0; i < LEARNER_STEPS && s->pending; i++) {
        s->pending[i].label = malloc((size_t)s->config->task.batch * sizeof *s->pending[i].label);
        if (!s->pending[i].label)
            return fail(SPECTRA_ENOMEM, "training: out of memory");
    }
    return s->pending ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "training: out of memory");
}

void session_close_steps(session *s)
{
    for (int i = 0; i < LEARNER_STEPS && s->pending; i++)
        free(s->pending[i].label);
    free(s->pending);
    s->pending = NULL;
}

/* Loss, predictions and norm of pending step i: entries i * accumulate ... of the journal. */
static spectra_status read_step(session *s, int64_t i, step_numbers *n)
{
    const task *t = &s->config->task;
    const pending_step *p = &s->pending[i];
    const int32_t *label = p->label;
    *n = (step_numbers){.finished = p->step + 1, .tokens = p->tokens, .lr = p->lr};
    for (int64_t part = 0; part < t->accumulate; part++) {
        model_device_entry e;
        spectra_status status =
            model_device_entry_at(s->learner.on_device, i * t->accumulate + part, &e);
        if (status != SPECTRA_OK) {
            s->at.step = p->step;
            return fail(status, "step %lld: %s", (long long)p->step + 1, spectra_message());
        }
        double sum = 0;
        for (int64_t b = 0; b < e.B; b++) {
            sum += (double)e.loss[b];
            n->correct += e.predicted[b] == label[b];
        }
        n->loss += sum / (double)e.B / (double)t->accumulate;
        n->norm = e.norm; /* of the last part */
        label += e.B;
    }
    return SPECTRA_OK;
}

spectra_status session_flush(session *s)
{
    int64_t count = s->pending_count, entries;
    if (count == 0)
        return SPECTRA_OK;
    double start = session_now();
    s->pending_count = 0;
    TRY(model_device_read(s->learner.on_device, &entries));
    double waited = session_now() - start;
    s->model_seconds += waited;
    double each = (s->pending_seconds + waited) / (double)count;
    s->pending_seconds = 0;
    for (int64_t i = 0; i < count; i++) {
        step_numbers n;
        TRY(read_step(s, i, &n));
        n.seconds = each;
        TRY(log_step(s, &n));
    }
    return SPECTRA_OK;
}

static spectra_status step_on_device(session *s)
{
    learner *l = &s->learner;
    const task *t = &s->config->task;
    const int64_t step = s->at.step;
    double beta1, start = session_now();
    learner_load(l, SPLIT_TRAIN, step);
    double loaded = session_now();
    pending_step *p = &s->pending[s->pending_count++];
    p->step = step;
    p->tokens = l->tokens;
    memcpy(p->label, l->label, (size_t)t->batch * sizeof *p->label);
    rate_at(t, step, &p->lr, &beta1);
    TRY(model_device_zero_grads(l->on_device));
    for (int64_t i = 0; i < t->accumulate; i++) {
        model_batch part = learner_part(l, i, t->accumulate);
        spectra_status status = model_device_step(l->on_device, &part, (uint64_t)step, (uint64_t)i,
                                                  1.0 / (double)t->accumulate);
        if (status != SPECTRA_OK)
            return fail(status, "step %lld: %s", (long long)step + 1, spectra_message());
    }
    const adamw o = optimiser(s);
    TRY(model_device_update(l->on_device, &o, step + 1, p->lr, beta1));
    double asked = session_now();
    s->at.step++;
    s->data_seconds += loaded - start;
    s->model_seconds += asked - loaded;
    s->pending_seconds += asked - start;
    if (s->pending_count == LEARNER_STEPS || s->pending_seconds >= flush_seconds)
        return session_flush(s);
    return SPECTRA_OK;
}

spectra_status session_step(session *s)
{
    return s->learner.on_device ? step_on_device(s) : step_on_host(s);
}
