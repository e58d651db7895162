/* What the parts of fake.h share: handles, the machine, work. */
#define _GNU_SOURCE
#include "fake/fake.h"

#include "kernel/jit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const kind_names[FAKE_KINDS] = {"stream", "module", "function", "graph",
                                                   "graph exec"};

/* Every handle that is alive. */
typedef struct handle {
    fake_kind kind;
    void *at;
    struct handle *next;
} handle;

static handle *handles;
fake_machine fake;
fake_stream *fake_recording;
int fake_interpreted;
__thread void *fake_current;

static struct {
    const char *what;
    int count;
} counts[16];

/* ---- shared with the other parts -------------------------------------------------------------
 */

long fake_setting(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtol(text, NULL, 10) : otherwise;
}

void fake_count(const char *what, int change)
{
    int i = 0;
    while (counts[i].what && strcmp(counts[i].what, what) != 0)
        i++;
    counts[i].what = what;
    counts[i].count += change;
}

/* What was left behind; the process then fails. */
static __attribute__((destructor)) void at_exit(void)
{
    int left = fake.retained;
    if (fake_interpreted)
        fprintf(stderr, "fake cuda: %d launches interpreted\n", fake_interpreted);
    if (fake.retained)
        fprintf(stderr, "fake cuda: the context was left %d times\n", fake.retained);
    for (int i = 0; i < 16 && counts[i].what; i++) {
        left += counts[i].count != 0;
        if (counts[i].count)
            fprintf(stderr, "fake cuda: %d x %s left\n", counts[i].count, counts[i].what);
    }
    if (left) {
        fflush(NULL);
        _exit(99);
    }
}

void *fake_compile(const char *name, const char *text)
{
    static int configured;
    void *object = NULL;
    const jit_options options = {
        .policy = JIT_ALWAYS, .search = getenv("PATH"), .cache = getenv("FAKE_CACHE")};
    if (!configured)
        configured = jit_configure(&options) == SPECTRA_OK;
    return emulator_compile(name, text, &object) == SPECTRA_OK ? object : NULL;
}

int fake_arch(void)
{
    return (int)fake_setting("FAKE_ARCH", 90);
}

int fake_driver(void)
{
    return (int)fake_setting("FAKE_DRIVER", 13990);
}

int fake_context(void)
{
    if (!fake.initialised)
        return FAKE_NOT_INITIALIZED;
    if (fake_current != &fake.context || fake.retained < 1)
        return FAKE_INVALID_CONTEXT;
    return fake.broken;
}

int fake_in_memory(const void *at, size_t bytes)
{
    for (const fake_memory *m = fake.memories; m; m = m->next)
        if ((const char *)at >= m->at && (const char *)at + bytes <= m->at + m->bytes)
            return 1;
    return 0;
}

void *fake_add(fake_kind kind, void *at)
{
    handle *h = malloc(sizeof *h);
    *h = (handle){kind, at, handles};
    handles = h;
    fake_count(kind_names[kind], 1);
    return at;
}

int fake_valid(fake_kind kind, const void *at)
{
    const handle *h = handles;
    while (h && !(h->at == at && h->kind == kind))
        h = h->next;
    return h != NULL;
}

void fake_drop(fake_kind kind, void *at)
{
    handle **h = &handles;
    while (!((*h)->at == at && (*h)->kind == kind))
        h = &(*h)->next;
    handle *gone = *h;
    *h = gone->next;
    free(gone);
    fake_count(kind_names[kind], -1);
}

/* What must not be done while a stream records; it ends the recording. */
int fake_forbidden(void)
{
    if (!fake_recording)
        return FAKE_OK;
    fake_recording->invalidated = 1;
    fprintf(stderr, "fake cuda: a call that is not allowed while a stream records\n");
    return FAKE_CAPTURE_UNSUPPORTED;
}

/* ---- work -------------------------------------------------------------------------------------
 */

