/* Threads that wait for each other: who goes next, and what a warp does together. */
#include "device/emulator/internal.h"

#include <assert.h>
#include <string.h>

/* ---- who goes next ----------------------------------------------------------------------------
 */

static uint64_t next_random(group *g)
{
    g->random ^= g->random << 13;
    g->random ^= g->random >> 7;
    g->random ^= g->random << 17;
    return g->random * 0x2545f4914f6cdd1dU >> 32;
}

/* The n-th bit that is set. */
static int nth_bit(uint64_t bits, int n)
{
    while (n-- > 0)
        bits &= bits - 1;
    return __builtin_ctzll(bits);
}

static int choose_bit(group *g, uint64_t bits)
{
    switch (g->options->order) {
    case EMULATOR_ASCENDING:
        return __builtin_ctzll(bits);
    case EMULATOR_DESCENDING:
        return 63 - __builtin_clzll(bits);
    default:
        return nth_bit(bits, (int)(next_random(g) % (unsigned)__builtin_popcountll(bits)));
    }
}

static warp *choose_warp(group *g)
{
    const int words = (g->warps + 63) / 64;
    if (g->options->order == EMULATOR_RANDOM) {
        const int start = (int)(next_random(g) % (unsigned)words);
        for (int i = 0; i < words; i++) {
            const int k = (start + i) % words;
            if (g->ready[k])
                return &g->warp[64 * k + choose_bit(g, g->ready[k])];
        }
        return NULL;
    }
    for (int i = 0; i < words; i++) {
        const int k = g->options->order == EMULATOR_ASCENDING ? i : words - 1 - i;
        if (g->ready[k])
            return &g->warp[64 * k + choose_bit(g, g->ready[k])];
    }
    return NULL;
}

/* The next lane to run, of the warp w (may be NULL) while it has some; home when there are none. */
static emulator_lane *choose_lane(group *g, warp *w)
{
    if (!w || !w->ready || g->options->order == EMULATOR_RANDOM)
        w = choose_warp(g);
    if (!w)
        return &g->home;
    const int lane = choose_bit(g, w->ready);
    w->ready &= ~(1U << lane);
    if (!w->ready)
        g->ready[w->index / 64] &= ~(1ULL << w->index % 64);
    w->first[lane].state = LANE_READY;
    return &w->first[lane];
}

static void make_ready(group *g, warp *w, uint32_t lanes)
{
    w->ready |= lanes;
    g->ready[w->index / 64] |= 1ULL << w->index % 64;
}

/* Lets others go on until this lane is chosen again; those of the warp w first, if it is not NULL.
 */
static void leave(emulator_lane *self, warp *w, bool last)
{
    group *g = self->group;
    emulator_lane *next = choose_lane(g, w);
    if (next != self) {
        g->counters.switches++;
        fibre_switch(self, next, last);
    }
}

static void wait_at(emulator_lane *self, lane_state state, const emulator_place *at)
{
    self->state = state;
    self->place = at;
    self->from = self->caller;
}

static void other_place(emulator_lane *self, const char *who, const emulator_place *at,
                        const emulator_place *place, const emulator_place *from)
{
    lane_fail(self, "is at %s while others of its %s wait at %s", place_text(at, self->caller), who,
              place_text(place, from));
}

/* ---- warps ------------------------------------------------------------------------------------
 */

/* Waits for the whole warp at `at`; the last to come does `combine` for all. */
static void meet(emulator_lane *self, const emulator_place *at, void (*combine)(exchange *e))
{
    group *g = self->group;
    warp *w = self->warp;
    if (!w->arrived)
        w->place = at, w->from = self->caller;
    else if (w->place != at || w->from != self->caller)
        other_place(self, "warp", at, w->place, w->from);
    wait_at(self, LANE_IN_WARP, at);
    w->arrived |= 1U << self->lane;
    if (w->arrived == UINT32_MAX) {
        if (g->watching & WATCH_COUNT)
            watch_warp(g, w);
        if (combine)
            combine(&w->slot[w->parity]);
        w->arrived = 0;
        w->parity ^= 1;
        make_ready(g, w, UINT32_MAX);
    }
    leave(self, w, false);
}

static void warp_sync(emulator_lane *self, emulator_place *at)
{
    warp *w = self->warp;
    const bool last = __builtin_popcount(w->arrived) == EMULATOR_WARP - 1;
    w->epoch += last;
    meet(self, at, NULL);
}

