/* Launches: the grid is checked, and its blocks are spread over the machine's threads. */
#define _GNU_SOURCE
#include "device/emulator/internal.h"

#include "base/status.h"
#include "kernel/internal.h"
#include "kernel/registry.h"

#include <dlfcn.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POISON = 0xff, CANARY = 64, STACKS = 16384 };

/* ---- objects ----------------------------------------------------------------------------------
 */

extern const char *const jit_source_name[], *const jit_source_text[];

/* The Makefile gives what the library itself is checked with (sanitizers). */
#ifndef EMULATOR_CHECKED
#define EMULATOR_CHECKED ""
#endif

static const char *header(const char *path)
{
    int i = 0;
    while (jit_source_name[i] && strcmp(jit_source_name[i], path) != 0)
        i++;
    return jit_source_text[i];
}

/* Contraction would depend on the machine. A device does not mind how memory is looked at. A text
 * is compiled for few launches: -O2 takes four times as long and saves a third of theirs. */
spectra_status emulator_compile(const char *name, const char *text, void **object)
{
    static const char abi[] = "runtime/device/emulator/abi.h",
                      rt[] = "runtime/device/emulator/rt.h";
    char flags[1024], *all = NULL;
    jit_compile_flags(registry_isa(), flags, sizeof flags / 2);
    strcat(flags, " -Og -ffp-contract=off -fno-strict-aliasing " EMULATOR_CHECKED);
    if (asprintf(&all, "#line 1 \"%s\"\n%s#line 1 \"%s\"\n%s#line 1 \"%s\"\n%s", abi, header(abi),
                 rt, header(rt), name, text) < 0)
        return fail(SPECTRA_ENOMEM, "compiling %s: out of memory", name);
    spectra_status status = jit_object(name, "emulator", all, flags, object);
    free(all);
    return status;
}

spectra_status emulator_load(void *object, const char *kernel, const emulator_kernel **out)
{
    char *name = NULL;
    if (asprintf(&name, "%s_kernel", kernel) < 0)
        return fail(SPECTRA_ENOMEM, "kernel %s: out of memory", kernel);
    const emulator_kernel *found = dlsym(object, name);
    free(name);
    if (!found)
        return fail(SPECTRA_ENOTFOUND, "the object has no kernel '%s'", kernel);
    *out = found;
    return SPECTRA_OK;
}

/* ---- a cluster --------------------------------------------------------------------------------
 */

/* AddressSanitizer guards the ends of exact blocks; without it there are canaries, looked at when
 * the block has ended. */
static size_t shared_pitch(const device_grid *grid)
{
    return ((size_t)grid->shared_bytes + CANARY + 127) / 128 * 128;
}

static bool shared_begin(group *g)
{
    const size_t bytes = (size_t)g->grid->shared_bytes, pitch = shared_pitch(g->grid);
    for (int i = 0; i < g->blocks; i++) {
        void *at = g->shared + (size_t)i * pitch;
#if EMULATOR_ASAN
        free(g->block[i].shared);
        g->block[i].shared = NULL;
        if (posix_memalign(&at, 128, bytes ? bytes : 1) != 0)
            return false;
        memset(at, POISON, bytes);
#else
        memset(at, POISON, bytes + CANARY);
#endif
        g->block[i].shared = at;
    }
    return true;
}

static void shared_end(group *g)
{
    const size_t bytes = (size_t)g->grid->shared_bytes;
    for (int i = 0; i < g->blocks; i++) {
        block *b = &g->block[i];
#if EMULATOR_ASAN
        free(b->shared);
        b->shared = NULL;
#else
        for (size_t k = bytes; k < bytes + CANARY && !g->failed; k++) {
            if (b->shared[k] == POISON)
                continue;
            g->failed = true;
            snprintf(g->message, sizeof g->message,
                     "kernel %s, block (%lld, %lld, %lld): byte %zu of shared memory was written, "
                     "which has %zu",
                     g->kernel->name, (long long)b->index[0], (long long)b->index[1],
                     (long long)b->index[2], k, bytes);
        }
#endif
    }
    (void)bytes;
}

