#include "file/npy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/outfile.h"
#include "base/status.h"

static const struct {
    const char *descr; /* as written */
    int64_t bytes;
} types[] = {
    [NPY_F32] = {"<f4", 4}, [NPY_F64] = {"<f8", 8}, [NPY_I32] = {"<i4", 4},
    [NPY_I64] = {"<i8", 8}, [NPY_U8] = {"|u1", 1},  [NPY_BOOL] = {"|b1", 1},
};
enum { TYPES = sizeof types / sizeof *types, MAX_HEADER = 65536 };

int64_t npy_count(const npy_array *a)
{
    int64_t count = 1;
    for (int i = 0; i < a->ndim; i++)
        count *= a->shape[i];
    return count;
}

void npy_free(npy_array *a)
{
    if (!a)
        return;
    free(a->data);
    a->data = NULL;
}

const char *npy_shape_text(int ndim, const int64_t *shape, char *buf, size_t size)
{
    size_t used = 0;
    for (int i = 0; i < ndim && used < size; i++)
        used += (size_t)snprintf(buf + used, size - used, "%s%lld", i ? ", " : "(",
                                 (long long)shape[i]);
    if (used < size)
        snprintf(buf + used, size - used, "%s", ndim == 0 ? "()" : ndim == 1 ? ",)" : ")");
    return buf;
}

/* ---- the header: a Python dictionary of three entries --------------------- */

typedef struct header {
    const char *path;
    const char *at; /* what is left to read; ends with a zero byte */
    bool has_descr, has_order, has_shape;
    npy_array array;
} header;

static spectra_status bad_header(const header *h, const char *what)
{
    return fail(SPECTRA_EFORMAT, "%s: not a .npy file, its header has %s at '%.20s'", h->path, what,
                h->at);
}

static void skip_space(header *h)
{
    h->at += strspn(h->at, " \t\n\r");
}

static bool accept(header *h, char c)
{
    skip_space(h);
    if (*h->at != c)
        return false;
    h->at++;
    return true;
}

static spectra_status read_string(header *h, char *text, size_t size)
{
    skip_space(h);
    char quote = *h->at;
    if (quote != '\'' && quote != '"')
        return bad_header(h, "no string");
    const char *end = strchr(h->at + 1, quote);
    if (!end || (size_t)(end - h->at) > size)
        return bad_header(h, "a string that is too long or has no end");
    size_t length = (size_t)(end - h->at - 1);
    memcpy(text, h->at + 1, length);
    text[length] = 0;
    h->at = end + 1;
    return SPECTRA_OK;
}

static spectra_status read_descr(header *h)
{
    char descr[32];
    skip_space(h);
    if (*h->at == '[')
        return fail(SPECTRA_EFORMAT, "%s: is an array of records, only plain numbers can be read",
                    h->path);
    TRY(read_string(h, descr, sizeof descr));
    h->has_descr = true;
    for (int i = 0; i < TYPES; i++) {
        bool one_byte = types[i].bytes == 1 && (descr[0] == '|' || descr[0] == '<');
        if (strcmp(descr, types[i].descr) == 0 ||
            (one_byte && strcmp(descr + 1, types[i].descr + 1) == 0)) {
            h->array.type = (npy_type)i;
            return SPECTRA_OK;
        }
    }
    return fail(SPECTRA_EFORMAT,
                "%s: has dtype '%s', those read are <f4 <f8 <i4 <i8 |u1 |b1 (little endian)",
                h->path, descr);
}

static spectra_status read_order(header *h)
{
    skip_space(h);
    h->has_order = true;
    if (strncmp(h->at, "False", 5) == 0) {
        h->at += 5;
        return SPECTRA_OK;
    }
    if (strncmp(h->at, "True", 4) == 0)
        return fail(SPECTRA_EFORMAT,
                    "%s: is in Fortran order, only C order is read (numpy.ascontiguousarray)",
                    h->path);
    return bad_header(h, "neither True nor False");
}

