/* Softmax attention on the emulated device against the host's: sizes, scattered masks, packed
 * sequences, empty ones, dropout, strides; and its kernels in several orders of threads with a
 * check of races and addresses. Outputs begin as NaN.
 */
#include "device/emulated.h"

#include "attention/device.h"
#include "math/rng.h"
#include "support/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *kind = "emu"; /* the first argument is another */
static device *dev;

typedef struct shape {
    int64_t B, H, T, S, D, DV;
    bool mask, packed;
    double dropout;
} shape;

enum { Q, K, V, O, GO, GQ, GK, GV, ARRAYS };

/* One array a role on both sides, (rows, H, width) as the model has them: token after token. */
typedef struct setup {
    shape s;
    int64_t q_rows, k_rows;
    int64_t width[ARRAYS], count[ARRAYS];
    float *host[ARRAYS], *want[ARRAYS];
    void *there[ARRAYS];
    int64_t begin[2][16], len[2][16]; /* of queries, of keys */
    uint8_t *mask;
    void *index[5]; /* on the device */
} setup;

static spectra_rows rows_of(const setup *x, int i, float *data)
{
    const int64_t stride = x->s.H * x->width[i];
    const bool query = i == Q || i == O || i == GO || i == GQ;
    return (spectra_rows){data, (query ? x->s.T : x->s.S) * stride, x->width[i], stride};
}

static bool is_query(int i)
{
    return i == Q || i == O || i == GO || i == GQ;
}

static void fill_arrays(setup *x)
{
    const rng_stream r = rng_open(41, RNG_TEST, 0, 0);
    uint64_t drawn = 0;
    for (int i = 0; i < ARRAYS; i++) {
        x->width[i] = i == Q || i == K || i == GQ || i == GK ? x->s.D : x->s.DV;
        x->count[i] = (is_query(i) ? x->q_rows : x->k_rows) * x->s.H * x->width[i];
        const size_t bytes = (size_t)x->count[i] * sizeof(float);
        x->host[i] = malloc(bytes + 1);
        x->want[i] = malloc(bytes + 1);
        const bool given = i == Q || i == K || i == V || i == GO;
        for (int64_t k = 0; k < x->count[i]; k++)
            x->host[i][k] = given ? (float)rng_normal(&r, drawn++) : NAN;
        memcpy(x->want[i], x->host[i], bytes);
        emulated_ok(device_alloc(dev, x->count[i] * (int64_t)sizeof(float), &x->there[i]));
        emulated_ok(device_write(dev, x->there[i], x->host[i], (int64_t)bytes));
    }
}

static void *to_device(const void *from, int64_t bytes)
{
    void *memory = NULL;
    emulated_ok(device_alloc(dev, bytes, &memory));
    emulated_ok(device_write(dev, memory, from, bytes));
    return memory;
}

static void setup_open(setup *x, const shape *s)
{
    *x = (setup){.s = *s, .q_rows = s->B * s->T, .k_rows = s->B * s->S};
    for (int64_t b = 0; s->packed && b < s->B; b++) { /* the last is empty, the first whole */
        const int64_t part = b == s->B - 1 ? 0 : s->B - b;
        x->len[0][b] = s->T * part / s->B;
        x->len[1][b] = s->S * part / s->B;
        for (int side = 0; side < 2; side++)
            x->begin[side][b] = b == 0 ? 0 : x->begin[side][b - 1] + x->len[side][b - 1];
    }
    if (s->packed) {
        x->q_rows = x->begin[0][s->B - 1];
        x->k_rows = x->begin[1][s->B - 1];
        for (int i = 0; i < 4; i++)
            x->index[i] =
                to_device(i < 2 ? x->begin[i] : x->len[i - 2], (int64_t)sizeof x->begin[0]);
    }
    if (s->mask) {
        const rng_stream r = rng_open(42, RNG_TEST, 0, 0);
        x->mask = malloc((size_t)x->k_rows + 1);
        for (int64_t k = 0; k < x->k_rows; k++) /* the last sequence has no valid key */
            x->mask[k] = rng_uniform(&r, (uint64_t)k) < 0.6 && (s->packed || k < (s->B - 1) * s->S);
        x->index[4] = to_device(x->mask, x->k_rows);
    }
    fill_arrays(x);
}

