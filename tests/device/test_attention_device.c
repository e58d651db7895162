/* Attention on the emulated device against the CPU's kernels: every skeleton with every class of
 * feature, sizes that fit no tile, masks, packed and strided rows, forward and backward. */
#include "device/device_case.h"

#include "attention/performer/device.h"
#include "device/backend.h"
#include "device/emulator/emulator.h"
#include "support/attend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct attention_case {
    const char *feat, *kernel;
    int64_t B, H, T, S, D, DV, M;
    bool mask, gaussian, fast, learn;
} attention_case;

/* Gradients of what is trained, against the CPU's. */
static void check_learned(const attention_case *c, const spectra_attention *att,
                          attention_device *ad, const attend_run *run)
{
    const int64_t n = spectra_attention_trained_floats(att);
    if (n == 0)
        return;
    float *theta = attend_floats(n), *ref = calloc((size_t)n, 4), *got = calloc((size_t)n, 4);
    spectra_attention_trained_start(att, theta);
    spectra_attention_trained_gradient(att, &run->problem, run->work, theta, ref);
    ok(attention_device_gradient(ad, got));
    const double error = largest_error(n, got, ref);
    printf("%-12s %-6s trained %lld: %.1e\n", c->feat, c->kernel, (long long)n, error);
    assert_true(error <= 2e-5);
    free(theta);
    free(ref);
    free(got);
}

/* A case with its inputs, here and on the device. */
typedef struct prepared {
    const attention_case *c;
    spectra_attention *att;
    attention_device *ad;
    attention_device_problem problem;
    attention_views x;
    float *q, *k, *v, *go;
    uint8_t *mask;
    void *saved, *work;
} prepared;

static spectra_attention *attention_of(const attention_case *c)
{
    char feat[32];
    spectra_attention_desc d = {.attn = "performer",
                                .feat = feat,
                                .kernel = c->kernel,
                                .H = c->H,
                                .D = c->D,
                                .DV = c->DV,
                                .M = c->M,
                                .seed = 7,
                                .learn = c->learn,
                                .target = c->gaussian ? SPECTRA_GAUSSIAN : SPECTRA_SOFTMAX};
    spectra_attention *att = NULL;
    snprintf(feat, sizeof feat, "%s", c->feat);
    if (feat[strlen(feat) - 1] == '+') {
        feat[strlen(feat) - 1] = 0;
        d.antithetic = true;
    }
    ok(spectra_attention_new(&d, &att));
    return att;
}

static void prepare(const attention_case *c, prepared *p)
{
    const int64_t nq = c->B * c->H * c->T, nk = c->B * c->H * c->S;
    *p = (prepared){.c = c, .att = attention_of(c)};
    /* of signed features the normaliser is near 0 where vectors are long */
    const double std = performer_of(p->att)->feature->is_signed ? 0.5 : 1;
    p->q = normal_floats(nq * c->D, 1, std), p->k = normal_floats(nk * c->D, 2, std);
    p->v = normal_floats(nk * c->DV, 3, 1), p->go = normal_floats(nq * c->DV, 4, 1);
    p->mask = malloc((size_t)(c->B * c->S));
    for (int64_t i = 0; i < c->B * c->S; i++)
        p->mask[i] = (i * 7) % 5 != 0 && !(c->B > 1 && i >= (c->B - 1) * c->S);
    ok(attention_device_new(p->att, dev, c->fast, &p->ad));
    ok(attention_device_changed(p->ad));
    p->problem = (attention_device_problem){
        .p = {.B = c->B, .T = c->T, .S = c->S}, .q_rows = c->B * c->T, .k_rows = c->B * c->S};
    if (c->mask) {
        p->problem.p.k_mask = put(p->mask, c->B * c->S);
    }
    p->saved = room(attention_device_saved_bytes(p->ad, &p->problem) / 4);
    p->work = room(attention_device_work_bytes(p->ad, &p->problem) / 4);
    p->x = (attention_views){
        .q = spectra_rows_dense(put(p->q, nq * c->D * 4), c->H, c->T, c->D),
        .k = spectra_rows_dense(put(p->k, nk * c->D * 4), c->H, c->S, c->D),
        .v = spectra_rows_dense(put(p->v, nk * c->DV * 4), c->H, c->S, c->DV),
        .go = spectra_rows_dense(put(p->go, nq * c->DV * 4), c->H, c->T, c->DV),
        .o = spectra_rows_dense(room(nq * c->DV), c->H, c->T, c->DV),
        .gq = spectra_rows_dense(room(nq * c->D), c->H, c->T, c->D),
        .gk = spectra_rows_dense(room(nk * c->D), c->H, c->S, c->D),
        .gv = spectra_rows_dense(room(nk * c->DV), c->H, c->S, c->DV),
    };
}

