#include "file/safetensors.h"

#include "base/outfile.h"
#include "base/status.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name;
    npy_type type;
    size_t size;
} types[] = {
    {"F32", NPY_F32, 4}, {"F64", NPY_F64, 8}, {"I32", NPY_I32, 4},
    {"I64", NPY_I64, 8}, {"U8", NPY_U8, 1},   {"BOOL", NPY_BOOL, 1},
};
enum { TYPES = sizeof types / sizeof types[0] };
static const uint64_t header_limit = 100000000;

struct st_file {
    void *map;
    size_t size;
    json_t *header; /* owns the names */
    int count;
    st_tensor *tensors;
};

static int type_row(npy_type type)
{
    int i = 0;
    while (i < TYPES && types[i].type != type)
        i++;
    return i;
}

static size_t tensor_bytes(const st_tensor *t)
{
    size_t n = types[type_row(t->type)].size;
    for (int i = 0; i < t->ndim; i++)
        n *= (size_t)t->shape[i];
    return n;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool is_text(const char *s)
{
    json_t *string = json_string(s); /* NULL unless UTF-8 */
    json_decref(string);
    return string != NULL;
}

static json_t *describe(const st_tensor *t, size_t from)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->ndim; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", types[type_row(t->type)].name, "shape", shape,
                     "data_offsets", (json_int_t)from, (json_int_t)(from + tensor_bytes(t)));
}

/* Wide types first, so that every tensor is aligned: the k-th of `tensors` in file order. */
static const st_tensor *in_order(const st_tensor *tensors, int count, int k)
{
    static const size_t sizes[] = {8, 4, 1};
    for (int s = 0; s < 3; s++)
        for (int i = 0; i < count; i++)
            if (types[type_row(tensors[i].type)].size == sizes[s] && k-- == 0)
                return &tensors[i];
    return NULL;
}

/* What a header cannot say: names and metadata go into JSON, sizes into 64 bits. */
static spectra_status check_tensors(const char *path, const st_tensor *tensors, int count,
                                    const char *const *metadata)
{
    for (int i = 0; i < count; i++) {
        const st_tensor *t = &tensors[i];
        if (!is_text(t->name) || !*t->name || strcmp(t->name, "__metadata__") == 0)
            return fail(SPECTRA_EINVAL, "%s: '%s' cannot be the name of a tensor", path, t->name);
        for (int j = 0; j < i; j++)
            if (strcmp(tensors[j].name, t->name) == 0)
                return fail(SPECTRA_EINVAL, "%s: two tensors have the name %s", path, t->name);
        if (t->ndim < 0 || t->ndim > NPY_MAX_DIM)
            return fail(SPECTRA_ESHAPE, "%s: tensor %s has %d dimensions, at most %d are written",
                        path, t->name, t->ndim, NPY_MAX_DIM);
        for (int k = 0; k < t->ndim; k++)
            if (t->shape[k] < 0)
                return fail(SPECTRA_ESHAPE, "%s: tensor %s has the negative size %lld", path,
                            t->name, (long long)t->shape[k]);
    }
    for (int i = 0; metadata && metadata[i]; i++)
        if (!is_text(metadata[i]))
            return fail(SPECTRA_EINVAL, "%s: metadata that is not UTF-8: %.40s", path, metadata[i]);
    return SPECTRA_OK;
}

static char *header_text(const st_tensor *tensors, int count, const char *const *metadata)
{
    json_t *header = json_object(), *meta = json_object();
    for (int i = 0; metadata && metadata[i]; i += 2)
        json_object_set_new(meta, metadata[i], json_string(metadata[i + 1]));
    json_object_set_new(header, "__metadata__", meta);
    size_t at = 0;
    for (int i = 0; i < count; i++) {
        const st_tensor *t = in_order(tensors, count, i);
        json_object_set_new(header, t->name, describe(t, at));
        at += tensor_bytes(t);
    }
    char *text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    return text;
}

