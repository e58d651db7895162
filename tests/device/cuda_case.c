#include "device/cuda_case.h"

#include "base/bf16.h"
#include "support/attend.h"
#include "support/oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const cuda_kernels[CUDA_KERNELS] = {"attn_keys",           "attn_queries",
                                                "attn_queries_bwd",    "attn_keys_bwd",
                                                "attn_causal",         "attn_causal_queries_bwd",
                                                "attn_causal_keys_bwd"};

bool cuda_case_runs(const cuda_case *c, int kernel)
{
    if (!(c->flags & CASE_CAUSAL))
        return kernel < CUDA_CAUSAL;
    return kernel >= CUDA_CAUSAL || (kernel == CUDA_KEYS && c->k_splits > 1);
}

int cuda_case_queries_bwd(const cuda_case *c)
{
    return c->flags & CASE_CAUSAL ? CUDA_CAUSAL_QUERIES_BWD : CUDA_QUERIES_BWD;
}

int cuda_case_keys_bwd(const cuda_case *c)
{
    return c->flags & CASE_CAUSAL ? CUDA_CAUSAL_KEYS_BWD : CUDA_KEYS_BWD;
}

static void check(const cuda_problem *p, spectra_status status)
{
    if (status == SPECTRA_OK)
        return;
    fprintf(stderr, "%s: %s\n", p->c.name, spectra_message());
    exit(2);
}

/* ---- inputs ---------------------------------------------------------------------------------- */

/* n normal numbers of standard deviation s, as the kernel gets them and as floats. */
static void *draw(const cuda_problem *p, oracle_rng *r, int64_t n, double s, float **cpu)
{
    float *x = *cpu = attend_floats(n);
    void *out = attend_alloc(n * p->element);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)(s * oracle_normal(r));
        if (p->element == 2) {
            const uint16_t half = bf16_from_float(x[i]);
            x[i] = bf16_to_float(half);
            memcpy((uint16_t *)out + i, &half, 2);
        } else {
            memcpy((float *)out + i, x + i, 4);
        }
    }
    return out;
}

void cuda_strides(const cuda_problem *p, int64_t rows, int64_t width, int64_t stride[3])
{
    const int64_t H = p->c.H;
    if (p->c.flags & CASE_PACKED)
        stride[0] = 0, stride[1] = width, stride[2] = H * width;
    else if (p->c.flags & CASE_STRIDED)
        stride[0] = rows * H * width, stride[1] = width, stride[2] = H * width;
    else
        stride[0] = H * rows * width, stride[1] = rows * width, stride[2] = width;
}

static spectra_rows view(const cuda_problem *p, float *data, int64_t rows, int64_t width)
{
    int64_t s[3];
    cuda_strides(p, rows, width, s);
    return (spectra_rows){data, s[0], s[1], s[2]};
}

/* Lengths n, n - 3, n - 6 ... of at least 1, one behind the other. */
static int64_t pack(int64_t B, int64_t n, int64_t **begin, int64_t **len)
{
    int64_t at = 0;
    *begin = attend_alloc(B * 8), *len = attend_alloc(B * 8);
    for (int64_t b = 0; b < B; b++) {
        (*begin)[b] = at;
        (*len)[b] = n > 3 * b ? n - 3 * b : 1;
        at += (*len)[b];
    }
    return at;
}

static void draw_mask(cuda_problem *p, oracle_rng *r)
{
    p->mask = attend_alloc(p->k_rows);
    for (int64_t i = 0; i < p->k_rows; i++)
        p->mask[i] = oracle_uniform(r) > 0.33;
    if (p->c.B < 2)
        return;
    const int64_t from = p->k_begin ? p->k_begin[1] : p->c.S, n = p->k_len ? p->k_len[1] : p->c.S;
    memset(p->mask + from, 0, (size_t)n);
}

/* ---- the attention --------------------------------------------------------------------------- */

static void open_attention(cuda_problem *p)
{
    const cuda_case *c = &p->c;
    char feat[64];
    snprintf(feat, sizeof feat, "%s", c->feat);
    char *plus = strchr(feat, '+');
    if (plus)
        *plus = 0;
    spectra_attention_desc d = {.attn = "performer",
                                .feat = feat,
                                .kernel = c->matrix,
                                .H = c->H,
                                .D = c->D,
                                .DV = c->DV,
                                .M = c->M,
                                .seed = 7};
    d.target = c->flags & CASE_GAUSSIAN ? SPECTRA_GAUSSIAN : SPECTRA_SOFTMAX;
    d.antithetic = plus != NULL;
    d.causal = (c->flags & CASE_CAUSAL) != 0;
    d.learn = c->flags & CASE_LEARN && strncmp(feat, "gerf", 5) == 0;
    check(p, spectra_attention_new(&d, &p->att));
    if (!(c->flags & CASE_NEGATIVE))
        return;
    float *weight = attend_floats(c->M);
    for (int64_t r = 0; r < c->M; r++)
        weight[r] = r % 5 == 3 ? -0.5F : 1 + (float)(r % 7) / 4;
    check(p, spectra_attention_set(p->att, "row_weight", weight, 1, &c->M));
    free(weight);
}

