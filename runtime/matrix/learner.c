#include "matrix/learner.h"
#include "math/normal.h"

#include "base/status.h"
#include "matrix/recipe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const learner_kind *const kinds[] = {&learner_fastfood, &learner_gmm, &learner_bbq,
                                            &learner_dgm, &learner_inn};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

spectra_status learner_open_matrix(const char *name, const char *matrix, int64_t m, int64_t d,
                                   double *sample, const draw_stream *s, matrix_learner *out)
{
    matrix_learner l = {.matrix = matrix, .m = m, .d = d, .sample = sample};
    for (int i = 0; i < KINDS; i++)
        if (strcmp(kinds[i]->name, name) == 0)
            l.kind = kinds[i];
    if (!l.kind)
        return fail(SPECTRA_ENOTFOUND, "matrix %s: unknown learner '%s'", matrix, name);
    TRY(l.kind->layout(&l));
    if (l.order_count > 0) {
        l.order = malloc((size_t)l.order_count * sizeof *l.order);
        if (!l.order)
            return fail(SPECTRA_ENOMEM, "matrix %s: out of memory", matrix);
        for (int64_t i = 0; i < l.order_count; i += l.order_unit)
            draw_permutation(s, (uint64_t)i, l.order_unit, l.order + i);
    }
    *out = l;
    return SPECTRA_OK;
}

void learner_close_matrix(matrix_learner *l)
{
    free(l->order);
    *l = (matrix_learner){0};
}

/* ---- gmm: a mixture of normal distributions ----------------------------------------------------
 *
 * w_r = mean_c + exp(log_variance_c / 2) sample_r for the rows of component c, a share of the rows
 * each; their weight is the component's probability, the softmax of the logits, over that share. At
 * first all components are N(0, I) (Wilson & Adams 2013; Likhosherstov et al.'s LTK). */

enum { COMPONENTS = 4 };

static int64_t components(const matrix_learner *l)
{
    return l->m < COMPONENTS ? l->m : COMPONENTS;
}

static int64_t component_of(const matrix_learner *l, int64_t r)
{
    return r * components(l) / l->m;
}

static spectra_status gmm_layout(matrix_learner *l)
{
    learner_add(l, "logits", components(l), 1);
    learner_add(l, "means", components(l), l->d);
    learner_add(l, "log_variances", components(l), l->d);
    l->scratch = COMPONENTS;
    return SPECTRA_OK;
}

static void gmm_start(const matrix_learner *l, const draw_stream *s, double *theta)
{
    (void)s;
    memset(theta, 0, (size_t)l->count * sizeof *theta);
}

static void gmm_forward(const matrix_learner *l, const double *theta, double *w, double *weight,
                        double *scratch)
{
    int64_t C = components(l), rows[COMPONENTS] = {0};
    const double *mean = theta + l->tensor[1].offset, *log_variance = theta + l->tensor[2].offset;
    double top = -INFINITY, total = 0;
    for (int64_t c = 0; c < C; c++)
        top = fmax(top, theta[c]);
    for (int64_t c = 0; c < C; c++)
        total += scratch[c] = exp(theta[c] - top);
    for (int64_t r = 0; r < l->m; r++)
        rows[component_of(l, r)]++;
    for (int64_t c = 0; c < C; c++)
        scratch[c] /= total;
    for (int64_t r = 0; r < l->m; r++) {
        int64_t c = component_of(l, r);
        weight[r] = scratch[c] * (double)l->m / (double)rows[c];
        for (int64_t j = 0; j < l->d; j++)
            w[r * l->d + j] =
                mean[c * l->d + j] + exp(log_variance[c * l->d + j] / 2) * l->sample[r * l->d + j];
    }
}

