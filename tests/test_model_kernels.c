/* Kernels of templates/cuda/model.cu one by one on the emulator, against the host's functions or
 * sums in double: every one in three orders of threads, which must give the same bits, with a check
 * of races and of every address. Outputs begin as NaN.
 */
#include "emulated.h"

#include "cuda_args.h"
#include "cuda_text.h"
#include "optim.h"
#include "rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 256, MOST = 8 };

/* ---- launching ----------------------------------------------------------------------------------
 */

/* Memory a kernel may touch; what it writes is compared between orders. */
typedef struct memory {
    void *start[MOST];
    int64_t bytes[MOST];
    void *first[MOST], *result[MOST]; /* before the launch, after the first order */
    int count;
} memory;

static void *place(memory *m, int64_t bytes, const void *contents)
{
    void *p = aligned_alloc(256, ((size_t)bytes + 255) / 256 * 256);
    assert_non_null(p);
    assert_true(m->count < MOST);
    memset(p, 0xff, (size_t)bytes);
    if (contents)
        memcpy(p, contents, (size_t)bytes);
    m->start[m->count] = p;
    m->bytes[m->count++] = bytes;
    return p;
}

static float *floats(memory *m, int64_t n, const float *contents)
{
    return place(m, n * (int64_t)sizeof(float), contents);
}

static void release(memory *m)
{
    for (int i = 0; i < m->count; i++) {
        free(m->start[i]);
        free(m->first[i]);
        free(m->result[i]);
    }
    *m = (memory){.count = 0};
}

static const emulator_kernel *kernel_of(const char *name)
{
    static const char *const names[] = {"rt.cuh",       "args.h",   "dropout.cuh",
                                        "model_args.h", "model.cu", NULL};
    char *text = NULL;
    emulated_ok(cuda_text(NULL, names, &text));
    const emulator_kernel *k = emulated_kernel("model", text, name);
    free(text);
    return k;
}

static void launch(memory *m, const char *name, const int64_t blocks[3], int64_t shared,
                   const void *args, int64_t size)
{
    static const emulator_order orders[] = {EMULATOR_ASCENDING, EMULATOR_DESCENDING,
                                            EMULATOR_RANDOM};
    const device_grid grid = {{blocks[0], blocks[1], blocks[2]}, THREADS, 1, shared};
    emulator_range range[MOST];
    for (int i = 0; i < m->count; i++) {
        range[i] = (emulator_range){m->start[i], m->bytes[i]};
        m->first[i] = realloc(m->first[i], (size_t)m->bytes[i]);
        m->result[i] = realloc(m->result[i], (size_t)m->bytes[i]);
        memcpy(m->first[i], m->start[i], (size_t)m->bytes[i]);
    }
    for (int k = 0; k < 3; k++) {
        const emulator_options options = {.order = orders[k],
                                          .seed = 11,
                                          .check_races = k == 2,
                                          .allocations = range,
                                          .allocation_count = m->count};
        for (int i = 0; i < m->count; i++)
            memcpy(m->start[i], m->first[i], (size_t)m->bytes[i]);
        emulated_ok(emulator_launch(kernel_of(name), &grid, args, size, &options));
        for (int i = 0; i < m->count; i++) {
            if (k == 0)
                memcpy(m->result[i], m->start[i], (size_t)m->bytes[i]);
            else
                assert_memory_equal(m->result[i], m->start[i], (size_t)m->bytes[i]);
        }
    }
}

static void launch_line(memory *m, const char *name, int64_t blocks, const void *args, int64_t size)
{
    launch(m, name, (const int64_t[]){blocks, 1, 1}, 0, args, size);
}

static cuda_share share_of(int64_t rows, int64_t n)
{
    cuda_share s = {.rows = rows, .n = n, .unit = n % 4 == 0 ? 4 : 1};
    while (s.shift < 5 && (int64_t)s.unit << s.shift < n)
        s.shift++;
    return s;
}

/* ---- numbers ------------------------------------------------------------------------------------
 */

static uint64_t drawn;

static float normal(void)
{
    const rng_stream s = rng_open(31, RNG_TEST, 0, 0);
    return (float)rng_normal(&s, drawn++);
}

static float *normals(int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = normal();
    return x;
}

