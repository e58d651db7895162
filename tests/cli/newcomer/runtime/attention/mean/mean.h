/* An attention that looks at nothing: every query gets the mean of the valid values, times `scale`.
 */
#ifndef SPECTRA_ATTENTION_MEAN_MEAN_H
#define SPECTRA_ATTENTION_MEAN_MEAN_H

#include "attention/attention.h"

/* Its settings, and all that one of them owns. */
typedef struct mean_options {
    double scale;
} mean_options;

extern const struct attention_device_ops mean_device_ops;

#endif
