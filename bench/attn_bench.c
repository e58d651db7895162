/* The fused attention against the same mathematics unfused, in one run: posrf x gaus, forward and
 * forward + backward. Unfused means OpenBLAS at its best core type for every product, vectorised
 * exponentials, and features of all tokens in memory; it keeps them for backward, the fused side
 * makes them again. Repetitions of the two alternate; medians are compared.
 *
 *     attn_bench [--json] [--batch 16] [--tokens 4096] [--threads 2] [--repeat 9]
 */
#include "bench_elementwise.h"

#include "kernel/registry.h"
#include "math/blas.h"
#include "math/rng.h"
#include "spectraformer.h"
#include "study/bench_machine.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { H = 2, D = 32, M = 128, SIDES = 4, MAX_REPEAT = 101 };

typedef struct problem {
    int64_t B, T, heads, repeat;
    const bench_elementwise *e;
    const float *W;
    float *q, *k, *v, *go; /* (B, H, T, D) */
    float *o, *gq, *gk, *gv;
    float *phi_q, *phi_k;                    /* (heads, T, M) */
    float *S, *dS, *z, *dz, *den;            /* per head */
    float *x, *g, *dphi, *row, *sums, *most; /* intermediate tensors of the unfused side */
    spectra_attention *att;
    spectra_problem p;
    void *saved, *scratch;
} problem;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *floats(int64_t n)
{
    size_t bytes = ((size_t)n * sizeof(float) + 63) / 64 * 64;
    float *x = aligned_alloc(64, bytes);
    if (!x) {
        fprintf(stderr, "attn_bench: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    memset(x, 0, bytes); /* no page faults while measuring */
    return x;
}

static void need(spectra_status status)
{
    if (status != SPECTRA_OK) {
        fprintf(stderr, "attn_bench: %s\n", spectra_message());
        exit(1);
    }
}

/* ---- the unfused side ------------------------------------------------------------------------ */

/* One operation after the other over the whole batch, as frameworks run them; each is parallel over
 * heads. HEADS opens such a loop: n is the head. */
#define HEADS _Pragma("omp parallel for schedule(static)") for (int64_t n = 0; n < b->heads; n++)

static float scale_of(void)
{
    return 1 / sqrtf(sqrtf((float)D));
}

/* phi of `in`; sums over tokens into z if given. */
static void features(const problem *b, const float *in, float *phi, float *z)
{
    int64_t T = b->T;
    HEADS b->e->scale_into(T * D, scale_of(), in + n * T * D, b->x + n * T * D);
    HEADS b->e->half_norms(T, D, b->x + n * T * D, b->row + n * T);
    HEADS blas_sgemm(false, true, T, M, D, 1, b->x + n * T * D, D, b->W, D, 0, phi + n * T * M, M);
    HEADS b->most[n] = b->e->max_rows(T, M, phi + n * T * M, b->row + n * T);
    HEADS b->e->exp_rows(T, M, phi + n * T * M, b->row + n * T, b->most[n], z ? z + n * M : NULL);
}

static void unfused_forward(const problem *b)
{
    int64_t T = b->T;
    memset(b->z, 0, (size_t)(b->heads * M) * sizeof *b->z);
    features(b, b->k, b->phi_k, b->z);
    HEADS blas_sgemm(true, false, M, D, T, 1, b->phi_k + n * T * M, M, b->v + n * T * D, D, 0,
                     b->S + n * M * D, D);
    features(b, b->q, b->phi_q, NULL);
    HEADS blas_sgemm(false, false, T, D, M, 1, b->phi_q + n * T * M, M, b->S + n * M * D, D, 0,
                     b->o + n * T * D, D);
    HEADS b->e->normalise(T, M, D, b->phi_q + n * T * M, b->z + n * M, b->o + n * T * D,
                          b->den + n * T);
}

/* From b->dphi to the gradient of `in`. */
static void projection_grad(const problem *b, const float *in, float *gx)
{
    int64_t T = b->T;
    HEADS blas_sgemm(false, false, T, D, M, 1, b->dphi + n * T * M, M, b->W, D, 0, gx + n * T * D,
                     D);
    HEADS b->e->scale_into(T * D, scale_of(), in + n * T * D, b->x + n * T * D);
    HEADS b->e->input_grad(T, D, scale_of(), b->sums + n * T, b->x + n * T * D, gx + n * T * D);
}

static void unfused_backward(const problem *b)
{
    int64_t T = b->T;
    memset(b->dz, 0, (size_t)(b->heads * M) * sizeof *b->dz);
    HEADS b->e->output_grad(T, D, b->o + n * T * D, b->den + n * T, b->go + n * T * D,
                            b->g + n * T * D, b->row + n * T);
    HEADS blas_sgemm(false, true, T, M, D, 1, b->g + n * T * D, D, b->S + n * M * D, D, 0,
                     b->dphi + n * T * M, M);
    HEADS blas_sgemm(true, false, M, D, T, 1, b->phi_q + n * T * M, M, b->g + n * T * D, D, 0,
                     b->dS + n * M * D, D);
    HEADS b->e->feature_grad(T, M, b->dphi + n * T * M, b->row + n * T, b->z + n * M,
                             b->phi_q + n * T * M, b->dz + n * M, b->sums + n * T);
    projection_grad(b, b->q, b->gq);
    HEADS blas_sgemm(false, true, T, M, D, 1, b->v + n * T * D, D, b->dS + n * M * D, D, 0,
                     b->dphi + n * T * M, M);
    HEADS blas_sgemm(false, false, T, D, M, 1, b->phi_k + n * T * M, M, b->dS + n * M * D, D, 0,
                     b->gv + n * T * D, D);
    HEADS b->e->feature_grad(T, M, b->dphi + n * T * M, NULL, b->dz + n * M, b->phi_k + n * T * M,
                             NULL, b->sums + n * T);
    projection_grad(b, b->k, b->gk);
}

/* ---- the fused side -------------------------------------------------------------------------- */

static spectra_rows rows(const problem *b, float *x)
{
    return spectra_rows_dense(x, H, b->T, D);
}

static void fused_forward(const problem *b)
{
    need(spectra_attention_forward(b->att, &b->p, rows(b, b->q), rows(b, b->k), rows(b, b->v),
                                   rows(b, b->o), b->saved, b->scratch));
}

static void fused_backward(const problem *b)
{
    need(spectra_attention_backward(b->att, &b->p, rows(b, b->q), rows(b, b->k), rows(b, b->v),
                                    rows(b, b->o), rows(b, b->go), rows(b, b->gq), rows(b, b->gk),
                                    rows(b, b->gv), b->saved, b->scratch));
}

/* ---- measurement ----------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int64_t n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return x[n / 2];
}

/* Largest difference of a and b relative to the largest of b. */
static double difference(int64_t n, const float *a, const float *b)
{
    double most = 0, off = 0;
    for (int64_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)b[i]));
        off = fmax(off, fabs((double)a[i] - (double)b[i]));
    }
    return off / most;
}

