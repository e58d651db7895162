#include "attention_softmax.h"

#include "attention.h"
#include "blas.h"
#include "registry.h"
#include "rng.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { TQ = 128, TK = 256, LINE = 16 }; /* tile of queries x keys; floats in a cache line */

static int64_t align_line(int64_t n)
{
    return (n + LINE - 1) / LINE * LINE;
}

/* ---- loops over one row of scores, for the instruction sets worth having -----------------------
 */

/* e^x for x <= 0, relative error below 2e-7; 0 below -87. Reduced by 2^n, then the Taylor
 * polynomial on |r| <= ln(2)/2; adding 1.5 * 2^23 rounds and leaves n in the low bits. */
static inline __attribute__((always_inline)) float exp_negative(float x)
{
    union {
        float f;
        uint32_t u;
    } n, y;
    float clamped = x < -87.0f ? -87.0f : x; /* NaN stays */
    n.f = clamped * 1.44269504f + 12582912.0f;
    float k = n.f - 12582912.0f;
    float r = clamped - k * 0.693359375f + k * 2.12194440e-4f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    y.f = p * r + 1.0f;
    y.u += n.u << 23;
    return x < -87.0f ? 0.0f : y.f;
}

typedef float lanes __attribute__((vector_size(LINE * sizeof(float)), aligned(4)));
typedef int32_t lanes_mask __attribute__((vector_size(LINE * sizeof(float))));

static inline __attribute__((always_inline)) float row_max_body(int64_t n, const float *x)
{
    int64_t j = 0;
    float top = x[0];
    if (n >= LINE) {
        lanes best = *(const lanes *)x;
        for (; j + LINE <= n; j += LINE) {
            lanes next = *(const lanes *)(x + j);
            lanes_mask more = next > best;
            best = (lanes)(((lanes_mask)next & more) | ((lanes_mask)best & ~more));
        }
        for (int c = 0; c < LINE; c++)
            top = best[c] > top ? best[c] : top;
    }
    for (; j < n; j++)
        top = x[j] > top ? x[j] : top;
    return top;
}

/* x <- exp(x - top); returns the sum. */
static inline __attribute__((always_inline)) float row_exp_body(int64_t n, float *x, float top)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) {
        x[j] = exp_negative(x[j] - top);
        sum += x[j];
    }
    return sum;
}

/* From scores s and gradients dp of the probabilities after dropout: dp <- gradient of s. `dot` is
 * the query's <go, o>. s - lse may exceed 0 by rounding. */
static inline __attribute__((always_inline)) void
row_grad_body(int64_t n, float *s, float *dp, const float *keep, float lse, float dot)
{
    if (keep) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            float p = exp_negative(s[j] - lse);
            s[j] = p * keep[j];
            dp[j] = p * (keep[j] * dp[j] - dot);
        }
    } else {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            float p = exp_negative(s[j] - lse);
            s[j] = p;
            dp[j] = p * (dp[j] - dot);
        }
    }
}

typedef struct row_loops {
    float (*max)(int64_t n, const float *x);
    float (*exp)(int64_t n, float *x, float top);
    void (*grad)(int64_t n, float *s, float *dp, const float *keep, float lse, float dot);
} row_loops;

#define ROW_LOOPS(suffix, attribute)                                                           \
    attribute static float row_max_##suffix(int64_t n, const float *x)                         \
    {                                                                                          \
        return row_max_body(n, x);                                                             \
    }                                                                                          \
    attribute static float row_exp_##suffix(int64_t n, float *x, float top)                    \
    {                                                                                          \
        return row_exp_body(n, x, top);                                                        \
    }                                                                                          \
    attribute static void row_grad_##suffix(int64_t n, float *s, float *dp, const float *keep, \
                                            float lse, float dot)                              \
    {                                                                                          \
        row_grad_body(n, s, dp, keep, lse, dot);                                               \
    }
