/* The kernels of linear maps (attn_moments, attn_products, attn_maps) in the PTX interpreter, one
 * after the other, in three orders of threads, with races on global memory looked for too; what
 * they make against the CPU's maps. */
#include "device/cuda_ptx.h"

#include "support/attend.h"
#include "support/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MOMENTS_K, PRODUCTS_K, MAPS_K, KERNELS };
static const char *const kernels[KERNELS] = {"attn_moments", "attn_products", "attn_maps"};

typedef struct maps_case {
    const char *feat;
    int64_t B, H, T, S, D, splits, product_splits;
} maps_case;

const char *const ptx_maps_names[] = {"maps-sderf", "maps-aderf", "maps-odd", NULL};
static const maps_case cases[] = {
    {"sderf", 1, 1, 33, 20, 8, 1, 1},
    {"aderf", 1, 2, 33, 40, 20, 2, 3},
    {"cderf+", 2, 1, 9, 17, 7, 1, 2},
};

static const ptx_pointer pointers[] = {{"q.data", "ii-"}, {"k.data", "ii-"}, {"k_mask", "ii-"},
                                       {"part", "o-i"},   {"base", "--i"},   {"products", "-ob"},
                                       {"params", "--o"}};
enum { POINTERS = sizeof pointers / sizeof pointers[0] };
static const char *const numbers[] = {"q.stride_b",  "q.stride_h",
                                      "q.stride_t",  "k.stride_b",
                                      "k.stride_h",  "k.stride_t",
                                      "B",           "H",
                                      "T",           "S",
                                      "splits",      "product_splits",
                                      "base_stride", "params_stride"};
enum { NUMBERS = sizeof numbers / sizeof numbers[0] };
static const ptx_leaves kernel_leaves = {"params_cuda_args", pointers, POINTERS, numbers, NUMBERS};

typedef struct maps_run {
    const ptx_tools *tools;
    const char *name;
    const maps_case *c;
    spectra_attention *att;
    void *data[POINTERS];
    int64_t bytes[POINTERS], number[NUMBERS];
} maps_run;

static void path_of(const maps_run *r, const char *what, const char *ending, char path[256])
{
    snprintf(path, 256, "%s/%s.%s%s", r->tools->folder, r->name, what, ending);
}

static bool generate(const maps_run *r, const char *lua)
{
    char command[256], path[256];
    snprintf(command, sizeof command, "%s tests/device/cuda_text.lua", lua);
    FILE *list = popen(command, "w");
    for (int i = 0; i < KERNELS && list; i++) {
        path_of(r, kernels[i], ".cu", path);
        fprintf(list, "%s %s %s %d 8 32 f32 float32 fixed\n", path, r->c->feat, kernels[i],
                (int)r->c->D);
    }
    return list && pclose(list) == 0;
}

/* ---- the CPU ----------------------------------------------------------------------------------
 */

static void *normals(int64_t n, oracle_rng *random)
{
    float *x = attend_floats(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)oracle_normal(random) * (0.5F + 0.05F * (float)(i % 11));
    return x;
}

static int64_t head_floats(const spectra_attention *att)
{
    const int64_t D = performer_of(att)->plan.D;
    return performer_of(att)->feature->scalars + performer_of(att)->feature->vectors * D +
           4 * D * D;
}

