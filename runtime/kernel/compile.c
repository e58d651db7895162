#define _GNU_SOURCE
#include "kernel/internal.h"

#include "base/status.h"
#include "kernel/registry.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

/* A kernel of this process; never freed, like the object it came in. */
typedef struct loaded {
    attn_row row;
    const feature_info *info; /* NULL for built-in features */
    struct loaded *next;
} loaded;

/* Under the lock: the lists, and `cache` of the settings. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static loaded *kernels;
static struct {
    jit_policy policy;
    char *compiler, *search, *cache, *temporary; /* cache NULL: none, or it cannot be used */
    bool cache_tried, compiler_tried, compiler_found;
    jit_compiler found;
    void (*warn)(void *context, const char *sentence);
    void *context;
} settings;

static const char usual_folders[] = "/usr/local/bin:/usr/bin:/bin";

static void warn(const char *sentence)
{
    if (settings.warn)
        settings.warn(settings.context, sentence);
}

static const char *compiler_name(void)
{
    return settings.compiler ? settings.compiler : "cc";
}

static const char *temporary_folder(void)
{
    return settings.temporary ? settings.temporary : "/tmp";
}

spectra_status jit_configure(const jit_options *o)
{
    const char *const given[] = {o->compiler, o->search, o->cache, o->temporary};
    char **const kept[] = {&settings.compiler, &settings.search, &settings.cache,
                           &settings.temporary};
    char *fresh[4];
    bool memory = true;
    for (int i = 0; i < 4; i++) {
        fresh[i] = given[i] ? strdup(given[i]) : NULL;
        memory = memory && (fresh[i] || !given[i]);
    }
    for (int i = 0; i < 4; i++) {
        free(memory ? *kept[i] : fresh[i]);
        if (memory)
            *kept[i] = fresh[i];
    }
    if (!memory)
        return fail(SPECTRA_ENOMEM, "settings of compiling: out of memory");
    jit_compiler_free(&settings.found);
    settings.policy = o->policy;
    settings.warn = o->warn;
    settings.context = o->context;
    settings.cache_tried = settings.compiler_tried = settings.compiler_found = false;
    return SPECTRA_OK;
}

jit_policy jit_policy_now(void)
{
    return settings.policy;
}

/* ---- making a kernel --------------------------------------------------------------------------
 */

/* What is asked for; the strings are the caller's. */
typedef struct wanted {
    const char *feat, *matrix; /* matrix in messages only */
    int64_t D, DV, M;
    int groups;
    isa isa;
} wanted;

static spectra_status no_kernel(const wanted *w, const char *why)
{
    return fail(SPECTRA_EUNSUPPORTED,
                "no kernel of %s x %s for head size %lld, value size %lld and %lld features was "
                "built, and %s",
                w->feat, w->matrix, (long long)w->D, (long long)w->DV, (long long)w->M, why);
}

static const jit_compiler *compiler(void)
{
    if (!settings.compiler_tried)
        settings.compiler_found = jit_compiler_find(
            compiler_name(), settings.search ? settings.search : usual_folders, &settings.found);
    settings.compiler_tried = true;
    return settings.compiler_found ? &settings.found : NULL;
}

/* NULL: there is none to be used, of which one warning was given. */
static const char *cache_folder(void)
{
    if (!settings.cache_tried && settings.cache) {
        const char *why = jit_cache_open(settings.cache);
        if (why) {
            char sentence[1024];
            snprintf(sentence, sizeof sentence, "%s cannot keep compiled kernels: %s",
                     settings.cache, why);
            warn(sentence);
            free(settings.cache);
            settings.cache = NULL;
        }
    }
    settings.cache_tried = true;
    return settings.cache;
}

/* All that decides what the compiler makes, apart from itself. */
static bool key_of(const wanted *w, const kernel_text *text, jit_key *key)
{
    struct utsname machine;
    char flags[1024], *all = NULL;
    uname(&machine);
    jit_compile_flags(w->isa, flags, sizeof flags);
    int n = asprintf(&all, "1\n%s %zu\n%s\n%s\n%s", machine.machine, 8 * sizeof(void *),
                     registry_isa_name(w->isa), flags, text->text.data);
    if (n < 0)
        return false;
    sha256_of(all, (size_t)n, key->text);
    free(all);
    return true;
}

/* Kernels on their way. */
typedef struct making {
    const wanted *wanted;
    const kernel_text *text;
    attn_row row;
    const feature_info *info;
} making;

