/* Softmax attention against the definition in double precision: awkward sizes, masks anywhere,
 * packed sequences, dropout; gradients by central differences of the double forward. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attention/softmax/softmax.h"
#include "file/npy.h"
#include "math/blas.h"
#include "math/rng.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CANARY = 64 };

typedef struct shape {
    int64_t B, H, T, S, D, DV;
    int masked; /* 0: no masks, 1: scattered, and the last sequence has no valid key */
    double dropout;
    bool causal;
} shape;

typedef struct arrays {
    shape n;
    spectra_problem p;
    float *q, *k, *v, *o, *go, *gq, *gk, *gv;
    int64_t nq, nk, nv, no;
    uint8_t *q_mask, *k_mask;
    void *saved, *work;
} arrays;

static void *aligned(int64_t bytes)
{
    void *p = aligned_alloc(64, (size_t)(bytes + 127) / 64 * 64);
    assert_non_null(p);
    return p;
}

/* (n) NaN between canaries of 7s. */
static float *guarded(int64_t n)
{
    float *p = aligned((n + 2 * CANARY) * (int64_t)sizeof *p);
    for (int64_t i = 0; i < n + 2 * CANARY; i++)
        p[i] = i < CANARY || i >= n + CANARY ? 7 : NAN;
    return p + CANARY;
}

static void guarded_free(float *p, int64_t n)
{
    for (int64_t i = 0; i < CANARY; i++) {
        assert_true(p[-1 - i] == 7);
        assert_true(p[n + i] == 7);
    }
    free(p - CANARY);
}

static float *normals(int64_t n, uint32_t which)
{
    float *x = guarded(n);
    rng_stream s = rng_open(7, RNG_TEST, which, 0);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(&s, (uint64_t)i);
    return x;
}

static arrays arrays_new(shape n)
{
    arrays a = {.n = n};
    a.nq = n.B * n.H * n.T * n.D;
    a.nk = n.B * n.H * n.S * n.D;
    a.nv = n.B * n.H * n.S * n.DV;
    a.no = n.B * n.H * n.T * n.DV;
    a.q = normals(a.nq, 1);
    a.k = normals(a.nk, 2);
    a.v = normals(a.nv, 3);
    a.go = normals(a.no, 4);
    a.o = guarded(a.no);
    a.gq = guarded(a.nq);
    a.gk = guarded(a.nk);
    a.gv = guarded(a.nv);
    a.p = (spectra_problem){.B = n.B, .T = n.T, .S = n.S, .dropout = n.dropout};
    a.p.seed = 11;
    a.p.step = (uint64_t)3 << 32 | 5;
    if (n.masked) {
        rng_stream s = rng_open(7, RNG_TEST, 5, 0);
        a.k_mask = aligned(n.B * n.S);
        for (int64_t i = 0; i < n.B * n.S; i++)
            a.k_mask[i] = i < (n.B - 1) * n.S && rng_uniform(&s, (uint64_t)i) < 0.6;
        a.p.k_mask = a.k_mask;
    }
    a.saved = aligned(softmax_saved_bytes(n.H, &a.p));
    a.work = aligned(softmax_work_bytes(n.H, n.D, n.DV, &a.p));
    return a;
}

static void arrays_free(arrays *a)
{
    guarded_free(a->q, a->nq);
    guarded_free(a->k, a->nk);
    guarded_free(a->v, a->nv);
    guarded_free(a->o, a->no);
    guarded_free(a->go, a->no);
    guarded_free(a->gq, a->nq);
    guarded_free(a->gk, a->nk);
    guarded_free(a->gv, a->nv);
    free(a->k_mask);
    free(a->saved);
    free(a->work);
}

