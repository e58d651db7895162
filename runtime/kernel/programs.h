/* CUDA texts, and how the kernels in them are launched: the generator makes them on the host that
 * uses them, a device (device/device.h) compiles them. Nothing is compiled here. */
#ifndef SPECTRA_KERNEL_PROGRAMS_H
#define SPECTRA_KERNEL_PROGRAMS_H

#include "spectraformer.h"

/* What a device is asked to compile; gen/cuda_requests.lua says which texts that are. */
typedef struct jit_cuda_request {
    /* Of a feature: "features", "attention", its "parameters" alone, "decoding", "official", or one
     * kernel by its name, "attn_keys" ...; "model"; "row", an operator for any size. All that those
     * ask for with a pair or the benchmark's models: "pair", "tasks". Any other name is that of a
     * file, templates/cuda/NAME.cu. */
    const char *kind;
    const char *feat; /* built-in, or of a spec that was opened; of "row" the operator */
    /* "KEY=VALUE KEY=VALUE": what a file of one's own finds defined, or
     * D, DV, M; dtype (f32, bf16) of q, k, v, o and their gradients; precision (fast: products of
     * TF32, else float32: three of them); learn=true: backward, with the gradients of W and of
     * scalars; causal=true; arch: compute capability times 10 that sizes are chosen for; matrix, of
     * "pair"; embed, hidden, inner, classes, of "model", and aligned=true: its layers' parameters
     * begin on 16 bytes. NULL: none. */
    const char *defines;
} jit_cuda_request;

/* How such a kernel is launched; zeros where it has no choice of sizes. */
typedef struct jit_cuda_plan {
    int64_t shared; /* bytes */
    int64_t memory; /* bytes of the device's, a block, in place of shared memory; 0: none */
    int threads;
    int blocks;                   /* of it a multiprocessor holds at a time */
    int tile;                     /* tokens */
    int row_blocks, value_blocks; /* blocks along z: of rows of W, of columns of v */
    int cluster; /* blocks a cluster, at most, of the kernel that does this one's work and the next
                    one's in one launch; 0: there is none */
    int row, lanes; /* of a row operator: length of rows, and threads that share one */
} jit_cuda_plan;

typedef struct jit_program {
    char *name; /* of the kernel; "phi of posrf", "row operator gelu", "model", "softmax" */
    char *text; /* what device_program_get compiles */
    jit_cuda_plan plan;
} jit_program;

typedef struct jit_programs {
    int count;
    jit_program *program;
} jit_programs;

/* SPECTRA_EFORMAT, SPECTRA_ENOMEM. */
spectra_status jit_programs_make(const jit_cuda_request *request, jit_programs *out);
/* By name; NULL. */
const jit_program *jit_programs_find(const jit_programs *list, const char *name);
void jit_programs_free(jit_programs *list);

#endif
