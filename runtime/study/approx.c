#include "study/approx.h"

#include "base/status.h"
#include "math/blas.h"
#include "math/rng.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    PAIRS = 64,       /* queries and keys whose kernel is estimated */
    TIMED_SOFTMAX = 5 /* runs, of which the fastest counts */
};

/* Below this a closed-form variance is that of an exact estimate, and what is measured is rounding.
 */
static const double exact_variance = 1e-9;

/* Which random numbers (layer of the RNG_DATA stream). */
enum { RANDOM_Q = 1000, RANDOM_K, RANDOM_LENGTHS, RANDOM_V, RANDOM_PAIRS };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *take(int64_t bytes)
{
    return aligned_alloc(64, ((size_t)bytes + 127) / 64 * 64);
}

static float *take_floats(int64_t n)
{
    return take(n * (int64_t)sizeof(float));
}

/* ---- data -------------------------------------------------------------------------------------
 */

static void fill_normal(uint64_t seed, int what, double deviation, int64_t n, float *out)
{
    rng_stream s = rng_open(seed, RNG_DATA, (uint32_t)what, 0);
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(deviation * rng_normal(&s, (uint64_t)i));
}

spectra_status approx_random_values(uint64_t seed, approx_data *data)
{
    int64_t n = data->B * data->H * data->S * data->D;
    data->DV = data->D;
    data->v = take_floats(n);
    if (!data->v)
        return fail(SPECTRA_ENOMEM, "values: no memory for %lld numbers", (long long)n);
    fill_normal(seed, RANDOM_V, 1, n, data->v);
    return SPECTRA_OK;
}

spectra_status approx_random(int64_t tokens, int64_t d, double deviation, uint64_t seed,
                             approx_data *out)
{
    approx_data x = {.B = 1, .H = 1, .T = tokens, .S = tokens, .D = d};
    x.q = take_floats(tokens * d);
    x.k = take_floats(tokens * d);
    if (!x.q || !x.k || approx_random_values(seed, &x) != SPECTRA_OK) {
        approx_data_free(&x);
        return fail(SPECTRA_ENOMEM, "random tokens: out of memory");
    }
    fill_normal(seed, RANDOM_Q, deviation, tokens * d, x.q);
    fill_normal(seed, RANDOM_K, deviation, tokens * d, x.k);
    rng_stream lengths = rng_open(seed, RNG_DATA, RANDOM_LENGTHS, 0);
    for (int64_t j = 0; j < tokens; j++) {
        float factor = (float)(0.5 + rng_uniform(&lengths, (uint64_t)j));
        for (int64_t l = 0; l < d; l++)
            x.k[j * d + l] *= factor;
    }
    snprintf(x.source, sizeof x.source,
             "random tokens of standard deviation %g, keys times 0.5 to 1.5", deviation);
    *out = x;
    return SPECTRA_OK;
}

void approx_data_free(approx_data *data)
{
    free(data->q);
    free(data->k);
    free(data->v);
    *data = (approx_data){0};
}

void approx_free(approx_lab *lab)
{
    approx_data_free(&lab->data);
    free(lab->cell);
    lab->cell = NULL;
}

/* ---- what every cell is compared with ---------------------------------------------------------
 */

typedef struct reference {
    float *x, *y;     /* all queries and keys times D^-1/4 */
    double *o, norm;  /* (B, H, T, DV) exact attention, its 2-norm */
    int64_t heads, n; /* pairs: n in each of the first `heads` heads */
    float *px, *py;   /* (heads, n, D) */
    double *log_k;    /* (heads * n) */
} reference;

static double dot(int64_t n, const float *a, const float *b)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static double log_kernel(spectra_target target, int64_t D, const float *x, const float *y)
{
    double xy = dot(D, x, y);
    return target == SPECTRA_GAUSSIAN ? xy - (dot(D, x, x) + dot(D, y, y)) / 2 : xy;
}

/* One row of exact attention in double, in one pass over the keys (running maximum). */
static void exact_row(const approx_lab *lab, const float *x, const float *y, const float *v,
                      double *o)
{
    const approx_data *d = &lab->data;
    double top = -INFINITY, sum = 0;
    memset(o, 0, (size_t)d->DV * sizeof *o);
    for (int64_t j = 0; j < d->S; j++) {
        double log = log_kernel(lab->target, d->D, x, y + j * d->D);
        if (log > top) {
            double shrink = exp(top - log);
            sum *= shrink;
            for (int64_t c = 0; c < d->DV; c++)
                o[c] *= shrink;
            top = log;
        }
        double weight = exp(log - top);
        sum += weight;
        for (int64_t c = 0; c < d->DV; c++)
            o[c] += weight * (double)v[j * d->DV + c];
    }
    for (int64_t c = 0; c < d->DV; c++)
        o[c] /= sum;
}