static void near(double got, double want, double scale)
{
    if (!(fabs(got - want) <= 2e-6 * (scale + fabs(want))))
        fail_msg("%.9g, want %.9g", got, want);
}

/* ---- dropout ------------------------------------------------------------------------------------
 */

enum { CELLS = 7, LAYERS = 2, BATCH_ENTRY = 3 };
static const int cells[CELLS] = {0, 1, 2, 77, -1, 4095, 1 << 20};
static const uint32_t uses[4] = {RNG_DROPOUT_EMBED, RNG_DROPOUT_ATTN, RNG_DROPOUT_GELU,
                                 RNG_DROPOUT_MLP};

static int64_t bits_ld(int64_t n)
{
    return (n + 127) / 128 * 16;
}

/* Every use and layer, rows of E and F. */
static void check_dropout(int64_t E, int64_t F, double p)
{
    const uint64_t seed = 0x123456789abcULL;
    const cuda_batch now = {.rows = CELLS, .step = 9, .part = 2};
    memory m = {.count = 0};
    const int64_t row = bits_ld(E) + LAYERS * (2 * bits_ld(E) + bits_ld(F));
    uint8_t *bits = place(&m, CELLS * row, NULL);
    const draw_cuda_args a = {.bits = bits,
                              .batch = place(&m, sizeof now, &now),
                              .cell = place(&m, sizeof cells, cells),
                              .rows = CELLS,
                              .narrow = E,
                              .wide = F,
                              .seed = {(uint32_t)seed, (uint32_t)(seed >> 32)},
                              .use = {uses[0], uses[1], uses[2], uses[3]},
                              .threshold = (uint32_t)(p * 65536 + 0.5)};
    launch(&m, "dropout_draw", (const int64_t[]){2, 1 + 3 * LAYERS, 1}, 0, &a, sizeof a);
    float *want = malloc((size_t)(E > F ? E : F) * sizeof *want);
    for (int k = 0; k < 1 + 3 * LAYERS; k++) {
        const int use = k == 0 ? 0 : 1 + (k - 1) % 3;
        const uint32_t layer = k == 0 ? 0 : (uint32_t)(k - 1) / 3;
        const int64_t n = use == 2 ? F : E;
        const rng_stream s = rng_open(seed, (rng_use)uses[use], layer | now.part << 12, now.step);
        for (int r = 0; r < CELLS; r++, bits += bits_ld(n)) {
            if (cells[r] < 0)
                continue;
            rng_dropout(&s, p, (uint64_t)cells[r] * (uint64_t)n, n, want);
            for (int64_t j = 0; j < n; j++)
                assert_int_equal(bits[j / 128 * 16 + j % 16] >> j % 128 / 16 & 1, want[j] > 0);
        }
    }
    free(want);
    release(&m);
}

static void dropout_is_the_hosts_stream(void **state)
{
    (void)state;
    check_dropout(64, 128, 0.1);
    check_dropout(6, 10, 0.5);
    check_dropout(132, 20, 0.1);
    check_dropout(256, 300, 0.03);
    check_dropout(1, 1, 0.9);
}

/* ---- embeddings ---------------------------------------------------------------------------------
 */

enum { VOCAB = 5, LENGTH = 9, ROWS = 300 };

/* Rows of random tokens and positions, the last three padding. */
static void random_rows(int *token, int *cell)
{
    const rng_stream s = rng_open(32, RNG_TEST, 0, 0);
    for (int r = 0; r < ROWS; r++) {
        const bool padding = r >= ROWS - 3;
        token[r] = padding ? -1 : (int)rng_below(&s, (uint64_t)r, 2) * (r % VOCAB);
        cell[r] = padding ? -1 : r;
    }
}

/* Random bits of dropout, most of them 1. */
static uint8_t *random_bits(int64_t rows, int64_t ld)
{
    const rng_stream s = rng_open(33, RNG_TEST, 0, 0);
    uint8_t *bits = malloc((size_t)(rows * ld));
    assert_non_null(bits);
    for (int64_t i = 0; i < rows * ld; i++)
        bits[i] = (uint8_t)(rng_below(&s, 2 * (uint64_t)i, 256) |
                            rng_below(&s, 2 * (uint64_t)i + 1, 256));
    return bits;
}

static float keep_of(const uint8_t *bits, int64_t ld, int64_t r, int64_t j)
{
    return bits[r * ld + j / 128 * 16 + j % 16] >> j % 128 / 16 & 1 ? 1.25f : 0;
}

