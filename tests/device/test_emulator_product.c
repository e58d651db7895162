/* A product of matrices as tensor cores do it, tiles copied asynchronously into two buffers by
 * turns: the pattern of the attention kernels, small enough to be counted by hand. */
#include "device/emulated.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 128, COLUMNS = 64, K = 96, SHARED = 2 * (64 * 36 + 32 * 40) * 4 };

static float A[ROWS * K] __attribute__((aligned(16))), B[K * COLUMNS] __attribute__((aligned(16)));
static float C[ROWS * COLUMNS] __attribute__((aligned(16)));

typedef struct product_args {
    const float *a, *b;
    float *c;
    int64_t columns, k;
} product_args;

/* A block of four warps makes 64 rows and 32 columns, a warp 16 rows. Rows of tiles are 36 and 40
 * numbers apart, so that the 32 numbers of a fragment lie in different banks. */
static const char text[] =
    "typedef struct product_args {\n"
    "    const float *a, *b;\n"
    "    float *c;\n"
    "    int64_t columns, k;\n"
    "} product_args;\n"
    "enum { TILE = 32, LDA = 36, LDB = 40, TILE_A = 64 * LDA, BUFFER = TILE_A + TILE * LDB };\n"
    "DEVICE void load_tiles(const product_args *p, int64_t k, float *to)\n"
    "{\n"
    "    for (int i = THREAD; i < 64 * TILE / 4; i += THREADS)\n"
    "        async_copy16(to + i / 8 * LDA + i % 8 * 4,\n"
    "                     p->a + (64 * BLOCK_Y + i / 8) * p->k + k + i % 8 * 4);\n"
    "    for (int i = THREAD; i < TILE * TILE / 4; i += THREADS)\n"
    "        async_copy16(to + TILE_A + i / 8 * LDB + i % 8 * 4,\n"
    "                     p->b + (k + i / 8) * p->columns + TILE * BLOCK + i % 8 * 4);\n"
    "}\n"
    "KERNEL(product, product_args, 128, 1)\n"
    "{\n"
    "    SHARED_MEMORY(memory);\n"
    "    float *tiles = (float *)memory, acc[4][4] = {{0}};\n"
    "    const int g = THREAD % 32 / 4, t = THREAD % 4, warp = THREAD / 32;\n"
    "    load_tiles(&args, 0, tiles);\n"
    "    async_commit();\n"
    "    for (int64_t k = 0; k < args.k; k += TILE) {\n"
    "        const float *at = tiles + k / TILE % 2 * BUFFER, *bt = at + TILE_A;\n"
    "        if (k + TILE < args.k)\n"
    "            load_tiles(&args, k + TILE, tiles + (k / TILE + 1) % 2 * BUFFER);\n"
    "        async_commit();\n"
    "        async_wait(1);\n"
    "        FIRST;\n"
    "        UNROLL\n"
    "        for (int i = 0; i < TILE; i += 8) {\n"
    "            float a[4], b[2];\n"
    "            UNROLL\n"
    "            for (int r = 0; r < 4; r++)\n"
    "                a[r] = to_tf32(shared_load(at + (16 * warp + g + 8 * (r & 1)) * LDA + i + t "
    "+\n"
    "                                           4 * (r >> 1)));\n"
    "            UNROLL\n"
    "            for (int n = 0; n < 4; n++) {\n"
    "                UNROLL\n"
    "                for (int r = 0; r < 2; r++)\n"
    "                    b[r] = to_tf32(shared_load(bt + (i + t + 4 * r) * LDB + 8 * n + g));\n"
    "                mma_tf32(acc[n], a, b);\n"
    "            }\n"
    "        }\n"
    "        SECOND;\n"
    "    }\n"
    "    UNROLL\n"
    "    for (int n = 0; n < 4; n++)\n"
    "        UNROLL\n"
    "        for (int i = 0; i < 4; i++)\n"
    "            global_store(args.c + (64 * BLOCK_Y + 16 * warp + g + 8 * (i >> 1)) * "
    "args.columns +\n"
    "                             TILE * BLOCK + 8 * n + 2 * t + (i & 1), acc[n][i]);\n"
    "}\n";

