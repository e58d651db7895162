/* Parameters of random-feature attention that are trained: those of a learned matrix, shared by the
 * heads, and scalars of the feature, one a head. They live with the model's; here they become
 * matrix and scalars, and the kernels' gradients become theirs. */
#include "attention/attention.h"

#include "base/status.h"
#include "matrix/learner.h"
#include "matrix/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct attention_training {
    int64_t scalars; /* trained ones of the feature, at the start of theta: (scalars, H) */
    bool matrix;
    matrix_learner learner;
    float *sample, *order; /* (M, D), (order_count): what is saved of the learner */
    double *memory;        /* all below */
    double *wide_sample, *theta, *w, *weight, *scratch, *gw, *gweight, *gtheta;
    float *scalar_theta; /* (scalars, H) as last set */
    char name[MAX_SCALARS][32];
} attention_training;

static spectra_status out_of_memory(const spectra_attention *att)
{
    return fail(SPECTRA_ENOMEM, "%s: no memory for the parameters that are trained",
                att->matrix->name);
}

/* ---- the learner ------------------------------------------------------------------------------
 */

static spectra_status open_learner(spectra_attention *att, attention_training *t)
{
    int64_t n = att->plan.M * att->plan.D;
    const draw_stream s = sample_learner_stream(matrix_draw_of(&att->desc));
    TRY(learner_open_matrix(att->matrix->learner, att->matrix->name, att->plan.M, att->plan.D, NULL,
                            &s, &t->learner));
    t->matrix = true;
    const matrix_learner *l = &t->learner;
    t->sample = malloc((size_t)n * sizeof *t->sample);
    t->order = malloc((size_t)(l->order_count + 1) * sizeof *t->order);
    t->memory =
        malloc((size_t)(3 * n + 2 * att->plan.M + 2 * l->count + l->scratch) * sizeof *t->memory);
    if (!t->sample || !t->order || !t->memory)
        return out_of_memory(att);
    t->wide_sample = t->memory, t->w = t->wide_sample + n, t->gw = t->w + n;
    t->weight = t->gw + n, t->gweight = t->weight + att->plan.M;
    t->theta = t->gweight + att->plan.M, t->gtheta = t->theta + l->count;
    t->scratch = t->gtheta + l->count;
    t->learner.sample = t->wide_sample;
    return SPECTRA_OK;
}

spectra_status training_init(spectra_attention *att)
{
    const feature_info *f = att->feature;
    if (att->desc.learn && f->learned == 0)
        return fail(SPECTRA_EUNSUPPORTED, "%s has no scalar that is trained (gerf has)", f->name);
    if (!att->desc.learn && !att->matrix->learner)
        return SPECTRA_OK;
    attention_training *t = calloc(1, sizeof *t);
    if (!t)
        return out_of_memory(att);
    att->training = t;
    att->plan.learn = att->matrix->learner != NULL;
    t->scalars = att->desc.learn ? f->learned : 0;
    t->scalar_theta = calloc((size_t)(t->scalars * att->desc.H + 1), sizeof *t->scalar_theta);
    if (!t->scalar_theta)
        return out_of_memory(att);
    for (int i = 0; i < t->scalars; i++)
        snprintf(t->name[i], sizeof t->name[i], "theta_%s", f->scalar_names[f->learn[i].slot]);
    return att->matrix->learner ? open_learner(att, t) : SPECTRA_OK;
}

void training_release(spectra_attention *att)
{
    attention_training *t = att->training;
    if (!t)
        return;
    learner_close_matrix(&t->learner);
    free(t->sample);
    free(t->order);
    free(t->memory);
    free(t->scalar_theta);
    free(t);
    att->training = NULL;
}

/* The learner's fixed parts from what is saved of them. */
static void take_constants(attention_training *t)
{
    const matrix_learner *l = &t->learner;
    for (int64_t i = 0; i < l->m * l->d; i++)
        t->wide_sample[i] = (double)t->sample[i];
    for (int64_t i = 0; i < l->order_count; i++)
        t->learner.order[i] = (int64_t)t->order[i];
}

