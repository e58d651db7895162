/* Rows made by small networks from the rows g of the fixed sample. Their last layers are 0 at
 * first, so that W is the sample.
 *
 * dgm: a residual network, w = g + W2 a(W1 g + b1) + b2 with the leaky rectifier a.
 * inn: an invertible network of two affine couplings (Dinh et al. 2017): one half of the
 * coordinates, through a hidden layer, gives the scale exp(tanh s) and the shift t of the other
 * half. */
#include "matrix/learner.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

static double dot(int64_t n, const double *a, const double *b)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* y (out) = W x + b, W (out, in). */
static void affine(int64_t in, int64_t out, const double *W, const double *b, const double *x,
                   double *y)
{
    for (int64_t i = 0; i < out; i++)
        y[i] = b[i] + dot(in, W + i * in, x);
}

/* gW += gy x', gb += gy, gx += W' gy unless NULL. */
static void affine_back(int64_t in, int64_t out, const double *W, const double *x, const double *gy,
                        double *gW, double *gb, double *gx)
{
    for (int64_t i = 0; i < out; i++) {
        gb[i] += gy[i];
        for (int64_t j = 0; j < in; j++) {
            gW[i * in + j] += gy[i] * x[j];
            if (gx)
                gx[j] += W[i * in + j] * gy[i];
        }
    }
}

static void start_layer(const draw_stream *s, uint64_t first, int64_t in, int64_t out, double *W)
{
    for (int64_t i = 0; i < in * out; i++)
        W[i] = draw_normal(s, first + (uint64_t)i) / sqrt((double)in);
}

/* ---- dgm ------------------------------------------------------------------------------------- */

static const double leak = 0.2;

static spectra_status dgm_layout(matrix_learner *l)
{
    int64_t d = l->d, h = 2 * d;
    learner_add(l, "W1", h, d);
    learner_add(l, "b1", h, 1);
    learner_add(l, "W2", d, h);
    learner_add(l, "b2", d, 1);
    l->scratch = l->m * h; /* before the rectifier */
    return SPECTRA_OK;
}

static void dgm_start(const matrix_learner *l, const draw_stream *s, double *theta)
{
    memset(theta, 0, (size_t)l->count * sizeof *theta);
    start_layer(s, 0, l->d, 2 * l->d, theta);
}

static void dgm_forward(const matrix_learner *l, const double *theta, double *w, double *weight,
                        double *scratch)
{
    int64_t d = l->d, h = 2 * d;
    const double *b1 = theta + h * d, *W2 = b1 + h, *b2 = W2 + d * h;
    for (int64_t r = 0; r < l->m; r++) {
        double *hidden = scratch + r * h, active[512];
        weight[r] = 1;
        affine(d, h, theta, b1, l->sample + r * d, hidden);
        for (int64_t i = 0; i < h; i++)
            active[i] = hidden[i] > 0 ? hidden[i] : leak * hidden[i];
        affine(h, d, W2, b2, active, w + r * d);
        for (int64_t j = 0; j < d; j++)
            w[r * d + j] += l->sample[r * d + j];
    }
}

static void dgm_backward(const matrix_learner *l, const double *theta, const double *scratch,
                         const double *gw, const double *gweight, double *gtheta)
{
    (void)gweight;
    int64_t d = l->d, h = 2 * d, b1 = h * d, W2 = b1 + h, b2 = W2 + d * h;
    for (int64_t r = 0; r < l->m; r++) {
        const double *hidden = scratch + r * h;
        double active[512], g[512] = {0};
        for (int64_t i = 0; i < h; i++)
            active[i] = hidden[i] > 0 ? hidden[i] : leak * hidden[i];
        affine_back(h, d, theta + W2, active, gw + r * d, gtheta + W2, gtheta + b2, g);
        for (int64_t i = 0; i < h; i++)
            g[i] *= hidden[i] > 0 ? 1 : leak;
        affine_back(d, h, theta, l->sample + r * d, g, gtheta, gtheta + b1, NULL);
    }
}

const learner_kind learner_dgm = {"dgm", dgm_layout, dgm_start, dgm_forward, dgm_backward};

/* ---- inn ------------------------------------------------------------------------------------- */

enum { COUPLINGS = 2 };

/* A coupling: coordinates from `from` (in of them) change those from `to` (out of them). */
typedef struct coupling {
    int64_t from, to, in, out, hidden;
    int64_t W1, b1, W2, b2; /* offsets in theta; W2 (2 out, hidden): s, then t */
    int64_t state;          /* of scratch: input (d), hidden after tanh, s after tanh (out) */
} coupling;

