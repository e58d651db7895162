#include "model/internal.h"

#include "base/status.h"
#include "math/rng.h"

#include <omp.h>
#include <string.h>

chunk chunk_at(const pass *p, int64_t index, int thread)
{
    int64_t first = index * CHUNK, left = p->m->pack.rows - first;
    return (chunk){
        .first = first, .rows = left < CHUNK ? left : CHUNK, .s = &p->m->act.local[thread]};
}

/* An element's number is that of its place in the padded grid (sequences, N, width), so that
 * packing does not change what is dropped. */
int64_t chunk_keep(const pass *p, const chunk *c, int use, int64_t layer, int64_t width,
                   const float **keep)
{
    const model *m = p->m;
    const packing *k = &m->pack;
    if (!p->train || m->config.dropout <= 0) {
        *keep = m->ones;
        return 0;
    }
    rng_stream s = rng_open(m->config.seed, (rng_use)use, (uint32_t)layer | (uint32_t)p->part << 12,
                            (uint32_t)p->step);
    int64_t end = c->first + c->rows;
    for (int64_t r = c->first, n; r < end; r += n) {
        uint64_t cell =
            (uint64_t)k->sequence[r] * (uint64_t)m->config.length + (uint64_t)k->position[r];
        n = 1; /* rows that are neighbours in the grid, too */
        while (r + n < end && k->sequence[r + n] == k->sequence[r] &&
               k->position[r + n] == k->position[r] + n)
            n++;
        rng_dropout(&s, m->config.dropout, cell * (uint64_t)width, n * width,
                    c->s->keep + (r - c->first) * width);
    }
    *keep = c->s->keep;
    return width;
}

static float *turned_at(const model *m, int64_t in, int64_t out, int64_t offset)
{
    return op_tiled(in, out) ? m->act.turned + (offset - m->at.dense) : NULL;
}

/* Transposes of the layers' matrices, so that products read them row by row. */
static void turn(const model *m)
{
    const int64_t E = m->config.embed, F = m->config.hidden, HD = model_inner(&m->config);
    for (int64_t l = 0; l < (m->config.tied ? 1 : m->config.layers); l++) {
        const layer_offsets *at = &m->layer[l];
        const struct {
            int64_t in, out, offset;
        } matrix[] = {{E, 3 * HD, at->qkv_w}, {HD, E, at->out_w}, {E, F, at->w1}, {F, E, at->w2}};
        for (int i = 0; i < 4; i++) {
            float *turned = turned_at(m, matrix[i].in, matrix[i].out, matrix[i].offset);
            if (turned)
                op_turn(matrix[i].in, matrix[i].out, m->params + matrix[i].offset, turned);
        }
    }
}

static void embed(const pass *p, const chunk *c)
{
    const model *m = p->m;
    const int64_t E = m->config.embed;
    const float *tokens = m->params + m->at.tokens, *positions = m->params + m->at.positions, *keep;
    int64_t ld = chunk_keep(p, c, RNG_DROPOUT_EMBED, 0, E, &keep);
    for (int64_t i = 0; i < c->rows; i++) {
        int64_t r = c->first + i;
        const float *t = tokens + m->pack.token[r] * E, *n = positions + m->pack.position[r] * E;
        float *x = m->act.x[0] + r * E;
#pragma omp simd
        for (int64_t e = 0; e < E; e++)
            x[e] = (t[e] + n[e]) * keep[i * ld + e];
    }
}

/* LN1 and the projections. */
static void first_half(const pass *p, const chunk *c, int64_t l)
{
    const model *m = p->m;
    const layer_offsets *at = &m->layer[l];
    const int64_t E = m->config.embed, HD3 = 3 * model_inner(&m->config);
    float *y = c->s->narrow[0];
    op_layernorm(&m->op, c->rows, E, m->act.x[l] + c->first * E, m->params + at->norm1, y);
    op_linear(&m->op, c->rows, E, HD3, y, m->params + at->qkv_w, turned_at(m, E, HD3, at->qkv_w),
              m->params + at->qkv_b, m->act.layer[l].qkv + c->first * HD3);
}

/* Output projection, LN2, MLP. */
static void second_half(const pass *p, const chunk *c, int64_t l)
{
    const model *m = p->m;
    const layer_offsets *at = &m->layer[l];
    const layer_values *v = &m->act.layer[l];
    const int64_t E = m->config.embed, F = m->config.hidden, HD = model_inner(&m->config);
    const float *w = m->params, *keep;
    float *y = c->s->narrow[0], *z = c->s->wide[0];
    float *middle = v->middle + c->first * E, *hidden = v->hidden + c->first * F;
    op_linear(&m->op, c->rows, HD, E, v->mixed + c->first * HD, w + at->out_w,
              turned_at(m, HD, E, at->out_w), NULL, y);
    int64_t ld = chunk_keep(p, c, RNG_DROPOUT_ATTN, l, E, &keep);
    op_dropout_residual(&m->op, c->rows, E, m->act.x[l] + c->first * E, y, w + at->out_b, keep, ld,
                        middle);
    op_layernorm(&m->op, c->rows, E, middle, w + at->norm2, y);
    op_linear(&m->op, c->rows, E, F, y, w + at->w1, turned_at(m, E, F, at->w1), NULL, hidden);
    ld = chunk_keep(p, c, RNG_DROPOUT_GELU, l, F, &keep);
    op_gelu(&m->op, c->rows, F, hidden, w + at->b1, keep, ld, z);
    op_linear(&m->op, c->rows, F, E, z, w + at->w2, turned_at(m, F, E, at->w2), NULL, y);
    ld = chunk_keep(p, c, RNG_DROPOUT_MLP, l, E, &keep);
    op_dropout_residual(&m->op, c->rows, E, middle, y, w + at->b2, keep, ld,
                        m->act.x[l + 1] + c->first * E);
}

