/* The log of a training run, log.jsonl: one JSON object per line, each with at least "step" (the
 * number of steps finished) and "split" (train, dev, test or end). The same numbers also go into a
 * TensorBoard file (tensorboard.h). */
#ifndef SPECTRA_FILE_JSONL_H
#define SPECTRA_FILE_JSONL_H

#include "spectraformer.h"

#include <jansson.h>

typedef struct run_log run_log;

/* keep < 0: a new file. Otherwise the lines of training, of dev and of sessions' ends up to step
 * `keep` stay, and what a stopped run wrote beyond its checkpoint goes. */
spectra_status log_open(const char *path, int64_t keep, run_log **out);
void log_close(run_log *log);
/* Takes over the line. A line that could not be written whole is cut off again (SPECTRA_EIO). */
spectra_status log_line(run_log *log, json_t *line);

/* Calls `each` for every line of the file; SPECTRA_EFORMAT names file:line. A last line without its
 * end is ignored. */
spectra_status log_read(const char *path, spectra_status (*each)(void *context, const json_t *line),
                        void *context);

#endif
