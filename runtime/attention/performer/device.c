/* The driver of the CUDA kernels of random-feature attention. Forward is a key pass (a state a
 * split) and a query pass that merges the states; backward is the query pass first, which makes the
 * state's gradient, then the key pass. Where there are clusters of blocks, and heads enough to fill
 * the device with them, each direction is one launch. */
#include "attention/performer/device.h"

#include "base/status.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const char *const kernel_names[CUDA_KERNELS] = {
    "attn_keys",
    "attn_queries",
    "attn_queries_bwd",
    "attn_keys_bwd",
    "attn_cluster",
    "attn_cluster_bwd",
    "attn_moments",
    "attn_params",
    "attn_products",
    "attn_maps",
    "attn_counts",
    "attn_causal",
    "attn_causal_queries_bwd",
    "attn_causal_keys_bwd",
    "attn_combine",
    "attn_sum",
    "attn_learned",
    "attn_step",
    "attn_merge",
};

/* ---- sizes ----------------------------------------------------------------------------------- */

void cuda_place_params(const performer_device *pd, cuda_layout *l, int64_t *at)
{
    const attn_plan *plan = &pd->att->plan;
    const bool counts = cuda_counts(pd->att);
    const int64_t F = pd->att->feature->lanes * plan->MP, DV8 = (plan->DV + 7) / 8 * 8;
    l->state = F * (2 + DV8);
    l->dstate = F * (1 + DV8);
    l->params = cuda_whole(cuda_parameters(pd->att));
    l->w = counts ? cuda_whole(plan->M * plan->D) : 0;
    l->at_params = *at, *at += l->heads * l->params;
    l->at_w = *at, *at += l->heads * l->w;
    l->at_counts = *at, *at += counts ? cuda_whole(l->heads * 3 * plan->M) : 0;
}

int64_t cuda_splits(const performer_device *pd, const jit_cuda_plan *plan, int64_t blocks,
                    int64_t tokens, int64_t unit)
{
    const int64_t slots = (int64_t)device_multiprocessors(pd->dev) * plan->blocks;
    const int64_t wanted = slots / blocks, possible = cuda_blocks(tokens, 2 * unit);
    const int64_t n = wanted < possible ? wanted : possible;
    return n > 1 ? n : 1;
}

int64_t cuda_spilled_bytes(const performer_device *pd, cuda_kernel kernel)
{
    const jit_cuda_plan *plan = &pd->plan[kernel];
    return plan->memory * plan->blocks * device_multiprocessors(pd->dev);
}

int64_t cuda_place_spilled(const performer_device *pd, int64_t *at)
{
    const int64_t place = *at;
    int64_t most = 0;
    for (int i = 0; i < CUDA_KERNELS; i++)
        if (i != STEP && cuda_spilled_bytes(pd, i) > most)
            most = cuda_spilled_bytes(pd, i);
    *at += most / (int64_t)sizeof(float);
    return place;
}

static int64_t splits(const performer_device *pd, const jit_cuda_plan *plan, int64_t blocks,
                      int64_t tokens)
{
    return cuda_splits(pd, plan, blocks, tokens, plan->tile);
}

