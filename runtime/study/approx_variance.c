/* Moments of the kernel's estimate by one row, in closed form.
 *
 * The product of exponential features f(x, w) f(y, w) is the real part of
 *     F(w) = exp(c + sum_l 2 alpha_l w_l^2 + beta_l w_l).
 * Its k-th power is a sum of products of powers of F(w), its conjugate and, in antithetic forms,
 * F(-w) and its conjugate, all of the same shape; and for w ~ N(0, I)
 *     E exp(2 a w^2 + b w) = (1 - 4a)^(-1/2) exp(b^2 / (2 (1 - 4a))).
 * The trigonometric feature is alpha = 0, beta = i (x - y).
 */
#include "study/approx.h"

#include <complex.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_D = 256, MOST_COUNTS = 1000 };

/* A head's parameters and a query and key of it. */
typedef struct known {
    const feature_info *feature;
    int64_t D, DP;
    const float *s, *v, *linear; /* as in attn_params */
    double x[MOST_D], y[MOST_D];
} known;

typedef struct product {
    int64_t n;
    double log_k; /* of the kernel it estimates */
    double complex c, alpha[MOST_D], beta[MOST_D];
} product;

/* The scalar called `name`, 0 where the feature has none. */
static double scalar(const known *k, const char *name)
{
    for (int i = 0; i < k->feature->scalars; i++)
        if (strcmp(k->feature->scalar_names[i], name) == 0)
            return (double)k->s[i];
    return 0;
}

static const float *vector(const known *k, const char *name)
{
    for (int i = 0; i < k->feature->vectors; i++)
        if (strcmp(k->feature->vector_names[i], name) == 0)
            return k->v + i * k->DP;
    return NULL;
}

static double dot(int64_t n, const double *a, const double *b)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* ---- exponential features ---------------------------------------------------------------------
 */

/* log E F(w)^n[0] conj F(w)^n[1] F(-w)^n[2] conj F(-w)^n[3] / K^k, k the sum of n; NAN where the
 * mean is not finite. */
static double complex log_mean(const product *f, const int n[4])
{
    int with = n[0] + n[2], conjugate = n[1] + n[3];
    double complex sum = with * f->c + conjugate * conj(f->c) - (with + conjugate) * f->log_k;
    for (int64_t l = 0; l < f->n; l++) {
        double complex rest = 1 - 4 * (with * f->alpha[l] + conjugate * conj(f->alpha[l]));
        double complex b = (n[0] - n[2]) * f->beta[l] + (n[1] - n[3]) * conj(f->beta[l]);
        if (!(creal(rest) > 0))
            return NAN;
        sum += b * b / (2 * rest) - clog(rest) / 2;
    }
    return sum;
}

/* E (estimate / K)^k by one row; INFINITY where that is not finite. */
static double exponential_moment(const product *f, int k, bool antithetic)
{
    static const double factorial[] = {1, 1, 2, 6, 24};
    double sum = 0;
    for (int a = 0; a <= k; a++)
        for (int b = 0; a + b <= k; b++)
            for (int c = 0; a + b + c <= k; c++) {
                const int n[4] = {a, b, c, k - a - b - c};
                if (!antithetic && n[2] + n[3] > 0)
                    continue;
                double ways =
                    factorial[k] / (factorial[a] * factorial[b] * factorial[c] * factorial[n[3]]);
                double complex mean = log_mean(f, n);
                if (isnan(creal(mean)))
                    return INFINITY;
                sum += ways * pow(antithetic ? 4 : 2, -k) * creal(cexp(mean));
            }
    return sum;
}

/* Product of exponential features of u and v: exp(alpha w^2 + B w u - s u^2 / 2) and the same with
 * s B for v, times (1 - 4 alpha)^(1/4) each, where B = sqrt(s (1 - 4 alpha)). alpha is f's. */
static void fill_exponential(const known *k, product *f, const double *u, const double *v, double s)
{
    f->n = k->D;
    f->log_k = dot(k->D, u, v);
    f->c = -s * (dot(k->D, u, u) + dot(k->D, v, v)) / 2;
    for (int64_t l = 0; l < k->D; l++) {
        double complex wide = 1 - 4 * f->alpha[l];
        f->c += clog(wide) / 2;
        f->beta[l] = csqrt(s * wide) * (u[l] + s * v[l]);
    }
}

static void fill_alpha(product *f, int64_t n, double complex a)
{
    for (int64_t l = 0; l < n; l++)
        f->alpha[l] = a;
}

static void fill_trig(const known *k, product *f)
{
    f->n = k->D;
    f->log_k = dot(k->D, k->x, k->y);
    f->c = (dot(k->D, k->x, k->x) + dot(k->D, k->y, k->y)) / 2;
    fill_alpha(f, k->D, 0);
    for (int64_t l = 0; l < k->D; l++)
        f->beta[l] = CMPLX(0, k->x[l] - k->y[l]);
}

static void fill_real(const known *k, product *f)
{
    fill_alpha(f, k->D, scalar(k, "A"));
    fill_exponential(k, f, k->x, k->y, 1);
}

static void fill_complex(const known *k, product *f)
{
    fill_alpha(f, k->D, CMPLX(scalar(k, "A_re"), scalar(k, "A_im")));
    fill_exponential(k, f, k->x, k->y, scalar(k, "s"));
}

