#define _GNU_SOURCE
#include "train/train.h"

#include "base/outfile.h"
#include "base/status.h"
#include "kernel/jit.h"
#include "kernel/registry.h"
#include "math/blas.h"
#include "math/draw.h"

#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(train_config, field)

const setting train_settings[TRAIN_SETTINGS] = {
    {"task", SETTING_STRING, AT(task.name), 0, 0, .doc = "benchmark task"},
    {"attn", SETTING_STRING, AT(attn), 0, 0, .doc = "attention"},
    {"official", SETTING_BOOL, AT(official), 0, 0, .doc = "the reference system's behaviour"},
    {"seed", SETTING_INT, AT(seed), 0, 9e15, .doc = "seed of everything random"},
    {"rng", SETTING_STRING, AT(rng), 0, 0, "philox|curand",
     .doc = "of matrices and initial weights"},
    {"data", SETTING_STRING, AT(data), 0, 0, .doc = "folder of the prepared data"},
};

/* Recorded, but a run may go on with others. */
static const setting machine_settings[] = {
    {"threads", SETTING_INT, AT(threads), 0, 65536, .doc = "threads"},
    {"device", SETTING_STRING, AT(device), 0, 0, "cpu|cuda|emu", .doc = "where it is computed"},
    {"precision", SETTING_STRING, AT(precision), 0, 0, "float32|fast",
     .doc = "of a device's products"},
};
enum { MACHINE_SETTINGS = sizeof machine_settings / sizeof machine_settings[0] };

const char *const train_split_names[3] = {"train", "dev", "test"};

const setting *train_setting(const char *name)
{
    const setting *s = setting_find(train_settings, TRAIN_SETTINGS, name);
    if (!s)
        s = setting_find(task_settings, TASK_SETTINGS, name);
    return s ? s : setting_find(machine_settings, MACHINE_SETTINGS, name);
}

spectra_attention_desc train_attention(const train_config *c)
{
    return (spectra_attention_desc){.attn = c->attn,
                                    .official = c->official,
                                    .options = c->options,
                                    .H = c->task.heads,
                                    .D = c->task.head_dim,
                                    .DV = c->task.head_dim,
                                    .seed = (uint64_t)c->seed,
                                    .rng = draw_kind(c->rng)};
}

spectra_status train_attention_settings(const train_config *c, const attention_kind **kind,
                                        attention_options *settings)
{
    const spectra_attention_desc desc = train_attention(c);
    return attention_read_desc(&desc, kind, settings);
}

static spectra_status config_json(const train_config *c, json_t *object)
{
    const spectra_attention_desc desc = train_attention(c);
    const attention_kind *kind = NULL;
    attention_options own;
    TRY(settings_to_json(train_settings, TRAIN_SETTINGS, c, object));
    TRY(train_attention_settings(c, &kind, &own));
    TRY(settings_to_json(kind->settings, kind->settings_count, &own, object));
    TRY(settings_to_json(task_settings, TASK_SETTINGS, c, object));
    TRY(settings_to_json(machine_settings, MACHINE_SETTINGS, c, object));
    json_t *build = json_pack("{s:s, s:s, s:s}", "version", spectra_version(), "instructions",
                              registry_isa_name(registry_isa()), "blas", blas_config());
    if (c->spec[0] &&
        json_object_set_new(object, "spec",
                            json_pack("{s:s, s:s}", "path", c->spec, "sha256", c->spec_hash)) != 0)
        return fail(SPECTRA_EINVAL, "%s: not valid UTF-8 text", c->spec);
    if (build)
        TRY(attention_built_from(&desc, build));
    if (json_object_set_new(object, "build", build) != 0)
        return fail(SPECTRA_ENOMEM, "config.json: out of memory");
    return SPECTRA_OK;
}

