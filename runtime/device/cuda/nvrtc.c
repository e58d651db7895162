#define _GNU_SOURCE
#include "device/cuda/nvrtc.h"

#include "base/bytes.h"
#include "base/library.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct nvrtc_program nvrtc_program;

/* Results are 0 or a code that error_text explains. */
static struct {
    int (*version)(int *major, int *minor);
    const char *(*error_text)(int code);
    int (*arch_count)(int *count);
    int (*archs)(int *list);
    int (*create)(nvrtc_program **program, const char *text, const char *name, int headers,
                  const char *const *header_texts, const char *const *header_names);
    int (*compile)(nvrtc_program *program, int count, const char *const *options);
    int (*log_size)(nvrtc_program *program, size_t *size);
    int (*log)(nvrtc_program *program, char *text);
    int (*cubin_size)(nvrtc_program *program, size_t *size);
    int (*cubin)(nvrtc_program *program, char *data);
    int (*ptx_size)(nvrtc_program *program, size_t *size);
    int (*ptx)(nvrtc_program *program, char *data);
    int (*destroy)(nvrtc_program **program);
} nvrtc;

static const library_symbol symbols[] = {
    {"nvrtcVersion", &nvrtc.version, false},
    {"nvrtcGetErrorString", &nvrtc.error_text, false},
    {"nvrtcGetNumSupportedArchs", &nvrtc.arch_count, false},
    {"nvrtcGetSupportedArchs", &nvrtc.archs, false},
    {"nvrtcCreateProgram", &nvrtc.create, false},
    {"nvrtcCompileProgram", &nvrtc.compile, false},
    {"nvrtcGetProgramLogSize", &nvrtc.log_size, false},
    {"nvrtcGetProgramLog", &nvrtc.log, false},
    {"nvrtcGetCUBINSize", &nvrtc.cubin_size, false},
    {"nvrtcGetCUBIN", &nvrtc.cubin, false},
    {"nvrtcGetPTXSize", &nvrtc.ptx_size, false},
    {"nvrtcGetPTX", &nvrtc.ptx, false},
    {"nvrtcDestroyProgram", &nvrtc.destroy, false},
};

/* Newest first; 11.2 is the name all of 11.2 to 11.8 have. */
static const struct {
    int major;
    const char *name[2];
} releases[] = {
    {13, {"libnvrtc.so.13", "/usr/local/cuda/lib64/libnvrtc.so.13"}},
    {12, {"libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so.12"}},
    {11, {"libnvrtc.so.11.2", "/usr/local/cuda/lib64/libnvrtc.so.11.2"}},
    {0, {"libnvrtc.so", "/usr/local/cuda/lib64/libnvrtc.so"}},
};
enum { RELEASES = sizeof releases / sizeof releases[0] };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static nvrtc_info found;

/* NVRTC has no "quiet"; warnings stay in the log, which is only looked at after a failure. */
static const char *const options[] = {"--std=c++17", "--fmad=true"};
enum { OPTIONS = sizeof options / sizeof options[0], LOG_SAID = 700 };

static spectra_status read_version(const library *l)
{
    nvrtc_info info = {.library = l->name};
    int count = 0;
    if (nvrtc.version(&info.major, &info.minor) != 0 || nvrtc.arch_count(&count) != 0 ||
        count < 1 || count > NVRTC_ARCHS || nvrtc.archs(info.arch) != 0)
        return fail(SPECTRA_EUNSUPPORTED, "%s does not say what it is", l->name);
    info.archs = count;
    snprintf(info.text, sizeof info.text, "NVRTC %d.%d", info.major, info.minor);
    sha256_of(info.text, strlen(info.text), info.identity);
    found = info;
    return SPECTRA_OK;
}

spectra_status nvrtc_open(int driver, const nvrtc_info **out)
{
    const char *names[2 * RELEASES];
    int count = 0;
    for (int newer = 0; newer < 2; newer++)
        for (int i = 0; i < RELEASES; i++)
            if ((driver > 0 && releases[i].major > driver / 1000) == newer)
                for (int k = 0; k < 2; k++)
                    names[count++] = releases[i].name[k];
    library l;
    pthread_mutex_lock(&lock);
    spectra_status status = SPECTRA_OK;
    if (!found.archs) {
        status =
            library_open("NVRTC, the compiler of CUDA text,", names, count, symbols,
                         sizeof symbols / sizeof symbols[0], "it is part of the CUDA toolkit", &l);
        if (status == SPECTRA_OK)
            status = read_version(&l);
    }
    pthread_mutex_unlock(&lock);
    if (status == SPECTRA_OK)
        *out = &found;
    return status;
}

/* ---- targets ----------------------------------------------------------------------------------
 */

enum { ARCH_SPECIFIC = 90, OLDEST = 80 };

/* Instructions of one generation only (wgmma) are in its "a" target. */
static void machine_code(int arch, char out[NVRTC_TARGET])
{
    snprintf(out, NVRTC_TARGET, "sm_%d%s", arch, arch >= ARCH_SPECIFIC ? "a" : "");
}

