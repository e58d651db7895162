#include "device/cuda_ptx.h"

#include "support/attend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- arguments: the leaves of attn_cuda_args in an order of our own ----------------------------
 */

static const ptx_pointer pointers[] = {
    {"q.data", "-ii-iii"},   {"k.data", "i--iiii"},   {"v.data", "i--iiii"},
    {"o.data", "-oi-oi-"},   {"go.data", "--i--ii"},  {"gq.data", "--o--o-"},
    {"gk.data", "---o--o"},  {"gv.data", "---o--o"},  {"q_begin", "-ii-iii"},
    {"q_len", "-ii-ii-"},    {"k_begin", "i--iiii"},  {"k_len", "i--i--i"},
    {"mask", "i--iiii"},     {"w", "iiiiiii"},        {"w_second", "iiiiiii"},
    {"w2", "iiiiiii"},       {"counts", "iiiiiii"},   {"row_weight", "-i-iiii"},
    {"params", "iiiiiii"},   {"part", "oi--iii"},     {"state", "-oii---"},
    {"dpart", "--oi-oi"},    {"den", "-oi-oii"},      {"top", "-oi-oii"},
    {"gq_part", "--o--o-"},  {"gk_part", "---o--o"},  {"gv_part", "---o--o"},
    {"dscalars", "--o--o-"}, {"dw", "--o--o-"},       {"dscalars_k", "---o--o"},
    {"dw_k", "---o--o"},     {"gden", "-----oi"},     {"refs", "-----oi"},
    {"starts", "-----oi"},   {"dweights", "-----o-"},
};
enum { POINTERS = sizeof pointers / sizeof pointers[0] };

static const char *const numbers[] = {
    "q.stride_b",
    "q.stride_h",
    "q.stride_t",
    "k.stride_b",
    "k.stride_h",
    "k.stride_t",
    "v.stride_b",
    "v.stride_h",
    "v.stride_t",
    "o.stride_b",
    "o.stride_h",
    "o.stride_t",
    "go.stride_b",
    "go.stride_h",
    "go.stride_t",
    "gq.stride_b",
    "gq.stride_h",
    "gq.stride_t",
    "gk.stride_b",
    "gk.stride_h",
    "gk.stride_t",
    "gv.stride_b",
    "gv.stride_h",
    "gv.stride_t",
    "B",
    "H",
    "T",
    "S",
    "den_rows",
    "w_stride",
    "counts_stride",
    "params_stride",
    "q_splits",
    "k_splits",
    "tiles",
};
enum { NUMBERS = sizeof numbers / sizeof numbers[0] };
static const ptx_leaves kernel_leaves = {"attn_cuda_args", pointers, POINTERS, numbers, NUMBERS};

typedef struct ptx_arguments {
    void *data[POINTERS];
    int64_t bytes[POINTERS], number[NUMBERS];
} ptx_arguments;

static int pointer_at(const char *name)
{
    for (int i = 0; i < POINTERS; i++)
        if (strcmp(pointers[i].name, name) == 0)
            return i;
    fprintf(stderr, "cuda_ptx: no argument %s\n", name);
    exit(2);
}

static void set(ptx_arguments *a, const char *name, void *data, int64_t bytes)
{
    const int i = pointer_at(name);
    a->data[i] = data;
    a->bytes[i] = data ? bytes : 0;
}

static void *output(ptx_arguments *a, const char *name, int64_t bytes)
{
    void *data = bytes > 0 ? attend_alloc(bytes) : NULL;
    set(a, name, data, bytes);
    return data;
}

