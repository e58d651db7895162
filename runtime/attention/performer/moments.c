/* What is prepared for one head before its kernels run: moments, the linear map, parameters
 * computed from the data, count matrices. It all lies in the head's block of `saved`, which
 * backward reads again. */
#include "attention/performer/performer.h"
#include "base/status.h"
#include "kernel/registry.h"
#include "math/blas.h"
#include "math/normal.h"
#include "matrix/recipe.h"

#include <math.h>
#include <string.h>

enum { GATHER = 128 }; /* tokens whose products are summed in float before they go into a double */

/* ---- the block --------------------------------------------------------------------------------
 */

/* Where things lie in a head's block, in floats. */
typedef struct block_layout {
    int64_t vectors, linear, wt, w, w2, sums, total;
} block_layout;

static block_layout block_of(const performer *pf)
{
    const feature_info *f = pf->feature;
    const attn_plan *p = &pf->plan;
    block_layout l;
    bool counts = f->counts != COUNTS_NONE && !pf->counts_given;
    l.vectors = performer_align(f->scalars);
    l.linear = l.vectors + f->vectors * p->DP;
    l.wt = l.linear + (f->linear != LINEAR_NONE ? 4 * p->DP * p->DP : 0);
    l.w = l.wt + (counts ? p->D * p->MP : 0);
    l.w2 = l.w + (counts ? p->MP * p->DP : 0);
    l.sums = l.w2 + (counts ? p->MP : 0);
    l.total = l.sums + (counts ? 2 * p->MP : 0);
    return l;
}

int64_t performer_block_floats(const performer *pf)
{
    return performer_align(block_of(pf).total);
}

float *performer_vectors(const performer *pf, float *block)
{
    return block + block_of(pf).vectors;
}

void performer_view(const performer *pf, const float *block, attn_plan *plan, attn_params *params)
{
    const block_layout l = block_of(pf);
    *plan = pf->plan;
    *params = (attn_params){block, block + l.vectors, block + l.linear};
    if (l.total > l.wt) {
        plan->wt = plan->wt_second = block + l.wt;
        plan->w = plan->w_second = block + l.w;
        plan->w2 = block + l.w2;
        plan->count_sums = block + l.sums;
    }
}

/* ---- moments ----------------------------------------------------------------------------------
 */

void performer_moments(int64_t n, int64_t D, const float *x, int64_t ld, float scale,
                       const uint8_t *mask, float *m1, float *m2)
{
    double sum1[256] = {0}, sum2[256] = {0};
    int64_t valid = 0;
    for (int64_t from = 0; from < n; from += GATHER) {
        float part1[256] = {0}, part2[256] = {0};
        int64_t to = from + GATHER < n ? from + GATHER : n;
        for (int64_t t = from; t < to; t++) {
            if (mask && !mask[t])
                continue;
            valid++;
            for (int64_t d = 0; d < D; d++) {
                float y = x[t * ld + d] * scale;
                part1[d] += y;
                part2[d] += y * y;
            }
        }
        for (int64_t d = 0; d < D; d++) {
            sum1[d] += (double)part1[d];
            sum2[d] += (double)part2[d];
        }
    }
    double inverse = valid ? 1.0 / (double)valid : 0.0;
    for (int64_t d = 0; d < D; d++) {
        m1[d] = (float)(sum1[d] * inverse);
        m2[d] = (float)(sum2[d] * inverse);
    }
}

/* g += scale * (d1 + 2 x d2) / valid over the unmasked tokens: the moments' gradients. */
void performer_moments_grad(int64_t n, int64_t D, const float *x, int64_t ldx, float scale,
                            const uint8_t *mask, const float *d1, const float *d2, float *g,
                            int64_t ldg)
{
    int64_t valid = 0;
    for (int64_t t = 0; t < n; t++)
        valid += !mask || mask[t];
    float each = valid ? scale / (float)valid : 0;
    for (int64_t t = 0; t < n; t++)
        for (int64_t d = 0; d < D && (!mask || mask[t]); d++)
            g[t * ldg + d] += each * (d1[d] + 2 * scale * x[t * ldx + d] * d2[d]);
}

