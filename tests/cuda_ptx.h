/* The kernels of one case in the PTX interpreter. */
#ifndef TESTS_CUDA_PTX_H
#define TESTS_CUDA_PTX_H

#include "cuda_case.h"
#include "nvrtc.h"

typedef struct ptx_tools {
    nvrtc_api nvrtc;
    const char *interpreter, *folder; /* the program; where files are put */
    int schedules;                    /* orders of threads to run in, 1 to 3 */
} ptx_tools;

/* What the kernels wrote, of all splits and row blocks. */
typedef struct ptx_results {
    cuda_plan plan[CUDA_KERNELS];
    void *o, *gq, *gk, *gv; /* the kernel's type */
    float *part, *state, *dpart, *den, *top, *gq_part, *gk_part, *gv_part;
    float *dscalars, *dw, *dscalars_k, *dw_k, *gden, *refs, *starts, *dweights;
} ptx_results;

/* One kernel of a case. divisions: those its feature may do outside of features themselves. */
typedef struct ptx_case {
    const cuda_case *c;
    const cuda_plan *plan;
    int kernel, divisions;
} ptx_case;

/* Whether the PTX holds nothing it should not, and what it should in the expected shape; false and
 * lines on stdout otherwise. */
bool ptx_check_text(const ptx_case *x, const char *ptx);
/* Whether a run (the interpreter's --stats) did exactly the products, and no more exponentials,
 * than sizes say; true of a causal case, whose segments decide how much there is to do. */
bool ptx_check_counts(const ptx_case *x, const cuda_problem *p, const char *report);

/* Where the text of a case's kernel is, or its PTX. */
void ptx_path(const ptx_tools *tools, const cuda_case *c, int kernel, const char *ending,
              char path[256]);
/* Runs a case's kernels one after the other; false, and lines on stdout, where a text does not
 * compile or the interpreter finds something, or an order of threads changes a bit. */
bool ptx_run(const ptx_tools *tools, const cuda_problem *p, ptx_results *r);
void ptx_results_free(ptx_results *r);

#endif
