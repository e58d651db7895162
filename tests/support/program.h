/* One text of those that a device is asked for, for tests that launch by themselves. */
#ifndef TESTS_PROGRAM_H
#define TESTS_PROGRAM_H

#include "kernel/programs.h"

#include <string.h>

/* The text called `name` (NULL: the first) of a request, to be freed, and how it is launched (may
 * be NULL). What jit_programs_make fails with; SPECTRA_ENOTFOUND. */
static inline spectra_status program_text(const jit_cuda_request *request, const char *name,
                                          jit_cuda_plan *plan, char **text)
{
    jit_programs list;
    const spectra_status status = jit_programs_make(request, &list);
    if (status != SPECTRA_OK)
        return status;
    const jit_program *p = name ? jit_programs_find(&list, name) : list.program;
    *text = p ? strdup(p->text) : NULL;
    if (p && plan)
        *plan = p->plan;
    jit_programs_free(&list);
    return *text ? SPECTRA_OK : SPECTRA_ENOTFOUND;
}

/* A row operator for any size. */
static inline spectra_status program_row_text(const char *name, char **text)
{
    return program_text(&(jit_cuda_request){.kind = "row", .feat = name}, NULL, NULL, text);
}

#endif