static void run(arrays *a)
{
    shape n = a->n;
    const softmax_sizes sizes = {n.H, n.D, n.DV, n.causal};
    spectra_rows q = spectra_rows_dense(a->q, n.H, n.T, n.D);
    spectra_rows k = spectra_rows_dense(a->k, n.H, n.S, n.D);
    spectra_rows v = spectra_rows_dense(a->v, n.H, n.S, n.DV);
    spectra_rows o = spectra_rows_dense(a->o, n.H, n.T, n.DV);
    spectra_rows go = spectra_rows_dense(a->go, n.H, n.T, n.DV);
    spectra_rows gq = spectra_rows_dense(a->gq, n.H, n.T, n.D);
    spectra_rows gk = spectra_rows_dense(a->gk, n.H, n.S, n.D);
    spectra_rows gv = spectra_rows_dense(a->gv, n.H, n.S, n.DV);
    assert_int_equal(softmax_forward(sizes, &a->p, q, k, v, o, a->saved, a->work), 0);
    assert_int_equal(softmax_backward(sizes, &a->p, q, k, v, o, go, gq, gk, gv, a->saved, a->work),
                     0);
}

/* ---- oracle -------------------------------------------------------------------------------------
 */

/* One head in double: q (T, D), k (S, D), v (S, DV). */
typedef struct head {
    int64_t T, S, D, DV;
    double *q, *k, *v, *o;
    const uint8_t *mask;
    float *keep; /* (T, valid keys) or NULL */
    bool causal;
    int64_t valid;
} head;

static double *widen(const float *x, int64_t n)
{
    double *y = malloc((size_t)n * sizeof *y);
    assert_non_null(y);
    for (int64_t i = 0; i < n; i++)
        y[i] = (double)x[i];
    return y;
}

static head head_new(const arrays *a, int64_t b, int64_t h)
{
    shape n = a->n;
    int64_t bh = b * n.H + h, width = (n.S + 7) / 8 * 8;
    head x = {.T = n.T, .S = n.S, .D = n.D, .DV = n.DV, .causal = n.causal};
    x.q = widen(a->q + bh * n.T * n.D, n.T * n.D);
    x.k = widen(a->k + bh * n.S * n.D, n.S * n.D);
    x.v = widen(a->v + bh * n.S * n.DV, n.S * n.DV);
    x.o = calloc((size_t)(n.T * n.DV), sizeof *x.o);
    x.mask = a->k_mask ? a->k_mask + b * n.S : NULL;
    for (int64_t j = 0; j < n.S; j++)
        x.valid += !x.mask || x.mask[j];
    if (n.dropout > 0) {
        rng_stream s =
            rng_open(a->p.seed, RNG_DROPOUT_PROB, (uint32_t)(a->p.step >> 32), (uint32_t)a->p.step);
        x.keep = malloc((size_t)(n.T * (x.valid + 1)) * sizeof *x.keep);
        for (int64_t i = 0; i < n.T; i++)
            rng_dropout(&s, n.dropout, (uint64_t)((bh * n.T + i) * width), x.valid,
                        x.keep + i * x.valid);
    }
    return x;
}

static void head_free(head *x)
{
    free(x->q);
    free(x->k);
    free(x->v);
    free(x->o);
    free(x->keep);
}

static void head_row(head *x, int64_t i)
{
    double sum = 0, *o = x->o + i * x->DV;
    memset(o, 0, (size_t)x->DV * sizeof *o);
    int64_t rank = 0;
    for (int64_t j = 0; j < (x->causal ? i + 1 : x->S); j++) {
        if (x->mask && !x->mask[j])
            continue;
        double s = 0;
        for (int64_t c = 0; c < x->D; c++)
            s += x->q[i * x->D + c] * x->k[j * x->D + c];
        double e = exp(s / sqrt((double)x->D));
        double factor = x->keep ? (double)x->keep[i * x->valid + rank] : 1;
        sum += e;
        rank++;
        for (int64_t c = 0; c < x->DV; c++)
            o[c] += factor * e * x->v[j * x->DV + c];
    }
    for (int64_t c = 0; c < x->DV && rank > 0; c++)
        o[c] /= sum;
}

static double head_loss(head *x, const float *go)
{
    double loss = 0;
    for (int64_t i = 0; i < x->T; i++)
        head_row(x, i);
    for (int64_t i = 0; i < x->T * x->DV; i++)
        loss += x->o[i] * (double)go[i];
    return loss;
}

