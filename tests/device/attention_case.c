#include "device/attention_case.h"

#include "attention/performer/device.h"
#include "base/bf16.h"
#include "device/attention_exact.h"
#include "device/backend.h"
#include "device/emulator/emulator.h"
#include "support/attend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const flag_names[] = {"masked",   "late",     "packed",   "strided", "growing",
                                         "gaussian", "causal",   "learn",    "given",   "tf32",
                                         "bf16",     "exact",    "decoding", "orders",  "shifted",
                                         "bounds",   "clusters", "dropout",  "full"};
enum { FLAGS = sizeof flag_names / sizeof flag_names[0] };

/* Differences by the largest number that is wanted, but not less than `least`: what is all but 0 is
 * noise. Gradients of what is trained are sums over all pairs of tokens, which cancel. */
static const struct {
    double results, trained, least;
} tolerances[] = {
    [USUAL] = {2e-5, 2e-5, 0},     [CLOSE] = {5e-6, 1e-4, 0.05}, [CANCELLING] = {2e-4, 4e-3, 0.05},
    [WIDE_MAPS] = {2e-4, 2e-5, 0}, [PROBABILITY] = {1e-5, 0, 1}, [REFERENCE] = {2e-5, 0, 0.01},
    [ONE_KEY] = {2e-5, 0, 1},      [ROUGH] = {5e-3, 0.1, 0},     [ROUGHEST] = {1e-2, 0.2, 0.05},
};

static bool is(const char *name, const char *other)
{
    return name && strcmp(name, other) == 0;
}

void case_name(const attention_case *c, char *name, size_t size)
{
    int n =
        snprintf(name, size, "%s%s%s%s%s B%d H%d T%d S%d D%d DV%d M%d", c->attn, c->feat ? " " : "",
                 c->feat ? c->feat : "", c->matrix ? " " : "", c->matrix ? c->matrix : "",
                 (int)c->B, (int)c->H, (int)c->T, (int)c->S, (int)c->D, (int)c->DV, (int)c->M);
    for (int i = 0; i < FLAGS && n < (int)size; i++)
        if (c->flags >> i & 1)
            n += snprintf(name + n, size - (size_t)n, " %s", flag_names[i]);
}

void case_device(const attention_case *c)
{
    static int arch, multiprocessors;
    if (arch == 0)
        arch = dev->arch, multiprocessors = dev->multiprocessors;
    dev->arch = c->arch && is(kind, "emu") ? c->arch : arch;
    dev->multiprocessors = c->multiprocessors ? c->multiprocessors : multiprocessors;
    device_emulate(dev, &(emulator_options){.check_races = true}, true);
}

/* ---- the attention -----------------------------------------------------------------------------
 */

/* Parameters that would be computed from the tokens; what a feature does not have is refused and
 * does not matter. Shifts are below all numbers that occur. */
static void give_parameters(const attention_case *c, spectra_attention *att)
{
    static const struct {
        const char *name;
        float value, step; /* of head 0, and from one head to the next */
    } scalars[] = {{"A", -0.1F, -0.05F}, {"lambda", 0.4F, 0.1F}, {"p", 0.4F, 0.1F},
                   {"half_c2", 2, 0.5F}, {"A_re", -0.1F, 0},     {"A_im", 0.03F, 0}};
    float *a = random_floats(c->H * c->T, 8), *x = malloc((size_t)(c->H + c->D) * sizeof *x);
    for (size_t i = 0; i < sizeof scalars / sizeof scalars[0] && !is(c->attn, "official"); i++) {
        for (int64_t h = 0; h < c->H; h++)
            x[h] = scalars[i].value + scalars[i].step * (float)h;
        (void)spectra_attention_set(att, scalars[i].name, x, 1, &c->H);
    }
    for (int64_t i = 0; i < c->D; i++)
        x[i] = 0.5F + (float)(i % 5) / 4;
    (void)spectra_attention_set(att, "psi", x, 1, &c->D);
    for (int64_t i = 0; i < c->D; i++)
        x[i] = -1.5F;
    (void)spectra_attention_set(att, "c", x, 1, &c->D);
    for (int64_t i = 0; i < c->H * c->T; i++)
        a[i] *= 0.2F; /* those above 0.124999 are cut */
    if (is(c->attn, "official"))
        ok(spectra_attention_set(att, "A_pos", a, 2, (int64_t[]){c->H, c->T}));
    free(a), free(x);
}

