#include "npy.h"

#include "outfile.h"
#include "status.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *descr;
    size_t size;
} types[] = {
    [NPY_F32] = {"<f4", 4}, [NPY_F64] = {"<f8", 8}, [NPY_I32] = {"<i4", 4},
    [NPY_I64] = {"<i8", 8}, [NPY_U8] = {"|u1", 1},  [NPY_BOOL] = {"|b1", 1},
};
enum { TYPES = sizeof types / sizeof types[0], MAX_HEADER = 65536 };

int64_t npy_count(const npy_array *a)
{
    int64_t n = 1;
    for (int i = 0; i < a->ndim; i++)
        n *= a->shape[i];
    return n;
}

const char *npy_shape_text(int ndim, const int64_t *shape, char *buf, size_t size)
{
    size_t used = (size_t)snprintf(buf, size, "(");
    for (int i = 0; i < ndim && used < size; i++)
        used +=
            (size_t)snprintf(buf + used, size - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (used < size)
        snprintf(buf + used, size - used, ndim == 1 ? ",)" : ")");
    return buf;
}

void npy_free(npy_array *a)
{
    if (!a)
        return;
    free(a->data);
    a->data = NULL;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Text after "'key':" in the header, blanks skipped; NULL when absent. */
static const char *field(const char *header, const char *key)
{
    const char *at = strstr(header, key);
    if (!at)
        return NULL;
    at += strlen(key);
    return at + strspn(at, " :");
}

static spectra_status parse_shape(const char *path, const char *at, npy_array *a)
{
    if (*at++ != '(')
        return fail(SPECTRA_EFORMAT, "%s: the header's shape is not a tuple", path);
    int64_t count = 1;
    for (a->ndim = 0;;) {
        at += strspn(at, " ,");
        if (*at == ')')
            return SPECTRA_OK;
        char *end;
        errno = 0;
        long long n = strtoll(at, &end, 10);
        if (end == at || errno || n < 0)
            return fail(SPECTRA_EFORMAT, "%s: the header's shape is malformed", path);
        if (a->ndim == NPY_MAX_DIM)
            return fail(SPECTRA_EFORMAT, "%s: more than %d dimensions", path, NPY_MAX_DIM);
        if (n > 0 && count > INT64_MAX / 16 / n)
            return fail(SPECTRA_EFORMAT, "%s: the header's shape is larger than any memory", path);
        count *= n;
        a->shape[a->ndim++] = n;
        at = end;
    }
}

static spectra_status parse_header(const char *path, const char *header, npy_array *a)
{
    const char *descr = field(header, "'descr'"), *order = field(header, "'fortran_order'");
    const char *shape = field(header, "'shape'");
    if (!descr || !order || !shape)
        return fail(SPECTRA_EFORMAT, "%s: the header lacks descr, fortran_order or shape", path);
    int type = 0;
    while (type < TYPES && strncmp(descr + 1, types[type].descr, 3) != 0)
        type++;
    if (type == TYPES || (*descr != '\'' && *descr != '"'))
        return fail(SPECTRA_EFORMAT, "%s: data type %.*s is not one of <f4 <f8 <i4 <i8 |u1 |b1",
                    path, (int)strcspn(descr, ","), descr);
    if (strncmp(order, "False", 5) != 0)
        return fail(SPECTRA_EFORMAT, "%s: Fortran order, needed is C order", path);
    a->type = (npy_type)type;
    return parse_shape(path, shape, a);
}

static spectra_status read_header(const char *path, FILE *file, npy_array *a)
{
    unsigned char start[12];
    if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY", 6) != 0)
        return fail(SPECTRA_EFORMAT, "%s: not a .npy file", path);
    size_t length = start[8] | (size_t)start[9] << 8;
    if (start[6] >= 2) {
        if (start[6] > 3 || fread(start + 10, 1, 2, file) != 2)
            return fail(SPECTRA_EFORMAT, "%s: .npy version %d is not known", path, start[6]);
        length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    }
    if (length > MAX_HEADER)
        return fail(SPECTRA_EFORMAT, "%s: a header of %zu bytes, at most %d are allowed", path,
                    length, MAX_HEADER);
    char *header = calloc(length + 1, 1);
    if (!header)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", path);
    spectra_status status =
        fread(header, 1, length, file) == length
            ? parse_header(path, header, a)
            : fail(SPECTRA_EFORMAT, "%s: truncated in its header of %zu bytes", path, length);
    free(header);
    return status;
}

static spectra_status read_data(const char *path, FILE *file, npy_array *a)
{
    char text[160];
    size_t bytes = (size_t)npy_count(a) * types[a->type].size;
    long here = ftell(file);
    if (here < 0 || fseek(file, 0, SEEK_END) != 0)
        return fail(SPECTRA_EIO, "%s: %s", path, strerror(errno));
    size_t present = (size_t)(ftell(file) - here);
    if (present != bytes)
        return fail(SPECTRA_EFORMAT, "%s: has %zu bytes of data, its shape %s needs %zu", path,
                    present, npy_shape_text(a->ndim, a->shape, text, sizeof text), bytes);
    fseek(file, here, SEEK_SET);
    a->data = malloc(bytes ? bytes : 1);
    if (!a->data)
        return fail(SPECTRA_ENOMEM, "%s: no memory for %zu bytes", path, bytes);
    if (fread(a->data, 1, bytes, file) != bytes) {
        npy_free(a);
        return fail(SPECTRA_EIO, "%s: %s", path, strerror(errno));
    }
    return SPECTRA_OK;
}

spectra_status npy_read(const char *path, npy_array *out)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return fail(SPECTRA_EIO, "%s: %s", path, strerror(errno));
    npy_array a = {0};
    spectra_status status = read_header(path, file, &a);
    if (status == SPECTRA_OK)
        status = read_data(path, file, &a);
    fclose(file);
    if (status == SPECTRA_OK)
        *out = a;
    return status;
}

static float as_float(const npy_array *a, int64_t i)
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
    case NPY_BOOL:
        break;
    }
    return ((const uint8_t *)a->data)[i];
}

