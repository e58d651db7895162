/* The command line. Commands are rows of a table in main.c; options are rows of a table in
 * options.c and, behind them, the attentions' own settings. Results go to stdout, everything else
 * to stderr. It computes nothing itself: each command is a call of the library.
 */
#ifndef SPECTRA_CLI_CLI_H
#define SPECTRA_CLI_CLI_H

#include "attention/attention.h"
#include "base/settings.h"
#include "device/device.h"

#include <signal.h>

/* Commands, as bits of option rows. */
enum {
    CLI_TRAIN = 1,
    CLI_EVAL = 2,
    CLI_ATTEND = 4,
    CLI_FEATURES = 8,
    CLI_MATRIX = 16,
    CLI_DATA = 32,
    CLI_LIST = 64,
    CLI_INFO = 128,
    CLI_JIT = 256,
    CLI_APPROX = 512,
    CLI_GEN = 1024,
    CLI_BENCH = 2048
};

typedef enum option_id {
    OPT_TASK,
    OPT_ATTN,
    OPT_FEAT,
    OPT_KERNEL,
    OPT_M,
    OPT_SEED,
    OPT_RNG,
    OPT_TARGET,
    OPT_OFFICIAL,
    OPT_ANTITHETIC,
    OPT_CAUSAL,
    OPT_STEPS,
    OPT_BATCH,
    OPT_ACCUMULATE,
    OPT_LR,
    OPT_WARMUP,
    OPT_EVAL_EVERY,
    OPT_EVAL_BATCHES,
    OPT_LAYERS,
    OPT_DROPOUT,
    OPT_ATTENTION_DROPOUT,
    OPT_DATA,
    OPT_RUN,
    OPT_RESUME,
    OPT_MAX_SECONDS,
    OPT_STOP_AT,
    OPT_SPLIT,
    OPT_CHECKPOINT,
    OPT_Q,
    OPT_K,
    OPT_V,
    OPT_X,
    OPT_Y,
    OPT_MASK,
    OPT_INPUT,
    OPT_OUT,
    OPT_DOUT,
    OPT_DQ,
    OPT_DK,
    OPT_DV,
    OPT_D,
    OPT_LAYER,
    OPT_ROW_WEIGHTS,
    OPT_FROM,
    OPT_OVERWRITE,
    OPT_JSON,
    OPT_THREADS,
    OPT_LIST,
    OPT_CLEAR,
    OPT_WARM,
    OPT_VALUE_SIZE,
    OPT_DTYPE,
    OPT_FEATS,
    OPT_KERNELS,
    OPT_SIZES,
    OPT_LENGTH,
    OPT_TRAINED,
    OPT_TRIALS,
    OPT_INPUT_STD,
    OPT_DEVICE,
    OPT_PRECISION,
    OPT_ARCH,
    OPT_BENCH_FEATS,
    OPT_BENCH_KERNELS,
    OPT_KINDS,
    OPT_BENCH_BATCH,
    OPT_BENCH_HEADS,
    OPT_BENCH_TOKENS,
    OPT_BENCH_D,
    OPT_BENCH_DV,
    OPT_BENCH_M,
    OPT_BENCH_THREADS,
    OPT_BENCH_TASK,
    OPT_ISA,
    OPT_REPEAT,
    OPT_SECONDS,
    OPT_JSON_FILE,
    OPT_ALLOW_BUSY,
    OPT_HELP,
    OPT_COUNT
} option_id;

/* Behind the options of this list are those settings of attentions that it lacks. */
enum { CLI_OPTIONS = OPT_COUNT + 64, CLI_POSITIONALS = 3, CLI_INPUTS = 16 };

typedef struct cli_value {
    bool given;
    int64_t integer;
    double real;
    char text[SETTING_TEXT]; /* as written, for every type; "true" of a flag */
} cli_value;

/* An option that is a task's own, of data/reader.h. */
typedef struct cli_task_option {
    const char *name, *text;
} cli_task_option;

typedef struct cli_args {
    unsigned command; /* its bit */
    const char *command_name;
    int positionals;
    const char *positional[CLI_POSITIONALS];
    cli_value value[CLI_OPTIONS]; /* defaults where not given */
    int inputs;
    const char *input[CLI_INPUTS]; /* every --input, "NAME=file.npy" */
    int task_options;
    cli_task_option task_option[CLI_INPUTS]; /* in the order given */
} cli_args;

/* argv without the program's and the command's name. SPECTRA_EINVAL. */
spectra_status cli_parse(unsigned command, const char *command_name, int positionals, int argc,
                         char **argv, cli_args *out);
/* Options of a command, one a line, to stdout. */
void cli_print_options(unsigned command);
/* The name of a setting or an option as it is written: "grad_through" is --grad-through. */
const char *cli_option_text(const char *name, char *buf, size_t size);
/* Option values that name settings into a config (train_config), only those given. */
spectra_status cli_apply_settings(const cli_args *a, void *config);
/* The text of an option that must be there: "attend needs --q FILE". */
spectra_status cli_need(const cli_args *a, option_id id, const char **text);

/* The next item of a list with commas into item; false at its end, *at is then NULL. */
bool cli_next_item(const char **at, char item[SETTING_TEXT]);
/* The whole numbers of an option's list, `most` of them at most. SPECTRA_EINVAL. */
spectra_status cli_integers(const cli_args *a, option_id id, int64_t low, int64_t high, int most,
                            int64_t *out, int *count);

/* An object, which is taken over, to stdout. SPECTRA_ENOMEM, also for NULL. */
spectra_status cli_print_json(json_t *object);

/* The attention that --attn and --official name, and its settings: options that were given over
 * what `settings` holds (attention_options_start, a run's). SPECTRA_EINVAL for options of another
 * attention. */
spectra_status cli_attention(const cli_args *a, const attention_kind **kind);
spectra_status cli_attention_settings(const cli_args *a, const attention_kind *kind,
                                      attention_options *settings);
/* The value of the option of this name, NULL if it was not given. */
const cli_value *cli_given(const cli_args *a, const char *name);

/* Component function and matrix of --feat and --kernel: whichever table a value is in decides,
 * because the reference system's options are the other way round. The path of a spec is opened and
 * gives its name. Defaults: posrf, orf. */
spectra_status cli_pair(const cli_args *a, const char **feat, const char **kernel);

/* The device of --device, to be closed; NULL stays for "cpu". SPECTRA_EUNSUPPORTED says what is
 * missing: nothing is computed elsewhere than asked for. */
spectra_status cli_device(const cli_args *a, device **out);

spectra_status cli_train(const cli_args *a);
spectra_status cli_eval(const cli_args *a);
spectra_status cli_attend(const cli_args *a);
spectra_status cli_features(const cli_args *a);
spectra_status cli_matrix(const cli_args *a);
spectra_status cli_gen(const cli_args *a);
spectra_status cli_approx(const cli_args *a);
spectra_status cli_data(const cli_args *a);
spectra_status cli_list(const cli_args *a);
spectra_status cli_info(const cli_args *a);
spectra_status cli_jit(const cli_args *a);
spectra_status cli_bench(const cli_args *a);
/* The kinds of measurements, to stdout. */
void cli_bench_kinds(void);
/* The options that tasks have of their own, to stdout. */
void cli_data_options(void);

/* What the environment says of compiling at run time, to jit.h. SPECTRA_EINVAL. */
spectra_status cli_jit_settings(void);

/* Set by SIGINT and SIGTERM once cli_catch_signals was called; a second signal kills. */
extern volatile sig_atomic_t cli_stop;
void cli_catch_signals(void);

#endif