spectra_status training_redraw(spectra_attention *att, uint64_t seed)
{
    attention_training *t = att->training;
    if (!t)
        return SPECTRA_OK;
    if (t->matrix) {
        const matrix_draw draw = {seed, att->desc.layer, att->desc.rng};
        const draw_stream s = sample_learner_stream(draw);
        matrix_learner drawn;
        TRY(sample_recipe(att->matrix, att->plan.M, att->plan.D, draw, t->sample, att->row_weight));
        TRY(learner_open_matrix(att->matrix->learner, att->matrix->name, att->plan.M, att->plan.D,
                                t->wide_sample, &s, &drawn));
        learner_close_matrix(&t->learner);
        t->learner = drawn;
        for (int64_t i = 0; i < drawn.order_count; i++)
            t->order[i] = (float)drawn.order[i];
        take_constants(t);
    }
    float *theta = malloc((size_t)spectra_attention_trained_floats(att) * sizeof *theta);
    if (!theta)
        return out_of_memory(att);
    spectra_attention_trained_start(att, theta);
    spectra_attention_trained_set(att, theta);
    free(theta);
    return SPECTRA_OK;
}

/* ---- theta ------------------------------------------------------------------------------------
 */

int64_t spectra_attention_trained_floats(const spectra_attention *att)
{
    const attention_training *t = att->training;
    return t ? t->scalars * att->desc.H + t->learner.count : 0;
}

int spectra_attention_trained_count(const spectra_attention *att)
{
    const attention_training *t = att->training;
    return t ? (int)t->scalars + t->learner.tensors : 0;
}

spectra_trained spectra_attention_trained(const spectra_attention *att, int i)
{
    const attention_training *t = att->training;
    int64_t H = att->desc.H;
    if (i < t->scalars)
        return (spectra_trained){t->name[i], 1, {H, 1}, i * H};
    const learner_tensor *x = &t->learner.tensor[i - t->scalars];
    return (spectra_trained){
        x->name, x->columns > 1 ? 2 : 1, {x->rows, x->columns}, t->scalars * H + x->offset};
}

void spectra_attention_trained_start(const spectra_attention *att, float *theta)
{
    const attention_training *t = att->training;
    int64_t H = att->desc.H;
    if (!t)
        return;
    for (int64_t i = 0; i < t->scalars * H; i++)
        theta[i] = att->feature->learn[i / H].start;
    if (!t->matrix)
        return;
    const draw_stream s = sample_learner_stream(matrix_draw_of(&att->desc));
    t->learner.kind->start(&t->learner, &s, t->theta);
    for (int64_t i = 0; i < t->learner.count; i++)
        theta[t->scalars * H + i] = (float)t->theta[i];
}

/* Entry h of the input that holds scalar `slot` for every head. */
static float *scalar_input(spectra_attention *att, int slot)
{
    attention_input *in = &att->scalar[slot];
    if (!in->data || in->ndim != 1) {
        free(in->data);
        *in = (attention_input){malloc((size_t)att->desc.H * sizeof(float)), 1, {att->desc.H}};
    }
    return in->data;
}

void spectra_attention_trained_set(spectra_attention *att, const float *theta)
{
    attention_training *t = att->training;
    int64_t H = att->desc.H;
    if (!t)
        return;
    for (int64_t i = 0; i < t->scalars * H; i++)
        t->scalar_theta[i] = theta[i];
    for (int64_t i = 0; i < t->scalars; i++) {
        const learned_scalar *x = &att->feature->learn[i];
        float *values = scalar_input(att, x->slot);
        for (int64_t h = 0; h < H && values; h++)
            values[h] = x->value(theta[i * H + h]);
    }
    if (!t->matrix)
        return;
    for (int64_t i = 0; i < t->learner.count; i++)
        t->theta[i] = (double)theta[t->scalars * H + i];
    t->learner.kind->forward(&t->learner, t->theta, t->w, t->weight, t->scratch);
    for (int64_t i = 0; i < att->plan.M * att->plan.D; i++)
        att->w[i] = (float)t->w[i];
    for (int64_t r = 0; r < att->plan.M; r++)
        att->row_weight[r] = (float)t->weight[r];
    performer_pack(att);
}

/* From the gradients of W and of the row weights, in t->gw and t->gweight, to those of the learner.
 */
