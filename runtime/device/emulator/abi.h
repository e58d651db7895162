/* What the emulator and the CUDA text it runs agree on. It is part of the library, and comes first
 * in every text that is compiled for the emulator.
 *
 * A thread of the kernel is a fibre with a stack of its own. All stacks of an OS thread lie in one
 * arena whose address is a multiple of its size, so a thread finds itself by its stack pointer:
 * without thread-local storage, which is slow in loaded objects, and without a line of memory that
 * lies at the same place in every stack, which would crowd one set of the cache.
 */
#ifndef SPECTRA_DEVICE_EMULATOR_ABI_H
#define SPECTRA_DEVICE_EMULATOR_ABI_H

#include <stddef.h>
#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN 1
#endif
#endif
#ifndef EMULATOR_ASAN
#define EMULATOR_ASAN 0
#endif

/* A stack is 2^EMULATOR_STACK bytes with its guard page; the first place in the arena is its
 * header's. */
enum {
    EMULATOR_STACK = EMULATOR_ASAN ? 18 : 16,
    EMULATOR_THREADS = 8192, /* of a cluster */
    EMULATOR_WARP = 32
};
#define EMULATOR_ARENA ((uintptr_t)(2 * EMULATOR_THREADS) << EMULATOR_STACK)

/* A line of the text that does something here; one a line, so that its address says where. */
typedef struct emulator_place {
    const char *what, *file;
    int line;
    int id; /* given by the watcher at first sight; 0: none yet */
} emulator_place;

typedef enum {
    EMULATOR_LOAD,
    EMULATOR_STORE,
} emulator_access;

struct emulator_warp;
struct emulator_block;
struct emulator_group;

/* A thread of the kernel. The object reads what comes first. */
typedef struct emulator_lane {
    int32_t thread, threads;      /* in its block */
    const int64_t *block, *grid;  /* three each */
    uintptr_t shared, shared_end; /* of its block */
    const emulator_place *caller; /* where the function of rt.cuh was called that waits inside */
    uint32_t watch;               /* not 0: every access is to be reported */
    int32_t rank;                 /* of its block in the cluster */
    /* ---- the library's own ---- */
    int32_t lane, state;         /* in its warp; lane_state */
    const emulator_place *place; /* where it waits */
    const emulator_place *from;  /* `caller` then */
    struct emulator_warp *warp;
    struct emulator_group *group;
    void *context; /* what is needed to go on */
    void *copies;  /* asynchronous copies under way */
    int32_t copy_count, copy_room, copy_group;
    int32_t last_range; /* allocation of its last access */
    void *fake_stack;   /* AddressSanitizer's */
} emulator_lane;

/* c += a b of a warp's fragments: in the object, which is compiled for this machine's vectors. */
typedef void (*emulator_product)(float (*c)[4], const float (*a)[4], const float (*b)[2]);

/* What a thread may ask for. Places say where in the text. None returns after an error. */
typedef struct emulator_api {
    void (*block_sync)(emulator_lane *self, emulator_place *at);
    void (*cluster_sync)(emulator_lane *self, emulator_place *at);
    void (*warp_sync)(emulator_lane *self, emulator_place *at);
    /* x of the lane whose number differs in the bits of `lanes`; size 4 or 8 */
    void (*shuffle_xor)(emulator_lane *self, void *x, int size, int lanes, emulator_place *at);
    int (*any)(emulator_lane *self, int x, emulator_place *at);
    /* fragments of mma.m16n8k8, rt.cuh has the layout */
    void (*mma)(emulator_lane *self, float *c, const float *a, const float *b,
                emulator_product product, emulator_place *at);
    /* Before an access of `size` bytes: to shared memory where it is out of bounds, misaligned or
     * watched, to global memory where it is misaligned or watched. */
    void (*shared)(emulator_lane *self, const void *p, int size, emulator_access kind,
                   emulator_place *at);
    void (*global)(emulator_lane *self, const void *p, int size, emulator_access kind,
                   emulator_place *at);
    /* The same address in another block of the cluster. */
    const void *(*cluster)(emulator_lane *self, const void *p, int size, int rank,
                           emulator_place *at);
    void (*copy)(emulator_lane *self, void *shared, const void *global, emulator_place *at);
    void (*commit)(emulator_lane *self);
    void (*wait)(emulator_lane *self, int groups);
} emulator_api;

typedef struct emulator_arena {
    const emulator_api *api;
    emulator_lane *lanes; /* the one whose stack is i-th in the arena is lanes[i] */
} emulator_arena;

/* A kernel of an object, under its own name with _kernel. */
typedef struct emulator_kernel {
    const char *name;
    void (*run)(const void *args); /* one thread's part */
    int64_t args_bytes;
    int threads; /* of a block, at most */
} emulator_kernel;

static inline emulator_arena *emulator_here(void)
{
    return (emulator_arena *)((uintptr_t)__builtin_frame_address(0) & ~(EMULATOR_ARENA - 1));
}

static inline emulator_lane *emulator_self(void)
{
    const uintptr_t at = (uintptr_t)__builtin_frame_address(0) & (EMULATOR_ARENA - 1);
    return emulator_here()->lanes + (at >> EMULATOR_STACK);
}

#endif
