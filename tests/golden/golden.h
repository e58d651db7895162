/* The golden runner's parts: what a case of an index is, reading its arrays, comparing.
 *
 * An index (index.json) lists cases; a case names its arrays (key -> file, role) and a tolerance
 * for each output. Nothing about a case is known in advance: shapes come from the arrays, settings
 * from the case's params.
 */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include "file/npy.h"
#include "spectraformer.h"

#include <jansson.h>

typedef struct golden_case {
    const char *dir; /* of the index: paths of files are relative to it */
    json_t *json;
    const char *name, *kind, *attn, *behaviour; /* attn NULL: null in the index */
    json_t *params, *files, *tolerance;         /* objects */
} golden_case;

enum { GOLDEN_TEXT = 512 };

/* What running a case gave. */
typedef enum golden_verdict {
    GOLDEN_PASSED,
    GOLDEN_FAILED,
    GOLDEN_SKIPPED,
    GOLDEN_UNUSABLE
} golden_verdict;

typedef struct golden_result {
    golden_verdict verdict;
    int compared;            /* outputs compared */
    double worst, tolerance; /* of the output nearest to (or furthest beyond) its tolerance */
    char output[GOLDEN_TEXT];
    char reason[GOLDEN_TEXT]; /* why it was skipped, is unusable, or could not be run */
} golden_result;

/* Where attention runs; NULL: on the CPU. */
extern struct device *golden_device;

/* Each runs one case; result->verdict starts as GOLDEN_PASSED. */
void golden_attention(const golden_case *c, golden_result *result);
void golden_model(const golden_case *c, golden_result *result);
void golden_optimizer(const golden_case *c, golden_result *result);

/* Ends a case: the verdict with a printf sentence. Returns false, for `return golden_stop(...)`. */
bool golden_stop(golden_result *r, golden_verdict verdict, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* True if the status is SPECTRA_OK; otherwise ends the case as failed with the library's message.
 */
bool golden_ok(golden_result *r, const char *what, spectra_status status);

/* False, and the case ends as skipped, if this build lacks a name in the description. */
bool golden_known(golden_result *r, const spectra_attention_desc *desc);

/* Settings: a missing one ends the case as unusable. */
bool golden_integer(golden_result *r, const json_t *from, const char *key, int64_t *out);
bool golden_number(golden_result *r, const json_t *from, const char *key, double *out);

bool golden_has(const golden_case *c, const char *key);
/* Role of a file: "input", "weight", "random", "intermediate", "output". */
const char *golden_role(const json_t *file);
/* Array `key` as float32; a missing or unreadable one ends the case as unusable. */
bool golden_read(const golden_case *c, golden_result *r, const char *key, npy_array *out);
/* The same if the case has it; otherwise out->data = NULL and true. */
bool golden_read_optional(const golden_case *c, golden_result *r, const char *key, npy_array *out);
/* Checks that `a` has these dimensions; -1 means any. Otherwise ends the case as unusable. */
bool golden_shape(golden_result *r, const char *key, const npy_array *a, int ndim,
                  const int64_t *shape);

/* Tolerance of an output: its own entry, or that of "prefix.*"; negative if there is none. */
double golden_tolerance(const golden_case *c, const char *key);

/* Compares `got` with reference array `key`: max|got - ref| <= tolerance * scale, where scale is
 * max|ref| if given as a negative number. got_count must be the reference's. A failure prints its
 * line (case, output, index, got, want) at once. */
void golden_compare(const golden_case *c, golden_result *r, const char *key, const float *got,
                    int64_t got_count, double tolerance, double scale);

#endif
