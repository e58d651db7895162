/* Inside of the host's passes: their memory, and what walking the plan (host.c) asks of its
 * operations (host_ops.c); host_memory.c lays the memory out. */
#ifndef SPECTRA_MODEL_HOST_INTERNAL_H
#define SPECTRA_MODEL_HOST_INTERNAL_H

#include "model/call.h"
#include "model/host.h"

enum { CHUNK = 120, SLOTS = 32 };

/* Of one thread. Cheap values of one width share a buffer, gradients have others. */
typedef struct chunk_scratch {
    float *buffer[2][DIMS]; /* (CHUNK, width): values, gradients */
    float *dropout_mask;    /* (CHUNK, max(E, F)) factors */
} chunk_scratch;

struct host_pass {
    arena memory;
    model_part part[MODEL_PARTS]; /* of memory */
    int parts;
    values v;
    float *ones; /* (max(E, F)) a row of factors without dropout */
    /* of the last pass */
    spectra_status status;
    pass_shape shape;
    int threads;
    chunk_scratch *local; /* (threads) */
    float *transposed;    /* (count - dense) tiled matrices at their offsets; NULL: none is tiled */
    float *slots;         /* (SLOTS, count - dense) partial gradients */
};

/* Whether an operation's products are tiles of our own, which read the transposed matrix. */
bool host_tiled(const model_config *c, plan_step s);
/* Makes the transposes that the pass reads. */
void host_transpose(const pass *p);
/* Operation number k of the plan, forward or backward, for the rows of a chunk; those that work on
 * the whole batch take no chunk. What fails, which only attention can, is kept in `status`. */
void host_forward_op(const pass *p, const call_site *s, int64_t k);
void host_backward_op(const pass *p, const call_site *s, int64_t k);

#endif
