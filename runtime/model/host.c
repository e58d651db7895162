#include "model/host_internal.h"

#include "base/status.h"
#include "model/products.h"

#include <omp.h>
#include <string.h>

/* ---- forward ------------------------------------------------------------------------------------
 */

static call_site whole_batch(const pass *p)
{
    model *m = p->m;
    return (call_site){
        .m = m, .v = &m->host->v, .shape = &m->host->shape, .params = m->params, .grads = m->grads};
}

static int64_t chunk_count(const pass *p)
{
    return (p->m->host->shape.rows + CHUNK - 1) / CHUNK;
}

/* Chunk `number`, whose parameters' gradients are added to a slot. */
static call_site chunk_at(const pass *p, int64_t number, float *slot)
{
    const host_pass *h = p->m->host;
    call_site s = whole_batch(p);
    s.first = number * CHUNK;
    s.rows = h->shape.rows - s.first < CHUNK ? h->shape.rows - s.first : CHUNK;
    s.scratch = h->local[omp_get_thread_num()].buffer;
    s.grads = slot;
    s.grads_first = p->m->at.dense;
    return s;
}

/* Operations first .. end-1 for every chunk; all are done by rows, which cannot fail. */
static void forward_chunks(const pass *p, int64_t first, int64_t end)
{
    const int64_t chunks = chunk_count(p);
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->m->host->threads)
    for (int64_t i = 0; i < chunks; i++) {
        const call_site c = chunk_at(p, i, NULL);
        for (int64_t k = first; k < end; k++)
            host_forward_op(p, &c, k);
    }
}

static bool forward_by_rows(plan_step s)
{
    return s.op->kind != OP_ATTENTION && value_about(s.op->out)->rows == OF_TOKENS;
}

spectra_status host_forward(const pass *p, int64_t until)
{
    const model_config *c = &p->m->config;
    const call_site all = whole_batch(p);
    host_transpose(p);
    for (int64_t i = 0, end; i < until; i = end) {
        for (end = i; end < until && forward_by_rows(plan_at(c, end));)
            end++;
        if (end > i)
            forward_chunks(p, i, end);
        else
            host_forward_op(p, &all, end++);
        TRY(p->m->host->status);
    }
    return SPECTRA_OK;
}

/* ---- backward -----------------------------------------------------------------------------------
 */

static int64_t slot_count(const pass *p)
{
    const int64_t chunks = chunk_count(p);
    return chunks < SLOTS ? chunks : SLOTS;
}

/* Operations end-1 .. first for every chunk, a slot's in order; `clear`: slots are empty yet. */
static void backward_chunks(const pass *p, int64_t first, int64_t end, bool clear)
{
    const model *m = p->m;
    const int64_t slots = slot_count(p), chunks = chunk_count(p), n = m->at.count - m->at.dense;
#pragma omp parallel for schedule(dynamic, 1) num_threads(m->host->threads)
    for (int64_t s = 0; s < slots; s++) {
        float *grad = m->host->slots + s * n;
        if (clear)
            memset(grad, 0, (size_t)n * sizeof *grad);
        for (int64_t i = s; i < chunks; i += SLOTS) {
            const call_site c = chunk_at(p, i, grad);
            for (int64_t k = end - 1; k >= first; k--)
                host_backward_op(p, &c, k);
        }
    }
}

/* grads += the slots, in order. */
static void add_slots(const pass *p)
{
    enum { BLOCK = 2048 };
    const model *m = p->m;
    const int64_t n = m->at.count - m->at.dense, blocks = (n + BLOCK - 1) / BLOCK;
    const int64_t slots = slot_count(p);
#pragma omp parallel for schedule(static) num_threads(m->host->threads)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t first = b * BLOCK, end = first + BLOCK < n ? first + BLOCK : n;
        for (int64_t s = 0; s < slots; s++) {
            const float *from = m->host->slots + s * n;
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
    const float *g = host_value(p->m, G_STREAM, 0);
    const int64_t share = keys > 1024 ? 16 : 1; /* few keys may have very different row counts */
#pragma omp parallel for schedule(dynamic, share) num_threads(p->m->host->threads)
    for (int64_t key = 0; key < keys; key++)
        for (int32_t i = start[key]; i < start[key + 1]; i++)
            column_sums(1, E, g + rows[i] * E, table + key * E);
}

static bool backward_by_rows(plan_step s)
{
    return s.op->kind == OP_EMBED ||
           (s.op->kind != OP_ATTENTION && value_about(s.op->in)->rows == OF_TOKENS);
}

spectra_status host_backward(const pass *p)
{
    const model *m = p->m;
    const model_config *c = &m->config;
    const packing *k = &m->pack;
    const call_site all = whole_batch(p);
    bool clear = true;
    for (int64_t end = plan_count(c), i; end > 0; end = i) {
        for (i = end; i > 0 && backward_by_rows(plan_at(c, i - 1));)
            i--;
        if (i == end) {
            host_backward_op(p, &all, --i);
            TRY(m->host->status);
            continue;
        }
        backward_chunks(p, i, end, clear);
        clear = false;
    }
    add_slots(p);
    add_table(p, c->vocab, k->token_start, k->token_rows, m->grads + m->at.tokens);
    add_table(p, c->length, k->position_start, k->position_rows, m->grads + m->at.positions);
    return SPECTRA_OK;
}

/* ---- divergence ---------------------------------------------------------------------------------
 */

spectra_status host_diverged(const pass *p)
{
    const model *m = p->m;
    const model_config *c = &m->config;
    const pass_shape *shape = &m->host->shape;
    for (int64_t i = 0; i < plan_count(c); i++) {
        const plan_step s = plan_at(c, i);
        const value_id out = s.op->out;
        const bool tokens = value_about(out)->rows == OF_TOKENS;
        if (value_is_cheap(out) || (tokens && !p->train)) /* layers share their memory */
            continue;
        const int64_t width = value_width(c, out);
        const int64_t at = first_bad(host_value(m, out, s.layer), value_height(shape, out) * width);
        if (at < 0)
            continue;
        if (!tokens)
            return fail(SPECTRA_EDIVERGED, "diverged: NaN or Inf first in the %s",
                        out == POOLED ? "pooled vectors" : "scores");
        if (s.op->kind == OP_EMBED)
            return fail(SPECTRA_EDIVERGED, "diverged: NaN or Inf first in the embeddings");
        return fail(SPECTRA_EDIVERGED,
                    "diverged: NaN or Inf first in the %s of layer %lld, sequence %lld",
                    out == NEXT_X ? "output" : value_about(out)->name, (long long)s.layer,
                    (long long)m->pack.sequence[at / width]);
    }
    return fail(SPECTRA_EDIVERGED, "diverged: NaN or Inf first in the scores");
}
