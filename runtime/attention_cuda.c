/* The driver of the CUDA kernels of random-feature attention. Forward is a key pass (a state a
 * split) and a query pass that merges the states; backward is the query pass first, which makes the
 * state's gradient, then the key pass. */
#include "attention_cuda_internal.h"

#include "status.h"

#include <stdlib.h>
#include <string.h>

static const char *const kernel_names[CUDA_KERNELS] = {
    "attn_keys",    "attn_queries", "attn_queries_bwd", "attn_keys_bwd",
    "attn_moments", "attn_params",  "attn_counts",
};

/* ---- sizes ----------------------------------------------------------------------------------- */

static int64_t blocks_of(int64_t n, int64_t each)
{
    return (n + each - 1) / each;
}

/* Splits of a sequence so that the blocks of one launch about fill the device once; from the shape
 * and the device alone. A split is worth at least two tiles. */
static int64_t splits(const attention_cuda *ac, const jit_cuda_plan *plan, int64_t blocks,
                      int64_t tokens)
{
    const int64_t slots = (int64_t)device_multiprocessors(ac->dev) * plan->blocks;
    const int64_t wanted = slots / blocks, possible = blocks_of(tokens, 2 * plan->tile);
    const int64_t n = wanted < possible ? wanted : possible;
    return n > 1 ? n : 1;
}

cuda_layout cuda_layout_of(const attention_cuda *ac, const spectra_problem *p)
{
    const spectra_attention *att = ac->att;
    const attn_plan *plan = &att->plan;
    const int lanes = att->feature->lanes;
    const bool counts = cuda_counts(att);
    cuda_layout l = {.heads = p->B * att->desc.H};
    l.den_rows = rows_total(p->q_begin, p->q_len, p->B, p->T);
    const int64_t F = lanes * plan->MP, DV8 = (plan->DV + 7) / 8 * 8;
    l.state = F * (2 + DV8);
    l.dstate = F * (1 + DV8);
    l.params = cuda_whole(cuda_parameters(att));
    l.w = counts ? cuda_whole(plan->M * plan->D) : 0;
    const jit_cuda_plan *keys = &ac->plan[KEYS], *queries = &ac->plan[QUERIES];
    const jit_cuda_plan *qb = &ac->plan[QUERIES_BWD], *kb = &ac->plan[KEYS_BWD];
    l.k_splits = splits(ac, keys, l.heads * keys->row_blocks * keys->value_blocks, p->S);
    l.q_splits = splits(ac, queries, l.heads * queries->value_blocks, p->T);
    int64_t at = 0;
    l.at_state = at, at += cuda_whole(l.heads * l.state);
    l.at_den = at, at += cuda_whole(att->desc.H * l.den_rows);
    l.at_top = at, at += cuda_whole(att->desc.H * l.den_rows);
    l.at_params = at, at += l.heads * l.params;
    l.at_w = at, at += l.heads * l.w;
    l.at_counts = at, at += counts ? cuda_whole(l.heads * 3 * plan->M) : 0;
    l.saved = at;
    at = 0;
    l.at_part = at, at += cuda_whole(l.k_splits * l.heads * l.state);
    l.at_dpart = at, at += cuda_whole(l.q_splits * l.heads * l.dstate);
    l.at_gq = at,
    at += qb->row_blocks > 1 ? cuda_whole(qb->row_blocks * l.heads * p->T * plan->D) : 0;
    l.at_gk = at,
    at += kb->row_blocks > 1 ? cuda_whole(kb->row_blocks * l.heads * p->S * plan->D) : 0;
    l.at_gv = at,
    at += kb->row_blocks > 1 ? cuda_whole(kb->row_blocks * l.heads * p->S * plan->DV) : 0;
    l.splits = splits(ac, &(jit_cuda_plan){.blocks = 2, .tile = 128}, 2 * l.heads,
                      p->T > p->S ? p->T : p->S);
    l.at_moments = at, at += cuda_whole(l.splits * 2 * l.heads * (5 * plan->D + 1));
    if (ac->options.learn) {
        const int64_t scalars = l.heads * att->feature->scalars,
                      matrix = l.heads * plan->M * plan->D;
        l.at_scalars = at, at += cuda_whole(l.q_splits * qb->row_blocks * scalars);
        l.at_scalars_k = at, at += cuda_whole(l.k_splits * kb->row_blocks * scalars);
        l.at_dw = at, at += cuda_whole(l.q_splits * matrix);
        l.at_dw_k = at, at += cuda_whole(l.k_splits * matrix);
    }
    l.work = at;
    return l;
}

