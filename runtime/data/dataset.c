#include "data/dataset.h"

#include "base/status.h"
#include "file/safetensors.h"
#include "math/draw.h"

#include <stdlib.h>
#include <string.h>

const char *const dataset_splits[3] = {"train", "dev", "test"};

struct dataset {
    st_file *file;
    const uint8_t *tokens8; /* one of the two is not NULL */
    const int32_t *tokens32;
    const int64_t *offsets;
    const int32_t *label;
    int64_t count;
    int sides;
    int64_t max_token, max_label;
    int64_t majority, majority_count;
    char *path;
};

static spectra_status find_tensors(dataset *d, int64_t *token_count)
{
    const st_tensor *tokens = st_find(d->file, "tokens");
    const st_tensor *offsets = st_find(d->file, "offsets");
    const st_tensor *label = st_find(d->file, "label");
    if (!tokens || !offsets || !label)
        return fail(SPECTRA_EFORMAT, "%s: not a prepared data set: has no tensor '%s'", d->path,
                    !tokens    ? "tokens"
                    : !offsets ? "offsets"
                               : "label");
    if (tokens->ndim != 1 || (tokens->type != NPY_U8 && tokens->type != NPY_I32))
        return fail(SPECTRA_EFORMAT, "%s: 'tokens' must be one-dimensional U8 or I32", d->path);
    if (offsets->ndim != 1 || offsets->type != NPY_I64)
        return fail(SPECTRA_EFORMAT, "%s: 'offsets' must be one-dimensional I64", d->path);
    if ((uintptr_t)offsets->data % 8 || (uintptr_t)label->data % 4 ||
        (tokens->type == NPY_I32 && (uintptr_t)tokens->data % 4))
        return fail(SPECTRA_EFORMAT,
                    "%s: tensors are not aligned to their elements; offsets come first, then label",
                    d->path);
    if (label->ndim != 1 || label->type != NPY_I32)
        return fail(SPECTRA_EFORMAT, "%s: 'label' must be one-dimensional I32", d->path);
    d->count = label->shape[0];
    if (d->count < 1)
        return fail(SPECTRA_EFORMAT, "%s: has no examples", d->path);
    int64_t sequences = offsets->shape[0] - 1;
    if (sequences != d->count && sequences != 2 * d->count)
        return fail(SPECTRA_EFORMAT, "%s: %lld sequences for %lld labels, allowed are 1 or 2 each",
                    d->path, (long long)sequences, (long long)d->count);
    d->sides = (int)(sequences / d->count);
    if (tokens->type == NPY_U8)
        d->tokens8 = tokens->data;
    else
        d->tokens32 = tokens->data;
    d->offsets = offsets->data;
    d->label = label->data;
    *token_count = tokens->shape[0];
    return SPECTRA_OK;
}

static spectra_status check_tokens(dataset *d, int64_t token_count)
{
    int64_t sequences = d->count * d->sides;
    bool sorted = d->offsets[0] == 0 && d->offsets[sequences] == token_count;
    for (int64_t i = 0; i < sequences && sorted; i++)
        sorted = d->offsets[i] <= d->offsets[i + 1];
    if (!sorted)
        return fail(SPECTRA_EFORMAT, "%s: 'offsets' does not rise from 0 to the %lld tokens",
                    d->path, (long long)token_count);
    int32_t low = 0, high = 0;
    for (int64_t i = 0; i < token_count; i++) {
        int32_t id = d->tokens8 ? d->tokens8[i] : d->tokens32[i];
        low = id < low ? id : low;
        high = id > high ? id : high;
    }
    if (low < 0)
        return fail(SPECTRA_EFORMAT, "%s: token %d, allowed are 0 and above", d->path, low);
    d->max_token = high;
    return SPECTRA_OK;
}

static spectra_status check_labels(dataset *d)
{
    for (int64_t i = 0; i < d->count; i++) {
        if (d->label[i] < 0 || d->label[i] > 1 << 20)
            return fail(SPECTRA_EFORMAT, "%s: label %d of example %lld, allowed are 0 to 1048576",
                        d->path, d->label[i], (long long)i);
        d->max_label = d->label[i] > d->max_label ? d->label[i] : d->max_label;
    }
    int64_t *votes = calloc((size_t)d->max_label + 1, sizeof *votes);
    if (!votes)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", d->path);
    for (int64_t i = 0; i < d->count; i++)
        votes[d->label[i]]++;
    for (int64_t c = 0; c <= d->max_label; c++)
        if (votes[c] > d->majority_count) {
            d->majority = c;
            d->majority_count = votes[c];
        }
    free(votes);
    return SPECTRA_OK;
}

