/* Accesses that need a look, and asynchronous copies. */
#include "device/emulator/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COPY = 16, POISON = 0xff };

typedef struct copy {
    unsigned char *to;
    const void *from;
    const emulator_place *at;
    int group;
} copy;

static const char *verb(emulator_access kind)
{
    return kind == EMULATOR_LOAD ? "reads" : "writes";
}

static void check_alignment(emulator_lane *self, const void *p, int size, emulator_access kind,
                            const emulator_place *at)
{
    if ((uintptr_t)p % (unsigned)size != 0)
        lane_fail(self, "%s %s %d bytes at %p, which is no multiple of %d",
                  place_text(at, self->caller), verb(kind), size, p, size);
}

/* ---- shared memory ----------------------------------------------------------------------------
 */

static void check_shared(emulator_lane *self, const void *p, int size, emulator_access kind,
                         const emulator_place *at)
{
    const uintptr_t first = (uintptr_t)p;
    if (first < self->shared || first + (uintptr_t)size > self->shared_end)
        lane_fail(self, "%s %s %d bytes at %lld of shared memory, which has %lld",
                  place_text(at, self->caller), verb(kind), size,
                  (long long)(intptr_t)(first - self->shared),
                  (long long)(self->shared_end - self->shared));
    check_alignment(self, p, size, kind, at);
}

void memory_shared(emulator_lane *self, const void *p, int size, emulator_access kind,
                   emulator_place *at)
{
    check_shared(self, p, size, kind, at);
    if (self->watch & WATCH_COUNT)
        watch_access(self, p, size, kind, at, true);
    if (self->watch & WATCH_RACE)
        watch_race(self, self->rank, p, size, kind, at);
}

const void *memory_cluster(emulator_lane *self, const void *p, int size, int rank,
                           emulator_place *at)
{
    const group *g = self->group;
    check_shared(self, p, size, EMULATOR_LOAD, at);
    if (rank < 0 || rank >= g->blocks)
        lane_fail(self, "%s asks for block %d of a cluster of %d", place_text(at, self->caller),
                  rank, g->blocks);
    const unsigned char *there = g->block[rank].shared + ((uintptr_t)p - self->shared);
    if (self->watch & WATCH_COUNT)
        watch_access(self, p, size, EMULATOR_LOAD, at, true);
    if (self->watch & WATCH_RACE)
        watch_race(self, rank, there, size, EMULATOR_LOAD, at);
    return there;
}

/* ---- global memory ----------------------------------------------------------------------------
 */

/* The last allocation that starts at or before p; -1. */
static int64_t range_before(const group *g, const unsigned char *p)
{
    int64_t low = 0, high = g->options->allocation_count;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if ((uintptr_t)g->ranges[middle].start <= (uintptr_t)p)
            low = middle + 1;
        else
            high = middle;
    }
    return low - 1;
}

static void check_range(emulator_lane *self, const void *p, int size, emulator_access kind,
                        const emulator_place *at)
{
    const group *g = self->group;
    const uintptr_t first = (uintptr_t)p;
    const int64_t count = g->options->allocation_count;
    for (int64_t i = self->last_range;; i = range_before(g, p)) {
        const bool there = i >= 0 && i < count;
        const uintptr_t start = there ? (uintptr_t)g->ranges[i].start : 0;
        const uintptr_t end = there ? start + (uintptr_t)g->ranges[i].bytes : 0;
        if (there && first >= start && first + (uintptr_t)size <= end) {
            self->last_range = (int32_t)i;
            return;
        }
        if (i != range_before(g, p))
            continue;
        if (there)
            lane_fail(self,
                      "%s %s %d bytes at %p, outside every allocation: %lld bytes into one of %lld",
                      place_text(at, self->caller), verb(kind), size, p, (long long)(first - start),
                      (long long)(end - start));
        lane_fail(self, "%s %s %d bytes at %p, before every allocation",
                  place_text(at, self->caller), verb(kind), size, p);
    }
}

void memory_global(emulator_lane *self, const void *p, int size, emulator_access kind,
                   emulator_place *at)
{
    check_alignment(self, p, size, kind, at);
    if (self->watch & WATCH_RANGE)
        check_range(self, p, size, kind, at);
    if (self->watch & WATCH_COUNT)
        watch_access(self, p, size, kind, at, false);
}

/* ---- asynchronous copies ----------------------------------------------------------------------
 */

/* A device may write at any time from here to the wait: NaN at once, the data at the end. */
void memory_copy(emulator_lane *self, void *shared, const void *global, emulator_place *at)
{
    check_shared(self, shared, COPY, EMULATOR_STORE, at);
    memory_global(self, global, COPY, EMULATOR_LOAD, at);
    if (self->watch & WATCH_COUNT)
        watch_access(self, shared, COPY, EMULATOR_STORE, at, true);
    if (self->watch & WATCH_RACE)
        watch_flight(self, shared, at, true);
    if (self->copy_count == self->copy_room) {
        const int room = self->copy_room ? 2 * self->copy_room : 16;
        copy *more = realloc(self->copies, (size_t)room * sizeof *more);
        if (!more)
            lane_fail(self, "%s: out of memory", place_text(at, self->caller));
        self->copies = more;
        self->copy_room = room;
    }
    ((copy *)self->copies)[self->copy_count++] = (copy){shared, global, at, self->copy_group};
    memset(shared, POISON, COPY);
}

void memory_commit(emulator_lane *self)
{
    self->copy_group++;
}

void memory_wait(emulator_lane *self, int groups)
{
    copy *list = self->copies;
    int kept = 0;
    for (int i = 0; i < self->copy_count; i++) {
        if (list[i].group >= self->copy_group - groups) {
            list[kept++] = list[i];
            continue;
        }
        memcpy(list[i].to, list[i].from, COPY);
        if (self->watch & WATCH_RACE)
            watch_flight(self, list[i].to, list[i].at, false);
    }
    self->copy_count = kept;
}
