#include "attention/softmax/softmax.h"

#include "attention/attention.h"
#include "kernel/registry.h"
#include "math/blas.h"
#include "math/rng.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* A tile of queries x keys, and the stride of its rows: a power of two apart they would fall on the
 * same few cache sets. */
enum { TQ = 96, TK = 128, LD = TK + PAD };

/* ---- one sequence and head ----------------------------------------------------------------------
 */

/* Of a thread. Widths are padded with zeros to DP and DVP, keys to whole tiles, SP. */
typedef struct tiles {
    float *k, *v, *gk, *gv; /* (SP, DP), (SP, DVP)  valid keys, gathered, and their gradients */
    float *kt, *vt;         /* (SP / TK, D or DV, LD)  tiles of keys, transposed */
    float *q, *gq;        /* (TQ, DP)  a tile of queries, times the scale, and gradients of these */
    float *o;             /* (TQ, DVP)  its outputs, in backward their gradients */
    float *add;           /* (TQ, DP or DVP)  what a tile of keys adds to one of these */
    float *p, *dp, *keep; /* (TQ, LD) */
    float *top, *sum, *dot; /* (TQ) */
    int64_t *key;           /* (S)  rows of the valid keys */
    int64_t DP, DVP, SP;
} tiles;

/* Sizes a thread's workspace; with memory not NULL also hands it out. */
static int64_t tiles_layout(int64_t D, int64_t DV, int64_t S, char *memory, tiles *t)
{
    const int64_t DP = pad16(D), DVP = pad16(DV), SP = (S + TK - 1) / TK * TK;
    const int64_t wide = DP > DVP ? DP : DVP;
    const struct {
        float **at;
        int64_t n;
    } part[] = {{&t->k, SP * DP},
                {&t->v, SP * DVP},
                {&t->gk, SP * DP},
                {&t->gv, SP * DVP},
                {&t->kt, D * SP / TK * LD},
                {&t->vt, DV * SP / TK * LD},
                {&t->q, TQ * DP},
                {&t->gq, TQ * DP},
                {&t->o, TQ * DVP},
                {&t->add, TQ * wide},
                {&t->p, TQ * LD},
                {&t->dp, TQ * LD},
                {&t->keep, TQ * LD},
                {&t->top, TQ},
                {&t->sum, TQ},
                {&t->dot, TQ}};
    int64_t used = 0;
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        if (memory)
            *part[i].at = (float *)(void *)(memory + used);
        used += pad16(part[i].n) * (int64_t)sizeof(float);
    }
    if (memory) {
        t->key = (int64_t *)(void *)(memory + used);
        t->DP = DP, t->DVP = DVP, t->SP = SP;
    }
    return used + pad16(S) * (int64_t)sizeof(int64_t);
}

typedef struct job {
    int64_t H, D, DV;
    bool causal;
    const spectra_problem *p;
    spectra_rows q, k, v, o, go, gq, gk, gv;
    float *lse; /* (rows, H) */
    const product_ops *ops;
    rng_stream stream;
    float scale;
} job;

typedef struct head {
    int64_t b, h, nq, nk; /* nk valid keys */
    float *q, *o, *go, *gq, *lse;
    uint64_t first; /* dropout element of (query 0, key 0) */
    int64_t width;  /* of one query's dropout elements */
} head;

/* Rows row[0..n-1] of src into dst (n, ld_dst) by `scale`, padded with zeros. row NULL: 0, 1, ...
 */
static void gather(int64_t n, const int64_t *row, float scale, const float *src, int64_t ld,
                   int64_t width, float *dst, int64_t ld_dst)
{
    for (int64_t i = 0; i < n; i++) {
        const float *from = src + (row ? row[i] : i) * ld;
        for (int64_t c = 0; c < width; c++)
            dst[i * ld_dst + c] = scale * from[c];
        for (int64_t c = width; c < ld_dst; c++)
            dst[i * ld_dst + c] = 0;
    }
}

/* Keys x (n, ld) into tiles (.., width, LD) of their transpose, the last filled up with zeros. */
static void transpose(int64_t n, int64_t width, const float *x, int64_t ld, float *tile)
{
    for (int64_t j0 = 0; j0 < n; j0 += TK, tile += width * LD)
        for (int64_t c = 0; c < width; c++)
            for (int64_t j = 0; j < TK; j++)
                tile[c * LD + j] = j0 + j < n ? x[(j0 + j) * ld + c] : 0;
}

