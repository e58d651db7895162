/* Prepared data sets in memory, and the streams of batches training and evaluation draw.
 *
 * A prepared split is one safetensors file: `tokens` (U8 or I32, all sequences end to end),
 * `offsets` (I64, n + 1; n*sides + 1 for two sequences an example), `label` (I32, n), and metadata:
 * task, split, tokenisation, origin.
 */
#ifndef SPECTRA_DATA_DATASET_H
#define SPECTRA_DATA_DATASET_H

#include "spectraformer.h"

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

/* ---- lra-listops ---------------------------------------------------------------------------- */

/* Which brackets stay: A, the reference's, drops all of them (14 ids); B keeps the closing one of a
 * list (15 ids), which makes the end of every list visible. Digits are 1..10, MAX MED MIN
 * SM 11..14, the closing bracket 15. */
typedef enum listops_tokens { LISTOPS_A, LISTOPS_B } listops_tokens;

typedef struct listops_options {
    listops_tokens tokens;
    int64_t rows[3]; /* generate: of train, dev, test */
    uint64_t seed;   /* generate */
    bool keep_tsv;   /* generate: LRA's basic_{train,val,test}.tsv as well (CRLF) */
    bool overwrite;  /* otherwise files that exist are refused */
} listops_options;

/* Distinct expressions of 500 < length < 2000 by the rules of LRA's generator; writes
 * out_dir/{train,dev,test}.safetensors. A function of rows and seed alone. */
spectra_status listops_generate(const char *out_dir, const listops_options *options);
/* The same files from LRA's basic_{train,val,test}.tsv (LF or CRLF). Every row is evaluated;
 * SPECTRA_EFORMAT with file:line where it is malformed or its Target is not its value. */
spectra_status listops_prepare(const char *tsv_dir, const char *out_dir,
                               const listops_options *options);
/* Value of one expression in LRA's printed form; SPECTRA_EFORMAT with the column. */
spectra_status listops_evaluate(const char *text, int64_t length, int *value);

#endif
