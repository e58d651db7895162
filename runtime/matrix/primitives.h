/* The primitives that sampling recipes are made of, declared once: sample.c makes its table of this
 * list, gen/linop.lua reads it for what a spec may call. A new primitive is a line here and the
 * function primitive_NAME in the file of its family (sample_dense.c, sample_structured.c,
 * sample_points.c).
 *
 * PRIMITIVE(name, kind, numbers): a source makes a matrix, a transform changes the one it is given;
 * `numbers` (at most 2) is how many numbers it takes besides. */
#ifndef SPECTRA_MATRIX_PRIMITIVES_H
#define SPECTRA_MATRIX_PRIMITIVES_H

#include "math/rng.h"
#include "spectraformer.h"

#define SAMPLE_PRIMITIVES(PRIMITIVE)                                                     \
    PRIMITIVE(normal, source, 0)              /* independent N(0, 1) */                  \
    PRIMITIVE(haar, source, 0)                /* stacked orthogonal blocks */            \
    PRIMITIVE(basis, source, 0)               /* stacked identities of 2^k rows */       \
    PRIMITIVE(circulant, source, 0)           /* stacked circulant normal blocks */      \
    PRIMITIVE(toeplitz, source, 0)            /* normal, equal along diagonals, 2^k */   \
    PRIMITIVE(sobol_owen, source, 0)          /* scrambled Sobol points in (0, 1)^d */   \
    PRIMITIVE(gauss_hermite, source, 1)       /* nodes of a quadrature rule, drawn */    \
    PRIMITIVE(fourier_sphere, source, 0)      /* unit vectors of a Fourier lattice */    \
    PRIMITIVE(antipodal_simplex, source, 0)   /* turned simplices and negatives */       \
    PRIMITIVE(chi_rows, transform, 0)         /* rows times chi lengths */               \
    PRIMITIVE(fixed_rows, transform, 0)       /* rows times the root of the columns */   \
    PRIMITIVE(unit_rows, transform, 0)        /* rows divided by their lengths */        \
    PRIMITIVE(simplex, transform, 0)          /* orthonormal blocks to simplices */      \
    PRIMITIVE(rotate, transform, 0)           /* columns by one orthogonal matrix */     \
    PRIMITIVE(hadamard, transform, 0)         /* rows times a Hadamard matrix */         \
    PRIMITIVE(signs, transform, 0)            /* columns times -1 or 1, by blocks */     \
    PRIMITIVE(cosines, transform, 0)          /* columns times 2^(1/2) cos, by blocks */ \
    PRIMITIVE(normal_columns, transform, 0)   /* columns times N(0, 1), by blocks */     \
    PRIMITIVE(permute_columns, transform, 0)  /* by blocks */                            \
    PRIMITIVE(normal_icdf, transform, 0)      /* uniform numbers to normal ones */       \
    PRIMITIVE(center_columns, transform, 0)   /* mean 0 */                               \
    PRIMITIVE(whiten, transform, 0)           /* second moments I */                     \
    PRIMITIVE(spherical_radial, transform, 0) /* radii and weights of a cubature */      \
    PRIMITIVE(cut, transform, 0)              /* whole blocks to m x d */

/* What a primitive works on. */
typedef struct canvas {
    const char *name;             /* of the matrix, for messages */
    int64_t m, d;                 /* the size wanted */
    int64_t rows, columns, block; /* of w; rows of an independent block, the last may be short */
    double *w;                    /* (rows, columns); NULL before a source has run */
    double *weight;               /* (m) row weights, 1 unless a primitive says otherwise */
    double arg[2];                /* the primitive's numbers */
    rng_stream stream;            /* the primitive's own */
} canvas;

enum { SAMPLE_MAX_SIZE = 1 << 28 };

#define DECLARE_PRIMITIVE(name, kind, numbers) spectra_status primitive_##name(canvas *c);
SAMPLE_PRIMITIVES(DECLARE_PRIMITIVE)
#undef DECLARE_PRIMITIVE

/* Runs the primitive of that name. SPECTRA_ENOTFOUND, and what it may fail with. */
spectra_status sample_run_primitive(const char *name, canvas *c);
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