static void setup_close(setup *x)
{
    for (int i = 0; i < ARRAYS; i++) {
        free(x->host[i]);
        free(x->want[i]);
        device_free(dev, x->there[i]);
    }
    for (int i = 0; i < 5; i++)
        device_free(dev, x->index[i]);
    free(x->mask);
}

static spectra_problem problem_of(const setup *x, bool there)
{
    spectra_problem p = {.B = x->s.B,
                         .T = x->s.T,
                         .S = x->s.S,
                         .dropout = x->s.dropout,
                         .seed = 77,
                         .step = 5ULL << 32 | 9};
    if (x->s.packed) {
        p.q_begin = there ? x->index[0] : x->begin[0];
        p.k_begin = there ? x->index[1] : x->begin[1];
        p.q_len = there ? x->index[2] : x->len[0];
        p.k_len = there ? x->index[3] : x->len[1];
    }
    if (x->s.mask)
        p.k_mask = there ? x->index[4] : x->mask;
    return p;
}

static void run_host(const setup *x, spectra_attention *att)
{
    const spectra_problem p = problem_of(x, false);
    spectra_rows r[ARRAYS];
    for (int i = 0; i < ARRAYS; i++)
        r[i] = rows_of(x, i, x->want[i]);
    void *saved = aligned_alloc(64, (size_t)spectra_attention_saved_bytes(att, &p) + 64);
    void *work = aligned_alloc(64, (size_t)spectra_attention_work_bytes(att, &p) + 64);
    emulated_ok(spectra_attention_forward(att, &p, r[Q], r[K], r[V], r[O], saved, work));
    emulated_ok(spectra_attention_backward(att, &p, r[Q], r[K], r[V], r[O], r[GO], r[GQ], r[GK],
                                           r[GV], saved, work));
    free(saved);
    free(work);
}

static void run_device(const setup *x, const attention_device *ad, const cuda_batch *batch)
{
    const attention_device_problem p = {
        .p = problem_of(x, true), .q_rows = x->q_rows, .k_rows = x->k_rows, .batch = batch};
    attention_views v = {.q = rows_of(x, Q, x->there[Q]),
                         .k = rows_of(x, K, x->there[K]),
                         .v = rows_of(x, V, x->there[V]),
                         .o = rows_of(x, O, x->there[O]),
                         .go = rows_of(x, GO, x->there[GO]),
                         .gq = rows_of(x, GQ, x->there[GQ]),
                         .gk = rows_of(x, GK, x->there[GK]),
                         .gv = rows_of(x, GV, x->there[GV])};
    void *saved = NULL, *work = NULL;
    emulated_ok(device_alloc(dev, attention_device_saved_bytes(ad, &p), &saved));
    emulated_ok(device_alloc(dev, attention_device_work_bytes(ad, &p), &work));
    emulated_ok(attention_device_forward(ad, &p, &v, saved, work));
    emulated_ok(attention_device_backward(ad, &p, &v, saved, work));
    for (int i = 0; i < ARRAYS; i++)
        emulated_ok(
            device_read(dev, x->host[i], x->there[i], x->count[i] * (int64_t)sizeof(float)));
    device_free(dev, saved);
    device_free(dev, work);
}

static void compare(const setup *x)
{
    static const char *const names[ARRAYS] = {"q", "k", "v", "o", "go", "gq", "gk", "gv"};
    for (int i = 0; i < ARRAYS; i++) {
        double largest = 0;
        for (int64_t k = 0; k < x->count[i]; k++)
            largest = fmax(largest, fabs((double)x->want[i][k]));
        for (int64_t k = 0; k < x->count[i]; k++)
            if (!(fabs((double)x->host[i][k] - (double)x->want[i][k]) <= 1e-5 * fmax(largest, 1)))
                fail_msg("%s, element %lld: %g, the host has %g; T %d, S %d, D %d, DV %d", names[i],
                         (long long)k, (double)x->host[i][k], (double)x->want[i][k], (int)x->s.T,
                         (int)x->s.S, (int)x->s.D, (int)x->s.DV);
    }
}