cuda_layout cuda_layout_of(const performer_device *pd, const attention_device_problem *x)
{
    const spectra_attention *att = pd->att;
    if (att->desc.causal)
        return cuda_causal_layout(pd, x);
    const spectra_problem *p = &x->p;
    const attn_plan *plan = &att->plan;
    cuda_layout l = {.heads = p->B * att->desc.H, .den_rows = x->q_rows};
    int64_t at = 0;
    cuda_place_params(pd, &l, &at);
    const jit_cuda_plan *keys = &pd->plan[KEYS], *queries = &pd->plan[QUERIES];
    const jit_cuda_plan *qb = &pd->plan[QUERIES_BWD], *kb = &pd->plan[KEYS_BWD];
    l.k_splits = splits(pd, keys, l.heads * keys->row_blocks * keys->value_blocks, p->S);
    l.q_splits = splits(pd, queries, l.heads * queries->value_blocks, p->T);
    l.forward =
        cuda_cluster_blocks(pd, CLUSTER, l.heads, p->T > p->S ? p->T : p->S, l.heads * l.k_splits);
    l.backward = cuda_cluster_blocks(pd, CLUSTER_BWD, l.heads, p->T > p->S ? p->T : p->S,
                                     l.heads * l.q_splits);
    l.at_state = at, at += cuda_whole(l.heads * l.state);
    l.one_part = l.k_splits == 1 && !att->weighted;
    l.at_den = at, at += cuda_whole(att->desc.H * l.den_rows);
    l.at_top = at, at += cuda_whole(att->desc.H * l.den_rows);
    l.saved = at;
    at = 0;
    l.at_part = at, at += l.one_part || l.forward ? 0 : cuda_whole(l.k_splits * l.heads * l.state);
    const int64_t qs = l.backward ? l.backward : l.q_splits;
    const int64_t ks = l.backward ? l.backward : l.k_splits;
    l.at_dpart = at, at += l.backward && !pd->learn ? 0 : cuda_whole(qs * l.heads * l.dstate);
    l.at_gq = at,
    at += qb->row_blocks > 1 ? cuda_whole(qb->row_blocks * l.heads * p->T * plan->D) : 0;
    l.at_gk = at,
    at += kb->row_blocks > 1 ? cuda_whole(kb->row_blocks * l.heads * p->S * plan->D) : 0;
    l.at_gv = at,
    at += kb->row_blocks > 1 ? cuda_whole(kb->row_blocks * l.heads * p->S * plan->DV) : 0;
    l.splits = splits(pd, &(jit_cuda_plan){.blocks = 2, .tile = 128}, 2 * l.heads,
                      p->T > p->S ? p->T : p->S);
    l.at_moments = at, at += cuda_whole(l.splits * 2 * l.heads * (5 * plan->D + 1));
    const int64_t tiles = pd->plan[PRODUCTS_OF].row_blocks; /* of a side's; 0: no linear map */
    if (tiles > 0) {
        l.product_splits = splits(pd, &(jit_cuda_plan){.blocks = 2, .tile = 64},
                                  2 * l.heads * tiles, p->T > p->S ? p->T : p->S);
        l.at_products = at, at += cuda_whole(l.product_splits * 2 * l.heads * plan->D * plan->D);
    }
    if (pd->learn) {
        const int64_t scalars = l.heads * att->feature->scalars,
                      matrix = l.heads * plan->M * plan->D;
        l.at_scalars = at, at += cuda_whole(qs * qb->row_blocks * scalars);
        l.at_scalars_k = at, at += cuda_whole(ks * kb->row_blocks * scalars);
        l.at_dw = at, at += cuda_whole(qs * matrix);
        l.at_dw_k = at, at += cuda_whole(ks * matrix);
    }
    l.at_spilled = cuda_place_spilled(pd, &at);
    l.work = at;
    return l;
}

static int64_t saved_bytes(const attention_device *ad, const attention_device_problem *x)
{
    return cuda_layout_of(ad->own, x).saved * (int64_t)sizeof(float);
}

static int64_t work_bytes(const attention_device *ad, const attention_device_problem *x)
{
    return cuda_layout_of(ad->own, x).work * (int64_t)sizeof(float);
}

/* ---- construction ---------------------------------------------------------------------------- */

static int64_t matrix_floats(const spectra_attention *att)
{
    const attn_plan *p = &att->plan;
    return (att->second ? 2 : 1) * cuda_whole(p->M * p->D) + 2 * cuda_whole(p->M);
}

static int64_t learned_floats(const spectra_attention *att)
{
    return att->desc.H * att->feature->scalars + att->plan.M * (att->plan.D + 1);
}

