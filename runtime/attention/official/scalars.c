/* Scalars of the reference's features, position by position, and what may be asked of it. */
#include "attention/official/official.h"

#include "base/status.h"
#include "math/rng.h"

static const float official_addend = 1e-4F;
static const float official_limit = 0.124999F;

spectra_status official_check(const official *of, const spectra_problem *p)
{
    if (p->T != p->S)
        return fail(SPECTRA_ESHAPE,
                    "the official behaviour is self-attention: %lld queries, %lld keys",
                    (long long)p->T, (long long)p->S);
    if (of->a_pos.data && of->a_pos.shape[1] != p->T)
        return fail(SPECTRA_ESHAPE, "input A_pos has %lld positions, the sequence has %lld",
                    (long long)of->a_pos.shape[1], (long long)p->T);
    return SPECTRA_OK;
}

bool official_by_position(const performer *pf)
{
    return pf->feature->adapt && pf->feature->vectors == 0;
}

void official_scalars(const official *of, int64_t h, int64_t t, const float *m, float *s)
{
    const performer *pf = &of->performer;
    const feature_info *f = pf->feature;
    int64_t DP = pf->plan.DP;
    float none[MAX_VECTORS * 256];
    performer_given(pf, 0, h, s, none);
    if (f->scalars == 1)
        return;
    if (official_by_position(pf)) {
        f->adapt(pf->plan.D, DP, m, s, none);
        return;
    }
    if (of->a_pos.data) {
        s[0] = of->a_pos.data[h * of->a_pos.shape[1] + t];
    } else {
        const rng_stream r = rng_open(pf->desc.seed, RNG_MATRIX, (uint32_t)pf->desc.layer, 0xA);
        double u = rng_uniform(&r, (uint64_t)(h << 32 | t));
        s[0] = (float)(2 * u - 1) * official_limit;
    }
    if (s[0] > official_limit)
        s[0] = official_limit;
}

float official_epsilon(const performer *pf)
{
    return pf->feature->is_signed ? 0 : official_addend;
}
