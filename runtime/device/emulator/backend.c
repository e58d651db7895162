#include "device/backend.h"

#include "base/status.h"
#include "device/emulator/emulator.h"
#include "math/blas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Work that was recorded. */
typedef struct work {
    enum { WORK_LAUNCH, WORK_COPY, WORK_ZERO, WORK_GEMM } kind;
    void *function, *to;
    const void *from;
    int64_t bytes; /* of the copy, of args */
    device_grid grid;
    device_product product;
    void *args; /* owned */
} work;

typedef struct recording {
    work *item;
    int count, room;
} recording;

typedef struct emu_state {
    recording *recording; /* NULL: nothing is recorded */
    emulator_options options;
    bool watch; /* every launch only touches what was allocated */
} emu_state;

/* Multiprocessors are an H100's, so that launches are split as there, whatever this machine is. */
enum { ALIGN = 256, ARCH = 80, MULTIPROCESSORS = 132 };

static void recording_free(recording *r)
{
    for (int i = 0; r && i < r->count; i++)
        free(r->item[i].args);
    if (r)
        free(r->item);
    free(r);
}

static spectra_status run_launch(device *dev, const work *w)
{
    const emu_state *state = dev->state;
    emulator_options options = state->options;
    emulator_range *ranges = NULL;
    if (state->watch) {
        ranges = malloc((size_t)(dev->memory_count + 1) * sizeof *ranges);
        if (!ranges)
            return fail(SPECTRA_ENOMEM, "a launch: out of memory");
        for (int i = 0; i < dev->memory_count; i++)
            ranges[i] = (emulator_range){dev->memory[i].at, dev->memory[i].bytes};
        options.allocations = ranges;
        options.allocation_count = dev->memory_count;
    }
    spectra_status status =
        emulator_launch(w->function, &w->grid, w->args ? w->args : w->from, w->bytes, &options);
    free(ranges);
    return status;
}

void device_emulate(device *dev, const emulator_options *options, bool watch)
{
    emu_state *state = dev->state;
    if (dev->backend != &device_emu)
        return;
    state->options = *options;
    state->watch = watch;
}

static spectra_status run(device *dev, const work *w)
{
    const device_product *p = &w->product;
    switch (w->kind) {
    case WORK_LAUNCH:
        return run_launch(dev, w);
    case WORK_COPY:
        memmove(w->to, w->from, (size_t)w->bytes);
        return SPECTRA_OK;
    case WORK_ZERO:
        memset(w->to, 0, (size_t)w->bytes);
        return SPECTRA_OK;
    case WORK_GEMM:
        TRY(blas_open());
        blas_sgemm(p->transpose_a, p->transpose_b, p->m, p->n, p->k, p->alpha, p->A, p->lda, p->B,
                   p->ldb, p->beta, p->C, p->ldc);
        return SPECTRA_OK;
    }
    return SPECTRA_EINVAL;
}

/* Now, or into the recording. */
static spectra_status run_or_record(device *dev, const work *w)
{
    recording *r = ((emu_state *)dev->state)->recording;
    if (!r)
        return run(dev, w);
    if (r->count == r->room) {
        work *more = realloc(r->item, (size_t)(2 * r->room + 64) * sizeof *more);
        if (!more)
            return fail(SPECTRA_ENOMEM, "recording: out of memory");
        r->item = more;
        r->room = 2 * r->room + 64;
    }
    work kept = *w;
    if (w->kind == WORK_LAUNCH) {
        kept.args = malloc((size_t)w->bytes);
        if (!kept.args)
            return fail(SPECTRA_ENOMEM, "recording: out of memory");
        memcpy(kept.args, w->from, (size_t)w->bytes);
    }
    r->item[r->count++] = kept;
    return SPECTRA_OK;
}

static spectra_status emu_open(device *dev)
{
    dev->state = calloc(1, sizeof(emu_state));
    if (!dev->state)
        return fail(SPECTRA_ENOMEM, "opening the emulator: out of memory");
    dev->arch = ARCH;
    dev->multiprocessors = MULTIPROCESSORS;
    dev->shared_limit = EMULATOR_SHARED;
    snprintf(dev->name, sizeof dev->name, "emulator");
    return SPECTRA_OK;
}

