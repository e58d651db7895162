#define _GNU_SOURCE
#include "study/bench_machine.h"

#include "base/cpu.h"
#include "base/status.h"
#include "kernel/registry.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

const double machine_busy_share = 0.05, machine_busy_cores = 0.10;

/* ---- description ------------------------------------------------------------------------------
 */

/* What stands behind "NAME...:" or "NAME...=" in the file; false if there is none. */
static bool file_value(const char *path, const char *name, char *buf, size_t size)
{
    FILE *f = fopen(path, "r");
    char line[512];
    bool found = false;
    while (!found && f && fgets(line, sizeof line, f)) {
        const char *at = strpbrk(line, ":=");
        if (strncmp(line, name, strlen(name)) != 0 || !at)
            continue;
        at += 1 + strspn(at + 1, " \t");
        snprintf(buf, size, "%.*s", (int)strcspn(at, "\n"), at);
        found = true;
    }
    if (f)
        fclose(f);
    return found;
}

static int64_t cache_size(int level)
{
    static const int names[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE,
                                _SC_LEVEL3_CACHE_SIZE};
    const long bytes = sysconf(names[level]);
    return bytes > 0 ? bytes : 0;
}

void machine_describe(machine_info *out)
{
    *out = (machine_info){.processors = (int)sysconf(_SC_NPROCESSORS_ONLN), .best = registry_isa()};
    struct utsname system;
    if (!file_value("/proc/cpuinfo", "model name", out->cpu, sizeof out->cpu))
        snprintf(out->cpu, sizeof out->cpu, "unknown");
    if (uname(&system) == 0)
        snprintf(out->kernel, sizeof out->kernel, "%.40s %.60s %.20s", system.sysname,
                 system.release, system.machine);
    else
        snprintf(out->kernel, sizeof out->kernel, "unknown");
#ifdef __clang__
    snprintf(out->compiler, sizeof out->compiler, "%s", __VERSION__);
#else
    snprintf(out->compiler, sizeof out->compiler, "gcc %s", __VERSION__);
#endif
    out->memory_bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    for (int i = 0; i < 3; i++)
        out->cache_bytes[i] = cache_size(i);
    out->bf16 = cpu_has_bf16();
}

/* ---- arithmetic -------------------------------------------------------------------------------
 */

/* Twelve chains hide the latency of two units and leave registers for the factors. */
enum { CHAINS = 12, ROUNDS = 20000 };

#define FMA_LOOP(name, bytes, target)                                                      \
    typedef float name##_vec __attribute__((vector_size(bytes)));                          \
    target static double name(float *sink)                                                 \
    {                                                                                      \
        name##_vec a[CHAINS], b = {0}, c = {0};                                            \
        b += 0.999F;                                                                       \
        c += 0.001F;                                                                       \
        for (int i = 0; i < CHAINS; i++)                                                   \
            a[i] = b * (float)i;                                                           \
        for (int n = 0; n < ROUNDS; n++) {                                                 \
            _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) a[i] = a[i] * b + c; \
            __asm__ volatile("");                                                          \
        }                                                                                  \
        for (int i = 1; i < CHAINS; i++)                                                   \
            a[0] += a[i];                                                                  \
        *sink += a[0][0];                                                                  \
        return (double)ROUNDS * CHAINS * 2 * (bytes / 4);                                  \
    }

#if defined(__x86_64__)
FMA_LOOP(fma_portable, 16, )
FMA_LOOP(fma_avx2, 32, __attribute__((target("avx2,fma"))))
FMA_LOOP(fma_avx512, 64, __attribute__((target("avx512f,fma"))))
static double (*const fma_loops[ISA_COUNT])(float *) = {fma_portable, fma_avx2, fma_avx512};
#else
FMA_LOOP(fma_portable, 16, )
static double (*const fma_loops[ISA_COUNT])(float *) = {fma_portable, fma_portable, fma_portable};
#endif

