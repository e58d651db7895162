/* Gradients of causal attention against central differences, in double precision, as
 * test_gradient.c: two parts of a sequence, so that the state between them and its gradient are in
 * it, keys that raise the references within a block, row weights of both signs. */
#include "kernel/gradient.h"

typedef struct causal_head {
    head h;
    int64_t n[2]; /* tokens of each part */
    double *weight, *refs[2], *before[2];
    uint8_t *cut;
} causal_head;

static int64_t first_of(const causal_head *c, int part)
{
    return part == 0 ? 0 : c->n[0];
}

static attn_causal_args args_of(const causal_head *c, int part)
{
    const head *h = &c->h;
    const int64_t t = first_of(c, part);
    return (attn_causal_args){
        .n = c->n[part],
        .q = h->q + t * h->ldx,
        .k = h->k + t * h->ldx,
        .v = h->v + t * h->ldv,
        .ldq = h->ldx,
        .ldk = h->ldx,
        .ldv = h->ldv,
        .mask = h->mask + t,
        .o = h->o + t * h->ldv,
        .ldo = h->ldv,
        .den = h->den + t,
        .cut = c->cut + t,
        .refs = c->refs[part],
        .go = h->go + t * h->ldv,
        .ldgo = h->ldv,
        .gq = h->gq + t * h->ldx,
        .ldgq = h->ldx,
        .gk = h->gk + t * h->ldx,
        .ldgk = h->ldx,
        .gv = h->gv + t * h->ldv,
        .ldgv = h->ldv,
    };
}

static double causal_loss(void *context)
{
    causal_head *c = context;
    head *h = &c->h;
    const attn_params a = {h->s, h->vec, h->linear};
    const int64_t F = h->info->lanes * h->plan.MP;
    const int64_t size = attn_state_reals(&h->plan, h->info->lanes);
    derive(h);
    memset(h->state, 0, (size_t)size * sizeof *h->state);
    for (int64_t f = 0; f < F; f++)
        h->state[f] = -INFINITY;
    for (int part = 0; part < 2; part++) {
        const attn_causal_args x = args_of(c, part);
        memcpy(c->before[part], h->state, (size_t)size * sizeof *h->state);
        h->kernels->causal->forward(&h->plan, &a, &x, h->state, h->scratch);
    }
    return weighted_sum(h);
}

static void causal_gradient(causal_head *c)
{
    head *h = &c->h;
    const attn_params a = {h->s, h->vec, h->linear};
    const attn_causal_ops *ops = h->kernels->causal;
    causal_loss(c);
    for (int part = 1; part >= 0; part--) {
        const attn_causal_args x = args_of(c, part);
        ops->queries_bwd(&h->plan, &a, &x, c->before[part], part == 1 ? h->dstate : NULL, h->ds,
                         h->scratch);
        ops->keys_bwd(&h->plan, &a, &x, part == 1 ? NULL : c->before[1],
                      part == 1 ? NULL : h->dstate, h->ds, h->scratch);
    }
}

static void open_head(causal_head *c, const attn_row *row, const sizes *z, double gaussian,
                      bool shrinks)
{
    oracle_rng r = {44};
    *c = (causal_head){.h = head_new(row, z, gaussian, false)};
    head *h = &c->h;
    const int64_t F = h->info->lanes * h->plan.MP, block = row->causal->block(&h->plan);
    c->n[1] = z->n / 3;
    c->n[0] = z->n - c->n[1];
    c->cut = malloc((size_t)z->n);
    assert_non_null(c->cut);
    c->weight = array(h->plan.MP);
    for (int64_t i = 0; i < h->plan.MP; i++) /* with signs of both kinds den would come near 0 */
        c->weight[i] = i % 6 == 5 && !h->info->is_signed ? -0.2 : 0.5 + oracle_uniform(&r);
    h->plan.row_weight = c->weight;
    for (int part = 0; part < 2; part++) {
        c->refs[part] = array((c->n[part] / block + 1) * F);
        c->before[part] = array(attn_state_reals(&h->plan, h->info->lanes));
    }
    /* ever shorter keys, whose logs are ever larger */
    for (int64_t t = 0; t < z->n && shrinks; t++)
        for (int64_t i = 0; i < z->D; i++)
            h->k[t * h->ldx + i] *= (h->info->counts ? 3 : 25) * exp(-4 * (double)t / (double)z->n);
}

static void close_head(causal_head *c)
{
    free(c->weight), free(c->cut);
    for (int part = 0; part < 2; part++)
        free(c->refs[part]), free(c->before[part]);
    head_free(&c->h);
}

static int64_t raised(const causal_head *c)
{
    int64_t n = 0;
    for (int64_t t = 1; t < c->h.n; t++)
        n += c->cut[t];
    return n;
}

static void test_causal(void **state)
{
    (void)state;
    static const struct {
        sizes z;
        double gaussian;
        bool partials, shrinks;
    } cases[] = {
        {{9, 9, 20, 12, 24}, 0, true, false},       {{9, 9, 20, 12, 24}, 1, true, true},
        {{2, 2, 8, 8, 8}, 0, true, false},          {{70, 70, 32, 20, 40}, 0, false, true},
        {{130, 130, 60, 33, 100}, 1, false, false}, {{120, 120, 16, 24, 64}, 0, false, true},
    };
    int64_t cuts = 0;
    for (const attn_row *row = generated_attn; row->feat; row++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            if (row->isa != ISA_PORTABLE || row->D != 0)
                continue;
            const sizes *z = &cases[i].z;
            causal_head c;
            const feature_info *info = find_feature(row->feat);
            open_head(&c, row, z, cases[i].gaussian, cases[i].shrinks && !info->is_signed);
            step = strncmp(row->feat, "hrf", 3) == 0 ? 1e-7 : 1e-5; /* hrf has steps */
            char what[96];
            snprintf(what, sizeof what, "%s, causal, %s, %d tokens%s", row->feat,
                     cases[i].gaussian > 0 ? "gaussian" : "softmax", (int)z->n,
                     cases[i].shrinks ? ", shrinking" : "");
            causal_gradient(&c);
            head *h = &c.h;
            cuts += cases[i].shrinks ? raised(&c) : 0;
            double *dw = h->dvec + h->info->vectors * h->plan.DP;
            const variable vars[] = {
                {"q", h->q, h->gq, h->n * h->ldx},
                {"k", h->k, h->gk, h->m * h->ldx},
                {"v", h->v, h->gv, h->m * h->ldv},
                {"scalars", h->s, h->ds, h->info->scalars},
                {"vectors", h->vec, h->dvec, h->info->vectors * h->plan.DP},
                {"row weights", c.weight, dw + h->plan.MP * h->plan.DP, z->M},
                {"W", h->w, dw, z->M * h->plan.DP},
            };
            check_all(what, vars, h->info->counts ? 6 : 7, cases[i].partials, causal_loss, &c);
            close_head(&c);
            step = 1e-5;
        }
    if (cuts < 200)
        fail_msg("keys raised the references %d times only", (int)cuts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_causal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