static void set_inputs(const cuda_problem *p, ptx_arguments *a)
{
    const cuda_case *c = &p->c;
    const int64_t H = c->H, M = c->M, D = c->D, heads = p->w_stride ? p->heads : 1;
    set(a, "q.data", p->q, p->q_rows * H * D * p->element);
    set(a, "k.data", p->k, p->k_rows * H * D * p->element);
    set(a, "v.data", p->v, p->k_rows * H * c->DV * p->element);
    set(a, "go.data", p->go, p->q_rows * H * c->DV * p->element);
    set(a, "q_begin", p->q_begin, c->B * 8), set(a, "q_len", p->q_len, c->B * 8);
    set(a, "k_begin", p->k_begin, c->B * 8), set(a, "k_len", p->k_len, c->B * 8);
    set(a, "mask", p->mask, p->k_rows);
    set(a, "w", p->w, heads * M * D * 4);
    set(a, "w_second", p->second, M * D * 4);
    set(a, "w2", p->w2, heads * M * 4);
    set(a, "counts", p->counts, heads * 2 * M * 4);
    set(a, "row_weight", p->row_weight, M * 4);
    set(a, "params", p->param, p->heads * p->params * 4);
}

/* Tiles of tokens of a causal case's backward, else 0. */
static int64_t causal_tiles(const cuda_problem *p, const ptx_results *r)
{
    const int64_t TB = r->plan[CUDA_CAUSAL_QUERIES_BWD].TB;
    return p->c.flags & CASE_CAUSAL ? (p->c.T + TB - 1) / TB : 0;
}

static void set_outputs(const cuda_problem *p, ptx_results *r, ptx_arguments *a)
{
    const cuda_case *c = &p->c;
    const int64_t H = c->H, D = c->D, N = p->heads, q = c->q_splits, k = c->k_splits;
    const bool causal = (c->flags & CASE_CAUSAL) != 0;
    const int64_t qb = r->plan[cuda_case_queries_bwd(c)].row_blocks;
    const int64_t kb = r->plan[cuda_case_keys_bwd(c)].row_blocks, tiles = causal_tiles(p, r);
    const int64_t learn = c->flags & CASE_LEARN ? 4 : 0;
    r->o = output(a, "o.data", p->q_rows * H * c->DV * p->element);
    r->gq = output(a, "gq.data", qb == 1 ? p->q_rows * H * D * p->element : 0);
    r->gk = output(a, "gk.data", kb == 1 ? p->k_rows * H * D * p->element : 0);
    r->gv = output(a, "gv.data", kb == 1 ? p->k_rows * H * c->DV * p->element : 0);
    r->part = output(a, "part", (causal ? k - 1 : k) * N * p->state * 4);
    r->state = output(a, "state", N * p->state * 4);
    r->dpart = output(a, "dpart", q * N * p->dstate * 4);
    r->den = output(a, "den", p->q_rows * H * 4);
    r->top = output(a, "top", p->q_rows * H * 4);
    r->gq_part = output(a, "gq_part", qb > 1 ? qb * N * c->T * D * 4 : 0);
    r->gk_part = output(a, "gk_part", kb > 1 ? kb * N * c->S * D * 4 : 0);
    r->gv_part = output(a, "gv_part", kb > 1 ? kb * N * c->S * c->DV * 4 : 0);
    r->dscalars = output(a, "dscalars", q * qb * N * p->NS * learn);
    r->dscalars_k = output(a, "dscalars_k", k * kb * N * p->NS * learn);
    r->dw = output(a, "dw", q * N * c->M * D * learn);
    r->dw_k = output(a, "dw_k", k * N * c->M * D * learn);
    r->gden = output(a, "gden", causal ? p->q_rows * H * 4 : 0);
    r->refs = output(a, "refs", N * tiles * p->F * 4);
    r->starts = output(a, "starts", qb * N * tiles * 4);
    r->dweights = output(a, "dweights", causal ? q * N * c->M * learn : 0);
}

static void set_numbers(const cuda_problem *p, const ptx_results *r, ptx_arguments *a)
{
    const cuda_case *c = &p->c;
    const int64_t rows[8] = {c->T, c->S, c->S, c->T, c->T, c->T, c->S, c->S};
    const int64_t width[8] = {c->D, c->D, c->DV, c->DV, c->DV, c->D, c->D, c->DV};
    const int64_t rest[] = {c->B,
                            c->H,
                            c->T,
                            c->S,
                            p->q_rows,
                            p->w_stride,
                            p->counts_stride,
                            p->params,
                            c->q_splits,
                            c->k_splits,
                            causal_tiles(p, r)};
    for (int i = 0; i < 8; i++)
        cuda_strides(p, rows[i], width[i], a->number + 3 * i);
    memcpy(a->number + 24, rest, sizeof rest);
}