#define NO_ATTRIBUTE
ROW_LOOPS(portable, NO_ATTRIBUTE)
#if defined(__x86_64__)
ROW_LOOPS(avx2, __attribute__((target("avx2,fma"))))
ROW_LOOPS(avx512, __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))))
static const row_loops loops[ISA_COUNT] = {
    {row_max_portable, row_exp_portable, row_grad_portable},
    {row_max_avx2, row_exp_avx2, row_grad_avx2},
    {row_max_avx512, row_exp_avx512, row_grad_avx512},
};
#else
static const row_loops loops[1] = {{row_max_portable, row_exp_portable, row_grad_portable}};
#endif

static const row_loops *loops_here(void)
{
    return &loops[registry_isa() < (int)(sizeof loops / sizeof loops[0]) ? registry_isa() : 0];
}

/* ---- one sequence and head ----------------------------------------------------------------------
 */

typedef struct tiles {
    float *k, *v, *gk, *gv; /* (S, D), (S, DV): valid keys, gathered, and their gradients */
    float *p, *dp, *keep;   /* (TQ, TK) */
    float *top, *sum, *dot; /* (TQ) */
    int64_t *key;           /* (S) rows of the valid keys */
} tiles;

/* Sizes a thread's workspace; with memory not NULL also hands it out. */
static int64_t tiles_layout(int64_t D, int64_t DV, int64_t S, char *memory, tiles *t)
{
    const struct {
        float **at;
        int64_t n;
    } part[] = {{&t->k, S * D},   {&t->v, S * DV},   {&t->gk, S * D},     {&t->gv, S * DV},
                {&t->p, TQ * TK}, {&t->dp, TQ * TK}, {&t->keep, TQ * TK}, {&t->top, TQ},
                {&t->sum, TQ},    {&t->dot, TQ}};
    int64_t used = 0;
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        if (memory)
            *part[i].at = (float *)(void *)(memory + used);
        used += align_line(part[i].n) * (int64_t)sizeof(float);
    }
    if (memory)
        t->key = (int64_t *)(void *)(memory + used);
    return used + align_line(S) * (int64_t)sizeof(int64_t);
}

typedef struct job {
    int64_t H, D, DV;
    bool causal;
    const spectra_problem *p;
    spectra_rows q, k, v, o, go, gq, gk, gv;
    float *lse; /* (rows, H) */
    const row_loops *row;
    rng_stream stream;
    float scale;
} job;

typedef struct head {
    int64_t b, h, nq, nk; /* nk valid keys */
    float *q, *o, *go, *gq, *lse;
    uint64_t first; /* dropout element of (query 0, key 0) */
    int64_t width;  /* of one query's dropout elements */
} head;

static void gather(int64_t n, const int64_t *row, const float *src, int64_t ld, int64_t width,
                   float *dst)
{
    for (int64_t j = 0; j < n; j++)
        memcpy(dst + j * width, src + row[j] * ld, (size_t)width * sizeof *dst);
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
    gather(x.nk, t->key, w->k.data + rows_at(&w->k, p->k_begin, b, h), w->k.stride_t, w->D, t->k);
    gather(x.nk, t->key, w->v.data + rows_at(&w->v, p->k_begin, b, h), w->v.stride_t, w->DV, t->v);
    x.q = w->q.data + rows_at(&w->q, p->q_begin, b, h);
    x.o = w->o.data + rows_at(&w->o, p->q_begin, b, h);
    x.lse = w->lse + first_q * w->H + h;
    x.width = (p->S + 7) / 8 * 8;
    x.first = (uint64_t)item * (uint64_t)(p->T * x.width);
    return x;
}

static void clear(float *rows, int64_t n, int64_t ld, int64_t width)
{
    for (int64_t i = 0; i < n; i++)
        memset(rows + i * ld, 0, (size_t)width * sizeof *rows);
}

