#include "model/internal.h"

#include "base/status.h"
#include "math/rng.h"

#include <omp.h>
#include <string.h>

/* ---- head ---------------------------------------------------------------------------------------
 */

static void split(int64_t B, int64_t E, const float *pooled, const float *g_joined, float *g_pooled)
{
    for (int64_t i = 0; i < B; i++) {
        const float *a = pooled + i * E, *b = pooled + (B + i) * E, *g = g_joined + i * 4 * E;
        float *ga = g_pooled + i * E, *gb = g_pooled + (B + i) * E;
        for (int64_t e = 0; e < E; e++) {
            ga[e] = g[e] + g[2 * E + e] * b[e] + g[3 * E + e];
            gb[e] = g[E + e] + g[2 * E + e] * a[e] - g[3 * E + e];
        }
    }
}

/* Adds straight into the model's gradients: B rows are too few to share out. */
static void backward_head(const pass *p)
{
    const model *m = p->m;
    const model_config *c = &m->config;
    const activations *act = &m->act;
    const int64_t B = p->batch->B, E = c->embed, F = c->hidden, in = (c->dual ? 4 : 1) * E;
    const float *w = m->params;
    float *g = m->grads;
    for (int64_t b = 0; b < B; b++)
        act->g_loss[b] = (float)(p->scale / (double)B);
    op_cross_entropy_grad(&m->op, B, c->classes, act->scores, act->label, act->g_loss,
                          act->g_scores);
    op_column_sums(B, c->classes, act->g_scores, g + m->at.head_b2);
    op_linear_input_grad(&m->op, B, F, c->classes, w + m->at.head_w2, act->g_scores, act->g_head1);
    op_linear_weight_grad(&m->op, B, F, c->classes, act->head2, act->g_scores, g + m->at.head_w2);
    op_relu_grad(&m->op, B, F, act->head1, w + m->at.head_b1, act->g_head1, act->g_head1,
                 g + m->at.head_b1);
    op_linear_input_grad(&m->op, B, in, F, w + m->at.head_w1, act->g_head1, act->g_joined);
    op_linear_weight_grad(&m->op, B, in, F, act->joined, act->g_head1, g + m->at.head_w1);
    if (c->dual)
        split(B, E, act->pooled, act->g_joined, act->g_pooled);
}

/* ---- chunks -------------------------------------------------------------------------------------
 */

static float *slot_at(const pass *p, const chunk *c, int64_t offset)
{
    return c->grad + (offset - p->m->at.dense);
}

/* Gradient of the last layer's output: through pooling and the final norm. */
static void backward_pool(const pass *p, const chunk *c)
{
    const model *m = p->m;
    const packing *k = &m->pack;
    const int64_t E = m->config.embed, N = m->config.length;
    const float share = m->config.cls ? 1 : 1 / (float)N;
    float *gz = c->s->narrow[0], *g = m->act.g + c->first * E;
    for (int64_t i = 0; i < c->rows; i++) {
        int64_t r = c->first + i, s = k->sequence[r], n = k->position[r];
        bool counts = m->config.cls ? n == 0 : !k->mask || k->mask[s * N + n];
        for (int64_t e = 0; e < E; e++)
            gz[i * E + e] = counts ? share * m->act.g_pooled[s * E + e] : 0;
    }
    memset(g, 0, (size_t)(c->rows * E) * sizeof *g);
    op_layernorm_grad(&m->op, c->rows, E, m->act.x[m->config.layers] + c->first * E,
                      m->params + m->at.norm, gz, g, slot_at(p, c, m->at.norm), NULL);
}