static int write_all(FILE *file, const st_tensor *tensors, int count, const char *header)
{
    size_t length = strlen(header), padded = (length + 7) / 8 * 8;
    unsigned char start[8];
    for (int i = 0; i < 8; i++)
        start[i] = (unsigned char)(padded >> (8 * i));
    if (fwrite(start, 1, 8, file) != 8 || fwrite(header, 1, length, file) != length ||
        fprintf(file, "%*s", (int)(padded - length), "") < 0)
        return 0;
    for (int i = 0; i < count; i++) {
        const st_tensor *t = in_order(tensors, count, i);
        size_t bytes = tensor_bytes(t);
        if (fwrite(t->data, 1, bytes, file) != bytes)
            return 0;
    }
    return 1;
}

spectra_status st_write(const char *path, const st_tensor *tensors, int count,
                        const char *const *metadata)
{
    TRY(check_tensors(path, tensors, count, metadata));
    char *header = header_text(tensors, count, metadata);
    if (!header)
        return fail(SPECTRA_ENOMEM, "%s: no memory for the header", path);
    outfile out;
    spectra_status status = outfile_open(path, &out);
    if (status == SPECTRA_OK && !write_all(out.file, tensors, count, header)) {
        int error = errno;
        outfile_abort(&out);
        status = fail(SPECTRA_EIO, "%s: %s", path, strerror(error));
    } else if (status == SPECTRA_OK) {
        status = outfile_commit(&out);
    }
    free(header);
    return status;
}

/* ---- reading --------------------------------------------------------------------------------- */

static spectra_status read_shape(const char *path, const json_t *shape, st_tensor *t, size_t *bytes)
{
    if (!json_is_array(shape) || json_array_size(shape) > NPY_MAX_DIM)
        return fail(SPECTRA_EFORMAT, "%s: tensor %s has no shape of at most %d dimensions", path,
                    t->name, NPY_MAX_DIM);
    t->ndim = (int)json_array_size(shape);
    *bytes = types[type_row(t->type)].size;
    for (int i = 0; i < t->ndim; i++) {
        const json_t *n = json_array_get(shape, (size_t)i);
        if (!json_is_integer(n) || json_integer_value(n) < 0 ||
            __builtin_mul_overflow(*bytes, (size_t)json_integer_value(n), bytes))
            return fail(SPECTRA_EFORMAT, "%s: tensor %s has an impossible shape", path, t->name);
        t->shape[i] = json_integer_value(n);
    }
    return SPECTRA_OK;
}

static spectra_status read_tensor(const char *path, const char *data, size_t size,
                                  const json_t *entry, st_tensor *t)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    int row = 0;
    while (row < TYPES && (!dtype || strcmp(dtype, types[row].name) != 0))
        row++;
    if (row == TYPES)
        return fail(SPECTRA_EFORMAT, "%s: tensor %s has data type %s; known are F32 F64 I32 I64 U8",
                    path, t->name, dtype ? dtype : "(none)");
    t->type = types[row].type;
    size_t bytes = 0;
    TRY(read_shape(path, json_object_get(entry, "shape"), t, &bytes));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *a = json_array_get(offsets, 0), *b = json_array_get(offsets, 1);
    if (!json_is_integer(a) || !json_is_integer(b))
        return fail(SPECTRA_EFORMAT, "%s: tensor %s has no data_offsets", path, t->name);
    json_int_t from = json_integer_value(a), to = json_integer_value(b);
    if (from < 0 || to < from || (uint64_t)to > size)
        return fail(SPECTRA_EFORMAT,
                    "%s: tensor %s lies at bytes %lld to %lld of %zu: the file is truncated", path,
                    t->name, (long long)from, (long long)to, size);
    if ((size_t)(to - from) != bytes)
        return fail(SPECTRA_EFORMAT, "%s: tensor %s has %lld bytes, its shape needs %zu", path,
                    t->name, (long long)(to - from), bytes);
    t->data = data + from;
    if ((uintptr_t)t->data % types[row].size)
        return fail(SPECTRA_EFORMAT, "%s: tensor %s is not aligned to its elements of %zu bytes",
                    path, t->name, types[row].size);
    return SPECTRA_OK;
}

