/* The driver of fake.h: modules, launches, recordings. */
#define _GNU_SOURCE
#include "fake/fake.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

/* ---- modules ----------------------------------------------------------------------------------
 */

enum { NAME = 128 };

/* An image is "FAKE <target> <version of NVRTC> <name>\n" and the text it was made from. */
static int image_suits(const char *image, char name[NAME], const char **text)
{
    char kind[16], suffix[4] = "";
    int target = 0, version = 0;
    CHECK(sscanf(image, "FAKE %15[a-z]_%d%3[a-z] %d", kind, &target, suffix, &version) == 4 ||
              sscanf(image, "FAKE %15[a-z]_%d %d", kind, &target, &version) == 3,
          FAKE_INVALID_IMAGE);
    *text = strchr(image, '\n') + 1;
    CHECK(sscanf(image, "FAKE %*s %*d %127[^\n]", name) == 1, FAKE_INVALID_IMAGE);
    if (strcmp(kind, "compute") == 0) {
        CHECK(version <= fake_driver(), FAKE_UNSUPPORTED_PTX);
        return target <= fake_arch() ? FAKE_OK : FAKE_NO_BINARY;
    }
    CHECK(strcmp(kind, "sm") == 0, FAKE_INVALID_IMAGE);
    if (suffix[0])
        return target == fake_arch() ? FAKE_OK : FAKE_NO_BINARY;
    return target / 10 == fake_arch() / 10 && target <= fake_arch() ? FAKE_OK : FAKE_NO_BINARY;
}

FAKE_PUBLIC int cuModuleLoadData(void **out, const void *image)
{
    const char *text = NULL;
    char name[NAME];
    ENTER();
    int code = fake_forbidden();
    if (code)
        return code;
    /* what `make gen ARCH=...` made is real machine code, which only a GPU runs */
    CHECK(strncmp(image, "FAKE ", 5) == 0, FAKE_INVALID_IMAGE);
    code = image_suits(image, name, &text);
    if (code)
        return code;
    void *object = fake_compile(name, text);
    CHECK(object, FAKE_INVALID_IMAGE);
    fake_module *m = calloc(1, sizeof *m);
    m->object = object;
    m->text = strdup(text);
    *out = fake_add(FAKE_HANDLE_MODULE, m);
    return FAKE_OK;
}

FAKE_PUBLIC int cuModuleUnload(void *module)
{
    fake_module *m = module;
    CHECK(fake_valid(FAKE_HANDLE_MODULE, m), FAKE_INVALID_HANDLE);
    int code = fake_forbidden();
    if (code)
        return code;
    fake_finish_all();
    while (m->functions) {
        fake_function *f = m->functions;
        m->functions = f->next;
        fake_drop(FAKE_HANDLE_FUNCTION, f);
        free(f->ptx);
        free(f);
    }
    fake_drop(FAKE_HANDLE_MODULE, m);
    free(m->text);
    free(m);
    return FAKE_OK;
}

FAKE_PUBLIC int cuModuleGetFunction(void **out, void *module, const char *name)
{
    fake_module *m = module;
    const emulator_kernel *kernel = NULL;
    ENTER();
    CHECK(fake_valid(FAKE_HANDLE_MODULE, m), FAKE_INVALID_HANDLE);
    CHECK(emulator_load(m->object, name, &kernel) == SPECTRA_OK, FAKE_NOT_FOUND);
    fake_function *f = calloc(1, sizeof *f);
    *f = (fake_function){.module = m, .kernel = kernel, .shared = 48 << 10, .next = m->functions};
    snprintf(f->name, sizeof f->name, "%s", name);
    m->functions = f;
    *out = fake_add(FAKE_HANDLE_FUNCTION, f);
    return FAKE_OK;
}

FAKE_PUBLIC int cuFuncGetAttribute(int *value, int attribute, void *function)
{
    const fake_function *f = function;
    ENTER();
    CHECK(fake_valid(FAKE_HANDLE_FUNCTION, f), FAKE_INVALID_HANDLE);
    CHECK(attribute == 0 || attribute == 1 || attribute == 8, FAKE_INVALID_VALUE);
    *value = attribute == 0 ? f->kernel->threads : attribute == 1 ? 0 : f->shared;
    return FAKE_OK;
}

FAKE_PUBLIC int cuFuncSetAttribute(void *function, int attribute, int value)
{
    ENTER();
    CHECK(fake_valid(FAKE_HANDLE_FUNCTION, function), FAKE_INVALID_HANDLE);
    CHECK(attribute == 8 && value >= 0 && value <= fake_shared_limit(), FAKE_INVALID_VALUE);
    ((fake_function *)function)->shared = value;
    return FAKE_OK;
}

FAKE_PUBLIC int cuFuncGetParamInfo(void *function, size_t number, size_t *offset, size_t *bytes)
{
    ENTER();
    CHECK(fake_valid(FAKE_HANDLE_FUNCTION, function), FAKE_INVALID_HANDLE);
    CHECK(number == 0, FAKE_INVALID_VALUE);
    *offset = 0;
    *bytes = (size_t)((fake_function *)function)->kernel->args_bytes;
    return FAKE_OK;
}

/* ---- launches ---------------------------------------------------------------------------------
 */

