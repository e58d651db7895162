/* The driver of the CUDA kernels of the reference system's behaviour, as host.c on
 * the CPU; templates/cuda/attn_official.cu says what is done in which order. float only.
 *
 * Scalars that do not come from the data (given, or drawn for every position) are made by the host
 * and stay on the device until the sequences get longer; so are given vectors until the batch
 * grows. A pass that is recorded must have run once with its shape before.
 */
#include "attention/device.h"
#include "attention/official/official.h"
#include "base/status.h"
#include "kernel/programs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum official_kernel {
    KEYS,
    SUM,
    QUERIES,
    QUERIES_BWD,
    KEYS_BWD,
    ADAPT,
    ADAPT_BWD,
    OFFICIAL_KERNELS
} official_kernel;

static const char *const kernel_names[OFFICIAL_KERNELS] = {
    "attn_official_keys",        "attn_official_sum",      "attn_official_queries",
    "attn_official_queries_bwd", "attn_official_keys_bwd", "attn_official_adapt",
    "attn_official_adapt_bwd"};

typedef struct official_device {
    const official *of;
    const performer *pf; /* of the same */
    device *dev;
    device_function *kernel[OFFICIAL_KERNELS];
    jit_cuda_plan tokens, adapts; /* of the two texts */
    float *matrix;                /* (M, D) | (D, M) | w2 (M), the device's */
    float *base;    /* (base_batch, H, scalars) | (base_batch, H, vectors, D), likewise */
    float *scalars; /* (H, positions, scalars), likewise; not where they come from the batch */
    int64_t base_batch, positions;
} official_device;

/* Where things lie in `saved` and `work`, in floats; every part starts on 256 bytes. */
typedef struct official_layout {
    int64_t heads, splits, state;
    int64_t at_state, at_scalars, at_vectors, at_den, saved;
    int64_t at_part, at_dstate, at_ds, at_dvectors, work;
} official_layout;

static official_layout layout_of(const official_device *od, const spectra_problem *p)
{
    const performer *pf = od->pf;
    const feature_info *f = pf->feature;
    const attn_plan *plan = &pf->plan;
    official_layout l = {.heads = p->B * pf->desc.H, .splits = 1};
    const int64_t slots = (int64_t)device_multiprocessors(od->dev) * od->tokens.blocks;
    const int64_t most = p->T / (2 * od->tokens.tile);
    if (l.heads > 0 && slots / l.heads > 1 && most > 1) /* a split is worth two tiles */
        l.splits = slots / l.heads < most ? slots / l.heads : most;
    l.state = f->lanes * plan->M * (1 + plan->DV);
    const int64_t states = whole_floats(l.heads * l.state), scalars = f->scalars;
    const int64_t vectors = l.heads * f->vectors * plan->D;
    int64_t at = 0;
    l.at_state = at, at += states;
    l.at_scalars = at,
    at += official_by_position(pf) ? whole_floats(pf->desc.H * p->T * scalars) : 0;
    l.at_vectors = at, at += whole_floats(vectors);
    l.at_den = at, at += whole_floats(l.heads * p->T);
    l.saved = at;
    at = 0;
    l.at_part = at, at += l.splits > 1 ? whole_floats(l.splits * l.heads * l.state) : 0;
    l.at_dstate = at, at += states;
    l.at_ds = at, at += whole_floats(2 * l.heads * p->T * scalars);
    l.at_dvectors = at, at += whole_floats(2 * l.splits * vectors);
    l.work = at;
    return l;
}

static int64_t saved_bytes(const attention_device *ad, const attention_device_problem *x)
{
    return layout_of(ad->own, &x->p).saved * (int64_t)sizeof(float);
}

static int64_t work_bytes(const attention_device *ad, const attention_device_problem *x)
{
    return layout_of(ad->own, &x->p).work * (int64_t)sizeof(float);
}

/* ---- construction ---------------------------------------------------------------------------- */

/* The kernels `from` .. `to` - 1 of a text. */
static spectra_status open_text(official_device *od, const jit_program *p, official_kernel from,
                                official_kernel to)
{
    device_program *program = NULL;
    TRY(device_program_get(od->dev, p->name, p->text, &program));
    for (int i = from; i < (int)to; i++)
        TRY(device_function_get(program, kernel_names[i], p->plan.shared, &od->kernel[i]));
    return SPECTRA_OK;
}

static spectra_status open_texts(official_device *od)
{
    const spectra_attention_desc *d = &od->pf->desc;
    char defines[128];
    snprintf(defines, sizeof defines, "D=%lld DV=%lld M=%lld arch=%d", (long long)d->D,
             (long long)d->DV, (long long)d->M, device_arch(od->dev));
    const jit_cuda_request request = {.kind = "official", .feat = d->feat, .defines = defines};
    jit_programs list;
    TRY(jit_programs_make(&request, &list));
    od->tokens = list.program[0].plan;
    spectra_status status = open_text(od, &list.program[0], KEYS, ADAPT);
    if (list.count > 1 && status == SPECTRA_OK) {
        od->adapts = list.program[1].plan;
        status = open_text(od, &list.program[1], ADAPT, OFFICIAL_KERNELS);
    }
    jit_programs_free(&list);
    return status;
}

