/* NVRTC through dlopen, for tests: the compiler of CUDA text, where a toolkit is installed. */
#ifndef TESTS_NVRTC_H
#define TESTS_NVRTC_H

#include <stddef.h>

typedef struct nvrtc_program nvrtc_program;

typedef struct nvrtc_api {
    int (*version)(int *major, int *minor);
    const char *(*error_text)(int code);
    int (*create)(nvrtc_program **program, const char *text, const char *name, int headers,
                  const char *const *header_texts, const char *const *header_names);
    int (*compile)(nvrtc_program *program, int count, const char *const *options);
    int (*log_size)(nvrtc_program *program, size_t *size);
    int (*log)(nvrtc_program *program, char *text);
    int (*cubin_size)(nvrtc_program *program, size_t *size);
    int (*ptx_size)(nvrtc_program *program, size_t *size);
    int (*ptx)(nvrtc_program *program, char *text);
    int (*destroy)(nvrtc_program **program);
} nvrtc_api;

/* 1 loaded, 0 no library on this machine, -1 a library without a function we need (which is
 * printed). */
int nvrtc_load(nvrtc_api *api);
/* What the compiler said, NULL if nothing; the caller frees it. */
char *nvrtc_log(const nvrtc_api *api, nvrtc_program *program);
/* Compiles for `target` ("sm_90", "compute_80") with `extra` options (count of them); 0 or an error
 * code. *program is to be destroyed where it is not NULL. */
int nvrtc_build(const nvrtc_api *api, const char *name, const char *text, const char *target,
                int count, const char *const *extra, nvrtc_program **program);
/* The file as a string, which the caller frees; NULL if it cannot be read. */
char *nvrtc_read(const char *path);

#endif
