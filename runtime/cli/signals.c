/* A request to stop, remembered until a step has been completed. */
#include "cli/cli.h"

volatile sig_atomic_t cli_stop;

static void on_signal(int number)
{
    cli_stop = number;
}

void cli_catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    static const int numbers[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        struct sigaction former;
        /* what was started with signals ignored (nohup, a shell's background) keeps that */
        if (sigaction(numbers[i], NULL, &former) == 0 && former.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
}
