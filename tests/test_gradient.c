/* Every derived gradient against central differences, in double precision: this program is compiled
 * with -DREAL=double and linked with the generated kernels compiled the same way (portable). A
 * difference with step 1e-5 has an error of about 1e-9 here; 1e-6 of the largest entry is allowed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel.h"
#include "oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(real) == sizeof(double), "compile with -DREAL=double");

static const double allowed = 1e-6;
static double step = 1e-5;

static double *array(int64_t n)
{
    double *x = aligned_alloc(64, (size_t)(n * 8 + 127) / 64 * 64);
    assert_non_null(x);
    memset(x, 0, (size_t)n * sizeof *x);
    return x;
}

static double *normals(oracle_rng *r, int64_t n, double deviation)
{
    double *x = array(n);
    oracle_normals(r, n, deviation, x);
    return x;
}

/* A variable of a loss, and the gradient to be checked. */
typedef struct variable {
    const char *name;
    double *x;
    const double *gradient;
    int64_t n;
} variable;

static double largest(int64_t n, const double *x)
{
    double top = 0;
    for (int64_t i = 0; i < n; i++)
        top = fmax(top, fabs(x[i]));
    return top;
}

/* The derivative from values at stencil[k] * step, up to the fifth order of the step. */
static const double stencil[4] = {1, -1, 2, -2};

static double difference(const double *side)
{
    return (8 * (side[0] - side[1]) - (side[2] - side[3])) / (12 * step);
}

/* Each partial derivative of loss(context). */
static void check_partials(const char *what, const variable *var, double (*loss)(void *),
                           void *context)
{
    const double scale = largest(var->n, var->gradient);
    for (int64_t i = 0; i < var->n; i++) {
        const double x = var->x[i];
        double side[4];
        for (int k = 0; k < 4; k++) {
            var->x[i] = x + stencil[k] * step;
            side[k] = loss(context);
        }
        var->x[i] = x;
        const double want = difference(side);
        if (!(fabs(var->gradient[i] - want) <= allowed * scale + 1e-14 / step))
            fail_msg("%s: gradient of %s[%d] is %.10g, want %.10g", what, var->name, (int)i,
                     var->gradient[i], want);
    }
}

/* The derivative along one random direction, for problems too large for partials. */
static void check_direction(const char *what, const variable *var, double (*loss)(void *),
                            void *context)
{
    oracle_rng r = {31};
    double *before = array(var->n), *along = normals(&r, var->n, 1);
    memcpy(before, var->x, (size_t)var->n * sizeof *before);
    double side[4], size = 0;
    for (int k = 0; k < 4; k++) {
        for (int64_t i = 0; i < var->n; i++)
            var->x[i] = before[i] + stencil[k] * step * along[i];
        side[k] = loss(context);
    }
    memcpy(var->x, before, (size_t)var->n * sizeof *before);
    for (int64_t i = 0; i < var->n; i++)
        size += var->gradient[i] * var->gradient[i];
    const double want = difference(side);
    const double got = oracle_dot(var->n, var->gradient, along);
    free(before), free(along);
    if (!(fabs(got - want) <= allowed * sqrt(size) + 1e-14 / step))
        fail_msg("%s: derivative by %s along a random direction is %.10g, want %.10g", what,
                 var->name, got, want);
}

static void check_all(const char *what, const variable *vars, size_t count, bool partials,
                      double (*loss)(void *), void *context)
{
    for (size_t i = 0; i < count; i++)
        (partials ? check_partials : check_direction)(what, &vars[i], loss, context);
}

/* Attention of one head: everything its kernels take, and one gradient of each. */
typedef struct head {
    const attn_row *kernels;
    const feature_info *info;
    attn_plan plan;
    double *w, *wt, *w2, *second, *second_t, *count_sums, *linear;
    int64_t n, m, ldx, ldv; /* queries, keys, strides */
    double *q, *k, *v, *go, *gq, *gk, *gv;
    uint8_t *mask;
    double *s, *ds;     /* (scalars); for token kernels (n + m, scalars), queries first */
    double *vec, *dvec; /* (vectors, DP) */
    double *state, *dstate, *o, *den, *scratch;
} head;

static const feature_info *find_feature(const char *name)
{
    const feature_info *f = generated_features;
    while (f->name && strcmp(f->name, name) != 0)
        f++;
    if (!f->name)
        fail_msg("kernels of '%s', but no such feature", name);
    return f;
}

/* wt, w2 and the sums of counts from w. */
static void derive(head *h)
{
    const attn_plan *p = &h->plan;
    for (int64_t i = 0; i < p->M; i++) {
        h->w2[i] = h->count_sums[i] = h->count_sums[p->MP + i] = 0;
        for (int64_t d = 0; d < p->D; d++) {
            const double x = h->w[i * p->DP + d];
            h->wt[d * p->MP + i] = x;
            h->second_t[d * p->MP + i] = h->second[i * p->DP + d];
            h->w2[i] += x * x;
            h->count_sums[i] += x;
            h->count_sums[p->MP + i] += lgamma(fabs(x) + 1);
        }
    }
}