static void fill(float *x, int64_t n, uint32_t layer, float deviation)
{
    rng_stream s = rng_open(7, RNG_TEST, layer, 0);
    for (int64_t i = 0; i < n; i++)
        x[i] = deviation * (float)rng_normal(&s, (uint64_t)i);
}

static void problem_open(problem *b)
{
    static const bench_elementwise *const tables[] = {&bench_elementwise_bench_portable,
                                                      &bench_elementwise_bench_avx2,
                                                      &bench_elementwise_bench_avx512};
    int64_t n = b->heads * b->T * D;
    b->e = tables[registry_isa()];
    float **arrays[] = {&b->q, &b->k, &b->v, &b->go, &b->o, &b->gq, &b->gk, &b->gv};
    for (uint32_t i = 0; i < 8; i++) {
        *arrays[i] = floats(n);
        if (i < SIDES)
            fill(*arrays[i], n, i, 0.6F);
    }
    b->phi_q = floats(b->heads * b->T * M), b->phi_k = floats(b->heads * b->T * M);
    b->S = floats(b->heads * M * D), b->dS = floats(b->heads * M * D);
    b->z = floats(b->heads * M), b->dz = floats(b->heads * M), b->den = floats(b->heads * b->T);
    b->x = floats(n), b->g = floats(n), b->dphi = floats(b->heads * b->T * M);
    b->row = floats(b->heads * b->T);
    b->sums = floats(b->heads * b->T), b->most = floats(b->heads);
    const spectra_attention_desc desc = {
        .attn = "performer", .feat = "posrf", .kernel = "gaus", .H = H, .D = D, .DV = D, .M = M};
    need(spectra_attention_new(&desc, &b->att));
    b->W = spectra_attention_matrix(b->att);
    b->p = (spectra_problem){.B = b->B, .T = b->T, .S = b->T};
    b->saved = floats(spectra_attention_saved_bytes(b->att, &b->p) / 4);
    b->scratch = floats(spectra_attention_work_bytes(b->att, &b->p) / 4);
}

/* Both sides must compute the same thing, or the comparison is void. */
static double agreement(problem *b)
{
    int64_t n = b->heads * b->T * D;
    float *arrays[] = {b->o, b->gq, b->gk, b->gv}, *keep = floats(4 * n);
    unfused_forward(b);
    unfused_backward(b);
    for (int i = 0; i < 4; i++)
        memcpy(keep + i * n, arrays[i], (size_t)n * sizeof(float));
    fused_forward(b);
    fused_backward(b);
    double worst = 0;
    for (int i = 0; i < 4; i++)
        worst = fmax(worst, difference(n, keep + i * n, arrays[i]));
    free(keep);
    return worst;
}