static void shuffle_xor(emulator_lane *self, void *x, int size, int lanes, emulator_place *at)
{
    exchange *e = &self->warp->slot[self->warp->parity];
    if (lanes < 0 || lanes >= EMULATOR_WARP)
        lane_fail(self, "%s asks for lane ^ %d; 0 to 31 are allowed", place_text(at, self->caller),
                  lanes);
    memcpy(&e->word[self->lane], x, (size_t)size);
    meet(self, at, NULL);
    memcpy(x, &e->word[self->lane ^ lanes], (size_t)size);
}

static void combine_any(exchange *e)
{
    e->any = 0;
    for (int i = 0; i < EMULATOR_WARP; i++)
        e->any |= e->word[i] != 0;
}

static int any(emulator_lane *self, int x, emulator_place *at)
{
    exchange *e = &self->warp->slot[self->warp->parity];
    e->word[self->lane] = x != 0;
    meet(self, at, combine_any);
    return e->any;
}

static void combine_mma(exchange *e)
{
    e->product(e->c, e->a, e->b);
}

static void mma(emulator_lane *self, float *c, const float *a, const float *b,
                emulator_product product, emulator_place *at)
{
    exchange *e = &self->warp->slot[self->warp->parity];
    memcpy(e->a[self->lane], a, sizeof e->a[0]);
    memcpy(e->b[self->lane], b, sizeof e->b[0]);
    memcpy(e->c[self->lane], c, sizeof e->c[0]);
    e->product = product;
    self->group->counters.mma += self->lane == 0;
    meet(self, at, combine_mma);
    memcpy(c, e->c[self->lane], sizeof e->c[0]);
}

/* ---- blocks and clusters ----------------------------------------------------------------------
 */

/* This lane does nothing more until its block or cluster goes on. */
static void rest(emulator_lane *self)
{
    warp *w = self->warp;
    w->done |= 1U << self->lane;
    if (w->done == w->lanes && (self->group->watching & WATCH_COUNT))
        watch_warp(self->group, w);
}

/* All lanes of blocks first ... first + count - 1 go on. */
static void release(group *g, int first, int count)
{
    const int each = g->warps / g->blocks;
    for (int i = first * each; i < (first + count) * each; i++) {
        g->warp[i].done = 0;
        make_ready(g, &g->warp[i], g->warp[i].lanes);
    }
    for (int i = first; i < first + count; i++)
        g->block[i].epoch++;
}

static void block_sync(emulator_lane *self, emulator_place *at)
{
    group *g = self->group;
    block *b = block_of(self);
    if (!b->arrived)
        b->place = at, b->from = self->caller;
    else if (b->place != at || b->from != self->caller)
        other_place(self, "block", at, b->place, b->from);
    wait_at(self, LANE_IN_BLOCK, at);
    rest(self);
    if (++b->arrived == self->threads) {
        b->arrived = 0;
        release(g, self->rank, 1);
        leave(self, NULL, false);
    } else {
        leave(self, self->warp, false);
    }
}

static void cluster_sync(emulator_lane *self, emulator_place *at)
{
    group *g = self->group;
    if (!g->arrived)
        g->place = at, g->from = self->caller;
    else if (g->place != at || g->from != self->caller)
        other_place(self, "cluster", at, g->place, g->from);
    wait_at(self, LANE_IN_CLUSTER, at);
    rest(self);
    if (++g->arrived == g->threads) {
        g->arrived = 0;
        g->cluster_epoch++;
        release(g, 0, g->blocks);
        leave(self, NULL, false);
    } else {
        leave(self, self->warp, false);
    }
}

const emulator_api emulator_functions = {
    .block_sync = block_sync,
    .cluster_sync = cluster_sync,
    .warp_sync = warp_sync,
    .shuffle_xor = shuffle_xor,
    .any = any,
    .mma = mma,
    .shared = memory_shared,
    .global = memory_global,
    .cluster = memory_cluster,
    .copy = memory_copy,
    .commit = memory_commit,
    .wait = memory_wait,
};

/* ---- a run ------------------------------------------------------------------------------------
 */