spectra_status npy_read_f32(const char *path, npy_array *out)
{
    npy_array a = {0};
    TRY(npy_read(path, &a));
    if (a.type != NPY_F32) {
        int64_t n = npy_count(&a);
        float *data = malloc((size_t)(n ? n : 1) * sizeof *data);
        if (!data) {
            npy_free(&a);
            return fail(SPECTRA_ENOMEM, "%s: no memory for %lld numbers", path, (long long)n);
        }
        for (int64_t i = 0; i < n; i++)
            data[i] = as_float(&a, i);
        free(a.data);
        a.data = data;
        a.type = NPY_F32;
    }
    *out = a;
    return SPECTRA_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

spectra_status npy_write(const char *path, npy_type type, int ndim, const int64_t *shape,
                         const void *data)
{
    char text[160], header[384];
    int64_t count = 1;
    for (int i = 0; i < ndim; i++)
        count *= shape[i];
    int length =
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
                 types[type].descr, npy_shape_text(ndim, shape, text, sizeof text));
    int padded = (10 + length + 1 + 63) / 64 * 64 - 10; /* data begins at a multiple of 64 */
    unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    start[8] = (unsigned char)(padded & 255);
    start[9] = (unsigned char)(padded >> 8);
    outfile out;
    TRY(outfile_open(path, &out));
    size_t bytes = (size_t)count * types[type].size;
    int ok = fwrite(start, 1, 10, out.file) == 10 &&
             fprintf(out.file, "%-*s\n", padded - 1, header) == padded &&
             fwrite(data, 1, bytes, out.file) == bytes;
    if (!ok) {
        int error = errno;
        outfile_abort(&out);
        return fail(SPECTRA_EIO, "%s: %s", path, strerror(error));
    }
    return outfile_commit(&out);
}
