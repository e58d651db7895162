/* Weight matrices that are trained: the matrix W and its row weights as differentiable functions of
 * parameters theta and of a fixed sample, which the recipe of the matrix's spec draws. Everything
 * is computed in double precision. A new learner needs its C file, its declaration below, a line in
 * the table of learner.c and its name in LEARNERS of gen/spec.lua; a new matrix with a known
 * learner needs one spec.
 *
 * Training changes which kernel is estimated: only the initial parameters give an unbiased
 * estimate. They are chosen so that W is the fixed sample or another sample of the same law. */
#ifndef SPECTRA_MATRIX_LEARNER_H
#define SPECTRA_MATRIX_LEARNER_H

#include "math/draw.h"
#include "spectraformer.h"

enum { LEARNER_TENSORS = 8 };

typedef struct learner_tensor {
    const char *name;
    int64_t rows, columns; /* columns 1: a vector */
    int64_t offset;        /* in theta */
} learner_tensor;

typedef struct matrix_learner matrix_learner;

typedef struct learner_kind {
    const char *name; /* as in the spec's `learner` */
    /* Fills in the sizes; `learner_add` one by one. SPECTRA_ESHAPE where there is none of this
     * size. */
    spectra_status (*layout)(matrix_learner *l);
    void (*start)(const matrix_learner *l, const draw_stream *s, double *theta);
    /* w (m, d), weight (m). scratch: l->scratch numbers, left for backward. */
    void (*forward)(const matrix_learner *l, const double *theta, double *w, double *weight,
                    double *scratch);
    /* gtheta += gradients, from those of w and weight. */
    void (*backward)(const matrix_learner *l, const double *theta, const double *scratch,
                     const double *gw, const double *gweight, double *gtheta);
} learner_kind;

struct matrix_learner {
    const learner_kind *kind;
    const char *matrix; /* name, for messages */
    int64_t m, d;
    int64_t count, scratch; /* numbers in theta, in scratch */
    int tensors;
    learner_tensor tensor[LEARNER_TENSORS];
    double *sample; /* (m, d) of the recipe; owned by the caller */
    /* what else is fixed: permutations of order_unit things, order_count entries in all; owned */
    int64_t *order, order_unit, order_count;
};

extern const learner_kind learner_fastfood, learner_gmm, learner_bbq, learner_dgm, learner_inn;

/* By name; sample (m, d) is used until learner_close. The stream decides what else is fixed.
 * SPECTRA_ENOTFOUND, SPECTRA_ESHAPE, SPECTRA_ENOMEM. */
spectra_status learner_open_matrix(const char *name, const char *matrix, int64_t m, int64_t d,
                                   double *sample, const draw_stream *s, matrix_learner *out);
void learner_close_matrix(matrix_learner *l);
/* Appends a tensor to the layout; returns its offset. */
static inline int64_t learner_add(matrix_learner *l, const char *name, int64_t rows,
                                  int64_t columns)
{
    int64_t offset = l->count;
    l->tensor[l->tensors++] = (learner_tensor){name, rows, columns, offset};
    l->count += rows * columns;
    return offset;
}

#endif