spectra_status nvrtc_target(const nvrtc_info *info, int arch, char out[NVRTC_TARGET])
{
    if (arch < OLDEST)
        return fail(SPECTRA_EUNSUPPORTED,
                    "a GPU of compute capability %d.%d; needed is %d.%d or newer", arch / 10,
                    arch % 10, OLDEST / 10, OLDEST % 10);
    int newest = 0;
    for (int i = 0; info && i < info->archs; i++)
        if (info->arch[i] <= arch && info->arch[i] > newest)
            newest = info->arch[i];
    if (!info || newest == arch) {
        machine_code(arch, out);
        return SPECTRA_OK;
    }
    if (newest < OLDEST)
        return fail(SPECTRA_EUNSUPPORTED, "%s compiles for no GPU of compute capability %d.%d",
                    info->text, arch / 10, arch % 10);
    snprintf(out, NVRTC_TARGET, "compute_%d", newest);
    return SPECTRA_OK;
}

static spectra_status check_target(const nvrtc_info *info, const char *target)
{
    char allowed[512] = "";
    size_t used = 0;
    for (int i = 0; i < info->archs; i++) {
        char name[2][NVRTC_TARGET];
        snprintf(name[0], NVRTC_TARGET, "sm_%d", info->arch[i]);
        machine_code(info->arch[i], name[1]);
        if (info->arch[i] < OLDEST)
            continue;
        const int forms = strcmp(name[0], name[1]) == 0 ? 1 : 2;
        for (int k = 0; k < forms; k++) {
            if (strcmp(target, name[k]) == 0)
                return SPECTRA_OK;
            if (used < sizeof allowed)
                used += (size_t)snprintf(allowed + used, sizeof allowed - used, " %s", name[k]);
        }
    }
    return fail(SPECTRA_EINVAL, "unknown architecture '%s'; %s compiles for%s", target, info->text,
                allowed);
}

spectra_status nvrtc_check_targets(const nvrtc_info *info, char *targets)
{
    char *held = NULL, *word = strtok_r(targets, " ,", &held);
    if (!word)
        return check_target(info, "");
    for (; word; word = strtok_r(NULL, " ,", &held))
        TRY(check_target(info, word));
    return SPECTRA_OK;
}

spectra_status nvrtc_key(const char *text, const char *target, sha256_hex out)
{
    char *all = NULL;
    int n = asprintf(&all, "1\n%s %s %s\n%s", target, options[0], options[1], text);
    if (n < 0)
        return fail(SPECTRA_ENOMEM, "compiling CUDA text: out of memory");
    sha256_of(all, (size_t)n, out);
    free(all);
    return SPECTRA_OK;
}

/* ---- compiling --------------------------------------------------------------------------------
 */

/* The lines of the log from the first that speaks of an error. */
static spectra_status refused(const char *name, const char *target, int code,
                              nvrtc_program *program)
{
    size_t size = 0;
    char *log = NULL;
    if (program && nvrtc.log_size(program, &size) == 0 && size > 1)
        log = malloc(size);
    if (log && nvrtc.log(program, log) != 0) {
        free(log);
        log = NULL;
    }
    const char *said = log ? log : "no reason given";
    const char *error = strstr(said, "error");
    while (error && error > said && error[-1] != '\n')
        error--;
    said = error ? error : said;
    int length = (int)strlen(said) < LOG_SAID ? (int)strlen(said) : LOG_SAID;
    while (length > 0 && said[length - 1] == '\n')
        length--;
    spectra_status status = fail(SPECTRA_EFORMAT, "%s for %s: %s refused it (%s): %.*s", name,
                                 target, found.text, nvrtc.error_text(code), length, said);
    free(log);
    return status;
}

static spectra_status take(nvrtc_program *program, bool ptx, byte_buffer *image)
{
    size_t size = 0;
    if ((ptx ? nvrtc.ptx_size : nvrtc.cubin_size)(program, &size) != 0 || size == 0)
        return fail(SPECTRA_EUNSUPPORTED, "%s gives no %s", found.text,
                    ptx ? "PTX" : "machine code");
    char *data = malloc(size + 1);
    if (!data)
        return fail(SPECTRA_ENOMEM, "compiling CUDA text: out of memory");
    if ((ptx ? nvrtc.ptx : nvrtc.cubin)(program, data) != 0) {
        free(data);
        return fail(SPECTRA_EUNSUPPORTED, "%s gives no result", found.text);
    }
    data[size] = 0;
    *image = (byte_buffer){data, size};
    return SPECTRA_OK;
}

spectra_status nvrtc_compile(const char *name, const char *text, const char *target,
                             byte_buffer *image)
{
    const nvrtc_info *info;
    TRY(nvrtc_open(0, &info));
    char arch[64];
    snprintf(arch, sizeof arch, "--gpu-architecture=%s", target);
    const char *words[OPTIONS + 1] = {arch};
    memcpy(words + 1, options, sizeof options);
    nvrtc_program *program = NULL;
    int code = nvrtc.create(&program, text, name, 0, NULL, NULL);
    if (code == 0)
        code = nvrtc.compile(program, OPTIONS + 1, words);
    spectra_status status = code == 0 ? take(program, strncmp(target, "compute_", 8) == 0, image)
                                      : refused(name, target, code, program);
    if (program)
        (void)nvrtc.destroy(&program);
    return status;
}
