#define _GNU_SOURCE
#include "file/jsonl.h"

#include "base/status.h"
#include "file/tensorboard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct run_log {
    char *path;
    int fd;
    off_t size;         /* of whole lines */
    event_file *events; /* the same numbers for TensorBoard */
};

spectra_status log_read(const char *path, spectra_status (*each)(void *context, const json_t *line),
                        void *context)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return fail(SPECTRA_EIO, "%s: cannot read: %s", path, strerror(errno));
    char *text = NULL;
    size_t capacity = 0;
    ssize_t n;
    spectra_status status = SPECTRA_OK;
    for (int64_t number = 1; status == SPECTRA_OK && (n = getline(&text, &capacity, f)) > 0;
         number++) {
        if (text[n - 1] != '\n')
            break;
        json_error_t error;
        json_t *line = json_loadb(text, (size_t)n, 0, &error);
        if (line && json_is_integer(json_object_get(line, "step")) &&
            json_is_string(json_object_get(line, "split")))
            status = each(context, line);
        else
            status = fail(SPECTRA_EFORMAT, "%s:%lld: %s", path, (long long)number,
                          line ? "no 'step' and 'split'" : error.text);
        json_decref(line);
    }
    free(text);
    fclose(f);
    return status;
}

typedef struct kept_lines {
    int64_t keep;
    char *text;
    size_t size;
    FILE *stream;
    event_file *events;
} kept_lines;

static char *line_text(const json_t *line)
{
    return json_dumps(line, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
}

static spectra_status keep_line(void *context, const json_t *line)
{
    kept_lines *k = context;
    const char *split = json_string_value(json_object_get(line, "split"));
    if (json_integer_value(json_object_get(line, "step")) > k->keep || strcmp(split, "test") == 0)
        return SPECTRA_OK;
    char *text = line_text(line);
    if (!text || fprintf(k->stream, "%s\n", text) < 0) {
        free(text);
        return fail(SPECTRA_ENOMEM, "reading the log: out of memory");
    }
    free(text);
    return events_line(k->events, line);
}

/* Writes all or nothing at the end of the whole lines. */
static spectra_status append(run_log *log, const char *text, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = pwrite(log->fd, text + done, size - done, log->size + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            int error = n < 0 ? errno : ENOSPC;
            int cut = ftruncate(log->fd, log->size);
            (void)cut; /* the failure to report is the first one */
            return fail(SPECTRA_EIO, "%s: cannot write: %s", log->path, strerror(error));
        }
        done += (size_t)n;
    }
    log->size += (off_t)size;
    return SPECTRA_OK;
}

static spectra_status rewrite(run_log *log, int64_t keep)
{
    if (keep < 0 || access(log->path, F_OK) != 0)
        return SPECTRA_OK;
    kept_lines k = {.keep = keep, .events = log->events};
    k.stream = open_memstream(&k.text, &k.size);
    if (!k.stream)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", log->path);
    spectra_status status = log_read(log->path, keep_line, &k);
    if (fclose(k.stream) != 0 && status == SPECTRA_OK)
        status = fail(SPECTRA_ENOMEM, "%s: out of memory", log->path);
    if (status == SPECTRA_OK)
        status = append(log, k.text, k.size);
    free(k.text);
    return status;
}

/* events.out.tfevents.* beside the log: made anew of the lines that are kept. */
static spectra_status open_events(run_log *log)
{
    const char *slash = strrchr(log->path, '/');
    char *path = NULL;
    if (asprintf(&path, "%.*sevents.out.tfevents.0.spectraformer",
                 slash ? (int)(slash - log->path + 1) : 0, log->path) < 0)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", log->path);
    spectra_status status = events_open(path, &log->events);
    free(path);
    return status;
}

spectra_status log_open(const char *path, int64_t keep, run_log **out)
{
    run_log *log = calloc(1, sizeof *log);
    if (!log || !(log->path = strdup(path))) {
        free(log);
        return fail(SPECTRA_ENOMEM, "%s: out of memory", path);
    }
    log->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (keep < 0 ? O_TRUNC : 0), 0666);
    spectra_status status = SPECTRA_OK;
    if (log->fd < 0)
        status = fail(SPECTRA_EIO, "%s: cannot write: %s", path, strerror(errno));
    else
        status = open_events(log);
    if (status == SPECTRA_OK)
        status = rewrite(log, keep);
    if (status == SPECTRA_OK && ftruncate(log->fd, log->size) != 0)
        status = fail(SPECTRA_EIO, "%s: cannot cut: %s", path, strerror(errno));
    if (status != SPECTRA_OK) {
        log_close(log);
        return status;
    }
    *out = log;
    return SPECTRA_OK;
}

void log_close(run_log *log)
{
    if (!log)
        return;
    if (log->fd >= 0)
        close(log->fd);
    events_close(log->events);
    free(log->path);
    free(log);
}

spectra_status log_line(run_log *log, json_t *line)
{
    char *text = line ? line_text(line) : NULL;
    spectra_status status = SPECTRA_OK;
    if (text) {
        size_t n = strlen(text);
        text[n] = '\n'; /* in the place of the end; the length says where it ends */
        status = append(log, text, n + 1);
        free(text);
    } else {
        status = fail(SPECTRA_ENOMEM, "%s: out of memory", log->path);
    }
    if (status == SPECTRA_OK)
        status = events_line(log->events, line);
    json_decref(line);
    return status;
}