static int by_place(const void *a, const void *b)
{
    const st_tensor *s = a, *t = b;
    if (s->data != t->data)
        return (const char *)s->data < (const char *)t->data ? -1 : 1;
    size_t m = tensor_bytes(s), n = tensor_bytes(t);
    return (m > n) - (m < n);
}

/* The format has neither holes nor overlaps, so that nothing hides in a file. */
static spectra_status check_places(const char *path, st_file *f, const char *data, size_t size)
{
    if (f->count > 1)
        qsort(f->tensors, (size_t)f->count, sizeof *f->tensors, by_place);
    const char *at = data;
    for (int i = 0; i < f->count; i++) {
        const st_tensor *t = &f->tensors[i];
        if (t->data != at)
            return fail(SPECTRA_EFORMAT, "%s: tensor %s %s", path, t->name,
                        (const char *)t->data < at ? "overlaps another one"
                                                   : "has unused bytes before it");
        at += tensor_bytes(t);
    }
    if (at != data + size)
        return fail(SPECTRA_EFORMAT, "%s: has %lld bytes after the last tensor", path,
                    (long long)(data + size - at));
    return SPECTRA_OK;
}

static spectra_status read_entries(const char *path, st_file *f, const char *data, size_t size)
{
    f->tensors = calloc(json_object_size(f->header) + 1, sizeof *f->tensors);
    if (!f->tensors)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", path);
    const char *name;
    json_t *entry;
    json_object_foreach(f->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        st_tensor *t = &f->tensors[f->count];
        t->name = name;
        TRY(read_tensor(path, data, size, entry, t));
        f->count++;
    }
    return check_places(path, f, data, size);
}

static spectra_status read_map(const char *path, st_file *f)
{
    const unsigned char *bytes = f->map;
    uint64_t length = 0;
    if (f->size < 8)
        return fail(SPECTRA_EFORMAT, "%s: not a safetensors file (%zu bytes)", path, f->size);
    for (int i = 0; i < 8; i++)
        length |= (uint64_t)bytes[i] << (8 * i);
    if (length > header_limit || length > f->size - 8)
        return fail(SPECTRA_EFORMAT,
                    "%s: not a safetensors file, or truncated: a header of %llu bytes in a file of "
                    "%zu",
                    path, (unsigned long long)length, f->size);
    json_error_t error;
    f->header = json_loadb((const char *)bytes + 8, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(f->header))
        return fail(SPECTRA_EFORMAT, "%s: the header is not a JSON object (%s)", path, error.text);
    return read_entries(path, f, (const char *)bytes + 8 + length, f->size - 8 - (size_t)length);
}

static spectra_status map_file(const char *path, st_file *f)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0)
        return fail(SPECTRA_EIO, "%s: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return fail(SPECTRA_EIO, "%s: not a regular file", path);
    }
    f->size = (size_t)info.st_size;
    f->map = f->size ? mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    int error = errno;
    close(fd);
    if (f->map == MAP_FAILED) {
        f->map = NULL;
        return fail(SPECTRA_EIO, "%s: %s", path, strerror(error));
    }
    return SPECTRA_OK;
}

spectra_status st_open(const char *path, st_file **out)
{
    st_file *f = calloc(1, sizeof *f);
    if (!f)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", path);
    spectra_status status = map_file(path, f);
    if (status == SPECTRA_OK)
        status = read_map(path, f);
    if (status == SPECTRA_OK)
        *out = f;
    else
        st_close(f);
    return status;
}

void st_close(st_file *f)
{
    if (!f)
        return;
    if (f->map)
        munmap(f->map, f->size);
    json_decref(f->header);
    free(f->tensors);
    free(f);
}

int st_count(const st_file *f)
{
    return f->count;
}

const st_tensor *st_at(const st_file *f, int i)
{
    return &f->tensors[i];
}

const st_tensor *st_find(const st_file *f, const char *name)
{
    for (int i = 0; i < f->count; i++)
        if (strcmp(f->tensors[i].name, name) == 0)
            return &f->tensors[i];
    return NULL;
}

const char *st_metadata(const st_file *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), key));
}
