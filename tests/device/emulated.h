/* Helpers of the emulator's own tests, which launch without a device: a kernel from its text, a
 * launch that must fail. They run within run_on_device, which allows compiling.
 */
#ifndef TESTS_EMULATED_H
#define TESTS_EMULATED_H

#include "device/device_case.h"

#include "device/emulator/emulator.h"

/* Loads a kernel of a text that needs nothing before it; the same text is compiled once. */
const emulator_kernel *emulated_kernel(const char *name, const char *text, const char *kernel);
/* The same with rt.cuh in front; the text's lines count from 1. */
const emulator_kernel *emulated_small(const char *name, const char *text, const char *kernel);
/* The status is SPECTRA_EINVAL and each part, up to NULL, is in the message. */
void emulated_fails(spectra_status status, const char *const *parts);

#endif
