#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel/registry.h"
#include "matrix/recipe.h"
#include "support/estimate.h"
#include "support/oracle.h"

#include <math.h>

const char *const estimate_names[ESTIMATES] = {"trig", "pos", "oprf"};

void estimate_pair_make(uint64_t seed, int64_t d, double length, double cosine, estimate_pair *p)
{
    oracle_rng r = {seed};
    double a[ESTIMATE_MAX_D], b[ESTIMATE_MAX_D];
    assert_true(d <= ESTIMATE_MAX_D);
    oracle_normals(&r, d, 1, a);
    oracle_normals(&r, d, 1, b);
    const double along = d > 1 ? oracle_dot(d, a, b) / oracle_dot(d, a, a) : 0;
    for (int64_t l = 0; l < d; l++)
        b[l] -= along * a[l];
    const double a1 = length / sqrt(oracle_dot(d, a, a)), b1 = length / sqrt(oracle_dot(d, b, b));
    const double sine = sqrt(1 - cosine * cosine);
    p->d = d;
    for (int64_t l = 0; l < d; l++) {
        const double x = a1 * a[l], y = cosine * a1 * a[l] + sine * b1 * b[l];
        p->z[l] = x + y;
        p->delta[l] = x - y;
    }
    p->x2y2 = 2 * length * length;
    p->z2 = oracle_dot(d, p->z, p->z);
    p->delta2 = oracle_dot(d, p->delta, p->delta);
    p->K = exp((p->z2 - p->delta2) / 4);
    p->A = oracle_optimum(p->z2 / (double)d);
}

const matrix_info *estimate_matrix(const char *name)
{
    const matrix_info *info = NULL;
    if (registry_matrix(name, &info) != SPECTRA_OK)
        fail_msg("%s", spectra_message());
    return info;
}

void estimate_draw(const matrix_info *info, int64_t m, int64_t d, uint64_t seed, float *w,
                   float *weight)
{
    if (sample_matrix(info, m, d, (matrix_draw){.seed = seed}, w, weight) != SPECTRA_OK)
        fail_msg("%s (%d, %d): %s", info->name, (int)m, (int)d, spectra_message());
}

void estimate_rows(const estimate_pair *p, int64_t m, const float *w, const float *weight,
                   double out[ESTIMATES])
{
    const double b = sqrt(1 - 4 * p->A), D2 = pow(1 - 4 * p->A, (double)p->d / 2);
    double sum[ESTIMATES] = {0};
    for (int64_t r = 0; r < m; r++) {
        double wz = 0, wdelta = 0, w2 = 0;
        for (int64_t l = 0; l < p->d; l++) {
            const double x = (double)w[r * p->d + l];
            wz += x * p->z[l];
            wdelta += x * p->delta[l];
            w2 += x * x;
        }
        sum[TRIG] += (double)weight[r] * exp(p->x2y2 / 2) * cos(wdelta);
        sum[POS] += (double)weight[r] * exp(wz - p->x2y2 / 2);
        sum[OPRF] += (double)weight[r] * D2 * exp(2 * p->A * w2 + b * wz - p->x2y2 / 2);
    }
    for (int i = 0; i < ESTIMATES; i++)
        out[i] = sum[i] / (double)m;
}

double estimate_variance(const estimate_pair *p, int which)
{
    const double A = p->A, K2 = p->K * p->K;
    if (which == TRIG)
        return exp(p->x2y2) * pow(1 - exp(-p->delta2), 2) / 2;
    if (which == POS)
        return K2 * (exp(p->z2) - 1);
    return pow((1 - 4 * A) * (1 - 4 * A) / (1 - 8 * A), (double)p->d / 2) *
               exp(2 * (1 - 4 * A) / (1 - 8 * A) * p->z2 - p->x2y2) -
           K2;
}