static head head_open(const job *w, int64_t item, tiles *t)
{
    const spectra_problem *p = w->p;
    int64_t b = item / w->H, h = item % w->H;
    head x = {.b = b, .h = h, .nq = rows_length(p->q_len, b, p->T)};
    int64_t first_q = rows_first(p->q_begin, b, p->T), first_k = rows_first(p->k_begin, b, p->S);
    int64_t keys = rows_length(p->k_len, b, p->S);
    for (int64_t j = 0; j < keys; j++)
        if (!p->k_mask || p->k_mask[first_k + j])
            t->key[x.nk++] = j;
    gather(x.nk, t->key, 1, w->k.data + rows_at(&w->k, p->k_begin, b, h), w->k.stride_t, w->D, t->k,
           t->DP);
    gather(x.nk, t->key, 1, w->v.data + rows_at(&w->v, p->k_begin, b, h), w->v.stride_t, w->DV,
           t->v, t->DVP);
    transpose(x.nk, w->D, t->k, t->DP, t->kt);
    x.q = w->q.data + rows_at(&w->q, p->q_begin, b, h);
    x.o = w->o.data + rows_at(&w->o, p->q_begin, b, h);
    x.lse = w->lse + first_q * w->H + h;
    x.width = (p->S + 7) / 8 * 8;
    x.first = (uint64_t)item * (uint64_t)(p->T * x.width);
    return x;
}

static void clear(float *x, int64_t n)
{
    memset(x, 0, (size_t)n * sizeof *x);
}

static void draw_keep(const job *w, const head *x, int64_t i0, int64_t n, int64_t j0, int64_t m,
                      float *keep)
{
    for (int64_t i = 0; i < n; i++)
        rng_dropout(&w->stream, w->p->dropout, x->first + (uint64_t)((i0 + i) * x->width + j0), m,
                    keep + i * LD);
}

/* How many of the valid keys query i sees. */
static int64_t seen(const job *w, const head *x, const tiles *t, int64_t i)
{
    int64_t low = 0, high = x->nk;
    while (w->causal && low < high) {
        int64_t middle = (low + high) / 2;
        if (t->key[middle] <= i)
            low = middle + 1;
        else
            high = middle;
    }
    return high;
}

/* The same of keys j0 .. j0+m-1. */
static int64_t seen_in_tile(const job *w, const head *x, const tiles *t, int64_t i, int64_t j0,
                            int64_t m)
{
    int64_t n = w->causal ? seen(w, x, t, i) - j0 : m;
    return n < 0 ? 0 : n < m ? n : m;
}

/* Adds keys j0 .. j0+m-1 to the outputs t->o of queries i0 .. i0+n-1; t->top and t->sum hold their
 * running maxima and sums. */
static void forward_tile(const job *w, const head *x, const tiles *t, int64_t i0, int64_t n,
                         int64_t j0, int64_t m)
{
    w->ops->tile(n, pad16(m), w->D, t->q, t->DP, t->kt + j0 / TK * w->D * LD, LD, t->p, LD);
    if (w->p->dropout > 0)
        draw_keep(w, x, i0, n, j0, m, t->keep);
    float shrink[TQ];
    for (int64_t i = 0; i < n; i++) {
        float *row = t->p + i * LD;
        int64_t n_seen = seen_in_tile(w, x, t, i0 + i, j0, m);
        clear(row + pad16(n_seen), pad16(m) - pad16(n_seen));
        float top = n_seen > 0 ? w->ops->top(n_seen, row) : t->top[i];
        top = t->top[i] > top ? t->top[i] : top;
        shrink[i] = t->top[i] < top ? expf(t->top[i] - top) : 1;
        t->sum[i] = t->sum[i] * shrink[i] + w->ops->exp(n_seen, row, top);
        t->top[i] = top;
        if (w->p->dropout > 0)
            for (int64_t j = 0; j < n_seen; j++)
                row[j] *= t->keep[i * LD + j];
    }
    w->ops->tile(n, t->DVP, m, t->p, LD, t->v + j0 * t->DVP, t->DVP, t->add, t->DVP);
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < t->DVP; c++)
            t->o[i * t->DVP + c] = t->o[i * t->DVP + c] * shrink[i] + t->add[i * t->DVP + c];
}

static void forward_head(const job *w, int64_t item, tiles *t)
{
    head x = head_open(w, item, t);
    for (int64_t i0 = 0; i0 < x.nq; i0 += TQ) {
        int64_t n = x.nq - i0 < TQ ? x.nq - i0 : TQ;
        int64_t keys = seen(w, &x, t, i0 + n - 1);
        gather(n, NULL, w->scale, x.q + i0 * w->q.stride_t, w->q.stride_t, w->D, t->q, t->DP);
        clear(t->o, TQ * t->DVP);
        for (int64_t i = 0; i < n; i++)
            t->top[i] = -INFINITY, t->sum[i] = 0;
        for (int64_t j0 = 0; j0 < keys; j0 += TK)
            forward_tile(w, &x, t, i0, n, j0, keys - j0 < TK ? keys - j0 : TK);
        for (int64_t i = 0; i < n; i++) {
            float *out = x.o + (i0 + i) * w->o.stride_t;
            const float inverse = t->sum[i] != 0 ? 1 / t->sum[i] : 0;
            for (int64_t c = 0; c < w->DV; c++)
                out[c] = t->o[i * t->DVP + c] * inverse;
            x.lse[(i0 + i) * w->H] = t->sum[i] != 0 ? t->top[i] + logf(t->sum[i]) : 0;
        }
    }
}

