/* The primitives that sampling recipes are made of, declared once: recipe.c makes its table of this
 * list, and gen/linop.lua reads the list to know what a spec may call. A new primitive is a line
 * here and the function primitive_NAME in the file of its family (dense.c, structured.c, points.c).
 *
 * PRIMITIVE(name, kind, numbers): a source makes a matrix, a transform changes the one it is given;
 * `numbers` (at most 2) is how many numbers it takes besides. */
#ifndef SPECTRA_MATRIX_PRIMITIVES_H
#define SPECTRA_MATRIX_PRIMITIVES_H

#include "matrix/canvas.h"

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

#define DECLARE_PRIMITIVE(name, kind, numbers) spectra_status primitive_##name(canvas *c);
SAMPLE_PRIMITIVES(DECLARE_PRIMITIVE)
#undef DECLARE_PRIMITIVE

/* Runs the primitive of that name. SPECTRA_ENOTFOUND, and what it may fail with. */
spectra_status sample_run_primitive(const char *name, canvas *c);

#endif
