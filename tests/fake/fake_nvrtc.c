/* The NVRTC of fake.h: the emulator's compiler says whether a text compiles; the image is the text.
 */
#define _GNU_SOURCE
#include "fake/fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

enum { INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6, ARCHS = 16 };

typedef struct fake_program {
    char *text, *name, *log, *image;
    char target[32];
} fake_program;

static int version(void)
{
    return (int)fake_setting("FAKE_NVRTC", 13990);
}

FAKE_PUBLIC int nvrtcVersion(int *major, int *minor)
{
    *major = version() / 1000;
    *minor = version() % 1000 / 10;
    return 0;
}

FAKE_PUBLIC const char *nvrtcGetErrorString(int code)
{
    static const char *const names[] = {"NVRTC_SUCCESS",
                                        "NVRTC_ERROR_OUT_OF_MEMORY",
                                        "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
                                        "NVRTC_ERROR_INVALID_INPUT",
                                        "NVRTC_ERROR_INVALID_PROGRAM",
                                        "NVRTC_ERROR_INVALID_OPTION",
                                        "NVRTC_ERROR_COMPILATION"};
    return code >= 0 && code <= COMPILATION ? names[code] : "NVRTC_ERROR unknown";
}

static int archs(int list[ARCHS])
{
    const char *text = getenv("FAKE_ARCHS");
    int count = 0;
    for (char *end = (char *)(uintptr_t)(text ? text : "75 80 86 89 90 100 120");
         *end && count < ARCHS;)
        list[count++] = (int)strtol(end, &end, 10);
    return count;
}

FAKE_PUBLIC int nvrtcGetNumSupportedArchs(int *count)
{
    int list[ARCHS];
    *count = archs(list);
    return 0;
}

FAKE_PUBLIC int nvrtcGetSupportedArchs(int *list)
{
    int all[ARCHS];
    int count = archs(all);
    memcpy(list, all, (size_t)count * sizeof *list);
    return 0;
}

FAKE_PUBLIC int nvrtcCreateProgram(fake_program **out, const char *text, const char *name,
                                   int headers, const char *const *texts, const char *const *names)
{
    if (!text || headers || texts || names)
        return INVALID_INPUT;
    fake_program *p = calloc(1, sizeof *p);
    p->text = strdup(text);
    p->name = strdup(name ? name : "default_program");
    fake_count("NVRTC program", 1);
    *out = p;
    return 0;
}

static int known_target(const char *target)
{
    int list[ARCHS], count = archs(list), arch = 0, used = 0;
    if (sscanf(target, "sm_%d%n", &arch, &used) != 1 &&
        sscanf(target, "compute_%d%n", &arch, &used) != 1)
        return 0;
    if (strcmp(target + used, "a") == 0 ? arch < 90 : target[used] != 0)
        return 0;
    while (count > 0 && list[count - 1] != arch)
        count--;
    return count > 0;
}

FAKE_PUBLIC int nvrtcCompileProgram(fake_program *p, int count, const char *const *options)
{
    static const char arch[] = "--gpu-architecture=";
    if (!p)
        return INVALID_PROGRAM;
    for (int i = 0; i < count; i++) {
        if (strncmp(options[i], arch, sizeof arch - 1) == 0)
            snprintf(p->target, sizeof p->target, "%s", options[i] + sizeof arch - 1);
        else if (strcmp(options[i], "--std=c++17") != 0 && strcmp(options[i], "--fmad=true") != 0)
            return INVALID_OPTION;
    }
    if (!known_target(p->target))
        return INVALID_OPTION;
    if (!fake_setting("FAKE_TRUST", 0) && !fake_compile(p->name, p->text)) {
        p->log = strdup(spectra_message());
        return COMPILATION;
    }
    if (asprintf(&p->image, "FAKE %s %d %s\n%s", p->target, version(), p->name, p->text) < 0)
        return 1;
    return 0;
}

FAKE_PUBLIC int nvrtcGetProgramLogSize(fake_program *p, size_t *size)
{
    *size = (p->log ? strlen(p->log) : 0) + 1;
    return 0;
}

FAKE_PUBLIC int nvrtcGetProgramLog(fake_program *p, char *text)
{
    strcpy(text, p->log ? p->log : "");
    return 0;
}

static int result_size(const fake_program *p, const char *kind, size_t *size)
{
    if (!p->image || strncmp(p->target, kind, strlen(kind)) != 0)
        return INVALID_PROGRAM;
    *size = strlen(p->image) + 1;
    return 0;
}

FAKE_PUBLIC int nvrtcGetCUBINSize(fake_program *p, size_t *size)
{
    return result_size(p, "sm_", size);
}

FAKE_PUBLIC int nvrtcGetPTXSize(fake_program *p, size_t *size)
{
    return result_size(p, "compute_", size);
}

FAKE_PUBLIC int nvrtcGetCUBIN(fake_program *p, char *data)
{
    strcpy(data, p->image);
    return 0;
}

FAKE_PUBLIC int nvrtcGetPTX(fake_program *p, char *data)
{
    strcpy(data, p->image);
    return 0;
}

FAKE_PUBLIC int nvrtcDestroyProgram(fake_program **p)
{
    free((*p)->text);
    free((*p)->name);
    free((*p)->log);
    free((*p)->image);
    free(*p);
    *p = NULL;
    fake_count("NVRTC program", -1);
    return 0;
}