static void check_embed(int64_t E)
{
    static int token[ROWS], cell[ROWS];
    memory m = {.count = 0};
    const int64_t ld = bits_ld(E);
    float *tokens = normals(VOCAB * E), *positions = normals(LENGTH * E);
    uint8_t *bits = random_bits(ROWS, ld);
    random_rows(token, cell);
    float *x = floats(&m, ROWS * E, NULL);
    const embed_cuda_args a = {.share = share_of(ROWS, E),
                               .token = place(&m, sizeof token, token),
                               .cell = place(&m, sizeof cell, cell),
                               .tokens = floats(&m, VOCAB * E, tokens),
                               .positions = floats(&m, LENGTH * E, positions),
                               .keep = {place(&m, ROWS * ld, bits), ld, 1.25f},
                               .x = x,
                               .length = LENGTH};
    launch_line(&m, "embed", 2, &a, sizeof a);
    for (int64_t i = 0; i < ROWS * E; i++) {
        const int64_t r = i / E, j = i % E;
        const float want = token[r] < 0
                               ? 0
                               : (tokens[token[r] * E + j] + positions[cell[r] % LENGTH * E + j]) *
                                     keep_of(bits, ld, r, j);
        assert_true(x[i] == want);
    }
    free(tokens);
    free(positions);
    free(bits);
    release(&m);
}

static void embeddings(void **state)
{
    (void)state;
    check_embed(6);
    check_embed(64);
    check_embed(132);
}

/* Keys of very different numbers of rows, one of them without any. */
static void check_table(int64_t E)
{
    enum { KEYS = 6, SEGMENT = 64, SEGMENTS = ROWS / SEGMENT + KEYS };
    static const int rows_of[KEYS] = {1, 150, 0, 64, 65, 20};
    static int sorted[ROWS], segment[SEGMENTS + 1], key[KEYS + 1];
    int at = 0, segments = 0;
    for (int k = 0; k < KEYS; k++) {
        key[k] = segments;
        for (int left = rows_of[k]; left > 0; left -= SEGMENT) {
            segment[segments++] = at;
            for (int i = 0; i < (left < SEGMENT ? left : SEGMENT); i++, at++)
                sorted[at] = at * 7 % ROWS;
        }
    }
    assert_int_equal(at, ROWS);
    key[KEYS] = segments;
    segment[segments] = at;
    memory m = {.count = 0};
    const int64_t ld = bits_ld(E);
    float *g = normals(ROWS * E), *table = normals(KEYS * E);
    uint8_t *bits = random_bits(ROWS, ld);
    float *out = floats(&m, KEYS * E, table);
    table_cuda_args a = {.share = share_of(SEGMENTS, E),
                         .row = place(&m, sizeof sorted, sorted),
                         .segment = place(&m, sizeof segment, segment),
                         .key = place(&m, sizeof key, key),
                         .g = floats(&m, ROWS * E, g),
                         .keep = {place(&m, ROWS * ld, bits), ld, 1.25f},
                         .part = floats(&m, SEGMENTS * E, NULL),
                         .table = out,
                         .keys = KEYS};
    launch_line(&m, "table_part", 1, &a, sizeof a);
    a.share.rows = KEYS;
    launch_line(&m, "table_sum", 1, &a, sizeof a);
    for (int64_t j = 0; j < E; j++)
        for (int k = 0, i = 0; k < KEYS; k++) {
            double want = (double)table[k * E + j], scale = fabs(want);
            for (int end = i + rows_of[k]; i < end; i++) {
                const float x = g[sorted[i] * E + j] * keep_of(bits, ld, sorted[i], j);
                want += (double)x;
                scale += fabs((double)x);
            }
            near((double)out[k * E + j], want, scale);
        }
    free(g);
    free(table);
    free(bits);
    release(&m);
}

static void embeddings_gradient(void **state)
{
    (void)state;
    check_table(6);
    check_table(64);
    check_table(132);
}

/* ---- rows ---------------------------------------------------------------------------------------
 */

