#include "data/writer.h"

#include "base/outfile.h"
#include "base/status.h"
#include "data/dataset.h"
#include "file/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static spectra_status no_memory(void)
{
    return fail(SPECTRA_ENOMEM, "a split of the data: out of memory");
}

static int64_t tokens_of(const split_writer *w)
{
    return w->rows ? w->offsets[w->rows] : 0;
}

spectra_status split_writer_room(split_writer *w, int64_t n, uint8_t **out)
{
    const int64_t at = tokens_of(w);
    if (at + n > w->token_capacity) {
        int64_t capacity = 2 * w->token_capacity + n + (1 << 16);
        uint8_t *tokens = realloc(w->tokens, (size_t)capacity);
        if (!tokens)
            return no_memory();
        w->tokens = tokens;
        w->token_capacity = capacity;
    }
    *out = w->tokens + at;
    return SPECTRA_OK;
}

spectra_status split_writer_add(split_writer *w, int64_t n, int label)
{
    if (w->rows == w->row_capacity) {
        int64_t capacity = w->row_capacity ? 2 * w->row_capacity : 1024;
        int64_t *offsets = realloc(w->offsets, (size_t)(capacity + 1) * sizeof *offsets);
        if (offsets)
            w->offsets = offsets;
        int32_t *labels = realloc(w->label, (size_t)capacity * sizeof *labels);
        if (labels)
            w->label = labels;
        if (!offsets || !labels)
            return no_memory();
        w->row_capacity = capacity;
        w->offsets[0] = 0;
    }
    const int64_t at = tokens_of(w);
    w->label[w->rows] = label;
    w->offsets[++w->rows] = at + n;
    return SPECTRA_OK;
}

static char *split_path(const char *out_dir, const char *split, char file[32])
{
    snprintf(file, 32, "%s.safetensors", split);
    return outfile_join(out_dir, file);
}

spectra_status split_writer_write(const split_writer *w, const char *out_dir, const char *split,
                                  const char *task, const char *tokens, const char *origin)
{
    char file[32], *path = split_path(out_dir, split, file);
    if (!path)
        return no_memory();
    /* Widest first: every tensor is aligned to its elements. */
    const st_tensor tensors[] = {
        {"offsets", NPY_I64, 1, {w->rows + 1}, w->offsets},
        {"label", NPY_I32, 1, {w->rows}, w->label},
        {"tokens", NPY_U8, 1, {w->offsets[w->rows]}, w->tokens},
    };
    const char *const metadata[] = {"task", task,     "split", split, "tokens",
                                    tokens, "origin", origin,  NULL};
    spectra_status status = st_write(path, tensors, 3, metadata);
    free(path);
    return status;
}

void split_writer_free(split_writer *w)
{
    free(w->tokens);
    free(w->offsets);
    free(w->label);
    *w = (split_writer){0};
}

spectra_status split_folder(const char *out_dir, bool overwrite)
{
    TRY(outfile_folder(out_dir));
    for (int i = 0; i < 3 && !overwrite; i++) {
        char file[32], *path = split_path(out_dir, dataset_splits[i], file);
        bool there = path && access(path, F_OK) == 0;
        free(path);
        if (there)
            return fail(SPECTRA_EINVAL, "%s holds %s already; --overwrite replaces it", out_dir,
                        file);
    }
    return SPECTRA_OK;
}
