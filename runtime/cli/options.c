#include "cli/cli.h"
#include "data/reader.h"

#include "base/status.h"
#include "train/train.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NETS = CLI_TRAIN | CLI_EVAL,
    ARRAYS = CLI_ATTEND | CLI_FEATURES,
    PAIRS = NETS | ARRAYS,
    EVERY = 4095,
    FLAG = 16 /* a type beside setting_type: no value */
};

typedef struct option {
    const char *name, *alias, *metavar;
    int type; /* setting_type or FLAG */
    unsigned commands;
    const char *setting; /* of train.h, whose limits then apply; NULL: none */
    double low, high;
    const char *initial, *choice, *help;
} option;

static const option options[OPT_COUNT] = {
    [OPT_TASK] = {"task", NULL, "TASK", SETTING_STRING, NETS, NULL, 0, 0, "lra-listops", NULL,
                  "benchmark task"},
    [OPT_ATTN] = {"attn", NULL, "NAME", SETTING_STRING, PAIRS, NULL, 0, 0, "performer", NULL,
                  "attention"},
    [OPT_FEAT] = {"feat", NULL, "NAME", SETTING_STRING, PAIRS | CLI_JIT | CLI_GEN, NULL, 0, 0, NULL,
                  NULL, "component function, default posrf; ./NAME.lua is a spec file of your own"},
    [OPT_KERNEL] = {"kernel", "kernel-type", "NAME", SETTING_STRING,
                    PAIRS | CLI_MATRIX | CLI_JIT | CLI_GEN, NULL, 0, 0, NULL, NULL,
                    "weight matrix, default orf"},
    [OPT_M] = {"m", NULL, "N", SETTING_INT, PAIRS | CLI_MATRIX | CLI_JIT | CLI_GEN, NULL, 1, 1024,
               "128", NULL, "rows of the weight matrix"},
    [OPT_SEED] = {"seed", "random", "N", SETTING_INT, PAIRS | CLI_MATRIX | CLI_DATA | CLI_APPROX,
                  NULL, 0, 9e15, "42", NULL, "seed of all random numbers"},
    [OPT_RNG] =
        {"rng", NULL, "NAME", SETTING_STRING, CLI_TRAIN | ARRAYS | CLI_MATRIX | CLI_APPROX, "rng",
         0, 0, "philox", "philox|curand",
         "generator that draws matrices and initial weights: this program's own, or cuRAND's host "
         "generator"},
    [OPT_TARGET] = {"target", NULL, "NAME", SETTING_STRING, CLI_TRAIN | ARRAYS | CLI_APPROX, NULL,
                    0, 0, "softmax", "softmax|gaussian", "kernel that the features approximate"},
    [OPT_OFFICIAL] = {"official", NULL, NULL, FLAG, CLI_TRAIN | CLI_ATTEND | CLI_JIT, "official", 0,
                      0, NULL, NULL, "the reference system's behaviour"},
    [OPT_ANTITHETIC] = {"antithetic", NULL, NULL, FLAG, CLI_TRAIN | ARRAYS | CLI_APPROX | CLI_GEN,
                        NULL, 0, 0, NULL, NULL,
                        "features of w and of -w: twice as many from one projection"},
    [OPT_CAUSAL] =
        {"causal", NULL, NULL, FLAG, CLI_ATTEND | CLI_JIT, NULL, 0, 0, NULL, NULL,
         "each query sees only the keys up to its own position; parameters that are computed from "
         "data must be given by --input"},
    [OPT_STEPS] = {"steps", NULL, "N", SETTING_INT, CLI_TRAIN, "steps", 0, 0, NULL, NULL,
                   "training steps"},
    [OPT_BATCH] = {"batch", NULL, "N", SETTING_INT, NETS, "batch", 0, 0, NULL, NULL,
                   "examples in a step"},
    [OPT_ACCUMULATE] = {"accumulate", NULL, "N", SETTING_INT, NETS, "accumulate", 0, 0, NULL, NULL,
                        "parts that a batch is computed in, to save memory"},
    [OPT_LR] = {"lr", NULL, "RATE", SETTING_REAL, CLI_TRAIN, "lr", 0, 0, NULL, NULL,
                "peak learning rate"},
    [OPT_WARMUP] = {"warmup", NULL, "N", SETTING_INT, CLI_TRAIN, "warmup", 0, 0, NULL, NULL,
                    "warm-up steps; default at most a tenth of the steps"},
    [OPT_EVAL_EVERY] = {"eval-every", NULL, "N", SETTING_INT, CLI_TRAIN, "eval_every", 0, 0, NULL,
                        NULL, "steps between evaluations and checkpoints"},
    [OPT_EVAL_BATCHES] = {"eval-batches", NULL, "N", SETTING_INT, CLI_TRAIN, "eval_batches", 0, 0,
                          NULL, NULL, "batches of dev examples in an evaluation"},
    [OPT_LAYERS] = {"layers", NULL, "N", SETTING_INT, CLI_TRAIN, "layers", 0, 0, NULL, NULL,
                    "layers of the model"},
    [OPT_DROPOUT] = {"dropout", NULL, "P", SETTING_REAL, CLI_TRAIN, "dropout", 0, 0, NULL, NULL,
                     "dropout, of attention probabilities too"},
    [OPT_ATTENTION_DROPOUT] = {"attention-dropout", NULL, "P", SETTING_REAL, CLI_TRAIN,
                               "attention_dropout", 0, 0, NULL, NULL,
                               "dropout of attention probabilities alone"},
    [OPT_DATA] = {"data", NULL, "DIR", SETTING_STRING, NETS | CLI_APPROX, "data", 0, 0, NULL, NULL,
                  "prepared data, default data/TASK"},
    [OPT_RUN] = {"run", NULL, "DIR", SETTING_STRING, NETS, NULL, 0, 0, NULL, NULL,
                 "folder of the run, default runs/TASK-ATTN-FEAT-KERNEL-mM-sSEED"},
    [OPT_RESUME] = {"resume", NULL, NULL, FLAG, CLI_TRAIN, NULL, 0, 0, NULL, NULL,
                    "continue from the run's checkpoint, with its settings"},
    [OPT_MAX_SECONDS] = {"max-seconds", NULL, "S", SETTING_REAL, CLI_TRAIN, NULL, 0, 1e9, NULL,
                         NULL, "stop training after this time, then evaluate on test"},
    [OPT_STOP_AT] = {"stop-at", NULL, "STEP", SETTING_INT, CLI_TRAIN, NULL, 1, 1e9, NULL, NULL,
                     "write a checkpoint after this step and stop; --resume continues"},
    [OPT_SPLIT] = {"split", NULL, "NAME", SETTING_STRING, CLI_EVAL, NULL, 0, 0, "test",
                   "train|dev|test", "what to evaluate on"},
    [OPT_CHECKPOINT] = {"checkpoint", "params", "NAME", SETTING_STRING, CLI_EVAL | CLI_APPROX, NULL,
                        0, 0, "best", "best|last", "which of the run's checkpoints"},
    [OPT_Q] = {"q", NULL, "FILE", SETTING_STRING, CLI_ATTEND | CLI_APPROX, NULL, 0, 0, NULL, NULL,
               "queries (B, H, T, D), .npy float32 or float64"},
    [OPT_K] = {"k", NULL, "FILE", SETTING_STRING, CLI_ATTEND | CLI_APPROX, NULL, 0, 0, NULL, NULL,
               "keys (B, H, S, D)"},
    [OPT_V] = {"v", NULL, "FILE", SETTING_STRING, CLI_ATTEND | CLI_APPROX, NULL, 0, 0, NULL, NULL,
               "values (B, H, S, DV)"},
    [OPT_X] = {"x", NULL, "FILE", SETTING_STRING, CLI_FEATURES, NULL, 0, 0, NULL, NULL,
               "queries (B, H, T, D), not scaled"},
    [OPT_Y] = {"y", NULL, "FILE", SETTING_STRING, CLI_FEATURES, NULL, 0, 0, NULL, NULL,
               "keys (B, H, S, D), not scaled"},
    [OPT_MASK] = {"mask", NULL, "FILE", SETTING_STRING, ARRAYS, NULL, 0, 0, NULL, NULL,
                  "(B, S), 0 marks padding; for the keys, and for the queries if T = S"},
    [OPT_INPUT] = {"input", NULL, "NAME=FILE", SETTING_STRING, ARRAYS, NULL, 0, 0, NULL, NULL,
                   "replaces a matrix or parameter that would be drawn or computed (W, A, psi, "
                   "A_pos); may be "
                   "repeated"},
    [OPT_OUT] = {"out", NULL, "PATH", SETTING_STRING,
                 NETS | ARRAYS | CLI_MATRIX | CLI_DATA | CLI_APPROX | CLI_GEN, NULL, 0, 0, NULL,
                 NULL,
                 "where the result goes: .npy file, folder or page; for a run the same as --run"},
    [OPT_DOUT] = {"dout", NULL, "FILE", SETTING_STRING, CLI_ATTEND, NULL, 0, 0, NULL, NULL,
                  "gradient of the result (B, H, T, DV); asks for the backward pass too"},
    [OPT_DQ] = {"dq", NULL, "FILE", SETTING_STRING, CLI_ATTEND, NULL, 0, 0, NULL, NULL,
                "file for the gradient of q"},
    [OPT_DK] = {"dk", NULL, "FILE", SETTING_STRING, CLI_ATTEND, NULL, 0, 0, NULL, NULL,
                "file for the gradient of k"},
    [OPT_DV] = {"dv", NULL, "FILE", SETTING_STRING, CLI_ATTEND, NULL, 0, 0, NULL, NULL,
                "file for the gradient of v"},
    [OPT_D] = {"d", NULL, "N", SETTING_INT, CLI_MATRIX | CLI_JIT | CLI_APPROX | CLI_GEN, NULL, 1,
               256, "32", NULL, "head size"},
    [OPT_LAYER] = {"layer", NULL, "N", SETTING_INT, CLI_MATRIX | CLI_APPROX, NULL, 0, 1 << 20, "0",
                   NULL, "layer whose matrix is drawn, or layer of the run"},
    [OPT_ROW_WEIGHTS] = {"row-weights", NULL, "FILE", SETTING_STRING, CLI_MATRIX, NULL, 0, 0, NULL,
                         NULL, "file for the weights of the rows (M)"},
    [OPT_FROM] = {"from", NULL, "DIR", SETTING_STRING, CLI_DATA, NULL, 0, 0, NULL, NULL,
                  "prepare: folder with the original files"},
    [OPT_OVERWRITE] = {"overwrite", NULL, NULL, FLAG, CLI_TRAIN | CLI_DATA, NULL, 0, 0, NULL, NULL,
                       "replace what exists"},
    [OPT_JSON] = {"json", NULL, NULL, FLAG,
                  NETS | CLI_LIST | CLI_INFO | CLI_DATA | CLI_JIT | CLI_APPROX, NULL, 0, 0, NULL,
                  NULL, "print the result as JSON"},
    [OPT_THREADS] = {"threads", NULL, "N", SETTING_INT, PAIRS | CLI_APPROX, NULL, 1, 4096, NULL,
                     NULL, "threads, default all processors; results do not depend on it"},
    [OPT_LIST] = {"list", NULL, NULL, FLAG, CLI_JIT, NULL, 0, 0, NULL, NULL,
                  "list the kernels in the cache"},
    [OPT_CLEAR] = {"clear", NULL, NULL, FLAG, CLI_JIT, NULL, 0, 0, NULL, NULL,
                   "remove the kernels in the cache"},
    [OPT_WARM] = {"warm", NULL, NULL, FLAG, CLI_JIT, NULL, 0, 0, NULL, NULL,
                  "compile the pair's kernel, or that of every component function"},
    [OPT_VALUE_SIZE] = {"dv", NULL, "N", SETTING_INT, CLI_JIT | CLI_GEN, NULL, 1, 256, NULL, NULL,
                        "value size, default the head size"},
    [OPT_FEATS] = {"feat", NULL, "NAME,...", SETTING_STRING, CLI_APPROX, NULL, 0, 0, NULL, NULL,
                   "component functions, default all; posrf+ is the antithetic form of posrf"},
    [OPT_KERNELS] = {"kernel", "kernel-type", "NAME,...", SETTING_STRING, CLI_APPROX, NULL, 0, 0,
                     NULL, NULL, "weight matrices, default all"},
    [OPT_SIZES] = {"m", NULL, "N,...", SETTING_STRING, CLI_APPROX, NULL, 0, 0, "64,256", NULL,
                   "rows of the weight matrix"},
    [OPT_LENGTH] = {"tokens", NULL, "N", SETTING_INT, CLI_APPROX, NULL, 1, 16384, "256", NULL,
                    "random queries and keys; with --run, at most that many of the example"},
    [OPT_TRAINED] = {"run", NULL, "DIR", SETTING_STRING, CLI_APPROX, NULL, 0, 0, NULL, NULL,
                     "take q, k, v of a layer of this run on the first dev example"},
    [OPT_TRIALS] = {"trials", NULL, "N", SETTING_INT, CLI_APPROX, NULL, 2, 100000, "16", NULL,
                    "times each matrix is drawn"},
    [OPT_INPUT_STD] = {"input-std", NULL, "S", SETTING_REAL, CLI_APPROX, NULL, 1e-3, 100, "1", NULL,
                       "standard deviation of random queries and keys"},
    [OPT_DTYPE] = {"dtype", NULL, "NAME", SETTING_STRING, CLI_GEN, NULL, 0, 0, "f32", "f32|f64",
                   "type of the kernels' numbers"},
    [OPT_DEVICE] = {"device", NULL, "NAME", SETTING_STRING, CLI_ATTEND | CLI_FEATURES | NETS, NULL,
                    0, 0, "cpu", "cpu|cuda|emu",
                    "where to compute: cuda is an NVIDIA GPU, emu runs the GPU's kernels "
                    "on this CPU"},
    [OPT_ARCH] =
        {"arch", NULL, "NAME,...", SETTING_STRING, CLI_JIT, NULL, 0, 0, NULL, NULL,
         "with --warm: compile all CUDA text instead, for these GPUs (sm_80,sm_90a), which need "
         "not be here"},
    [OPT_PRECISION] =
        {"precision", NULL, "NAME", SETTING_STRING, CLI_ATTEND | NETS | CLI_JIT, NULL, 0, 0,
         "float32", "float32|fast|bf16",
         "fast: a device multiplies in TF32; bf16, for attend only: the CPU multiplies in bf16 "
         "(needs AVX512_BF16), a device also reads and writes bf16"},
    [OPT_BENCH_FEATS] = {"features", "feat", "NAME,...", SETTING_STRING, CLI_BENCH, NULL, 0, 0,
                         "posrf", NULL,
                         "component functions, or all; posrf+ is the antithetic form of posrf"},
    [OPT_BENCH_KERNELS] = {"kernels", "kernel", "NAME,...", SETTING_STRING, CLI_BENCH, NULL, 0, 0,
                           "gaus", NULL, "weight matrices, or all"},
    [OPT_KINDS] = {"kinds", NULL, "NAME,...", SETTING_STRING, CLI_BENCH, NULL, 0, 0,
                   "forward,backward", NULL, "what is measured, see below"},
    [OPT_BENCH_BATCH] = {"b", "batch", "N,...", SETTING_STRING, CLI_BENCH, NULL, 0, 0, "16", NULL,
                         "sequences"},
    [OPT_BENCH_HEADS] = {"h", NULL, "N,...", SETTING_STRING, CLI_BENCH, NULL, 0, 0, "2", NULL,
                         "heads"},
    [OPT_BENCH_TOKENS] = {"n", "tokens", "N,...", SETTING_STRING, CLI_BENCH, NULL, 0, 0, "4096",
                          NULL, "tokens of a sequence"},
    [OPT_BENCH_D] = {"d", NULL, "N,...", SETTING_STRING, CLI_BENCH, NULL, 0, 0, "32", NULL,
                     "head size"},
    [OPT_BENCH_DV] = {"dv", NULL, "N,...", SETTING_STRING, CLI_BENCH, NULL, 0, 0, NULL, NULL,
                      "value size, default the head size"},
    [OPT_BENCH_M] = {"m", NULL, "N,...", SETTING_STRING, CLI_BENCH, NULL, 0, 0, "128", NULL,
                     "rows of the weight matrix"},
    [OPT_BENCH_THREADS] = {"threads", NULL, "N,...", SETTING_STRING, CLI_BENCH, NULL, 0, 0, NULL,
                           NULL, "threads, default all processors"},
    [OPT_BENCH_TASK] = {"task", NULL, "TASK", SETTING_STRING, CLI_BENCH, NULL, 0, 0, "lra-text",
                        NULL, "task whose model the kind training uses"},
    [OPT_ISA] = {"target", NULL, "NAME", SETTING_STRING, CLI_BENCH, NULL, 0, 0, NULL,
                 "portable|avx2|avx512",
                 "instruction set of the kernels, default the best of this CPU"},
    [OPT_REPEAT] = {"repeat", NULL, "N", SETTING_INT, CLI_BENCH, NULL, 3, 1000, "9", NULL,
                    "least number of times that each case is measured"},
    [OPT_SECONDS] = {"seconds", NULL, "S", SETTING_REAL, CLI_BENCH, NULL, 0, 600, "0.5", NULL,
                     "least time for which each case is measured"},
    [OPT_JSON_FILE] =
        {"json", NULL, "FILE", SETTING_STRING, CLI_BENCH, NULL, 0, 0, NULL, NULL,
         "also write JSON Lines: one record of the machine, then one for each case; - is "
         "standard output, and then nothing else is printed"},
    [OPT_ALLOW_BUSY] = {"allow-busy", NULL, NULL, FLAG, CLI_BENCH, NULL, 0, 0, NULL, NULL,
                        "also quote percentages of cases that were measured while others used the "
                        "machine; they stay marked"},
    [OPT_HELP] = {"help", NULL, NULL, FLAG, EVERY, NULL, 0, 0, NULL, NULL, "print this text"},
};

