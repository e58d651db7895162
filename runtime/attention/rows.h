/* Where the rows of a sequence are in arrays, padded or packed, as spectra_problem describes them.
 */
#ifndef SPECTRA_ATTENTION_ROWS_H
#define SPECTRA_ATTENTION_ROWS_H

#include "spectraformer.h"

/* Element offset of row 0 of (sequence b, head h). */
static inline int64_t rows_at(const spectra_rows *r, const int64_t *begin, int64_t b, int64_t h)
{
    return (begin ? begin[b] * r->stride_t : b * r->stride_b) + h * r->stride_h;
}

/* Rows of sequence b. */
static inline int64_t rows_length(const int64_t *len, int64_t b, int64_t padded)
{
    return len ? len[b] : padded;
}

/* Row number of the first token of sequence b in arrays of one entry a token (masks, den). */
static inline int64_t rows_first(const int64_t *begin, int64_t b, int64_t padded)
{
    return begin ? begin[b] : b * padded;
}

/* Rows such arrays have. */
static inline int64_t rows_total(const int64_t *begin, const int64_t *len, int64_t B,
                                 int64_t padded)
{
    if (!begin)
        return B * padded;
    int64_t total = 0;
    for (int64_t b = 0; b < B; b++)
        if (begin[b] + len[b] > total)
            total = begin[b] + len[b];
    return total;
}

#endif