static spectra_status load(void *context, const byte_buffer *image)
{
    making *m = context;
    void *handle = jit_load(image, temporary_folder());
    if (!handle)
        return SPECTRA_EUNSUPPORTED;
    const attn_row *row = dlsym(handle, "jit_row");
    const feature_info *const *info = dlsym(handle, "jit_feature");
    if (!row || !info || strcmp(row->feat, m->wanted->feat) != 0)
        return fail(SPECTRA_EUNSUPPORTED, "loading a kernel: it is not that of %s",
                    m->wanted->feat);
    m->row = *row;
    m->info = *info;
    return SPECTRA_OK;
}

static spectra_status compile(void *context, byte_buffer *image)
{
    const making *m = context;
    char why[320];
    if (!compiler()) {
        snprintf(why, sizeof why,
                 "there is no C compiler '%.120s' to make one; install gcc and libc6-dev, or name "
                 "a compiler in CC",
                 compiler_name());
        return no_kernel(m->wanted, why);
    }
    return jit_compile(compiler(), m->wanted->isa, m->text, temporary_folder(), image);
}

/* From the folder; one that cannot be loaded is removed. */
static bool get(const jit_job *job, const char *folder)
{
    byte_buffer image;
    char *path = NULL, sentence[1024];
    if (!folder || !jit_cache_get(folder, &job->key, warn, &image, &path))
        return false;
    const bool good = job->load(job->context, &image) == SPECTRA_OK;
    if (!good) {
        (void)jit_cache_remove(path);
        snprintf(sentence, sizeof sentence, "%s: removed (%s)", path, spectra_message());
        warn(sentence);
    }
    free(image.data);
    free(path);
    return good;
}

/* Under the lock. */
static spectra_status run_job(const jit_job *job, bool *compiled)
{
    const char *folder = cache_folder();
    *compiled = false;
    if (get(job, folder))
        return SPECTRA_OK;
    byte_buffer image = {.data = NULL};
    TRY(job->compile(job->context, &image));
    *compiled = true;
    spectra_status status = job->load(job->context, &image);
    if (status == SPECTRA_OK && folder &&
        jit_cache_put(folder, &job->key, &job->about, &image) != SPECTRA_OK) {
        char sentence[1024];
        snprintf(sentence, sizeof sentence, "the kernel is not kept: %s", spectra_message());
        warn(sentence);
    }
    free(image.data);
    return status;
}

spectra_status jit_make(const jit_job *job, bool *compiled)
{
    if (settings.policy == JIT_NEVER)
        return fail(SPECTRA_EUNSUPPORTED,
                    "no kernel of %s for %s was built, and SPECTRA_JIT=never forbids to compile "
                    "one; SPECTRA_JIT=auto does",
                    job->about.feature, job->about.isa);
    pthread_mutex_lock(&lock);
    spectra_status status = run_job(job, compiled);
    pthread_mutex_unlock(&lock);
    return status;
}

const jit_compiler *jit_settings_compiler(void)
{
    pthread_mutex_lock(&lock);
    const jit_compiler *c = compiler();
    pthread_mutex_unlock(&lock);
    if (!c)
        (void)fail(SPECTRA_EUNSUPPORTED,
                   "there is no C compiler '%s'; install gcc and libc6-dev, or name a compiler in "
                   "CC",
                   compiler_name());
    return c;
}

const char *jit_settings_temporary(void)
{
    return temporary_folder();
}

static loaded *find(const wanted *w)
{
    loaded *k = kernels;
    while (k && (strcmp(k->row.feat, w->feat) != 0 || k->row.D != w->D || k->row.DV != w->DV ||
                 k->row.M != w->M || k->row.isa != w->isa))
        k = k->next;
    return k;
}

/* Adds the kernels of an object to those there are of the same sizes. Others may be reading what
 * was there, which stays. */
static spectra_status keep(const wanted *w, const making *m)
{
    loaded *k = find(w);
    if (!k) {
        k = malloc(sizeof *k);
        if (!k)
            return fail(SPECTRA_ENOMEM, "loading a kernel: out of memory");
        *k = (loaded){.row = m->row, .info = m->info, .next = kernels};
        k->row.isa = w->isa;
        kernels = k;
        return SPECTRA_OK;
    }
    const attn_row *more = &m->row;
    if (more->fwd)
        k->row.fwd = more->fwd, k->row.bwd = more->bwd;
    if (more->causal)
        k->row.causal = more->causal;
    if (more->official)
        k->row.official = more->official;
    if (more->bf16)
        k->row.bf16 = more->bf16;
    return SPECTRA_OK;
}

