/* How functions report failure: they return a status code, and leave a sentence for people that
 * spectra_message gives back in the same thread. Nothing is printed and nothing exits. */
#ifndef SPECTRA_BASE_STATUS_H
#define SPECTRA_BASE_STATUS_H

#include "spectraformer.h"

/* Records the sentence and returns `status`, for `return fail(SPECTRA_EIO, "%s: %s", path, why);`
 */
spectra_status fail(spectra_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Passes a failure on: `TRY(npy_read(...));` */
#define TRY(call)                           \
    do {                                    \
        spectra_status try_status = (call); \
        if (try_status != SPECTRA_OK)       \
            return try_status;              \
    } while (0)

/* The entry of `names` nearest to `name` by edit distance, for "unknown feature 'sadref', did you
 * mean 'saderf'?"; NULL when nothing is near (distance > max(2, length/3)). */
const char *nearest_name(const char *name, const char *const *names, int count);

#endif