static void check(const shape *s)
{
    setup x;
    spectra_attention *att = NULL;
    attention_device *ad = NULL;
    const spectra_attention_desc desc = {.attn = "softmax", .H = s->H, .D = s->D, .DV = s->DV};
    emulated_ok(spectra_attention_new(&desc, &att));
    emulated_ok(attention_device_new(att, dev, false, &ad));
    emulated_ok(attention_device_changed(ad));
    setup_open(&x, s);
    run_host(&x, att);
    run_device(&x, ad, NULL);
    compare(&x);
    setup_close(&x);
    attention_device_free(ad);
    spectra_attention_free(att);
}

static void sizes(void **state)
{
    (void)state;
    static const int64_t heads[][2] = {{8, 8},   {20, 12},  {32, 32},   {60, 60},
                                       {64, 64}, {100, 36}, {128, 130}, {256, 256}};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        check(&(shape){2, 2, 65, 70, heads[i][0], heads[i][1], .mask = i % 2, .dropout = 0.1});
}

static void lengths(void **state)
{
    (void)state;
    static const int64_t list[] = {1, 7, 63, 64, 65, 200};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        check(&(shape){2, 1, list[i], list[i], 8, 8, .mask = false});
        check(&(shape){2, 1, list[i], list[5 - i], 8, 8, .mask = true, .dropout = 0.2});
    }
}

static void packed_sequences(void **state)
{
    (void)state;
    check(&(shape){3, 2, 90, 90, 16, 16, .packed = true});
    check(&(shape){4, 2, 70, 130, 20, 20, .packed = true, .dropout = 0.1});
    check(&(shape){4, 2, 130, 70, 6, 10, .packed = true, .mask = true, .dropout = 0.1});
}

/* Bounds in the place of lengths, the rest read on the device: the same bits. */
static void numbers_of_the_batch(void **state)
{
    (void)state;
    const shape s = {3, 2, 50, 50, 16, 16, .packed = true, .dropout = 0.3};
    spectra_attention *att = NULL;
    attention_device *ad = NULL;
    setup x, y;
    const spectra_attention_desc desc = {.attn = "softmax", .H = s.H, .D = s.D, .DV = s.DV};
    emulated_ok(spectra_attention_new(&desc, &att));
    emulated_ok(attention_device_new(att, dev, false, &ad));
    setup_open(&x, &s);
    setup_open(&y, &s);
    run_device(&x, ad, NULL);
    /* layer 5 stays in p.step, part 3 and step 9 come from the batch: as if p.step held all three
     */
    const cuda_batch batch = {.rows = y.q_rows, .longest = 50, .step = 9, .part = 0};
    void *there = to_device(&batch, sizeof batch);
    y.s.T = y.s.S = 128;
    run_device(&y, ad, there);
    for (int i = 0; i < ARRAYS; i++)
        assert_memory_equal(x.host[i], y.host[i], (size_t)x.count[i] * sizeof(float));
    device_free(dev, there);
    setup_close(&x);
    setup_close(&y);
    attention_device_free(ad);
    spectra_attention_free(att);
}

/* ---- orders of threads --------------------------------------------------------------------------
 */

enum { T = 70, S = 40, H = 2, D = 20 };

