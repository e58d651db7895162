/* The emulator on small kernels: what threads do together gives the right numbers, what a kernel
 * does wrong is named with its line, and what is counted is what was counted by hand.
 */
#include "device/emulated.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 4096 };
static float in[COUNT] __attribute__((aligned(64))), out[COUNT] __attribute__((aligned(64)));

typedef struct small_args {
    const float *in;
    float *out;
    int64_t n;
} small_args;

static const char types[] =
    "typedef struct small_args { const float *in; float *out; int64_t n; } small_args;";

static const emulator_kernel *small(const char *text, const char *kernel)
{
    static char all[8192];
    snprintf(all, sizeof all, "%s\n#line 1 \"small.cu\"\n%s", types, text);
    return emulated_small("small.cu", all, kernel);
}

static void reset(void)
{
    for (int i = 0; i < COUNT; i++) {
        in[i] = (float)sin(i * 1.7 + 0.3);
        out[i] = NAN;
    }
}

static spectra_status launch(const emulator_kernel *k, int64_t blocks, int threads, int64_t shared,
                             int64_t n, const emulator_options *options)
{
    const small_args args = {in, out, n};
    const device_grid grid = {{blocks, 1, 1}, threads, 1, shared};
    return emulator_launch(k, &grid, &args, sizeof args, options);
}

#define FAILS(status, ...) emulated_fails(status, (const char *const[]){__VA_ARGS__, NULL})

/* ---- together ---------------------------------------------------------------------------------
 */

static const char reduction[] =
    "KERNEL(reduce, small_args, 256, 1)\n"                                       /* 1 */
    "{\n"                                                                        /* 2 */
    "    SHARED_MEMORY(memory);\n"                                               /* 3 */
    "    float *part = (float *)memory;\n"                                       /* 4 */
    "    float x = warp_sum(global_load(args.in + BLOCK * THREADS + THREAD));\n" /* 5 */
    "    if (THREAD % 32 == 0)\n"                                                /* 6 */
    "        shared_store(part + THREAD / 32, x);\n"                             /* 7 */
    "    BARRIER;\n"                                                             /* 8 */
    "    float total = 0;\n"                                                     /* 9 */
    "    for (int i = 0; i < THREADS / 32; i++)\n"                               /* 10 */
    "        total += shared_load(part + i);\n"                                  /* 11 */
    "    global_store(args.out + BLOCK * THREADS + THREAD, total);\n"            /* 12 */
    "}\n";

static const emulator_kernel *reduction_with(const char *barrier)
{
    static char text[4096];
    snprintf(text, sizeof text, "#define BARRIER %s\n#line 1 \"small.cu\"\n%s", barrier, reduction);
    return small(text, "reduce");
}

static void every_order_reduces(void **state)
{
    (void)state;
    static float first[COUNT];
    const emulator_kernel *k = reduction_with("block_sync()");
    for (int order = 0; order < 6; order++) {
        const emulator_options options = {.order =
                                              order < 2 ? (emulator_order)order : EMULATOR_RANDOM,
                                          .seed = (uint64_t)order,
                                          .check_races = true};
        reset();
        ok(launch(k, 16, 256, 32, 0, &options));
        for (int b = 0; b < 16; b++) {
            double want = 0;
            for (int i = 0; i < 256; i++)
                want += (double)in[256 * b + i];
            for (int i = 0; i < 256; i++)
                assert_true(fabs((double)out[256 * b + i] - want) < 1e-5);
        }
        if (order == 0)
            memcpy(first, out, sizeof out);
        assert_memory_equal(first, out, sizeof out);
    }
}

static void a_missing_barrier_is_seen(void **state)
{
    (void)state;
    const emulator_kernel *k = reduction_with("");
    static float results[2][COUNT];
    for (int order = 0; order < 2; order++) {
        const emulator_options options = {.order = (emulator_order)order};
        reset();
        ok(launch(k, 1, 256, 32, 0, &options));
        memcpy(results[order], out, sizeof out);
    }
    assert_memory_not_equal(results[0], results[1], sizeof out);
    assert_true(isnan(results[0][0])); /* the poison of parts not written yet */
    const emulator_options races = {.check_races = true};
    FAILS(launch(k, 1, 256, 32, 0, &races), "kernel reduce, block (0, 0, 0), thread ", "small.cu:7",
          "small.cu:11", "no barrier between");
}

