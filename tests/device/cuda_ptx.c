/* The attention kernels' PTX, interpreted: cuda_ptx INTERPRETER LUA FOLDER [case ...]
 *
 * Every kernel of a case is generated, compiled to PTX by NVRTC and run by the interpreter with one
 * exact buffer an argument, in three orders of threads. There must be no finding: no race, no read
 * of what nobody wrote, nothing out of bounds, every output written; and the bits must be the same
 * in every order. Results are compared with the CPU's kernels. A kernel has one struct as its
 * argument, the interpreter gives single ones: an entry of our own takes them apart and is what is
 * launched. CUDA_PTX_LONG=1 runs the longer list.
 */
#include "device/cuda_ptx.h"

#include "base/bf16.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const cuda_case cases[] = {
    /* name, feature, matrix, B, H, T, S, D, DV, M, splits of q and k, flags */
    /* sizes, layouts, splits */
    {"posrf", "posrf", "orf", 1, 2, 65, 70, 32, 32, 128, 1, 1, CASE_MASK},
    {"one", "posrf", "gaus", 1, 1, 1, 1, 8, 8, 8, 1, 1, 0},
    {"odd", "posrf", "orf", 2, 1, 33, 65, 20, 60, 100, 1, 2, CASE_MASK},
    {"unaligned", "posrf", "orf", 1, 2, 7, 9, 7, 5, 33, 1, 1, CASE_MASK},
    {"split", "posrf", "gaus", 1, 1, 130, 130, 32, 32, 64, 3, 2, CASE_GAUSSIAN},
    {"many-splits", "posrf", "gaus", 1, 1, 33, 65, 8, 8, 32, 4, 5, CASE_MASK},
    {"wide", "posrf", "orf", 1, 1, 33, 40, 64, 64, 256, 1, 1, CASE_MASK},
    {"packed", "posrf", "qmc", 3, 2, 7, 33, 16, 24, 32, 2, 2, CASE_PACKED | CASE_MASK},
    {"strided", "posrf", "sorf", 2, 2, 33, 17, 16, 16, 32, 1, 1, CASE_STRIDED | CASE_MASK},
    {"nan", "posrf", "orf", 1, 1, 20, 9, 16, 16, 32, 1, 1, CASE_NAN},
    {"value-blocks", "hrf_gaussian", "orf", 1, 1, 9, 10, 8, 72, 16, 1, 1, CASE_MASK | CASE_LONG},
    {"large", "posrf", "orf", 1, 1, 40, 70, 128, 128, 256, 1, 2, CASE_MASK | CASE_LONG},
    {"tall", "posrf", "orf", 1, 1, 17, 20, 64, 128, 1024, 1, 1, CASE_LONG},
    {"ragged", "trigrf", "orf", 2, 3, 130, 257, 60, 20, 100, 2, 3,
     CASE_MASK | CASE_STRIDED | CASE_LONG},
    {"packed-learn", "gerf+", "dgm", 3, 2, 33, 65, 20, 12, 33, 2, 2,
     CASE_PACKED | CASE_MASK | CASE_LEARN | CASE_LONG},
    {"bf16-packed", "cderf+", "orf", 2, 2, 17, 33, 16, 16, 32, 1, 2,
     CASE_PACKED | CASE_MASK | CASE_BF16 | CASE_LONG},
    /* features */
    {"posrf+", "posrf+", "orf", 1, 1, 33, 40, 16, 24, 48, 1, 2, CASE_MASK},
    {"trigrf", "trigrf", "orf", 1, 1, 33, 40, 32, 32, 96, 1, 2, CASE_MASK},
    {"gerf", "gerf", "orf", 1, 1, 33, 40, 16, 16, 32, 1, 1, CASE_MASK},
    {"gerf_complex", "gerf_complex", "orf", 1, 1, 33, 40, 16, 16, 32, 1, 1, CASE_MASK},
    {"oprf", "oprf", "mm", 1, 1, 33, 40, 16, 16, 32, 2, 2, CASE_MASK | CASE_GAUSSIAN},
    {"saderf", "saderf", "qmc", 1, 2, 33, 40, 20, 16, 48, 1, 1, CASE_MASK},
    {"saderf+", "saderf+", "qmc", 1, 1, 33, 40, 16, 24, 48, 1, 1, CASE_MASK},
    {"sderf", "sderf", "orf", 1, 2, 33, 65, 8, 8, 32, 1, 1, CASE_MASK},
    {"aderf", "aderf", "orf", 1, 1, 33, 40, 20, 16, 32, 1, 1, CASE_MASK},
    {"aderf+", "aderf+", "orf", 1, 1, 17, 20, 8, 16, 32, 1, 1, CASE_MASK},
    {"cderf", "cderf", "orf", 1, 1, 33, 40, 8, 8, 32, 1, 1, CASE_MASK},
    {"hrf", "hrf", "orf", 1, 1, 33, 40, 16, 32, 32, 1, 2, CASE_MASK},
    {"hrf-wide", "hrf", "orf", 1, 1, 17, 20, 32, 64, 40, 1, 1, CASE_MASK},
    {"hrf_gaussian", "hrf_gaussian", "orf", 1, 1, 17, 20, 16, 16, 16, 1, 1, CASE_MASK},
    {"poisrf", "poisrf", "orf", 2, 2, 17, 20, 16, 16, 32, 1, 1, CASE_MASK},
    {"poisrf_plus", "poisrf_plus", "orf", 1, 2, 17, 20, 16, 16, 32, 1, 1, CASE_MASK},
    {"geomrf", "geomrf", "orf", 1, 2, 17, 20, 16, 16, 32, 1, 1, CASE_MASK},
    {"geomrf_plus", "geomrf_plus", "orf", 1, 2, 17, 20, 16, 16, 32, 1, 1, CASE_MASK},
    /* row weights */
    {"ssr", "posrf", "ssr", 1, 1, 33, 40, 16, 16, 34, 1, 2, CASE_MASK},
    {"negative", "posrf", "sgq", 1, 1, 33, 40, 16, 16, 32, 2, 1, CASE_NEGATIVE},
    {"negative-trig", "trigrf", "orf", 1, 1, 33, 40, 16, 16, 32, 1, 1, CASE_NEGATIVE},
    /* other types and products */
    {"fast", "posrf", "orf", 1, 1, 33, 40, 32, 32, 64, 1, 1, CASE_MASK | CASE_FAST},
    {"fast-trig", "trigrf", "orf", 1, 1, 33, 40, 16, 16, 32, 1, 1, CASE_FAST},
    {"bf16", "posrf", "orf", 1, 1, 33, 40, 32, 32, 64, 1, 1, CASE_MASK | CASE_BF16},
    {"bf16-odd", "saderf", "orf", 1, 2, 17, 20, 20, 12, 33, 1, 1,
     CASE_MASK | CASE_BF16 | CASE_STRIDED},
    {"bf16-fast", "posrf", "orf", 1, 1, 33, 40, 32, 32, 64, 1, 1, CASE_BF16 | CASE_FAST},
    /* gradients of parameters */
    {"learn", "posrf", "dgm", 1, 2, 33, 40, 16, 16, 32, 2, 2, CASE_MASK | CASE_LEARN},
    {"learn-weights", "posrf", "gmm", 1, 1, 33, 40, 20, 12, 33, 1, 1, CASE_LEARN},
    {"learn-gerf", "gerf", "bbq", 2, 2, 17, 20, 16, 16, 32, 1, 1, CASE_MASK | CASE_LEARN},
    {"learn-saderf", "saderf", "inn", 1, 1, 17, 20, 16, 16, 32, 1, 1, CASE_LEARN},
    {"learn-trigrf", "trigrf", "fastfood_learnable", 1, 1, 17, 20, 16, 16, 32, 1, 1, CASE_LEARN},
    {"learn-sderf", "sderf", "dgm", 1, 1, 17, 20, 8, 8, 32, 1, 1, CASE_LEARN},
    {"learn-hrf", "hrf", "dgm", 1, 1, 17, 20, 16, 16, 16, 1, 1, CASE_LEARN},
    {"learn-wide", "saderf+", "dgm", 1, 1, 17, 20, 64, 64, 256, 1, 1, CASE_LEARN},
    /* causal */
    {"causal", "posrf", "orf", 1, 1, 70, 70, 16, 16, 32, 2, 2, CASE_CAUSAL | CASE_MASK},
    {"causal-trigrf", "trigrf", "dgm", 1, 1, 70, 70, 8, 12, 16, 2, 2,
     CASE_CAUSAL | CASE_MASK | CASE_LEARN},
    {"causal-hrf", "hrf", "orf", 1, 1, 70, 70, 8, 8, 16, 2, 2, CASE_CAUSAL | CASE_MASK},
    {"causal-bf16", "gerf", "orf", 1, 2, 20, 20, 12, 20, 32, 1, 1, CASE_CAUSAL | CASE_BF16},
    {"causal-learn", "hrf", "dgm", 1, 1, 33, 33, 8, 8, 16, 1, 1,
     CASE_CAUSAL | CASE_LEARN | CASE_LONG},
};
enum { CASES = sizeof cases / sizeof cases[0] };

