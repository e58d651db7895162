/* Kernels made at run time: the text against the generator's own, bits against the kernel built
 * ahead, policies, and a cache whose entries are damaged in every way a file can be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention/performer/performer.h"
#include "kernel/find.h"
#include "kernel/internal.h"
#include "kernel/registry.h"

#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64], cache[80];
static int warnings;
static char last_warning[1024];

static void count_warning(const char *sentence)
{
    warnings++;
    snprintf(last_warning, sizeof last_warning, "%s", sentence);
}

static void on_warning(void *context, const char *sentence)
{
    assert_ptr_equal(context, folder);
    count_warning(sentence);
}

static void configure(jit_policy policy, const char *compiler)
{
    const jit_options options = {.policy = policy,
                                 .compiler = compiler,
                                 .search = getenv("PATH"),
                                 .cache = cache,
                                 .temporary = folder,
                                 .warn = on_warning,
                                 .context = folder};
    assert_int_equal(jit_configure(&options), SPECTRA_OK);
    warnings = 0;
}

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

static void put(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* ---- text -------------------------------------------------------------------------------------
 */

static void text_is_the_generators(void **state)
{
    (void)state;
    static const char *const groups[] = {"attention", "causal", "official", "bf16"};
    for (const feature_info *f = generated_features; f->name; f++) {
        const char *group = groups[(f - generated_features) % 4];
        char path[96], command[256];
        snprintf(path, sizeof path, "%s/text.c", folder);
        snprintf(command, sizeof command, "%s GROUP=%s FEAT=%s OUT=%s",
                 "lua5.4 gen/main.lua --jit D=20 DV=8 M=100", group, f->name, path);
        assert_int_equal(system(command), 0);
        byte_buffer expected;
        kernel_text got;
        ok(read_whole_file(path, 1 << 24, &expected));
        ok(generate_kernels(f->name, NULL, 20, 8, 100, group, &got));
        assert_int_equal(got.text.size, expected.size);
        assert_memory_equal(got.text.data, expected.data, expected.size);
        free(expected.data);
        free(got.text.data);
        unlink(path);
    }
}

#define MINE(phi)                                                                        \
    "return {\n  name = 'mine', doc = 'd', source = 's',\n  phi = function(u, x2)\n" phi \
    "\n  end,\n}\n"

static void bad_specs_are_one_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *path, *text, *part;
    } cases[] = {
        {"./mine.lua", "return {", "./mine.lua:1: unexpected symbol"},
        {"./mine.lua", "", "./mine.lua:1: a spec must return a table, got nothing"},
        {"./mine.lua", MINE("return { log = io.read() }"), "./mine.lua:4: 'io' is not available"},
        {"./mine.lua", MINE("return { log = require 'os' }"), "4: 'require' is not available"},
        {"./mine.lua", MINE("return { log = debug }"), "./mine.lua:4: 'debug' is not available"},
        {"./mine.lua", MINE("return { lgo = u }"), "'log' must be an expression"},
        {"./mine.lua", MINE("local s = ('x'):rep(1 << 62) return { log = u }"), "too large"},
        {"./mine.lua", "\033Lua", "./mine.lua: a compiled chunk"},
        {"./yours.lua", MINE("return { log = u }"), "./yours.lua:2: 'name' must be 'yours'"},
        {"./oprf.lua", MINE("return { log = u }"), "name of a built-in component function"},
        {"./a b.lua", MINE("return { log = u }"), "./a b.lua: a name is of at most"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *name = NULL;
        fails(generate_check(cases[i].path, cases[i].text, &name), SPECTRA_EFORMAT, cases[i].part);
        assert_null(strchr(spectra_message(), '\n'));
        assert_null(name);
    }
}

/* ---- compiler ---------------------------------------------------------------------------------
 */

static kernel_text text_of(const char *c)
{
    return (kernel_text){{(char *)(uintptr_t)c, strlen(c)}, 1};
}

