/* The matrix that the primitives of a sampling recipe draw on, and what several of them need:
 * memory, orthogonal matrices, Hadamard transforms, vertices of a simplex. Which primitives there
 * are is in primitives.h. */
#ifndef SPECTRA_MATRIX_CANVAS_H
#define SPECTRA_MATRIX_CANVAS_H

#include "math/draw.h"
#include "spectraformer.h"

/* What a primitive works on. */
typedef struct canvas {
    const char *name;             /* of the matrix, for messages */
    int64_t m, d;                 /* the size wanted */
    int64_t rows, columns, block; /* of w; rows of an independent block, the last may be short */
    double *w;                    /* (rows, columns); NULL before a source has run */
    double *weight;               /* (m) row weights, 1 unless a primitive says otherwise */
    double arg[2];                /* the primitive's numbers */
    draw_stream stream;           /* the primitive's own */
} canvas;

enum { SAMPLE_MAX_SIZE = 1 << 28 };

/* w becomes (rows, columns) zeros. SPECTRA_ESHAPE above SAMPLE_MAX_SIZE numbers. */
spectra_status canvas_shape(canvas *c, int64_t rows, int64_t columns, int64_t block);
/* Memory for n numbers; NULL has been reported. */
double *canvas_scratch(int64_t n);
/* The least power of two that is d or more. */
int64_t canvas_order(int64_t d);
/* The n = 2^k numbers x[0], x[stride] ... times the Hadamard matrix of Sylvester, not normalised.
 */
void canvas_hadamard(int64_t n, int64_t stride, double *x);
/* q (n, n) = orthogonal, uniformly distributed (Haar), of normal numbers first.. of the stream; r
 * (n) is scratch. */
spectra_status canvas_haar(const canvas *c, uint64_t first, int64_t n, double *q, double *r);
/* out (n) = the n coordinates, the last of them 0, of vertex i of a regular simplex of n >= 2 unit
 * vectors, whose cosines are -1/(n-1). */
void canvas_simplex_vertex(int64_t n, int64_t i, double *out);
/* Squared length of a normal vector of k dimensions, made of numbers first.. of the stream. */
double canvas_chi2(const canvas *c, uint64_t first, int64_t k);

#endif
