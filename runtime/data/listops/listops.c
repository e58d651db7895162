#define _GNU_SOURCE
#include "data/listops/listops.h"

#include "base/outfile.h"
#include "base/status.h"
#include "file/safetensors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const listops_split_names[3] = {"train", "dev", "test"};
const char *const listops_tsv_names[3] = {"basic_train.tsv", "basic_val.tsv", "basic_test.tsv"};

static const char *const operator_text[4] = {"[MAX", "[MED", "[MIN", "[SM"};

/* ---- expressions ------------------------------------------------------------------------------
 */

int listops_apply(int op, const int64_t count[10])
{
    int64_t n = 0, sum = 0;
    int low = 9, high = 0;
    for (int v = 0; v < 10; v++) {
        if (!count[v])
            continue;
        low = v < low ? v : low;
        high = v;
        n += count[v];
        sum += v * count[v];
    }
    if (op == LISTOPS_MAX)
        return high;
    if (op == LISTOPS_MIN)
        return low;
    if (op == LISTOPS_SM)
        return (int)(sum % 10);
    /* Median: the middle one, or the middle two's mean cut to an integer. */
    int middle[2] = {-1, -1};
    int64_t seen = 0;
    for (int v = 0; v < 10; v++) {
        seen += count[v];
        if (middle[0] < 0 && seen > (n - 1) / 2)
            middle[0] = v;
        if (middle[1] < 0 && seen > n / 2)
            middle[1] = v;
    }
    return (middle[0] + middle[1]) / 2;
}

enum { WORD_OPEN = 20, WORD_CLOSE, WORD_NONE, WORD_UNKNOWN };

typedef struct parser {
    const char *text;
    int64_t length, at;
    int64_t word_at; /* where the last word began */
    uint8_t *codes;
    int64_t count;
    const char *expected; /* what was missing, once something was */
} parser;

static int next_word(parser *p)
{
    while (p->at < p->length && p->text[p->at] == ' ')
        p->at++;
    p->word_at = p->at;
    if (p->at == p->length)
        return WORD_NONE;
    while (p->at < p->length && p->text[p->at] != ' ')
        p->at++;
    const char *word = p->text + p->word_at;
    int64_t n = p->at - p->word_at;
    if (n == 1) {
        char c = *word;
        if (c >= '0' && c <= '9')
            return c - '0';
        return c == '(' ? WORD_OPEN : c == ')' ? WORD_CLOSE : c == ']' ? LISTOPS_END : WORD_UNKNOWN;
    }
    for (int i = 0; i < 4; i++)
        if (n == (int64_t)strlen(operator_text[i]) &&
            memcmp(word, operator_text[i], (size_t)n) == 0)
            return LISTOPS_MAX + i;
    return WORD_UNKNOWN;
}

static void emit(parser *p, int code)
{
    if (p->codes)
        p->codes[p->count] = (uint8_t)code;
    p->count++;
}

static int expected(parser *p, const char *what)
{
    p->expected = what;
    return -1;
}

/* digit | '(' * (n + 1)  operator  n times (expression ')')  ']' ')' ; -1 with p->expected set. */
static int parse_expression(parser *p, int depth)
{
    int64_t opened = 0;
    int word;
    while ((word = next_word(p)) == WORD_OPEN)
        opened++;
    if (opened == 0 && word >= 0 && word <= 9) {
        emit(p, word);
        return word;
    }
    if (opened == 0)
        return expected(p, "a digit or '('");
    if (word < LISTOPS_MAX || word > LISTOPS_SM)
        return expected(p, "one of [MAX [MED [MIN [SM");
    if (opened == 1)
        return expected(p, "one '(' more than the list has arguments");
    if (depth >= LISTOPS_DEPTH)
        return expected(p, "at most 512 nested lists");
    emit(p, word);
    int64_t count[10] = {0};
    for (int64_t argument = 1; argument < opened; argument++) {
        int value = parse_expression(p, depth + 1);
        if (value < 0)
            return -1;
        if (next_word(p) != WORD_CLOSE)
            return expected(p, "')' after an argument");
        count[value]++;
    }
    if (next_word(p) != LISTOPS_END)
        return expected(p, "']' after the last argument");
    if (next_word(p) != WORD_CLOSE)
        return expected(p, "')' after ']'");
    emit(p, LISTOPS_END);
    return listops_apply(word, count);
}

spectra_status listops_parse(const char *text, int64_t length, uint8_t *codes, int64_t *count,
                             int *value)
{
    parser p = {.text = text, .length = length, .codes = codes};
    int result = parse_expression(&p, 0);
    if (result >= 0 && next_word(&p) != WORD_NONE)
        result = expected(&p, "nothing after the expression");
    if (result < 0) {
        int64_t n = p.at - p.word_at;
        return fail(SPECTRA_EFORMAT, "column %lld: expected %s, found '%.*s'%s",
                    (long long)p.word_at + 1, p.expected, (int)(n > 16 ? 16 : n), text + p.word_at,
                    n ? "" : " (the end)");
    }
    if (count)
        *count = p.count;
    *value = result;
    return SPECTRA_OK;
}

