/* What a back end has to provide: the functions by which device.c works with one kind of device (a
 * GPU, the emulator). device.c checks arguments, keeps track of memory, programs and recorded
 * graphs, and looks into the cache; a back end does the rest and may rely on those checks. */
#ifndef SPECTRA_DEVICE_BACKEND_H
#define SPECTRA_DEVICE_BACKEND_H

#include "device/device.h"
#include "kernel/internal.h"

/* device_gemm's arguments. */
typedef struct device_product {
    bool transpose_a, transpose_b, tf32;
    int64_t m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const float *A, *B;
    float *C;
} device_product;

typedef struct device_backend {
    const char *kind;
    /* Fills dev->name, arch, multiprocessors, shared_limit, state. On failure nothing is kept. */
    spectra_status (*open)(device *dev);
    void (*close)(device *dev);
    spectra_status (*alloc)(device *dev, int64_t bytes, void **out);
    void (*release)(device *dev, void *memory);
    spectra_status (*write)(device *dev, void *to, const void *from, int64_t bytes);
    spectra_status (*read)(device *dev, void *to, const void *from, int64_t bytes);
    spectra_status (*copy)(device *dev, void *to, const void *from, int64_t bytes);
    spectra_status (*zero)(device *dev, void *to, int64_t bytes);
    spectra_status (*wait)(device *dev);
    /* From what was built, the cache, the compiler. */
    spectra_status (*program)(device *dev, const char *name, const char *text, void **module);
    void (*unload)(device *dev, void *module);
    /* *args_bytes: size of the kernel's argument, 0 where it cannot be known. */
    spectra_status (*function)(device *dev, void *module, const char *kernel, int64_t shared_bytes,
                               void **out, int *threads, int64_t *args_bytes);
    spectra_status (*launch)(device *dev, void *function, const device_grid *grid, const void *args,
                             int64_t size);
    /* Sizes are positive and fit int. */
    spectra_status (*gemm)(device *dev, const device_product *p);
    spectra_status (*record_begin)(device *dev);
    spectra_status (*record_end)(device *dev, void **graph);
    spectra_status (*replay)(device *dev, void *graph);
    void (*graph_free)(device *dev, void *graph);
} device_backend;

extern const device_backend device_cuda, device_emu;

typedef struct device_memory {
    char *at;
    int64_t bytes;
    bool freed; /* while recording */
} device_memory;

struct device_function {
    device_program *program;
    char *name;
    void *handle; /* the backend's */
    int64_t shared_bytes, args_bytes;
    int threads;
    device_function *next;
};

struct device_program {
    device *dev;
    char *name;
    sha256_hex text;
    void *module; /* the backend's */
    device_function *functions;
    device_program *next;
};

struct device_graph {
    void *handle; /* the backend's */
    device_graph *next;
};

struct device {
    const device_backend *backend;
    void *state; /* the backend's */
    char name[160];
    int arch, multiprocessors;
    int64_t shared_limit; /* bytes of a block */
    bool recording;
    device_memory *memory; /* by address */
    int memory_count, memory_room;
    int64_t used, peak;
    device_program *programs;
    device_graph *graphs;
};

#endif
