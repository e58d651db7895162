#include "attention/performer/device_features.h"

#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* the kernels' numbers are float here */
#include "../templates/cuda/args.h"
#include "kernel/programs.h"

enum { BLOCK_THREADS = 128, SHARED = 32 + 2 * 256, MOST_BLOCKS = 65536 };

/* What a head's parameters are on the device, in floats; one array holds them one after another. */
typedef struct layout {
    int64_t w, second, w2, counts, linear, s, v, total;
} layout;

static layout layout_of(const performer *pf)
{
    const int64_t D = pf->plan.D, M = pf->plan.M;
    const feature_info *f = pf->feature;
    layout l = {.w = 0};
    l.second = M * D;
    l.w2 = l.second + (f->projections > 1 ? M * D : 0);
    l.counts = l.w2 + M;
    l.linear = l.counts + (f->counts != COUNTS_NONE ? 2 * M : 0);
    l.s = l.linear + (f->linear != LINEAR_NONE ? D * D : 0);
    l.v = l.s + f->scalars;
    l.total = l.v + f->vectors * D;
    return l;
}

/* Rows without their padding. */
static void rows(float *to, const float *from, int64_t count, int64_t size, int64_t pitch)
{
    for (int64_t i = 0; i < count; i++)
        memcpy(to + i * size, from + i * pitch, (size_t)size * sizeof *to);
}

/* The parameters of a prepared head as the kernel wants them. */
static void pack(const performer *pf, int side, const float *block, const layout *l, float *to)
{
    const feature_info *f = pf->feature;
    attn_plan p;
    attn_params a;
    performer_view(pf, block, &p, &a);
    rows(to + l->w, p.w, p.M, p.D, p.DP);
    if (f->projections > 1)
        rows(to + l->second, p.w_second, p.M, p.D, p.DP);
    memcpy(to + l->w2, p.w2, (size_t)p.M * sizeof *to);
    if (f->counts != COUNTS_NONE)
        rows(to + l->counts, p.count_sums, 2, p.M, p.MP);
    if (f->linear != LINEAR_NONE)
        rows(to + l->linear, a.linear + (2 * side + 1) * p.DP * p.DP, p.D, p.D, p.DP);
    memcpy(to + l->s, a.s, (size_t)f->scalars * sizeof *to);
    rows(to + l->v, a.v, f->vectors, p.D, p.DP);
}

/* Everything of one call: host memory, device memory, the kernel. */
typedef struct work {
    device *dev;
    const performer *pf;
    device_function *kernel;
    layout at;
    float *staged;                     /* a head's parameters */
    void *x, *parameters, *log, *sign; /* a head's, the device's */
    int64_t x_bytes, out_bytes;
} work;

static spectra_status get_kernel(work *w)
{
    const spectra_attention_desc *d = &w->pf->desc;
    char defines[128];
    snprintf(defines, sizeof defines, "D=%lld DV=%lld M=%lld", (long long)d->D, (long long)d->DV,
             (long long)d->M);
    const jit_cuda_request request = {
        .kind = "features", .feat = w->pf->feature->name, .defines = defines};
    jit_programs list;
    device_program *program = NULL;
    TRY(jit_programs_make(&request, &list));
    spectra_status status =
        device_program_get(w->dev, list.program->name, list.program->text, &program);
    jit_programs_free(&list);
    TRY(status);
    return device_function_get(program, "features", SHARED * (int64_t)sizeof(float), &w->kernel);
}

static spectra_status get_memory(work *w)
{
    w->staged = malloc((size_t)w->at.total * sizeof *w->staged);
    if (!w->staged)
        return fail(SPECTRA_ENOMEM, "features: no memory for %lld numbers", (long long)w->at.total);
    TRY(device_alloc(w->dev, w->x_bytes, &w->x));
    TRY(device_alloc(w->dev, w->at.total * (int64_t)sizeof(float), &w->parameters));
    TRY(device_alloc(w->dev, w->out_bytes, &w->log));
    return device_alloc(w->dev, w->out_bytes, &w->sign);
}

static spectra_status run_head(work *w, int side, int64_t n, const float *x, const float *block,
                               float *log, float *sign)
{
    const int64_t D = w->pf->plan.D, M = w->pf->plan.M;
    const layout *l = &w->at;
    const float *p = w->parameters;
    pack(w->pf, side, block, l, w->staged);
    TRY(device_write(w->dev, w->parameters, w->staged, l->total * (int64_t)sizeof(float)));
    TRY(device_write(w->dev, w->x, x, w->x_bytes));
    const features_cuda_args args = {.x = w->x,
                                     .w = p + l->w,
                                     .w_second = p + l->second,
                                     .w2 = p + l->w2,
                                     .counts = p + l->counts,
                                     .linear = p + l->linear,
                                     .s = p + l->s,
                                     .v = p + l->v,
                                     .log = w->log,
                                     .sign = w->sign,
                                     .n = n,
                                     .ldx = D,
                                     .scale = 1,
                                     .D = (int)D,
                                     .M = (int)M,
                                     .side = side};
    const device_grid grid = {.blocks = {n < MOST_BLOCKS ? n : MOST_BLOCKS, 1, 1},
                              .threads = BLOCK_THREADS,
                              .shared_bytes = SHARED * (int64_t)sizeof(float)};
    TRY(device_launch(w->kernel, &grid, &args, sizeof args));
    TRY(device_read(w->dev, log, w->log, w->out_bytes));
    return device_read(w->dev, sign, w->sign, w->out_bytes);
}

static spectra_status run(work *w, int side, int64_t heads, int64_t n, const float *x,
                          const float *blocks, float *log, float *sign)
{
    const feature_info *f = w->pf->feature;
    const int64_t D = w->pf->plan.D, count = n * f->lanes * w->pf->plan.M;
    TRY(get_kernel(w));
    TRY(get_memory(w));
    for (int64_t i = 0; i < heads; i++) {
        const float *block = blocks + i * performer_block_floats(w->pf);
        float *head_log = log + i * count;
        TRY(run_head(w, side, n, x + i * n * D, block, head_log, sign + i * count));
        const float constant = f->constant ? f->constant(D, block) : 0;
        for (int64_t k = 0; k < count; k++)
            head_log[k] += constant;
    }
    return SPECTRA_OK;
}

spectra_status performer_device_features(device *dev, const performer *pf, int side, int64_t B,
                                         int64_t H, int64_t n, const float *x, const float *blocks,
                                         float *log, float *sign)
{
    work w = {.dev = dev,
              .pf = pf,
              .at = layout_of(pf),
              .x_bytes = n * pf->plan.D * (int64_t)sizeof(float),
              .out_bytes = n * pf->feature->lanes * pf->plan.M * (int64_t)sizeof(float)};
    spectra_status status = run(&w, side, B * H, n, x, blocks, log, sign);
    device_free(dev, w.x);
    device_free(dev, w.parameters);
    device_free(dev, w.log);
    device_free(dev, w.sign);
    free(w.staged);
    return status;
}
