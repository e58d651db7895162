/* Features of performer attention made by a device, with the kernel of templates/cuda/phi.cu. */
#ifndef SPECTRA_ATTENTION_PERFORMER_DEVICE_FEATURES_H
#define SPECTRA_ATTENTION_PERFORMER_DEVICE_FEATURES_H

#include "attention/performer/performer.h"
#include "device/device.h"

/* performer_features on a device: the same arguments, all on the host, and the same results but for
 * rounding. What device.h fails with. */
spectra_status performer_device_features(device *dev, const performer *pf, int side, int64_t B,
                                         int64_t H, int64_t n, const float *x, const float *blocks,
                                         float *log, float *sign);

#endif
