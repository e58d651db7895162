#include "model/device_internal.h"

#include "base/status.h"

#include <stdlib.h>
#include <string.h>

/* ---- sizes --------------------------------------------------------------------------------------
 */

/* Batches of a data set differ in length: their rows are rounded up to a 32nd of what there can be,
 * so that few shapes occur and no more than 3 % of the largest batch is computed in vain. */
static int64_t round_up(int64_t n, int64_t most)
{
    int64_t step = 16;
    while (step * 32 < most)
        step *= 2;
    n = (n + step - 1) / step * step;
    return n < step ? step : n;
}

static pass_shape shape_of(const pass *p)
{
    const packing *k = &p->m->pack;
    const int64_t N = p->m->config.length;
    const bool whole = k->mask != NULL; /* always all rows */
    return (pass_shape){.train = p->train,
                        .B = p->batch->B,
                        .sequences = k->sequences,
                        .rows = whole ? k->rows : round_up(k->rows, k->sequences * N),
                        .max_seqlen = whole ? N : round_up(k->max_seqlen, N)};
}

/* ---- layout -------------------------------------------------------------------------------------
 */

static float *floats(arena *a, int64_t n)
{
    return arena_take(a, n * (int64_t)sizeof(float));
}

static int64_t keys_of(const model *m)
{
    return m->config.vocab + m->config.length;
}

static void take_upload(const model_device *md, arena *a, upload *u)
{
    const pass_shape *s = &md->shape;
    const int64_t S = md->m->pack.sequences, keys = keys_of(md->m);
    u->batch = arena_take(a, (int64_t)sizeof *u->batch);
    u->seq_start = arena_take(a, S * (int64_t)sizeof *u->seq_start);
    u->seq_len = arena_take(a, S * (int64_t)sizeof *u->seq_len);
    u->label = floats(a, s->B);
    u->g_loss = floats(a, s->B);
    u->token = arena_take(a, s->rows * (int64_t)sizeof *u->token);
    u->cell = arena_take(a, s->rows * (int64_t)sizeof *u->cell);
    u->mask = md->m->pack.mask ? arena_take(a, s->rows) : NULL;
    if (!s->train)
        return;
    u->sorted = arena_take(a, 2 * s->rows * (int64_t)sizeof *u->sorted);
    u->segment = arena_take(a, (2 * s->rows / SEGMENT + keys + 1) * (int64_t)sizeof *u->segment);
    u->key = arena_take(a, (keys + 1) * (int64_t)sizeof *u->key);
}

attention_device_problem md_problem(const model_device *md, int64_t layer, int call)
{
    const int64_t rows = md->shape.rows / attention_calls(md->m);
    attention_device_problem x = {.p = attention_problem(&md->pass, layer, call),
                                  .q_rows = rows,
                                  .k_rows = rows,
                                  .batch = md->up.batch};
    /* the rest is in the uploaded block */
    x.p.step = ((uint64_t)layer | (uint64_t)call << ATTENTION_CALL_BIT) << 32;
    if (md->m->pack.mask) {
        x.p.q_mask = x.p.k_mask = md->up.mask + call * rows;
        return x;
    }
    x.p.T = x.p.S = md->shape.max_seqlen;
    x.p.q_begin = x.p.k_begin = md->up.seq_start;
    x.p.q_len = x.p.k_len = md->up.seq_len;
    return x;
}

static void attention_bytes(const void *of, int64_t layer, int call, int64_t *saved, int64_t *work)
{
    const model_device *md = of;
    const attention_device *ad = md->attention[layer % md->m->attentions];
    const attention_device_problem x = md_problem(md, layer, call);
    *saved = attention_device_saved_bytes(ad, &x);
    *work = attention_device_work_bytes(ad, &x);
}

static void take_values(model_device *md, memory_layout *to)
{
    const model_config *c = &md->m->config;
    const attention_room attention = {attention_bytes, md, attention_calls(md->m)};
    memory_place(c, &md->shape, false, &attention, to, &md->v);
    values_give(&md->v, LABEL, md->up.label);
    values_give(&md->v, G_LOSS, md->up.g_loss);
    md->part = memory_floats(to, "sums", md_part_floats(md, md->shape.rows));
    md->bits =
        md->shape.train ? memory_take(to, "dropout", md->shape.rows * md_bits_bytes(c)) : NULL;
}

/* ---- memory -------------------------------------------------------------------------------------
 */

