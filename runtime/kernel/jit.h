/* Kernels made at run time: for sizes nothing was built for, and for a user's own component
 * function. The generator's Lua, the skeletons and the headers are part of the library; what they
 * give is compiled by the system's C compiler, loaded, and kept in a folder for the next start.
 *
 * Nothing is compiled until jit_configure has allowed it. What was loaded stays until the process
 * ends. All functions may be called from several threads, jit_configure only before the others.
 */
#ifndef SPECTRA_KERNEL_JIT_H
#define SPECTRA_KERNEL_JIT_H

#include "kernel/kernel.h"
#include "spectraformer.h"

typedef enum jit_policy {
    JIT_NEVER, /* nothing is compiled, nothing comes from the cache */
    JIT_AUTO,  /* what no kernel was built for, be it one for any size */
    JIT_ALWAYS /* what no kernel for the exact sizes was built for */
} jit_policy;

typedef struct jit_options {
    jit_policy policy;
    const char *compiler;  /* a name or path, options may follow it; NULL: cc */
    const char *search;    /* folders a name is looked for in, as in PATH; NULL: the usual ones */
    const char *cache;     /* folder of compiled kernels; NULL: none */
    const char *temporary; /* folder for what the compiler writes; NULL: /tmp */
    /* Told of what is no failure: a damaged entry, a folder that cannot be used. May be NULL. */
    void (*warn)(void *context, const char *sentence);
    void *context;
} jit_options;

/* Copies everything but context. SPECTRA_ENOMEM. */
spectra_status jit_configure(const jit_options *options);

/* The kernels of these groups for feature, matrix and sizes when `built` (NULL: none) is the best
 * there was: built itself, or one that is loaded, or compiled now, as the policy says.
 * SPECTRA_EUNSUPPORTED says what is missing: leave, a compiler, or what the compiler wrote. */
spectra_status jit_attn(const char *feat, const char *matrix, int64_t D, int64_t DV, int64_t M,
                        int groups, const attn_row *built, const attn_row **out);
/* Before a long job, where the policy is JIT_AUTO: exact sizes are compiled if none were built. No
 * failure: without a compiler nothing happens, and what else goes wrong is warned of. */
void jit_prefer(const char *feat, const char *matrix, int64_t D, int64_t DV, int64_t M, int groups);
/* The table row of a user's component function, once a kernel of it is loaded; NULL. */
const feature_info *jit_feature_info(const char *name);

/* A user's component function, a spec file. */
typedef struct jit_spec {
    const char *name, *path; /* path is absolute */
    const char *hash;        /* SHA-256 of the text, 64 hexadecimal digits */
    const char *text;
} jit_spec;

/* Is this the path of a spec rather than a name: has it a '/' and ends it in .lua? */
bool jit_is_path(const char *name);
/* Reads and checks a spec; from then on its name is known. hash: what the text must have, or NULL.
 * SPECTRA_EFORMAT with the spec's line, SPECTRA_EIO, SPECTRA_EINVAL if the text is another. */
spectra_status jit_spec_open(const char *path, const char *hash, const jit_spec **out);
/* Of a spec that was opened; NULL. */
const jit_spec *jit_spec_find(const char *name);

/* A C text of the runtime's own as an object that stays loaded: compiled with these options, or
 * from the cache, whose list calls it `name`, for `target`. SPECTRA_EFORMAT with what the compiler
 * wrote, SPECTRA_EUNSUPPORTED under JIT_NEVER and without a compiler. */
spectra_status jit_object(const char *name, const char *target, const char *text, const char *flags,
                          void **handle);

/* Kernels of one feature for exact sizes, compiled or taken from the cache whatever was built.
 * SPECTRA_EUNSUPPORTED under JIT_NEVER. */
spectra_status jit_warm(const char *feat, int64_t D, int64_t DV, int64_t M, int groups,
                        bool *compiled);

typedef struct jit_entry {
    char feature[64]; /* and, behind a space, its group, but of ATTN_ATTENTION */
    char isa[16], compiler[128];
    int64_t D, DV, M;       /* 0: an object of jit_object, named in `feature` */
    int64_t bytes, seconds; /* size of the file, age */
    bool good;              /* false: damaged, the fields above bytes are empty */
} jit_entry;

/* Entries of the cache, to be freed; none when there is no cache. SPECTRA_EIO, SPECTRA_ENOMEM. */
spectra_status jit_list(jit_entry **out, int *count);
/* Removes them, and nothing else that may lie there. */
spectra_status jit_clear(int *removed);

/* What a device is asked to compile; gen/programs.lua says which texts that are. */
typedef struct jit_cuda_request {
    /* Of a feature: "features", "attention", its "parameters" alone, "decoding", "official";
     * "model", "softmax". All that those ask for with a pair or the benchmark's models: "pair",
     * "tasks". One text: a kernel of a feature by its name, "attn_keys" ..., or "row", an operator
     * for any size. */
    const char *kind;
    const char *feat;   /* built-in, or of a spec that was opened; of "row" the operator */
    const char *matrix; /* of "pair" */
    int64_t D, DV, M;
    bool bf16;   /* type of q, k, v, o and their gradients; else float */
    bool fast;   /* products of TF32; else three of them */
    bool learn;  /* backward: with the gradients of W and of scalars */
    bool causal; /* of "attention" */
    int arch;    /* compute capability times 10 that sizes are chosen for, 0: 80 */
    int64_t embed, hidden, inner, classes; /* of "model"; inner: heads times head size */
    bool aligned;                          /* its layers' parameters begin on 16 bytes */
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
    int row, unit; /* of a row operator: length of rows, and 4 where they are 16-byte aligned */
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

/* Text that the generator makes. */
enum { GENERATED_FILES = 16 };
typedef struct generated_file {
    char *path, *text;
    size_t size;
} generated_file;
typedef struct generated_files {
    int count;
    generated_file file[GENERATED_FILES];
} generated_files;
/* What `make gen` writes for a pair of built-in specs and sizes D, DV, M; dtype "f32" or "f64".
 * Paths begin with `folder`. SPECTRA_EFORMAT, SPECTRA_ENOMEM. */
spectra_status generate_pair(const char *folder, const char *feat, const char *kernel,
                             const int64_t sizes[3], const char *dtype, generated_files *out);
void generated_files_free(generated_files *f);

#endif