static void the_compilers_identity(void **state)
{
    (void)state;
    const char *path = getenv("PATH");
    jit_compiler a, b;
    assert_true(jit_compiler_find("cc", path, &a));
    assert_int_equal(a.path[0], '/');
    assert_true(jit_compiler_find(a.path, NULL, &b));
    assert_string_equal(a.path, b.path);
    jit_compiler_free(&b);
    assert_true(jit_compiler_find("cc -DX", path, &b));
    assert_int_equal(b.count, 1);
    assert_string_not_equal(a.identity, b.identity);
    jit_compiler_free(&a), jit_compiler_free(&b);
    static const char *const absent[] = {"", " ", "no-such-compiler", "./no-such-compiler", "/tmp"};
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++)
        assert_false(jit_compiler_find(absent[i], path, &a));
    assert_false(jit_compiler_find("cc", "/none:", &a));
}

static void what_a_compiler_says_is_told(void **state)
{
    (void)state;
    jit_compiler c;
    byte_buffer image = {.data = NULL};
    assert_true(jit_compiler_find("cc", getenv("PATH"), &c));
    kernel_text bad = text_of("#line 7 \"mine.lua\"\nint f(void) { return wrong; }\n");
    fails(jit_compile(&c, ISA_PORTABLE, &bad, folder, &image), SPECTRA_EUNSUPPORTED, "mine.lua:7:");
    kernel_text fine = text_of("int x;");
    fails(jit_compile(&c, ISA_PORTABLE, &fine, "/nowhere", &image), SPECTRA_EIO, "/nowhere");
    jit_compiler_free(&c);
    assert_true(jit_compiler_find("false", getenv("PATH"), &c));
    fails(jit_compile(&c, ISA_PORTABLE, &fine, folder, &image), SPECTRA_EUNSUPPORTED, "code 1");
    jit_compiler_free(&c);
    assert_null(image.data);
}

