/* The driver of the causal kernels. Forward is a key pass (a state a split, but of the last) and
 * one over all tokens, which starts from the states before; backward goes over the tokens as
 * forward does, then from the last tile to the first. All passes share their splits. Decoding keeps
 * a state a head, with the parameters it was cleared for. */
#include "attention/performer/device.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

enum { SPLIT = 64 }; /* tokens, as in templates/cuda/tile.cuh */

cuda_layout cuda_causal_layout(const performer_device *pd, const attention_device_problem *x)
{
    const spectra_attention *att = pd->att;
    const attn_plan *plan = &att->plan;
    const int64_t H = att->desc.H, T = x->p.T, D = plan->D, DV = plan->DV;
    const jit_cuda_plan *fwd = &pd->plan[CAUSAL], *qb = &pd->plan[CAUSAL_QUERIES_BWD];
    cuda_layout l = {.heads = x->p.B * H, .den_rows = x->q_rows};
    int64_t at = 0;
    cuda_place_params(pd, &l, &at);
    l.k_splits = l.q_splits = cuda_splits(pd, fwd, l.heads * fwd->row_blocks, T, SPLIT);
    l.tiles = cuda_blocks(T, qb->tile);
    l.at_part = at, at += cuda_whole((l.k_splits - 1) * l.heads * l.state);
    l.at_den = at, at += cuda_whole(H * l.den_rows);
    l.at_top = at, at += cuda_whole(H * l.den_rows);
    l.saved = at;
    const int64_t F = att->feature->lanes * plan->MP, blocks = qb->row_blocks;
    const int64_t parts = fwd->row_blocks > 1 ? fwd->row_blocks * l.heads * T : 0;
    at = 0; /* of forward */
    l.at_o = at, at += cuda_whole(parts * DV);
    l.at_den_part = at, at += cuda_whole(parts);
    l.at_top_part = at, at += cuda_whole(parts);
    l.work = at;
    at = 0; /* of backward */
    l.at_dpart = at, at += cuda_whole(l.q_splits * l.heads * l.dstate);
    l.at_gden = at, at += cuda_whole(H * l.den_rows);
    l.at_refs = at, at += cuda_whole(l.heads * l.tiles * F);
    l.at_starts = at, at += cuda_whole(blocks * l.heads * l.tiles);
    l.at_gq = at, at += blocks > 1 ? cuda_whole(blocks * l.heads * T * D) : 0;
    l.at_gk = at, at += blocks > 1 ? cuda_whole(blocks * l.heads * T * D) : 0;
    l.at_gv = at, at += blocks > 1 ? cuda_whole(blocks * l.heads * T * DV) : 0;
    if (pd->learn) {
        const int64_t each = l.q_splits * l.heads, scalars = each * blocks * att->feature->scalars;
        l.at_scalars = at, at += cuda_whole(scalars);
        l.at_scalars_k = at, at += cuda_whole(scalars);
        l.at_dw = at, at += cuda_whole(each * plan->M * D);
        l.at_dw_k = at, at += cuda_whole(each * plan->M * D);
        l.at_dweights = at, at += cuda_whole(each * plan->M);
    }
    l.work = at > l.work ? at : l.work;
    l.at_spilled = cuda_place_spilled(pd, &l.work);
    return l;
}

static attn_cuda_args causal_args(performer_device *pd, const attention_device_problem *x,
                                  const cuda_layout *l, const attention_device_views *v,
                                  float *saved, float *work)
{
    attn_cuda_args args = cuda_args_of(pd, x, l, v, saved, work);
    args.part = saved + l->at_part;
    args.q_row_blocks = args.k_row_blocks = pd->plan[CAUSAL_QUERIES_BWD].row_blocks;
    args.row_blocks = pd->plan[CAUSAL].row_blocks;
    args.tiles = l->tiles;
    args.o_part = work + l->at_o;
    args.den_part = work + l->at_den_part;
    args.top_part = work + l->at_top_part;
    args.gden = work + l->at_gden;
    args.refs = work + l->at_refs;
    args.starts = (unsigned *)(work + l->at_starts);
    args.dweights = work + l->at_dweights;
    return args;
}

static spectra_status launch(const performer_device *pd, cuda_kernel kernel, int64_t x, int64_t y,
                             int64_t z, const attn_cuda_args *args)
{
    return cuda_launch(pd, kernel, x, y, z, args, sizeof *args);
}

static spectra_status read_keys(const performer_device *pd, int64_t splits, int64_t heads,
                                const attn_cuda_args *args)
{
    const jit_cuda_plan *keys = &pd->plan[KEYS];
    return launch(pd, KEYS, splits, heads, keys->row_blocks * keys->value_blocks, args);
}

spectra_status cuda_causal_forward(performer_device *pd, const attention_device_problem *x,
                                   const attention_device_views *v, float *saved, float *work)
{
    TRY(causal_check(pd->att));
    const cuda_layout l = cuda_causal_layout(pd, x);
    const attn_cuda_args args = causal_args(pd, x, &l, v, saved, work);
    TRY(cuda_params_prepare(pd, x, &l, v, saved, work));
    if (l.k_splits > 1)
        TRY(read_keys(pd, l.k_splits - 1, l.heads, &args));
    TRY(launch(pd, CAUSAL, l.q_splits, l.heads, args.row_blocks, &args));
    if (args.row_blocks == 1)
        return SPECTRA_OK;
    return launch(pd, COMBINE, cuda_blocks(x->p.T, pd->plan[COMBINE].tile), l.heads, 1, &args);
}