void fake_list_push(fake_list *l, const fake_work *work)
{
    if (l->count == l->room) {
        l->room = 2 * l->room + 16;
        l->item = realloc(l->item, (size_t)l->room * sizeof *l->item);
    }
    l->item[l->count++] = *work;
}

void fake_list_free(fake_list *l)
{
    for (int i = 0; i < l->count; i++)
        free(l->item[i].owned);
    free(l->item);
    *l = (fake_list){.item = NULL};
}

int fake_push(void *stream, const fake_work *work)
{
    fake_stream *s = stream;
    fake_list_push(s->recording ? s->recording : &s->queue, work);
    return FAKE_OK;
}

static float at(const float *x, int transpose, int i, int j, int ld)
{
    return transpose ? x[(int64_t)i * ld + j] : x[(int64_t)j * ld + i];
}

static float rounded(float x, int tf32)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = tf32 ? (bits + 0x1000) & ~0x1fffu : bits;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

static void multiply(const fake_product *p)
{
    for (int j = 0; j < p->n; j++)
        for (int i = 0; i < p->m; i++) {
            double sum = 0;
            for (int k = 0; k < p->k; k++)
                sum += (double)rounded(at(p->A, p->ta, i, k, p->lda), p->tf32) *
                       (double)rounded(at(p->B, p->tb, k, j, p->ldb), p->tf32);
            float *c = &p->C[(int64_t)j * p->ldc + i];
            double old = p->beta != 0 ? (double)p->beta * (double)*c : 0; /* not read */
            *c = (float)((double)p->alpha * sum + old);
        }
}

static int launch(const fake_work *w)
{
    if (getenv("FAKE_PTX"))
        return fake_interpret(w);
    int64_t count = 0;
    emulator_range ranges[4096];
    for (const fake_memory *m = fake.memories; m && count < 4096; m = m->next)
        ranges[count++] = (emulator_range){m->at, (int64_t)m->bytes};
    const emulator_options options = {.allocations = ranges, .allocation_count = count};
    if (emulator_launch(w->kernel, &w->grid, w->owned, (int64_t)w->bytes, &options) == SPECTRA_OK)
        return FAKE_OK;
    fprintf(stderr, "fake cuda: %s\n", spectra_message());
    return FAKE_LAUNCH_FAILED;
}

/* Memory may have been freed since it was asked for. */
static int run(const fake_list *l)
{
    for (int i = 0; i < l->count; i++) {
        const fake_work *w = &l->item[i];
        int device_to = fake_in_memory(w->to, w->bytes);
        int device_from = fake_in_memory(w->from, w->bytes);
        int code = FAKE_OK;
        switch (w->kind) {
        case FAKE_COPY: /* value: 0 from host memory, 1 within the device, 2 to host fake_memory */
            if ((w->value < 2 && !device_to) || (w->value > 0 && !device_from))
                code = FAKE_LAUNCH_FAILED;
            else
                memmove(w->to, w->owned ? w->owned : w->from, w->bytes);
            break;
        case FAKE_FILL:
            if (device_to)
                memset(w->to, w->value, w->bytes);
            code = device_to ? FAKE_OK : FAKE_LAUNCH_FAILED;
            break;
        case FAKE_LAUNCH:
            code = launch(w);
            break;
        case FAKE_PRODUCT:
            multiply(&w->product);
            break;
        case FAKE_GRAPH:
            code = run(&w->graph->list);
            break;
        }
        if (code) {
            fprintf(stderr, "fake cuda: work %d of a stream failed\n", i);
            return code;
        }
    }
    return FAKE_OK;
}

int fake_finish(fake_stream *s)
{
    int code = run(&s->queue);
    fake_list_free(&s->queue);
    fake.broken = code ? code : fake.broken;
    return code;
}

void fake_finish_all(void)
{
    for (handle *h = handles; h; h = h->next)
        if (h->kind == FAKE_HANDLE_STREAM)
            (void)fake_finish(h->at);
}
