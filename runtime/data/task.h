/* Benchmark tasks: the model and training settings of specs/task/NAME.lua, which the build embeds
 * as text. A task file is Lua that returns one table; it sees no functions at all. Settings that it
 * does not give are those of specs/base/BASE.lua, which its field `base` names. */
#ifndef SPECTRA_DATA_TASK_H
#define SPECTRA_DATA_TASK_H

#include "base/settings.h"

typedef struct task {
    char name[SETTING_TEXT], doc[SETTING_TEXT];
    int64_t sequences;              /* an example */
    int64_t vocab, length, classes; /* length: padded */
    int64_t embed, hidden, heads, head_dim, layers;
    bool tied, cls;
    double dropout, attention_dropout;
    int64_t batch, accumulate; /* a batch is done in `accumulate` equal parts */
    double lr, weight_decay;
    int64_t warmup, steps;
    int64_t eval_every, eval_batches;
} task;

enum { TASK_SETTINGS = 21 };
/* All but name and doc. */
extern const setting task_settings[TASK_SETTINGS];

/* Names of the tasks of this build, NULL-terminated (generated). */
extern const char *const task_spec_name[];
extern const char *const task_spec_text[];
extern const char *const task_base_name[];
extern const char *const task_base_text[];

/* SPECTRA_ENOTFOUND names the nearest task; SPECTRA_EFORMAT the file and the field. */
spectra_status task_load(const char *name, task *out);
/* The same from the text of a task file; name is used in messages only. */
spectra_status task_parse(const char *name, const char *text, task *out);

#endif
