/* Counts, as a device's profiler would give them, and races in shared memory. Both are bookkeeping
 * of a test's launch: nothing here is called when nobody asked. */
#include "device/emulator/internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The n-th time each lane passes a line since the warp last met is one access of the warp. */
typedef struct access {
    uint32_t lanes;
    uintptr_t address[EMULATOR_WARP];
} access;

/* A line of the text, for one warp. A copy touches both memories from one line. */
typedef struct site {
    int size, used, room;
    bool shared;
    access *list;
    int passed[EMULATOR_WARP];
} site;

/* Sites of a warp by number, and which of them were passed. */
typedef struct log {
    site *site;
    int room;
    int *passed, passed_count;
} log;

/* Who touched a word of shared memory, and when. */
typedef struct mark {
    const emulator_place *at; /* NULL: nobody */
    const emulator_lane *lane;
    uint32_t warp, block, cluster; /* epochs */
} mark;

/* A write is unordered with a read of another warp if one of two warps' reads is; more need not be
 * known. Reads of other blocks are ordered by barriers of the cluster only. */
typedef struct word {
    mark writer, reader[2], foreign;
    uint32_t lanes[2];            /* of the readers' warps since their last warp_sync */
    const emulator_place *flight; /* a copy to here is under way */
    const emulator_lane *flight_of;
} word;

typedef struct watch {
    log log[WARPS];
    word *word[EMULATOR_CLUSTER];
    size_t room[EMULATOR_CLUSTER]; /* of them, in words: blocks come and go with what they need */
} watch;

enum { BANKS = 32, BANK = 4, SECTOR = 32 };

static _Noreturn void no_memory(emulator_lane *self)
{
    lane_fail(self, "counting accesses: out of memory");
}

/* ---- accesses of warps ------------------------------------------------------------------------
 */

static int place_number(emulator_place *at)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int last;
    int id = __atomic_load_n(&at->id, __ATOMIC_ACQUIRE);
    if (id)
        return id;
    pthread_mutex_lock(&lock);
    if (!at->id)
        __atomic_store_n(&at->id, ++last, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&lock);
    return at->id;
}

static site *site_of(emulator_lane *self, log *l, int number)
{
    if (number >= l->room) {
        const int room = 2 * number + 16;
        site *sites = realloc(l->site, (size_t)room * sizeof *sites);
        int *passed = sites ? realloc(l->passed, (size_t)room * sizeof *passed) : NULL;
        l->site = sites ? sites : l->site;
        l->passed = passed ? passed : l->passed;
        if (!passed)
            no_memory(self);
        memset(sites + l->room, 0, (size_t)(room - l->room) * sizeof *sites);
        l->room = room;
    }
    return &l->site[number];
}

static void log_access(emulator_lane *self, const void *p, int size, int number, bool shared)
{
    log *l = &self->group->watch->log[self->warp->index];
    site *s = site_of(self, l, number);
    const int n = s->passed[self->lane]++;
    if (!s->used)
        l->passed[l->passed_count++] = number;
    s->size = size;
    s->shared = shared;
    if (n >= s->room) {
        const int room = s->room ? 2 * s->room : 16;
        access *list = realloc(s->list, (size_t)room * sizeof *list);
        if (!list)
            no_memory(self);
        s->list = list;
        s->room = room;
    }
    if (n >= s->used) {
        s->list[n].lanes = 0;
        s->used = n + 1;
    }
    s->list[n].lanes |= 1U << self->lane;
    s->list[n].address[self->lane] = (uintptr_t)p;
}

void watch_access(emulator_lane *self, const void *p, int size, emulator_access kind,
                  emulator_place *at, bool shared)
{
    emulator_counters *c = &self->group->counters;
    if (!shared) {
        *(kind == EMULATOR_LOAD ? &c->global_load_bytes : &c->global_store_bytes) += size;
        *(size == 16 ? &c->global_wide : &c->global_narrow) += 1;
    }
    log_access(self, p, size, 2 * place_number(at) + shared, shared);
}

static bool add_new(uintptr_t *list, int *count, uintptr_t x)
{
    for (int i = 0; i < *count; i++)
        if (list[i] == x)
            return false;
    list[(*count)++] = x;
    return true;
}