/* From the gradient of layer l's output to those of the attention's output and of `middle`. */
static void backward_second_half(const pass *p, const chunk *c, int64_t l)
{
    const model *m = p->m;
    const layer_offsets *at = &m->layer[l];
    const layer_values *v = &m->act.layer[l];
    const int64_t E = m->config.embed, F = m->config.hidden, HD = model_inner(&m->config);
    const float *w = m->params, *keep;
    const float *middle = v->middle + c->first * E, *hidden = v->hidden + c->first * F;
    float *g = m->act.g + c->first * E;
    float *gy = c->s->narrow[0], *y = c->s->narrow[1], *z = c->s->wide[0], *gz = c->s->wide[1];

    int64_t ld = chunk_keep(p, c, RNG_DROPOUT_MLP, l, E, &keep);
    op_dropout_residual_grad(&m->op, c->rows, E, w + at->b2, keep, ld, g, gy,
                             slot_at(p, c, at->b2));
    ld = chunk_keep(p, c, RNG_DROPOUT_GELU, l, F, &keep);
    op_linear_input_grad(&m->op, c->rows, F, E, w + at->w2, gy, gz);
    op_gelu_grad(&m->op, c->rows, F, hidden, w + at->b1, keep, ld, gz, gz, slot_at(p, c, at->b1),
                 z);
    op_linear_weight_grad(&m->op, c->rows, F, E, z, gy, slot_at(p, c, at->w2));
    op_linear_input_grad(&m->op, c->rows, E, F, w + at->w1, gz, gy);
    op_layernorm_grad(&m->op, c->rows, E, middle, w + at->norm2, gy, g, slot_at(p, c, at->norm2),
                      y);
    op_linear_weight_grad(&m->op, c->rows, E, F, y, gz, slot_at(p, c, at->w1));

    ld = chunk_keep(p, c, RNG_DROPOUT_ATTN, l, E, &keep);
    op_dropout_residual_grad(&m->op, c->rows, E, w + at->out_b, keep, ld, g, gy,
                             slot_at(p, c, at->out_b));
    op_linear_input_grad(&m->op, c->rows, HD, E, w + at->out_w, gy, m->act.g_mixed + c->first * HD);
    op_linear_weight_grad(&m->op, c->rows, HD, E, v->mixed + c->first * HD, gy,
                          slot_at(p, c, at->out_w));
}

/* From the gradients of q, k, v to that of layer l's input. */
static void backward_first_half(const pass *p, const chunk *c, int64_t l)
{
    const model *m = p->m;
    const layer_offsets *at = &m->layer[l];
    const int64_t E = m->config.embed, HD3 = 3 * model_inner(&m->config);
    const float *w = m->params, *x = m->act.x[l] + c->first * E;
    const float *g_qkv = m->act.g_qkv + c->first * HD3;
    float *gy = c->s->narrow[0], *y = c->s->narrow[1];
    op_column_sums(c->rows, HD3, g_qkv, slot_at(p, c, at->qkv_b));
    op_linear_input_grad(&m->op, c->rows, E, HD3, w + at->qkv_w, g_qkv, gy);
    op_layernorm_grad(&m->op, c->rows, E, x, w + at->norm1, gy, m->act.g + c->first * E,
                      slot_at(p, c, at->norm1), y);
    op_linear_weight_grad(&m->op, c->rows, E, HD3, y, g_qkv, slot_at(p, c, at->qkv_w));
}

static void backward_embed(const pass *p, const chunk *c)
{
    const int64_t E = p->m->config.embed;
    const float *keep;
    float *g = p->m->act.g + c->first * E;
    int64_t ld = chunk_keep(p, c, RNG_DROPOUT_EMBED, 0, E, &keep);
    for (int64_t i = 0; i < c->rows && ld > 0; i++) {
#pragma omp simd
        for (int64_t e = 0; e < E; e++)
            g[i * E + e] *= keep[i * ld + e];
    }
}

/* ---- attention ----------------------------------------------------------------------------------
 */

