/* The driver of the causal kernels. Forward is a key pass (a state a split, but of the last) and
 * one over all tokens, which starts from the states before; backward goes over the tokens as
 * forward does, then from the last tile to the first. All passes share their splits. */
#include "attention/performer/device.h"

#include "base/status.h"

performer_layout performer_causal_layout(const performer_device *pd,
                                         const attention_device_problem *x)
{
    const performer *pf = pd->pf;
    const attn_plan *plan = &pf->plan;
    const int64_t H = pf->desc.H, T = x->p.T, D = plan->D, DV = plan->DV;
    const jit_cuda_plan *fwd = &pd->plan[CAUSAL], *qb = &pd->plan[CAUSAL_QUERIES_BWD];
    performer_layout l = {.heads = x->p.B * H, .den_rows = x->q_rows};
    int64_t at = 0;
    performer_place_params(pd, &l, &at);
    l.k_splits = l.q_splits =
        performer_device_splits(pd, fwd, l.heads * fwd->row_blocks, T, PERFORMER_SPLIT);
    l.tiles = ceil_div(T, qb->tile);
    l.at_part = at, at += whole_floats((l.k_splits - 1) * l.heads * l.state);
    l.at_den = at, at += whole_floats(H * l.den_rows);
    l.at_top = at, at += whole_floats(H * l.den_rows);
    l.saved = at;
    const int64_t F = pf->feature->lanes * plan->MP, blocks = qb->row_blocks;
    const int64_t parts = fwd->row_blocks > 1 ? fwd->row_blocks * l.heads * T : 0;
    at = 0; /* of forward */
    l.at_o = at, at += whole_floats(parts * DV);
    l.at_den_part = at, at += whole_floats(parts);
    l.at_top_part = at, at += whole_floats(parts);
    l.work = at;
    at = 0; /* of backward */
    l.at_dpart = at, at += whole_floats(l.q_splits * l.heads * l.dstate);
    l.at_gden = at, at += whole_floats(H * l.den_rows);
    l.at_refs = at, at += whole_floats(l.heads * l.tiles * F);
    l.at_starts = at, at += whole_floats(blocks * l.heads * l.tiles);
    l.at_gq = at, at += blocks > 1 ? whole_floats(blocks * l.heads * T * D) : 0;
    l.at_gk = at, at += blocks > 1 ? whole_floats(blocks * l.heads * T * D) : 0;
    l.at_gv = at, at += blocks > 1 ? whole_floats(blocks * l.heads * T * DV) : 0;
    if (pd->learn) {
        const int64_t each = l.q_splits * l.heads, scalars = each * blocks * pf->feature->scalars;
        l.at_scalars = at, at += whole_floats(scalars);
        l.at_scalars_k = at, at += whole_floats(scalars);
        l.at_dw = at, at += whole_floats(each * plan->M * D);
        l.at_dw_k = at, at += whole_floats(each * plan->M * D);
        l.at_dweights = at, at += whole_floats(each * plan->M);
    }
    l.work = at > l.work ? at : l.work;
    l.at_spilled = performer_place_spilled(pd, &l.work);
    return l;
}

static attn_cuda_args causal_args(performer_device *pd, const attention_device_problem *x,
                                  const performer_layout *l, const attention_views *v, float *saved,
                                  float *work)
{
    attn_cuda_args args = performer_args(pd, x, l, v, saved, work);
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

spectra_status performer_causal_forward(performer_device *pd, const attention_device_problem *x,
                                        const attention_views *v, float *saved, float *work)
{
    TRY(causal_check(pd->pf));
    const performer_layout l = performer_causal_layout(pd, x);
    const attn_cuda_args args = causal_args(pd, x, &l, v, saved, work);
    TRY(performer_params_prepare(pd, x, &l, v, saved, work));
    if (l.k_splits > 1)
        TRY(performer_read_keys(pd, l.k_splits - 1, l.heads, &args));
    TRY(performer_pass(pd, CAUSAL, l.q_splits, l.heads, args.row_blocks, &args));
    if (args.row_blocks == 1)
        return SPECTRA_OK;
    return performer_pass(pd, COMBINE, ceil_div(x->p.T, pd->plan[COMBINE].tile), l.heads, 1, &args);
}

spectra_status performer_causal_backward(performer_device *pd, const attention_device_problem *x,
                                         const attention_views *v, float *saved, float *work)
{
    const performer_layout l = performer_causal_layout(pd, x);
    const attn_cuda_args args = causal_args(pd, x, &l, v, saved, work);
    TRY(performer_pass(pd, CAUSAL_QUERIES_BWD, l.q_splits, l.heads, args.q_row_blocks, &args));
    TRY(performer_pass(pd, CAUSAL_KEYS_BWD, l.q_splits, l.heads, args.k_row_blocks, &args));
    return performer_sums(pd, &l, x, &args);
}
