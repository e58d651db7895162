/* Parameters of a head from its moments, a warp a head: blocks (heads). */
#include "stub.cuh"

#include "params.cuh"

#include "adapt.cuh"

enum {
    AT_MOMENTS = 0, /* (8, D) */
    AT_VECTORS = AT_MOMENTS + 8 * CD,
    AT_END = AT_VECTORS + NV * CD
};
static_assert(AT_END * 4 == SHARED_BYTES, "shared memory of attn_params");

KERNEL(attn_params, params_cuda_args, 32, 1)
{
    SHARED_MEMORY(bytes);
    float *memory = (float *)bytes;
    merge_moments(&args, BLOCK, memory + AT_MOMENTS);
    adapt_head(&args, BLOCK, memory + AT_MOMENTS, memory + AT_VECTORS);
}
