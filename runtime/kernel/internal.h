/* Inside of jit.c: text, compiler, cache, loading; each knows nothing of the others. */
#ifndef SPECTRA_KERNEL_INTERNAL_H
#define SPECTRA_KERNEL_INTERNAL_H

#include "kernel/jit.h"

/* SHA-256 in hexadecimal digits. */
enum { JIT_HASH = 64 };
typedef char jit_hash[JIT_HASH + 1];

/* Bytes that are owned. */
typedef struct jit_bytes {
    char *data;
    size_t size;
} jit_bytes;

typedef void (*jit_warning)(const char *sentence);

void jit_digest(const void *data, size_t size, jit_hash out);
/* The whole of a file of at most `limit` bytes. SPECTRA_EIO, SPECTRA_EFORMAT, SPECTRA_ENOMEM. */
spectra_status jit_read_file(const char *path, size_t limit, jit_bytes *out);

enum { JIT_COMPILER_WORDS = 16 };
typedef struct jit_compiler {
    char *words; /* the command, 0 between its words; owned */
    char *path;  /* of the program; owned */
    int count;
    char *word[JIT_COMPILER_WORDS]; /* options that come first */
    jit_hash identity;              /* of path, size, time of change and options */
} jit_compiler;

/* ---- jit.c ------------------------------------------------------------------------------------
 * The way of every kernel: out of the folder, else compiled, loaded, and kept. */

typedef struct jit_key {
    jit_hash text;     /* of everything but the compiler */
    jit_hash compiler; /* "": there is none, an entry of any will do */
} jit_key;

typedef struct jit_job {
    jit_entry about; /* what the folder says of it; sizes of the file are not looked at */
    jit_key key;
    void *context;
    spectra_status (*compile)(void *context, jit_bytes *image);
    /* Takes an image into use. One that cannot be used is not kept. */
    spectra_status (*load)(void *context, const jit_bytes *image);
} jit_job;

/* SPECTRA_EUNSUPPORTED under JIT_NEVER, and what the two functions fail with. */
spectra_status jit_make(const jit_job *job, bool *compiled);
/* The C compiler of the settings; NULL: there is none, and the sentence says which was looked for.
 */
const jit_compiler *jit_settings_compiler(void);
const char *jit_settings_temporary(void);

/* ---- jit_generate.c --------------------------------------------------------------------------
 * The generator in a Lua state of its own that has no files and no processes. */

typedef struct jit_text {
    jit_bytes text;
    int parts; /* -DPART=0 ... parts-1 */
} jit_text;

/* The text of a group of kernels for a feature and its sizes. spec: text of a user's own, feat is
 * then its path; NULL: a built-in. SPECTRA_EFORMAT, SPECTRA_ENOTFOUND, SPECTRA_ENOMEM. */
spectra_status jit_generate(const char *feat, const char *spec, int64_t D, int64_t DV, int64_t M,
                            const char *group, jit_text *out);
/* Checks a user's own spec only; its name, to be freed. */
spectra_status jit_check_spec(const char *path, const char *spec, char **name);

/* jit_programs_make with the text of a user's own spec, feat is then its path; spec NULL:
 * built-in. */
spectra_status jit_generate_cuda(const jit_cuda_request *request, const char *spec,
                                 jit_programs *out);

/* ---- jit_compile.c -------------------------------------------------------------------------- */

/* False: not found. The compiler is not run: a warm start costs no process. */
bool jit_compiler_find(const char *command, const char *search, jit_compiler *out);
void jit_compiler_free(jit_compiler *c);
/* The options kernels of this build are compiled with for an instruction set. */
void jit_compile_flags(isa level, char *out, size_t size);
/* The parts at once, then linked: a shared object. SPECTRA_EUNSUPPORTED with what it wrote. */
spectra_status jit_compile(const jit_compiler *c, isa level, const jit_text *text,
                           const char *temporary, jit_bytes *image);
/* One text of one part with these options: a shared object. SPECTRA_EFORMAT with what it wrote. */
spectra_status jit_compile_text(const jit_compiler *c, const jit_bytes *text, const char *flags,
                                const char *temporary, jit_bytes *image);

/* ---- jit_cache.c ----------------------------------------------------------------------------- */

/* Makes the folder if it is not there. NULL, or why it cannot be used (in a static buffer). */
const char *jit_cache_open(const char *folder);
/* A verified shared object, or nothing. Damaged entries are warned of and removed. `path` is where
 * it was found, to be freed. */
bool jit_cache_get(const char *folder, const jit_key *key, jit_warning warn, jit_bytes *image,
                   char **path);
spectra_status jit_cache_put(const char *folder, const jit_key *key, const jit_entry *about,
                             const jit_bytes *image);
/* Removes what lies in the place of an entry. */
bool jit_cache_remove(const char *path);
spectra_status jit_cache_list(const char *folder, jit_entry **out, int *count);
spectra_status jit_cache_clear(const char *folder, int *removed);

/* ---- jit_load.c ------------------------------------------------------------------------------ */

/* A shared object from memory. NULL: spectra_message says why. */
void *jit_load(const jit_bytes *image, const char *temporary);
/* The two ways of doing it. */
void *jit_load_memory(const jit_bytes *image);
void *jit_load_file(const jit_bytes *image, const char *temporary);

#endif