/* Mean magnitude (D), and the smallest and largest numbers so far. */
static void range_moments(const performer_tokens *x, int64_t D, float *magnitude, float *low,
                          float *high)
{
    double sum[256] = {0};
    int64_t valid = 0;
    for (int64_t t = 0; t < x->n; t++) {
        if (x->mask && !x->mask[t])
            continue;
        valid++;
        for (int64_t d = 0; d < D; d++) {
            float y = x->x[t * x->ld + d] * x->scale;
            sum[d] += fabs((double)y);
            low[d] = y < low[d] ? y : low[d];
            high[d] = y > high[d] ? y : high[d];
        }
    }
    for (int64_t d = 0; d < D; d++)
        magnitude[d] = valid ? (float)(sum[d] / (double)valid) : 0;
}

static int64_t second_floats(int64_t D)
{
    return (GATHER + pad16(D)) * pad16(D);
}

/* M (D, D) = mean of x x', as it comes out of float sums over GATHER tokens; scratch:
 * second_floats(D). */
static void second_moments(const performer_tokens *x, int64_t D, double *M, float *scratch)
{
    const int64_t DP = pad16(D);
    const product_ops *ops = registry_products();
    float *rows = scratch, *products = scratch + GATHER * DP;
    int64_t valid = 0;
    memset(M, 0, (size_t)(D * D) * sizeof *M);
    memset(rows, 0, (size_t)(GATHER * DP) * sizeof *rows);
    for (int64_t t = 0; t < x->n;) {
        int64_t count = 0;
        for (; t < x->n && count < GATHER; t++) {
            if (x->mask && !x->mask[t])
                continue;
            for (int64_t d = 0; d < D; d++)
                rows[count * DP + d] = x->x[t * x->ld + d] * x->scale;
            count++;
        }
        valid += count;
        memset(products, 0, (size_t)(DP * DP) * sizeof *products);
        ops->sum(count, DP, DP, rows, DP, rows, DP, products, DP);
        for (int64_t i = 0; i < D; i++)
            for (int64_t j = 0; j < D; j++)
                M[i * D + j] += (double)products[i * DP + j];
    }
    for (int64_t i = 0; i < D * D && valid > 0; i++)
        M[i] /= (double)valid;
}

/* ---- linear maps ------------------------------------------------------------------------------
 */

/* Matrices (D, D) of the linear maps' construction, and what they are made with. */
typedef struct linear_work {
    double *mx, *my;       /* second moments */
    double *rq, *rk;       /* the maps */
    double *t, *u, *v, *c; /* temporaries */
    float *gather;
} linear_work;

static linear_work linear_take(int64_t D, float *scratch)
{
    double *at = (double *)(void *)scratch;
    int64_t n = D * D;
    return (linear_work){at,         at + n,     at + 2 * n, at + 3 * n,      at + 4 * n,
                         at + 5 * n, at + 6 * n, at + 7 * n, scratch + 16 * n};
}

int64_t performer_head_scratch(const performer *pf)
{
    int64_t D = pf->plan.D;
    return pf->feature->linear != LINEAR_NONE ? performer_align(16 * D * D + second_floats(D)) : 0;
}

/* A row of the maps may have either sign, and which one decomposition picks is chance: that where
 * its product with numbers that no pattern cancels is not negative. As in
 * templates/cuda/attn_maps.cu. */
static void orient(int64_t D, double *rq, double *rk)
{
    for (int64_t i = 0; i < D; i++) {
        double side = 0;
        for (int64_t j = 0; j < D; j++) {
            const float x = 0.618034F * (float)j;
            side += (double)(0.5F + x - floorf(x)) * rq[i * D + j];
        }
        for (int64_t j = 0; j < D && side < 0; j++) {
            rq[i * D + j] = -rq[i * D + j];
            rk[i * D + j] = -rk[i * D + j];
        }
    }
}

/* Both maps: the eigenvectors of mean (x + y)(x + y)', as rows. */
static spectra_status eigen_sum(int64_t D, const float *m1x, const float *m1y, linear_work *w)
{
    double values[256];
    for (int64_t i = 0; i < D; i++)
        for (int64_t j = 0; j < D; j++)
            w->rq[i * D + j] = w->mx[i * D + j] + w->my[i * D + j] +
                               (double)m1x[i] * (double)m1y[j] + (double)m1y[i] * (double)m1x[j];
    TRY(lapack_eigh(D, w->rq, values));
    memcpy(w->rk, w->rq, (size_t)(D * D) * sizeof *w->rk);
    return SPECTRA_OK;
}

/* A little of the identity, so that fewer tokens than coordinates have full rank. */
static void regularise(int64_t D, double *M)
{
    double trace = 0;
    for (int64_t i = 0; i < D; i++)
        trace += M[i * D + i];
    for (int64_t i = 0; i < D; i++)
        M[i * D + i] += fmax(1e-4 * trace / (double)D, 1e-12);
}

