#include "kernel/find.h"

#include "base/status.h"
#include "kernel/jit.h"
#include "kernel/registry.h"

spectra_status kernel_feature(const char *name, const feature_info **out)
{
    const feature_info *own = jit_feature_info(name);
    if (!own)
        return registry_feature(name, out);
    *out = own;
    return SPECTRA_OK;
}

spectra_status kernel_find(const char *feat, const char *matrix, int64_t D, int64_t DV, int64_t M,
                           int groups, const attn_row **out)
{
    const attn_row *built = registry_attn(feat, matrix, D, DV, M, groups);
    const feature_info *known;
    if (!built && !jit_spec_find(feat))
        TRY(kernel_feature(feat, &known));
    return jit_attn(feat, matrix, D, DV, M, groups, built, out);
}

void kernel_prefer(const char *feat, const char *matrix, int64_t D, int64_t DV, int64_t M,
                   int groups)
{
    const attn_row *row;
    if (jit_policy_now() == JIT_AUTO &&
        kernel_find(feat, matrix, D, DV, M, groups, &row) == SPECTRA_OK && row->D == 0)
        jit_prefer(feat, matrix, D, DV, M, groups);
}
