#include "model/memory.h"

#include "base/status.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
const value_row value_table[VALUES] = {
    /*              name                             rows          columns      live               gradient */
    [X]          = {"inputs of layers",              OF_TOKENS,    DIM_EMBED,   PER_LAYER,         G_STREAM},
    [NORM1]      = {"norms",                         OF_TOKENS,    DIM_EMBED,   PER_LAYER | CHEAP, G_NARROW},
    [QKV]        = {"q, k, v",                       OF_TOKENS,    DIM_QKV,     PER_LAYER,         G_QKV},
    [ATTN_OUT]   = {"attention outputs",             OF_TOKENS,    DIM_INNER,   PER_LAYER,         G_ATTN_OUT},
    [PRODUCT]    = {"products",                      OF_TOKENS,    DIM_EMBED,   CHEAP,             G_NARROW},
    [RESID_MID]  = {"sums after attention",          OF_TOKENS,    DIM_EMBED,   PER_LAYER,         G_STREAM},
    [NORM2]      = {"norms",                         OF_TOKENS,    DIM_EMBED,   PER_LAYER | CHEAP, G_NARROW},
    [HIDDEN]     = {"hidden units",                  OF_TOKENS,    DIM_HIDDEN,  PER_LAYER,         G_WIDE},
    [GELU]       = {"outputs of GELU",               OF_TOKENS,    DIM_HIDDEN,  PER_LAYER | CHEAP, G_WIDE},
    [POOLED]     = {"head",                          OF_SEQUENCES, DIM_EMBED,   0,                 G_POOLED},
    [JOINED]     = {"head",                          OF_EXAMPLES,  DIM_JOINED,  0,                 G_JOINED},
    [HEAD1]      = {"head",                          OF_EXAMPLES,  DIM_HIDDEN,  0,                 G_HEAD},
    [HEAD2]      = {"head",                          OF_EXAMPLES,  DIM_HIDDEN,  0,                 G_HEAD},
    [SCORES]     = {"head",                          OF_EXAMPLES,  DIM_CLASSES, 0,                 G_SCORES},
    [LABEL]      = {"head",                          OF_EXAMPLES,  DIM_ONE,     GIVEN,             VALUE_NONE},
    [LOSS]       = {"head",                          OF_EXAMPLES,  DIM_ONE,     0,                 G_LOSS},
    [G_STREAM]   = {"gradient of the stream",        OF_TOKENS,    DIM_EMBED,   TRAINING,          VALUE_NONE},
    [G_NARROW]   = {"gradients passed on",           OF_TOKENS,    DIM_EMBED,   TRAINING | CHEAP,  VALUE_NONE},
    [G_WIDE]     = {"gradients passed on",           OF_TOKENS,    DIM_HIDDEN,  TRAINING | CHEAP,  VALUE_NONE},
    [G_ATTN_OUT] = {"gradient of attention outputs", OF_TOKENS,    DIM_INNER,   TRAINING,          VALUE_NONE},
    [G_QKV]      = {"gradient of q, k, v",           OF_TOKENS,    DIM_QKV,     TRAINING,          VALUE_NONE},
    [G_POOLED]   = {"head",                          OF_SEQUENCES, DIM_EMBED,   TRAINING,          VALUE_NONE},
    [G_JOINED]   = {"head",                          OF_EXAMPLES,  DIM_JOINED,  TRAINING,          VALUE_NONE},
    [G_HEAD]     = {"head",                          OF_EXAMPLES,  DIM_HIDDEN,  TRAINING,          VALUE_NONE},
    [G_SCORES]   = {"head",                          OF_EXAMPLES,  DIM_CLASSES, TRAINING,          VALUE_NONE},
    [G_LOSS]     = {"head",                          OF_EXAMPLES,  DIM_ONE,     TRAINING | GIVEN,  VALUE_NONE},
};
/* clang-format on */

/* ---- taking -------------------------------------------------------------------------------------
 */

void memory_count(memory_layout *to, const char *name, int64_t bytes)
{
    int i = 0;
    if (!to->part)
        return;
    while (i < to->parts && strcmp(to->part[i].name, name) != 0)
        i++;
    assert(i < MODEL_PARTS);
    if (i == to->parts)
        to->part[to->parts++] = (model_part){name, 0};
    to->part[i].bytes += bytes;
}

