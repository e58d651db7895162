/* TensorBoard event files read back by a decoder written from the format's description: framing
 * with masked CRC-32C, protocol buffers, the numbers of the log.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "file/jsonl.h"
#include "file/tensorboard.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bit by bit, unlike the library's table. */
static uint32_t crc32c(const unsigned char *data, size_t n)
{
    uint32_t c = ~0U;
    for (size_t i = 0; i < n; i++) {
        c ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? c >> 1 ^ 0x82f63b78 : c >> 1;
    }
    return ~c;
}

static uint32_t masked(uint32_t c)
{
    return (c >> 15 | c << 17) + 0xa282ead8U;
}

static uint64_t little(const unsigned char *p, int bytes)
{
    uint64_t x = 0;
    for (int i = bytes - 1; i >= 0; i--)
        x = x << 8 | p[i];
    return x;
}

typedef struct scalar {
    char tag[64];
    double value;
    int64_t step;
} scalar;

typedef struct decoded {
    int records, count;
    char version[32];
    scalar scalars[64];
} decoded;

static uint64_t varint(const unsigned char **p)
{
    uint64_t x = 0;
    for (int shift = 0;; shift += 7) {
        const unsigned char byte = *(*p)++;
        x |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return x;
    }
}

/* One field; returns its number, sets what it holds. */
static int field(const unsigned char **p, uint64_t *number, const unsigned char **bytes)
{
    const uint64_t key = varint(p);
    *bytes = *p;
    switch (key & 7) {
    case 0:
        *number = varint(p);
        break;
    case 1:
        *number = little(*p, 8), *p += 8;
        break;
    case 2:
        *number = varint(p), *bytes = *p, *p += *number;
        break;
    case 5:
        *number = little(*p, 4), *p += 4;
        break;
    default:
        fail_msg("wire type %d", (int)(key & 7));
    }
    return (int)(key >> 3);
}

static void decode_value(const unsigned char *p, const unsigned char *end, scalar *s)
{
    while (p < end) {
        uint64_t n;
        const unsigned char *bytes;
        const int which = field(&p, &n, &bytes);
        if (which == 1) {
            assert_true(n < sizeof s->tag);
            memcpy(s->tag, bytes, n);
            s->tag[n] = 0;
        } else if (which == 2) {
            const uint32_t bits = (uint32_t)n;
            float x;
            memcpy(&x, &bits, sizeof x);
            s->value = (double)x;
        }
    }
}

static void decode_event(const unsigned char *p, const unsigned char *end, decoded *out)
{
    int64_t step = 0;
    while (p < end) {
        uint64_t n, m;
        const unsigned char *bytes, *inner;
        const int which = field(&p, &n, &bytes);
        if (which == 2)
            step = (int64_t)n;
        if (which == 3)
            snprintf(out->version, sizeof out->version, "%.*s", (int)n, (const char *)bytes);
        if (which != 5)
            continue;
        for (const unsigned char *q = bytes; q < bytes + n;) {
            assert_int_equal(field(&q, &m, &inner), 1);
            assert_true(out->count < 64);
            out->scalars[out->count].step = step;
            decode_value(inner, inner + m, &out->scalars[out->count++]);
        }
    }
    assert_ptr_equal(p, end);
}

static decoded decode(const char *path)
{
    static unsigned char data[1 << 16];
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s is not there", path);
    const size_t size = fread(data, 1, sizeof data, f);
    fclose(f);
    decoded out = {0};
    for (size_t at = 0; at < size; out.records++) {
        assert_true(at + 12 <= size);
        const uint64_t n = little(data + at, 8);
        assert_int_equal(little(data + at + 8, 4), masked(crc32c(data + at, 8)));
        assert_true(at + 12 + n + 4 <= size);
        assert_int_equal(little(data + at + 12 + n, 4), masked(crc32c(data + at + 12, n)));
        decode_event(data + at + 12, data + at + 12 + n, &out);
        at += 12 + n + 4;
    }
    return out;
}

static void expect(const decoded *d, int i, const char *tag, int64_t step, double value)
{
    assert_true(i < d->count);
    assert_string_equal(d->scalars[i].tag, tag);
    assert_int_equal(d->scalars[i].step, step);
    assert_true(d->scalars[i].value == (double)(float)value);
}

static char folder[] = "/tmp/test_events_XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? chdir(folder) : -1;
}

static const char *const events_name = "events.out.tfevents.0.spectraformer";

static int remove_folder(void **state)
{
    (void)state;
    unlink("log.jsonl");
    unlink(events_name);
    return chdir("/") || rmdir(folder);
}

static void add(run_log *log, int step, const char *split, double loss)
{
    json_t *line = json_pack("{s:i, s:s, s:f, s:b, s:[i]}", "step", step, "split", split, "loss",
                             loss, "best", 1, "list", 3);
    if (log_line(log, line) != SPECTRA_OK)
        fail_msg("%s", spectra_message());
}

static void test_crc(void **state)
{
    (void)state;
    assert_int_equal(crc32c((const unsigned char *)"123456789", 9), 0xe3069283);
}

/* Scalars of every line; after resuming, of the lines that were kept and of the new ones. */
static void test_log(void **state)
{
    (void)state;
    run_log *log = NULL;
    assert_int_equal(log_open("log.jsonl", -1, &log), SPECTRA_OK);
    add(log, 1, "train", 2.5);
    add(log, 2, "train", 2.25);
    add(log, 2, "dev", 1.0 / 3);
    add(log, 300, "train", -1e-20);
    log_close(log);
    decoded d = decode(events_name);
    assert_string_equal(d.version, "brain.Event:2");
    assert_int_equal(d.records, 5);
    assert_int_equal(d.count, 4);
    expect(&d, 0, "train/loss", 1, 2.5);
    expect(&d, 2, "dev/loss", 2, 1.0 / 3);
    expect(&d, 3, "train/loss", 300, -1e-20);
    assert_int_equal(log_open("log.jsonl", 2, &log), SPECTRA_OK);
    add(log, 3, "train", 7);
    log_close(log);
    d = decode(events_name);
    assert_int_equal(d.count, 4);
    expect(&d, 2, "dev/loss", 2, 1.0 / 3);
    expect(&d, 3, "train/loss", 3, 7);
}

static void test_refusal(void **state)
{
    (void)state;
    event_file *f = NULL;
    assert_int_equal(events_open("no/such/folder", &f), SPECTRA_EIO);
    assert_null(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_crc), cmocka_unit_test(test_log),
                                       cmocka_unit_test(test_refusal)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
