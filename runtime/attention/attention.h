/* What an attention is inside the library: one row of data and functions, its kind, and the struct
 * behind spectra_attention. attention.c has the public functions, which only call the kind's;
 * table.c lists the kinds; options.c reads their settings. Everything else about an attention is in
 * a folder of its own, host.c for the CPU and device.c for devices (device.h).
 *
 * Kinds own threads, splits of the sequence and the layout of their memory. The arithmetic is in
 * kernels (kernel/).
 */
#ifndef SPECTRA_ATTENTION_ATTENTION_H
#define SPECTRA_ATTENTION_ATTENTION_H

#include "attention/rows.h"
#include "base/settings.h"

typedef struct attention_kind attention_kind;

struct spectra_attention {
    const attention_kind *kind;
    spectra_attention_desc desc; /* attn is the kind's; what other texts point to is gone */
    void *own;                   /* the kind's */
};

typedef struct attention_views {
    spectra_rows q, k, v, o, go, gq, gk, gv;
} attention_views;

/* What is special about a kind, for those who prepare its inputs. */
enum {
    ATTENTION_PADDED = 1,        /* padding takes part: sequences come padded, never packed */
    ATTENTION_COUPLES_BATCH = 2, /* a sequence's result depends on the others of its batch */
    ATTENTION_SHARED_QK = 4,     /* q and k are one projection of the model */
    ATTENTION_DROPOUT = 8,       /* drops probabilities (spectra_problem.dropout) */
    ATTENTION_CAUSAL = 16,       /* can be causal */
    ATTENTION_BF16 = 32,         /* has products of bf16 */
    ATTENTION_FEATURES = 64      /* is of a component function and a weight matrix (performer.h) */
};
/* "padded", "causal" ..., by bit; NULL-terminated. */
extern const char *const attention_trait_names[];

/* A kind's own settings: a struct described by a table of settings. */
enum { ATTENTION_OPTIONS = 4096 };
typedef union attention_options {
    char bytes[ATTENTION_OPTIONS];
    int64_t integer;
    double real;
} attention_options;

/* A tensor that makes the attention together with its trained parameters. */
typedef struct attention_constant {
    const char *name;
    int ndim;
    int64_t shape[2];
    float *data;
} attention_constant;
enum { ATTENTION_CONSTANTS = 4 };

/* As spectra_attention_trained_floats ... _gradient. */
typedef struct attention_trained_ops {
    int64_t (*floats)(const spectra_attention *att);
    int (*count)(const spectra_attention *att);
    spectra_trained (*tensor)(const spectra_attention *att, int i);
    void (*start)(const spectra_attention *att, float *theta);
    void (*set)(spectra_attention *att, const float *theta);
    void (*gradient)(const spectra_attention *att, const spectra_problem *p, const void *work,
                     const float *theta, float *gtheta);
} attention_trained_ops;

/* As spectra_attention_state_bytes ... _step, of a causal attention. */
typedef struct attention_decode_ops {
    int64_t (*state_bytes)(const spectra_attention *att, int64_t B);
    int64_t (*step_bytes)(const spectra_attention *att);
    spectra_status (*clear)(const spectra_attention *att, int64_t B, const uint8_t *active,
                            void *state);
    spectra_status (*prefill)(const spectra_attention *att, const spectra_problem *p,
                              const attention_views *x, void *state, void *work);
    spectra_status (*step)(const spectra_attention *att, int64_t B, const uint8_t *active,
                           const attention_views *x, void *state, void *work);
} attention_decode_ops;

/* A slot that is NULL is what the kind lacks; only init, release, saved_bytes, work_bytes, forward
 * and backward must be there. */
struct attention_kind {
    const char *name, *doc; /* doc: a line of `list` */
    unsigned traits;
    const setting *settings; /* of the struct that `options` points to below */
    int settings_count;
    /* Fields of the public description that are settings of the kind, into options. */
    void (*from_desc)(const spectra_attention_desc *desc, void *options);

    /* desc is filled in and checked, options are read; sets own. release follows any init. */
    spectra_status (*init)(spectra_attention *att, const void *options);
    void (*release)(spectra_attention *att);
    spectra_status (*set)(spectra_attention *att, const char *name, const float *data, int ndim,
                          const int64_t *shape);
    const float *(*matrix)(const spectra_attention *att);
    spectra_status (*redraw)(spectra_attention *att, uint64_t seed);
    spectra_status (*parameter)(const spectra_attention *att, const spectra_problem *p,
                                const char *name, const void *saved, float *out);
    int (*constants)(spectra_attention *att, attention_constant out[ATTENTION_CONSTANTS]);
    void (*constants_changed)(spectra_attention *att);
    /* Before a long job on the CPU: compiles what makes it faster. */
    void (*prefer)(const spectra_attention_desc *desc, const void *options);
    /* What it was generated from, for the record, into the object `build`. */
    spectra_status (*built_from)(const spectra_attention_desc *desc, const void *options,
                                 json_t *build);

    int64_t (*saved_bytes)(const spectra_attention *att, const spectra_problem *p);
    int64_t (*work_bytes)(const spectra_attention *att, const spectra_problem *p);
    spectra_status (*forward)(const spectra_attention *att, const spectra_problem *p,
                              const attention_views *x, void *saved, void *work);
    spectra_status (*backward)(const spectra_attention *att, const spectra_problem *p,
                               const attention_views *x, void *saved, void *work);
    const attention_trained_ops *trained;
    const attention_decode_ops *decode;
    const struct attention_device_ops *device;
};

/* ---- table.c: the kinds ----------------------------------------------------------------------
 */

typedef struct attention_row {
    const attention_kind *kind;
    const attention_kind *official; /* takes its place under desc.official; may be the same */
} attention_row;
/* Ends with a row of NULL. */
extern const attention_row attention_table[];

/* ---- options.c: names and settings -----------------------------------------------------------
 */

/* SPECTRA_ENOTFOUND gives the nearest name; SPECTRA_EINVAL for one without official behaviour. */
spectra_status attention_find(const char *name, bool official, const attention_kind **out);
/* The setting called `name`, or NULL. */
const setting *attention_setting(const attention_kind *kind, const char *name);
/* Setting number i of all kinds, each name once; NULL behind the last. */
const setting *attention_setting_at(int i);
/* The settings' initial values; then what "name=value,name=value" says, into out. SPECTRA_EINVAL
 * names what the kind does not know or allow. */
void attention_options_start(const attention_kind *kind, attention_options *out);
spectra_status attention_options_parse(const attention_kind *kind, const char *text,
                                       attention_options *out);
/* All settings as such a text. SPECTRA_EINVAL where it does not fit. */
spectra_status attention_options_text(const attention_kind *kind, const attention_options *options,
                                      char *buf, size_t size);
/* Of a description: its kind and its settings. */
spectra_status attention_read_desc(const spectra_attention_desc *desc, const attention_kind **kind,
                                   attention_options *options);

/* ---- attention.c -----------------------------------------------------------------------------
 */

/* What, with the trained parameters, makes the attention: to be saved, and restored in place. */
int attention_constants(spectra_attention *att, attention_constant out[ATTENTION_CONSTANTS]);
/* After constants were overwritten. */
void attention_constants_changed(spectra_attention *att);
/* Before training or attending for long on the CPU with such an attention; no failure. */
void attention_prefer(const spectra_attention_desc *desc);
spectra_status attention_built_from(const spectra_attention_desc *desc, json_t *build);
/* Refuses packed sequences where padding takes part. */
spectra_status attention_check_padded(const spectra_attention *att, const spectra_problem *p);

#endif