static void open_run(maps_run *r)
{
    const maps_case *c = r->c;
    const int64_t heads = c->B * c->H, D = c->D, nq = heads * c->T * D, nk = heads * c->S * D;
    char feat[32];
    snprintf(feat, sizeof feat, "%.*s", (int)strcspn(c->feat, "+"), c->feat);
    const spectra_attention_desc d = {.attn = "performer",
                                      .feat = feat,
                                      .kernel = "gaus",
                                      .H = c->H,
                                      .D = D,
                                      .DV = 8,
                                      .M = 32,
                                      .antithetic = strchr(c->feat, '+') != NULL};
    oracle_rng random = {17};
    if (spectra_attention_new(&d, &r->att) != SPECTRA_OK) {
        fprintf(stderr, "%s: %s\n", r->name, spectra_message());
        exit(2);
    }
    const int64_t all = head_floats(r->att), base = all - 4 * D * D;
    const int64_t bytes[POINTERS] = {4 * nq,           4 * nk,
                                     c->B * c->S,      4 * c->splits * 2 * heads * (5 * D + 1),
                                     4 * heads * base, 4 * c->product_splits * 2 * heads * D * D,
                                     4 * heads * all};
    const int64_t number[NUMBERS] = {c->H * c->T * D,
                                     c->T * D,
                                     D,
                                     c->H * c->S * D,
                                     c->S * D,
                                     D,
                                     c->B,
                                     c->H,
                                     c->T,
                                     c->S,
                                     c->splits,
                                     c->product_splits,
                                     base,
                                     all};
    memcpy(r->bytes, bytes, sizeof bytes);
    memcpy(r->number, number, sizeof number);
    r->data[0] = normals(nq, &random), r->data[1] = normals(nk, &random);
    for (int i = 2; i < POINTERS; i++)
        r->data[i] = attend_alloc(bytes[i]);
    for (int64_t i = 0; i < c->B * c->S; i++)
        ((uint8_t *)r->data[2])[i] = i % 3 != 1;
    float v[MAX_VECTORS * 256];
    for (int64_t n = 0; n < heads; n++) {
        float *to = (float *)r->data[4] + n * base;
        performer_given(performer_of(r->att), n / c->H, n % c->H, to, v);
        for (int64_t i = 0; i < base - performer_of(r->att)->feature->scalars; i++)
            to[performer_of(r->att)->feature->scalars + i] =
                v[i / D * performer_of(r->att)->plan.DP + i % D];
    }
}

/* The largest difference of a head's parameters from the CPU's, by the largest of them. */
static double error_of(const maps_run *r, int64_t n)
{
    const maps_case *c = r->c;
    const attn_plan *plan = &performer_of(r->att)->plan;
    const feature_info *f = performer_of(r->att)->feature;
    const int64_t D = c->D, DP = plan->DP;
    const float *got = (const float *)r->data[POINTERS - 1] + n * head_floats(r->att);
    float *block = attend_floats(performer_block_floats(performer_of(r->att)));
    float *x = attend_floats(c->T * D), *y = attend_floats(c->S * D);
    double most = 0, error = 0;
    for (int64_t i = 0; i < c->T * D; i++)
        x[i] = ((const float *)r->data[0])[n * c->T * D + i] * plan->scale;
    for (int64_t i = 0; i < c->S * D; i++)
        y[i] = ((const float *)r->data[1])[n * c->S * D + i] * plan->scale;
    if (performer_prepare_heads(performer_of(r->att), 1, 1, c->T, c->S, x, y, NULL,
                                (const uint8_t *)r->data[2] + n / c->H * c->S, block) != SPECTRA_OK)
        exit(2);
    attn_plan ignored;
    attn_params a;
    performer_view(performer_of(r->att), block, &ignored, &a);
    for (int64_t i = 0; i < head_floats(r->att); i++) {
        const int64_t v = i - f->scalars, l = v - f->vectors * D;
        const double want = (double)(v < 0   ? a.s[i]
                                     : l < 0 ? a.v[v / D * DP + v % D]
                                             : a.linear[(l / D / D * DP + l / D % D) * DP + l % D]);
        most = fmax(most, fabs(want));
        error = isfinite(got[i]) ? fmax(error, fabs((double)got[i] - want)) : HUGE_VAL;
    }
    free(block), free(x), free(y);
    return error / most;
}

/* ---- launches -------------------------------------------------------------------------------- */

static void write_launch(const maps_run *r, int kernel, const char *text)
{
    const maps_case *c = r->c;
    const int64_t heads = c->B * c->H, side = (c->D + 63) / 64;
    const int64_t grid[KERNELS][3] = {
        {c->splits, heads, 2}, {c->product_splits, heads, side * (side + 1)}, {heads, 1, 1}};
    const int64_t threads = kernel == MAPS_K ? ptx_constant(text, "MAP_THREADS") : 256;
    char path[256];
    path_of(r, kernels[kernel], ".case", path);
    FILE *f = fopen(path, "w");
    if (!f) {
        fprintf(stderr, "cuda_ptx: %s cannot be written\n", path);
        exit(2);
    }
    fprintf(f, "kernel flat\ngrid %d %d %d\nblock %d\nshared %d\n", (int)grid[kernel][0],
            (int)grid[kernel][1], (int)grid[kernel][2], (int)threads,
            (int)ptx_constant(text, "SHARED_BYTES"));
    for (int i = 0; i < POINTERS; i++) {
        const char use = pointers[i].use[kernel];
        if (use == '-') {
            fprintf(f, "arg u64 0\n");
        } else if (use == 'o') {
            fprintf(f, "arg out %s %lld\n", pointers[i].name, (long long)r->bytes[i]);
        } else {
            fprintf(f, "arg %s %s.%s\n", use == 'b' ? "inout" : "in", r->name, pointers[i].name);
            path_of(r, pointers[i].name, "", path);
            ptx_write(path, r->data[i], (size_t)r->bytes[i]);
        }
    }
    for (int i = 0; i < NUMBERS; i++)
        fprintf(f, "arg i64 %lld\n", (long long)r->number[i]);
    fprintf(f, "arg f32 %.9g\n", (double)performer_of(r->att)->plan.scale);
    fclose(f);
}

