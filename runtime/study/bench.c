#include "study/bench.h"

#include "base/status.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* ---- time -------------------------------------------------------------------------------------
 */

static const double burst_seconds = 0.005, call_seconds = 0.01;

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, int64_t n, double q)
{
    return sorted[(int64_t)(q * (double)(n - 1) + 0.5)];
}

spectra_status bench_time(const bench_case *c, const bench_options *o, bench_call call,
                          void *context, double units, bench_result *out)
{
    double ns[BENCH_REPEATS], rate[BENCH_REPEATS];
    bench_result r = *out;
    TRY(call(context)); /* page faults, caches */
    double from = omp_get_wtime();
    TRY(call(context));
    const double once = omp_get_wtime() - from;
    r.unit = r.unit ? r.unit : "token-head";
    r.units = units;
    r.inner = once < call_seconds ? (int64_t)ceil(call_seconds / fmax(once, 1e-8)) : 1;
    r.repeats = 0;
    machine_watch watch;
    machine_watch_start(&watch);
    from = omp_get_wtime();
    while (r.repeats < BENCH_REPEATS &&
           (r.repeats < o->repeat || omp_get_wtime() - from < o->seconds)) {
        rate[r.repeats] = machine_fma_rate(r.isa, c->threads, burst_seconds);
        machine_watch_sample(&watch, c->threads);
        const double start = omp_get_wtime();
        for (int64_t i = 0; i < r.inner; i++)
            TRY(call(context));
        const double took = omp_get_wtime() - start;
        ns[r.repeats++] = took * 1e9 / ((double)r.inner * units);
    }
    r.load = machine_watch_load(&watch);
    qsort(ns, (size_t)r.repeats, sizeof *ns, ascending);
    qsort(rate, (size_t)r.repeats, sizeof *rate, ascending);
    r.ns = quantile(ns, r.repeats, 0.5);
    r.ns_low = quantile(ns, r.repeats, 0.1);
    r.ns_high = quantile(ns, r.repeats, 0.9);
    r.fma_rate = quantile(rate, r.repeats, 0.5);
    *out = r;
    return SPECTRA_OK;
}

void bench_floor(const bench_options *o, bench_result *r)
{
    const double work = r->count.flops + 2.0 * BENCH_EXP_SLOTS * r->count.exponentials;
    const double memory = o->memory_rate > 0 ? 1e9 * r->count.bytes / o->memory_rate : 0;
    r->floor_ns = 1e9 * work / r->fma_rate;
    r->memory_bound = memory > r->floor_ns;
    if (r->memory_bound)
        r->floor_ns = memory;
}

/* ---- inputs -----------------------------------------------------------------------------------
 */

spectra_status bench_memory(int64_t bytes, void **out)
{
    const size_t size = ((size_t)bytes + 63) / 64 * 64;
    void *p = aligned_alloc(64, size ? size : 64);
    if (!p)
        return fail(SPECTRA_ENOMEM, "bench: no memory for %lld bytes", (long long)bytes);
    memset(p, 0, size);
    *out = p;
    return SPECTRA_OK;
}

/* The sum of three uniform numbers of (-1, 1) has variance 1. */
void bench_fill(float *x, int64_t n, uint32_t seed)
{
    uint32_t s = seed * 2654435761U + 1;
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int j = 0; j < 3; j++) {
            s = s * 1664525 + 1013904223;
            sum += (float)(s >> 8) * 0x1p-23F - 1;
        }
        x[i] = 0.6F * sum;
    }
}
