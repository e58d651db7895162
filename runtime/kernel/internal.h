/* Shared by the files that compile kernels: the C compiler (cc.c), the folder that keeps what it
 * made (cache.c) and loading (load.c) know nothing of each other; compile.c puts them together.
 * Devices use the same folder for their programs. */
#ifndef SPECTRA_KERNEL_INTERNAL_H
#define SPECTRA_KERNEL_INTERNAL_H

#include "base/bytes.h"
#include "kernel/generate.h"
#include "kernel/jit.h"

typedef void (*jit_warning)(const char *sentence);

enum { JIT_COMPILER_WORDS = 16 };
typedef struct jit_compiler {
    char *words; /* the command, 0 between its words; owned */
    char *path;  /* of the program; owned */
    int count;
    char *word[JIT_COMPILER_WORDS]; /* options that come first */
    sha256_hex identity;            /* of path, size, time of change and options */
} jit_compiler;

/* ---- compile.c --------------------------------------------------------------------------------
 * The way of every kernel: out of the folder, else compiled, loaded, and kept. */

typedef struct jit_key {
    sha256_hex text;     /* of everything but the compiler */
    sha256_hex compiler; /* "": there is none, an entry of any will do */
} jit_key;

typedef struct jit_job {
    jit_entry about; /* what the folder says of it; sizes of the file are not looked at */
    jit_key key;
    void *context;
    spectra_status (*compile)(void *context, byte_buffer *image);
    /* Takes an image into use. One that cannot be used is not kept. */
    spectra_status (*load)(void *context, const byte_buffer *image);
} jit_job;

/* SPECTRA_EUNSUPPORTED under JIT_NEVER, and what the two functions fail with. */
spectra_status jit_make(const jit_job *job, bool *compiled);
/* The C compiler of the settings; NULL: there is none, and the sentence says which was looked for.
 */
const jit_compiler *jit_settings_compiler(void);
const char *jit_settings_temporary(void);

/* ---- cc.c ----------------------------------------------------------------------------------- */

/* False: not found. The compiler is not run: a warm start costs no process. */
bool jit_compiler_find(const char *command, const char *search, jit_compiler *out);
void jit_compiler_free(jit_compiler *c);
/* The options kernels of this build are compiled with for an instruction set. */
void jit_compile_flags(isa level, char *out, size_t size);
/* The parts at once, then linked: a shared object. SPECTRA_EUNSUPPORTED with what it wrote. */
spectra_status jit_compile(const jit_compiler *c, isa level, const kernel_text *text,
                           const char *temporary, byte_buffer *image);
/* One text of one part with these options: a shared object. SPECTRA_EFORMAT with what it wrote. */
spectra_status jit_compile_text(const jit_compiler *c, const byte_buffer *text, const char *flags,
                                const char *temporary, byte_buffer *image);

/* ---- cache.c --------------------------------------------------------------------------------- */

/* Makes the folder if it is not there. NULL, or why it cannot be used (in a static buffer). */
const char *jit_cache_open(const char *folder);
/* A verified shared object, or nothing. Damaged entries are warned of and removed. `path` is where
 * it was found, to be freed. */
bool jit_cache_get(const char *folder, const jit_key *key, jit_warning warn, byte_buffer *image,
                   char **path);
spectra_status jit_cache_put(const char *folder, const jit_key *key, const jit_entry *about,
                             const byte_buffer *image);
/* Removes what lies in the place of an entry. */
bool jit_cache_remove(const char *path);
spectra_status jit_cache_list(const char *folder, jit_entry **out, int *count);
spectra_status jit_cache_clear(const char *folder, int *removed);

/* ---- load.c ---------------------------------------------------------------------------------- */

/* A shared object from memory. NULL: spectra_message says why. */
void *jit_load(const byte_buffer *image, const char *temporary);
/* The two ways of doing it. */
void *jit_load_memory(const byte_buffer *image);
void *jit_load_file(const byte_buffer *image, const char *temporary);

#endif