static spectra_status open_kernel(performer_device *pd, cuda_kernel kernel, const jit_program *p)
{
    device_program *program = NULL;
    pd->plan[kernel] = p->plan;
    TRY(device_program_get(pd->dev, p->name, p->text, &program));
    if (kernel == STEP && p->plan.memory > 0 && !pd->step_spilled)
        TRY(device_alloc(pd->dev, cuda_spilled_bytes(pd, kernel), &pd->step_spilled));
    return device_function_get(program, p->name, p->plan.shared, &pd->kernel[kernel]);
}

spectra_status cuda_open_kernels(performer_device *pd, const char *kind)
{
    const spectra_attention_desc *d = &pd->att->desc;
    const jit_cuda_request request = {.kind = kind,
                                      .feat = d->feat,
                                      .D = d->D,
                                      .DV = d->DV,
                                      .M = d->M,
                                      .bf16 = pd->bf16,
                                      .fast = pd->fast,
                                      .learn = pd->learn,
                                      .causal = d->causal,
                                      .arch = device_arch(pd->dev)};
    jit_programs list;
    TRY(jit_programs_make(&request, &list));
    spectra_status status = SPECTRA_OK;
    for (int k = 0; k < CUDA_KERNELS && status == SPECTRA_OK; k++) {
        const jit_program *p = jit_programs_find(&list, kernel_names[k]);
        if (p)
            status = open_kernel(pd, k, p);
    }
    jit_programs_free(&list);
    return status;
}

static spectra_status performer_device_init(attention_device *ad)
{
    const spectra_attention *att = ad->att;
    if (att->desc.through)
        return fail(
            SPECTRA_EUNSUPPORTED,
            "on a device the parameters of %s cannot be differentiated through: use the cpu",
            att->desc.feat);
    performer_device *pd = calloc(1, sizeof *pd);
    if (!pd)
        return fail(SPECTRA_ENOMEM, "performer on %s: out of memory", device_name(ad->dev));
    ad->own = pd;
    pd->att = att;
    pd->dev = ad->dev;
    pd->bf16 = ad->bf16;
    pd->fast = ad->fast;
    pd->learn = att->training != NULL;
    TRY(cuda_open_kernels(pd, "attention"));
    const int64_t bytes = matrix_floats(att) * (int64_t)sizeof(float);
    pd->staged = malloc((size_t)bytes);
    if (!pd->staged)
        return fail(SPECTRA_ENOMEM, "performer on %s: out of memory", device_name(ad->dev));
    TRY(device_alloc(pd->dev, bytes, (void **)&pd->w));
    if (!pd->learn)
        return SPECTRA_OK;
    const int64_t learned = learned_floats(att) * (int64_t)sizeof(float);
    TRY(device_alloc(pd->dev, learned, (void **)&pd->learned));
    return device_zero(pd->dev, pd->learned, learned);
}

static void performer_device_release(attention_device *ad)
{
    performer_device *pd = ad->own;
    if (!pd)
        return;
    device_free(pd->dev, pd->step_spilled);
    device_free(pd->dev, pd->w);
    device_free(pd->dev, pd->base);
    device_free(pd->dev, pd->uniform);
    device_free(pd->dev, pd->learned);
    free(pd->staged);
    free(pd->host);
    free(pd);
}

static spectra_status performer_device_changed(attention_device *ad)
{
    performer_device *pd = ad->own;
    const spectra_attention *att = pd->att;
    const attn_plan *p = &att->plan;
    const int64_t matrix = p->M * p->D;
    float *at = pd->staged;
    memset(at, 0, (size_t)matrix_floats(att) * sizeof *at);
    memcpy(at, att->w, (size_t)matrix * sizeof *at);
    at += cuda_whole(matrix);
    if (att->second) {
        memcpy(at, att->second, (size_t)matrix * sizeof *at);
        at += cuda_whole(matrix);
    }
    memcpy(at, p->w2, (size_t)p->M * sizeof *at);
    memcpy(at + cuda_whole(p->M), att->row_weight, (size_t)p->M * sizeof *at);
    TRY(cuda_given_update(pd));
    return device_write(pd->dev, pd->w, pd->staged, matrix_floats(att) * (int64_t)sizeof(float));
}