static void warps_exchange(void **state)
{
    (void)state;
    const emulator_kernel *k = small("KERNEL(exchange, small_args, 64, 1)\n"
                                     "{\n"
                                     "    float x = args.in[THREAD];\n"
                                     "    for (int i = 1; i < 32; i++)\n"
                                     "        x = x * 0.5f + warp_shuffle_xor(x, i);\n"
                                     "    const int some = warp_any(THREAD == 40);\n"
                                     "    warp_sync();\n"
                                     "    args.out[THREAD] = x;\n"
                                     "    args.out[64 + THREAD] = some;\n"
                                     "}\n",
                                     "exchange");
    reset();
    ok(launch(k, 1, 64, 0, 0, NULL));
    float x[64], y[64];
    memcpy(x, in, sizeof x);
    for (int i = 1; i < 32; i++) {
        for (int t = 0; t < 64; t++)
            y[t] = x[t] * 0.5f + x[t ^ i];
        memcpy(x, y, sizeof x);
    }
    assert_memory_equal(x, out, sizeof x);
    for (int t = 0; t < 64; t++)
        assert_true(out[64 + t] == (float)(t >= 32));
}

/* Shared memory of a warp's own: warp_sync is enough, and needed. */
static void warps_share_memory(void **state)
{
    (void)state;
#define NEIGHBOUR(name, sync)                                       \
    small("KERNEL(" name ", small_args, 64, 1)\n"                   \
          "{\n"                                                     \
          "    SHARED_MEMORY(memory);\n"                            \
          "    float *x = (float *)memory;\n"                       \
          "    shared_store(x + THREAD, 1);\n" sync                 \
          "    args.out[THREAD] = shared_load(x + (THREAD ^ 1));\n" \
          "}\n",                                                    \
          name)
    const emulator_options races = {.check_races = true};
    reset();
    ok(launch(NEIGHBOUR("ordered", "    warp_sync();\n"), 1, 64, 256, 0, &races));
    FAILS(launch(NEIGHBOUR("unordered", ""), 1, 64, 256, 0, &races), "shared_load (small.cu:6)",
          "shared_store (small.cu:5)", "no barrier between");
#undef NEIGHBOUR
}

/* Bits a tensor core does not read are set in the inputs. */
static void products_of_fragments(void **state)
{
    (void)state;
    const emulator_kernel *k =
        small("KERNEL(product, small_args, 32, 1)\n"
              "{\n"
              "    const float *A = args.in, *B = A + 128, *C = B + 64;\n"
              "    const int g = THREAD / 4, t = THREAD % 4;\n"
              "    float a[4], b[2], c[4];\n"
              "    for (int r = 0; r < 4; r++)\n"
              "        a[r] = A[(g + 8 * (r & 1)) * 8 + t + 4 * (r >> 1)];\n"
              "    for (int r = 0; r < 2; r++)\n"
              "        b[r] = B[(t + 4 * r) * 8 + g];\n"
              "    for (int i = 0; i < 4; i++)\n"
              "        c[i] = C[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)];\n"
              "    mma_tf32(c, a, b);\n"
              "    for (int i = 0; i < 4; i++)\n"
              "        args.out[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = c[i];\n"
              "    args.out[128 + THREAD] = to_tf32(args.in[THREAD]);\n"
              "}\n",
              "product");
    reset();
    ok(launch(k, 1, 32, 0, 0, NULL));
    double a[128], b[64];
    for (int i = 0; i < 192; i++) {
        uint32_t bits;
        float x = in[i];
        memcpy(&bits, &x, 4);
        bits &= 0xffffe000U;
        memcpy(&x, &bits, 4);
        *(i < 128 ? &a[i] : &b[i - 128]) = (double)x;
    }
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 8; j++) {
            double want = (double)in[192 + i * 8 + j];
            for (int l = 0; l < 8; l++)
                want += a[i * 8 + l] * b[l * 8 + j];
            assert_true(out[i * 8 + j] == (float)want);
        }
    }
    for (int i = 0; i < 32; i++) {
        const double x = (double)in[i], y = (double)out[128 + i];
        assert_true(fabs(x - y) <= ldexp(fabs(x), -11));
        assert_true(ldexp(y, 11 - ilogb(y)) == rint(ldexp(y, 11 - ilogb(y))));
    }
}

