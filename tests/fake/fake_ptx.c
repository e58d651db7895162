/* Launches of fake.h in a PTX interpreter: the PTX that NVIDIA's compiler makes of the text, with
 * every struct the driver fills and all memory it hands out, in three orders of threads that must
 * give the same bits, and no finding.
 *
 * The interpreter gives numbers and whole buffers as arguments, so an entry of our own takes the
 * struct as words; words that point into memory of the GPU get the address that the interpreter
 * will give the allocation, which is a buffer behind the words.
 */
#define _GNU_SOURCE
#include "device/nvrtc.h"
#include "fake/fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BUFFERS = 64, PATH = 512 };

/* What the launch may touch, in the order of its arguments. */
typedef struct buffers {
    const fake_memory *memory[BUFFERS];
    uint64_t address[BUFFERS];
    int count;
} buffers;

static const char *folder(void)
{
    return getenv("FAKE_PTX_FOLDER");
}

static void path_of(char path[PATH], const char *name, const char *ending)
{
    snprintf(path, PATH, "%s/%s%s", folder(), name, ending);
}

static int failed(const char *kernel, const char *what)
{
    fprintf(stderr, "fake cuda: %s in the PTX interpreter: %s\n", kernel, what);
    return FAKE_LAUNCH_FAILED;
}

static int write_file(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "w");
    if (!f)
        return 0;
    const int whole = fwrite(data, 1, bytes, f) == bytes;
    return fclose(f) == 0 && whole;
}

/* ---- the entry --------------------------------------------------------------------------------
 */

/* The kernel's text with the entry `flat`; to be freed, NULL where the kernel is not in it. */
static char *flat_text(const fake_function *f, size_t words)
{
    char pattern[96], type[64], bounds[128], *out = NULL;
    size_t size = 0;
    snprintf(pattern, sizeof pattern, "KERNEL(%s, ", f->name);
    const char *at = strstr(f->module->text, pattern);
    if (!at || sscanf(at + strlen(pattern), "%63[a-z_0-9], %127[^)]", type, bounds) != 2)
        return NULL;
    FILE *text = open_memstream(&out, &size);
    fprintf(text, "#define RT_FLAT\n%s\nextern \"C\" __global__ void __launch_bounds__(%s) flat(",
            f->module->text, bounds);
    for (size_t i = 0; i < words; i++)
        fprintf(text, "unsigned long long w%zu, ", i);
    for (int i = 0; i < BUFFERS; i++)
        fprintf(text, "void *b%d%s", i, i + 1 < BUFFERS ? ", " : ")\n{\n");
    fprintf(text,
            "    union {\n        unsigned long long words[%zu];\n        %s args;\n    } u;\n",
            words, type);
    for (size_t i = 0; i < words; i++)
        fprintf(text, "    u.words[%zu] = w%zu;\n", i, i);
    fprintf(text, "    %s_body(u.args);\n}\n", f->name);
    fclose(text);
    return out;
}

