/* The plan on a device: a launch or a few for each operation, in the order of the list, then in
 * reverse. Nothing is computed again. */
#include "model/device_internal.h"

/* An operation's forward or backward. */
typedef void operation(model_device *md, const pass *p, const plan_call *c);

/* ---- operations ---------------------------------------------------------------------------------
 */

static void embed(model_device *md, const pass *p, const plan_call *c)
{
    md_embed(md, p, c->out);
}

static void embed_grad(model_device *md, const pass *p, const plan_call *c)
{
    md_embed_grad(md, p, c->g_out);
}

static void linear(model_device *md, const pass *p, const plan_call *c)
{
    (void)p;
    if (c->bias)
        md_fill(md, c->rows, c->out_n, c->bias, c->out);
    md_gemm(md, false, true, c->rows, c->out_n, c->n, c->in, c->weight, c->bias ? 1 : 0, c->out);
}

static void linear_grad(model_device *md, const pass *p, const plan_call *c)
{
    (void)p;
    if (c->bias)
        md_column_sums(md, c->rows, c->out_n, c->g_out, c->g_bias);
    md_gemm(md, false, false, c->rows, c->n, c->out_n, c->g_out, c->weight, 0, c->g_in);
    md_gemm(md, true, false, c->out_n, c->n, c->rows, c->g_out, c->in, 1, c->g_weight);
}

static void row(model_device *md, const pass *p, const plan_call *c)
{
    md_row(md, p, c, c->op->kind, false);
}

static void row_grad(model_device *md, const pass *p, const plan_call *c)
{
    plan_call held = *c;
    held.out = NULL; /* is there already */
    md_row(md, p, &held, c->op->kind, true);
}

static void attention(model_device *md, const pass *p, const plan_call *c, bool backward)
{
    const model *m = md->m;
    const attention_device *ad = md->attention[c->layer % m->attentions];
    for (int call = 0; call < attention_calls(m) && md->status == SPECTRA_OK; call++) {
        const attention_device_problem x = md_problem(md, p, c->layer, call);
        const attention_views rows = attention_rows(m, md->shape.max_seqlen, call * x.q_rows, c->in,
                                                    c->out, c->g_in, c->g_out);
        void *saved = md->v.saved[ATTENTION_CALLS * c->layer + call];
        md->status = backward ? attention_device_backward(ad, &x, &rows, saved, md->v.work)
                              : attention_device_forward(ad, &x, &rows, saved, md->v.work);
    }
    /* rows behind the batch's belong to no sequence, but the products below see them */
    md_clear_tail(md, backward ? c->n : c->out_n, backward ? c->g_in : c->out);
}

static void attend(model_device *md, const pass *p, const plan_call *c)
{
    attention(md, p, c, false);
}

static void attend_grad(model_device *md, const pass *p, const plan_call *c)
{
    attention(md, p, c, true);
}

static void pool(model_device *md, const pass *p, const plan_call *c)
{
    plan_call norm = *c;
    norm.out = value_at(&md->v, PRODUCT, 0);
    md_row(md, p, &norm, OP_LAYERNORM, false);
    md_pool(md, norm.out, c->out);
}

/* The stream's gradient begins here. */
static void pool_grad(model_device *md, const pass *p, const plan_call *c)
{
    plan_call norm = *c;
    norm.out = NULL;
    norm.g_out = value_at(&md->v, G_NARROW, 0);
    norm.add = false;
    md_pool_grad(md, c->g_out, norm.g_out);
    md_row(md, p, &norm, OP_LAYERNORM, true);
}

static void join(model_device *md, const pass *p, const plan_call *c)
{
    (void)p;
    if (md->m->config.dual)
        md_join(md, c, false);
}

static void join_grad(model_device *md, const pass *p, const plan_call *c)
{
    (void)p;
    if (md->m->config.dual)
        md_join(md, c, true);
}

static const struct {
    operation *forward, *backward;
} operations[] = {
    [OP_LAYERNORM] = {row, row_grad},     [OP_GELU] = {row, row_grad},
    [OP_RESIDUAL] = {row, row_grad},      [OP_RELU] = {row, row_grad},
    [OP_CROSS_ENTROPY] = {row, row_grad}, [OP_LINEAR] = {linear, linear_grad},
    [OP_EMBED] = {embed, embed_grad},     [OP_ATTENTION] = {attend, attend_grad},
    [OP_POOL] = {pool, pool_grad},        [OP_JOIN] = {join, join_grad},
};

/* ---- the list -----------------------------------------------------------------------------------
 */

static call_site whole_batch(const model_device *md)
{
    return (call_site){
        .m = md->m, .v = &md->v, .shape = &md->shape, .params = md->params, .grads = md->grads};
}

void md_forward(model_device *md, const pass *p)
{
    const call_site all = whole_batch(md);
    const int64_t end = plan_count(&md->m->config) - (p->loss ? 0 : 1); /* the loss is the last */
    md_draw(md, p);
    for (int64_t i = 0; i < end; i++) {
        const plan_call c = call_at(&all, i);
        operations[c.op->kind].forward(md, p, &c);
    }
    md_journal(md, p->loss);
}

void md_backward(model_device *md, const pass *p)
{
    const call_site all = whole_batch(md);
    for (int64_t i = plan_count(&md->m->config) - 1; i >= 0; i--) {
        const plan_call c = call_at(&all, i);
        operations[c.op->kind].backward(md, p, &c);
    }
}
