#include "model/internal.h"

#include "attention/attention.h"
#include "base/status.h"

#include <stdlib.h>
#include <string.h>

enum { LINE = 64 };

/* ---- arena --------------------------------------------------------------------------------------
 */

void *arena_take(arena *a, int64_t bytes)
{
    void *piece = a->base ? a->base + a->used : NULL;
    a->used += (bytes + LINE - 1) / LINE * LINE;
    return piece;
}

spectra_status arena_reserve(arena *a, int64_t bytes)
{
    if (bytes <= a->size && a->base)
        return SPECTRA_OK;
    arena_release(a);
    int64_t size = (bytes + bytes / 8 + LINE) / LINE * LINE; /* batches differ a little in length */
    a->base = aligned_alloc(LINE, (size_t)size);
    if (!a->base)
        return fail(SPECTRA_ENOMEM, "model: no memory for %lld bytes of activations",
                    (long long)size);
    a->size = size;
    return SPECTRA_OK;
}

void arena_release(arena *a)
{
    free(a->base);
    *a = (arena){0};
}

/* ---- rows ---------------------------------------------------------------------------------------
 */

static bool has_trait(const model *m, unsigned trait)
{
    return (m->attention[0]->kind->traits & trait) != 0;
}

static void take_index(arena *a, packing *k, const model *m)
{
    const model_config *c = &m->config;
    int64_t most = k->sequences * c->length;
    k->begin = arena_take(a, k->sequences * (int64_t)sizeof *k->begin);
    k->len = arena_take(a, k->sequences * (int64_t)sizeof *k->len);
    k->token = arena_take(a, most * (int64_t)sizeof *k->token);
    k->position = arena_take(a, most * (int64_t)sizeof *k->position);
    k->sequence = arena_take(a, most * (int64_t)sizeof *k->sequence);
    k->token_start = arena_take(a, (c->vocab + 1) * (int64_t)sizeof *k->token_start);
    k->token_rows = arena_take(a, most * (int64_t)sizeof *k->token_rows);
    k->position_start = arena_take(a, (c->length + 1) * (int64_t)sizeof *k->position_start);
    k->position_rows = arena_take(a, most * (int64_t)sizeof *k->position_rows);
    k->mask = has_trait(m, ATTENTION_PADDED) ? arena_take(a, most) : NULL;
}

/* Appends sequence number s. With CLS pooling token V-1 stands in front and the last one is lost.
 */
static spectra_status pack_sequence(const model_config *c, packing *k, int64_t s,
                                    const int32_t *ids, const uint8_t *mask)
{
    int64_t shift = c->cls ? 1 : 0;
    k->begin[s] = k->rows;
    for (int64_t n = 0; n < c->length; n++) {
        bool front = n < shift;
        int64_t id = front ? c->vocab - 1 : ids[n - shift];
        bool valid = front || (mask ? mask[n - shift] != 0 : id != 0);
        if (id < 0 || id >= c->vocab)
            return fail(SPECTRA_EINVAL, "model: token %lld at position %lld, allowed are 0 to %lld",
                        (long long)id, (long long)(n - shift), (long long)(c->vocab - 1));
        if (k->mask)
            k->mask[s * c->length + n] = valid;
        else if (!valid)
            continue;
        k->token[k->rows] = (int32_t)id;
        k->position[k->rows] = (int32_t)n;
        k->sequence[k->rows] = (int32_t)s;
        k->rows++;
    }
    k->len[s] = k->rows - k->begin[s];
    if (k->len[s] > k->longest)
        k->longest = k->len[s];
    return SPECTRA_OK;
}

/* Stable counting sort of the rows by key. start (keys + 1), sorted (rows). */
static void sort_rows(int64_t rows, const int32_t *key, int64_t keys, int32_t *start,
                      int32_t *sorted)
{
    memset(start, 0, (size_t)(keys + 1) * sizeof *start);
    for (int64_t r = 0; r < rows; r++)
        start[key[r] + 1]++;
    for (int64_t k = 0; k < keys; k++)
        start[k + 1] += start[k];
    for (int64_t r = 0; r < rows; r++)
        sorted[start[key[r]]++] = (int32_t)r;
    for (int64_t k = keys; k > 0; k--) /* each start has moved to the next one */
        start[k] = start[k - 1];
    start[0] = 0;
}

spectra_status model_pack(const pass *p)
{
    model *m = p->m;
    const model_config *c = &m->config;
    packing *k = &m->pack;
    int sides = c->dual ? 2 : 1;
    *k = (packing){.sequences = sides * p->batch->B};
    arena count = {0};
    take_index(&count, k, m);
    TRY(arena_reserve(&m->index, count.used));
    m->index.used = 0;
    take_index(&m->index, k, m);
    for (int64_t s = 0; s < k->sequences; s++) {
        int64_t side = s / p->batch->B, first = s % p->batch->B * c->length;
        const uint8_t *mask = p->batch->mask[side];
        TRY(pack_sequence(c, k, s, p->batch->ids[side] + first, mask ? mask + first : NULL));
    }
    if (p->train) {
        sort_rows(k->rows, k->token, c->vocab, k->token_start, k->token_rows);
        sort_rows(k->rows, k->position, c->length, k->position_start, k->position_rows);
    }
    return SPECTRA_OK;
}

/* ---- the attention's problem --------------------------------------------------------------------
 */