static void exact_attention(approx_lab *lab, reference *r)
{
    const approx_data *d = &lab->data;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < d->B * d->H * d->T; row++) {
        int64_t head = row / d->T;
        exact_row(lab, r->x + row * d->D, r->y + head * d->S * d->D, d->v + head * d->S * d->DV,
                  r->o + row * d->DV);
    }
    double square = 0, apart = 0;
    for (int64_t head = 0; head < d->B * d->H; head++) {
        double mean[256] = {0};
        const float *v = d->v + head * d->S * d->DV;
        for (int64_t i = 0; i < d->S * d->DV; i++)
            mean[i % d->DV] += (double)v[i] / (double)d->S;
        const double *o = r->o + head * d->T * d->DV;
        for (int64_t i = 0; i < d->T * d->DV; i++) {
            square += o[i] * o[i];
            apart += (o[i] - mean[i % d->DV]) * (o[i] - mean[i % d->DV]);
        }
    }
    r->norm = sqrt(square);
    lab->uniform = sqrt(apart / square);
}

/* Random queries and keys of the first heads. */
static void choose_pairs(approx_lab *lab, reference *r)
{
    const approx_data *d = &lab->data;
    rng_stream s = rng_open(lab->seed, RNG_DATA, RANDOM_PAIRS, 0);
    double sum = 0, squares = 0, count = (double)(r->heads * r->n);
    lab->z2 = 0;
    for (int64_t p = 0; p < r->heads * r->n; p++) {
        int64_t head = p / r->n;
        int64_t i = (int64_t)rng_below(&s, (uint64_t)(2 * p), (uint64_t)d->T);
        int64_t j = (int64_t)rng_below(&s, (uint64_t)(2 * p + 1), (uint64_t)d->S);
        const float *x = r->x + (head * d->T + i) * d->D, *y = r->y + (head * d->S + j) * d->D;
        memcpy(r->px + p * d->D, x, (size_t)d->D * sizeof *x);
        memcpy(r->py + p * d->D, y, (size_t)d->D * sizeof *y);
        r->log_k[p] = log_kernel(lab->target, d->D, x, y);
        double xy = dot(d->D, x, y);
        sum += xy / count;
        squares += xy * xy / count;
        lab->z2 += (dot(d->D, x, x) + dot(d->D, y, y) + 2 * xy) / count;
    }
    lab->logit_spread = sqrt(fmax(squares - sum * sum, 0));
}

static void close_reference(reference *r)
{
    free(r->x);
    free(r->y);
    free(r->o);
    free(r->px);
    free(r->py);
    free(r->log_k);
}

static spectra_status open_reference(approx_lab *lab, reference *r)
{
    const approx_data *d = &lab->data;
    int64_t heads = d->B * d->H, nx = heads * d->T * d->D, ny = heads * d->S * d->D;
    r->heads = heads < PAIRS ? heads : PAIRS;
    r->n = PAIRS / r->heads;
    r->x = take_floats(nx);
    r->y = take_floats(ny);
    r->o = take(heads * d->T * d->DV * (int64_t)sizeof *r->o);
    r->px = take_floats(PAIRS * d->D);
    r->py = take_floats(PAIRS * d->D);
    r->log_k = take(PAIRS * (int64_t)sizeof *r->log_k);
    if (!r->x || !r->y || !r->o || !r->px || !r->py || !r->log_k)
        return fail(SPECTRA_ENOMEM, "exact attention: out of memory");
    float scale = (float)pow((double)d->D, -0.25);
    for (int64_t i = 0; i < nx; i++)
        r->x[i] = d->q[i] * scale;
    for (int64_t i = 0; i < ny; i++)
        r->y[i] = d->k[i] * scale;
    exact_attention(lab, r);
    if (!(r->norm > 0 && isfinite(r->norm)))
        return fail(SPECTRA_EINVAL,
                    "the exact attention of these arrays is %s, there is nothing to compare with",
                    r->norm > 0    ? "infinite"
                    : r->norm == 0 ? "0"
                                   : "not a number");
    choose_pairs(lab, r);
    return SPECTRA_OK;
}

