/* Helpers of the emulator's tests: a CUDA text from its source, a launch that must work or must
 * fail.
 */
#ifndef TESTS_EMULATED_H
#define TESTS_EMULATED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device/emulator/emulator.h"

/* Allows compiling, with the cache that KERNEL_CACHE names, or one of its own in a temporary
 * folder, which emulated_close removes. */
void emulated_open(void);
void emulated_close(void);
/* The same folder with another policy and compiler. */
void emulated_allow(spectra_jit policy, const char *compiler);
/* Loads a kernel of a text that needs nothing before it; the same text is compiled once. */
const emulator_kernel *emulated_kernel(const char *name, const char *text, const char *kernel);
/* The same with rt.cuh in front; the text's lines count from 1. */
const emulator_kernel *emulated_small(const char *name, const char *text, const char *kernel);
void emulated_ok(spectra_status status);
/* The status is SPECTRA_EINVAL and each part, up to NULL, is in the message. */
void emulated_fails(spectra_status status, const char *const *parts);

#endif
