/* nvrtc FILE.cu ... : compiles every file with NVRTC, as at run time, for sm_80 and sm_90. Prints a
 * line each and "N passed, N failed"; without NVRTC on this machine, one line and exit code 0.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

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
    int (*destroy)(nvrtc_program **program);
} nvrtc_api;

static const char *const libraries[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so",
                                        "/usr/local/cuda/lib64/libnvrtc.so"};
static const char *const targets[] = {"sm_80", "sm_90"};

static int load(void *library, const char *name, void *function)
{
    *(void **)function = dlsym(library, name);
    if (!*(void **)function)
        fprintf(stderr, "nvrtc: %s is missing in the library\n", name);
    return *(void **)function != NULL;
}

/* 1 loaded, 0 no library on this machine, -1 a library without a function we need. */
static int nvrtc_open(nvrtc_api *api)
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
                   load(library, "nvrtcDestroyProgram", &api->destroy)
               ? 1
               : -1;
}

/* The file as a string, NULL if it cannot be read. */
static char *read_file(const char *path)
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

static void print_log(const nvrtc_api *api, nvrtc_program *program)
{
    size_t size = 0;
    char *log = NULL;

    if (api->log_size(program, &size) == 0 && size > 1)
        log = malloc(size);
    if (log && api->log(program, log) == 0)
        printf("%s\n", log);
    free(log);
}

/* Bytes of machine code, 0 on failure. */
static size_t compile(const nvrtc_api *api, const char *path, const char *text, const char *target)
{
    char arch[32];
    const char *options[] = {arch, "--std=c++17", "--fmad=true"};
    nvrtc_program *program = NULL;
    size_t size = 0;

    snprintf(arch, sizeof arch, "--gpu-architecture=%s", target);
    int code = api->create(&program, text, path, 0, NULL, NULL);
    if (code == 0)
        code = api->compile(program, 3, options);
    if (code == 0)
        code = api->cubin_size(program, &size);
    if (code != 0) {
        printf("FAILED %s %s: %s\n", target, path, api->error_text(code));
        if (program)
            print_log(api, program);
        size = 0;
    } else {
        printf("ok     %s %s: %zu bytes\n", target, path, size);
    }
    if (program)
        api->destroy(&program);
    return size;
}

int main(int argc, char **argv)
{
    nvrtc_api api;
    int major = 0, minor = 0, passed = 0, failed = 0;

    const int found = nvrtc_open(&api);
    if (found == 0) {
        printf("skipped: no libnvrtc on this machine, %d CUDA files not compiled\n"
               "0 passed, 0 failed, %d skipped\n",
               argc - 1, argc - 1);
        return 0;
    }
    if (found < 0)
        return 1;
    api.version(&major, &minor);
    printf("NVRTC %d.%d\n", major, minor);
    for (int i = 1; i < argc; i++) {
        char *text = read_file(argv[i]);
        if (!text) {
            printf("FAILED %s: cannot be read\n", argv[i]);
            failed++;
            continue;
        }
        for (size_t t = 0; t < sizeof targets / sizeof targets[0]; t++) {
            if (compile(&api, argv[i], text, targets[t]) > 0)
                passed++;
            else
                failed++;
        }
        free(text);
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
