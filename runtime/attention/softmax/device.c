/* Softmax attention on a device: launches of templates/cuda/softmax.cu. */
#include "attention/device.h"
#include "attention/softmax/softmax.h"
#include "base/status.h"
#include "kernel/programs.h"
#include "math/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 256, WARPS = THREADS / 32 };

enum { KEYS, FWD, DOT, CLEAR, BWD_KEYS, BWD_QUERIES, KERNELS };
static const char *const kernel_names[KERNELS] = {"softmax_keys",     "softmax_fwd",
                                                  "softmax_dot",      "softmax_clear",
                                                  "softmax_bwd_keys", "softmax_bwd_queries"};

typedef struct softmax_device {
    device_function *kernel[KERNELS];
    int64_t shared[KERNELS];
} softmax_device;

static spectra_status softmax_init(attention_device *ad)
{
    const int64_t D = ad->att->desc.D, DV = ad->att->desc.DV;
    char defines[64];
    snprintf(defines, sizeof defines, "HEAD_D=%lld HEAD_DV=%lld", (long long)D, (long long)DV);
    const jit_cuda_request request = {.kind = "softmax", .defines = defines};
    softmax_device *s = calloc(1, sizeof *s);
    if (!s)
        return fail(SPECTRA_ENOMEM, "softmax: out of memory");
    ad->own = s;
    s->shared[KEYS] = THREADS * (int64_t)sizeof(int);
    s->shared[FWD] = SOFTMAX_FORWARD_FLOATS(D, DV) * (int64_t)sizeof(float);
    s->shared[BWD_KEYS] = SOFTMAX_BACKWARD_FLOATS(D, DV) * (int64_t)sizeof(float);
    s->shared[BWD_QUERIES] = s->shared[BWD_KEYS];
    jit_programs list;
    device_program *program = NULL;
    TRY(jit_programs_make(&request, &list));
    spectra_status status = device_program_get(ad->dev, "softmax", list.program->text, &program);
    jit_programs_free(&list);
    for (int i = 0; i < KERNELS && status == SPECTRA_OK; i++)
        status = device_function_get(program, kernel_names[i], s->shared[i], &s->kernel[i]);
    return status;
}

static void softmax_release(attention_device *ad)
{
    free(ad->own);
}

/* ---- memory -------------------------------------------------------------------------------------
 */

static int64_t saved_bytes(const attention_device *ad, const attention_device_problem *x)
{
    return arena_round(x->q_rows * ad->att->desc.H * (int64_t)sizeof(float));
}

/* <go, o> of the queries; with a mask the valid keys and their numbers. */
static int64_t work_bytes(const attention_device *ad, const attention_device_problem *x)
{
    int64_t bytes = saved_bytes(ad, x);
    if (x->p.k_mask)
        bytes += arena_round(x->k_rows * (int64_t)sizeof(int)) +
                 arena_round(x->p.B * (int64_t)sizeof(int));
    return bytes;
}

/* ---- launches -----------------------------------------------------------------------------------
 */

static bool aligned(const spectra_rows *r)
{
    return !r->data || ((uintptr_t)r->data % 16 == 0 && r->stride_b % 4 == 0 &&
                        r->stride_h % 4 == 0 && r->stride_t % 4 == 0);
}

static softmax_cuda_args arguments(const attention_device *ad, const attention_device_problem *x,
                                   const attention_views *v, void *saved, void *work)
{
    const spectra_attention_desc *d = &ad->att->desc;
    const spectra_problem *p = &x->p;
    const uint32_t one = 1 << 16; /* dropout compares 16 bits (rng.h) */
    uint32_t threshold = (uint32_t)(p->dropout * one + 0.5);
    char *memory = work;
    softmax_cuda_args a = {
        .q = attention_device_rows(&v->q),
        .k = attention_device_rows(&v->k),
        .v = attention_device_rows(&v->v),
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
        .lse = saved,
        .dot = work,
        .batch = x->batch,
        .B = p->B,
        .H = d->H,
        .T = p->T,
        .S = p->S,
        .seed = {(uint32_t)p->seed, (uint32_t)(p->seed >> 32)},
        .word2 = (uint32_t)RNG_DROPOUT_PROB << 24 | (uint32_t)(p->step >> 32),
        .word3 = (uint32_t)p->step,
        .threshold = threshold,
        .scale = 1 / sqrtf((float)d->D),
        .factor = threshold < one ? (float)one / (float)(one - threshold) : 0,
        .vector = d->D % 4 == 0 && d->DV % 4 == 0 && aligned(&v->q) && aligned(&v->k) &&
                  aligned(&v->v) && aligned(&v->go),
    };
    if (p->k_mask) {
        a.key = (int *)(memory + saved_bytes(ad, x));
        a.keys = (int *)((char *)a.key + arena_round(x->k_rows * (int64_t)sizeof(int)));
    }
    return a;
}

/* `tiles` blocks along the sequence for every head; KEYS: a block a sequence. */
static spectra_status launch(const attention_device *ad, const softmax_cuda_args *a, int kernel,
                             int64_t tiles)
{
    const softmax_device *s = ad->own;
    device_grid grid = {.blocks = {tiles, a->H, a->B},
                        .threads = THREADS,
                        .cluster = 1,
                        .shared_bytes = s->shared[kernel]};
    if (kernel == KEYS)
        grid.blocks[0] = a->B, grid.blocks[1] = grid.blocks[2] = 1;
    if (tiles < 1 || a->B < 1)
        return SPECTRA_OK;
    return device_launch(s->kernel[kernel], &grid, a, sizeof *a);
}

static int64_t tiles(int64_t n, int64_t tile)
{
    return (n + tile - 1) / tile;
}

static spectra_status forward(const attention_device *ad, const attention_device_problem *x,
                              const attention_views *v, void *saved, void *work)
{
    const softmax_cuda_args a = arguments(ad, x, v, saved, work);
    if (a.mask)
        TRY(launch(ad, &a, KEYS, 1));
    return launch(ad, &a, FWD, tiles(a.T, SOFTMAX_QUERIES));
}

static spectra_status backward(const attention_device *ad, const attention_device_problem *x,
                               const attention_views *v, void *saved, void *work)
{
    const softmax_cuda_args a = arguments(ad, x, v, saved, work);
    if (a.mask) {
        TRY(launch(ad, &a, KEYS, 1));
        TRY(launch(ad, &a, CLEAR, tiles(a.S, WARPS)));
    }
    TRY(launch(ad, &a, DOT, tiles(a.T, WARPS)));
    TRY(launch(ad, &a, BWD_KEYS, tiles(a.S, SOFTMAX_BACKWARD)));
    return launch(ad, &a, BWD_QUERIES, tiles(a.T, SOFTMAX_BACKWARD));
}

const attention_device_ops softmax_device_ops = {
    .init = softmax_init,
    .release = softmax_release,
    .saved_bytes = saved_bytes,
    .work_bytes = work_bytes,
    .forward = forward,
    .backward = backward,
};
