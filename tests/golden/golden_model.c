/* Cases of kinds "model" (three training steps of the classifier) and "optimizer". */
#include "golden/golden.h"
#include "model/model.h"
#include "model/optim.h"
#include "support/attend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct training {
    schedule schedule;
    adamw optimizer;
} training;

static bool read_training(golden_result *r, const golden_case *c, training *t)
{
    const json_t *p = c->params;
    const struct {
        const char *key;
        double *to;
    } numbers[] = {
        {"max_lr", &t->schedule.max_lr},
        {"div_factor", &t->schedule.div},
        {"final_div_factor", &t->schedule.final_div},
        {"base_momentum", &t->schedule.beta1_low},
        {"max_momentum", &t->schedule.beta1_high},
        {"beta2", &t->optimizer.beta2},
        {"eps", &t->optimizer.eps},
        {"weight_decay", &t->optimizer.weight_decay},
        {"clip_value", &t->optimizer.clip},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (!golden_number(r, p, numbers[i].key, numbers[i].to))
            return false;
    return golden_integer(r, p, "total_steps", &t->schedule.total) &&
           golden_integer(r, p, "warmup_steps", &t->schedule.warmup);
}

/* Moments of the optimiser for n parameters, all zero. */
static void open_moments(adamw *o, int64_t n)
{
    o->n = n;
    o->m = attend_alloc(n * (int64_t)sizeof(float));
    o->v = attend_alloc(n * (int64_t)sizeof(float));
    memset(o->m, 0, (size_t)n * sizeof(float));
    memset(o->v, 0, (size_t)n * sizeof(float));
}

static void close_moments(adamw *o)
{
    free(o->m);
    free(o->v);
}

void golden_optimizer(const golden_case *c, golden_result *result)
{
    training t = {0};
    npy_array param = {0}, grads = {0};
    if (!read_training(result, c, &t) || !golden_read(c, result, "param", &param) ||
        !golden_read(c, result, "grad_sequence", &grads) ||
        !golden_shape(result, "param", &param, 1, (int64_t[]){-1}) ||
        !golden_shape(result, "grad_sequence", &grads, 2, (int64_t[]){-1, param.shape[0]}))
        goto done;
    const int64_t n = param.shape[0], steps = grads.shape[0];
    float *after = attend_floats(steps * n), *rates = attend_floats(steps);
    float *factors = attend_floats(steps);
    open_moments(&t.optimizer, n);
    for (int64_t s = 0; s < steps; s++) {
        double lr = NAN, beta1 = NAN;
        schedule_at(&t.schedule, s, &lr, &beta1);
        rates[s] = (float)lr;
        factors[s] = (float)beta1;
        adamw_update(&t.optimizer, s + 1, lr, beta1, param.data, (const float *)grads.data + s * n);
        memcpy(after + s * n, param.data, (size_t)n * sizeof *after);
    }
    const struct {
        const char *key;
        const float *got;
        int64_t count;
    } outputs[] = {
        {"param_after_each_step", after, steps * n},
        {"lr", rates, steps},
        {"beta1", factors, steps},
    };
    for (size_t i = 0; i < sizeof outputs / sizeof outputs[0]; i++) {
        const char *key = outputs[i].key;
        if (golden_tolerance(c, key) >= 0)
            golden_compare(c, result, key, outputs[i].got, outputs[i].count,
                           golden_tolerance(c, key), -1);
    }
    close_moments(&t.optimizer);
    free(after);
    free(rates);
    free(factors);
done:
    npy_free(&param);
    npy_free(&grads);
}

/* A model case in memory. ids and valid of each side: (steps, B, N); label (steps, B). */
typedef struct model_case {
    training training;
    model_config config;
    int64_t B, steps, parts;
    int32_t *ids[2], *label;
    uint8_t *valid[2];
    model *model;
    float *scores; /* (B, C) */
} model_case;

static void model_case_free(model_case *m)
{
    for (int side = 0; side < 2; side++) {
        free(m->ids[side]);
        free(m->valid[side]);
    }
    free(m->label);
    free(m->scores);
    close_moments(&m->training.optimizer);
    model_free(m->model);
}

static bool flag(const json_t *from, const char *key)
{
    return json_is_true(json_object_get(from, key));
}

static bool read_config(const golden_case *c, golden_result *r, model_case *m)
{
    const json_t *config = json_object_get(c->params, "config");
    model_config *to = &m->config;
    int64_t width = 0;
    const struct {
        const char *key;
        int64_t *to;
    } sizes[] = {
        {"vocab_size", &to->vocab},    {"max_seq_len", &to->length},
        {"num_classes", &to->classes}, {"embedding_dim", &to->embed},
        {"transformer_dim", &width},   {"transformer_hidden_dim", &to->hidden},
        {"num_head", &to->heads},      {"head_dim", &to->head_dim},
        {"num_layers", &to->layers},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (!golden_integer(r, config, sizes[i].key, sizes[i].to))
            return false;
    if (width != to->embed)
        return golden_stop(r, GOLDEN_UNUSABLE, "embedding and model widths differ: %lld and %lld",
                           (long long)to->embed, (long long)width);
    if (!golden_number(r, config, "dropout_prob", &to->dropout) ||
        !golden_number(r, config, "attention_dropout", &to->attention_dropout))
        return false;
    const char *pooling = json_string_value(json_object_get(config, "pooling_mode"));
    to->cls = pooling && strcmp(pooling, "CLS") == 0;
    to->tied = flag(config, "tied_weights");
    to->dual = flag(c->params, "dual");
    to->attention = (spectra_attention_desc){
        .attn = c->attn,
        .official = strcmp(c->behaviour, "official") == 0,
    };
    if (!json_object_get(config, "kernel_type"))
        return true;
    to->attention.feat = json_string_value(json_object_get(config, "kernel_type"));
    to->attention.kernel = json_string_value(json_object_get(config, "feat"));
    return golden_integer(r, config, "rp_dim", &to->attention.M);
}

/* Integers of an array of whole numbers with the given shape. */
static bool read_integers(const golden_case *c, golden_result *r, const char *key, int ndim,
                          const int64_t *shape, int32_t **out)
{
    npy_array a;
    if (!golden_read(c, r, key, &a))
        return false;
    bool ok = golden_shape(r, key, &a, ndim, shape);
    if (ok) {
        const int64_t n = npy_count(&a);
        *out = attend_alloc(n * (int64_t)sizeof **out);
        for (int64_t i = 0; i < n; i++)
            (*out)[i] = (int32_t)((const float *)a.data)[i];
    }
    npy_free(&a);
    return ok;
}

static bool read_batches(const golden_case *c, golden_result *r, model_case *m)
{
    const int64_t rows[] = {m->steps, m->B, m->config.length};
    if (!read_integers(c, r, "label", 2, rows, &m->label))
        return false;
    for (int side = 0; side <= (int)m->config.dual; side++) {
        char key[32];
        snprintf(key, sizeof key, "input_ids_%d", side);
        if (!read_integers(c, r, key, 3, rows, &m->ids[side]))
            return false;
        snprintf(key, sizeof key, "mask_%d", side);
        int32_t *mask = NULL;
        if (!golden_has(c, key))
            continue;
        if (!read_integers(c, r, key, 3, rows, &mask))
            return false;
        const int64_t n = rows[0] * rows[1] * rows[2];
        m->valid[side] = attend_alloc(n);
        for (int64_t i = 0; i < n; i++)
            m->valid[side][i] = mask[i] != 0;
        free(mask);
    }
    return true;
}

static const model_tensor *find_tensor(const model *m, const char *name)
{
    for (int i = 0; i < model_tensor_count(m); i++)
        if (strcmp(model_tensor_at(m, i)->name, name) == 0)
            return model_tensor_at(m, i);
    return NULL;
}

static int64_t tensor_count(const model_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->shape[i];
    return n;
}

/* A buffer of a layer's attention, such as "model.transformer_0.mha.attn.attn_fn.projection_matrix"
 * (tied weights: without the number). */
static bool set_buffer(golden_result *r, model_case *m, const char *name, const npy_array *x)
{
    static const char stem[] = "model.transformer";
    const char *last = strrchr(name, '.');
    if (strncmp(name, stem, sizeof stem - 1) != 0 || !strstr(name, ".attn.") || !last)
        return golden_stop(r, GOLDEN_FAILED, "the model has no tensor '%s'", name);
    int64_t layer = 0;
    if (name[sizeof stem - 1] == '_')
        layer = strtoll(name + sizeof stem, NULL, 10);
    const char *input = strcmp(last + 1, "projection_matrix") == 0 ? "W" : last + 1;
    return golden_ok(
        r, name,
        spectra_attention_set(model_attention(m->model, layer), input, x->data, x->ndim, x->shape));
}

/* Every tensor of the model gets the case's values, and every value of the case has its place. */
static bool load_weights(const golden_case *c, golden_result *r, model_case *m)
{
    for (int i = 0; i < model_tensor_count(m->model); i++) {
        char key[256];
        snprintf(key, sizeof key, "w.%s", model_tensor_at(m->model, i)->name);
        if (!golden_has(c, key))
            return golden_stop(r, GOLDEN_FAILED, "the model's tensor '%s' is not in the case",
                               key + 2);
    }
    const char *key;
    json_t *file;
    json_object_foreach(c->files, key, file)
    {
        npy_array x;
        if (strncmp(key, "w.", 2) != 0)
            continue;
        if (!golden_read(c, r, key, &x))
            return false;
        const model_tensor *t = find_tensor(m->model, key + 2);
        bool ok = t ? golden_shape(r, key, &x, t->ndim, t->shape) : set_buffer(r, m, key + 2, &x);
        if (ok && t)
            memcpy(model_params(m->model) + t->offset, x.data,
                   (size_t)tensor_count(t) * sizeof(float));
        npy_free(&x);
        if (!ok)
            return false;
    }
    return true;
}

/* Rows first .. first+B-1 of step `step`. */
static model_batch batch_of(const model_case *m, int64_t step, int64_t first, int64_t B)
{
    const int64_t row = step * m->B + first, at = row * m->config.length;
    model_batch batch = {.B = B, .label = m->label + row};
    for (int side = 0; side < 2; side++) {
        batch.ids[side] = m->ids[side] ? m->ids[side] + at : NULL;
        batch.mask[side] = m->valid[side] ? m->valid[side] + at : NULL;
    }
    return batch;
}

static double accuracy(const model_case *m, int64_t step)
{
    const int64_t C = m->config.classes;
    int64_t right = 0;
    for (int64_t b = 0; b < m->B; b++) {
        const float *s = m->scores + b * C;
        int64_t best = 0;
        for (int64_t i = 1; i < C; i++)
            if (s[i] > s[best])
                best = i;
        right += best == m->label[step * m->B + b];
    }
    return (double)right / (double)m->B;
}

/* Compares "grad.*" (from model_grads) or "after.*" (from model_params). */
static void compare_tensors(const golden_case *c, golden_result *r, const model_case *m,
                            const char *prefix, const float *from, double scale)
{
    for (int i = 0; i < model_tensor_count(m->model); i++) {
        const model_tensor *t = model_tensor_at(m->model, i);
        char key[256];
        snprintf(key, sizeof key, "%s.%s", prefix, t->name);
        if (golden_has(c, key) && golden_tolerance(c, key) >= 0)
            golden_compare(c, r, key, from + t->offset, tensor_count(t), golden_tolerance(c, key),
                           scale);
    }
}

static void compare_schedule(const golden_case *c, golden_result *r, int64_t step, double lr,
                             double beta1)
{
    const json_t *entry = json_array_get(json_object_get(c->json, "schedule"), (size_t)step);
    const struct {
        const char *key;
        double got;
    } values[] = {{"lr", lr}, {"beta1", beta1}};
    for (int i = 0; entry && i < 2; i++) {
        double want = 0;
        if (golden_number(r, entry, values[i].key, &want) &&
            !(fabs(values[i].got - want) <= 1e-9 * fabs(want)))
            golden_stop(r, GOLDEN_FAILED, "%s of step %lld is %.12g, want %.12g", values[i].key,
                        (long long)step, values[i].got, want);
    }
}

/* One training step; its mean loss and accuracy. */
static bool train_step(golden_result *r, model_case *m, int64_t step, float *loss, float *accu)
{
    const int64_t B = m->B / m->parts;
    double sum = 0;
    model_zero_grads(m->model);
    for (int64_t part = 0; part < m->parts; part++) {
        const model_batch batch = batch_of(m, step, part * B, B);
        double part_loss = NAN;
        if (!golden_ok(r, "model_step",
                       model_step(m->model, &batch, (uint64_t)step, (uint64_t)part,
                                  1.0 / (double)m->parts, m->scores + part * B * m->config.classes,
                                  &part_loss)))
            return false;
        sum += part_loss;
    }
    *loss = (float)(sum / (double)m->parts);
    *accu = (float)accuracy(m, step);
    return true;
}

static void compare_if_asked(const golden_case *c, golden_result *r, const char *key,
                             const float *got, int64_t count)
{
    if (golden_has(c, key) && golden_tolerance(c, key) >= 0)
        golden_compare(c, r, key, got, count, golden_tolerance(c, key), -1);
}

static void run_steps(const golden_case *c, golden_result *r, model_case *m)
{
    const int64_t scores = m->B * m->config.classes;
    float *loss = attend_floats(m->steps), *accu = attend_floats(m->steps);
    double gradient_scale = 0;
    bool ok = golden_number(r, c->json, "gradient_scale", &gradient_scale);
    for (int64_t s = 0; ok && s < m->steps; s++) {
        ok = train_step(r, m, s, &loss[s], &accu[s]);
        if (ok && s == 0) {
            compare_if_asked(c, r, "logits", m->scores, scores);
            compare_tensors(c, r, m, "grad", model_grads(m->model), gradient_scale);
        }
        double lr = NAN, beta1 = NAN;
        schedule_at(&m->training.schedule, s, &lr, &beta1);
        compare_schedule(c, r, s, lr, beta1);
        adamw_update(&m->training.optimizer, s + 1, lr, beta1, model_params(m->model),
                     model_grads(m->model));
    }
    const model_batch first = batch_of(m, 0, 0, m->B);
    ok = ok && golden_ok(r, "model_forward", model_forward(m->model, &first, m->scores, NULL));
    if (ok) {
        compare_if_asked(c, r, "loss", loss, m->steps);
        if (golden_has(c, "accu")) /* a count: exact but for its rounding to float */
            golden_compare(c, r, "accu", accu, m->steps, 1e-6, 1);
        compare_tensors(c, r, m, "after", model_params(m->model), 1);
        compare_if_asked(c, r, "logits_after", m->scores, scores);
    }
    free(loss);
    free(accu);
}

void golden_model(const golden_case *c, golden_result *result)
{
    const json_t *config = json_object_get(c->params, "config");
    if (!c->attn || !json_is_object(config)) {
        golden_stop(result, GOLDEN_UNUSABLE, "a model case needs 'attn' and params.config");
        return;
    }
    const spectra_attention_desc probe = {
        .attn = c->attn,
        .feat = json_string_value(json_object_get(config, "kernel_type")),
        .kernel = "gaus",
        .M = 16};
    if (!golden_known(result, &probe))
        return;
    model_case m = {0};
    bool ok = read_training(result, c, &m.training) && read_config(c, result, &m) &&
              golden_integer(result, c->params, "B", &m.B) &&
              golden_integer(result, c->params, "steps", &m.steps) &&
              golden_integer(result, c->params, "accumulation", &m.parts);
    if (ok && (m.parts < 1 || m.B < 1 || m.B % m.parts != 0))
        ok = golden_stop(result, GOLDEN_UNUSABLE, "a batch of %lld does not split in %lld parts",
                         (long long)m.B, (long long)m.parts);
    ok = ok && read_batches(c, result, &m) &&
         golden_ok(result, "model_new", model_new(&m.config, &m.model));
    if (ok) {
        open_moments(&m.training.optimizer, model_param_count(m.model));
        m.scores = attend_floats(m.B * m.config.classes);
        if (load_weights(c, result, &m))
            run_steps(c, result, &m);
    }
    model_case_free(&m);
}