static void release(prepared *p)
{
    const spectra_rows *rows[] = {&p->x.q, &p->x.k,  &p->x.v,  &p->x.go,
                                  &p->x.o, &p->x.gq, &p->x.gk, &p->x.gv};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        device_free(dev, rows[i]->data);
    device_free(dev, (void *)(uintptr_t)p->problem.p.k_mask);
    device_free(dev, p->saved);
    device_free(dev, p->work);
    attention_device_free(p->ad);
    spectra_attention_free(p->att);
    free(p->q), free(p->k), free(p->v), free(p->go), free(p->mask);
}

static void forward_backward(prepared *p)
{
    ok(attention_device_forward(p->ad, &p->problem, &p->x, p->saved, p->work));
    ok(attention_device_backward(p->ad, &p->problem, &p->x, p->saved, p->work));
}

static void run_case(const attention_case *c)
{
    prepared p;
    attend_run run;
    const attend_shape n = {c->B, c->H, c->T, c->S, c->D, c->DV};
    const int64_t nq = c->B * c->H * c->T, nk = c->B * c->H * c->S;
    prepare(c, &p);
    ok(attend(p.att, &n, &(attend_inputs){p.q, p.k, p.v, p.go, NULL, c->mask ? p.mask : NULL},
              &run));
    forward_backward(&p);
    const double eo = error_of(p.x.o.data, nq * c->DV, run.o),
                 eq = error_of(p.x.gq.data, nq * c->D, run.gq),
                 ek = error_of(p.x.gk.data, nk * c->D, run.gk),
                 ev = error_of(p.x.gv.data, nk * c->DV, run.gv);
    printf("%-12s %-6s T %4lld S %4lld D %2lld DV %2lld M %3lld: o %.1e gq %.1e gk %.1e gv %.1e\n",
           c->feat, c->kernel, (long long)c->T, (long long)c->S, (long long)c->D, (long long)c->DV,
           (long long)c->M, eo, eq, ek, ev);
    fflush(stdout);
    /* neighbouring eigenvectors of many are less well determined: test_maps_device */
    const bool wide_map = performer_of(p.att)->feature->linear != LINEAR_NONE && c->D > 128;
    const double limit = c->fast ? 5e-3 : wide_map ? 2e-4 : 2e-5;
    assert_true(eo <= limit && eq <= limit && ek <= limit && ev <= limit);
    check_learned(c, p.att, p.ad, &run);
    attend_free(&run);
    release(&p);
}

/* ---- only in the emulator ----------------------------------------------------------------------
 */

/* o and the gradients behind each other. */
static float *results(const prepared *p, int64_t *count)
{
    const attention_case *c = p->c;
    const int64_t nq = c->B * c->H * c->T, nk = c->B * c->H * c->S;
    const int64_t n[] = {nq * c->DV, nq * c->D, nk * c->D, nk * c->DV};
    const spectra_rows *rows[] = {&p->x.o, &p->x.gq, &p->x.gk, &p->x.gv};
    float *all = attend_floats(n[0] + n[1] + n[2] + n[3]);
    *count = 0;
    for (int i = 0; i < 4; *count += n[i++])
        ok(device_read(dev, all + *count, rows[i]->data, n[i] * 4));
    return all;
}

static float *run_results(void *of, int64_t *count)
{
    forward_backward(of);
    return results(of, count);
}

static void check_orders(const attention_case *c)
{
    prepared p;
    prepare(c, &p);
    same_in_any_order(run_results, &p);
    release(&p);
}

