/* The generator in the process: its modules are strings of this library, `gen.files` is a table
 * that reads other strings, and what a spec could do harm with (io, os, package) is not there. */
#include "kernel/internal.h"

#include "base/status.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

/* Files of the tree, build/jit_sources.c. Both end with NULL. */
extern const char *const jit_source_name[];
extern const char *const jit_source_text[];

static const char *source(const char *name)
{
    for (int i = 0; jit_source_name[i]; i++)
        if (strcmp(jit_source_name[i], name) == 0)
            return jit_source_text[i];
    return NULL;
}

/* gen.files.read(path) */
static int files_read(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1), *text = source(name);
    if (!text)
        return luaL_error(L, "%s: not in this library", name);
    lua_pushstring(L, text);
    return 1;
}

/* gen.files.names(kind): of specs/<kind>/, in the order of jit_source_name, which is sorted */
static int files_names(lua_State *L)
{
    const char *folder = lua_pushfstring(L, "specs/%s/", luaL_checkstring(L, 1));
    size_t length = strlen(folder);
    lua_Integer count = 0;
    lua_newtable(L);
    for (int i = 0; jit_source_name[i]; i++) {
        const char *name = jit_source_name[i];
        if (strncmp(name, folder, length) != 0)
            continue;
        lua_pushlstring(L, name + length, strcspn(name + length, "."));
        lua_rawseti(L, -2, ++count);
    }
    return 1;
}

/* gen.files.path(relative): as it is */
static int files_path(lua_State *L)
{
    lua_settop(L, 1);
    return 1;
}

/* require("gen.x"); upvalue 1 holds what was loaded. */
static int require(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    if (lua_getfield(L, lua_upvalueindex(1), name) != LUA_TNIL)
        return 1;
    luaL_gsub(L, name, ".", "/");
    const char *path = lua_pushfstring(L, "%s.lua", lua_tostring(L, -1)), *text = source(path);
    if (!text)
        return luaL_error(L, "module '%s' is not in this library", name);
    const char *chunk = lua_pushfstring(L, "@%s", path);
    if (luaL_loadbufferx(L, text, strlen(text), chunk, "t") != LUA_OK)
        return lua_error(L);
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, lua_upvalueindex(1), name);
    return 1;
}

static void open_libraries(lua_State *L)
{
    static const luaL_Reg libraries[] = {{LUA_GNAME, luaopen_base},
                                         {LUA_TABLIBNAME, luaopen_table},
                                         {LUA_STRLIBNAME, luaopen_string},
                                         {LUA_MATHLIBNAME, luaopen_math},
                                         {LUA_DBLIBNAME, luaopen_debug}};
    for (size_t i = 0; i < sizeof libraries / sizeof libraries[0]; i++) {
        luaL_requiref(L, libraries[i].name, libraries[i].func, 1);
        lua_pop(L, 1);
    }
    static const char *const removed[] = {"dofile", "loadfile", "print"};
    for (size_t i = 0; i < sizeof removed / sizeof removed[0]; i++) {
        lua_pushnil(L);
        lua_setglobal(L, removed[i]);
    }
    lua_newtable(L); /* modules */
    lua_newtable(L);
    lua_pushcfunction(L, files_read);
    lua_setfield(L, -2, "read");
    lua_pushcfunction(L, files_names);
    lua_setfield(L, -2, "names");
    lua_pushcfunction(L, files_path);
    lua_setfield(L, -2, "path");
    lua_setfield(L, -2, "gen.files");
    lua_pushcclosure(L, require, 1);
    lua_setglobal(L, "require");
}

/* require(module)[name] on the stack */
static void push_function(lua_State *L, const char *module, const char *name)
{
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    lua_call(L, 1, 1);
    lua_getfield(L, -1, name);
}

/* { D = .., DV = .., M = .. } on the stack */
static void push_sizes(lua_State *L, const int64_t sizes[3])
{
    static const char *const name[] = {"D", "DV", "M"};
    lua_newtable(L);
    for (int i = 0; i < 3; i++) {
        lua_pushinteger(L, sizes[i]);
        lua_setfield(L, -2, name[i]);
    }
}

