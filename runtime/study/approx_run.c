#include "study/approx.h"

#include "base/outfile.h"
#include "base/status.h"
#include "model/host.h"
#include "train/checkpoint.h"
#include "train/trainer.h"

#include <stdlib.h>
#include <string.h>

/* The tokens of the pass's first sequence, out of its rows of q, k, v. */
static spectra_status gather(const pass *p, int64_t layer, int64_t most, approx_data *out)
{
    const model *m = p->m;
    const packing *k = &m->pack;
    const int64_t H = m->config.heads, d = m->config.head_dim, HD = H * d;
    int64_t tokens = 0, taken = 0;
    for (int64_t r = 0; r < k->seq_len[0]; r++)
        tokens += !k->mask || k->mask[r];
    tokens = most > 0 && most < tokens ? most : tokens;
    if (tokens == 0)
        return fail(SPECTRA_EINVAL, "the first example of dev has no token");
    *out = (approx_data){.B = 1, .H = H, .T = tokens, .S = tokens, .D = d, .DV = d};
    float **part[] = {&out->q, &out->k, &out->v};
    for (int i = 0; i < 3; i++) {
        *part[i] = malloc((size_t)(tokens * HD) * sizeof **part[i]);
        if (!*part[i])
            return fail(SPECTRA_ENOMEM, "q, k and v: out of memory");
    }
    for (int64_t r = 0; taken < tokens; r++) {
        if (k->mask && !k->mask[r])
            continue;
        for (int64_t i = 0; i < 3 * H; i++)
            memcpy(*part[i / H] + (i % H * tokens + taken) * d,
                   host_value(m, QKV, layer) + (k->seq_start[0] + r) * 3 * HD + i * d,
                   (size_t)d * sizeof(float));
        taken++;
    }
    return SPECTRA_OK;
}

static spectra_status read_run(trainer *l, const char *run, const char *parameters, int64_t layer,
                               int64_t most, approx_data *out)
{
    bool best = strcmp(parameters, "best") == 0;
    char *path = outfile_join(run, best ? "best.safetensors" : "checkpoint.safetensors");
    if (!path)
        return fail(SPECTRA_ENOMEM, "%s: out of memory", run);
    spectra_status status = checkpoint_load(path, l->model, NULL, NULL);
    free(path);
    TRY(status);
    trainer_load(l, SPLIT_DEV, 0);
    model_batch first = trainer_part(l, 0, l->config->task.batch);
    const pass p = {.m = l->model, .batch = &first};
    TRY(host_prepare(&p));
    TRY(host_forward(&p, plan_attention(&l->model->config, layer)));
    TRY(gather(&p, layer, most, out));
    snprintf(out->source, sizeof out->source,
             "%s, layer %lld, %lld tokens of the first dev example", run, (long long)layer,
             (long long)out->T);
    return SPECTRA_OK;
}

spectra_status approx_from_run(const char *run, const char *data, const char *parameters,
                               int64_t layer, int64_t most, approx_data *out)
{
    train_config c;
    TRY(train_config_read(run, &c));
    TRY(setting_parse(train_setting("device"), &c, "cpu", run)); /* wherever it was trained */
    TRY(setting_parse(train_setting("precision"), &c, "float32", run));
    if (data)
        snprintf(c.data, sizeof c.data, "%s", data);
    if (layer >= c.task.layers)
        return fail(SPECTRA_EINVAL, "%s has no layer %lld, allowed are 0 to %lld", run,
                    (long long)layer, (long long)c.task.layers - 1);
    trainer l;
    TRY(trainer_open(&c, 1U << SPLIT_DEV, &l));
    approx_data x = {.q = NULL};
    spectra_status status = read_run(&l, run, parameters, layer, most, &x);
    trainer_close(&l);
    if (status == SPECTRA_OK)
        *out = x;
    else
        approx_data_free(&x);
    return status;
}
