/* Shared by the files of the emulator: fibre.c switches between the stacks of threads, fault.c
 * words what a kernel did wrong, watch.c counts accesses and looks for races, memory.c checks
 * accesses and makes copies, warp.c lets threads wait for each other and exchange values,
 * emulator.c launches. Each uses only those named before it. */
#ifndef SPECTRA_DEVICE_EMULATOR_INTERNAL_H
#define SPECTRA_DEVICE_EMULATOR_INTERNAL_H

#include "device/emulator/emulator.h"

enum { WATCH_COUNT = 1, WATCH_RACE = 2, WATCH_RANGE = 4 };

typedef enum {
    LANE_READY,
    LANE_IN_WARP, /* waits for the others of its warp */
    LANE_IN_BLOCK,
    LANE_IN_CLUSTER,
    LANE_ENDED
} lane_state;

/* What the lanes bring to an operation of their warp, and take from it. */
typedef struct exchange {
    uint64_t word[EMULATOR_WARP];
    int any;
    emulator_product product;
    float a[EMULATOR_WARP][4], b[EMULATOR_WARP][2], c[EMULATOR_WARP][4];
} exchange;

typedef struct emulator_warp {
    uint32_t ready;   /* lanes that could go on */
    uint32_t arrived; /* at the operation they wait for */
    uint32_t lanes;   /* it has */
    uint32_t done;    /* lanes at a barrier of the block or ended: nothing more to come from them */
    const emulator_place *place, *from; /* of that operation */
    emulator_lane *first;
    int index, parity;
    uint32_t epoch; /* warp_syncs so far */
    /* By turns: who is early for the next operation must not disturb who still reads. */
    exchange slot[2];
} warp;

typedef struct emulator_block {
    int64_t index[3];
    unsigned char *shared;
    int arrived; /* at block_sync */
    uint32_t epoch;
    const emulator_place *place, *from;
} block;

enum { WARPS = EMULATOR_THREADS / EMULATOR_WARP, MESSAGE = 900 };

struct watch;

/* An OS thread's stacks and the cluster that runs on them, blocks one after the other. */
typedef struct emulator_group {
    emulator_arena *arena;
    emulator_lane *lanes;   /* of all blocks */
    int stacks;             /* that are there */
    emulator_lane home;     /* the OS thread's own */
    const void *home_stack; /* for AddressSanitizer */
    size_t home_size;
    unsigned char *shared;
    size_t shared_room;
    struct watch *watch;
    struct emulator_group *next; /* of those not in use */
    /* ---- of the launch ---- */
    const emulator_kernel *kernel;
    const void *args;
    const device_grid *grid;
    const emulator_options *options;
    const emulator_range *ranges; /* sorted */
    uint32_t watching;
    emulator_counters counters;
    /* ---- of the cluster that runs ---- */
    int threads, warps, blocks; /* in all */
    int arrived, ended;
    uint32_t cluster_epoch;
    const emulator_place *place, *from; /* of cluster_sync */
    uint64_t random;
    bool failed;
    char message[MESSAGE];
    uint64_t ready[WARPS / 64]; /* warps with ready lanes */
    block block[EMULATOR_CLUSTER];
    warp warp[WARPS];
} group;

/* ---- fibre.c ----------------------------------------------------------------------------------
 */

/* A group with at least so many stacks, taken from those not in use or made; its threads find the
 * emulator's functions in `api`. NULL: spectra_message. */
group *group_take(int threads, const emulator_api *api);
void group_give(group *g);
/* Lets the lane begin with `entry` when it is switched to. */
void fibre_prepare(group *g, emulator_lane *lane, void (*entry)(void));
/* First thing in a fibre. */
void fibre_begin(void);
/* `last`: from will never go on. */
void fibre_switch(emulator_lane *from, emulator_lane *to, bool last);
/* After fibres were left where they stood. */
void fibre_abandon(group *g);

/* ---- fault.c ----------------------------------------------------------------------------------
 */

/* Writes "kernel k, block (x, y, z), thread t" and the sentence to the message, and ends the run.
 */
_Noreturn void lane_fail(emulator_lane *self, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* "shared_load (file:12)" in a buffer of the thread's own, one of four in turn. */
const char *place_text(const emulator_place *at, const emulator_place *from);
/* The same of a whole block, "kernel k, block (x, y, z)"; whoever runs the group ends it. */
void group_fail(group *g, const block *b, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- warp.c -----------------------------------------------------------------------------------
 */

extern const emulator_api emulator_functions;

/* Runs all threads of the group until they have ended or cannot go on: false, message is set. */
bool group_run(group *g);

/* ---- memory.c ---------------------------------------------------------------------------------
 */

void memory_shared(emulator_lane *self, const void *p, int size, emulator_access kind,
                   emulator_place *at);
void memory_global(emulator_lane *self, const void *p, int size, emulator_access kind,
                   emulator_place *at);
const void *memory_cluster(emulator_lane *self, const void *p, int size, int rank,
                           emulator_place *at);
void memory_copy(emulator_lane *self, void *shared, const void *global, emulator_place *at);
void memory_commit(emulator_lane *self);
void memory_wait(emulator_lane *self, int groups);

/* ---- watch.c ----------------------------------------------------------------------------------
 */

/* Before a group runs; false: out of memory. */
bool watch_begin(group *g);
void watch_free(struct watch *w);
/* Counts: an access of a thread; what the threads of a warp did since they last met. */
void watch_access(emulator_lane *self, const void *p, int size, emulator_access kind,
                  emulator_place *at, bool shared);
void watch_warp(group *g, warp *w);
/* Races: an access to shared memory of `owner`, maybe another block of the cluster. */
void watch_race(emulator_lane *self, int owner, const void *p, int size, emulator_access kind,
                const emulator_place *at);
/* A copy to p begins, or has come to its end. */
void watch_flight(emulator_lane *self, const void *p, const emulator_place *at, bool begins);

static inline block *block_of(const emulator_lane *lane)
{
    return &lane->group->block[lane->rank];
}

#endif