/* With M_x = V diag(e) V' and diag(e)^1/2 V' M_y V diag(e)^1/2 = U diag(g) U':
 * R_q = g^1/4 U' e^-1/2 V', R_k = g^-1/4 U' e^1/2 V' (Likhosherstov et al. 2023). */
static spectra_status geometric_mean(int64_t D, linear_work *w)
{
    double e[256], g[256];
    double *v = w->v, *u = w->u, *t = w->t, *c = w->c;
    memcpy(v, w->mx, (size_t)(D * D) * sizeof *v);
    memcpy(c, w->my, (size_t)(D * D) * sizeof *c);
    regularise(D, v);
    regularise(D, c);
    TRY(lapack_eigh(D, v, e));
    blas_dgemm(false, false, D, D, D, 1, v, D, c, D, 0, t, D);
    blas_dgemm(false, true, D, D, D, 1, t, D, v, D, 0, u, D);
    for (int64_t i = 0; i < D; i++)
        for (int64_t j = 0; j < D; j++)
            u[i * D + j] *= sqrt(e[i]) * sqrt(e[j]);
    TRY(lapack_eigh(D, u, g));
    for (int64_t i = 0; i < D; i++)
        for (int64_t j = 0; j < D; j++) {
            double root = sqrt(sqrt(g[i]) / e[j]);
            t[i * D + j] = u[i * D + j] * root;
            c[i * D + j] = u[i * D + j] / root;
        }
    blas_dgemm(false, false, D, D, D, 1, t, D, v, D, 0, w->rq, D);
    blas_dgemm(false, false, D, D, D, 1, c, D, v, D, 0, w->rk, D);
    return SPECTRA_OK;
}

/* Means and mean squares of R x: m1 <- R m1, m2 <- diagonal of R M R'. */
static void map_moments(int64_t D, const double *R, const double *M, double *t, float *m1,
                        float *m2)
{
    double mean[256];
    blas_dgemm(false, false, D, D, D, 1, R, D, M, D, 0, t, D);
    for (int64_t i = 0; i < D; i++) {
        double square = 0;
        mean[i] = 0;
        for (int64_t j = 0; j < D; j++) {
            mean[i] += R[i * D + j] * (double)m1[j];
            square += t[i * D + j] * R[i * D + j];
        }
        m2[i] = (float)square;
    }
    for (int64_t i = 0; i < D; i++)
        m1[i] = (float)mean[i];
}

/* R (D, D) as the kernels want it: transposed, then as it is, (DP, DP) each. */
static void pack_linear(int64_t D, int64_t DP, const double *R, float *out)
{
    memset(out, 0, (size_t)(2 * DP * DP) * sizeof *out);
    for (int64_t i = 0; i < D; i++)
        for (int64_t j = 0; j < D; j++)
            out[j * DP + i] = out[DP * DP + i * DP + j] = (float)R[i * D + j];
}

/* The maps of a head into out (4, DP, DP), and the moments of what is mapped. What has no
 * decomposition (an input that is not finite) is mapped to NaN, as any result of it would be. */
static void linear_maps(const performer *pf, const performer_tokens *x, const performer_tokens *y,
                        float *m, float *out, float *scratch)
{
    int64_t D = pf->plan.D, DP = pf->plan.DP;
    linear_work w = linear_take(D, scratch);
    second_moments(x, D, w.mx, w.gather);
    second_moments(y, D, w.my, w.gather);
    spectra_status status = pf->feature->linear == LINEAR_EIGEN_SUM
                                ? eigen_sum(D, m + M1X * DP, m + M1Y * DP, &w)
                                : geometric_mean(D, &w);
    if (status != SPECTRA_OK)
        for (int64_t i = 0; i < D * D; i++)
            w.rq[i] = w.rk[i] = NAN;
    orient(D, w.rq, w.rk);
    map_moments(D, w.rq, w.mx, w.t, m + M1X * DP, m + M2X * DP);
    map_moments(D, w.rk, w.my, w.t, m + M1Y * DP, m + M2Y * DP);
    pack_linear(D, DP, w.rq, out);
    pack_linear(D, DP, w.rk, out + 2 * DP * DP);
}

/* ---- count matrices ---------------------------------------------------------------------------
 */

enum { MOST_COUNTS = 1 << 14 };