/* run(request) in a state of its own; *no_memory is the request's. */
static spectra_status in_new_state(lua_CFunction run, void *request, const bool *no_memory,
                                   const char *feat)
{
    lua_State *L = luaL_newstate();
    if (!L)
        return fail(SPECTRA_ENOMEM, "generating %s: out of memory", feat);
    lua_pushcfunction(L, run);
    lua_pushlightuserdata(L, request);
    int code = lua_pcall(L, 1, 0, 0);
    spectra_status status = SPECTRA_OK;
    if (code == LUA_ERRMEM || *no_memory)
        status = fail(SPECTRA_ENOMEM, "generating %s: out of memory", feat);
    else if (code != LUA_OK)
        status = fail(SPECTRA_EFORMAT, "%s",
                      lua_isstring(L, -1) ? lua_tostring(L, -1) : "the generator failed");
    lua_close(L);
    return status;
}

typedef struct request {
    const char *feat, *spec;
    const int64_t *sizes; /* D, DV, M; NULL: the spec is only checked */
    const char *group;
    kernel_text text;
    char *name; /* of the feature; owned */
    bool no_memory;
} request;

static char *copy(const char *text, size_t size)
{
    char *out = malloc(size + 1);
    if (out)
        memcpy(out, text, size + 1);
    return out;
}

/* require("gen.jit").feature(feat, spec), then .text(feature, sizes, group) */
static int run(lua_State *L)
{
    request *r = lua_touserdata(L, 1);
    open_libraries(L);
    push_function(L, "gen.jit", "feature");
    lua_pushstring(L, r->feat);
    lua_pushstring(L, r->spec);
    lua_call(L, 2, 1);
    size_t size;
    lua_getfield(L, -1, "name");
    const char *name = lua_tolstring(L, -1, &size);
    r->name = copy(name, size);
    r->no_memory = !r->name;
    lua_pop(L, 1);
    if (!r->sizes)
        return 0;
    lua_getfield(L, -2, "text");
    lua_insert(L, -2);
    push_sizes(L, r->sizes);
    lua_pushstring(L, r->group);
    lua_call(L, 3, 2);
    const char *text = luaL_checklstring(L, -2, &size);
    r->text.parts = (int)luaL_checkinteger(L, -1);
    r->text.text = (byte_buffer){copy(text, size), size};
    r->no_memory = r->no_memory || !r->text.text.data;
    return 0;
}

static spectra_status generate(request *r)
{
    spectra_status status = in_new_state(run, r, &r->no_memory, r->feat);
    if (status != SPECTRA_OK) {
        free(r->name);
        free(r->text.text.data);
    }
    return status;
}

spectra_status generate_kernels(const char *feat, const char *spec, int64_t D, int64_t DV,
                                int64_t M, const char *group, kernel_text *out)
{
    const int64_t sizes[] = {D, DV, M};
    request r = {.feat = feat, .spec = spec, .sizes = sizes, .group = group};
    TRY(generate(&r));
    free(r.name);
    *out = r.text;
    return SPECTRA_OK;
}

spectra_status generate_check(const char *path, const char *spec, char **name)
{
    request r = {.feat = path, .spec = spec};
    TRY(generate(&r));
    *name = r.name;
    return SPECTRA_OK;
}

/* ---- CUDA text --------------------------------------------------------------------------------
 */

typedef struct cuda_request {
    const jit_cuda_request *wanted;
    const char *spec;
    jit_programs list;
    bool no_memory;
} cuda_request;

/* Field `name` of the table on top, 0 where there is none. */
static int plan_field(lua_State *L, const char *name)
{
    lua_getfield(L, -1, name);
    const int value = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    return value;
}

/* Of the table on top of the stack. */
static jit_cuda_plan plan_of(lua_State *L)
{
    return (jit_cuda_plan){plan_field(L, "shared"),       plan_field(L, "memory"),
                           plan_field(L, "threads"),      plan_field(L, "blocks"),
                           plan_field(L, "tile"),         plan_field(L, "row_blocks"),
                           plan_field(L, "value_blocks"), plan_field(L, "cluster"),
                           plan_field(L, "row"),          plan_field(L, "lanes")};
}

/* The text `field` of the table on top, to be freed. */
static char *text_field(lua_State *L, const char *field)
{
    size_t size = 0;
    lua_getfield(L, -1, field);
    const char *text = luaL_checklstring(L, -1, &size);
    char *out = copy(text, size);
    lua_pop(L, 1);
    return out;
}

