/* Every derived gradient against central differences, in double precision: this program is compiled
 * with -DREAL=double and linked with the generated kernels compiled the same way (portable). A
 * difference with step 1e-5 has an error of about 1e-9 here; 1e-6 of the largest entry is allowed.
 */
#include "kernel/gradient.h"

static double attention_loss(void *context)
{
    head *h = context;
    const attn_plan *p = &h->plan;
    const attn_params a = {h->s, h->vec, h->linear};
    const int64_t F = h->info->lanes * p->MP;
    derive(h);
    memset(h->state, 0, (size_t)attn_state_reals(p, h->info->lanes) * sizeof *h->state);
    for (int64_t f = 0; f < F; f++)
        h->state[f] = -INFINITY;
    const attn_fwd_ops *ops = h->kernels->fwd;
    ops->keys(p, &a, h->m, h->k, h->ldx, h->v, h->ldv, h->mask, h->state, h->scratch);
    ops->queries(p, &a, h->n, h->q, h->ldx, h->state, h->o, h->ldv, h->den, h->scratch);
    return weighted_sum(h);
}

/* Gradients into gq, gk, gv, ds, dvec; *through_log is the gaussian scalar's from the queries. */
static void attention_gradient(head *h, double *through_log)
{
    const attn_plan *p = &h->plan;
    const attn_params a = {h->s, h->vec, h->linear};
    const attn_bwd_ops *ops = h->kernels->bwd;
    attention_loss(h);
    ops->queries(p, &a, h->n, h->q, h->ldx, h->state, h->o, h->ldv, h->den, h->go, h->ldv, h->gq,
                 h->ldx, h->dstate, h->ds, h->scratch);
    *through_log = h->ds[h->info->scalars - 1];
    ops->keys(p, &a, h->m, h->k, h->ldx, h->v, h->ldv, h->mask, h->state, h->dstate, h->gk, h->ldx,
              h->gv, h->ldv, h->ds, h->scratch);
}

static void test_attention(void **state)
{
    (void)state;
    static const struct {
        sizes z;
        double gaussian;
        bool partials;
    } cases[] = {
        {{9, 11, 20, 12, 24}, 0, true},     {{9, 11, 20, 12, 24}, 1, true},
        {{1, 1, 8, 8, 8}, 0, true},         {{5, 70, 32, 20, 40}, 0, false},
        {{130, 70, 60, 33, 100}, 1, false}, {{70, 130, 16, 64, 128}, 0, false},
    };
    for (const attn_row *row = generated_attn; row->feat; row++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            const sizes *z = &cases[i].z;
            if (row->isa != ISA_PORTABLE || row->D != 0)
                continue;
            head h = head_new(row, z, cases[i].gaussian, false);
            /* hrf has steps, which a difference must not cross */
            step = strcmp(row->feat, "hrf") == 0 ? 1e-7 : 1e-5;
            char what[96];
            snprintf(what, sizeof what, "%s, %s, %d queries, %d keys", row->feat,
                     cases[i].gaussian > 0 ? "gaussian" : "softmax", (int)z->n, (int)z->m);
            double through_log = 0;
            attention_gradient(&h, &through_log);
            /* A constant added to all logs of a query changes nothing: their gradients sum to 0. */
            if (!(fabs(through_log) <= 1e-12 * (1 + largest(h.n * h.ldx, h.gq))))
                fail_msg("%s: log gradients of the queries sum to %g", what, through_log);
            const variable vars[] = {
                {"q", h.q, h.gq, h.n * h.ldx},
                {"k", h.k, h.gk, h.m * h.ldx},
                {"v", h.v, h.gv, h.m * h.ldv},
                {"scalars", h.s, h.ds, h.info->scalars},
                {"vectors", h.vec, h.dvec, h.info->vectors * h.plan.DP},
                {"W", h.w, h.dvec + h.info->vectors * h.plan.DP, z->M * h.plan.DP},
            };
            check_all(what, vars, h.info->counts ? 5 : 6, cases[i].partials, attention_loss, &h);
            head_free(&h);
            step = 1e-5;
        }
}

