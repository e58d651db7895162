#include "model/host_internal.h"

#include "base/status.h"
#include "model/products.h"

#include <omp.h>
#include <stdlib.h>

static int64_t widest(const model_config *c)
{
    return c->embed > c->hidden ? c->embed : c->hidden;
}

spectra_status host_new(const model_config *c, host_pass **out)
{
    host_pass *h = calloc(1, sizeof *h);
    if (!h)
        return fail(SPECTRA_ENOMEM, "model: out of memory");
    *out = h;
    h->ones = malloc((size_t)widest(c) * sizeof *h->ones);
    if (!h->ones)
        return fail(SPECTRA_ENOMEM, "model: out of memory");
    for (int64_t i = 0; i < widest(c); i++)
        h->ones[i] = 1;
    return values_new(c->layers, &h->v);
}

void host_free(host_pass *h)
{
    if (!h)
        return;
    arena_release(&h->memory);
    values_free(&h->v);
    free(h->ones);
    free(h);
}

static void attention_bytes(const void *of, int64_t layer, int call, int64_t *saved, int64_t *work)
{
    const pass *p = of;
    const spectra_problem x = attention_problem(p, layer, call);
    const bool any = p->m->pack.rows > 0;
    *saved = any ? spectra_attention_saved_bytes(attention_of(p->m, layer), &x) : 0;
    *work = any ? spectra_attention_work_bytes(attention_of(p->m, layer), &x) : 0;
}

static void take_scratch(const model_config *c, memory_layout *to, chunk_scratch *s)
{
    const char *const name = "chunks' scratch";
    *s = (chunk_scratch){0};
    bool taken[2][DIMS] = {{false}};
    for (value_id id = X; id < VALUES; id++) {
        const int gradient = value_table[id].live & TRAINING ? 1 : 0;
        const dim_id columns = value_table[id].columns;
        if (!value_is_cheap(id) || taken[gradient][columns])
            continue;
        taken[gradient][columns] = true;
        s->buffer[gradient][columns] = memory_floats(to, name, CHUNK * plan_dim(c, columns));
    }
    s->dropout_mask = memory_floats(to, name, CHUNK * widest(c));
}

bool host_tiled(const model_config *c, plan_step s)
{
    return s.op->kind == OP_LINEAR && s.layer < c->layers &&
           product_tiled(value_width(c, s.op->in), value_width(c, s.op->out));
}

static void take_all(const pass *p, memory_layout *to)
{
    const model *m = p->m;
    const model_config *c = &m->config;
    host_pass *h = m->host;
    const int64_t dense = m->at.count - m->at.dense;
    const attention_room attention = {attention_bytes, p, attention_calls(m)};
    bool tiled = false;
    memory_place(c, &h->shape, true, &attention, to, &h->v);
    for (int64_t i = 0; i < plan_count(c); i++)
        tiled = tiled || host_tiled(c, plan_at(c, i));
    h->transposed = tiled ? memory_floats(to, "transposed weights", dense) : NULL;
    h->local = memory_take(to, "chunks' scratch", h->threads * (int64_t)sizeof *h->local);
    for (int t = 0; t < h->threads; t++) {
        chunk_scratch s;
        take_scratch(c, to, &s);
        if (h->local)
            h->local[t] = s;
    }
    h->slots = p->train ? memory_floats(to, "partial gradients", SLOTS * dense) : NULL;
}

/* Labels, and the loss's gradient, which is the same for every example. */
static void fill_given(const pass *p)
{
    const values *v = &p->m->host->v;
    for (int64_t b = 0; b < p->batch->B; b++) {
        if (p->loss)
            value_at(v, LABEL, 0)[b] = (float)p->batch->label[b];
        if (p->train)
            value_at(v, G_LOSS, 0)[b] = (float)(p->scale / (double)p->batch->B);
    }
}

spectra_status host_prepare(const pass *p)
{
    const model *m = p->m;
    host_pass *h = m->host;
    TRY(model_pack(p));
    h->shape = (pass_shape){.train = p->train,
                            .B = p->batch->B,
                            .sequences = m->pack.sequences,
                            .rows = m->pack.rows,
                            .max_seqlen = m->pack.max_seqlen};
    h->status = SPECTRA_OK;
    h->threads = omp_get_max_threads();
    memory_layout count = {.part = NULL}, place = {.part = h->part};
    take_all(p, &count);
    TRY(arena_reserve(&h->memory, count.arena.used));
    place.arena = h->memory;
    take_all(p, &place);
    memory_count(&place, "spare", h->memory.size - place.arena.used);
    h->parts = place.parts;
    fill_given(p);
    return SPECTRA_OK;
}

float *host_value(const model *m, value_id id, int64_t layer)
{
    return value_at(&m->host->v, id, layer);
}

int64_t host_bytes(const host_pass *h)
{
    return h->memory.size;
}

int host_parts(const host_pass *h, const model_part **parts)
{
    *parts = h->part;
    return h->parts;
}