static spectra_status attend(const pass *p, int64_t l)
{
    const model *m = p->m;
    const layer_values *v = &m->act.layer[l];
    const int64_t d = m->config.head_dim, HD = model_inner(&m->config), N = m->config.length;
    for (int call = 0; call < attention_calls(m) && m->pack.rows > 0; call++) {
        spectra_problem x = attention_problem(p, l, call);
        int64_t skip = call * x.B * N;
        float *qkv = v->qkv + skip * 3 * HD;
        spectra_rows q = {qkv, N * 3 * HD, d, 3 * HD}, k = q, u = q;
        k.data += HD;
        u.data += 2 * HD;
        spectra_rows o = {v->mixed + skip * HD, N * HD, d, HD};
        TRY(spectra_attention_forward(m->attention[l % m->attentions], &x, q, k, u, o,
                                      v->saved[call], m->act.work));
    }
    return SPECTRA_OK;
}

/* The chunks' work between two attentions. */
static void stage(const pass *p, int64_t number)
{
    int64_t L = p->m->config.layers;
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->threads)
    for (int64_t i = 0; i < p->chunks; i++) {
        chunk c = chunk_at(p, i, omp_get_thread_num());
        if (number == 0)
            embed(p, &c);
        else
            second_half(p, &c, number - 1);
        if (number < L)
            first_half(p, &c, number);
    }
}

spectra_status forward_until(pass *p, int64_t layer)
{
    turn(p->m);
    for (int64_t number = 0; number < layer; number++) {
        stage(p, number);
        model_timing *timing = p->m->timing;
        const double from = timing ? omp_get_wtime() : 0;
        TRY(attend(p, number));
        if (timing)
            timing->attention_forward += omp_get_wtime() - from;
    }
    stage(p, layer);
    return SPECTRA_OK;
}

spectra_status forward_layers(pass *p)
{
    return forward_until(p, p->m->config.layers);
}

/* Mean of the normalised valid rows over all N positions, or the normalised first row (CLS). */
static void pool(const pass *p, int64_t s, float *scratch)
{
    const model *m = p->m;
    const packing *k = &m->pack;
    const int64_t E = m->config.embed, N = m->config.length;
    float *pooled = m->act.pooled + s * E;
    const float *x = m->act.x[m->config.layers] + k->begin[s] * E;
    if (m->config.cls) {
        op_layernorm(&m->op, 1, E, x, m->params + m->at.norm, pooled);
        return;
    }
    memset(pooled, 0, (size_t)E * sizeof *pooled);
    for (int64_t i = 0; i < k->len[s]; i += CHUNK) {
        int64_t n = k->len[s] - i < CHUNK ? k->len[s] - i : CHUNK;
        op_layernorm(&m->op, n, E, x + i * E, m->params + m->at.norm, scratch);
        if (!k->mask)
            op_column_sums(n, E, scratch, pooled);
        for (int64_t j = 0; k->mask && j < n; j++)
            if (k->mask[s * N + i + j])
                op_column_sums(1, E, scratch + j * E, pooled);
    }
    for (int64_t e = 0; e < E; e++)
        pooled[e] /= (float)N;
}

/* Input of the head for two sequences: a, b, a*b, a-b. */
static void join(int64_t B, int64_t E, const float *pooled, float *joined)
{
    for (int64_t i = 0; i < B; i++) {
        const float *a = pooled + i * E, *b = pooled + (B + i) * E;
        float *out = joined + i * 4 * E;
        for (int64_t e = 0; e < E; e++) {
            out[e] = a[e];
            out[E + e] = b[e];
            out[2 * E + e] = a[e] * b[e];
            out[3 * E + e] = a[e] - b[e];
        }
    }
}

void forward_head(pass *p)
{
    const model *m = p->m;
    const model_config *c = &m->config;
    const activations *act = &m->act;
    const int64_t B = p->batch->B, E = c->embed, F = c->hidden, in = (c->dual ? 4 : 1) * E;
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->threads)
    for (int64_t s = 0; s < m->pack.sequences; s++)
        pool(p, s, act->local[omp_get_thread_num()].narrow[0]);
    if (c->dual)
        join(B, E, act->pooled, act->joined);
    op_linear(&m->op, B, in, F, act->joined, m->params + m->at.head_w1, NULL, NULL, act->head1);
    op_relu(&m->op, B, F, act->head1, m->params + m->at.head_b1, act->head2);
    op_linear(&m->op, B, F, c->classes, act->head2, m->params + m->at.head_w2, NULL,
              m->params + m->at.head_b2, act->scores);
}

double forward_loss(pass *p)
{
    const model *m = p->m;
    double sum = 0;
    for (int64_t b = 0; b < p->batch->B; b++)
        m->act.label[b] = (float)p->batch->label[b];
    op_cross_entropy(&m->op, p->batch->B, m->config.classes, m->act.scores, m->act.label,
                     m->act.loss);
    for (int64_t b = 0; b < p->batch->B; b++)
        sum += (double)m->act.loss[b];
    return sum;
}