static const char copying[] = "KERNEL(copies, small_args, 32, 1)\n"                     /* 1 */
                              "{\n"                                                     /* 2 */
                              "    SHARED_MEMORY(memory);\n"                            /* 3 */
                              "    float *x = (float *)memory;\n"                       /* 4 */
                              "    for (int i = 0; i < 2; i++) {\n"                     /* 5 */
                              "        async_copy16(x + 128 * i + 4 * THREAD,\n"        /* 6 */
                              "                     args.in + 128 * i + 4 * THREAD);\n" /* 7 */
                              "        async_commit();\n"                               /* 8 */
                              "    }\n"                                                 /* 9 */
                              "    if (args.n < 2)\n"                                   /* 10 */
                              "        async_wait((int)args.n);\n"                      /* 11 */
                              "    block_sync();\n"                                     /* 12 */
                              "    for (int i = THREAD; i < 256; i += 32)\n"            /* 13 */
                              "        args.out[i] = shared_load(x + i);\n"             /* 14 */
                              "}\n";

/* n: groups that may still be on their way; 2: no wait at all. */
static void copies_come_when_waited_for(void **state)
{
    (void)state;
    const emulator_kernel *k = small(copying, "copies");
    for (int n = 0; n < 3; n++) {
        reset();
        ok(launch(k, 1, 32, 1024, n, NULL));
        for (int i = 0; i < 256; i++) {
            if (i / 128 < 2 - n)
                assert_true(out[i] == in[i]);
            else
                assert_true(isnan(out[i]));
        }
        const emulator_options races = {.check_races = true};
        if (n)
            FAILS(launch(k, 1, 32, 1024, n, &races), "small.cu:14", "still copies to",
                  "async_copy16 (small.cu:");
        else
            ok(launch(k, 1, 32, 1024, n, &races));
    }
}

static void clusters_add(void **state)
{
    (void)state;
    const emulator_kernel *k =
        small("KERNEL(clusters, small_args, 64, 1)\n"
              "{\n"
              "    SHARED_MEMORY(memory);\n"
              "    float *x = (float *)memory, total = 0;\n"
              "    shared_store(x + THREAD, args.in[BLOCK * THREADS + THREAD]);\n"
              "    if (args.n)\n"
              "        cluster_sync();\n"
              "    for (int rank = 0; rank < 4; rank++)\n"
              "        total += cluster_load(x + THREAD, rank);\n"
              "    args.out[BLOCK * THREADS + THREAD] = total + 100 * cluster_rank();\n"
              "    cluster_sync();\n"
              "}\n",
              "clusters");
    small_args args = {in, out, 1};
    const device_grid grid = {{16, 1, 1}, 64, 4, 256};
    const emulator_options races = {.check_races = true, .order = EMULATOR_RANDOM};
    reset();
    ok(emulator_launch(k, &grid, &args, sizeof args, &races));
    for (int i = 0; i < 16 * 64; i++) {
        const int first = i / 256 * 256 + i % 64;
        const float want = in[first] + in[first + 64] + in[first + 128] + in[first + 192];
        assert_true(out[i] == want + 100.0F * (float)(i / 64 % 4));
    }
    args.n = 0;
    FAILS(emulator_launch(k, &grid, &args, sizeof args, &races), "cluster_load (small.cu:9)",
          "shared_store (small.cu:5)", "no barrier between");
}

/* Launches after each other need memory as they like: of one block, of more, of more than that. */
static void watched_memory_grows_by_block(void **state)
{
    (void)state;
    const emulator_kernel *k = small("KERNEL(fill, small_args, 64, 1)\n"
                                     "{\n"
                                     "    SHARED_MEMORY(memory);\n"
                                     "    float *x = (float *)memory;\n"
                                     "    for (int i = THREAD; i < (int)args.n; i += THREADS)\n"
                                     "        shared_store(x + i, 1.0F);\n"
                                     "    cluster_sync();\n"
                                     "}\n",
                                     "fill");
    static const struct {
        int cluster, floats;
    } launches[] = {{1, 40000}, {4, 64}, {4, 30000}, {2, 64}, {4, 40000}};
    const emulator_options races = {.check_races = true};
    for (size_t i = 0; i < sizeof launches / sizeof launches[0]; i++) {
        const small_args args = {in, out, launches[i].floats};
        const device_grid grid = {
            {launches[i].cluster, 1, 1}, 64, launches[i].cluster, 4 * launches[i].floats};
        ok(emulator_launch(k, &grid, &args, sizeof args, &races));
    }
}

