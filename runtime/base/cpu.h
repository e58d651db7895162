/* Which instruction sets of this processor the library uses. Whatever has code for more than one of
 * them asks here: the registry of kernels, random numbers, the choice of OpenBLAS's kernels. A
 * limit makes a processor look like a lesser one, which is for tests and for comparisons. It knows
 * nothing of what was built; registry.h does.
 */
#ifndef SPECTRA_BASE_CPU_H
#define SPECTRA_BASE_CPU_H

#include "spectraformer.h"

/* Each includes those before it. */
typedef enum { CPU_PORTABLE, CPU_AVX2, CPU_AVX512, CPU_LEVELS } cpu_level;

/* The highest level that this processor has and the limit allows. */
cpu_level cpu_best(void);
/* The highest level that this processor has. */
cpu_level cpu_machine(void);
/* Whether there are dot products of bf16 numbers (AVX512_BF16); not below CPU_AVX512. */
bool cpu_has_bf16(void);
const char *cpu_level_name(cpu_level level); /* "portable", "avx2", "avx512" */

/* Limits cpu_best to the level called `name`; NULL takes the limit away. `where` begins the
 * sentence on failure. SPECTRA_EINVAL: there is no such level, or this processor does not have it.
 * To be called before anything else of the library; not thread-safe. */
spectra_status cpu_limit(const char *name, const char *where);

#endif