/* ---- settings of attentions -------------------------------------------------------------------
 */

/* Compares with '_' and '-' alike, up to the '=' of name. */
static bool same_name(const char *name, size_t n, const char *other)
{
    if (!other || strlen(other) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if ((name[i] == '_' ? '-' : name[i]) != (other[i] == '_' ? '-' : other[i]))
            return false;
    return true;
}

const char *cli_option_text(const char *name, char *buf, size_t size)
{
    snprintf(buf, size, "--%s", name);
    for (char *at = buf; *at; at++)
        *at = *at == '_' ? '-' : *at;
    return buf;
}

/* An option above stands for it. */
static bool has_row(const setting *s)
{
    for (int i = 0; i < OPT_COUNT; i++)
        if ((options[i].commands & (CLI_TRAIN | CLI_ATTEND)) &&
            same_name(s->name, strlen(s->name), options[i].name))
            return true;
    return false;
}

/* Number i of the settings of attentions that no option above stands for; NULL behind the last. */
static const setting *own_setting(int i)
{
    const setting *s = NULL;
    for (int k = 0; (s = attention_setting_at(k)); k++)
        if (!has_row(s) && i-- == 0)
            break;
    return s;
}

/* Row i of the list above and of the settings behind it; false behind the last. */
static bool option_at(int i, option *out)
{
    static const char *const metavar[] = {[SETTING_INT] = "N",
                                          [SETTING_REAL] = "X",
                                          [SETTING_BOOL] = NULL,
                                          [SETTING_STRING] = "NAME"};
    const setting *s = i < OPT_COUNT || i >= CLI_OPTIONS ? NULL : own_setting(i - OPT_COUNT);
    if (i < OPT_COUNT)
        *out = options[i];
    else if (s)
        *out = (option){.name = s->name,
                        .alias = s->alias,
                        .metavar = metavar[s->type],
                        .type = s->type == SETTING_BOOL ? FLAG : (int)s->type,
                        .commands = CLI_TRAIN | (s->training ? 0 : CLI_ATTEND),
                        .low = s->low,
                        .high = s->high,
                        .initial = s->initial,
                        .choice = s->choice,
                        .help = s->doc};
    return i < OPT_COUNT || s;
}

/* ---- parsing ----------------------------------------------------------------------------------
 */

/* The setting of a reader of data, of any task; NULL. */
static const reader_setting *find_reader_setting(const char *name, size_t n)
{
    for (int r = 0; task_readers[r]; r++)
        for (int i = 0; i < task_readers[r]->settings_count; i++)
            if (same_name(name, n, task_readers[r]->settings[i].setting.name))
                return &task_readers[r]->settings[i];
    return NULL;
}

static spectra_status unknown_option(const cli_args *a, const char *name, size_t n)
{
    const char *names[CLI_OPTIONS];
    int count = 0;
    char text[64];
    option o;
    snprintf(text, sizeof text, "%.*s", (int)n, name);
    for (int i = 0; option_at(i, &o); i++) {
        bool known = same_name(name, n, o.name) || same_name(name, n, o.alias);
        if (known || find_reader_setting(name, n))
            return fail(SPECTRA_EINVAL, "%s has no option --%s", a->command_name, text);
        if (o.commands & a->command)
            names[count++] = o.name;
    }
    for (int r = 0; a->command == CLI_DATA && task_readers[r]; r++)
        for (int i = 0; i < task_readers[r]->settings_count && count < CLI_OPTIONS; i++)
            names[count++] = task_readers[r]->settings[i].setting.name;
    const char *near = nearest_name(text, names, count);
    return fail(SPECTRA_EINVAL, "unknown option --%s%s%s%s", text, near ? ", did you mean --" : "",
                near ? near : "", near ? "?" : "");
}

static spectra_status find_option(const cli_args *a, const char *name, size_t n, int *id,
                                  option *found)
{
    for (int i = 0; option_at(i, found); i++)
        if ((found->commands & a->command) &&
            (same_name(name, n, found->name) || same_name(name, n, found->alias))) {
            *id = i;
            return SPECTRA_OK;
        }
    return unknown_option(a, name, n);
}

/* The row's type and limits, or those of the setting it stands for. */
static setting option_setting(const option *o)
{
    const setting *s = o->setting ? train_setting(o->setting) : NULL;
    setting row = s ? *s : (setting){o->name,   (setting_type)o->type, 0, o->low, o->high,
                                     o->choice, .doc = o->help};
    row.offset = 0;
    return row;
}

static spectra_status set_value(const option *o, cli_value *value, const char *text)
{
    char where[64];
    cli_option_text(o->name, where, sizeof where);
    setting row = option_setting(o);
    char checked[SETTING_TEXT] __attribute__((aligned(8)));
    TRY(setting_parse(&row, checked, text, where));
    if (o->type == SETTING_INT)
        memcpy(&value->integer, checked, sizeof value->integer);
    if (o->type == SETTING_REAL)
        memcpy(&value->real, checked, sizeof value->real);
    snprintf(value->text, sizeof value->text, "%s", text);
    return SPECTRA_OK;
}

/* The text of an option: what follows its '=', else the next word. */
static spectra_status take_text(const char *said, const char *metavar, const char *equals,
                                const char *next, const char **text, int *used)
{
    *text = equals ? equals + 1 : next;
    if (!*text || (!equals && strncmp(*text, "--", 2) == 0))
        return fail(SPECTRA_EINVAL, "%s needs a value: %s %s", said, said, metavar);
    *used = equals ? 1 : 2;
    return SPECTRA_OK;
}

static spectra_status no_value(const char *said)
{
    return fail(SPECTRA_EINVAL, "%s takes no value", said);
}

/* A task's own option: kept until it is known which task it is for. */
static spectra_status take_reader_option(cli_args *a, const reader_setting *s, const char *equals,
                                         const char *next, int *used)
{
    cli_task_option *kept = &a->task_option[a->task_options];
    const char *name = s->setting.name;
    char said[64];
    if (a->task_options == CLI_INPUTS)
        return fail(SPECTRA_EINVAL, "more than %d options of a task", (int)CLI_INPUTS);
    a->task_options++;
    *kept = (cli_task_option){name, "true"};
    cli_option_text(name, said, sizeof said);
    if (s->setting.type == SETTING_BOOL)
        return equals ? no_value(said) : SPECTRA_OK;
    return take_text(said, s->metavar, equals, next, &kept->text, used);
}

static spectra_status take_option(cli_args *a, const char *word, const char *next, int *used)
{
    const char *name = word + 2, *equals = strchr(name, '='), *text = NULL;
    const size_t length = equals ? (size_t)(equals - name) : strlen(name);
    const reader_setting *own = a->command == CLI_DATA ? find_reader_setting(name, length) : NULL;
    char said[64];
    int id = 0;
    option o;
    *used = 1;
    if (own)
        return take_reader_option(a, own, equals, next, used);
    TRY(find_option(a, name, length, &id, &o));
    cli_option_text(o.name, said, sizeof said);
    cli_value *value = &a->value[id];
    value->given = true;
    if (o.type == FLAG) {
        snprintf(value->text, sizeof value->text, "true");
        return equals ? no_value(said) : SPECTRA_OK;
    }
    TRY(take_text(said, o.metavar, equals, next, &text, used));
    if (id == OPT_INPUT) {
        if (a->inputs == CLI_INPUTS)
            return fail(SPECTRA_EINVAL, "more than %d times --input", (int)CLI_INPUTS);
        a->input[a->inputs++] = text;
    }
    return set_value(&o, value, text);
}

spectra_status cli_parse(unsigned command, const char *command_name, int positionals, int argc,
                         char **argv, cli_args *out)
{
    memset(out, 0, sizeof *out);
    out->command = command;
    out->command_name = command_name;
    option o;
    for (int i = 0; option_at(i, &o); i++)
        if (o.initial)
            TRY(set_value(&o, &out->value[i], o.initial));
    for (int i = 0; i < argc;) {
        if (strcmp(argv[i], "-h") == 0) {
            out->value[OPT_HELP].given = true;
            i++;
        } else if (strncmp(argv[i], "--", 2) == 0 && argv[i][2]) {
            int used = 1;
            TRY(take_option(out, argv[i], argv[i + 1], &used));
            i += used;
        } else if (out->positionals < positionals) {
            out->positional[out->positionals++] = argv[i++];
        } else {
            return fail(SPECTRA_EINVAL, "%s: '%s' is not an option; see --help", command_name,
                        argv[i]);
        }
    }
    return SPECTRA_OK;
}

spectra_status cli_apply_settings(const cli_args *a, void *config)
{
    for (int i = 0; i < OPT_COUNT; i++) {
        const option *o = &options[i];
        if (!o->setting || !a->value[i].given)
            continue;
        char where[64];
        cli_option_text(o->name, where, sizeof where);
        TRY(setting_parse(train_setting(o->setting), config, a->value[i].text, where));
    }
    return SPECTRA_OK;
}

spectra_status cli_need(const cli_args *a, option_id id, const char **text)
{
    if (!a->value[id].given)
        return fail(SPECTRA_EINVAL, "%s needs --%s %s", a->command_name, options[id].name,
                    options[id].metavar);
    *text = a->value[id].text;
    return SPECTRA_OK;
}

const cli_value *cli_given(const cli_args *a, const char *name)
{
    option o;
    for (int i = 0; option_at(i, &o); i++)
        if ((o.commands & a->command) && same_name(name, strlen(name), o.name) && a->value[i].given)
            return &a->value[i];
    return NULL;
}

bool cli_next_item(const char **at, char item[SETTING_TEXT])
{
    if (!*at)
        return false;
    size_t n = strcspn(*at, ",");
    snprintf(item, SETTING_TEXT, "%.*s", (int)n, *at);
    *at = (*at)[n] == ',' ? *at + n + 1 : NULL;
    return true;
}

spectra_status cli_integers(const cli_args *a, option_id id, int64_t low, int64_t high, int most,
                            int64_t *out, int *count)
{
    char item[SETTING_TEXT];
    const char *at = a->value[id].text, *name = options[id].name;
    int n = 0;
    while (cli_next_item(&at, item)) {
        char *end;
        errno = 0;
        long long x = strtoll(item, &end, 10);
        if (end == item || *end || errno || x < low || x > high)
            return fail(SPECTRA_EINVAL,
                        "--%s has '%s', allowed are whole numbers from %lld to %lld with commas "
                        "between",
                        name, item, (long long)low, (long long)high);
        if (n == most)
            return fail(SPECTRA_EINVAL, "--%s: more than %d numbers", name, most);
        out[n++] = x;
    }
    *count = n;
    return SPECTRA_OK;
}

void cli_print_options(unsigned command)
{
    option o;
    for (int i = 0; option_at(i, &o); i++) {
        if (!(o.commands & command))
            continue;
        char name[48], left[64];
        cli_option_text(o.name, name, sizeof name);
        snprintf(left, sizeof left, "%s %s", name, o.metavar ? o.metavar : "");
        printf("  %-26s %s", left, o.help);
        if (o.initial)
            printf(", default %s", o.initial);
        if (o.choice && !strstr(o.metavar, "|"))
            printf(" (%s)", o.choice);
        if (o.alias)
            printf("; also --%s", o.alias);
        putchar('\n');
    }
}