static int64_t option(const char *name, const char *text, int64_t low, int64_t high)
{
    char *end;
    long long n = strtoll(text ? text : "", &end, 10);
    if (!text || *end || end == text || n < low || n > high) {
        fprintf(stderr, "attn_bench: %s %s: allowed are %lld to %lld\n", name, text ? text : "",
                (long long)low, (long long)high);
        exit(2);
    }
    return n;
}

static void report(const problem *b, double seconds[4][MAX_REPEAT], double peak, double off,
                   machine_load load, bool json)
{
    static const char *const names[] = {"forward", "forward+backward"};
    static const double flops[] = {4.0 * D * M + 4.0 * M * D + 3.0 * M,
                                   12.0 * D * M + 12.0 * M * D + 9.0 * M};
    const double each = 1e9 / (double)(b->heads * b->T);
    const char *level = registry_isa_name(registry_isa());
    double ns[4];
    for (int i = 0; i < 4; i++)
        ns[i] = median(seconds[i], b->repeat) * each;
    for (int i = 0; i < 2; i++) {
        double fused = i ? ns[0] + ns[1] : ns[0], plain = i ? ns[2] + ns[3] : ns[2];
        double share = flops[i] / fused / (peak * 1e-9);
        if (json)
            printf(
                "{\"record\": \"unfused\", \"kind\": \"%s\", \"feat\": \"posrf\", \"kernel\": "
                "\"gaus\", \"B\": %lld, \"H\": %d, \"N\": %lld, \"D\": %d, \"DV\": %d, \"M\": %d, "
                "\"threads\": %d, \"isa\": \"%s\", \"blas\": \"%s\", \"repeats\": %lld, \"ns\": "
                "%.2f, \"unfused_ns\": %.2f, \"ratio\": %.3f, \"fma_gflops\": %.1f, "
                "\"peak_share\": %.3f, \"difference\": %.2e, \"others\": %.3f, \"cores\": %.3f, "
                "\"busy\": %s}\n",
                names[i], (long long)b->B, H, (long long)b->T, D, D, M, omp_get_max_threads(),
                level, blas_config(), (long long)b->repeat, fused, plain, plain / fused,
                peak * 1e-9, share, off, load.others, load.cores,
                machine_busy(&load) ? "true" : "false");
        else
            printf("%-17s fused %7.1f ns   unfused %7.1f ns   ratio %.2f   %4.1f %% of FMA peak\n",
                   names[i], fused, plain, plain / fused, 100 * share);
    }
    if (json)
        return;
    printf("posrf x gaus, B %lld H %d N %lld D %d M %d, %d threads; ns per token-head, medians of "
           "%lld; FMA peak %.0f GFLOP/s (%s); %s\nthe two sides differ by %.1e of the largest; ",
           (long long)b->B, H, (long long)b->T, D, M, omp_get_max_threads(), (long long)b->repeat,
           peak * 1e-9, level, blas_config(), off);
    if (load.others < 0)
        puts("what others used of the machine is not known here: busy");
    else
        printf("others used %.0f %% of the machine and %.0f %% of the cores%s\n", 100 * load.others,
               100 * load.cores, machine_busy(&load) ? ": busy" : "");
}

int main(int argc, char **argv)
{
    problem b = {.B = 16, .T = 4096, .repeat = 9};
    int64_t threads = 2;
    bool json = false;
    const struct {
        const char *name;
        int64_t *value, high;
    } options[] = {{"--batch", &b.B, 1024},
                   {"--tokens", &b.T, 1 << 20},
                   {"--threads", &threads, 1024},
                   {"--repeat", &b.repeat, MAX_REPEAT}};
    for (int i = 1; i < argc; i++) {
        size_t k = 0;
        while (k < 4 && strcmp(argv[i], options[k].name) != 0)
            k++;
        if (k < 4) {
            *options[k].value = option(argv[i], argv[i + 1], 1, options[k].high);
            i++;
        } else if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else {
            fprintf(stderr, "usage: attn_bench [--json] [--batch N] [--tokens N] [--threads N] "
                            "[--repeat N]\n");
            return 2;
        }
    }
    omp_set_num_threads((int)threads);
    b.heads = b.B * H;
    need(blas_open());
    problem_open(&b);
    double off = agreement(&b), peak = 0;
    for (int i = 0; i < 5; i++)
        peak = fmax(peak, machine_fma_rate(registry_isa(), (int)threads, 0.02));
    static double seconds[4][MAX_REPEAT];
    void (*const sides[4])(const problem *) = {fused_forward, fused_backward, unfused_forward,
                                               unfused_backward};
    machine_watch watch;
    machine_watch_start(&watch);
    for (int64_t r = 0; r < b.repeat; r++)
        for (int i = 0; i < 4; i++) {
            machine_watch_sample(&watch, (int)threads);
            double from = now();
            sides[i](&b);
            seconds[i][r] = now() - from;
        }
    report(&b, seconds, peak, off, machine_watch_load(&watch), json);
    spectra_attention_free(b.att);
    return off < 1e-4 ? 0 : 1;
}