static void test_orders(void **state)
{
    static const attention_case checked[] = {
        {"posrf", "orf", 1, 2, 70, 150, 32, 32, 128, true, false, false, false},
        {"trigrf", "orf", 1, 1, 40, 65, 20, 24, 40, true, false, false, false},
        {"saderf", "orf", 1, 1, 33, 40, 16, 16, 32, true, false, false, false},
        {"hrf", "orf", 1, 1, 40, 40, 16, 16, 32, true, false, false, false},
        {"gerf", "fastfood_learnable", 1, 2, 40, 40, 16, 16, 32, true, false, false, true},
        /* not in shared memory, so races are seen as other bits only */
        {"posrf", "orf", 1, 2, 20, 24, 256, 256, 16, true, false, false, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof checked / sizeof checked[0]; i++)
        check_orders(&checked[i]);
}

/* What the emulator says it is, so that the driver takes kernels for clusters of blocks. */
enum { NO_CLUSTERS = 80, CLUSTERS = 90 };

typedef struct cluster_case {
    attention_case c;
    int forward, backward; /* blocks a cluster that the case gets */
} cluster_case;

static const cluster_case clustered[] = {
    {{"posrf", "orf", 1, 2, 70, 150, 32, 32, 128, true, false, false, false}, 1, 2},
    {{"posrf", "orf", 1, 1, 300, 600, 32, 32, 128, true, false, false, false}, 4, 8},
    {{"posrf", "gaus", 1, 1, 1100, 1030, 16, 16, 48, false, true, false, false}, 8, 8},
    {{"posrf", "orf", 2, 1, 257, 65, 20, 60, 100, true, false, false, false}, 2, 8},
    {{"posrf", "orf", 1, 1, 1, 520, 64, 64, 128, true, false, false, false}, 4, 8},
    {{"trigrf", "orf", 1, 1, 40, 280, 20, 24, 40, true, false, false, false}, 2, 4},
    {{"saderf", "qmc", 1, 2, 265, 130, 32, 32, 128, true, false, false, false}, 2, 4},
    {{"sderf", "orf", 1, 1, 140, 270, 8, 8, 32, true, false, false, false}, 2, 8},
    {{"hrf", "orf", 1, 1, 140, 270, 16, 16, 32, true, false, false, false}, 2, 4},
    {{"posrf", "ssr", 1, 1, 140, 270, 16, 16, 33, true, false, false, false}, 2, 8},
    {{"gerf", "fastfood_learnable", 2, 2, 140, 270, 16, 16, 32, true, false, false, true}, 2, 4},
    {{"posrf", "orf", 1, 1, 170, 370, 32, 32, 128, true, false, true, false}, 1, 4},
};

/* One launch a direction gives what the CPU gives, as everywhere here, and two launches give. */
static void test_clusters(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof clustered / sizeof clustered[0]; i++) {
        const attention_case *c = &clustered[i].c;
        prepared p;
        int64_t n = 0;
        dev->arch = CLUSTERS;
        run_case(c);
        prepare(c, &p);
        const performer_layout l = performer_layout_of(p.ad->own, &p.problem);
        forward_backward(&p);
        float *one = results(&p, &n);
        release(&p);
        dev->arch = NO_CLUSTERS;
        prepare(c, &p);
        forward_backward(&p);
        float *two = results(&p, &n);
        release(&p);
        const double apart = largest_error(n, one, two);
        printf("    clusters of %d and %d blocks, from two launches %.1e\n", l.forward, l.backward,
               apart);
        assert_int_equal(l.forward, clustered[i].forward);
        assert_int_equal(l.backward, clustered[i].backward);
        assert_true(apart <= (c->fast ? 5e-3 : 1e-5));
        free(one);
        free(two);
    }
}

static void test_cluster_orders(void **state)
{
    static const attention_case checked[] = {
        {"posrf", "orf", 1, 2, 70, 530, 32, 32, 128, true, false, false, false},
        {"trigrf", "orf", 1, 1, 130, 265, 20, 24, 40, true, false, false, false},
        {"saderf", "orf", 1, 1, 33, 140, 16, 16, 32, true, false, false, false},
        {"hrf", "orf", 1, 1, 40, 140, 16, 16, 32, true, false, false, false},
        {"gerf", "fastfood_learnable", 1, 2, 40, 140, 16, 16, 32, true, false, false, true},
    };
    (void)state;
    dev->arch = CLUSTERS;
    for (size_t i = 0; i < sizeof checked / sizeof checked[0]; i++)
        check_orders(&checked[i]);
    dev->arch = NO_CLUSTERS;
}

/* What goes to and from memory a token and head, counted in pieces of 32 bytes as a warp touches
 * them, is hardly more than q, k, v, o once, and once again with their gradients. */
static void check_bytes(const char *what)
{
    static const attention_case c = {"posrf", "orf", 1,     2,     8192,  8192, 32,
                                     32,      128,   false, false, false, false};
    const int multiprocessors = dev->multiprocessors;
    emulator_counters count[2] = {{0}, {0}};
    prepared p;
    dev->multiprocessors = 1; /* one split of a sequence, as where there are many heads */
    prepare(&c, &p);
    device_emulate(dev, &(emulator_options){.counters = &count[0]}, false);
    ok(attention_device_forward(p.ad, &p.problem, &p.x, p.saved, p.work));
    device_emulate(dev, &(emulator_options){.counters = &count[1]}, false);
    ok(attention_device_backward(p.ad, &p.problem, &p.x, p.saved, p.work));
    device_emulate(dev, &(emulator_options){.os_threads = 0}, false);
    dev->multiprocessors = multiprocessors;
    for (int i = 0; i < 2; i++) {
        const double tokens = (double)(c.H * c.T), least = i == 0 ? 512 : 1024;
        const double bytes = 32 * (double)count[i].global_sectors / tokens;
        const double conflicts =
            (double)count[i].shared_conflicts / (double)count[i].shared_wavefronts;
        printf(
            "%s, %s: %.1f bytes a token and head (%.1f %% over %.0f), %.1f %% of accesses 16 bytes "
            "wide, "
            "bank conflicts %.1f %% of %.0f passes, %.1f mma\n",
            i == 0 ? "forward" : "backward", what, bytes, 100 * (bytes / least - 1), least,
            100 * (double)count[i].global_wide /
                (double)(count[i].global_wide + count[i].global_narrow),
            100 * conflicts, (double)count[i].shared_wavefronts / tokens,
            (double)count[i].mma / tokens);
        assert_true(bytes <= 1.05 * least);
        /* arrays of 16 tokens a row, and 32 rows a warp in one launch, leave some of two */
        assert_true(conflicts <= (i == 0 ? 0.1 : 0.3));
    }
    release(&p);
}

