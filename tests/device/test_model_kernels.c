/* Kernels of templates/cuda/model.cu for dropout, embeddings and rows, one by one, against the
 * host's functions or sums in double (checked.h).
 */
#include "support/checked.h"

#include "math/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- dropout ------------------------------------------------------------------------------------
 */

enum { CELLS = 7, LAYERS = 2 };
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
    uint8_t *bits = checked_place(&m, CELLS * row, NULL);
    const draw_cuda_args a = {.bits = bits,
                              .batch = checked_place(&m, sizeof now, &now),
                              .cell = checked_place(&m, sizeof cells, cells),
                              .rows = CELLS,
                              .narrow = E,
                              .wide = F,
                              .seed = {(uint32_t)seed, (uint32_t)(seed >> 32)},
                              .use = {uses[0], uses[1], uses[2], uses[3]},
                              .threshold = (uint32_t)(p * 65536 + 0.5)};
    checked_launch(&m, "dropout_draw", (const int64_t[]){2, 1 + 3 * LAYERS, 1}, 0, &a, sizeof a);
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
    checked_release(&m);
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
    float *tokens = checked_normals(VOCAB * E), *positions = checked_normals(LENGTH * E);
    uint8_t *bits = random_bits(ROWS, ld);
    random_rows(token, cell);
    float *x = checked_floats(&m, ROWS * E, NULL);
    const embed_cuda_args a = {.share = checked_share(ROWS, E),
                               .token = checked_place(&m, sizeof token, token),
                               .cell = checked_place(&m, sizeof cell, cell),
                               .tokens = checked_floats(&m, VOCAB * E, tokens),
                               .positions = checked_floats(&m, LENGTH * E, positions),
                               .keep = {checked_place(&m, ROWS * ld, bits), ld, 1.25f},
                               .x = x,
                               .length = LENGTH};
    checked_line(&m, "embed", 2, &a, sizeof a);
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
    checked_release(&m);
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
    float *g = checked_normals(ROWS * E), *table = checked_normals(KEYS * E);
    uint8_t *bits = random_bits(ROWS, ld);
    float *out = checked_floats(&m, KEYS * E, table);
    table_cuda_args a = {.share = checked_share(SEGMENTS, E),
                         .row = checked_place(&m, sizeof sorted, sorted),
                         .segment = checked_place(&m, sizeof segment, segment),
                         .key = checked_place(&m, sizeof key, key),
                         .g = checked_floats(&m, ROWS * E, g),
                         .keep = {checked_place(&m, ROWS * ld, bits), ld, 1.25f},
                         .part = checked_floats(&m, SEGMENTS * E, NULL),
                         .table = out,
                         .keys = KEYS};
    checked_line(&m, "table_part", 1, &a, sizeof a);
    a.share.rows = KEYS;
    checked_line(&m, "table_sum", 1, &a, sizeof a);
    for (int64_t j = 0; j < E; j++)
        for (int k = 0, i = 0; k < KEYS; k++) {
            double want = (double)table[k * E + j], scale = fabs(want);
            for (int end = i + rows_of[k]; i < end; i++) {
                const float x = g[sorted[i] * E + j] * keep_of(bits, ld, sorted[i], j);
                want += (double)x;
                scale += fabs((double)x);
            }
            checked_near((double)out[k * E + j], want, scale);
        }
    free(g);
    free(table);
    free(bits);
    checked_release(&m);
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
    float *x = checked_normals(ROWS * n), *old = checked_normals(count * n);
    float *out = checked_floats(&m, count * n, old);
    const int64_t *b = checked_place(&m, sizeof begin, begin),
                  *l = checked_place(&m, sizeof len, len);
    const column_cuda_args a = {.share = checked_share(ROWS, n),
                                .x = checked_floats(&m, ROWS * n, x),
                                .begin = sequences ? b : NULL,
                                .len = sequences ? l : NULL,
                                .limit = sequences ? 150 : ROWS,
                                .slab = SLAB,
                                .slabs = slabs,
                                .sequences = count,
                                .part = checked_floats(&m, count * slabs * n, NULL),
                                .out = out,
                                .factor = 0.5f,
                                .add = !sequences};
    const int64_t chunk = (int64_t)a.share.unit << a.share.shift;
    checked_launch(&m, "column_part", (const int64_t[]){slabs, (n + chunk - 1) / chunk, count},
                   CHECKED_THREADS * 4 * sizeof(float), &a, sizeof a);
    checked_line(&m, "column_sum", 2, &a, sizeof a);
    for (int64_t s = 0; s < count; s++)
        for (int64_t j = 0; j < n; j++) {
            const int64_t first = sequences ? begin[s] : 0;
            const int64_t rows = !sequences ? ROWS : len[s] < 150 ? len[s] : 150;
            double want = sequences ? 0 : (double)old[j], scale = 0;
            for (int64_t r = first; r < first + rows; r++) {
                want += 0.5 * (double)x[r * n + j];
                scale += fabs((double)x[r * n + j]);
            }
            checked_near((double)out[s * n + j], want, scale);
        }
    free(x);
    free(old);
    checked_release(&m);
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
    const cuda_share share = checked_share(ROWS, n);
    memory m = {.count = 0};
    random_rows(token, cell);
    float *bias = checked_normals(n), *pooled = checked_normals(ROWS / LENGTH * n + n);
    float *y = checked_floats(&m, ROWS * n, NULL);
    const fill_cuda_args fill = {.share = share, .bias = checked_floats(&m, n, bias), .y = y};
    checked_line(&m, "fill_rows", 2, &fill, sizeof fill);
    for (int64_t i = 0; i < ROWS * n; i++)
        assert_true(y[i] == bias[i % n]);
    const tail_cuda_args tail = {
        .share = share, .batch = checked_place(&m, sizeof now, &now), .y = y};
    checked_line(&m, "clear_tail", 2, &tail, sizeof tail);
    for (int64_t i = 0; i < ROWS * n; i++)
        assert_true(y[i] == (i / n < now.rows ? bias[i % n] : 0));
    pool_cuda_args pool = {.share = share,
                           .cell = checked_place(&m, sizeof cell, cell),
                           .g = checked_floats(&m, ROWS / LENGTH * n + n, pooled),
                           .y = y,
                           .length = LENGTH,
                           .factor = 0.25f};
    for (int first = 0; first < 2; first++) {
        pool.first = first;
        checked_line(&m, "pool_grad", 2, &pool, sizeof pool);
        for (int64_t i = 0; i < ROWS * n; i++) {
            const int64_t at = cell[i / n];
            const bool counts = at >= 0 && (!first || at % LENGTH == 0);
            assert_true(y[i] == (counts ? 0.25f * pooled[at / LENGTH * n + i % n] : 0));
        }
    }
    free(bias);
    free(pooled);
    checked_release(&m);
}

static void rows(void **state)
{
    (void)state;
    check_rows(6);
    check_rows(64);
    check_rows(132);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dropout_is_the_hosts_stream),
        cmocka_unit_test(embeddings),
        cmocka_unit_test(embeddings_gradient),
        cmocka_unit_test(sums_of_columns),
        cmocka_unit_test(rows),
    };
    return run_on_device(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