int attention_calls(const model *m)
{
    return m->config.dual && has_trait(m, ATTENTION_COUPLES_BATCH) ? 2 : 1;
}

spectra_problem attention_problem(const pass *p, int64_t layer, int call)
{
    const model *m = p->m;
    const packing *k = &m->pack;
    int64_t N = m->config.length;
    uint64_t where = (uint64_t)layer | (uint64_t)call << ATTENTION_CALL_BIT | p->part << 12;
    spectra_problem x = {.dropout = p->train ? m->config.attention_dropout : 0,
                         .seed = m->config.seed,
                         .step = where << 32 | (p->step & UINT32_MAX)};
    if (k->mask) {
        x.B = k->sequences / attention_calls(m);
        x.T = x.S = N;
        x.q_mask = x.k_mask = k->mask + call * x.B * N;
    } else {
        x.B = k->sequences;
        x.T = x.S = k->longest;
        x.q_begin = x.k_begin = k->begin;
        x.q_len = x.k_len = k->len;
    }
    return x;
}

/* ---- memory of a pass ---------------------------------------------------------------------------
 */

static float *take_floats(arena *a, int64_t n)
{
    return arena_take(a, n * (int64_t)sizeof(float));
}

static void take_layers(const pass *p, arena *a, activations *act)
{
    const model *m = p->m;
    const model_config *c = &m->config;
    const int64_t R = m->pack.rows, E = c->embed, F = c->hidden, HD = model_inner(c);
    int64_t work = 0;
    float **x = arena_take(a, (c->layers + 1) * (int64_t)sizeof *x);
    layer_values *layer = arena_take(a, c->layers * (int64_t)sizeof *layer);
    for (int64_t l = 0; l <= c->layers; l++) {
        float *at = l == 0 || p->train ? take_floats(a, R * E) : NULL;
        if (x)
            x[l] = at ? at : x[0];
    }
    for (int64_t l = 0; l < c->layers; l++) {
        layer_values v = {0};
        if (l > 0 && !p->train) {
            if (layer)
                layer[l] = layer[0];
            continue;
        }
        v.qkv = take_floats(a, R * 3 * HD);
        v.mixed = take_floats(a, R * HD);
        v.middle = take_floats(a, R * E);
        v.hidden = take_floats(a, R * F);
        for (int call = 0; call < attention_calls(m) && R > 0; call++) {
            spectra_problem problem = attention_problem(p, l, call);
            const spectra_attention *att = m->attention[l % m->attentions];
            v.saved[call] = arena_take(a, spectra_attention_saved_bytes(att, &problem));
            int64_t bytes = spectra_attention_work_bytes(att, &problem);
            if (bytes > work)
                work = bytes;
        }
        if (layer)
            layer[l] = v;
    }
    act->x = x;
    act->layer = layer;
    act->work = arena_take(a, work);
    const bool tiled = op_tiled(E, 3 * HD) || op_tiled(HD, E) || op_tiled(E, F);
    act->turned = tiled ? take_floats(a, m->at.count - m->at.dense) : NULL;
}

static void take_head(const pass *p, arena *a, activations *act)
{
    const model_config *c = &p->m->config;
    const int64_t B = p->batch->B, S = p->m->pack.sequences, E = c->embed, F = c->hidden;
    act->pooled = take_floats(a, S * E);
    act->joined = c->dual ? take_floats(a, B * 4 * E) : act->pooled;
    act->head1 = take_floats(a, B * F);
    act->head2 = take_floats(a, B * F);
    act->scores = take_floats(a, B * c->classes);
    act->label = take_floats(a, B);
    act->loss = take_floats(a, B);
    if (!p->train)
        return;
    act->g_scores = take_floats(a, B * c->classes);
    act->g_head1 = take_floats(a, B * F);
    act->g_pooled = take_floats(a, S * E);
    act->g_joined = c->dual ? take_floats(a, B * 4 * E) : act->g_pooled;
    act->g_loss = take_floats(a, B);
}

static void take_values(const pass *p, arena *a, activations *act)
{
    const model *m = p->m;
    const model_config *c = &m->config;
    const int64_t R = m->pack.rows, E = c->embed, F = c->hidden, HD = model_inner(c);
    *act = (activations){0};
    take_layers(p, a, act);
    take_head(p, a, act);
    chunk_scratch *local = arena_take(a, p->threads * (int64_t)sizeof *local);
    for (int t = 0; t < p->threads; t++) {
        chunk_scratch s;
        for (int i = 0; i < 2; i++) {
            s.narrow[i] = take_floats(a, CHUNK * E);
            s.wide[i] = take_floats(a, CHUNK * F);
        }
        s.keep = take_floats(a, CHUNK * (E > F ? E : F));
        if (local)
            local[t] = s;
    }
    act->local = local;
    if (!p->train)
        return;
    act->g = take_floats(a, R * E);
    act->g_mixed = take_floats(a, R * HD);
    act->g_qkv = take_floats(a, R * 3 * HD);
    act->slots = take_floats(a, SLOTS * (m->at.count - m->at.dense));
}

spectra_status model_prepare(pass *p)
{
    model *m = p->m;
    TRY(model_pack(p));
    p->chunks = (m->pack.rows + CHUNK - 1) / CHUNK;
    arena count = {0};
    take_values(p, &count, &m->act);
    TRY(arena_reserve(&m->values, count.used));
    m->values.used = 0;
    take_values(p, &m->values, &m->act);
    return SPECTRA_OK;
}
