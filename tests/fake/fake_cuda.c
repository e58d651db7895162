/* The driver of fake.h: machine, streams, memory. */
#define _GNU_SOURCE
#include "fake/fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- machine ----------------------------------------------------------------------------------
 */

/* as documented by NVIDIA; there is no header of theirs here */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

FAKE_PUBLIC int cuInit(unsigned flags)
{
    CHECK(flags == 0, FAKE_INVALID_VALUE);
    CHECK(fake_setting("FAKE_DEVICES", 1) > 0, FAKE_NO_DEVICE);
    fake.initialised = 1;
    return FAKE_OK;
}

FAKE_PUBLIC int cuDriverGetVersion(int *version)
{
    *version = fake_driver();
    return FAKE_OK;
}

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
    {FAKE_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {FAKE_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {FAKE_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {FAKE_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {FAKE_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {FAKE_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {FAKE_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {FAKE_NO_BINARY, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available"},
    {FAKE_UNSUPPORTED_PTX, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {FAKE_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {FAKE_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {FAKE_LAUNCH_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {FAKE_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {FAKE_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {FAKE_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
};
enum { ERRORS = sizeof errors / sizeof errors[0] };

FAKE_PUBLIC int cuGetErrorName(int code, const char **text)
{
    for (int i = 0; i < ERRORS; i++)
        if (errors[i].code == code) {
            *text = errors[i].name;
            return FAKE_OK;
        }
    return FAKE_INVALID_VALUE;
}

FAKE_PUBLIC int cuGetErrorString(int code, const char **text)
{
    for (int i = 0; i < ERRORS; i++)
        if (errors[i].code == code) {
            *text = errors[i].text;
            return FAKE_OK;
        }
    return FAKE_INVALID_VALUE;
}

FAKE_PUBLIC int cuDeviceGetCount(int *count)
{
    CHECK(fake.initialised, FAKE_NOT_INITIALIZED);
    *count = (int)fake_setting("FAKE_DEVICES", 1);
    return FAKE_OK;
}

FAKE_PUBLIC int cuDeviceGet(int *gpu, int number)
{
    CHECK(fake.initialised, FAKE_NOT_INITIALIZED);
    CHECK(number >= 0 && number < fake_setting("FAKE_DEVICES", 1), FAKE_INVALID_DEVICE);
    *gpu = number;
    return FAKE_OK;
}

FAKE_PUBLIC int cuDeviceGetName(char *name, int size, int gpu)
{
    CHECK(fake.initialised, FAKE_NOT_INITIALIZED);
    snprintf(name, (size_t)size, "Fake GPU %d", gpu);
    return FAKE_OK;
}

int fake_shared_limit(void)
{
    const int a = fake_arch();
    return a == 86 || a == 89 || a >= 120 ? 99 << 10 : a == 80 || a == 87 ? 163 << 10 : 227 << 10;
}

FAKE_PUBLIC int cuDeviceGetAttribute(int *value, int attribute, int gpu)
{
    CHECK(fake.initialised, FAKE_NOT_INITIALIZED);
    CHECK(gpu >= 0, FAKE_INVALID_DEVICE);
    switch (attribute) {
    case 16:
        *value = 4;
        break;
    case 75:
        *value = fake_arch() / 10;
        break;
    case 76:
        *value = fake_arch() % 10;
        break;
    case 97:
        *value = fake_shared_limit();
        break;
    default:
        return FAKE_INVALID_VALUE;
    }
    return FAKE_OK;
}

static size_t capacity(void)
{
    return (size_t)fake_setting("FAKE_MEMORY", 1L << 30);
}

FAKE_PUBLIC int cuDeviceTotalMem_v2(size_t *bytes, int gpu)
{
    CHECK(fake.initialised && gpu >= 0, FAKE_NOT_INITIALIZED);
    *bytes = capacity();
    return FAKE_OK;
}

FAKE_PUBLIC int cuDevicePrimaryCtxRetain(void **context, int gpu)
{
    CHECK(fake.initialised, FAKE_NOT_INITIALIZED);
    CHECK(gpu == 0, FAKE_INVALID_DEVICE);
    fake.retained++;
    *context = &fake.context;
    return FAKE_OK;
}

FAKE_PUBLIC int cuDevicePrimaryCtxRelease_v2(int gpu)
{
    CHECK(gpu == 0 && fake.retained > 0, FAKE_INVALID_CONTEXT);
    fake.retained--;
    fake.broken = fake.retained ? fake.broken : 0;
    return FAKE_OK;
}

FAKE_PUBLIC int cuCtxSetCurrent(void *context)
{
    CHECK(fake.initialised, FAKE_NOT_INITIALIZED);
    CHECK(!context || (context == &fake.context && fake.retained > 0), FAKE_INVALID_CONTEXT);
    fake_current = context;
    return FAKE_OK;
}

/* ---- streams and memory -----------------------------------------------------------------------
 */

FAKE_PUBLIC int cuStreamCreate(void **stream, unsigned flags)
{
    ENTER();
    CHECK(flags <= 1, FAKE_INVALID_VALUE);
    *stream = fake_add(FAKE_HANDLE_STREAM, calloc(1, sizeof(fake_stream)));
    return FAKE_OK;
}

FAKE_PUBLIC int cuStreamDestroy_v2(void *stream)
{
    CHECK(fake_valid(FAKE_HANDLE_STREAM, stream), FAKE_INVALID_HANDLE);
    (void)fake_finish(stream);
    fake_drop(FAKE_HANDLE_STREAM, stream);
    free(stream);
    return FAKE_OK;
}

FAKE_PUBLIC int cuStreamSynchronize(void *stream)
{
    ENTER();
    CHECK(fake_valid(FAKE_HANDLE_STREAM, stream), FAKE_INVALID_HANDLE);
    int code = fake_forbidden();
    return code ? code : fake_finish(stream);
}

FAKE_PUBLIC int cuMemAlloc_v2(unsigned long long *out, size_t bytes)
{
    ENTER();
    CHECK(bytes > 0, FAKE_INVALID_VALUE);
    int code = fake_forbidden();
    if (code)
        return code;
    CHECK(bytes <= capacity() && fake.used <= capacity() - bytes, FAKE_OUT_OF_MEMORY);
    fake_memory *m = malloc(sizeof *m);
    *m = (fake_memory){aligned_alloc(256, (bytes + 255) / 256 * 256), bytes, fake.memories};
    memset(m->at, 0xff, bytes); /* NaN */
    fake.memories = m;
    fake.used += bytes;
    fake_count("allocation", 1);
    *out = (unsigned long long)(uintptr_t)m->at;
    return FAKE_OK;
}

FAKE_PUBLIC int cuMemFree_v2(unsigned long long at_)
{
    int code = fake_context();
    CHECK(!code || code == fake.broken, code);
    code = fake_forbidden();
    if (code)
        return code;
    fake_finish_all();
    fake_memory **m = &fake.memories;
    while (*m && (*m)->at != (char *)(uintptr_t)at_)
        m = &(*m)->next;
    CHECK(*m, FAKE_INVALID_VALUE);
    fake_memory *gone = *m;
    *m = gone->next;
    fake.used -= gone->bytes;
    free(gone->at);
    free(gone);
    fake_count("allocation", -1);
    return FAKE_OK;
}

FAKE_PUBLIC int cuMemGetInfo_v2(size_t *available, size_t *total)
{
    ENTER();
    *total = capacity();
    *available = *total - fake.used;
    return FAKE_OK;
}

static int copy(void *to, const void *from, size_t bytes, void *stream, int way)
{
    ENTER();
    CHECK(fake_valid(FAKE_HANDLE_STREAM, stream), FAKE_INVALID_HANDLE);
    CHECK(bytes > 0 && (way == 2 || fake_in_memory(to, bytes)) &&
              (way == 0 || fake_in_memory(from, bytes)),
          FAKE_INVALID_VALUE);
    fake_work w = {.kind = FAKE_COPY, .to = to, .from = from, .bytes = bytes, .value = way};
    if (way != 1) { /* of host memory: a recording would keep the address */
        int code = fake_forbidden();
        if (code)
            return code;
    }
    if (way == 0) { /* pageable memory is staged at once */
        w.owned = malloc(bytes);
        memcpy(w.owned, from, bytes);
    }
    return fake_push(stream, &w);
}

FAKE_PUBLIC int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, void *s)
{
    return copy((void *)(uintptr_t)to, from, bytes, s, 0);
}

FAKE_PUBLIC int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes,
                                     void *s)
{
    return copy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes, s, 1);
}

FAKE_PUBLIC int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, void *s)
{
    return copy(to, (const void *)(uintptr_t)from, bytes, s, 2);
}

FAKE_PUBLIC int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t bytes, void *s)
{
    ENTER();
    void *start = (void *)(uintptr_t)to;
    CHECK(fake_valid(FAKE_HANDLE_STREAM, s), FAKE_INVALID_HANDLE);
    CHECK(bytes > 0 && fake_in_memory(start, bytes), FAKE_INVALID_VALUE);
    return fake_push(s,
                     &(fake_work){.kind = FAKE_FILL, .to = start, .bytes = bytes, .value = value});
}