/* Every object keeps its own code, whichever way it came. */
static void objects_load_from_memory_and_from_a_file(void **state)
{
    (void)state;
    jit_compiler c;
    void *handle[4];
    assert_true(jit_compiler_find("cc", getenv("PATH"), &c));
    for (int i = 0; i < 4; i++) {
        char source[128];
        byte_buffer image;
        snprintf(source, sizeof source,
                 "__attribute__((visibility(\"default\"))) int value = %d;\n", 100 + i);
        kernel_text text = text_of(source);
        ok(jit_compile(&c, registry_isa(), &text, folder, &image));
        handle[i] = i < 2 ? jit_load_memory(&image) : jit_load_file(&image, folder);
        if (!handle[i])
            fail_msg("%s", spectra_message());
        free(image.data);
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(*(int *)dlsym(handle[i], "value"), 100 + i);
    jit_compiler_free(&c);
    const byte_buffer junk = {(char[]){"no object"}, 9};
    assert_null(jit_load(&junk, folder));
    assert_null(jit_load_file(&junk, "/nowhere"));
    assert_non_null(strstr(spectra_message(), "/nowhere"));
}

/* ---- policy -----------------------------------------------------------------------------------
 */

static void policies(void **state)
{
    (void)state;
    const attn_row *row = NULL;
    configure(JIT_NEVER, NULL);
    ok(kernel_find("posrf", "orf", 12, 16, 24, ATTN_ATTENTION, &row));
    assert_int_equal(row->D, 0);
    fails(jit_attn("posrf", "orf", 12, 16, 24, ATTN_ATTENTION, NULL, &row), SPECTRA_EUNSUPPORTED,
          "posrf x orf for head size 12, value size 16 and 24 features");
    assert_non_null(strstr(spectra_message(), "make gen FEAT=posrf KERNEL=orf D=12 DV=16 M=24"));
    configure(JIT_AUTO, NULL);
    ok(kernel_find("posrf", "orf", 12, 16, 24, ATTN_ATTENTION, &row));
    assert_int_equal(row->D, 0);
    configure(JIT_ALWAYS, "no-such-compiler");
    fails(kernel_find("posrf", "orf", 12, 16, 24, ATTN_ATTENTION, &row), SPECTRA_EUNSUPPORTED,
          "no C compiler 'no-such-compiler'");
    assert_non_null(strstr(spectra_message(), "install gcc and libc6-dev"));
    configure(JIT_AUTO, "no-such-compiler");
    kernel_prefer("posrf", "orf", 12, 16, 24, ATTN_ATTENTION);
    assert_int_equal(warnings, 0);
    configure(JIT_AUTO, "false");
    kernel_prefer("posrf", "orf", 12, 16, 24, ATTN_ATTENTION);
    assert_int_equal(warnings, 1);
    configure(JIT_ALWAYS, NULL);
    ok(kernel_find("posrf", "orf", 12, 16, 24, ATTN_ATTENTION, &row));
    assert_int_equal(row->D, 12);
    assert_int_equal(row->isa, registry_isa());
    const attn_row *again = NULL;
    configure(JIT_AUTO, "no-such-compiler");
    ok(kernel_find("posrf", "gaus", 12, 16, 24, ATTN_ATTENTION, &again));
    assert_ptr_equal(row, again); /* it is there, whatever the matrix */
    fails(kernel_find("sadref", "orf", 12, 16, 24, ATTN_ATTENTION, &row), SPECTRA_ENOTFOUND,
          "'saderf'");
}

static void *look_up(void *out)
{
    spectra_status status = kernel_find("gerf", "orf", 9, 10, 11, ATTN_ATTENTION, out);
    return status == SPECTRA_OK ? out : NULL;
}

static void threads_get_the_same_kernel(void **state)
{
    (void)state;
    enum { THREADS = 6 };
    pthread_t thread[THREADS];
    const attn_row *row[THREADS] = {NULL};
    configure(JIT_ALWAYS, NULL);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, look_up, &row[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        void *result = NULL;
        assert_int_equal(pthread_join(thread[i], &result), 0);
        assert_non_null(result);
        assert_ptr_equal(row[i], row[0]);
    }
    assert_int_equal(row[0]->M, 11);
}

/* ---- a user's own -----------------------------------------------------------------------------
 */

static void own_features(void **state)
{
    (void)state;
    static const char text[] = MINE("return { log = u - x2 / 2 }");
    char path[96];
    const jit_spec *spec = NULL, *again = NULL;
    const attn_row *row = NULL;
    const feature_info *info = NULL;
    snprintf(path, sizeof path, "%s/mine.lua", folder);
    put(path, text, sizeof text - 1);
    assert_true(jit_is_path(path));
    assert_false(jit_is_path("mine.lua") || jit_is_path("a/b") || jit_is_path(".lua"));
    configure(JIT_NEVER, NULL);
    fails(kernel_feature("mine", &info), SPECTRA_ENOTFOUND, "unknown component function 'mine'");
    ok(jit_spec_open(path, NULL, &spec));
    ok(jit_spec_open(path, spec->hash, &again));
    assert_ptr_equal(spec, again);
    assert_string_equal(spec->name, "mine");
    fails(kernel_find("mine", "orf", 16, 16, 32, ATTN_ATTENTION, &row), SPECTRA_EUNSUPPORTED,
          "SPECTRA_JIT=never");
    configure(JIT_AUTO, NULL);
    ok(kernel_find("mine", "orf", 16, 16, 32, ATTN_ATTENTION, &row));
    ok(kernel_feature("mine", &info));
    assert_string_equal(info->doc, "d");
    assert_int_equal(info->scalars, 1);
    assert_null(row->official);
    spectra_attention *att = NULL;
    spectra_attention_desc d = {"performer", "mine", "orf", 2, 16, 16, 32, .official = true};
    fails(spectra_attention_new(&d, &att), SPECTRA_EINVAL, "official");
    d.official = false;
    ok(spectra_attention_new(&d, &att));
    spectra_attention_free(att);
    put(path, "--", 2);
    fails(jit_spec_open(path, spec->hash, &again), SPECTRA_EINVAL, "has changed");
    static const char other[] = MINE("return { log = u }");
    put(path, other, sizeof other - 1);
    fails(jit_spec_open(path, NULL, &again), SPECTRA_EINVAL, "another 'mine' is loaded");
    put(path, "a\0b", 3);
    fails(jit_spec_open(path, NULL, &again), SPECTRA_EFORMAT, "not a text");
    unlink(path);
    fails(jit_spec_open(path, NULL, &again), SPECTRA_EIO, "cannot read");
}

/* ---- bits -------------------------------------------------------------------------------------
 */

enum { H = 2, T = 300 };

typedef struct result {
    float *o, *gq, *gk, *gv;
} result;

static float *floats(int64_t n, uint32_t seed)
{
    float *x = aligned_alloc(64, ((size_t)n * sizeof *x + 63) / 64 * 64);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        x[i] = (float)(seed >> 8) * 0x1p-23F - 1;
    }
    return x;
}