/* Passes over the banks: the most different words that one bank has to give. */
static int wavefronts(const access *a, int size, int *needed)
{
    const int words = size > BANK ? size / BANK : 1, part = EMULATOR_WARP / words;
    int total = 0;
    *needed = 0;
    for (int first = 0; first < EMULATOR_WARP; first += part) {
        uintptr_t seen[BANKS][EMULATOR_WARP];
        int count[BANKS] = {0}, most = 0;
        for (int lane = first; lane < first + part; lane++) {
            if (!(a->lanes >> lane & 1))
                continue;
            for (int k = 0; k < words; k++) {
                const uintptr_t at = a->address[lane] / BANK + (uintptr_t)k;
                const int bank = (int)(at % BANKS);
                (void)add_new(seen[bank], &count[bank], at);
                most = count[bank] > most ? count[bank] : most;
            }
        }
        total += most;
        *needed += most > 0;
    }
    return total;
}

static int sectors(const access *a)
{
    uintptr_t seen[EMULATOR_WARP]; /* an access is aligned to its size, so it lies in one */
    int count = 0;
    for (int lane = 0; lane < EMULATOR_WARP; lane++)
        if (a->lanes >> lane & 1)
            (void)add_new(seen, &count, a->address[lane] / SECTOR);
    return count;
}

void watch_warp(group *g, warp *w)
{
    log *l = &g->watch->log[w->index];
    emulator_counters *c = &g->counters;
    for (int i = 0; i < l->passed_count; i++) {
        site *s = &l->site[l->passed[i]];
        for (int k = 0; k < s->used; k++) {
            if (!s->shared) {
                c->global_sectors += sectors(&s->list[k]);
                continue;
            }
            int needed;
            const int passes = wavefronts(&s->list[k], s->size, &needed);
            c->shared_accesses++;
            c->shared_wavefronts += passes;
            c->shared_conflicts += passes - needed;
        }
        s->used = 0;
        memset(s->passed, 0, sizeof s->passed);
    }
    l->passed_count = 0;
}

/* ---- races ------------------------------------------------------------------------------------
 */

static mark mark_of(const emulator_lane *lane, const emulator_place *at)
{
    return (mark){.at = at,
                  .lane = lane,
                  .warp = lane->warp->epoch,
                  .block = block_of(lane)->epoch,
                  .cluster = lane->group->cluster_epoch};
}

/* Is there no barrier between what m says and this thread now? */
static bool unordered(const mark *m, const emulator_lane *self)
{
    if (!m->at || m->lane == self || m->cluster != self->group->cluster_epoch)
        return false;
    if (m->lane->rank != self->rank)
        return true;
    if (m->block != block_of(self)->epoch)
        return false;
    return m->lane->warp != self->warp || m->warp == self->warp->epoch;
}

/* `other`: what the other thread did, or does: then no barrier would help. */
static _Noreturn void race(emulator_lane *self, int owner, uintptr_t at, const char *did,
                           const emulator_place *place, const mark *m, const char *other, bool done)
{
    char whose[64] = "";
    if (m->lane->rank != self->rank)
        snprintf(whose, sizeof whose, " of block %lld", (long long)block_of(m->lane)->index[0]);
    lane_fail(self, "%s %s byte %lld of shared memory, which thread %d%s %s at %s%s",
              place_text(place, self->caller), did,
              (long long)(at - (uintptr_t)self->group->block[owner].shared), m->lane->thread, whose,
              other, place_text(m->at, NULL), done ? ", no barrier between" : "");
}

static void check_write(emulator_lane *self, int owner, word *w, uintptr_t at,
                        const emulator_place *place)
{
    if (unordered(&w->writer, self))
        race(self, owner, at, "writes", place, &w->writer, "wrote", true);
    for (int i = 0; i < 2; i++) {
        mark *r = &w->reader[i];
        const uint32_t others = w->lanes[i] & ~(1U << self->lane);
        if (r->at && r->block == block_of(self)->epoch && r->lane->warp == self->warp &&
            r->warp == self->warp->epoch && others)
            r->lane = &self->warp->first[__builtin_ctz(others)];
        if (unordered(r, self))
            race(self, owner, at, "writes", place, r, "read", true);
    }
    if (unordered(&w->foreign, self))
        race(self, owner, at, "writes", place, &w->foreign, "read", true);
}