/* ---- one attention, with what its passes need -------------------------------------------------
 */

typedef struct drawn {
    spectra_attention *att;
    float *blocks, *log[2], *sign[2], *o;
    void *saved, *work;
    double *mean, *squares;  /* (pairs) running mean of estimate / K - 1, sum of squares about it */
    double *bias, *distance; /* (trials) */
    double ns;
} drawn;

static void close_drawn(drawn *w)
{
    spectra_attention_free(w->att);
    for (int side = 0; side < 2; side++) {
        free(w->log[side]);
        free(w->sign[side]);
    }
    free(w->blocks);
    free(w->o);
    free(w->saved);
    free(w->work);
    free(w->mean);
    free(w->squares);
    free(w->bias);
    free(w->distance);
}

static spectra_problem problem_of(const approx_data *d)
{
    return (spectra_problem){.B = d->B, .T = d->T, .S = d->S};
}

static spectra_status open_drawn(const approx_lab *lab, const reference *r,
                                 const feature_info *feature, const matrix_info *matrix, int64_t M,
                                 drawn *w)
{
    const approx_data *d = &lab->data;
    const spectra_attention_desc desc = {.attn = "performer",
                                         .feat = feature->name,
                                         .kernel = matrix->name,
                                         .H = d->H,
                                         .D = d->D,
                                         .DV = d->DV,
                                         .M = M,
                                         .seed = lab->seed,
                                         .target = lab->target,
                                         .rng = lab->rng};
    TRY(spectra_attention_new(&desc, &w->att));
    const spectra_problem p = problem_of(d);
    int64_t heads = d->B * d->H, width = r->heads * r->n * feature->lanes * M;
    bool full = true;
    for (int side = 0; side < 2; side++) {
        w->log[side] = take_floats(width);
        w->sign[side] = take_floats(width);
        full = full && w->log[side] && w->sign[side];
    }
    w->blocks = take_floats(heads * performer_block_floats(performer_of(w->att)));
    w->o = take_floats(heads * d->T * d->DV);
    w->saved = take(spectra_attention_saved_bytes(w->att, &p));
    w->work = take(spectra_attention_work_bytes(w->att, &p));
    w->mean = calloc(PAIRS, sizeof *w->mean);
    w->squares = calloc(PAIRS, sizeof *w->squares);
    w->bias = take(lab->trials * (int64_t)sizeof *w->bias);
    w->distance = take(lab->trials * (int64_t)sizeof *w->distance);
    w->ns = INFINITY;
    if (!full || !w->blocks || !w->o || !w->saved || !w->work || !w->mean || !w->squares ||
        !w->bias || !w->distance)
        return fail(SPECTRA_ENOMEM, "%s x %s: out of memory", feature->name, matrix->name);
    return SPECTRA_OK;
}

/* (1/M) sum over rows of weight, lanes' signs and exp(log x + log y), by K. */
static double estimate(const drawn *w, int64_t pair, double log_k)
{
    int64_t M = w->att->desc.M, lanes = performer_of(w->att)->feature->lanes, at = pair * lanes * M;
    double sum = 0;
    for (int64_t i = 0; i < lanes * M; i++) {
        double sign = (double)w->sign[0][at + i] * (double)w->sign[1][at + i];
        if (sign != 0)
            sum += (double)performer_of(w->att)->row_weight[i % M] * sign *
                   exp((double)w->log[0][at + i] + (double)w->log[1][at + i] - log_k);
    }
    return sum / (double)M;
}

static spectra_status estimate_draw(const approx_lab *lab, const reference *r, int64_t trial,
                                    drawn *w)
{
    const approx_data *d = &lab->data;
    if (trial == 0 || performer_of(w->att)->feature->counts != COUNTS_NONE)
        TRY(performer_prepare_heads(performer_of(w->att), d->B, d->H, d->T, d->S, r->x, r->y, NULL,
                                    NULL, w->blocks));
    for (int side = 0; side < 2; side++)
        TRY(performer_features(performer_of(w->att), side, 1, r->heads, r->n, side ? r->py : r->px,
                               w->blocks, w->log[side], w->sign[side]));
    double total = 0;
    for (int64_t p = 0; p < r->heads * r->n; p++) {
        double x = estimate(w, p, r->log_k[p]) - 1, apart = x - w->mean[p];
        w->mean[p] += apart / (double)(trial + 1);
        w->squares[p] += apart * (x - w->mean[p]);
        total += x;
    }
    w->bias[trial] = total / (double)(r->heads * r->n);
    return SPECTRA_OK;
}

