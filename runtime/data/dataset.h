/* Prepared data sets in memory, and the shuffled streams of examples from which training and
 * evaluation take their batches. Data sets are made by the readers of reader.h.
 *
 * A prepared split is one safetensors file with the tensors `tokens` (U8 or I32, all sequences end
 * to end), `offsets` (I64, n + 1; 2n + 1 where an example has two sequences) and `label` (I32, n),
 * and the metadata task, split, tokens and origin. */
#ifndef SPECTRA_DATA_DATASET_H
#define SPECTRA_DATA_DATASET_H

#include "spectraformer.h"

/* "train", "dev", "test", the names of the files but for their ending. */
extern const char *const dataset_splits[3];

typedef struct dataset dataset;

spectra_status dataset_open(const char *path, dataset **out);
void dataset_close(dataset *d);
int64_t dataset_count(const dataset *d);
int dataset_sides(const dataset *d);
int64_t dataset_label(const dataset *d, int64_t i);
/* Metadata "task", "split", "tokens", "origin"; NULL when absent. */
const char *dataset_metadata(const dataset *d, const char *key);
/* Number of tokens of one side of an example. */
int64_t dataset_length(const dataset *d, int64_t i, int side);
/* SPECTRA_ESHAPE unless every token is < vocab, every label < classes, and examples have `sides`
 * sequences. */
spectra_status dataset_check(const dataset *d, int64_t vocab, int64_t classes, int sides);
/* Example i into ids (length), padded with 0 at the end, cut if longer. */
void dataset_row(const dataset *d, int64_t i, int side, int64_t length, int32_t *ids);
/* Most frequent label and its share: what always guessing it would score. */
int64_t dataset_majority(const dataset *d, double *share);

/* An endless shuffled stream: pass k over the data is the permutation of (seed, use, k), a batch
 * may straddle two passes. Stateless: batch number `index` is a function of its arguments. */
typedef struct stream {
    const dataset *data;
    uint64_t seed;
    int use; /* distinguishes train and dev streams */
    int64_t batch;
    int64_t pass;   /* of the permutation held; -1 at first */
    int64_t *order; /* (count), owned: stream_close */
} stream;

spectra_status stream_open(const dataset *d, uint64_t seed, int use, int64_t batch, stream *out);
void stream_close(stream *s);
/* Example numbers of batch `index`: out (batch). */
void stream_batch(stream *s, int64_t index, int64_t *out);

#endif
