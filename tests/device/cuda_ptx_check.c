/* What PTX must and must not hold, and how often tensor cores and exponentials are used: from the
 * sizes alone, so that a kernel that does more work than its skeleton says is seen. */
#include "device/cuda_ptx.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- text ------------------------------------------------------------------------------------ */

/* Instructions that begin with `op` (at the start of a line, maybe behind a predicate). */
static int count(const char *ptx, const char *op)
{
    int n = 0;
    const size_t length = strlen(op);
    for (const char *line = ptx; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        while (*line == ' ' || *line == '\t')
            line++;
        if (*line == '@')
            while (*line && *line != '\n' && !isspace((unsigned char)*line))
                line++;
        while (*line == ' ' || *line == '\t')
            line++;
        n += strncmp(line, op, length) == 0;
    }
    return n;
}

static bool expect(const ptx_case *x, const char *what, bool ok, int64_t got, int64_t most)
{
    if (!ok)
        printf("%s %s: %s: %lld, allowed %lld\n", x->c->name, cuda_kernels[x->kernel], what,
               (long long)got, (long long)most);
    return ok;
}

static bool at_most(const ptx_case *x, const char *what, int64_t got, int64_t most)
{
    return expect(x, what, got <= most, got, most);
}

/* Lines with a type of double precision. */
static int doubles(const char *ptx)
{
    int n = 0;
    for (const char *at = ptx; (at = strstr(at, ".f64")); at += 4)
        n += 1;
    return n;
}

/* Global stores of one number: the few that are no rows of a matrix. */
static int64_t single_stores(const ptx_case *x)
{
    const cuda_plan *k = x->plan;
    const bool learn = (x->c->flags & CASE_LEARN) != 0;
    /* gradients of W by elements (unrolled up to 4 times) and of scalars */
    const int64_t parameters = learn ? 2 * (4 + 3) + k->NS + 4 : 0;
    if (x->kernel >=
        CUDA_CAUSAL) /* references, marks of tokens, dens: as many as segments, not counted */
        return 1000;
    /* rows that are no whole vectors, or parts of them: numbers */
    if (x->c->D % 4 || x->c->DV % 4 || x->c->flags & CASE_BF16 || k->row_blocks > 1)
        return 1000;
    switch (x->kernel) {
    case CUDA_KEYS: /* max and z of a lane's two rows */
        return 4 * k->LANES;
    case CUDA_QUERIES: /* den and top of two tokens; max and z of the state, in both ways to load it
                        */
        return 4 + 4;
    case CUDA_QUERIES_BWD: /* dz of two rows */
        return 2 * k->LANES + parameters;
    default:
        return parameters;
    }
}

