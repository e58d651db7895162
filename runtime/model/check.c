#include "model/internal.h"

#include "base/status.h"

#include <math.h>

spectra_status model_check_batch(const model *m, const model_batch *batch, bool labels)
{
    if (batch->B < 1)
        return fail(SPECTRA_ESHAPE, "model: a batch of %lld examples, allowed is at least 1",
                    (long long)batch->B);
    for (int side = 0; side < (m->config.dual ? 2 : 1); side++)
        if (!batch->ids[side])
            return fail(SPECTRA_EINVAL, "model: sequence %d of the examples is missing", side);
    int64_t rows = batch->B * m->config.length * (m->config.dual ? 2 : 1);
    if (batch->B > INT32_MAX || rows > INT32_MAX)
        return fail(SPECTRA_ESHAPE, "model: a batch of %lld positions, allowed are 2^31-1",
                    (long long)rows);
    if (labels && !batch->label)
        return fail(SPECTRA_EINVAL, "model: a loss needs labels");
    for (int64_t b = 0; labels && b < batch->B; b++)
        if (batch->label[b] < 0 || batch->label[b] >= m->config.classes)
            return fail(SPECTRA_EINVAL, "model: label %d of example %lld, allowed are 0 to %lld",
                        (int)batch->label[b], (long long)b, (long long)(m->config.classes - 1));
    return SPECTRA_OK;
}

spectra_status model_check_step(uint64_t step, uint64_t part)
{
    if (step > UINT32_MAX || part >= MAX_PARTS)
        return fail(SPECTRA_EINVAL, "model: step %llu, part %llu; allowed are below 2^32 and %d",
                    (unsigned long long)step, (unsigned long long)part, (int)MAX_PARTS);
    return SPECTRA_OK;
}

int64_t first_bad(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return i;
    return -1;
}

spectra_status model_bad_tensor(const model *m, const float *flat, const char *what)
{
    for (int64_t i = 0; i < m->tensors; i++) {
        const model_tensor *t = &m->tensor[i];
        int64_t at = first_bad(flat + t->offset, t->shape[0] * t->shape[1]);
        if (at >= 0)
            return fail(SPECTRA_EDIVERGED, "diverged: %s %s has %g at element %lld", what, t->name,
                        (double)flat[t->offset + at], (long long)at);
    }
    return SPECTRA_OK;
}
