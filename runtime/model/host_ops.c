#include "model/host_internal.h"

#include "math/rng.h"
#include "model/products.h"

#include <omp.h>
#include <string.h>

/* An operation's forward or backward. */
typedef void operation(const pass *p, const plan_call *c);

static chunk_scratch *own_scratch(const pass *p)
{
    return &p->m->host->local[omp_get_thread_num()];
}

/* ---- dropout ------------------------------------------------------------------------------------
 */

/* Factors of `width` columns for the chunk's rows; returns the distance between rows: 0 where a row
 * of ones serves all. An element's number is that of its place in the padded grid (sequences, N,
 * width), so that packing does not change what is dropped. */
static int64_t dropout_mask(const pass *p, const plan_call *c, int64_t width, const float **mask)
{
    const model *m = p->m;
    const packing *k = &m->pack;
    *mask = m->host->ones;
    if (!c->op->dropout || !p->train || m->config.dropout <= 0)
        return 0;
    float *factors = own_scratch(p)->dropout_mask;
    rng_stream s = rng_open(m->config.seed, dropout_streams[c->op->dropout],
                            (uint32_t)c->layer | (uint32_t)p->part << 12, (uint32_t)p->step);
    const int64_t first = c->site->first, end = first + c->rows;
    for (int64_t r = first, n; r < end; r += n) {
        uint64_t cell =
            (uint64_t)k->sequence[r] * (uint64_t)m->config.length + (uint64_t)k->position[r];
        n = 1; /* rows that are neighbours in the grid, too */
        while (r + n < end && k->sequence[r + n] == k->sequence[r] &&
               k->position[r + n] == k->position[r] + n)
            n++;
        rng_dropout(&s, m->config.dropout, cell * (uint64_t)width, n * width,
                    factors + (r - first) * width);
    }
    *mask = factors;
    return width;
}

/* ---- embeddings ---------------------------------------------------------------------------------
 */

static void embed(const pass *p, const plan_call *c)
{
    const model *m = p->m;
    const int64_t E = c->out_n;
    const float *tokens = m->params + m->at.tokens, *positions = m->params + m->at.positions, *mask;
    const int64_t ld = dropout_mask(p, c, E, &mask);
    for (int64_t i = 0; i < c->rows; i++) {
        const int64_t r = c->site->first + i;
        const float *t = tokens + m->pack.token[r] * E, *n = positions + m->pack.position[r] * E;
#pragma omp simd
        for (int64_t e = 0; e < E; e++)
            c->out[i * E + e] = (t[e] + n[e]) * mask[i * ld + e];
    }
}

/* Only the dropout's: the tables' are sums over all rows (host.c). */
static void embed_grad(const pass *p, const plan_call *c)
{
    const int64_t E = c->out_n;
    const float *mask;
    const int64_t ld = dropout_mask(p, c, E, &mask);
    for (int64_t i = 0; i < c->rows && ld > 0; i++) {
#pragma omp simd
        for (int64_t e = 0; e < E; e++)
            c->g_out[i * E + e] *= mask[i * ld + e];
    }
}

/* ---- products -----------------------------------------------------------------------------------
 */

/* W' of a layer's matrix, or NULL. */
static float *transposed_of(const model *m, plan_step s)
{
    return host_tiled(&m->config, s)
               ? m->host->transposed + (m->offset[s.layer][s.op->weight] - m->at.dense)
               : NULL;
}

void host_transpose(const pass *p)
{
    const model *m = p->m;
    const model_config *c = &m->config;
    for (int64_t i = 0; i < plan_count(c); i++) {
        const plan_step s = plan_at(c, i);
        if (host_tiled(c, s) && (s.layer == 0 || !c->tied))
            transpose(value_width(c, s.op->in), value_width(c, s.op->out),
                      m->params + m->offset[s.layer][s.op->weight], transposed_of(m, s));
    }
}

static void linear(const pass *p, const plan_call *c)
{
    linear_forward(p->m->products, c->rows, c->n, c->out_n, c->in, c->weight,
                   transposed_of(p->m, (plan_step){c->op, c->layer}), c->bias, c->out);
}