static void add_reader(emulator_lane *self, word *w, const emulator_place *place)
{
    const uint32_t now = block_of(self)->epoch;
    for (int i = 0; i < 2; i++) {
        mark *r = &w->reader[i];
        const bool stale = !r->at || r->block != now;
        if (!stale && r->lane->warp != self->warp)
            continue;
        const bool same = !stale && r->warp == self->warp->epoch;
        w->lanes[i] = (same ? w->lanes[i] : 0) | 1U << self->lane;
        *r = mark_of(self, place);
        return;
    }
}

static word *word_at(emulator_lane *self, int owner, uintptr_t at)
{
    const group *g = self->group;
    return &g->watch->word[owner][(at - (uintptr_t)g->block[owner].shared) / BANK];
}

void watch_race(emulator_lane *self, int owner, const void *p, int size, emulator_access kind,
                const emulator_place *at)
{
    for (uintptr_t a = (uintptr_t)p; a < (uintptr_t)p + (unsigned)size; a += BANK) {
        word *w = word_at(self, owner, a);
        if (w->flight) {
            const mark m = {.at = w->flight, .lane = w->flight_of};
            race(self, owner, a, kind == EMULATOR_LOAD ? "reads" : "writes", at, &m,
                 "still copies to", false);
        }
        if (kind == EMULATOR_STORE) {
            check_write(self, owner, w, a, at);
            w->writer = mark_of(self, at);
            continue;
        }
        if (unordered(&w->writer, self))
            race(self, owner, a, "reads", at, &w->writer, "wrote", true);
        if (owner == self->rank)
            add_reader(self, w, at);
        else
            w->foreign = mark_of(self, at);
    }
}

void watch_flight(emulator_lane *self, const void *p, const emulator_place *at, bool begins)
{
    if (begins)
        watch_race(self, self->rank, p, 16, EMULATOR_STORE, at);
    for (uintptr_t a = (uintptr_t)p; a < (uintptr_t)p + 16; a += BANK) {
        word *w = word_at(self, self->rank, a);
        w->flight = begins ? at : NULL;
        w->flight_of = self;
        w->writer = mark_of(self, at);
    }
}

/* ---- life -------------------------------------------------------------------------------------
 */

static bool words_begin(group *g)
{
    watch *w = g->watch;
    const size_t words = ((size_t)g->grid->shared_bytes + BANK - 1) / BANK;
    for (int i = 0; i < g->blocks; i++) {
        if (w->room[i] < words) {
            free(w->word[i]);
            w->word[i] = malloc(words * sizeof *w->word[i]);
            w->room[i] = w->word[i] ? words : 0;
            if (!w->word[i])
                return false;
        }
        if (words > 0)
            memset(w->word[i], 0, words * sizeof *w->word[i]);
    }
    return true;
}

/* Logs left by a run that failed. */
static void logs_begin(group *g)
{
    for (int i = 0; i < g->warps; i++) {
        log *l = &g->watch->log[i];
        for (int k = 0; k < l->passed_count; k++) {
            site *s = &l->site[l->passed[k]];
            s->used = 0;
            memset(s->passed, 0, sizeof s->passed);
        }
        l->passed_count = 0;
    }
}

bool watch_begin(group *g)
{
    if (!g->watch)
        g->watch = calloc(1, sizeof *g->watch);
    if (!g->watch)
        return false;
    logs_begin(g);
    return !(g->watching & WATCH_RACE) || words_begin(g);
}

void watch_free(watch *w)
{
    for (int i = 0; w && i < WARPS; i++) {
        for (int k = 0; k < w->log[i].room; k++)
            free(w->log[i].site[k].list);
        free(w->log[i].site);
        free(w->log[i].passed);
    }
    for (int i = 0; w && i < EMULATOR_CLUSTER; i++)
        free(w->word[i]);
    free(w);
}
