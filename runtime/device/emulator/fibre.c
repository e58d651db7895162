/* Stacks and how one is left for another. A switch by hand saves six registers; the C library's
 * makes system calls and costs ten times as much. */
#define _GNU_SOURCE
#include "device/emulator/internal.h"

#include "base/status.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(__x86_64__) || defined(EMULATOR_PORTABLE)
#define BY_HAND 0
#include <ucontext.h>
#else
#define BY_HAND 1
#endif
#if EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

/* Tops of stacks lie at different places of a page, else all would share a few sets of the cache.
 */
enum { STAGGER_STEP = 1088, STAGGER = 16 << 10 };

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static size_t stack_bytes(void)
{
    return (size_t)1 << EMULATOR_STACK;
}

static unsigned char *stack_base(const group *g, const emulator_lane *lane)
{
    return (unsigned char *)g->arena + ((size_t)(lane - g->lanes) + 1) * stack_bytes();
}

/* Of what may be used. */
static size_t stack_room(const group *g, const emulator_lane *lane)
{
    const size_t stagger = (size_t)(lane - g->lanes) * STAGGER_STEP % STAGGER;
    return stack_bytes() - stagger / 64 * 64;
}

/* ---- switching --------------------------------------------------------------------------------
 */

#if BY_HAND
void emulator_switch(void **from, void *to) __attribute__((visibility("hidden")));
__asm__(".text\n"
        ".hidden emulator_switch\n"
        ".globl emulator_switch\n"
        ".type emulator_switch, @function\n"
        "emulator_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size emulator_switch, .-emulator_switch\n");

static void context_prepare(group *g, emulator_lane *lane, void (*entry)(void))
{
    void **top = (void **)(void *)(stack_base(g, lane) + stack_room(g, lane));
    top -= 3; /* as after a call: the return address 8 bytes off a multiple of 16 */
    *top = NULL;
    *--top = (void *)(uintptr_t)entry;
    for (int i = 0; i < 6; i++)
        *--top = NULL;
    lane->context = top;
}

static void context_switch(emulator_lane *from, emulator_lane *to)
{
    emulator_switch(&from->context, to->context);
}
#else
static void context_prepare(group *g, emulator_lane *lane, void (*entry)(void))
{
    ucontext_t *context = lane->context;
    getcontext(context);
    context->uc_stack.ss_sp = stack_base(g, lane) + page_bytes();
    context->uc_stack.ss_size = stack_room(g, lane) - page_bytes();
    context->uc_link = NULL;
    makecontext(context, entry, 0);
}

static void context_switch(emulator_lane *from, emulator_lane *to)
{
    swapcontext(from->context, to->context);
}
#endif

void fibre_prepare(group *g, emulator_lane *lane, void (*entry)(void))
{
    lane->fake_stack = NULL;
    context_prepare(g, lane, entry);
}

void fibre_begin(void)
{
#if EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
}

/* AddressSanitizer has to know which stack it is on. The OS thread's own is learnt when it is first
 * left. */
void fibre_switch(emulator_lane *from, emulator_lane *to, bool last)
{
#if EMULATOR_ASAN
    group *g = from->group;
    const bool home = to == &g->home;
    const unsigned char *base = home ? g->home_stack : stack_base(g, to) + page_bytes();
    const size_t size = home ? g->home_size : stack_room(g, to) - page_bytes();
    __sanitizer_start_switch_fiber(last ? NULL : &from->fake_stack, base, size);
#else
    (void)last;
#endif
    context_switch(from, to);
#if EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

void fibre_abandon(group *g)
{
#if EMULATOR_ASAN
    for (int i = 0; i < g->threads; i++)
        __asan_unpoison_memory_region(stack_base(g, &g->lanes[i]) + page_bytes(),
                                      stack_bytes() - page_bytes());
#else
    (void)g;
#endif
}

/* ---- groups -----------------------------------------------------------------------------------
 */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static group *unused; /* under the lock */

/* Address space for all stacks there could be; pages of it are allowed when they are needed. */
static emulator_arena *arena_new(void)
{
    const size_t size = EMULATOR_ARENA;
    unsigned char *all =
        mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    unsigned char *arena = all + (size - (uintptr_t)all % size) % size;
    if (arena > all)
        munmap(all, (size_t)(arena - all));
    munmap(arena + size, (size_t)(all + size - arena));
    if (mprotect(arena, page_bytes(), PROT_READ | PROT_WRITE) != 0) {
        munmap(arena, size);
        return NULL;
    }
    return (emulator_arena *)(void *)arena;
}

static void group_free(group *g)
{
    for (int i = 0; g->lanes && i < EMULATOR_THREADS; i++) {
        free(g->lanes[i].copies);
        if (!BY_HAND)
            free(g->lanes[i].context);
    }
    if (!BY_HAND)
        free(g->home.context);
    if (g->arena)
        munmap(g->arena, EMULATOR_ARENA);
    free(g->lanes);
    free(g);
}

static group *group_new(const emulator_api *api)
{
    group *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->arena = arena_new();
    g->lanes = calloc(EMULATOR_THREADS, sizeof *g->lanes);
#if !BY_HAND
    g->home.context = malloc(sizeof(ucontext_t));
    const bool memory = g->home.context != NULL;
#else
    const bool memory = true;
#endif
    if (!g->arena || !g->lanes || !memory) {
        group_free(g);
        return NULL;
    }
    g->home.group = g;
    *g->arena = (emulator_arena){api, g->lanes - 1};
    return g;
}

/* Pages of a stack but the lowest, which stays a guard. */
static bool stacks_grow(group *g, int threads)
{
    for (; g->stacks < threads; g->stacks++) {
        emulator_lane *lane = &g->lanes[g->stacks];
#if !BY_HAND
        if (!lane->context)
            lane->context = malloc(sizeof(ucontext_t));
        if (!lane->context)
            return false;
#endif
        if (mprotect(stack_base(g, lane) + page_bytes(), stack_bytes() - page_bytes(),
                     PROT_READ | PROT_WRITE) != 0)
            return false;
    }
    return true;
}

static void home_stack(group *g)
{
#if EMULATOR_ASAN
    pthread_attr_t attributes;
    void *base = NULL;
    size_t size = 0;
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        pthread_attr_getstack(&attributes, &base, &size);
        pthread_attr_destroy(&attributes);
    }
    g->home_stack = base;
    g->home_size = size;
#else
    (void)g;
#endif
}

group *group_take(int threads, const emulator_api *api)
{
    pthread_mutex_lock(&lock);
    group *g = unused;
    if (g)
        unused = g->next;
    pthread_mutex_unlock(&lock);
    if (!g)
        g = group_new(api);
    if (g && !stacks_grow(g, threads)) {
        group_give(g);
        g = NULL;
    }
    if (!g) {
        (void)fail(SPECTRA_ENOMEM, "emulator: no memory for the stacks of %d threads", threads);
        return NULL;
    }
    home_stack(g);
    return g;
}

void group_give(group *g)
{
    pthread_mutex_lock(&lock);
    g->next = unused;
    unused = g;
    pthread_mutex_unlock(&lock);
}