static spectra_status read_shape(header *h)
{
    h->has_shape = true;
    if (!accept(h, '('))
        return bad_header(h, "no shape");
    int64_t count = 1;
    while (!accept(h, ')')) {
        skip_space(h);
        if (*h->at == '-')
            return bad_header(h, "a negative size");
        if (*h->at < '0' || *h->at > '9')
            return bad_header(h, "no size");
        if (h->array.ndim == NPY_MAX_DIM)
            return fail(SPECTRA_EFORMAT, "%s: has more than %d dimensions", h->path, NPY_MAX_DIM);
        char *end;
        errno = 0;
        int64_t size = strtoll(h->at, &end, 10);
        /* 8 bytes an element must fit too; a size of 0 does not excuse the others */
        if (errno || (size > 0 && __builtin_mul_overflow(count, size, &count)) ||
            count > INT64_MAX / 8)
            return bad_header(h, "a shape beyond 64 bits");
        h->at = end;
        h->array.shape[h->array.ndim++] = size;
        if (!accept(h, ',') && (skip_space(h), *h->at != ')'))
            return bad_header(h, "no ',' or ')'");
    }
    return SPECTRA_OK;
}

static spectra_status read_header(header *h)
{
    if (!accept(h, '{'))
        return bad_header(h, "no '{'");
    while (!accept(h, '}')) {
        char key[32];
        TRY(read_string(h, key, sizeof key));
        if (!accept(h, ':'))
            return bad_header(h, "no ':'");
        if (strcmp(key, "descr") == 0 && !h->has_descr)
            TRY(read_descr(h));
        else if (strcmp(key, "fortran_order") == 0 && !h->has_order)
            TRY(read_order(h));
        else if (strcmp(key, "shape") == 0 && !h->has_shape)
            TRY(read_shape(h));
        else
            return bad_header(h, "an unknown or repeated entry before the text");
        if (!accept(h, ',') && (skip_space(h), *h->at != '}'))
            return bad_header(h, "no ',' or '}'");
    }
    if (!h->has_descr || !h->has_order || !h->has_shape)
        return fail(SPECTRA_EFORMAT, "%s: its header lacks the entry %s", h->path,
                    !h->has_descr   ? "descr"
                    : !h->has_order ? "fortran_order"
                                    : "shape");
    return SPECTRA_OK;
}

/* ---- reading -------------------------------------------------------------- */

/* Bytes of the header from the 8 or 10 or 12 bytes before it. */
static spectra_status read_preamble(const char *path, FILE *file, size_t *bytes)
{
    unsigned char p[12];
    size_t got = fread(p, 1, 8, file);
    if (ferror(file))
        return fail(SPECTRA_EIO, "%s: %s", path, strerror(errno));
    if (got < 6 || memcmp(p, "\x93NUMPY", 6) != 0)
        return fail(SPECTRA_EFORMAT, "%s: is not a .npy file, it does not begin with \\x93NUMPY",
                    path);
    if (got == 8 && (p[6] < 1 || p[6] > 3))
        return fail(SPECTRA_EFORMAT, "%s: is .npy version %d.%d, those read are 1.0 to 3.0", path,
                    p[6], p[7]);
    size_t width = got == 8 && p[6] == 1 ? 2 : 4;
    if (got < 8 || fread(p + 8, 1, width, file) != width)
        return fail(SPECTRA_EFORMAT, "%s: ends inside its header", path);
    *bytes = 0;
    for (size_t i = 0; i < width; i++)
        *bytes |= (size_t)p[8 + i] << (8 * i);
    if (*bytes > MAX_HEADER)
        return fail(SPECTRA_EFORMAT, "%s: has a header of %zu bytes, at most %d are read", path,
                    *bytes, MAX_HEADER);
    return SPECTRA_OK;
}

static spectra_status read_data(const char *path, FILE *file, npy_array *a)
{
    char shape[256];
    npy_shape_text(a->ndim, a->shape, shape, sizeof shape);
    int64_t need = npy_count(a) * types[a->type].bytes;
    struct stat st;
    if (fstat(fileno(file), &st) == 0 && S_ISREG(st.st_mode)) {
        int64_t has = (int64_t)st.st_size - (int64_t)ftell(file);
        if (has != need)
            return fail(SPECTRA_EFORMAT, "%s: has %lld bytes of data, its shape %s needs %lld",
                        path, (long long)has, shape, (long long)need);
    }
    size_t room = ((size_t)need + 64) / 64 * 64;
    a->data = aligned_alloc(64, room);
    if (!a->data)
        return fail(SPECTRA_ENOMEM, "%s: no memory for its shape %s", path, shape);
    size_t got = fread(a->data, 1, (size_t)need, file);
    if (ferror(file))
        return fail(SPECTRA_EIO, "%s: %s", path, strerror(errno));
    if (got != (size_t)need)
        return fail(SPECTRA_EFORMAT, "%s: has %zu bytes of data, its shape %s needs %lld", path,
                    got, shape, (long long)need);
    return SPECTRA_OK;
}