static void fill_rescaled(const known *k, product *f)
{
    const float *psi = vector(k, "psi");
    double u[MOST_D], v[MOST_D];
    for (int64_t l = 0; l < k->D; l++) {
        u[l] = k->x[l] * (double)psi[l];
        v[l] = k->y[l] / (double)psi[l];
    }
    fill_alpha(f, k->D, scalar(k, "A"));
    fill_exponential(k, f, u, v, 1);
}

/* After both sides' linear maps; alpha is one number A, or the vector a (1 + i tilt). */
static void fill_mapped(const known *k, product *f)
{
    const float *rq = k->linear + k->DP * k->DP, *rk = rq + 2 * k->DP * k->DP;
    const float *a = vector(k, "a");
    double u[MOST_D] = {0}, v[MOST_D] = {0};
    for (int64_t i = 0; i < k->D; i++) {
        for (int64_t j = 0; j < k->D; j++) {
            u[i] += (double)rq[i * k->DP + j] * k->x[j];
            v[i] += (double)rk[i * k->DP + j] * k->y[j];
        }
        f->alpha[i] = a ? (double)a[i] * CMPLX(1, scalar(k, "tilt")) : scalar(k, "A");
    }
    fill_exponential(k, f, u, v, 1);
}

/* ---- counts -----------------------------------------------------------------------------------
 */

/* Product of the coordinates, of x - c and y - c where the feature shifts them. */
static double shifted(const known *k, int64_t l)
{
    const float *c = vector(k, "c");
    double shift = c ? (double)c[l] : 0;
    return (k->x[l] - shift) * (k->y[l] - shift);
}

/* E of prod_l e^lambda (uv / lambda)^w_l to the k-th, w Poisson. */
static double poisson_moment(const known *k, int power)
{
    double lambda = scalar(k, "lambda"), sum = (power - 1) * lambda * (double)k->D;
    for (int64_t l = 0; l < k->D; l++) {
        double uv = shifted(k, l);
        sum += lambda * pow(uv / lambda, power) - power * uv;
    }
    return exp(sum);
}

/* E of prod_l (uv / (1 - p))^w_l / (p w_l!) to the k-th, P(w) = p (1 - p)^w. */
static double geometric_moment(const known *k, int power)
{
    double p = scalar(k, "p"), result = 1;
    for (int64_t l = 0; l < k->D; l++) {
        double uv = shifted(k, l), sum = 1, term = 1;
        for (int n = 1; n < MOST_COUNTS && fabs(term) > 1e-18 * fabs(sum); n++) {
            term *= (1 - p) * pow(uv / (1 - p) / n, power);
            sum += term;
        }
        result *= sum * pow(p, 1 - power) * exp(-power * uv);
    }
    return result;
}

/* ---- the table --------------------------------------------------------------------------------
 */

/* Names are those of the plain forms: "oprf" stands for "oprf+" too. */
static const struct {
    const char *name;
    void (*fill)(const known *k, product *f);
    double (*counts)(const known *k, int power);
} forms[] = {
    {"trigrf", fill_trig, NULL},
    {"posrf", fill_real, NULL},
    {"oprf", fill_real, NULL},
    {"gerf", fill_real, NULL},
    {"saderf", fill_rescaled, NULL},
    {"aderf", fill_mapped, NULL},
    {"sderf", fill_mapped, NULL},
    {"cderf", fill_mapped, NULL},
    {"gerf_complex", fill_complex, NULL},
    {"poisrf", NULL, poisson_moment},
    {"poisrf_plus", NULL, poisson_moment},
    {"geomrf", NULL, geometric_moment},
    {"geomrf_plus", NULL, geometric_moment},
};

approx_row approx_iid_row(const spectra_attention *att, const float *block, const float *x,
                          const float *y)
{
    attn_plan plan;
    attn_params params;
    performer_view(performer_of(att), block, &plan, &params);
    const feature_info *feature = performer_of(att)->feature;
    known k = {feature, plan.D, plan.DP, params.s, params.v, params.linear, {0}, {0}};
    size_t name = strcspn(feature->name, "+"), form = 0, all = sizeof forms / sizeof *forms;
    for (int64_t l = 0; l < plan.D; l++) {
        k.x[l] = (double)x[l];
        k.y[l] = (double)y[l];
    }
    while (form < all && !(strlen(forms[form].name) == name &&
                           strncmp(forms[form].name, feature->name, name) == 0))
        form++;
    if (form == all)
        return (approx_row){NAN, NAN};
    product f;
    double m[5];
    if (forms[form].fill)
        forms[form].fill(&k, &f);
    for (int power = 2; power <= 4; power++)
        m[power] = forms[form].fill ? exponential_moment(&f, power, feature->is_antithetic)
                                    : forms[form].counts(&k, power);
    double variance = m[2] > 1 ? m[2] - 1 : 0; /* what is below 1 is rounding */
    return (approx_row){variance, (m[4] - 4 * m[3] + 6 * m[2] - 3) / (variance * variance)};
}

/* ---- order statistics -------------------------------------------------------------------------
 */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double approx_quantile(int64_t n, double *x, double p)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    double at = p * (double)(n - 1);
    int64_t i = (int64_t)at < n - 1 ? (int64_t)at : n - 1;
    double rest = at - (double)i;
    return rest > 0 && x[i + 1] > x[i] ? x[i] + rest * (x[i + 1] - x[i]) : x[i];
}
