/* The quantile function (inverse distribution function) of the standard normal distribution. */
#ifndef SPECTRA_MATH_NORMAL_H
#define SPECTRA_MATH_NORMAL_H

/* The quantile of u, 0 < u < 1; relative error below 1e-12. */
double normal_quantile(double u);

#endif