/* Rows `begin`.. of head h, n of them, times the scale of the attention. */
static void gather(const cuda_problem *p, const float *x, int64_t rows, int64_t b,
                   const int64_t *begin, int64_t n, float *out)
{
    int64_t s[3], D = p->c.D;
    cuda_strides(p, rows, D, s);
    for (int64_t h = 0; h < p->c.H; h++)
        for (int64_t t = 0; t < n; t++)
            for (int64_t i = 0; i < D; i++) {
                const int64_t row = begin ? (begin[b] + t) * s[2] : b * s[0] + t * s[2];
                out[(h * n + t) * D + i] = performer_of(p->att)->plan.scale * x[row + h * s[1] + i];
            }
}

/* A head's parameters, dense, and its count matrix, from the block the CPU's driver prepares. */
static void take_block(cuda_problem *p, const float *block, int64_t head)
{
    const int64_t D = p->c.D, M = p->c.M, DP = performer_of(p->att)->plan.DP,
                  MP = performer_of(p->att)->plan.MP;
    const feature_info *f = performer_of(p->att)->feature;
    attn_plan plan;
    attn_params a;
    performer_view(performer_of(p->att), block, &plan, &a);
    float *to = p->param + head * p->params;
    for (int i = 0; i < f->scalars; i++)
        *to++ = a.s[i];
    for (int i = 0; i < f->vectors; i++)
        for (int64_t d = 0; d < D; d++)
            *to++ = a.v[i * DP + d];
    for (int64_t i = 0; i < (f->linear != LINEAR_NONE ? 4 * D : 0); i++)
        for (int64_t d = 0; d < D; d++)
            *to++ = a.linear[(i / D * DP + i % D) * DP + d];
    for (int64_t r = 0; r < M && p->counts; r++) {
        p->counts[(head * 2 + 0) * M + r] = plan.count_sums[r];
        p->counts[(head * 2 + 1) * M + r] = plan.count_sums[MP + r];
        p->w2[head * M + r] = plan.w2[r];
        memcpy(p->w + (head * M + r) * D, plan.w + r * DP, (size_t)D * sizeof(float));
    }
}

static void take_parameters(cuda_problem *p)
{
    const cuda_case *c = &p->c;
    const int64_t size = performer_block_floats(performer_of(p->att)), M = c->M, D = c->D;
    const feature_info *f = performer_of(p->att)->feature;
    float *blocks = attend_floats(c->H * size);
    p->params = f->scalars + f->vectors * D + (f->linear != LINEAR_NONE ? 4 * D * D : 0);
    p->param = attend_floats(p->heads * p->params);
    const int64_t matrices = f->counts != COUNTS_NONE ? p->heads : 1;
    p->w = attend_floats(matrices * M * D);
    p->w2 = attend_floats(matrices * M);
    if (f->counts != COUNTS_NONE) {
        p->counts = attend_floats(matrices * 2 * M);
        p->w_stride = M * D, p->counts_stride = 2 * M;
    } else {
        memcpy(p->w, performer_of(p->att)->w, (size_t)(M * D) * sizeof *p->w);
        memcpy(p->w2, performer_of(p->att)->plan.w2, (size_t)M * sizeof *p->w2);
    }
    if (performer_of(p->att)->second) {
        p->second = attend_floats(M * D);
        memcpy(p->second, performer_of(p->att)->second, (size_t)(M * D) * sizeof *p->second);
    }
    if (performer_of(p->att)->weighted) {
        p->row_weight = attend_floats(M);
        memcpy(p->row_weight, performer_of(p->att)->row_weight, (size_t)M * sizeof *p->row_weight);
    }
    for (int64_t b = 0; b < c->B; b++) {
        const int64_t T = p->q_len ? p->q_len[b] : c->T, S = p->k_len ? p->k_len[b] : c->S;
        float *x = attend_floats(c->H * T * D), *y = attend_floats(c->H * S * D);
        gather(p, p->cpu.q, c->T, b, p->q_begin, T, x);
        gather(p, p->cpu.k, c->S, b, p->k_begin, S, y);
        const uint8_t *mask = p->mask ? p->mask + (p->k_begin ? p->k_begin[b] : b * c->S) : NULL;
        check(p, performer_prepare_heads(performer_of(p->att), 1, c->H, T, S, x, y, NULL, mask,
                                         blocks));
        for (int64_t h = 0; h < c->H; h++)
            take_block(p, blocks + h * size, b * c->H + h);
        free(x), free(y);
    }
    free(blocks);
}

/* ---- what the CPU makes of it -----------------------------------------------------------------
 */