/* With sequences, sums of their rows, else of all, added to what is there. */
static void check_columns(int64_t n, bool sequences)
{
    enum { S = 4, SLAB = 48 };
    static const int64_t begin[S] = {0, 0, 7, 207}, len[S] = {0, 7, 200, 93};
    const int64_t count = sequences ? S : 1, slabs = (ROWS + SLAB - 1) / SLAB;
    memory m = {.count = 0};
    float *x = normals(ROWS * n), *old = normals(count * n);
    float *out = floats(&m, count * n, old);
    const int64_t *b = place(&m, sizeof begin, begin), *l = place(&m, sizeof len, len);
    const column_cuda_args a = {.share = share_of(ROWS, n),
                                .x = floats(&m, ROWS * n, x),
                                .begin = sequences ? b : NULL,
                                .len = sequences ? l : NULL,
                                .limit = sequences ? 150 : ROWS,
                                .slab = SLAB,
                                .slabs = slabs,
                                .sequences = count,
                                .part = floats(&m, count * slabs * n, NULL),
                                .out = out,
                                .factor = 0.5f,
                                .add = !sequences};
    const int64_t chunk = (int64_t)a.share.unit << a.share.shift;
    launch(&m, "column_part", (const int64_t[]){slabs, (n + chunk - 1) / chunk, count},
           THREADS * 4 * sizeof(float), &a, sizeof a);
    launch_line(&m, "column_sum", 2, &a, sizeof a);
    for (int64_t s = 0; s < count; s++)
        for (int64_t j = 0; j < n; j++) {
            const int64_t first = sequences ? begin[s] : 0;
            const int64_t rows = !sequences ? ROWS : len[s] < 150 ? len[s] : 150;
            double want = sequences ? 0 : (double)old[j], scale = 0;
            for (int64_t r = first; r < first + rows; r++) {
                want += 0.5 * (double)x[r * n + j];
                scale += fabs((double)x[r * n + j]);
            }
            near((double)out[s * n + j], want, scale);
        }
    free(x);
    free(old);
    release(&m);
}

static void sums_of_columns(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 10, 64, 132, 192, 260};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
        for (int sequences = 0; sequences < 2; sequences++)
            check_columns(widths[i], sequences != 0);
}

static void check_rows(int64_t n)
{
    static int token[ROWS], cell[ROWS];
    const cuda_batch now = {.rows = ROWS - 20};
    const cuda_share share = share_of(ROWS, n);
    memory m = {.count = 0};
    random_rows(token, cell);
    float *bias = normals(n), *pooled = normals(ROWS / LENGTH * n + n);
    float *y = floats(&m, ROWS * n, NULL);
    const fill_cuda_args fill = {.share = share, .bias = floats(&m, n, bias), .y = y};
    launch_line(&m, "fill_rows", 2, &fill, sizeof fill);
    for (int64_t i = 0; i < ROWS * n; i++)
        assert_true(y[i] == bias[i % n]);
    const tail_cuda_args tail = {.share = share, .batch = place(&m, sizeof now, &now), .y = y};
    launch_line(&m, "clear_tail", 2, &tail, sizeof tail);
    for (int64_t i = 0; i < ROWS * n; i++)
        assert_true(y[i] == (i / n < now.rows ? bias[i % n] : 0));
    pool_cuda_args pool = {.share = share,
                           .cell = place(&m, sizeof cell, cell),
                           .g = floats(&m, ROWS / LENGTH * n + n, pooled),
                           .y = y,
                           .length = LENGTH,
                           .factor = 0.25f};
    for (int first = 0; first < 2; first++) {
        pool.first = first;
        launch_line(&m, "pool_grad", 2, &pool, sizeof pool);
        for (int64_t i = 0; i < ROWS * n; i++) {
            const int64_t at = cell[i / n];
            const bool counts = at >= 0 && (!first || at % LENGTH == 0);
            assert_true(y[i] == (counts ? 0.25f * pooled[at / LENGTH * n + i % n] : 0));
        }
    }
    free(bias);
    free(pooled);
    release(&m);
}

static void rows(void **state)
{
    (void)state;
    check_rows(6);
    check_rows(64);
    check_rows(132);
}

/* ---- head and journal ---------------------------------------------------------------------------
 */