typedef struct group_name {
    attn_group group;
    const char *name;
} group_name;

/* Under the lock. */
static spectra_status make_group(const wanted *w, const group_name *group, bool *compiled)
{
    const jit_spec *own = jit_spec_find(w->feat);
    const bool plain = group->group == ATTN_ATTENTION;
    kernel_text text;
    TRY(generate_kernels(own ? own->path : w->feat, own ? own->text : NULL, w->D, w->DV, w->M,
                         group->name, &text));
    making m = {.wanted = w, .text = &text};
    jit_job job = {.about = {.D = w->D, .DV = w->DV, .M = w->M},
                   .key = {.compiler = ""},
                   .context = &m,
                   .compile = compile,
                   .load = load};
    snprintf(job.about.feature, sizeof job.about.feature, "%s%s%s", w->feat, plain ? "" : " ",
             plain ? "" : group->name);
    snprintf(job.about.isa, sizeof job.about.isa, "%s", registry_isa_name(w->isa));
    if (compiler()) {
        snprintf(job.about.compiler, sizeof job.about.compiler, "%s", compiler()->path);
        memcpy(job.key.compiler, compiler()->identity, sizeof job.key.compiler);
    }
    spectra_status status = SPECTRA_OK;
    if (!key_of(w, &text, &job.key))
        status = fail(SPECTRA_ENOMEM, "generating %s: out of memory", w->feat);
    else
        status = run_job(&job, compiled);
    free(text.text.data);
    return status == SPECTRA_OK ? keep(w, &m) : status;
}

static int groups_of(const loaded *k)
{
    return k ? registry_groups(&k->row) : 0;
}

/* Under the lock: those that are wanted and not there. *compiled: one was. */
static spectra_status make(const wanted *w, bool *compiled)
{
    static const group_name names[] = {{ATTN_ATTENTION, "attention"},
                                       {ATTN_CAUSAL, "causal"},
                                       {ATTN_OFFICIAL, "official"},
                                       {ATTN_BF16, "bf16"}};
    *compiled = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        bool fresh = false;
        if (names[i].group & w->groups & ~groups_of(find(w)))
            TRY(make_group(w, &names[i], &fresh));
        *compiled = *compiled || fresh;
    }
    return SPECTRA_OK;
}

const feature_info *jit_feature_info(const char *name)
{
    pthread_mutex_lock(&lock);
    const loaded *k = kernels;
    while (k && (!k->info || strcmp(k->info->name, name) != 0))
        k = k->next;
    pthread_mutex_unlock(&lock);
    return k ? k->info : NULL;
}

static bool exact(const attn_row *row)
{
    return row && row->D > 0;
}

static spectra_status refused(const wanted *w)
{
    char why[320];
    const jit_spec *own = jit_spec_find(w->feat);
    if (own)
        snprintf(why, sizeof why,
                 "SPECTRA_JIT=never forbids to compile one; SPECTRA_JIT=auto does, or %s.lua in "
                 "specs/feature/ and make",
                 w->feat);
    else
        snprintf(why, sizeof why,
                 "SPECTRA_JIT=never forbids to compile one; SPECTRA_JIT=auto does, or make gen "
                 "FEAT=%s KERNEL=%s D=%lld DV=%lld M=%lld",
                 w->feat, w->matrix, (long long)w->D, (long long)w->DV, (long long)w->M);
    return no_kernel(w, why);
}

/* Under the lock. */
static spectra_status choose(const wanted *w, const attn_row *built, const attn_row **out)
{
    const bool there = !exact(built) && !(w->groups & ~groups_of(find(w)));
    const bool wants = settings.policy == JIT_ALWAYS ? !exact(built) : !built;
    bool compiled;
    if (!there && !wants) {
        *out = built;
        return SPECTRA_OK;
    }
    if (!there && settings.policy == JIT_NEVER)
        return refused(w);
    if (!there)
        TRY(make(w, &compiled));
    *out = &find(w)->row;
    return SPECTRA_OK;
}

spectra_status jit_attn(const char *feat, const char *matrix, int64_t D, int64_t DV, int64_t M,
                        int groups, const attn_row *built, const attn_row **out)
{
    const wanted w = {feat, matrix, D, DV, M, groups, registry_isa()};
    pthread_mutex_lock(&lock);
    spectra_status status = choose(&w, built, out);
    pthread_mutex_unlock(&lock);
    return status;
}

