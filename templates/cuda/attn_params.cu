/* Parameters of a head from its moments, a warp a head: blocks (heads). */
#include "stub.cuh"

#include "params.cuh"

#include "adapt.cuh"

static_assert(4 * (8 + NV) * CD == SHARED_BYTES, "shared memory of attn_params");

/* Shared memory: 8 D floats of moments and NV D of vectors. */
KERNEL(attn_params, params_cuda_args, 32, 1)
{
    SHARED_MEMORY(bytes);
    float *m = (float *)bytes;
    merge_moments(&args, BLOCK, m);
    adapt_head(&args, BLOCK, m, m + 8 * CD);
}
