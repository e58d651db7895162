#define _GNU_SOURCE
#include "device/backend.h"

#include "base/bytes.h"
#include "base/status.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const device_backend *const backends[] = {&device_cuda, &device_emu};
enum { BACKENDS = sizeof backends / sizeof backends[0] };

spectra_status device_open(const char *kind, device **out)
{
    const device_backend *backend = NULL;
    for (int i = 0; i < BACKENDS; i++)
        if (strcmp(backends[i]->kind, kind) == 0)
            backend = backends[i];
    if (!backend)
        return fail(SPECTRA_EINVAL, "unknown device '%s', allowed is cuda|emu", kind);
    device *dev = calloc(1, sizeof *dev);
    if (!dev)
        return fail(SPECTRA_ENOMEM, "opening the %s device: out of memory", kind);
    dev->backend = backend;
    spectra_status status = backend->open(dev);
    if (status != SPECTRA_OK)
        free(dev);
    else
        *out = dev;
    return status;
}

static void functions_free(device_program *p)
{
    while (p->functions) {
        device_function *f = p->functions;
        p->functions = f->next;
        free(f->name);
        free(f);
    }
}

void device_close(device *dev)
{
    if (!dev)
        return;
    device_graph *graph = NULL;
    if (dev->recording && device_record_end(dev, &graph) == SPECTRA_OK)
        device_graph_free(dev, graph);
    (void)dev->backend->wait(dev);
    while (dev->graphs)
        device_graph_free(dev, dev->graphs);
    while (dev->programs) {
        device_program *p = dev->programs;
        dev->programs = p->next;
        functions_free(p);
        dev->backend->unload(dev, p->module);
        free(p->name);
        free(p);
    }
    for (int i = 0; i < dev->memory_count; i++)
        dev->backend->release(dev, dev->memory[i].at);
    free(dev->memory);
    dev->backend->close(dev);
    free(dev);
}

const char *device_name(const device *dev)
{
    return dev->name;
}

int device_arch(const device *dev)
{
    return dev->arch;
}

int device_multiprocessors(const device *dev)
{
    return dev->multiprocessors;
}

