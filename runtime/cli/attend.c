#include "cli/attend.h"
#include "attention/performer/device_features.h"
#include "base/outfile.h"
#include "base/status.h"
#include "cli/cli.h"
#include "file/npy.h"
#include "kernel/registry.h"
#include "math/draw.h"
#include "matrix/recipe.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- arrays -----------------------------------------------------------------------------------
 */

/* Memory that is all freed at the end, so that every failure is a plain return. */
enum { HELD = 64 };
typedef struct held_memory {
    int count;
    void *at[HELD];
} held_memory;

static void *hold(held_memory *m, void *p)
{
    if (p)
        m->at[m->count++] = p;
    return p;
}

static void release(held_memory *m)
{
    while (m->count)
        free(m->at[--m->count]);
}

static spectra_status take_bytes(held_memory *m, int64_t bytes, void **out)
{
    size_t size = ((size_t)bytes + 127) / 64 * 64;
    *out = hold(m, aligned_alloc(64, size));
    return *out ? SPECTRA_OK
                : fail(SPECTRA_ENOMEM, "out of memory for %lld bytes", (long long)bytes);
}

static spectra_status take_floats(held_memory *m, int64_t count, float **out)
{
    void *p = NULL;
    TRY(take_bytes(m, count * (int64_t)sizeof **out, &p));
    *out = p;
    return SPECTRA_OK;
}

static spectra_status read_array(held_memory *m, const char *path, const char *option, int ndim,
                                 npy_array *out)
{
    char shape[96];
    TRY(npy_read_f32(path, out));
    hold(m, out->data);
    if (out->ndim != ndim)
        return fail(SPECTRA_ESHAPE, "--%s %s has shape %s, allowed are %d dimensions, %s", option,
                    path, npy_shape_text(out->ndim, out->shape, shape, sizeof shape), ndim,
                    ndim == 2 ? "(B, S)" : "(B, H, tokens, size)");
    for (int i = 0; i < ndim; i++)
        if (out->shape[i] < 1)
            return fail(SPECTRA_ESHAPE, "--%s %s has shape %s: nothing in it", option, path,
                        npy_shape_text(out->ndim, out->shape, shape, sizeof shape));
    return SPECTRA_OK;
}

static spectra_status need_array(const cli_args *a, held_memory *m, option_id id,
                                 const char *option, npy_array *out)
{
    const char *path = NULL;
    TRY(cli_need(a, id, &path));
    return read_array(m, path, option, 4, out);
}

/* `what` names the rule: "--k must agree with --q in batch, heads and size". */
static spectra_status same_sizes(const npy_array *x, const npy_array *y, const int *dims, int n,
                                 const char *what)
{
    char a[96], b[96];
    for (int i = 0; i < n; i++)
        if (x->shape[dims[i]] != y->shape[dims[i]])
            return fail(SPECTRA_ESHAPE, "%s: their shapes are %s and %s", what,
                        npy_shape_text(x->ndim, x->shape, a, sizeof a),
                        npy_shape_text(y->ndim, y->shape, b, sizeof b));
    return SPECTRA_OK;
}

/* *mask stays NULL without --mask. */
static spectra_status read_mask(const cli_args *a, held_memory *m, int64_t B, int64_t S,
                                uint8_t **mask)
{
    if (!a->value[OPT_MASK].given)
        return SPECTRA_OK;
    npy_array array = {.data = NULL};
    TRY(read_array(m, a->value[OPT_MASK].text, "mask", 2, &array));
    if (array.shape[0] != B || array.shape[1] != S) {
        char shape[96];
        return fail(SPECTRA_ESHAPE, "--mask %s has shape %s, allowed is (%lld, %lld)",
                    a->value[OPT_MASK].text, npy_shape_text(2, array.shape, shape, sizeof shape),
                    (long long)B, (long long)S);
    }
    void *bytes = NULL;
    TRY(take_bytes(m, B * S, &bytes));
    *mask = bytes;
    for (int64_t i = 0; i < B * S; i++)
        (*mask)[i] = ((const float *)array.data)[i] != 0;
    return SPECTRA_OK;
}