static void check_gradient(head *x, const float *go, double *at, const float *got, int64_t n,
                           uint32_t which)
{
    rng_stream s = rng_open(9, RNG_TEST, which, 0);
    for (uint64_t t = 0; t < 12; t++) {
        int64_t i = (int64_t)rng_below(&s, t, (uint64_t)n);
        double keep = at[i], eps = 1e-5;
        at[i] = keep + eps;
        double up = head_loss(x, go);
        at[i] = keep - eps;
        double down = head_loss(x, go);
        at[i] = keep;
        double want = (up - down) / (2 * eps);
        if (fabs((double)got[i] - want) > 2e-5 * (1 + fabs(want)))
            fail_msg("gradient %u element %lld: %g, want %g", which, (long long)i, (double)got[i],
                     want);
    }
}

static void check_against_oracle(const arrays *a)
{
    shape n = a->n;
    for (int64_t b = 0; b < n.B; b++)
        for (int64_t h = 0; h < n.H; h++) {
            int64_t bh = b * n.H + h;
            const float *go = a->go + bh * n.T * n.DV, *o = a->o + bh * n.T * n.DV;
            head x = head_new(a, b, h);
            head_loss(&x, go);
            for (int64_t i = 0; i < n.T * n.DV; i++)
                if (!(fabs((double)o[i] - x.o[i]) <= 1e-5 * (1 + fabs(x.o[i]))))
                    fail_msg("o[%lld] of head %lld: %g, want %g", (long long)i, (long long)bh,
                             (double)o[i], x.o[i]);
            check_gradient(&x, go, x.q, a->gq + bh * n.T * n.D, n.T * n.D, 1);
            check_gradient(&x, go, x.k, a->gk + bh * n.S * n.D, n.S * n.D, 2);
            check_gradient(&x, go, x.v, a->gv + bh * n.S * n.DV, n.S * n.DV, 3);
            head_free(&x);
        }
    for (int64_t i = 0; i < a->nk; i++) /* masked keys: written, as 0 */
        if (a->k_mask && !a->k_mask[i / (n.H * n.S * n.D) * n.S + i / n.D % n.S])
            assert_true(a->gk[i] == 0);
}

/* ---- tests --------------------------------------------------------------------------------------
 */

static void test_sizes(void **state)
{
    (void)state;
    static const shape shapes[] = {
        {2, 2, 64, 64, 32, 32, 0, 0, false},   {2, 1, 1, 1, 8, 8, 0, 0, false},
        {2, 2, 7, 7, 20, 20, 1, 0, false},     {2, 1, 63, 65, 8, 60, 1, 0, false},
        {3, 2, 65, 300, 20, 8, 1, 0, false},   {1, 1, 300, 129, 64, 32, 0, 0, false},
        {2, 1, 130, 600, 16, 16, 1, 0, false}, {2, 2, 40, 37, 16, 12, 1, 0.3, false},
        {1, 1, 140, 520, 8, 8, 0, 0.1, false}, {2, 2, 64, 64, 32, 32, 0, 0, true},
        {2, 1, 1, 1, 8, 8, 0, 0, true},        {2, 2, 7, 7, 20, 20, 1, 0, true},
        {2, 1, 130, 130, 8, 60, 1, 0, true},   {1, 2, 600, 600, 16, 12, 1, 0, true},
        {2, 2, 40, 40, 16, 12, 1, 0.3, true},  {1, 1, 300, 300, 8, 8, 0, 0.1, true},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        arrays a = arrays_new(shapes[i]);
        run(&a);
        check_against_oracle(&a);
        arrays_free(&a);
    }
}

