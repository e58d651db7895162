#include "model/device_internal.h"

#include "base/status.h"
#include "kernel/programs.h"
#include "math/rng.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- kernels ------------------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    int64_t shared;
} kernels[KERNELS] = {
    [K_DRAW] = {"dropout_draw", 0},
    [K_EMBED] = {"embed", 0},
    [K_TABLE_PART] = {"table_part", 0},
    [K_TABLE_SUM] = {"table_sum", 0},
    [K_FILL] = {"fill_rows", 0},
    [K_TAIL] = {"clear_tail", 0},
    [K_COLUMN_PART] = {"column_part", DEVICE_THREADS * 4 * sizeof(float)},
    [K_COLUMN_SUM] = {"column_sum", 0},
    [K_POOL_GRAD] = {"pool_grad", 0},
    [K_JOIN] = {"join_pair", 0},
    [K_JOIN_GRAD] = {"join_pair_grad", 0},
    [K_JOURNAL] = {"record", DEVICE_WARPS * sizeof(int)},
    [K_NORM_PART] = {"norm_part", DEVICE_THREADS * 16},
    [K_NORM_SUM] = {"norm_sum", DEVICE_THREADS * 16},
};

static bool has_shared(int kind)
{
    return kind != ROW_UPDATE && row_operators[kind].shared;
}

static spectra_status load_row(model_device *md, int kind, const jit_programs *list)
{
    row_kernels *r = &md->row[kind];
    char name[48];
    snprintf(name, sizeof name, "row operator %s",
             kind == ROW_UPDATE ? optimiser_adamw.spec : row_operators[kind].name);
    const jit_program *p = jit_programs_find(list, name);
    device_program *program = NULL;
    assert(kind != ROW_UPDATE || p->plan.row == UPDATE_ROW);
    r->n = p->plan.row;
    r->shares = DEVICE_THREADS / p->plan.lanes;
    r->shared_bytes = p->plan.shared;
    TRY(device_program_get(md->dev, name, p->text, &program));
    TRY(device_function_get(program, "row_fwd", 0, &r->fwd));
    if (kind != ROW_UPDATE)
        TRY(device_function_get(program, "row_bwd", r->shared_bytes, &r->bwd));
    if (has_shared(kind))
        TRY(device_function_get(program, "row_bwd_shared", 0, &r->shared));
    return SPECTRA_OK;
}

static spectra_status load_all(model_device *md, const jit_programs *list)
{
    device_program *program = NULL;
    TRY(device_program_get(md->dev, "model", jit_programs_find(list, "model")->text, &program));
    for (int i = 0; i < KERNELS; i++)
        TRY(device_function_get(program, kernels[i].name, kernels[i].shared, &md->kernel[i]));
    for (int kind = 0; kind < ROW_KERNELS; kind++)
        TRY(load_row(md, kind, list));
    return SPECTRA_OK;
}

spectra_status md_load_kernels(model_device *md)
{
    const model_config *c = &md->m->config;
    char defines[128];
    snprintf(defines, sizeof defines, "embed=%lld hidden=%lld inner=%lld classes=%lld aligned=%s",
             (long long)c->embed, (long long)c->hidden, (long long)plan_dim(c, DIM_INNER),
             (long long)c->classes, md->m->at.dense % 4 == 0 ? "true" : "false");
    const jit_cuda_request request = {.kind = "model", .defines = defines};
    jit_programs list;
    TRY(jit_programs_make(&request, &list));
    spectra_status status = load_all(md, &list);
    jit_programs_free(&list);
    return status;
}

/* ---- launching ----------------------------------------------------------------------------------
 */

static void launch_grid(model_device *md, device_function *function, const int64_t blocks[3],
                        int64_t shared, const void *args, int64_t size)
{
    if (md->status != SPECTRA_OK)
        return;
    const device_grid grid = {.blocks = {blocks[0], blocks[1], blocks[2]},
                              .threads = DEVICE_THREADS,
                              .cluster = 1,
                              .shared_bytes = shared};
    md->status = device_launch(function, &grid, args, size);
}

