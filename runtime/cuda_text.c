#include "cuda_text.h"

#include "jit.h"
#include "status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Files of the tree by path, build/jit_sources.c. Both end with NULL. */
extern const char *const jit_source_name[];
extern const char *const jit_source_text[];

enum { PATH_SIZE = 128 };

static const char *find(const char *path)
{
    for (int i = 0; jit_source_name[i]; i++)
        if (strcmp(jit_source_name[i], path) == 0)
            return jit_source_text[i];
    return NULL;
}

/* text and what is behind it, taken over and made longer. */
static spectra_status append(char **text, const char *more)
{
    size_t held = *text ? strlen(*text) : 0, size = strlen(more) + 1;
    char *longer = realloc(*text, held + size);
    if (!longer)
        return fail(SPECTRA_ENOMEM, "CUDA text: out of memory");
    memcpy(longer + held, more, size);
    *text = longer;
    return SPECTRA_OK;
}

static spectra_status append_file(char **text, const char *name)
{
    char path[PATH_SIZE], line[PATH_SIZE + 16];
    snprintf(path, sizeof path, "templates/cuda/%s", name);
    const char *found = find(path);
    if (!found)
        return fail(SPECTRA_ENOTFOUND, "%s: not in this library", path);
    snprintf(line, sizeof line, "#line 1 \"%s\"\n", path);
    TRY(append(text, line));
    return append(text, found);
}

spectra_status cuda_text(const char *defines, const char *const *names, char **out)
{
    char *text = NULL;
    spectra_status status = append(&text, defines ? defines : "");
    for (int i = 0; names[i] && status == SPECTRA_OK; i++)
        status = append_file(&text, names[i]);
    if (status == SPECTRA_OK)
        *out = text;
    else
        free(text);
    return status;
}

spectra_status cuda_row_text(const char *defines, const char *name, char **out)
{
    char *text = NULL, *generated = NULL;
    TRY(jit_cuda_row_text(name, &generated));
    spectra_status status = append(&text, defines);
    if (status == SPECTRA_OK)
        status = append(&text, generated);
    free(generated);
    if (status == SPECTRA_OK)
        *out = text;
    else
        free(text);
    return status;
}
