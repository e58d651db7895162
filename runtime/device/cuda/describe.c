#include "device/cuda/cuda.h"

#include <stdio.h>
#include <string.h>

typedef struct report {
    void (*line)(void *to, const char *what, const char *text);
    void *to;
} report;

static void why_not(const report *r, const char *what)
{
    char text[1040];
    snprintf(text, sizeof text, "none: %s", spectra_message());
    r->line(r->to, what, text);
}

static spectra_status describe_gpu(int number, char *text, size_t size)
{
    int id = 0, major = 0, minor = 0, processors = 0;
    size_t bytes = 0;
    char name[128] = "";
    TRY(cuda_check(cuda.device_get(&id, number), "finding the GPU"));
    TRY(cuda_check(cuda.device_name(name, sizeof name, id), "asking for its name"));
    TRY(cuda_check(cuda.device_memory(&bytes, id), "asking for its memory"));
    TRY(cuda_check(cuda.device_attribute(&major, CUDA_DEVICE_CAPABILITY_MAJOR, id), "asking"));
    TRY(cuda_check(cuda.device_attribute(&minor, CUDA_DEVICE_CAPABILITY_MINOR, id), "asking"));
    TRY(cuda_check(cuda.device_attribute(&processors, CUDA_DEVICE_MULTIPROCESSORS, id), "asking"));
    snprintf(text, size, "%s, sm_%d%d, %zu MiB, %d multiprocessors%s", name, major, minor,
             bytes >> 20, processors, number ? " (not used)" : "");
    return SPECTRA_OK;
}

/* The driver's version, 0: there is none. */
static int describe_driver(const report *r)
{
    int driver = 0, count = 0;
    char text[256], what[32];
    if (cuda_open(&driver) != SPECTRA_OK) {
        why_not(r, "driver");
        return 0;
    }
    snprintf(text, sizeof text, "CUDA %d.%d", driver / 1000, driver % 1000 / 10);
    r->line(r->to, "driver", text);
    if (cuda_check(cuda.device_count(&count), "counting GPUs") != SPECTRA_OK)
        why_not(r, "GPU");
    for (int i = 0; i < count; i++) {
        snprintf(what, sizeof what, "GPU %d", i);
        if (describe_gpu(i, text, sizeof text) == SPECTRA_OK)
            r->line(r->to, what, text);
        else
            why_not(r, what);
    }
    return driver;
}

static void describe_nvrtc(const report *r, int driver)
{
    const nvrtc_info *n;
    if (nvrtc_open(driver, &n) != SPECTRA_OK) {
        why_not(r, "NVRTC");
        return;
    }
    char text[512];
    size_t used = (size_t)snprintf(text, sizeof text, "%d.%d for sm", n->major, n->minor);
    for (int i = 0; i < n->archs && used < sizeof text; i++)
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s%d", i ? " " : "_", n->arch[i]);
    if (used < sizeof text)
        snprintf(text + used, sizeof text - used, " (%s)", n->library);
    r->line(r->to, "NVRTC", text);
}

static void describe_cublas(const report *r)
{
    char text[64];
    if (cublas_open(text, sizeof text) == SPECTRA_OK)
        r->line(r->to, "cuBLAS", text + strlen("cuBLAS "));
    else
        why_not(r, "cuBLAS");
}

static void describe_curand(const report *r)
{
    static const char *const names[] = {"libcurand.so.10", "/usr/local/cuda/lib64/libcurand.so.10"};
    static int (*version)(int *version);
    static const library_symbol symbols[] = {{"curandGetVersion", &version, false}};
    library l;
    int v = 0;
    char text[64];
    spectra_status status = library_open("cuRAND", names, 2, symbols, 1, NULL, &l);
    if (status == SPECTRA_OK && version(&v) != 0)
        status = fail(SPECTRA_EUNSUPPORTED, "%s does not say what it is", l.name);
    if (status != SPECTRA_OK) {
        why_not(r, "cuRAND");
        return;
    }
    snprintf(text, sizeof text, "%d.%d.%d", v / 1000, v % 1000 / 100, v % 100);
    r->line(r->to, "cuRAND", text);
}

void device_describe(void (*line)(void *to, const char *what, const char *text), void *to)
{
    const report r = {line, to};
    int driver = describe_driver(&r);
    describe_nvrtc(&r, driver);
    describe_cublas(&r);
    describe_curand(&r);
    const jit_compiler *c = jit_settings_compiler();
    if (c)
        line(to, "emulator", c->path);
    else
        why_not(&r, "emulator");
}