spectra_status listops_evaluate(const char *text, int64_t length, int *value)
{
    return listops_parse(text, length, NULL, NULL, value);
}

static int64_t print_list(FILE *out, const uint8_t *codes, int64_t at);

/* Prints the expression that begins at `at`; returns where the next one begins. */
static int64_t print_expression(FILE *out, const uint8_t *codes, int64_t at)
{
    if (codes[at] >= LISTOPS_MAX)
        return print_list(out, codes, at);
    putc('0' + codes[at], out);
    return at + 1;
}

static int64_t print_list(FILE *out, const uint8_t *codes, int64_t at)
{
    int64_t arguments = 0;
    int open = 0;
    for (int64_t i = at + 1; open > 0 || codes[i] != LISTOPS_END; i++) {
        arguments += open == 0;
        open += codes[i] == LISTOPS_END ? -1 : codes[i] >= LISTOPS_MAX;
    }
    for (int64_t i = 0; i <= arguments; i++)
        fputs("( ", out);
    fputs(operator_text[codes[at] - LISTOPS_MAX], out);
    at++;
    while (codes[at] != LISTOPS_END) {
        putc(' ', out);
        at = print_expression(out, codes, at);
        fputs(" )", out);
    }
    fputs(" ] )", out);
    return at + 1;
}

void listops_print(FILE *out, const uint8_t *codes)
{
    print_expression(out, codes, 0);
}

/* ---- splits -----------------------------------------------------------------------------------
 */

spectra_status listops_split_add(listops_split *s, listops_tokens kind, const uint8_t *codes,
                                 int64_t n, int label)
{
    if (s->rows == s->row_capacity) {
        int64_t capacity = s->row_capacity ? 2 * s->row_capacity : 1024;
        int64_t *offsets = realloc(s->offsets, (size_t)(capacity + 1) * sizeof *offsets);
        if (offsets)
            s->offsets = offsets;
        int32_t *labels = realloc(s->label, (size_t)capacity * sizeof *labels);
        if (labels)
            s->label = labels;
        if (!offsets || !labels)
            return fail(SPECTRA_ENOMEM, "listops: out of memory");
        s->row_capacity = capacity;
        s->offsets[0] = 0;
    }
    int64_t at = s->offsets[s->rows];
    if (at + n > s->token_capacity) {
        int64_t capacity = 2 * s->token_capacity + n + (1 << 16);
        uint8_t *tokens = realloc(s->tokens, (size_t)capacity);
        if (!tokens)
            return fail(SPECTRA_ENOMEM, "listops: out of memory");
        s->tokens = tokens;
        s->token_capacity = capacity;
    }
    for (int64_t i = 0; i < n; i++)
        if (kind == LISTOPS_B || codes[i] != LISTOPS_END)
            s->tokens[at++] = (uint8_t)(codes[i] + 1);
    s->label[s->rows] = label;
    s->offsets[++s->rows] = at;
    return SPECTRA_OK;
}

spectra_status listops_split_write(const listops_split *s, const char *out_dir, const char *name,
                                   listops_tokens kind, const char *origin)
{
    char file[32];
    snprintf(file, sizeof file, "%s.safetensors", name);
    char *path = outfile_join(out_dir, file);
    if (!path)
        return fail(SPECTRA_ENOMEM, "listops: out of memory");
    /* Widest first: every tensor is aligned to its elements. */
    const st_tensor tensors[] = {
        {"offsets", NPY_I64, 1, {s->rows + 1}, s->offsets},
        {"label", NPY_I32, 1, {s->rows}, s->label},
        {"tokens", NPY_U8, 1, {s->offsets[s->rows]}, s->tokens},
    };
    const char *const metadata[] = {
        "task",   "lra-listops", "split", name, "tokens", kind == LISTOPS_A ? "A" : "B",
        "origin", origin,        NULL,
    };
    spectra_status status = st_write(path, tensors, 3, metadata);
    free(path);
    return status;
}

void listops_split_free(listops_split *s)
{
    free(s->tokens);
    free(s->offsets);
    free(s->label);
    *s = (listops_split){0};
}

spectra_status listops_folder(const char *out_dir, bool overwrite)
{
    TRY(outfile_folder(out_dir));
    for (int i = 0; i < 3 && !overwrite; i++) {
        char file[32];
        snprintf(file, sizeof file, "%s.safetensors", listops_split_names[i]);
        char *path = outfile_join(out_dir, file);
        bool there = path && access(path, F_OK) == 0;
        free(path);
        if (there)
            return fail(SPECTRA_EINVAL, "%s holds %s already; --overwrite replaces it", out_dir,
                        file);
    }
    return SPECTRA_OK;
}