/* Smallest k with P(count <= k) >= u. */
static double poisson_quantile(double u, double lambda)
{
    if (lambda > 200) { /* Cornish-Fisher; the distribution is normal to three digits there */
        double z = normal_quantile(u);
        return fmax(0, round(lambda + sqrt(lambda) * z + (z * z - 1) / 6));
    }
    double mass = exp(-lambda), total = mass;
    int k = 0;
    while (u > total && k < MOST_COUNTS && mass > 0) {
        mass *= lambda / ++k;
        total += mass;
    }
    return k;
}

static double geometric_quantile(double u, double p)
{
    return fmin(floor(log(u) / log1p(-p)), MOST_COUNTS);
}

/* Counts of the law with this parameter, from the uniform numbers of the attention. */
static void count_matrix(const performer *pf, double parameter, float *block)
{
    const block_layout l = block_of(pf);
    const attn_plan *p = &pf->plan;
    memset(block + l.wt, 0, (size_t)(l.total - l.wt) * sizeof *block);
    for (int64_t r = 0; r < p->M; r++) {
        float row[256];
        for (int64_t d = 0; d < p->D; d++) {
            double u = pf->uniform[r * p->D + d];
            row[d] =
                (float)(pf->feature->counts == COUNTS_POISSON ? poisson_quantile(u, parameter)
                                                              : geometric_quantile(u, parameter));
        }
        performer_pack_row(p->D, p->MP, p->DP, r, row, block + l.wt, block + l.w, block + l.w2,
                           block + l.sums);
    }
}

/* ---- all of it --------------------------------------------------------------------------------
 */

/* What adapt computes, except where it was given. */
static void adapt(const performer *pf, const float *m, float *s, float *v)
{
    const feature_info *f = pf->feature;
    int64_t DP = pf->plan.DP;
    float given_s[MAX_SCALARS], given_v[MAX_VECTORS * 256];
    memcpy(given_s, s, (size_t)f->scalars * sizeof *s);
    memcpy(given_v, v, (size_t)(f->vectors * DP) * sizeof *v);
    f->adapt(pf->plan.D, DP, m, s, v);
    for (int i = 0; i < f->scalars; i++)
        if (pf->scalar[i].data)
            s[i] = given_s[i];
    for (int i = 0; i < f->vectors; i++)
        if (pf->vector[i].data)
            memcpy(v + i * DP, given_v + i * DP, (size_t)DP * sizeof *v);
}

void performer_adapt(const performer *pf, int64_t b, int64_t h, const float *m, float *s, float *v)
{
    performer_given(pf, b, h, s, v);
    if (pf->feature->adapt)
        adapt(pf, m, s, v);
}

void performer_prepare(const performer *pf, int64_t b, int64_t h, const performer_tokens *x,
                       const performer_tokens *y, float *m, float *block, float *scratch)
{
    const feature_info *f = pf->feature;
    const block_layout l = block_of(pf);
    int64_t D = pf->plan.D, DP = pf->plan.DP;
    if (f->adapt || f->linear != LINEAR_NONE) {
        memset(m, 0, (size_t)(MOMENTS * DP) * sizeof *m);
        performer_moments(x->n, D, x->x, x->ld, x->scale, x->mask, m + M1X * DP, m + M2X * DP);
        performer_moments(y->n, D, y->x, y->ld, y->scale, y->mask, m + M1Y * DP, m + M2Y * DP);
    }
    if (f->moments >> MOMENTS_SMOOTH) {
        float *low = m + LOW * DP, *high = m + HIGH * DP;
        for (int64_t d = 0; d < D; d++) {
            low[d] = INFINITY;
            high[d] = -INFINITY;
        }
        range_moments(x, D, m + A1X * DP, low, high);
        range_moments(y, D, m + A1Y * DP, low, high);
        for (int64_t d = 0; d < D; d++)
            if (low[d] > high[d]) /* no token at all */
                low[d] = high[d] = 0;
    }
    if (f->linear != LINEAR_NONE)
        linear_maps(pf, x, y, m, block + l.linear, scratch);
    performer_adapt(pf, b, h, m, block, block + l.vectors);
    if (f->counts != COUNTS_NONE && !pf->counts_given)
        count_matrix(pf, (double)block[f->counts_scalar], block);
}

void performer_prepare_given(const performer *pf, int64_t b, int64_t h, float *block)
{
    const feature_info *f = pf->feature;
    const float none[MOMENTS * 256] = {0}; /* what adapt makes of them is given */
    performer_adapt(pf, b, h, none, block, block + block_of(pf).vectors);
    if (f->counts != COUNTS_NONE && !pf->counts_given)
        count_matrix(pf, (double)block[f->counts_scalar], block);
}
