/* Shared libraries that a machine may or may not have (OpenBLAS, CUDA's driver, NVRTC), opened at
 * run time together with the functions that are needed of them. One binary thus serves machines
 * with and without them; whether a library is required is for the caller to decide. */
#ifndef SPECTRA_BASE_LIBRARY_H
#define SPECTRA_BASE_LIBRARY_H

#include "base/status.h"

typedef struct library_symbol {
    const char *name;
    void *slot;    /* address of a pointer to a function */
    bool optional; /* NULL where the library is too old for it */
} library_symbol;

typedef struct library {
    void *handle;
    const char *name; /* under which it was found */
} library;

/* The first of `names` that is there and has all of the functions. `what` is for the sentence,
 * `also` (may be NULL) ends it. SPECTRA_EUNSUPPORTED. */
spectra_status library_open(const char *what, const char *const *names, int count,
                            const library_symbol *symbols, int symbol_count, const char *also,
                            library *out);

#endif
