/* Data of lra-listops: the evaluator against published rows, the generator's statistics against
 * LRA's, both tokenisations, refusals, and the streams batches are drawn from; task files. The
 * oracle evaluates by a stack of values and shares no code with the parser it checks. */
#define _GNU_SOURCE
#include "data/dataset.h"
#include "data/listops/listops.h"
#include "data/reader.h"
#include "data/task.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/spectra-data-XXXXXX";

static char *path_of(const char *name)
{
    static char path[4][512];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static void write_text(const char *name, const char *text)
{
    FILE *f = fopen(path_of(name), "wb");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* Unpacks a shared archive; false, aloud, when there is none. */
static bool unpack(const char *archive)
{
    const char *shared = getenv("SPECTRA_SHARED");
    char path[512], command[1200];
    snprintf(path, sizeof path, "%s/data/%s", shared ? shared : "../shared", archive);
    if (access(path, R_OK) != 0) {
        printf("SKIPPED: %s is not there\n", path);
        return false;
    }
    snprintf(command, sizeof command, "tar -xJf '%s' -C '%s'", path, folder);
    assert_int_equal(system(command), 0);
    return true;
}

/* ---- the oracle --------------------------------------------------------------------------------
 */

static int compare_int(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Words from left to right; a list is closed by ']', round parentheses are ignored. */
static int oracle_value(const char *text, int64_t length)
{
    static int value[4096];
    static char word[1 << 20];
    int top = 0; /* an operator is held as -1 .. -4 */
    memcpy(word, text, (size_t)length);
    word[length] = 0;
    for (char *w = strtok(word, " "); w; w = strtok(NULL, " ")) {
        if (!strcmp(w, "[MAX"))
            value[top++] = -1;
        else if (!strcmp(w, "[MIN"))
            value[top++] = -2;
        else if (!strcmp(w, "[MED"))
            value[top++] = -3;
        else if (!strcmp(w, "[SM"))
            value[top++] = -4;
        else if (*w >= '0' && *w <= '9')
            value[top++] = *w - '0';
        else if (*w == ']') {
            int first = top;
            while (value[first - 1] >= 0)
                first--;
            int n = top - first, *v = value + first, sum = 0;
            for (int i = 0; i < n; i++)
                sum += v[i];
            qsort(v, (size_t)n, sizeof *v, compare_int);
            double median = n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2.0;
            int result[] = {v[n - 1], v[0], (int)median, sum % 10};
            top = first - 1;
            value[top] = result[-value[top] - 1];
            top++;
        }
    }
    assert_int_equal(top, 1);
    return value[0];
}

/* ---- evaluator ---------------------------------------------------------------------------------
 */

static void values_by_hand(void **state)
{
    (void)state;
    const struct {
        const char *text;
        int value;
    } row[] = {
        {"7", 7},
        {"( ( ( [MAX 2 ) 9 ) ] )", 9},
        {"( ( ( [MIN 2 ) 9 ) ] )", 2},
        {"( ( ( [MED 2 ) 9 ) ] )", 5}, /* 5.5 cut */
        {"( ( ( ( [MED 9 ) 1 ) 2 ) ] )", 2},
        {"( ( ( ( [SM 9 ) 8 ) 7 ) ] )", 4},
        {"( ( ( [SM ( ( ( [MAX 1 ) 6 ) ] ) ) ( ( ( ( [MIN 8 ) 7 ) 9 ) ] ) ) ] )", 3},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        int value = -1;
        int64_t n = (int64_t)strlen(row[i].text);
        assert_int_equal(listops_evaluate(row[i].text, n, &value), SPECTRA_OK);
        assert_int_equal(value, row[i].value);
        assert_int_equal(oracle_value(row[i].text, n), row[i].value);
    }
}

static void malformed_expressions_are_refused_with_the_column(void **state)
{
    (void)state;
    const struct {
        const char *text, *column;
    } row[] = {
        {"", "column 1:"},
        {"10", "column 1:"},
        {"7 7", "column 3:"},
        {"( ( ( [MAX 2 ) 9 ) ]", "column 21:"},
        {"( ( ( [MAX 2 ) 9 ] )", "column 18:"},
        {"( ( ( ( [MAX 2 ) 9 ) ] )", "column 22:"},
        {"( ( ( [AVG 2 ) 9 ) ] )", "column 7:"},
        {"( [MAX ] )", "column 3:"},
        {"( ( ( [MAX 2 ) 9 ) ] ) )", "column 24:"},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        int value = -1;
        assert_int_equal(listops_evaluate(row[i].text, (int64_t)strlen(row[i].text), &value),
                         SPECTRA_EFORMAT);
        assert_int_equal(value, -1);
        assert_non_null(strstr(spectra_message(), row[i].column));
    }
    /* Nesting that would overflow the stack. */
    enum { DEPTH = 200000 };
    char *deep = malloc(4 * DEPTH + 1);
    for (int i = 0; i < DEPTH; i++)
        memcpy(deep + 9 * (i % (4 * DEPTH / 9)), "( ( [MAX ", 9);
    int value;
    assert_int_equal(listops_evaluate(deep, 4 * DEPTH / 9 * 9, &value), SPECTRA_EFORMAT);
    free(deep);
}

static void published_rows_agree(void **state)
{
    (void)state;
    if (!unpack("listops_nyu_test_d20s.tar.xz"))
        skip();
    char command[600];
    snprintf(command, sizeof command, "find '%s' -name test_d20s.tsv -exec cat {} +", folder);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    int rows = 0;
    while ((n = getline(&line, &capacity, f)) > 0) {
        assert_true(line[1] == '\t' && line[n - 1] == '\n');
        int value = -1;
        assert_int_equal(listops_evaluate(line + 2, n - 3, &value), SPECTRA_OK);
        assert_int_equal(value, line[0] - '0');
        assert_int_equal(oracle_value(line + 2, n - 3), value);
        rows++;
    }
    free(line);
    pclose(f);
    assert_int_equal(rows, 10000);
}

/* ---- reading LRA's files -----------------------------------------------------------------------
 */

#define HEADER "Source\tTarget\n"
#define GOOD "( ( ( [MAX 2 ) 9 ) ] )\t9\n"

static spectra_status prepare_text(const char *train, const char *val, const char *test)
{
    write_text("basic_train.tsv", train);
    write_text("basic_val.tsv", val);
    write_text("basic_test.tsv", test);
    listops_options o = {.tokens = LISTOPS_A, .overwrite = true};
    return listops_prepare(folder, path_of("out"), &o);
}

static void bad_files_are_refused_with_the_line(void **state)
{
    (void)state;
    const struct {
        const char *train, *said;
    } row[] = {
        {"", "basic_train.tsv:1:"},
        {HEADER, "has no rows"},
        {GOOD, "basic_train.tsv:1:"},
        {HEADER GOOD "( ( ( [MAX 2 ) 9 ) ] )\t8\n", "basic_train.tsv:3: Target is 8"},
        {HEADER GOOD GOOD "( ( ( [MAX 2 ) 9 ) ] ) 9\n", "basic_train.tsv:4: no tab"},
        {HEADER "( ( ( [MAX 2 ) 9 ) ] )\t12\n", "basic_train.tsv:2: Target is '12'"},
        {HEADER "( ( ( [MAX 2 ) 9 ) )\t9\n", "basic_train.tsv:2: column 20"},
        {HEADER "\n", "basic_train.tsv:2: no tab"},
    };
    assert_int_equal(prepare_text(HEADER GOOD, HEADER GOOD, HEADER GOOD), SPECTRA_OK);
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        assert_int_equal(prepare_text(row[i].train, HEADER GOOD, HEADER GOOD), SPECTRA_EFORMAT);
        if (!strstr(spectra_message(), row[i].said))
            fail_msg("'%s' does not say '%s'", spectra_message(), row[i].said);
    }
    write_text("basic_train.tsv", HEADER GOOD);
    unlink(path_of("basic_test.tsv"));
    listops_options o = {.tokens = LISTOPS_A, .overwrite = true};
    assert_int_equal(listops_prepare(folder, path_of("out"), &o), SPECTRA_EIO);
    assert_non_null(strstr(spectra_message(), "basic_test.tsv"));
    o.overwrite = false;
    write_text("basic_test.tsv", HEADER GOOD);
    assert_int_equal(listops_prepare(folder, path_of("out"), &o), SPECTRA_EINVAL);
}

static void tokens_are_those_of_the_two_schemes(void **state)
{
    (void)state;
    const char *rows = HEADER "( ( ( [SM 0 ) ( ( ( [MED 1 ) 9 ) ] ) ) ] )\t5\r\n" GOOD;
    const int32_t a[] = {14, 1, 12, 2, 10, 0}, b[] = {14, 1, 12, 2, 10, 15, 15, 0};
    for (int kind = LISTOPS_A; kind <= LISTOPS_B; kind++) {
        assert_int_equal(prepare_text(rows, HEADER GOOD, HEADER GOOD), SPECTRA_OK);
        listops_options o = {.tokens = (listops_tokens)kind, .overwrite = true};
        assert_int_equal(listops_prepare(folder, path_of("out"), &o), SPECTRA_OK);
        dataset *d = NULL;
        assert_int_equal(dataset_open(path_of("out/train.safetensors"), &d), SPECTRA_OK);
        assert_int_equal(dataset_count(d), 2);
        assert_int_equal(dataset_sides(d), 1);
        assert_int_equal(dataset_label(d, 0), 5);
        assert_int_equal(dataset_label(d, 1), 9);
        assert_int_equal(dataset_length(d, 0, 0), kind == LISTOPS_A ? 5 : 7);
        assert_string_equal(dataset_metadata(d, "tokens"), kind == LISTOPS_A ? "A" : "B");
        int32_t ids[8];
        dataset_row(d, 0, 0, kind == LISTOPS_A ? 6 : 8, ids);
        assert_memory_equal(ids, kind == LISTOPS_A ? a : b, kind == LISTOPS_A ? 24 : 32);
        dataset_row(d, 0, 0, 3, ids); /* cut */
        assert_memory_equal(ids, a, 12);
        assert_int_equal(dataset_check(d, 32, 10, 1), SPECTRA_OK);
        assert_int_equal(dataset_check(d, 14, 10, 1), SPECTRA_ESHAPE);
        assert_int_equal(dataset_check(d, 32, 9, 1), SPECTRA_ESHAPE);
        assert_int_equal(dataset_check(d, 32, 10, 2), SPECTRA_ESHAPE);
        dataset_close(d);
    }
}

static void the_sample_of_the_original_generator_is_accepted(void **state)
{
    (void)state;
    if (!unpack("listops_lra_generator_sample.tar.xz"))
        skip();
    listops_options o = {.tokens = LISTOPS_B, .overwrite = true};
    assert_int_equal(listops_prepare(path_of("listops-1000"), path_of("sample"), &o), SPECTRA_OK);
    dataset *d = NULL;
    assert_int_equal(dataset_open(path_of("sample/train.safetensors"), &d), SPECTRA_OK);
    assert_int_equal(dataset_count(d), 1000);
    for (int64_t i = 0; i < 1000; i++)
        assert_in_range(dataset_length(d, i, 0), LISTOPS_SHORTEST, LISTOPS_LONGEST);
    dataset_close(d);
}

/* ---- generator ---------------------------------------------------------------------------------
 */

/* The reference numbers of spec/data.md §5 come from 8000 rows of LRA's generator, ours from as
 * many: a difference of two means has a standard error of sqrt(2 / 8000) deviations. */
static void statistics_are_those_of_the_original(void **state)
{
    (void)state;
    enum { ROWS = 8000 };
    listops_options o = {.tokens = LISTOPS_B, .rows = {ROWS, 1, 1}, .seed = 42, .overwrite = true};
    assert_int_equal(listops_generate(path_of("made"), &o), SPECTRA_OK);
    dataset *d = NULL;
    assert_int_equal(dataset_open(path_of("made/train.safetensors"), &d), SPECTRA_OK);
    static int64_t length[ROWS];
    int64_t class_count[10] = {0}, below_965 = 0;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < ROWS; i++) {
        length[i] = dataset_length(d, i, 0);
        assert_in_range(length[i], LISTOPS_SHORTEST, LISTOPS_LONGEST);
        sum += (double)length[i];
        squares += (double)length[i] * (double)length[i];
        below_965 += length[i] < 965;
        class_count[dataset_label(d, i)]++;
    }
    double mean = sum / ROWS, deviation = sqrt(squares / ROWS - mean * mean);
    double z_mean = (mean - 1039) / (deviation * sqrt(2.0 / ROWS));
    double z_median = ((double)below_965 / ROWS - 0.5) / (0.5 * sqrt(2.0 / ROWS));
    printf("mean length %.1f (%+.1f standard errors), below 965: %.4f (%+.1f)\n", mean, z_mean,
           (double)below_965 / ROWS, z_median);
    assert_true(fabs(z_mean) < 4 && fabs(z_median) < 4);
    const double expected[] = {1328.0 / ROWS, 1316.0 / ROWS};
    for (int i = 0; i < 2; i++) {
        double share = (double)class_count[9 * i] / ROWS;
        double z = (share - expected[i]) / sqrt(2 * expected[i] * (1 - expected[i]) / ROWS);
        printf("class %d: %.4f (%+.1f standard errors)\n", 9 * i, share, z);
        assert_true(fabs(z) < 4);
        /* Negative control: the share all ten classes would have were they equal. */
        assert_true(fabs(share - 0.1) / sqrt(2 * 0.1 * 0.9 / ROWS) > 4);
    }
    for (int c = 1; c < 9; c++)
        assert_in_range(class_count[c], 603 - 110, 728 + 110); /* 4 standard errors */
    double share;
    assert_int_equal(dataset_majority(d, &share), class_count[0] >= class_count[9] ? 0 : 9);
    dataset_close(d);
}

static char *read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*size + 1);
    assert_int_equal(fread(data, 1, *size, f), *size);
    data[*size] = 0;
    fclose(f);
    return data;
}