/* Adds what queries i0 .. i0+n-1 and keys j0 .. j0+m-1 are to t->gq, t->gk and t->gv. */
static void backward_tile(const job *w, const head *x, const tiles *t, int64_t i0, int64_t n,
                          int64_t j0, int64_t m)
{
    const int64_t mp = pad16(m);
    bool drop = w->p->dropout > 0;
    w->ops->tile(n, mp, w->D, t->q, t->DP, t->kt + j0 / TK * w->D * LD, LD, t->p, LD);
    w->ops->tile(n, mp, w->DV, t->o, t->DVP, t->vt + j0 / TK * w->DV * LD, LD, t->dp, LD);
    if (drop)
        draw_keep(w, x, i0, n, j0, m, t->keep);
    for (int64_t i = 0; i < n; i++) {
        float *p = t->p + i * LD, *dp = t->dp + i * LD;
        int64_t n_seen = seen_in_tile(w, x, t, i0 + i, j0, m), rest = mp - pad16(n_seen);
        w->ops->grad(n_seen, p, dp, drop ? t->keep + i * LD : NULL, x->lse[(i0 + i) * w->H],
                     t->dot[i]);
        clear(p + pad16(n_seen), rest);
        clear(dp + pad16(n_seen), rest);
    }
    w->ops->sum(n, mp, t->DVP, t->p, LD, t->o, t->DVP, t->gv + j0 * t->DVP, t->DVP);
    w->ops->sum(n, mp, t->DP, t->dp, LD, t->q, t->DP, t->gk + j0 * t->DP, t->DP);
    w->ops->tile(n, t->DP, m, t->dp, LD, t->k + j0 * t->DP, t->DP, t->add, t->DP);
    for (int64_t i = 0; i < n * t->DP; i++)
        t->gq[i] += t->add[i];
}

/* Gradients of the gathered keys to their rows; the others get 0. */
static void scatter(const tiles *t, const head *x, int64_t rows, const float *src, int64_t ld_src,
                    int64_t width, float *dst, int64_t ld)
{
    int64_t j = 0;
    for (int64_t r = 0; r < rows; r++) {
        if (j < x->nk && t->key[j] == r)
            memcpy(dst + r * ld, src + j * ld_src, (size_t)width * sizeof *dst);
        else
            clear(dst + r * ld, width);
        j += j < x->nk && t->key[j] == r;
    }
}

static void backward_head(const job *w, int64_t item, tiles *t)
{
    head x = head_open(w, item, t);
    const spectra_problem *p = w->p;
    x.go = w->go.data + rows_at(&w->go, p->q_begin, x.b, x.h);
    x.gq = w->gq.data + rows_at(&w->gq, p->q_begin, x.b, x.h);
    transpose(x.nk, w->DV, t->v, t->DVP, t->vt);
    clear(t->gk, t->SP * t->DP);
    clear(t->gv, t->SP * t->DVP);
    for (int64_t i0 = 0; i0 < x.nq; i0 += TQ) {
        int64_t n = x.nq - i0 < TQ ? x.nq - i0 : TQ;
        gather(n, NULL, w->scale, x.q + i0 * w->q.stride_t, w->q.stride_t, w->D, t->q, t->DP);
        gather(n, NULL, 1, x.go + i0 * w->go.stride_t, w->go.stride_t, w->DV, t->o, t->DVP);
        for (int64_t i = 0; i < n; i++) {
            const float *out = x.o + (i0 + i) * w->o.stride_t;
            float dot = 0;
            for (int64_t c = 0; c < w->DV; c++)
                dot += out[c] * t->o[i * t->DVP + c];
            t->dot[i] = dot;
        }
        clear(t->gq, TQ * t->DP);
        int64_t keys = seen(w, &x, t, i0 + n - 1);
        for (int64_t j0 = 0; j0 < keys; j0 += TK)
            backward_tile(w, &x, t, i0, n, j0, keys - j0 < TK ? keys - j0 : TK);
        for (int64_t i = 0; i < n; i++)
            for (int64_t c = 0; c < w->D; c++)
                x.gq[(i0 + i) * w->gq.stride_t + c] = w->scale * t->gq[i * t->DP + c];
    }
    int64_t rows = rows_length(p->k_len, x.b, p->S);
    scatter(t, &x, rows, t->gk, t->DP, w->D, w->gk.data + rows_at(&w->gk, p->k_begin, x.b, x.h),
            w->gk.stride_t);
    scatter(t, &x, rows, t->gv, t->DVP, w->DV, w->gv.data + rows_at(&w->gv, p->k_begin, x.b, x.h),
            w->gv.stride_t);
}

