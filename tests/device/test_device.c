/* Devices: memory, recordings, wrong use, the cache. */
#include "device/device_case.h"
#include "support/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- memory -----------------------------------------------------------------------------------
 */

static void memory_keeps_what_is_written(void **state)
{
    (void)state;
    enum { N = 1000 };
    const int64_t before = device_used_bytes(dev);
    float *x = random_floats(N, 1), *a = put(x, 4 * N), *b = room(N);
    void *empty = NULL;
    ok(device_alloc(dev, 0, &empty));
    assert_non_null(empty);
    assert_int_equal((uintptr_t)a % 256, 0);
    assert_int_equal((uintptr_t)b % 256, 0);
    ok(device_copy(dev, b, a, 4 * N));
    ok(device_zero(dev, b + 10, 40));
    memset(x + 10, 0, 40);
    float *back = get(b, N);
    assert_memory_equal(back, x, 4 * N);
    assert_int_equal(device_used_bytes(dev) - before, 8 * N);
    assert_true(device_peak_bytes(dev) >= device_used_bytes(dev));
    free(back);
    device_free(dev, b);
    float *fresh = room(N);
    back = get(fresh, N);
    for (int i = 0; i < N && strncmp(device_name(dev), "NVIDIA", 6) != 0; i++)
        assert_true(isnan(back[i]));
    device_free(dev, fresh);
    device_free(dev, a);
    device_free(dev, empty);
    device_free(dev, NULL);
    assert_int_equal(device_used_bytes(dev), before);
    free(back);
    free(x);
}

static void memory_has_ends(void **state)
{
    (void)state;
    float host[4] = {0}, *a = room(4);
    fails(device_write(dev, a + 1, host, 16), SPECTRA_EINVAL, "writing 16 bytes");
    fails(device_write(dev, host, host, 16), SPECTRA_EINVAL, "not in memory of");
    fails(device_read(dev, host, a - 1, 4), SPECTRA_EINVAL, "reading 4 bytes");
    fails(device_copy(dev, a, host, 4), SPECTRA_EINVAL, "copying 4 bytes");
    fails(device_zero(dev, a, 17), SPECTRA_EINVAL, "clearing 17 bytes");
    fails(device_zero(dev, a, -1), SPECTRA_EINVAL, "clearing -1 bytes");
    device_free(dev, a);
    void *never = NULL;
    fails(device_alloc(dev, INT64_C(1) << 60, &never), SPECTRA_ENOMEM, "1152921504606846976 bytes");
    fails(device_alloc(dev, -1, &never), SPECTRA_EINVAL, "-1 bytes");
    assert_null(never);
}

/* ---- recordings -------------------------------------------------------------------------------
 */

static const char counter_text[] =
    "typedef struct counter_args { float *x; float add; } counter_args;\n"
    "#line 1 \"counter.cu\"\n"
    "KERNEL(counter, counter_args, 64, 1)\n"
    "{\n"
    "    SHARED_MEMORY(memory);\n"
    "    (void)memory;\n"
    "    if (THREAD == 0 && BLOCK == 0)\n"
    "        global_store(args.x, global_load(args.x) + args.add);\n"
    "}\n";

typedef struct counter_args {
    float *x;
    float add;
} counter_args;

/* `extra` goes behind the text of the kernel above. */
static char *with_runtime(const char *extra)
{
    char *rows = NULL, *text = NULL;
    ok(program_row_text("relu", &rows));
    *strstr(rows, "KERNEL(row_fwd") = 0;
    size_t size = strlen(rows) + sizeof counter_text + strlen(extra);
    text = malloc(size);
    snprintf(text, size, "%s%s%s", rows, counter_text, extra);
    free(rows);
    return text;
}

static device_function *counter(int64_t shared)
{
    device_program *p = NULL;
    device_function *f = NULL;
    char *text = with_runtime("");
    ok(device_program_get(dev, "counter", text, &p));
    ok(device_function_get(p, "counter", shared, &f));
    free(text);
    return f;
}

