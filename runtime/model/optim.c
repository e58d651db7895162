#include "model/optim.h"

#include "kernel/registry.h"

#include <assert.h>
#include <math.h>

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

void adamw_update(const adamw *o, int64_t t, double lr, double beta1, float *params, const float *g)
{
    enum { BLOCK = 8192 };
    const row_op *op = NULL;
    spectra_status found = registry_row("adamw", &op);
    assert(found == SPECTRA_OK); /* part of every build */
    (void)found;
    /* The factors as the kernel will see them, so that a constant gradient is corrected exactly. */
    const float b1 = (float)beta1, b2 = (float)o->beta2;
    const float correction1 = (float)(1 - pow((double)b1, (double)t));
    const float correction2 = (float)sqrt(1 - pow((double)b2, (double)t));
    int64_t blocks = (o->n + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t i = b * BLOCK, n = o->n - i < BLOCK ? o->n - i : BLOCK;
        row_args a = {.rows = 1,
                      .n = n,
                      .in = {params + i, g + i, o->m + i, o->v + i},
                      .ld_in = {n, n, n, n},
                      .out = {params + i, o->m + i, o->v + i},
                      .ld_out = {n, n, n},
                      .c = {(float)lr, b1, b2, (float)o->eps, (float)o->weight_decay, correction1,
                            correction2, (float)o->clip}};
        op->fwd(&a);
    }
}