/* ---- launches -------------------------------------------------------------------------------- */

cuda_rows cuda_rows_of(spectra_rows x)
{
    return (cuda_rows){x.data, x.stride_b, x.stride_h, x.stride_t};
}

attn_cuda_args cuda_args_of(performer_device *pd, const attention_device_problem *x,
                            const cuda_layout *l, const attention_device_views *v, float *saved,
                            float *work)
{
    const spectra_problem *p = &x->p;
    const spectra_attention *att = pd->att;
    const int64_t matrix = cuda_whole(att->plan.M * att->plan.D), M = att->plan.M;
    const float *second = att->second ? pd->w + matrix : pd->w, *w2 = second + matrix;
    pd->spilled = work + l->at_spilled;
    return (attn_cuda_args){
        .q = cuda_rows_of(v->q),
        .k = cuda_rows_of(v->k),
        .v = cuda_rows_of(v->v),
        .o = cuda_rows_of(v->o),
        .go = cuda_rows_of(v->go),
        .gq = cuda_rows_of(v->gq),
        .gk = cuda_rows_of(v->gk),
        .gv = cuda_rows_of(v->gv),
        .learned = pd->learned,
        .q_row_blocks = pd->plan[QUERIES_BWD].row_blocks,
        .k_row_blocks = pd->plan[KEYS_BWD].row_blocks,
        .q_begin = p->q_begin,
        .q_len = p->q_len,
        .k_begin = p->k_begin,
        .k_len = p->k_len,
        .mask = p->k_mask,
        .w = l->w ? saved + l->at_w : pd->w,
        .w_second = second,
        .w2 = l->w ? saved + l->at_counts + l->heads * 2 * M : w2,
        .counts = saved + l->at_counts,
        .row_weight = att->weighted ? w2 + cuda_whole(M) : NULL,
        .params = saved + l->at_params,
        .part = l->one_part ? saved + l->at_state : work + l->at_part,
        .state = saved + l->at_state,
        .dpart = work + l->at_dpart,
        .den = saved + l->at_den,
        .top = saved + l->at_top,
        .gq_part = work + l->at_gq,
        .gk_part = work + l->at_gk,
        .gv_part = work + l->at_gv,
        .dscalars = work + l->at_scalars,
        .dw = work + l->at_dw,
        .dscalars_k = work + l->at_scalars_k,
        .dw_k = work + l->at_dw_k,
        .B = p->B,
        .H = att->desc.H,
        .T = p->T,
        .S = p->S,
        .den_rows = l->den_rows,
        .w_stride = l->w,
        .counts_stride = l->w ? 2 * M : 0,
        .params_stride = l->params,
        .q_splits = l->q_splits,
        .k_splits = l->k_splits,
        .scale = att->plan.scale,
    };
}

spectra_status cuda_launch(const performer_device *pd, cuda_kernel kernel, int64_t x, int64_t y,
                           int64_t z, const void *args, int64_t size)
{
    const jit_cuda_plan *plan = &pd->plan[kernel];
    device_grid grid = {
        .blocks = {x, y, z}, .threads = plan->threads, .cluster = 1, .shared_bytes = plan->shared};
    if (plan->memory == 0)
        return device_launch(pd->kernel[kernel], &grid, args, size);
    const int64_t blocks = x * y * z, most = cuda_spilled_bytes(pd, kernel) / plan->memory;
    const spilled_cuda_args spilled = {.args = *(const attn_cuda_args *)args,
                                       .blocks = {x, y, z},
                                       .memory = kernel == STEP ? pd->step_spilled : pd->spilled};
    assert(size == sizeof spilled.args);
    grid = (device_grid){{blocks < most ? blocks : most, 1, 1}, plan->threads, 1, plan->shared};
    return device_launch(pd->kernel[kernel], &grid, &spilled, sizeof spilled);
}

static spectra_status launch(const performer_device *pd, cuda_kernel kernel, int64_t splits_,
                             int64_t heads, int64_t depth, const attn_cuda_args *args)
{
    return cuda_launch(pd, kernel, splits_, heads, depth, args, sizeof *args);
}

