/* nvrtc FILE.cu ... : compiles every file with NVRTC, as at run time, for sm_80 and sm_90. Prints a
 * line each and "N passed, N failed"; without NVRTC on this machine, one line and exit code 0.
 */
#include "device/nvrtc.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const targets[] = {"sm_80", "sm_90"};

/* Bytes of machine code, 0 on failure. */
static size_t compile(const nvrtc_api *api, const char *path, const char *text, const char *target)
{
    nvrtc_program *program = NULL;
    size_t size = 0;
    int code = nvrtc_build(api, path, text, target, 0, NULL, &program);
    if (code == 0)
        code = api->cubin_size(program, &size);
    if (code != 0) {
        printf("FAILED %s %s: %s\n", target, path, api->error_text(code));
        char *log = program ? nvrtc_log(api, program) : NULL;
        printf("%s\n", log ? log : "");
        free(log);
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

    const int found = nvrtc_load(&api);
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
        char *text = nvrtc_read(argv[i]);
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