static void recordings_run_when_replayed(void **state)
{
    (void)state;
    const device_grid grid = {.blocks = {1, 1, 1}, .threads = 32};
    device_function *f = counter(0);
    device_graph *graph = NULL;
    float one[4] = {1, 2, 3, 4}, *x = put(one, 16), *y = room(4), *scratch = room(4);
    counter_args args = {x, 10};
    ok(device_record_begin(dev));
    ok(device_launch(f, &grid, &args, sizeof args));
    ok(device_copy(dev, scratch, x, 16));
    ok(device_gemm(dev, false, false, 2, 2, 2, 1, scratch, 2, x, 2, 0, y, 2, false));
    ok(device_zero(dev, x + 3, 4));
    args.add = 1e9F; /* was copied */
    fails(device_read(dev, one, x, 4), SPECTRA_EINVAL, "a read while recording");
    fails(device_write(dev, x, one, 4), SPECTRA_EINVAL, "a write while recording");
    fails(device_wait(dev), SPECTRA_EINVAL, "a wait while recording");
    fails(device_record_begin(dev), SPECTRA_EINVAL, "a recording while recording");
    void *never = NULL;
    device_program *p = NULL;
    char *text = with_runtime("/* another */\n");
    fails(device_alloc(dev, 4, &never), SPECTRA_EINVAL, "an allocation while recording");
    fails(device_program_get(dev, "another", text, &p), SPECTRA_EINVAL, "a new program while");
    free(text);
    ok(device_record_end(dev, &graph));
    float *got = get(x, 4);
    assert_memory_equal(got, one, 16);
    free(got);
    for (int i = 0; i < 2; i++)
        ok(device_replay(dev, graph));
    got = get(x, 4);
    assert_true(got[0] == 21 && got[1] == 2 && got[2] == 3 && got[3] == 0);
    free(got);
    got = get(y, 4); /* of the second time: (21 2; 3 0) squared */
    assert_true(got[0] == 447 && got[1] == 42 && got[2] == 63 && got[3] == 6);
    free(got);
    device_graph_free(dev, graph);
    device_graph_free(dev, NULL);
    fails(device_record_end(dev, &graph), SPECTRA_EINVAL, "not begun");
    device_free(dev, x);
    device_free(dev, y);
    device_free(dev, scratch);
}

/* What is freed while recording goes afterwards. */
static void freed_while_recording(void **state)
{
    (void)state;
    const int64_t used = device_used_bytes(dev);
    float *x = room(4);
    device_graph *graph = NULL;
    ok(device_record_begin(dev));
    device_free(dev, x);
    fails(device_zero(dev, x, 16), SPECTRA_EINVAL, "clearing 16 bytes");
    assert_int_equal(device_used_bytes(dev), used + 16);
    ok(device_record_end(dev, &graph));
    assert_int_equal(device_used_bytes(dev), used);
    ok(device_replay(dev, graph)); /* an empty one; freed with the device */
}

/* ---- wrong use --------------------------------------------------------------------------------
 */

static void wrong_launches(void **state)
{
    (void)state;
    device_function *f = counter(1024), *none = NULL;
    float *x = room(1);
    const counter_args args = {x, 1};
    const device_grid good = {.blocks = {1, 1, 1}, .threads = 64, .shared_bytes = 1024};
    device_grid g = good;
    ok(device_launch(f, &g, &args, sizeof args));
    g.blocks[1] = 0;
    ok(device_launch(f, &g, &args, sizeof args));
    g.blocks[1] = 65536;
    fails(device_launch(f, &g, &args, sizeof args), SPECTRA_EINVAL, "wrong blocks: 1 x 65536 x 1");
    g = good, g.blocks[0] = INT64_C(1) << 31;
    fails(device_launch(f, &g, &args, sizeof args), SPECTRA_EINVAL, "wrong blocks");
    g = good, g.threads = 65;
    fails(device_launch(f, &g, &args, sizeof args), SPECTRA_EINVAL, "65 threads (at most 64)");
    g = good, g.shared_bytes = 1025;
    fails(device_launch(f, &g, &args, sizeof args), SPECTRA_EINVAL, "wrong shared memory");
    g = good, g.cluster = 2;
    fails(device_launch(f, &g, &args, sizeof args), SPECTRA_EINVAL, "wrong blocks of a cluster");
    fails(device_launch(f, &good, &args, 8), SPECTRA_EINVAL, "an argument of 8 bytes");
    device_program *p = NULL;
    char *text = with_runtime("");
    ok(device_program_get(dev, "counter", text, &p));
    free(text);
    fails(device_function_get(p, "conter", 0, &none), SPECTRA_ENOTFOUND, "no kernel conter");
    fails(device_function_get(p, "counter", 1 << 20, &none), SPECTRA_EUNSUPPORTED,
          "counter of counter needs 1048576 bytes of shared memory");
    g = good, g.cluster = 2, g.blocks[0] = 4;
    ok(device_launch(f, &g, &args, sizeof args)); /* the emulator and compute capability 9.0 */
    ok(device_wait(dev));
    device_free(dev, x);
    device *other = NULL;
    fails(device_open("gpu", &other), SPECTRA_EINVAL, "unknown device 'gpu', allowed is cuda|emu");
}