static void gmm_backward(const matrix_learner *l, const double *theta, const double *scratch,
                         const double *gw, const double *gweight, double *gtheta)
{
    int64_t C = components(l), rows[COMPONENTS] = {0};
    double gprobability[COMPONENTS] = {0}, mean = 0;
    for (int64_t r = 0; r < l->m; r++)
        rows[component_of(l, r)]++;
    for (int64_t r = 0; r < l->m; r++) {
        int64_t c = component_of(l, r), means = l->tensor[1].offset + c * l->d;
        int64_t variances = l->tensor[2].offset + c * l->d;
        gprobability[c] += gweight[r] * (double)l->m / (double)rows[c];
        for (int64_t j = 0; j < l->d; j++) {
            double g = gw[r * l->d + j];
            gtheta[means + j] += g;
            gtheta[variances + j] +=
                g * exp(theta[variances + j] / 2) / 2 * l->sample[r * l->d + j];
        }
    }
    for (int64_t c = 0; c < C; c++)
        mean += scratch[c] * gprobability[c];
    for (int64_t c = 0; c < C; c++)
        gtheta[c] += scratch[c] * (gprobability[c] - mean);
}

const learner_kind learner_gmm = {"gmm", gmm_layout, gmm_start, gmm_forward, gmm_backward};

/* ---- bbq: quantile functions, one a coordinate --------------------------------------------------
 *
 * w_rj = Q_j(sample_rj), the sample in (0, 1): piecewise linear through KNOTS knots at (k + 1/2) /
 * KNOTS, continued at the ends; knots are a base and sums of softplus, hence increasing. At first
 * they are the normal quantiles (Tompkins et al. 2019). */

enum { KNOTS = 32 };

static double softplus(double x)
{
    return x > 30 ? x : log1p(exp(x));
}

static double knot_start(int64_t k)
{
    return normal_quantile(((double)k + 0.5) / KNOTS);
}

static spectra_status bbq_layout(matrix_learner *l)
{
    learner_add(l, "base", l->d, 1);
    learner_add(l, "steps", l->d, KNOTS - 1);
    l->scratch = l->d * KNOTS;
    return SPECTRA_OK;
}

static void bbq_start(const matrix_learner *l, const draw_stream *s, double *theta)
{
    (void)s;
    for (int64_t j = 0; j < l->d; j++) {
        theta[j] = knot_start(0);
        for (int64_t k = 0; k < KNOTS - 1; k++)
            theta[l->d + j * (KNOTS - 1) + k] = log(expm1(knot_start(k + 1) - knot_start(k)));
    }
}

/* The knot below u, and how far u is from it to the next. */
static int64_t segment(double u, double *along)
{
    double at = u * KNOTS - 0.5;
    double k = fmin(fmax(floor(at), 0), KNOTS - 2);
    *along = at - k;
    return (int64_t)k;
}

static void bbq_forward(const matrix_learner *l, const double *theta, double *w, double *weight,
                        double *scratch)
{
    for (int64_t j = 0; j < l->d; j++) {
        double *knot = scratch + j * KNOTS;
        knot[0] = theta[j];
        for (int64_t k = 0; k < KNOTS - 1; k++)
            knot[k + 1] = knot[k] + softplus(theta[l->d + j * (KNOTS - 1) + k]);
    }
    for (int64_t r = 0; r < l->m; r++) {
        weight[r] = 1;
        for (int64_t j = 0; j < l->d; j++) {
            double along;
            const double *knot = scratch + j * KNOTS + segment(l->sample[r * l->d + j], &along);
            w[r * l->d + j] = knot[0] + along * (knot[1] - knot[0]);
        }
    }
}

static void bbq_backward(const matrix_learner *l, const double *theta, const double *scratch,
                         const double *gw, const double *gweight, double *gtheta)
{
    (void)scratch, (void)gweight;
    for (int64_t j = 0; j < l->d; j++) {
        double gknot[KNOTS] = {0}, above = 0;
        for (int64_t r = 0; r < l->m; r++) {
            double along, g = gw[r * l->d + j];
            int64_t k = segment(l->sample[r * l->d + j], &along);
            gknot[k] += g * (1 - along);
            gknot[k + 1] += g * along;
        }
        for (int64_t k = KNOTS - 2; k >= 0; k--) {
            int64_t at = l->d + j * (KNOTS - 1) + k;
            above += gknot[k + 1];
            gtheta[at] += above / (1 + exp(-theta[at]));
        }
        gtheta[j] += above + gknot[0];
    }
}

const learner_kind learner_bbq = {"bbq", bbq_layout, bbq_start, bbq_forward, bbq_backward};