static void pairs(void **state)
{
    (void)state;
    enum { B = 3, E = 10 };
    memory m = {.count = 0};
    float *pooled = normals(2 * B * E), *g = normals(4 * B * E);
    float *joined = floats(&m, 4 * B * E, NULL), *g_pooled = floats(&m, 2 * B * E, NULL);
    const join_cuda_args a = {.B = B,
                              .E = E,
                              .pooled = floats(&m, 2 * B * E, pooled),
                              .joined = joined,
                              .g_joined = floats(&m, 4 * B * E, g),
                              .g_pooled = g_pooled};
    launch_line(&m, "join_pair", 1, &a, sizeof a);
    launch_line(&m, "join_pair_grad", 1, &a, sizeof a);
    for (int64_t i = 0; i < B * E; i++) {
        const float x = pooled[i], y = pooled[B * E + i];
        const float *out = joined + i / E * 4 * E + i % E, *in = g + i / E * 4 * E + i % E;
        assert_true(out[0] == x && out[E] == y && out[2 * E] == x * y && out[3 * E] == x - y);
        near((double)g_pooled[i], (double)in[0] + (double)(in[2 * E] * y) + (double)in[3 * E], 1);
        near((double)g_pooled[B * E + i],
             (double)in[E] + (double)(in[2 * E] * x) - (double)in[3 * E], 1);
    }
    free(pooled);
    free(g);
    release(&m);
}

enum { EXAMPLES = 300, CLASSES = 5, POOLED = 700, WORDS = JOURNAL_HEAD + 2 * EXAMPLES + 3 };

/* bad_pooled, bad_scores: an element that is no number, or -1. */
static void check_record(int bad_pooled, int bad_scores, int verdict)
{
    const cuda_batch now = {.entry = BATCH_ENTRY};
    memory m = {.count = 0};
    float *pooled = normals(POOLED), *scores = normals(EXAMPLES * CLASSES),
          *loss = normals(EXAMPLES);
    scores[7] = scores[5] = 4; /* two largest in row 1: the first counts */
    if (bad_pooled >= 0)
        pooled[bad_pooled] = NAN;
    if (bad_scores >= 0)
        scores[bad_scores] = -INFINITY;
    int *journal = place(&m, (BATCH_ENTRY + 1) * WORDS * (int64_t)sizeof(int), NULL);
    const record_cuda_args a = {.batch = place(&m, sizeof now, &now),
                                .pooled = floats(&m, POOLED, pooled),
                                .scores = floats(&m, EXAMPLES * CLASSES, scores),
                                .loss = floats(&m, EXAMPLES, loss),
                                .pooled_floats = POOLED,
                                .B = EXAMPLES,
                                .C = CLASSES,
                                .words = WORDS,
                                .journal = journal};
    launch(&m, "record", (const int64_t[]){1, 1, 1}, THREADS / 32 * sizeof(int), &a, sizeof a);
    for (int i = 0; i < BATCH_ENTRY * WORDS; i++)
        assert_int_equal(journal[i], -1);
    const int *entry = journal + BATCH_ENTRY * WORDS;
    assert_int_equal(entry[0], verdict);
    assert_memory_equal(entry + JOURNAL_HEAD, loss, EXAMPLES * sizeof *loss);
    for (int b = 0; b < EXAMPLES; b++) {
        int best = 0;
        for (int c = 1; c < CLASSES; c++)
            best = scores[b * CLASSES + c] > scores[b * CLASSES + best] ? c : best;
        assert_int_equal(entry[JOURNAL_HEAD + EXAMPLES + b], best);
    }
    assert_int_equal(entry[JOURNAL_HEAD + EXAMPLES + 1], 0);
    free(pooled);
    free(scores);
    free(loss);
    release(&m);
}

static void records(void **state)
{
    (void)state;
    check_record(-1, -1, JOURNAL_GOOD);
    check_record(699, -1, JOURNAL_POOLED);
    check_record(-1, 0, JOURNAL_SCORES);
    check_record(0, 1499, JOURNAL_POOLED);
}