static const double epsilon = 1e-3; /* larger than the reference's, so that it matters */

static double token_loss(void *context)
{
    head *h = context;
    const attn_plan *p = &h->plan;
    const attn_official_ops *ops = h->kernels->official;
    memset(h->state, 0, (size_t)attn_dstate_reals(p, h->info->lanes) * sizeof *h->state);
    ops->keys(p, h->vec, h->m, h->s + h->n * h->info->scalars, h->k, h->ldx, h->v, h->ldv, epsilon,
              h->state, h->scratch);
    ops->queries(p, h->vec, h->n, h->s, h->q, h->ldx, epsilon, h->state, h->o, h->ldv, h->den,
                 h->scratch);
    return weighted_sum(h);
}

static void test_token(void **state)
{
    (void)state;
    static const sizes cases[] = {{5, 7, 20, 12, 24}, {3, 2, 8, 8, 8}};
    for (const attn_row *row = generated_attn; row->feat; row++)
        for (int i = 0; i < 2; i++) {
            if (row->isa != ISA_PORTABLE || row->D != 0 || !row->official)
                continue;
            head h = head_new(row, &cases[i], 1, true);
            const attn_official_ops *ops = row->official;
            const int64_t S = h.info->scalars, keys_at = h.n * S;
            token_loss(&h);
            ops->queries_bwd(&h.plan, h.vec, h.n, h.s, h.q, h.ldx, epsilon, h.state, h.o, h.ldv,
                             h.den, h.go, h.ldv, h.gq, h.ldx, h.dstate, h.ds, h.dvec, h.scratch);
            ops->keys_bwd(&h.plan, h.vec, h.m, h.s + keys_at, h.k, h.ldx, h.v, h.ldv, epsilon,
                          h.dstate, h.gk, h.ldx, h.gv, h.ldv, h.ds + keys_at, h.dvec, h.scratch);
            char what[96];
            snprintf(what, sizeof what, "%s per token, D = %d", row->feat, (int)cases[i].D);
            const variable vars[] = {
                {"q", h.q, h.gq, h.n * h.ldx},
                {"k", h.k, h.gk, h.m * h.ldx},
                {"v", h.v, h.gv, h.m * h.ldv},
                {"scalars", h.s, h.ds, (h.n + h.m) * S},
                {"vectors", h.vec, h.dvec, h.info->vectors * h.plan.DP},
            };
            check_all(what, vars, 5, true, token_loss, &h);
            head_free(&h);
        }
}

/* Data-dependent parameters as functions of the moments; weighted sum as the loss. */
enum { ADAPT_D = 20, ADAPT_DP = 32 };
typedef struct adaptation {
    const feature_info *info;
    double m[MOMENTS * ADAPT_DP], s[MAX_SCALARS], ds[MAX_SCALARS], dv[MAX_VECTORS * ADAPT_DP];
} adaptation;

static double adapt_loss(void *context)
{
    const adaptation *a = context;
    double s[MAX_SCALARS], v[MAX_VECTORS * ADAPT_DP] = {0}, sum = 0;
    memcpy(s, a->s, sizeof s);
    a->info->adapt(ADAPT_D, ADAPT_DP, a->m, s, v);
    sum += oracle_dot(a->info->scalars, a->ds, s);
    for (int i = 0; i < a->info->vectors; i++)
        sum += oracle_dot(ADAPT_D, a->dv + i * ADAPT_DP, v + i * ADAPT_DP);
    return sum;
}