static spectra_status read_file(const char *path, FILE *file, npy_array *out)
{
    size_t bytes = 0;
    TRY(read_preamble(path, file, &bytes));
    char *text = malloc(bytes + 1);
    if (!text)
        return fail(SPECTRA_ENOMEM, "%s: no memory for its header", path);
    size_t got = fread(text, 1, bytes, file);
    text[got] = 0;
    header h = {.path = path, .at = text};
    spectra_status status =
        got == bytes ? read_header(&h) : fail(SPECTRA_EFORMAT, "%s: ends inside its header", path);
    free(text);
    if (status == SPECTRA_OK)
        status = read_data(path, file, &h.array);
    if (status == SPECTRA_OK)
        *out = h.array;
    else
        free(h.array.data);
    return status;
}

spectra_status npy_read(const char *path, npy_array *out)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return fail(SPECTRA_EIO, "%s: %s", path, strerror(errno));
    spectra_status status = read_file(path, file, out);
    fclose(file);
    return status;
}

static float element(const npy_array *a, int64_t i)
{
    switch (a->type) {
    case NPY_F32:
        return ((const float *)a->data)[i];
    case NPY_F64:
        return (float)((const double *)a->data)[i];
    case NPY_I32:
        return (float)((const int32_t *)a->data)[i];
    case NPY_I64:
        return (float)((const int64_t *)a->data)[i];
    case NPY_U8:
        return (float)((const uint8_t *)a->data)[i];
    case NPY_BOOL:
        return ((const uint8_t *)a->data)[i] ? 1.0f : 0.0f;
    }
    return 0;
}

spectra_status npy_read_f32(const char *path, npy_array *out)
{
    npy_array a;
    TRY(npy_read(path, &a));
    if (a.type != NPY_F32) {
        int64_t count = npy_count(&a);
        float *data = aligned_alloc(64, ((size_t)count * sizeof *data + 64) / 64 * 64);
        if (!data) {
            npy_free(&a);
            return fail(SPECTRA_ENOMEM, "%s: no memory to convert it to float32", path);
        }
        for (int64_t i = 0; i < count; i++)
            data[i] = element(&a, i);
        npy_free(&a);
        a.data = data;
        a.type = NPY_F32;
    }
    *out = a;
    return SPECTRA_OK;
}

/* ---- writing -------------------------------------------------------------- */

spectra_status npy_write(const char *path, npy_type type, int ndim, const int64_t *shape,
                         const void *data)
{
    if (ndim < 0 || ndim > NPY_MAX_DIM)
        return fail(SPECTRA_ESHAPE, "%s: %d dimensions, at most %d can be written", path, ndim,
                    NPY_MAX_DIM);
    npy_array a = {.type = type, .ndim = ndim};
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0)
            return fail(SPECTRA_ESHAPE, "%s: dimension %d has the negative size %lld", path, i,
                        (long long)shape[i]);
        a.shape[i] = shape[i];
    }
    char text[256], dictionary[384];
    int length = snprintf(dictionary, sizeof dictionary,
                          "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
                          types[type].descr, npy_shape_text(ndim, shape, text, sizeof text));
    /* Preamble, dictionary, spaces and a newline fill a multiple of 64 bytes. */
    unsigned char head[512];
    size_t size = (10 + (size_t)length + 1 + 63) / 64 * 64;
    memset(head, ' ', size);
    memcpy(head, "\x93NUMPY\x01\x00", 8);
    head[8] = (unsigned char)((size - 10) & 255);
    head[9] = (unsigned char)((size - 10) >> 8);
    memcpy(head + 10, dictionary, (size_t)length);
    head[size - 1] = '\n';
    outfile o;
    TRY(outfile_open(path, &o));
    fwrite(head, 1, size, o.file); /* errors are kept for the commit */
    fwrite(data, (size_t)types[type].bytes, (size_t)npy_count(&a), o.file);
    return outfile_commit(&o);
}