static void check_norm(int64_t n, int64_t bad)
{
    enum { PARTS = 7 };
    const cuda_batch now = {.entry = 0};
    const int fresh[JOURNAL_HEAD] = {JOURNAL_GOOD, 0, 0, 0};
    memory m = {.count = 0};
    float *g = normals(n);
    double want = 0;
    if (bad >= 0)
        g[bad] = g[n - 1] = INFINITY;
    for (int64_t i = 0; i < n; i++)
        want += (double)g[i] * (double)g[i];
    int *journal = place(&m, sizeof fresh, fresh);
    const norm_cuda_args a = {.g = floats(&m, n, g),
                              .n = n,
                              .parts = PARTS,
                              .part = place(&m, PARTS * sizeof(double), NULL),
                              .bad = place(&m, PARTS * sizeof(int64_t), NULL),
                              .batch = place(&m, sizeof now, &now),
                              .words = JOURNAL_HEAD,
                              .journal = journal};
    launch(&m, "norm_part", (const int64_t[]){PARTS, 1, 1}, THREADS * 16, &a, sizeof a);
    launch(&m, "norm_sum", (const int64_t[]){1, 1, 1}, THREADS * 16, &a, sizeof a);
    float norm;
    memcpy(&norm, journal + 3, sizeof norm);
    if (bad < 0) {
        assert_int_equal(journal[0], JOURNAL_GOOD);
        near((double)norm, sqrt(want), 0);
    } else {
        assert_int_equal(journal[0], JOURNAL_GRADIENT);
        assert_int_equal(journal[1], bad);
        assert_true(isinf(norm));
    }
    free(g);
    release(&m);
}

static void norms(void **state)
{
    (void)state;
    check_norm(1, -1);
    check_norm(5000, -1);
    check_norm(5000, 4321);
    check_norm(5000, 0);
}

/* ---- optimiser ----------------------------------------------------------------------------------
 */

/* As the device's updates are launched: rows of 1024, gradients beyond the clip among them. */
static void updates_are_the_hosts(void **state)
{
    (void)state;
    enum { N = 3 * 1024 };
    char *text = NULL;
    memory m = {.count = 0};
    float *params = normals(N), *g = normals(N), *first = normals(N), *second = normals(N);
    for (int i = 0; i < N; i++)
        second[i] *= second[i];
    float *p = floats(&m, N, params), *m1 = floats(&m, N, first), *m2 = floats(&m, N, second);
    const float b1 = 0.9f, b2 = 0.999f;
    const row_cuda_args a = {.rows = 3,
                             .n = 1024,
                             .in = {p, floats(&m, N, g), m1, m2},
                             .ld_in = {1024, 1024, 1024, 1024},
                             .out = {p, m1, m2},
                             .ld_out = {1024, 1024, 1024},
                             .c = {3e-3f, b1, b2, 1e-6f, 0.02f, (float)(1 - pow((double)b1, 5)),
                                   (float)sqrt(1 - pow((double)b2, 5)), 1}};
    const device_grid grid = {{2, 1, 1}, THREADS, 1, 0};
    emulated_ok(cuda_row_text("#define ROW_N 1024\n#define ROW_UNIT 4\n", "adamw", &text));
    emulator_counters counters = {0};
    const emulator_options options = {.order = EMULATOR_RANDOM, .counters = &counters};
    emulated_ok(
        emulator_launch(emulated_kernel("adamw", text, "row_fwd"), &grid, &a, sizeof a, &options));
    assert_int_equal(counters.global_narrow, 0);
    assert_int_equal(counters.global_wide, N / 4 * 7);
    const adamw o = {.beta2 = 0.999,
                     .eps = 1e-6,
                     .weight_decay = 0.02,
                     .clip = 1,
                     .n = N,
                     .m = first,
                     .v = second};
    adamw_update(&o, 5, 3e-3, 0.9, params, g);
    for (int i = 0; i < N; i++) {
        near((double)p[i], (double)params[i], 0.01);
        near((double)m1[i], (double)first[i], 0.1);
        near((double)m2[i], (double)second[i], 0.1);
    }
    free(text);
    free(params);
    free(g);
    free(first);
    free(second);
    release(&m);
}

static int group_open(void **state)
{
    (void)state;
    emulated_open();
    return 0;
}

static int group_close(void **state)
{
    (void)state;
    emulated_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dropout_is_the_hosts_stream),
        cmocka_unit_test(embeddings),
        cmocka_unit_test(embeddings_gradient),
        cmocka_unit_test(sums_of_columns),
        cmocka_unit_test(rows),
        cmocka_unit_test(pairs),
        cmocka_unit_test(records),
        cmocka_unit_test(norms),
        cmocka_unit_test(updates_are_the_hosts),
    };
    return cmocka_run_group_tests(tests, group_open, group_close);
}