/* Both passes with the kernels given. */
static result attend(const attn_row *row, const char *matrix, bool official)
{
    spectra_attention *att = NULL;
    const spectra_attention_desc d = {"performer", row->feat, matrix,
                                      H,           row->D,    row->DV,
                                      row->M,      .seed = 5, .official = official};
    configure(JIT_NEVER, NULL);
    ok(spectra_attention_new(&d, &att));
    performer_of(att)->kernels = row;
    performer_of(att)->forward = row->fwd;
    const spectra_problem p = {.B = 1, .T = T, .S = T};
    const int64_t nd = H * T * row->D, nv = H * T * row->DV;
    float *q = floats(nd, 1), *k = floats(nd, 2), *v = floats(nv, 3), *go = floats(nv, 4);
    result r = {floats(nv, 5), floats(nd, 6), floats(nd, 7), floats(nv, 8)};
    float *saved = floats(spectra_attention_saved_bytes(att, &p) / 4 + 1, 9);
    float *work = floats(spectra_attention_work_bytes(att, &p) / 4 + 1, 10);
#define DENSE(x, size) spectra_rows_dense(x, H, T, row->size)
    ok(spectra_attention_forward(att, &p, DENSE(q, D), DENSE(k, D), DENSE(v, DV), DENSE(r.o, DV),
                                 saved, work));
    ok(spectra_attention_backward(att, &p, DENSE(q, D), DENSE(k, D), DENSE(v, DV), DENSE(r.o, DV),
                                  DENSE(go, DV), DENSE(r.gq, D), DENSE(r.gk, D), DENSE(r.gv, DV),
                                  saved, work));
#undef DENSE
    free(q), free(k), free(v), free(go), free(saved), free(work);
    spectra_attention_free(att);
    return r;
}

static void bits_are_those_of_the_kernel_built_ahead(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* that one is compiled otherwise */
#endif
    const attn_row *ahead = generated_attn, *now = NULL;
    while (ahead->feat && (!ahead->matrix || ahead->isa != registry_isa()))
        ahead++;
    if (!ahead->feat)
        skip(); /* no pair was generated */
    configure(JIT_AUTO, "gcc");
    ok(jit_attn(ahead->feat, ahead->matrix, ahead->D, ahead->DV, ahead->M,
                ATTN_ATTENTION | ATTN_OFFICIAL, NULL, &now));
    assert_ptr_not_equal(ahead, now);
    for (int official = 0; official < 2; official++) {
        result a = attend(ahead, ahead->matrix, official), b = attend(now, ahead->matrix, official);
        const size_t nd = (size_t)(H * T * ahead->D) * 4, nv = (size_t)(H * T * ahead->DV) * 4;
        assert_memory_equal(a.o, b.o, nv);
        assert_memory_equal(a.gq, b.gq, nd);
        assert_memory_equal(a.gk, b.gk, nd);
        assert_memory_equal(a.gv, b.gv, nv);
        assert_true(isfinite(a.o[0]));
        free(a.o), free(a.gq), free(a.gk), free(a.gv), free(b.o), free(b.gq), free(b.gk),
            free(b.gv);
    }
}

