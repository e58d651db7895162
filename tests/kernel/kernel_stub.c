/* The attention skeletons with their stub feature against the mathematics written out in double:
 * awkward sizes, masks, split states, strides, and gradients against central differences of the
 * oracle. Compiled for every instruction set, and with -DREAL=double and -DSTUB_SIGNED as well, and
 * with -DPAIRS=1, then without gradients.
 * Outputs start as NaN, what lies between and behind them holds a canary, scratch starts as NaN. */
#include "attn_bwd.c"
#include "attn_fwd.c"
#include "attn_official.c"

#include "base/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { GUARD = 64, SPLITS = 3, VECTORS = NV > 0 ? NV : 1, GAP = 5 };

static const real CANARY = (real)-777.25;
static const double EPS = 1e-4; /* of the reference's features */

#if VEC_DOUBLE
static const double FORWARD = 1e-12, GRADIENT = 1e-6, FLOOR = 0.1, TIE = 1e-8;
#else
static const double FORWARD = PAIRS ? 2e-2 : 2e-5, GRADIENT = 2e-4, FLOOR = 2, TIE = 1e-6;
#endif

static uint64_t seed = 1;

static double uniform(void)
{
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    return ((double)(seed >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(void)
{
    return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
}

/* ---- arrays in `real` with guards ------------------------------------------------------------ */

typedef struct array {
    int64_t rows, n, ld;
    real *base, *at;
} array;

/* `aligned`: as states and scratch are; others begin at an odd place. */
static array array_new(int64_t rows, int64_t n, bool aligned, real value)
{
    array a = {.rows = rows, .n = n, .ld = aligned ? n : n + GAP};
    int64_t all = rows * a.ld + 3 * GUARD;
    a.base = aligned_alloc(64, ((size_t)all * sizeof(real) + 63) / 64 * 64);
    assert_non_null(a.base);
    a.at = a.base + GUARD + (aligned ? 0 : 3);
    for (int64_t i = 0; i < all; i++)
        a.base[i] = CANARY;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++)
            a.at[i * a.ld + j] = value;
    return a;
}

static void array_check(const array *a)
{
    for (int64_t i = -GUARD; i < a->rows * a->ld + GUARD; i++) {
        bool inside = i >= 0 && i < a->rows * a->ld && i % a->ld < a->n;
        if (inside)
            assert_true(isfinite(a->at[i]));
        else
            assert_true(&a->at[i] < a->base || a->at[i] == CANARY);
    }
}

static void array_copy(array *a, const double *from)
{
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->n; j++)
            a->at[i * a->ld + j] = (real)from[i * a->n + j];
}

/* ---- the problem, in double ------------------------------------------------------------------ */

/* One head. `in` holds everything that has a gradient, one part after the other. */
enum { IN_Q, IN_K, IN_V, IN_S, IN_VEC, PARTS };

typedef struct problem {
    int64_t T, D, DV, M, begin[PARTS + 1];
    double *in, *w, *go;
    uint8_t *mask;
    bool official; /* scalars are per token, queries first */
    attn_plan plan;
    real *packed;
} problem;

/* Values are rounded to float so that both precisions see the same numbers. */
static void fill(int64_t n, double deviation, double mean, double *x)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (double)(float)(mean + deviation * normal());
}

static void problem_pack(problem *p)
{
    attn_plan *a = &p->plan;
    *a = (attn_plan){.D = p->D, .DV = p->DV, .M = p->M};
    a->DP = pad16(p->D), a->DVP = pad16(p->DV), a->MP = pad16(p->M);
    a->scale = (real)pow((double)p->D, -0.25);
    int64_t n = p->D * a->MP + a->MP * a->DP + a->MP;
    p->packed = aligned_alloc(64, ((size_t)n * sizeof(real) + 63) / 64 * 64);
    memset(p->packed, 0, (size_t)n * sizeof(real));
    real *w = p->packed, *w2 = w + a->MP * a->DP, *wt = w2 + a->MP;
    for (int64_t r = 0; r < p->M; r++) {
        double sum = 0;
        for (int64_t d = 0; d < p->D; d++) {
            w[r * a->DP + d] = wt[d * a->MP + r] = (real)p->w[r * p->D + d];
            sum += p->w[r * p->D + d] * p->w[r * p->D + d];
        }
        w2[r] = (real)sum;
    }
    a->w = w, a->w2 = w2, a->wt = wt;
}

