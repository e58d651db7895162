/* Direction numbers of Sobol sequences (Joe & Kuo 2008) in up to 256 dimensions. Points and
 * scrambling are made by those who use them. */
#ifndef SPECTRA_MATH_SOBOL_H
#define SPECTRA_MATH_SOBOL_H

#include <stdint.h>

enum { SOBOL_DIMENSIONS = 256, SOBOL_BITS = 32 };

/* v[i], i = 0..31: point n (in Gray code order) has in this dimension the coordinate 2^-32 times
 * the exclusive or of v[i] over the bits i set in n ^ n/2. 0 <= dimension < SOBOL_DIMENSIONS. */
void sobol_direction(int64_t dimension, uint32_t v[SOBOL_BITS]);

#endif
