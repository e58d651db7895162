/* The parts of the benchmark that are not matrix products, compiled for each instruction set: the
 * element-wise passes of the unfused side. */
#define FEATURE_ID bench
#include "bench_elementwise.h"

#include "vec.h"

/* y = e^(x - row), and the sum over rows of y into z; x (n, m), m a multiple of VL. */
static void exp_rows(int64_t n, int64_t m, float *x, const float *row_term, float shift, float *z)
{
    for (int64_t t = 0; t < n; t++) {
        vec term = vset(row_term[t] + shift);
        for (int64_t r = 0; r < m; r += VL) {
            vec y = v_exp(vload(x + t * m + r) - term);
            vstore(x + t * m + r, y);
            if (z)
                vstore(z + r, vload(z + r) + y);
        }
    }
}

static float max_rows(int64_t n, int64_t m, const float *x, const float *row_term)
{
    vec most = vset(-INFINITY);
    for (int64_t t = 0; t < n; t++)
        for (int64_t r = 0; r < m; r += VL)
            most = v_max(most, vload(x + t * m + r) - vset(row_term[t]));
    return vhmax(most);
}

static void half_norms(int64_t n, int64_t d, const float *x, float *out)
{
    for (int64_t t = 0; t < n; t++) {
        vec sum = vset(0);
        for (int64_t i = 0; i < d; i += VL)
            sum += vload(x + t * d + i) * vload(x + t * d + i);
        out[t] = vsum(sum) / 2;
    }
}

/* o (n, d) /= den = phi z. */
static void normalise(int64_t n, int64_t m, int64_t d, const float *phi, const float *z, float *o,
                      float *den)
{
    for (int64_t t = 0; t < n; t++) {
        vec sum = vset(0);
        for (int64_t r = 0; r < m; r += VL)
            sum += vload(phi + t * m + r) * vload(z + r);
        den[t] = vsum(sum);
        vec inverse = vset(1 / den[t]);
        for (int64_t i = 0; i < d; i += VL)
            vstore(o + t * d + i, vload(o + t * d + i) * inverse);
    }
}

/* g = go / den, last = -(g.o). */
static void output_grad(int64_t n, int64_t d, const float *o, const float *den, const float *go,
                        float *g, float *last)
{
    for (int64_t t = 0; t < n; t++) {
        vec dot = vset(0), inverse = vset(1 / den[t]);
        for (int64_t i = 0; i < d; i += VL) {
            vec x = vload(go + t * d + i) * inverse;
            vstore(g + t * d + i, x);
            dot += x * vload(o + t * d + i);
        }
        last[t] = -vsum(dot);
    }
}

/* dphi = (dphi + last z) phi, its row sums into sums; dz += phi^T last where dz is given. */
static void feature_grad(int64_t n, int64_t m, float *dphi, const float *last, const float *z,
                         const float *phi, float *dz, float *sums)
{
    for (int64_t t = 0; t < n; t++) {
        vec sum = vset(0), l = vset(last ? last[t] : 1);
        for (int64_t r = 0; r < m; r += VL) {
            vec p = vload(phi + t * m + r), g = (vload(dphi + t * m + r) + l * vload(z + r)) * p;
            vstore(dphi + t * m + r, g);
            sum += g;
            if (dz)
                vstore(dz + r, vload(dz + r) + p * l);
        }
        sums[t] = vsum(sum);
    }
}

/* gx = scale * (gx - sum x). */
static void input_grad(int64_t n, int64_t d, float scale, const float *sums, const float *x,
                       float *gx)
{
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < d; i += VL)
            vstore(gx + t * d + i,
                   (vload(gx + t * d + i) - vset(sums[t]) * vload(x + t * d + i)) * vset(scale));
}

static void scale_into(int64_t n, float scale, const float *x, float *y)
{
    for (int64_t i = 0; i < n; i += VL)
        vstore(y + i, vload(x + i) * vset(scale));
}

extern const bench_elementwise EXPORT(bench_elementwise);
const bench_elementwise EXPORT(bench_elementwise) = {
    exp_rows, max_rows, half_norms, normalise, output_grad, feature_grad, input_grad, scale_into,
};