/* ---- comparing ------------------------------------------------------------------------------- */

/* Errors of one case, of each result, relative to the largest magnitude the CPU has, or to FLOOR
 * where all is rounding (gradients with one key are 0). */
static const double FLOOR = 5e-2;

typedef struct errors {
    double worst;
    bool finite;
} errors;

static void compare(errors *e, const char *name, int64_t n, const float *want, const float *got)
{
    double most = 0, difference = 0;
    bool same = true;
    for (int64_t i = 0; i < n; i++) {
        same = same && isfinite(want[i]) == isfinite(got[i]);
        if (!isfinite(want[i]) || !isfinite(got[i]))
            continue;
        most = fmax(most, fabs((double)want[i]));
        difference = fmax(difference, fabs((double)want[i] - (double)got[i]));
    }
    const double error = difference / fmax(most, FLOOR);
    printf("  %s %.1e%s", name, error, same ? "" : " NOT FINITE");
    e->worst = fmax(e->worst, error);
    e->finite = e->finite && same;
}

/* Rows of the kernel's type, or sums over parts (row blocks, heads, padded rows, width), as floats
 * in the layout of the CPU's. */
static float *gather(const cuda_problem *p, const void *data, const float *parts, int64_t blocks,
                     bool keys, int64_t width)
{
    const int64_t H = p->c.H, rows = keys ? p->c.S : p->c.T, all = keys ? p->k_rows : p->q_rows;
    const int64_t *begin = keys ? p->k_begin : p->q_begin, *len = keys ? p->k_len : p->q_len;
    float *out = calloc((size_t)(all * H * width), sizeof *out);
    for (int64_t i = 0; out && data && i < all * H * width; i++)
        out[i] =
            p->element == 2 ? bf16_to_float(((const uint16_t *)data)[i]) : ((const float *)data)[i];
    if (data || !out)
        return out;
    int64_t s[3];
    cuda_strides(p, rows, width, s);
    for (int64_t i = 0; i < blocks * p->heads; i++) {
        const int64_t b = i % p->heads / H, h = i % H;
        for (int64_t t = 0; t < (len ? len[b] : rows); t++)
            for (int64_t k = 0; k < width; k++)
                out[(begin ? begin[b] + t : 0) * s[2] + (begin ? 0 : b * s[0] + t * s[2]) +
                    h * s[1] + k] += parts[(i * rows + t) * width + k];
    }
    return out;
}

