-- The files of build/<pair>/ and of build/base/, made in memory: lists of { path, text } for files.write.
local c_kernels = require "gen.c_kernels"
local c_tables = require "gen.c_tables"
local c_text = require "gen.c_text"
local cuda_text = require "gen.cuda_text"
local disk = require "gen.files"
local linop = require "gen.linop"
local load_spec = require "gen.load_spec"
local manifest = require "gen.manifest"
local registry = require "gen.registry"
local target_c = require "gen.target_c"
local target_cuda = require "gen.target_cuda"

local M = {}

-- What these files depend on, of the generator itself.
local MODULES = { "c_kernels", "c_tables", "c_text", "costs", "cuda_gpu", "cuda_kernels", "cuda_layout", "cuda_text",
  "cuda_tiles", "cuda_untiled", "emit", "expr", "feature", "files", "formulas", "grad", "hash", "linop", "load_spec",
  "main", "manifest", "ops", "pass", "registry", "render", "rows", "spec", "splice", "target_c", "target_cuda" }

-- The C files and phi.cu of one feature: list of { path, text }.
local function attention_files(out, command, feature, id, sizes, dtype)
  local kinds = c_kernels.kinds_of(feature, sizes.D, dtype)
  local files, texts = {}, c_text.kernels(command, feature, id, sizes, dtype, kinds)
  for i, kind in ipairs(kinds) do
    files[i] = { ("%s/%s.c"):format(out, kind.name), texts[i] }
  end
  files[#files + 1] = { out .. "/phi.cu", sizes.D > 0 and cuda_text.text(feature, sizes, dtype, { kind = "phi" })
    or cuda_text.phi(command, feature, sizes, dtype) }
  return files
end

local function dependencies(targets, sources)
  local list = {}
  for i, name in ipairs(MODULES) do list[i] = disk.path("gen/" .. name .. ".lua") end
  for _, source in ipairs(sources) do list[#list + 1] = disk.path(source) end
  return ("%s: \\\n  %s\n"):format(table.concat(targets, " "), table.concat(list, " \\\n  "))
end

local function templates()
  local list = { cuda_text.PHI, table.unpack(target_cuda.RUNTIME) }
  local seen = {} -- two kinds may have one
  for _, kind in ipairs(c_kernels.kinds) do
    if not seen[kind.template] then list[#list + 1] = kind.template end
    seen[kind.template] = true
  end
  return list
end

-- A pair of exact sizes. Returns the files without writing them.
function M.pair(out, feat, kernel, sizes, dtype)
  local feature, matrix = load_spec.one("feature", feat), load_spec.one("matrix", kernel)
  local command = ("lua5.4 gen/main.lua FEAT=%s KERNEL=%s D=%d DV=%d M=%d DTYPE=%s"):format(feat, kernel,
    sizes.D, sizes.DV, sizes.M, dtype)
  local id = ("%s_%s_%d_%d_%d"):format(feature.id, kernel, sizes.D, sizes.DV, sizes.M)
  local files = attention_files(out, command, feature, id, sizes, dtype)
  local text = manifest.text(command, feature, matrix, sizes, dtype, id, files, templates())
  local targets = {}
  for i, file in ipairs(files) do targets[i] = file[1] end
  files[#files + 1] = { out .. "/registry.inc",
    ("// %s\n// dtype %s\n"):format(command, dtype) .. registry.attention_line(feature, matrix, sizes, id) }
  files[#files + 1] = { out .. "/manifest.json", text }
  files[#files + 1] = { out .. "/deps.d",
    dependencies(targets, { feature.path, matrix.path, linop.HEADER, table.unpack(templates()) }) }
  return files
end

-- Any-size kernels of every feature, row operators, the tables of features and matrices.
function M.base(out)
  local command = "lua5.4 gen/main.lua --base"
  local top = ("/* %s */\n"):format(command)
  local features, matrices, rows = load_spec.all("feature"), load_spec.all("matrix"), load_spec.all("row")
  local any, files = { D = 0, DV = 0, M = 0 }, {}
  local lines = { ("// %s\n// dtype f32\n"):format(command) }
  local sources = templates()
  for _, feature in ipairs(features) do
    local folder = out .. "/" .. feature.id
    for _, file in ipairs(attention_files(folder, command, feature, feature.id, any, "f32")) do
      files[#files + 1] = file
    end
    lines[#lines + 1] = registry.attention_line(feature, nil, any, feature.id)
    sources[#sources + 1] = feature.path
  end
  for _, row in ipairs(rows) do
    local stem = ("%s/row/%s"):format(out, row.name)
    files[#files + 1] = { stem .. ".c", top .. target_c.row(row) }
    files[#files + 1] = { stem .. ".cu", cuda_text.row(row) }
    lines[#lines + 1] = registry.row_line(row)
    sources[#sources + 1] = row.path
  end
  files[#files + 1] = { out .. "/dense.c", top .. '#define FEATURE_ID dense\n#include "products.c"\n' }
  for _, matrix in ipairs(matrices) do sources[#sources + 1] = matrix.path end
  sources[#sources + 1] = linop.HEADER
  files[#files + 1] = { out .. "/features.c", top .. c_tables.features(features) }
  files[#files + 1] = { out .. "/matrices.c", top .. c_tables.matrices(matrices) }
  local targets = {}
  for i, file in ipairs(files) do targets[i] = file[1] end
  files[#files + 1] = { out .. "/registry.inc", table.concat(lines) }
  files[#files + 1] = { out .. "/deps.d", dependencies(targets, sources) }
  return files
end

return M
