/* Projections by products against projections by the chain of a structured matrix, in whole
 * attention passes: where the second takes less time, performer_chain_wins says so. Same inputs,
 * alternating repetitions, medians.
 *
 *     structured [--json]
 */
#include "attention/performer/performer.h"
#include "kernel/registry.h"
#include "study/bench_machine.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, TOKENS = 2048, REPEATS = 15 };

static float *numbers(int64_t n)
{
    float *x = aligned_alloc(64, (size_t)(n + 16) / 16 * 64);
    for (int64_t i = 0; i < n && x; i++)
        x[i] = (float)(rand() % 2001 - 1000) * 1e-3F;
    return x;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median times of forward + backward in ns a token and head, by products and by the chain. */
static int measure(const char *matrix, int64_t D, int64_t M, bool json)
{
    const spectra_attention_desc desc = {.attn = "performer",
                                         .feat = "posrf",
                                         .kernel = matrix,
                                         .H = HEADS,
                                         .D = D,
                                         .DV = D,
                                         .M = M};
    spectra_attention *att = NULL;
    if (spectra_attention_new(&desc, &att) != SPECTRA_OK) {
        fprintf(stderr, "%s\n", spectra_message());
        return 1;
    }
    const attn_chain *chain = performer_of(att)->plan.chain;
    const spectra_problem p = {.B = 1, .T = TOKENS, .S = TOKENS};
    const int64_t n = HEADS * TOKENS * D;
    float *x[8];
    for (int i = 0; i < 8; i++)
        x[i] = numbers(n);
    void *saved = numbers(spectra_attention_saved_bytes(att, &p) / 4);
    void *work = numbers(spectra_attention_work_bytes(att, &p) / 4);
    spectra_rows r[8];
    for (int i = 0; i < 8; i++)
        r[i] = spectra_rows_dense(x[i], HEADS, TOKENS, D);
    double time[2][REPEATS];
    machine_watch watch;
    machine_watch_start(&watch);
    for (int k = 0; k < 2 * REPEATS; k++) {
        performer_of(att)->plan.chain = k % 2 ? chain : NULL;
        machine_watch_sample(&watch, omp_get_max_threads());
        double start = omp_get_wtime();
        spectra_attention_forward(att, &p, r[0], r[1], r[2], r[3], saved, work);
        spectra_attention_backward(att, &p, r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], saved,
                                   work);
        time[k % 2][k / 2] = (omp_get_wtime() - start) * 1e9 / (HEADS * TOKENS);
    }
    for (int i = 0; i < 2; i++)
        qsort(time[i], REPEATS, sizeof **time, by_value);
    const machine_load load = machine_watch_load(&watch);
    const double products = time[0][REPEATS / 2], steps = time[1][REPEATS / 2];
    if (json)
        printf(
            "{\"record\": \"structured\", \"kind\": \"forward+backward\", \"feat\": \"posrf\", "
            "\"kernel\": \"%s\", \"B\": 1, \"H\": %d, \"N\": %d, \"D\": %lld, \"DV\": %lld, \"M\": "
            "%lld, \"threads\": %d, \"isa\": \"%s\", \"chosen\": %s, \"products_ns\": %.2f, "
            "\"ns\": "
            "%.2f, \"ratio\": %.3f, \"others\": %.3f, \"cores\": %.3f, \"busy\": %s}\n",
            matrix, HEADS, TOKENS, (long long)D, (long long)D, (long long)M, omp_get_max_threads(),
            registry_isa_name(performer_of(att)->kernels->isa), chain ? "true" : "false", products,
            steps, products / steps, load.others, load.cores,
            machine_busy(&load) ? "true" : "false");
    else
        printf("%-15s D %3lld M %4lld   products %7.0f ns   chain %7.0f ns   ratio %.2f%s%s\n",
               matrix, (long long)D, (long long)M, products, steps, products / steps,
               chain ? "" : "   (not a chain here)", machine_busy(&load) ? "   busy" : "");
    for (int i = 0; i < 8; i++)
        free(x[i]);
    free(saved), free(work);
    spectra_attention_free(att);
    return 0;
}

int main(int argc, char **argv)
{
    static const char *const matrices[] = {"sorf", "fastfood_fixed"};
    const bool json = argc > 1 && strcmp(argv[1], "--json") == 0;
    int failed = 0;
    if (argc > 2 || (argc > 1 && !json)) {
        fprintf(stderr, "usage: structured [--json]\n");
        return 2;
    }
    for (int i = 0; i < 2; i++)
        for (int64_t D = 32; D <= 256; D *= 2)
            failed |= measure(matrices[i], D, D < 128 ? 128 : 256, json);
    return failed;
}