/* ---- text ------------------------------------------------------------------------------------ */

void ptx_path(const ptx_tools *tools, const cuda_case *c, int kernel, const char *ending,
              char path[256])
{
    snprintf(path, 256, "%s/%s.%s%s", tools->folder, c->name, cuda_kernels[kernel], ending);
}

int64_t ptx_constant(const char *text, const char *name)
{
    char pattern[64];
    snprintf(pattern, sizeof pattern, "\n    %s = ", name);
    const char *at = strstr(text, pattern);
    return at ? atoll(at + strlen(pattern)) : 0;
}

static cuda_plan plan_of(const char *text, const cuda_case *c)
{
    const int64_t rows = 16 * ptx_constant(text, "KW"), DV8 = (c->DV + 7) / 8 * 8;
    const int64_t M = (c->M + 15) / 16 * 16;
    cuda_plan k = {.threads = ptx_constant(text, "BLOCK_THREADS"),
                   .shared = ptx_constant(text, "SHARED_BYTES")};
    k.KW = ptx_constant(text, "KW"), k.TB = ptx_constant(text, "TB"),
    k.VB = ptx_constant(text, "VB");
    k.CHUNK = ptx_constant(text, "CHUNK"), k.LANES = ptx_constant(text, "LANES"),
    k.NP = ptx_constant(text, "NP");
    k.NS = ptx_constant(text, "NS"), k.PRODUCTS = ptx_constant(text, "PRODUCTS");
    k.LEARN = ptx_constant(text, "LEARN"), k.SECOND_OWN = ptx_constant(text, "SECOND_OWN");
    k.group = ptx_constant(text, "NG") + ptx_constant(text, "QN");
    k.row_blocks = (c->M + rows - 1) / rows;
    k.value_blocks = k.VB > 0 ? (DV8 + k.VB - 1) / k.VB : 1;
    k.chunks = k.CHUNK > 0 ? (M + k.CHUNK - 1) / k.CHUNK : 0;
    return k;
}

char *ptx_flat_text(const char *text, const ptx_leaves *leaves, const char *bounds,
                    const char *kernel)
{
    char *out = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&out, &size);
    fprintf(f, "#define RT_FLAT\n%s\nextern \"C\" __global__ void __launch_bounds__(%s) flat(",
            text, bounds);
    for (int i = 0; i < leaves->pointers; i++)
        fprintf(f, "void *p%d, ", i);
    for (int i = 0; i < leaves->numbers; i++)
        fprintf(f, "int64_t n%d, ", i);
    fprintf(f, "float scale)\n{\n    %s a = {};\n", leaves->type);
    for (int i = 0; i < leaves->pointers; i++) {
        const char *name = leaves->pointer[i].name;
        fprintf(f, "    a.%s = (decltype(a.%s))p%d;\n", name, name, i);
    }
    for (int i = 0; i < leaves->numbers; i++)
        fprintf(f, "    a.%s = n%d;\n", leaves->number[i], i);
    fprintf(f, "    a.scale = scale;\n    %s_body(a);\n}\n", kernel);
    fclose(f);
    return out;
}

void ptx_write(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, bytes, f) != bytes || fclose(f) != 0) {
        fprintf(stderr, "cuda_ptx: %s cannot be written\n", path);
        exit(2);
    }
}

/* Divisions in the text of a function. */
static int divisions(const char *text, const char *function)
{
    int n = 0;
    const char *from = strstr(text, function), *end = from ? strstr(from, "\n}") : NULL;
    for (; from && from < end; from++)
        n += strncmp(from, " / ", 3) == 0;
    return n;
}

/* How many divisions PTX may have: what is hoisted out of the features of rows and tokens, in the
 * two rows of a lane, and maps of a coordinate, with their gradients, in loops that are unrolled.
 */
