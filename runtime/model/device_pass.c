#include "model/device_internal.h"

/* Scratch names: gy (rows, E) and gz (rows, F) hold gradients on their way down. */

static const float *at(const model_device *md, int64_t offset)
{
    return md->params + offset;
}

static float *grad_at(const model_device *md, int64_t offset)
{
    return md->grads + offset;
}

/* ---- attention ----------------------------------------------------------------------------------
 */

/* Of the rows from `first` on. */
static attention_views views(const model_device *md, const device_layer *v, int64_t first)
{
    const int64_t d = md->m->config.head_dim, HD = model_inner(&md->m->config);
    const int64_t longest = md->shape.longest;
    spectra_rows wide = {v->qkv + first * 3 * HD, longest * 3 * HD, d, 3 * HD},
                 narrow = {v->mixed + first * HD, longest * HD, d, HD};
    attention_views x = {.q = wide,
                         .k = wide,
                         .v = wide,
                         .o = narrow,
                         .go = narrow,
                         .gq = wide,
                         .gk = wide,
                         .gv = wide};
    x.k.data += HD;
    x.v.data += 2 * HD;
    x.go.data = x.gq.data = x.gk.data = x.gv.data = NULL;
    if (md->v.g_qkv) {
        x.go.data = md->v.g_mixed + first * HD;
        x.gq.data = md->v.g_qkv + first * 3 * HD;
        x.gk.data = x.gq.data + HD;
        x.gv.data = x.gq.data + 2 * HD;
    }
    return x;
}

static void attend(model_device *md, const pass *p, int64_t l, bool backward)
{
    const model *m = md->m;
    const device_layer *v = &md->v.layer[l];
    const attention_device *ad = md->attention[l % m->attentions];
    for (int call = 0; call < attention_calls(m) && md->status == SPECTRA_OK; call++) {
        const attention_device_problem x = device_problem(md, p, l, call);
        const attention_views rows = views(md, v, call * x.q_rows);
        md->status = backward ? attention_device_backward(ad, &x, &rows, v->saved[call], md->v.work)
                              : attention_device_forward(ad, &x, &rows, v->saved[call], md->v.work);
    }
    if (md->status != SPECTRA_OK)
        return;
    /* rows behind the batch's belong to no sequence, but the products below see them */
    if (backward)
        device_clear_tail(md, 3 * model_inner(&m->config), md->v.g_qkv);
    else
        device_clear_tail(md, model_inner(&m->config), v->mixed);
}

/* ---- forward ------------------------------------------------------------------------------------
 */

static void forward_layer(model_device *md, const pass *p, int64_t l)
{
    const model *m = md->m;
    const model_config *c = &m->config;
    const layer_offsets *o = &m->layer[l];
    const device_values *v = &md->v;
    const device_layer *y = &v->layer[l];
    const int64_t R = md->shape.rows, E = c->embed, F = c->hidden, HD = model_inner(c);
    device_layernorm(md, R, v->x[l], at(md, o->norm1), y->y1);
    device_linear(md, R, E, 3 * HD, y->y1, at(md, o->qkv_w), at(md, o->qkv_b), y->qkv);
    attend(md, p, l, false);
    device_linear(md, R, HD, E, y->mixed, at(md, o->out_w), NULL, v->t);
    device_dropout_residual(md, R, v->x[l], v->t, at(md, o->out_b), device_keep(md, p, 1, l),
                            y->middle);
    device_layernorm(md, R, y->middle, at(md, o->norm2), y->y2);
    device_linear(md, R, E, F, y->y2, at(md, o->w1), NULL, y->hidden);
    device_gelu(md, R, y->hidden, at(md, o->b1), device_keep(md, p, 2, l), y->z);
    device_linear(md, R, F, E, y->z, at(md, o->w2), NULL, v->t);
    device_dropout_residual(md, R, y->middle, v->t, at(md, o->b2), device_keep(md, p, 3, l),
                            v->x[l + 1]);
}