double machine_fma_rate(isa level, int threads, double seconds)
{
    double rate = 0;
    float sink = 0;
#pragma omp parallel num_threads(threads) reduction(+ : rate, sink)
    {
        const double from = omp_get_wtime();
        double done = 0, now = from;
        while (now - from < seconds) {
            done += fma_loops[level](&sink);
            now = omp_get_wtime();
        }
        rate += done / (now - from);
    }
    return isfinite(sink) ? rate : 0;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

enum { MEMORY_LEAST = 64 << 20, MEMORY_CACHES = 4, MEMORY_MOST = 16, MEMORY_RUNS = 5 };

/* Bytes of each of two arrays, of which caches hold little: at most a sixteenth of the memory. */
static int64_t memory_bytes(void)
{
    const int64_t most = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) / MEMORY_MOST;
    int64_t bytes = MEMORY_CACHES * cache_size(2);
    bytes = bytes < most ? bytes : most;
    return bytes > MEMORY_LEAST ? bytes : MEMORY_LEAST;
}

spectra_status machine_memory_rate(int threads, double *read, double *copy)
{
    const int64_t words = memory_bytes() / 8, share = (words + threads - 1) / threads;
    uint64_t *from = malloc((size_t)words * sizeof *from), *to = malloc((size_t)words * sizeof *to);
    uint64_t sum = 0;
    if (!from || !to) {
        free(from);
        free(to);
        return fail(SPECTRA_ENOMEM, "measuring the memory's rate: out of memory");
    }
    *read = *copy = 0;
    for (int run = -1; run < MEMORY_RUNS; run++) /* the first writes and meets page faults */
        for (int both = 0; both < 2; both++) {
            const double start = omp_get_wtime();
#pragma omp parallel for num_threads(threads) reduction(+ : sum)
            for (int t = 0; t < threads; t++) {
                const int64_t at = t * share, left = words - at, n = left < share ? left : share;
                if (run < 0 && n > 0)
                    memset((both ? to : from) + at, 1, (size_t)n * sizeof *to);
                else if (both && n > 0)
                    memcpy(to + at, from + at, (size_t)n * sizeof *to);
                for (int64_t i = 0; run >= 0 && !both && i < n; i++)
                    sum += from[at + i];
            }
            const double rate = (double)(1 + both) * 8 * (double)words / (omp_get_wtime() - start);
            double *best = both ? copy : read;
            if (run >= 0 && rate > *best)
                *best = rate;
        }
    *read = sum == 1 ? 0 : *read; /* the sum is used, so it is made */
    free(from);
    free(to);
    return SPECTRA_OK;
}

/* ---- others -----------------------------------------------------------------------------------
 */

/* Ticks of all processors but those idle or waiting for a disk; -1. */
static int64_t used_ticks(void)
{
    enum { USER, NICE, SYSTEM, IDLE, IOWAIT, IRQ, SOFTIRQ, STEAL, KINDS };
    long long t[KINDS] = {0};
    FILE *f = fopen("/proc/stat", "r");
    if (!f)
        return -1;
    const int got = fscanf(f, "cpu %lld %lld %lld %lld %lld %lld %lld %lld", &t[USER], &t[NICE],
                           &t[SYSTEM], &t[IDLE], &t[IOWAIT], &t[IRQ], &t[SOFTIRQ], &t[STEAL]);
    fclose(f);
    return got < IOWAIT ? -1 : t[USER] + t[NICE] + t[SYSTEM] + t[IRQ] + t[SOFTIRQ] + t[STEAL];
}

