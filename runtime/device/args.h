/* The argument structs of the CUDA kernels, for the host. These are the very files that the
 * device's compiler reads, so that both sides agree on the layout. */
#ifndef SPECTRA_DEVICE_ARGS_H
#define SPECTRA_DEVICE_ARGS_H

#include "kernel/kernel.h" /* real */

#include "../templates/cuda/args.h"
#include "../templates/cuda/model_args.h"
#include "../templates/cuda/softmax_args.h"
#include "../templates/cuda/spilled_args.h"

#endif