spectra_status dataset_open(const char *path, dataset **out)
{
    dataset *d = calloc(1, sizeof *d);
    if (!d || !(d->path = strdup(path))) {
        dataset_close(d);
        return fail(SPECTRA_ENOMEM, "%s: out of memory", path);
    }
    int64_t token_count = 0;
    spectra_status status = st_open(path, &d->file);
    if (status == SPECTRA_OK)
        status = find_tensors(d, &token_count);
    if (status == SPECTRA_OK)
        status = check_tokens(d, token_count);
    if (status == SPECTRA_OK)
        status = check_labels(d);
    if (status != SPECTRA_OK) {
        dataset_close(d);
        return status;
    }
    *out = d;
    return SPECTRA_OK;
}

void dataset_close(dataset *d)
{
    if (!d)
        return;
    if (d->file)
        st_close(d->file);
    free(d->path);
    free(d);
}

int64_t dataset_count(const dataset *d)
{
    return d->count;
}

int dataset_sides(const dataset *d)
{
    return d->sides;
}

int64_t dataset_label(const dataset *d, int64_t i)
{
    return d->label[i];
}

const char *dataset_metadata(const dataset *d, const char *key)
{
    return st_metadata(d->file, key);
}

int64_t dataset_length(const dataset *d, int64_t i, int side)
{
    int64_t at = i * d->sides + side;
    return d->offsets[at + 1] - d->offsets[at];
}

spectra_status dataset_check(const dataset *d, int64_t vocab, int64_t classes, int sides)
{
    if (d->max_token >= vocab)
        return fail(SPECTRA_ESHAPE, "%s: token %lld, the task's vocabulary has %lld", d->path,
                    (long long)d->max_token, (long long)vocab);
    if (d->max_label >= classes)
        return fail(SPECTRA_ESHAPE, "%s: label %lld, the task has %lld classes", d->path,
                    (long long)d->max_label, (long long)classes);
    if (d->sides != sides)
        return fail(SPECTRA_ESHAPE, "%s: %d sequences an example, the task has %d", d->path,
                    d->sides, sides);
    return SPECTRA_OK;
}

void dataset_row(const dataset *d, int64_t i, int side, int64_t length, int32_t *ids)
{
    int64_t begin = d->offsets[i * d->sides + side];
    int64_t n = dataset_length(d, i, side);
    n = n < length ? n : length;
    for (int64_t t = 0; t < n; t++)
        ids[t] = d->tokens8 ? d->tokens8[begin + t] : d->tokens32[begin + t];
    memset(ids + n, 0, (size_t)(length - n) * sizeof *ids);
}

int64_t dataset_majority(const dataset *d, double *share)
{
    if (share)
        *share = (double)d->majority_count / (double)d->count;
    return d->majority;
}

/* ---- streams ----------------------------------------------------------------------------------
 */

spectra_status stream_open(const dataset *d, uint64_t seed, int use, int64_t batch, stream *out)
{
    if (batch < 1)
        return fail(SPECTRA_EINVAL, "batch size %lld, allowed are 1 and above", (long long)batch);
    int64_t *order = malloc((size_t)d->count * sizeof *order);
    if (!order)
        return fail(SPECTRA_ENOMEM, "shuffling %s: out of memory", d->path);
    *out =
        (stream){.data = d, .seed = seed, .use = use, .batch = batch, .pass = -1, .order = order};
    return SPECTRA_OK;
}

void stream_close(stream *s)
{
    free(s->order);
    *s = (stream){.pass = -1};
}

void stream_batch(stream *s, int64_t index, int64_t *out)
{
    for (int64_t i = 0; i < s->batch; i++) {
        int64_t at = index * s->batch + i;
        int64_t pass = at / s->data->count;
        if (pass != s->pass) {
            draw_stream random = draw_open(SPECTRA_RNG_PHILOX, s->seed, RNG_SHUFFLE,
                                           (uint32_t)s->use, (uint32_t)pass);
            draw_permutation(&random, 0, s->data->count, s->order);
            s->pass = pass;
        }
        out[i] = s->order[at % s->data->count];
    }
}
