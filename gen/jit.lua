-- The text that is compiled at run time: the kinds of a group for one feature and exact sizes, and the table
-- that names them, in one file that needs nothing but a C compiler. Its parts are compiled apart,
-- -DPART=0, 1, ..., each as the file `make gen` writes would be; only the last, the table, is for no
-- instruction set. The matrix has no part in it.
local emit = require "gen.emit"
local c_kernels = require "gen.c_kernels"
local spec = require "gen.spec"
local splice = require "gen.splice"
local target_c = require "gen.target_c"

local M = {}

M.FOLDERS = { "templates/c/", "runtime/" }

local function read_header(name)
  for _, folder in ipairs(M.FOLDERS) do
    local ok, text = pcall(emit.read, folder .. name)
    if ok then return folder .. name, text end
  end
  error(("#include \"%s\": no such header"):format(name), 0)
end

-- A user's own feature: path as given, its text.
local function own_feature(path, text)
  local name = path:match("([^/]*)%.lua$")
  if not name then error(("%s: a component function is a file NAME.lua"):format(path), 0) end
  if not name:find("^%a[%w_]*$") or #name > 60 then
    error(("%s: a name is of at most 60 letters, digits and _, a letter first"):format(path), 0)
  end
  if text:sub(1, 1) == "\27" then error(path .. ": a compiled chunk, not a text", 0) end
  for _, known in ipairs(emit.names("feature")) do
    if known == name then
      error(("%s: '%s' is the name of a built-in component function; give it another"):format(path, name), 0)
    end
  end
  local feature = spec.load_text("feature", name, path, text)
  feature.hash = emit.hash(text)
  feature.path = name .. ".lua" -- what is generated does not depend on where the file is
  feature.own = true
  return feature
end

-- By name, or a user's own by its path and text.
function M.feature(name, text)
  return text and own_feature(name, text) or emit.load("feature", name)
end

local function table_of(feature, kinds, sizes, id, hash)
  local out = { "#define FEATURE_ID " .. id, '#include "vec.h"', "" }
  if feature.own then out[#out + 1] = target_c.features { feature } end
  for _, kind in ipairs(kinds) do
    out[#out + 1] = ("extern const %s EXPORT(%s);"):format(kind.type, kind.name)
  end
  local functions = c_kernels.functions(kinds, function(kind) return ("&EXPORT(%s)"):format(kind.name) end)
  out[#out + 1] = '\n#define PUBLIC __attribute__((visibility("default")))'
  out[#out + 1] = "extern const attn_row jit_row PUBLIC;"
  out[#out + 1] = "extern const feature_info *const jit_feature PUBLIC;"
  out[#out + 1] = ('const attn_row jit_row = {"%s", NULL, %d, %d, %d, ISA_PORTABLE,\n    %s, "%s"};'):format(
    feature.name, sizes.D, sizes.DV, sizes.M, table.concat(functions, ", "), hash)
  out[#out + 1] = ("const feature_info *const jit_feature = %s;"):format(
    feature.own and "generated_features" or "NULL")
  return table.concat(out, "\n") .. "\n"
end

-- -> text, number of its parts. group: of c_kernels.kinds.
function M.text(feature, sizes, group)
  local command = ("lua5.4 gen/main.lua --jit FEAT=%s D=%d DV=%d M=%d GROUP=%s"):format(
    feature.own and feature.path or feature.name, sizes.D, sizes.DV, sizes.M, group)
  local id = ("%s_%d_%d_%d"):format(feature.id, sizes.D, sizes.DV, sizes.M)
  local kinds = c_kernels.group(c_kernels.kinds_of(feature, sizes.D, "f32"), group)
  local parts = emit.kernels(command, feature, id, sizes, "f32", kinds)
  parts[#parts + 1] = table_of(feature, kinds, sizes, id, emit.hash(table.concat(parts)))
  local out = { ("/* %s */\n"):format(command) }
  for i, part in ipairs(parts) do
    out[#out + 1] = ("%s PART == %d\n"):format(i == 1 and "#if" or "#elif", i - 1)
    out[#out + 1] = splice.inline(part, "table", read_header)
  end
  out[#out + 1] = "#endif\n"
  return table.concat(out), #parts
end

return M
