#define _GNU_SOURCE
#include "kernel/jit.h"
#include "base/bytes.h"
#include "base/status.h"
#include "cli/cli.h"
#include "device/cuda/nvrtc.h"
#include "kernel/programs.h"
#include "kernel/registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- settings from the environment ------------------------------------------------------------
 */

static void print_warning(void *context, const char *sentence)
{
    (void)context;
    fprintf(stderr, "%sspectraformer: warning: %s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "",
            sentence);
}

/* NULL for an empty one too. */
static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* Place of the cache, to be freed; NULL: none. */
static char *cache_folder(void)
{
    const char *folder = variable("SPECTRA_CACHE_DIR"), *xdg = variable("XDG_CACHE_HOME");
    const char *home = variable("HOME");
    char *path = NULL;
    int n = -1;
    if (folder)
        n = asprintf(&path, "%s", folder);
    else if (xdg && *xdg == '/')
        n = asprintf(&path, "%s/spectraformer", xdg);
    else if (home && *home == '/')
        n = asprintf(&path, "%s/.cache/spectraformer", home);
    return n < 0 ? NULL : path;
}

spectra_status cli_jit_settings(void)
{
    static const char *const policies[] = {
        [JIT_NEVER] = "never", [JIT_AUTO] = "auto", [JIT_ALWAYS] = "always"};
    const char *wish = variable("SPECTRA_JIT");
    int policy = wish ? JIT_NEVER : JIT_AUTO;
    while (wish && policy <= JIT_ALWAYS && strcmp(wish, policies[policy]) != 0)
        policy++;
    if (policy > JIT_ALWAYS)
        return fail(SPECTRA_EINVAL, "SPECTRA_JIT is '%s', allowed is never|auto|always", wish);
    char *cache = cache_folder();
    const jit_options options = {.policy = (jit_policy)policy,
                                 .compiler = variable("CC"),
                                 .search = getenv("PATH"),
                                 .cache = cache,
                                 .temporary = variable("TMPDIR"),
                                 .warn = print_warning};
    spectra_status status = jit_configure(&options);
    free(cache);
    return status;
}

/* ---- jit --list, --clear, --warm --------------------------------------------------------------
 */

static spectra_status list_json(const jit_entry *list, int count)
{
    json_t *all = json_array();
    for (int i = 0; i < count; i++) {
        const jit_entry *e = &list[i];
        json_array_append_new(all, json_pack("{s:b, s:s, s:n, s:I, s:I, s:I, s:s, s:s, s:I, s:I}",
                                             "good", e->good, "feature", e->feature, "matrix", "D",
                                             (json_int_t)e->D, "DV", (json_int_t)e->DV, "M",
                                             (json_int_t)e->M, "instructions", e->isa, "compiler",
                                             e->compiler, "bytes", (json_int_t)e->bytes,
                                             "age_seconds", (json_int_t)e->seconds));
    }
    return cli_print_json(all);
}