/* require("gen.cuda_requests").asked(kind, feat, spec, defines): { name, text, launch } each. */
static int run_cuda(lua_State *L)
{
    cuda_request *r = lua_touserdata(L, 1);
    open_libraries(L);
    push_function(L, "gen.cuda_requests", "asked");
    lua_pushstring(L, r->wanted->kind);
    lua_pushstring(L, r->wanted->feat);
    lua_pushstring(L, r->spec);
    lua_pushstring(L, r->wanted->defines ? r->wanted->defines : "");
    lua_call(L, 4, 1);
    const lua_Integer count = luaL_len(L, -1);
    r->list.program = calloc((size_t)count, sizeof *r->list.program);
    r->no_memory = !r->list.program;
    for (lua_Integer i = 1; i <= count && !r->no_memory; i++) {
        jit_program *p = &r->list.program[r->list.count++];
        lua_rawgeti(L, -1, i);
        p->name = text_field(L, "name");
        p->text = text_field(L, "text");
        r->no_memory = !p->name || !p->text;
        lua_getfield(L, -1, "launch");
        p->plan = plan_of(L);
        lua_pop(L, 2);
    }
    return 0;
}

spectra_status generate_programs(const jit_cuda_request *wanted, const char *spec,
                                 jit_programs *out)
{
    cuda_request r = {.wanted = wanted, .spec = spec};
    spectra_status status = in_new_state(run_cuda, &r, &r.no_memory, wanted->kind);
    if (status == SPECTRA_OK)
        *out = r.list;
    else
        jit_programs_free(&r.list);
    return status;
}

const jit_program *jit_programs_find(const jit_programs *list, const char *name)
{
    for (int i = 0; i < list->count; i++)
        if (strcmp(list->program[i].name, name) == 0)
            return &list->program[i];
    return NULL;
}

void jit_programs_free(jit_programs *list)
{
    for (int i = 0; i < list->count; i++) {
        free(list->program[i].name);
        free(list->program[i].text);
    }
    free(list->program);
    *list = (jit_programs){0};
}

/* ---- the files of a pair ----------------------------------------------------------------------
 */

typedef struct pair_request {
    const char *feat, *kernel, *dtype, *folder;
    const int64_t *sizes;
    generated_files files;
    bool no_memory;
} pair_request;

/* require("gen.emit").pair(folder, feat, kernel, sizes, dtype): a list of { path, text }. */
static int run_pair(lua_State *L)
{
    pair_request *r = lua_touserdata(L, 1);
    open_libraries(L);
    push_function(L, "gen.emit", "pair");
    lua_pushstring(L, r->folder);
    lua_pushstring(L, r->feat);
    lua_pushstring(L, r->kernel);
    push_sizes(L, r->sizes);
    lua_pushstring(L, r->dtype);
    lua_call(L, 5, 1);
    lua_Integer count = luaL_len(L, -1);
    for (lua_Integer i = 1; i <= count && i <= GENERATED_FILES; i++) {
        generated_file *f = &r->files.file[r->files.count++];
        size_t size[2];
        lua_rawgeti(L, -1, i);
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        const char *path = luaL_checklstring(L, -2, &size[0]);
        const char *text = luaL_checklstring(L, -1, &size[1]);
        *f = (generated_file){copy(path, size[0]), copy(text, size[1]), size[1]};
        r->no_memory = r->no_memory || !f->path || !f->text;
        lua_pop(L, 3);
    }
    return 0;
}

void generated_files_free(generated_files *f)
{
    for (int i = 0; i < f->count; i++) {
        free(f->file[i].path);
        free(f->file[i].text);
    }
    f->count = 0;
}

spectra_status generate_pair(const char *folder, const char *feat, const char *kernel,
                             const int64_t sizes[3], const char *dtype, generated_files *out)
{
    pair_request r = {
        .feat = feat, .kernel = kernel, .dtype = dtype, .folder = folder, .sizes = sizes};
    spectra_status status = in_new_state(run_pair, &r, &r.no_memory, feat);
    if (status != SPECTRA_OK)
        generated_files_free(&r.files);
    else
        *out = r.files;
    return status;
}
