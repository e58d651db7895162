#include "cli/cli.h"

#include "base/outfile.h"
#include "base/status.h"
#include "data/dataset.h"
#include "data/reader.h"
#include "data/task.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- info -------------------------------------------------------------------------------------
 */

typedef struct split_facts {
    int64_t examples, shortest, longest, majority;
    int sides;
    double mean, share;
} split_facts;

static split_facts find_facts(const dataset *d)
{
    split_facts f = {
        .examples = dataset_count(d), .sides = dataset_sides(d), .shortest = INT64_MAX};
    double sum = 0;
    for (int64_t i = 0; i < f.examples; i++)
        for (int side = 0; side < f.sides; side++) {
            int64_t n = dataset_length(d, i, side);
            f.shortest = n < f.shortest ? n : f.shortest;
            f.longest = n > f.longest ? n : f.longest;
            sum += (double)n;
        }
    f.mean = sum / (double)(f.examples * f.sides);
    f.majority = dataset_majority(d, &f.share);
    return f;
}

static json_t *facts_json(const dataset *d, const split_facts *f)
{
    json_t *o =
        json_pack("{s:I, s:i, s:I, s:f, s:I, s:I, s:f}", "examples", (json_int_t)f->examples,
                  "sequences", f->sides, "shortest", (json_int_t)f->shortest, "mean_length",
                  f->mean, "longest", (json_int_t)f->longest, "majority_class",
                  (json_int_t)f->majority, "majority_share", f->share);
    static const char *const keys[] = {"task", "tokens", "origin"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const char *value = dataset_metadata(d, keys[i]);
        if (value)
            json_object_set_new(o, keys[i], json_string(value));
    }
    return o;
}

static void print_facts(const dataset *d, const char *split, const split_facts *f)
{
    const char *name = dataset_metadata(d, "task"), *tokens = dataset_metadata(d, "tokens");
    const char *origin = dataset_metadata(d, "origin");
    printf("%-6s %lld examples of %s, tokens %s (%s)\n", split, (long long)f->examples,
           name ? name : "an unknown task", tokens ? tokens : "unknown",
           origin ? origin : "origin unknown");
    printf("       length %lld to %lld, mean %.1f; always class %lld: %.4f\n",
           (long long)f->shortest, (long long)f->longest, f->mean, (long long)f->majority,
           f->share);
}

static spectra_status data_info(const cli_args *a, const char *folder)
{
    json_t *all = json_object();
    spectra_status status = SPECTRA_OK;
    for (int i = 0; i < 3 && status == SPECTRA_OK; i++) {
        char file[32];
        snprintf(file, sizeof file, "%s.safetensors", dataset_splits[i]);
        char *path = outfile_join(folder, file);
        dataset *d = NULL;
        status = path ? dataset_open(path, &d) : fail(SPECTRA_ENOMEM, "data info: out of memory");
        if (status == SPECTRA_OK) {
            split_facts f = find_facts(d);
            if (a->value[OPT_JSON].given)
                json_object_set_new(all, dataset_splits[i], facts_json(d, &f));
            else
                print_facts(d, dataset_splits[i], &f);
        }
        dataset_close(d);
        free(path);
    }
    if (status == SPECTRA_OK && a->value[OPT_JSON].given) {
        char *text = json_dumps(all, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        if (text)
            puts(text);
        else
            status = fail(SPECTRA_ENOMEM, "data info: out of memory");
        free(text);
    }
    json_decref(all);
    return status;
}

/* ---- generate, prepare ------------------------------------------------------------------------
 */

/* Options that belong to the task's reader, into its struct. */
static spectra_status task_options(const cli_args *a, const task_reader *reader, reader_verb verb,
                                   void *options)
{
    memcpy(options, reader->defaults, reader->options_bytes);
    for (int i = 0; i < a->task_options; i++) {
        const cli_task_option *o = &a->task_option[i];
        const reader_setting *s = reader_setting_find(reader, o->name);
        char where[64];
        snprintf(where, sizeof where, "--%s", o->name);
        if (!s || !(s->verbs >> verb & 1))
            return fail(SPECTRA_EINVAL, "data %s has no option %s", reader_verb_names[verb], where);
        TRY(setting_parse(&s->setting, options, o->text, where));
    }
    return SPECTRA_OK;
}

static spectra_status make_data(const cli_args *a, reader_verb verb, const char *task_name)
{
    static char options[READER_OPTIONS] __attribute__((aligned(16)));
    const char *name = reader_verb_names[verb];
    const option_id other = verb == READER_PREPARE ? OPT_SEED : OPT_FROM;
    const task_reader *reader = NULL;
    task t;
    TRY(task_load(task_name, &t));
    TRY(reader_find(task_name, verb, &reader));
    char folder[SETTING_TEXT];
    if (a->value[OPT_OUT].given)
        snprintf(folder, sizeof folder, "%s", a->value[OPT_OUT].text);
    else
        snprintf(folder, sizeof folder, "data/%.64s", task_name);
    reader_request r = {.out_dir = folder,
                        .overwrite = a->value[OPT_OVERWRITE].given,
                        .seed = (uint64_t)a->value[OPT_SEED].integer,
                        .options = options};
    TRY(task_options(a, reader, verb, options));
    if (a->value[other].given)
        return fail(SPECTRA_EINVAL, "data %s has no option --%s", name,
                    other == OPT_SEED ? "seed" : "from");
    if (verb == READER_PREPARE)
        TRY(cli_need(a, OPT_FROM, &r.from));
    TRY(reader->run[verb](&r));
    return data_info(a, folder);
}

void cli_data_options(void)
{
    for (int i = 0; task_readers[i]; i++) {
        printf("\nof %s\n", task_readers[i]->name);
        for (int k = 0; k < task_readers[i]->settings_count; k++) {
            const reader_setting *s = &task_readers[i]->settings[k];
            char left[64];
            snprintf(left, sizeof left, "--%s%s%s", s->setting.name, s->metavar ? " " : "",
                     s->metavar ? s->metavar : "");
            printf("  %-26s ", left);
            for (int v = 0, some = 0; v < READER_VERBS; v++)
                if (s->verbs >> v & 1)
                    printf("%s%s", some++ ? ", " : "", reader_verb_names[v]);
            printf(": %s\n", s->setting.doc);
        }
    }
}

spectra_status cli_data(const cli_args *a)
{
    if (a->positionals < 2)
        return fail(SPECTRA_EINVAL, "data needs a verb and a task: data generate|prepare TASK, "
                                    "data info TASK|DIR");
    const char *verb = a->positional[0], *subject = a->positional[1];
    const char *verbs[READER_VERBS + 1] = {[READER_VERBS] = "info"};
    for (int v = 0; v < READER_VERBS; v++) {
        verbs[v] = reader_verb_names[v];
        if (strcmp(verb, verbs[v]) == 0)
            return make_data(a, (reader_verb)v, subject);
    }
    if (strcmp(verb, "info") == 0) {
        if (a->task_options)
            return fail(SPECTRA_EINVAL, "data info has no option --%s", a->task_option[0].name);
        struct stat info;
        char folder[SETTING_TEXT];
        bool is_folder = stat(subject, &info) == 0 && S_ISDIR(info.st_mode);
        snprintf(folder, sizeof folder, "%s%.400s", is_folder ? "" : "data/", subject);
        return data_info(a, folder);
    }
    const char *near = nearest_name(verb, verbs, READER_VERBS + 1);
    return fail(SPECTRA_EINVAL, "unknown verb 'data %s'%s%s%s", verb,
                near ? ", did you mean '" : "", near ? near : "",
                near ? "'?" : "; there are generate, prepare, info");
}
