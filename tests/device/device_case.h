/* What the tests of devices share: the device, named on the command line ("emu", or "cuda", which
 * needs a GPU or the fake one of fake.h), the cache that KERNEL_CACHE names or one of their own,
 * and short ways to device.h.
 */
#ifndef DEVICE_CASE_H
#define DEVICE_CASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device/device.h"
#include "kernel/internal.h"

extern const char *kind;
extern device *dev;
extern char folder[64], cache[512];
extern int warnings; /* since configure */
extern char last_warning[1024];

/* Are all cases asked for, DEVICE_CASES=full, or an awkward one of every kind? */
bool all_cases(void);
/* With the compiler that CC names, or another. */
void configure(jit_policy policy);
void configure_compiler(jit_policy policy, const char *compiler);
void ok(spectra_status status);
void fails(spectra_status status, spectra_status expected, const char *part);
/* Between -1 and 1; to be freed. */
float *random_floats(int64_t count, uint32_t seed);
float *normal_floats(int64_t count, uint64_t seed, double deviation);
/* The largest difference by the largest number that is wanted; NaN where one is none. */
double largest_error(int64_t count, const float *got, const float *want);
/* The same of what lies on the device. */
double error_of(const void *got, int64_t count, const float *want);
/* Memory of the device with these bytes; with NaN; a copy of it, to be freed. */
void *put(const void *from, int64_t bytes);
float *room(int64_t floats);
/* As float or bf16, with `before` numbers of 0 in front; x becomes what the device has. */
void *put_typed(float *x, int64_t n, int64_t before, bool bf16);
float *get(const void *from, int64_t floats);
/* The emulator only: what `results` (to be freed) gives after its launches has the same bits
 * whatever thread goes first, and there is no race and no address that is not the kernel's. */
void same_in_any_order(float *(*results)(void *of, int64_t *count), void *of);
/* main's all: the tests on the device that the first argument names; a second one is a pattern of
 * the tests to run. */
int run_on_device(int argc, char **argv, const struct CMUnitTest *tests, size_t count);

#endif
