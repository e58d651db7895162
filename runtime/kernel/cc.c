#define _GNU_SOURCE
#include "kernel/internal.h"

#include "base/outfile.h"
#include "base/status.h"
#include "kernel/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* From the Makefile, which compiles what is built ahead with the same. */
#ifndef KERNEL_FLAGS
#error "KERNEL_FLAGS and KERNEL_FLAGS_ISA come from the Makefile"
#endif
static const char *const isa_flags[ISA_COUNT] = KERNEL_FLAGS_ISA;

enum { PARTS = 8, WORDS = 64, IMAGE_LIMIT = 64 << 20, SAID = 700, FLAGS = 1024 };

/* ---- finding one ------------------------------------------------------------------------------
 */

static bool is_program(const char *path, struct stat *info)
{
    return stat(path, info) == 0 && S_ISREG(info->st_mode) && access(path, X_OK) == 0;
}

/* The first `name` in the folders of `search`, to be freed; NULL. */
static char *search_program(const char *name, const char *search, struct stat *info)
{
    if (strchr(name, '/'))
        return is_program(name, info) ? strdup(name) : NULL;
    for (const char *at = search; at && *name;) {
        size_t n = strcspn(at, ":");
        char *path = NULL;
        if (asprintf(&path, "%.*s/%s", n ? (int)n : 1, n ? at : ".", name) < 0)
            return NULL;
        if (is_program(path, info))
            return path;
        free(path);
        at = at[n] ? at + n + 1 : NULL;
    }
    return NULL;
}