static int launch(fake_function *f, const unsigned grid[3], const unsigned block[3],
                  unsigned shared, unsigned cluster, void *stream, void **arguments, void **extra)
{
    ENTER();
    CHECK(fake_valid(FAKE_HANDLE_FUNCTION, f), FAKE_INVALID_HANDLE);
    CHECK(fake_valid(FAKE_HANDLE_STREAM, stream), FAKE_INVALID_HANDLE);
    CHECK(arguments && arguments[0] && !extra, FAKE_INVALID_VALUE);
    CHECK(grid[0] > 0 && grid[1] > 0 && grid[2] > 0 && grid[0] <= INT_MAX && grid[1] <= 65535 &&
              grid[2] <= 65535,
          FAKE_INVALID_VALUE);
    CHECK(block[0] > 0 && block[0] <= 1024 && block[1] == 1 && block[2] == 1, FAKE_INVALID_VALUE);
    CHECK((int)block[0] <= f->kernel->threads, FAKE_LAUNCH_RESOURCES);
    CHECK((int)shared <= f->shared, FAKE_INVALID_VALUE);
    CHECK(cluster == 1 || (fake_arch() >= 90 && cluster <= 8 && grid[0] % cluster == 0),
          FAKE_INVALID_VALUE);
    fake_work w = {.kind = FAKE_LAUNCH,
                   .owned = malloc((size_t)f->kernel->args_bytes),
                   .bytes = (size_t)f->kernel->args_bytes,
                   .kernel = f->kernel,
                   .function = f,
                   .grid = {.blocks = {grid[0], grid[1], grid[2]},
                            .threads = (int)block[0],
                            .cluster = (int)cluster,
                            .shared_bytes = shared}};
    memcpy(w.owned, arguments[0], w.bytes);
    return fake_push(stream, &w);
}

FAKE_PUBLIC int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                               unsigned block_x, unsigned block_y, unsigned block_z,
                               unsigned shared, void *stream, void **arguments, void **extra)
{
    return launch(function, (const unsigned[]){grid_x, grid_y, grid_z},
                  (const unsigned[]){block_x, block_y, block_z}, shared, 1, stream, arguments,
                  extra);
}

typedef struct launch_attribute {
    int id;
    char pad[4];
    unsigned cluster[16];
} launch_attribute;

typedef struct launch_config {
    unsigned grid[3], block[3], shared;
    void *stream;
    const launch_attribute *attributes;
    unsigned count;
} launch_config;

FAKE_PUBLIC int cuLaunchKernelEx(const launch_config *c, void *function, void **arguments,
                                 void **extra)
{
    CHECK(c->count == 1 && c->attributes[0].id == 4, FAKE_INVALID_VALUE);
    const unsigned *cluster = c->attributes[0].cluster;
    CHECK(cluster[0] > 0 && cluster[1] == 1 && cluster[2] == 1, FAKE_INVALID_VALUE);
    return launch(function, c->grid, c->block, c->shared, cluster[0], c->stream, arguments, extra);
}

/* ---- recordings -------------------------------------------------------------------------------
 */

FAKE_PUBLIC int cuStreamBeginCapture_v2(void *stream, int mode)
{
    fake_stream *s = stream;
    ENTER();
    CHECK(fake_valid(FAKE_HANDLE_STREAM, s), FAKE_INVALID_HANDLE);
    CHECK(!fake_recording && mode >= 0 && mode <= 2, FAKE_INVALID_VALUE);
    s->recording = calloc(1, sizeof *s->recording);
    s->invalidated = 0;
    fake_recording = s;
    return FAKE_OK;
}

FAKE_PUBLIC int cuStreamEndCapture(void *stream, void **graph)
{
    fake_stream *s = stream;
    ENTER();
    CHECK(fake_valid(FAKE_HANDLE_STREAM, s), FAKE_INVALID_HANDLE);
    CHECK(fake_recording == s, FAKE_INVALID_VALUE);
    fake_list *list = s->recording;
    s->recording = NULL;
    fake_recording = NULL;
    if (s->invalidated) {
        fake_list_free(list);
        free(list);
        return FAKE_CAPTURE_INVALIDATED;
    }
    fake_graph *g = malloc(sizeof *g);
    g->list = *list;
    free(list);
    *graph = fake_add(FAKE_HANDLE_GRAPH, g);
    return FAKE_OK;
}

FAKE_PUBLIC int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags)
{
    const fake_graph *g = graph;
    ENTER();
    CHECK(fake_valid(FAKE_HANDLE_GRAPH, g), FAKE_INVALID_HANDLE);
    CHECK(flags == 0, FAKE_INVALID_VALUE);
    fake_graph *copy = calloc(1, sizeof *copy);
    for (int i = 0; i < g->list.count; i++) {
        fake_work w = g->list.item[i];
        if (w.owned) {
            w.owned = malloc(w.bytes);
            memcpy(w.owned, g->list.item[i].owned, w.bytes);
        }
        fake_list_push(&copy->list, &w);
    }
    *exec = fake_add(FAKE_HANDLE_EXEC, copy);
    return FAKE_OK;
}

FAKE_PUBLIC int cuGraphLaunch(void *exec, void *stream)
{
    ENTER();
    CHECK(fake_valid(FAKE_HANDLE_EXEC, exec), FAKE_INVALID_HANDLE);
    CHECK(fake_valid(FAKE_HANDLE_STREAM, stream), FAKE_INVALID_HANDLE);
    return fake_push(stream, &(fake_work){.kind = FAKE_GRAPH, .graph = exec});
}

static int graph_free(fake_kind kind, void *graph)
{
    CHECK(fake_valid(kind, graph), FAKE_INVALID_HANDLE);
    fake_finish_all();
    fake_drop(kind, graph);
    fake_list_free(&((fake_graph *)graph)->list);
    free(graph);
    return FAKE_OK;
}

FAKE_PUBLIC int cuGraphExecDestroy(void *exec)
{
    return graph_free(FAKE_HANDLE_EXEC, exec);
}

FAKE_PUBLIC int cuGraphDestroy(void *graph)
{
    return graph_free(FAKE_HANDLE_GRAPH, graph);
}
