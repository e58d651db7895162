#include "device/attention_exact.h"

#include "attention/performer/performer.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Features of n tokens x and their gradients: (n, lanes * M), lane-major. */
typedef struct features {
    const spectra_attention *att;
    int64_t n, F;
    double *x, *value, *gradient;
} features;

static double *zeros(int64_t n)
{
    double *x = calloc((size_t)n, sizeof *x);
    assert(x);
    return x;
}

/* e^(w.x - |x|^2 / 2), or e^(|x|^2 / 2) times cos and sin of w.x; x are `from` times D^-1/4. */
static features features_of(const spectra_attention *att, int64_t n, const float *from)
{
    const int64_t D = att->desc.D, M = att->desc.M, lanes = performer_of(att)->feature->lanes,
                  F = lanes * M;
    features f = {att, n, F, zeros(n * D), zeros(n * F), zeros(n * F)};
    for (int64_t i = 0; i < n * D; i++)
        f.x[i] = (double)from[i] * pow((double)D, -0.25);
    for (int64_t t = 0; t < n; t++) {
        double *value = f.value + t * F, norm = 0;
        for (int64_t d = 0; d < D; d++)
            norm += f.x[t * D + d] * f.x[t * D + d];
        for (int64_t r = 0; r < M; r++) {
            double u = 0;
            for (int64_t d = 0; d < D; d++)
                u += (double)performer_of(att)->w[r * D + d] * f.x[t * D + d];
            value[r] = lanes == 1 ? exp(u - norm / 2) : exp(norm / 2) * cos(u);
            if (lanes == 2)
                value[M + r] = exp(norm / 2) * sin(u);
        }
    }
    return f;
}

/* The gradient of what the features were made from, (n, D); releases them. */
static void differentiate(features *f, float *out)
{
    const int64_t D = f->att->desc.D, M = f->att->desc.M;
    double *sum = zeros(D);
    for (int64_t t = 0; t < f->n; t++) {
        const double *value = f->value + t * f->F, *g = f->gradient + t * f->F;
        double own = 0;
        memset(sum, 0, (size_t)D * sizeof *sum);
        for (int64_t r = 0; r < M; r++) {
            double u = g[r] * value[r];
            own += f->F == M ? -u : u + g[M + r] * value[M + r];
            if (f->F > M)
                u = g[M + r] * value[r] - g[r] * value[M + r];
            for (int64_t d = 0; d < D; d++)
                sum[d] += u * (double)performer_of(f->att)->w[r * D + d];
        }
        for (int64_t d = 0; d < D; d++)
            out[t * D + d] = (float)((sum[d] + own * f->x[t * D + d]) * pow((double)D, -0.25));
    }
    free(sum), free(f->x), free(f->value), free(f->gradient);
}

/* Query i over the first `end` keys: o, and what it adds to the gradients of features and v. */
static void attend_query(const features *q, const features *k, int64_t i, int64_t end,
                         const float *v, const float *go, const uint8_t *mask, double *row,
                         float *out, double *gv)
{
    const int64_t DV = q->att->desc.DV, F = q->F;
    double *o = zeros(DV), den = 0;
    for (int64_t j = 0; j < end; j++) {
        row[j] = 0;
        for (int64_t f = 0; f < F && (!mask || mask[j]); f++)
            row[j] += q->value[i * F + f] * k->value[j * F + f];
        den += row[j];
        for (int64_t d = 0; d < DV; d++)
            o[d] += row[j] * (double)v[j * DV + d];
    }
    for (int64_t d = 0; d < DV; d++)
        out[d] = (float)(o[d] = den == 0 ? 0 : o[d] / den);
    for (int64_t j = 0; j < end; j++) {
        double g = 0;
        if (mask && !mask[j])
            continue;
        for (int64_t d = 0; d < DV; d++) {
            g += (double)go[d] * ((double)v[j * DV + d] - o[d]) / den;
            gv[j * DV + d] += row[j] / den * (double)go[d];
        }
        for (int64_t f = 0; f < F; f++) {
            q->gradient[i * F + f] += g * k->value[j * F + f];
            k->gradient[j * F + f] += g * q->value[i * F + f];
        }
    }
    free(o);
}

void exact_attention(const spectra_attention *att, int64_t T, int64_t S, const float *const in[4],
                     const uint8_t *mask, float *const out[4])
{
    const int64_t DV = att->desc.DV;
    features q = features_of(att, T, in[0]), k = features_of(att, S, in[1]);
    double *row = zeros(S), *gv = zeros(S * DV);
    for (int64_t i = 0; i < T; i++)
        attend_query(&q, &k, i, att->desc.causal ? i + 1 : S, in[2], in[3] + i * DV, mask, row,
                     out[0] + i * DV, gv);
    for (int64_t i = 0; i < S * DV; i++)
        out[3][i] = (float)gv[i];
    differentiate(&q, out[1]);
    differentiate(&k, out[2]);
    free(row), free(gv);
}
