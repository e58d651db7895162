#include "kernel/registry.h"

#include "base/cpu.h"
#include "base/status.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static isa isa_cap = ISA_AVX512;

/* One list of levels: that of kernel.h goes into generated kernels, which know no other header. */
static_assert((int)ISA_PORTABLE == CPU_PORTABLE && (int)ISA_AVX2 == CPU_AVX2 &&
                  (int)ISA_AVX512 == CPU_AVX512 && (int)ISA_COUNT == CPU_LEVELS,
              "kernel.h and cpu.h name the same levels");

isa registry_isa(void)
{
    const isa best = (isa)cpu_best();
    return best < isa_cap ? best : isa_cap;
}

bool registry_bf16(void)
{
    const isa level = registry_isa();
    return level == ISA_PORTABLE || (level == ISA_AVX512 && cpu_has_bf16());
}

int registry_groups(const attn_row *r)
{
    return (r->fwd && r->bwd ? ATTN_ATTENTION : 0) | (r->causal ? ATTN_CAUSAL : 0) |
           (r->official ? ATTN_OFFICIAL : 0) | (r->bf16 ? ATTN_BF16 : 0);
}

const char *registry_isa_name(isa level)
{
    return cpu_level_name((cpu_level)level);
}

void registry_isa_limit(isa level)
{
    isa_cap = level;
}

const char *registry_form(const char *feat, bool antithetic, char *buf, size_t size)
{
    snprintf(buf, size, "%s%s", feat, antithetic && !strchr(feat, '+') ? "+" : "");
    return buf;
}

enum { MAX_NAMES = 64 };

static spectra_status unknown(const char *what, const char *name, const char *const *names, int n)
{
    const char *near = nearest_name(name, names, n);
    if (near)
        return fail(SPECTRA_ENOTFOUND, "unknown %s '%s', did you mean '%s'?", what, name, near);
    return fail(SPECTRA_ENOTFOUND, "unknown %s '%s' (spectraformer list shows the known ones)",
                what, name);
}

spectra_status registry_feature(const char *name, const feature_info **out)
{
    const char *names[MAX_NAMES];
    int n = 0;
    for (const feature_info *f = generated_features; f->name; f++) {
        if (strcmp(f->name, name) == 0) {
            *out = f;
            return SPECTRA_OK;
        }
        if (n < MAX_NAMES)
            names[n++] = f->name;
    }
    return unknown("component function", name, names, n);
}

spectra_status registry_matrix(const char *name, const matrix_info **out)
{
    const char *names[MAX_NAMES];
    int n = 0;
    for (const matrix_info *m = generated_matrices; m->name; m++) {
        if (strcmp(m->name, name) == 0) {
            *out = m;
            return SPECTRA_OK;
        }
        if (n < MAX_NAMES)
            names[n++] = m->name;
    }
    return unknown("weight matrix", name, names, n);
}

/* How well a row fits: 0 not at all, 1 any size, 2 made for these sizes. */
static int fit(const attn_row *r, const char *feat, const char *matrix, int64_t D, int64_t DV,
               int64_t M)
{
    if (strcmp(r->feat, feat) != 0 || (r->matrix && strcmp(r->matrix, matrix) != 0))
        return 0;
    if (r->D == 0 && r->DV == 0 && r->M == 0)
        return 1;
    return r->D == D && r->DV == DV && r->M == M ? 2 : 0;
}

const attn_row *registry_attn(const char *feat, const char *matrix, int64_t D, int64_t DV,
                              int64_t M, int groups)
{
    const attn_row *best = NULL;
    int best_fit = 0;
    isa top = registry_isa();
    for (const attn_row *r = generated_attn; r->feat; r++) {
        bool has = r->isa <= top && !(groups & ~registry_groups(r));
        int f = has ? fit(r, feat, matrix, D, DV, M) : 0;
        if (f && (!best || r->isa > best->isa || (r->isa == best->isa && f > best_fit))) {
            best = r;
            best_fit = f;
        }
    }
    return best;
}

spectra_status registry_row(const char *name, const row_op **out)
{
    const row_op *best = NULL;
    isa top = registry_isa();
    for (const row_op *r = generated_rows; r->name; r++)
        if (strcmp(r->name, name) == 0 && r->isa <= top && (!best || r->isa > best->isa))
            best = r;
    if (!best)
        return fail(SPECTRA_EUNSUPPORTED, "no row operator '%s' in this build", name);
    *out = best;
    return SPECTRA_OK;
}

const product_ops *registry_products(void)
{
    const product_ops *best = NULL;
    isa top = registry_isa();
    for (const product_row *r = generated_products; r->ops && r->isa <= top; r++)
        best = r->ops;
    return best;
}
