#include "support/checked.h"

#include "math/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void *checked_place(memory *m, int64_t bytes, const void *contents)
{
    void *p = aligned_alloc(256, ((size_t)bytes + 255) / 256 * 256);
    assert_non_null(p);
    assert_true(m->count < CHECKED_MOST);
    memset(p, 0xff, (size_t)bytes);
    if (contents)
        memcpy(p, contents, (size_t)bytes);
    m->start[m->count] = p;
    m->bytes[m->count++] = bytes;
    return p;
}

float *checked_floats(memory *m, int64_t n, const float *contents)
{
    return checked_place(m, n * (int64_t)sizeof(float), contents);
}

void checked_release(memory *m)
{
    for (int i = 0; i < m->count; i++) {
        free(m->start[i]);
        free(m->first[i]);
        free(m->result[i]);
    }
    *m = (memory){.count = 0};
}

const jit_cuda_request checked_model = {
    .kind = "model", .defines = "embed=64 hidden=128 inner=64 classes=10 aligned=true"};

static const emulator_kernel *kernel_of(const char *name)
{
    char *text = NULL;
    ok(program_text(&checked_model, "model", NULL, &text));
    const emulator_kernel *k = emulated_kernel("model", text, name);
    free(text);
    return k;
}

void checked_launch(memory *m, const char *name, const int64_t blocks[3], int64_t shared,
                    const void *args, int64_t size)
{
    static const emulator_order orders[] = {EMULATOR_ASCENDING, EMULATOR_DESCENDING,
                                            EMULATOR_RANDOM};
    const device_grid grid = {{blocks[0], blocks[1], blocks[2]}, CHECKED_THREADS, 1, shared};
    emulator_range range[CHECKED_MOST];
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
        ok(emulator_launch(kernel_of(name), &grid, args, size, &options));
        for (int i = 0; i < m->count; i++) {
            if (k == 0)
                memcpy(m->result[i], m->start[i], (size_t)m->bytes[i]);
            else
                assert_memory_equal(m->result[i], m->start[i], (size_t)m->bytes[i]);
        }
    }
}

void checked_line(memory *m, const char *name, int64_t blocks, const void *args, int64_t size)
{
    checked_launch(m, name, (const int64_t[]){blocks, 1, 1}, 0, args, size);
}

cuda_share checked_share(int64_t rows, int64_t n)
{
    cuda_share s = {.rows = rows, .n = n, .unit = n % 4 == 0 ? 4 : 1};
    while (s.shift < 5 && (int64_t)s.unit << s.shift < n)
        s.shift++;
    return s;
}

static uint64_t drawn;

static float normal(void)
{
    const rng_stream s = rng_open(31, RNG_TEST, 0, 0);
    return (float)rng_normal(&s, drawn++);
}

float *checked_normals(int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = normal();
    return x;
}

void checked_near(double got, double want, double scale)
{
    if (!(fabs(got - want) <= 2e-6 * (scale + fabs(want))))
        fail_msg("%.9g, want %.9g", got, want);
}
