/* Kernels of templates/cuda/model.cu for the head, the journal and the norm, and the update of
 * parameters, against the host's functions or sums in double (checked.h).
 */
#include "support/checked.h"

#include "kernel/internal.h"
#include "math/rng.h"
#include "model/optim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- head and journal ---------------------------------------------------------------------------
 */

static void pairs(void **state)
{
    (void)state;
    enum { B = 3, E = 10 };
    memory m = {.count = 0};
    float *pooled = checked_normals(2 * B * E), *g = checked_normals(4 * B * E);
    float *joined = checked_floats(&m, 4 * B * E, NULL),
          *g_pooled = checked_floats(&m, 2 * B * E, NULL);
    const join_cuda_args a = {.B = B,
                              .E = E,
                              .pooled = checked_floats(&m, 2 * B * E, pooled),
                              .joined = joined,
                              .g_joined = checked_floats(&m, 4 * B * E, g),
                              .g_pooled = g_pooled};
    checked_line(&m, "join_pair", 1, &a, sizeof a);
    checked_line(&m, "join_pair_grad", 1, &a, sizeof a);
    for (int64_t i = 0; i < B * E; i++) {
        const float x = pooled[i], y = pooled[B * E + i];
        const float *out = joined + i / E * 4 * E + i % E, *in = g + i / E * 4 * E + i % E;
        assert_true(out[0] == x && out[E] == y && out[2 * E] == x * y && out[3 * E] == x - y);
        checked_near((double)g_pooled[i],
                     (double)in[0] + (double)(in[2 * E] * y) + (double)in[3 * E], 1);
        checked_near((double)g_pooled[B * E + i],
                     (double)in[E] + (double)(in[2 * E] * x) - (double)in[3 * E], 1);
    }
    free(pooled);
    free(g);
    checked_release(&m);
}

enum {
    BATCH_ENTRY = 3,
    EXAMPLES = 300,
    CLASSES = 5,
    POOLED = 700,
    WORDS = JOURNAL_HEAD + 2 * EXAMPLES + 3
};

/* bad_pooled, bad_scores: an element that is no number, or -1. */
static void check_record(int bad_pooled, int bad_scores, int verdict)
{
    const cuda_batch now = {.entry = BATCH_ENTRY};
    memory m = {.count = 0};
    float *pooled = checked_normals(POOLED), *scores = checked_normals(EXAMPLES * CLASSES),
          *loss = checked_normals(EXAMPLES);
    scores[7] = scores[5] = 4; /* two largest in row 1: the first counts */
    if (bad_pooled >= 0)
        pooled[bad_pooled] = NAN;
    if (bad_scores >= 0)
        scores[bad_scores] = -INFINITY;
    int *journal = checked_place(&m, (BATCH_ENTRY + 1) * WORDS * (int64_t)sizeof(int), NULL);
    const record_cuda_args a = {.batch = checked_place(&m, sizeof now, &now),
                                .pooled = checked_floats(&m, POOLED, pooled),
                                .scores = checked_floats(&m, EXAMPLES * CLASSES, scores),
                                .loss = checked_floats(&m, EXAMPLES, loss),
                                .pooled_floats = POOLED,
                                .B = EXAMPLES,
                                .C = CLASSES,
                                .words = WORDS,
                                .journal = journal};
    checked_launch(&m, "record", (const int64_t[]){1, 1, 1}, CHECKED_THREADS / 32 * sizeof(int), &a,
                   sizeof a);
    for (int i = 0; i < BATCH_ENTRY * WORDS; i++)
        assert_int_equal(journal[i], -1);
    const int *entry = journal + BATCH_ENTRY * WORDS;
    assert_int_equal(entry[0], verdict);
    assert_memory_equal(entry + JOURNAL_HEAD, loss, EXAMPLES * sizeof *loss);
    for (int b = 0; b < EXAMPLES; b++) {
        int best = 0;
        for (int c = 1; c < CLASSES; c++)
            best = scores[b * CLASSES + c] > scores[b * CLASSES + best] ? c : best;
        assert_int_equal(entry[JOURNAL_HEAD + EXAMPLES + b], best);
    }
    assert_int_equal(entry[JOURNAL_HEAD + EXAMPLES + 1], 0);
    free(pooled);
    free(scores);
    free(loss);
    checked_release(&m);
}

static void records(void **state)
{
    (void)state;
    check_record(-1, -1, JOURNAL_GOOD);
    check_record(699, -1, JOURNAL_POOLED);
    check_record(-1, 0, JOURNAL_SCORES);
    check_record(0, 1499, JOURNAL_POOLED);
}

