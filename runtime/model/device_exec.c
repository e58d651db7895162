/* The plan on a device: a launch or a few for each operation, in the order of the list, then in
 * reverse. Nothing is computed again. */
#include "model/device_internal.h"

/* An operation's forward or backward. */
typedef void operation(model_device *md, const plan_call *c);

static void row(model_device *md, const plan_call *c)
{
    md_row(md, c, c->op->kind, false);
}

static void row_grad(model_device *md, const plan_call *c)
{
    plan_call held = *c;
    held.out = NULL; /* is there already */
    md_row(md, &held, c->op->kind, true);
}

static void attention(model_device *md, const plan_call *c, bool backward)
{
    const model *m = md->m;
    const attention_device *ad = md->attention[c->layer % m->attentions];
    for (int call = 0; call < attention_calls(m) && md->status == SPECTRA_OK; call++) {
        const attention_device_problem x = md_problem(md, c->layer, call);
        const attention_views rows = attention_rows(m, md->shape.max_seqlen, call * x.q_rows, c->in,
                                                    c->out, c->g_in, c->g_out);
        void *saved = md->v.saved[ATTENTION_CALLS * c->layer + call];
        md->status = backward ? attention_device_backward(ad, &x, &rows, saved, md->v.work)
                              : attention_device_forward(ad, &x, &rows, saved, md->v.work);
    }
    /* rows behind the batch's belong to no sequence, but the products below see them */
    md_clear_tail(md, backward ? c->n : c->out_n, backward ? c->g_in : c->out);
}

static void attend(model_device *md, const plan_call *c)
{
    attention(md, c, false);
}

static void attend_grad(model_device *md, const plan_call *c)
{
    attention(md, c, true);
}

static void pool(model_device *md, const plan_call *c)
{
    plan_call norm = *c;
    norm.out = value_at(&md->v, PRODUCT, 0);
    md_row(md, &norm, OP_LAYERNORM, false);
    md_pool(md, norm.out, c->out);
}

/* The stream's gradient begins here. */
static void pool_grad(model_device *md, const plan_call *c)
{
    plan_call norm = *c;
    norm.out = NULL;
    norm.g_out = value_at(&md->v, G_NARROW, 0);
    norm.add = false;
    md_pool_grad(md, c->g_out, norm.g_out);
    md_row(md, &norm, OP_LAYERNORM, true);
}

/* Those that are no row operators. */
static const struct {
    operation *forward, *backward;
} operations[] = {
    [OP_LINEAR] = {md_linear, md_linear_grad}, [OP_EMBED] = {md_embed, md_embed_grad},
    [OP_ATTENTION] = {attend, attend_grad},    [OP_POOL] = {pool, pool_grad},
    [OP_JOIN] = {md_join, md_join_grad},
};

static call_site whole_batch(const model_device *md)
{
    return (call_site){
        .m = md->m, .v = &md->v, .shape = &md->shape, .params = md->params, .grads = md->grads};
}

void md_forward(model_device *md)
{
    const call_site all = whole_batch(md);
    const int64_t count = plan_count(&md->m->config);
    md_draw(md);
    for (int64_t i = 0; i < count - (md->pass.loss ? 0 : 1); i++) { /* the loss is the last */
        const plan_call c = call_at(&all, i);
        (c.op->kind < ROW_OPERATORS ? row : operations[c.op->kind].forward)(md, &c);
    }
    md_journal(md);
}

void md_backward(model_device *md)
{
    const call_site all = whole_batch(md);
    for (int64_t i = plan_count(&md->m->config) - 1; i >= 0; i--) {
        const plan_call c = call_at(&all, i);
        (c.op->kind < ROW_OPERATORS ? row_grad : operations[c.op->kind].backward)(md, &c);
    }
}