static void emu_close(device *dev)
{
    free(dev->state);
}

static spectra_status emu_alloc(device *dev, int64_t bytes, void **out)
{
    /* every byte is written below, so what the machine does not have must not be tried */
    const int64_t most = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    size_t size = ((size_t)bytes + ALIGN - 1) / ALIGN * ALIGN;
    void *memory = bytes < most ? aligned_alloc(ALIGN, size) : NULL;
    (void)dev;
    if (!memory)
        return fail(SPECTRA_ENOMEM, "an allocation of %lld bytes: out of memory", (long long)bytes);
    memset(memory, 0xff, size); /* NaN, in every type of numbers */
    *out = memory;
    return SPECTRA_OK;
}

static void emu_release(device *dev, void *memory)
{
    (void)dev;
    free(memory);
}

static spectra_status emu_move(device *dev, void *to, const void *from, int64_t bytes)
{
    (void)dev;
    memcpy(to, from, (size_t)bytes);
    return SPECTRA_OK;
}

static spectra_status emu_copy(device *dev, void *to, const void *from, int64_t bytes)
{
    return run_or_record(dev, &(work){.kind = WORK_COPY, .to = to, .from = from, .bytes = bytes});
}

static spectra_status emu_zero(device *dev, void *to, int64_t bytes)
{
    return run_or_record(dev, &(work){.kind = WORK_ZERO, .to = to, .bytes = bytes});
}

static spectra_status emu_wait(device *dev)
{
    (void)dev;
    return SPECTRA_OK;
}

static spectra_status emu_program(device *dev, const char *name, const char *text, void **module)
{
    (void)dev;
    return emulator_compile(name, text, module);
}

/* Objects stay loaded, as other kernels do that are compiled at run time. */
static void emu_unload(device *dev, void *module)
{
    (void)dev;
    (void)module;
}

static spectra_status emu_function(device *dev, void *module, const char *kernel,
                                   int64_t shared_bytes, void **out, int *threads,
                                   int64_t *args_bytes)
{
    const emulator_kernel *k = NULL;
    (void)dev;
    (void)shared_bytes;
    TRY(emulator_load(module, kernel, &k));
    *out = (void *)(uintptr_t)k;
    *threads = k->threads;
    *args_bytes = k->args_bytes;
    return SPECTRA_OK;
}

static spectra_status emu_launch(device *dev, void *function, const device_grid *grid,
                                 const void *args, int64_t size)
{
    return run_or_record(
        dev,
        &(work){
            .kind = WORK_LAUNCH, .function = function, .grid = *grid, .from = args, .bytes = size});
}

static spectra_status emu_gemm(device *dev, const device_product *p)
{
    return run_or_record(dev, &(work){.kind = WORK_GEMM, .product = *p});
}

static spectra_status emu_record_begin(device *dev)
{
    emu_state *s = dev->state;
    s->recording = calloc(1, sizeof *s->recording);
    return s->recording ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "recording: out of memory");
}

static spectra_status emu_record_end(device *dev, void **graph)
{
    emu_state *s = dev->state;
    *graph = s->recording;
    s->recording = NULL;
    return SPECTRA_OK;
}

static spectra_status emu_replay(device *dev, void *graph)
{
    const recording *r = graph;
    for (int i = 0; i < r->count; i++)
        TRY(run(dev, &r->item[i]));
    return SPECTRA_OK;
}

static void emu_graph_free(device *dev, void *graph)
{
    (void)dev;
    recording_free(graph);
}

const device_backend device_emu = {
    .kind = "emu",
    .open = emu_open,
    .close = emu_close,
    .alloc = emu_alloc,
    .release = emu_release,
    .write = emu_move,
    .read = emu_move,
    .copy = emu_copy,
    .zero = emu_zero,
    .wait = emu_wait,
    .program = emu_program,
    .unload = emu_unload,
    .function = emu_function,
    .launch = emu_launch,
    .gemm = emu_gemm,
    .record_begin = emu_record_begin,
    .record_end = emu_record_end,
    .replay = emu_replay,
    .graph_free = emu_graph_free,
};
