/* Inside of training: one session of a run, which is what happens from the start of the program (or
 * from --resume) until it stops, and the training steps of the session. Steps may still be under
 * way on a device when the next ones are asked for; their numbers are logged when they are read.
 */
#ifndef SPECTRA_TRAIN_SESSION_H
#define SPECTRA_TRAIN_SESSION_H

#include "file/jsonl.h"
#include "train/checkpoint.h"
#include "train/trainer.h"

enum { FILE_CONFIG, FILE_LOG, FILE_CHECKPOINT, FILE_BEST, FILE_REPORT, FILES };

/* A step whose numbers are still in the runner's journal. */
typedef struct pending_step {
    int64_t step, tokens; /* number of the step from 0 */
    double lr;
    int32_t *label; /* (batch), owned */
} pending_step;

typedef struct session {
    const train_config *config;
    const train_control *control;
    trainer trainer;
    float *moment[2];
    checkpoint at;
    int64_t first_step; /* at.step when the session began */
    char *path[FILES];
    const char *run;
    run_log *log;
    const char *reason; /* why training ended */
    bool testing;       /* the checkpoint is written, the model may hold other parameters */
    train_progress progress;
    double started;
    double data_seconds, model_seconds, update_seconds, evaluation_seconds;
    int64_t tokens;
    /* steps not yet read, and seconds since the first of them, evaluations left out */
    pending_step *pending; /* (runner_steps), owned */
    int64_t pending_count;
    double pending_seconds;
} session;

double session_now(void);
int64_t session_peak_bytes(void); /* of the process */
void session_report(session *s);

/* Memory for steps whose numbers are not read yet. SPECTRA_ENOMEM. */
spectra_status session_open_steps(session *s);
void session_close_steps(session *s);
/* One step, s->at.step. It may still be under way afterwards, and is then neither logged nor
 * reported. SPECTRA_EDIVERGED names step and tensor, maybe some steps late. */
spectra_status session_step(session *s);
/* What the journal still holds of earlier steps goes to the log. */
spectra_status session_flush(session *s);

#endif
