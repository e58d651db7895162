/* Parameters of random-feature attention that are trained: those of a learned matrix, shared by the
 * heads, and scalars of the feature, one a head. They live with the model's; here they become
 * matrix and scalars, and the kernels' gradients become theirs. */
#include "attention/performer/performer.h"

#include "base/status.h"
#include "matrix/learner.h"
#include "matrix/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct performer_training {
    int64_t scalars; /* trained ones of the feature, at the start of theta: (scalars, H) */
    bool matrix;
    matrix_learner learner;
    float *sample, *order; /* (M, D), (order_count): what is saved of the learner */
    double *memory;        /* all below */
    double *wide_sample, *theta, *w, *weight, *scratch, *gw, *gweight, *gtheta;
    float *scalar_theta; /* (scalars, H) as last set */
    char name[MAX_SCALARS][32];
} performer_training;

static spectra_status out_of_memory(const performer *pf)
{
    return fail(SPECTRA_ENOMEM, "%s: no memory for the parameters that are trained",
                pf->matrix->name);
}

/* ---- the learner ------------------------------------------------------------------------------
 */

static spectra_status open_learner(performer *pf, performer_training *t)
{
    int64_t n = pf->plan.M * pf->plan.D;
    const draw_stream s = sample_learner_stream(matrix_draw_of(&pf->desc));
    TRY(learner_open_matrix(pf->matrix->learner, pf->matrix->name, pf->plan.M, pf->plan.D, NULL, &s,
                            &t->learner));
    t->matrix = true;
    const matrix_learner *l = &t->learner;
    t->sample = malloc((size_t)n * sizeof *t->sample);
    t->order = malloc((size_t)(l->order_count + 1) * sizeof *t->order);
    t->memory =
        malloc((size_t)(3 * n + 2 * pf->plan.M + 2 * l->count + l->scratch) * sizeof *t->memory);
    if (!t->sample || !t->order || !t->memory)
        return out_of_memory(pf);
    t->wide_sample = t->memory, t->w = t->wide_sample + n, t->gw = t->w + n;
    t->weight = t->gw + n, t->gweight = t->weight + pf->plan.M;
    t->theta = t->gweight + pf->plan.M, t->gtheta = t->theta + l->count;
    t->scratch = t->gtheta + l->count;
    t->learner.sample = t->wide_sample;
    return SPECTRA_OK;
}

spectra_status training_init(performer *pf)
{
    const feature_info *f = pf->feature;
    if (pf->desc.learn && f->learned == 0)
        return fail(SPECTRA_EUNSUPPORTED, "%s has no scalar that is trained (gerf has)", f->name);
    if (!pf->desc.learn && !pf->matrix->learner)
        return SPECTRA_OK;
    performer_training *t = calloc(1, sizeof *t);
    if (!t)
        return out_of_memory(pf);
    pf->training = t;
    pf->plan.learn = pf->matrix->learner != NULL;
    t->scalars = pf->desc.learn ? f->learned : 0;
    t->scalar_theta = calloc((size_t)(t->scalars * pf->desc.H + 1), sizeof *t->scalar_theta);
    if (!t->scalar_theta)
        return out_of_memory(pf);
    for (int i = 0; i < t->scalars; i++)
        snprintf(t->name[i], sizeof t->name[i], "theta_%s", f->scalar_names[f->learn[i].slot]);
    return pf->matrix->learner ? open_learner(pf, t) : SPECTRA_OK;
}

void training_release(performer *pf)
{
    performer_training *t = pf->training;
    if (!t)
        return;
    learner_close_matrix(&t->learner);
    free(t->sample);
    free(t->order);
    free(t->memory);
    free(t->scalar_theta);
    free(t);
    pf->training = NULL;
}

/* The learner's fixed parts from what is saved of them. */
static void take_constants(performer_training *t)
{
    const matrix_learner *l = &t->learner;
    for (int64_t i = 0; i < l->m * l->d; i++)
        t->wide_sample[i] = (double)t->sample[i];
    for (int64_t i = 0; i < l->order_count; i++)
        t->learner.order[i] = (int64_t)t->order[i];
}

/* ---- theta ------------------------------------------------------------------------------------
 */

static int64_t floats_of(const performer *pf)
{
    const performer_training *t = pf->training;
    return t ? t->scalars * pf->desc.H + t->learner.count : 0;
}

static int64_t trained_floats(const spectra_attention *att)
{
    return floats_of(performer_of(att));
}