/* The one output of a run, read for the first time, compared bit by bit later. */
static bool take_output(const maps_run *r, const char *where, int kernel, int schedule)
{
    int i = 0;
    while (pointers[i].use[kernel] != 'o')
        i++;
    char path[320];
    snprintf(path, sizeof path, "%s/%s", where, pointers[i].name);
    FILE *f = fopen(path, "rb");
    char *data = attend_alloc(r->bytes[i]);
    const bool whole = f && fread(data, 1, (size_t)r->bytes[i], f) == (size_t)r->bytes[i];
    const bool same =
        whole && (schedule == 0 || memcmp(data, r->data[i], (size_t)r->bytes[i]) == 0);
    if (!same)
        printf("%s %s: %s %s\n", r->name, kernels[kernel], pointers[i].name,
               whole ? "depends on the order of threads" : "was not written");
    if (same && schedule == 0)
        memcpy(r->data[i], data, (size_t)r->bytes[i]);
    if (f)
        fclose(f);
    free(data);
    return same;
}

static bool launch(const maps_run *r, int kernel)
{
    static const char *const orders[] = {"asc", "rand", "desc"};
    char path[256], launch_file[256], where[288], command[1400];
    path_of(r, kernels[kernel], ".cu", path);
    char *text = nvrtc_read(path),
         *flat = text ? ptx_flat_text(text, &kernel_leaves, "512", kernels[kernel]) : NULL;
    char *ptx = flat ? ptx_compile(r->tools, path, flat) : NULL;
    bool passed = ptx != NULL;
    if (ptx) {
        write_launch(r, kernel, text);
        path_of(r, kernels[kernel], ".ptx", path);
        ptx_write(path, ptx, strlen(ptx));
    }
    if (passed && (strstr(ptx, ".f64") || strstr(ptx, ".local") || strstr(ptx, "atom."))) {
        printf("%s %s: doubles, local memory or atomics\n", r->name, kernels[kernel]);
        passed = false;
    }
    free(text), free(flat), free(ptx);
    path_of(r, kernels[kernel], ".case", launch_file);
    snprintf(where, sizeof where, "%s/out", r->tools->folder);
    mkdir(where, 0777);
    for (int i = 0; i < r->tools->schedules && passed; i++) {
        snprintf(command, sizeof command, "%s %s %s %s --global-race --sched %s >%s/report 2>&1",
                 r->tools->interpreter, path, launch_file, where, orders[i], where);
        passed = system(command) == 0;
        snprintf(command, sizeof command, "%s/report", where);
        char *report = passed ? NULL : nvrtc_read(command);
        if (!passed)
            printf("%s %s, %s:\n%.2000s\n", r->name, kernels[kernel], orders[i],
                   report ? report : "no report");
        free(report);
        passed = passed && take_output(r, where, kernel, i);
    }
    return passed;
}

bool ptx_maps_run(const ptx_tools *tools, const char *lua, int which)
{
    maps_run r = {.tools = tools, .name = ptx_maps_names[which], .c = &cases[which]};
    double error = 0;
    open_run(&r);
    bool passed = generate(&r, lua);
    for (int i = 0; i < KERNELS && passed; i++)
        passed = launch(&r, i);
    for (int64_t n = 0; n < r.c->B * r.c->H && passed; n++)
        error = fmax(error, error_of(&r, n));
    passed = passed && error <= 1e-4;
    printf("%-14s  maps %.1e  %s\n", r.name, error, passed ? "ok" : "FAILED");
    fflush(stdout);
    for (int i = 0; i < POINTERS; i++)
        free(r.data[i]);
    spectra_attention_free(r.att);
    return passed;
}