#if EMULATOR_ASAN
__attribute__((no_sanitize_address))
#endif
static void
lane_main(void)
{
    fibre_begin();
    emulator_lane *self = emulator_self();
    group *g = self->group;
    g->kernel->run(g->args);
    self->state = LANE_ENDED;
    g->ended++;
    rest(self);
    leave(self, self->warp, true);
    __builtin_unreachable();
}

static const char *state_text(const emulator_lane *lane)
{
    return lane->state == LANE_ENDED ? "has ended" : place_text(lane->place, lane->from);
}

/* Nobody can go on, and not all have ended: two that do not fit each other. */
static void report_standstill(group *g)
{
    const emulator_lane *one = NULL, *other = NULL;
    for (int i = 0; i < g->threads && !one; i++)
        if (g->lanes[i].state != LANE_ENDED)
            one = &g->lanes[i];
    assert(one);
    for (int near = one->state == LANE_IN_WARP ? 0 : 1; near < 3 && !other; near++) {
        for (int i = 0; i < g->threads && !other; i++) {
            const emulator_lane *l = &g->lanes[i];
            const bool comes = near == 0   ? l->warp == one->warp
                               : near == 1 ? l->rank == one->rank
                                           : true;
            if (comes && (l->state != one->state || l->place != one->place))
                other = l;
        }
    }
    const block *b = block_of(one);
    if (one->state == LANE_IN_WARP && one->warp->lanes != UINT32_MAX)
        group_fail(g, b, "thread %d waits at %s, but its warp has %d threads only", one->thread,
                   state_text(one), __builtin_popcount(one->warp->lanes));
    else if (!other)
        group_fail(g, b, "thread %d waits for nobody at %s", one->thread, state_text(one));
    else if (other->rank != one->rank)
        group_fail(g, b, "thread %d waits at %s, thread %d of the cluster's block %d %s%s",
                   one->thread, state_text(one), other->thread, other->rank,
                   other->state == LANE_ENDED ? "" : "at ", state_text(other));
    else
        group_fail(g, b, "thread %d waits at %s, thread %d %s%s", one->thread, state_text(one),
                   other->thread, other->state == LANE_ENDED ? "" : "at ", state_text(other));
}

static void warps_begin(group *g)
{
    const int threads = g->threads / g->blocks, each = g->warps / g->blocks;
    for (int i = 0; i < g->warps; i++) {
        warp *w = &g->warp[i];
        const int first = i % each * EMULATOR_WARP, rest_of = threads - first;
        const int n = rest_of < EMULATOR_WARP ? rest_of : EMULATOR_WARP;
        w->lanes = n == EMULATOR_WARP ? UINT32_MAX : (1U << n) - 1;
        w->arrived = w->done = w->epoch = 0;
        w->ready = 0;
        w->parity = 0;
        w->index = i;
        w->first = &g->lanes[i / each * threads + first];
        make_ready(g, w, w->lanes);
    }
}

bool group_run(group *g)
{
    const int threads = g->threads / g->blocks, each = g->warps / g->blocks;
    memset(g->ready, 0, sizeof g->ready);
    warps_begin(g);
    g->arrived = g->ended = 0;
    g->cluster_epoch = 0;
    for (int i = 0; i < g->blocks; i++) {
        g->block[i].arrived = 0;
        g->block[i].epoch = 0;
    }
    for (int i = 0; i < g->threads; i++) {
        emulator_lane *lane = &g->lanes[i];
        const int rank = i / threads, thread = i % threads;
        const block *b = &g->block[rank];
        lane->thread = thread, lane->threads = threads;
        lane->block = b->index, lane->grid = g->grid->blocks;
        lane->shared = (uintptr_t)b->shared;
        lane->shared_end = lane->shared + (uintptr_t)g->grid->shared_bytes;
        lane->caller = NULL;
        lane->watch = g->watching;
        lane->rank = rank;
        lane->lane = thread % EMULATOR_WARP;
        lane->state = LANE_READY;
        lane->warp = &g->warp[rank * each + thread / EMULATOR_WARP];
        lane->group = g;
        lane->copy_count = lane->copy_group = lane->last_range = 0;
        fibre_prepare(g, lane, lane_main);
    }
    fibre_switch(&g->home, choose_lane(g, NULL), false);
    if (!g->failed && g->ended < g->threads)
        report_standstill(g);
    if (g->failed)
        fibre_abandon(g);
    return !g->failed;
}