/* ---- entry points -------------------------------------------------------------------------------
 */

int64_t softmax_saved_bytes(int64_t H, const spectra_problem *p)
{
    return pad16(rows_total(p->q_begin, p->q_len, p->B, p->T) * H) * (int64_t)sizeof(float);
}

int64_t softmax_work_bytes(int64_t H, int64_t D, int64_t DV, const spectra_problem *p)
{
    (void)H;
    tiles none;
    return omp_get_max_threads() * tiles_layout(D, DV, p->S, NULL, &none);
}

static void run(job *w, void *work, void (*one)(const job *, int64_t, tiles *))
{
    tiles none;
    int64_t size = tiles_layout(w->D, w->DV, w->p->S, NULL, &none), items = w->p->B * w->H;
    w->ops = registry_products();
    w->scale = 1 / sqrtf((float)w->D);
    w->stream =
        rng_open(w->p->seed, RNG_DROPOUT_PROB, (uint32_t)(w->p->step >> 32), (uint32_t)w->p->step);
#pragma omp parallel
    {
        tiles t;
        tiles_layout(w->D, w->DV, w->p->S, (char *)work + omp_get_thread_num() * size, &t);
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < items; item++)
            one(w, item, &t);
    }
}

spectra_status softmax_forward(softmax_sizes n, const spectra_problem *p, spectra_rows q,
                               spectra_rows k, spectra_rows v, spectra_rows o, void *saved,
                               void *work)
{
    job w = {.H = n.H, .D = n.D, .DV = n.DV, .causal = n.causal, .p = p};
    w.q = q, w.k = k, w.v = v, w.o = o, w.lse = saved;
    run(&w, work, forward_head);
    return SPECTRA_OK;
}

spectra_status softmax_backward(softmax_sizes n, const spectra_problem *p, spectra_rows q,
                                spectra_rows k, spectra_rows v, spectra_rows o, spectra_rows go,
                                spectra_rows gq, spectra_rows gk, spectra_rows gv, void *saved,
                                void *work)
{
    job w = {.H = n.H, .D = n.D, .DV = n.DV, .causal = n.causal, .p = p};
    w.q = q, w.k = k, w.v = v, w.o = o, w.lse = saved;
    w.go = go, w.gq = gq, w.gk = gk, w.gv = gv;
    run(&w, work, backward_head);
    return SPECTRA_OK;
}

/* ---- the kind ---------------------------------------------------------------------------------
 */

/* It has nothing to draw, set or keep: its functions only need the sizes. */
static spectra_status kind_init(spectra_attention *att, const void *options)
{
    (void)att, (void)options;
    return blas_open();
}

static void kind_release(spectra_attention *att)
{
    (void)att;
}

static int64_t kind_saved_bytes(const spectra_attention *att, const spectra_problem *p)
{
    return softmax_saved_bytes(att->desc.H, p);
}

static int64_t kind_work_bytes(const spectra_attention *att, const spectra_problem *p)
{
    return softmax_work_bytes(att->desc.H, att->desc.D, att->desc.DV, p);
}

static softmax_sizes sizes_of(const spectra_attention *att)
{
    return (softmax_sizes){att->desc.H, att->desc.D, att->desc.DV, att->desc.causal};
}

static spectra_status kind_forward(const spectra_attention *att, const spectra_problem *p,
                                   const attention_views *x, void *saved, void *work)
{
    return softmax_forward(sizes_of(att), p, x->q, x->k, x->v, x->o, saved, work);
}

static spectra_status kind_backward(const spectra_attention *att, const spectra_problem *p,
                                    const attention_views *x, void *saved, void *work)
{
    return softmax_backward(sizes_of(att), p, x->q, x->k, x->v, x->o, x->go, x->gq, x->gk, x->gv,
                            saved, work);
}

const attention_kind attention_softmax = {
    .name = "softmax",
    .doc = "exact, in tiles: no array of queries by keys",
    .traits = ATTENTION_DROPOUT | ATTENTION_CAUSAL,
    .init = kind_init,
    .release = kind_release,
    .saved_bytes = kind_saved_bytes,
    .work_bytes = kind_work_bytes,
    .forward = kind_forward,
    .backward = kind_backward,
    .device = &softmax_device_ops,
};