void subject_open(subject *s, const attention_case *c)
{
    char feat[32];
    const bool official = is(c->attn, "official");
    spectra_attention_desc d = {
        .attn = official ? "performer" : c->attn,
        .feat = c->feat ? feat : NULL,
        .kernel = c->matrix,
        .H = c->H,
        .D = c->D,
        .DV = c->DV,
        .M = c->M,
        .seed = 7,
        .official = official,
        .causal = (c->flags & CAUSAL_MASK) != 0,
        .learn = (c->flags & LEARN) != 0,
        .target = c->flags & GAUSSIAN ? SPECTRA_GAUSSIAN : SPECTRA_SOFTMAX,
    };
    snprintf(feat, sizeof feat, "%s", c->feat ? c->feat : "");
    char *plus = c->feat ? strchr(feat, '+') : NULL;
    d.antithetic = plus != NULL;
    if (plus)
        *plus = 0;
    *s = (subject){.c = c};
    ok(spectra_attention_new(&d, &s->att));
    if (c->flags & GIVEN)
        give_parameters(c, s->att);
    ok(attention_device_new_typed(s->att, dev, (c->flags & (TF32 | BF16)) != 0,
                                  (c->flags & BF16) != 0, &s->ad));
    ok(attention_device_changed(s->ad));
}

void subject_redraw(subject *s, uint64_t seed)
{
    ok(spectra_attention_redraw(s->att, seed));
    ok(attention_device_changed(s->ad));
}

void subject_close(subject *s)
{
    attention_device_free(s->ad);
    spectra_attention_free(s->att);
}

/* On a GPU it depends on which one it is. */
static void check_spilled(const subject *s)
{
    const performer_device *pd = s->ad->own;
    for (int i = 0; i < CUDA_KERNELS && is(kind, "emu"); i++)
        assert_true(!(s->c->spilled >> i & 1) || pd->plan[i].memory > 0);
}

/* ---- a batch -----------------------------------------------------------------------------------
 */

static bool is_query(int i)
{
    return i == Q || i == GO || i == O || i == GQ;
}

static int64_t element(const attention_case *c)
{
    return c->flags & BF16 ? 2 : 4;
}

static spectra_rows rows_of(const batch *x, int i, void *data)
{
    const attention_case *c = &x->c;
    const int64_t n = is_query(i) ? c->T : c->S, w = x->width[i];
    if (c->flags & PACKED)
        return (spectra_rows){data, 0, w, c->H * w};
    if (c->flags & STRIDED)
        return (spectra_rows){data, n * c->H * w, w, c->H * w};
    return spectra_rows_dense(data, c->H, n, w);
}

/* Between -1 and 1 for the reference, whose sums nothing stabilises. Of signed features the
 * normaliser is near 0 where vectors are long. */
static float *draw(const batch *x, int i)
{
    const spectra_attention *att = x->s->att;
    const bool vector = i == Q || i == K, features = att->kind->traits & ATTENTION_FEATURES;
    const double usual = vector && features && performer_of(att)->feature->is_signed ? 0.5 : 1;
    const double spread = vector && x->c.D > 128 ? usual / 2 : usual;
    if (is(x->c.attn, "official"))
        return random_floats(x->count[i], (uint32_t)i + 1);
    float *data = normal_floats(x->count[i], (uint64_t)i + 1, spread);
    for (int64_t k = 0; vector && x->c.flags & GROWING && k < x->count[i]; k++)
        data[k] *= 1 + 8 * (float)(k / x->width[i] % x->c.T) / (float)x->c.T;
    return data;
}

static float *get_numbers(const batch *x, int i)
{
    const int64_t n = x->count[i];
    float *data = attend_floats(n);
    if (!(x->c.flags & BF16)) {
        ok(device_read(dev, data, x->rows[i].data, n * 4));
        return data;
    }
    uint16_t *half = malloc((size_t)n * sizeof *half);
    ok(device_read(dev, half, x->rows[i].data, n * 2));
    for (int64_t k = 0; k < n; k++)
        data[k] = bf16_to_float(half[k]);
    free(half);
    return data;
}

