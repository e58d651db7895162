#include "support/attend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void *attend_alloc(int64_t bytes)
{
    void *p = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64 + 64);
    if (!p) {
        fprintf(stderr, "out of memory: %lld bytes\n", (long long)bytes);
        exit(2);
    }
    return p;
}

float *attend_floats(int64_t count)
{
    float *p = attend_alloc(count * (int64_t)sizeof(float));
    for (int64_t i = 0; i < count; i++)
        p[i] = NAN;
    return p;
}

spectra_status attend(const spectra_attention *att, const attend_shape *n, const attend_inputs *x,
                      attend_run *run)
{
    const int64_t queries = n->B * n->H * n->T, keys = n->B * n->H * n->S;
    *run = (attend_run){
        .problem = {.B = n->B, .T = n->T, .S = n->S, .q_mask = x->q_mask, .k_mask = x->k_mask}};
    const spectra_problem *p = &run->problem;
    run->o = attend_floats(queries * n->DV);
    run->saved = attend_alloc(spectra_attention_saved_bytes(att, p));
    run->work = attend_alloc(spectra_attention_work_bytes(att, p));
    /* The views of inputs are not const; the library does not write through them. */
    const spectra_rows q = spectra_rows_dense((float *)x->q, n->H, n->T, n->D);
    const spectra_rows k = spectra_rows_dense((float *)x->k, n->H, n->S, n->D);
    const spectra_rows v = spectra_rows_dense((float *)x->v, n->H, n->S, n->DV);
    const spectra_rows o = spectra_rows_dense(run->o, n->H, n->T, n->DV);
    spectra_status status = spectra_attention_forward(att, p, q, k, v, o, run->saved, run->work);
    if (status != SPECTRA_OK || !x->go)
        return status;
    run->gq = attend_floats(queries * n->D);
    run->gk = attend_floats(keys * n->D);
    run->gv = attend_floats(keys * n->DV);
    return spectra_attention_backward(
        att, p, q, k, v, o, spectra_rows_dense((float *)x->go, n->H, n->T, n->DV),
        spectra_rows_dense(run->gq, n->H, n->T, n->D),
        spectra_rows_dense(run->gk, n->H, n->S, n->D),
        spectra_rows_dense(run->gv, n->H, n->S, n->DV), run->saved, run->work);
}

void attend_free(attend_run *run)
{
    free(run->o);
    free(run->gq);
    free(run->gk);
    free(run->gv);
    free(run->saved);
    free(run->work);
    *run = (attend_run){0};
}