static void learner_gradient(const spectra_attention *att, float *gtheta)
{
    const attention_training *t = att->training;
    memset(t->gtheta, 0, (size_t)t->learner.count * sizeof *t->gtheta);
    t->learner.kind->backward(&t->learner, t->theta, t->scratch, t->gw, t->gweight, t->gtheta);
    for (int64_t i = 0; i < t->learner.count; i++)
        gtheta[t->scalars * att->desc.H + i] += (float)t->gtheta[i];
}

/* From the gradients of `heads` heads' scalars, `stride` apart, to those of theta. */
static void scalars_gradient(const spectra_attention *att, int64_t heads, const float *params,
                             int64_t stride, const float *theta, float *gtheta)
{
    const attention_training *t = att->training;
    const int64_t H = att->desc.H;
    for (int64_t i = 0; i < t->scalars; i++) {
        const learned_scalar *x = &att->feature->learn[i];
        for (int64_t n = 0; n < heads; n++) {
            const int64_t k = i * H + n % H;
            gtheta[k] += params[n * stride + x->slot] * x->derivative(theta[k]);
        }
    }
}

void training_gradient(const spectra_attention *att, const float *scalars, const float *w,
                       const float *weights, float *gtheta)
{
    const attention_training *t = att->training;
    scalars_gradient(att, att->desc.H, scalars, att->feature->scalars, t->scalar_theta, gtheta);
    if (!t->matrix)
        return;
    for (int64_t i = 0; i < att->plan.M * att->plan.D; i++)
        t->gw[i] = (double)w[i];
    for (int64_t r = 0; r < att->plan.M; r++)
        t->gweight[r] = (double)weights[r];
    learner_gradient(att, gtheta);
}

/* Sums over all heads of the gradients of W and of the row weights. */
static void collect(const spectra_attention *att, const attention_training *t, int64_t heads,
                    const float *params, int64_t stride, const float *weights)
{
    int64_t M = att->plan.M, D = att->plan.D, DP = att->plan.DP;
    int64_t at = att->feature->scalars + att->feature->vectors * DP;
    memset(t->gw, 0, (size_t)(M * D) * sizeof *t->gw);
    memset(t->gweight, 0, (size_t)M * sizeof *t->gweight);
    for (int64_t n = 0; n < heads; n++)
        for (int64_t r = 0; r < M; r++) {
            t->gweight[r] += (double)weights[n * M + r];
            for (int64_t d = 0; d < D; d++)
                t->gw[r * D + d] += (double)params[n * stride + at + r * DP + d];
        }
}

void spectra_attention_trained_gradient(const spectra_attention *att, const spectra_problem *p,
                                        const void *work, const float *theta, float *gtheta)
{
    const attention_training *t = att->training;
    int64_t stride;
    const float *params, *weights;
    if (!t)
        return;
    performer_gradients(att, p, work, &params, &stride, &weights);
    scalars_gradient(att, p->B * att->desc.H, params, stride, theta, gtheta);
    if (!t->matrix)
        return;
    collect(att, t, p->B * att->desc.H, params, stride, weights);
    learner_gradient(att, gtheta);
}

/* ---- what is saved ----------------------------------------------------------------------------
 */

int attention_constants(spectra_attention *att, attention_constant out[ATTENTION_CONSTANTS])
{
    int64_t M = att->plan.M, D = att->plan.D;
    const attention_training *t = att->training;
    int n = 0;
    if (!att->w)
        return 0;
    if (t && t->matrix) {
        out[n++] = (attention_constant){"sample", 2, {M, D}, t->sample};
        if (t->learner.order_count > 0)
            out[n++] = (attention_constant){"order", 1, {t->learner.order_count, 1}, t->order};
    } else {
        out[n++] = (attention_constant){"projection_matrix", 2, {M, D}, att->w};
        if (att->weighted)
            out[n++] = (attention_constant){"row_weight", 1, {M, 1}, att->row_weight};
    }
    if (att->second)
        out[n++] = (attention_constant){"directions", 2, {M, D}, att->second};
    return n;
}

void attention_constants_changed(spectra_attention *att)
{
    if (att->training && att->training->matrix)
        take_constants(att->training);
    performer_replaced(att, false);
}