static void compare_rows(errors *e, const char *name, const cuda_problem *p, const float *want,
                         const void *data, const float *parts, int64_t blocks, bool keys,
                         int64_t width)
{
    float *got = gather(p, data, parts, blocks, keys, width);
    compare(e, name, (keys ? p->k_rows : p->q_rows) * p->c.H * width, want, got);
    free(got);
}

/* to (n) += parts (count, n). */
static void add_parts(float *to, int64_t n, const float *parts, int64_t count)
{
    for (int64_t i = 0; i < n * count; i++)
        to[i % n] += parts[i];
}

static void compare_parameters(errors *e, const cuda_problem *p, const ptx_results *r)
{
    const cuda_case *c = &p->c;
    const int64_t scalars = p->heads * p->NS, matrix = p->heads * c->M * c->D;
    float *ds = calloc((size_t)scalars, sizeof *ds), *dw = calloc((size_t)matrix, sizeof *dw);
    add_parts(ds, scalars, r->dscalars, c->q_splits * r->plan[cuda_case_queries_bwd(c)].row_blocks);
    add_parts(ds, scalars, r->dscalars_k, c->k_splits * r->plan[cuda_case_keys_bwd(c)].row_blocks);
    compare(e, "dscalars", scalars, p->cpu.dscalars, ds);
    add_parts(dw, matrix, r->dw, c->q_splits);
    add_parts(dw, matrix, r->dw_k, c->k_splits);
    if (p->cpu.dw)
        compare(e, "dW", matrix, p->cpu.dw, dw);
    free(ds);
    free(dw);
}

