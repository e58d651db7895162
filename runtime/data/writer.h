/* Collects one split of a prepared data set, example by example, and writes the file that dataset.h
 * reads. It serves tasks whose examples are one sequence of tokens below 256. */
#ifndef SPECTRA_DATA_WRITER_H
#define SPECTRA_DATA_WRITER_H

#include "spectraformer.h"

typedef struct split_writer {
    uint8_t *tokens;
    int64_t *offsets; /* (rows + 1) once there is a row */
    int32_t *label;
    int64_t rows, row_capacity, token_capacity;
} split_writer;

/* Place for n more tokens, at *out. SPECTRA_ENOMEM. */
spectra_status split_writer_room(split_writer *w, int64_t n, uint8_t **out);
/* An example of the first n tokens there. SPECTRA_ENOMEM. */
spectra_status split_writer_add(split_writer *w, int64_t n, int label);
/* Into out_dir/SPLIT.safetensors; the texts become its metadata. SPECTRA_EIO, SPECTRA_ENOMEM. */
spectra_status split_writer_write(const split_writer *w, const char *out_dir, const char *split,
                                  const char *task, const char *tokens, const char *origin);
void split_writer_free(split_writer *w);
/* Makes out_dir; SPECTRA_EINVAL if one of the splits is there and `overwrite` is not set. */
spectra_status split_folder(const char *out_dir, bool overwrite);

#endif
