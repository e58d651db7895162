#include "support/oracle.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

/* Random numbers. */

uint64_t oracle_bits(oracle_rng *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

double oracle_uniform(oracle_rng *r)
{
    return ((double)(oracle_bits(r) >> 11) + 0.5) * 0x1p-53;
}

double oracle_normal(oracle_rng *r)
{
    double radius = sqrt(-2 * log(oracle_uniform(r)));
    return radius * cos(2 * pi * oracle_uniform(r));
}

void oracle_normals(oracle_rng *r, int64_t n, double deviation, double *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = deviation * oracle_normal(r);
}

/* Linear algebra. */

double oracle_dot(int64_t n, const double *a, const double *b)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Applies I - 2 h h^T to rows from.. of a (d, d), h (d - from). */
static void reflect_rows(int64_t d, int64_t from, const double *h, double *a)
{
    for (int64_t j = 0; j < d; j++) {
        double sum = 0;
        for (int64_t i = from; i < d; i++)
            sum += h[i - from] * a[i * d + j];
        for (int64_t i = from; i < d; i++)
            a[i * d + j] -= 2 * sum * h[i - from];
    }
}

void oracle_qr(int64_t d, double *a, bool fix_signs, double *q)
{
    double h[ORACLE_MAX_D][ORACLE_MAX_D] = {{0}};
    assert(d <= ORACLE_MAX_D);
    for (int64_t k = 0; k < d - 1; k++) {
        double norm = 0, length = 0;
        for (int64_t i = k; i < d; i++)
            norm += a[i * d + k] * a[i * d + k];
        norm = sqrt(norm);
        for (int64_t i = k; i < d; i++)
            h[k][i - k] = a[i * d + k];
        h[k][0] += a[k * d + k] < 0 ? -norm : norm;
        length = sqrt(oracle_dot(d - k, h[k], h[k]));
        for (int64_t i = 0; i < d - k && length > 0; i++)
            h[k][i] /= length;
        reflect_rows(d, k, h[k], a);
    }
    memset(q, 0, (size_t)(d * d) * sizeof *q);
    for (int64_t i = 0; i < d; i++)
        q[i * d + i] = 1;
    for (int64_t k = d - 2; k >= 0; k--)
        reflect_rows(d, k, h[k], q);
    for (int64_t j = 0; fix_signs && j < d; j++)
        for (int64_t i = 0; i < d && a[j * d + j] < 0; i++)
            q[i * d + j] = -q[i * d + j];
}

void oracle_orthogonal(oracle_rng *r, int64_t m, int64_t d, bool fix_signs, double *w)
{
    double a[ORACLE_MAX_D * ORACLE_MAX_D], q[ORACLE_MAX_D * ORACLE_MAX_D];
    for (int64_t first = 0; first < m; first += d) {
        oracle_normals(r, d * d, 1, a);
        oracle_qr(d, a, fix_signs, q);
        for (int64_t i = 0; i < d && first + i < m; i++) {
            double chi2 = 0;
            for (int64_t l = 0; l < d; l++) {
                double g = oracle_normal(r);
                chi2 += g * g;
            }
            for (int64_t l = 0; l < d; l++)
                w[(first + i) * d + l] = sqrt(chi2) * q[l * d + i];
        }
    }
}

/* Distributions. */

double oracle_normal_cdf(double x)
{
    return 0.5 * erfc(-x / sqrt(2));
}

/* Regularised lower incomplete gamma function P(a, x), by its series. */
double oracle_chi2_cdf(double k, double x)
{
    if (x <= 0)
        return 0;
    const double a = k / 2, z = x / 2;
    double term = exp(a * log(z) - z - lgamma(a + 1)), sum = term;
    for (int i = 1; i < 10000 && term > 1e-17 * sum; i++)
        sum += term *= z / (a + i);
    return sum < 1 ? sum : 1;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double oracle_ks_chi2(int64_t n, double *x, double k)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double p = oracle_chi2_cdf(k, x[i]);
        worst = fmax(worst, fmax(p - (double)i / (double)n, (double)(i + 1) / (double)n - p));
    }
    return worst * sqrt((double)n);
}

double oracle_median(int64_t n, double *x)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

void oracle_add(oracle_sample *s, double x)
{
    const double off = x - s->mean;
    s->n += 1;
    s->mean += off / s->n;
    s->m2 += off * (x - s->mean);
}

double oracle_deviation(const oracle_sample *s)
{
    return sqrt(s->m2 / (s->n - 1));
}

double oracle_standard_error(const oracle_sample *s)
{
    return oracle_deviation(s) / sqrt(s->n);
}

/* Component functions. */