static int trained_count(const spectra_attention *att)
{
    const performer_training *t = performer_of(att)->training;
    return t ? (int)t->scalars + t->learner.tensors : 0;
}

static spectra_trained trained_tensor(const spectra_attention *att, int i)
{
    const performer *pf = performer_of(att);
    const performer_training *t = pf->training;
    int64_t H = pf->desc.H;
    if (i < t->scalars)
        return (spectra_trained){t->name[i], 1, {H, 1}, i * H};
    const learner_tensor *x = &t->learner.tensor[i - t->scalars];
    return (spectra_trained){
        x->name, x->columns > 1 ? 2 : 1, {x->rows, x->columns}, t->scalars * H + x->offset};
}

static void start(const performer *pf, float *theta)
{
    const performer_training *t = pf->training;
    int64_t H = pf->desc.H;
    if (!t)
        return;
    for (int64_t i = 0; i < t->scalars * H; i++)
        theta[i] = pf->feature->learn[i / H].start;
    if (!t->matrix)
        return;
    const draw_stream s = sample_learner_stream(matrix_draw_of(&pf->desc));
    t->learner.kind->start(&t->learner, &s, t->theta);
    for (int64_t i = 0; i < t->learner.count; i++)
        theta[t->scalars * H + i] = (float)t->theta[i];
}

/* Entry h of the input that holds scalar `slot` for every head. */
static float *scalar_input(performer *pf, int slot)
{
    attention_input *in = &pf->scalar[slot];
    if (!in->data || in->ndim != 1) {
        free(in->data);
        *in = (attention_input){malloc((size_t)pf->desc.H * sizeof(float)), 1, {pf->desc.H}};
    }
    return in->data;
}

static void set(performer *pf, const float *theta)
{
    performer_training *t = pf->training;
    int64_t H = pf->desc.H;
    if (!t)
        return;
    for (int64_t i = 0; i < t->scalars * H; i++)
        t->scalar_theta[i] = theta[i];
    for (int64_t i = 0; i < t->scalars; i++) {
        const learned_scalar *x = &pf->feature->learn[i];
        float *values = scalar_input(pf, x->slot);
        for (int64_t h = 0; h < H && values; h++)
            values[h] = x->value(theta[i * H + h]);
    }
    if (!t->matrix)
        return;
    for (int64_t i = 0; i < t->learner.count; i++)
        t->theta[i] = (double)theta[t->scalars * H + i];
    t->learner.kind->forward(&t->learner, t->theta, t->w, t->weight, t->scratch);
    for (int64_t i = 0; i < pf->plan.M * pf->plan.D; i++)
        pf->w[i] = (float)t->w[i];
    for (int64_t r = 0; r < pf->plan.M; r++)
        pf->row_weight[r] = (float)t->weight[r];
    performer_pack(pf);
}

spectra_status training_redraw(performer *pf, uint64_t seed)
{
    performer_training *t = pf->training;
    if (!t)
        return SPECTRA_OK;
    if (t->matrix) {
        const matrix_draw draw = {seed, pf->desc.layer, pf->desc.rng};
        const draw_stream s = sample_learner_stream(draw);
        matrix_learner drawn;
        TRY(sample_recipe(pf->matrix, pf->plan.M, pf->plan.D, draw, t->sample, pf->row_weight));
        TRY(learner_open_matrix(pf->matrix->learner, pf->matrix->name, pf->plan.M, pf->plan.D,
                                t->wide_sample, &s, &drawn));
        learner_close_matrix(&t->learner);
        t->learner = drawn;
        for (int64_t i = 0; i < drawn.order_count; i++)
            t->order[i] = (float)drawn.order[i];
        take_constants(t);
    }
    float *theta = malloc((size_t)floats_of(pf) * sizeof *theta);
    if (!theta)
        return out_of_memory(pf);
    start(pf, theta);
    set(pf, theta);
    free(theta);
    return SPECTRA_OK;
}

static void trained_start(const spectra_attention *att, float *theta)
{
    start(performer_of(att), theta);
}

static void trained_set(spectra_attention *att, const float *theta)
{
    set(performer_of(att), theta);
}

/* ---- gradients --------------------------------------------------------------------------------
 */

/* From the gradients of W and of the row weights, in t->gw and t->gweight, to those of the learner.
 */