static coupling coupling_at(const matrix_learner *l, int i)
{
    int64_t first = (l->d + 1) / 2, rest = l->d - first, h = 2 * l->d;
    bool flip = i % 2 == 1;
    coupling c = {flip ? first : 0,
                  flip ? 0 : first,
                  flip ? rest : first,
                  flip ? first : rest,
                  h,
                  0,
                  0,
                  0,
                  0,
                  0};
    c.W1 = l->tensor[4 * i].offset, c.b1 = l->tensor[4 * i + 1].offset;
    c.W2 = l->tensor[4 * i + 2].offset, c.b2 = l->tensor[4 * i + 3].offset;
    c.state = i * (2 * l->d + h);
    return c;
}

static spectra_status inn_layout(matrix_learner *l)
{
    static const char *const names[COUPLINGS][4] = {{"W1_0", "b1_0", "W2_0", "b2_0"},
                                                    {"W1_1", "b1_1", "W2_1", "b2_1"}};
    if (l->d < 2)
        return fail(SPECTRA_ESHAPE, "matrix %s couples two halves: d = 1, allowed is 2 and more",
                    l->matrix);
    int64_t first = (l->d + 1) / 2, h = 2 * l->d;
    for (int i = 0; i < COUPLINGS; i++) {
        int64_t in = i % 2 ? l->d - first : first, out = l->d - in;
        learner_add(l, names[i][0], h, in);
        learner_add(l, names[i][1], h, 1);
        learner_add(l, names[i][2], 2 * out, h);
        learner_add(l, names[i][3], 2 * out, 1);
    }
    l->scratch = l->m * COUPLINGS * (2 * l->d + h);
    return SPECTRA_OK;
}

static void inn_start(const matrix_learner *l, const draw_stream *s, double *theta)
{
    memset(theta, 0, (size_t)l->count * sizeof *theta);
    for (int i = 0; i < COUPLINGS; i++) {
        coupling c = coupling_at(l, i);
        start_layer(s, (uint64_t)c.W1, c.in, c.hidden, theta + c.W1);
    }
}

static void inn_forward(const matrix_learner *l, const double *theta, double *w, double *weight,
                        double *scratch)
{
    int64_t d = l->d, each = COUPLINGS * (2 * d + 2 * d);
    for (int64_t r = 0; r < l->m; r++) {
        double *x = w + r * d;
        memcpy(x, l->sample + r * d, (size_t)d * sizeof *x);
        weight[r] = 1;
        for (int i = 0; i < COUPLINGS; i++) {
            coupling c = coupling_at(l, i);
            double *input = scratch + r * each + c.state, *hidden = input + d,
                   *s = hidden + c.hidden;
            double st[512];
            memcpy(input, x, (size_t)d * sizeof *x);
            affine(c.in, c.hidden, theta + c.W1, theta + c.b1, x + c.from, hidden);
            for (int64_t k = 0; k < c.hidden; k++)
                hidden[k] = tanh(hidden[k]);
            affine(c.hidden, 2 * c.out, theta + c.W2, theta + c.b2, hidden, st);
            for (int64_t k = 0; k < c.out; k++) {
                s[k] = tanh(st[k]);
                x[c.to + k] = x[c.to + k] * exp(s[k]) + st[c.out + k];
            }
        }
    }
}

static void inn_backward(const matrix_learner *l, const double *theta, const double *scratch,
                         const double *gw, const double *gweight, double *gtheta)
{
    (void)gweight;
    int64_t d = l->d, each = COUPLINGS * (2 * d + 2 * d);
    for (int64_t r = 0; r < l->m; r++) {
        double g[256];
        memcpy(g, gw + r * d, (size_t)d * sizeof *g);
        for (int i = COUPLINGS - 1; i >= 0; i--) {
            coupling c = coupling_at(l, i);
            const double *input = scratch + r * each + c.state, *hidden = input + d;
            const double *s = hidden + c.hidden;
            double gst[512], ghidden[512] = {0};
            for (int64_t k = 0; k < c.out; k++) {
                double scale = exp(s[k]);
                gst[k] = g[c.to + k] * input[c.to + k] * scale * (1 - s[k] * s[k]);
                gst[c.out + k] = g[c.to + k];
                g[c.to + k] *= scale;
            }
            affine_back(c.hidden, 2 * c.out, theta + c.W2, hidden, gst, gtheta + c.W2,
                        gtheta + c.b2, ghidden);
            for (int64_t k = 0; k < c.hidden; k++)
                ghidden[k] *= 1 - hidden[k] * hidden[k];
            affine_back(c.in, c.hidden, theta + c.W1, input + c.from, ghidden, gtheta + c.W1,
                        gtheta + c.b1, g + c.from);
        }
    }
}

const learner_kind learner_inn = {"inn", inn_layout, inn_start, inn_forward, inn_backward};
