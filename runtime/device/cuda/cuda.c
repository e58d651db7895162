#include "device/cuda/cuda.h"

#include "base/bytes.h"
#include "device/cuda/built.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static cuda_state *state(const device *dev)
{
    return dev->state;
}

static cuda_pointer pointer(const void *p)
{
    return (cuda_pointer)(uintptr_t)p;
}

spectra_status cuda_enter(const device *dev)
{
    return cuda_check(cuda.context_set(state(dev)->context), "entering the GPU's context");
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static spectra_status describe_device(device *dev, cuda_state *s)
{
    static const int wanted[] = {CUDA_DEVICE_CAPABILITY_MAJOR, CUDA_DEVICE_CAPABILITY_MINOR,
                                 CUDA_DEVICE_MULTIPROCESSORS, CUDA_DEVICE_SHARED_OPTIN};
    int value[4];
    char name[128];
    TRY(cuda_check(cuda.device_get(&s->device, 0), "finding the GPU"));
    TRY(cuda_check(cuda.device_name(name, sizeof name, s->device), "asking for the GPU's name"));
    for (int i = 0; i < 4; i++)
        TRY(cuda_check(cuda.device_attribute(&value[i], wanted[i], s->device),
                       "asking for the GPU's properties"));
    dev->arch = 10 * value[0] + value[1];
    dev->multiprocessors = value[2];
    dev->shared_limit = value[3];
    snprintf(dev->name, sizeof dev->name, "%s, sm_%d", name, dev->arch);
    /* kernels need it, and nothing below would say so as plainly */
    char target[NVRTC_TARGET];
    return nvrtc_target(NULL, dev->arch, target) == SPECTRA_OK
               ? SPECTRA_OK
               : fail(SPECTRA_EUNSUPPORTED, "%s is %s", name, spectra_message());
}

static void cuda_close(device *dev)
{
    cuda_state *s = state(dev);
    cublas_close(dev);
    if (s->stream)
        (void)cuda.stream_destroy(s->stream);
    if (s->context)
        (void)cuda.context_release(s->device);
    free(s);
}

static spectra_status open_with(device *dev, cuda_state *s)
{
    TRY(cuda_open(&s->driver));
    TRY(describe_device(dev, s));
    TRY(cuda_check(cuda.context_retain(&s->context, s->device), "taking the GPU"));
    TRY(cuda_enter(dev));
    return cuda_check(cuda.stream_create(&s->stream, CUDA_STREAM_NON_BLOCKING), "making a stream");
}

static spectra_status open_device(device *dev)
{
    dev->state = calloc(1, sizeof(cuda_state));
    if (!dev->state)
        return fail(SPECTRA_ENOMEM, "opening the GPU: out of memory");
    spectra_status status = open_with(dev, dev->state);
    if (status != SPECTRA_OK) {
        char why[1024];
        snprintf(why, sizeof why, "%s", spectra_message());
        cuda_close(dev);
        return fail(status, "no CUDA device: %s", why);
    }
    return SPECTRA_OK;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static spectra_status cuda_alloc(device *dev, int64_t bytes, void **out)
{
    cuda_pointer p = 0;
    size_t available = 0, total = 0;
    TRY(cuda_enter(dev));
    int code = cuda.alloc(&p, (size_t)bytes);
    if (code == CUDA_OUT_OF_MEMORY && cuda.memory_info(&available, &total) == 0)
        return fail(SPECTRA_ENOMEM,
                    "an allocation of %lld bytes: %s has %zu MiB of %zu MiB left, %lld MiB are "
                    "held here",
                    (long long)bytes, dev->name, available >> 20, total >> 20,
                    (long long)dev->used >> 20);
    char what[64];
    snprintf(what, sizeof what, "an allocation of %lld bytes", (long long)bytes);
    TRY(cuda_check(code, what));
    *out = (void *)(uintptr_t)p;
    return SPECTRA_OK;
}

static void cuda_release(device *dev, void *memory)
{
    if (cuda_enter(dev) == SPECTRA_OK)
        (void)cuda.release(pointer(memory));
}

static spectra_status cuda_write(device *dev, void *to, const void *from, int64_t bytes)
{
    /* from pageable memory it is copied away before the call returns */
    TRY(cuda_enter(dev));
    return cuda_check(cuda.write(pointer(to), from, (size_t)bytes, state(dev)->stream),
                      "copying to the GPU");
}

static spectra_status cuda_wait(device *dev)
{
    TRY(cuda_enter(dev));
    return cuda_check(cuda.stream_wait(state(dev)->stream), "waiting for the GPU");
}

static spectra_status cuda_read(device *dev, void *to, const void *from, int64_t bytes)
{
    TRY(cuda_enter(dev));
    TRY(cuda_check(cuda.read(to, pointer(from), (size_t)bytes, state(dev)->stream),
                   "copying from the GPU"));
    return cuda_wait(dev);
}

static spectra_status cuda_copy(device *dev, void *to, const void *from, int64_t bytes)
{
    TRY(cuda_enter(dev));
    return cuda_check(cuda.copy(pointer(to), pointer(from), (size_t)bytes, state(dev)->stream),
                      "copying on the GPU");
}

static spectra_status cuda_zero(device *dev, void *to, int64_t bytes)
{
    TRY(cuda_enter(dev));
    return cuda_check(cuda.fill(pointer(to), 0, (size_t)bytes, state(dev)->stream),
                      "clearing memory of the GPU");
}

/* ---- programs ---------------------------------------------------------------------------------
 */

/* A program on its way. */
typedef struct making {
    device *dev;
    const char *name, *compiler; /* for the sentence */
    char target[NVRTC_TARGET];
    cuda_module *module;
} making;

static spectra_status load(void *context, const byte_buffer *image)
{
    making *m = context;
    int driver = state(m->dev)->driver;
    int code = cuda.module_load(&m->module, image->data);
    if (code != CUDA_UNSUPPORTED_PTX && code != CUDA_NO_BINARY_FOR_GPU &&
        code != CUDA_INVALID_IMAGE)
        return cuda_check(code, "loading a program");
    (void)cuda_check(code, m->name);
    return fail(SPECTRA_EUNSUPPORTED,
                "%s, compiled for %s by %s, on a driver for CUDA %d.%d: update the driver, or "
                "install an NVRTC no newer than it",
                spectra_message(), m->target, m->compiler, driver / 1000, driver % 1000 / 10);
}

/* From the cache or the compiler. */
static spectra_status make(making *m, const char *text)
{
    char why[512] = "";
    const nvrtc_info *nvrtc = NULL;
    bool compiled;
    if (nvrtc_open(state(m->dev)->driver, &nvrtc) != SPECTRA_OK)
        snprintf(why, sizeof why, "%s", spectra_message());
    TRY(nvrtc_target(nvrtc, m->dev->arch, m->target));
    m->compiler = nvrtc ? nvrtc->text : "another NVRTC";
    return nvrtc_make(nvrtc, why, m->name, text, m->target, load, m, &compiled);
}

/* What was built may be too new for the driver; then it is compiled here. */
static spectra_status cuda_program(device *dev, const char *name, const char *text, void **module)
{
    making m = {.dev = dev, .name = name, .compiler = "NVRTC ahead", .target = "its kind of GPU"};
    char refused[512] = "";
    byte_buffer built;
    TRY(cuda_enter(dev));
    if (device_built(text, dev->arch, &built) && load(&m, &built) != SPECTRA_OK)
        snprintf(refused, sizeof refused, "%s", spectra_message());
    spectra_status status = m.module ? SPECTRA_OK : make(&m, text);
    if (status == SPECTRA_OK)
        *module = m.module;
    else if (refused[0])
        status = fail(status, "%s; what was built: %s", spectra_message(), refused);
    return status;
}

static void cuda_unload(device *dev, void *module)
{
    if (cuda_enter(dev) == SPECTRA_OK)
        (void)cuda.module_unload(module);
}

/* Asking for attributes also loads what the driver would else load at the first launch, which may
 * be one that is recorded. */
static spectra_status cuda_function_get(device *dev, void *module, const char *kernel,
                                        int64_t shared_bytes, void **out, int *threads,
                                        int64_t *args_bytes)
{
    cuda_function *f = NULL;
    int fixed = 0;
    TRY(cuda_enter(dev));
    int code = cuda.module_function(&f, module, kernel);
    if (code == CUDA_NOT_FOUND)
        return fail(SPECTRA_ENOTFOUND, "no kernel %s", kernel);
    TRY(cuda_check(code, kernel));
    TRY(cuda_check(cuda.function_attribute(threads, CUDA_FUNCTION_MAX_THREADS, f), kernel));
    TRY(cuda_check(cuda.function_attribute(&fixed, CUDA_FUNCTION_SHARED_STATIC, f), kernel));
    if (fixed + shared_bytes > dev->shared_limit)
        return fail(SPECTRA_EUNSUPPORTED,
                    "%s needs %lld bytes of shared memory and %d of its own, %s has %lld a block",
                    kernel, (long long)shared_bytes, fixed, dev->name,
                    (long long)dev->shared_limit);
    TRY(cuda_check(cuda.function_set(f, CUDA_FUNCTION_SHARED_DYNAMIC, (int)shared_bytes), kernel));
    size_t offset = 0, bytes = 0;
    *args_bytes = 0;
    if (cuda.function_parameter && cuda.function_parameter(f, 0, &offset, &bytes) == 0)
        *args_bytes = (int64_t)bytes;
    *out = f;
    return SPECTRA_OK;
}

static spectra_status cuda_launch(device *dev, void *function, const device_grid *g,
                                  const void *args, int64_t size)
{
    char copy[DEVICE_ARGS];
    void *arguments[] = {copy};
    cuda_stream *stream = state(dev)->stream;
    const unsigned grid[] = {(unsigned)g->blocks[0], (unsigned)g->blocks[1],
                             (unsigned)g->blocks[2]};
    const unsigned threads = (unsigned)g->threads, shared = (unsigned)g->shared_bytes;
    TRY(cuda_enter(dev));
    memcpy(copy, args, (size_t)size);
    if (g->cluster <= 1)
        return cuda_check(cuda.launch(function, grid[0], grid[1], grid[2], threads, 1, 1, shared,
                                      stream, arguments, NULL),
                          "launching");
    if (!cuda.launch_config)
        return fail(SPECTRA_EUNSUPPORTED,
                    "clusters of blocks need a driver for CUDA 11.8, this one is for %d.%d",
                    state(dev)->driver / 1000, state(dev)->driver % 1000 / 10);
    cuda_launch_attribute cluster = {.id = CUDA_LAUNCH_CLUSTER,
                                     .value.cluster = {(unsigned)g->cluster, 1, 1}};
    const cuda_launch_config config = {.grid = {grid[0], grid[1], grid[2]},
                                       .block = {threads, 1, 1},
                                       .shared_bytes = shared,
                                       .stream = stream,
                                       .attributes = &cluster,
                                       .attribute_count = 1};
    return cuda_check(cuda.launch_config(&config, function, arguments, NULL), "launching");
}

static spectra_status cuda_gemm(device *dev, const device_product *p)
{
    TRY(cuda_enter(dev));
    return cublas_product(dev, p);
}

/* ---- recordings -------------------------------------------------------------------------------
 */

static spectra_status cuda_record_begin(device *dev)
{
    TRY(cuda_enter(dev));
    /* where there is no cuBLAS, the first product will say so */
    (void)cublas_prepare(dev);
    return cuda_check(cuda.capture_begin(state(dev)->stream, CUDA_CAPTURE_THREAD),
                      "beginning to record");
}

static spectra_status cuda_record_end(device *dev, void **out)
{
    cuda_graph *graph = NULL;
    cuda_graph_exec *exec = NULL;
    TRY(cuda_enter(dev));
    TRY(cuda_check(cuda.capture_end(state(dev)->stream, &graph), "ending a recording"));
    spectra_status status =
        cuda_check(cuda.graph_prepare(&exec, graph, 0), "preparing a recording");
    (void)cuda.graph_destroy(graph);
    if (status == SPECTRA_OK)
        *out = exec;
    return status;
}

static spectra_status cuda_replay(device *dev, void *graph)
{
    TRY(cuda_enter(dev));
    return cuda_check(cuda.graph_launch(graph, state(dev)->stream), "replaying a recording");
}

static void cuda_graph_free(device *dev, void *graph)
{
    if (cuda_enter(dev) == SPECTRA_OK)
        (void)cuda.graph_exec_destroy(graph);
}

const device_backend device_cuda = {
    .kind = "cuda",
    .open = open_device,
    .close = cuda_close,
    .alloc = cuda_alloc,
    .release = cuda_release,
    .write = cuda_write,
    .read = cuda_read,
    .copy = cuda_copy,
    .zero = cuda_zero,
    .wait = cuda_wait,
    .program = cuda_program,
    .unload = cuda_unload,
    .function = cuda_function_get,
    .launch = cuda_launch,
    .gemm = cuda_gemm,
    .record_begin = cuda_record_begin,
    .record_end = cuda_record_end,
    .replay = cuda_replay,
    .graph_free = cuda_graph_free,
};