/* Makes the function's PTX, once; its path in f->ptx. */
static int compile(fake_function *f, size_t words)
{
    static int number;
    char name[96], source[PATH], command[3 * PATH];
    if (f->ptx)
        return FAKE_OK;
    snprintf(name, sizeof name, "%s-%d", f->name, number++);
    char *text = flat_text(f, words);
    if (!text)
        return failed(f->name, "no such kernel in the module's text");
    path_of(source, name, ".cu");
    const int written = write_file(source, text, strlen(text));
    free(text);
    if (!written)
        return failed(source, "cannot be written");
    /* not with the libraries that stand in for NVIDIA's */
    const char *libraries = getenv("FAKE_PTX_LIBRARIES");
    snprintf(command, sizeof command, "LD_LIBRARY_PATH='%s' '%s' --compile '%s' '%s/%s.ptx' >&2",
             libraries ? libraries : "", getenv("FAKE_PTX_COMPILER"), source, folder(), name);
    if (system(command) != 0)
        return failed(f->name, "its text does not compile");
    f->ptx = malloc(PATH);
    path_of(f->ptx, name, ".ptx");
    return FAKE_OK;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

/* Addresses of buffers as the interpreter deals them out: pages with two free ones behind. */
static uint64_t next_address(const buffers *b)
{
    const int last = b->count - 1;
    if (last < 0)
        return 0x7f0000000000;
    return b->address[last] + (b->memory[last]->bytes + 4095 + 8192) / 4096 * 4096;
}

/* The word for the interpreter: of a pointer into memory of the GPU, which becomes a buffer. */
static uint64_t translated(buffers *b, uint64_t word)
{
    const fake_memory *m = fake.memories;
    while (m && !(word >= (uintptr_t)m->at && word < (uintptr_t)m->at + m->bytes))
        m = m->next;
    if (!m)
        return word;
    int i = 0;
    while (i < b->count && b->memory[i] != m)
        i++;
    if (i == b->count && i < BUFFERS) {
        b->address[i] = next_address(b);
        b->memory[b->count++] = m;
    }
    return i < BUFFERS ? b->address[i] + (word - (uintptr_t)m->at) : word;
}

static int write_case(const fake_work *w, buffers *b, size_t words)
{
    char path[PATH], name[32];
    path_of(path, "launch", ".case");
    FILE *f = fopen(path, "w");
    if (!f)
        return 0;
    fprintf(f, "kernel flat\ngrid %lld %lld %lld\nblock %d\nshared %lld\n",
            (long long)w->grid.blocks[0], (long long)w->grid.blocks[1],
            (long long)w->grid.blocks[2], w->grid.threads, (long long)w->grid.shared_bytes);
    for (size_t i = 0; i < words; i++) {
        uint64_t word = 0;
        const size_t at = 8 * i, left = w->bytes - at;
        memcpy(&word, (const char *)w->owned + at, left < 8 ? left : 8);
        fprintf(f, "arg u64 %llu\n", (unsigned long long)translated(b, word));
    }
    int whole = 1;
    for (int i = 0; i < BUFFERS; i++) {
        if (i >= b->count) {
            fprintf(f, "arg u64 0\n");
            continue;
        }
        snprintf(name, sizeof name, "memory%d", i);
        path_of(path, name, "");
        whole &= write_file(path, b->memory[i]->at, b->memory[i]->bytes);
        fprintf(f, "arg inout %s\n", name);
    }
    return fclose(f) == 0 && whole;
}

/* What the run left in memory: taken from the first, compared with it later. */
static int take_memory(const char *kernel, const buffers *b, int order)
{
    int same = 1;
    for (int i = 0; i < b->count && same; i++) {
        char path[PATH];
        const fake_memory *m = b->memory[i];
        snprintf(path, sizeof path, "%s/out/memory%d", folder(), i);
        FILE *f = fopen(path, "r");
        char *data = malloc(m->bytes);
        same = f && fread(data, 1, m->bytes, f) == m->bytes;
        if (same && order == 0)
            memcpy(m->at, data, m->bytes);
        else
            same = same && memcmp(m->at, data, m->bytes) == 0;
        if (f)
            fclose(f);
        free(data);
    }
    return same ? FAKE_OK : failed(kernel, "what it wrote depends on the order of threads");
}

int fake_interpret(const fake_work *w)
{
    static const char *const orders[] = {"asc", "rand", "desc"};
    fake_function *f = w->function;
    const size_t words = (w->bytes + 7) / 8;
    buffers b = {.count = 0};
    char command[6 * PATH], report[PATH], out[PATH];
    if (w->grid.cluster > 1)
        return failed(f->name, "it knows no clusters: FAKE_ARCH must be below 90");
    int code = compile(f, words);
    if (code)
        return code;
    if (!write_case(w, &b, words))
        return failed(f->name, "memory cannot be written to files");
    path_of(out, "out", "");
    path_of(report, "report", "");
    mkdir(out, 0777);
    for (int order = 0; order < 3 && !code; order++) {
        snprintf(command, sizeof command,
                 "'%s' '%s' '%s/launch.case' '%s' --global-race --sched %s >'%s' 2>&1",
                 getenv("FAKE_PTX"), f->ptx, folder(), out, orders[order], report);
        if (system(command) != 0) {
            char *text = nvrtc_read(report);
            code = failed(f->name, text ? text : "no report");
            free(text);
        } else {
            code = take_memory(f->name, &b, order);
        }
    }
    fake_interpreted++;
    return code;
}
