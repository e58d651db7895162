/* Arguments of an attention kernel whose blocks have device memory in place of shared memory
 * (spilled.cuh). */
#ifndef SPECTRA_SPILLED_ARGS_H
#define SPECTRA_SPILLED_ARGS_H

typedef struct spilled_cuda_args {
    attn_cuda_args args;
    int64_t blocks[3];     /* of the grid whose work is to be done */
    unsigned char *memory; /* of each block of the launch, which is one long row of them */
} spilled_cuda_args;

#endif
