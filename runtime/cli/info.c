#include "attention/performer/performer.h"
#include "base/cpu.h"
#include "base/status.h"
#include "cli/cli.h"
#include "data/task.h"
#include "kernel/registry.h"
#include "math/blas.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

spectra_status cli_print_json(json_t *object)
{
    char *text = object ? json_dumps(object, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(object);
    if (!text)
        return fail(SPECTRA_ENOMEM, "result: out of memory");
    puts(text);
    free(text);
    return SPECTRA_OK;
}

/* ---- list -------------------------------------------------------------------------------------
 */

static json_t *name_list(const char *const *names, int count)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(list, json_string(names[i]));
    return list;
}

/* Names of the matrices a feature may go with. */
static json_t *legal_matrices(const feature_info *f)
{
    json_t *list = json_array();
    for (const matrix_info *m = generated_matrices; m->name; m++)
        if (performer_legal(f, m, NULL))
            json_array_append_new(list, json_string(m->name));
    return list;
}

/* Whether attention may be causal with it. */
static const char *causal(const feature_info *f)
{
    if (f->linear != LINEAR_NONE)
        return "no";
    return f->adapt && f->moments ? "with parameters given" : "yes";
}

static json_t *traits_json(const attention_kind *kind)
{
    json_t *list = json_array();
    for (int i = 0; attention_trait_names[i]; i++)
        if (kind->traits >> i & 1)
            json_array_append_new(list, json_string(attention_trait_names[i]));
    if (kind->decode)
        json_array_append_new(list, json_string("decodes"));
    return list;
}

static json_t *attention_json(const attention_row *row)
{
    const attention_kind *kind = row->kind;
    json_t *settings = json_array();
    for (int i = 0; i < kind->settings_count; i++) {
        const setting *s = &kind->settings[i];
        char allowed[SETTING_TEXT];
        json_array_append_new(settings,
                              json_pack("{s:s, s:s, s:s, s:s*}", "name", s->name, "doc", s->doc,
                                        "allowed", setting_allowed(s, allowed, sizeof allowed),
                                        "default", s->initial));
    }
    return json_pack("{s:s, s:s, s:b, s:o, s:o}", "name", kind->name, "doc", kind->doc, "official",
                     row->official != NULL, "traits", traits_json(kind), "settings", settings);
}

static spectra_status list_json(void)
{
    json_t *all = json_object(), *list = json_array();
    for (const attention_row *row = attention_table; row->kind; row++)
        json_array_append_new(list, attention_json(row));
    json_object_set_new(all, "attentions", list);
    list = json_array();
    for (const feature_info *f = generated_features; f->name; f++)
        if (!f->is_antithetic)
            json_array_append_new(
                list,
                json_pack("{s:s, s:s, s:s, s:i, s:b, s:b, s:b, s:s, s:o, s:o, s:o}", "name",
                          f->name, "doc", f->doc, "source", f->source, "lanes", f->lanes, "signed",
                          f->is_signed, "antithetic", f->may_antithetic, "official",
                          f->has_official, "causal", causal(f), "scalars",
                          name_list(f->scalar_names, f->scalars), "vectors",
                          name_list(f->vector_names, f->vectors), "matrices", legal_matrices(f)));
    json_object_set_new(all, "features", list);
    list = json_array();
    for (const matrix_info *m = generated_matrices; m->name; m++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "name", m->name, "doc",
                                              m->doc, "source", m->source, "law", m->law));
    json_object_set_new(all, "matrices", list);
    list = json_array();
    for (int i = 0; task_spec_name[i]; i++) {
        task t;
        TRY(task_load(task_spec_name[i], &t));
        json_t *row = json_pack("{s:s, s:s}", "name", t.name, "doc", t.doc);
        TRY(settings_to_json(task_settings, TASK_SETTINGS, &t, row));
        json_array_append_new(list, row);
    }
    json_object_set_new(all, "tasks", list);
    return cli_print_json(all);
}