static problem problem_new(int64_t T, int64_t D, int64_t DV, int64_t M, double deviation,
                           int masked, bool official)
{
    problem p = {.T = T, .D = D, .DV = DV, .M = M, .official = official};
    int64_t sizes[PARTS] = {T * D, T * D, T * DV, official ? 2 * T * NS : NS, VECTORS * D};
    for (int i = 0; i < PARTS; i++)
        p.begin[i + 1] = p.begin[i] + sizes[i];
    p.in = malloc((size_t)p.begin[PARTS] * sizeof(double));
    p.w = malloc((size_t)(M * D) * sizeof(double));
    p.go = malloc((size_t)(T * DV) * sizeof(double));
    p.mask = malloc((size_t)T);
    fill(p.begin[IN_V], deviation, 0, p.in);
    fill(T * DV, 1, 0, p.in + p.begin[IN_V]);
    fill(sizes[IN_S], 0.02, 0.02, p.in + p.begin[IN_S]);
    for (int64_t i = 0; i < sizes[IN_VEC]; i++)
        p.in[p.begin[IN_VEC] + i] = (double)(float)(0.7 + 0.6 * uniform());
    fill(M * D, 1, 0, p.w);
    fill(T * DV, 1, 0, p.go);
    /* 0: all valid, 1: scattered, 2: no key at all */
    for (int64_t t = 0; t < T; t++)
        p.mask[t] = masked == 0 || (masked == 1 && (t * 7 + 3) % 5 != 0);
    problem_pack(&p);
    return p;
}

static void problem_free(problem *p)
{
    free(p->in), free(p->w), free(p->go), free(p->mask), free(p->packed);
}

/* Log and sign of the features of one token as stub.h defines them. */
static void oracle_phi(const problem *p, int side, const double *x, const double *s,
                       const double *v, double *logs, double *signs)
{
    double y[256], x2 = 0, r2 = 0, scale = (double)p->plan.scale;
    for (int64_t d = 0; d < p->D; d++) {
        double raw = x[d] * scale;
        y[d] = NV == 0 ? raw : side == 0 ? raw * v[d] : raw / v[d];
        x2 += y[d] * y[d];
        r2 += raw * raw;
    }
    for (int64_t r = 0; r < p->M; r++) {
        double u = 0, w2 = 0;
        for (int64_t d = 0; d < p->D; d++) {
            u += p->w[r * p->D + d] * y[d];
            w2 += p->w[r * p->D + d] * p->w[r * p->D + d];
        }
        signs[r] = 1;
        if (SIGNED) {
            double log_r = s[0] * w2 + x2 / 2 - (p->official ? 0 : r2 / 4);
            int64_t second = (LANES - 1) * p->M + r;
            logs[r] = log_r;
            logs[second] = log_r;
            signs[r] = cos(u);
            signs[second] = sin(u);
        } else if (p->official) {
            logs[r] = u + s[0] * w2;
        } else {
            logs[r] = u - x2 / 2 - s[0] * r2 / 2;
        }
    }
}