static void forward_head_device(model_device *md, const pass *p)
{
    const model *m = md->m;
    const model_config *c = &m->config;
    const device_values *v = &md->v;
    const int64_t B = md->shape.B, E = c->embed, F = c->hidden, in = (c->dual ? 4 : 1) * E;
    device_layernorm(md, md->shape.rows, v->x[c->layers], at(md, m->at.norm), v->t);
    device_pool(md, v->t, v->pooled);
    if (c->dual)
        device_join(md, false);
    device_linear(md, B, in, F, v->joined, at(md, m->at.head_w1), NULL, v->head1);
    device_relu(md, B, v->head1, at(md, m->at.head_b1), v->head2);
    device_linear(md, B, F, c->classes, v->head2, at(md, m->at.head_w2), at(md, m->at.head_b2),
                  v->scores);
    if (p->batch->label)
        device_cross_entropy(md, B, v->scores, md->up.label, v->loss);
    device_record(md, p->batch->label != NULL);
}

void device_forward_pass(model_device *md, const pass *p)
{
    device_draw(md, p);
    device_embed(md, p);
    for (int64_t l = 0; l < md->m->config.layers; l++)
        forward_layer(md, p, l);
    forward_head_device(md, p);
}

/* ---- backward -----------------------------------------------------------------------------------
 */

static void backward_head_device(model_device *md)
{
    const model *m = md->m;
    const model_config *c = &m->config;
    const device_values *v = &md->v;
    const int64_t B = md->shape.B, E = c->embed, F = c->hidden, in = (c->dual ? 4 : 1) * E;
    device_cross_entropy_grad(md, B, v->scores, md->up.label, md->up.g_loss, v->g_scores);
    device_column_sums(md, B, c->classes, v->g_scores, grad_at(md, m->at.head_b2));
    device_linear_grad(md, B, F, c->classes, v->head2, at(md, m->at.head_w2), v->g_scores,
                       v->g_head1, grad_at(md, m->at.head_w2));
    device_relu_grad(md, B, v->head1, at(md, m->at.head_b1), v->g_head1, v->g_head1,
                     grad_at(md, m->at.head_b1));
    device_linear_grad(md, B, in, F, v->joined, at(md, m->at.head_w1), v->g_head1, v->g_joined,
                       grad_at(md, m->at.head_w1));
    if (c->dual)
        device_join(md, true);
    device_pool_grad(md, v->g_pooled, v->gy);
    device_layernorm_grad(md, md->shape.rows, v->x[c->layers], at(md, m->at.norm), v->gy, v->g,
                          grad_at(md, m->at.norm), false);
}

static void backward_layer(model_device *md, const pass *p, int64_t l)
{
    const model *m = md->m;
    const model_config *c = &m->config;
    const layer_offsets *o = &m->layer[l];
    const device_values *v = &md->v;
    const device_layer *y = &v->layer[l];
    const int64_t R = md->shape.rows, E = c->embed, F = c->hidden, HD = model_inner(c);
    device_dropout_residual_grad(md, R, at(md, o->b2), device_keep(md, p, 3, l), v->g, v->gy,
                                 grad_at(md, o->b2));
    device_linear_grad(md, R, F, E, y->z, at(md, o->w2), v->gy, v->gz, grad_at(md, o->w2));
    device_gelu_grad(md, R, y->hidden, at(md, o->b1), device_keep(md, p, 2, l), v->gz, v->gz,
                     grad_at(md, o->b1));
    device_linear_grad(md, R, E, F, y->y2, at(md, o->w1), v->gz, v->gy, grad_at(md, o->w1));
    device_layernorm_grad(md, R, y->middle, at(md, o->norm2), v->gy, v->g, grad_at(md, o->norm2),
                          true);
    device_dropout_residual_grad(md, R, at(md, o->out_b), device_keep(md, p, 1, l), v->g, v->gy,
                                 grad_at(md, o->out_b));
    device_linear_grad(md, R, HD, E, y->mixed, at(md, o->out_w), v->gy, v->g_mixed,
                       grad_at(md, o->out_w));
    attend(md, p, l, true);
    device_column_sums(md, R, 3 * HD, v->g_qkv, grad_at(md, o->qkv_b));
    device_linear_grad(md, R, E, 3 * HD, y->y1, at(md, o->qkv_w), v->g_qkv, v->gy,
                       grad_at(md, o->qkv_w));
    device_layernorm_grad(md, R, v->x[l], at(md, o->norm1), v->gy, v->g, grad_at(md, o->norm1),
                          true);
}

void device_backward_pass(model_device *md, const pass *p)
{
    backward_head_device(md);
    for (int64_t l = md->m->config.layers - 1; l >= 0; l--)
        backward_layer(md, p, l);
    device_embed_grad(md, p);
}