/* What a matrix's law means for who chooses it. */
static const char *law_text(const char *law)
{
    static const char *const texts[][2] = {
        {"exact", "exact"},
        {"weighted", "unbiased with row weights"},
        {"fixed-norm", "rows of one length, biased"},
        {"approximate", "nearly normal rows"},
        {"learned", "trained"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strcmp(law, texts[i][0]) == 0)
            return texts[i][1];
    return law;
}

/* Features down, matrices across: which go together, and why not. */
static void print_legality(void)
{
    const char *why = NULL, *reason;
    int across = 0, row = 0;
    puts("which go together (columns: weight matrices, numbered)");
    for (const matrix_info *m = generated_matrices; m->name; m++, across++)
        printf("  %2d %-20s%s", across + 1, m->name, across % 3 == 2 ? "\n" : "");
    printf("%s  %-18s", across % 3 ? "\n" : "", "");
    for (int i = 0; i < across; i++)
        printf(" %2d", i + 1);
    putchar('\n');
    for (const feature_info *f = generated_features; f->name; f++) {
        if (f->is_antithetic)
            continue;
        printf("  %-18s", f->name);
        for (const matrix_info *m = generated_matrices; m->name; m++) {
            bool legal = performer_legal(f, m, &reason);
            printf("  %s", legal ? "+" : "-");
            why = legal ? why : reason;
        }
        putchar('\n');
        row++;
    }
    if (why && row > 0)
        printf("  -: %s\n", why);
}

/* A line, and one for each of its settings. */
static void print_attention(const attention_row *row)
{
    const attention_kind *kind = row->kind;
    printf("  %-18s %s%s\n", kind->name, kind->doc, row->official ? " (--official)" : "");
    for (int i = 0; i < kind->settings_count; i++) {
        const setting *s = &kind->settings[i];
        char name[64], allowed[SETTING_TEXT];
        printf("    %-17s %s: %s%s%s\n", cli_option_text(s->name, name, sizeof name), s->doc,
               setting_allowed(s, allowed, sizeof allowed), s->initial ? ", default " : "",
               s->initial ? s->initial : "");
    }
}

spectra_status cli_list(const cli_args *a)
{
    if (a->value[OPT_JSON].given)
        return list_json();
    puts("attentions (--attn)");
    for (const attention_row *row = attention_table; row->kind; row++)
        print_attention(row);
    puts("component functions (--feat)");
    for (const feature_info *f = generated_features; f->name; f++)
        if (!f->is_antithetic)
            printf("  %-18s %s%s\n", f->name, f->doc, f->may_antithetic ? " (--antithetic)" : "");
    puts("weight matrices (--kernel)");
    for (const matrix_info *m = generated_matrices; m->name; m++)
        printf("  %-18s %s (%s)\n", m->name, m->doc, law_text(m->law));
    print_legality();
    puts("tasks (--task)");
    for (int i = 0; task_spec_name[i]; i++) {
        task t;
        TRY(task_load(task_spec_name[i], &t));
        printf("  %-18s %s\n", t.name, t.doc);
    }
    return SPECTRA_OK;
}

/* ---- info -------------------------------------------------------------------------------------
 */

static void cpu_name(char *buf, size_t size)
{
    snprintf(buf, size, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "rb");
    char line[256];
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            line[strcspn(line, "\n")] = 0;
            snprintf(buf, size, "%s", colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

/* "saderf x qmc, 32/32/128, avx512" into buf. */
static const char *row_text(const attn_row *row, char *buf, size_t size)
{
    char sizes[64] = "any sizes";
    if (row->D)
        snprintf(sizes, sizeof sizes, "D %lld DV %lld M %lld", (long long)row->D,
                 (long long)row->DV, (long long)row->M);
    snprintf(buf, size, "%s x %s, %s, %s", row->feat, row->matrix ? row->matrix : "any matrix",
             sizes, registry_isa_name(row->isa));
    return buf;
}

static void add_line(void *to, const char *what, const char *text)
{
    json_object_set_new(to, what, json_string(text));
}

static void print_line(void *to, const char *what, const char *text)
{
    (void)to;
    printf("%-13s %s\n", what, text);
}

spectra_status cli_info(const cli_args *a)
{
    char cpu[128], text[160];
    cpu_name(cpu, sizeof cpu);
    bool blas = blas_open() == SPECTRA_OK;
    const char *blas_text = blas ? blas_config() : spectra_message();
    const char *isa_text = registry_isa_name(registry_isa());
    const char *machine_isa = cpu_level_name(cpu_machine());
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (a->value[OPT_JSON].given) {
        json_t *kernels = json_array();
        for (const attn_row *row = generated_attn; row->feat; row++)
            json_array_append_new(kernels, json_string(row_text(row, text, sizeof text)));
        json_t *devices = json_object();
        device_describe(add_line, devices);
        return cli_print_json(
            json_pack("{s:s, s:s, s:s, s:s, s:b, s:i, s:i, s:b, s:s, s:o, s:o}", "version",
                      spectra_version(), "cpu", cpu, "instructions", isa_text,
                      "machine_instructions", machine_isa, "bf16_products", cpu_has_bf16(),
                      "processors", (int)processors, "threads", omp_get_max_threads(), "blas_found",
                      blas, "blas", blas_text, "devices", devices, "kernels", kernels));
    }
    printf("version       %s\n", spectra_version());
    printf("processor     %s, %ld\n", cpu, processors);
    printf("instructions  %s", isa_text);
    if (cpu_best() < cpu_machine())
        printf(" (SPECTRA_ISA; the processor has %s)", machine_isa);
    printf("\nbf16 products %s\n", cpu_has_bf16() ? "yes" : "no");
    printf("threads       %d\n", omp_get_max_threads());
    printf("BLAS          %s%s\n", blas ? "" : "none: ", blas_text);
    device_describe(print_line, NULL);
    printf("kernels\n");
    for (const attn_row *row = generated_attn; row->feat; row++)
        printf("  %s\n", row_text(row, text, sizeof text));
    return SPECTRA_OK;
}
