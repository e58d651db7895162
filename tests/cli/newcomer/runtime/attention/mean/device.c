/* The mean of the valid values on a device: launches of templates/cuda/mean.cu. */
#include "attention/device.h"
#include "attention/mean/mean.h"
#include "base/status.h"
#include "kernel/programs.h"

#include <stdio.h>
#include <stdlib.h>

#include "../templates/cuda/mean_args.h"

enum { THREADS = 64 };

typedef struct mean_device {
    device_function *forward, *backward;
} mean_device;

static spectra_status mean_device_init(attention_device *ad)
{
    char defines[64];
    snprintf(defines, sizeof defines, "HEAD_D=%lld HEAD_DV=%lld", (long long)ad->att->desc.D,
             (long long)ad->att->desc.DV);
    const jit_cuda_request request = {.kind = "mean", .defines = defines};
    jit_programs list;
    device_program *program = NULL;
    mean_device *md = calloc(1, sizeof *md);
    if (!md)
        return fail(SPECTRA_ENOMEM, "mean: out of memory");
    ad->own = md;
    TRY(jit_programs_make(&request, &list));
    spectra_status status = device_program_get(ad->dev, "mean", list.program->text, &program);
    jit_programs_free(&list);
    TRY(status);
    TRY(device_function_get(program, "mean_fwd", 0, &md->forward));
    return device_function_get(program, "mean_bwd", 0, &md->backward);
}

static void mean_device_release(attention_device *ad)
{
    free(ad->own);
}

static int64_t mean_device_bytes(const attention_device *ad, const attention_device_problem *x)
{
    (void)ad, (void)x;
    return 0;
}

static spectra_status launch(const attention_device *ad, device_function *kernel,
                             const attention_device_problem *x, const attention_views *v)
{
    const mean_options *own = ad->att->own;
    const spectra_problem *p = &x->p;
    const mean_cuda_args args = {.v = attention_device_rows(&v->v),
                                 .o = attention_device_rows(&v->o),
                                 .go = attention_device_rows(&v->go),
                                 .gq = attention_device_rows(&v->gq),
                                 .gk = attention_device_rows(&v->gk),
                                 .gv = attention_device_rows(&v->gv),
                                 .q_begin = p->q_begin,
                                 .q_len = p->q_len,
                                 .k_begin = p->k_begin,
                                 .k_len = p->k_len,
                                 .mask = p->k_mask,
                                 .T = p->T,
                                 .S = p->S,
                                 .scale = (float)own->scale};
    const device_grid grid = {
        .blocks = {p->B, ad->att->desc.H, 1}, .threads = THREADS, .cluster = 1};
    return device_launch(kernel, &grid, &args, sizeof args);
}

static spectra_status mean_device_forward(const attention_device *ad,
                                          const attention_device_problem *x,
                                          const attention_views *v, void *saved, void *work)
{
    const mean_device *md = ad->own;
    (void)saved, (void)work;
    return launch(ad, md->forward, x, v);
}

static spectra_status mean_device_backward(const attention_device *ad,
                                           const attention_device_problem *x,
                                           const attention_views *v, void *saved, void *work)
{
    const mean_device *md = ad->own;
    (void)saved, (void)work;
    return launch(ad, md->backward, x, v);
}

const attention_device_ops mean_device_ops = {
    .init = mean_device_init,
    .release = mean_device_release,
    .saved_bytes = mean_device_bytes,
    .work_bytes = mean_device_bytes,
    .forward = mean_device_forward,
    .backward = mean_device_backward,
};