/* Scores of several hundred: the maximum must be subtracted, tile by tile. */
static void test_large_scores(void **state)
{
    (void)state;
    arrays a = arrays_new((shape){1, 1, 20, 600, 16, 16, 0, 0, false});
    for (int64_t i = 0; i < a.nq; i++)
        a.q[i] *= 30;
    run(&a);
    for (int64_t i = 0; i < a.nq; i++)
        assert_true(isfinite(a.gq[i]));
    for (int64_t t = 0; t < 20; t++) { /* nearly one-hot: the best key's value */
        int64_t best = 0;
        double top = -1e30, second = -1e30;
        for (int64_t j = 0; j < 600; j++) {
            double s = 0;
            for (int64_t c = 0; c < 16; c++)
                s += (double)a.q[t * 16 + c] * (double)a.k[j * 16 + c] / 4;
            if (s > top) {
                second = top;
                top = s;
                best = j;
            } else if (s > second)
                second = s;
        }
        for (int64_t c = 0; c < 16 && top - second > 20; c++)
            assert_true(fabs((double)(a.o[t * 16 + c] - a.v[best * 16 + c])) < 1e-4);
    }
    arrays_free(&a);
}

static void check_threads(bool causal)
{
    int before = omp_get_max_threads();
    float *first = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        arrays a = arrays_new((shape){3, 2, causal ? 290 : 150, 290, 16, 16, 1, 0.2, causal});
        run(&a);
        if (!first) {
            first = malloc((size_t)(a.no + a.nk) * sizeof *first);
            memcpy(first, a.o, (size_t)a.no * sizeof *first);
            memcpy(first + a.no, a.gk, (size_t)a.nk * sizeof *first);
        }
        assert_memory_equal(first, a.o, (size_t)a.no * sizeof *first);
        assert_memory_equal(first + a.no, a.gk, (size_t)a.nk * sizeof *first);
        arrays_free(&a);
    }
    omp_set_num_threads(before);
    free(first);
}

static void test_threads(void **state)
{
    (void)state;
    check_threads(false);
    check_threads(true);
}

/* Three sequences of 5, 0 and 130 tokens, rows of q | k | v with both heads side by side, against
 * the same sequences padded. */
static void check_packed(bool causal)
{
    enum { B = 3, H = 2, N = 130, D = 8, R = 135, LD = 3 * H * D };
    static const int64_t begin[B] = {0, 5, 5}, len[B] = {5, 0, 130};
    arrays a = arrays_new((shape){B, H, N, N, D, D, 0, 0, causal});
    a.k_mask = aligned(B * N);
    float *x = guarded(R * LD), *o = guarded(R * H * D), *go = guarded(R * H * D);
    float *gx = guarded(R * LD);
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < N; t++) {
            a.k_mask[b * N + t] = t < len[b];
            for (int64_t h = 0; h < H && t < len[b]; h++)
                for (int64_t c = 0; c < D; c++) {
                    int64_t from = ((b * H + h) * N + t) * D + c, row = begin[b] + t;
                    x[row * LD + h * D + c] = a.q[from];
                    x[row * LD + (H + h) * D + c] = a.k[from];
                    x[row * LD + (2 * H + h) * D + c] = a.v[from];
                    go[(row * H + h) * D + c] = a.go[from];
                }
            for (int64_t h = 0; h < H && t >= len[b]; h++)
                for (int64_t c = 0; c < D; c++)
                    a.go[((b * H + h) * N + t) * D + c] = 0;
        }
    a.p.k_mask = a.k_mask;
    run(&a);
    const softmax_sizes sizes = {H, D, D, causal};
    spectra_problem p = {
        .B = B, .T = N, .S = N, .q_begin = begin, .k_begin = begin, .q_len = len, .k_len = len};
    void *saved = aligned(softmax_saved_bytes(H, &p)),
         *work = aligned(softmax_work_bytes(H, D, D, &p));
    spectra_rows q = {x, 0, D, LD}, k = {x + H * D, 0, D, LD}, v = {x + 2 * H * D, 0, D, LD};
    spectra_rows gq = {gx, 0, D, LD}, gk = {gx + H * D, 0, D, LD}, gv = {gx + 2 * H * D, 0, D, LD};
    spectra_rows ro = {o, 0, D, H * D}, rgo = {go, 0, D, H * D};
    assert_int_equal(softmax_forward(sizes, &p, q, k, v, ro, saved, work), 0);
    assert_int_equal(softmax_backward(sizes, &p, q, k, v, ro, rgo, gq, gk, gv, saved, work), 0);
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < len[b]; t++)
            for (int64_t h = 0; h < H; h++)
                for (int64_t c = 0; c < D; c++) {
                    int64_t from = ((b * H + h) * N + t) * D + c, row = begin[b] + t;
                    const float *g = gx + row * LD + h * D + c;
                    assert_true(fabsf(o[(row * H + h) * D + c] - a.o[from]) < 2e-6f);
                    assert_true(fabsf(g[0] - a.gq[from]) < 2e-5f);
                    assert_true(fabsf(g[H * D] - a.gk[from]) < 2e-5f);
                    assert_true(fabsf(g[2 * H * D] - a.gv[from]) < 2e-5f);
                }
    guarded_free(x, R * LD);
    guarded_free(gx, R * LD);
    guarded_free(o, R * H * D);
    guarded_free(go, R * H * D);
    free(saved);
    free(work);
    arrays_free(&a);
}

