/* Estimates of exp(x.y) by the rows of weight matrices that the library draws, in double precision
 * and straight from the formulas of the features, for the statistical tests of matrices. */
#ifndef TESTS_ESTIMATE_H
#define TESTS_ESTIMATE_H

#include "kernel/kernel.h"

#include <stdint.h>

enum { ESTIMATE_MAX_D = 64, ESTIMATE_MAX_M = 256 };
enum { TRIG, POS, OPRF, ESTIMATES };

/* Two vectors, the kernel's value K = exp(x.y), z = x + y, delta = x - y. */
typedef struct estimate_pair {
    int64_t d;
    double z[ESTIMATE_MAX_D], delta[ESTIMATE_MAX_D];
    double x2y2, z2, delta2; /* |x|^2 + |y|^2, |z|^2, |delta|^2 */
    double K, A;             /* A: the best for oprf */
} estimate_pair;

extern const char *const estimate_names[ESTIMATES];

/* x and y of one length in random directions. */
void estimate_pair_make(uint64_t seed, int64_t d, double length, double cosine, estimate_pair *p);
/* Fails the test with the library's sentence where the matrix cannot be drawn. */
void estimate_draw(const matrix_info *info, int64_t m, int64_t d, uint64_t seed, float *w,
                   float *weight);
const matrix_info *estimate_matrix(const char *name);
/* (1/m) sum of weight times the products of features, for each of the three features. */
void estimate_rows(const estimate_pair *p, int64_t m, const float *w, const float *weight,
                   double out[ESTIMATES]);
/* Variance of the estimate by one row of N(0, I). */
double estimate_variance(const estimate_pair *p, int which);

#endif
