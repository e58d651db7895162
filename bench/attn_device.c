/* attn_device [cuda|emu] [scale]: attention's kernels on a device at the sizes of the Long Range
 * Arena, time a token and head beside what an H100's memory allows at least. `scale` divides the
 * batch, for devices that are slow or small; the emulator's times say nothing about a GPU.
 */
#include "attention/device.h"
#include "kernel/jit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct shape {
    const char *task;
    int64_t B, H, T;
} shape;

static const shape shapes[] = {
    {"listops", 32, 2, 2048},
    {"text", 32, 2, 4096},
    {"image", 256, 2, 1024},
    {"pathfinder", 128, 2, 1024},
};

enum { D = 32, M = 128, WARM = 3, RUNS = 20 };
static const double memory_rate = 3.35e12; /* bytes a second */

static void ok(spectra_status status)
{
    if (status == SPECTRA_OK)
        return;
    fprintf(stderr, "attn_device: %s\n", spectra_message());
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static spectra_rows rows(device *dev, const shape *s, bool random)
{
    const int64_t n = s->B * s->H * s->T * D;
    void *at = NULL;
    ok(device_alloc(dev, n * 4, &at));
    float *x = calloc((size_t)n, sizeof *x);
    uint32_t seed = 1;
    for (int64_t i = 0; x && i < n && random; i++) {
        seed = seed * 1664525 + 1013904223;
        x[i] = (float)(seed >> 8) / (1 << 23) - 1;
    }
    if (!x) {
        fprintf(stderr, "attn_device: out of memory\n");
        exit(1);
    }
    ok(device_write(dev, at, x, n * 4));
    free(x);
    return spectra_rows_dense(at, s->H, s->T, D);
}

/* Median seconds of one run of what was recorded. */
static double measure(device *dev, device_graph *graph, int runs)
{
    double t[RUNS];
    for (int i = -WARM; i < runs; i++) {
        const double start = now();
        ok(device_replay(dev, graph));
        ok(device_wait(dev));
        if (i >= 0)
            t[i] = now() - start;
    }
    qsort(t, (size_t)runs, sizeof *t, by_value);
    return t[runs / 2];
}

static void run(device *dev, const shape *s, const char *feat, int runs)
{
    const spectra_attention_desc desc = {.attn = "performer",
                                         .feat = feat,
                                         .kernel = "orf",
                                         .H = s->H,
                                         .D = D,
                                         .DV = D,
                                         .M = M,
                                         .seed = 1};
    spectra_attention *att = NULL;
    attention_device *ad = NULL;
    ok(spectra_attention_new(&desc, &att));
    ok(attention_device_new(att, dev, false, &ad));
    ok(attention_device_changed(ad));
    const attention_device_problem x = {
        .p = {.B = s->B, .T = s->T, .S = s->T}, .q_rows = s->B * s->T, .k_rows = s->B * s->T};
    void *saved = NULL, *work = NULL;
    ok(device_alloc(dev, attention_device_saved_bytes(ad, &x), &saved));
    ok(device_alloc(dev, attention_device_work_bytes(ad, &x), &work));
    spectra_rows r[8];
    for (int i = 0; i < 8; i++)
        r[i] = rows(dev, s, i < 4);
    const attention_views v = {r[0], r[1], r[2], r[4], r[3], r[5], r[6], r[7]};
    device_graph *graph[2];
    ok(attention_device_forward(ad, &x, &v, saved, work)); /* allocates what it keeps */
    for (int i = 0; i < 2; i++) {
        ok(device_record_begin(dev));
        ok(i == 0 ? attention_device_forward(ad, &x, &v, saved, work)
                  : attention_device_backward(ad, &x, &v, saved, work));
        ok(device_record_end(dev, &graph[i]));
    }
    const double tokens = (double)(s->B * s->H * s->T);
    for (int i = 0; i < 2; i++) {
        const double ns = 1e9 * measure(dev, graph[i], runs) / tokens;
        const double floor = 1e9 * (i == 0 ? 4 : 8) * 4 * D / memory_rate;
        printf("%-8s %-11s %-9s %9.3f ns  floor %.3f ns  %6.1f %% of it\n", feat, s->task,
               i == 0 ? "forward" : "backward", ns, floor, 100 * floor / ns);
        fflush(stdout);
        device_graph_free(dev, graph[i]);
    }
    attention_device_free(ad);
    spectra_attention_free(att);
    device_free(dev, saved);
    device_free(dev, work);
    for (int i = 0; i < 8; i++)
        device_free(dev, r[i].data);
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "cuda";
    const int64_t scale = argc > 2 ? atoll(argv[2]) : 1;
    device *dev = NULL;
    ok(jit_configure(&(jit_options){.policy = JIT_AUTO}));
    ok(device_open(kind, &dev));
    printf("%s, D %d, M %d, float32; floor: q, k, v, o and their gradients once at %.2f TB/s\n",
           device_name(dev), D, M, memory_rate / 1e12);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        shape s = shapes[i];
        s.B = s.B / scale > 0 ? s.B / scale : 1;
        run(dev, &s, "posrf", scale > 1 ? 1 : RUNS);
        run(dev, &s, "saderf", scale > 1 ? 1 : RUNS);
    }
    device_close(dev);
    return 0;
}