bool ptx_check_text(const ptx_case *x, const char *ptx)
{
    static const char *const none[] = {"ld.local", "st.local", "atom.", "red.",
                                       "call",     ".local",   "ld.v",  "st.v",
                                       "ld.f32",   "st.f32",   "wmma",  "nanosleep"};
    bool ok = true;
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        ok &= at_most(x, none[i], count(ptx, none[i]), 0);
    ok &= at_most(x, ".f64", doubles(ptx), 0);
    const int mma = count(ptx, "mma.");
    ok &= expect(x, "mma of another shape",
                 mma > 0 && mma == count(ptx, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"),
                 mma, count(ptx, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"));
    ok &= at_most(x, "div.rn", count(ptx, "div.rn"), x->divisions);
    ok &= at_most(x, "st.global of one number",
                  count(ptx, "st.global.f32") + count(ptx, "st.global.u16") +
                      count(ptx, "st.global.u32") + count(ptx, "st.global.b16"),
                  single_stores(x));
    return ok;
}

/* ---- counts ---------------------------------------------------------------------------------- */

/* Tiles of tokens of all heads and splits. */
static int64_t tiles(const cuda_problem *p, bool keys, int64_t TB)
{
    const int64_t splits = keys ? p->c.k_splits : p->c.q_splits, *len = keys ? p->k_len : p->q_len;
    int64_t sum = 0;
    for (int64_t n = 0; n < p->heads; n++) {
        const int64_t T = len ? len[n / p->c.H] : keys ? p->c.S : p->c.T;
        const int64_t each = ((T + TB - 1) / TB + splits - 1) / splits * TB;
        for (int64_t i = 0; i < splits && i * each < T; i++) {
            const int64_t to = (i + 1) * each < T ? (i + 1) * each : T;
            sum += (to - i * each + TB - 1) / TB;
        }
    }
    return sum;
}

/* Products of tensor cores of a tile in all warps of a block. */
static int64_t products(const ptx_case *x)
{
    const cuda_plan *k = x->plan;
    const int64_t D8 = (x->c->D + 7) / 8, DV8 = (x->c->DV + 7) / 8, VB8 = k->VB / 8, L = k->LANES;
    const int64_t rows = 2 * k->KW, both = k->NP > 1 && !k->SECOND_OWN ? 2 : 1;
    const int64_t learn = k->LEARN ? both * D8 * k->TB / 8 * k->KW : 0;
    switch (x->kernel) {
    case CUDA_KEYS:
        return k->KW * k->TB / 8 * (k->NP * D8 + L * VB8);
    case CUDA_QUERIES:
        return k->KW * k->chunks * k->CHUNK / 8 * (k->NP * D8 + L * VB8);
    case CUDA_QUERIES_BWD:
        return k->KW * k->TB / 8 * (k->NP * D8 + 2 * L * DV8) + k->TB / 16 * D8 * rows * k->NP +
               learn;
    default:
        return k->KW * k->TB / 8 * (k->NP * D8 + L * DV8) + k->TB / 16 * D8 * rows * k->NP +
               k->TB / 16 * DV8 * rows * L + learn;
    }
}

/* Exponentials of a tile, of all threads: one a feature, and what rescaling sums takes. */
static int64_t exponentials(const ptx_case *x)
{
    const cuda_plan *k = x->plan;
    const int64_t L = k->LANES, threads = 32 * k->KW, features = threads * k->TB / 2 * L;
    if (x->kernel == CUDA_KEYS)
        return features + threads * k->TB / (8 * k->group) * 2 * L;
    if (x->kernel == CUDA_QUERIES)
        return threads * k->chunks * k->CHUNK / 8 * (4 * L) +
               threads * k->chunks * k->CHUNK / (8 * k->group) * 2;
    return features;
}

static int64_t reported(const char *report, const char *op)
{
    char pattern[32];
    snprintf(pattern, sizeof pattern, " %s\n", op);
    const char *at = strstr(report, pattern);
    if (!at)
        return 0;
    while (at > report && isdigit((unsigned char)at[-1]))
        at--;
    return atoll(at);
}

bool ptx_check_counts(const ptx_case *x, const cuda_problem *p, const char *report)
{
    const cuda_plan *k = x->plan;
    if (x->c->flags & CASE_CAUSAL)
        return true;
    const bool keys = x->kernel == CUDA_KEYS || x->kernel == CUDA_KEYS_BWD;
    const int64_t depth = k->value_blocks * (x->kernel == CUDA_QUERIES ? 1 : k->row_blocks);
    const int64_t n = tiles(p, keys, k->TB) * depth, states = k->LANES * k->CHUNK * k->chunks;
    const int64_t mma = n * products(x) * k->PRODUCTS * 32, mma_is = reported(report, "mma");
    bool ok = expect(x, "products of tensor cores", mma_is == mma, mma_is, mma);
    /* merging splits of the state takes one a part, row and four columns, a chunk as often as it is
     * loaded */
    const int64_t loads = k->chunks > 1 ? n + p->heads * depth : p->heads * p->c.q_splits * depth;
    const int64_t merge =
        x->kernel == CUDA_QUERIES ? loads * states * (k->VB / 4) * p->c.k_splits : 0;
    return at_most(x, "exponentials", reported(report, "ex2"), n * exponentials(x) + merge) && ok;
}
