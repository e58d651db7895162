/* The kinds of measurement, one row each, and which pairs each of them can be made with. */
#include "study/bench.h"

#include "attention/performer/performer.h"
#include "base/status.h"
#include "kernel/registry.h"

#include <string.h>

/* What counts for whole attentions (one new token has no length), for one head alone, for the rest.
 */
enum {
    EXACT = COUNTS_B | COUNTS_H | COUNTS_T | COUNTS_D | COUNTS_DV | COUNTS_THREADS,
    WHOLE = EXACT | COUNTS_M,
    TOKEN = WHOLE & ~COUNTS_T,
    HEAD = COUNTS_T | COUNTS_D | COUNTS_DV | COUNTS_M | COUNTS_THREADS,
    STATE = HEAD & ~COUNTS_T,
    SIDE = HEAD & ~COUNTS_DV,
    MODEL = COUNTS_B | COUNTS_M | COUNTS_THREADS,
    MADE = COUNTS_D | COUNTS_DV | COUNTS_M
};

const bench_kind bench_kinds[] = {
    {"forward", NULL, "attention", 2, WHOLE, bench_attention, BENCH_FORWARD},
    {"backward", NULL, "its gradients, features made again", 2, WHOLE, bench_attention,
     BENCH_BACKWARD},
    {"forward.bf16", NULL, "attention with products of bf16, its error against float", 2, WHOLE,
     bench_attention, BENCH_BF16},
    {"causal", NULL, "causal attention", 2, WHOLE, bench_attention, BENCH_CAUSAL},
    {"causal_backward", NULL, "its gradients", 2, WHOLE, bench_attention, BENCH_CAUSAL_BACKWARD},
    {"step", NULL, "one new token a sequence", 2, TOKEN, bench_attention, BENCH_STEP},
    {"softmax", NULL, "exact attention", 0, EXACT, bench_attention, BENCH_SOFTMAX},
    {"softmax_backward", NULL, "its gradients", 0, EXACT, bench_attention, BENCH_SOFTMAX_BACKWARD},
    {"training", NULL, "a training step of --task, its memory by buffer", 2, MODEL, bench_training,
     0},
    {"compile", NULL, "generating and compiling the feature's kernels", 1, MADE, bench_compile, 0},
    {"fwd.keys", "kernels", "keys into the state", 2, HEAD, bench_kernel, BENCH_KEYS},
    {"fwd.merge", "kernels", "two states", 2, STATE, bench_kernel, BENCH_MERGE},
    {"fwd.queries", "kernels", "queries from the state", 2, HEAD, bench_kernel, BENCH_QUERIES},
    {"fwd.features", "kernels", "logs and signs", 2, SIDE, bench_kernel, BENCH_FEATURES},
    {"bwd.queries", "kernels", "gradients of queries and of the state", 2, HEAD, bench_kernel,
     BENCH_QUERIES_BWD},
    {"bwd.keys", "kernels", "gradients of keys and values", 2, HEAD, bench_kernel, BENCH_KEYS_BWD},
    {"causal.forward", "kernels", "keys and queries", 2, HEAD, bench_kernel, BENCH_CAUSAL_FORWARD},
    {"causal.queries_bwd", "kernels", "gradients of queries", 2, HEAD, bench_kernel,
     BENCH_CAUSAL_QUERIES_BWD},
    {"causal.keys_bwd", "kernels", "gradients of keys and values", 2, HEAD, bench_kernel,
     BENCH_CAUSAL_KEYS_BWD},
    {"causal.step", "kernels", "a token, key first", 2, HEAD, bench_kernel, BENCH_CAUSAL_STEP},
    {"token.keys", "kernels", "keys, of the reference's behaviour", 2, HEAD, bench_kernel,
     BENCH_OFFICIAL_KEYS},
    {"token.queries", "kernels", "queries, of the reference's behaviour", 2, HEAD, bench_kernel,
     BENCH_OFFICIAL_QUERIES},
    {"token.queries_bwd", "kernels", "gradients of queries, of the reference's behaviour", 2, HEAD,
     bench_kernel, BENCH_OFFICIAL_QUERIES_BWD},
    {"token.keys_bwd", "kernels", "gradients of keys and values, likewise", 2, HEAD, bench_kernel,
     BENCH_OFFICIAL_KEYS_BWD},
    {"row.layernorm", "rows", "row operator", 0, COUNTS_THREADS, bench_row, 0},
    {"row.layernorm_bwd", "rows", "its gradients", 0, COUNTS_THREADS, bench_row, 1},
    {"row.gelu", "rows", "row operator", 0, COUNTS_THREADS, bench_row, 2},
    {"row.gelu_bwd", "rows", "its gradients", 0, COUNTS_THREADS, bench_row, 3},
    {"row.dropout_residual", "rows", "row operator", 0, COUNTS_THREADS, bench_row, 4},
    {"row.dropout_residual_bwd", "rows", "its gradients", 0, COUNTS_THREADS, bench_row, 5},
    {"row.relu", "rows", "row operator", 0, COUNTS_THREADS, bench_row, 6},
    {"row.relu_bwd", "rows", "its gradients", 0, COUNTS_THREADS, bench_row, 7},
    {"row.cross_entropy", "rows", "row operator", 0, COUNTS_THREADS, bench_row, 8},
    {"row.cross_entropy_bwd", "rows", "its gradients", 0, COUNTS_THREADS, bench_row, 9},
    {"row.adamw", "rows", "row operator", 0, COUNTS_THREADS, bench_row, 10},
    {NULL, NULL, NULL, 0, 0, NULL, 0},
};

enum { KINDS = sizeof bench_kinds / sizeof bench_kinds[0] };

spectra_status bench_unknown(const char *name)
{
    const char *names[KINDS];
    int n = 0;
    for (const bench_kind *k = bench_kinds; k->name; k++)
        names[n++] = k->name;
    const char *near = nearest_name(name, names, n);
    return fail(SPECTRA_ENOTFOUND, "unknown kind '%s'%s%s%s", name, near ? ", did you mean '" : "",
                near ? near : "", near ? "'?" : "; see spectraformer bench --help");
}

static bool is_causal(const bench_kind *kind)
{
    if (kind->measure == bench_kernel)
        return kind->part >= BENCH_CAUSAL_FORWARD && kind->part <= BENCH_CAUSAL_STEP;
    return kind->measure == bench_attention &&
           (kind->part == BENCH_CAUSAL || kind->part == BENCH_CAUSAL_BACKWARD ||
            kind->part == BENCH_STEP);
}

bool bench_applies(const bench_kind *kind, const feature_info *f, const matrix_info *m,
                   const char **why)
{
    if (kind->pairs == 2 && !performer_legal(f, m, why))
        return false;
    if (is_causal(kind) && f->linear != LINEAR_NONE) {
        *why = "its linear map is computed from all tokens";
        return false;
    }
    if (kind->measure == bench_attention && kind->part == BENCH_BF16 && !registry_bf16()) {
        *why = "the instructions in use have no products of bf16 (AVX512_BF16)";
        return false;
    }
    if (kind->measure == bench_kernel && kind->part >= BENCH_OFFICIAL_KEYS && !f->has_official) {
        *why = "it has no official behaviour";
        return false;
    }
    return true;
}