static spectra_status not_recording(const device *dev, const char *what)
{
    return dev->recording ? fail(SPECTRA_EINVAL, "%s while recording on %s", what, dev->name)
                          : SPECTRA_OK;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

/* Number of the first allocation that begins after `at`. */
static int memory_after(const device *dev, const char *at)
{
    int low = 0, high = dev->memory_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (dev->memory[middle].at <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static spectra_status memory_holds(const device *dev, const void *at, int64_t bytes,
                                   const char *what)
{
    const char *from = at;
    int i = memory_after(dev, from) - 1;
    if (bytes >= 0 && i >= 0 && !dev->memory[i].freed &&
        from - dev->memory[i].at <= dev->memory[i].bytes - bytes)
        return SPECTRA_OK;
    return fail(SPECTRA_EINVAL, "%s %lld bytes at %p: not in memory of %s", what, (long long)bytes,
                at, dev->name);
}

spectra_status device_alloc(device *dev, int64_t bytes, void **out)
{
    TRY(not_recording(dev, "an allocation"));
    if (bytes < 0)
        return fail(SPECTRA_EINVAL, "an allocation of %lld bytes", (long long)bytes);
    if (dev->memory_count == dev->memory_room) {
        int room = 2 * dev->memory_room + 64;
        device_memory *more = realloc(dev->memory, (size_t)room * sizeof *more);
        if (!more)
            return fail(SPECTRA_ENOMEM, "an allocation of %lld bytes: out of memory",
                        (long long)bytes);
        dev->memory = more;
        dev->memory_room = room;
    }
    void *memory = NULL;
    /* never 0: every allocation has an address of its own */
    TRY(dev->backend->alloc(dev, bytes ? bytes : 1, &memory));
    int i = memory_after(dev, memory);
    memmove(dev->memory + i + 1, dev->memory + i,
            (size_t)(dev->memory_count - i) * sizeof *dev->memory);
    dev->memory[i] = (device_memory){memory, bytes, false};
    dev->memory_count++;
    dev->used += bytes;
    dev->peak = dev->used > dev->peak ? dev->used : dev->peak;
    *out = memory;
    return SPECTRA_OK;
}

static void memory_remove(device *dev, int i)
{
    dev->backend->release(dev, dev->memory[i].at);
    dev->used -= dev->memory[i].bytes;
    dev->memory_count--;
    memmove(dev->memory + i, dev->memory + i + 1,
            (size_t)(dev->memory_count - i) * sizeof *dev->memory);
}

void device_free(device *dev, void *memory)
{
    if (!memory)
        return;
    int i = memory_after(dev, memory) - 1;
    assert(i >= 0 && dev->memory[i].at == memory && !dev->memory[i].freed);
    if (dev->recording)
        dev->memory[i].freed = true;
    else
        memory_remove(dev, i);
}

int64_t device_peak_bytes(const device *dev)
{
    return dev->peak;
}

int64_t device_used_bytes(const device *dev)
{
    return dev->used;
}

spectra_status device_write(device *dev, void *to, const void *from, int64_t bytes)
{
    TRY(not_recording(dev, "a write"));
    TRY(memory_holds(dev, to, bytes, "writing"));
    return bytes ? dev->backend->write(dev, to, from, bytes) : SPECTRA_OK;
}

spectra_status device_read(device *dev, void *to, const void *from, int64_t bytes)
{
    TRY(not_recording(dev, "a read"));
    TRY(memory_holds(dev, from, bytes, "reading"));
    return bytes ? dev->backend->read(dev, to, from, bytes) : dev->backend->wait(dev);
}

spectra_status device_copy(device *dev, void *to, const void *from, int64_t bytes)
{
    TRY(memory_holds(dev, to, bytes, "copying to"));
    TRY(memory_holds(dev, from, bytes, "copying"));
    return bytes ? dev->backend->copy(dev, to, from, bytes) : SPECTRA_OK;
}

spectra_status device_zero(device *dev, void *to, int64_t bytes)
{
    TRY(memory_holds(dev, to, bytes, "clearing"));
    return bytes ? dev->backend->zero(dev, to, bytes) : SPECTRA_OK;
}

spectra_status device_wait(device *dev)
{
    TRY(not_recording(dev, "a wait"));
    return dev->backend->wait(dev);
}

/* ---- programs ---------------------------------------------------------------------------------
 */

spectra_status device_program_get(device *dev, const char *name, const char *text,
                                  device_program **out)
{
    sha256_hex hash;
    sha256_of(text, strlen(text), hash);
    for (device_program *p = dev->programs; p; p = p->next)
        if (strcmp(p->text, hash) == 0) {
            *out = p;
            return SPECTRA_OK;
        }
    TRY(not_recording(dev, "a new program"));
    void *module = NULL;
    device_program *p = calloc(1, sizeof *p);
    char *copy = strdup(name);
    spectra_status status = p && copy ? dev->backend->program(dev, name, text, &module)
                                      : fail(SPECTRA_ENOMEM, "compiling %s: out of memory", name);
    if (status != SPECTRA_OK) {
        free(p);
        free(copy);
        return status;
    }
    *p = (device_program){.dev = dev, .name = copy, .module = module, .next = dev->programs};
    memcpy(p->text, hash, sizeof hash);
    dev->programs = p;
    *out = p;
    return SPECTRA_OK;
}

spectra_status device_function_get(device_program *p, const char *kernel, int64_t shared_bytes,
                                   device_function **out)
{
    device *dev = p->dev;
    for (device_function *f = p->functions; f; f = f->next)
        if (strcmp(f->name, kernel) == 0 && f->shared_bytes == shared_bytes) {
            *out = f;
            return SPECTRA_OK;
        }
    if (shared_bytes < 0 || shared_bytes > dev->shared_limit)
        return fail(SPECTRA_EUNSUPPORTED,
                    "%s of %s needs %lld bytes of shared memory, %s has %lld a block", kernel,
                    p->name, (long long)shared_bytes, dev->name, (long long)dev->shared_limit);
    device_function *f = calloc(1, sizeof *f);
    char *copy = strdup(kernel);
    spectra_status status = SPECTRA_OK;
    if (!f || !copy)
        status = fail(SPECTRA_ENOMEM, "%s of %s: out of memory", kernel, p->name);
    else
        status = dev->backend->function(dev, p->module, kernel, shared_bytes, &f->handle,
                                        &f->threads, &f->args_bytes);
    if (status == SPECTRA_ENOTFOUND)
        status = fail(status, "%s has no kernel %s", p->name, kernel);
    if (status != SPECTRA_OK) {
        free(f);
        free(copy);
        return status;
    }
    f->program = p;
    f->name = copy;
    f->shared_bytes = shared_bytes;
    f->next = p->functions;
    p->functions = f;
    *out = f;
    return SPECTRA_OK;
}

/* ---- work -------------------------------------------------------------------------------------
 */

enum { MAX_BLOCKS_Y = 65535, MAX_CLUSTER = 8, FIRST_CLUSTERS = 90 };

/* NULL, or what is wrong with it. */
static const char *wrong_grid(const device_function *f, const device_grid *g)
{
    if (g->threads < 1 || g->threads > f->threads)
        return "threads of a block";
    if (g->blocks[0] < 0 || g->blocks[0] > INT_MAX || g->blocks[1] < 0 ||
        g->blocks[1] > MAX_BLOCKS_Y || g->blocks[2] < 0 || g->blocks[2] > MAX_BLOCKS_Y)
        return "blocks";
    if (g->shared_bytes < 0 || g->shared_bytes > f->shared_bytes)
        return "shared memory, more than was asked for with the kernel";
    if (g->cluster < 0 || g->cluster > MAX_CLUSTER ||
        (g->cluster > 1 && g->blocks[0] % g->cluster != 0))
        return "blocks of a cluster";
    return NULL;
}

spectra_status device_launch(device_function *f, const device_grid *g, const void *args,
                             int64_t size)
{
    device *dev = f->program->dev;
    const char *wrong = wrong_grid(f, g);
    if (wrong)
        return fail(
            SPECTRA_EINVAL,
            "%s of %s: wrong %s: %lld x %lld x %lld blocks, %d in a cluster, %d threads (at "
            "most %d), %lld bytes",
            f->name, f->program->name, wrong, (long long)g->blocks[0], (long long)g->blocks[1],
            (long long)g->blocks[2], g->cluster, g->threads, f->threads,
            (long long)g->shared_bytes);
    if (g->cluster > 1 && dev->arch < FIRST_CLUSTERS && dev->backend == &device_cuda)
        return fail(SPECTRA_EUNSUPPORTED, "%s of %s: %s has no clusters of blocks", f->name,
                    f->program->name, dev->name);
    if (size < 1 || size > DEVICE_ARGS || (f->args_bytes && size != f->args_bytes))
        return fail(SPECTRA_EINVAL, "%s of %s: an argument of %lld bytes, the kernel's has %lld",
                    f->name, f->program->name, (long long)size, (long long)f->args_bytes);
    if (g->blocks[0] == 0 || g->blocks[1] == 0 || g->blocks[2] == 0)
        return SPECTRA_OK;
    spectra_status status = dev->backend->launch(dev, f->handle, g, args, size);
    return status == SPECTRA_OK
               ? status
               : fail(status, "%s of %s: %s", f->name, f->program->name, spectra_message());
}

/* Bytes from the first to the last element of a matrix. */
static int64_t matrix_bytes(int64_t rows, int64_t columns, int64_t ld)
{
    return rows && columns ? ((rows - 1) * ld + columns) * (int64_t)sizeof(float) : 0;
}

spectra_status device_gemm(device *dev, bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                           int64_t k, float alpha, const float *A, int64_t lda, const float *B,
                           int64_t ldb, float beta, float *C, int64_t ldc, bool tf32)
{
    const device_product p = {.transpose_a = transpose_a,
                              .transpose_b = transpose_b,
                              .tf32 = tf32,
                              .m = m,
                              .n = n,
                              .k = k,
                              .lda = lda,
                              .ldb = ldb,
                              .ldc = ldc,
                              .alpha = alpha,
                              .beta = beta,
                              .A = A,
                              .B = B,
                              .C = C};
    const int64_t all[] = {m, n, k, lda, ldb, ldc};
    const int64_t a_columns = transpose_a ? m : k, b_columns = transpose_b ? k : n;
    bool good = k > 0 && lda >= a_columns && ldb >= b_columns && ldc >= n;
    for (int i = 0; i < 6; i++)
        good = good && all[i] >= 0 && all[i] <= INT_MAX;
    if (!good)
        return fail(SPECTRA_EINVAL,
                    "a product of %lld x %lld by %lld: rows of A, B, C are %lld, %lld, %lld apart",
                    (long long)m, (long long)n, (long long)k, (long long)lda, (long long)ldb,
                    (long long)ldc);
    if (m == 0 || n == 0)
        return SPECTRA_OK;
    TRY(memory_holds(dev, A, matrix_bytes(transpose_a ? k : m, a_columns, lda),
                     "the product's A,"));
    TRY(memory_holds(dev, B, matrix_bytes(transpose_b ? n : k, b_columns, ldb),
                     "the product's B,"));
    TRY(memory_holds(dev, C, matrix_bytes(m, n, ldc), "the product's C,"));
    return dev->backend->gemm(dev, &p);
}

/* ---- recordings -------------------------------------------------------------------------------
 */

spectra_status device_record_begin(device *dev)
{
    TRY(not_recording(dev, "a recording"));
    TRY(dev->backend->record_begin(dev));
    dev->recording = true;
    return SPECTRA_OK;
}

spectra_status device_record_end(device *dev, device_graph **out)
{
    if (!dev->recording)
        return fail(SPECTRA_EINVAL, "the end of a recording that was not begun on %s", dev->name);
    device_graph *graph = calloc(1, sizeof *graph);
    void *handle = NULL;
    spectra_status status = dev->backend->record_end(dev, &handle);
    dev->recording = false;
    for (int i = dev->memory_count - 1; i >= 0; i--)
        if (dev->memory[i].freed)
            memory_remove(dev, i);
    if (status == SPECTRA_OK && !graph) {
        dev->backend->graph_free(dev, handle);
        status = fail(SPECTRA_ENOMEM, "a recording: out of memory");
    }
    if (status != SPECTRA_OK) {
        free(graph);
        return status;
    }
    *graph = (device_graph){handle, dev->graphs};
    dev->graphs = graph;
    *out = graph;
    return SPECTRA_OK;
}

spectra_status device_replay(device *dev, device_graph *graph)
{
    TRY(not_recording(dev, "a replay"));
    return dev->backend->replay(dev, graph->handle);
}

void device_graph_free(device *dev, device_graph *graph)
{
    if (!graph)
        return;
    device_graph **at = &dev->graphs;
    while (*at != graph)
        at = &(*at)->next;
    *at = graph->next;
    dev->backend->graph_free(dev, graph->handle);
    free(graph);
}
