/* Writes the scalars of a training run as a TensorBoard event file: protocol buffers in records
 * that carry masked CRC-32C checksums (tensorflow/core/lib/io/record_writer,
 * core/util/event.proto). Scalars only. */
#ifndef SPECTRA_FILE_TENSORBOARD_H
#define SPECTRA_FILE_TENSORBOARD_H

#include "spectraformer.h"

#include <jansson.h>

typedef struct event_file event_file;

/* A new file. SPECTRA_EIO, SPECTRA_ENOMEM. */
spectra_status events_open(const char *path, event_file **out);
/* Every number of the line, a log's, as scalar "split/name" of the line's step. SPECTRA_EIO. */
spectra_status events_line(event_file *f, const json_t *line);
void events_close(event_file *f);

#endif