static void weight_grad(const pass *p, const plan_call *c)
{
    linear_weight_grad(p->m->products, c->rows, c->n, c->out_n, c->in, c->g_out, c->g_weight);
}

static void linear_grad(const pass *p, const plan_call *c)
{
    if (c->bias)
        column_sums(c->rows, c->out_n, c->g_out, c->g_bias);
    linear_input_grad(p->m->products, c->rows, c->n, c->out_n, c->weight, c->g_out, c->g_in);
    if (!value_is_cheap(c->op->in))
        weight_grad(p, c);
}

/* ---- row operators ------------------------------------------------------------------------------
 */

static void row(const pass *p, const plan_call *c)
{
    plan_call all = *c;
    all.mask_ld = dropout_mask(p, c, c->n, &all.mask);
    const row_args a = row_forward_args(&all, c->op->kind);
    p->m->row[c->op->kind]->fwd(&a);
}

/* The product that reads a cheap value comes next in the list, and has been walked over. */
static void row_grad(const pass *p, const plan_call *c)
{
    plan_call all = *c;
    const bool again = value_is_cheap(c->op->out);
    all.mask_ld = dropout_mask(p, c, c->n, &all.mask);
    all.out = again ? c->out : NULL;
    const row_args a = row_backward_args(&all, c->op->kind);
    p->m->row[c->op->kind]->bwd(&a);
    if (again) {
        const plan_call reader = call_at(c->site, c->number + 1);
        weight_grad(p, &reader);
    }
}

/* ---- attention ----------------------------------------------------------------------------------
 */

/* Calls one after the other, of which the first failure is kept. */
static void attention(const pass *p, const plan_call *c, bool backward)
{
    const model *m = p->m;
    const int64_t l = c->layer, N = m->config.length;
    const spectra_attention *att = attention_of(m, l);
    spectra_status *status = &m->host->status;
    for (int i = 0; i < attention_calls(m) && m->pack.rows > 0 && *status == SPECTRA_OK; i++) {
        const spectra_problem x = attention_problem(p, l, i);
        const attention_views v =
            attention_rows(m, N, i * x.B * N, c->in, c->out, c->g_in, c->g_out);
        void *saved = c->site->v->saved[ATTENTION_CALLS * l + i], *work = c->site->v->work;
        if (!backward) {
            *status = spectra_attention_forward(att, &x, v.q, v.k, v.v, v.o, saved, work);
            continue;
        }
        *status = spectra_attention_backward(att, &x, v.q, v.k, v.v, v.o, v.go, v.gq, v.gk, v.gv,
                                             saved, work);
        const int64_t trained = model_trained_at(m, l);
        if (*status == SPECTRA_OK)
            spectra_attention_trained_gradient(att, &x, work, m->params + trained,
                                               m->grads + trained);
    }
}

static void attend(const pass *p, const plan_call *c)
{
    model_timing *timing = p->m->timing;
    const double from = timing ? omp_get_wtime() : 0;
    attention(p, c, false);
    if (timing)
        timing->attention_forward += omp_get_wtime() - from;
}

static void attend_grad(const pass *p, const plan_call *c)
{
    model_timing *timing = p->m->timing;
    const double from = timing ? omp_get_wtime() : 0;
    attention(p, c, true);
    if (timing)
        timing->attention_backward += omp_get_wtime() - from;
}

/* ---- head ---------------------------------------------------------------------------------------
 */

/* One sequence, whose rows are normalised in scratch a chunk at a time. */
static void pool_sequence(const pass *p, plan_call c, int64_t number, float *scratch)
{
    const model *m = p->m;
    const packing *k = &m->pack;
    const int64_t E = c.n, N = m->config.length;
    float *pooled = c.out + number * E;
    c.in += k->seq_start[number] * E;
    c.out = m->config.cls ? pooled : scratch;
    const int64_t rows = m->config.cls ? 1 : k->seq_len[number];
    if (!m->config.cls)
        memset(pooled, 0, (size_t)E * sizeof *pooled);
    for (int64_t i = 0; i < rows; i += CHUNK, c.in += CHUNK * E) {
        c.rows = rows - i < CHUNK ? rows - i : CHUNK;
        const row_args a = row_forward_args(&c, OP_LAYERNORM);
        m->row[OP_LAYERNORM]->fwd(&a);
        if (m->config.cls)
            return;
        if (!k->mask)
            column_sums(c.rows, E, scratch, pooled);
        for (int64_t j = 0; k->mask && j < c.rows; j++)
            if (k->mask[number * N + i + j])
                column_sums(1, E, scratch + j * E, pooled);
    }
    for (int64_t e = 0; e < E; e++)
        pooled[e] /= (float)N;
}