static void take_gradients(cuda_problem *p, const void *work)
{
    const int64_t M = p->c.M, D = p->c.D, DP = performer_of(p->att)->plan.DP;
    const int64_t NS = p->NS, at = NS + performer_of(p->att)->feature->vectors * DP;
    const float *params, *weights;
    int64_t stride;
    performer_gradients(performer_of(p->att), &p->problem, work, &params, &stride, &weights);
    p->cpu.dscalars = attend_floats(p->heads * NS);
    for (int64_t n = 0; n < p->heads; n++)
        memcpy(p->cpu.dscalars + n * NS, params + n * stride, (size_t)NS * sizeof(float));
    if (!performer_of(p->att)->plan.learn)
        return;
    p->cpu.dw = attend_floats(p->heads * M * D);
    p->cpu.dweight = attend_floats(p->heads * M);
    memcpy(p->cpu.dweight, weights, (size_t)(p->heads * M) * sizeof(float));
    for (int64_t i = 0; i < p->heads * M; i++)
        memcpy(p->cpu.dw + i * D, params + i / M * stride + at + i % M * DP,
               (size_t)D * sizeof(float));
}

static void run_cpu(cuda_problem *p)
{
    const cuda_case *c = &p->c;
    const int64_t Q = p->q_rows * c->H, K = p->k_rows * c->H;
    p->cpu.o = attend_floats(Q * c->DV);
    p->cpu.gq = attend_floats(Q * c->D);
    p->cpu.gk = attend_floats(K * c->D);
    p->cpu.gv = attend_floats(K * c->DV);
    const spectra_rows q = view(p, p->cpu.q, c->T, c->D), k = view(p, p->cpu.k, c->S, c->D),
                       v = view(p, p->cpu.v, c->S, c->DV), o = view(p, p->cpu.o, c->T, c->DV);
    void *saved = attend_alloc(spectra_attention_saved_bytes(p->att, &p->problem));
    void *work = attend_alloc(spectra_attention_work_bytes(p->att, &p->problem));
    check(p, spectra_attention_forward(p->att, &p->problem, q, k, v, o, saved, work));
    check(p, spectra_attention_backward(
                 p->att, &p->problem, q, k, v, o, view(p, p->cpu.go, c->T, c->DV),
                 view(p, p->cpu.gq, c->T, c->D), view(p, p->cpu.gk, c->S, c->D),
                 view(p, p->cpu.gv, c->S, c->DV), saved, work));
    if (performer_of(p->att)->training)
        take_gradients(p, work);
    free(saved);
    free(work);
}

void cuda_problem_new(const cuda_case *c, cuda_problem *p)
{
    *p = (cuda_problem){.c = *c, .element = c->flags & CASE_BF16 ? 2 : 4};
    oracle_rng r = {11};
    open_attention(p);
    const int64_t M = performer_of(p->att)->plan.MP, lanes = performer_of(p->att)->feature->lanes;
    p->heads = c->B * c->H;
    p->F = lanes * M;
    p->DV8 = (c->DV + 7) / 8 * 8;
    p->state = p->F * (2 + p->DV8);
    p->dstate = p->F * (1 + p->DV8);
    p->NS = performer_of(p->att)->feature->scalars;
    p->q_rows = c->B * c->T, p->k_rows = c->B * c->S;
    if (c->flags & CASE_PACKED) {
        p->q_rows = pack(c->B, c->T, &p->q_begin, &p->q_len);
        p->k_rows = pack(c->B, c->S, &p->k_begin, &p->k_len);
    }
    /* sums of signed features come close to 0 where inputs are large, and no digits are left */
    const double spread = performer_of(p->att)->feature->is_signed ? 0.5 : 0.8;
    p->q = draw(p, &r, p->q_rows * c->H * c->D, spread, &p->cpu.q);
    p->k = draw(p, &r, p->k_rows * c->H * c->D, spread, &p->cpu.k);
    p->v = draw(p, &r, p->k_rows * c->H * c->DV, 1, &p->cpu.v);
    p->go = draw(p, &r, p->q_rows * c->H * c->DV, 1, &p->cpu.go);
    if (c->flags & CASE_NAN)
        p->cpu.q[c->D] = ((float *)p->q)[c->D] = NAN;
    if (c->flags & CASE_MASK)
        draw_mask(p, &r);
    p->problem = (spectra_problem){.B = c->B,
                                   .T = c->T,
                                   .S = c->S,
                                   .q_begin = p->q_begin,
                                   .q_len = p->q_len,
                                   .k_begin = p->k_begin,
                                   .k_len = p->k_len,
                                   .k_mask = p->mask};
    take_parameters(p);
    run_cpu(p);
}

void cuda_problem_free(cuda_problem *p)
{
    void *all[] = {p->q_begin, p->q_len,      p->k_begin, p->k_len,  p->mask,   p->q,
                   p->k,       p->v,          p->go,      p->w,      p->second, p->w2,
                   p->counts,  p->row_weight, p->param,   p->cpu.q,  p->cpu.k,  p->cpu.v,
                   p->cpu.go,  p->cpu.o,      p->cpu.gq,  p->cpu.gk, p->cpu.gv, p->cpu.dscalars,
                   p->cpu.dw,  p->cpu.dweight};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    spectra_attention_free(p->att);
    *p = (cuda_problem){0};
}