static void launch(model_device *md, int kernel, int64_t x, int64_t y, int64_t z, const void *args,
                   int64_t size)
{
    const int64_t blocks[3] = {x, y, z};
    launch_grid(md, md->kernel[kernel], blocks, kernels[kernel].shared, args, size);
}

/* Blocks for so much work of `each` a block, where a block can go on to more. How many there are at
 * most decides in which order sums are made: so it is the same for every device. */
static int64_t blocks_for(int64_t work, int64_t each)
{
    int64_t blocks = (work + each - 1) / each;
    return blocks < 1 ? 1 : blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS;
}

static bool aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* Of (rows, n) where parameters at `more` are added to rows. */
static cuda_share share_of(int64_t rows, int64_t n, const void *more)
{
    cuda_share s = {.rows = rows, .n = n, .unit = n % 4 == 0 && aligned(more) ? 4 : 1};
    while (s.shift < 5 && (int64_t)s.unit << s.shift < n)
        s.shift++;
    return s;
}

static int64_t share_blocks(const cuda_share *s)
{
    return blocks_for(s->rows, DEVICE_THREADS >> s->shift);
}

/* ---- dropout and embeddings ---------------------------------------------------------------------
 */

static uint32_t dropout_threshold(double p)
{
    return (uint32_t)(p * 65536 + 0.5); /* dropout compares 16 bits (rng.h) */
}

static float dropout_factor(double p)
{
    uint32_t threshold = dropout_threshold(p);
    return threshold < 65536 ? 65536.0f / (float)(65536 - threshold) : 0;
}

static int64_t bits_ld(int64_t n)
{
    return (n + 127) / 128 * 16;
}

int64_t md_bits_bytes(const model_config *c)
{
    return bits_ld(c->embed) + c->layers * (2 * bits_ld(c->embed) + bits_ld(c->hidden));
}

/* Those of the embeddings come first, then a layer's attention, gelu and mlp (dropout_draw). */
static cuda_keep keep_of(const model_device *md, const plan_op *op, int64_t layer)
{
    const model_config *c = &md->m->config;
    const int64_t narrow = bits_ld(c->embed), wide = bits_ld(c->hidden);
    const dropout_use use = op->dropout;
    if (!use || !md->pass.train || c->dropout <= 0)
        return (cuda_keep){.factor = dropout_factor(c->dropout)};
    int64_t before = use == DROPOUT_EMBED ? 0 : narrow + layer * (2 * narrow + wide);
    before += use > DROPOUT_ATTN ? narrow : 0;
    before += use > DROPOUT_GELU ? wide : 0;
    return (cuda_keep){md->bits + md->shape.rows * before, use == DROPOUT_GELU ? wide : narrow,
                       dropout_factor(c->dropout)};
}

void md_draw(model_device *md)
{
    const model_config *c = &md->m->config;
    if (!md->pass.train || c->dropout <= 0)
        return;
    const int64_t R = md->shape.rows;
    const draw_cuda_args a = {.bits = md->bits,
                              .batch = md->up.batch,
                              .cell = md->up.cell,
                              .rows = R,
                              .narrow = c->embed,
                              .wide = c->hidden,
                              .seed = {(uint32_t)c->seed, (uint32_t)(c->seed >> 32)},
                              .use = {dropout_streams[DROPOUT_EMBED], dropout_streams[DROPOUT_ATTN],
                                      dropout_streams[DROPOUT_GELU], dropout_streams[DROPOUT_MLP]},
                              .threshold = dropout_threshold(c->dropout)};
    int64_t words =
        R * (bits_ld(c->embed) > bits_ld(c->hidden) ? bits_ld(c->embed) : bits_ld(c->hidden)) / 4;
    launch(md, K_DRAW, blocks_for(words, DEVICE_THREADS), 1 + 3 * c->layers, 1, &a, sizeof a);
}