static int64_t matrix_floats(const performer *pf)
{
    return 2 * whole_floats(pf->plan.M * pf->plan.D) + pf->plan.M;
}

static spectra_status official_device_init(attention_device *ad)
{
    official_device *od = calloc(1, sizeof *od);
    if (!od)
        return fail(SPECTRA_ENOMEM, "performer on %s: out of memory", device_name(ad->dev));
    ad->own = od;
    od->of = official_of(ad->att);
    od->pf = &od->of->performer;
    od->dev = ad->dev;
    TRY(open_texts(od));
    return device_alloc(od->dev, matrix_floats(od->pf) * (int64_t)sizeof(float),
                        (void **)&od->matrix);
}

static void official_device_release(attention_device *ad)
{
    official_device *od = ad->own;
    if (!od)
        return;
    device_free(od->dev, od->matrix);
    device_free(od->dev, od->base);
    device_free(od->dev, od->scalars);
    free(od);
}

static spectra_status official_device_changed(attention_device *ad)
{
    official_device *od = ad->own;
    const attn_plan *p = &od->pf->plan;
    const int64_t floats = matrix_floats(od->pf), M = p->M, D = p->D;
    od->base_batch = od->positions = 0; /* they may depend on the draw's seed or be given anew */
    float *staged = calloc((size_t)floats, sizeof *staged);
    if (!staged)
        return fail(SPECTRA_ENOMEM, "performer on %s: out of memory", device_name(od->dev));
    float *transposed = staged + whole_floats(M * D);
    memcpy(staged, od->pf->w, (size_t)(M * D) * sizeof *staged);
    for (int64_t r = 0; r < M; r++)
        for (int64_t d = 0; d < D; d++)
            transposed[d * M + r] = staged[r * D + d];
    memcpy(transposed + whole_floats(M * D), p->w2, (size_t)M * sizeof *staged);
    spectra_status status =
        device_write(od->dev, od->matrix, staged, floats * (int64_t)sizeof *staged);
    free(staged);
    return status;
}

/* ---- what the host makes of parameters --------------------------------------------------------
 */

/* n floats to the device in the place of *to. */
static spectra_status replace(device *dev, const float *from, int64_t n, float **to)
{
    void *fresh = NULL;
    TRY(device_alloc(dev, n * (int64_t)sizeof *from, &fresh));
    device_free(dev, *to);
    *to = fresh;
    return device_write(dev, fresh, from, n * (int64_t)sizeof *from);
}

/* Defaults and what was given, for every head of the batch. */
static spectra_status update_base(official_device *od, int64_t batch)
{
    const performer *pf = od->pf;
    const feature_info *f = pf->feature;
    const int64_t H = pf->desc.H, D = pf->plan.D, DP = pf->plan.DP;
    const int64_t heads = batch * H, each = f->vectors * D;
    const int64_t at_vectors = whole_floats(heads * f->scalars), n = at_vectors + heads * each;
    float v[MAX_VECTORS * 256];
    if (batch <= od->base_batch)
        return SPECTRA_OK;
    float *base = calloc((size_t)n, sizeof *base);
    if (!base)
        return fail(SPECTRA_ENOMEM, "performer on %s: out of memory", device_name(od->dev));
    for (int64_t head = 0; head < heads; head++) {
        float *to = base + at_vectors + head * each;
        performer_given(pf, head / H, head % H, base + head * f->scalars, v);
        for (int i = 0; i < f->vectors; i++)
            memcpy(to + i * D, v + i * DP, (size_t)D * sizeof *to);
    }
    spectra_status status = replace(od->dev, base, n, &od->base);
    free(base);
    if (status == SPECTRA_OK)
        od->base_batch = batch;
    return status;
}

static spectra_status update_scalars(official_device *od, int64_t T)
{
    const performer *pf = od->pf;
    const int64_t H = pf->desc.H, each = pf->feature->scalars;
    if (official_by_position(pf) || T <= od->positions)
        return SPECTRA_OK;
    float *s = malloc((size_t)(H * T * each) * sizeof *s);
    if (!s)
        return fail(SPECTRA_ENOMEM, "performer on %s: out of memory", device_name(od->dev));
    for (int64_t i = 0; i < H * T; i++)
        official_scalars(od->of, i / T, i % T, NULL, s + i * each);
    spectra_status status = replace(od->dev, s, H * T * each, &od->scalars);
    free(s);
    if (status == SPECTRA_OK)
        od->positions = T;
    return status;
}

/* ---- launches -------------------------------------------------------------------------------- */

