/* What a kernel did wrong, as a sentence that names the kernel, the block, the thread and the line
 * of its text. */
#include "device/emulator/internal.h"

#include <stdarg.h>
#include <stdio.h>

const char *place_text(const emulator_place *at, const emulator_place *from)
{
    static _Thread_local char text[4][192];
    static _Thread_local unsigned turn;
    char *out = text[turn++ % 4];
    if (from)
        snprintf(out, sizeof text[0], "%s (%s:%d)", from->what, from->file, from->line);
    else
        snprintf(out, sizeof text[0], "%s (%s:%d)", at->what, at->file, at->line);
    return out;
}

static void set_message(group *g, const block *b, int thread, const char *format, va_list args)
{
    int n = snprintf(g->message, sizeof g->message, "kernel %s, block (%lld, %lld, %lld)",
                     g->kernel->name, (long long)b->index[0], (long long)b->index[1],
                     (long long)b->index[2]);
    if (thread >= 0)
        n += snprintf(g->message + n, sizeof g->message - (size_t)n, ", thread %d", thread);
    n += snprintf(g->message + n, sizeof g->message - (size_t)n, ": ");
    vsnprintf(g->message + n, sizeof g->message - (size_t)n, format, args);
    g->failed = true;
}

_Noreturn void lane_fail(emulator_lane *self, const char *format, ...)
{
    group *g = self->group;
    va_list args;
    va_start(args, format);
    set_message(g, block_of(self), self->thread, format, args);
    va_end(args);
    fibre_switch(self, &g->home, false);
    __builtin_unreachable();
}

void group_fail(group *g, const block *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_message(g, b, -1, format, args);
    va_end(args);
}
