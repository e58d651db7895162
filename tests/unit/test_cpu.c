/* The limit of instructions (base/cpu.h): what is refused, and that everything which chooses by the
 * processor keeps to it.
 */
#include "base/cpu.h"
#include "base/status.h"
#include "kernel/find.h"
#include "kernel/internal.h"
#include "kernel/registry.h"
#include "math/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The level that the environment allows: a limit that is taken away goes back to it. */
static const char *allowed(void)
{
    const char *name = getenv("SPECTRA_ISA");
    return name && *name ? name : NULL;
}

static int unlimited(void **state)
{
    (void)state;
    return cpu_limit(allowed(), "test");
}

static void refused(const char *name, const char *part)
{
    assert_int_equal(cpu_limit(name, "the limit"), SPECTRA_EINVAL);
    if (!strstr(spectra_message(), part))
        fail_msg("'%s' instead of '%s'", spectra_message(), part);
}

static void unknown_and_absent_levels_are_refused(void **state)
{
    (void)state;
    const cpu_level before = cpu_best();
    refused("avx", "the limit is 'avx', allowed is portable|avx2|avx512");
    refused("", "allowed is portable|avx2|avx512");
    if (cpu_machine() < CPU_AVX512)
        refused("avx512", "the limit is 'avx512', this processor has no more than");
    assert_int_equal(cpu_best(), before);
}

/* Words of random numbers and factors of dropout. */
static void draw(uint32_t words[1000], float factors[1000])
{
    const rng_stream s = {.key = {7, 9}};
    rng_words(&s, 3, 1000, words);
    rng_dropout(&s, 0.3, 5, 1000, factors);
}

static void every_level_draws_the_same(void **state)
{
    (void)state;
    static uint32_t words[CPU_LEVELS][1000];
    static float factors[CPU_LEVELS][1000];
    for (int level = 0; level <= (int)cpu_machine(); level++) {
        assert_int_equal(cpu_limit(cpu_level_name((cpu_level)level), "test"), SPECTRA_OK);
        assert_int_equal(cpu_best(), level);
        draw(words[level], factors[level]);
        assert_memory_equal(words[level], words[0], sizeof words[0]);
        assert_memory_equal(factors[level], factors[0], sizeof factors[0]);
    }
}

static void everything_keeps_to_the_limit(void **state)
{
    (void)state;
    assert_int_equal(cpu_limit("portable", "test"), SPECTRA_OK);
    registry_isa_limit(ISA_AVX512);
    assert_int_equal(registry_isa(), ISA_PORTABLE);
    assert_false(cpu_has_bf16());
    char flags[512];
    jit_compile_flags(registry_isa(), flags, sizeof flags);
    assert_null(strstr(flags, "-mavx"));
    const attn_row *row = NULL;
    assert_int_equal(kernel_find("posrf", "orf", 8, 8, 8, ATTN_ATTENTION, &row), SPECTRA_OK);
    assert_int_equal(row->isa, ISA_PORTABLE);
    const row_op *op = NULL;
    assert_int_equal(registry_row("gelu", &op), SPECTRA_OK);
    assert_int_equal(op->isa, ISA_PORTABLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(unknown_and_absent_levels_are_refused, unlimited),
        cmocka_unit_test_teardown(every_level_draws_the_same, unlimited),
        cmocka_unit_test_teardown(everything_keeps_to_the_limit, unlimited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