void md_embed(model_device *md, const plan_call *c)
{
    const model *m = md->m;
    const float *positions = md->params + m->at.positions;
    const embed_cuda_args a = {.share = share_of(md->shape.rows, m->config.embed, positions),
                               .token = md->up.token,
                               .cell = md->up.cell,
                               .tokens = md->params + m->at.tokens,
                               .positions = positions,
                               .keep = keep_of(md, c->op, 0),
                               .x = c->out,
                               .length = m->config.length};
    launch(md, K_EMBED, share_blocks(&a.share), 1, 1, &a, sizeof a);
}

/* Both tables at once: that of positions lies behind that of tokens. */
void md_embed_grad(model_device *md, const plan_call *c)
{
    const model *m = md->m;
    const int64_t keys = m->config.vocab + m->config.length, E = m->config.embed;
    float *table = md->grads + m->at.tokens;
    table_cuda_args a = {.share = share_of(2 * md->shape.rows / SEGMENT + keys, E, table),
                         .row = md->up.sorted,
                         .segment = md->up.segment,
                         .key = md->up.key,
                         .g = c->g_out,
                         .keep = keep_of(md, c->op, 0),
                         .part = md->part,
                         .table = table,
                         .keys = keys};
    launch(md, K_TABLE_PART, share_blocks(&a.share), 1, 1, &a, sizeof a);
    a.share.rows = keys;
    launch(md, K_TABLE_SUM, share_blocks(&a.share), 1, 1, &a, sizeof a);
}

/* ---- rows and sums over them --------------------------------------------------------------------
 */

void md_clear_tail(model_device *md, int64_t n, float *y)
{
    const tail_cuda_args a = {
        .share = share_of(md->shape.rows, n, y), .batch = md->up.batch, .y = y};
    launch(md, K_TAIL, share_blocks(&a.share), 1, 1, &a, sizeof a);
}

enum { COLUMN_SLABS = 256, COLUMN_SLAB = 64 };

/* Rows of a slab, so that there are neither more than COLUMN_SLABS of them nor small ones. */
static int64_t slab_rows(int64_t rows)
{
    int64_t slab = (rows + COLUMN_SLABS - 1) / COLUMN_SLABS;
    return slab < COLUMN_SLAB ? COLUMN_SLAB : slab;
}

static int64_t slabs_of(int64_t rows)
{
    return (rows + slab_rows(rows) - 1) / slab_rows(rows);
}

static void column_sums(model_device *md, column_cuda_args a, int64_t longest)
{
    a.slab = slab_rows(longest);
    a.slabs = slabs_of(longest);
    a.part = md->part;
    const int64_t columns = (int64_t)a.share.unit << a.share.shift;
    launch(md, K_COLUMN_PART, a.slabs, (a.share.n + columns - 1) / columns, a.sequences, &a,
           sizeof a);
    launch(md, K_COLUMN_SUM, blocks_for(a.sequences * a.share.n, DEVICE_WARPS), 1, 1, &a, sizeof a);
}

static void sum_columns(model_device *md, int64_t rows, int64_t n, const float *x, float *out)
{
    column_sums(md,
                (column_cuda_args){.share = share_of(rows, n, x),
                                   .x = x,
                                   .limit = rows,
                                   .sequences = 1,
                                   .out = out,
                                   .factor = 1,
                                   .add = 1},
                rows);
}

void md_pool(model_device *md, const float *z, float *pooled)
{
    const model_config *c = &md->m->config;
    const int64_t longest = c->cls ? 1 : md->shape.max_seqlen;
    column_sums(md,
                (column_cuda_args){.share = share_of(md->shape.rows, c->embed, z),
                                   .x = z,
                                   .begin = md->up.seq_start,
                                   .len = md->up.seq_len,
                                   .mask = c->cls ? NULL : md->up.mask,
                                   .limit = longest,
                                   .sequences = md->m->pack.sequences,
                                   .out = pooled,
                                   .factor = c->cls ? 1 : 1 / (float)c->length},
                longest);
}

