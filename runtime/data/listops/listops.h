/* Inside of lra-listops: expressions as codes, and splits being collected before they are written.
 *
 * Codes are 0..9 for digits, 10..13 for MAX MED MIN SM (which open a list) and 14 for the end of a
 * list; round parentheses carry nothing and have none. A code + 1 is the token's id.
 */
#ifndef SPECTRA_DATA_LISTOPS_LISTOPS_H
#define SPECTRA_DATA_LISTOPS_LISTOPS_H

#include "data/dataset.h"

#include <stdio.h>

enum {
    LISTOPS_MAX = 10,
    LISTOPS_MED,
    LISTOPS_MIN,
    LISTOPS_SM,
    LISTOPS_END,
    LISTOPS_SHORTEST = 501, /* codes of a kept expression */
    LISTOPS_LONGEST = 1999,
    LISTOPS_DEPTH = 512 /* nesting the parser accepts */
};

/* Value of an operator over the values 0..9 that occur count[value] times. */
int listops_apply(int op, const int64_t count[10]);
/* codes (at least length/2 + 1 entries) and their number; codes may be NULL. */
spectra_status listops_parse(const char *text, int64_t length, uint8_t *codes, int64_t *count,
                             int *value);
/* LRA's printed form of one expression. */
void listops_print(FILE *out, const uint8_t *codes);

/* One split, growing. */
typedef struct listops_split {
    uint8_t *tokens;
    int64_t *offsets; /* (rows + 1) once there is a row */
    int32_t *label;
    int64_t rows, row_capacity, token_capacity;
} listops_split;

/* SPECTRA_ENOMEM. */
spectra_status listops_split_add(listops_split *s, listops_tokens kind, const uint8_t *codes,
                                 int64_t n, int label);
spectra_status listops_split_write(const listops_split *s, const char *out_dir, const char *name,
                                   listops_tokens kind, const char *origin);
void listops_split_free(listops_split *s);

/* Names of the splits (train, dev, test) and of LRA's files. */
extern const char *const listops_split_names[3];
extern const char *const listops_tsv_names[3];
/* Makes out_dir; SPECTRA_EINVAL if one of the splits is there and `overwrite` is not set. */
spectra_status listops_folder(const char *out_dir, bool overwrite);

#endif
