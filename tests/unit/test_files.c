/* .npy and safetensors files: round trips, a table of malformed files with the sentence each must
 * give, and what is on the disk when writing fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/outfile.h"
#include "file/npy.h"
#include "file/safetensors.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

/* folder/name, good until the call after the next. */
static const char *in_folder(const char *name)
{
    static char paths[2][320];
    static int turn;
    turn = !turn;
    snprintf(paths[turn], sizeof paths[turn], "%s/%s", folder, name);
    return paths[turn];
}

static void put(const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(in_folder(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static int files_in_folder(void)
{
    int count = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        count += e->d_name[0] != '.';
    closedir(d);
    return count;
}

static void expect_message(spectra_status status, spectra_status expected, const char *part,
                           const char *what)
{
    if (status != expected || !strstr(spectra_message(), part))
        fail_msg("%s gives %s \"%s\" instead of %s \"...%s...\"", what, spectra_status_name(status),
                 spectra_message(), spectra_status_name(expected), part);
}

/* ---- .npy ----------------------------------------------------------------- */

static void test_npy_round_trips(void **state)
{
    (void)state;
    static const size_t bytes[] = {4, 8, 4, 8, 1, 1};
    static const int64_t shape[NPY_MAX_DIM] = {2, 3, 1, 2, 1, 1, 2, 1};
    unsigned char data[24 * 8];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 37 % 127);
    for (int type = NPY_F32; type <= NPY_BOOL; type++)
        for (int ndim = 0; ndim <= NPY_MAX_DIM; ndim++) {
            npy_array a;
            assert_int_equal(npy_write(in_folder("a.npy"), (npy_type)type, ndim, shape, data), 0);
            assert_int_equal(npy_read(in_folder("a.npy"), &a), SPECTRA_OK);
            assert_int_equal(a.type, type);
            assert_int_equal(a.ndim, ndim);
            int64_t count = 1;
            for (int i = 0; i < ndim; i++) {
                assert_int_equal(a.shape[i], shape[i]);
                count *= shape[i];
            }
            assert_int_equal(npy_count(&a), count);
            assert_int_equal((uintptr_t)a.data % 64, 0);
            assert_memory_equal(a.data, data, (size_t)count * bytes[type]);
            npy_free(&a);
        }
    npy_free(NULL);
}

static void test_npy_empty_and_text(void **state)
{
    (void)state;
    static const int64_t shape[] = {4, 0, 16};
    npy_array a;
    assert_int_equal(npy_write(in_folder("a.npy"), NPY_F32, 3, shape, ""), SPECTRA_OK);
    assert_int_equal(npy_read(in_folder("a.npy"), &a), SPECTRA_OK);
    assert_int_equal(npy_count(&a), 0);
    npy_free(&a);
    char text[64], brief[6];
    assert_string_equal(npy_shape_text(3, shape, text, sizeof text), "(4, 0, 16)");
    assert_string_equal(npy_shape_text(1, shape, text, sizeof text), "(4,)");
    assert_string_equal(npy_shape_text(0, shape, text, sizeof text), "()");
    assert_string_equal(npy_shape_text(3, shape, brief, sizeof brief), "(4, 0");
    static const int64_t negative[] = {4, -1};
    expect_message(npy_write(in_folder("b.npy"), NPY_F32, 2, negative, ""), SPECTRA_ESHAPE,
                   "negative size -1", "a negative size");
    expect_message(npy_write(in_folder("b.npy"), NPY_F32, 9, shape, ""), SPECTRA_ESHAPE,
                   "9 dimensions", "nine dimensions");
}

/* Exactly the bytes NumPy writes. */
static void test_npy_bytes(void **state)
{
    (void)state;
    static const float data[] = {1, 2};
    static const int64_t shape[] = {2};
    assert_int_equal(npy_write(in_folder("a.npy"), NPY_F32, 1, shape, data), SPECTRA_OK);
    unsigned char expected[136], found[200];
    memset(expected, ' ', 128);
    memcpy(expected, "\x93NUMPY\x01\x00\x76\x00", 10);
    const char text[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
    memcpy(expected + 10, text, sizeof text - 1);
    expected[127] = '\n';
    memcpy(expected + 128, data, 8);
    FILE *file = fopen(in_folder("a.npy"), "rb");
    assert_non_null(file);
    assert_int_equal(fread(found, 1, sizeof found, file), 136);
    fclose(file);
    assert_memory_equal(found, expected, 136);
}

static void test_npy_converts(void **state)
{
    (void)state;
    static const double f64[] = {0.5, -1e300};
    static const int32_t i32[] = {-7, 1 << 24};
    static const int64_t i64[] = {1, -1};
    static const uint8_t u8[] = {255, 0};
    static const struct {
        npy_type type;
        const void *data;
        float value[2];
    } cases[] = {{NPY_F64, f64, {0.5f, -INFINITY}},
                 {NPY_I32, i32, {-7, 16777216}},
                 {NPY_I64, i64, {1, -1}},
                 {NPY_U8, u8, {255, 0}},
                 {NPY_BOOL, u8, {1, 0}}};
    static const int64_t shape[] = {2};
    for (int i = 0; i < 5; i++) {
        npy_array a;
        assert_int_equal(npy_write(in_folder("a.npy"), cases[i].type, 1, shape, cases[i].data), 0);
        assert_int_equal(npy_read_f32(in_folder("a.npy"), &a), SPECTRA_OK);
        assert_int_equal(a.type, NPY_F32);
        assert_memory_equal(a.data, cases[i].value, sizeof cases[i].value);
        npy_free(&a);
    }
}

/* A file of the given version, header text and number of data bytes. */
static size_t make_npy(unsigned char *out, int version, const char *header, size_t data)
{
    const size_t length = strlen(header), start = version == 1 ? 10 : 12;
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (unsigned char)version;
    out[7] = 0;
    for (size_t i = 8; i < start; i++)
        out[i] = (unsigned char)(length >> (8 * (i - 8)));
    memcpy(out + start, header, length);
    memset(out + start + length, 0, data);
    return start + length + data;
}

#define ENTRIES(shape) "{'descr': '<f4', 'fortran_order': False, 'shape': " shape ", }\n"

static void test_npy_versions(void **state)
{
    (void)state;
    static const struct {
        int version;
        const char *header;
        size_t data;
    } cases[] = {
        {1, ENTRIES("(2, 3)"), 24},
        {2, ENTRIES("(2, 3)"), 24},
        {3, ENTRIES("(2, 3)"), 24},
        {1, ENTRIES("(2,3,)"), 24},
        {1, "{\"shape\":(2,3),\"descr\":\"<f4\",\"fortran_order\":False}", 24},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char file[512];
        put("a.npy", file, make_npy(file, cases[i].version, cases[i].header, cases[i].data));
        npy_array a;
        expect_message(npy_read(in_folder("a.npy"), &a), SPECTRA_OK, "", cases[i].header);
        assert_int_equal(npy_count(&a), 6);
        npy_free(&a);
    }
}

static void test_npy_malformed(void **state)
{
    (void)state;
    static const struct {
        int version;
        const char *header;
        size_t data;
        const char *message;
    } cases[] = {
        {1, ENTRIES("(2, 64)"), 100, "has 100 bytes of data, its shape (2, 64) needs 512"},
        {1, ENTRIES("(2, 3)"), 25, "has 25 bytes of data, its shape (2, 3) needs 24"},
        {1, ENTRIES("(5,)"), 0, "has 0 bytes of data, its shape (5,) needs 20"},
        {1, ENTRIES("(1000000, 1000000)"), 4, "needs 4000000000000"},
        {1, ENTRIES("(-2, 3)"), 24, "a negative size at '-2, 3)"},
        {1, ENTRIES("(4294967296, 4294967296)"), 0, "beyond 64 bits"},
        {1, ENTRIES("(2147483648, 2147483648)"), 0, "beyond 64 bits"},
        {1, ENTRIES("(0, 4611686018427387904, 4)"), 0, "beyond 64 bits"},
        {1, ENTRIES("(99999999999999999999,)"), 0, "beyond 64 bits"},
        {1, ENTRIES("(1,1,1,1,1,1,1,1,1)"), 4, "more than 8 dimensions"},
        {1, ENTRIES("(2, x)"), 24, "no size at 'x)"},
        {1, ENTRIES("(2; 3)"), 24, "no ',' or ')' at '; 3)"},
        {1, ENTRIES("6"), 24, "no shape at '6"},
        {1, ENTRIES("(2, 3"), 24, "no size at '}"},
        {1, "{'descr': '>f4', 'fortran_order': False, 'shape': (6,), }", 24, "dtype '>f4'"},
        {1, "{'descr': '<f2', 'fortran_order': False, 'shape': (6,), }", 24, "dtype '<f2'"},
        {1, "{'descr': '|O', 'fortran_order': False, 'shape': (6,), }", 24, "dtype '|O'"},
        {1, "{'descr': '', 'fortran_order': False, 'shape': (6,), }", 24, "dtype ''"},
        {1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }", 24, "records"},
        {1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", 24, "Fortran order"},
        {1, "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (6,), }", 24, "True nor False"},
        {1, "{'descr': '<f4', 'shape': (6,), }", 24, "lacks the entry fortran_order"},
        {1, "{'descr': '<f4', 'fortran_order': False}", 24, "lacks the entry shape"},
        {1, "{}", 0, "lacks the entry descr"},
        {1, "{'descr': '<f4', 'descr': '<f4'}", 0, "repeated entry"},
        {1, "{'colour': 'red'}", 0, "unknown or repeated entry"},
        {1, "{'descr", 0, "no end"},
        {1, "{'descr': '<f4xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'}", 0, "too long"},
        {1, "{'descr' '<f4'}", 0, "no ':'"},
        {1, "[1, 2]", 0, "no '{'"},
        {1, "", 0, "no '{'"},
        {4, ENTRIES("(6,)"), 24, "version 4.0"},
        {0, ENTRIES("(6,)"), 24, "version 0.0"},
    };
    npy_array a = {.ndim = 77};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char file[1024];
        put("a.npy", file, make_npy(file, cases[i].version, cases[i].header, cases[i].data));
        expect_message(npy_read(in_folder("a.npy"), &a), SPECTRA_EFORMAT, cases[i].message,
                       cases[i].header);
        assert_non_null(strstr(spectra_message(), "a.npy"));
        assert_int_equal(a.ndim, 77);
    }
}

/* Cut anywhere, with any byte changed: an error or an array, never more. */
static void test_npy_damaged(void **state)
{
    (void)state;
    unsigned char file[512];
    const size_t size = make_npy(file, 1, ENTRIES("(2, 3)"), 24);
    npy_array a;
    for (size_t cut = 0; cut < size; cut++) {
        put("a.npy", file, cut);
        assert_int_equal(npy_read(in_folder("a.npy"), &a), SPECTRA_EFORMAT);
    }
    for (size_t at = 0; at < size - 24; at++)
        for (int change = 1; change < 256; change *= 2) {
            file[at] ^= (unsigned char)change;
            put("a.npy", file, size);
            if (npy_read(in_folder("a.npy"), &a) == SPECTRA_OK)
                npy_free(&a);
            file[at] ^= (unsigned char)change;
        }
    memcpy(file, "\x93NUMPY\x02\x00\xff\xff\xff\xff", 12);
    put("a.npy", file, size);
    expect_message(npy_read(in_folder("a.npy"), &a), SPECTRA_EFORMAT, "header of 4294967295 bytes",
                   "a long header");
    expect_message(npy_read(in_folder("none.npy"), &a), SPECTRA_EIO, "No such file", "no file");
    expect_message(npy_read(folder, &a), SPECTRA_EIO, "directory", "a folder");
}

/* ---- safetensors ---------------------------------------------------------- */

static void test_st_round_trip(void **state)
{
    (void)state;
    static const uint8_t u8[] = {1, 2, 3};
    static const float f32[] = {1, 2, 3, 4, 5, 6};
    static const int64_t i64[] = {-1};
    static const double f64[] = {0.5, 0.25};
    static const int32_t i32[] = {7, 8};
    const st_tensor tensors[] = {
        {"mask", NPY_U8, 1, {3}, u8},     {"layer.0.weight", NPY_F32, 2, {2, 3}, f32},
        {"step", NPY_I64, 0, {0}, i64},   {"none", NPY_F32, 2, {0, 5}, f32},
        {"\u03c8", NPY_F64, 1, {2}, f64}, {"ids", NPY_I32, 3, {1, 2, 1}, i32},
    };
    static const char *const metadata[] = {"task", "lra-listops", "note", "a \"b\"\n", NULL};
    assert_int_equal(st_write(in_folder("a.safetensors"), tensors, 6, metadata), SPECTRA_OK);
    st_file *f = NULL;
    assert_int_equal(st_open(in_folder("a.safetensors"), &f), SPECTRA_OK);
    assert_int_equal(st_count(f), 6);
    for (int i = 0; i < 6; i++) {
        const st_tensor *t = st_find(f, tensors[i].name);
        static const size_t bytes[] = {3, 24, 8, 0, 16, 8}, align[] = {1, 4, 8, 4, 8, 4};
        assert_non_null(t);
        assert_int_equal(t->type, tensors[i].type);
        assert_int_equal(t->ndim, tensors[i].ndim);
        assert_memory_equal(t->shape, tensors[i].shape, (size_t)t->ndim * sizeof *t->shape);
        assert_int_equal((uintptr_t)t->data % align[i], 0);
        assert_memory_equal(t->data, tensors[i].data, bytes[i]);
    }
    assert_null(st_find(f, "mas"));
    assert_string_equal(st_metadata(f, "task"), "lra-listops");
    assert_string_equal(st_metadata(f, "note"), "a \"b\"\n");
    assert_null(st_metadata(f, "colour"));
    st_close(f);
    assert_int_equal(st_write(in_folder("a.safetensors"), NULL, 0, NULL), SPECTRA_OK);
    assert_int_equal(st_open(in_folder("a.safetensors"), &f), SPECTRA_OK);
    assert_int_equal(st_count(f), 0);
    assert_null(st_metadata(f, "task"));
    st_close(f);
    st_close(NULL);
}

static void test_st_write_refuses(void **state)
{
    (void)state;
    static const struct {
        st_tensor tensor[2];
        const char *metadata[3];
        const char *message;
    } cases[] = {
        {{{"a", NPY_U8, 1, {1}, "x"}, {"a", NPY_U8, 1, {1}, "y"}}, {NULL}, "two tensors"},
        {{{"a", NPY_U8, 1, {1}, "x"}, {"\xff", NPY_U8, 1, {1}, "y"}}, {NULL}, "the name of"},
        {{{"a", NPY_U8, 1, {1}, "x"}, {"", NPY_U8, 1, {1}, "y"}}, {NULL}, "the name of"},
        {{{"a", NPY_U8, 1, {1}, "x"}, {"b", NPY_U8, 1, {-1}, "y"}}, {NULL}, "negative size -1"},
        {{{"a", NPY_U8, 1, {1}, "x"}, {"b", NPY_U8, 9, {1}, "y"}}, {NULL}, "9 dimensions"},
        {{{"a", NPY_U8, 1, {1}, "x"}, {"__metadata__", NPY_U8, 1, {1}, "y"}}, {NULL}, "name of"},
        {{{"a", NPY_U8, 1, {1}, "x"}, {"b", NPY_U8, 1, {1}, "y"}}, {"k", "\xff", NULL}, "UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const spectra_status status =
            st_write(in_folder("bad.safetensors"), cases[i].tensor, 2, cases[i].metadata);
        assert_int_not_equal(status, SPECTRA_OK);
        expect_message(status, status, cases[i].message, cases[i].message);
        assert_int_equal(access(in_folder("bad.safetensors"), F_OK), -1);
    }
}

static size_t make_st(unsigned char *out, const char *header, size_t data)
{
    const size_t length = strlen(header);
    for (int i = 0; i < 8; i++)
        out[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(out + 8, header, length);
    memset(out + 8 + length, 0, data);
    return 8 + length + data;
}

#define TENSOR(name, dtype, shape, from, to)                                                     \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to \
    "]}"

static void test_st_malformed(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *message;
    } cases[] = {
        {"{" TENSOR("a", "U8", "[4]", 0, 4) "}", 3, "truncated"},
        {"{" TENSOR("a", "U8", "[4]", 0, 4) "}", 5, "1 bytes after the last tensor"},
        {"{" TENSOR("a", "U8", "[4]", 0, 3) "}", 3, "3 bytes, its shape needs 4"},
        {"{" TENSOR("a", "U8", "[4]", 4, 0) "}", 4, "bytes 4 to 0"},
        {"{" TENSOR("a", "U8", "[4]", -4, 0) "}", 4, "bytes -4 to 0"},
        {"{" TENSOR("a", "U8", "[4]", 9223372036854775803, 9223372036854775807) "}", 4,
         "bytes 9223372036854775803"},
        {"{" TENSOR("a", "U8", "[4]", 2, 6) "}", 6, "unused bytes before it"},
        {"{" TENSOR("a", "U8", "[4]", 0, 4) "," TENSOR("b", "U8", "[4]", 2, 6) "}", 6, "overlaps"},
        {"{" TENSOR("a", "U8", "[4]", 0, 4) "," TENSOR("a", "U8", "[4]", 4, 8) "}", 8, "duplicate"},
        {"{" TENSOR("a", "BF16", "[2]", 0, 4) "}", 4, "data type BF16"},
        {"{" TENSOR("a", "U8", "[-4]", 0, 4) "}", 4, "impossible shape"},
        {"{" TENSOR("a", "U8", "[4.0]", 0, 4) "}", 4, "impossible shape"},
        {"{" TENSOR("a", "U8", "[4294967296,4294967296]", 0, 0) "}", 0, "impossible shape"},
        {"{" TENSOR("a", "F32", "[4611686018427387904]", 0, 0) "}", 0, "impossible shape"},
        {"{" TENSOR("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, "at most 8 dimensions"},
        {"{" TENSOR("a", "U8", "4", 0, 4) "}", 4, "no shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4, "no data_offsets"},
        {"{\"a\":{\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "data type (none)"},
        {"{\"a\":7}", 4, "data type (none)"},
        {"[]", 0, "not a JSON object"},
        {"{\"a\":", 0, "not a JSON object"},
        {"", 0, "not a JSON object"},
        {"\xff\xfe", 0, "not a JSON object"},
    };
    st_file *f = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char file[512];
        put("a.safetensors", file, make_st(file, cases[i].header, cases[i].data));
        expect_message(st_open(in_folder("a.safetensors"), &f), SPECTRA_EFORMAT, cases[i].message,
                       cases[i].header);
        assert_null(f);
    }
    unsigned char file[100000];
    memset(file, 0xff, 8);
    put("a.safetensors", file, 16);
    expect_message(st_open(in_folder("a.safetensors"), &f), SPECTRA_EFORMAT,
                   "a header of 18446744073709551615 bytes in a file of 16", "a long header");
    put("a.safetensors", file, 0);
    expect_message(st_open(in_folder("a.safetensors"), &f), SPECTRA_EFORMAT, "0 bytes", "no bytes");
    char nested[90001];
    memset(nested, '[', 90000);
    nested[90000] = 0;
    put("a.safetensors", file, make_st(file, nested, 0));
    expect_message(st_open(in_folder("a.safetensors"), &f), SPECTRA_EFORMAT, "JSON", "nesting");
    expect_message(st_open(in_folder("none"), &f), SPECTRA_EIO, "No such file", "no file");
    expect_message(st_open(folder, &f), SPECTRA_EIO, "regular file", "a folder");
}

static void test_st_damaged(void **state)
{
    (void)state;
    unsigned char file[512];
    const size_t size = make_st(
        file, "{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("b", "U8", "[2]", 4, 6) " } ", 6);
    st_file *f = NULL;
    for (size_t cut = 0; cut < size; cut++) {
        put("a.safetensors", file, cut);
        assert_int_equal(st_open(in_folder("a.safetensors"), &f), SPECTRA_EFORMAT);
    }
    for (size_t at = 0; at < size - 6; at++)
        for (int change = 1; change < 256; change *= 2) {
            file[at] ^= (unsigned char)change;
            put("a.safetensors", file, size);
            if (st_open(in_folder("a.safetensors"), &f) == SPECTRA_OK)
                st_close(f);
            file[at] ^= (unsigned char)change;
        }
}

/* ---- writing whole or not at all ------------------------------------------ */

/* A limit on the size of files stands for a full disk. */
static void test_disk_full(void **state)
{
    (void)state;
    static float data[100000];
    static const int64_t one[] = {1}, many[] = {100000};
    const st_tensor tensor = {"a", NPY_F32, 1, {100000}, data};
    assert_int_equal(npy_write(in_folder("full"), NPY_F32, 1, one, data), SPECTRA_OK);
    const int files = files_in_folder();
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 20000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    const spectra_status npy = npy_write(in_folder("full"), NPY_F32, 1, many, data);
    char message[256];
    snprintf(message, sizeof message, "%s", spectra_message());
    const spectra_status st = st_write(in_folder("full"), &tensor, 1, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, SIG_DFL);
    expect_message(st, SPECTRA_EIO, "File too large", "st_write");
    assert_int_equal(npy, SPECTRA_EIO);
    assert_non_null(strstr(message, "File too large"));
    assert_int_equal(files_in_folder(), files);
    npy_array a;
    assert_int_equal(npy_read(in_folder("full"), &a), SPECTRA_OK); /* the old one */
    assert_int_equal(npy_count(&a), 1);
    npy_free(&a);
    if (access("/dev/full", W_OK) == 0) {
        expect_message(npy_write("/dev/full", NPY_F32, 1, many, data), SPECTRA_EIO,
                       "No space left on device", "npy_write");
        expect_message(st_write("/dev/full", &tensor, 1, NULL), SPECTRA_EIO,
                       "No space left on device", "st_write");
    }
}

static void test_odd_targets(void **state)
{
    (void)state;
    static const float data[] = {1};
    static const int64_t one[] = {1};
    expect_message(npy_write(in_folder("no/such/a.npy"), NPY_F32, 1, one, data), SPECTRA_EIO,
                   "No such file", "a missing folder");
    expect_message(npy_write(folder, NPY_F32, 1, one, data), SPECTRA_EIO, "directory", "a folder");
    /* devices stay devices, links stay links */
    struct stat info;
    assert_int_equal(npy_write("/dev/null", NPY_F32, 1, one, data), SPECTRA_OK);
    assert_int_equal(stat("/dev/null", &info), 0);
    assert_true(S_ISCHR(info.st_mode));
    assert_int_equal(npy_write(in_folder("target.npy"), NPY_F32, 1, one, data), SPECTRA_OK);
    assert_int_equal(symlink("target.npy", in_folder("link.npy")), 0);
    static const int64_t none[] = {0};
    assert_int_equal(npy_write(in_folder("link.npy"), NPY_F32, 1, none, data), SPECTRA_OK);
    assert_int_equal(lstat(in_folder("link.npy"), &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    npy_array a;
    assert_int_equal(npy_read(in_folder("target.npy"), &a), SPECTRA_OK);
    assert_int_equal(npy_count(&a), 0);
    npy_free(&a);
    const int files = files_in_folder();
    outfile out;
    assert_int_equal(outfile_open(in_folder("target.npy"), &out), SPECTRA_OK);
    fputs("half of it", out.file);
    outfile_abort(&out);
    outfile_abort(&out);
    assert_int_equal(files_in_folder(), files);
    assert_int_equal(npy_read(in_folder("target.npy"), &a), SPECTRA_OK);
    npy_free(&a);
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/dev/shm/spectra-test-XXXXXX"); /* where flushing costs nothing */
    if (mkdtemp(folder))
        return 0;
    strcpy(folder, "/tmp/spectra-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    DIR *d = opendir(folder);
    if (!d)
        return -1;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.')
            unlink(in_folder(e->d_name));
    closedir(d);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_npy_round_trips),  cmocka_unit_test(test_npy_empty_and_text),
        cmocka_unit_test(test_npy_bytes),        cmocka_unit_test(test_npy_converts),
        cmocka_unit_test(test_npy_versions),     cmocka_unit_test(test_npy_malformed),
        cmocka_unit_test(test_npy_damaged),      cmocka_unit_test(test_st_round_trip),
        cmocka_unit_test(test_st_write_refuses), cmocka_unit_test(test_st_malformed),
        cmocka_unit_test(test_st_damaged),       cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_odd_targets),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
