#include "data/task.h"

#include "base/status.h"

#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>
#include <string.h>

#define AT(field) offsetof(task, field)

const setting task_settings[TASK_SETTINGS] = {
    {"sequences", SETTING_INT, AT(sequences), 1, 2, .doc = "sequences an example"},
    {"vocab", SETTING_INT, AT(vocab), 2, 1 << 20, .doc = "vocabulary"},
    {"length", SETTING_INT, AT(length), 1, 1 << 20, .doc = "padded length"},
    {"classes", SETTING_INT, AT(classes), 2, 1000, .doc = "classes"},
    {"embed", SETTING_INT, AT(embed), 1, 4096, .doc = "model width"},
    {"hidden", SETTING_INT, AT(hidden), 1, 16384, .doc = "hidden width"},
    {"heads", SETTING_INT, AT(heads), 1, 64, .doc = "attention heads"},
    {"head_dim", SETTING_INT, AT(head_dim), 1, 256, .doc = "head size"},
    {"layers", SETTING_INT, AT(layers), 1, 64, .doc = "layers"},
    {"tied", SETTING_BOOL, AT(tied), 0, 0, .doc = "layers share parameters"},
    {"cls", SETTING_BOOL, AT(cls), 0, 0, .doc = "CLS pooling instead of the mean"},
    {"dropout", SETTING_REAL, AT(dropout), 0, 0.95, .doc = "dropout"},
    {"attention_dropout", SETTING_REAL, AT(attention_dropout), 0, 0.95,
     .doc = "dropout of attention probabilities"},
    {"batch", SETTING_INT, AT(batch), 1, 65536, .doc = "examples a step"},
    {"accumulate", SETTING_INT, AT(accumulate), 1, 65536, .doc = "parts of a batch"},
    {"lr", SETTING_REAL, AT(lr), 0, 10, .doc = "peak learning rate"},
    {"weight_decay", SETTING_REAL, AT(weight_decay), 0, 10, .doc = "weight decay"},
    {"warmup", SETTING_INT, AT(warmup), 1, 1e9, .doc = "warm-up steps"},
    {"steps", SETTING_INT, AT(steps), 1, 1e9, .doc = "training steps"},
    {"eval_every", SETTING_INT, AT(eval_every), 1, 1e9, .doc = "steps between evaluations"},
    {"eval_batches", SETTING_INT, AT(eval_batches), 1, 1e9, .doc = "dev batches an evaluation"},
};

/* What name and doc go through. */
static const setting text_settings[] = {
    {"name", SETTING_STRING, AT(name), 0, 0, .doc = "benchmark task"},
    {"doc", SETTING_STRING, AT(doc), 0, 0, .doc = "what the task is"},
};

static const setting *find_setting(const char *name)
{
    const setting *s = setting_find(task_settings, TASK_SETTINGS, name);
    return s ? s : setting_find(text_settings, 2, name);
}

/* The value on top of the stack. */
static spectra_status put_value(lua_State *L, const setting *s, task *out, const char *where)
{
    switch (lua_type(L, -1)) {
    case LUA_TNUMBER:
        return lua_isinteger(L, -1) ? setting_put_int(s, out, lua_tointeger(L, -1), where)
                                    : setting_put_real(s, out, lua_tonumber(L, -1), where);
    case LUA_TBOOLEAN:
        return setting_put_bool(s, out, lua_toboolean(L, -1), where);
    case LUA_TSTRING:
        return setting_put_text(s, out, lua_tostring(L, -1), where);
    case LUA_TNIL:
        return fail(SPECTRA_EFORMAT, "%s is missing", where);
    default:
        return fail(SPECTRA_EFORMAT, "%s must be a number, true, false or a text, is a %s", where,
                    luaL_typename(L, -1));
    }
}

