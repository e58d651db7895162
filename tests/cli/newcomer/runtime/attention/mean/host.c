/* The mean of the valid values on the CPU, and the kind's row. */
#include "attention/mean/mean.h"
#include "base/status.h"

#include <stdlib.h>

static const setting mean_settings[] = {
    {"scale", SETTING_REAL, offsetof(mean_options, scale), 0, 100,
     .doc = "what the mean is multiplied by", .initial = "1"},
};

static spectra_status mean_init(spectra_attention *att, const void *options)
{
    mean_options *own = malloc(sizeof *own);
    if (!own)
        return fail(SPECTRA_ENOMEM, "mean: out of memory");
    *own = *(const mean_options *)options;
    att->own = own;
    return SPECTRA_OK;
}

static void mean_release(spectra_attention *att)
{
    free(att->own);
}

/* Nothing is kept between the passes. */
static int64_t mean_bytes(const spectra_attention *att, const spectra_problem *p)
{
    (void)att, (void)p;
    return 0;
}

/* One head: its rows of queries and keys. */
typedef struct mean_head {
    int64_t b, h, T, S;
    const uint8_t *mask;
    float share; /* what each valid value counts for; 0 where there is none */
} mean_head;

static mean_head open_head(const spectra_attention *att, const spectra_problem *p, int64_t n)
{
    const mean_options *own = att->own;
    mean_head x = {.b = n / att->desc.H, .h = n % att->desc.H};
    int64_t valid = 0;
    x.T = rows_length(p->q_len, x.b, p->T);
    x.S = rows_length(p->k_len, x.b, p->S);
    x.mask = p->k_mask ? p->k_mask + rows_first(p->k_begin, x.b, p->S) : NULL;
    for (int64_t j = 0; j < x.S; j++)
        valid += !x.mask || x.mask[j];
    x.share = valid > 0 ? (float)own->scale / (float)valid : 0;
    return x;
}

static float *row(const spectra_rows *x, const int64_t *begin, const mean_head *n, int64_t t)
{
    return x->data + rows_at(x, begin, n->b, n->h) + t * x->stride_t;
}

static spectra_status mean_forward(const spectra_attention *att, const spectra_problem *p,
                                   const attention_views *x, void *saved, void *work)
{
    (void)saved, (void)work;
#pragma omp parallel for
    for (int64_t n = 0; n < p->B * att->desc.H; n++) {
        const mean_head head = open_head(att, p, n);
        for (int64_t c = 0; c < att->desc.DV; c++) {
            float sum = 0;
            for (int64_t j = 0; j < head.S; j++)
                if (!head.mask || head.mask[j])
                    sum += row(&x->v, p->k_begin, &head, j)[c];
            for (int64_t i = 0; i < head.T; i++)
                row(&x->o, p->q_begin, &head, i)[c] = sum * head.share;
        }
    }
    return SPECTRA_OK;
}

static spectra_status mean_backward(const spectra_attention *att, const spectra_problem *p,
                                    const attention_views *x, void *saved, void *work)
{
    (void)saved, (void)work;
#pragma omp parallel for
    for (int64_t n = 0; n < p->B * att->desc.H; n++) {
        const mean_head head = open_head(att, p, n);
        for (int64_t c = 0; c < att->desc.D; c++) {
            for (int64_t i = 0; i < head.T; i++)
                row(&x->gq, p->q_begin, &head, i)[c] = 0;
            for (int64_t j = 0; j < head.S; j++)
                row(&x->gk, p->k_begin, &head, j)[c] = 0;
        }
        for (int64_t c = 0; c < att->desc.DV; c++) {
            float sum = 0;
            for (int64_t i = 0; i < head.T; i++)
                sum += row(&x->go, p->q_begin, &head, i)[c];
            for (int64_t j = 0; j < head.S; j++)
                row(&x->gv, p->k_begin, &head, j)[c] =
                    !head.mask || head.mask[j] ? sum * head.share : 0;
        }
    }
    return SPECTRA_OK;
}

const attention_kind attention_mean = {
    .name = "mean",
    .doc = "the mean of the valid values",
    .settings = mean_settings,
    .settings_count = sizeof mean_settings / sizeof mean_settings[0],
    .init = mean_init,
    .release = mean_release,
    .saved_bytes = mean_bytes,
    .work_bytes = mean_bytes,
    .forward = mean_forward,
    .backward = mean_backward,
    .device = &mean_device_ops,
};