spectra_status train_config_write(const char *run, const train_config *c)
{
    json_t *object = json_object();
    char *path = outfile_join(run, "config.json"), *text = NULL;
    spectra_status status = object && path ? config_json(c, object)
                                           : fail(SPECTRA_ENOMEM, "config.json: out of memory");
    if (status == SPECTRA_OK) {
        text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
        status = text ? SPECTRA_OK : fail(SPECTRA_ENOMEM, "config.json: out of memory");
    }
    outfile out = {0};
    if (status == SPECTRA_OK)
        status = outfile_open(path, &out);
    if (status == SPECTRA_OK) {
        fprintf(out.file, "%s\n", text);
        status = outfile_commit(&out);
    }
    free(text);
    free(path);
    json_decref(object);
    return status;
}

static spectra_status spec_from_json(const json_t *object, const char *path, train_config *c)
{
    const json_t *spec = json_object_get(object, "spec");
    const char *file = json_string_value(json_object_get(spec, "path"));
    const char *hash = json_string_value(json_object_get(spec, "sha256"));
    if (!spec)
        return SPECTRA_OK;
    if (!file || !hash || strlen(file) >= sizeof c->spec || strlen(hash) >= sizeof c->spec_hash)
        return fail(SPECTRA_EFORMAT, "%s: spec must hold path and sha256", path);
    memcpy(c->spec, file, strlen(file) + 1);
    memcpy(c->spec_hash, hash, strlen(hash) + 1);
    return SPECTRA_OK;
}

/* The settings of the run's attention into c->options. */
static spectra_status attention_from_json(const json_t *object, const char *path, train_config *c)
{
    const attention_kind *kind = NULL;
    attention_options own;
    TRY(attention_find(c->attn, c->official, &kind));
    attention_options_start(kind, &own);
    TRY(settings_from_json(kind->settings, kind->settings_count, &own, object, path));
    return attention_options_text(kind, &own, c->options, sizeof c->options);
}

/* Runs made before --device existed lack these keys. */
static spectra_status machine_from_json(const json_t *object, const char *path, train_config *c)
{
    TRY(setting_parse(train_setting("device"), c, "cpu", path));
    TRY(setting_parse(train_setting("precision"), c, "float32", path));
    for (int i = 0; i < MACHINE_SETTINGS; i++)
        if (machine_settings[i].offset != AT(threads) &&
            json_object_get(object, machine_settings[i].name))
            TRY(settings_from_json(&machine_settings[i], 1, c, object, path));
    return SPECTRA_OK;
}

spectra_status train_open_spec(const train_config *c)
{
    const jit_spec *spec;
    spectra_status status = c->spec[0] ? jit_spec_open(c->spec, c->spec_hash, &spec) : SPECTRA_OK;
    if (status != SPECTRA_OK)
        return fail(status, "the run's component function: %s", spectra_message());
    return SPECTRA_OK;
}

spectra_status train_config_read(const char *run, train_config *out)
{
    char *path = outfile_join(run, "config.json");
    if (!path)
        return fail(SPECTRA_ENOMEM, "config.json: out of memory");
    json_error_t error;
    train_config c = {.threads = 0};
    spectra_status status = SPECTRA_OK;
    FILE *file = fopen(path, "rb");
    json_t *object = file ? json_loadf(file, JSON_REJECT_DUPLICATES, &error) : NULL;
    if (!file)
        status = fail(SPECTRA_EIO, "%s: cannot read; is '%s' the folder of a run?", path, run);
    else if (!object)
        status = fail(SPECTRA_EFORMAT, "%s:%d: %s", path, error.line, error.text);
    if (object && !json_object_get(object, "rng")) /* runs made before --rng existed */
        (void)json_object_set_new(object, "rng", json_string("philox"));
    if (status == SPECTRA_OK)
        status = settings_from_json(train_settings, TRAIN_SETTINGS, &c, object, path);
    if (status == SPECTRA_OK)
        status = attention_from_json(object, path, &c);
    if (status == SPECTRA_OK)
        status = settings_from_json(task_settings, TASK_SETTINGS, &c, object, path);
    if (status == SPECTRA_OK)
        status = machine_from_json(object, path, &c);
    if (status == SPECTRA_OK)
        status = spec_from_json(object, path, &c);
    if (file)
        fclose(file);
    json_decref(object);
    free(path);
    if (status == SPECTRA_OK)
        *out = c;
    return status;
}