static spectra_status backward_attend(const pass *p, int64_t l)
{
    const model *m = p->m;
    const layer_values *v = &m->act.layer[l];
    const int64_t d = m->config.head_dim, HD = model_inner(&m->config), N = m->config.length;
    for (int call = 0; call < attention_calls(m) && m->pack.rows > 0; call++) {
        spectra_problem x = attention_problem(p, l, call);
        int64_t skip = call * x.B * N;
        spectra_rows q = {v->qkv + skip * 3 * HD, N * 3 * HD, d, 3 * HD}, k = q, u = q;
        spectra_rows gq = {m->act.g_qkv + skip * 3 * HD, N * 3 * HD, d, 3 * HD}, gk = gq, gu = gq;
        k.data += HD;
        u.data += 2 * HD;
        gk.data += HD;
        gu.data += 2 * HD;
        spectra_rows o = {v->mixed + skip * HD, N * HD, d, HD};
        spectra_rows go = {m->act.g_mixed + skip * HD, N * HD, d, HD};
        TRY(spectra_attention_backward(m->attention[l % m->attentions], &x, q, k, u, o, go, gq, gk,
                                       gu, v->saved[call], m->act.work));
        int64_t at = m->at.trained;
        for (int64_t i = 0; i < l % m->attentions; i++)
            at += spectra_attention_trained_floats(m->attention[i]);
        spectra_attention_trained_gradient(m->attention[l % m->attentions], &x, m->act.work,
                                           m->params + at, m->grads + at);
    }
    return SPECTRA_OK;
}

/* ---- sums over chunks ---------------------------------------------------------------------------
 */

/* grads += the slots, in order. */
static void add_slots(const pass *p, int64_t slots)
{
    enum { BLOCK = 2048 };
    const model *m = p->m;
    int64_t n = m->at.count - m->at.dense, blocks = (n + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(p->threads)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t first = b * BLOCK, end = first + BLOCK < n ? first + BLOCK : n;
        for (int64_t s = 0; s < slots; s++) {
            const float *from = m->act.slots + s * n;
            float *to = m->grads + m->at.dense;
#pragma omp simd
            for (int64_t i = first; i < end; i++)
                to[i] += from[i];
        }
    }
}

/* Row i of the table's gradient += rows start[i] .. start[i+1]-1 of g in sorted order. */
static void add_table(const pass *p, int64_t keys, const int32_t *start, const int32_t *rows,
                      float *table)
{
    const int64_t E = p->m->config.embed;
    const float *g = p->m->act.g;
    const int64_t share = keys > 1024 ? 16 : 1; /* few keys may have very different row counts */
#pragma omp parallel for schedule(dynamic, share) num_threads(p->threads)
    for (int64_t key = 0; key < keys; key++)
        for (int32_t i = start[key]; i < start[key + 1]; i++)
            op_column_sums(1, E, g + rows[i] * E, table + key * E);
}

/* ---- whole pass ---------------------------------------------------------------------------------
 */

static void backward_chunk(const pass *p, const chunk *c, int64_t stage)
{
    if (stage == p->m->config.layers)
        backward_pool(p, c);
    else
        backward_first_half(p, c, stage);
    if (stage > 0)
        backward_second_half(p, c, stage - 1);
    else
        backward_embed(p, c);
}

spectra_status backward(pass *p)
{
    const model *m = p->m;
    const packing *k = &m->pack;
    const int64_t L = m->config.layers, size = m->at.count - m->at.dense;
    const int64_t slots = p->chunks < SLOTS ? p->chunks : SLOTS;
    backward_head(p);
    for (int64_t stage = L; stage >= 0; stage--) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->threads)
        for (int64_t s = 0; s < slots; s++) {
            float *grad = m->act.slots + s * size;
            if (stage == L)
                memset(grad, 0, (size_t)size * sizeof *grad);
            for (int64_t i = s; i < p->chunks; i += SLOTS) {
                chunk c = chunk_at(p, i, omp_get_thread_num());
                c.grad = grad;
                backward_chunk(p, &c, stage);
            }
        }
        const double from = m->timing ? omp_get_wtime() : 0;
        if (stage > 0)
            TRY(backward_attend(p, stage - 1));
        if (m->timing)
            m->timing->attention_backward += omp_get_wtime() - from;
    }
    add_slots(p, slots);
    add_table(p, m->config.vocab, k->token_start, k->token_rows, m->grads + m->at.tokens);
    add_table(p, m->config.length, k->position_start, k->position_rows, m->grads + m->at.positions);
    return SPECTRA_OK;
}