static void launch(const char *kernel, const int64_t blocks[3], int64_t shared,
                   const softmax_cuda_args *a, int order, const emulator_range *ranges, int count)
{
    char defines[64];
    snprintf(defines, sizeof defines, "HEAD_D=%d HEAD_DV=%d", (int)D, (int)D);
    const jit_cuda_request request = {.kind = "softmax", .defines = defines};
    static const emulator_order orders[] = {EMULATOR_ASCENDING, EMULATOR_DESCENDING,
                                            EMULATOR_RANDOM};
    const device_grid grid = {{blocks[0], blocks[1], blocks[2]}, 256, 1, shared};
    const emulator_options options = {.order = orders[order],
                                      .seed = 3,
                                      .check_races = order == 2,
                                      .allocations = ranges,
                                      .allocation_count = count};
    char *text = NULL;
    emulated_ok(program_text(&request, NULL, NULL, &text));
    emulated_ok(
        emulator_launch(emulated_kernel("softmax", text, kernel), &grid, a, sizeof *a, &options));
    free(text);
}

static void orders_of_threads(void **state)
{
    (void)state;
    enum {
        FLOATS = 20000,
        FORWARD = 64 * 28 + 2 * 64 * 28 + 64 * 68,
        BACKWARD = 2 * 32 * (28 + 28 + 36)
    };
    static float memory[3][FLOATS] __attribute__((aligned(256)));
    static uint8_t mask[S];
    const rng_stream r = rng_open(43, RNG_TEST, 0, 0);
    for (int j = 0; j < S; j++)
        mask[j] = j % 3 != 1;
    for (int order = 0; order < 3; order++) {
        float *at = memory[order];
        cuda_rows row[8];
        for (int i = 0; i < FLOATS; i++)
            at[i] = i < (2 * T + 2 * S) * H * D ? (float)rng_normal(&r, (uint64_t)i) : NAN;
        /* q, go, k, v are given; then o, gq, gk, gv */
        static const int64_t rows[8] = {T, T, S, S, T, T, S, S};
        for (int i = 0; i < 8; i++, at += rows[i - 1] * H * D)
            row[i] = (cuda_rows){at, rows[i] * H * D, D, H * D};
        softmax_cuda_args a = {.q = row[0],
                               .go = row[1],
                               .k = row[2],
                               .v = row[3],
                               .o = row[4],
                               .gq = row[5],
                               .gk = row[6],
                               .gv = row[7],
                               .mask = mask,
                               .lse = at,
                               .dot = at + T * H,
                               .key = (int *)(at + 2 * T * H),
                               .keys = (int *)(at + 2 * T * H + S),
                               .B = 1,
                               .H = H,
                               .T = T,
                               .S = S,
                               .seed = {1, 2},
                               .word2 = 8u << 24,
                               .threshold = 6554,
                               .scale = 0.2f,
                               .factor = 1.1f,
                               .vector = order != 1};
        const emulator_range ranges[] = {{memory[order], sizeof memory[order]},
                                         {mask, sizeof mask}};
        launch("softmax_keys", (const int64_t[]){1, 1, 1}, 256 * 4, &a, order, ranges, 2);
        launch("softmax_fwd", (const int64_t[]){2, H, 1}, FORWARD * 4, &a, order, ranges, 2);
        launch("softmax_clear", (const int64_t[]){5, H, 1}, 0, &a, order, ranges, 2);
        launch("softmax_dot", (const int64_t[]){9, H, 1}, 0, &a, order, ranges, 2);
        launch("softmax_bwd_keys", (const int64_t[]){2, H, 1}, BACKWARD * 4, &a, order, ranges, 2);
        launch("softmax_bwd_queries", (const int64_t[]){3, H, 1}, BACKWARD * 4, &a, order, ranges,
               2);
        if (order > 0)
            assert_memory_equal(memory[0], memory[order], sizeof memory[0]);
    }
}

static int group_open(void **state)
{
    (void)state;
    emulated_open();
    emulated_ok(device_open(kind, &dev));
    return 0;
}

static int group_close(void **state)
{
    (void)state;
    device_close(dev);
    emulated_close();
    return 0;
}

int main(int argc, char **argv)
{
    kind = argc > 1 ? argv[1] : kind;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(lengths),
        cmocka_unit_test(packed_sequences),
        cmocka_unit_test(numbers_of_the_batch),
        cmocka_unit_test(orders_of_threads),
    };
    return cmocka_run_group_tests(tests, group_open, group_close);
}