static void learner_gradient(const performer *pf, float *gtheta)
{
    const performer_training *t = pf->training;
    memset(t->gtheta, 0, (size_t)t->learner.count * sizeof *t->gtheta);
    t->learner.kind->backward(&t->learner, t->theta, t->scratch, t->gw, t->gweight, t->gtheta);
    for (int64_t i = 0; i < t->learner.count; i++)
        gtheta[t->scalars * pf->desc.H + i] += (float)t->gtheta[i];
}

/* From the gradients of `heads` heads' scalars, `stride` apart, to those of theta. */
static void scalars_gradient(const performer *pf, int64_t heads, const float *params,
                             int64_t stride, const float *theta, float *gtheta)
{
    const performer_training *t = pf->training;
    const int64_t H = pf->desc.H;
    for (int64_t i = 0; i < t->scalars; i++) {
        const learned_scalar *x = &pf->feature->learn[i];
        for (int64_t n = 0; n < heads; n++) {
            const int64_t k = i * H + n % H;
            gtheta[k] += params[n * stride + x->slot] * x->derivative(theta[k]);
        }
    }
}

void training_gradient(const performer *pf, const float *scalars, const float *w,
                       const float *weights, float *gtheta)
{
    const performer_training *t = pf->training;
    scalars_gradient(pf, pf->desc.H, scalars, pf->feature->scalars, t->scalar_theta, gtheta);
    if (!t->matrix)
        return;
    for (int64_t i = 0; i < pf->plan.M * pf->plan.D; i++)
        t->gw[i] = (double)w[i];
    for (int64_t r = 0; r < pf->plan.M; r++)
        t->gweight[r] = (double)weights[r];
    learner_gradient(pf, gtheta);
}

/* Sums over all heads of the gradients of W and of the row weights. */
static void collect(const performer *pf, const performer_training *t, int64_t heads,
                    const float *params, int64_t stride, const float *weights)
{
    int64_t M = pf->plan.M, D = pf->plan.D, DP = pf->plan.DP;
    int64_t at = pf->feature->scalars + pf->feature->vectors * DP;
    memset(t->gw, 0, (size_t)(M * D) * sizeof *t->gw);
    memset(t->gweight, 0, (size_t)M * sizeof *t->gweight);
    for (int64_t n = 0; n < heads; n++)
        for (int64_t r = 0; r < M; r++) {
            t->gweight[r] += (double)weights[n * M + r];
            for (int64_t d = 0; d < D; d++)
                t->gw[r * D + d] += (double)params[n * stride + at + r * DP + d];
        }
}

static void trained_gradient(const spectra_attention *att, const spectra_problem *p,
                             const void *work, const float *theta, float *gtheta)
{
    const performer *pf = performer_of(att);
    const performer_training *t = pf->training;
    int64_t stride;
    const float *params, *weights;
    if (!t)
        return;
    performer_gradients(pf, p, work, &params, &stride, &weights);
    scalars_gradient(pf, p->B * pf->desc.H, params, stride, theta, gtheta);
    if (!t->matrix)
        return;
    collect(pf, t, p->B * pf->desc.H, params, stride, weights);
    learner_gradient(pf, gtheta);
}

const attention_trained_ops performer_trained = {
    .floats = trained_floats,
    .count = trained_count,
    .tensor = trained_tensor,
    .start = trained_start,
    .set = trained_set,
    .gradient = trained_gradient,
};

/* ---- what is saved ----------------------------------------------------------------------------
 */

int performer_constants(spectra_attention *att, attention_constant out[ATTENTION_CONSTANTS])
{
    performer *pf = performer_of(att);
    int64_t M = pf->plan.M, D = pf->plan.D;
    const performer_training *t = pf->training;
    int n = 0;
    if (t && t->matrix) {
        out[n++] = (attention_constant){"sample", 2, {M, D}, t->sample};
        if (t->learner.order_count > 0)
            out[n++] = (attention_constant){"order", 1, {t->learner.order_count, 1}, t->order};
    } else {
        out[n++] = (attention_constant){"projection_matrix", 2, {M, D}, pf->w};
        if (pf->weighted)
            out[n++] = (attention_constant){"row_weight", 1, {M, 1}, pf->row_weight};
    }
    if (pf->second)
        out[n++] = (attention_constant){"directions", 2, {M, D}, pf->second};
    return n;
}

void performer_constants_changed(spectra_attention *att)
{
    performer *pf = performer_of(att);
    if (pf->training && pf->training->matrix)
        take_constants(pf->training);
    performer_replaced(pf, false);
}
