#include "model/device_internal.h"

#include "base/status.h"
#include "kernel/programs.h"
#include "math/rng.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const float layernorm_eps = 1e-5f;

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
    [K_RECORD] = {"record", DEVICE_WARPS * sizeof(int)},
    [K_NORM_PART] = {"norm_part", DEVICE_THREADS * 16},
    [K_NORM_SUM] = {"norm_sum", DEVICE_THREADS * 16},
};

static const struct {
    const char *name;
    bool backward, shared;
} row_ops_here[ROWS] = {
    [ROW_LAYERNORM] = {"layernorm", true, true},
    [ROW_GELU] = {"gelu", true, true},
    [ROW_DROPOUT_RESIDUAL] = {"dropout_residual", true, true},
    [ROW_RELU] = {"relu", true, true},
    [ROW_CROSS_ENTROPY] = {"cross_entropy", true, false},
    [ROW_ADAMW] = {"adamw", false, false},
};

/* Shares as in templates/cuda/row.cuh. */
static void share_rows(row_kernels *r, int64_t n, int unit, bool shared_inputs)
{
    const bool known_short = n <= 1024;
    int lanes = 4;
    while (lanes < 32 && lanes * unit < n)
        lanes *= 2;
    r->n = n;
    r->shares = DEVICE_THREADS / lanes;
    r->shared_bytes = known_short && shared_inputs ? r->shares * n * (int64_t)sizeof(float) : 0;
}

static spectra_status load_row(model_device *md, int op, const jit_programs *list)
{
    row_kernels *r = &md->row[op];
    char name[48];
    snprintf(name, sizeof name, "row operator %s", row_ops_here[op].name);
    const jit_program *p = jit_programs_find(list, name);
    device_program *program = NULL;
    assert(op != ROW_ADAMW || p->plan.row == ADAMW_ROW);
    share_rows(r, p->plan.row, p->plan.unit, row_ops_here[op].shared);
    TRY(device_program_get(md->dev, name, p->text, &program));
    TRY(device_function_get(program, "row_fwd", 0, &r->fwd));
    if (row_ops_here[op].backward)
        TRY(device_function_get(program, "row_bwd", r->shared_bytes, &r->bwd));
    if (row_ops_here[op].shared)
        TRY(device_function_get(program, "row_bwd_shared", 0, &r->shared));
    return SPECTRA_OK;
}

static spectra_status load_all(model_device *md, const jit_programs *list)
{
    device_program *program = NULL;
    TRY(device_program_get(md->dev, "model", jit_programs_find(list, "model")->text, &program));
    for (int i = 0; i < KERNELS; i++)
        TRY(device_function_get(program, kernels[i].name, kernels[i].shared, &md->kernel[i]));
    for (int op = 0; op < ROWS; op++)
        TRY(load_row(md, op, list));
    return SPECTRA_OK;
}