/* A block of device memory that is large enough; contents are lost. */
static spectra_status reserve(model_device *md, int64_t bytes, void **memory, int64_t *held)
{
    if (bytes <= *held)
        return SPECTRA_OK;
    TRY(device_wait(md->dev));
    md_forget(md);
    device_free(md->dev, *memory);
    *memory = NULL;
    *held = 0;
    TRY(device_alloc(md->dev, bytes, memory));
    *held = bytes;
    return SPECTRA_OK;
}

static spectra_status reserve_upload(model_device *md, int64_t bytes)
{
    if (bytes <= md->upload_bytes)
        return SPECTRA_OK;
    char *longer = realloc(md->staging, (size_t)bytes);
    if (!longer)
        return fail(SPECTRA_ENOMEM, "model: no memory for a batch of %lld bytes", (long long)bytes);
    md->staging = longer;
    return reserve(md, bytes, &md->uploaded, &md->upload_bytes);
}

void md_forget(model_device *md)
{
    for (int i = 0; i < SHAPES; i++)
        device_graph_free(md->dev, md->recorded[i].graph);
    memset(md->recorded, 0, sizeof md->recorded);
}

/* Every array of the pass; what it counts first fits every later pass of the shape. */
static spectra_status give_memory(model_device *md)
{
    arena count = {0};
    memory_layout room = {.part = NULL};
    take_upload(md, &count, &md->host);
    TRY(reserve_upload(md, count.used));
    md->up = (upload){0};
    arena twin[] = {{.base = md->staging}, {.base = md->uploaded}};
    take_upload(md, &twin[0], &md->host);
    take_upload(md, &twin[1], &md->up);
    take_values(md, &room);
    TRY(reserve(md, room.arena.used, &md->memory, &md->memory_bytes));
    room.arena = (arena){.base = md->memory};
    take_values(md, &room);
    return SPECTRA_OK;
}

/* ---- contents -----------------------------------------------------------------------------------
 */

/* Keys in order, each cut into segments of at most SEGMENT rows. */
static void fill_segments(const model_device *md)
{
    const model *m = md->m;
    const packing *k = &m->pack;
    const upload *u = &md->host;
    int32_t segments = 0, at = 0;
    const struct {
        int64_t keys;
        const int32_t *start;
    } table[2] = {{m->config.vocab, k->token_start}, {m->config.length, k->position_start}};
    int64_t key = 0;
    for (int t = 0; t < 2; t++)
        for (int64_t i = 0; i < table[t].keys; i++) {
            int32_t rows = table[t].start[i + 1] - table[t].start[i];
            u->key[key++] = segments;
            for (; rows > 0; rows -= SEGMENT) {
                u->segment[segments++] = at;
                at += rows < SEGMENT ? rows : SEGMENT;
            }
        }
    u->key[key] = segments;
    u->segment[segments] = at;
}

static void fill_upload(const model_device *md, const pass *p, int64_t entry)
{
    const packing *k = &md->m->pack;
    const upload *u = &md->host;
    const int64_t N = md->m->config.length, R = md->shape.rows, B = md->shape.B;
    const size_t row_bytes = (size_t)k->rows * sizeof(int32_t);
    *u->batch = (cuda_batch){.rows = k->rows,
                             .longest = k->max_seqlen,
                             .entry = entry,
                             .step = (uint32_t)p->step,
                             .part = (uint32_t)p->part};
    for (int64_t s = 0; s < k->sequences; s++) {
        u->seq_start[s] = k->seq_start[s];
        u->seq_len[s] = k->seq_len[s];
    }
    for (int64_t b = 0; b < B; b++) {
        u->label[b] = p->batch->label ? (float)p->batch->label[b] : 0;
        u->g_loss[b] = (float)(p->scale / (double)B);
    }
    memcpy(u->token, k->token, row_bytes);
    for (int64_t r = 0; r < k->rows; r++)
        u->cell[r] = (int32_t)(k->sequence[r] * N + k->position[r]);
    for (int64_t r = k->rows; r < R; r++)
        u->token[r] = u->cell[r] = -1;
    if (u->mask)
        memcpy(u->mask, k->mask, (size_t)R);
    if (!p->train)
        return;
    memcpy(u->sorted, k->token_rows, row_bytes);
    memcpy(u->sorted + k->rows, k->position_rows, row_bytes);
    fill_segments(md);
}

spectra_status md_prepare(model_device *md, int64_t entry)
{
    const pass *p = &md->pass;
    TRY(model_pack(p));
    md->shape = shape_of(p);
    TRY(give_memory(md));
    fill_upload(md, p, entry);
    arena used = {0};
    upload none;
    take_upload(md, &used, &none);
    return device_write(md->dev, md->uploaded, md->staging, used.used);
}