void md_pool_grad(model_device *md, const float *g_pooled, float *gz)
{
    const model_config *c = &md->m->config;
    const pool_cuda_args a = {.share = share_of(md->shape.rows, c->embed, g_pooled),
                              .cell = md->up.cell,
                              .mask = c->cls ? NULL : md->up.mask,
                              .g = g_pooled,
                              .y = gz,
                              .length = c->length,
                              .factor = c->cls ? 1 : 1 / (float)c->length,
                              .first = c->cls};
    launch(md, K_POOL_GRAD, share_blocks(&a.share), 1, 1, &a, sizeof a);
}

static void join(model_device *md, const plan_call *c, int kernel)
{
    const join_cuda_args a = {.B = md->shape.B,
                              .E = c->n,
                              .pooled = c->in,
                              .joined = c->out,
                              .g_joined = c->g_out,
                              .g_pooled = c->g_in};
    if (md->m->config.dual)
        launch(md, kernel, blocks_for(a.B * a.E, DEVICE_THREADS), 1, 1, &a, sizeof a);
}

void md_join(model_device *md, const plan_call *c)
{
    join(md, c, K_JOIN);
}

void md_join_grad(model_device *md, const plan_call *c)
{
    join(md, c, K_JOIN_GRAD);
}

void md_journal(model_device *md)
{
    const model_config *c = &md->m->config;
    const record_cuda_args a = {.batch = md->up.batch,
                                .pooled = value_at(&md->v, POOLED, 0),
                                .scores = value_at(&md->v, SCORES, 0),
                                .loss = md->pass.loss ? value_at(&md->v, LOSS, 0) : NULL,
                                .pooled_floats = md->m->pack.sequences * c->embed,
                                .B = md->shape.B,
                                .C = c->classes,
                                .words = md->journal_words,
                                .journal = md->journal};
    launch(md, K_JOURNAL, 1, 1, 1, &a, sizeof a);
}

/* ---- optimiser ----------------------------------------------------------------------------------
 */

void md_norm(model_device *md)
{
    const int64_t n = md->m->at.count, blocks = blocks_for(n, 16 * DEVICE_THREADS);
    const norm_cuda_args a = {.g = md->grads,
                              .n = n,
                              .parts = blocks < NORM_BLOCKS ? blocks : NORM_BLOCKS,
                              .part = md->norm_part,
                              .bad = (int64_t *)(md->norm_part + NORM_BLOCKS),
                              .batch = md->up.batch,
                              .words = md->journal_words,
                              .journal = md->journal};
    launch(md, K_NORM_PART, a.parts, 1, 1, &a, sizeof a);
    launch(md, K_NORM_SUM, 1, 1, 1, &a, sizeof a);
}

static int64_t row_blocks(const row_kernels *r, int64_t rows)
{
    return blocks_for(rows, r->shares);
}

static void launch_row(model_device *md, const row_kernels *r, bool backward, row_cuda_args *a)
{
    const int64_t blocks[3] = {row_blocks(r, a->rows), 1, 1};
    a->parts = r->shared_bytes ? blocks[0] : blocks[0] * r->shares;
    launch_grid(md, backward ? r->bwd : r->fwd, blocks, backward ? r->shared_bytes : 0, a,
                sizeof *a);
}

/* ---- products -----------------------------------------------------------------------------------
 */

/* C (m, n) = op(A) op(B) + beta C, all dense; op is the transpose where asked for. */
static void gemm(model_device *md, bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                 int64_t k, const float *a, const float *b, float beta, float *c)
{
    if (md->status == SPECTRA_OK)
        md->status =
            device_gemm(md->dev, transpose_a, transpose_b, m, n, k, 1, a, transpose_a ? m : k, b,
                        transpose_b ? k : n, beta, c, n, md->options.tf32);
}

void md_linear(model_device *md, const plan_call *c)
{
    if (c->bias) {
        const fill_cuda_args a = {
            .share = share_of(c->rows, c->out_n, c->bias), .bias = c->bias, .y = c->out};
        launch(md, K_FILL, share_blocks(&a.share), 1, 1, &a, sizeof a);
    }
    gemm(md, false, true, c->rows, c->out_n, c->n, c->in, c->weight, c->bias ? 1 : 0, c->out);
}

