/* Draws weight matrices by the sampling recipes of specs/matrix. A recipe is a short list of
 * primitives (primitives.h) that fill a matrix or transform it, in double precision. A matrix that
 * is trained is the sample of its recipe, passed through its learner (learner.h). */
#ifndef SPECTRA_MATRIX_RECIPE_H
#define SPECTRA_MATRIX_RECIPE_H

#include "kernel/kernel.h"
#include "math/draw.h"
#include "spectraformer.h"

/* Which of the matrices that a recipe can give: of a seed, of a layer, with a generator's numbers.
 */
typedef struct matrix_draw {
    uint64_t seed;
    int64_t layer;
    spectra_rng rng;
} matrix_draw;
static inline matrix_draw matrix_draw_of(const spectra_attention_desc *d)
{
    return (matrix_draw){d->seed, d->layer, d->rng};
}

/* w (m, d) row-major; row_weight (m) or NULL: K(x, y) is estimated by the mean over rows of
 * row_weight * f(x) f(y). Weights are 1 but where the law is "weighted"; some of those are
 * negative. A learned matrix comes with the first values of its parameters. Same (recipe, m, d,
 * draw) gives the same bits. SPECTRA_ESHAPE where the construction does not exist (mm needs
 * m > d, ssr m >= 2 and d >= 3, sobol d <= 256). */
spectra_status sample_matrix(const matrix_info *info, int64_t m, int64_t d, matrix_draw draw,
                             float *w, float *row_weight);
/* Of a matrix with a learner: the recipe's sample, before the learner; rounded to float, so that it
 * can be kept and restored. SPECTRA_ESHAPE as above. */
spectra_status sample_recipe(const matrix_info *info, int64_t m, int64_t d, matrix_draw draw,
                             float *sample, float *row_weight);
/* The stream that decides what else about a learner is random. */
draw_stream sample_learner_stream(matrix_draw draw);

#endif