static void pool(const pass *p, const plan_call *c)
{
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->m->host->threads)
    for (int64_t i = 0; i < c->site->shape->sequences; i++)
        pool_sequence(p, *c, i, own_scratch(p)->buffer[0][DIM_EMBED]);
}

/* By rows. The stream's gradient begins here. */
static void pool_grad(const pass *p, const plan_call *c)
{
    const model *m = p->m;
    const packing *pack = &m->pack;
    plan_call norm = *c;
    const int64_t E = c->n, N = m->config.length;
    const float share = m->config.cls ? 1 : 1 / (float)N;
    const float *g_pooled = host_value(m, G_POOLED, 0);
    float *g = own_scratch(p)->buffer[1][DIM_EMBED];
    for (int64_t i = 0; i < c->rows; i++) {
        const int64_t r = c->site->first + i, number = pack->sequence[r], n = pack->position[r];
        const bool counts = m->config.cls ? n == 0 : !pack->mask || pack->mask[number * N + n];
        for (int64_t e = 0; e < E; e++)
            g[i * E + e] = counts ? share * g_pooled[number * E + e] : 0;
    }
    memset(c->g_in, 0, (size_t)(c->rows * E) * sizeof *c->g_in);
    norm.g_out = g;
    norm.out = NULL;
    const row_args a = row_backward_args(&norm, OP_LAYERNORM);
    m->row[OP_LAYERNORM]->bwd(&a);
}

/* a, b, a*b, a-b of two sequences a, b; a single one has nothing to join. */
static void join(const pass *p, const plan_call *c)
{
    const int64_t B = p->batch->B, E = c->n;
    for (int64_t i = 0; i < B && p->m->config.dual; i++) {
        const float *a = c->in + i * E, *b = a + B * E;
        float *out = c->out + i * 4 * E;
        for (int64_t e = 0; e < E; e++) {
            out[e] = a[e];
            out[E + e] = b[e];
            out[2 * E + e] = a[e] * b[e];
            out[3 * E + e] = a[e] - b[e];
        }
    }
}

static void join_grad(const pass *p, const plan_call *c)
{
    const int64_t B = p->batch->B, E = c->n;
    for (int64_t i = 0; i < B && p->m->config.dual; i++) {
        const float *a = c->in + i * E, *b = a + B * E, *g = c->g_out + i * 4 * E;
        float *ga = c->g_in + i * E, *gb = ga + B * E;
        for (int64_t e = 0; e < E; e++) {
            ga[e] = g[e] + g[2 * E + e] * b[e] + g[3 * E + e];
            gb[e] = g[E + e] + g[2 * E + e] * a[e] - g[3 * E + e];
        }
    }
}

/* ---- all of them --------------------------------------------------------------------------------
 */

/* Those that are no row operators. */
static const struct {
    operation *forward, *backward;
} operations[] = {
    [OP_LINEAR] = {linear, linear_grad},    [OP_EMBED] = {embed, embed_grad},
    [OP_ATTENTION] = {attend, attend_grad}, [OP_POOL] = {pool, pool_grad},
    [OP_JOIN] = {join, join_grad},
};

void host_forward_op(const pass *p, const call_site *s, int64_t k)
{
    const plan_call c = call_at(s, k);
    (c.op->kind < ROW_OPERATORS ? row : operations[c.op->kind].forward)(p, &c);
}

void host_backward_op(const pass *p, const call_site *s, int64_t k)
{
    const plan_call c = call_at(s, k);
    (c.op->kind < ROW_OPERATORS ? row_grad : operations[c.op->kind].backward)(p, &c);
}
