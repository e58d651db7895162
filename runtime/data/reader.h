/* Where the data of a task comes from: one row for each task whose data set can be generated or
 * prepared here, with the settings that this takes. The command line reads the rows for its options
 * and its help. A new task needs a folder data/TASK/ and a line in table.c.
 *
 * A reader writes prepared splits as dataset.h describes them, with the help of writer.h. */
#ifndef SPECTRA_DATA_READER_H
#define SPECTRA_DATA_READER_H

#include "base/settings.h"

/* generate: by a rule, from a seed. prepare: from the task's original files. */
typedef enum reader_verb { READER_GENERATE, READER_PREPARE, READER_VERBS } reader_verb;
extern const char *const reader_verb_names[READER_VERBS];

typedef struct reader_request {
    const char *from;    /* prepare: folder of the original files */
    const char *out_dir; /* of the prepared splits, made if it is not there */
    bool overwrite;      /* otherwise files that exist are refused */
    uint64_t seed;       /* generate */
    const void *options; /* the reader's, as its settings fill them in */
} reader_request;

typedef struct reader_setting {
    setting setting; /* its name is the option's, as in "keep-tsv" */
    unsigned verbs;  /* that take it: 1 << READER_GENERATE ... */
    const char *metavar;
} reader_setting;

enum { READER_OPTIONS = 4096 }; /* most bytes of a reader's options */

typedef struct task_reader {
    const char *name; /* of the task */
    const reader_setting *settings;
    int settings_count;
    const void *defaults; /* options before any setting was given */
    size_t options_bytes; /* of them, READER_OPTIONS at most */
    spectra_status (*run[READER_VERBS])(const reader_request *r); /* NULL: it cannot do that */
} task_reader;

/* Ends with NULL. */
extern const task_reader *const task_readers[];
/* SPECTRA_EUNSUPPORTED names the tasks that have a reader with that verb. */
spectra_status reader_find(const char *task, reader_verb verb, const task_reader **out);
/* The reader's setting of that name; NULL. */
const reader_setting *reader_setting_find(const task_reader *reader, const char *name);

#endif