static void test_packed(void **state)
{
    (void)state;
    check_packed(false);
    check_packed(true);
}

/* ---- golden vectors -----------------------------------------------------------------------------
 */

static bool golden_array(const char *name, npy_array *out)
{
    const char *shared = getenv("SPECTRA_SHARED");
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/softmax_a/%s.npy", shared ? shared : "../shared", name);
    return npy_read_f32(path, out) == SPECTRA_OK;
}

static void golden_compare(const char *name, const float *got)
{
    npy_array ref;
    assert_true(golden_array(name, &ref));
    const float *want = ref.data;
    double top = 0, worst = 0;
    for (int64_t i = 0; i < npy_count(&ref); i++) {
        top = fmax(top, fabs((double)want[i]));
        worst = fmax(worst, fabs((double)(got[i] - want[i])));
    }
    if (!(worst <= 2e-5 * top))
        fail_msg("%s differs by %g of %g", name, worst, top);
    npy_free(&ref);
}

static void test_golden(void **state)
{
    (void)state;
    npy_array q, k, v, mask, dout;
    if (!golden_array("q", &q)) {
        print_message("skipped: no golden vectors (SPECTRA_SHARED, ../shared)\n");
        skip();
    }
    assert_true(golden_array("k", &k) && golden_array("v", &v) && golden_array("mask", &mask) &&
                golden_array("dout", &dout));
    shape n = {q.shape[0], q.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3], 0, 0, false};
    arrays a = arrays_new(n);
    a.k_mask = aligned(n.B * n.S);
    for (int64_t i = 0; i < n.B * n.S; i++)
        a.k_mask[i] = ((const float *)mask.data)[i] != 0;
    a.p.k_mask = a.k_mask;
    memcpy(a.q, q.data, (size_t)a.nq * sizeof *a.q);
    memcpy(a.k, k.data, (size_t)a.nk * sizeof *a.k);
    memcpy(a.v, v.data, (size_t)a.nv * sizeof *a.v);
    memcpy(a.go, dout.data, (size_t)a.no * sizeof *a.go);
    run(&a);
    for (int64_t i = 0; i < a.no; i++)
        if (!a.k_mask[i / (n.H * n.T * n.DV) * n.T + i / n.DV % n.T])
            a.o[i] = 0;
    golden_compare("out", a.o);
    golden_compare("dq", a.gq);
    golden_compare("dk", a.gk);
    golden_compare("dv", a.gv);
    npy_free(&q);
    npy_free(&k);
    npy_free(&v);
    npy_free(&mask);
    npy_free(&dout);
    arrays_free(&a);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),   cmocka_unit_test(test_large_scores),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_packed),
        cmocka_unit_test(test_golden),
    };
    if (blas_open() != SPECTRA_OK) {
        fprintf(stderr, "%s\n", spectra_message());
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