static void draw_keep(const job *w, const head *x, int64_t i0, int64_t n, int64_t j0, int64_t m,
                      float *keep)
{
    for (int64_t i = 0; i < n; i++)
        rng_dropout(&w->stream, w->p->dropout, x->first + (uint64_t)((i0 + i) * x->width + j0), m,
                    keep + i * TK);
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

/* Adds keys j0 .. j0+m-1 to the outputs of queries i0 .. i0+n-1; t->top and t->sum hold their
 * running maxima and sums. */
static void forward_tile(const job *w, const head *x, const tiles *t, int64_t i0, int64_t n,
                         int64_t j0, int64_t m)
{
    float *o = x->o + i0 * w->o.stride_t;
    blas_sgemm(false, true, n, m, w->D, w->scale, x->q + i0 * w->q.stride_t, w->q.stride_t,
               t->k + j0 * w->D, w->D, 0, t->p, TK);
    if (w->p->dropout > 0)
        draw_keep(w, x, i0, n, j0, m, t->keep);
    for (int64_t i = 0; i < n; i++) {
        float *row = t->p + i * TK, *out = o + i * w->o.stride_t;
        int64_t n_seen = seen_in_tile(w, x, t, i0 + i, j0, m);
        memset(row + n_seen, 0, (size_t)(m - n_seen) * sizeof *row);
        if (n_seen == 0) {
            t->sum[i] = j0 > 0 ? t->sum[i] : 0;
            continue;
        }
        float top = w->row->max(n_seen, row);
        if (j0 > 0 && t->top[i] > top)
            top = t->top[i];
        float sum = w->row->exp(n_seen, row, top);
        if (j0 > 0) {
            float shrink = expf(t->top[i] - top);
            sum += t->sum[i] * shrink;
            for (int64_t c = 0; c < w->DV; c++)
                out[c] *= shrink;
        }
        t->top[i] = top;
        t->sum[i] = sum;
        if (w->p->dropout > 0)
            for (int64_t j = 0; j < n_seen; j++)
                row[j] *= t->keep[i * TK + j];
    }
    blas_sgemm(false, false, n, w->DV, m, 1, t->p, TK, t->v + j0 * w->DV, w->DV, j0 > 0, o,
               w->o.stride_t);
}

static void forward_head(const job *w, int64_t item, tiles *t)
{
    head x = head_open(w, item, t);
    if (x.nk == 0) {
        clear(x.o, x.nq, w->o.stride_t, w->DV);
        for (int64_t i = 0; i < x.nq; i++)
            x.lse[i * w->H] = 0;
        return;
    }
    for (int64_t i0 = 0; i0 < x.nq; i0 += TQ) {
        int64_t n = x.nq - i0 < TQ ? x.nq - i0 : TQ;
        int64_t keys = seen(w, &x, t, i0 + n - 1);
        for (int64_t j0 = 0; j0 < keys; j0 += TK)
            forward_tile(w, &x, t, i0, n, j0, keys - j0 < TK ? keys - j0 : TK);
        for (int64_t i = 0; i < n; i++) {
            float *out = x.o + (i0 + i) * w->o.stride_t, inverse = 1 / t->sum[i];
            if (keys == 0 || t->sum[i] == 0) {
                clear(out, 1, 0, w->DV);
                x.lse[(i0 + i) * w->H] = 0;
                continue;
            }
            for (int64_t c = 0; c < w->DV; c++)
                out[c] *= inverse;
            x.lse[(i0 + i) * w->H] = t->top[i] + logf(t->sum[i]);
        }
    }
}

static void backward_tile(const job *w, const head *x, const tiles *t, int64_t i0, int64_t n,
                          int64_t j0, int64_t m)
{
    const float *q = x->q + i0 * w->q.stride_t, *go = x->go + i0 * w->go.stride_t;
    const float *k = t->k + j0 * w->D, *v = t->v + j0 * w->DV;
    bool drop = w->p->dropout > 0;
    blas_sgemm(false, true, n, m, w->D, w->scale, q, w->q.stride_t, k, w->D, 0, t->p, TK);
    blas_sgemm(false, true, n, m, w->DV, 1, go, w->go.stride_t, v, w->DV, 0, t->dp, TK);
    if (drop)
        draw_keep(w, x, i0, n, j0, m, t->keep);
    for (int64_t i = 0; i < n; i++) {
        float *p = t->p + i * TK, *dp = t->dp + i * TK;
        int64_t n_seen = seen_in_tile(w, x, t, i0 + i, j0, m);
        w->row->grad(n_seen, p, dp, drop ? t->keep + i * TK : NULL, x->lse[(i0 + i) * w->H],
                     t->dot[i]);
        memset(p + n_seen, 0, (size_t)(m - n_seen) * sizeof *p);
        memset(dp + n_seen, 0, (size_t)(m - n_seen) * sizeof *dp);
    }
    float add = i0 > 0 || w->causal; /* causal: cleared before, as not every tile is visited */
    blas_sgemm(true, false, m, w->DV, n, 1, t->p, TK, go, w->go.stride_t, add, t->gv + j0 * w->DV,
               w->DV);
    blas_sgemm(true, false, m, w->D, n, w->scale, t->dp, TK, q, w->q.stride_t, add,
               t->gk + j0 * w->D, w->D);
    blas_sgemm(false, false, n, w->D, m, w->scale, t->dp, TK, k, w->D, j0 > 0,
               x->gq + i0 * w->gq.stride_t, w->gq.stride_t);
}

/* Gradients of the gathered keys to their rows; the others get 0. */
static void scatter(const tiles *t, const head *x, int64_t rows, const float *src, int64_t width,
                    float *dst, int64_t ld)
{
    int64_t j = 0;
    for (int64_t r = 0; r < rows; r++) {
        if (j < x->nk && t->key[j] == r && x->nq > 0)
            memcpy(dst + r * ld, src + j * width, (size_t)width * sizeof *dst);
        else
            memset(dst + r * ld, 0, (size_t)width * sizeof *dst);
        j += j < x->nk && t->key[j] == r;
    }
}

static void backward_head(const job *w, int64_t item, tiles *t)
{
    head x = head_open(w, item, t);
    const spectra_problem *p = w->p;
    x.go = w->go.data + rows_at(&w->go, p->q_begin, x.b, x.h);
    x.gq = w->gq.data + rows_at(&w->gq, p->q_begin, x.b, x.h);
    if (x.nk == 0)
        clear(x.gq, x.nq, w->gq.stride_t, w->D);
    if (w->causal) {
        clear(t->gk, 1, 0, x.nk * w->D);
        clear(t->gv, 1, 0, x.nk * w->DV);
    }
    for (int64_t i0 = 0; i0 < x.nq && x.nk > 0; i0 += TQ) {
        int64_t n = x.nq - i0 < TQ ? x.nq - i0 : TQ;
        for (int64_t i = 0; i < n; i++) {
            const float *out = x.o + (i0 + i) * w->o.stride_t;
            const float *go = x.go + (i0 + i) * w->go.stride_t;
            float dot = 0;
            for (int64_t c = 0; c < w->DV; c++)
                dot += out[c] * go[c];
            t->dot[i] = dot;
        }
        int64_t keys = seen(w, &x, t, i0 + n - 1);
        if (keys == 0)
            clear(x.gq + i0 * w->gq.stride_t, n, w->gq.stride_t, w->D);
        for (int64_t j0 = 0; j0 < keys; j0 += TK)
            backward_tile(w, &x, t, i0, n, j0, keys - j0 < TK ? keys - j0 : TK);
    }
    int64_t rows = rows_length(p->k_len, x.b, p->S);
    scatter(t, &x, rows, t->gk, w->D, w->gk.data + rows_at(&w->gk, p->k_begin, x.b, x.h),
            w->gk.stride_t);
    scatter(t, &x, rows, t->gv, w->DV, w->gv.data + rows_at(&w->gv, p->k_begin, x.b, x.h),
            w->gv.stride_t);
}

/* ---- entry points -------------------------------------------------------------------------------
 */

int64_t softmax_saved_bytes(int64_t H, const spectra_problem *p)
{
    return align_line(rows_total(p->q_begin, p->q_len, p->B, p->T) * H) * (int64_t)sizeof(float);
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
    w->row = loops_here();
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