static spectra_status set_inputs(const cli_args *a, held_memory *m, spectra_attention *att)
{
    for (int i = 0; i < a->inputs; i++) {
        const char *equals = strchr(a->input[i], '=');
        if (!equals || equals == a->input[i] || !equals[1])
            return fail(SPECTRA_EINVAL, "--input is '%s', allowed is NAME=FILE.npy", a->input[i]);
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(equals - a->input[i]), a->input[i]);
        npy_array array = {.data = NULL};
        TRY(npy_read_f32(equals + 1, &array));
        hold(m, array.data);
        TRY(spectra_attention_set(att, name, array.data, array.ndim, array.shape));
    }
    return SPECTRA_OK;
}

/* The attention that the options name; its sizes are the caller's. */
typedef struct described {
    const attention_kind *kind;
    char options[ATTENTION_OPTIONS];
    spectra_attention_desc desc; /* options points to those above */
} described;

static spectra_status describe(const cli_args *a, described *out)
{
    attention_options settings;
    TRY(cli_attention(a, &out->kind));
    attention_options_start(out->kind, &settings);
    TRY(cli_attention_settings(a, out->kind, &settings));
    TRY(attention_options_text(out->kind, &settings, out->options, sizeof out->options));
    out->desc = (spectra_attention_desc){.attn = a->value[OPT_ATTN].text,
                                         .seed = (uint64_t)a->value[OPT_SEED].integer,
                                         .rng = draw_kind(a->value[OPT_RNG].text),
                                         .official = a->value[OPT_OFFICIAL].given,
                                         .causal = a->value[OPT_CAUSAL].given,
                                         .options = out->options};
    if (a->value[OPT_THREADS].given)
        omp_set_num_threads((int)a->value[OPT_THREADS].integer);
    return SPECTRA_OK;
}

/* ---- attend -----------------------------------------------------------------------------------
 */

typedef struct attend {
    const cli_args *args;
    held_memory memory;
    npy_array q, k, v, dout;
    spectra_attention *att;
    device *dev; /* NULL: the CPU */
    spectra_problem problem;
    int64_t B, H, T, S, D, DV;
} attend;

static spectra_status attend_read(attend *x)
{
    const cli_args *a = x->args;
    held_memory *m = &x->memory;
    TRY(need_array(a, m, OPT_Q, "q", &x->q));
    TRY(need_array(a, m, OPT_K, "k", &x->k));
    TRY(need_array(a, m, OPT_V, "v", &x->v));
    TRY(same_sizes(&x->q, &x->k, (const int[]){0, 1, 3}, 3,
                   "--q and --k must agree in batch, heads and size"));
    TRY(same_sizes(&x->k, &x->v, (const int[]){0, 1, 2}, 3,
                   "--k and --v must agree in batch, heads and tokens"));
    x->B = x->q.shape[0], x->H = x->q.shape[1], x->T = x->q.shape[2], x->D = x->q.shape[3];
    x->S = x->k.shape[2], x->DV = x->v.shape[3];
    uint8_t *mask = NULL;
    TRY(read_mask(a, m, x->B, x->S, &mask));
    x->problem = (spectra_problem){
        .B = x->B, .T = x->T, .S = x->S, .k_mask = mask, .q_mask = x->T == x->S ? mask : NULL};
    bool gradients = a->value[OPT_DQ].given || a->value[OPT_DK].given || a->value[OPT_DV].given;
    if (gradients != a->value[OPT_DOUT].given)
        return fail(SPECTRA_EINVAL, "--dout and at least one of --dq, --dk, --dv go together");
    if (!gradients)
        return SPECTRA_OK;
    npy_array expected = x->q;
    expected.shape[3] = x->DV;
    TRY(read_array(m, a->value[OPT_DOUT].text, "dout", 4, &x->dout));
    return same_sizes(&x->dout, &expected, (const int[]){0, 1, 2, 3}, 4,
                      "--dout must have the shape of the result");
}

static spectra_status write_array(const attend *x, option_id id, int64_t tokens, int64_t size,
                                  const float *data)
{
    const int64_t shape[] = {x->B, x->H, tokens, size};
    return x->args->value[id].given ? npy_write(x->args->value[id].text, NPY_F32, 4, shape, data)
                                    : SPECTRA_OK;
}