void jit_prefer(const char *feat, const char *matrix, int64_t D, int64_t DV, int64_t M, int groups)
{
    const wanted w = {feat, matrix, D, DV, M, groups, registry_isa()};
    bool compiled = false;
    pthread_mutex_lock(&lock);
    if (make(&w, &compiled) != SPECTRA_OK && compiler()) {
        char sentence[1024];
        snprintf(sentence, sizeof sentence, "going on with the kernel for any size: %s",
                 spectra_message());
        warn(sentence);
    }
    pthread_mutex_unlock(&lock);
}

spectra_status jit_warm(const char *feat, int64_t D, int64_t DV, int64_t M, int groups,
                        bool *compiled)
{
    const wanted w = {feat, "any matrix", D, DV, M, groups, registry_isa()};
    pthread_mutex_lock(&lock);
    spectra_status status =
        settings.policy == JIT_NEVER
            ? fail(SPECTRA_EUNSUPPORTED, "SPECTRA_JIT=never forbids to compile kernels")
            : make(&w, compiled);
    pthread_mutex_unlock(&lock);
    return status;
}

/* ---- other texts ------------------------------------------------------------------------------
 */

static spectra_status object_key(const char *name, const char *target, const char *text,
                                 const char *flags, jit_key *key)
{
    struct utsname machine;
    char *all = NULL;
    uname(&machine);
    int n = asprintf(&all, "2\n%s %zu\n%s\n%s\n%s", machine.machine, 8 * sizeof(void *), target,
                     flags, text);
    if (n < 0)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", name);
    sha256_of(all, (size_t)n, key->text);
    free(all);
    key->compiler[0] = 0;
    if (compiler())
        memcpy(key->compiler, compiler()->identity, sizeof key->compiler);
    return SPECTRA_OK;
}

/* An object on its way. */
typedef struct object {
    const char *name, *text, *flags;
    void *handle;
} object;

static spectra_status object_load(void *context, const byte_buffer *image)
{
    object *o = context;
    o->handle = jit_load(image, temporary_folder());
    return o->handle ? SPECTRA_OK : SPECTRA_EUNSUPPORTED;
}

static spectra_status object_compile(void *context, byte_buffer *image)
{
    const object *o = context;
    const byte_buffer source = {(char *)(uintptr_t)o->text, strlen(o->text)};
    if (!compiler())
        return fail(SPECTRA_EUNSUPPORTED,
                    "%s has to be compiled, and there is no C compiler '%.120s'; install gcc and "
                    "libc6-dev, or name a compiler in CC",
                    o->name, compiler_name());
    return jit_compile_text(compiler(), &source, o->flags, temporary_folder(), image);
}

/* Under the lock. */
static spectra_status object_make(const char *target, object *o)
{
    jit_job job = {.context = o, .compile = object_compile, .load = object_load};
    bool compiled;
    if (settings.policy == JIT_NEVER)
        return fail(SPECTRA_EUNSUPPORTED,
                    "%s has to be compiled, which SPECTRA_JIT=never forbids; SPECTRA_JIT=auto "
                    "allows it",
                    o->name);
    TRY(object_key(o->name, target, o->text, o->flags, &job.key));
    snprintf(job.about.feature, sizeof job.about.feature, "%s", o->name);
    snprintf(job.about.isa, sizeof job.about.isa, "%s", target);
    if (compiler())
        snprintf(job.about.compiler, sizeof job.about.compiler, "%s", compiler()->path);
    return run_job(&job, &compiled);
}

spectra_status jit_object(const char *name, const char *target, const char *text, const char *flags,
                          void **handle)
{
    object o = {name, text, flags, NULL};
    pthread_mutex_lock(&lock);
    spectra_status status = object_make(target, &o);
    pthread_mutex_unlock(&lock);
    if (status == SPECTRA_OK)
        *handle = o.handle;
    return status;
}

/* ---- the cache --------------------------------------------------------------------------------
 */

spectra_status jit_list(jit_entry **out, int *count)
{
    if (settings.cache)
        return jit_cache_list(settings.cache, out, count);
    *out = NULL;
    *count = 0;
    return SPECTRA_OK;
}

spectra_status jit_clear(int *removed)
{
    if (settings.cache)
        return jit_cache_clear(settings.cache, removed);
    *removed = 0;
    return SPECTRA_OK;
}

spectra_status spectra_jit_allow(spectra_jit policy, const char *compiler, const char *cache)
{
    const jit_options o = {
        .policy = (jit_policy)policy, .compiler = compiler, .search = NULL, .cache = cache};
    return jit_configure(&o);
}