static void index_of(const device_grid *grid, int64_t number, int64_t index[3])
{
    index[0] = number % grid->blocks[0];
    index[1] = number / grid->blocks[0] % grid->blocks[1];
    index[2] = number / grid->blocks[0] / grid->blocks[1];
}

/* Seeds differ from cluster to cluster, not from machine to machine. */
static uint64_t seed_of(uint64_t seed, int64_t number)
{
    uint64_t x = seed + 0x9e3779b97f4a7c15U * (uint64_t)(number + 1);
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9U;
    x = (x ^ x >> 27) * 0x94d049bb133111ebU;
    return x ^ x >> 31 ? x ^ x >> 31 : 1;
}

static bool cluster_run(group *g, int64_t number)
{
    for (int i = 0; i < g->blocks; i++)
        index_of(g->grid, number * g->blocks + i, g->block[i].index);
    g->random = seed_of(g->options->seed, number);
    g->failed = false;
    if (!shared_begin(g) || (g->watching && !watch_begin(g))) {
        g->failed = true;
        snprintf(g->message, sizeof g->message, "kernel %s: out of memory", g->kernel->name);
    } else {
        (void)group_run(g);
    }
    shared_end(g);
    return !g->failed;
}

/* ---- a launch ---------------------------------------------------------------------------------
 */

typedef struct launch {
    const emulator_kernel *kernel;
    const device_grid *grid;
    const void *args;
    const emulator_options *options;
    emulator_range *ranges;
    emulator_counters counters;
    int64_t clusters;
    int64_t failed; /* the first cluster that failed, of those that ran; INT64_MAX: none */
    spectra_status status;
    char message[MESSAGE];
} launch;

static spectra_status group_open(group *g, const launch *l)
{
    const device_grid *grid = l->grid;
    g->kernel = l->kernel;
    g->grid = grid;
    g->args = l->args;
    g->options = l->options;
    g->ranges = l->ranges;
    g->blocks = grid->cluster > 1 ? grid->cluster : 1;
    g->threads = g->blocks * grid->threads;
    g->warps = g->blocks * ((grid->threads + EMULATOR_WARP - 1) / EMULATOR_WARP);
    g->counters = (emulator_counters){0};
    g->watching = (l->options->counters ? (unsigned)WATCH_COUNT : 0) |
                  (l->options->check_races ? (unsigned)WATCH_RACE : 0) |
                  (l->options->allocations ? (unsigned)WATCH_RANGE : 0);
    const size_t room = (size_t)g->blocks * shared_pitch(grid);
    if (room <= g->shared_room)
        return SPECTRA_OK;
    free(g->shared);
    g->shared = NULL;
    g->shared_room = 0;
    if (posix_memalign((void **)&g->shared, 128, room) != 0)
        return fail(SPECTRA_ENOMEM, "kernel %s: %zu bytes of shared memory: out of memory",
                    l->kernel->name, room);
    g->shared_room = room;
    return SPECTRA_OK;
}

static void add_counters(emulator_counters *to, const emulator_counters *from)
{
    int64_t *a = (int64_t *)to;
    const int64_t *b = (const int64_t *)from;
    for (size_t i = 0; i < sizeof *to / sizeof *a; i++)
        a[i] += b[i];
}

static void launch_fail(launch *l, int64_t number, spectra_status status, const char *message)
{
#pragma omp critical(emulator_launch)
    if (number < l->failed) {
        snprintf(l->message, sizeof l->message, "%s", message);
        l->status = status;
        __atomic_store_n(&l->failed, number, __ATOMIC_RELAXED);
    }
}

static void run_part(launch *l)
{
    const int each = l->grid->threads * (l->grid->cluster > 1 ? l->grid->cluster : 1);
    group *g = group_take(each, &emulator_functions);
    if (!g || group_open(g, l) != SPECTRA_OK)
        launch_fail(l, -1, SPECTRA_ENOMEM, spectra_message());
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < l->clusters; i++)
        if (i < __atomic_load_n(&l->failed, __ATOMIC_RELAXED) && !cluster_run(g, i))
            launch_fail(l, i, SPECTRA_EINVAL, g->message);
    if (g) {
#pragma omp critical(emulator_launch)
        add_counters(&l->counters, &g->counters);
        group_give(g);
    }
}

