/* The CUDA driver (libcuda) and cuBLAS, opened at run time, and what the files of the device "cuda"
 * share. The declarations are our own, with the names and numbers of the driver API's
 * documentation, so that building needs no CUDA toolkit. */
#ifndef SPECTRA_DEVICE_CUDA_CUDA_H
#define SPECTRA_DEVICE_CUDA_CUDA_H

#include "device/backend.h"

#include "base/library.h"
#include "device/cuda/nvrtc.h"

typedef struct cuda_context cuda_context;
typedef struct cuda_stream cuda_stream;
typedef struct cuda_module cuda_module;
typedef struct cuda_function cuda_function;
typedef struct cuda_graph cuda_graph;
typedef struct cuda_graph_exec cuda_graph_exec;
typedef unsigned long long cuda_pointer;

/* Results: 0 or one of these, or another that error_name and error_text explain. */
enum {
    CUDA_OUT_OF_MEMORY = 2,
    CUDA_NO_DEVICE = 100,
    CUDA_INVALID_IMAGE = 200,
    CUDA_NO_BINARY_FOR_GPU = 209,
    CUDA_UNSUPPORTED_PTX = 222,
    CUDA_NOT_FOUND = 500
};

enum {
    CUDA_DEVICE_MULTIPROCESSORS = 16,
    CUDA_DEVICE_CAPABILITY_MAJOR = 75,
    CUDA_DEVICE_CAPABILITY_MINOR = 76,
    CUDA_DEVICE_SHARED_OPTIN = 97
};

enum {
    CUDA_FUNCTION_MAX_THREADS = 0,
    CUDA_FUNCTION_SHARED_STATIC = 1,
    CUDA_FUNCTION_SHARED_DYNAMIC = 8 /* the most a launch may ask for */
};

enum { CUDA_STREAM_NON_BLOCKING = 1, CUDA_CAPTURE_THREAD = 1, CUDA_LAUNCH_CLUSTER = 4 };

/* For cuLaunchKernelEx. */
typedef struct cuda_launch_attribute {
    int id;
    char pad[4];
    union {
        char room[64];
        unsigned cluster[3];
    } value;
} cuda_launch_attribute;

typedef struct cuda_launch_config {
    unsigned grid[3], block[3], shared_bytes;
    cuda_stream *stream;
    cuda_launch_attribute *attributes;
    unsigned attribute_count;
} cuda_launch_config;

typedef struct cuda_api {
    int (*init)(unsigned flags);
    int (*driver_version)(int *version);
    int (*error_name)(int code, const char **text);
    int (*error_text)(int code, const char **text);
    int (*device_count)(int *count);
    int (*device_get)(int *device, int number);
    int (*device_name)(char *name, int size, int device);
    int (*device_attribute)(int *value, int attribute, int device);
    int (*device_memory)(size_t *bytes, int device);
    int (*context_retain)(cuda_context **context, int device);
    int (*context_release)(int device);
    int (*context_set)(cuda_context *context);
    int (*stream_create)(cuda_stream **stream, unsigned flags);
    int (*stream_destroy)(cuda_stream *stream);
    int (*stream_wait)(cuda_stream *stream);
    int (*alloc)(cuda_pointer *memory, size_t bytes);
    int (*release)(cuda_pointer memory);
    int (*memory_info)(size_t *available, size_t *total);
    int (*write)(cuda_pointer to, const void *from, size_t bytes, cuda_stream *stream);
    int (*read)(void *to, cuda_pointer from, size_t bytes, cuda_stream *stream);
    int (*copy)(cuda_pointer to, cuda_pointer from, size_t bytes, cuda_stream *stream);
    int (*fill)(cuda_pointer to, unsigned char value, size_t bytes, cuda_stream *stream);
    int (*module_load)(cuda_module **module, const void *image);
    int (*module_unload)(cuda_module *module);
    int (*module_function)(cuda_function **function, cuda_module *module, const char *name);
    int (*function_attribute)(int *value, int attribute, cuda_function *function);
    int (*function_set)(cuda_function *function, int attribute, int value);
    int (*function_parameter)(cuda_function *function, size_t number, size_t *offset,
                              size_t *bytes); /* from CUDA 12.4 on, else NULL */
    int (*launch)(cuda_function *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                  unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                  cuda_stream *stream, void **arguments, void **extra);
    int (*launch_config)(const cuda_launch_config *config, cuda_function *function,
                         void **arguments, void **extra); /* from CUDA 11.8 on, else NULL */
    int (*capture_begin)(cuda_stream *stream, int mode);
    int (*capture_end)(cuda_stream *stream, cuda_graph **graph);
    int (*graph_prepare)(cuda_graph_exec **exec, cuda_graph *graph, unsigned long long flags);
    int (*graph_launch)(cuda_graph_exec *exec, cuda_stream *stream);
    int (*graph_exec_destroy)(cuda_graph_exec *exec);
    int (*graph_destroy)(cuda_graph *graph);
} cuda_api;

/* After cuda_open has given SPECTRA_OK. */
extern cuda_api cuda;

/* The driver, initialised; *driver: CUDA version it is for, 1000 * major + 10 * minor.
 * SPECTRA_EUNSUPPORTED, also where there is no GPU. */
spectra_status cuda_open(int *driver);
/* The status of a result; `what` was being done: "copying 12 bytes". */
spectra_status cuda_check(int code, const char *what);

/* State of an open device. */
typedef struct cuda_state {
    int device, driver;
    cuda_context *context;
    cuda_stream *stream;
    void *blas, *blas_memory; /* handle, its workspace; NULL: not needed yet */
} cuda_state;

/* Makes the context current for the calling thread. */
spectra_status cuda_enter(const device *dev);

/* ---- cublas.c: needs an entered context ------------------------------------------------
 */

/* The library alone: "cuBLAS 13.0.2" into text. SPECTRA_EUNSUPPORTED. */
spectra_status cublas_open(char *text, size_t size);
/* Handle and workspace of the device, so that products may be recorded. */
spectra_status cublas_prepare(device *dev);
spectra_status cublas_product(device *dev, const device_product *p);
void cublas_close(device *dev);

#endif
