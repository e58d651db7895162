#include "model/call.h"

/* ---- arrays -------------------------------------------------------------------------------------
 */

static float *rows_of(const call_site *s, value_id id, int64_t layer)
{
    if (id == VALUE_NONE)
        return NULL;
    const value_row *row = value_about(id);
    if (s->scratch && row->live & CHEAP)
        return s->scratch[row->live & TRAINING ? 1 : 0][row->columns];
    float *x = value_at(s->v, id, layer);
    return x ? x + s->first * value_width(&s->m->config, id) : NULL;
}

static float *gradient_of(const call_site *s, value_id id)
{
    return rows_of(s, value_about(id)->gradient, 0);
}

static int64_t columns_of(const call_site *s, value_id id)
{
    return id ? value_width(&s->m->config, id) : 0;
}

static float *param_in(const call_site *s, float *flat, int64_t first, param_id id, int64_t layer)
{
    return id && flat ? flat + (s->m->offset[layer][id] - first) : NULL;
}

plan_call call_at(const call_site *s, int64_t i)
{
    const plan_step step = plan_at(&s->m->config, i);
    const plan_op *op = step.op;
    const int64_t l = step.layer;
    return (plan_call){.site = s,
                       .op = op,
                       .number = i,
                       .layer = l,
                       .rows = s->rows ? s->rows : value_height(s->shape, op->in),
                       .n = columns_of(s, op->in),
                       .beside_n = columns_of(s, op->beside),
                       .out_n = columns_of(s, op->out),
                       .in = rows_of(s, op->in, l),
                       .beside = rows_of(s, op->beside, l),
                       .out = rows_of(s, op->out, l),
                       .weight = param_in(s, s->params, 0, op->weight, l),
                       .bias = param_in(s, s->params, 0, op->bias, l),
                       .g_in = gradient_of(s, op->in),
                       .g_out = gradient_of(s, op->out),
                       .g_weight = param_in(s, s->grads, s->grads_first, op->weight, l),
                       .g_bias = param_in(s, s->grads, s->grads_first, op->bias, l),
                       .add = value_about(op->in)->gradient == G_STREAM};
}

/* ---- row operators ------------------------------------------------------------------------------
 */

/* clang-format off */
const row_operator row_operators[ROW_OPERATORS] = {
    /*                    spec                inputs                                         */
    [OP_LAYERNORM]     = {"layernorm",        {FROM_IN, FROM_SCALE, FROM_SHIFT},             .shared = true, .constant = 1e-5f},
    [OP_GELU]          = {"gelu",             {FROM_IN, FROM_BIAS, FROM_MASK},               .shared = true},
    [OP_RESIDUAL]      = {"dropout_residual", {FROM_BESIDE, FROM_IN, FROM_BIAS, FROM_MASK},  .shared = true, .linear = true},
    [OP_RELU]          = {"relu",             {FROM_IN, FROM_BIAS},                          .shared = true},
    [OP_CROSS_ENTROPY] = {"cross_entropy",    {FROM_IN, FROM_BESIDE}},
};
/* clang-format on */

row_args row_forward_args(const plan_call *c, plan_kind kind)
{
    const row_operator *op = &row_operators[kind];
    row_args a = {.rows = c->rows, .n = c->n, .c = {op->constant}};
    for (int i = 0; i < ROW_SOURCES; i++)
        switch (op->input[i]) {
        case FROM_NOTHING:
            break;
        case FROM_IN:
            a.in[i] = c->in, a.ld_in[i] = c->n;
            break;
        case FROM_BESIDE:
            a.in[i] = c->beside, a.ld_in[i] = c->beside_n;
            break;
        case FROM_SCALE:
            a.in[i] = c->weight;
            break;
        case FROM_SHIFT:
            a.in[i] = c->weight + c->n;
            break;
        case FROM_BIAS:
            a.in[i] = c->bias;
            break;
        case FROM_MASK:
            a.in[i] = c->mask, a.ld_in[i] = c->mask_ld;
        }
    a.out[0] = c->out;
    a.ld_out[0] = c->out_n;
    return a;
}

row_args row_backward_args(const plan_call *c, plan_kind kind)
{
    const row_operator *op = &row_operators[kind];
    plan_call read = *c;
    if (op->linear) /* any array of the shape will do */
        read.in = read.beside = c->g_out;
    row_args a = row_forward_args(&read, kind);
    for (int i = 0; i < ROW_SOURCES; i++)
        if (op->input[i] == FROM_IN) {
            a.gin[i] = c->g_in;
            a.ld_gin[i] = c->n;
            a.add = (unsigned)c->add << i;
        } else if (op->input[i] == FROM_SCALE) {
            a.gin[i] = c->g_weight;
        } else if (op->input[i] == FROM_SHIFT) {
            a.gin[i] = c->g_weight + c->n;
        } else if (op->input[i] == FROM_BIAS) {
            a.gin[i] = c->g_bias;
        }
    a.gout[0] = c->g_out;
    a.ld_gout[0] = c->out_n;
    return a;
}
