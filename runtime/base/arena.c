#include "base/arena.h"

#include "base/status.h"

#include <stdlib.h>

void *arena_take(arena *a, int64_t bytes)
{
    void *piece = a->base ? a->base + a->used : NULL;
    a->used += arena_round(bytes);
    return piece;
}

spectra_status arena_reserve(arena *a, int64_t bytes)
{
    a->used = 0;
    if (a->base && bytes <= a->size)
        return SPECTRA_OK;
    arena_release(a);
    const int64_t size = arena_round(bytes + bytes / 8 + 1); /* batches differ a little in length */
    a->base = aligned_alloc(ARENA_ALIGN, (size_t)size);
    if (!a->base)
        return fail(SPECTRA_ENOMEM, "no memory for %lld bytes of activations", (long long)size);
    a->size = size;
    return SPECTRA_OK;
}

void arena_release(arena *a)
{
    free(a->base);
    *a = (arena){0};
}
