/* The row of lra-listops: its settings, and what they are for listops.h. */
#include "data/listops/listops.h"

#include "base/status.h"
#include "data/reader.h"

#include <assert.h>
#include <stdlib.h>

typedef struct options {
    char rows[SETTING_TEXT], tokens[SETTING_TEXT];
    bool keep_tsv;
} options;

#define AT(field) offsetof(options, field)
enum { GENERATE = 1 << READER_GENERATE, PREPARE = 1 << READER_PREPARE };

static const options defaults = {.rows = "96000,2000,2000", .tokens = "A"};

static const reader_setting settings[] = {
    {{.name = "rows",
      .type = SETTING_STRING,
      .offset = AT(rows),
      .doc = "rows of train, dev, test, default 96000,2000,2000"},
     GENERATE,
     "N,N,N"},
    {{.name = "tokens",
      .type = SETTING_STRING,
      .offset = AT(tokens),
      .choice = "A|B",
      .doc = "A, the default: no brackets, as the reference; B: closing brackets stay"},
     GENERATE | PREPARE,
     "A|B"},
    {{.name = "keep-tsv",
      .type = SETTING_BOOL,
      .offset = AT(keep_tsv),
      .doc = "write LRA's tsv files as well"},
     GENERATE,
     NULL},
};

static spectra_status parse_rows(const char *text, int64_t rows[3])
{
    const char *at = text;
    for (int i = 0; i < 3; i++) {
        char *end = NULL;
        long long value = strtoll(at, &end, 10);
        if (end == at || *end != (i < 2 ? ',' : 0) || value < 1 || value > LISTOPS_ROWS)
            return fail(SPECTRA_EINVAL,
                        "--rows is '%s', allowed are three numbers from 1 to %d: 96000,2000,2000",
                        text, LISTOPS_ROWS);
        rows[i] = value;
        at = end + 1;
    }
    return SPECTRA_OK;
}

static listops_options options_of(const reader_request *r)
{
    const options *o = r->options;
    return (listops_options){.tokens = o->tokens[0] == 'A' ? LISTOPS_A : LISTOPS_B,
                             .seed = r->seed,
                             .keep_tsv = o->keep_tsv,
                             .overwrite = r->overwrite};
}

static spectra_status generate(const reader_request *r)
{
    listops_options o = options_of(r);
    TRY(parse_rows(((const options *)r->options)->rows, o.rows));
    return listops_generate(r->out_dir, &o);
}

static spectra_status prepare(const reader_request *r)
{
    const listops_options o = options_of(r);
    return listops_prepare(r->from, r->out_dir, &o);
}

extern const task_reader listops_reader;
const task_reader listops_reader = {
    .name = "lra-listops",
    .settings = settings,
    .settings_count = sizeof settings / sizeof settings[0],
    .defaults = &defaults,
    .options_bytes = sizeof defaults,
    .run = {[READER_GENERATE] = generate, [READER_PREPARE] = prepare}};
static_assert(sizeof(options) <= READER_OPTIONS, "the command line has room for them");
