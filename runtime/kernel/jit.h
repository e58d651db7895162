/* Kernels compiled at run time: for sizes that no kernel was built for, and for a user's own
 * component function. The generator's Lua, the skeletons and the headers are part of the library
 * (generate.h); the text that they give is compiled by the system's C compiler, loaded, and kept in
 * a folder for the next start. find.h decides when a kernel is compiled.
 *
 * Nothing is compiled until jit_configure has allowed it. What was loaded stays until the process
 * ends. All functions may be called from several threads, jit_configure only before the others. */
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
jit_policy jit_policy_now(void);

/* The kernels of these groups for feature, matrix and sizes where `built` (NULL: none) is the best
 * there was: built itself, or one that is loaded, or compiled now, as the policy says.
 * SPECTRA_EUNSUPPORTED says what is missing: leave, a compiler, or what the compiler wrote. */
spectra_status jit_attn(const char *feat, const char *matrix, int64_t D, int64_t DV, int64_t M,
                        int groups, const attn_row *built, const attn_row **out);
/* Exact sizes, compiled or from the cache; what goes wrong is warned of. Without a compiler nothing
 * happens. */
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

#endif
