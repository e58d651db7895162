/* How a sequence is split, and the state that keys are read into. */
#include "attention/performer/performer.h"

#include <math.h>
#include <string.h>

enum {
    SPLIT_TASKS = 32,   /* a direction has at least this many tasks where the sequence allows */
    SPLIT_MINIMUM = 256 /* tokens a split is worth */
};

/* Derived from the shape alone, so that results do not depend on the number of threads. */
int64_t performer_split_count(int64_t heads, int64_t tokens)
{
    int64_t wanted = (SPLIT_TASKS + heads - 1) / heads;
    int64_t possible = (tokens + SPLIT_MINIMUM - 1) / SPLIT_MINIMUM;
    int64_t n = wanted < possible ? wanted : possible;
    return n > 1 ? n : 1;
}

void performer_split_range(int64_t tokens, int64_t splits, int64_t i, int64_t *from, int64_t *count)
{
    int64_t each = (tokens + splits - 1) / splits;
    *from = i * each < tokens ? i * each : tokens;
    *count = *from + each < tokens ? each : tokens - *from;
}

void performer_clear_state(const performer *pf, float *state)
{
    int64_t F = pf->feature->lanes * pf->plan.MP;
    for (int64_t i = 0; i < F; i++)
        state[i] = -INFINITY;
    memset(state + F, 0, (size_t)(F * (1 + pf->plan.DVP)) * sizeof *state);
}