static spectra_status attend_draw(const approx_lab *lab, const reference *r, int64_t trial,
                                  drawn *w)
{
    const approx_data *d = &lab->data;
    const spectra_problem p = problem_of(d);
    int64_t heads = d->B * d->H;
    double start = now();
    TRY(spectra_attention_forward(w->att, &p, spectra_rows_dense(d->q, d->H, d->T, d->D),
                                  spectra_rows_dense(d->k, d->H, d->S, d->D),
                                  spectra_rows_dense(d->v, d->H, d->S, d->DV),
                                  spectra_rows_dense(w->o, d->H, d->T, d->DV), w->saved, w->work));
    w->ns = fmin(w->ns, 1e9 * (now() - start) / (double)(heads * d->T));
    double square = 0;
    for (int64_t i = 0; i < heads * d->T * d->DV; i++) {
        double apart = (double)w->o[i] - r->o[i];
        square += apart * apart;
    }
    double distance = sqrt(square) / r->norm;
    w->distance[trial] = isnan(distance) ? (double)INFINITY : distance;
    return SPECTRA_OK;
}

/* ---- a cell -----------------------------------------------------------------------------------
 */

static double mean_of(int64_t n, const double *x)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    return sum / (double)n;
}

/* Variances of the estimates, against those of independent rows. */
static void summarise_variance(const approx_lab *lab, const reference *r, drawn *w, approx_cell *c)
{
    const int64_t pairs = r->heads * r->n, D = lab->data.D;
    const double M = (double)w->att->desc.M, T = (double)lab->trials;
    double variance[PAIRS], iid[PAIRS], ratio[PAIRS], error[PAIRS];
    int64_t compared = 0;
    for (int64_t p = 0; p < pairs; p++) {
        const float *block = w->blocks + p / r->n * performer_block_floats(performer_of(w->att));
        approx_row row = approx_iid_row(w->att, block, r->px + p * D, r->py + p * D);
        variance[p] = w->squares[p] / (T - 1);
        iid[p] = row.variance / M;
        if (!(row.variance > exact_variance))
            continue;
        ratio[compared] = variance[p] / iid[p];
        error[compared++] = sqrt((2 + (row.kurtosis - 3) / M) / T);
    }
    c->variance = approx_quantile(pairs, variance, 0.5);
    c->iid = approx_quantile(pairs, iid, 0.5);
    c->ratio = compared ? approx_quantile(compared, ratio, 0.5) : (double)NAN;
    c->ratio_error = compared ? approx_quantile(compared, error, 0.5) : (double)NAN;
}

static void summarise(const approx_lab *lab, const reference *r, drawn *w, approx_cell *c)
{
    const int64_t T = lab->trials;
    double square = 0;
    c->bias = mean_of(T, w->bias);
    for (int64_t t = 0; t < T; t++)
        square += (w->bias[t] - c->bias) * (w->bias[t] - c->bias);
    c->bias_error = sqrt(square / (double)(T - 1) / (double)T);
    summarise_variance(lab, r, w, c);
    c->error[APPROX_LOW] = approx_quantile(T, w->distance, 0.1);
    c->error[APPROX_MEDIAN] = approx_quantile(T, w->distance, 0.5);
    c->error[APPROX_HIGH] = approx_quantile(T, w->distance, 0.9);
    c->ns = w->ns;
    c->measured = true;
}

static spectra_status measure_drawn(const approx_lab *lab, const reference *r, drawn *w)
{
    for (int64_t t = 0; t < lab->trials; t++) {
        if (t > 0)
            TRY(spectra_attention_redraw(w->att, lab->seed + (uint64_t)t));
        TRY(estimate_draw(lab, r, t, w));
        TRY(attend_draw(lab, r, t, w));
    }
    return SPECTRA_OK;
}

static spectra_status measure_cell(const approx_lab *lab, const reference *r,
                                   const feature_info *feature, const matrix_info *matrix,
                                   int64_t M, approx_cell *c)
{
    const char *why = NULL;
    *c = (approx_cell){.measured = false};
    if (!performer_legal(feature, matrix, &why)) {
        snprintf(c->why, sizeof c->why, "%s", why);
        return SPECTRA_OK;
    }
    drawn w = {.att = NULL};
    spectra_status status = open_drawn(lab, r, feature, matrix, M, &w);
    if (status == SPECTRA_ESHAPE || status == SPECTRA_EUNSUPPORTED) {
        snprintf(c->why, sizeof c->why, "%s", spectra_message());
        status = SPECTRA_OK;
    } else if (status == SPECTRA_OK) {
        status = measure_drawn(lab, r, &w);
        if (status == SPECTRA_OK)
            summarise(lab, r, &w, c);
    }
    close_drawn(&w);
    return status;
}

