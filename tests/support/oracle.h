/* What the library should compute, in double precision and straight from the mathematics: exact
 * attention, features, their optimal parameters, closed-form variances, and the random numbers,
 * orthogonal matrices and distribution functions the statistical tests need. It shares no code with
 * the library and knows nothing of its layouts. Everything is small and slow on purpose.
 *
 * x and y are always taken as they are: whoever wants d^-1/4 multiplies by it before.
 */
#ifndef TESTS_ORACLE_H
#define TESTS_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ORACLE_MAX_D = 64, ORACLE_MAX_M = 1024 };

/* Random numbers. */

typedef struct oracle_rng {
    uint64_t state;
} oracle_rng;

uint64_t oracle_bits(oracle_rng *r);  /* splitmix64 (Steele, Lea & Flood 2014) */
double oracle_uniform(oracle_rng *r); /* in (0, 1) */
double oracle_normal(oracle_rng *r);  /* Box & Muller 1958 */
void oracle_normals(oracle_rng *r, int64_t n, double deviation, double *out);

/* Linear algebra. */

double oracle_dot(int64_t n, const double *a, const double *b);
/* Q (d, d) of the Householder factorisation of a (d, d, destroyed). fix_signs: columns are
 * multiplied by the signs of R's diagonal, which makes Q of a normal matrix uniform (Haar);
 * without, it is what LAPACK returns. */
void oracle_qr(int64_t d, double *a, bool fix_signs, double *q);
/* Orthogonal features: w (m, d), blocks of Q^T, every row with an independent chi_d length. */
void oracle_orthogonal(oracle_rng *r, int64_t m, int64_t d, bool fix_signs, double *w);

/* Distributions. */

double oracle_normal_cdf(double x);
double oracle_chi2_cdf(double k, double x); /* k degrees of freedom */
/* Largest distance of the empirical distribution of x (n, sorted in place) from that of chi^2_k,
 * times sqrt(n): above 2.225 has probability 1e-4 (Kolmogorov). */
double oracle_ks_chi2(int64_t n, double *x, double k);
double oracle_median(int64_t n, double *x); /* sorts x */

/* Mean and spread of what is added. */
typedef struct oracle_sample {
    double n, mean, m2;
} oracle_sample;

void oracle_add(oracle_sample *s, double x);
double oracle_deviation(const oracle_sample *s);
double oracle_standard_error(const oracle_sample *s);
/* "" if the mean is within 5 standard errors of K and these are at most `power` of K, else why not.
 */
const char *oracle_z_test(const oracle_sample *s, double K, double power, char *buf, size_t size);
/* Two vectors (d) of norm `radius` with the given cosine. */
void oracle_pair(uint64_t seed, int64_t d, double radius, double cosine, double *x, double *y);

/* Component functions. */

/* f(x, w) = D exp(A|w|^2 + sqrt(1-4A) w.x - |x|^2/2), D = (1-4A)^(d/4), on psi x and y / psi; or
 * e^(|x|^2/2) (cos w.x, sin w.x). The Gaussian target adds -|x|^2/2 of the x given. */
typedef struct oracle_map {
    bool trig, gaussian;
    double A;
    const double *psi; /* (d), NULL: ones */
} oracle_map;

static inline int oracle_lanes(const oracle_map *f)
{
    return f->trig ? 2 : 1;
}
/* Features of one token, lane-major: log, sign (lanes, m). side 0 = query, 1 = key. sign is not
 * rounded to +-1 for trig: value = sign * exp(log). */
void oracle_features(const oracle_map *f, int side, int64_t d, int64_t m, const double *w,
                     const double *x, double *log, double *sign);
/* (1/m) sum of products of the features of x and y. */
double oracle_estimate(const oracle_map *f, int64_t d, int64_t m, const double *w, const double *x,
                       const double *y);
/* exp(x.y), or exp(-|x-y|^2/2). */
double oracle_kernel(const oracle_map *f, int64_t d, const double *x, const double *y);
/* Variance of the estimate by one row of N(0, I) (softmax target). */
double oracle_variance(const oracle_map *f, int64_t d, const double *x, const double *y);

/* The optimum a*(phi): root <= 0 of 16a^2 - (2 - 4 phi) a - phi = 0. */
double oracle_optimum(double phi);
/* Mean of |psi x_i + y_j / psi|^2 over pairs of unmasked tokens, divided by d. */
double oracle_pair_mean(int64_t n, int64_t d, const double *x, const double *y, const uint8_t *mask,
                        const double *psi);
/* psi of the unmasked tokens: (sum y_l^2 / sum x_l^2)^(1/4). */
void oracle_psi(int64_t n, int64_t d, const double *x, const double *y, const uint8_t *mask,
                double *psi);

/* Attention. */

/* One head: x (n, d), y (s, d), v (s, dv), o (n, dv); mask (s) or NULL. Rows without keys are 0. */
typedef struct oracle_head {
    int64_t n, s, d, dv;
    const double *x, *y, *v;
    const uint8_t *mask;
} oracle_head;

/* Weights exp(x.y) (or the Gaussian kernel), normalised. */
void oracle_exact(const oracle_head *h, bool gaussian, double *o);

/* What is added to the logs of the features before they are used. All but per_key_max leave the
 * result as it is; that one, the reference's, does not. */
typedef struct oracle_shift {
    const double *query;   /* (n) */
    const double *feature; /* (lanes, m): added on the query side, subtracted on the key side */
    double key;
    bool per_key_max;
} oracle_shift;

/* Random-feature attention; shift may be NULL. */
void oracle_attend(const oracle_head *h, const oracle_map *f, int64_t m, const double *w,
                   const oracle_shift *shift, double *o);
/* |a - b| / |b|, 2-norms. */
double oracle_distance(int64_t n, const double *a, const double *b);

#endif