static const emulator_kernel *product(const char *first, const char *second)
{
    static char all[8192];
    snprintf(all, sizeof all, "#define FIRST %s\n#define SECOND %s\n#line 1 \"product.cu\"\n%s",
             first, second, text);
    return emulated_small("product.cu", all, "product");
}

static spectra_status launch(const emulator_kernel *k, const emulator_options *options)
{
    const product_args args = {A, B, C, COLUMNS, K};
    const device_grid grid = {{COLUMNS / 32, ROWS / 64, 1}, 128, 1, SHARED};
    for (int i = 0; i < ROWS * K; i++)
        A[i] = (float)sin(i * 0.7);
    for (int i = 0; i < K * COLUMNS; i++)
        B[i] = (float)cos(i * 1.3);
    for (int i = 0; i < ROWS * COLUMNS; i++)
        C[i] = NAN;
    return emulator_launch(k, &grid, &args, sizeof args, options);
}

static void it_is_the_product(void **state)
{
    (void)state;
    static float first[ROWS * COLUMNS];
    for (int order = 0; order < 4; order++) {
        const emulator_range ranges[] = {{A, sizeof A}, {B, sizeof B}, {C, sizeof C}};
        const emulator_options options = {.order =
                                              order < 2 ? (emulator_order)order : EMULATOR_RANDOM,
                                          .seed = (uint64_t)order,
                                          .check_races = true,
                                          .allocations = ranges,
                                          .allocation_count = 3};
        ok(launch(product("block_sync()", "block_sync()"), &options));
        if (order == 0)
            memcpy(first, C, sizeof C);
        assert_memory_equal(first, C, sizeof C);
    }
    for (int i = 0; i < ROWS; i++) {
        for (int j = 0; j < COLUMNS; j++) {
            double want = 0;
            for (int k = 0; k < K; k++)
                want += (double)A[i * K + k] * (double)B[k * COLUMNS + j];
            assert_true(fabs((double)C[i * COLUMNS + j] - want) < K * ldexp(1, -11));
        }
    }
}

static void both_barriers_are_needed(void **state)
{
    (void)state;
    const emulator_options races = {.check_races = true};
    emulated_fails(launch(product("", "block_sync()"), &races),
                   (const char *const[]){"kernel product", "async_copy16 (product.cu:",
                                         "shared_load (product.cu:", NULL});
    emulated_fails(
        launch(product("block_sync()", ""), &races),
        (const char *const[]){"async_copy16 (product.cu:", "shared_load (product.cu:", NULL});
}

static void it_moves_what_it_must(void **state)
{
    (void)state;
    enum { BLOCKS = 4, WARPS = 4, TILES = K / 32 };
    emulator_counters c = {0};
    const emulator_options options = {.counters = &c};
    ok(launch(product("block_sync()", "block_sync()"), &options));
    const int64_t copies = BLOCKS * TILES * (64 + 32) * 32 / 4;
    assert_int_equal(c.mma, BLOCKS * WARPS * TILES * 4 * 4);
    assert_int_equal(c.global_load_bytes, 16 * copies);
    assert_int_equal(c.global_wide, copies);
    assert_int_equal(c.global_store_bytes, sizeof C);
    assert_int_equal(c.global_narrow, ROWS * COLUMNS);
    /* stores touch 8 rows of 8 numbers in two goes, so each piece twice */
    assert_int_equal(c.global_sectors, 16 * copies / 32 + 2 * (int64_t)sizeof C / 32);
    assert_int_equal(c.shared_accesses, copies / 32 + BLOCKS * WARPS * TILES * 4 * (4 + 4 * 2));
    assert_int_equal(c.shared_conflicts, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_the_product),
        cmocka_unit_test(both_barriers_are_needed),
        cmocka_unit_test(it_moves_what_it_must),
    };
    return run_on_device(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
