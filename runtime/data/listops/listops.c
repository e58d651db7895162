#include "data/listops/listops.h"

#include "base/status.h"

#include <string.h>

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

spectra_status listops_add(split_writer *w, listops_tokens kind, const uint8_t *codes, int64_t n,
                           int label)
{
    uint8_t *ids;
    int64_t count = 0;
    TRY(split_writer_room(w, n, &ids));
    for (int64_t i = 0; i < n; i++)
        if (kind == LISTOPS_B || codes[i] != LISTOPS_END)
            ids[count++] = (uint8_t)(codes[i] + 1);
    return split_writer_add(w, count, label);
}

spectra_status listops_write(const split_writer *w, const char *out_dir, int split,
                             listops_tokens kind, const char *origin)
{
    return split_writer_write(w, out_dir, dataset_splits[split], "lra-listops",
                              kind == LISTOPS_A ? "A" : "B", origin);
}