static official_cuda_args args_of(const official_device *od, const attention_device_problem *x,
                                  const official_layout *l, const attention_views *v, float *saved,
                                  float *work)
{
    const performer *pf = od->pf;
    const feature_info *f = pf->feature;
    const spectra_problem *p = &x->p;
    const int64_t matrix = whole_floats(pf->plan.M * pf->plan.D);
    const bool made = official_by_position(pf);
    float *vectors = od->base + whole_floats(od->base_batch * pf->desc.H * f->scalars);
    unsigned given = 0;
    for (int i = 0; i < f->vectors; i++)
        given |= pf->vector[i].data ? 1u << i : 0;
    return (official_cuda_args){
        .q = attention_device_rows(&v->q),
        .k = attention_device_rows(&v->k),
        .v = attention_device_rows(&v->v),
        .o = attention_device_rows(&v->o),
        .go = attention_device_rows(&v->go),
        .gq = attention_device_rows(&v->gq),
        .gk = attention_device_rows(&v->gk),
        .gv = attention_device_rows(&v->gv),
        .mask = p->k_mask,
        .w = od->matrix,
        .wt = od->matrix + matrix,
        .w2 = od->matrix + 2 * matrix,
        .base = od->base,
        .base_vectors = vectors,
        .s = made ? saved + l->at_scalars : od->scalars,
        .vectors = f->adapt ? saved + l->at_vectors : vectors,
        .state = saved + l->at_state,
        .dstate = work + l->at_dstate,
        .den = saved + l->at_den,
        .ds = work + l->at_ds,
        .dvectors = work + l->at_dvectors,
        .B = p->B,
        .H = pf->desc.H,
        .T = p->T,
        .splits = l->splits,
        .s_stride = (made ? p->T : od->positions) * f->scalars,
        .scale = pf->plan.scale,
        .eps = official_epsilon(pf),
        .given = given,
    };
}

static spectra_status launch(const official_device *od, official_kernel kernel, int64_t x,
                             int64_t y, const official_cuda_args *args)
{
    const jit_cuda_plan *plan = kernel < ADAPT ? &od->tokens : &od->adapts;
    const device_grid grid = {
        .blocks = {x, y, 1}, .threads = plan->threads, .cluster = 1, .shared_bytes = plan->shared};
    return device_launch(od->kernel[kernel], &grid, args, sizeof *args);
}

/* A kernel that makes a state of every split, and their sum. */
static spectra_status launch_summed(const official_device *od, official_kernel kernel,
                                    const official_layout *l, float *part, float *sum,
                                    official_cuda_args *args)
{
    const int64_t numbers = l->heads * l->state, threads = od->tokens.threads;
    args->part = l->splits > 1 ? part : sum;
    args->sum = sum;
    TRY(launch(od, kernel, l->splits, l->heads, args));
    return l->splits > 1 ? launch(od, SUM, (numbers + threads - 1) / threads, 1, args) : SPECTRA_OK;
}

/* Blocks of the kernels that have one for everything a parameter is made for. */
static int64_t groups(const official_device *od, const official_cuda_args *args)
{
    return official_by_position(od->pf) ? args->H * args->T : args->B * args->H;
}

static spectra_status official_device_forward(const attention_device *ad,
                                              const attention_device_problem *x,
                                              const attention_views *v, void *saved, void *work)
{
    official_device *od = ad->own;
    TRY(official_check(od->of, &x->p));
    const official_layout l = layout_of(od, &x->p);
    if (l.heads == 0 || x->p.T == 0)
        return SPECTRA_OK;
    TRY(update_base(od, x->p.B));
    TRY(update_scalars(od, x->p.T));
    official_cuda_args args = args_of(od, x, &l, v, saved, work);
    if (od->kernel[ADAPT])
        TRY(launch(od, ADAPT, groups(od, &args), 1, &args));
    TRY(launch_summed(od, KEYS, &l, (float *)work + l.at_part, args.state, &args));
    return launch(od, QUERIES, l.splits, l.heads, &args);
}

static spectra_status official_device_backward(const attention_device *ad,
                                               const attention_device_problem *x,
                                               const attention_views *v, void *saved, void *work)
{
    const official_device *od = ad->own;
    TRY(official_check(od->of, &x->p));
    const official_layout l = layout_of(od, &x->p);
    if (l.heads == 0 || x->p.T == 0)
        return SPECTRA_OK;
    official_cuda_args args = args_of(od, x, &l, v, saved, work);
    TRY(launch_summed(od, QUERIES_BWD, &l, (float *)work + l.at_part, args.dstate, &args));
    TRY(launch(od, KEYS_BWD, l.splits, l.heads, &args));
    return od->kernel[ADAPT_BWD] ? launch(od, ADAPT_BWD, groups(od, &args), 1, &args) : SPECTRA_OK;
}

const attention_device_ops official_device_ops = {
    .init = official_device_init,
    .release = official_device_release,
    .changed = official_device_changed,
    .saved_bytes = saved_bytes,
    .work_bytes = work_bytes,
    .forward = official_device_forward,
    .backward = official_device_backward,
};
