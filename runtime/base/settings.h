/* Settings described by tables: each row says what a setting is called, where in a struct its value
 * lives and which values are allowed. Task files (Lua), config.json and the command line all read
 * and check values through such a table, so that names and limits are stated once. */
#ifndef SPECTRA_BASE_SETTINGS_H
#define SPECTRA_BASE_SETTINGS_H

#include "spectraformer.h"

#include <jansson.h>

enum { SETTING_TEXT = 512 }; /* bytes of every text setting, its end included */

typedef enum setting_type { SETTING_INT, SETTING_REAL, SETTING_BOOL, SETTING_STRING } setting_type;

typedef struct setting {
    const char *name;
    setting_type type;  /* int64_t, double, bool, char[SETTING_TEXT] */
    size_t offset;      /* into the struct */
    double low, high;   /* allowed, both included; numbers only */
    const char *choice; /* strings: "softmax|gaussian"; NULL: any */
    const char *doc;
    const char
        *initial;      /* value before any is given, as setting_parse reads it; NULL: all bits 0 */
    const char *alias; /* a former name, still read; NULL: none */
    bool training;     /* of an attention: only training has a use for it */
} setting;

/* The row called `name`, or with that alias, or NULL. */
const setting *setting_find(const setting *table, int count, const char *name);

/* Store one value into the struct at base. `where` begins the sentence on failure ("--steps",
 * "lra-text: steps"); SPECTRA_EINVAL says what is allowed. */
spectra_status setting_put_int(const setting *s, void *base, int64_t value, const char *where);
spectra_status setting_put_real(const setting *s, void *base, double value, const char *where);
spectra_status setting_put_bool(const setting *s, void *base, bool value, const char *where);
spectra_status setting_put_text(const setting *s, void *base, const char *value, const char *where);
/* From characters, by the setting's type; a boolean is "true" or "false". */
spectra_status setting_parse(const setting *s, void *base, const char *text, const char *where);
/* "2000", "0.1", "true", "softmax": what setting_parse makes the same value of. */
const char *setting_text(const setting *s, const void *base, char *buf, size_t size);
/* "a whole number from 1 to 1024", "true or false", "softmax|gaussian": what is allowed. */
const char *setting_allowed(const setting *s, char *buf, size_t size);
bool setting_equal(const setting *s, const void *a, const void *b);

/* Adds every setting of the table to object (new reference kept by the object). */
spectra_status settings_to_json(const setting *table, int count, const void *base, json_t *object);
/* Every setting of the table must be there, or its alias; others are ignored. */
spectra_status settings_from_json(const setting *table, int count, void *base, const json_t *object,
                                  const char *where);

#endif