/* Gradients of the row weights, from the state and its gradient as the driver makes them. */
static void compare_weights(errors *e, const cuda_problem *p, const ptx_results *r)
{
    const int64_t M = p->c.M, MP = performer_of(p->att)->plan.MP, F = p->F, N = p->heads;
    float *got = calloc((size_t)(N * M), sizeof *got);
    if (r->dweights) { /* causal kernels add them up themselves */
        add_parts(got, N * M, r->dweights, p->c.q_splits);
        compare(e, "dweight", N * M, p->cpu.dweight, got);
        free(got);
        return;
    }
    float *dstate = calloc((size_t)(N * p->dstate), sizeof *dstate);
    add_parts(dstate, N * p->dstate, r->dpart, p->c.q_splits);
    for (int64_t n = 0; n < N; n++)
        for (int64_t f = 0; f < F; f++) {
            const float *state = r->state + n * p->state, *d = dstate + n * p->dstate;
            double sum = (double)state[F + f] * (double)d[f];
            for (int64_t i = 0; i < p->c.DV; i++)
                sum += (double)state[2 * F + f * p->DV8 + i] * (double)d[F + f * p->DV8 + i];
            if (f % MP < M)
                got[n * M + f % MP] +=
                    (float)(sum / (double)performer_of(p->att)->row_weight[f % MP]);
        }
    compare(e, "dweight", N * M, p->cpu.dweight, got);
    free(got);
    free(dstate);
}

static double tolerance(const cuda_case *c)
{
    if (c->flags & CASE_BF16) /* 8 bits of every number in and out, o rounded before backward */
        return 2e-2;
    return c->flags & CASE_FAST ? 5e-3 : 2e-5; /* 11 bits of the factors of every product */
}

static bool run_case(const ptx_tools *tools, const cuda_case *c)
{
    cuda_problem p;
    ptx_results r;
    errors e = {0, true};
    cuda_problem_new(c, &p);
    bool passed = ptx_run(tools, &p, &r);
    if (passed) {
        const int64_t qb = r.plan[cuda_case_queries_bwd(c)].row_blocks,
                      kb = r.plan[cuda_case_keys_bwd(c)].row_blocks;
        printf("%-14s", c->name);
        compare_rows(&e, "o", &p, p.cpu.o, r.o, NULL, 1, false, c->DV);
        compare_rows(&e, "gq", &p, p.cpu.gq, r.gq, r.gq_part, qb, false, c->D);
        compare_rows(&e, "gk", &p, p.cpu.gk, r.gk, r.gk_part, kb, true, c->D);
        compare_rows(&e, "gv", &p, p.cpu.gv, r.gv, r.gv_part, kb, true, c->DV);
        if (c->flags & CASE_LEARN)
            compare_parameters(&e, &p, &r);
        if (p.cpu.dweight)
            compare_weights(&e, &p, &r);
        passed = e.finite && e.worst <= tolerance(c);
        printf("  %s\n", passed ? "ok" : "FAILED");
    } else {
        printf("%-14s FAILED\n", c->name);
    }
    fflush(stdout);
    ptx_results_free(&r);
    cuda_problem_free(&p);
    return passed;
}