static void generating_is_reproducible_and_its_tsv_reads_back(void **state)
{
    (void)state;
    listops_options o = {
        .tokens = LISTOPS_A, .rows = {30, 20, 10}, .seed = 7, .keep_tsv = true, .overwrite = true};
    assert_int_equal(listops_generate(path_of("one"), &o), SPECTRA_OK);
    assert_int_equal(listops_prepare(path_of("one"), path_of("two"), &o), SPECTRA_OK);
    o.seed = 8;
    assert_int_equal(listops_generate(path_of("three"), &o), SPECTRA_OK);
    o.seed = 7;
    o.keep_tsv = false;
    assert_int_equal(listops_generate(path_of("four"), &o), SPECTRA_OK);
    size_t n1, n3, n4;
    char *f1 = read_file(path_of("one/test.safetensors"), &n1);
    char *f3 = read_file(path_of("three/test.safetensors"), &n3);
    char *f4 = read_file(path_of("four/test.safetensors"), &n4);
    assert_true(n1 == n4 && memcmp(f1, f4, n1) == 0);
    assert_false(n1 == n3 && memcmp(f1, f3, n1) == 0);
    free(f1), free(f3), free(f4);
    const char *name[] = {"train", "dev", "test"};
    for (int s = 0; s < 3; s++) {
        char file[64];
        dataset *a = NULL, *b = NULL;
        snprintf(file, sizeof file, "one/%s.safetensors", name[s]);
        assert_int_equal(dataset_open(path_of(file), &a), SPECTRA_OK);
        snprintf(file, sizeof file, "two/%s.safetensors", name[s]);
        assert_int_equal(dataset_open(path_of(file), &b), SPECTRA_OK);
        assert_int_equal(dataset_count(a), o.rows[s]);
        assert_int_equal(dataset_count(b), o.rows[s]);
        for (int64_t i = 0; i < o.rows[s]; i++) {
            int32_t x[2048], y[2048];
            dataset_row(a, i, 0, 2048, x);
            dataset_row(b, i, 0, 2048, y);
            assert_memory_equal(x, y, sizeof x);
            assert_int_equal(dataset_label(a, i), dataset_label(b, i));
        }
        dataset_close(a);
        dataset_close(b);
    }
    size_t size;
    char *text = read_file(path_of("one/basic_train.tsv"), &size);
    assert_memory_equal(text, "Source\tTarget\r\n(", 16);
    assert_memory_equal(text + size - 2, "\r\n", 2);
    for (char *row = strchr(text, '\n') + 1; *row; row = strchr(row, '\n') + 1) {
        char *tab = strchr(row, '\t');
        assert_int_equal(oracle_value(row, tab - row), tab[1] - '0');
    }
    free(text);
}