spectra_status device_load_kernels(model_device *md)
{
    const model_config *c = &md->m->config;
    char defines[128];
    snprintf(defines, sizeof defines, "embed=%lld hidden=%lld inner=%lld classes=%lld aligned=%s",
             (long long)c->embed, (long long)c->hidden, (long long)model_inner(c),
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

keep_bits device_keep(const model_device *md, const pass *p, int use, int64_t layer)
{
    const model_config *c = &md->m->config;
    const int64_t narrow = bits_ld(c->embed), wide = bits_ld(c->hidden);
    if (!p->train || c->dropout <= 0)
        return (keep_bits){0};
    int64_t before = use == 0 ? 0
                              : narrow + layer * (2 * narrow + wide) + (use > 1 ? narrow : 0) +
                                    (use > 2 ? wide : 0);
    return (keep_bits){md->v.bits + md->shape.rows * before, use == 2 ? wide : narrow};
}

void device_draw(model_device *md, const pass *p)
{
    const model_config *c = &md->m->config;
    if (!p->train || c->dropout <= 0)
        return;
    const int64_t R = md->shape.rows;
    const draw_cuda_args a = {
        .bits = md->v.bits,
        .batch = md->up.batch,
        .cell = md->up.cell,
        .rows = R,
        .narrow = c->embed,
        .wide = c->hidden,
        .seed = {(uint32_t)c->seed, (uint32_t)(c->seed >> 32)},
        .use = {RNG_DROPOUT_EMBED, RNG_DROPOUT_ATTN, RNG_DROPOUT_GELU, RNG_DROPOUT_MLP},
        .threshold = dropout_threshold(c->dropout)};
    int64_t words =
        R * (bits_ld(c->embed) > bits_ld(c->hidden) ? bits_ld(c->embed) : bits_ld(c->hidden)) / 4;
    launch(md, K_DRAW, blocks_for(words, DEVICE_THREADS), 1 + 3 * c->layers, 1, &a, sizeof a);
}

static cuda_keep keep_of(const model_device *md, keep_bits keep)
{
    return (cuda_keep){keep.bits, keep.ld, dropout_factor(md->m->config.dropout)};
}

void device_embed(model_device *md, const pass *p)
{
    const model *m = md->m;
    const float *positions = md->params + m->at.positions;
    const embed_cuda_args a = {.share = share_of(md->shape.rows, m->config.embed, positions),
                               .token = md->up.token,
                               .cell = md->up.cell,
                               .tokens = md->params + m->at.tokens,
                               .positions = positions,
                               .keep = keep_of(md, device_keep(md, p, 0, 0)),
                               .x = md->v.x[0],
                               .length = m->config.length};
    launch(md, K_EMBED, share_blocks(&a.share), 1, 1, &a, sizeof a);
}

/* Both tables at once: that of positions lies behind that of tokens. */
void device_embed_grad(model_device *md, const pass *p)
{
    const model *m = md->m;
    const int64_t keys = m->config.vocab + m->config.length, E = m->config.embed;
    float *table = md->grads + m->at.tokens;
    table_cuda_args a = {.share = share_of(2 * md->shape.rows / SEGMENT + keys, E, table),
                         .row = md->up.sorted,
                         .segment = md->up.segment,
                         .key = md->up.key,
                         .g = md->v.g,
                         .keep = keep_of(md, device_keep(md, p, 0, 0)),
                         .part = md->v.part,
                         .table = table,
                         .keys = keys};
    launch(md, K_TABLE_PART, share_blocks(&a.share), 1, 1, &a, sizeof a);
    a.share.rows = keys;
    launch(md, K_TABLE_SUM, share_blocks(&a.share), 1, 1, &a, sizeof a);
}

/* ---- rows and sums over them --------------------------------------------------------------------
 */

void device_clear_tail(model_device *md, int64_t n, float *y)
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
    a.part = md->v.part;
    const int64_t columns = (int64_t)a.share.unit << a.share.shift;
    launch(md, K_COLUMN_PART, a.slabs, (a.share.n + columns - 1) / columns, a.sequences, &a,
           sizeof a);
    launch(md, K_COLUMN_SUM, blocks_for(a.sequences * a.share.n, DEVICE_WARPS), 1, 1, &a, sizeof a);
}

void device_column_sums(model_device *md, int64_t rows, int64_t n, const float *x, float *out)
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

void device_pool(model_device *md, const float *z, float *pooled)
{
    const model_config *c = &md->m->config;
    const int64_t longest = c->cls ? 1 : md->shape.longest;
    column_sums(md,
                (column_cuda_args){.share = share_of(md->shape.rows, c->embed, z),
                                   .x = z,
                                   .begin = md->up.begin,
                                   .len = md->up.len,
                                   .mask = c->cls ? NULL : md->up.mask,
                                   .limit = longest,
                                   .sequences = md->m->pack.sequences,
                                   .out = pooled,
                                   .factor = c->cls ? 1 : 1 / (float)c->length},
                longest);
}

void device_pool_grad(model_device *md, const float *g_pooled, float *gz)
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

void device_join(model_device *md, bool grad)
{
    const device_values *v = &md->v;
    const join_cuda_args a = {.B = md->shape.B,
                              .E = md->m->config.embed,
                              .pooled = v->pooled,
                              .joined = v->joined,
                              .g_joined = v->g_joined,
                              .g_pooled = v->g_pooled};
    launch(md, grad ? K_JOIN_GRAD : K_JOIN, blocks_for(a.B * a.E, DEVICE_THREADS), 1, 1, &a,
           sizeof a);
}

void device_record(model_device *md, bool loss)
{
    const model_config *c = &md->m->config;
    const record_cuda_args a = {.batch = md->up.batch,
                                .pooled = md->v.pooled,
                                .scores = md->v.scores,
                                .loss = loss ? md->v.loss : NULL,
                                .pooled_floats = md->m->pack.sequences * c->embed,
                                .B = md->shape.B,
                                .C = c->classes,
                                .words = md->journal_words,
                                .journal = md->journal};
    launch(md, K_RECORD, 1, 1, 1, &a, sizeof a);
}

/* ---- optimiser ----------------------------------------------------------------------------------
 */

void device_norm(model_device *md)
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

void device_adamw(model_device *md, const adamw *o, int64_t t, double lr, double beta1)
{
    const float b1 = (float)beta1, b2 = (float)o->beta2; /* as adamw_update */
    const float correction1 = (float)(1 - pow((double)b1, (double)t));
    const float correction2 = (float)sqrt(1 - pow((double)b2, (double)t));
    const int64_t n = ADAMW_ROW;
    row_cuda_args a = {.rows = md->padded / n,
                       .n = n,
                       .in = {md->params, md->grads, md->moment[0], md->moment[1]},
                       .ld_in = {n, n, n, n},
                       .out = {md->params, md->moment[0], md->moment[1]},
                       .ld_out = {n, n, n},
                       .c = {(float)lr, b1, b2, (float)o->eps, (float)o->weight_decay, correction1,
                             correction2, (float)o->clip}};
    launch_row(md, &md->row[ROW_ADAMW], false, &a);
}

/* ---- products -----------------------------------------------------------------------------------
 */

static void gemm(model_device *md, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                 const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                 int64_t ldc)
{
    if (md->status == SPECTRA_OK)
        md->status = device_gemm(md->dev, ta, tb, m, n, k, 1, a, lda, b, ldb, beta, c, ldc,
                                 md->options.fast);
}

void device_linear(model_device *md, int64_t rows, int64_t in, int64_t out, const float *x,
                   const float *w, const float *bias, float *y)
{
    if (bias) {
        const fill_cuda_args a = {.share = share_of(rows, out, bias), .bias = bias, .y = y};
        launch(md, K_FILL, share_blocks(&a.share), 1, 1, &a, sizeof a);
    }
    gemm(md, false, true, rows, out, in, x, in, w, in, bias ? 1 : 0, y, out);
}

void device_linear_grad(model_device *md, int64_t rows, int64_t in, int64_t out, const float *x,
                        const float *w, const float *gy, float *gx, float *gw)
{
    if (gx)
        gemm(md, false, false, rows, in, out, gy, out, w, in, 0, gx, in);
    gemm(md, true, false, out, in, rows, gy, out, x, in, 1, gw, in);
}

/* ---- row operators ------------------------------------------------------------------------------
 */

/* The parts of a launch over rows with two shared inputs; or slabs of column sums of every
 * sequence; or segments of the embeddings' gradient. */
int64_t device_part_floats(const model_device *md, int64_t rows)
{
    const model_config *c = &md->m->config;
    int64_t most = md->m->pack.sequences * slabs_of(md->shape.longest) * c->embed;
    const int64_t widest = 3 * model_inner(c) > c->classes ? 3 * model_inner(c) : c->classes;
    const int64_t need[] = {COLUMN_SLABS * widest,
                            (2 * rows / SEGMENT + c->vocab + c->length) * c->embed};
    for (size_t i = 0; i < sizeof need / sizeof need[0]; i++)
        most = need[i] > most ? need[i] : most;
    for (int op = 0; op < ROWS; op++) {
        const row_kernels *r = &md->row[op];
        int64_t parts = row_blocks(r, rows) * (r->shared_bytes ? 1 : r->shares);
        if (row_ops_here[op].shared && 2 * parts * r->n > most)
            most = 2 * parts * r->n;
    }
    return most;
}

static void row_forward(model_device *md, int op, row_cuda_args *a, float *y, int64_t ld)
{
    a->out[0] = y;
    a->ld_out[0] = ld;
    launch_row(md, &md->row[op], false, a);
}

static void row_backward(model_device *md, int op, row_cuda_args *a, const float *gy, int64_t ld)
{
    a->gout[0] = gy;
    a->ld_gout[0] = ld;
    a->part = md->v.part;
    launch_row(md, &md->row[op], true, a);
    if (row_ops_here[op].shared) {
        const int64_t blocks[3] = {blocks_for(a->n, DEVICE_WARPS), 1, 1};
        launch_grid(md, md->row[op].shared, blocks, 0, a, sizeof *a);
    }
}

static void put_keep(const model_device *md, row_cuda_args *a, keep_bits keep)
{
    a->keep = keep.bits;
    a->ld_keep = keep.ld;
    a->keep_factor = dropout_factor(md->m->config.dropout);
}

static row_cuda_args layernorm_args(const model_device *md, int64_t rows, const float *x,
                                    const float *norm)
{
    const int64_t n = md->m->config.embed;
    return (row_cuda_args){
        .rows = rows, .n = n, .in = {x, norm, norm + n}, .ld_in = {n, 0, 0}, .c = {layernorm_eps}};
}

void device_layernorm(model_device *md, int64_t rows, const float *x, const float *norm, float *y)
{
    row_cuda_args a = layernorm_args(md, rows, x, norm);
    row_forward(md, ROW_LAYERNORM, &a, y, a.n);
}

void device_layernorm_grad(model_device *md, int64_t rows, const float *x, const float *norm,
                           const float *gy, float *gx, float *gnorm, bool add)
{
    row_cuda_args a = layernorm_args(md, rows, x, norm);
    a.gin[0] = gx;
    a.ld_gin[0] = a.n;
    a.gin[1] = gnorm;
    a.gin[2] = gnorm + a.n;
    a.add = add ? 1 : 0;
    row_backward(md, ROW_LAYERNORM, &a, gy, a.n);
}

static row_cuda_args gelu_args(const model_device *md, int64_t rows, const float *x,
                               const float *bias, keep_bits keep)
{
    const int64_t n = md->m->config.hidden;
    row_cuda_args a = {.rows = rows, .n = n, .in = {x, bias}, .ld_in = {n, 0}};
    put_keep(md, &a, keep);
    return a;
}

void device_gelu(model_device *md, int64_t rows, const float *x, const float *bias, keep_bits keep,
                 float *y)
{
    row_cuda_args a = gelu_args(md, rows, x, bias, keep);
    row_forward(md, ROW_GELU, &a, y, a.n);
}

void device_gelu_grad(model_device *md, int64_t rows, const float *x, const float *bias,
                      keep_bits keep, const float *gy, float *gx, float *gbias)
{
    row_cuda_args a = gelu_args(md, rows, x, bias, keep);
    a.gin[0] = gx;
    a.ld_gin[0] = a.n;
    a.gin[1] = gbias;
    row_backward(md, ROW_GELU, &a, gy, a.n);
}

void device_dropout_residual(model_device *md, int64_t rows, const float *residual, const float *x,
                             const float *bias, keep_bits keep, float *y)
{
    const int64_t n = md->m->config.embed;
    row_cuda_args a = {.rows = rows, .n = n, .in = {residual, x, bias}, .ld_in = {n, n, 0}};
    put_keep(md, &a, keep);
    row_forward(md, ROW_DROPOUT_RESIDUAL, &a, y, n);
}

void device_dropout_residual_grad(model_device *md, int64_t rows, const float *bias, keep_bits keep,
                                  const float *gy, float *gx, float *gbias)
{
    const int64_t n = md->m->config.embed;
    /* linear in residual and x: their values do not matter */
    row_cuda_args a = {.rows = rows, .n = n, .in = {gy, gy, bias}, .ld_in = {n, n, 0}};
    put_keep(md, &a, keep);
    a.gin[1] = gx;
    a.ld_gin[1] = n;
    a.gin[2] = gbias;
    row_backward(md, ROW_DROPOUT_RESIDUAL, &a, gy, n);
}

void device_relu(model_device *md, int64_t rows, const float *x, const float *bias, float *y)
{
    const int64_t n = md->m->config.hidden;
    row_cuda_args a = {.rows = rows, .n = n, .in = {x, bias}, .ld_in = {n, 0}};
    row_forward(md, ROW_RELU, &a, y, n);
}

void device_relu_grad(model_device *md, int64_t rows, const float *x, const float *bias,
                      const float *gy, float *gx, float *gbias)
{
    const int64_t n = md->m->config.hidden;
    row_cuda_args a = {.rows = rows,
                       .n = n,
                       .in = {x, bias},
                       .ld_in = {n, 0},
                       .gin = {gx, gbias},
                       .ld_gin = {n, 0}};
    row_backward(md, ROW_RELU, &a, gy, n);
}

void device_cross_entropy(model_device *md, int64_t rows, const float *scores, const float *label,
                          float *loss)
{
    const int64_t n = md->m->config.classes;
    row_cuda_args a = {.rows = rows, .n = n, .in = {scores, label}, .ld_in = {n, 1}};
    row_forward(md, ROW_CROSS_ENTROPY, &a, loss, 1);
}

void device_cross_entropy_grad(model_device *md, int64_t rows, const float *scores,
                               const float *label, const float *g_loss, float *g_scores)
{
    const int64_t n = md->m->config.classes;
    row_cuda_args a = {.rows = rows,
                       .n = n,
                       .in = {scores, label},
                       .ld_in = {n, 1},
                       .gin = {g_scores},
                       .ld_gin = {n}};
    row_backward(md, ROW_CROSS_ENTROPY, &a, g_loss, 1);
}