static void check_norm(int64_t n, int64_t bad)
{
    enum { PARTS = 7 };
    const cuda_batch now = {.entry = 0};
    const int fresh[JOURNAL_HEAD] = {JOURNAL_GOOD, 0, 0, 0};
    memory m = {.count = 0};
    float *g = checked_normals(n);
    double want = 0;
    if (bad >= 0)
        g[bad] = g[n - 1] = INFINITY;
    for (int64_t i = 0; i < n; i++)
        want += (double)g[i] * (double)g[i];
    int *journal = checked_place(&m, sizeof fresh, fresh);
    const norm_cuda_args a = {.g = checked_floats(&m, n, g),
                              .n = n,
                              .parts = PARTS,
                              .part = checked_place(&m, PARTS * sizeof(double), NULL),
                              .bad = checked_place(&m, PARTS * sizeof(int64_t), NULL),
                              .batch = checked_place(&m, sizeof now, &now),
                              .words = JOURNAL_HEAD,
                              .journal = journal};
    checked_launch(&m, "norm_part", (const int64_t[]){PARTS, 1, 1}, CHECKED_THREADS * 16, &a,
                   sizeof a);
    checked_launch(&m, "norm_sum", (const int64_t[]){1, 1, 1}, CHECKED_THREADS * 16, &a, sizeof a);
    float norm;
    memcpy(&norm, journal + 3, sizeof norm);
    if (bad < 0) {
        assert_int_equal(journal[0], JOURNAL_GOOD);
        checked_near((double)norm, sqrt(want), 0);
    } else {
        assert_int_equal(journal[0], JOURNAL_GRADIENT);
        assert_int_equal(journal[1], bad);
        assert_true(isinf(norm));
    }
    free(g);
    checked_release(&m);
}

static void norms(void **state)
{
    (void)state;
    check_norm(1, -1);
    check_norm(5000, -1);
    check_norm(5000, 4321);
    check_norm(5000, 0);
}

/* ---- optimiser ----------------------------------------------------------------------------------
 */

/* As the device's updates are launched: rows of 1024, gradients beyond the clip among them. */
static void updates_are_the_hosts(void **state)
{
    (void)state;
    enum { N = 3 * 1024 };
    char *text = NULL;
    memory m = {.count = 0};
    float *params = checked_normals(N), *g = checked_normals(N), *first = checked_normals(N),
          *second = checked_normals(N);
    for (int i = 0; i < N; i++)
        second[i] *= second[i];
    float *p = checked_floats(&m, N, params), *m1 = checked_floats(&m, N, first),
          *m2 = checked_floats(&m, N, second);
    const float b1 = 0.9f, b2 = 0.999f;
    const row_cuda_args a = {.rows = 3,
                             .n = 1024,
                             .in = {p, checked_floats(&m, N, g), m1, m2},
                             .ld_in = {1024, 1024, 1024, 1024},
                             .out = {p, m1, m2},
                             .ld_out = {1024, 1024, 1024},
                             .c = {3e-3f, b1, b2, 1e-6f, 0.02f, (float)(1 - pow((double)b1, 5)),
                                   (float)sqrt(1 - pow((double)b2, 5)), 1}};
    const device_grid grid = {{2, 1, 1}, CHECKED_THREADS, 1, 0};
    ok(program_text(&checked_model, "row operator adamw", NULL, &text));
    emulator_counters counters = {0};
    const emulator_options options = {.order = EMULATOR_RANDOM, .counters = &counters};
    ok(emulator_launch(emulated_kernel("adamw", text, "row_fwd"), &grid, &a, sizeof a, &options));
    assert_int_equal(counters.global_narrow, 0);
    assert_int_equal(counters.global_wide, N / 4 * 7);
    const adamw o = {.beta2 = 0.999,
                     .eps = 1e-6,
                     .weight_decay = 0.02,
                     .clip = 1,
                     .n = N,
                     .m = first,
                     .v = second};
    adamw_update(&o, 5, 3e-3, 0.9, params, g);
    for (int i = 0; i < N; i++) {
        checked_near((double)p[i], (double)params[i], 0.01);
        checked_near((double)m1[i], (double)first[i], 0.1);
        checked_near((double)m2[i], (double)second[i], 0.1);
    }
    free(text);
    free(params);
    free(g);
    free(first);
    free(second);
    checked_release(&m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs),
        cmocka_unit_test(records),
        cmocka_unit_test(norms),
        cmocka_unit_test(updates_are_the_hosts),
    };
    return run_on_device(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