static void test_bytes(void **state)
{
    (void)state;
    check_bytes("two launches");
    dev->arch = CLUSTERS;
    check_bytes("one launch");
    dev->arch = NO_CLUSTERS;
}

static const attention_case cases[] = {
    {"posrf", "orf", 1, 1, 16, 16, 8, 8, 16, false, false, false, false},
    {"posrf", "orf", 1, 2, 70, 70, 32, 32, 128, true, false, false, false},
    {"posrf", "gaus", 1, 1, 200, 300, 32, 32, 128, false, true, false, false},
    {"posrf", "orf", 2, 1, 33, 65, 20, 60, 100, true, false, false, false},
    {"posrf", "orf", 1, 1, 1, 7, 64, 64, 128, true, false, false, false},
    {"trigrf", "orf", 1, 1, 40, 40, 32, 32, 64, true, false, false, false},
    {"oprf", "orf", 1, 1, 40, 40, 32, 32, 64, true, false, false, false},
    {"saderf", "qmc", 1, 2, 65, 130, 32, 32, 128, true, false, false, false},
    {"saderf+", "qmc", 1, 1, 40, 40, 16, 24, 48, true, false, false, false},
    {"gerf", "orf", 1, 1, 40, 40, 16, 16, 32, true, false, false, false},
    {"sderf", "orf", 1, 1, 40, 70, 8, 8, 32, true, false, false, false},
    {"aderf", "orf", 1, 1, 40, 70, 16, 8, 32, true, false, false, false},
    {"cderf", "orf", 1, 1, 40, 40, 8, 8, 32, true, false, false, false},
    {"hrf", "orf", 1, 1, 40, 40, 16, 16, 32, true, false, false, false},
    {"poisrf", "orf", 1, 2, 40, 40, 16, 16, 32, true, false, false, false},
    {"geomrf", "orf", 1, 1, 40, 40, 16, 16, 32, true, false, false, false},
    {"geomrf_plus", "orf", 1, 1, 40, 40, 16, 16, 32, true, false, false, false},
    {"gerf", "orf", 2, 2, 40, 40, 16, 16, 32, true, false, false, true},
    {"posrf", "fastfood_learnable", 2, 2, 40, 200, 16, 16, 32, true, false, false, false},
    {"posrf", "gmm", 1, 2, 40, 40, 16, 16, 32, true, false, false, false},
    {"posrf", "ssr", 1, 1, 40, 40, 16, 16, 33, true, false, false, false},
    {"posrf", "orf", 1, 1, 70, 70, 32, 32, 128, true, false, true, false},
    /* no kernel's memory fits shared memory, and those of backward only */
    {"cderf", "orf", 1, 1, 150, 190, 160, 8, 32, true, false, false, false},
    {"gerf", "fastfood_learnable", 1, 2, 20, 40, 256, 256, 32, true, false, false, true},
};

static void test_case_run(void **state)
{
    run_case(*state);
}

int main(int argc, char **argv)
{
    enum { COUNT = sizeof cases / sizeof cases[0] };
    struct CMUnitTest tests[COUNT + 4];
    static char names[COUNT][64];
    size_t count = 0;
    for (; count < COUNT; count++) {
        const attention_case *c = &cases[count];
        snprintf(names[count], sizeof names[count], "%s %s T=%d D=%d M=%d", c->feat, c->kernel,
                 (int)c->T, (int)c->D, (int)c->M);
        tests[count] =
            (struct CMUnitTest){names[count], test_case_run, NULL, NULL, (void *)(uintptr_t)c};
    }
    if (argc < 2 || strcmp(argv[1], "emu") == 0) {
        tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_orders);
        tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_clusters);
        tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_cluster_orders);
        tests[count++] = (struct CMUnitTest)cmocka_unit_test(test_bytes);
    }
    return run_on_device(argc, argv, tests, count);
}