/* ---- streams -----------------------------------------------------------------------------------
 */

static void streams_visit_everything_once_a_pass_and_depend_on_nothing_else(void **state)
{
    (void)state;
    enum { COUNT = 30, BATCH = 7, BATCHES = 40 };
    listops_options o = {.tokens = LISTOPS_A, .rows = {COUNT, 1, 1}, .seed = 7, .overwrite = true};
    assert_int_equal(listops_generate(path_of("stream"), &o), SPECTRA_OK);
    dataset *d = NULL;
    assert_int_equal(dataset_open(path_of("stream/train.safetensors"), &d), SPECTRA_OK);
    stream s;
    assert_int_equal(stream_open(d, 5, 0, 0, &s), SPECTRA_EINVAL);
    assert_int_equal(stream_open(d, 5, 0, BATCH, &s), SPECTRA_OK);
    int64_t drawn[BATCHES * BATCH], again[BATCH];
    for (int64_t i = 0; i < BATCHES; i++)
        stream_batch(&s, i, drawn + i * BATCH);
    int same_order = 0;
    for (int pass = 0; pass < BATCHES * BATCH / COUNT; pass++) {
        bool seen[COUNT] = {false};
        for (int i = 0; i < COUNT; i++) {
            int64_t example = drawn[pass * COUNT + i];
            assert_in_range(example, 0, COUNT - 1);
            assert_false(seen[example]);
            seen[example] = true;
            same_order += pass > 0 && example == drawn[i];
        }
    }
    assert_true(same_order < COUNT); /* about one a pass by chance */
    for (int64_t i = BATCHES - 1; i >= 0; i -= 3) {
        stream_batch(&s, i, again);
        assert_memory_equal(again, drawn + i * BATCH, sizeof again);
    }
    stream_close(&s);
    assert_int_equal(stream_open(d, 5, 1, BATCH, &s), SPECTRA_OK);
    stream_batch(&s, 0, again);
    assert_memory_not_equal(again, drawn, sizeof again);
    stream_close(&s);
    dataset_close(d);
}