void attention_cuda_bytes(const attention_cuda *ac, const spectra_problem *p, int64_t *saved,
                          int64_t *work)
{
    const cuda_layout l = cuda_layout_of(ac, p);
    *saved = l.saved * (int64_t)sizeof(float);
    *work = l.work * (int64_t)sizeof(float);
}

/* ---- construction ---------------------------------------------------------------------------- */

static int64_t matrix_floats(const spectra_attention *att)
{
    const attn_plan *p = &att->plan;
    return (att->second ? 2 : 1) * cuda_whole(p->M * p->D) + 2 * cuda_whole(p->M);
}

spectra_status attention_cuda_new(const spectra_attention *att, device *dev,
                                  const attention_cuda_options *options, attention_cuda **out)
{
    const spectra_attention_desc *d = &att->desc;
    if (d->official)
        return fail(SPECTRA_EUNSUPPORTED,
                    "the official behaviour of %s has no kernels for a device: use the cpu",
                    d->feat);
    if (d->through)
        return fail(SPECTRA_EUNSUPPORTED,
                    "on a device the parameters of %s cannot be differentiated "
                    "through: use the cpu",
                    d->feat);
    attention_cuda *ac = calloc(1, sizeof *ac);
    if (!ac)
        return fail(SPECTRA_ENOMEM, "attention on %s: out of memory", device_name(dev));
    ac->att = att;
    ac->dev = dev;
    ac->options = *options;
    spectra_status status = SPECTRA_OK;
    for (int i = 0; i < CUDA_KERNELS && status == SPECTRA_OK; i++) {
        if (!cuda_kernel_wanted(att, i))
            continue;
        const jit_cuda_options o = {.kind = kernel_names[i],
                                    .bf16 = options->bf16,
                                    .fast = options->fast,
                                    .learn = options->learn && (i == QUERIES_BWD || i == KEYS_BWD),
                                    .arch = device_arch(dev)};
        char *text = NULL;
        device_program *program = NULL;
        status = jit_cuda_text(d->feat, d->D, d->DV, d->M, &o, &ac->plan[i], &text);
        if (status == SPECTRA_OK)
            status = device_program_get(dev, kernel_names[i], text, &program);
        if (status == SPECTRA_OK)
            status =
                device_function_get(program, kernel_names[i], ac->plan[i].shared, &ac->kernel[i]);
        free(text);
    }
    const size_t bytes = (size_t)matrix_floats(att) * sizeof(float);
    ac->staged = status == SPECTRA_OK ? malloc(bytes) : NULL;
    if (status == SPECTRA_OK && !ac->staged)
        status = fail(SPECTRA_ENOMEM, "attention on %s: out of memory", device_name(dev));
    if (status == SPECTRA_OK)
        status = device_alloc(dev, (int64_t)bytes, (void **)&ac->w);
    if (status == SPECTRA_OK)
        status = attention_cuda_update(ac);
    if (status != SPECTRA_OK) {
        attention_cuda_free(ac);
        return status;
    }
    *out = ac;
    return SPECTRA_OK;
}

void attention_cuda_free(attention_cuda *ac)
{
    if (!ac)
        return;
    device_free(ac->dev, ac->w);
    device_free(ac->dev, ac->base);
    device_free(ac->dev, ac->uniform);
    free(ac->host);
    free(ac->staged);
    free(ac);
}

spectra_status attention_cuda_update(attention_cuda *ac)
{
    const spectra_attention *att = ac->att;
    const attn_plan *p = &att->plan;
    const int64_t matrix = p->M * p->D;
    float *at = ac->staged;
    memset(at, 0, (size_t)matrix_floats(att) * sizeof *at);
    memcpy(at, att->w, (size_t)matrix * sizeof *at);
    at += cuda_whole(matrix);
    if (att->second) {
        memcpy(at, att->second, (size_t)matrix * sizeof *at);
        at += cuda_whole(matrix);
    }
    memcpy(at, p->w2, (size_t)p->M * sizeof *at);
    memcpy(at + cuda_whole(p->M), att->row_weight, (size_t)p->M * sizeof *at);
    ac->base_batch = 0; /* parameters that were given may be others now */
    TRY(cuda_uniform_update(ac));
    return device_write(ac->dev, ac->w, ac->staged, matrix_floats(att) * (int64_t)sizeof(float));
}

