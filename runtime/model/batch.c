#include "model/internal.h"

#include "attention/attention.h"
#include "base/status.h"

#include <stdlib.h>
#include <string.h>

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
    k->seq_start = arena_take(a, k->sequences * (int64_t)sizeof *k->seq_start);
    k->seq_len = arena_take(a, k->sequences * (int64_t)sizeof *k->seq_len);
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
    k->seq_start[s] = k->rows;
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
    k->seq_len[s] = k->rows - k->seq_start[s];
    if (k->seq_len[s] > k->max_seqlen)
        k->max_seqlen = k->seq_len[s];
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
        x.T = x.S = k->max_seqlen;
        x.q_begin = x.k_begin = k->seq_start;
        x.q_len = x.k_len = k->seq_len;
    }
    return x;
}

attention_views attention_rows(const model *m, int64_t length, int64_t first, float *qkv,
                               float *out, float *g_qkv, float *g_out)
{
    const int64_t d = m->config.head_dim, HD = m->config.heads * d, wide = 3 * HD;
    const spectra_rows projected = {NULL, length * wide, d, wide},
                       narrow = {NULL, length * HD, d, HD};
    attention_views x = {.q = projected,
                         .k = projected,
                         .v = projected,
                         .o = narrow,
                         .go = narrow,
                         .gq = projected,
                         .gk = projected,
                         .gv = projected};
    x.q.data = qkv + first * wide;
    x.k.data = x.q.data + HD;
    x.v.data = x.k.data + HD;
    x.o.data = out + first * HD;
    if (g_qkv) {
        x.gq.data = g_qkv + first * wide;
        x.gk.data = x.gq.data + HD;
        x.gv.data = x.gk.data + HD;
        x.go.data = g_out + first * HD;
    }
    return x;
}