static int divisions_allowed(const char *text)
{
    static const char *const hoisted[] = {" phi_uniform(", " phi_row(", " phi_token("};
    static const char *const maps[] = {" map_q(",     " map_k(",         " map2(",
                                       " token_sum(", " map_q_grad(",    " map_k_grad(",
                                       " map2_grad(", " token_sum_grad("};
    int n = 0;
    for (size_t i = 0; i < sizeof hoisted / sizeof hoisted[0]; i++)
        n += 4 * divisions(text, hoisted[i]);
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++)
        n += 32 * divisions(text, maps[i]);
    return n;
}

char *ptx_compile(const ptx_tools *tools, const char *name, const char *text)
{
    nvrtc_program *program = NULL;
    size_t size = 0;
    char *ptx = NULL;
    int code = nvrtc_build(&tools->nvrtc, name, text, "compute_80", 0, NULL, &program);
    if (code == 0)
        code = tools->nvrtc.ptx_size(program, &size);
    if (code == 0) {
        ptx = malloc(size);
        code = ptx ? tools->nvrtc.ptx(program, ptx) : 1;
    }
    if (code != 0) {
        char *log = program ? nvrtc_log(&tools->nvrtc, program) : NULL;
        printf("%s: %s\n%s\n", name, tools->nvrtc.error_text(code), log ? log : "");
        free(log);
        free(ptx);
        ptx = NULL;
    }
    if (program)
        tools->nvrtc.destroy(&program);
    return ptx;
}

/* Compiles a case's kernel to PTX beside its text. */
static bool make_ptx(const ptx_tools *tools, const cuda_case *c, int kernel, cuda_plan *plan)
{
    char path[256];
    ptx_path(tools, c, kernel, ".cu", path);
    char *text = nvrtc_read(path);
    if (!text) {
        printf("%s: cannot be read\n", path);
        return false;
    }
    *plan = plan_of(text, c);
    char *flat =
             ptx_flat_text(text, &kernel_leaves, "BLOCK_THREADS, MIN_BLOCKS", cuda_kernels[kernel]),
         *ptx = ptx_compile(tools, path, flat);
    bool passed = ptx != NULL;
    if (ptx) {
        ptx_path(tools, c, kernel, ".ptx", path);
        ptx_write(path, ptx, strlen(ptx));
        const int sides = kernel >= CUDA_CAUSAL ? 2 : 1; /* both read queries and keys */
        passed = ptx_check_text(&(ptx_case){c, plan, kernel, sides * divisions_allowed(text)}, ptx);
    }
    free(text), free(flat), free(ptx);
    return passed;
}

/* ---- launches -------------------------------------------------------------------------------- */

static void write_launch(const ptx_tools *tools, const cuda_problem *p, const ptx_results *r,
                         const ptx_arguments *a, int kernel)
{
    char path[256];
    const cuda_plan *plan = &r->plan[kernel];
    const bool keys = kernel == CUDA_KEYS || kernel == CUDA_KEYS_BWD;
    const bool last = keys && p->c.flags & CASE_CAUSAL; /* nobody needs the last one's state */
    const int64_t depth = plan->value_blocks * (kernel == CUDA_QUERIES ? 1 : plan->row_blocks);
    ptx_path(tools, &p->c, kernel, ".case", path);
    FILE *f = fopen(path, "w");
    if (!f) {
        fprintf(stderr, "cuda_ptx: %s cannot be written\n", path);
        exit(2);
    }
    fprintf(f, "kernel flat\ngrid %d %d %d\nblock %d\nshared %d\n",
            (int)(last   ? p->c.k_splits - 1
                  : keys ? p->c.k_splits
                         : p->c.q_splits),
            (int)p->heads, (int)depth, (int)plan->threads, (int)plan->shared);
    for (int i = 0; i < POINTERS; i++) {
        const char use = a->data[i] ? pointers[i].use[kernel] : '-';
        if (use == '-') {
            fprintf(f, "arg u64 0\n");
        } else if (use == 'o') {
            fprintf(f, "arg out %s %lld\n", pointers[i].name, (long long)a->bytes[i]);
        } else {
            fprintf(f, "arg in %s.%s\n", p->c.name, pointers[i].name);
            snprintf(path, sizeof path, "%s/%s.%s", tools->folder, p->c.name, pointers[i].name);
            ptx_write(path, a->data[i], (size_t)a->bytes[i]);
        }
    }
    for (int i = 0; i < NUMBERS; i++)
        fprintf(f, "arg i64 %lld\n", (long long)a->number[i]);
    fprintf(f, "arg f32 %.9g\n", (double)performer_of(p->att)->plan.scale);
    fclose(f);
}

