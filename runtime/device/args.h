/* Arguments of the kernels in templates/cuda, for the host: the very text the device sees. */
#ifndef SPECTRA_DEVICE_ARGS_H
#define SPECTRA_DEVICE_ARGS_H

#include "kernel/kernel.h" /* real */

#include "../templates/cuda/args.h"
#include "../templates/cuda/model_args.h"
#include "../templates/cuda/softmax_args.h"
#include "../templates/cuda/spilled_args.h"

#endif
