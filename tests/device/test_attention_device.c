/* Attention on a device against the CPU: a table of cases (attention_cases.c) of every kind, and
 * what no row says: batches that change, refusals, bytes of memory that are touched.
 *
 * test_attention_device [DEVICE [PATTERN ...]]: the rows whose names one of the patterns describes
 * ("*causal*"); without patterns those that are not FULL, or all where DEVICE_CASES is "full".
 */
#include "device/attention_case.h"

#include "device/backend.h"
#include "device/emulator/emulator.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the host makes is kept for batches that are no larger. */
static void official_batches_change(void **state)
{
    static const int64_t shapes[][2] = {{1, 5}, {3, 33}, {2, 9}, {4, 7}};
    static const char *const feats[] = {"gerf", "saderf", "oprf"};
    (void)state;
    for (size_t f = 0; f < sizeof feats / sizeof feats[0]; f++) {
        attention_case c = {"official",      feats[f],           "orf", 1, 2, 5, 5, 16, 16, 32,
                            .flags = MASKED, .within = REFERENCE};
        subject s;
        case_device(&c);
        subject_open(&s, &c);
        for (size_t i = 0; i < 5; i++) {
            batch x;
            if (i == 4)
                subject_redraw(&s, 9);
            else
                c.B = shapes[i][0], c.T = c.S = shapes[i][1];
            batch_open(&x, &s, &c, 0);
            batch_check(&x);
            batch_close(&x);
        }
        subject_close(&s);
    }
}

static void official_refusals(void **state)
{
    static const attention_case c = {
        "official", "gerf", "orf", 1, 2, 9, 9, 16, 16, 32, .flags = GIVEN, .within = REFERENCE};
    attention_device *none = NULL;
    subject s;
    batch x;
    (void)state;
    case_device(&c);
    subject_open(&s, &c);
    batch_open(&x, &s, &c, 0);
    batch_refused(&x, 9, 9, true, SPECTRA_EINVAL, "packed");
    batch_refused(&x, 9, 8, false, SPECTRA_ESHAPE, "9 queries, 8 keys");
    batch_refused(&x, 8, 8, false, SPECTRA_ESHAPE, "A_pos has 9 positions");
    fails(attention_device_new_typed(s.att, dev, true, true, &none), SPECTRA_EUNSUPPORTED, "bf16");
    assert_null(none);
    batch_close(&x);
    subject_close(&s);
}

/* ---- memory that is touched --------------------------------------------------------------------
 */

static void count(void (*pass)(const batch *), const batch *x, emulator_counters *counters)
{
    device_emulate(dev, &(emulator_options){.counters = counters}, false);
    pass(x);
}

/* What goes to and from memory a token and head, counted in pieces of 32 bytes as a warp touches
 * them, is hardly more than q, k, v, o once, and once again with their gradients. One split of a
 * sequence, as where there are many heads. */
static void bytes_of(const char *what, int arch)
{
    const attention_case c = {
        "performer", "posrf", "orf", 1, 2,     8192,         8192,
        32,          32,      128,   0, USUAL, .arch = arch, .multiprocessors = 1};
    emulator_counters counters[2] = {{0}, {0}};
    subject s;
    batch x;
    case_device(&c);
    subject_open(&s, &c);
    batch_open(&x, &s, &c, 0);
    count(batch_forward, &x, &counters[0]);
    count(batch_backward, &x, &counters[1]);
    for (int i = 0; i < 2; i++) {
        const emulator_counters *n = &counters[i];
        const double tokens = (double)(c.H * c.T), least = i == 0 ? 512 : 1024;
        const double bytes = 32 * (double)n->global_sectors / tokens;
        const double conflicts = (double)n->shared_conflicts / (double)n->shared_wavefronts;
        printf("%s, %s: %.1f bytes a token and head (%.1f %% over %.0f), %.1f %% of accesses 16 "
               "bytes wide, bank conflicts %.1f %% of %.0f passes, %.1f mma\n",
               i == 0 ? "forward" : "backward", what, bytes, 100 * (bytes / least - 1), least,
               100 * (double)n->global_wide / (double)(n->global_wide + n->global_narrow),
               100 * conflicts, (double)n->shared_wavefronts / tokens, (double)n->mma / tokens);
        assert_true(bytes <= 1.05 * least);
        /* arrays of 16 tokens a row, and 32 rows a warp in one launch, leave some of two */
        assert_true(conflicts <= (i == 0 ? 0.1 : 0.3));
    }
    batch_close(&x);
    subject_close(&s);
}

static void bytes_of_two_launches(void **state)
{
    (void)state;
    bytes_of("two launches", 80);
}

static void bytes_of_one_launch(void **state)
{
    (void)state;
    bytes_of("one launch", 90);
}

/* ---- what is run -------------------------------------------------------------------------------
 */

typedef struct special {
    const char *name;
    void (*run)(void **state);
    bool full, emulator;
} special;

static const special specials[] = {
    {"official, batches change", official_batches_change, false, false},
    {"official, refusals", official_refusals, false, false},
    {"bytes of two launches", bytes_of_two_launches, true, true},
    {"bytes of one launch", bytes_of_one_launch, true, true},
};
enum { SPECIALS = sizeof specials / sizeof specials[0], MOST = 256, NAME = 128 };

static void run_row(void **state)
{
    case_run(*state);
}

static bool chosen(const char *name, bool full, int patterns, char **pattern)
{
    if (patterns == 0)
        return !full || all_cases();
    for (int i = 0; i < patterns; i++)
        if (fnmatch(pattern[i], name, 0) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    static char names[MOST][NAME];
    struct CMUnitTest tests[MOST + SPECIALS];
    const int patterns = argc > 2 ? argc - 2 : 0;
    const bool emulator = argc < 2 || strcmp(argv[1], "emu") == 0;
    size_t n = 0;
    assert_true(attention_case_count <= MOST);
    for (int i = 0; i < attention_case_count; i++) {
        const attention_case *c = &attention_cases[i];
        case_name(c, names[i], NAME);
        if (chosen(names[i], c->flags & FULL, patterns, argv + 2))
            tests[n++] = (struct CMUnitTest){names[i], run_row, NULL, NULL, (void *)(uintptr_t)c};
    }
    for (int i = 0; i < SPECIALS; i++) {
        const special *s = &specials[i];
        if (s->emulator <= emulator && chosen(s->name, s->full, patterns, argv + 2))
            tests[n++] = (struct CMUnitTest){s->name, s->run, NULL, NULL, NULL};
    }
    if (n == 0) {
        print_error("no case has such a name\n");
        return 1;
    }
    return run_on_device(argc < 2 ? argc : 2, argv, tests, n);
}
