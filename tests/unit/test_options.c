/* Settings of an attention as a text (spectra_attention_desc.options): what is read, and that what
 * cannot be read is refused with its name and what was allowed. */
#include "base/status.h" /* before cmocka, whose macro fail hides the function from calls */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention/performer/performer.h"

#include <string.h>

static spectra_attention_desc description(const char *attn, const char *options)
{
    return (spectra_attention_desc){.attn = attn,
                                    .feat = "posrf",
                                    .kernel = "gaus",
                                    .H = 1,
                                    .D = 8,
                                    .DV = 8,
                                    .M = 16,
                                    .options = options};
}

static void refused(const spectra_attention_desc *desc, spectra_status status, const char *words)
{
    spectra_attention *att = NULL;
    assert_int_equal(spectra_attention_new(desc, &att), status);
    assert_null(att);
    if (!strstr(spectra_message(), words))
        fail_msg("'%s' does not say '%s'", spectra_message(), words);
}

static void texts_that_are_refused(void **state)
{
    (void)state;
    static char longer[2 * ATTENTION_OPTIONS];
    memset(longer, 'x', sizeof longer - 1);
    memcpy(longer, "feat=", 5);
    const struct {
        const char *attn, *options, *words;
    } cases[] = {
        {"performer", "m", "'m' is not NAME=VALUE"},
        {"performer", "=3", "'=3' is not NAME=VALUE"},
        {"performer", ",m=3", "'' is not NAME=VALUE"},
        {"performer", "m=3,,", "'' is not NAME=VALUE"},
        {"performer", "rows=3", "performer has no setting 'rows'"},
        {"performer", "kernal=orf", "did you mean 'kernel'?"},
        {"performer", "m=0", "a whole number from 1 to 1024"},
        {"performer", "m=1025", "a whole number from 1 to 1024"},
        {"performer", "m=", "a whole number from 1 to 1024"},
        {"performer", "m=3x", "a whole number from 1 to 1024"},
        {"performer", "target=cosine", "softmax|gaussian"},
        {"performer", "antithetic=yes", "true or false"},
        {"performer", longer, "bytes"},
        {"softmax", "m=16", "softmax has no setting 'm'"},
        {"softmax", "landmarks=64", "softmax has no setting 'landmarks'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const spectra_attention_desc desc = description(cases[i].attn, cases[i].options);
        refused(&desc, SPECTRA_EINVAL, cases[i].words);
    }
}

static void texts_that_are_read(void **state)
{
    (void)state;
    const struct {
        const char *options, *feat, *matrix;
        int64_t M;
    } cases[] = {
        {NULL, "posrf", "gaus", 16},
        {"", "posrf", "gaus", 16},
        {"m=24", "posrf", "gaus", 24},
        {"m=24,m=32", "posrf", "gaus", 32}, /* the last counts */
        {"feat=saderf,kernel=orf,m=1", "saderf", "orf", 1},
        {"antithetic=true,target=gaussian", "posrf+", "gaus", 16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const spectra_attention_desc desc = description("performer", cases[i].options);
        spectra_attention *att = NULL;
        assert_int_equal(spectra_attention_new(&desc, &att), SPECTRA_OK);
        assert_string_equal(performer_of(att)->feature->name, cases[i].feat);
        assert_string_equal(performer_of(att)->matrix->name, cases[i].matrix);
        assert_int_equal(performer_of(att)->plan.M, cases[i].M);
        spectra_attention_free(att);
    }
}

static void numbers_that_no_enum_has(void **state)
{
    (void)state;
    spectra_attention_desc desc = description("performer", NULL);
    desc.target = (spectra_target)7;
    refused(&desc, SPECTRA_EINVAL, "target is 7");
    desc = description("performer", NULL);
    desc.rng = (spectra_rng)-1;
    refused(&desc, SPECTRA_EINVAL, "rng is -1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_that_are_refused),
        cmocka_unit_test(texts_that_are_read),
        cmocka_unit_test(numbers_that_no_enum_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
