/* Structured matrices applied as chains of steps against the same matrices as products: projections
 * of unit vectors are the matrix, attention and its gradients are the same, in every instruction
 * set.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention/performer/performer.h"
#include "kernel/registry.h"
#include "matrix/chain.h"
#include "support/attend.h"
#include "support/oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static spectra_attention *open_pair(const char *feat, const char *matrix, int64_t D, int64_t M)
{
    const spectra_attention_desc desc = {
        .attn = "performer", .feat = feat, .kernel = matrix, .H = 2, .D = D, .DV = 24, .M = M};
    spectra_attention *att = NULL;
    if (spectra_attention_new(&desc, &att) != SPECTRA_OK)
        fail_msg("%s-%s: %s", feat, matrix, spectra_message());
    return att;
}

static const char *const chains[] = {"sorf", "sorf_chi", "rom", "fastfood_fixed"};
enum { CHAINS = 4 };

/* Which matrices of which sizes have a chain, and when it is in use. */
static void test_which(void **state)
{
    (void)state;
    static const struct {
        int64_t D, M;
        bool chain;
    } cases[] = {{128, 128, true}, {72, 256, true},   {100, 128, true},
                 {256, 256, true}, {128, 200, false}, /* no whole number of blocks */
                 {64, 128, false} /* no faster than a product */};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int k = 0; k < CHAINS; k++) {
            spectra_attention *att = open_pair("posrf", chains[k], cases[i].D, cases[i].M);
            if ((performer_of(att)->plan.chain != NULL) != cases[i].chain)
                fail_msg("%s, D = %d, M = %d: %s chain", chains[k], (int)cases[i].D,
                         (int)cases[i].M, cases[i].chain ? "no" : "a");
            spectra_attention_free(att);
        }
    static const char *const others[] = {"gaus", "orf", "scrf", "pmodel", "qmc", "ssr"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        spectra_attention *att = open_pair("posrf", others[i], 128, 128);
        assert_null(performer_of(att)->plan.chain);
        spectra_attention_free(att);
    }
}

/* posrf's log of the features of 2 e_j minus those of 0 is 2 w_rj - 2. */
static void test_unit_vectors(void **state)
{
    (void)state;
    enum { D = 72, M = 128 };
    for (int k = 0; k < CHAINS; k++) {
        spectra_attention *att = open_pair("posrf", chains[k], D, M);
        assert_non_null(performer_of(att)->plan.chain);
        float *block = attend_floats(performer_block_floats(performer_of(att)));
        static float x[D * D], log[D * M], sign[D * M];
        memset(x, 0, sizeof x);
        for (int j = 0; j < D; j++)
            x[j * D + j] = 2;
        assert_int_equal(
            performer_prepare_heads(performer_of(att), 1, 1, D, D, x, x, NULL, NULL, block),
            SPECTRA_OK);
        assert_int_equal(performer_features(performer_of(att), 0, 1, 1, D, x, block, log, sign),
                         SPECTRA_OK);
        for (int j = 0; j < D; j++)
            for (int r = 0; r < M; r++) {
                const double got = ((double)log[j * M + r] + 2) / 2,
                             want = (double)performer_of(att)->w[r * D + j];
                if (!(fabs(got - want) <= 1e-5 * (1 + fabs(want))))
                    fail_msg("%s: w[%d][%d] is %.8g, want %.8g", chains[k], r, j, got, want);
            }
        free(block);
        spectra_attention_free(att);
    }
}

static void check_close(const char *what, int64_t n, const float *got, const float *want)
{
    double scale = 0;
    for (int64_t i = 0; i < n; i++)
        scale = fmax(scale, fabs((double)want[i]));
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= 2e-5 * scale))
            fail_msg("%s: element %d is %.8g, want %.8g", what, (int)i, (double)got[i],
                     (double)want[i]);
}

static void test_same_attention(void **state)
{
    (void)state;
    enum { T = 75, H = 2, DV = 24 };
    static const int64_t sizes[][2] = {{128, 128}, {72, 128}, {100, 256}};
    static const char *const feats[] = {"oprf", "saderf+", "trigrf"};
    const isa top = registry_isa();
    for (int level = ISA_PORTABLE; level <= (int)top; level++)
        for (int k = 0; k < CHAINS; k++)
            for (int s = 0; s < 3; s++) {
                const int64_t D = sizes[s][0];
                registry_isa_limit((isa)level);
                spectra_attention *att = open_pair(feats[s], chains[k], D, sizes[s][1]);
                registry_isa_limit(top);
                oracle_rng r = {11};
                float *x[4];
                for (int i = 0; i < 4; i++) {
                    const int64_t n = H * T * (i < 2 ? D : DV);
                    x[i] = attend_floats(n);
                    for (int64_t j = 0; j < n; j++)
                        x[i][j] = (float)(0.5 * oracle_normal(&r));
                }
                const attend_inputs in = {x[0], x[1], x[2], x[3], NULL, NULL};
                const attend_shape shape = {1, H, T, T, D, DV};
                attend_run chain, product;
                assert_non_null(performer_of(att)->plan.chain);
                assert_int_equal(attend(att, &shape, &in, &chain), SPECTRA_OK);
                performer_of(att)->plan.chain = NULL;
                assert_int_equal(attend(att, &shape, &in, &product), SPECTRA_OK);
                check_close("o", H * T * DV, chain.o, product.o);
                check_close("dq", H * T * D, chain.gq, product.gq);
                check_close("dk", H * T * D, chain.gk, product.gk);
                check_close("dv", H * T * DV, chain.gv, product.gv);
                attend_free(&chain), attend_free(&product);
                for (int i = 0; i < 4; i++)
                    free(x[i]);
                spectra_attention_free(att);
            }
}

/* A matrix given from outside is not the one the chain belongs to. */
static void test_given_matrix(void **state)
{
    (void)state;
    enum { D = 128, M = 128 };
    static float w[M * D];
    spectra_attention *att = open_pair("posrf", "sorf", D, M);
    assert_non_null(performer_of(att)->plan.chain);
    memcpy(w, performer_of(att)->w, sizeof w);
    assert_int_equal(spectra_attention_set(att, "W", w, 2, (int64_t[]){M, D}), SPECTRA_OK);
    assert_non_null(performer_of(att)->plan.chain);
    w[5] += 0.5F;
    assert_int_equal(spectra_attention_set(att, "W", w, 2, (int64_t[]){M, D}), SPECTRA_OK);
    assert_null(performer_of(att)->plan.chain);
    assert_int_equal(spectra_attention_redraw(att, 3), SPECTRA_OK);
    assert_non_null(performer_of(att)->plan.chain);
    spectra_attention_free(att);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_which),
        cmocka_unit_test(test_unit_vectors),
        cmocka_unit_test(test_same_attention),
        cmocka_unit_test(test_given_matrix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