static spectra_status attend_on_host(const attend *x, const attend_call *c)
{
    held_memory m = {0};
    void *saved, *work;
    const spectra_problem *p = &c->problem;
    const spectra_rows q = spectra_rows_dense(x->q.data, x->H, x->T, x->D);
    const spectra_rows k = spectra_rows_dense(x->k.data, x->H, x->S, x->D);
    const spectra_rows v = spectra_rows_dense(x->v.data, x->H, x->S, x->DV);
    const spectra_rows o = spectra_rows_dense(c->o, x->H, x->T, x->DV);
    spectra_status status = take_bytes(&m, spectra_attention_saved_bytes(x->att, p), &saved);
    if (status == SPECTRA_OK)
        status = take_bytes(&m, spectra_attention_work_bytes(x->att, p), &work);
    if (status == SPECTRA_OK)
        status = spectra_attention_forward(x->att, p, q, k, v, o, saved, work);
    if (status == SPECTRA_OK && c->go)
        status = spectra_attention_backward(
            x->att, p, q, k, v, o, spectra_rows_dense(x->dout.data, x->H, x->T, x->DV),
            spectra_rows_dense(c->gq, x->H, x->T, x->D),
            spectra_rows_dense(c->gk, x->H, x->S, x->D),
            spectra_rows_dense(c->gv, x->H, x->S, x->DV), saved, work);
    release(&m);
    return status;
}

static spectra_status attend_run(attend *x)
{
    held_memory *m = &x->memory;
    const int64_t rows_q = x->B * x->H * x->T, rows_k = x->B * x->H * x->S;
    attend_call c = {.problem = x->problem,
                     .H = x->H,
                     .D = x->D,
                     .DV = x->DV,
                     .q = x->q.data,
                     .k = x->k.data,
                     .v = x->v.data,
                     .go = x->dout.data};
    TRY(take_floats(m, rows_q * x->DV, &c.o));
    if (c.go) {
        TRY(take_floats(m, rows_q * x->D, &c.gq));
        TRY(take_floats(m, rows_k * x->D, &c.gk));
        TRY(take_floats(m, rows_k * x->DV, &c.gv));
    }
    TRY(x->dev ? attend_on_device(x->dev, x->att, x->args->value[OPT_PRECISION].text, &c)
               : attend_on_host(x, &c));
    if (c.go) {
        TRY(write_array(x, OPT_DQ, x->T, x->D, c.gq));
        TRY(write_array(x, OPT_DK, x->S, x->D, c.gk));
        TRY(write_array(x, OPT_DV, x->S, x->DV, c.gv));
    }
    return write_array(x, OPT_OUT, x->T, x->DV, c.o);
}

static spectra_status attend_all(attend *x)
{
    const char *out = NULL;
    described d;
    TRY(describe(x->args, &d));
    TRY(cli_need(x->args, OPT_OUT, &out));
    TRY(cli_device(x->args, &x->dev));
    if (!x->dev && strcmp(x->args->value[OPT_PRECISION].text, "fast") == 0)
        return fail(SPECTRA_EUNSUPPORTED, "--precision fast is of devices: --device cuda or emu");
    TRY(attend_read(x));
    d.desc.H = x->H, d.desc.D = x->D, d.desc.DV = x->DV;
    d.desc.bf16 = !x->dev && strcmp(x->args->value[OPT_PRECISION].text, "bf16") == 0;
    TRY(spectra_attention_new(&d.desc, &x->att));
    TRY(set_inputs(x->args, &x->memory, x->att));
    return attend_run(x);
}

spectra_status cli_attend(const cli_args *a)
{
    attend x = {.args = a};
    spectra_status status = attend_all(&x);
    spectra_attention_free(x.att);
    device_close(x.dev);
    release(&x.memory);
    return status;
}

spectra_status cli_device(const cli_args *a, device **out)
{
    const char *kind = a->value[OPT_DEVICE].text;
    return strcmp(kind, "cpu") == 0 ? SPECTRA_OK : device_open(kind, out);
}

/* ---- features ---------------------------------------------------------------------------------
 */

static spectra_status write_in(const char *folder, const char *name, int ndim, const int64_t *shape,
                               const float *data)
{
    char *path = outfile_join(folder, name);
    if (!path)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", name);
    spectra_status status = npy_write(path, NPY_F32, ndim, shape, data);
    free(path);
    return status;
}

