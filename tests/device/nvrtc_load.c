#include "device/nvrtc.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const libraries[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so",
                                        "/usr/local/cuda/lib64/libnvrtc.so"};

static int load(void *library, const char *name, void *function)
{
    *(void **)function = dlsym(library, name);
    if (!*(void **)function)
        fprintf(stderr, "nvrtc: %s is missing in the library\n", name);
    return *(void **)function != NULL;
}

int nvrtc_load(nvrtc_api *api)
{
    void *library = NULL;

    for (size_t i = 0; i < sizeof libraries / sizeof libraries[0] && !library; i++)
        library = dlopen(libraries[i], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return 0;
    return load(library, "nvrtcVersion", &api->version) &&
                   load(library, "nvrtcGetErrorString", &api->error_text) &&
                   load(library, "nvrtcCreateProgram", &api->create) &&
                   load(library, "nvrtcCompileProgram", &api->compile) &&
                   load(library, "nvrtcGetProgramLogSize", &api->log_size) &&
                   load(library, "nvrtcGetProgramLog", &api->log) &&
                   load(library, "nvrtcGetCUBINSize", &api->cubin_size) &&
                   load(library, "nvrtcGetPTXSize", &api->ptx_size) &&
                   load(library, "nvrtcGetPTX", &api->ptx) &&
                   load(library, "nvrtcDestroyProgram", &api->destroy)
               ? 1
               : -1;
}

char *nvrtc_read(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    long size = -1;

    if (file && fseek(file, 0, SEEK_END) == 0)
        size = ftell(file);
    if (size >= 0 && fseek(file, 0, SEEK_SET) == 0)
        text = malloc((size_t)size + 1);
    if (text && fread(text, 1, (size_t)size, file) != (size_t)size) {
        free(text);
        text = NULL;
    }
    if (text)
        text[size] = 0;
    if (file)
        fclose(file);
    return text;
}

char *nvrtc_log(const nvrtc_api *api, nvrtc_program *program)
{
    size_t size = 0;
    char *log = NULL;

    if (api->log_size(program, &size) == 0 && size > 1)
        log = malloc(size);
    if (log && api->log(program, log) != 0) {
        free(log);
        log = NULL;
    }
    return log;
}

int nvrtc_build(const nvrtc_api *api, const char *name, const char *text, const char *target,
                int count, const char *const *extra, nvrtc_program **program)
{
    enum { MOST = 12 };
    char arch[64];
    const char *options[MOST] = {arch, "--std=c++17", "--fmad=true"};
    int n = 3;

    snprintf(arch, sizeof arch, "--gpu-architecture=%s", target);
    for (int i = 0; i < count && n < MOST; i++)
        options[n++] = extra[i];
    *program = NULL;
    const int code = api->create(program, text, name, 0, NULL, NULL);
    return code ? code : api->compile(*program, n, options);
}
