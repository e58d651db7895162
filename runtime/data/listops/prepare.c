/* Reads LRA's tsv files; every row is evaluated. */
#define _GNU_SOURCE
#include "data/listops/listops.h"

#include "base/outfile.h"
#include "base/status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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

static spectra_status read_row(tsv_reader *r, listops_tokens kind, split_writer *split)
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
    return listops_add(split, kind, r->codes, count, value);
}

static spectra_status read_rows(tsv_reader *r, listops_tokens kind, split_writer *split)
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
                               split_writer *split)
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
    split_writer split[3] = {{0}};
    spectra_status status = SPECTRA_OK;
    for (int i = 0; i < 3 && status == SPECTRA_OK; i++)
        status = read_tsv(tsv_dir, listops_tsv_names[i], options->tokens, &split[i]);
    if (status == SPECTRA_OK)
        status = split_folder(out_dir, options->overwrite);
    for (int i = 0; i < 3 && status == SPECTRA_OK; i++)
        status = listops_write(&split[i], out_dir, i, options->tokens, listops_tsv_names[i]);
    for (int i = 0; i < 3; i++)
        split_writer_free(&split[i]);
    return status;
}
