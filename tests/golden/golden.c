/* Runs the cases of golden indices:
 *
 *     golden [--device emu|cuda] INDEX.json...
 *
 * With a device, cases of attention only.
 * One line a case, then the totals. Exit status: 0 all passed or skipped, 1 a case failed, 2 an
 * index (or an array it names) is unusable.
 */
#include "golden/golden.h"

#include "device/device.h"
#include "kernel/jit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct totals {
    int count[GOLDEN_UNUSABLE + 1];
} totals;

static const struct {
    const char *kind;
    void (*run)(const golden_case *c, golden_result *r);
} runners[] = {
    {"attention", golden_attention},
    {"model", golden_model},
    {"optimizer", golden_optimizer},
};

device *golden_device;

static void run_case(const golden_case *c, golden_result *r)
{
    if (golden_device && strcmp(c->kind, "attention") != 0) {
        golden_stop(r, GOLDEN_SKIPPED, "cases of kind '%s' are not run on a device", c->kind);
        return;
    }
    for (size_t i = 0; i < sizeof runners / sizeof runners[0]; i++)
        if (strcmp(runners[i].kind, c->kind) == 0) {
            runners[i].run(c, r);
            if (r->verdict == GOLDEN_PASSED && r->compared == 0)
                golden_stop(r, GOLDEN_UNUSABLE, "the case has no output with a tolerance");
            return;
        }
    golden_stop(r, GOLDEN_SKIPPED, "cases of kind '%s' are not run", c->kind);
}

static void print_result(const golden_case *c, const golden_result *r)
{
    static const char *const label[] = {"pass", "FAIL", "skip", "FAIL"};
    printf("%s %s: ", label[r->verdict], c->name);
    if (r->reason[0])
        printf("%s%s", r->reason, r->compared ? "; " : "\n");
    if (r->compared)
        printf("%s %.2e of %.1e, worst of %d\n", r->output, r->worst, r->tolerance, r->compared);
    fflush(stdout);
}

/* The parts of a case every kind has; a sentence about what is wrong, or NULL. */
static const char *open_case(json_t *json, const char *dir, golden_case *c)
{
    *c = (golden_case){.dir = dir,
                       .json = json,
                       .name = json_string_value(json_object_get(json, "name")),
                       .kind = json_string_value(json_object_get(json, "kind")),
                       .attn = json_string_value(json_object_get(json, "attn")),
                       .behaviour = json_string_value(json_object_get(json, "behaviour")),
                       .params = json_object_get(json, "params"),
                       .files = json_object_get(json, "files"),
                       .tolerance = json_object_get(json, "tolerance")};
    if (!c->name || !c->kind)
        return "has no 'name' or no 'kind'";
    if (!c->behaviour || (strcmp(c->behaviour, "official") && strcmp(c->behaviour, "correct")))
        return "has a 'behaviour' that is neither 'official' nor 'correct'";
    if (!json_is_object(c->params) || !json_is_object(c->files) || !json_is_object(c->tolerance))
        return "needs the objects 'params', 'files' and 'tolerance'";
    return NULL;
}

/* False, and a sentence, if the index cannot be used. */
static bool run_index(const char *path, totals *t)
{
    json_error_t error;
    json_t *index = json_load_file(path, 0, &error);
    if (!index) {
        if (error.line > 0)
            fprintf(stderr, "golden: %s:%d: %s\n", path, error.line, error.text);
        else
            fprintf(stderr, "golden: %s: %s\n", path, error.text);
        return false;
    }
    json_t *cases = json_object_get(index, "cases");
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
    bool usable = dir && json_is_array(cases);
    if (!usable)
        fprintf(stderr, "golden: %s: the index has no list 'cases'\n", path);
    for (size_t i = 0; usable && i < json_array_size(cases); i++) {
        golden_case c;
        golden_result r = {0};
        const char *wrong = open_case(json_array_get(cases, i), dir, &c);
        if (wrong) {
            fprintf(stderr, "golden: %s: case %zu (%s) %s\n", path, i, c.name ? c.name : "unnamed",
                    wrong);
            usable = false;
            break;
        }
        run_case(&c, &r);
        print_result(&c, &r);
        t->count[r.verdict]++;
    }
    free(dir);
    json_decref(index);
    return usable;
}

int main(int argc, char **argv)
{
    int first = 1;
    if (argc > 2 && strcmp(argv[1], "--device") == 0) {
        if (jit_configure(&(jit_options){.policy = JIT_AUTO,
                                         .search = getenv("PATH"),
                                         .cache = getenv("KERNEL_CACHE")}) != SPECTRA_OK ||
            device_open(argv[2], &golden_device) != SPECTRA_OK) {
            printf("skipped: golden vectors on %s: %s\n0 passed, 0 failed, 1 skipped\n", argv[2],
                   spectra_message());
            return 0;
        }
        first = 3;
    }
    if (argc <= first) {
        fprintf(stderr, "usage: golden [--device emu|cuda] INDEX.json...\n");
        return 2;
    }
    totals t = {0};
    bool usable = true;
    for (int i = first; i < argc; i++)
        usable = run_index(argv[i], &t) && usable;
    device_close(golden_device);
    usable = usable && t.count[GOLDEN_UNUSABLE] == 0;
    int failed = t.count[GOLDEN_FAILED] + t.count[GOLDEN_UNUSABLE];
    printf("%d passed, %d failed, %d skipped\n", t.count[GOLDEN_PASSED], failed,
           t.count[GOLDEN_SKIPPED]);
    return !usable ? 2 : failed ? 1 : 0;
}