static void files_that_are_no_data_set_are_refused(void **state)
{
    (void)state;
    dataset *d = NULL;
    assert_int_equal(dataset_open(path_of("absent.safetensors"), &d), SPECTRA_EIO);
    write_text("broken.safetensors", "not a data set at all");
    assert_int_equal(dataset_open(path_of("broken.safetensors"), &d), SPECTRA_EFORMAT);
    assert_null(d);
}

/* ---- tasks ------------------------------------------------------------------------------------
 */

static void tasks_take_the_rest_from_their_base(void **state)
{
    (void)state;
    task t;
    assert_int_equal(task_parse("x",
                                "return {name = 'x', doc = 'a task', base = 'lra', vocab = 7, "
                                "length = 9, classes = 3, batch = 4, warmup = 5, lr = 0.5, "
                                "eval_batches = 6}",
                                &t),
                     SPECTRA_OK);
    assert_int_equal(t.vocab, 7);
    assert_true(t.lr == 0.5);      /* in place of the base's */
    assert_int_equal(t.embed, 64); /* the base's */
    assert_int_equal(t.steps, 50000);
    for (int i = 0; task_spec_name[i]; i++)
        assert_int_equal(task_load(task_spec_name[i], &t), SPECTRA_OK);
}

static void bad_task_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"return {name = 'x', doc = '', base = 'lar'}", "x.lua: there is no specs/base/lar.lua"},
        {"return {name = 'x', doc = '', base = {}}", "x.lua: there is no specs/base/?.lua"},
        {"return {name = 'x', doc = '', base = 'lra'}", "x.lua: vocab is missing"},
        {"return {name = 'x', doc = '', base = 'lra', vocab = '7'}", "x.lua: vocab"},
        {"return {name = 'x', voacb = 7}", "x.lua: unknown field 'voacb', did you mean 'vocab'?"},
        {"return 3", "x.lua: must return a table"},
        {"return os.time()", "x.lua:1: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        task t;
        assert_int_not_equal(task_parse("x", cases[i].text, &t), SPECTRA_OK);
        if (!strstr(spectra_message(), cases[i].message))
            fail_msg("case %zu says '%s'", i, spectra_message());
    }
}