void oracle_features(const oracle_map *f, int side, int64_t d, int64_t m, const double *w,
                     const double *x, double *log_out, double *sign)
{
    double mapped[ORACLE_MAX_D];
    assert(d <= ORACLE_MAX_D);
    for (int64_t l = 0; l < d; l++)
        mapped[l] = !f->psi ? x[l] : side == 0 ? x[l] * f->psi[l] : x[l] / f->psi[l];
    const double x2 = oracle_dot(d, mapped, mapped);
    const double target = f->gaussian ? -oracle_dot(d, x, x) / 2 : 0;
    const double b = sqrt(1 - 4 * f->A), log_d = (double)d / 4 * log(1 - 4 * f->A);
    for (int64_t r = 0; r < m; r++) {
        const double *row = w + r * d;
        const double u = oracle_dot(d, row, mapped);
        if (f->trig) {
            log_out[r] = log_out[m + r] = x2 / 2 + target;
            sign[r] = cos(u);
            sign[m + r] = sin(u);
        } else {
            log_out[r] = f->A * oracle_dot(d, row, row) + b * u - x2 / 2 + target + log_d;
            sign[r] = 1;
        }
    }
}

double oracle_estimate(const oracle_map *f, int64_t d, int64_t m, const double *w, const double *x,
                       const double *y)
{
    double lx[2 * ORACLE_MAX_M], sx[2 * ORACLE_MAX_M], ly[2 * ORACLE_MAX_M], sy[2 * ORACLE_MAX_M];
    assert(m <= ORACLE_MAX_M);
    oracle_features(f, 0, d, m, w, x, lx, sx);
    oracle_features(f, 1, d, m, w, y, ly, sy);
    double sum = 0;
    for (int64_t r = 0; r < m * oracle_lanes(f); r++)
        sum += sx[r] * sy[r] * exp(lx[r] + ly[r]);
    return sum / (double)m;
}

double oracle_kernel(const oracle_map *f, int64_t d, const double *x, const double *y)
{
    double log_k = oracle_dot(d, x, y);
    if (f->gaussian)
        log_k -= (oracle_dot(d, x, x) + oracle_dot(d, y, y)) / 2;
    return exp(log_k);
}

double oracle_variance(const oracle_map *f, int64_t d, const double *x, const double *y)
{
    double x2 = 0, y2 = 0, z2 = 0, delta2 = 0;
    for (int64_t l = 0; l < d; l++) {
        const double a = f->psi ? x[l] * f->psi[l] : x[l], b = f->psi ? y[l] / f->psi[l] : y[l];
        x2 += a * a;
        y2 += b * b;
        z2 += (a + b) * (a + b);
        delta2 += (a - b) * (a - b);
    }
    const double K = exp(oracle_dot(d, x, y)), A = f->A;
    if (f->trig)
        return exp(x2 + y2) * pow(1 - exp(-delta2), 2) / 2;
    const double log_second = (double)d / 2 * log((1 - 4 * A) * (1 - 4 * A) / (1 - 8 * A)) +
                              2 * (1 - 4 * A) / (1 - 8 * A) * z2 - x2 - y2;
    return exp(log_second) - K * K;
}

double oracle_optimum(double phi)
{
    const double s = sqrt((2 * phi + 1) * (2 * phi + 1) + 8 * phi);
    return phi < 0.5 ? -phi / (1 - 2 * phi + s) : (1 - 2 * phi - s) / 16;
}

double oracle_pair_mean(int64_t n, int64_t d, const double *x, const double *y, const uint8_t *mask,
                        const double *psi)
{
    double sum = 0, count = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            if (mask && (!mask[i] || !mask[j]))
                continue;
            count += 1;
            for (int64_t l = 0; l < d; l++) {
                const double p = psi ? psi[l] : 1;
                const double z = x[i * d + l] * p + y[j * d + l] / p;
                sum += z * z;
            }
        }
    return count > 0 ? sum / count / (double)d : 0;
}

void oracle_psi(int64_t n, int64_t d, const double *x, const double *y, const uint8_t *mask,
                double *psi)
{
    for (int64_t l = 0; l < d; l++) {
        double x2 = 0, y2 = 0;
        for (int64_t i = 0; i < n; i++) {
            const double keep = !mask || mask[i] ? 1 : 0;
            x2 += keep * x[i * d + l] * x[i * d + l];
            y2 += keep * y[i * d + l] * y[i * d + l];
        }
        psi[l] = pow(y2 / x2, 0.25);
    }
}

/* Attention. */

static void *cleared(int64_t count)
{
    void *p = calloc((size_t)(count ? count : 1), sizeof(double));
    if (!p)
        abort();
    return p;
}

void oracle_exact(const oracle_head *h, bool gaussian, double *o)
{
    double *logit = cleared(h->s);
    for (int64_t i = 0; i < h->n; i++) {
        double top = -INFINITY, total = 0;
        for (int64_t j = 0; j < h->s; j++) {
            const double *y = h->y + j * h->d;
            logit[j] = oracle_dot(h->d, h->x + i * h->d, y);
            logit[j] -= gaussian ? oracle_dot(h->d, y, y) / 2 : 0;
            if (h->mask && !h->mask[j])
                logit[j] = -INFINITY;
            top = fmax(top, logit[j]);
        }
        double *row = o + i * h->dv;
        memset(row, 0, (size_t)h->dv * sizeof *row);
        for (int64_t j = 0; j < h->s && top > -(double)INFINITY; j++) {
            const double p = exp(logit[j] - top);
            total += p;
            for (int64_t e = 0; e < h->dv; e++)
                row[e] += p * h->v[j * h->dv + e];
        }
        for (int64_t e = 0; e < h->dv && total > 0; e++)
            row[e] /= total;
    }
    free(logit);
}

