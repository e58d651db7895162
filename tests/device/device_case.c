#include "device/device_case.h"

#include "base/bf16.h"
#include "device/backend.h"
#include "device/emulator/emulator.h"
#include "support/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *kind = "emu";
char folder[64], cache[512];
int warnings;
char last_warning[1024];
device *dev;

static void on_warning(void *context, const char *sentence)
{
    (void)context;
    warnings++;
    snprintf(last_warning, sizeof last_warning, "%s", sentence);
}

bool all_cases(void)
{
    const char *which = getenv("DEVICE_CASES");
    return which && strcmp(which, "full") == 0;
}

void configure_compiler(jit_policy policy, const char *compiler)
{
    const jit_options options = {.policy = policy,
                                 .compiler = compiler,
                                 .search = getenv("PATH"),
                                 .cache = cache,
                                 .temporary = folder,
                                 .warn = on_warning};
    assert_int_equal(jit_configure(&options), SPECTRA_OK);
    warnings = 0;
}

void configure(jit_policy policy)
{
    configure_compiler(policy, getenv("CC"));
}

void ok(spectra_status status)
{
    if (status != SPECTRA_OK)
        fail_msg("%s", spectra_message());
}

void fails(spectra_status status, spectra_status expected, const char *part)
{
    if (status != expected || !strstr(spectra_message(), part))
        fail_msg("%s \"%s\" instead of %s \"...%s...\"", spectra_status_name(status),
                 spectra_message(), spectra_status_name(expected), part);
}

static float noise(uint32_t *seed)
{
    *seed = *seed * 1664525U + 1013904223U;
    return (float)(int32_t)*seed * 0x1p-31F;
}

float *random_floats(int64_t count, uint32_t seed)
{
    float *x = malloc((size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = noise(&seed);
    return x;
}

float *normal_floats(int64_t count, uint64_t seed, double deviation)
{
    oracle_rng r = {seed};
    float *x = malloc((size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)(deviation * oracle_normal(&r));
    return x;
}

double largest_error(int64_t count, const float *got, const float *want)
{
    double most = 0, scale = 0;
    for (int64_t i = 0; i < count; i++) {
        const double d = fabs((double)got[i] - (double)want[i]);
        if (isnan(d))
            return NAN;
        most = fmax(most, d);
        scale = fmax(scale, fabs((double)want[i]));
    }
    return most / (scale > 0 ? scale : 1);
}

double error_of(const void *got, int64_t count, const float *want)
{
    float *x = get(got, count);
    const double error = largest_error(count, x, want);
    free(x);
    return error;
}

void *put(const void *from, int64_t bytes)
{
    void *at = NULL;
    ok(device_alloc(dev, bytes, &at));
    ok(device_write(dev, at, from, bytes));
    return at;
}

void *put_typed(float *x, int64_t n, int64_t before, bool bf16)
{
    const int64_t bytes = bf16 ? 2 : 4;
    char *all = calloc((size_t)(n + before), (size_t)bytes), *to = all + before * bytes;
    for (int64_t i = 0; i < n; i++) {
        const uint16_t half = bf16_from_float(x[i]);
        if (bf16)
            x[i] = bf16_to_float(half), memcpy(to + 2 * i, &half, 2);
        else
            memcpy(to + 4 * i, &x[i], 4);
    }
    void *at = put(all, (n + before) * bytes);
    free(all);
    return at;
}

float *room(int64_t floats)
{
    float *none = malloc((size_t)(floats * 4));
    memset(none, 0xff, (size_t)(floats * 4));
    void *at = put(none, floats * 4);
    free(none);
    return at;
}

float *get(const void *from, int64_t floats)
{
    float *x = malloc((size_t)floats * sizeof *x);
    ok(device_read(dev, x, from, floats * 4));
    return x;
}

void same_in_any_order(float *(*results)(void *of, int64_t *count), void *of)
{
    static const emulator_order orders[] = {EMULATOR_ASCENDING, EMULATOR_DESCENDING,
                                            EMULATOR_RANDOM};
    float *first = NULL;
    int64_t count = 0;
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        const emulator_options options = {.order = orders[i], .seed = 5, .check_races = true};
        device_emulate(dev, &options, true);
        float *x = results(of, &count);
        if (first) {
            assert_memory_equal(x, first, (size_t)count * sizeof *x);
            free(x);
        } else {
            first = x;
        }
    }
    device_emulate(dev, &(emulator_options){.os_threads = 0}, false);
    free(first);
}

static int open_all(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_device-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    const char *shared = getenv("KERNEL_CACHE");
    snprintf(cache, sizeof cache, "%s%s", shared && *shared ? shared : folder,
             shared && *shared ? "" : "/cache");
    configure(JIT_AUTO);
    if (device_open(kind, &dev) != SPECTRA_OK) {
        print_error("%s\n", spectra_message());
        return -1;
    }
    print_message("%s, compute capability %d, %d multiprocessors\n", device_name(dev),
                  device_arch(dev), device_multiprocessors(dev));
    return 0;
}

static int close_all(void **state)
{
    char command[128];
    (void)state;
    device_close(dev);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

int run_on_device(int argc, char **argv, const struct CMUnitTest *tests, size_t count)
{
    if (argc > 1)
        kind = argv[1];
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    return _cmocka_run_group_tests(kind, tests, count, open_all, close_all);
}