/* ---- which cases ----------------------------------------------------------------------------- */

static bool wanted(const char *name, bool longer, int argc, char **argv)
{
    for (int i = 4; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return argc == 4 && (!longer || getenv("CUDA_PTX_LONG"));
}

static bool case_wanted(const cuda_case *c, int argc, char **argv)
{
    return wanted(c->name, (c->flags & CASE_LONG) != 0, argc, argv);
}

/* All texts by one run of the generator. */
static bool generate(const ptx_tools *tools, const char *lua, int argc, char **argv)
{
    char command[256], path[256];
    snprintf(command, sizeof command, "%s tests/device/cuda_text.lua", lua);
    FILE *list = popen(command, "w");
    for (int i = 0; i < CASES && list; i++)
        for (int k = 0; k < CUDA_KERNELS && case_wanted(&cases[i], argc, argv); k++) {
            const cuda_case *c = &cases[i];
            const bool bwd = k == cuda_case_queries_bwd(c) || k == cuda_case_keys_bwd(c);
            if (!cuda_case_runs(c, k))
                continue;
            ptx_path(tools, c, k, ".cu", path);
            fprintf(list, "%s %s %s %d %d %d %s %s %s\n", path, c->feat, cuda_kernels[k], (int)c->D,
                    (int)c->DV, (int)c->M, c->flags & CASE_BF16 ? "bf16" : "f32",
                    c->flags & CASE_FAST ? "fast" : "float32",
                    c->flags & CASE_LEARN && bwd ? "learn" : "fixed");
        }
    return list && pclose(list) == 0;
}

/* A text's PTX into a file, for launches that come from elsewhere. */
static int compile_file(const char *from, const char *to)
{
    ptx_tools tools = {.schedules = 0};
    char *text = nvrtc_read(from), *ptx = NULL;
    if (!text || nvrtc_load(&tools.nvrtc) <= 0)
        printf("%s: %s\n", from, text ? "no libnvrtc on this machine" : "cannot be read");
    else
        ptx = ptx_compile(&tools, from, text);
    if (ptx)
        ptx_write(to, ptx, strlen(ptx));
    const int failed = !ptx;
    free(text), free(ptx);
    return failed;
}

int main(int argc, char **argv)
{
    int passed = 0, failed = 0, count = 0;
    if (argc == 4 && strcmp(argv[1], "--compile") == 0)
        return compile_file(argv[2], argv[3]);
    if (argc < 4) {
        fprintf(stderr, "usage: cuda_ptx INTERPRETER LUA FOLDER [case ...]\n"
                        "       cuda_ptx --compile TEXT.cu FILE.ptx\n");
        return 2;
    }
    ptx_tools tools = {.interpreter = argv[1], .folder = argv[3], .schedules = 3};
    for (int i = 0; i < CASES; i++)
        count += case_wanted(&cases[i], argc, argv);
    for (int i = 0; ptx_maps_names[i]; i++)
        count += wanted(ptx_maps_names[i], false, argc, argv);
    const int found = nvrtc_load(&tools.nvrtc);
    if (found == 0)
        printf("skipped: no libnvrtc on this machine, %d cases of the CUDA kernels not run\n"
               "0 passed, 0 failed, %d skipped\n",
               count, count);
    if (found <= 0)
        return found < 0;
    mkdir(tools.folder, 0777);
    if (!generate(&tools, argv[2], argc, argv)) {
        printf("the generator failed\n");
        return 1;
    }
    for (int i = 0; i < CASES; i++)
        if (case_wanted(&cases[i], argc, argv)) {
            const bool ok = run_case(&tools, &cases[i]);
            passed += ok;
            failed += !ok;
        }
    for (int i = 0; ptx_maps_names[i]; i++)
        if (wanted(ptx_maps_names[i], false, argc, argv)) {
            const bool ok = ptx_maps_run(&tools, argv[2], i);
            passed += ok;
            failed += !ok;
        }
    printf("%d passed, %d failed\n", passed, failed);
    return failed || !passed;
}