/* The outputs of a run, read for the first time, compared bit by bit later. */
static bool take_outputs(const char *where, const cuda_problem *p, const ptx_arguments *a,
                         int kernel, int schedule)
{
    bool same = true;
    for (int i = 0; i < POINTERS; i++) {
        if (!a->data[i] || pointers[i].use[kernel] != 'o')
            continue;
        char path[320];
        snprintf(path, sizeof path, "%s/%s", where, pointers[i].name);
        FILE *f = fopen(path, "rb");
        char *data = malloc((size_t)a->bytes[i]);
        if (!f || !data || fread(data, 1, (size_t)a->bytes[i], f) != (size_t)a->bytes[i]) {
            printf("%s %s: %s was not written\n", p->c.name, cuda_kernels[kernel], path);
            same = false;
        } else if (schedule == 0) {
            memcpy(a->data[i], data, (size_t)a->bytes[i]);
        } else if (memcmp(a->data[i], data, (size_t)a->bytes[i]) != 0) {
            printf("%s %s: %s depends on the order of threads\n", p->c.name, cuda_kernels[kernel],
                   pointers[i].name);
            same = false;
        }
        if (f)
            fclose(f);
        free(data);
    }
    return same;
}

static bool launch(const ptx_tools *tools, const cuda_problem *p, const ptx_results *r,
                   const ptx_arguments *a, int kernel)
{
    static const char *const orders[] = {"asc", "rand", "desc"};
    char ptx[256], launch_file[256], where[288], command[1400];
    bool passed = true;
    write_launch(tools, p, r, a, kernel);
    ptx_path(tools, &p->c, kernel, ".ptx", ptx);
    ptx_path(tools, &p->c, kernel, ".case", launch_file);
    for (int i = 0; i < tools->schedules && passed; i++) {
        snprintf(where, sizeof where, "%s/out", tools->folder);
        mkdir(where, 0777);
        snprintf(command, sizeof command, "%s %s %s %s --stats --sched %s >%s/report 2>&1",
                 tools->interpreter, ptx, launch_file, where, orders[i], where);
        passed = system(command) == 0;
        snprintf(command, sizeof command, "%s/report", where);
        char *report = nvrtc_read(command);
        if (!passed)
            printf("%s %s, %s:\n%.2000s\n", p->c.name, cuda_kernels[kernel], orders[i],
                   report ? report : "no report");
        else if (i == 0)
            passed = report &&
                     ptx_check_counts(&(ptx_case){&p->c, &r->plan[kernel], kernel, 0}, p, report);
        free(report);
        passed = passed && take_outputs(where, p, a, kernel, i);
    }
    return passed;
}

bool ptx_run(const ptx_tools *tools, const cuda_problem *p, ptx_results *r)
{
    ptx_arguments a = {0};
    *r = (ptx_results){0};
    for (int i = 0; i < CUDA_KERNELS; i++)
        if (cuda_case_runs(&p->c, i) && !make_ptx(tools, &p->c, i, &r->plan[i]))
            return false;
    set_inputs(p, &a);
    set_outputs(p, r, &a);
    set_numbers(p, r, &a);
    for (int i = 0; i < CUDA_KERNELS; i++)
        if (cuda_case_runs(&p->c, i) && !launch(tools, p, r, &a, i))
            return false;
    return true;
}

void ptx_results_free(ptx_results *r)
{
    void *all[] = {r->o,       r->gq,      r->gk,       r->gv,     r->part,
                   r->state,   r->dpart,   r->den,      r->top,    r->gq_part,
                   r->gk_part, r->gv_part, r->dscalars, r->dw,     r->dscalars_k,
                   r->dw_k,    r->gden,    r->refs,     r->starts, r->dweights};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}
