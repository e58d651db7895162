#include "matrix/recipe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "matrix/learner.h"
#include "matrix/primitives.h"

enum primitive_kind { source, transform };

static const struct {
    const char *name;
    enum primitive_kind kind;
    spectra_status (*run)(canvas *c);
} primitives[] = {
#define PRIMITIVE_ROW(name, kind, numbers) {#name, kind, primitive_##name},
    SAMPLE_PRIMITIVES(PRIMITIVE_ROW)
#undef PRIMITIVE_ROW
};
enum { PRIMITIVES = sizeof primitives / sizeof *primitives };

spectra_status sample_run_primitive(const char *name, canvas *c)
{
    const char *names[PRIMITIVES];
    for (int i = 0; i < PRIMITIVES; i++) {
        if (strcmp(name, primitives[i].name) == 0) {
            if (primitives[i].kind == transform && !c->w)
                return fail(SPECTRA_EINVAL, "matrix %s: '%s' comes before any matrix is made",
                            c->name, name);
            return primitives[i].run(c);
        }
        names[i] = primitives[i].name;
    }
    const char *near = nearest_name(name, names, PRIMITIVES);
    return fail(SPECTRA_ENOTFOUND, "matrix %s: unknown primitive '%s'%s%s%s", c->name, name,
                near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static spectra_status run_recipe(const matrix_info *info, matrix_draw draw, canvas *c)
{
    for (int i = 0; i < info->ops; i++) {
        const recipe_op *op = &info->recipe[i];
        memcpy(c->arg, op->arg, sizeof c->arg);
        c->stream = draw_open(draw.rng, draw.seed, RNG_MATRIX, (uint32_t)draw.layer, (uint32_t)i);
        TRY(sample_run_primitive(op->op, c));
    }
    if (c->rows != c->m || c->columns != c->d)
        return fail(SPECTRA_EINVAL,
                    "matrix %s: the recipe makes %ld x %ld numbers, wanted are %ld x %ld; 'cut' is "
                    "missing",
                    c->name, (long)c->rows, (long)c->columns, (long)c->m, (long)c->d);
    return SPECTRA_OK;
}

spectra_status sample_recipe(const matrix_info *info, int64_t m, int64_t d, matrix_draw draw,
                             float *w, float *row_weight)
{
    enum { MAX_LAYER = (1 << 24) - 1 };
    if (m < 1 || d < 1 || m > SAMPLE_MAX_SIZE / d)
        return fail(SPECTRA_ESHAPE,
                    "matrix %s: m = %ld and d = %ld, neither may be below 1 nor m * d above %d",
                    info->name, (long)m, (long)d, SAMPLE_MAX_SIZE);
    if (draw.layer < 0 || draw.layer > MAX_LAYER)
        return fail(SPECTRA_EINVAL, "matrix %s: layer %ld is not between 0 and %d", info->name,
                    (long)draw.layer, MAX_LAYER);
    canvas c = {.name = info->name, .m = m, .d = d, .weight = canvas_scratch(m)};
    if (!c.weight)
        return SPECTRA_ENOMEM;
    for (int64_t r = 0; r < m; r++)
        c.weight[r] = 1;
    spectra_status status = run_recipe(info, draw, &c);
    for (int64_t i = 0; i < m * d && status == SPECTRA_OK; i++)
        w[i] = (float)c.w[i];
    for (int64_t r = 0; r < m && status == SPECTRA_OK && row_weight; r++)
        row_weight[r] = (float)c.weight[r];
    free(c.weight);
    free(c.w);
    return status;
}

draw_stream sample_learner_stream(matrix_draw draw)
{
    return draw_open(draw.rng, draw.seed, RNG_MATRIX, (uint32_t)draw.layer, DRAW_LEARNER);
}

/* The learner's matrix with the first values of its parameters, in place of the sample w. */
static spectra_status first_values(const matrix_info *info, int64_t m, int64_t d,
                                   const draw_stream *s, float *w, float *row_weight)
{
    matrix_learner l;
    double *sample = canvas_scratch(m * d);
    if (!sample)
        return SPECTRA_ENOMEM;
    for (int64_t i = 0; i < m * d; i++)
        sample[i] = (double)w[i];
    spectra_status status = learner_open_matrix(info->learner, info->name, m, d, sample, s, &l);
    if (status != SPECTRA_OK) {
        free(sample);
        return status;
    }
    double *theta = canvas_scratch(l.count + l.scratch + m * d + m);
    if (theta) {
        double *out = theta + l.count + l.scratch, *weight = out + m * d;
        l.kind->start(&l, s, theta);
        l.kind->forward(&l, theta, out, weight, theta + l.count);
        for (int64_t i = 0; i < m * d; i++)
            w[i] = (float)out[i];
        for (int64_t r = 0; r < m && row_weight; r++)
            row_weight[r] = (float)weight[r];
    }
    status = theta ? SPECTRA_OK : SPECTRA_ENOMEM;
    free(theta);
    free(sample);
    learner_close_matrix(&l);
    return status;
}

spectra_status sample_matrix(const matrix_info *info, int64_t m, int64_t d, matrix_draw draw,
                             float *w, float *row_weight)
{
    TRY(sample_recipe(info, m, d, draw, w, row_weight));
    if (!info->learner)
        return SPECTRA_OK;
    const draw_stream s = sample_learner_stream(draw);
    return first_values(info, m, d, &s, w, row_weight);
}
