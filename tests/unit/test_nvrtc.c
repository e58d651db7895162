/* NVRTC as the runtime calls it, which needs no GPU and no driver: machine code, PTX, what it says
 * of a text that is wrong, what is asked for on which GPU. Without it on this machine one line says
 * so.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "device/cuda/nvrtc.h"
#include "kernel/programs.h"
#include "support/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void ok(spectra_status status)
{
    if (status != SPECTRA_OK)
        fail_msg("%s", spectra_message());
}

static void fails(spectra_status status, spectra_status expected, const char *part)
{
    if (status != expected || !strstr(spectra_message(), part))
        fail_msg("%s \"%s\" instead of %s \"...%s...\"", spectra_status_name(status),
                 spectra_message(), spectra_status_name(expected), part);
}

static void nvrtc_makes_machine_code(void **state)
{
    (void)state;
    static const char *const targets[] = {"sm_80", "sm_90a", "sm_100a"};
    static const jit_cuda_request request = {
        .kind = "phi", .feat = "saderf", .defines = "D=32 DV=32 M=128"};
    const nvrtc_info *info = NULL;
    byte_buffer image = {.data = NULL};
    char *text = NULL, *rows = NULL, target[NVRTC_TARGET];
    if (nvrtc_open(0, &info) != SPECTRA_OK) {
        print_message("skipped: %s\n", spectra_message());
        skip();
    }
    print_message("%s\n", info->text);
    ok(program_text(&request, NULL, NULL, &text));
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        snprintf(target, sizeof target, "%s", targets[i]);
        if (nvrtc_check_targets(info, target) != SPECTRA_OK)
            continue;
        ok(nvrtc_compile("phi", text, targets[i], &image));
        assert_true(image.size > 1000);
        assert_memory_equal(image.data, "\177ELF", 4);
        free(image.data);
    }
    ok(nvrtc_compile("phi", text, "compute_80", &image));
    assert_non_null(strstr(image.data, ".target sm_80"));
    free(image.data);
    free(text);
    ok(program_row_text("relu", &rows));
    assert_true(asprintf(&text,
                         "%s#line 7 \"specs/feature/mine.lua\"\nDEVICE real f() { return x; }\n",
                         rows) > 0);
    free(rows);
    fails(nvrtc_compile("mine", text, "sm_80", &image), SPECTRA_EFORMAT, "mine.lua(7): error");
    assert_non_null(strstr(spectra_message(), info->text));
    free(text);
    ok(nvrtc_target(info, 80, target));
    assert_string_equal(target, "sm_80");
    fails(nvrtc_target(info, 75, target), SPECTRA_EUNSUPPORTED, "needed is 8.0 or newer");
    static const char *const unknown[] = {"sm_81", "sm_80 foo", "sm_12,sm_80", "compute_80", ""};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        snprintf(target, sizeof target, "%s", unknown[i]);
        fails(nvrtc_check_targets(info, target), SPECTRA_EINVAL, "unknown architecture '");
        assert_non_null(strstr(spectra_message(), " compiles for sm_80"));
    }
    /* a GPU of a time to come gets text its driver can compile */
    ok(nvrtc_target(info, 999, target));
    assert_int_equal(strncmp(target, "compute_", 8), 0);
}

static void targets_follow_what_nvrtc_knows(void **state)
{
    (void)state;
    const nvrtc_info info = {.major = 12, .archs = 3, .arch = {75, 80, 90}, .text = "NVRTC 12.0"};
    static const struct {
        int arch;
        const char *target;
    } cases[] = {{80, "sm_80"}, {90, "sm_90a"}, {86, "compute_80"}, {100, "compute_90"}};
    char target[NVRTC_TARGET];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ok(nvrtc_target(&info, cases[i].arch, target));
        assert_string_equal(target, cases[i].target);
    }
    ok(nvrtc_target(NULL, 120, target));
    assert_string_equal(target, "sm_120a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nvrtc_makes_machine_code),
        cmocka_unit_test(targets_follow_what_nvrtc_knows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
