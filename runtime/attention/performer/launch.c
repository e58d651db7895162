/* Launches of the CUDA kernels of random-feature attention: opening them, splits and sizes, their
 * arguments. */
#include "attention/performer/device.h"
#include "base/status.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

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

/* ---- kernels ---------------------------------------------------------------------------------
 */

static spectra_status open_kernel(performer_device *pd, performer_kernel kernel,
                                  const jit_program *p)
{
    device_program *program = NULL;
    pd->plan[kernel] = p->plan;
    TRY(device_program_get(pd->dev, p->name, p->text, &program));
    if (kernel == STEP && p->plan.memory > 0 && !pd->step_spilled)
        TRY(device_alloc(pd->dev, performer_spilled_bytes(pd, kernel), &pd->step_spilled));
    return device_function_get(program, p->name, p->plan.shared, &pd->kernel[kernel]);
}

spectra_status performer_open_kernels(performer_device *pd, const char *kind)
{
    const spectra_attention_desc *d = &pd->pf->desc;
    char defines[256];
    snprintf(defines, sizeof defines,
             "D=%lld DV=%lld M=%lld dtype=%s precision=%s learn=%s causal=%s arch=%d",
             (long long)d->D, (long long)d->DV, (long long)d->M, pd->bf16 ? "bf16" : "f32",
             pd->tf32 ? "fast" : "float32", pd->learn ? "true" : "false",
             d->causal ? "true" : "false", device_arch(pd->dev));
    const jit_cuda_request request = {.kind = kind, .feat = d->feat, .defines = defines};
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

/* ---- sizes -----------------------------------------------------------------------------------
 */

static bool has_maps(const performer *pf)
{
    return pf->feature->linear != LINEAR_NONE;
}

int64_t performer_base_floats(const performer *pf)
{
    return pf->feature->scalars + pf->feature->vectors * pf->plan.D;
}

int64_t performer_parameters(const performer *pf)
{
    const int64_t D = pf->plan.D;
    return performer_base_floats(pf) + (has_maps(pf) ? 4 * D * D : 0);
}

bool performer_counts(const performer *pf)
{
    return pf->feature->counts != COUNTS_NONE && !pf->counts_given;
}

void performer_place_params(const performer_device *pd, performer_layout *l, int64_t *at)
{
    const attn_plan *plan = &pd->pf->plan;
    const bool counts = performer_counts(pd->pf);
    const int64_t F = pd->pf->feature->lanes * plan->MP, DV8 = (plan->DV + 7) / 8 * 8;
    l->state = F * (2 + DV8);
    l->dstate = F * (1 + DV8);
    l->params = whole_floats(performer_parameters(pd->pf));
    l->w = counts ? whole_floats(plan->M * plan->D) : 0;
    l->at_params = *at, *at += l->heads * l->params;
    l->at_w = *at, *at += l->heads * l->w;
    l->at_counts = *at, *at += counts ? whole_floats(l->heads * 3 * plan->M) : 0;
}

int64_t performer_device_splits(const performer_device *pd, const jit_cuda_plan *plan,
                                int64_t blocks, int64_t tokens, int64_t unit)
{
    const int64_t slots = (int64_t)device_multiprocessors(pd->dev) * plan->blocks;
    const int64_t wanted = slots / blocks, possible = ceil_div(tokens, 2 * unit);
    const int64_t n = wanted < possible ? wanted : possible;
    return n > 1 ? n : 1;
}

int64_t performer_spilled_bytes(const performer_device *pd, performer_kernel kernel)
{
    const jit_cuda_plan *plan = &pd->plan[kernel];
    return plan->memory * plan->blocks * device_multiprocessors(pd->dev);
}

int64_t performer_place_spilled(const performer_device *pd, int64_t *at)
{
    const int64_t place = *at;
    int64_t most = 0;
    for (int i = 0; i < CUDA_KERNELS; i++)
        if (i != STEP && performer_spilled_bytes(pd, i) > most)
            most = performer_spilled_bytes(pd, i);
    *at += most / (int64_t)sizeof(float);
    return place;
}

spectra_status performer_host_room(performer_device *pd, int64_t floats)
{
    if (floats <= pd->host_floats)
        return SPECTRA_OK;
    float *more = realloc(pd->host, (size_t)floats * sizeof *more);
    if (!more)
        return fail(SPECTRA_ENOMEM, "attention on %s: no memory for %lld numbers",
                    device_name(pd->dev), (long long)floats);
    pd->host = more;
    pd->host_floats = floats;
    return SPECTRA_OK;
}

int64_t performer_learned_floats(const performer *pf)
{
    return pf->desc.H * pf->feature->scalars + pf->plan.M * (pf->plan.D + 1);
}

/* ---- launches --------------------------------------------------------------------------------
 */

attn_cuda_args performer_args(performer_device *pd, const attention_device_problem *x,
                              const performer_layout *l, const attention_views *v, float *saved,
                              float *work)
{
    const spectra_problem *p = &x->p;
    const performer *pf = pd->pf;
    const int64_t matrix = whole_floats(pf->plan.M * pf->plan.D), M = pf->plan.M;
    const float *second = pf->second ? pd->w + matrix : pd->w, *w2 = second + matrix;
    pd->spilled = work + l->at_spilled;
    return (attn_cuda_args){
        .q = attention_device_rows(&v->q),
        .k = attention_device_rows(&v->k),
        .v = attention_device_rows(&v->v),
        .o = attention_device_rows(&v->o),
        .go = attention_device_rows(&v->go),
        .gq = attention_device_rows(&v->gq),
        .gk = attention_device_rows(&v->gk),
        .gv = attention_device_rows(&v->gv),
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
        .row_weight = pf->weighted ? w2 + whole_floats(M) : NULL,
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
        .H = pf->desc.H,
        .T = p->T,
        .S = p->S,
        .den_rows = l->den_rows,
        .w_stride = l->w,
        .counts_stride = l->w ? 2 * M : 0,
        .params_stride = l->params,
        .q_splits = l->q_splits,
        .k_splits = l->k_splits,
        .scale = pf->plan.scale,
    };
}

spectra_status performer_launch(const performer_device *pd, performer_kernel kernel, int64_t x,
                                int64_t y, int64_t z, const void *args, int64_t size)
{
    const jit_cuda_plan *plan = &pd->plan[kernel];
    device_grid grid = {
        .blocks = {x, y, z}, .threads = plan->threads, .cluster = 1, .shared_bytes = plan->shared};
    if (plan->memory == 0)
        return device_launch(pd->kernel[kernel], &grid, args, size);
    const int64_t blocks = x * y * z, most = performer_spilled_bytes(pd, kernel) / plan->memory;
    const spilled_cuda_args spilled = {.args = *(const attn_cuda_args *)args,
                                       .blocks = {x, y, z},
                                       .memory = kernel == STEP ? pd->step_spilled : pd->spilled};
    assert(size == sizeof spilled.args);
    grid = (device_grid){{blocks < most ? blocks : most, 1, 1}, plan->threads, 1, plan->shared};
    return device_launch(pd->kernel[kernel], &grid, &spilled, sizeof spilled);
}

spectra_status performer_pass(const performer_device *pd, performer_kernel kernel, int64_t x,
                              int64_t y, int64_t z, const attn_cuda_args *args)
{
    return performer_launch(pd, kernel, x, y, z, args, sizeof *args);
}

spectra_status performer_read_keys(const performer_device *pd, int64_t splits, int64_t heads,
                                   const attn_cuda_args *args)
{
    const jit_cuda_plan *keys = &pd->plan[KEYS];
    return performer_pass(pd, KEYS, splits, heads, keys->row_blocks * keys->value_blocks, args);
}

spectra_status performer_sums(const performer_device *pd, const performer_layout *l,
                              const attention_device_problem *x, const attn_cuda_args *args)
{
    const attn_plan *plan = &pd->pf->plan;
    const int64_t T = x->p.T > x->p.S ? x->p.T : x->p.S,
                  D = plan->D > plan->DV ? plan->D : plan->DV;
    if (pd->kernel[SUM])
        TRY(performer_pass(pd, SUM, ceil_div(T * D, 4 * pd->plan[SUM].threads), l->heads, 3, args));
    if (!pd->learn)
        return SPECTRA_OK;
    const int64_t threads = pd->plan[LEARNED].threads;
    return performer_pass(pd, LEARNED, ceil_div(performer_learned_floats(pd->pf), threads), 1, 1,
                          args);
}