spectra_status cuda_causal_backward(performer_device *pd, const attention_device_problem *x,
                                    const attention_device_views *v, float *saved, float *work)
{
    const cuda_layout l = cuda_causal_layout(pd, x);
    const attn_cuda_args args = causal_args(pd, x, &l, v, saved, work);
    TRY(launch(pd, CAUSAL_QUERIES_BWD, l.q_splits, l.heads, args.q_row_blocks, &args));
    TRY(launch(pd, CAUSAL_KEYS_BWD, l.q_splits, l.heads, args.k_row_blocks, &args));
    return cuda_sums(pd, &l, x, &args);
}

/* ---- decoding -------------------------------------------------------------------------------- */

/* A state: parameters of all heads, then (heads, state). */
static cuda_layout state_layout(const performer_device *pd, int64_t B)
{
    cuda_layout l = {.heads = B * pd->att->desc.H};
    int64_t at = 0;
    cuda_place_params(pd, &l, &at);
    l.at_state = at, at += cuda_whole(l.heads * l.state);
    l.saved = at;
    return l;
}

static spectra_status can_decode(const attention_device *ad)
{
    if (ad->kind != &attention_device_performer)
        return fail(SPECTRA_EUNSUPPORTED, "attention %s cannot decode on a device", ad->kind->name);
    if (!ad->att->desc.causal)
        return fail(SPECTRA_EINVAL, "decoding needs a causal attention, this one is not");
    return SPECTRA_OK;
}

/* When it is first needed. Of its kernels MERGE is opened last. */
static spectra_status open_decoding(performer_device *pd)
{
    return pd->kernel[MERGE] ? SPECTRA_OK : cuda_open_kernels(pd, "decoding");
}

int64_t attention_device_state_bytes(const attention_device *ad, int64_t B)
{
    if (can_decode(ad) != SPECTRA_OK)
        return 0;
    return state_layout(ad->own, B).saved * (int64_t)sizeof(float);
}

spectra_status attention_device_state_clear(const attention_device *ad, int64_t B, void *state_)
{
    TRY(can_decode(ad));
    TRY(causal_check(ad->att));
    performer_device *pd = ad->own;
    const cuda_layout l = state_layout(pd, B);
    const attention_device_problem x = {.p = {.B = B}};
    const attention_device_views none = {.q = {0}};
    const int64_t F = ad->att->feature->lanes * ad->att->plan.MP, all = l.heads * l.state;
    float *state = state_;
    TRY(cuda_params_prepare(pd, &x, &l, &none, state, NULL));
    TRY(cuda_host_room(pd, all));
    memset(pd->host, 0, (size_t)all * sizeof *pd->host);
    for (int64_t n = 0; n < l.heads; n++)
        for (int64_t f = 0; f < F; f++)
            pd->host[n * l.state + f] = -INFINITY;
    return device_write(pd->dev, state + l.at_state, pd->host, all * (int64_t)sizeof(float));
}

/* Of what reads a prompt into such a state. */
static cuda_layout prompt_layout(const performer_device *pd, const attention_device_problem *x)
{
    const jit_cuda_plan *keys = &pd->plan[KEYS];
    cuda_layout l = state_layout(pd, x->p.B);
    l.k_splits =
        cuda_splits(pd, keys, l.heads * keys->row_blocks * keys->value_blocks, x->p.S, SPLIT);
    l.work = cuda_whole(l.k_splits * l.heads * l.state);
    l.at_spilled = cuda_place_spilled(pd, &l.work);
    return l;
}

int64_t attention_device_prefill_bytes(const attention_device *ad,
                                       const attention_device_problem *x)
{
    if (can_decode(ad) != SPECTRA_OK)
        return 0;
    const performer_device *pd = ad->own;
    return prompt_layout(pd, x).work * (int64_t)sizeof(float);
}

spectra_status attention_device_prefill(const attention_device *ad,
                                        const attention_device_problem *x,
                                        const attention_device_views *v, void *state_, void *work)
{
    TRY(can_decode(ad));
    performer_device *pd = ad->own;
    float *state = state_;
    const cuda_layout l = prompt_layout(pd, x);
    attn_cuda_args args = cuda_args_of(pd, x, &l, v, state, work);
    TRY(open_decoding(pd));
    const int64_t F = ad->att->feature->lanes * ad->att->plan.MP;
    TRY(read_keys(pd, l.k_splits, l.heads, &args));
    return launch(pd, MERGE, F / pd->plan[MERGE].tile, l.heads, 1, &args);
}

spectra_status attention_device_step(const attention_device *ad, int64_t B, const uint8_t *active,
                                     const attention_device_views *v, void *state_)
{
    TRY(can_decode(ad));
    performer_device *pd = ad->own;
    float *state = state_;
    const cuda_layout l = state_layout(pd, B);
    const attention_device_problem x = {.p = {.B = B, .T = 1, .S = 1}, .q_rows = B, .k_rows = B};
    attn_cuda_args args = cuda_args_of(pd, &x, &l, v, state, state);
    args.active = active;
    TRY(open_decoding(pd));
    return launch(pd, STEP, 1, l.heads, 1, &args);
}