/* ---- wrong ------------------------------------------------------------------------------------
 */

static void barriers_not_all_reach(void **state)
{
    (void)state;
    const emulator_kernel *k = small("KERNEL(barriers, small_args, 64, 1)\n" /* 1 */
                                     "{\n"                                   /* 2 */
                                     "    if (args.n == 0) {\n"              /* 3 */
                                     "        if (THREAD < 40)\n"            /* 4 */
                                     "            block_sync();\n"           /* 5 */
                                     "    } else if (args.n == 1) {\n"       /* 6 */
                                     "        if (THREAD < 40)\n"            /* 7 */
                                     "            block_sync();\n"           /* 8 */
                                     "        else\n"                        /* 9 */
                                     "            block_sync();\n"           /* 10 */
                                     "    } else {\n"                        /* 11 */
                                     "        if (THREAD < 40)\n"            /* 12 */
                                     "            block_sync();\n"           /* 13 */
                                     "        warp_sync();\n"                /* 14 */
                                     "        block_sync();\n"               /* 15 */
                                     "    }\n"                               /* 16 */
                                     "}\n",
                                     "barriers");
    FAILS(launch(k, 2, 64, 0, 0, NULL), "kernel barriers, block (",
          "thread 0 waits at block_sync (", "small.cu:5", "thread 40 has ended");
    FAILS(launch(k, 1, 64, 0, 1, NULL), "thread 40", "block_sync (small.cu:10)",
          "others of its block wait at block_sync (small.cu:8)");
    FAILS(launch(k, 1, 64, 0, 2, NULL), "thread 0 waits at block_sync (small.cu:13)",
          "thread 40 at warp_sync (small.cu:14)");
}

static void warps_that_part(void **state)
{
    (void)state;
    const emulator_kernel *k = small("KERNEL(parts, small_args, 64, 1)\n"         /* 1 */
                                     "{\n"                                        /* 2 */
                                     "    float x = 1;\n"                         /* 3 */
                                     "    if (args.n == 0 && THREAD % 32 < 20)\n" /* 4 */
                                     "        x = warp_shuffle_xor(x, 1);\n"      /* 5 */
                                     "    if (args.n == 1) {\n"                   /* 6 */
                                     "        if (THREAD % 2)\n"                  /* 7 */
                                     "            x = warp_sum(x);\n"             /* 8 */
                                     "        else\n"                             /* 9 */
                                     "            x = warp_sum(x + 1);\n"         /* 10 */
                                     "    }\n"                                    /* 11 */
                                     "    if (args.n == 2)\n"                     /* 12 */
                                     "        x = warp_shuffle_xor(x, 32);\n"     /* 13 */
                                     "    args.out[THREAD] = x;\n"                /* 14 */
                                     "}\n",
                                     "parts");
    FAILS(launch(k, 1, 64, 0, 0, NULL), "thread 0 waits at warp_shuffle_xor (small.cu:5)",
          "thread 20 has ended");
    FAILS(launch(k, 1, 64, 0, 1, NULL), "thread 1: is at warp_sum (small.cu:8)",
          "others of its warp wait at warp_sum (small.cu:10)");
    FAILS(launch(k, 1, 64, 0, 2, NULL), "lane ^ 32", "small.cu:13");
    FAILS(launch(k, 1, 48, 0, 1, NULL), "thread ", "warp_sum");
    ok(launch(k, 1, 64, 0, 3, NULL)); /* and nothing is left of the failures */
}

/* AddressSanitizer ends the process: in one of its own. */
static bool dies(const emulator_kernel *k, int64_t n)
{
    const emulator_options alone = {.os_threads = 1};
    int code = 0;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(0);
        (void)launch(k, 1, 64, 252, n, &alone);
        _exit(0);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &code, 0), child);
    return code != 0;
}

