/* An emulator that runs CUDA kernels on the CPU, for machines without a GPU and for tests. CUDA's
 * texts are written so that they are C as well: the system's C compiler makes a shared object of
 * one, and each CUDA thread of a launch becomes a fibre with a stack of its own. The emulator
 * reports the source line of races in shared memory, of accesses outside of an array and of
 * barriers that not all threads reach.
 *
 * Only accesses through the names of rt.cuh are checked and counted. An error of a kernel ends the
 * launch with SPECTRA_EINVAL and a sentence that names kernel, block, thread and line. Speed,
 * occupancy and the last bits of approximate instructions are not those of a GPU.
 *
 * Shared memory holds NaN when a block begins, and the target of an asynchronous copy holds NaN
 * until the copy has been waited for. The threads of a block run in turn on one thread of the
 * machine, different blocks side by side. */
#ifndef SPECTRA_DEVICE_EMULATOR_EMULATOR_H
#define SPECTRA_DEVICE_EMULATOR_EMULATOR_H

#include "device/device.h"
#include "device/emulator/abi.h"

enum { EMULATOR_CLUSTER = 8, EMULATOR_SHARED = 227 << 10 }; /* most blocks of a cluster; bytes */

/* The object of a text, compiled or from the cache that spectra_jit_allow named; it stays loaded.
 * `name` is for messages and for the cache's list. SPECTRA_EFORMAT with what the compiler wrote,
 * SPECTRA_EUNSUPPORTED where compiling is not allowed or there is no compiler. */
spectra_status emulator_compile(const char *name, const char *text, void **object);
/* A kernel of the object, which owns it. SPECTRA_ENOTFOUND. */
spectra_status emulator_load(void *object, const char *kernel, const emulator_kernel **out);

/* Who goes next where several threads could. Correct kernels give the same bits in any order. */
typedef enum { EMULATOR_ASCENDING, EMULATOR_DESCENDING, EMULATOR_RANDOM } emulator_order;

/* Sums over a launch. Accesses are a thread's, of global memory; a warp's, of shared memory. */
typedef struct emulator_counters {
    int64_t global_load_bytes, global_store_bytes;
    int64_t global_wide, global_narrow; /* accesses of 16 bytes, of less */
    int64_t global_sectors;             /* 32-byte pieces that the accesses of warps touch */
    /* Accesses of warps, the passes they take over 32 banks of 4 bytes (8 bytes a thread: half a
     * warp at once, 16: a quarter), and how many of those would not be needed without conflicts */
    int64_t shared_accesses, shared_wavefronts, shared_conflicts;
    int64_t mma; /* of warps */
    int64_t switches;
} emulator_counters;

typedef struct emulator_range {
    const void *start;
    int64_t bytes;
} emulator_range;

/* Zeros are the defaults. Checks and counts make a launch several times slower. */
typedef struct emulator_options {
    emulator_order order;
    uint64_t seed;    /* of EMULATOR_RANDOM */
    bool check_races; /* of shared memory: two threads, one of them writing, no barrier between */
    /* Global memory the kernel may touch, checked where not NULL; in any order. */
    const emulator_range *allocations;
    int64_t allocation_count;
    emulator_counters *counters; /* added to where not NULL */
    int os_threads;              /* 0: as many as OpenMP gives */
} emulator_options;

/* Runs a kernel to its end. args: its struct of `bytes` bytes; options NULL: all defaults.
 * SPECTRA_EINVAL for what the kernel does wrong and for a grid it does not allow, SPECTRA_ENOMEM.
 */
spectra_status emulator_launch(const emulator_kernel *kernel, const device_grid *grid,
                               const void *args, int64_t bytes, const emulator_options *options);

/* How the launches of a device of kind "emu" run from now on; of another kind nothing happens.
 * watch: they may touch nothing but memory of device_alloc. For tests. */
void device_emulate(device *dev, const emulator_options *options, bool watch);

#endif
