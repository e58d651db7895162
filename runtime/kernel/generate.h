/* The generator inside the process: Lua modules that are strings of the library run in a Lua state
 * of their own, which has no files and no processes. They give the text of kernels; whoever asks
 * compiles or writes it. */
#ifndef SPECTRA_KERNEL_GENERATE_H
#define SPECTRA_KERNEL_GENERATE_H

#include "base/bytes.h"
#include "kernel/programs.h"

typedef struct kernel_text {
    byte_buffer text;
    int parts; /* -DPART=0 ... parts-1 */
} kernel_text;

/* The text of a group of kernels for a feature and its sizes. spec: text of a user's own, feat is
 * then its path; NULL: a built-in. SPECTRA_EFORMAT, SPECTRA_ENOTFOUND, SPECTRA_ENOMEM. */
spectra_status generate_kernels(const char *feat, const char *spec, int64_t D, int64_t DV,
                                int64_t M, const char *group, kernel_text *out);
/* Checks a user's own spec only; its name, to be freed. */
spectra_status generate_check(const char *path, const char *spec, char **name);

/* jit_programs_make with the text of a user's own spec, feat is then its path; spec NULL:
 * built-in. */
spectra_status generate_programs(const jit_cuda_request *request, const char *spec,
                                 jit_programs *out);

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