static void accesses_outside(void **state)
{
    (void)state;
    const emulator_kernel *k =
        small("KERNEL(outside, small_args, 64, 1)\n"                      /* 1 */
              "{\n"                                                       /* 2 */
              "    SHARED_MEMORY(memory);\n"                              /* 3 */
              "    float *x = (float *)memory;\n"                         /* 4 */
              "    if (args.n == 0)\n"                                    /* 5 */
              "        shared_store(x + THREAD, 1);\n"                    /* 6 */
              "    if (args.n == 1)\n"                                    /* 7 */
              "        args.out[0] = shared_load4(x + THREAD).x;\n"       /* 8 */
              "    if (args.n == 2)\n"                                    /* 9 */
              "        args.out[0] = global_load4(args.in + THREAD).x;\n" /* 10 */
              "    if (args.n == 3)\n"                                    /* 11 */
              "        global_store(args.out + 64 * THREAD, 1);\n"        /* 12 */
              "    if (args.n == 4)\n"                                    /* 13 */
              "        async_copy16(x + THREAD, args.in);\n"              /* 14 */
              "    if (args.n == 5 && THREAD == 63)\n"                    /* 15 */
              "        x[63] = 1;\n"                                      /* 16 */
              "}\n",
              "outside");
    const emulator_range ranges[] = {{out, 60 * 64 * 4}, {in, sizeof in}};
    const emulator_options options = {.allocations = ranges, .allocation_count = 2};
    FAILS(launch(k, 1, 64, 252, 0, NULL), "thread 63",
          "shared_store (small.cu:6) writes 4 bytes at 252", "which has 252");
    FAILS(launch(k, 1, 64, 256, 1, NULL), "thread 1:", "shared_load4 (small.cu:8) reads 16 bytes",
          "no multiple of 16");
    FAILS(launch(k, 1, 64, 256, 2, NULL), "thread 1:", "global_load4 (small.cu:10)",
          "no multiple of 16");
    FAILS(launch(k, 1, 64, 256, 3, &options), "thread 60:", "global_store (small.cu:12) writes",
          "15360 bytes into one of 15360");
    FAILS(launch(k, 1, 64, 256, 4, NULL), "thread 1:", "async_copy16 (small.cu:14)",
          "no multiple of 16");
    if (EMULATOR_ASAN)
        assert_true(dies(k, 5) && !dies(k, 6));
    else
        FAILS(launch(k, 1, 64, 252, 5, NULL), "byte 25",
              "shared memory was written, which has 252");
}

static void grids_not_allowed(void **state)
{
    (void)state;
    const emulator_kernel *k = reduction_with("block_sync()");
    const small_args args = {in, out, 0};
    const device_grid odd = {{6, 1, 1}, 64, 4, 32}, flat = {{0, 1, 1}, 64, 1, 32};
    FAILS(launch(k, 1, 257, 32, 0, NULL), "257 threads a block, allowed are 1 to 256");
    FAILS(launch(k, 1, 256, 1 << 20, 0, NULL), "1048576 bytes of shared memory");
    FAILS(emulator_launch(k, &odd, &args, sizeof args, NULL),
          "6 blocks along x are no clusters of 4");
    FAILS(emulator_launch(k, &flat, &args, sizeof args, NULL), "0 blocks along x");
    FAILS(emulator_launch(k, &flat, &args, 8, NULL), "arguments of 8 bytes, it takes 24");
}

static void objects_come_from_the_cache(void **state)
{
    (void)state;
    static const char text[] = "float twice(float x) { return 2 * x; }\n";
    const emulator_kernel *none;
    void *object;
    assert_int_equal(emulator_compile("bad.cu", "\nint f(void) { return wrong; }\n", &object),
                     SPECTRA_EFORMAT);
    assert_non_null(strstr(spectra_message(), "bad.cu:2:"));
    ok(emulator_compile("good.cu", text, &object));
    assert_int_equal(emulator_load(object, "nothing", &none), SPECTRA_ENOTFOUND);
    configure_compiler(JIT_AUTO, "no-such-compiler");
    ok(emulator_compile("good.cu", text, &object));
    assert_int_equal(emulator_compile("new.cu", text, &object), SPECTRA_EUNSUPPORTED);
    assert_non_null(strstr(spectra_message(), "new.cu has to be compiled, and there is no C"));
    configure(JIT_NEVER);
    assert_int_equal(emulator_compile("good.cu", text, &object), SPECTRA_EUNSUPPORTED);
    assert_non_null(strstr(spectra_message(), "SPECTRA_JIT=never"));
    configure(JIT_AUTO);
}

