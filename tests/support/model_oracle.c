#include "support/model_oracle.h"

#include "math/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64 }; /* positions, widths */

oracle oracle_new(model *m)
{
    oracle o = {.m = m};
    int64_t n = model_param_count(m);
    o.params = malloc((size_t)n * sizeof *o.params);
    for (int64_t i = 0; i < n; i++)
        o.params[i] = (double)model_params(m)[i];
    return o;
}

void oracle_free(oracle *o)
{
    free(o->params);
}

static const double *tensor(const oracle *o, const char *group, const char *name)
{
    char full[128];
    snprintf(full, sizeof full, "%s%s", group, name);
    for (int i = 0; i < model_tensor_count(o->m); i++)
        if (strcmp(model_tensor_at(o->m, i)->name, full) == 0)
            return o->params + model_tensor_at(o->m, i)->offset;
    fprintf(stderr, "no tensor %s\n", full);
    abort();
}

static void linear(const oracle *o, const char *group, const char *name, int64_t in, int64_t out,
                   const double *x, double *y)
{
    char key[96];
    snprintf(key, sizeof key, "%s.weight", name);
    const double *w = tensor(o, group, key);
    snprintf(key, sizeof key, "%s.bias", name);
    const double *b = tensor(o, group, key);
    for (int64_t i = 0; i < out; i++) {
        y[i] = b[i];
        for (int64_t j = 0; j < in; j++)
            y[i] += w[i * in + j] * x[j];
    }
}

static void norm(const oracle *o, const char *group, const char *name, int64_t E, const double *x,
                 double *y)
{
    char key[96];
    snprintf(key, sizeof key, "%s.weight", name);
    const double *w = tensor(o, group, key);
    snprintf(key, sizeof key, "%s.bias", name);
    const double *b = tensor(o, group, key);
    double mean = 0, variance = 0;
    for (int64_t e = 0; e < E; e++)
        mean += x[e] / (double)E;
    for (int64_t e = 0; e < E; e++)
        variance += (x[e] - mean) * (x[e] - mean) / (double)E;
    for (int64_t e = 0; e < E; e++)
        y[e] = (x[e] - mean) / sqrt(variance + 1e-5) * w[e] + b[e];
}

/* x *= dropout factors of row `cell` of the padded grid. */
static void drop(const oracle *o, rng_use use, int64_t layer, int64_t cell, int64_t width,
                 double *x)
{
    const model_config *c = model_config_of(o->m);
    float keep[MOST * 4];
    if (!o->train || c->dropout <= 0)
        return;
    rng_stream s =
        rng_open(c->seed, use, (uint32_t)(layer | (int64_t)o->part << 12), (uint32_t)o->step);
    rng_dropout(&s, c->dropout, (uint64_t)(cell * width), width, keep);
    for (int64_t i = 0; i < width; i++)
        x[i] *= (double)keep[i];
}

typedef struct sequence {
    int64_t number; /* side * B + example */
    int64_t ids[MOST];
    bool valid[MOST];
    int64_t longest; /* most valid tokens of a sequence of the batch */
    double x[MOST][MOST];
} sequence;

static sequence sequence_of(const oracle *o, const model_batch *batch, int64_t number)
{
    const model_config *c = model_config_of(o->m);
    sequence s = {.number = number};
    int64_t side = number / batch->B, row = number % batch->B * c->length;
    for (int64_t n = 0; n < c->length; n++) {
        int64_t from = row + n - (c->cls ? 1 : 0);
        bool front = c->cls && n == 0;
        s.ids[n] = front ? c->vocab - 1 : batch->ids[side][from];
        s.valid[n] = front || (batch->mask[side] ? batch->mask[side][from] : s.ids[n] != 0);
    }
    return s;
}

static int64_t valid_count(const oracle *o, const sequence *s)
{
    int64_t count = 0;
    for (int64_t n = 0; n < model_config_of(o->m)->length; n++)
        count += s->valid[n];
    return count;
}

/* Factors of the attention's dropout: number ((s*H + h)*T + rank of i)*S8 + rank of j. */
static double prob_factor(const oracle *o, const sequence *s, int64_t layer, int64_t h, int64_t i,
                          int64_t j)
{
    const model_config *c = model_config_of(o->m);
    if (!o->train || c->attention_dropout <= 0)
        return 1;
    float keep;
    int64_t width = (s->longest + 7) / 8 * 8;
    rng_stream r = rng_open(c->seed, RNG_DROPOUT_PROB, (uint32_t)(layer | (int64_t)o->part << 12),
                            (uint32_t)o->step);
    int64_t index = ((s->number * c->heads + h) * s->longest + i) * width + j;
    rng_dropout(&r, c->attention_dropout, (uint64_t)index, 1, &keep);
    return (double)keep;
}