/* Moments of random tokens: |mean| < square root of the mean square, low < all < high. */
static void random_moments(oracle_rng *r, double *m)
{
    for (int i = 0; i < ADAPT_D; i++) {
        for (int k = 0; k < 2; k++) {
            const double mean = 0.3 * oracle_normal(r);
            m[(M1X + k) * ADAPT_DP + i] = mean;
            m[(M2X + k) * ADAPT_DP + i] = mean * mean + 0.1 + oracle_uniform(r);
            m[(A1X + k) * ADAPT_DP + i] = fabs(mean) + 0.1 * oracle_uniform(r);
        }
        m[LOW * ADAPT_DP + i] = -2 - oracle_uniform(r);
        m[HIGH * ADAPT_DP + i] = 2 + oracle_uniform(r);
    }
}

static void test_adapt(void **state)
{
    (void)state;
    static const char *const names[MOMENTS_SMOOTH] = {"m1x", "m1y", "m2x", "m2y"};
    oracle_rng r = {6};
    for (const feature_info *f = generated_features; f->name; f++) {
        if (!f->adapt)
            continue;
        assert_non_null(f->adapt_grad);
        adaptation a = {.info = f};
        double g[MOMENTS_SMOOTH * ADAPT_DP] = {0}; /* gradients are added to */
        random_moments(&r, a.m);
        for (int i = 0; i < f->scalars; i++)
            a.s[i] = f->scalar_default[i];
        oracle_normals(&r, MAX_SCALARS, 1, a.ds);
        oracle_normals(&r, MAX_VECTORS * ADAPT_DP, 1, a.dv);
        if (f->counts == COUNTS_GEOMETRIC)
            a.ds[f->counts_scalar] = 0; /* the root of an equation is a constant */
        f->adapt_grad(ADAPT_D, ADAPT_DP, a.m, a.s, a.ds, a.dv, g);
        for (int k = 0; k < MOMENTS_SMOOTH; k++) {
            const variable var = {names[k], a.m + k * ADAPT_DP, g + k * ADAPT_DP, ADAPT_D};
            check_partials(f->name, &var, adapt_loss, &a);
        }
    }
}

/* Trained scalars as functions of a free number. */
static void test_learned(void **state)
{
    (void)state;
    int seen = 0;
    for (const feature_info *f = generated_features; f->name; f++)
        for (int i = 0; i < f->learned; i++, seen++) {
            const learned_scalar *l = &f->learn[i];
            if (!(fabs(l->value(l->start) - f->scalar_default[l->slot]) <= 1e-12))
                fail_msg("%s: training starts at %g, the default is %g", f->name,
                         l->value(l->start), f->scalar_default[l->slot]);
            for (double theta = -6; theta < 8; theta += 0.7) {
                const double want = (l->value(theta + step) - l->value(theta - step)) / (2 * step);
                if (!(fabs(l->derivative(theta) - want) <= allowed * (1 + fabs(want))))
                    fail_msg("%s at %g: derivative %g, want %g", f->name, theta,
                             l->derivative(theta), want);
            }
        }
    assert_true(seen > 0);
}

/* A solves 16 A^2 - (2 - 4 phi) A - phi = 0 to rounding, for phi from nothing to much. */
static void test_optimum(void **state)
{
    (void)state;
    static const double phis[] = {0, 1e-12, 1e-3, 0.5, 1, 100};
    const feature_info *f = find_feature("oprf");
    for (size_t i = 0; i < sizeof phis / sizeof phis[0]; i++) {
        const double phi = phis[i];
        double m[MOMENTS * ADAPT_DP] = {0};
        for (int l = 0; l < ADAPT_D; l++)
            m[M2X * ADAPT_DP + l] = phi;
        double s[MAX_SCALARS] = {NAN}, v[1] = {0};
        f->adapt(ADAPT_D, ADAPT_DP, m, s, v);
        const double A = s[0];
        const double size = 16 * A * A + fabs((2 - 4 * phi) * A) + phi;
        const double rest = 16 * A * A - (2 - 4 * phi) * A - phi;
        if (!(A <= 0) || !(fabs(rest) <= 1e-12 * size))
            fail_msg("phi = %g: A = %.17g leaves %.3g", phi, A, rest);
        if (!(fabs(A - oracle_optimum(phi)) <= 1e-12 * fabs(A)))
            fail_msg("phi = %g: A = %.17g, want %.17g", phi, A, oracle_optimum(phi));
    }
}