/* ---- launches -------------------------------------------------------------------------------- */

cuda_rows cuda_rows_of(spectra_rows x)
{
    return (cuda_rows){x.data, x.stride_b, x.stride_h, x.stride_t};
}

static attn_cuda_args args_of(const attention_cuda *ac, const spectra_problem *p,
                              const cuda_layout *l, float *saved, float *work)
{
    const spectra_attention *att = ac->att;
    const int64_t matrix = cuda_whole(att->plan.M * att->plan.D), M = att->plan.M;
    const float *second = att->second ? ac->w + matrix : ac->w, *w2 = second + matrix;
    return (attn_cuda_args){
        .q_begin = p->q_begin,
        .q_len = p->q_len,
        .k_begin = p->k_begin,
        .k_len = p->k_len,
        .mask = p->k_mask,
        .w = l->w ? saved + l->at_w : ac->w,
        .w_second = second,
        .w2 = l->w ? saved + l->at_counts + l->heads * 2 * M : w2,
        .counts = saved + l->at_counts,
        .row_weight = att->weighted ? w2 + cuda_whole(M) : NULL,
        .params = saved + l->at_params,
        .part = work + l->at_part,
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

spectra_status cuda_launch(const attention_cuda *ac, cuda_kernel kernel, int64_t x, int64_t y,
                           int64_t z, const void *args, int64_t size)
{
    const device_grid grid = {.blocks = {x, y, z},
                              .threads = ac->plan[kernel].threads,
                              .cluster = 1,
                              .shared_bytes = ac->plan[kernel].shared};
    return device_launch(ac->kernel[kernel], &grid, args, size);
}

static spectra_status launch(const attention_cuda *ac, cuda_kernel kernel, int64_t splits_,
                             int64_t heads, int64_t depth, const attn_cuda_args *args)
{
    return cuda_launch(ac, kernel, splits_, heads, depth, args, sizeof *args);
}

spectra_status attention_cuda_forward(attention_cuda *ac, const spectra_problem *p, spectra_rows q,
                                      spectra_rows k, spectra_rows v, spectra_rows o, void *saved,
                                      void *work)
{
    const cuda_layout l = cuda_layout_of(ac, p);
    const jit_cuda_plan *keys = &ac->plan[KEYS];
    attn_cuda_args args = args_of(ac, p, &l, saved, work);
    args.q = cuda_rows_of(q), args.k = cuda_rows_of(k), args.v = cuda_rows_of(v),
    args.o = cuda_rows_of(o);
    TRY(cuda_params_prepare(ac, p, &l, &q, &k, saved, work));
    TRY(launch(ac, KEYS, l.k_splits, l.heads, keys->row_blocks * keys->value_blocks, &args));
    return launch(ac, QUERIES, l.q_splits, l.heads, ac->plan[QUERIES].value_blocks, &args);
}

spectra_status attention_cuda_backward(attention_cuda *ac, const spectra_problem *p, spectra_rows q,
                                       spectra_rows k, spectra_rows v, spectra_rows o,
                                       spectra_rows go, spectra_rows gq, spectra_rows gk,
                                       spectra_rows gv, void *saved, void *work)
{
    const cuda_layout l = cuda_layout_of(ac, p);
    attn_cuda_args args = args_of(ac, p, &l, saved, work);
    args.q = cuda_rows_of(q), args.k = cuda_rows_of(k), args.v = cuda_rows_of(v),
    args.o = cuda_rows_of(o);
    args.go = cuda_rows_of(go), args.gq = cuda_rows_of(gq), args.gk = cuda_rows_of(gk),
    args.gv = cuda_rows_of(gv);
    TRY(launch(ac, QUERIES_BWD, l.q_splits, l.heads, ac->plan[QUERIES_BWD].row_blocks, &args));
    return launch(ac, KEYS_BWD, l.k_splits, l.heads, ac->plan[KEYS_BWD].row_blocks, &args);
}
