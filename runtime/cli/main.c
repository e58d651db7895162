#include "cli/cli.h"

#include "base/cpu.h"
#include "base/status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct command {
    const char *name;
    unsigned bit;
    int positionals;
    const char *usage, *summary;
    spectra_status (*run)(const cli_args *a);
} command;

static const command commands[] = {
    {"train", CLI_TRAIN, 0, "train [--attn A --feat F --kernel K --task T ...]",
     "train a classifier on a task, into a run's folder", cli_train},
    {"eval", CLI_EVAL, 0, "eval [--run DIR]", "evaluate a trained run", cli_eval},
    {"attend", CLI_ATTEND, 0, "attend --q q.npy --k k.npy --v v.npy --out o.npy [...]",
     "compute one attention of .npy arrays, forward and backward", cli_attend},
    {"features", CLI_FEATURES, 0, "features --feat F --kernel K --x x.npy --y y.npy --out DIR",
     "compute the features of queries and keys, as logarithms and signs", cli_features},
    {"matrix", CLI_MATRIX, 0, "matrix --kernel K --m M --d D --out W.npy", "draw a weight matrix",
     cli_matrix},
    {"approx", CLI_APPROX, 0, "approx [--feat F,.. --kernel K,.. --m M,..] [--out report.html]",
     "compare pairs by error, bias, variance and time: table, JSON, heat maps", cli_approx},
    {"data", CLI_DATA, 2, "data generate|prepare TASK [...], data info TASK|DIR",
     "make prepared data, or look at it", cli_data},
    {"list", CLI_LIST, 0, "list", "list attentions, component functions, matrices and tasks",
     cli_list},
    {"info", CLI_INFO, 0, "info", "describe this machine and this build", cli_info},
    {"gen", CLI_GEN, 0, "gen --feat F --kernel K [--d --dv --m --dtype] --out DIR",
     "write the source text of a pair's kernels, as `make gen` does", cli_gen},
    {"jit", CLI_JIT, 0, "jit --list|--clear|--warm [--feat F --m M --d D --dv DV]",
     "manage the cache of kernels compiled at run time", cli_jit},
    {"bench", CLI_BENCH, 0,
     "bench [--features F,.. --kernels K,.. --kinds .. --n N,..] [--json FILE]",
     "measure kernels against the most that this machine allows", cli_bench},
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(void)
{
    puts("spectraformer: random-feature linear attention, fused.\n\nusage: spectraformer COMMAND "
         "[options]\n");
    for (int i = 0; i < COMMANDS; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    puts("\n`spectraformer COMMAND --help` lists a command's options.\n\n"
         "The spelling of the reference system works too:\n"
         "  spectraformer --mode train --attn performer --feat orf --kernel_type posrf \\\n"
         "                --task lra-listops --random 42\n"
         "--mode names the command (train, eval) and --random is --seed. There, --feat names the\n"
         "matrix and --kernel_type the component function (its README says the opposite); here\n"
         "either option takes either name.\n\n"
         "SPECTRA_ISA=portable|avx2|avx512 limits the instructions that any command uses.\n\n"
         "exit codes: 0 done, 1 failed, 2 wrong usage, 3 diverged, 4 measured while others "
         "used the machine, 130 interrupted after a checkpoint");
}

static void print_command_help(const command *c)
{
    printf("%s\n\nusage: spectraformer %s\n\n", c->summary, c->usage);
    cli_print_options(c->bit);
    if (c->bit == CLI_BENCH)
        cli_bench_kinds();
    if (c->bit == CLI_DATA)
        cli_data_options();
}

static spectra_status find_command(const char *name, const command **out)
{
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) {
        names[i] = commands[i].name;
        if (strcmp(name, names[i]) == 0) {
            *out = &commands[i];
            return SPECTRA_OK;
        }
    }
    const char *near = nearest_name(name, names, COMMANDS);
    return fail(SPECTRA_EINVAL, "unknown command '%s'%s%s%s", name, near ? ", did you mean '" : "",
                near ? near : "", near ? "'?" : "; see spectraformer --help");
}

/* The command from `--mode NAME` or `--mode=NAME` anywhere, which is taken out of argv. */
static const char *take_mode(int *argc, char **argv)
{
    for (int i = 0; i < *argc; i++) {
        const char *mode = NULL;
        int used = 0;
        if (strcmp(argv[i], "--mode") == 0 && i + 1 < *argc)
            mode = argv[i + 1], used = 2;
        else if (strncmp(argv[i], "--mode=", 7) == 0)
            mode = argv[i] + 7, used = 1;
        if (!mode)
            continue;
        *argc -= used;
        memmove(argv + i, argv + i + used, (size_t)(*argc - i + 1) * sizeof *argv);
        return mode;
    }
    return NULL;
}

/* The library never reads the environment; an empty variable is none. */
static spectra_status limit_instructions(void)
{
    const char *name = getenv("SPECTRA_ISA");
    return cpu_limit(name && *name ? name : NULL, "SPECTRA_ISA");
}

static spectra_status run(int argc, char **argv)
{
    static cli_args args;
    const char *name;
    if (argc > 0 && argv[0][0] != '-') {
        name = argv[0];
        argc--;
        argv++;
    } else {
        name = take_mode(&argc, argv);
    }
    if (!name && argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) {
        print_help();
        return SPECTRA_OK;
    }
    if (!name && argc > 0 && strcmp(argv[0], "--version") == 0) {
        printf("spectraformer %s\n", spectra_version());
        return SPECTRA_OK;
    }
    if (!name)
        return fail(SPECTRA_EINVAL, "no command; see spectraformer --help");
    const command *c = NULL;
    TRY(find_command(name, &c));
    TRY(cli_parse(c->bit, c->name, c->positionals, argc, argv, &args));
    if (args.value[OPT_HELP].given) {
        print_command_help(c);
        return SPECTRA_OK;
    }
    TRY(limit_instructions());
    TRY(cli_jit_settings());
    return c->run(&args);
}

static int exit_code(spectra_status status)
{
    switch (status) {
    case SPECTRA_OK:
        return 0;
    case SPECTRA_EINVAL:
    case SPECTRA_ENOTFOUND:
        return 2;
    case SPECTRA_EDIVERGED:
        return 3;
    case SPECTRA_EBUSY:
        return 4;
    case SPECTRA_EINTERRUPTED:
        return 130;
    default:
        return 1;
    }
}

int main(int argc, char **argv)
{
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is then an error like a full disk */
    spectra_status status = run(argc - 1, argv + 1);
    if (status == SPECTRA_OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = fail(SPECTRA_EIO, "writing to standard output: %s", strerror(errno));
    if (status != SPECTRA_OK) {
        bool colour = isatty(STDERR_FILENO) && !getenv("NO_COLOR");
        fprintf(stderr, "%sspectraformer:%s %s\n", colour ? "\033[1;31m" : "",
                colour ? "\033[0m" : "", spectra_message());
    }
    return exit_code(status);
}
