#include "data/reader.h"

#include "base/status.h"

#include <stdio.h>
#include <string.h>

const char *const reader_verb_names[READER_VERBS] = {"generate", "prepare"};

/* ---- one line a reader ------------------------------------------------------------------------
 */

extern const task_reader listops_reader;

const task_reader *const task_readers[] = {&listops_reader, NULL};

/* ---- looking them up --------------------------------------------------------------------------
 */

spectra_status reader_find(const char *task, reader_verb verb, const task_reader **out)
{
    char known[256] = "";
    for (int i = 0; task_readers[i]; i++) {
        const task_reader *r = task_readers[i];
        if (!r->run[verb])
            continue;
        if (strcmp(r->name, task) == 0) {
            *out = r;
            return SPECTRA_OK;
        }
        const size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", r->name);
    }
    return fail(SPECTRA_EUNSUPPORTED,
                "data %s knows %s; %s's settings are there, reading its files is not",
                reader_verb_names[verb], known, task);
}

const reader_setting *reader_setting_find(const task_reader *reader, const char *name)
{
    for (int i = 0; i < reader->settings_count; i++)
        if (strcmp(reader->settings[i].setting.name, name) == 0)
            return &reader->settings[i];
    return NULL;
}
