/* The folder of compiled kernels. An entry appears whole by renaming and is never changed, so there
 * are no locks: who comes second puts the same in its place. What the file says is only believed if
 * its hash is right and nobody else can write into the folder. */
#define _GNU_SOURCE
#include "kernel/internal.h"

#include "base/outfile.h"
#include "base/status.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* An entry: this, then the shared object, which ends the file. Numbers as the machine has them. */
typedef struct entry_header {
    char magic[8];
    char hash[SHA256_DIGITS]; /* of all that follows */
    char text[SHA256_DIGITS], compiler[SHA256_DIGITS];
    char feature[64], isa[16], compiler_path[128]; /* for people */
    int64_t D, DV, M;
    uint64_t bytes; /* of the shared object */
} entry_header;

static_assert(sizeof(entry_header) == 440, "the entries of other builds are read");

static const char magic[8] = "spkern1";
static const char suffix[] = ".kernel";
enum {
    HASH_FROM = offsetof(entry_header, text),
    NAME_COMPILER = 16, /* digits of the compiler's hash in the name */
    NAME = SHA256_DIGITS + 1 + NAME_COMPILER + sizeof suffix - 1,
    ENTRY_LIMIT = 65 << 20
};

/* ---- the folder -------------------------------------------------------------------------------
 */

static spectra_status make_folder(const char *folder)
{
    if (mkdir(folder, 0700) == 0 || errno == EEXIST)
        return SPECTRA_OK;
    char *above = strdup(folder), *slash = above ? strrchr(above, '/') : NULL;
    if (slash && slash != above) {
        *slash = 0;
        (void)outfile_folder(above);
    }
    free(above);
    if (mkdir(folder, 0700) == 0 || errno == EEXIST)
        return SPECTRA_OK;
    return fail(SPECTRA_EIO, "%s", strerror(errno));
}

const char *jit_cache_open(const char *folder)
{
    static char why[256];
    struct stat info;
    if (make_folder(folder) != SPECTRA_OK)
        snprintf(why, sizeof why, "%s", spectra_message());
    else if (stat(folder, &info) != 0)
        snprintf(why, sizeof why, "%s", strerror(errno));
    else if (!S_ISDIR(info.st_mode))
        snprintf(why, sizeof why, "it is no folder");
    else if ((info.st_uid != geteuid() && info.st_uid != 0) || (info.st_mode & 022) != 0)
        snprintf(why, sizeof why, "others can write into it");
    else
        return NULL;
    return why;
}