/* ---- LRA's files ------------------------------------------------------------------------------
 */

typedef struct tsv_reader {
    const char *path;
    FILE *file;
    char *line;
    size_t capacity;
    int64_t number; /* of the line held, from 1 */
    int64_t length; /* without the line end */
    uint8_t *codes;
    size_t codes_capacity;
} tsv_reader;

/* *more = false at the end of the file. */
static spectra_status next_line(tsv_reader *r, bool *more)
{
    errno = 0;
    ssize_t got = getline(&r->line, &r->capacity, r->file);
    *more = got >= 0;
    if (got < 0)
        return ferror(r->file) || !feof(r->file)
                   ? fail(SPECTRA_EIO, "%s: cannot read: %s", r->path, strerror(errno))
                   : SPECTRA_OK;
    r->number++;
    while (got > 0 && (r->line[got - 1] == '\n' || r->line[got - 1] == '\r'))
        got--;
    r->length = got;
    return SPECTRA_OK;
}

static spectra_status read_row(tsv_reader *r, listops_tokens kind, listops_split *split)
{
    long long number = (long long)r->number;
    const char *tab = memchr(r->line, '\t', (size_t)r->length);
    if (!tab)
        return fail(SPECTRA_EFORMAT, "%s:%lld: no tab between Source and Target", r->path, number);
    int64_t source = tab - r->line, target = r->length - source - 1;
    if (target != 1 || tab[1] < '0' || tab[1] > '9')
        return fail(SPECTRA_EFORMAT, "%s:%lld: Target is '%.*s', allowed is one digit", r->path,
                    number, (int)(target > 16 ? 16 : target), tab + 1);
    if (r->codes_capacity < r->capacity) {
        uint8_t *codes = realloc(r->codes, r->capacity);
        if (!codes)
            return fail(SPECTRA_ENOMEM, "%s: out of memory", r->path);
        r->codes = codes;
        r->codes_capacity = r->capacity;
    }
    int64_t count;
    int value;
    spectra_status status = listops_parse(r->line, source, r->codes, &count, &value);
    if (status != SPECTRA_OK)
        return fail(status, "%s:%lld: %s", r->path, number, spectra_message());
    if (value != tab[1] - '0')
        return fail(SPECTRA_EFORMAT, "%s:%lld: Target is %c, the expression's value is %d", r->path,
                    number, tab[1], value);
    return listops_split_add(split, kind, r->codes, count, value);
}

static spectra_status read_rows(tsv_reader *r, listops_tokens kind, listops_split *split)
{
    static const char header[] = "Source\tTarget";
    bool more;
    TRY(next_line(r, &more));
    if (!more || r->length != (int64_t)strlen(header) ||
        memcmp(r->line, header, strlen(header)) != 0)
        return fail(SPECTRA_EFORMAT, "%s:1: the first line must be 'Source<TAB>Target'", r->path);
    for (;;) {
        TRY(next_line(r, &more));
        if (!more)
            break;
        TRY(read_row(r, kind, split));
    }
    if (!split->rows)
        return fail(SPECTRA_EFORMAT, "%s: has no rows", r->path);
    return SPECTRA_OK;
}

static spectra_status read_tsv(const char *dir, const char *name, listops_tokens kind,
                               listops_split *split)
{
    char *path = outfile_join(dir, name);
    if (!path)
        return fail(SPECTRA_ENOMEM, "listops: out of memory");
    tsv_reader r = {.path = path, .file = fopen(path, "rb")};
    spectra_status status = r.file
                                ? read_rows(&r, kind, split)
                                : fail(SPECTRA_EIO, "%s: cannot open: %s", path, strerror(errno));
    if (r.file)
        fclose(r.file);
    free(r.line);
    free(r.codes);
    free(path);
    return status;
}

spectra_status listops_prepare(const char *tsv_dir, const char *out_dir,
                               const listops_options *options)
{
    listops_split split[3] = {{0}};
    spectra_status status = SPECTRA_OK;
    for (int i = 0; i < 3 && status == SPECTRA_OK; i++)
        status = read_tsv(tsv_dir, listops_tsv_names[i], options->tokens, &split[i]);
    if (status == SPECTRA_OK)
        status = listops_folder(out_dir, options->overwrite);
    for (int i = 0; i < 3 && status == SPECTRA_OK; i++)
        status = listops_split_write(&split[i], out_dir, listops_split_names[i], options->tokens,
                                     listops_tsv_names[i]);
    for (int i = 0; i < 3; i++)
        listops_split_free(&split[i]);
    return status;
}
