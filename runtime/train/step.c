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
/* Numbers are read from the journal after so many seconds, or when it is full. */
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

void session_report(session *s)
{
    s->progress.seconds = session_now() - s->started;
    if (s->control->progress)
        s->control->progress(s->control->context, &s->progress);
}

/* ---- optimiser and log -------------------------------------------------------------------
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
                   .n = model_param_count(s->trainer.model),
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
    if (line && runner_device(s->trainer.runner))
        json_object_set_new(line, "device_peak_bytes",
                            json_integer(runner_device_peak(s->trainer.runner)));
    return log_line(s->log, line);
}

/* ---- steps --------------------------------------------------------------------------------------
 */

spectra_status session_open_steps(session *s)
{
    const int64_t steps = runner_steps(s->trainer.runner);
    s->pending = calloc((size_t)steps, sizeof *s->pending);
    for (int64_t i = 0; i < steps && s->pending; i++) {
        s->pending[i].label = malloc((size_t)s->config->task.batch * sizeof *s->pending[i].label);
        if (!s->pending[i].label)
            return fail(SPECTRA_ENOMEM, "training: out of memory");
    }
    return s->pending ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "training: out of memory");
}

void session_close_steps(session *s)
{
    for (int64_t i = 0; s->pending && i < runner_steps(s->trainer.runner); i++)
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
        runner_entry e;
        spectra_status status = runner_entry_at(s->trainer.runner, i * t->accumulate + part, &e);
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
    TRY(runner_read(s->trainer.runner, &entries));
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

spectra_status session_step(session *s)
{
    trainer *tr = &s->trainer;
    const task *t = &s->config->task;
    const int64_t step = s->at.step;
    double beta1, start = session_now();
    trainer_load(tr, SPLIT_TRAIN, step);
    double loaded = session_now();
    pending_step *p = &s->pending[s->pending_count];
    p->step = step;
    p->tokens = tr->tokens;
    memcpy(p->label, tr->label, (size_t)t->batch * sizeof *p->label);
    rate_at(t, step, &p->lr, &beta1);
    TRY(runner_zero_grads(tr->runner));
    for (int64_t i = 0; i < t->accumulate; i++) {
        const model_batch part = trainer_part(tr, i, t->accumulate);
        spectra_status status = runner_step(tr->runner, &part, (uint64_t)step, (uint64_t)i,
                                            1.0 / (double)t->accumulate);
        if (status != SPECTRA_OK)
            return fail(status, "step %lld: %s", (long long)step + 1, spectra_message());
    }
    /* the gradients are complete: a run on several machines would add them up here */
    double computed = session_now();
    const adamw o = optimiser(s);
    TRY(runner_update(tr->runner, &o, step + 1, p->lr, beta1));
    double updated = session_now();
    s->at.step++;
    s->pending_count++;
    s->data_seconds += loaded - start;
    s->model_seconds += computed - loaded;
    s->update_seconds += updated - computed;
    s->pending_seconds += updated - start;
    if (runner_full(tr->runner) || s->pending_seconds >= flush_seconds)
        return session_flush(s);
    return SPECTRA_OK;
}