/* "<hash of the text>-<16 digits of the compiler's>.kernel" */
static bool is_entry_name(const char *name)
{
    static const char digits[] = "0123456789abcdef";
    return strlen(name) == NAME && strspn(name, digits) == SHA256_DIGITS &&
           name[SHA256_DIGITS] == '-' &&
           strspn(name + SHA256_DIGITS + 1, digits) == NAME_COMPILER &&
           strcmp(name + NAME - (sizeof suffix - 1), suffix) == 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void free_names(char **names, int count)
{
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

/* Names of the entries that begin with prefix, sorted. A folder that is not there has none. */
static spectra_status entry_names(const char *folder, const char *prefix, char ***out, int *count)
{
    DIR *dir = opendir(folder);
    if (!dir && errno != ENOENT)
        return fail(SPECTRA_EIO, "%s: cannot read: %s", folder, strerror(errno));
    char **names = NULL;
    int n = 0;
    bool memory = true;
    for (struct dirent *d; dir && memory && (d = readdir(dir)) != NULL;) {
        if (!is_entry_name(d->d_name) || strncmp(d->d_name, prefix, strlen(prefix)) != 0)
            continue;
        char **more = realloc(names, (size_t)(n + 1) * sizeof *names);
        names = more ? more : names;
        memory = more && (names[n] = strdup(d->d_name)) != NULL;
        n += memory;
    }
    if (dir)
        closedir(dir);
    if (!memory) {
        free_names(names, n);
        return fail(SPECTRA_ENOMEM, "%s: out of memory", folder);
    }
    if (n)
        qsort(names, (size_t)n, sizeof *names, compare_names);
    *out = names;
    *count = n;
    return SPECTRA_OK;
}

/* ---- entries ----------------------------------------------------------------------------------
 */

/* NULL if the entry is whole, else what is wrong with it. key NULL: whatever it is of. */
static const char *verify(const byte_buffer *file, const jit_key *key, entry_header *header)
{
    if (file->size < sizeof *header)
        return "it is too short";
    memcpy(header, file->data, sizeof *header);
    if (memcmp(header->magic, magic, sizeof magic) != 0)
        return "it is no kernel";
    if (header->bytes != file->size - sizeof *header)
        return "its length is wrong";
    sha256_hex hash;
    sha256_of(file->data + HASH_FROM, file->size - HASH_FROM, hash);
    if (memcmp(header->hash, hash, SHA256_DIGITS) != 0)
        return "its hash is wrong";
    if (key && (memcmp(header->text, key->text, SHA256_DIGITS) != 0 ||
                (key->compiler[0] && memcmp(header->compiler, key->compiler, SHA256_DIGITS) != 0)))
        return "it is of another kernel";
    return NULL;
}

bool jit_cache_remove(const char *path)
{
    return remove(path) == 0 || errno == ENOENT;
}

static char *entry_path(const char *folder, const jit_key *key)
{
    char name[NAME + 1];
    snprintf(name, sizeof name, "%s-%.*s%s", key->text, (int)NAME_COMPILER, key->compiler, suffix);
    return outfile_join(folder, name);
}

/* Reads one entry; a damaged one is removed. */
static bool get_entry(const char *path, const jit_key *key, jit_warning warn, byte_buffer *image)
{
    struct stat info;
    if (lstat(path, &info) != 0)
        return false;
    byte_buffer file = {.data = NULL};
    entry_header header;
    const char *wrong = "it is no file";
    if (S_ISREG(info.st_mode))
        wrong = read_whole_file(path, ENTRY_LIMIT, &file) == SPECTRA_OK
                    ? verify(&file, key, &header)
                    : "it cannot be read";
    if (!wrong) {
        memmove(file.data, file.data + sizeof header, (size_t)header.bytes);
        *image = (byte_buffer){file.data, (size_t)header.bytes};
        return true;
    }
    free(file.data);
    char sentence[1024];
    bool removed = jit_cache_remove(path);
    snprintf(sentence, sizeof sentence, "%s is damaged (%s)%s", path, wrong,
             removed ? ": removed" : " and cannot be removed");
    warn(sentence);
    return false;
}

bool jit_cache_get(const char *folder, const jit_key *key, jit_warning warn, byte_buffer *image,
                   char **path)
{
    char **names = NULL;
    int count = 0;
    bool found = false;
    if (key->compiler[0]) {
        *path = entry_path(folder, key);
        found = *path && get_entry(*path, key, warn, image);
    } else if (entry_names(folder, key->text, &names, &count) == SPECTRA_OK) {
        *path = NULL;
        for (int i = 0; i < count && !found; i++) {
            free(*path);
            *path = outfile_join(folder, names[i]);
            found = *path && get_entry(*path, key, warn, image);
        }
        free_names(names, count);
    }
    if (!found) {
        free(*path);
        *path = NULL;
    }
    return found;
}

spectra_status jit_cache_put(const char *folder, const jit_key *key, const jit_entry *about,
                             const byte_buffer *image)
{
    entry_header h = {.D = about->D, .DV = about->DV, .M = about->M, .bytes = image->size};
    memcpy(h.magic, magic, sizeof magic);
    memcpy(h.text, key->text, SHA256_DIGITS);
    memcpy(h.compiler, key->compiler, SHA256_DIGITS);
    snprintf(h.feature, sizeof h.feature, "%s", about->feature);
    snprintf(h.isa, sizeof h.isa, "%s", about->isa);
    snprintf(h.compiler_path, sizeof h.compiler_path, "%s", about->compiler);
    SHA2_CTX sha;
    sha256_hex hash;
    SHA256Init(&sha);
    SHA256Update(&sha, (const uint8_t *)&h + HASH_FROM, sizeof h - HASH_FROM);
    SHA256Update(&sha, (const uint8_t *)image->data, image->size);
    SHA256End(&sha, hash);
    memcpy(h.hash, hash, SHA256_DIGITS);
    char *path = entry_path(folder, key);
    if (!path)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", folder);
    outfile out;
    spectra_status status = outfile_open(path, &out);
    if (status == SPECTRA_OK) {
        fwrite(&h, sizeof h, 1, out.file);
        fwrite(image->data, image->size, 1, out.file);
        status = outfile_commit(&out);
    }
    free(path);
    return status;
}

/* ---- looking at it ----------------------------------------------------------------------------
 */

static void describe(const char *path, jit_entry *e)
{
    struct stat info;
    byte_buffer file = {.data = NULL};
    entry_header h;
    *e = (jit_entry){.good = false};
    if (lstat(path, &info) == 0) {
        e->bytes = (int64_t)info.st_size;
        e->seconds = (int64_t)(time(NULL) - info.st_mtime);
    }
    if (read_whole_file(path, ENTRY_LIMIT, &file) == SPECTRA_OK && !verify(&file, NULL, &h)) {
        e->good = true;
        snprintf(e->feature, sizeof e->feature, "%.63s", h.feature);
        snprintf(e->isa, sizeof e->isa, "%.15s", h.isa);
        snprintf(e->compiler, sizeof e->compiler, "%.127s", h.compiler_path);
        e->D = h.D, e->DV = h.DV, e->M = h.M;
    }
    free(file.data);
}

static int compare_entries(const void *a, const void *b)
{
    const jit_entry *x = a, *y = b;
    const int64_t sizes[][2] = {{x->D, y->D}, {x->DV, y->DV}, {x->M, y->M}};
    int order = strcmp(x->feature, y->feature);
    for (int i = 0; i < 3 && order == 0; i++)
        order = (sizes[i][0] > sizes[i][1]) - (sizes[i][0] < sizes[i][1]);
    return order ? order : strcmp(x->isa, y->isa);
}

spectra_status jit_cache_list(const char *folder, jit_entry **out, int *count)
{
    char **names = NULL;
    int n = 0;
    TRY(entry_names(folder, "", &names, &n));
    jit_entry *list = calloc((size_t)n + 1, sizeof *list);
    bool memory = list != NULL;
    for (int i = 0; i < n && memory; i++) {
        char *path = outfile_join(folder, names[i]);
        memory = path != NULL;
        if (path)
            describe(path, &list[i]);
        free(path);
    }
    free_names(names, n);
    if (!memory) {
        free(list);
        return fail(SPECTRA_ENOMEM, "%s: out of memory", folder);
    }
    qsort(list, (size_t)n, sizeof *list, compare_entries);
    *out = list;
    *count = n;
    return SPECTRA_OK;
}

spectra_status jit_cache_clear(const char *folder, int *removed)
{
    char **names = NULL;
    int n = 0, done = 0;
    TRY(entry_names(folder, "", &names, &n));
    spectra_status status = SPECTRA_OK;
    for (int i = 0; i < n; i++) {
        char *path = outfile_join(folder, names[i]);
        bool gone = path && jit_cache_remove(path);
        done += gone;
        if (!gone && status == SPECTRA_OK)
            status =
                fail(SPECTRA_EIO, "%s/%s: cannot remove: %s", folder, names[i], strerror(errno));
        free(path);
    }
    free_names(names, n);
    *removed = done;
    return status;
}
