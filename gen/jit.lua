-- The text that is compiled at run time: the kinds of a group for one feature and exact sizes, and the table
-- that names them, in one file that needs nothing but a C compiler. Its parts are compiled apart,
-- -DPART=0, 1, ..., each as the file `make gen` writes would be; only the last, the table, is for no
-- instruction set. The matrix has no part in it.
local c_kernels = require "gen.c_kernels"
local c_tables = require "gen.c_tables"
local c_text = require "gen.c_text"
local files = require "gen.files"
local hash = require "gen.hash"
local load_spec = require "gen.load_spec"
local splice = require "gen.splice"

local M = {}

M.FOLDERS = { "templates/c/", "runtime/" }

local function read_header(name)
  for _, folder in ipairs(M.FOLDERS) do
    local ok, text = pcall(files.read, folder .. name)
    if ok then return folder .. name, text end
  end
  error(("#include \"%s\": no such header"):format(name), 0)
end

local function table_of(feature, kinds, sizes, id, parts_hash)
  local out = { "#define FEATURE_ID " .. id, '#include "vec.h"', "" }
  if feature.own then out[#out + 1] = c_tables.features { feature } end
  for _, kind in ipairs(kinds) do
    out[#out + 1] = ("extern const %s EXPORT(%s);"):format(kind.type, kind.name)
  end
  local functions = c_kernels.functions(kinds, function(kind) return ("&EXPORT(%s)"):format(kind.name) end)
  out[#out + 1] = '\n#define PUBLIC __attribute__((visibility("default")))'
  out[#out + 1] = "extern const attn_row jit_row PUBLIC;"
  out[#out + 1] = "extern const feature_info *const jit_feature PUBLIC;"
  out[#out + 1] = ('const attn_row jit_row = {"%s", NULL, %d, %d, %d, ISA_PORTABLE,\n    %s, "%s"};'):format(
    feature.name, sizes.D, sizes.DV, sizes.M, table.concat(functions, ", "), parts_hash)
  out[#out + 1] = ("const feature_info *const jit_feature = %s;"):format(
    feature.own and "generated_features" or "NULL")
  return table.concat(out, "\n") .. "\n"
end

M.feature = load_spec.feature -- the runtime asks for both here

-- -> text, number of its parts. group: of c_kernels.kinds.
function M.text(feature, sizes, group)
  local command = ("lua5.4 gen/main.lua --jit FEAT=%s D=%d DV=%d M=%d GROUP=%s"):format(
    feature.own and feature.path or feature.name, sizes.D, sizes.DV, sizes.M, group)
  local id = ("%s_%d_%d_%d"):format(feature.id, sizes.D, sizes.DV, sizes.M)
  local kinds = c_kernels.group(c_kernels.kinds_of(feature, sizes.D, "f32"), group)
  local parts = c_text.kernels(command, feature, id, sizes, "f32", kinds)
  parts[#parts + 1] = table_of(feature, kinds, sizes, id, hash.fnv1a(table.concat(parts)))
  local out = { ("/* %s */\n"):format(command) }
  for i, part in ipairs(parts) do
    out[#out + 1] = ("%s PART == %d\n"):format(i == 1 and "#if" or "#elif", i - 1)
    out[#out + 1] = splice.inline(part, "table", read_header)
  end
  out[#out + 1] = "#endif\n"
  return table.concat(out), #parts
end

return M
