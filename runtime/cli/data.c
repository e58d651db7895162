#include "cli/cli.h"

#include "base/outfile.h"
#include "base/status.h"
#include "data/dataset.h"
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
    static const char *const splits[] = {"train", "dev", "test"};
    json_t *all = json_object();
    spectra_status status = SPECTRA_OK;
    for (int i = 0; i < 3 && status == SPECTRA_OK; i++) {
        char file[32];
        snprintf(file, sizeof file, "%s.safetensors", splits[i]);
        char *path = outfile_join(folder, file);
        dataset *d = NULL;
        status = path ? dataset_open(path, &d) : fail(SPECTRA_ENOMEM, "data info: out of memory");
        if (status == SPECTRA_OK) {
            split_facts f = find_facts(d);
            if (a->value[OPT_JSON].given)
                json_object_set_new(all, splits[i], facts_json(d, &f));
            else
                print_facts(d, splits[i], &f);
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

static spectra_status parse_rows(const char *text, int64_t rows[3])
{
    const char *at = text;
    for (int i = 0; i < 3; i++) {
        char *end = NULL;
        long long value = strtoll(at, &end, 10);
        if (end == at || *end != (i < 2 ? ',' : 0) || value < 1 || value > 10000000)
            return fail(SPECTRA_EINVAL,
                        "--rows is '%s', allowed are three numbers from 1 to 10000000: "
                        "96000,2000,2000",
                        text);
        rows[i] = value;
        at = end + 1;
    }
    return SPECTRA_OK;
}

static spectra_status only_with(const cli_args *a, const char *verb, option_id id, const char *name)
{
    if (a->value[id].given)
        return fail(SPECTRA_EINVAL, "data %s has no option --%s", verb, name);
    return SPECTRA_OK;
}

static spectra_status make_data(const cli_args *a, const char *verb, const char *task_name)
{
    task t;
    TRY(task_load(task_name, &t));
    if (strcmp(task_name, "lra-listops") != 0)
        return fail(SPECTRA_EUNSUPPORTED,
                    "data %s knows lra-listops; %s's settings are there, reading its files is not",
                    verb, task_name);
    char folder[SETTING_TEXT];
    if (a->value[OPT_OUT].given)
        snprintf(folder, sizeof folder, "%s", a->value[OPT_OUT].text);
    else
        snprintf(folder, sizeof folder, "data/%.64s", task_name);
    listops_options o = {.tokens = a->value[OPT_TOKENS].text[0] == 'A' ? LISTOPS_A : LISTOPS_B,
                         .seed = (uint64_t)a->value[OPT_SEED].integer,
                         .keep_tsv = a->value[OPT_KEEP_TSV].given,
                         .overwrite = a->value[OPT_OVERWRITE].given};
    if (strcmp(verb, "prepare") == 0) {
        const char *from = NULL;
        TRY(only_with(a, verb, OPT_ROWS, "rows"));
        TRY(only_with(a, verb, OPT_SEED, "seed"));
        TRY(only_with(a, verb, OPT_KEEP_TSV, "keep-tsv"));
        TRY(cli_need(a, OPT_FROM, &from));
        TRY(listops_prepare(from, folder, &o));
    } else {
        TRY(only_with(a, verb, OPT_FROM, "from"));
        TRY(parse_rows(a->value[OPT_ROWS].text, o.rows));
        TRY(listops_generate(folder, &o));
    }
    return data_info(a, folder);
}

spectra_status cli_data(const cli_args *a)
{
    static const char *const verbs[] = {"generate", "prepare", "info"};
    if (a->positionals < 2)
        return fail(SPECTRA_EINVAL, "data needs a verb and a task: data generate|prepare TASK, "
                                    "data info TASK|DIR");
    const char *verb = a->positional[0], *subject = a->positional[1];
    if (strcmp(verb, "generate") == 0 || strcmp(verb, "prepare") == 0)
        return make_data(a, verb, subject);
    if (strcmp(verb, "info") == 0) {
        struct stat info;
        char folder[SETTING_TEXT];
        bool is_folder = stat(subject, &info) == 0 && S_ISDIR(info.st_mode);
        snprintf(folder, sizeof folder, "%s%.400s", is_folder ? "" : "data/", subject);
        return data_info(a, folder);
    }
    const char *near = nearest_name(verb, verbs, 3);
    return fail(SPECTRA_EINVAL, "unknown verb 'data %s'%s%s%s", verb,
                near ? ", did you mean '" : "", near ? near : "",
                near ? "'?" : "; there are generate, prepare, info");
}