/* Lengths of sequences: the first is whole, the last empty. */
static int64_t pack(batch *x, int side, int64_t longest)
{
    int64_t total = 0;
    for (int64_t b = 0, B = x->c.B; b < B; b++) {
        x->begin[side][b] = total;
        x->len[side][b] = b == B - 1 ? 0 : longest * (B - b) / B;
        total += x->len[side][b];
    }
    x->index[side] = put(x->begin[side], x->c.B * 8);
    x->index[2 + side] = put(x->len[side], x->c.B * 8);
    return total;
}

static void draw_mask(batch *x)
{
    const attention_case *c = &x->c;
    const bool all = c->flags & MASKED && c->B > 1 && !(c->flags & PACKED);
    x->mask = malloc((size_t)x->problem.k_rows + 1);
    for (int64_t i = 0; i < x->problem.k_rows; i++)
        x->mask[i] = c->flags & LATE ? i % c->S >= 19 % c->S
                                     : (i * 7) % 5 != 0 && !(all && i >= (c->B - 1) * c->S);
    x->index[4] = put(x->mask, x->problem.k_rows);
    x->problem.p.k_mask = x->index[4];
}

/* The problem of the host. */
static spectra_problem host_problem(const batch *x)
{
    spectra_problem p = x->problem.p;
    p.T = x->c.T, p.S = x->c.S;
    p.k_mask = x->mask;
    if (x->c.flags & PACKED) {
        p.q_begin = x->begin[0], p.k_begin = x->begin[1];
        p.q_len = x->len[0], p.k_len = x->len[1];
    }
    return p;
}

/* Bounds in the place of lengths, step and part come from the device: as if p.step had them. */
static void bound(batch *x)
{
    const cuda_batch numbers = {.rows = x->problem.q_rows, .longest = (int)x->c.T, .step = 9};
    x->problem.p.T = x->problem.p.S = 128;
    x->index[5] = put(&numbers, sizeof numbers);
    x->problem.batch = x->index[5];
}

static void open_arrays(batch *x, int64_t shift)
{
    const attention_case *c = &x->c;
    for (int i = 0; i < ARRAYS; i++) {
        x->width[i] = i == Q || i == K || i == GQ || i == GK ? c->D : c->DV;
        x->count[i] = (is_query(i) ? x->problem.q_rows : x->problem.k_rows) * c->H * x->width[i];
        x->host[i] = i <= GO ? draw(x, i) : attend_floats(x->count[i]);
        x->memory[i] = put_typed(x->host[i], x->count[i], shift, (c->flags & BF16) != 0);
        x->rows[i] = rows_of(x, i, (char *)x->memory[i] + shift * element(c));
    }
}

void batch_open(batch *x, const subject *s, const attention_case *c, unsigned variation)
{
    *x = (batch){.s = s, .c = *c};
    x->problem = (attention_device_problem){
        .p = {.B = c->B, .T = c->T, .S = c->S}, .q_rows = c->B * c->T, .k_rows = c->B * c->S};
    if (c->flags & PACKED) {
        x->problem.q_rows = pack(x, 0, c->T), x->problem.k_rows = pack(x, 1, c->S);
        x->problem.p.q_begin = x->index[0], x->problem.p.k_begin = x->index[1];
        x->problem.p.q_len = x->index[2], x->problem.p.k_len = x->index[3];
    }
    if (c->flags & DROPOUT) {
        x->problem.p.dropout = 0.1;
        x->problem.p.seed = 77, x->problem.p.step = 5ULL << 32 | 9;
    }
    if (c->flags & (MASKED | LATE))
        draw_mask(x);
    open_arrays(x, variation == SHIFTED);
    if (variation == BOUNDS)
        bound(x);
    x->saved = room(attention_device_saved_bytes(s->ad, &x->problem) / 4);
    x->work = room(attention_device_work_bytes(s->ad, &x->problem) / 4);
}

void batch_close(batch *x)
{
    for (int i = 0; i < ARRAYS; i++) {
        device_free(dev, x->memory[i]);
        free(x->host[i]);
    }
    for (int i = 0; i < 6; i++)
        device_free(dev, x->index[i]);
    device_free(dev, x->saved), device_free(dev, x->work);
    free(x->mask), free(x->host_work);
}

static attention_views views_of(const batch *x)
{
    const spectra_rows *r = x->rows;
    return (attention_views){r[Q], r[K], r[V], r[O], r[GO], r[GQ], r[GK], r[GV]};
}

void batch_forward(const batch *x)
{
    const attention_views v = views_of(x);
    ok(attention_device_forward(x->s->ad, &x->problem, &v, x->saved, x->work));
}