bool jit_compiler_find(const char *command, const char *search, jit_compiler *out)
{
    jit_compiler c = {.words = strdup(command)};
    char *held = NULL, *program = c.words ? strtok_r(c.words, " \t", &held) : NULL;
    for (char *word; program && (word = strtok_r(NULL, " \t", &held)) != NULL;)
        if (c.count < JIT_COMPILER_WORDS)
            c.word[c.count++] = word;
    struct stat info;
    c.path = program ? search_program(program, search, &info) : NULL;
    char *text = NULL;
    if (!c.path || asprintf(&text, "%s %lld %lld.%09ld %s", c.path, (long long)info.st_size,
                            (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec, command) < 0) {
        jit_compiler_free(&c);
        return false;
    }
    sha256_of(text, strlen(text), c.identity);
    free(text);
    *out = c;
    return true;
}

void jit_compiler_free(jit_compiler *c)
{
    free(c->words);
    free(c->path);
    *c = (jit_compiler){.words = NULL};
}

void jit_compile_flags(isa level, char *out, size_t size)
{
    snprintf(out, size, "%s %s", KERNEL_FLAGS, isa_flags[level]);
}

/* ---- running it -------------------------------------------------------------------------------
 */

/* One compilation: files of its own in the folder, words of the command. */
typedef struct job {
    char flags[FLAGS]; /* cut into words */
    const char *word[WORDS];
    int count;
    char *object, *said; /* owned */
    pid_t pid;           /* 0: not started */
} job;

static void add_word(job *j, const char *word)
{
    if (j->count < WORDS - 1)
        j->word[j->count++] = word;
}

static void add_flags(job *j, const char *flags)
{
    char *held = NULL;
    snprintf(j->flags, sizeof j->flags, "%s", flags);
    for (char *word = strtok_r(j->flags, " ", &held); word; word = strtok_r(NULL, " ", &held))
        add_word(j, word);
}

static spectra_status start(job *j, const jit_compiler *c)
{
    posix_spawn_file_actions_t files;
    int error = posix_spawn_file_actions_init(&files);
    if (error)
        return fail(SPECTRA_ENOMEM, "running %s: %s", c->path, strerror(error));
    error = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (!error)
        error = posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, j->said,
                                                 O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (!error)
        error = posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
    j->word[j->count] = NULL;
    if (!error)
        error = posix_spawn(&j->pid, c->path, &files, NULL, (char *const *)j->word, environ);
    posix_spawn_file_actions_destroy(&files);
    if (error) {
        j->pid = 0;
        return fail(SPECTRA_EUNSUPPORTED, "running %s: %s", c->path, strerror(error));
    }
    return SPECTRA_OK;
}

/* `wrong`: what it is when the compiler ran and did not like what it read. */
static spectra_status finish(job *j, const jit_compiler *c, spectra_status wrong)
{
    int code = 0;
    while (waitpid(j->pid, &code, 0) < 0) {
        if (errno == EINTR)
            continue;
        code = 0; /* SIGCHLD is ignored in this process; what is missing will be seen */
        break;
    }
    j->pid = 0;
    if (WIFSIGNALED(code))
        return fail(SPECTRA_EUNSUPPORTED, "%s was ended by signal %d", c->path, WTERMSIG(code));
    if (code == 0)
        return SPECTRA_OK;
    byte_buffer said = {.data = NULL};
    if (read_whole_file(j->said, 1 << 20, &said) != SPECTRA_OK || !said.size) {
        free(said.data);
        return fail(SPECTRA_EUNSUPPORTED, "%s failed with code %d and said nothing", c->path,
                    WEXITSTATUS(code));
    }
    while (said.size && said.data[said.size - 1] == '\n')
        said.size--;
    spectra_status status = fail(wrong, "%s failed: %.*s", c->path,
                                 (int)(said.size < SAID ? said.size : SAID), said.data);
    free(said.data);
    return status;
}

static void job_free(job *j)
{
    if (j->object)
        unlink(j->object);
    if (j->said)
        unlink(j->said);
    free(j->object);
    free(j->said);
}

static spectra_status job_new(job *j, const jit_compiler *c, const char *folder, const char *name)
{
    *j = (job){.count = 0};
    if (asprintf(&j->object, "%s/%s.o", folder, name) < 0)
        j->object = NULL;
    if (asprintf(&j->said, "%s/%s.txt", folder, name) < 0)
        j->said = NULL;
    if (!j->object || !j->said)
        return fail(SPECTRA_ENOMEM, "compiling a kernel: out of memory");
    add_word(j, c->path);
    for (int i = 0; i < c->count; i++)
        add_word(j, c->word[i]);
    return SPECTRA_OK;
}

/* What becomes one shared object. */
typedef struct source {
    const byte_buffer *text;
    int parts;                /* compiled apart with -DPART=0 ... */
    char flags[PARTS][FLAGS]; /* of each */
    const char *link_flags;
    spectra_status wrong; /* what a text is that does not compile */
} source;

/* The parts are independent, so they run side by side. */
static spectra_status compile_parts(job *jobs, const jit_compiler *c, const source *s,
                                    const char *folder, const char *path)
{
    char part_define[PARTS][32], name[32];
    spectra_status status = SPECTRA_OK;
    for (int i = 0; i < s->parts && status == SPECTRA_OK; i++) {
        job *j = &jobs[i];
        snprintf(name, sizeof name, "part%d", i);
        snprintf(part_define[i], sizeof part_define[i], "-DPART=%d", i);
        status = job_new(j, c, folder, name);
        if (status != SPECTRA_OK)
            break;
        add_flags(j, s->flags[i]);
        const char *const rest[] = {part_define[i], "-c", path, "-o", j->object};
        for (size_t k = 0; k < sizeof rest / sizeof rest[0]; k++)
            add_word(j, rest[k]);
        status = start(j, c);
    }
    for (int i = 0; i < s->parts; i++) {
        if (!jobs[i].pid)
            continue;
        if (status == SPECTRA_OK)
            status = finish(&jobs[i], c, s->wrong);
        else
            waitpid(jobs[i].pid, NULL, 0); /* the first sentence is the one reported */
    }
    return status;
}

static spectra_status link_parts(job *jobs, const jit_compiler *c, const source *s,
                                 const char *folder)
{
    job *j = &jobs[s->parts];
    TRY(job_new(j, c, folder, "kernel"));
    add_word(j, "-shared");
    add_flags(j, s->link_flags);
    for (int i = 0; i < s->parts; i++)
        add_word(j, jobs[i].object);
    const char *const rest[] = {"-o", j->object, "-lm"};
    for (size_t k = 0; k < sizeof rest / sizeof rest[0]; k++)
        add_word(j, rest[k]);
    TRY(start(j, c));
    return finish(j, c, SPECTRA_EUNSUPPORTED);
}

static spectra_status write_source(const char *path, const byte_buffer *text)
{
    FILE *file = fopen(path, "wbxe");
    bool written = file && fwrite(text->data, 1, text->size, file) == text->size;
    if (file && fclose(file) != 0)
        written = false;
    return written ? SPECTRA_OK : fail(SPECTRA_EIO, "%s: cannot write: %s", path, strerror(errno));
}

static spectra_status compile_in(const jit_compiler *c, const source *s, const char *folder,
                                 byte_buffer *image)
{
    char *path = outfile_join(folder, "kernel.c");
    if (!path || s->parts > PARTS) {
        free(path);
        return fail(SPECTRA_ENOMEM, "compiling a kernel: out of memory");
    }
    job jobs[PARTS + 1] = {{.count = 0}};
    spectra_status status = write_source(path, s->text);
    if (status == SPECTRA_OK)
        status = compile_parts(jobs, c, s, folder, path);
    if (status == SPECTRA_OK)
        status = link_parts(jobs, c, s, folder);
    if (status == SPECTRA_OK)
        status = read_whole_file(jobs[s->parts].object, IMAGE_LIMIT, image);
    for (int i = 0; i <= s->parts; i++)
        job_free(&jobs[i]);
    unlink(path);
    free(path);
    return status;
}

static spectra_status compile(const jit_compiler *c, const source *s, const char *temporary,
                              byte_buffer *image)
{
    char *folder = outfile_join(temporary, "spectraformer-XXXXXX");
    if (!folder)
        return fail(SPECTRA_ENOMEM, "compiling a kernel: out of memory");
    if (!mkdtemp(folder)) {
        spectra_status status =
            fail(SPECTRA_EIO, "%s: cannot make a folder: %s", temporary, strerror(errno));
        free(folder);
        return status;
    }
    spectra_status status = compile_in(c, s, folder, image);
    rmdir(folder);
    free(folder);
    return status;
}

/* The table, the last part, is portable like the tables that are built ahead. */
spectra_status jit_compile(const jit_compiler *c, isa level, const kernel_text *text,
                           const char *temporary, byte_buffer *image)
{
    source s = {
        .text = &text->text, .parts = text->parts, .link_flags = "", .wrong = SPECTRA_EUNSUPPORTED};
    for (int i = 0; i < text->parts && i < PARTS; i++) {
        jit_compile_flags(i == text->parts - 1 ? ISA_PORTABLE : level, s.flags[i], FLAGS - 64);
        const size_t n = strlen(s.flags[i]);
        snprintf(s.flags[i] + n, FLAGS - n, " -DISA_NAME=%s", registry_isa_name(level));
    }
    return compile(c, &s, temporary, image);
}

spectra_status jit_compile_text(const jit_compiler *c, const byte_buffer *text, const char *flags,
                                const char *temporary, byte_buffer *image)
{
    source s = {.text = text, .parts = 1, .link_flags = flags, .wrong = SPECTRA_EFORMAT};
    snprintf(s.flags[0], FLAGS, "%s", flags);
    return compile(c, &s, temporary, image);
}