/* dev NULL: the CPU. */
static spectra_status write_side(const performer *pf, device *dev, held_memory *m, int side,
                                 const npy_array *x, const float *blocks, const char *folder)
{
    const int64_t B = x->shape[0], H = x->shape[1], n = x->shape[2];
    const int64_t width = pf->feature->lanes * pf->plan.M, count = B * H * n * width;
    const int64_t shape[] = {B, H, n, width};
    float *log, *sign;
    TRY(take_floats(m, count, &log));
    TRY(take_floats(m, count, &sign));
    TRY(dev ? performer_device_features(dev, pf, side, B, H, n, x->data, blocks, log, sign)
            : performer_features(pf, side, B, H, n, x->data, blocks, log, sign));
    TRY(write_in(folder, side ? "log_y.npy" : "log_x.npy", 4, shape, log));
    return write_in(folder, side ? "sign_y.npy" : "sign_x.npy", 4, shape, sign);
}

static spectra_status features_all(const cli_args *a, held_memory *m, spectra_attention **att,
                                   device **dev)
{
    const char *folder = NULL;
    npy_array x = {.data = NULL}, y = {.data = NULL};
    uint8_t *mask = NULL;
    described d;
    TRY(describe(a, &d));
    if (!(d.kind->traits & ATTENTION_FEATURES))
        return fail(SPECTRA_EINVAL, "--attn %s has no features", d.desc.attn);
    TRY(cli_need(a, OPT_OUT, &folder));
    TRY(need_array(a, m, OPT_X, "x", &x));
    TRY(need_array(a, m, OPT_Y, "y", &y));
    TRY(same_sizes(&x, &y, (const int[]){0, 1, 3}, 3,
                   "--x and --y must agree in batch, heads and size"));
    const int64_t B = x.shape[0], H = x.shape[1], T = x.shape[2], S = y.shape[2], D = x.shape[3];
    TRY(read_mask(a, m, B, S, &mask));
    d.desc.H = H, d.desc.D = d.desc.DV = D;
    TRY(cli_device(a, dev));
    TRY(spectra_attention_new(&d.desc, att));
    TRY(set_inputs(a, m, *att));
    const performer *pf = performer_of(*att);
    float *blocks;
    TRY(take_floats(m, B * H * performer_block_floats(pf), &blocks));
    TRY(performer_prepare_heads(pf, B, H, T, S, x.data, y.data, T == S ? mask : NULL, mask,
                                blocks));
    TRY(outfile_folder(folder));
    TRY(write_side(pf, *dev, m, 0, &x, blocks, folder));
    TRY(write_side(pf, *dev, m, 1, &y, blocks, folder));
    return write_in(folder, "row_weight.npy", 1, &pf->plan.M, pf->row_weight);
}

spectra_status cli_features(const cli_args *a)
{
    held_memory memory = {0};
    spectra_attention *att = NULL;
    device *dev = NULL;
    spectra_status status = features_all(a, &memory, &att, &dev);
    spectra_attention_free(att);
    device_close(dev);
    release(&memory);
    return status;
}

/* ---- matrix -----------------------------------------------------------------------------------
 */

static spectra_status matrix_all(const cli_args *a, held_memory *m)
{
    const char *name = NULL, *out = NULL;
    const matrix_info *info = NULL;
    TRY(cli_need(a, OPT_KERNEL, &name));
    TRY(cli_need(a, OPT_OUT, &out));
    TRY(registry_matrix(name, &info));
    const int64_t shape[] = {a->value[OPT_M].integer, a->value[OPT_D].integer};
    float *w, *weight;
    TRY(take_floats(m, shape[0] * shape[1], &w));
    TRY(take_floats(m, shape[0], &weight));
    const matrix_draw draw = {(uint64_t)a->value[OPT_SEED].integer, a->value[OPT_LAYER].integer,
                              draw_kind(a->value[OPT_RNG].text)};
    TRY(sample_matrix(info, shape[0], shape[1], draw, w, weight));
    TRY(npy_write(out, NPY_F32, 2, shape, w));
    return a->value[OPT_ROW_WEIGHTS].given
               ? npy_write(a->value[OPT_ROW_WEIGHTS].text, NPY_F32, 1, shape, weight)
               : SPECTRA_OK;
}

spectra_status cli_matrix(const cli_args *a)
{
    held_memory memory = {0};
    spectra_status status = matrix_all(a, &memory);
    release(&memory);
    return status;
}