void batch_backward(const batch *x)
{
    const attention_views v = views_of(x);
    ok(attention_device_backward(x->s->ad, &x->problem, &v, x->saved, x->work));
}

float *batch_results(void *of, int64_t *count)
{
    const batch *x = of;
    int64_t total = 0;
    for (int i = O; i < ARRAYS; i++)
        total += x->count[i];
    float *all = attend_floats(total), *to = all;
    batch_forward(x);
    batch_backward(x);
    for (int i = O; i < ARRAYS; to += x->count[i++]) {
        float *one = get_numbers(x, i);
        memcpy(to, one, (size_t)x->count[i] * sizeof *one);
        free(one);
    }
    *count = total;
    return all;
}

void batch_refused(const batch *x, int64_t T, int64_t S, bool packed, spectra_status status,
                   const char *part)
{
    static const int64_t begin[] = {0};
    const attention_views v = views_of(x);
    attention_device_problem p = x->problem;
    p.p.T = T, p.p.S = S;
    if (packed)
        p.p.q_begin = p.p.k_begin = begin;
    fails(attention_device_forward(x->s->ad, &p, &v, x->saved, x->work), status, part);
}

/* ---- what should come out ----------------------------------------------------------------------
 */

/* Into host[O] ...: what the CPU's kernels make of the same arrays. */
static void run_host(batch *x)
{
    const spectra_attention *att = x->s->att;
    const spectra_problem p = host_problem(x);
    spectra_rows r[ARRAYS];
    for (int i = 0; i < ARRAYS; i++)
        r[i] = rows_of(x, i, x->host[i]);
    void *saved = attend_alloc(spectra_attention_saved_bytes(att, &p));
    free(x->host_work);
    x->host_work = attend_alloc(spectra_attention_work_bytes(att, &p));
    ok(spectra_attention_forward(att, &p, r[Q], r[K], r[V], r[O], saved, x->host_work));
    ok(spectra_attention_backward(att, &p, r[Q], r[K], r[V], r[O], r[GO], r[GQ], r[GK], r[GV],
                                  saved, x->host_work));
    free(saved);
}

static void run_exact(batch *x)
{
    const attention_case *c = &x->c;
    for (int64_t n = 0; n < c->B * c->H; n++) {
        const float *in[4];
        float *out[4];
        for (int i = 0; i < ARRAYS; i++) {
            float *at = x->host[i] + n * x->count[i] / (c->B * c->H);
            if (i <= GO)
                in[i] = at;
            else
                out[i - O] = at;
        }
        exact_attention(x->s->att, c->T, c->S, in, x->mask ? x->mask + n / c->H * c->S : NULL, out);
    }
}

/* ---- against each other ------------------------------------------------------------------------
 */

static double error_at_least(int64_t n, const float *got, const float *want, double least)
{
    double scale = 0;
    for (int64_t i = 0; i < n; i++)
        scale = fmax(scale, fabs((double)want[i]));
    const double by = fmax(scale, least);
    return largest_error(n, got, want) * (scale > 0 ? scale : 1) / (by > 0 ? by : 1);
}

static void check_trained(const batch *x)
{
    const spectra_attention *att = x->s->att;
    const spectra_problem p = host_problem(x);
    const int64_t n = spectra_attention_trained_floats(att);
    if (n == 0)
        return;
    float *theta = attend_floats(n), *want = calloc((size_t)n, 4), *got = calloc((size_t)n, 4);
    spectra_attention_trained_start(att, theta);
    spectra_attention_trained_gradient(att, &p, x->host_work, theta, want);
    ok(attention_device_gradient(x->s->ad, got));
    const double error = error_at_least(n, got, want, tolerances[x->c.within].least);
    printf("    trained %lld: %.1e\n", (long long)n, error);
    assert_true(error <= tolerances[x->c.within].trained);
    free(theta), free(want), free(got);
}

void batch_check(batch *x)
{
    static const char *const names[] = {"o", "gq", "gk", "gv"};
    bool good = true;
    int64_t count = 0;
    if (x->c.flags & EXACT)
        run_exact(x);
    else
        run_host(x);
    float *got = batch_results(x, &count), *at = got;
    for (int i = O; i < ARRAYS; at += x->count[i++]) {
        const double error =
            error_at_least(x->count[i], at, x->host[i], tolerances[x->c.within].least);
        printf("%s%s %.1e", i == O ? "    " : " ", names[i - O], error);
        good = good && error <= tolerances[x->c.within].results;
    }
    printf("\n");
    fflush(stdout);
    free(got);
    assert_true(good);
    for (int i = Q; i <= GO; i++) { /* inputs stay as they are */
        float *input = get_numbers(x, i);
        assert_memory_equal(input, x->host[i], (size_t)x->count[i] * sizeof *input);
        free(input);
    }
    check_trained(x);
}