static const char *age_text(int64_t seconds, char *buf, size_t size)
{
    static const struct {
        int64_t seconds;
        const char *unit;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    size_t i = 0;
    while (i < 3 && seconds < 2 * units[i].seconds)
        i++;
    snprintf(buf, size, "%lld %s", (long long)(seconds / units[i].seconds), units[i].unit);
    return buf;
}

static void list_text(const jit_entry *list, int count)
{
    if (count)
        printf("%-24s %-10s %4s %4s %5s  %-9s %9s  %s\n", "feature", "matrix", "D", "DV", "M",
               "for", "bytes", "age");
    for (int i = 0; i < count; i++) {
        const jit_entry *e = &list[i];
        char age[48];
        age_text(e->seconds, age, sizeof age);
        if (e->good && !e->D) /* a text that has no sizes */
            printf("%-50s  %-9s %9lld  %s\n", e->feature, e->isa, (long long)e->bytes, age);
        else if (e->good)
            printf("%-24s %-10s %4lld %4lld %5lld  %-9s %9lld  %s\n", e->feature, "any",
                   (long long)e->D, (long long)e->DV, (long long)e->M, e->isa, (long long)e->bytes,
                   age);
        else
            printf("%-24s %42s %9lld  %s\n", "damaged", "", (long long)e->bytes, age);
    }
    printf("%d kernels\n", count);
}

static spectra_status list_entries(const cli_args *a)
{
    jit_entry *list = NULL;
    int count = 0;
    spectra_status status = jit_list(&list, &count);
    if (status == SPECTRA_OK && a->value[OPT_JSON].given)
        status = list_json(list, count);
    else if (status == SPECTRA_OK)
        list_text(list, count);
    free(list);
    return status;
}

static spectra_status clear_entries(void)
{
    int removed = 0;
    TRY(jit_clear(&removed));
    printf("%d kernels removed\n", removed);
    return SPECTRA_OK;
}

static spectra_status use_nothing(void *context, const byte_buffer *image)
{
    (void)context;
    (void)image;
    return SPECTRA_OK;
}

/* What a GPU is asked for into the cache; `what` is for the line. */
static spectra_status warm_programs(const nvrtc_info *nvrtc, const jit_cuda_request *request,
                                    const char *what, const char *target)
{
    jit_programs list;
    int compiled = 0;
    TRY(jit_programs_make(request, &list));
    spectra_status status = SPECTRA_OK;
    for (int i = 0; i < list.count && status == SPECTRA_OK; i++) {
        bool fresh = false;
        status = nvrtc_make(nvrtc, NULL, list.program[i].name, list.program[i].text, target,
                            use_nothing, NULL, &fresh);
        compiled += fresh;
    }
    if (status == SPECTRA_OK)
        printf("%s  %s  %d compiled, %d are there\n", what, target, compiled,
               list.count - compiled);
    jit_programs_free(&list);
    return status;
}

/* A pair (feat NULL: the benchmark's models) for the GPUs of --arch. */
static spectra_status warm_cuda(const cli_args *a, const char *feat, const char *matrix, int64_t D,
                                int64_t DV, int64_t M)
{
    const nvrtc_info *nvrtc;
    char list[SETTING_TEXT], what[128], *held = NULL;
    char defines[256];
    const jit_cuda_request request = {
        .kind = feat ? "pair" : "tasks", .feat = feat, .defines = defines};
    TRY(nvrtc_open(0, &nvrtc));
    snprintf(list, sizeof list, "%s", a->value[OPT_ARCH].text);
    if (feat)
        snprintf(what, sizeof what, "%-16s D %lld DV %lld M %lld", feat, (long long)D,
                 (long long)DV, (long long)M);
    else
        snprintf(what, sizeof what, "%-32s", "models of the benchmark");
    for (char *arch = strtok_r(list, " ,", &held); arch; arch = strtok_r(NULL, " ,", &held)) {
        int n = snprintf(defines, sizeof defines, "arch=%d", atoi(arch + strlen("sm_")));
        if (feat)
            snprintf(defines + n, sizeof defines - (size_t)n, " D=%lld DV=%lld M=%lld%s%s",
                     (long long)D, (long long)DV, (long long)M, matrix ? " matrix=" : "",
                     matrix ? matrix : "");
        TRY(warm_programs(nvrtc, &request, what, arch));
    }
    return SPECTRA_OK;
}

static spectra_status check_archs(const cli_args *a)
{
    const nvrtc_info *nvrtc;
    char list[SETTING_TEXT];
    TRY(nvrtc_open(0, &nvrtc));
    snprintf(list, sizeof list, "%s", a->value[OPT_ARCH].text);
    return nvrtc_check_targets(nvrtc, list);
}

static spectra_status warm_one(const cli_args *a, const char *feat, const char *matrix)
{
    const int64_t D = a->value[OPT_D].integer, M = a->value[OPT_M].integer;
    const int64_t DV = a->value[OPT_VALUE_SIZE].given ? a->value[OPT_VALUE_SIZE].integer : D;
    struct timespec from, to;
    const int groups = ATTN_ATTENTION | (a->value[OPT_CAUSAL].given ? ATTN_CAUSAL : 0) |
                       (a->value[OPT_OFFICIAL].given ? ATTN_OFFICIAL : 0) |
                       (strcmp(a->value[OPT_PRECISION].text, "bf16") == 0 ? ATTN_BF16 : 0);
    bool compiled = false;
    if (a->value[OPT_ARCH].given)
        return warm_cuda(a, feat, matrix, D, DV, M);
    clock_gettime(CLOCK_MONOTONIC, &from);
    TRY(jit_warm(feat, D, DV, M, groups, &compiled));
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%-16s D %lld DV %lld M %lld  %s  ", feat, (long long)D, (long long)DV, (long long)M,
           registry_isa_name(registry_isa()));
    if (compiled)
        printf("compiled in %.1f s\n",
               (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec));
    else
        puts("is there");
    return SPECTRA_OK;
}

static spectra_status warm(const cli_args *a)
{
    const char *feat, *kernel;
    const bool pair = a->value[OPT_FEAT].given || a->value[OPT_KERNEL].given;
    if (pair)
        TRY(cli_pair(a, &feat, &kernel));
    if (a->value[OPT_ARCH].given) {
        TRY(check_archs(a));
        TRY(warm_cuda(a, NULL, NULL, 0, 0, 0));
    }
    if (pair)
        return warm_one(a, feat, kernel);
    for (const feature_info *f = generated_features; f->name; f++)
        TRY(warm_one(a, f->name, NULL));
    return SPECTRA_OK;
}

spectra_status cli_jit(const cli_args *a)
{
    bool list = a->value[OPT_LIST].given, clear = a->value[OPT_CLEAR].given;
    if (list + clear + a->value[OPT_WARM].given != 1)
        return fail(SPECTRA_EINVAL, "jit needs one of --list, --clear, --warm");
    if (a->value[OPT_ARCH].given && !a->value[OPT_WARM].given)
        return fail(SPECTRA_EINVAL, "--arch goes with --warm");
    return list ? list_entries(a) : clear ? clear_entries() : warm(a);
}
