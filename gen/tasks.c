/* tasks FILE.lua ... : reads the tasks of specs/task/ as the command will, before they are put into
 * it. One sentence and code 1 for the first that is wrong; nothing is written.
 */
#include "base/status.h"
#include "data/task.h"

#include <stdio.h>
#include <string.h>

enum { TEXT_LIMIT = 1 << 16 };

/* The build's own tasks, of which this program has none. */
const char *const task_spec_name[] = {NULL}, *const task_spec_text[] = {NULL};

static spectra_status check(const char *path)
{
    static char text[TEXT_LIMIT];
    char name[256];
    const char *base = strrchr(path, '/');
    snprintf(name, sizeof name, "%s", base ? base + 1 : path);
    name[strcspn(name, ".")] = 0;
    FILE *file = fopen(path, "rb");
    if (!file)
        return fail(SPECTRA_EIO, "%s: cannot read", path);
    const size_t size = fread(text, 1, sizeof text - 1, file);
    const bool whole = feof(file) && !ferror(file);
    fclose(file);
    text[size] = 0;
    task t;
    return whole ? task_parse(name, text, &t) : fail(SPECTRA_EIO, "%s: cannot read all", path);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (check(argv[i]) != SPECTRA_OK) {
            fprintf(stderr, "%s\n", spectra_message());
            return 1;
        }
    return 0;
}
