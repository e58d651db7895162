/* cuda_resources < LIST : compiles CUDA texts with NVRTC and says what each kernel takes. LIST has
 * lines `FILE ARCH` (sm_90a); for each a line `FILE ARCH registers stack spill_stores spill_loads`,
 * or `FILE ARCH failed` and the compiler's log on stderr. Says `nvrtc MAJOR.MINOR` first, or `nvrtc
 * none`.
 */
#include "device/nvrtc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number in front of `what` after the last space before it; 0 if there is no such line. */
static long before(const char *log, const char *what)
{
    const char *at = strstr(log, what);
    if (!at)
        return 0;
    const char *from = at;
    while (from > log && from[-1] >= '0' && from[-1] <= '9')
        from--;
    return atol(from);
}

static void report(const char *file, const char *arch, const char *log)
{
    const char *used = strstr(log, "Used ");
    printf("%s %s %ld %ld %ld %ld\n", file, arch, used ? atol(used + 5) : 0,
           before(log, " bytes stack frame"), before(log, " bytes spill stores"),
           before(log, " bytes spill loads"));
}

static void compile(const nvrtc_api *api, const char *file, const char *arch)
{
    static const char *const verbose[] = {"--ptxas-options=-v"};
    nvrtc_program *program = NULL;
    char *text = nvrtc_read(file);
    const int code = text ? nvrtc_build(api, file, text, arch, 1, verbose, &program) : 1;
    char *log = program ? nvrtc_log(api, program) : NULL;
    if (code == 0 && log && strstr(log, "Used "))
        report(file, arch, log);
    else
        printf("%s %s failed\n", file, arch);
    if (code != 0)
        fprintf(stderr, "%s\n", text ? log ? log : api->error_text(code) : "cannot be read");
    fflush(stdout);
    if (program)
        api->destroy(&program);
    free(log);
    free(text);
}

int main(void)
{
    nvrtc_api api;
    char line[512], file[256], arch[32];
    int major = 0, minor = 0;
    if (nvrtc_load(&api) <= 0) {
        printf("nvrtc none\n");
        return 0;
    }
    api.version(&major, &minor);
    printf("nvrtc %d.%d\n", major, minor);
    while (fgets(line, sizeof line, stdin))
        if (sscanf(line, "%255s %31s", file, arch) == 2)
            compile(&api, file, arch);
    return 0;
}