static double own_seconds(void)
{
    static const int whose[] = {RUSAGE_SELF, RUSAGE_CHILDREN};
    double sum = 0;
    for (int i = 0; i < 2; i++) {
        struct rusage u;
        getrusage(whose[i], &u);
        sum += (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
    }
    return sum;
}

/* Instructions a cycle that a core gives a thread: independent additions and nops, as many as it
 * issues, where a cycle is an addition of a chain of dependent ones, which nobody can slow down.
 * 0: unknown here. */
static double issue_rate(void)
{
#if defined(__x86_64__) || defined(__aarch64__)
    enum { TURNS = 500, RUNS = 8, LINKS = 16, ADDITIONS = 8, NOPS = 4 };
    uint64_t x = 0, y[ADDITIONS] = {0};
    double chain = INFINITY, wide = 0; /* seconds of LINKS * TURNS cycles; of all runs */
    for (int run = 0; run < RUNS; run++) {
        const double start = omp_get_wtime();
        for (int n = 0; n < TURNS; n++)
            _Pragma("GCC unroll 16") for (int i = 0; i < LINKS; i++)
            {
                x += 1;
                __asm__ volatile("" : "+r"(x));
            }
        const double middle = omp_get_wtime();
        for (int n = 0; n < TURNS; n++) {
            _Pragma("GCC unroll 8") for (int i = 0; i < ADDITIONS; i++)
            {
                y[i] += 1;
                __asm__ volatile("" : "+r"(y[i]));
            }
            __asm__ volatile("nop\n\tnop\n\tnop\n\tnop");
        }
        wide += omp_get_wtime() - middle;
        chain = fmin(chain, middle - start);
    }
    return (double)RUNS * (ADDITIONS + NOPS) / LINKS * chain / wide;
#else
    return 0;
#endif
}

/* Of the thread that gets least. */
static double least_issue_rate(int threads)
{
    double least = INFINITY;
#pragma omp parallel num_threads(threads) reduction(min : least)
    least = fmin(least, issue_rate());
    return least;
}

void machine_watch_start(machine_watch *w)
{
    *w = (machine_watch){.wall = omp_get_wtime(), .own = own_seconds(), .used = used_ticks()};
}

void machine_watch_sample(machine_watch *w, int threads)
{
    static double most;
    const double from = omp_get_wtime();
    if (most == 0)
        do
            most = fmax(most, issue_rate());
        while (omp_get_wtime() - from < 0.2);
    const double rate = least_issue_rate(threads);
    most = fmax(most, rate);
    w->slots += rate > 0 ? rate / most : 1;
    w->samples++;
}

machine_load machine_watch_load(const machine_watch *w)
{
    const int64_t used = used_ticks();
    const double ticks = (double)sysconf(_SC_CLK_TCK), wall = omp_get_wtime() - w->wall;
    const double all = wall * (double)sysconf(_SC_NPROCESSORS_ONLN);
    machine_load load = {-1, w->samples ? 1 - w->slots / (double)w->samples : 0};
    if (w->used >= 0 && used >= 0 && all > 0)
        load.others = fmax(0, (double)(used - w->used) / ticks - (own_seconds() - w->own)) / all;
    return load;
}

bool machine_busy(const machine_load *load)
{
    return load->others < 0 || load->others > machine_busy_share ||
           load->cores > machine_busy_cores;
}

machine_load machine_load_larger(machine_load a, machine_load b)
{
    return (machine_load){a.others < 0 || b.others < 0 ? -1 : fmax(a.others, b.others),
                          fmax(a.cores, b.cores)};
}

void machine_busy_text(const machine_load *load, char *buf, size_t size)
{
    char others[32] = "unknown";
    if (load->others >= 0)
        snprintf(others, sizeof others, "%.0f %%", 100 * load->others);
    const bool time = load->others < 0 || load->others > machine_busy_share;
    if (time && load->cores > machine_busy_cores)
        snprintf(buf, size, "others %s, %.0f %% of the cores", others, 100 * load->cores);
    else if (time)
        snprintf(buf, size, "others %s", others);
    else
        snprintf(buf, size, "others %.0f %% of the cores", 100 * load->cores);
}

/* ---- memory of this process -------------------------------------------------------------------
 */

bool machine_peak_reset(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f)
        return false;
    const bool wrote = fputs("5\n", f) >= 0;
    return fclose(f) == 0 && wrote;
}

int64_t machine_peak_bytes(void)
{
    char text[64];
    struct rusage usage;
    if (file_value("/proc/self/status", "VmHWM", text, sizeof text))
        return strtoll(text, NULL, 10) * 1024;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)usage.ru_maxrss * 1024;
}
