/* Linked into every program of tests/ and bench/: SPECTRA_ISA=portable|avx2|avx512 limits the
 * instruction set before main begins, as it does in the command; what this processor lacks ends the
 * program with 2. It does nothing where the variable is not set.
 */
#include "base/cpu.h"
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>

__attribute__((constructor)) static void limit_instructions(void)
{
    const char *name = getenv("SPECTRA_ISA");
    if (!name || !*name || cpu_limit(name, "SPECTRA_ISA") == SPECTRA_OK)
        return;
    fprintf(stderr, "%s\n", spectra_message());
    exit(2);
}
