/* What the gradient tests share: central differences of a loss, and one head of attention with all
 * that its kernels take. Compiled with -DREAL=double, like the kernels it is linked with. */
#ifndef TESTS_GRADIENT_H
#define TESTS_GRADIENT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel/kernel.h"
#include "support/oracle.h"

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

/* What the rounding of a loss of this size is worth in a difference. */
static double rounding(double loss)
{
    return 1e-14 * fmax(1, fabs(loss) / 10) / step;
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
        if (!(fabs(var->gradient[i] - want) <= allowed * scale + rounding(side[0])))
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
    if (!(fabs(got - want) <= allowed * sqrt(size) + rounding(side[0])))
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
    h.ds = array(rows * S + V * h.plan.DP + h.plan.MP * h.plan.DP + h.plan.MP);
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
    more = kernels->official ? kernels->official->scratch(&h.plan) : 0;
    need = more > need ? more : need;
    more = kernels->causal->scratch(&h.plan);
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

#endif
