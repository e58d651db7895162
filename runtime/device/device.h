/* A device that runs CUDA kernels: an NVIDIA GPU, through the CUDA driver and NVRTC, or the
 * emulator, which compiles the same text for this CPU. Everything behind this interface is opened
 * at run time, so that one binary serves machines with and without a GPU. If the device is missing,
 * calls fail with SPECTRA_EUNSUPPORTED and say why; nothing falls back to another device.
 *
 * Work is queued on one stream and executed in the order it was asked for. Only device_read and
 * device_wait wait for it, so an error on a GPU is often reported by a later call. A device may be
 * used by one thread at a time. Pointers to device memory are void * and are never dereferenced on
 * the host. */
#ifndef SPECTRA_DEVICE_DEVICE_H
#define SPECTRA_DEVICE_DEVICE_H

#include "spectraformer.h"

typedef struct device device;
typedef struct device_program device_program;
typedef struct device_function device_function;

/* kind: "cuda" or "emu". SPECTRA_EINVAL for another, SPECTRA_EUNSUPPORTED where it cannot be had.
 */
spectra_status device_open(const char *kind, device **out);
void device_close(device *dev);
/* "NVIDIA H100 80GB HBM3, sm_90", "emulator". */
const char *device_name(const device *dev);
/* Compute capability times 10 (80, 90 ...); the emulator's is 80. */
int device_arch(const device *dev);
int device_multiprocessors(const device *dev);

/* 256-byte aligned. SPECTRA_ENOMEM names the size. Fresh memory holds NaN in the emulator. Every
 * copy below must lie inside one allocation (SPECTRA_EINVAL). What is freed while recording goes
 * when the recording ends. What was not freed, programs and graphs too, goes with the device. */
spectra_status device_alloc(device *dev, int64_t bytes, void **out);
void device_free(device *dev, void *memory); /* NULL is fine */
/* Bytes of device_alloc at their most, and now. */
int64_t device_peak_bytes(const device *dev);
int64_t device_used_bytes(const device *dev);
/* `from` may change as soon as it returns. */
spectra_status device_write(device *dev, void *to, const void *from, int64_t bytes);
spectra_status device_read(device *dev, void *to, const void *from, int64_t bytes); /* waits */
spectra_status device_copy(device *dev, void *to, const void *from, int64_t bytes);
spectra_status device_zero(device *dev, void *to, int64_t bytes);
spectra_status device_wait(device *dev);

/* Compiles CUDA text, or takes it from the cache that spectra_jit_allow named; `name` is for
 * messages. A text is compiled once a device. The device owns the program. SPECTRA_EFORMAT with the
 * compiler's log where it does not compile, SPECTRA_EUNSUPPORTED where compiling is not allowed.
 * Ask before recording. */
spectra_status device_program_get(device *dev, const char *name, const char *text,
                                  device_program **out);
/* A kernel of the program, which owns it, with the most shared memory it will be launched with.
 * SPECTRA_ENOTFOUND; SPECTRA_EUNSUPPORTED where the device has less shared memory. */
spectra_status device_function_get(device_program *program, const char *kernel,
                                   int64_t shared_bytes, device_function **out);
/* args: the kernel's one argument, a struct of `size` bytes, at most DEVICE_ARGS, copied. cluster:
 * blocks a cluster along x (compute capability 9.0 and newer, a divisor of blocks[0], at most 8), 1
 * or 0: none. SPECTRA_EINVAL for a grid that no device has; a grid without blocks does nothing. */
enum { DEVICE_ARGS = 4096 };
typedef struct device_grid {
    int64_t blocks[3];
    int threads, cluster;
    int64_t shared_bytes;
} device_grid;
spectra_status device_launch(device_function *function, const device_grid *grid, const void *args,
                             int64_t size);

/* C (m, n) = alpha op(A) op(B) + beta C, all row-major on the device; op is the transpose where
 * asked for. tf32: products of TF32
 * numbers, as tensor cores compute them. By cuBLAS, or by the host's BLAS in the emulator. C is not
 * read where beta is 0. SPECTRA_EINVAL for sizes past INT_MAX or rows shorter than they are said to
 * be. */
spectra_status device_gemm(device *dev, bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                           int64_t k, float alpha, const float *A, int64_t lda, const float *B,
                           int64_t ldb, float beta, float *C, int64_t ldc, bool tf32);

/* Between the two every launch, copy, device_zero and device_gemm is recorded instead of run;
 * device_replay runs them. The emulator records too. Do the work once before it is recorded: that
 * is when libraries load what they need. Reads, writes, waits, allocations and new programs are not
 * allowed meanwhile (SPECTRA_EINVAL). */
typedef struct device_graph device_graph;
spectra_status device_record_begin(device *dev);
spectra_status device_record_end(device *dev, device_graph **out);
spectra_status device_replay(device *dev, device_graph *graph);
void device_graph_free(device *dev, device_graph *graph);

/* What was looked for and found, for people: a line each, "driver" "CUDA 13.0" or why not. */
void device_describe(void (*line)(void *to, const char *what, const char *text), void *to);

#endif