static void make_plan(head *h, oracle_rng *r, int64_t D, int64_t DV, int64_t M)
{
    attn_plan *p = &h->plan;
    *p = (attn_plan){.D = D,
                     .DV = DV,
                     .M = M,
                     .MP = pad16(M),
                     .DP = pad16(D),
                     .DVP = pad16(DV),
                     .scale = pow((double)D, -0.25)};
    h->w = array(p->MP * p->DP);
    h->wt = array(D * p->MP);
    h->w2 = array(p->MP);
    h->second = array(p->MP * p->DP);
    h->second_t = array(D * p->MP);
    h->count_sums = array(2 * p->MP);
    h->linear = array(4 * p->DP * p->DP);
    for (int64_t i = 0; i < M; i++)
        for (int64_t d = 0; d < D; d++) {
            const double x = oracle_normal(r);
            h->w[i * p->DP + d] = h->info->counts ? (x > 1.9) + (x > 2.5) : x;
            h->second[i * p->DP + d] = oracle_normal(r);
        }
    for (int side = 0; side < 2; side++)
        for (int64_t i = 0; i < D; i++)
            for (int64_t j = 0; j < D; j++) {
                const double x = (i == j) + 0.05 * oracle_normal(r);
                double *at = h->linear + 2 * side * p->DP * p->DP;
                at[j * p->DP + i] = at[p->DP * p->DP + i * p->DP + j] = x;
            }
    derive(h);
    const bool own = h->info->second_own;
    p->w = h->w, p->wt = h->wt, p->w2 = h->w2, p->count_sums = h->count_sums;
    p->w_second = own ? h->second : h->w, p->wt_second = own ? h->second_t : h->wt;
    p->learn = true;
}

/* Scalars of one token or head: near their default, where A < 1/8; gaussian (the last) as given.
 */
static void make_scalars(const feature_info *f, oracle_rng *r, double gaussian, double *s)
{
    for (int i = 0; i < f->scalars - 1; i++) {
        const bool exact = strcmp(f->scalar_names[i], "s") == 0; /* 1 or -1 */
        s[i] = f->scalar_default[i] - (exact ? 0 : 0.01 + 0.03 * oracle_uniform(r));
    }
    s[f->scalars - 1] = gaussian;
}

typedef struct sizes {
    int64_t n, m, D, DV, M;
} sizes;

static head head_new(const attn_row *kernels, const sizes *z, double gaussian, bool token)
{
    oracle_rng r = {12};
    head h = {.kernels = kernels, .info = find_feature(kernels->feat), .n = z->n, .m = z->m};
    make_plan(&h, &r, z->D, z->DV, z->M);
    h.ldx = z->D + 3, h.ldv = z->DV + 1;
    /* small numbers keep the normaliser of signed features away from 0, where no difference is
     * exact */
    const double deviation = h.info->is_signed && !token ? 0.3 : 0.7;
    h.q = normals(&r, h.n * h.ldx, deviation);
    h.k = normals(&r, h.m * h.ldx, deviation);
    h.v = normals(&r, h.m * h.ldv, 1);
    h.go = normals(&r, h.n * h.ldv, 1);
    h.gq = array(h.n * h.ldx);
    h.gk = array(h.m * h.ldx);
    h.gv = array(h.m * h.ldv);
    h.mask = malloc((size_t)h.m);
    assert_non_null(h.mask);
    for (int64_t j = 0; j < h.m; j++)
        h.mask[j] = token || j == 0 || oracle_uniform(&r) < 0.7;
    const int64_t rows = token ? h.n + h.m : 1, S = h.info->scalars, V = h.info->vectors;
    h.s = array(rows * S);
    h.ds = array(rows * S + V * h.plan.DP + h.plan.MP * h.plan.DP);
    for (int64_t i = 0; i < rows; i++)
        make_scalars(h.info, &r, gaussian, h.s + i * S);
    h.dvec = h.ds + rows * S;
    h.vec = array(V * h.plan.DP + 1);
    /* shifts below all coordinates, negative weights of norms, positive factors */
    for (int64_t i = 0; i < V * h.plan.DP; i++) {
        const double size = exp(0.2 * oracle_normal(&r));
        const bool weight = h.info->linear == LINEAR_EIGEN_SUM && i < h.plan.DP;
        const bool imaginary = h.info->linear != LINEAR_NONE && i >= 2 * h.plan.DP;
        h.vec[i] = h.info->counts ? -4 - size
                   : weight       ? -0.03 * size
                   : imaginary    ? 0.1 * size
                                  : size;
    }
    h.o = array(h.n * h.ldv);
    h.den = array(h.n);
    h.state = array(attn_state_reals(&h.plan, h.info->lanes));
    h.dstate = array(attn_dstate_reals(&h.plan, h.info->lanes));
    int64_t need = kernels->fwd->scratch(&h.plan), more = kernels->bwd->scratch(&h.plan);
    need = more > need ? more : need;
    more = kernels->token ? kernels->token->scratch(&h.plan) : 0;
    h.scratch = array(more > need ? more : need);
    return h;
}

static void head_free(head *h)
{
    double *all[] = {h->w,      h->wt, h->w2,  h->second, h->second_t, h->count_sums,
                     h->linear, h->q,  h->k,   h->v,      h->go,       h->gq,
                     h->gk,     h->gv, h->s,   h->ds,     h->vec,      h->state,
                     h->dstate, h->o,  h->den, h->scratch};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    free(h->mask);
}

static double weighted_sum(const head *h)
{
    double sum = 0;
    for (int64_t i = 0; i < h->n; i++)
        sum += oracle_dot(h->plan.DV, h->o + i * h->ldv, h->go + i * h->ldv);
    return sum;
}

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
    const attn_token_ops *ops = h->kernels->token;
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
            if (row->isa != ISA_PORTABLE || row->D != 0 || !row->token)
                continue;
            head h = head_new(row, &cases[i], 1, true);
            const attn_token_ops *ops = row->token;
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