/* ---- counted ----------------------------------------------------------------------------------
 */

static const char strides[] =
    "KERNEL(strides, small_args, 64, 1)\n"
    "{\n"
    "    SHARED_MEMORY(memory);\n"
    "    float *x = (float *)memory;\n"
    "    const int lane = THREAD % 32;\n"
    "    float sum = 0;\n"
    "    if (args.n > 0) {\n"
    "        for (int i = 0; i < 3; i++)\n"
    "            sum += shared_load(x + lane * args.n);\n"
    "    } else if (args.n == 0) {\n"
    "        sum = shared_load4(x + 4 * lane).x + shared_load2(x + 2 * lane).x;\n"
    "    } else if (args.n == -1) {\n"
    "        sum = shared_load4(x + 32 * lane).x;\n"
    "    } else {\n"
    "        const float4 y = global_load4(args.in + 4 * THREAD);\n"
    "        if (lane == 0)\n"
    "            shared_store(x, y.x);\n"
    "        async_copy16(x + 4 * lane, args.in + 8 * lane);\n"
    "        float c[4] = {0}, a[4] = {0}, b[2] = {0};\n"
    "        mma_tf32(c, a, b);\n"
    "        sum = c[0] + global_load(args.in + 8 * lane);\n"
    "    }\n"
    "    global_store(args.out + THREAD, sum);\n"
    "}\n";

static emulator_counters count(int64_t n)
{
    emulator_counters c = {0};
    const emulator_options options = {.counters = &c};
    ok(launch(small(strides, "strides"), 2, 64, 16384, n, &options));
    return c;
}

/* Two blocks of two warps each. */
static void counts_are_those_by_hand(void **state)
{
    (void)state;
    reset();
    emulator_counters c = count(32); /* all lanes on one bank */
    assert_int_equal(c.shared_accesses, 4 * 3);
    assert_int_equal(c.shared_wavefronts, 4 * 3 * 32);
    assert_int_equal(c.shared_conflicts, 4 * 3 * 31);
    assert_int_equal(c.global_store_bytes, 2 * 64 * 4);
    assert_int_equal(c.global_narrow, 2 * 64);
    assert_int_equal(c.global_wide + c.global_load_bytes, 0);
    assert_int_equal(c.global_sectors, 4 * 4);
    c = count(33);
    assert_int_equal(c.shared_wavefronts, 4 * 3);
    assert_int_equal(c.shared_conflicts, 0);
    assert_int_equal(count(2).shared_conflicts, 4 * 3);
    assert_int_equal(count(8).shared_conflicts, 4 * 3 * 7);
    c = count(0);
    assert_int_equal(c.shared_accesses, 4 * 2);
    assert_int_equal(c.shared_wavefronts, 4 * (4 + 2));
    assert_int_equal(c.shared_conflicts, 0);
    c = count(-1);
    assert_int_equal(c.shared_wavefronts, 4 * 4 * 8);
    assert_int_equal(c.shared_conflicts, 4 * 4 * 7);
    c = count(-2);
    assert_int_equal(c.mma, 4);
    assert_int_equal(c.global_load_bytes, 2 * 64 * (16 + 16 + 4));
    assert_int_equal(c.global_wide, 2 * 64 * 2);
    assert_int_equal(c.global_narrow, 2 * 64 * 2);
    assert_int_equal(c.global_sectors, 4 * (16 + 32 + 32 + 4));
    assert_int_equal(c.shared_accesses, 4 * 2);
    assert_int_equal(c.shared_wavefronts, 4 * (1 + 4));
    assert_int_equal(c.shared_conflicts, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_order_reduces),
        cmocka_unit_test(a_missing_barrier_is_seen),
        cmocka_unit_test(warps_exchange),
        cmocka_unit_test(warps_share_memory),
        cmocka_unit_test(products_of_fragments),
        cmocka_unit_test(copies_come_when_waited_for),
        cmocka_unit_test(clusters_add),
        cmocka_unit_test(watched_memory_grows_by_block),
        cmocka_unit_test(barriers_not_all_reach),
        cmocka_unit_test(warps_that_part),
        cmocka_unit_test(accesses_outside),
        cmocka_unit_test(grids_not_allowed),
        cmocka_unit_test(objects_come_from_the_cache),
        cmocka_unit_test(counts_are_those_by_hand),
    };
    return run_on_device(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