/* Row operators: what their arguments are. r: a row, s: a row shared by all, i: a class number. */
static const struct row_case {
    const char *name, *in, *out;
    double c;
} row_cases[] = {
    {"layernorm", "rss", "r", 1e-5},      {"gelu", "rsr", "r", 0},         {"relu", "rs", "r", 0},
    {"dropout_residual", "rrsr", "r", 0}, {"cross_entropy", "ri", "o", 0},
};
enum { ROW_ROWS = 5, ROW_N = 37 };

typedef struct row_problem {
    const row_op *op;
    row_args args;
    double *in[ROW_MAX], *gin[ROW_MAX], *out, *gout;
    int64_t count[ROW_MAX], outputs;
} row_problem;

static double row_loss(void *context)
{
    row_problem *p = context;
    p->op->fwd(&p->args);
    return oracle_dot(p->outputs, p->out, p->gout);
}

static void check_row(const row_op *op, const struct row_case *c)
{
    oracle_rng r = {8};
    row_problem p = {.op = op, .args = {.rows = ROW_ROWS, .n = ROW_N, .c = {c->c}}};
    row_args *a = &p.args;
    for (int i = 0; c->in[i]; i++) {
        const int64_t ld = c->in[i] == 's' ? 0 : c->in[i] == 'i' ? 1 : ROW_N + 2;
        p.count[i] = ld == 0 ? ROW_N : ROW_ROWS * ld;
        p.in[i] = normals(&r, p.count[i], 1);
        p.gin[i] = array(p.count[i]);
        for (int64_t j = 0; j < p.count[i] && c->in[i] == 'i'; j++)
            p.in[i][j] = (double)(j * 11 % ROW_N);
        a->in[i] = p.in[i];
        a->gin[i] = c->in[i] == 'i' ? NULL : p.gin[i];
        a->ld_in[i] = a->ld_gin[i] = ld;
    }
    a->ld_out[0] = a->ld_gout[0] = c->out[0] == 'o' ? 1 : ROW_N + 1;
    p.outputs = ROW_ROWS * a->ld_out[0];
    p.out = array(p.outputs);
    p.gout = normals(&r, p.outputs, 1);
    for (int64_t i = ROW_N; i < p.outputs; i += ROW_N + 1)
        p.gout[i] = c->out[0] == 'o' ? p.gout[i] : 0; /* between rows */
    a->out[0] = p.out;
    a->gout[0] = p.gout;
    op->fwd(a);
    op->bwd(a);
    for (int i = 0; c->in[i]; i++) {
        char name[32];
        snprintf(name, sizeof name, "input %d", i);
        const variable var = {name, p.in[i], p.gin[i], p.count[i]};
        if (a->gin[i])
            check_partials(op->name, &var, row_loss, &p);
    }
    for (int i = 0; c->in[i]; i++)
        free(p.in[i]), free(p.gin[i]);
    free(p.out), free(p.gout);
}

static void test_rows(void **state)
{
    (void)state;
    const size_t count = sizeof row_cases / sizeof row_cases[0];
    for (const row_op *op = generated_rows; op->name; op++) {
        if (op->isa != ISA_PORTABLE || !op->bwd)
            continue;
        size_t i = 0;
        while (i < count && strcmp(row_cases[i].name, op->name) != 0)
            i++;
        if (i == count)
            fail_msg("row operator '%s' is not in the table of this test", op->name);
        check_row(op, &row_cases[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention), cmocka_unit_test(test_token),
        cmocka_unit_test(test_adapt),     cmocka_unit_test(test_learned),
        cmocka_unit_test(test_optimum),   cmocka_unit_test(test_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