static void readers_are_found_by_task(void **state)
{
    (void)state;
    const task_reader *r = NULL;
    assert_int_equal(reader_find("lra-listops", READER_GENERATE, &r), SPECTRA_OK);
    assert_non_null(reader_setting_find(r, "keep-tsv"));
    assert_null(reader_setting_find(r, "keep"));
    assert_int_equal(reader_find("lra-text", READER_PREPARE, &r), SPECTRA_EUNSUPPORTED);
    assert_non_null(strstr(spectra_message(), "data prepare knows lra-listops; lra-text's"));
    for (int i = 0; task_readers[i]; i++) {
        task t;
        assert_int_equal(task_load(task_readers[i]->name, &t), SPECTRA_OK);
    }
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_by_hand),
        cmocka_unit_test(malformed_expressions_are_refused_with_the_column),
        cmocka_unit_test(published_rows_agree),
        cmocka_unit_test(bad_files_are_refused_with_the_line),
        cmocka_unit_test(tokens_are_those_of_the_two_schemes),
        cmocka_unit_test(the_sample_of_the_original_generator_is_accepted),
        cmocka_unit_test(statistics_are_those_of_the_original),
        cmocka_unit_test(generating_is_reproducible_and_its_tsv_reads_back),
        cmocka_unit_test(streams_visit_everything_once_a_pass_and_depend_on_nothing_else),
        cmocka_unit_test(files_that_are_no_data_set_are_refused),
        cmocka_unit_test(tasks_take_the_rest_from_their_base),
        cmocka_unit_test(bad_task_files_are_refused),
        cmocka_unit_test(readers_are_found_by_task),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
