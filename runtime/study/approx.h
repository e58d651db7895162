/* The approximation lab: how well pairs of component function and weight matrix approximate a
 * kernel and attention with it, on given queries, keys and values. Matrices are redrawn `trials`
 * times; what is measured are the bias and the variance of the kernel's estimates, the error of
 * attention, and its time. Nothing here prints; approx_page writes the result as HTML.
 */
#ifndef SPECTRA_STUDY_APPROX_H
#define SPECTRA_STUDY_APPROX_H

#include "attention/performer/performer.h"

#include <stdio.h>

enum { APPROX_FEATURES = 64, APPROX_MATRICES = 64, APPROX_SIZES = 8, APPROX_TEXT = 256 };
enum { APPROX_LOW, APPROX_MEDIAN, APPROX_HIGH, APPROX_QUANTILES }; /* 10 %, 50 %, 90 % */

/* Queries and keys unscaled, as attention takes them; arrays are owned (approx_data_free). */
typedef struct approx_data {
    int64_t B, H, T, S, D, DV;
    float *q, *k, *v;         /* (B, H, T, D), (B, H, S, D), (B, H, S, DV) */
    char source[APPROX_TEXT]; /* for people: "random, standard deviation 1" */
} approx_data;

/* One pair at one number of rows. Estimates are those of APPROX_PAIRS queries and keys. */
typedef struct approx_cell {
    bool measured;
    char why[APPROX_TEXT];   /* the reason where it was not */
    double bias, bias_error; /* mean of estimate / K - 1, its standard error over the draws */
    double variance;         /* of estimate / K: median over queries and keys */
    double iid;   /* the same of independent normal rows by the closed form; NAN: none known */
    double ratio; /* median of one by the other; NAN likewise */
    /* What the relative standard error of a ratio would be for independent rows; large where tails
     * are heavy, and so few draws say little about the variance, or NAN. */
    double ratio_error;
    double error[APPROX_QUANTILES]; /* |o - exact| / |exact| over the draws, 2-norms */
    double ns;                      /* forward, a token of a head, one thread, fastest draw */
} approx_cell;

typedef struct approx_progress {
    int64_t done, all; /* cells */
    const char *feature, *matrix;
} approx_progress;

typedef struct approx_lab {
    approx_data data;
    spectra_target target;
    uint64_t seed;
    spectra_rng rng;
    int64_t trials; /* at least 2 */
    int features, matrices, sizes;
    const feature_info *feature[APPROX_FEATURES];
    const matrix_info *matrix[APPROX_MATRICES];
    int64_t size[APPROX_SIZES];
    approx_cell *cell; /* (sizes, features, matrices); owned (approx_free) */
    /* what the numbers are to be compared with */
    double uniform;      /* error of the plain mean of the values */
    double softmax_ns;   /* time of exact softmax attention, NAN without BLAS */
    double logit_spread; /* standard deviation of x.y over the measured queries and keys */
    double z2;           /* mean of |x + y|^2 over them */
    double seconds;
    void (*progress)(void *context, const approx_progress *p); /* one call at a time; may be NULL */
    void *context;
} approx_lab;

static inline approx_cell *approx_at(const approx_lab *lab, int size, int feature, int matrix)
{
    return lab->cell + ((int64_t)size * lab->features + feature) * lab->matrices + matrix;
}
static inline bool approx_resolved(const approx_cell *c)
{
    return c->ratio_error <= 0.3;
}
/* Bias in standard errors. */
static inline double approx_z(const approx_cell *c)
{
    return c->bias_error > 0 ? c->bias / c->bias_error : 0;
}

/* q, v ~ N(0, deviation^2), N(0, 1); k likewise, times a factor of its own in [0.5, 1.5] for each
 * key. One head, tokens queries and keys. SPECTRA_ENOMEM. */
spectra_status approx_random(int64_t tokens, int64_t d, double deviation, uint64_t seed,
                             approx_data *out);
/* Values (B, H, S, D) ~ N(0, 1) for data that has queries and keys. */
spectra_status approx_random_values(uint64_t seed, approx_data *data);
/* Queries, keys and values of a layer of a trained run for the first example of its dev split, at
 * most `most` tokens (0: all). data NULL: the folder the run was trained on. parameters "best" or
 * "last". */
spectra_status approx_from_run(const char *run, const char *data, const char *parameters,
                               int64_t layer, int64_t most, approx_data *out);
void approx_data_free(approx_data *data);

/* Fills in the cells and what stands behind them. Cells that cannot be measured, because the pair
 * is not legal or the matrix does not exist in that size, say why. Everything but the times depends
 * on the settings alone, not on the number of threads. */
spectra_status approx_measure(approx_lab *lab);
void approx_free(approx_lab *lab);

/* The page, whole and self-contained. */
void approx_page(FILE *out, const approx_lab *lab);

/* ---- approx_variance.c ------------------------------------------------------------------------
 */

/* Variance and kurtosis (fourth central moment by variance squared) of estimate / K by one row of
 * N(0, I), or of independent counts, for x, y (D), taken as they are, with the parameters in
 * `block` (performer_prepare_heads). INFINITY where they are not finite, NAN where no closed form
 * is known.
 */
typedef struct approx_row {
    double variance, kurtosis;
} approx_row;

approx_row approx_iid_row(const spectra_attention *att, const float *block, const float *x,
                          const float *y);
/* The p-quantile of x (n), linear between order statistics; sorts x. */
double approx_quantile(int64_t n, double *x, double p);

#endif
