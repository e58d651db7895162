#include "model/optim.h"

#include "kernel/registry.h"

#include <assert.h>
#include <math.h>
#include <string.h>

void schedule_at(const schedule *s, int64_t step, double *lr, double *beta1)
{
    double first = s->max_lr / s->div, last = first / s->final_div;
    double swing = s->beta1_high - s->beta1_low;
    int64_t e = s->warmup - 1;
    if (step <= e || s->total - 1 <= e) {
        double r = e > 0 && step < e ? (double)step / (double)e : 1;
        *lr = first + (s->max_lr - first) * r;
        *beta1 = s->beta1_high - swing * r;
        return;
    }
    double r = (double)(step - e) / (double)(s->total - 1 - e);
    *lr = s->max_lr + (last - s->max_lr) * r;
    *beta1 = s->beta1_low + swing * r;
}

/* The factors as the kernel will see them, so that a constant gradient is corrected exactly. */
static void adamw_constants(const adamw *o, int64_t t, double lr, double beta1, float c[ROW_MAX])
{
    const float b1 = (float)beta1, b2 = (float)o->beta2;
    const float all[] = {(float)lr,
                         b1,
                         b2,
                         (float)o->eps,
                         (float)o->weight_decay,
                         (float)(1 - pow((double)b1, (double)t)),
                         (float)sqrt(1 - pow((double)b2, (double)t)),
                         (float)o->clip};
    static_assert(sizeof all == ROW_MAX * sizeof *c, "as many as the spec has");
    memcpy(c, all, sizeof all);
}

const optimiser_kind optimiser_adamw = {"adamw", {"adamw.m", "adamw.v"}, adamw_constants};

row_args optimiser_args(const optimiser_kind *kind, int64_t rows, int64_t n, float *params,
                        const float *g, float *const slot[OPTIMISER_SLOTS], const float c[ROW_MAX])
{
    row_args a = {
        .rows = rows, .n = n, .in = {params, g}, .ld_in = {n, n}, .out = {params}, .ld_out = {n}};
    for (int i = 0; i < OPTIMISER_SLOTS && kind->slot[i]; i++) {
        a.in[2 + i] = a.out[1 + i] = slot[i];
        a.ld_in[2 + i] = a.ld_out[1 + i] = n;
    }
    memcpy(a.c, c, sizeof a.c);
    return a;
}

void adamw_update(const adamw *o, int64_t t, double lr, double beta1, float *params, const float *g)
{
    enum { BLOCK = 8192 };
    const row_op *op = NULL;
    spectra_status found = registry_row(optimiser_adamw.spec, &op);
    assert(found == SPECTRA_OK); /* part of every build */
    (void)found;
    float c[ROW_MAX];
    optimiser_adamw.constants(o, t, lr, beta1, c);
    int64_t blocks = (o->n + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t i = b * BLOCK, n = o->n - i < BLOCK ? o->n - i : BLOCK;
        float *const slot[] = {o->m + i, o->v + i};
        const row_args a = optimiser_args(&optimiser_adamw, 1, n, params + i, g + i, slot, c);
        op->fwd(&a);
    }
}