/* A prompt, then token by token; at the last one only the first sequence goes on. Arrays are
 * (B, H, T, n). */
static void check_decoding(const batch *x)
{
    const attention_case *c = &x->c;
    const attention_device *ad = x->s->ad;
    const int64_t n = x->count[O], start = c->T * 3 / 5;
    attention_device_problem prompt = x->problem;
    prompt.p.T = prompt.p.S = start;
    prompt.q_rows = prompt.k_rows = c->B * start;
    uint8_t going[8] = {1};
    void *state = room(attention_device_state_bytes(ad, c->B) / 4), *active = put(going, c->B);
    void *work = room(attention_device_prefill_bytes(ad, &prompt) / 4);
    float *out = room(n), *want = attend_floats(n);
    attention_views v = views_of(x);
    ok(device_zero(dev, out, n * 4));
    ok(attention_device_state_clear(ad, c->B, state));
    ok(attention_device_prefill(ad, &prompt, &v, state, work));
    for (int64_t t = start; t < c->T; t++) {
        v.q.data = x->rows[Q].data + t * c->D, v.k.data = x->rows[K].data + t * c->D;
        v.v.data = x->rows[V].data + t * c->DV;
        v.o = rows_of(x, O, out + t * c->DV);
        ok(attention_device_step(ad, c->B, t == c->T - 1 ? active : NULL, &v, state));
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t t = i / c->DV % c->T, b = i / (c->H * c->T * c->DV);
        want[i] = t < start || (t == c->T - 1 && b > 0) ? 0 : x->host[O][i];
    }
    const double error = error_of(out, n, want);
    printf("    decoding %.1e\n", error);
    assert_true(error <= 2e-5);
    device_free(dev, state), device_free(dev, work), device_free(dev, out);
    device_free(dev, active);
    free(want);
}

/* The same bits from arrays that lie differently, or with bounds. */
static void check_variation(batch *x, unsigned variation)
{
    batch other;
    int64_t count = 0;
    batch_open(&other, x->s, &x->c, variation);
    float *one = batch_results(x, &count), *two = batch_results(&other, &count);
    assert_memory_equal(one, two, (size_t)count * sizeof *one);
    free(one), free(two);
    batch_close(&other);
}

/* One launch a direction gave what the CPU gives; two give about the same. */
static void check_clusters(batch *x)
{
    const attention_case *c = x->s->c;
    const performer_layout l = performer_layout_of(x->s->ad->own, &x->problem);
    attention_case two_launches = *c;
    subject s;
    batch other;
    int64_t count = 0;
    float *one = batch_results(x, &count);
    two_launches.arch = 0;
    case_device(&two_launches);
    subject_open(&s, c);
    batch_open(&other, &s, c, 0);
    float *two = batch_results(&other, &count);
    const double apart = largest_error(count, one, two);
    printf("    clusters of %d and %d blocks, from two launches %.1e\n", l.forward, l.backward,
           apart);
    assert_int_equal(l.forward, c->clusters[0]);
    assert_int_equal(l.backward, c->clusters[1]);
    assert_true(apart <= (c->flags & TF32 ? 5e-3 : 1e-5));
    free(one), free(two);
    batch_close(&other);
    subject_close(&s);
    case_device(c);
}

void case_run(const attention_case *c)
{
    subject s;
    batch x;
    case_device(c);
    subject_open(&s, c);
    batch_open(&x, &s, c, 0);
    batch_check(&x);
    if (c->flags & DECODING)
        check_decoding(&x);
    if (c->spilled)
        check_spilled(&s);
    if (c->flags & SHIFTED)
        check_variation(&x, SHIFTED);
    if (c->flags & BOUNDS)
        check_variation(&x, BOUNDS);
    if (c->flags & CLUSTERS && is(kind, "emu"))
        check_clusters(&x);
    if (c->flags & ORDERS && is(kind, "emu"))
        same_in_any_order(batch_results, &x);
    batch_close(&x);
    subject_close(&s);
}