void *memory_take(memory_layout *to, const char *name, int64_t bytes)
{
    const int64_t before = to->arena.used;
    void *piece = arena_take(&to->arena, bytes);
    memory_count(to, name, to->arena.used - before);
    return piece;
}

float *memory_floats(memory_layout *to, const char *name, int64_t n)
{
    return memory_take(to, name, n * (int64_t)sizeof(float));
}

/* ---- values -------------------------------------------------------------------------------------
 */

spectra_status values_new(int64_t layers, values *out)
{
    values v = {.layers = layers};
    v.at = calloc((size_t)(VALUES * (layers + 1)), sizeof *v.at);
    v.saved = calloc((size_t)(ATTENTION_CALLS * layers), sizeof *v.saved);
    *out = v;
    return v.at && v.saved ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "model: out of memory");
}

void values_free(values *v)
{
    free(v->at);
    free(v->saved);
    *v = (values){0};
}

float *value_at(const values *v, value_id id, int64_t layer)
{
    return id == NEXT_X ? v->at[X * (v->layers + 1) + layer + 1]
                        : v->at[id * (v->layers + 1) + layer];
}

void values_give(values *v, value_id id, float *x)
{
    for (int64_t l = 0; l <= v->layers; l++)
        v->at[id * (v->layers + 1) + l] = x;
}

const value_row *value_about(value_id id)
{
    return &value_table[id == NEXT_X ? X : id];
}

int64_t value_height(const pass_shape *s, value_id id)
{
    const int64_t rows[] = {
        [OF_TOKENS] = s->rows, [OF_SEQUENCES] = s->sequences, [OF_EXAMPLES] = s->B};
    return rows[value_about(id)->rows];
}

int64_t value_width(const model_config *c, value_id id)
{
    return plan_dim(c, value_about(id)->columns);
}

/* ---- layout -------------------------------------------------------------------------------------
 */

/* X has one more, which enters the head. */
static void place_value(const model_config *c, const pass_shape *s, value_id id, memory_layout *to,
                        float **at)
{
    const value_row *row = &value_table[id];
    const int64_t n = value_height(s, id) * value_width(c, id);
    const int64_t last = id == X ? c->layers : c->layers - 1;
    for (int64_t l = 0; l <= c->layers; l++) {
        const bool own = l == 0 || (row->live & PER_LAYER && s->train && l <= last);
        at[l] = own ? memory_floats(to, row->name, n) : at[l - 1];
    }
}

static void place_attention(const model_config *c, const pass_shape *s,
                            const attention_room *attention, memory_layout *to, values *v)
{
    int64_t saved = 0, work = 0, most = 0;
    for (int64_t l = 0; l < c->layers; l++)
        for (int call = 0; call < attention->calls; call++) {
            void **at = &v->saved[ATTENTION_CALLS * l + call];
            if (l > 0 && !s->train) {
                *at = v->saved[call];
                continue;
            }
            attention->bytes(attention->of, l, call, &saved, &work);
            *at = memory_take(to, "kept by attention", saved);
            most = work > most ? work : most;
        }
    v->work = memory_take(to, "work of attention", most);
}

void memory_place(const model_config *c, const pass_shape *s, bool chunked,
                  const attention_room *attention, memory_layout *to, values *v)
{
    memset(v->at, 0, (size_t)(VALUES * (v->layers + 1)) * sizeof *v->at);
    for (value_id id = X; id < VALUES; id++) {
        const unsigned live = value_table[id].live;
        float **at = &v->at[id * (v->layers + 1)];
        const bool elsewhere = chunked ? live & CHEAP : live & GIVEN;
        if (elsewhere || (live & TRAINING && !s->train))
            continue;
        if (!c->dual && (id == JOINED || id == G_JOINED)) /* nothing to join */
            memcpy(at, &v->at[(id == JOINED ? POOLED : G_POOLED) * (v->layers + 1)],
                   (size_t)(v->layers + 1) * sizeof *at);
        else
            place_value(c, s, id, to, at);
    }
    place_attention(c, s, attention, to, v);
}