spectra_status cuda_sums(const performer_device *pd, const cuda_layout *l,
                         const attention_device_problem *x, const attn_cuda_args *args)
{
    const attn_plan *plan = &pd->att->plan;
    const int64_t T = x->p.T > x->p.S ? x->p.T : x->p.S,
                  D = plan->D > plan->DV ? plan->D : plan->DV;
    if (pd->kernel[SUM])
        TRY(launch(pd, SUM, cuda_blocks(T * D, 4 * pd->plan[SUM].threads), l->heads, 3, args));
    if (!pd->learn)
        return SPECTRA_OK;
    const int64_t threads = pd->plan[LEARNED].threads;
    return launch(pd, LEARNED, cuda_blocks(learned_floats(pd->att), threads), 1, 1, args);
}

static spectra_status performer_device_forward(const attention_device *ad,
                                               const attention_device_problem *x,
                                               const attention_device_views *v, void *saved,
                                               void *work)
{
    performer_device *pd = ad->own;
    if (ad->att->desc.causal)
        return cuda_causal_forward(pd, x, v, saved, work);
    const cuda_layout l = cuda_layout_of(pd, x);
    const jit_cuda_plan *keys = &pd->plan[KEYS];
    const attn_cuda_args args = cuda_args_of(pd, x, &l, v, saved, work);
    TRY(cuda_params_prepare(pd, x, &l, v, saved, work));
    if (l.forward)
        return cuda_cluster_launch(pd, CLUSTER, l.forward, l.heads, &args);
    TRY(launch(pd, KEYS, l.k_splits, l.heads, keys->row_blocks * keys->value_blocks, &args));
    return launch(pd, QUERIES, l.q_splits, l.heads, pd->plan[QUERIES].value_blocks, &args);
}

static spectra_status performer_device_backward(const attention_device *ad,
                                                const attention_device_problem *x,
                                                const attention_device_views *v, void *saved,
                                                void *work)
{
    performer_device *pd = ad->own;
    if (ad->att->desc.causal)
        return cuda_causal_backward(pd, x, v, saved, work);
    const cuda_layout l = cuda_layout_of(pd, x);
    attn_cuda_args args = cuda_args_of(pd, x, &l, v, saved, work);
    if (l.backward) {
        args.q_splits = args.k_splits = l.backward; /* parts of the parameters' gradients */
        args.q_row_blocks = args.k_row_blocks = 1;
        TRY(cuda_cluster_launch(pd, CLUSTER_BWD, l.backward, l.heads, &args));
    } else {
        TRY(launch(pd, QUERIES_BWD, l.q_splits, l.heads, pd->plan[QUERIES_BWD].row_blocks, &args));
        TRY(launch(pd, KEYS_BWD, l.k_splits, l.heads, pd->plan[KEYS_BWD].row_blocks, &args));
    }
    return cuda_sums(pd, &l, x, &args);
}

static spectra_status performer_device_gradient(attention_device *ad, float *gtheta)
{
    performer_device *pd = ad->own;
    const spectra_attention *att = pd->att;
    const int64_t floats = learned_floats(att), bytes = floats * (int64_t)sizeof(float);
    const int64_t scalars = att->desc.H * att->feature->scalars;
    TRY(cuda_host_room(pd, floats));
    TRY(device_read(pd->dev, pd->host, pd->learned, bytes));
    TRY(device_zero(pd->dev, pd->learned, bytes));
    training_gradient(att, pd->host, pd->host + scalars,
                      pd->host + scalars + att->plan.M * att->plan.D, gtheta);
    return SPECTRA_OK;
}

const attention_device_kind attention_device_performer = {
    .name = "performer",
    .init = performer_device_init,
    .release = performer_device_release,
    .changed = performer_device_changed,
    .saved_bytes = saved_bytes,
    .work_bytes = work_bytes,
    .forward = performer_device_forward,
    .backward = performer_device_backward,
    .gradient = performer_device_gradient,
};