/* Logs of the features of `count` tokens, with their signs. */
static void all_features(const oracle_head *h, const oracle_map *f, int side, int64_t m,
                         const double *w, double *log_out, double *sign)
{
    const int64_t count = side == 0 ? h->n : h->s, rows = m * oracle_lanes(f);
    const double *x = side == 0 ? h->x : h->y;
    for (int64_t i = 0; i < count; i++)
        oracle_features(f, side, h->d, m, w, x + i * h->d, log_out + i * rows, sign + i * rows);
}

static double top_of(int64_t n, const double *x)
{
    double top = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        top = fmax(top, x[i]);
    return top;
}

static void apply_shift(const oracle_shift *shift, int64_t n, int64_t s, int64_t rows, double *lq,
                        double *lk)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < rows; r++)
            lq[i * rows + r] +=
                (shift->query ? shift->query[i] : 0) + (shift->feature ? shift->feature[r] : 0);
    for (int64_t j = 0; j < s; j++) {
        const double max = shift->per_key_max ? top_of(rows, lk + j * rows) : 0;
        for (int64_t r = 0; r < rows; r++)
            lk[j * rows + r] += shift->key - (shift->feature ? shift->feature[r] : 0) - max;
    }
}

void oracle_attend(const oracle_head *h, const oracle_map *f, int64_t m, const double *w,
                   const oracle_shift *shift, double *o)
{
    const int64_t rows = m * oracle_lanes(f);
    double *lq = cleared(h->n * rows), *sq = cleared(h->n * rows);
    double *lk = cleared(h->s * rows), *sk = cleared(h->s * rows);
    double *t = cleared(rows), *S = cleared(rows * h->dv);
    all_features(h, f, 0, m, w, lq, sq);
    all_features(h, f, 1, m, w, lk, sk);
    if (shift)
        apply_shift(shift, h->n, h->s, rows, lq, lk);
    const double top = top_of(h->s * rows, lk);
    for (int64_t j = 0; j < h->s; j++)
        for (int64_t r = 0; r < rows && (!h->mask || h->mask[j]); r++) {
            const double phi = sk[j * rows + r] * exp(lk[j * rows + r] - top);
            t[r] += phi;
            for (int64_t e = 0; e < h->dv; e++)
                S[r * h->dv + e] += phi * h->v[j * h->dv + e];
        }
    memset(o, 0, (size_t)(h->n * h->dv) * sizeof *o);
    for (int64_t i = 0; i < h->n; i++) {
        const double max = top_of(rows, lq + i * rows);
        double den = 0, *row = o + i * h->dv;
        for (int64_t r = 0; r < rows; r++) {
            const double phi = sq[i * rows + r] * exp(lq[i * rows + r] - max);
            den += phi * t[r];
            for (int64_t e = 0; e < h->dv; e++)
                row[e] += phi * S[r * h->dv + e];
        }
        for (int64_t e = 0; e < h->dv && den != 0; e++)
            row[e] /= den;
    }
    free(lq), free(sq), free(lk), free(sk), free(t), free(S);
}

double oracle_distance(int64_t n, const double *a, const double *b)
{
    double off = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        off += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    return sqrt(off / size);
}

void oracle_pair(uint64_t seed, int64_t d, double radius, double cosine, double *x, double *y)
{
    oracle_rng r = {seed};
    oracle_normals(&r, d, 1, x);
    oracle_normals(&r, d, 1, y);
    const double x2 = oracle_dot(d, x, x);
    for (int64_t i = 0; i < d; i++)
        x[i] *= radius / sqrt(x2);
    const double along = oracle_dot(d, x, y) / (radius * radius);
    for (int64_t i = 0; i < d; i++)
        y[i] -= along * x[i];
    const double y2 = oracle_dot(d, y, y);
    for (int64_t i = 0; i < d; i++)
        y[i] = cosine * x[i] + sqrt(1 - cosine * cosine) * radius / sqrt(y2) * y[i];
}

const char *oracle_z_test(const oracle_sample *s, double K, double power, char *buf, size_t size)
{
    const double error = oracle_standard_error(s), z = (s->mean - K) / error;
    buf[0] = 0;
    if (!(fabs(z) <= 5))
        snprintf(buf, size, "mean is off by %+.2f %%, z = %.1f", 100 * (s->mean / K - 1), z);
    else if (!(error <= power * K))
        snprintf(buf, size, "standard error %.2f %% of K, at most %.2f %% proves something",
                 100 * error / K, 100 * power);
    return buf;
}