static void errors_name_the_line(void **state)
{
    (void)state;
    device_program *p = NULL;
    char *text =
        with_runtime("#line 7 \"specs/feature/mine.lua\"\nDEVICE real f(void) { return x; }\n");
    fails(device_program_get(dev, "mine", text, &p), SPECTRA_EFORMAT, "specs/feature/mine.lua");
    assert_non_null(strstr(spectra_message(), "7"));
    assert_null(p);
    free(text);
}

/* ---- the cache --------------------------------------------------------------------------------
 */

/* The one entry of an empty cache after the counter's text was asked for on a fresh device. */
static void fresh_counter(jit_entry *entry)
{
    jit_entry *list = NULL;
    device *kept = dev;
    int count = 0;
    dev = NULL;
    ok(device_open(kind, &dev));
    (void)counter(0);
    device_close(dev);
    dev = kept;
    ok(jit_list(&list, &count));
    assert_int_equal(count, 1);
    *entry = list[0];
    free(list);
}

static void damage(char *path)
{
    char command[600];
    snprintf(command, sizeof command, "ls %s/*.kernel", cache);
    FILE *pipe = popen(command, "r");
    assert_non_null(fgets(path, 256, pipe));
    assert_int_equal(pclose(pipe), 0);
    path[strcspn(path, "\n")] = 0;
    FILE *file = fopen(path, "r+b");
    assert_int_equal(fseek(file, -5, SEEK_END), 0);
    assert_int_equal(fputc('?' ^ 0x55, file), '?' ^ 0x55);
    assert_int_equal(fclose(file), 0);
}

static ino_t inode(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_ino;
}

static void compiled_once(void **state)
{
    (void)state;
    int removed = 0;
    jit_entry entry;
    char path[256];
    ok(jit_clear(&removed));
    warnings = 0;
    fresh_counter(&entry);
    assert_true(entry.good);
    assert_string_equal(entry.feature, "counter");
    assert_int_equal(strncmp(entry.isa, strcmp(kind, "emu") == 0 ? "emulator" : "sm_", 3), 0);
    assert_true(strlen(entry.compiler) > 0);
    damage(path);
    const ino_t before = inode(path);
    fresh_counter(&entry);
    assert_int_equal(warnings, 1);
    assert_non_null(strstr(last_warning, "is damaged (its hash is wrong)"));
    assert_true(entry.good);
    const ino_t after = inode(path);
    assert_true(before != after || warnings == 1);
    fresh_counter(&entry); /* from the cache: the file stays */
    assert_int_equal(inode(path), after);
    assert_int_equal(warnings, 1);
    configure(JIT_NEVER);
    device *other = NULL;
    device_program *p = NULL;
    char *text = with_runtime("");
    ok(device_open(kind, &other));
    fails(device_program_get(other, "counter", text, &p), SPECTRA_EUNSUPPORTED,
          "SPECTRA_JIT=never");
    device_close(other);
    free(text);
    configure(JIT_AUTO);
}

int main(int argc, char **argv)
{
    unsetenv("KERNEL_CACHE"); /* tests look into their own */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_keeps_what_is_written),
        cmocka_unit_test(memory_has_ends),
        cmocka_unit_test(recordings_run_when_replayed),
        cmocka_unit_test(freed_while_recording),
        cmocka_unit_test(wrong_launches),
        cmocka_unit_test(errors_name_the_line),
        cmocka_unit_test(compiled_once),
    };
    return run_on_device(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