void md_linear_grad(model_device *md, const plan_call *c)
{
    if (c->bias)
        sum_columns(md, c->rows, c->out_n, c->g_out, c->g_bias);
    gemm(md, false, false, c->rows, c->n, c->out_n, c->g_out, c->weight, 0, c->g_in);
    gemm(md, true, false, c->out_n, c->n, c->rows, c->g_out, c->in, 1, c->g_weight);
}

/* ---- row operators ------------------------------------------------------------------------------
 */

/* The parts of a launch over rows with two shared inputs; or slabs of column sums of every
 * sequence; or segments of the embeddings' gradient. */
int64_t md_part_floats(const model_device *md, int64_t rows)
{
    const model_config *c = &md->m->config;
    int64_t most = md->m->pack.sequences * slabs_of(md->shape.max_seqlen) * c->embed;
    const int64_t widest = plan_dim(c, DIM_QKV) > c->classes ? plan_dim(c, DIM_QKV) : c->classes;
    const int64_t need[] = {COLUMN_SLABS * widest,
                            (2 * rows / SEGMENT + c->vocab + c->length) * c->embed};
    for (size_t i = 0; i < sizeof need / sizeof need[0]; i++)
        most = need[i] > most ? need[i] : most;
    for (int kind = 0; kind < ROW_OPERATORS; kind++) {
        const row_kernels *r = &md->row[kind];
        int64_t parts = row_blocks(r, rows) * (r->shared_bytes ? 1 : r->shares);
        if (has_shared(kind) && 2 * parts * r->n > most)
            most = 2 * parts * r->n;
    }
    return most;
}

/* The host's arguments as the device's. */
static row_cuda_args row_args_of(const row_args *from, const cuda_keep *keep)
{
    row_cuda_args a = {.rows = from->rows,
                       .n = from->n,
                       .add = from->add,
                       .keep = keep->bits,
                       .ld_keep = keep->ld,
                       .keep_factor = keep->factor};
    static_assert(sizeof a.in == sizeof from->in && sizeof a.c == sizeof from->c,
                  "the same arrays");
    memcpy(a.in, from->in, sizeof a.in);
    memcpy(a.ld_in, from->ld_in, sizeof a.ld_in);
    memcpy(a.out, from->out, sizeof a.out);
    memcpy(a.ld_out, from->ld_out, sizeof a.ld_out);
    memcpy(a.gout, from->gout, sizeof a.gout);
    memcpy(a.ld_gout, from->ld_gout, sizeof a.ld_gout);
    memcpy(a.gin, from->gin, sizeof a.gin);
    memcpy(a.ld_gin, from->ld_gin, sizeof a.ld_gin);
    memcpy(a.c, from->c, sizeof a.c);
    return a;
}

void md_row(model_device *md, const plan_call *c, plan_kind kind, bool backward)
{
    const row_kernels *r = &md->row[kind];
    const row_args host = backward ? row_backward_args(c, kind) : row_forward_args(c, kind);
    const cuda_keep keep = keep_of(md, c->op, c->layer);
    row_cuda_args a = row_args_of(&host, &keep);
    a.part = md->part;
    launch_row(md, r, backward, &a);
    if (backward && r->shared) {
        const int64_t blocks[3] = {blocks_for(a.n, DEVICE_WARPS), 1, 1};
        launch_grid(md, r->shared, blocks, 0, &a, sizeof a);
    }
}

void md_update(model_device *md, const adamw *o, int64_t t, double lr, double beta1)
{
    const cuda_keep none = {.bits = NULL};
    float c[ROW_MAX];
    optimiser_adamw.constants(o, t, lr, beta1, c);
    const row_args host = optimiser_args(&optimiser_adamw, md->padded / UPDATE_ROW, UPDATE_ROW,
                                         md->params, md->grads, md->moment, c);
    row_cuda_args a = row_args_of(&host, &none);
    launch_row(md, &md->row[ROW_UPDATE], false, &a);
}