/* ---- all cells --------------------------------------------------------------------------------
 */

/* Fastest of a few runs of exact attention on one thread; NAN where it cannot be had. */
static double time_softmax(const approx_lab *lab)
{
    const approx_data *d = &lab->data;
    const spectra_attention_desc desc = {.attn = "softmax", .H = d->H, .D = d->D, .DV = d->DV};
    const spectra_problem p = problem_of(d);
    spectra_attention *att = NULL;
    if (spectra_attention_new(&desc, &att) != SPECTRA_OK)
        return NAN;
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    double rows = (double)(d->B * d->H * d->T), best = INFINITY;
    float *o = take_floats(d->B * d->H * d->T * d->DV);
    void *saved = take(spectra_attention_saved_bytes(att, &p));
    void *work = take(spectra_attention_work_bytes(att, &p));
    for (int i = 0; i < TIMED_SOFTMAX && o && saved && work; i++) {
        double start = now();
        if (spectra_attention_forward(att, &p, spectra_rows_dense(d->q, d->H, d->T, d->D),
                                      spectra_rows_dense(d->k, d->H, d->S, d->D),
                                      spectra_rows_dense(d->v, d->H, d->S, d->DV),
                                      spectra_rows_dense(o, d->H, d->T, d->DV), saved,
                                      work) != SPECTRA_OK)
            break;
        best = fmin(best, 1e9 * (now() - start) / rows);
    }
    omp_set_num_threads(threads);
    free(o);
    free(saved);
    free(work);
    spectra_attention_free(att);
    return isfinite(best) ? best : (double)NAN;
}

/* The first failure of any thread, in its words. */
typedef struct failure {
    spectra_status status;
    char message[APPROX_TEXT];
} failure;

static spectra_status measure_all(approx_lab *lab, const reference *r)
{
    const int64_t all = (int64_t)lab->sizes * lab->features * lab->matrices;
    failure first = {.status = SPECTRA_OK};
    int64_t done = 0;
    int levels = omp_get_max_active_levels();
    omp_set_max_active_levels(1); /* a cell is one thread's: attention inside it does not fork */
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < all; i++) {
        const feature_info *f = lab->feature[i / lab->matrices % lab->features];
        const matrix_info *m = lab->matrix[i % lab->matrices];
        int64_t size = lab->size[i / lab->matrices / lab->features];
        spectra_status status = SPECTRA_OK, so_far;
#pragma omp atomic read
        so_far = first.status;
        if (so_far == SPECTRA_OK)
            status = measure_cell(lab, r, f, m, size, &lab->cell[i]);
#pragma omp critical(approx_done)
        {
            if (status != SPECTRA_OK && first.status == SPECTRA_OK) {
                snprintf(first.message, sizeof first.message, "%s", spectra_message());
#pragma omp atomic write
                first.status = status;
            }
            const approx_progress at = {++done, all, f->name, m->name};
            if (lab->progress)
                lab->progress(lab->context, &at);
        }
    }
    omp_set_max_active_levels(levels);
    return first.status == SPECTRA_OK ? SPECTRA_OK : fail(first.status, "%s", first.message);
}

spectra_status approx_measure(approx_lab *lab)
{
    const int64_t all = (int64_t)lab->sizes * lab->features * lab->matrices;
    const approx_data *d = &lab->data;
    if (d->D > 256 || d->DV > 256)
        return fail(SPECTRA_ESHAPE, "heads of size %lld with values of size %lld; allowed is 256",
                    (long long)d->D, (long long)d->DV);
    double start = now();
    reference r = {.x = NULL};
    free(lab->cell);
    lab->cell = calloc((size_t)all, sizeof *lab->cell);
    spectra_status status =
        lab->cell ? open_reference(lab, &r) : fail(SPECTRA_ENOMEM, "cells: out of memory");
    if (status == SPECTRA_OK) {
        lab->softmax_ns = time_softmax(lab);
        status = measure_all(lab, &r);
    }
    close_reference(&r);
    lab->seconds = now() - start;
    return status;
}