/* ---- cache ------------------------------------------------------------------------------------
 */

static char image_text[] = "this is what a compiler made";
static const byte_buffer image = {image_text, sizeof image_text};

/* A key that differs with `digit`, and the path of its entry. */
static jit_key key_for(char digit, char *path, size_t size)
{
    jit_key key;
    memset(&key, 0, sizeof key);
    memset(key.text, digit, SHA256_DIGITS);
    memset(key.compiler, 'c', SHA256_DIGITS);
    snprintf(path, size, "%s/%s-%.16s.kernel", cache, key.text, key.compiler);
    return key;
}

static bool get(const jit_key *key)
{
    byte_buffer got = {.data = NULL};
    char *path = NULL;
    warnings = 0;
    bool found = jit_cache_get(cache, key, count_warning, &got, &path);
    if (found) {
        assert_int_equal(got.size, image.size);
        assert_memory_equal(got.data, image.data, image.size);
        assert_non_null(path);
    }
    free(got.data);
    free(path);
    return found;
}

static void an_entry_comes_back(void **state)
{
    (void)state;
    char path[256];
    const jit_entry about = {.feature = "posrf", .isa = "avx2", .D = 3, .DV = 4, .M = 5};
    jit_key key = key_for('a', path, sizeof path);
    assert_null(jit_cache_open(cache));
    assert_false(get(&key));
    assert_int_equal(warnings, 0);
    ok(jit_cache_put(cache, &key, &about, &image));
    ok(jit_cache_put(cache, &key, &about, &image));
    assert_true(get(&key));
    key.compiler[20] = 'd'; /* behind what the name holds */
    assert_false(get(&key));
    assert_int_equal(warnings, 1);
    key = key_for('a', path, sizeof path);
    ok(jit_cache_put(cache, &key, &about, &image));
    key.compiler[0] = 0; /* no compiler */
    assert_true(get(&key));
    key.text[0] = 'b';
    assert_false(get(&key));
    assert_int_equal(warnings, 0);
    struct stat info;
    assert_int_equal(stat(cache, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    unlink(path);
}

/* Cut everywhere, every byte changed: one warning, removed, and never believed. */
static void damaged_entries_are_removed(void **state)
{
    (void)state;
    char path[256];
    const jit_entry about = {.feature = "posrf", .isa = "avx2"};
    jit_key key = key_for('e', path, sizeof path);
    byte_buffer whole;
    assert_null(jit_cache_open(cache));
    ok(jit_cache_put(cache, &key, &about, &image));
    ok(read_whole_file(path, 1 << 20, &whole));
    for (size_t i = 0; i < 2 * whole.size; i++) {
        if (i < whole.size) {
            put(path, whole.data, i);
        } else {
            whole.data[i - whole.size] ^= 4;
            put(path, whole.data, whole.size);
            whole.data[i - whole.size] ^= 4;
        }
        assert_false(get(&key));
        assert_int_equal(warnings, 1);
        assert_int_not_equal(access(path, F_OK), 0);
    }
    char *longer = calloc(1, whole.size + 1);
    assert_non_null(longer);
    memcpy(longer, whole.data, whole.size);
    put(path, longer, whole.size + 1);
    assert_false(get(&key));
    free(longer);
    free(whole.data);
}

static void what_is_no_file_is_removed(void **state)
{
    (void)state;
    char path[256], inside[300];
    jit_key key = key_for('f', path, sizeof path);
    assert_null(jit_cache_open(cache));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(i == 0   ? mkdir(path, 0700)
                         : i == 1 ? mkfifo(path, 0600)
                                  : symlink("/dev/zero", path),
                         0);
        assert_false(get(&key));
        assert_int_equal(warnings, 1);
        assert_int_not_equal(access(path, F_OK), 0);
    }
    snprintf(inside, sizeof inside, "%s/file", path);
    assert_int_equal(mkdir(path, 0700), 0);
    put(inside, "x", 1);
    assert_false(get(&key));
    assert_int_equal(warnings, 1);
    assert_non_null(strstr(last_warning, "cannot be removed"));
    assert_int_equal(unlink(inside), 0);
    assert_int_equal(rmdir(path), 0);
}

static void folders_that_cannot_be_used(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/file", folder);
    put(path, "x", 1);
    assert_non_null(jit_cache_open(path));
    snprintf(path, sizeof path, "%s/file/below", folder);
    assert_non_null(jit_cache_open(path));
    snprintf(path, sizeof path, "%s/open", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_null(jit_cache_open(path));
    assert_int_equal(chmod(path, 0777), 0);
    assert_non_null(strstr(jit_cache_open(path), "others can write"));
    rmdir(path);
    snprintf(path, sizeof path, "%s/a/b/c", folder);
    assert_null(jit_cache_open(path));
}

static void list_and_clear(void **state)
{
    (void)state;
    char path[256], note[128];
    int count = -1, before = -1, removed = -1;
    jit_entry *list = NULL;
    configure(JIT_AUTO, NULL);
    ok(jit_list(&list, &before));
    free(list);
    const jit_entry about = {.feature = "a_feature", .isa = "avx2", .D = 3, .DV = 4, .M = 5};
    jit_key key = key_for('0', path, sizeof path);
    ok(jit_cache_put(cache, &key, &about, &image));
    key_for('1', path, sizeof path);
    put(path, "junk", 4);
    snprintf(note, sizeof note, "%s/note.kernel", cache);
    put(note, "x", 1);
    ok(jit_list(&list, &count));
    assert_int_equal(count, before + 2);
    assert_false(list[0].good);
    assert_int_equal(list[0].bytes, 4);
    assert_string_equal(list[1].feature, "a_feature");
    assert_int_equal(list[1].DV, 4);
    assert_true(list[1].good && list[1].seconds >= 0 && list[1].seconds < 100);
    free(list);
    ok(jit_clear(&removed));
    assert_int_equal(removed, count);
    assert_int_equal(access(note, F_OK), 0);
    ok(jit_list(&list, &count));
    assert_int_equal(count, 0);
    free(list);
    const jit_options none = {.policy = JIT_AUTO};
    ok(jit_configure(&none));
    ok(jit_list(&list, &count));
    ok(jit_clear(&removed));
    assert_int_equal(count + removed, 0);
    free(list);
}

static int open_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/spectraformer-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(cache, sizeof cache, "%s/cache", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_the_generators),
        cmocka_unit_test(bad_specs_are_one_sentence),
        cmocka_unit_test(the_compilers_identity),
        cmocka_unit_test(what_a_compiler_says_is_told),
        cmocka_unit_test(objects_load_from_memory_and_from_a_file),
        cmocka_unit_test(policies),
        cmocka_unit_test(threads_get_the_same_kernel),
        cmocka_unit_test(own_features),
        cmocka_unit_test(bits_are_those_of_the_kernel_built_ahead),
        cmocka_unit_test(an_entry_comes_back),
        cmocka_unit_test(damaged_entries_are_removed),
        cmocka_unit_test(what_is_no_file_is_removed),
        cmocka_unit_test(folders_that_cannot_be_used),
        cmocka_unit_test(list_and_clear),
    };
    return cmocka_run_group_tests(tests, open_folder, remove_folder);
}
