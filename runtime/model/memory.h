/* Memory of one pass: the table of everything it computes, and a place for each. The host and
 * devices lay out the same table; only cheap values differ, of which the host keeps no more than a
 * chunk of rows. What belongs to one of the two alone (partial gradients, bits of dropout) is taken
 * behind the table by host_memory.c and device_batch.c.
 */
#ifndef SPECTRA_MODEL_MEMORY_H
#define SPECTRA_MODEL_MEMORY_H

#include "base/arena.h"
#include "model/plan.h"

/* What a value has a row for. */
typedef enum value_rows { OF_TOKENS, OF_SEQUENCES, OF_EXAMPLES } value_rows;

/* When a value is there. */
enum {
    PER_LAYER = 1, /* training keeps one a layer for backward; else all layers share one */
    CHEAP = 2,     /* the host has a chunk's only, and backward computes it again */
    TRAINING = 4,  /* gradients: evaluation has none */
    GIVEN = 8      /* comes with the batch; devices get it in the uploaded block */
};

typedef struct value_row {
    const char *name; /* in reports of memory and of divergence */
    value_rows rows;
    dim_id columns;
    unsigned live;
    value_id gradient;
} value_row;
extern const value_row value_table[VALUES];
/* The row of a value; of NEXT_X that of X. */
const value_row *value_about(value_id id);
static inline bool value_is_cheap(value_id id)
{
    return value_about(id)->live & CHEAP;
}

/* Sizes that a pass is made for; a device's rows and max_seqlen are rounded up. */
typedef struct pass_shape {
    bool train;
    int64_t B, sequences, rows, max_seqlen;
} pass_shape;

/* An arena that also adds up what its parts are for. */
typedef struct memory_layout {
    arena arena;
    model_part *part; /* (MODEL_PARTS); NULL: not wanted */
    int parts;
} memory_layout;
/* As arena_take, counted under a name that must outlive it. */
void *memory_take(memory_layout *to, const char *name, int64_t bytes);
float *memory_floats(memory_layout *to, const char *name, int64_t n);
void memory_count(memory_layout *to, const char *name, int64_t bytes);

/* Where every value is. Layers that share one have the same pointers. */
typedef struct values {
    int64_t layers;
    float **at;   /* (VALUES, layers + 1) */
    void **saved; /* (layers, ATTENTION_CALLS) what attentions keep for backward */
    void *work;   /* scratch of any attention */
} values;
enum { ATTENTION_CALLS = 2 };

spectra_status values_new(int64_t layers, values *out);
void values_free(values *v);
/* Says where a value that was given is. */
void values_give(values *v, value_id id, float *x);
/* NEXT_X is X of the next layer. */
float *value_at(const values *v, value_id id, int64_t layer);

/* Rows of a value in a pass, and its columns. */
int64_t value_height(const pass_shape *s, value_id id);
int64_t value_width(const model_config *c, value_id id);

/* Bytes that call number `call` of a layer's attention keeps, and that it needs as scratch. */
typedef struct attention_room {
    void (*bytes)(const void *of, int64_t layer, int call, int64_t *saved, int64_t *work);
    const void *of;
    int calls;
} attention_room;

/* Gives every value its place; with `chunked`, the host's way, those that are cheap get none. */
void memory_place(const model_config *c, const pass_shape *s, bool chunked,
                  const attention_room *attention, memory_layout *to, values *v);

#endif
