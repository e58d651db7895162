/* What a measurement must know about the machine it ran on: which machine it is, how many
 * operations per second it can do at most, and whether other programs were using it meanwhile. This
 * is read from Linux's /proc; elsewhere it is unknown, and unknown counts as busy. */
#ifndef SPECTRA_STUDY_BENCH_MACHINE_H
#define SPECTRA_STUDY_BENCH_MACHINE_H

#include "kernel/kernel.h"
#include "spectraformer.h"

typedef struct machine_info {
    char cpu[128], kernel[128], compiler[128]; /* "unknown" */
    int processors;
    int64_t memory_bytes, cache_bytes[3]; /* of one core: L1 data, L2, L3; 0: unknown */
    isa best;
    bool bf16; /* dot products of bf16 numbers (AVX512-BF16) */
} machine_info;

void machine_describe(machine_info *out);

/* Operations a second of `threads` threads that do nothing but multiply-adds of vectors of this
 * instruction set, in registers, for about `seconds`; a multiply-add is two. */
double machine_fma_rate(isa level, int threads, double seconds);

/* Bytes a second between memory and `threads` threads: read from an array of 64 MiB, or of four
 * times the last cache where that is more, and copied from it to another (read and written, both
 * counted). SPECTRA_ENOMEM. */
spectra_status machine_memory_rate(int threads, double *read, double *copy);

/* From machine_watch on: processor time that was used, and how much of it by this process and its
 * children; instruction slots that cores had for this process. */
typedef struct machine_watch {
    double wall, own;
    int64_t used; /* ticks of all processors, -1: unknown */
    double slots; /* sum of samples */
    int64_t samples;
} machine_watch;

/* What others took of the machine, 0 to 1; -1: unknown. */
typedef struct machine_load {
    /* share of all processors' time, with what the hypervisor took away. Ticks are 10 ms, so half a
     * second tells 2 %. */
    double others;
    /* share of the cores' instruction slots: other hardware threads of the same cores, which may
     * belong to another virtual machine, take them without a trace in processor times. Against the
     * most that this process ever had; 0 where nobody sampled. */
    double cores;
} machine_load;

void machine_watch_start(machine_watch *w);
/* A sample of the cores that `threads` threads run on, about 0.2 ms; the first of a process takes
 * 0.2 s to see what a core gives when it is alone for a moment. */
void machine_watch_sample(machine_watch *w, int threads);
machine_load machine_watch_load(const machine_watch *w);
/* Above these shares, or where others' is unknown, figures are not to be quoted. */
extern const double machine_busy_share, machine_busy_cores;
bool machine_busy(const machine_load *load);
/* The larger shares of two; unknown is larger than any. */
machine_load machine_load_larger(machine_load a, machine_load b);
/* "others 7 %, 31 % of the cores", of what makes it busy. */
void machine_busy_text(const machine_load *load, char *buf, size_t size);

/* Largest resident memory of this process since machine_peak_reset, or since its start where the
 * system does not allow that (false). */
bool machine_peak_reset(void);
int64_t machine_peak_bytes(void);

#endif
