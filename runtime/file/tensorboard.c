#include "file/tensorboard.h"

#include "base/status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { EVENT_MAX = 4096 };

struct event_file {
    char *path;
    FILE *stream;
    off_t size;          /* of whole records */
    uint32_t table[256]; /* of CRC-32C, the Castagnoli polynomial reflected */
};

static uint32_t masked_crc(const event_file *f, const unsigned char *data, size_t n)
{
    uint32_t c = 0xffffffff;
    for (size_t i = 0; i < n; i++)
        c = f->table[(c ^ data[i]) & 0xff] ^ c >> 8;
    c ^= 0xffffffff;
    return (c >> 15 | c << 17) + 0xa282ead8;
}

static void put_little(unsigned char *to, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = (unsigned char)(value >> 8 * i);
}

static spectra_status write_record(event_file *f, const unsigned char *data, size_t n)
{
    unsigned char head[12], tail[4];
    put_little(head, n, 8);
    put_little(head + 8, masked_crc(f, head, 8), 4);
    put_little(tail, masked_crc(f, data, n), 4);
    if (fwrite(head, 1, sizeof head, f->stream) != sizeof head ||
        fwrite(data, 1, n, f->stream) != n ||
        fwrite(tail, 1, sizeof tail, f->stream) != sizeof tail || fflush(f->stream) != 0) {
        int error = errno, cut = ftruncate(fileno(f->stream), f->size);
        (void)cut; /* the failure to report is the first one */
        return fail(SPECTRA_EIO, "%s: cannot write: %s", f->path, strerror(error));
    }
    f->size += (off_t)(sizeof head + n + sizeof tail);
    return SPECTRA_OK;
}

/* ---- protocol buffers -------------------------------------------------------------------------
 */

/* A message being made; what does not fit is left out. */
typedef struct message {
    unsigned char data[EVENT_MAX];
    size_t size;
} message;

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

static void put_varint(message *m, uint64_t x)
{
    for (; m->size < EVENT_MAX; x >>= 7) {
        m->data[m->size++] = (unsigned char)((x & 127) | (x > 127 ? 128 : 0));
        if (x <= 127)
            break;
    }
}

static void put_fixed(message *m, int field, const void *x, int bytes)
{
    uint64_t bits = 0;
    memcpy(&bits, x, (size_t)bytes); /* little-endian machines, as everywhere else here */
    put_varint(m, (uint64_t)field << 3 | (bytes == 8 ? WIRE_64 : WIRE_32));
    if (m->size + 8 <= EVENT_MAX) {
        put_little(m->data + m->size, bits, bytes);
        m->size += (size_t)bytes;
    }
}

static void put_bytes(message *m, int field, const void *x, size_t n)
{
    put_varint(m, (uint64_t)field << 3 | WIRE_BYTES);
    put_varint(m, n);
    if (m->size + n <= EVENT_MAX) {
        memcpy(m->data + m->size, x, n);
        m->size += n;
    }
}

/* Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; } */
static void start_event(message *m, int64_t step)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double wall = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    put_fixed(m, 1, &wall, 8);
    put_varint(m, 2 << 3 | WIRE_VARINT);
    put_varint(m, (uint64_t)step);
}

/* Summary { repeated Value value = 1; }, Value { string tag = 1; float simple_value = 2; } */
static void add_scalar(message *summary, const char *split, const char *name, double value)
{
    message v = {.size = 0};
    char tag[128];
    int n = snprintf(tag, sizeof tag, "%s/%s", split, name);
    float x = (float)value;
    if (n < 0 || n >= (int)sizeof tag || summary->size + 256 > EVENT_MAX)
        return;
    put_bytes(&v, 1, tag, (size_t)n);
    put_fixed(&v, 2, &x, 4);
    put_bytes(summary, 1, v.data, v.size);
}

spectra_status events_line(event_file *f, const json_t *line)
{
    const char *split = json_string_value(json_object_get(line, "split")), *name;
    message summary = {.size = 0}, event = {.size = 0};
    /* jansson's iterators take no const; nothing is changed */
    json_t *object = (json_t *)(uintptr_t)line;
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        const json_t *value = json_object_iter_value(at);
        name = json_object_iter_key(at);
        if (json_is_number(value) && strcmp(name, "step") != 0)
            add_scalar(&summary, split ? split : "run", name, json_number_value(value));
    }
    if (summary.size == 0)
        return SPECTRA_OK;
    start_event(&event, json_integer_value(json_object_get(line, "step")));
    put_bytes(&event, 5, summary.data, summary.size);
    return write_record(f, event.data, event.size);
}

/* ---- the file ---------------------------------------------------------------------------------
 */

spectra_status events_open(const char *path, event_file **out)
{
    static const char version[] = "brain.Event:2";
    event_file *f = calloc(1, sizeof *f);
    if (!f || !(f->path = strdup(path))) {
        free(f);
        return fail(SPECTRA_ENOMEM, "%s: out of memory", path);
    }
    for (uint32_t i = 0; i < 256; i++) {
        f->table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            f->table[i] = f->table[i] >> 1 ^ (f->table[i] & 1 ? 0x82f63b78 : 0);
    }
    f->stream = fopen(path, "wbe");
    message first = {.size = 0};
    start_event(&first, 0);
    put_bytes(&first, 3, version, sizeof version - 1);
    spectra_status status = f->stream
                                ? write_record(f, first.data, first.size)
                                : fail(SPECTRA_EIO, "%s: cannot write: %s", path, strerror(errno));
    if (status != SPECTRA_OK) {
        events_close(f);
        return status;
    }
    *out = f;
    return SPECTRA_OK;
}

void events_close(event_file *f)
{
    if (!f)
        return;
    if (f->stream)
        fclose(f->stream);
    free(f->path);
    free(f);
}