static spectra_status check_grid(const emulator_kernel *k, const device_grid *grid, int64_t bytes)
{
    if (bytes != k->args_bytes)
        return fail(SPECTRA_EINVAL, "kernel %s: arguments of %lld bytes, it takes %lld", k->name,
                    (long long)bytes, (long long)k->args_bytes);
    if (grid->threads < 1 || grid->threads > k->threads || grid->threads > 1024)
        return fail(SPECTRA_EINVAL, "kernel %s: %d threads a block, allowed are 1 to %d", k->name,
                    grid->threads, k->threads < 1024 ? k->threads : 1024);
    for (int i = 0; i < 3; i++) {
        const int64_t most = i == 0 ? INT32_MAX : 65535;
        if (grid->blocks[i] < 1 || grid->blocks[i] > most)
            return fail(SPECTRA_EINVAL, "kernel %s: %lld blocks along %c, allowed are 1 to %lld",
                        k->name, (long long)grid->blocks[i], "xyz"[i], (long long)most);
    }
    if (grid->shared_bytes < 0 || grid->shared_bytes > EMULATOR_SHARED)
        return fail(SPECTRA_EINVAL, "kernel %s: %lld bytes of shared memory, allowed are 0 to %d",
                    k->name, (long long)grid->shared_bytes, EMULATOR_SHARED);
    if (grid->cluster < 0 || grid->cluster > EMULATOR_CLUSTER)
        return fail(SPECTRA_EINVAL, "kernel %s: clusters of %d blocks, allowed are 1 to %d",
                    k->name, grid->cluster, EMULATOR_CLUSTER);
    if (grid->cluster > 1 && grid->blocks[0] % grid->cluster != 0)
        return fail(SPECTRA_EINVAL, "kernel %s: %lld blocks along x are no clusters of %d", k->name,
                    (long long)grid->blocks[0], grid->cluster);
    return SPECTRA_OK;
}

static int compare_ranges(const void *a, const void *b)
{
    const uintptr_t x = (uintptr_t)((const emulator_range *)a)->start;
    const uintptr_t y = (uintptr_t)((const emulator_range *)b)->start;
    return (x > y) - (x < y);
}

static spectra_status sort_ranges(launch *l)
{
    const size_t n = (size_t)l->options->allocation_count;
    if (!l->options->allocations)
        return SPECTRA_OK;
    l->ranges = malloc((n + 1) * sizeof *l->ranges);
    if (!l->ranges)
        return fail(SPECTRA_ENOMEM, "kernel %s: out of memory", l->kernel->name);
    if (n)
        memcpy(l->ranges, l->options->allocations, n * sizeof *l->ranges);
    qsort(l->ranges, n, sizeof *l->ranges, compare_ranges);
    return SPECTRA_OK;
}

spectra_status emulator_launch(const emulator_kernel *kernel, const device_grid *grid,
                               const void *args, int64_t bytes, const emulator_options *options)
{
    static const emulator_options defaults = {.order = EMULATOR_ASCENDING};
    TRY(check_grid(kernel, grid, bytes));
    const int cluster = grid->cluster > 1 ? grid->cluster : 1, each = cluster * grid->threads;
    launch l = {.kernel = kernel,
                .grid = grid,
                .args = args,
                .options = options ? options : &defaults,
                .clusters = grid->blocks[0] * grid->blocks[1] * grid->blocks[2] / cluster,
                .failed = INT64_MAX};
    TRY(sort_ranges(&l));
    int64_t threads = l.options->os_threads > 0 ? l.options->os_threads : omp_get_max_threads();
    threads = threads < l.clusters ? threads : l.clusters;
    threads = threads < STACKS / each ? threads : STACKS / each; /* each has two mappings */
#pragma omp parallel num_threads((int)threads)
    run_part(&l);
    free(l.ranges);
    if (l.failed != INT64_MAX)
        return fail(l.status, "%s", l.message);
    if (l.options->counters)
        add_counters(l.options->counters, &l.counters);
    return SPECTRA_OK;
}
