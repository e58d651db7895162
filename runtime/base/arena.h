/* A block of memory from which arrays are taken one behind the other, so that a whole pass needs
 * one allocation. Taking from an arena without a block only counts: the sizes are added up first,
 * then the block is made, then the same calls give every array its place. The block may be memory
 * of a device, as an arena never looks into it. */
#ifndef SPECTRA_BASE_ARENA_H
#define SPECTRA_BASE_ARENA_H

#include "spectraformer.h"

enum { ARENA_ALIGN = 256 }; /* bytes; what CUDA's allocations have */

typedef struct arena {
    char *base;         /* NULL: only counts */
    int64_t size, used; /* bytes */
} arena;

/* Bytes rounded up to a multiple of ARENA_ALIGN, on which every array of a block begins. */
static inline int64_t arena_round(int64_t bytes)
{
    return (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

/* `bytes` of it, aligned; NULL while counting. */
void *arena_take(arena *a, int64_t bytes);
/* Makes room for `bytes` in host memory, with an eighth to spare; contents are lost and all is
 * free again. SPECTRA_ENOMEM. */
spectra_status arena_reserve(arena *a, int64_t bytes);
void arena_release(arena *a);

#endif