/* The table on top of the stack has no field that is none. */
static spectra_status check_fields(lua_State *L, const char *file)
{
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            return fail(SPECTRA_EFORMAT, "%s: a field without a name", file);
        const char *field = lua_tostring(L, -2), *names[TASK_SETTINGS];
        if (find_setting(field) || strcmp(field, "base") == 0)
            continue;
        for (int i = 0; i < TASK_SETTINGS; i++)
            names[i] = task_settings[i].name;
        const char *near = nearest_name(field, names, TASK_SETTINGS);
        return fail(SPECTRA_EFORMAT, "%s: unknown field '%s'%s%s%s", file, field,
                    near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    return SPECTRA_OK;
}

/* The table that a text returns, on the stack. */
static spectra_status push_table(lua_State *L, const char *file, const char *text)
{
    char chunk[128];
    snprintf(chunk, sizeof chunk, "=%s", file);
    if (luaL_loadbufferx(L, text, strlen(text), chunk, "t") != LUA_OK)
        return fail(SPECTRA_EFORMAT, "%s", lua_tostring(L, -1));
    lua_newtable(L); /* its whole environment */
    lua_setupvalue(L, -2, 1);
    if (lua_pcall(L, 0, 1, 0) != LUA_OK)
        return fail(SPECTRA_EFORMAT, "%s", lua_tostring(L, -1));
    if (!lua_istable(L, -1))
        return fail(SPECTRA_EFORMAT, "%s: must return a table", file);
    return check_fields(L, file);
}

/* The table of the base that the table on top of the stack names, or an empty one, on top of it. */
static spectra_status push_base(lua_State *L, const char *file)
{
    lua_getfield(L, -1, "base");
    const char *base = lua_tostring(L, -1);
    int found = 0;
    if (lua_isnil(L, -1)) {
        lua_newtable(L);
        return SPECTRA_OK;
    }
    while (base && task_base_name[found] && strcmp(task_base_name[found], base) != 0)
        found++;
    if (!base || !task_base_name[found])
        return fail(SPECTRA_EFORMAT, "%s: there is no specs/base/%s.lua", file, base ? base : "?");
    char base_file[128];
    snprintf(base_file, sizeof base_file, "specs/base/%.80s.lua", base);
    return push_table(L, base_file, task_base_text[found]);
}

/* Every setting, of the task's table or else of its base's. */
static spectra_status read_text(lua_State *L, const char *name, const char *text, task *out)
{
    char file[128], where[200];
    snprintf(file, sizeof file, "specs/task/%.80s.lua", name);
    TRY(push_table(L, file, text));
    const int own = lua_gettop(L);
    TRY(push_base(L, file));
    const int base = lua_gettop(L);
    for (int i = -2; i < TASK_SETTINGS; i++) {
        const setting *s = i < 0 ? &text_settings[i + 2] : &task_settings[i];
        snprintf(where, sizeof where, "%s: %s", file, s->name);
        if (lua_getfield(L, own, s->name) == LUA_TNIL)
            lua_getfield(L, base, s->name);
        TRY(put_value(L, s, out, where));
        lua_settop(L, base);
    }
    if (strcmp(out->name, name) != 0)
        return fail(SPECTRA_EFORMAT, "%s: name is '%s', not that of the file", file, out->name);
    if (out->batch % out->accumulate != 0)
        return fail(SPECTRA_EFORMAT, "%s: a batch of %lld does not divide into %lld parts", file,
                    (long long)out->batch, (long long)out->accumulate);
    return SPECTRA_OK;
}

spectra_status task_parse(const char *name, const char *text, task *out)
{
    lua_State *L = luaL_newstate();
    if (!L)
        return fail(SPECTRA_ENOMEM, "specs/task/%s.lua: out of memory", name);
    task t = {.name = ""};
    spectra_status status = read_text(L, name, text, &t);
    lua_close(L);
    if (status == SPECTRA_OK)
        *out = t;
    return status;
}

spectra_status task_load(const char *name, task *out)
{
    int count = 0;
    for (; task_spec_name[count]; count++)
        if (strcmp(task_spec_name[count], name) == 0)
            return task_parse(name, task_spec_text[count], out);
    const char *near = nearest_name(name, task_spec_name, count);
    return fail(SPECTRA_ENOTFOUND, "unknown task '%s'%s%s%s", name, near ? ", did you mean '" : "",
                near ? near : "", near ? "'?" : "; `spectraformer list` names them");
}
