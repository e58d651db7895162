/* A driver, an NVRTC and a cuBLAS that behave like NVIDIA's where a program can see it, for
 * machines without a GPU: one library under three names, in front of the real ones by
 * LD_LIBRARY_PATH. Kernels run in the emulator. It is stricter than the real ones: work is done
 * when it is waited for and not before, every argument is checked, what is not freed is told at the
 * end and ends the process with code 99.
 *
 * The environment says what machine it is: FAKE_ARCH (90), FAKE_DEVICES (1), FAKE_DRIVER (13990),
 * FAKE_MEMORY (bytes of the GPU), FAKE_NVRTC (13990, a version
 * that no cache has entries of), FAKE_ARCHS (what NVRTC compiles for),
 * FAKE_TRUST (1: NVRTC takes every text, which the driver compiles when it is loaded),
 * FAKE_CACHE (folder of compiled texts; none otherwise). FAKE_PTX names a PTX interpreter, in which
 * kernels then run instead (fake_ptx.c): FAKE_PTX_FOLDER is where its files go, FAKE_PTX_COMPILER
 * a program that makes PTX of a text, FAKE_PTX_LIBRARIES where that finds NVRTC. The end says how
 * many launches were interpreted.
 */
#ifndef FAKE_H
#define FAKE_H

#include "device/emulator/emulator.h"

#include <stddef.h>

#define FAKE_PUBLIC __attribute__((visibility("default")))

enum {
    FAKE_OK = 0,
    FAKE_INVALID_VALUE = 1,
    FAKE_OUT_OF_MEMORY = 2,
    FAKE_NOT_INITIALIZED = 3,
    FAKE_NO_DEVICE = 100,
    FAKE_INVALID_DEVICE = 101,
    FAKE_INVALID_IMAGE = 200,
    FAKE_INVALID_CONTEXT = 201,
    FAKE_NO_BINARY = 209,
    FAKE_UNSUPPORTED_PTX = 222,
    FAKE_INVALID_HANDLE = 400,
    FAKE_NOT_FOUND = 500,
    FAKE_LAUNCH_RESOURCES = 701,
    FAKE_LAUNCH_FAILED = 719,
    FAKE_CAPTURE_UNSUPPORTED = 900,
    FAKE_CAPTURE_INVALIDATED = 901
};

/* Column-major, as cuBLAS is called. */
typedef struct fake_product {
    int ta, tb, m, n, k, lda, ldb, ldc, tf32;
    float alpha, beta;
    const float *A, *B;
    float *C;
} fake_product;

/* A piece of work in a stream or a graph. */
typedef struct fake_work {
    enum { FAKE_COPY, FAKE_FILL, FAKE_LAUNCH, FAKE_PRODUCT, FAKE_GRAPH } kind;
    void *to;
    const void *from;
    void *owned; /* what is copied, or the kernel's argument */
    size_t bytes;
    int value;
    const emulator_kernel *kernel;
    struct fake_function *function;
    device_grid grid;
    fake_product product;
    struct fake_graph *graph;
} fake_work;

typedef struct fake_list {
    fake_work *item;
    int count, room;
} fake_list;

typedef enum {
    FAKE_HANDLE_STREAM,
    FAKE_HANDLE_MODULE,
    FAKE_HANDLE_FUNCTION,
    FAKE_HANDLE_GRAPH,
    FAKE_HANDLE_EXEC,
    FAKE_KINDS
} fake_kind;

typedef struct fake_stream {
    fake_list queue, *recording; /* NULL: work is queued */
    int invalidated;
} fake_stream;

typedef struct fake_graph {
    fake_list list;
} fake_graph;

typedef struct fake_function {
    struct fake_module *module;
    const emulator_kernel *kernel;
    char name[64];
    char *ptx;  /* file of its PTX, NULL: not made yet */
    int shared; /* what launches may ask for */
    struct fake_function *next;
} fake_function;

typedef struct fake_module {
    void *object;
    char *text;
    fake_function *functions;
} fake_module;

/* Memory of the GPU that was not freed, newest first. */
typedef struct fake_memory {
    char *at;
    size_t bytes;
    struct fake_memory *next;
} fake_memory;

typedef struct fake_machine {
    fake_memory *memories;
    size_t used;
    int initialised, retained, broken; /* broken: the code of work that failed */
    char context;                      /* its address is the context's handle */
} fake_machine;

extern fake_machine fake;
extern __thread void *fake_current; /* context */

/* A number from the environment. */
long fake_setting(const char *name, long otherwise);
/* The emulator's object of a text; NULL and spectra_message. */
void *fake_compile(const char *name, const char *text);
/* FAKE_OK where a context is current. */
int fake_context(void);
/* Is all of it in one allocation that was not freed? */
int fake_in_memory(const void *at, size_t bytes);
/* Into the stream, or what it records. `owned` is taken over. */
int fake_push(void *stream, const fake_work *work);
int fake_forbidden(void); /* what a recording does not allow: ends it */
int fake_arch(void);
int fake_driver(void);
int fake_shared_limit(void); /* bytes a block may ask for */
/* Handles that are alive. */
void *fake_add(fake_kind kind, void *at);
int fake_valid(fake_kind kind, const void *at);
void fake_drop(fake_kind kind, void *at);
void fake_list_push(fake_list *l, const fake_work *work);
void fake_list_free(fake_list *l);
/* Does what a stream was asked for, or all of them. */
int fake_finish(fake_stream *s);
/* A launch in the PTX interpreter; their number so far. */
int fake_interpret(const fake_work *w);
extern int fake_interpreted;
void fake_finish_all(void);
extern fake_stream *fake_recording; /* the stream that records, NULL */
/* Things that have to be gone at the end, by kind. */
void fake_count(const char *what, int change);

#define CHECK(condition, code) \
    do {                       \
        if (!(condition))      \
            return code;       \
    } while (0)
#define ENTER()                     \
    do {                            \
        int entry = fake_context(); \
        if (entry)                  \
            return entry;           \
    } while (0)

#endif