static void attention(const oracle *o, const sequence *s, int64_t layer, double q[][MOST],
                      double k[][MOST], double v[][MOST], double out[][MOST])
{
    const model_config *c = model_config_of(o->m);
    const int64_t d = c->head_dim;
    for (int64_t h = 0; h < c->heads; h++)
        for (int64_t i = 0, rank_i = 0; i < c->length; i++) {
            double sum = 0, *y = out[i] + h * d;
            memset(y, 0, (size_t)d * sizeof *y);
            for (int64_t j = 0, rank_j = 0; j < c->length; j++) {
                double score = 0;
                if (!s->valid[j])
                    continue;
                for (int64_t e = h * d; e < (h + 1) * d; e++)
                    score += q[i][e] * k[j][e];
                double p = exp(score / sqrt((double)d));
                double factor = s->valid[i] ? prob_factor(o, s, layer, h, rank_i, rank_j) : 1;
                sum += p;
                rank_j++;
                for (int64_t e = 0; e < d; e++)
                    y[e] += factor * p * v[j][h * d + e];
            }
            for (int64_t e = 0; e < d && sum > 0; e++)
                y[e] /= sum;
            rank_i += s->valid[i];
        }
}

static void layer_forward(const oracle *o, sequence *s, int64_t layer)
{
    const model_config *c = model_config_of(o->m);
    const int64_t E = c->embed, F = c->hidden, HD = c->heads * c->head_dim, N = c->length;
    static double q[MOST][MOST], k[MOST][MOST], v[MOST][MOST], a[MOST][MOST];
    double y[MOST], z[4 * MOST];
    char group[64];
    snprintf(group, sizeof group, "model.transformer_%lld.", (long long)layer);
    if (c->tied)
        snprintf(group, sizeof group, "model.transformer.");
    for (int64_t n = 0; n < N; n++) {
        norm(o, group, "norm1", E, s->x[n], y);
        linear(o, group, "mha.W_q", E, HD, y, q[n]);
        linear(o, group, "mha.W_k", E, HD, y, k[n]);
        linear(o, group, "mha.W_v", E, HD, y, v[n]);
    }
    attention(o, s, layer, q, k, v, a);
    for (int64_t n = 0; n < N; n++) {
        int64_t cell = s->number * N + n;
        linear(o, group, "mha.ff", HD, E, a[n], y);
        drop(o, RNG_DROPOUT_ATTN, layer, cell, E, y);
        for (int64_t e = 0; e < E; e++)
            s->x[n][e] += y[e];
        norm(o, group, "norm2", E, s->x[n], y);
        linear(o, group, "mlpblock.0", E, F, y, z);
        for (int64_t f = 0; f < F; f++)
            z[f] = z[f] / 2 * (1 + erf(z[f] / sqrt(2.0)));
        drop(o, RNG_DROPOUT_GELU, layer, cell, F, z);
        linear(o, group, "mlpblock.3", F, E, z, y);
        drop(o, RNG_DROPOUT_MLP, layer, cell, E, y);
        for (int64_t e = 0; e < E; e++)
            s->x[n][e] += y[e];
    }
}

static void pooled(const oracle *o, sequence *s, double *out)
{
    const model_config *c = model_config_of(o->m);
    const int64_t E = c->embed, N = c->length;
    const double *tokens = tensor(o, "model.embeddings.", "word_embeddings.weight");
    const double *positions = tensor(o, "model.embeddings.", "position_embeddings.weight");
    double z[MOST];
    for (int64_t n = 0; n < N; n++) {
        for (int64_t e = 0; e < E; e++)
            s->x[n][e] = tokens[s->ids[n] * E + e] + positions[n * E + e];
        drop(o, RNG_DROPOUT_EMBED, 0, s->number * N + n, E, s->x[n]);
    }
    for (int64_t l = 0; l < c->layers; l++)
        layer_forward(o, s, l);
    memset(out, 0, (size_t)E * sizeof *out);
    for (int64_t n = 0; n < (c->cls ? 1 : N); n++) {
        norm(o, "model.", "norm", E, s->x[n], z);
        for (int64_t e = 0; e < E && s->valid[n]; e++)
            out[e] += c->cls ? z[e] : z[e] / (double)N;
    }
}

double oracle_loss(const oracle *o, const model_batch *batch, double *scores)
{
    const model_config *c = model_config_of(o->m);
    const int64_t E = c->embed, F = c->hidden, C = c->classes;
    int64_t longest = 0, sides = c->dual ? 2 : 1;
    double loss = 0, h[MOST], y[MOST];
    for (int64_t i = 0; i < sides * batch->B; i++) {
        sequence s = sequence_of(o, batch, i);
        int64_t n = valid_count(o, &s);
        longest = n > longest ? n : longest;
    }
    for (int64_t b = 0; b < batch->B; b++) {
        double in[4 * MOST];
        for (int64_t side = 0; side < sides; side++) {
            sequence s = sequence_of(o, batch, side * batch->B + b);
            s.longest = longest;
            pooled(o, &s, in + side * E);
        }
        for (int64_t e = 0; e < E && c->dual; e++) {
            in[2 * E + e] = in[e] * in[E + e];
            in[3 * E + e] = in[e] - in[E + e];
        }
        linear(o, "seq_classifer.", "mlpblock.0", (c->dual ? 4 : 1) * E, F, in, h);
        for (int64_t f = 0; f < F; f++)
            h[f] = h[f] > 0 ? h[f] : 0;
        linear(o, "seq_classifer.", "mlpblock.2", F, C, h, y);
        double sum = 0;
        for (int64_t i = 0; i < C; i++)
            sum += exp(y[i]);
        loss += (log(sum) - y[batch->label[b]]) / (double)batch->B;
        if (scores)
            memcpy(scores + b * C, y, (size_t)C * sizeof *y);
    }
    return loss;
}