static double largest(int64_t n, const double *x)
{
    double max = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

/* o (T, DV) of the inputs `in`; den (T) may be NULL. Correct: any common shift of all keys' logs
 * cancels, and so does any shift of a query's. Official: a token's own shift, and epsilon. */
static void oracle_forward(const problem *p, const double *in, double *o)
{
    int64_t F = LANES * p->M, n = p->T;
    double *keys = malloc((size_t)(2 * n * F) * sizeof(double)), *signs = keys + n * F;
    double *S = calloc((size_t)(F * (p->DV + 1)), sizeof(double)), *z = S + F * p->DV;
    const double *s = in + p->begin[IN_S], *v = in + p->begin[IN_VEC];
    double shift = -INFINITY;
    for (int64_t j = 0; j < n; j++) {
        oracle_phi(p, 1, in + p->begin[IN_K] + j * p->D, p->official ? s + (n + j) * NS : s, v,
                   keys + j * F, signs + j * F);
        if (p->mask[j])
            shift = fmax(shift, largest(F, keys + j * F));
    }
    for (int64_t j = 0; j < n; j++) {
        double own = largest(F, (TOKEN_NORM == 0 ? keys : signs) + j * F);
        for (int64_t f = 0; f < F; f++) {
            double e = exp(keys[j * F + f] - (p->official ? own : shift)) * signs[j * F + f];
            e = p->official ? e + EPS : p->mask[j] ? e : 0;
            z[f] += e;
            for (int64_t c = 0; c < p->DV; c++)
                S[f * p->DV + c] += e * in[p->begin[IN_V] + j * p->DV + c];
        }
    }
    for (int64_t i = 0; i < n; i++) {
        double *logs = keys, *sign = signs, den = 0;
        oracle_phi(p, 0, in + i * p->D, p->official ? s + i * NS : s, v, logs, sign);
        double own = largest(F, TOKEN_NORM != 0 && p->official ? sign : logs);
        memset(o + i * p->DV, 0, (size_t)p->DV * sizeof(double));
        for (int64_t f = 0; f < F; f++) {
            double e = exp(logs[f] - own) * sign[f] + (p->official ? EPS : 0);
            den += e * z[f];
            for (int64_t c = 0; c < p->DV; c++)
                o[i * p->DV + c] += e * S[f * p->DV + c];
        }
        for (int64_t c = 0; c < p->DV; c++)
            o[i * p->DV + c] = den != 0 ? o[i * p->DV + c] / den : 0;
    }
    free(keys), free(S);
}

static double oracle_loss(const problem *p, const double *in)
{
    double *o = malloc((size_t)(p->T * p->DV) * sizeof(double)), sum = 0;
    oracle_forward(p, in, o);
    for (int64_t i = 0; i < p->T * p->DV; i++)
        sum += o[i] * p->go[i];
    free(o);
    return sum;
}

/* ---- the kernels ----------------------------------------------------------------------------- */

/* Everything the kernels give; g is laid out as problem.in. */
typedef struct result {
    array o, den;
    double *g;
} result;

typedef struct run {
    const problem *p;
    array q, k, v, go, s, vec, state, dstate, gq, gk, gv, params, scratch;
} run;

static run run_open(const problem *p, int64_t scratch, int64_t state)
{
    run r = {.p = p};
    const real nan = (real)NAN;
    r.q = array_new(p->T, p->D, false, 0), r.k = array_new(p->T, p->D, false, 0);
    r.v = array_new(p->T, p->DV, false, 0), r.go = array_new(p->T, p->DV, false, 0);
    array_copy(&r.q, p->in), array_copy(&r.k, p->in + p->begin[IN_K]);
    array_copy(&r.v, p->in + p->begin[IN_V]), array_copy(&r.go, p->go);
    r.s = array_new(1, p->begin[IN_VEC] - p->begin[IN_S], true, 0);
    array_copy(&r.s, p->in + p->begin[IN_S]);
    r.vec = array_new(1, VECTORS * p->plan.DP, true, 1);
    for (int64_t i = 0; i < VECTORS * p->D; i++)
        r.vec.at[i / p->D * p->plan.DP + i % p->D] = (real)p->in[p->begin[IN_VEC] + i];
    r.gq = array_new(p->T, p->D, false, nan), r.gk = array_new(p->T, p->D, false, nan);
    r.gv = array_new(p->T, p->DV, false, nan);
    r.state = array_new(SPLITS, state, true, 0);
    r.dstate = array_new(1, attn_dstate_reals(&p->plan, LANES), true, 0);
    r.params = array_new(1, r.s.n + VECTORS * p->plan.DP, true, 0);
    r.scratch = array_new(1, pad16(scratch), true, nan);
    return r;
}

static void run_free(run *r)
{
    array *all[] = {&r->q,      &r->k,  &r->v,  &r->go, &r->s,      &r->vec,    &r->state,
                    &r->dstate, &r->gq, &r->gk, &r->gv, &r->params, &r->scratch};
    for (int i = 0; i < 13; i++)
        free(all[i]->base);
}

static void run_close(run *r, result *out)
{
    const problem *p = r->p;
    const array *all[] = {&r->q,  &r->k,  &r->v,  &r->go,    &r->dstate,
                          &r->gq, &r->gk, &r->gv, &r->params};
    for (int i = 0; i < 9; i++)
        array_check(all[i]);
    for (int64_t i = 0; i < GUARD; i++)
        assert_true(r->scratch.at[r->scratch.n + i] == CANARY);
    out->g = malloc((size_t)p->begin[PARTS] * sizeof(double));
    const array *parts[] = {&r->gq, &r->gk, &r->gv};
    for (int part = 0; part < 3; part++)
        for (int64_t i = 0; i < p->begin[part + 1] - p->begin[part]; i++)
            out->g[p->begin[part] + i] =
                (double)parts[part]->at[i / parts[part]->n * parts[part]->ld + i % parts[part]->n];
    for (int64_t i = 0; i < r->s.n; i++)
        out->g[p->begin[IN_S] + i] = (double)r->params.at[i];
    for (int64_t i = 0; i < VECTORS * p->D; i++)
        out->g[p->begin[IN_VEC] + i] =
            (double)r->params.at[r->s.n + i / p->D * p->plan.DP + i % p->D];
    run_free(r);
}

static result run_exact(const problem *p)
{
    const attn_fwd_ops *f = &EXPORT(FWD_NAME);
    const attn_bwd_ops *b = &EXPORT(attn_bwd);
    const attn_plan *a = &p->plan;
    int64_t T = p->T, need = f->scratch(a), state = attn_state_reals(a, LANES);
    need = b->scratch(a) > need ? b->scratch(a) : need;
    run r = run_open(p, need, state);
    result out = {array_new(T, p->DV, false, (real)NAN), array_new(1, T, true, (real)NAN), NULL};
    const attn_params par = {r.s.at, NV > 0 ? r.vec.at : NULL, NULL};
    for (int i = 0; i < SPLITS; i++) {
        int64_t from = T * i / SPLITS, to = T * (i + 1) / SPLITS;
        for (int64_t j = 0; j < LANES * a->MP; j++)
            r.state.at[i * state + j] = -(real)INFINITY;
        f->keys(a, &par, to - from, r.k.at + from * r.k.ld, r.k.ld, r.v.at + from * r.v.ld, r.v.ld,
                p->mask + from, r.state.at + i * state, r.scratch.at);
    }
    f->merge(a, r.state.at + state, r.state.at + 2 * state);
    f->merge(a, r.state.at, r.state.at + state);
    int64_t half = T / 2;
    f->queries(a, &par, half, r.q.at, r.q.ld, r.state.at, out.o.at, out.o.ld, out.den.at,
               r.scratch.at);
    f->queries(a, &par, T - half, r.q.at + half * r.q.ld, r.q.ld, r.state.at,
               out.o.at + half * out.o.ld, out.o.ld, out.den.at + half, r.scratch.at);
    b->queries(a, &par, T, r.q.at, r.q.ld, r.state.at, out.o.at, out.o.ld, out.den.at, r.go.at,
               r.go.ld, r.gq.at, r.gq.ld, r.dstate.at, r.params.at, r.scratch.at);
    b->keys(a, &par, T, r.k.at, r.k.ld, r.v.at, r.v.ld, p->mask, r.state.at, r.dstate.at, r.gk.at,
            r.gk.ld, r.gv.at, r.gv.ld, r.params.at, r.scratch.at);
    run_close(&r, &out);
    return out;
}

static result run_official(const problem *p)
{
    const attn_official_ops *f = &EXPORT(attn_official);
    const attn_plan *a = &p->plan;
    int64_t T = p->T;
    run r = run_open(p, f->scratch(a), attn_dstate_reals(a, LANES));
    result out = {array_new(T, p->DV, false, (real)NAN), array_new(1, T, true, (real)NAN), NULL};
    real *s = r.s.at, *ds = r.params.at, *v = r.vec.at, *dv = r.params.at + r.s.n;
    f->keys(a, v, T, s + T * NS, r.k.at, r.k.ld, r.v.at, r.v.ld, (real)EPS, r.state.at,
            r.scratch.at);
    f->queries(a, v, T, s, r.q.at, r.q.ld, (real)EPS, r.state.at, out.o.at, out.o.ld, out.den.at,
               r.scratch.at);
    f->queries_bwd(a, v, T, s, r.q.at, r.q.ld, (real)EPS, r.state.at, out.o.at, out.o.ld,
                   out.den.at, r.go.at, r.go.ld, r.gq.at, r.gq.ld, r.dstate.at, ds, dv,
                   r.scratch.at);
    f->keys_bwd(a, v, T, s + T * NS, r.k.at, r.k.ld, r.v.at, r.v.ld, (real)EPS, r.dstate.at,
                r.gk.at, r.gk.ld, r.gv.at, r.gv.ld, ds + T * NS, dv, r.scratch.at);
    run_close(&r, &out);
    return out;
}

static void result_free(result *r)
{
    free(r->o.base), free(r->den.base), free(r->g);
}

/* ---- comparisons ----------------------------------------------------------------------------- */

static void compare_forward(const problem *p, const result *r)
{
    double *o = malloc((size_t)(p->T * p->DV) * sizeof(double)), top = 1;
    oracle_forward(p, p->in, o);
    for (int64_t i = 0; i < p->T * p->DV; i++)
        top = fmax(top, fabs(o[i]));
    double bound = FORWARD * top;
    for (int64_t i = 0; i < p->T * p->DV; i++) {
        double got = (double)r->o.at[i / p->DV * r->o.ld + i % p->DV];
        if (!(fabs(got - o[i]) <= bound))
            fail_msg("T %d D %d DV %d M %d: o[%d] is %.9g, not %.9g", (int)p->T, (int)p->D,
                     (int)p->DV, (int)p->M, (int)i, got, o[i]);
    }
    free(o);
}

/* Along a direction: all of one part, or a single element of it. */
static void compare_direction(const problem *p, const result *r, int part, const double *direction,
                              double scale)
{
    int64_t n = p->begin[PARTS];
    double *moved = malloc((size_t)n * sizeof(double)), want, got = 0;
    double loss[4], h = p->official ? 1e-6 : part == IN_S ? 2e-6 : 2e-5;
    static const double steps[] = {-2, -1, 1, 2};
    for (int side = 0; side < 4; side++) {
        for (int64_t i = 0; i < n; i++)
            moved[i] = p->in[i] + steps[side] * h * direction[i];
        loss[side] = oracle_loss(p, moved);
    }
    want = (8 * (loss[2] - loss[1]) - (loss[3] - loss[0])) / (12 * h);
    for (int64_t i = 0; i < n; i++)
        got += direction[i] * r->g[i];
    if (!(fabs(got - want) <= GRADIENT * scale))
        fail_msg("T %d D %d DV %d M %d: gradient of part %d is %.9g, not %.9g", (int)p->T,
                 (int)p->D, (int)p->DV, (int)p->M, part, got, want);
    free(moved);
}

static void compare_gradient(const problem *p, const result *r)
{
    int64_t n = p->begin[PARTS];
    double *direction = calloc((size_t)n, sizeof(double));
    for (int part = 0; part < PARTS; part++) {
        if (part == IN_VEC && NV == 0)
            continue;
        int64_t from = p->begin[part], to = p->begin[part + 1];
        double norm = part == IN_S ? FLOOR * (double)p->D / 8 : FLOOR; /* |w|^2 is about D */
        norm *= norm;
        for (int64_t i = from; i < to; i++)
            norm += r->g[i] * r->g[i];
        norm = sqrt(norm);
        for (int64_t i = from; i < to; i++)
            direction[i] = normal();
        compare_direction(p, r, part, direction, 4 * norm);
        memset(direction, 0, (size_t)n * sizeof(double));
        for (int k = 0; k < 2; k++) {
            int64_t i = from + (int64_t)(uniform() * (double)(to - from));
            direction[i] = 1;
            compare_direction(p, r, part, direction, norm);
            direction[i] = 0;
        }
    }
    free(direction);
}

/* A token whose two largest entries nearly tie: its gradient may jump within a difference's step.
 */
static bool near_tie(const problem *p)
{
    int64_t F = LANES * p->M;
    double *logs = malloc((size_t)(2 * F) * sizeof(double)), *signs = logs + F, gap = 1;
    const double *norm = TOKEN_NORM == 0 ? logs : signs;
    for (int64_t t = 0; t < 2 * p->T; t++) {
        double top = -INFINITY, second = -INFINITY;
        oracle_phi(p, t >= p->T, p->in + t * p->D, p->in + p->begin[IN_S] + t * NS,
                   p->in + p->begin[IN_VEC], logs, signs);
        for (int64_t f = 0; f < F; f++) {
            second = fmax(second, fmin(top, norm[f]));
            top = fmax(top, norm[f]);
        }
        gap = fmin(gap, top - second);
    }
    free(logs);
    return gap < (TOKEN_NORM == 0 ? 2e-5 : TIE);
}

static void check(int64_t T, int64_t D, int64_t DV, int64_t M, int masked, bool official)
{
    problem p = problem_new(T, D, DV, M, SIGNED ? 0.1 : 0.4, masked, official);
    result r = official ? run_official(&p) : run_exact(&p);
    array_check(&r.o);
    array_check(&r.den);
    compare_forward(&p, &r);
    if (!PAIRS && (!official || !near_tie(&p)))
        compare_gradient(&p, &r);
    for (int64_t t = 0; t < T && !official; t++) {
        for (int64_t d = 0; d < D && !p.mask[t]; d++)
            assert_true(r.g[p.begin[IN_K] + t * D + d] == 0);
        for (int64_t d = 0; d < DV && !p.mask[t]; d++)
            assert_true(r.g[p.begin[IN_V] + t * DV + d] == 0);
    }
    result_free(&r);
    problem_free(&p);
}

static void check_sizes(bool official)
{
    static const int64_t tokens[] = {1, 7, 63, 64, 65, 200}, rows_of_w[] = {8, 96, 100, 128};
    static const int64_t heads[][2] = {{8, 20}, {20, 16}, {32, 32}, {60, 7}};
    for (int t = 0; t < 6; t++)
        for (int d = 0; d < 4; d++)
            for (int m = 0; m < 4; m++)
                check(tokens[t], heads[d][0], heads[d][1], rows_of_w[m],
                      official ? 0 : (t + d + m) % 2, official);
}

static void test_sizes(void **state)
{
    (void)state;
    check_sizes(false);
}

static void test_official(void **state)
{
    (void)state;
    check_sizes(true);
}

/* The largest sizes a plan may have. */
static void test_limits(void **state)
{
    (void)state;
    check(3, 256, 256, 1024, 0, false);
    check(3, 256, 256, 1024, 0, true);
    check(3, 1, 1, 1, 0, false);
}

/* Without keys: outputs, normalisers and gradients are 0. */
static void test_empty(void **state)
{
    (void)state;
    problem p = problem_new(65, 20, 32, 100, 0.4, 2, false);
    result r = run_exact(&p);
    for (int64_t i = 0; i < p.T; i++) {
        assert_true(r.den.at[i] == 0);
        for (int64_t c = 0; c < p.DV; c++)
            assert_true(r.o.at[i * r.o.ld + c] == 0);
    }
    for (int64_t i = 0; i < p.begin[PARTS]; i++)
        assert_true(r.g[i] == 0);
    result_free(&r);
    problem_free(&p);
}

/* Inputs 30 times too large: everything is finite, and a positive normaliser keeps its bounds. */
static void test_large(void **state)
{
    (void)state;
    problem p = problem_new(200, 32, 20, 100, 30, 1, false);
    result r = run_exact(&p);
    array_check(&r.o);
    array_check(&r.den);
    for (int64_t i = 0; i < p.begin[PARTS]; i++)
        assert_true(isfinite(r.g[i]));
    for (int64_t i = 0; i < p.T && !SIGNED; i++)
        assert_true((double)r.den.at[i] > 1 - 1e-6 && r.den.at[i] <= (real)(LANES * p.M * p.T));
    result_free(&r);
    problem_free(&p);
}

/* Raw logs and signs, dense. */
static void test_features(void **state)
{
    (void)state;
    problem p = problem_new(65, 20, 20, 100, 0.4, 0, false);
    run r = run_open(&p, EXPORT(FWD_NAME).scratch(&p.plan), 16);
    array logs = array_new(p.T, LANES * p.M, true, (real)NAN);
    array signs = array_new(p.T, LANES * p.M, true, (real)NAN);
    const attn_params par = {r.s.at, NV > 0 ? r.vec.at : NULL, NULL};
    double want[2 * LANES * 100];
    for (int side = 0; side < 2; side++) {
        EXPORT(FWD_NAME).features(&p.plan, &par, side, p.T, r.q.at, r.q.ld, logs.at, signs.at,
                                  r.scratch.at);
        array_check(&logs);
        array_check(&signs);
        for (int64_t t = 0; t < p.T; t++) {
            oracle_phi(&p, side, p.in + t * p.D, p.in + p.begin[IN_S], p.in + p.begin[IN_VEC], want,
                       want + LANES * p.M);
            for (int64_t f = 0; f < LANES * p.M; f++) {
                assert_true(fabs((double)logs.at[t * logs.ld + f] - want[f]) < 1e-5);
                assert_true(fabs((double)signs.at[t * logs.ld + f] - want[LANES * p.M + f]) < 1e-5);
            }
        }
    }
    free(logs.base), free(signs.base);
    run_free(&r);
    problem_free(&p);
}

int main(void)
{
    const cpu_level level = VEC_BYTES == 64   ? CPU_AVX512
                            : VEC_BYTES == 32 ? CPU_AVX2
                                              : CPU_PORTABLE;
    if (level > cpu_best() || (PAIRS && VEC_BYTES == 64 && !cpu_has_bf16())) {
        printf("skipped: this CPU has no %s%s\n0 passed, 0 failed, 1 skipped\n",
               cpu_level_name(level), PAIRS ? " with products of bf16" : "");
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),  cmocka_unit_test(test_official),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_empty),
        cmocka_unit_test(test_large),  cmocka_unit_test(test_features),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
