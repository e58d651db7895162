-- The files of build/<pair>/, of build/base/, the registry: all made in memory, as lists of
-- { path, text } for `write`.
local c_kernels = require "gen.c_kernels"
local costs = require "gen.costs"
local E = require "gen.expr"
local disk = require "gen.files"
local component = require "gen.feature"
local linop = require "gen.linop"
local cuda_kernels = require "gen.cuda_kernels"
local spec = require "gen.spec"
local splice = require "gen.splice"
local target_c = require "gen.target_c"
local target_cuda = require "gen.target_cuda"

local M = {}

local MODULES = { "c_kernels", "costs", "cuda_gpu", "cuda_kernels", "cuda_memory", "cuda_tiles", "cuda_untiled",
  "emit", "expr", "feature", "files", "formulas", "grad", "linop", "main", "ops", "pass", "render", "rows", "spec",
  "splice", "target_c", "target_cuda" }

local MARK = '#include "stub.h"'

M.read, M.names, M.write = disk.read, disk.names, disk.write

-- FNV-1a, 64 bits, as 16 hexadecimal digits: tells texts apart, not a signature.
function M.hash(text)
  local h = 0xcbf29ce484222325
  for i = 1, #text do h = (h ~ text:byte(i)) * 0x100000001b3 end
  return ("%016x"):format(h)
end

-- Loads a spec by name; an unknown name gets the nearest known one. "posrf+" is the antithetic form
-- of the feature posrf.
function M.load(kind, name)
  local names, antithetic = M.names(kind), false
  if kind == "feature" and name:sub(-1) == "+" then name, antithetic = name:sub(1, -2), true end
  local known = false
  for _, candidate in ipairs(names) do known = known or candidate == name end
  if not known then
    error(("unknown %s '%s'%s"):format(kind == "row" and "row operator" or kind, name,
      spec.suggestion(name, names)), 0)
  end
  local relative = ("specs/%s/%s.lua"):format(kind, name)
  local text = M.read(relative)
  local how = { antithetic = antithetic }
  if kind == "matrix" then how.primitives = linop.declared(M.read(linop.HEADER)) end
  local loaded = spec.load_text(kind, name, relative, text, how)
  loaded.hash = M.hash(text)
  return loaded
end

-- All specs of a kind; features also in their antithetic form where they have one.
function M.load_all(kind)
  local list = {}
  for _, name in ipairs(M.names(kind)) do
    list[#list + 1] = M.load(kind, name)
    if list[#list].may_antithetic then list[#list + 1] = M.load(kind, name .. "+") end
  end
  return list
end

-- Objects are lists of { key, value }, marked with M.object; arrays are plain lists.
local function json(value, indent)
  local kind = type(value)
  if kind == "string" then
    return '"' .. value:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
  elseif kind == "number" then
    return math.type(value) == "integer" and tostring(value) or E.number(value)
  elseif kind ~= "table" then
    return tostring(value)
  end
  local inner, parts = indent .. "  ", {}
  for i, item in ipairs(value) do
    parts[i] = value.object and ('"%s": %s'):format(item[1], json(item[2], inner)) or json(item, inner)
  end
  local open, close = value.object and "{" or "[", value.object and "}" or "]"
  if #parts == 0 then return open .. close end
  return open .. "\n" .. inner .. table.concat(parts, ",\n" .. inner) .. "\n" .. indent .. close
end

local function object(list)
  list.object = true
  return list
end

local function header(command, feature)
  local count = costs.operations(feature)
  return ("/* %s\n * %s: %s\n * operations a feature row and token: %d the value, %d its gradient\n */\n")
    :format(command, feature.name, feature.doc, count.value, count.grad)
end

local function real_define(dtype)
  return dtype == "f64" and "#define REAL double\n" or ""
end

-- The C text of each of these kinds.
function M.kernels(command, feature, id, sizes, dtype, kinds)
  local top = header(command, feature) .. real_define(dtype)
  local prologue = ('#line 1 "%s"\n'):format(feature.path) .. target_c.prologue(feature, id, sizes)
  local texts = {}
  for i, kind in ipairs(kinds) do
    local define = kind.define and ("#define %s\n"):format(kind.define) or ""
    texts[i] = splice.splice(top .. define, prologue, M.read(kind.template), kind.template, MARK)
  end
  return texts
end

-- Kinds of CUDA text of a feature: what options.kind may be.
M.CUDA_KINDS = { "phi" }
local MAKERS = {}
for _, maker in ipairs { { cuda_kernels.params, target_cuda.params }, { cuda_kernels.tiled, target_cuda.attention },
  { cuda_kernels.clusters, target_cuda.attention }, { cuda_kernels.plain, target_cuda.plain },
  { cuda_kernels.token, target_cuda.token } } do
  for _, kernel in ipairs(maker[1]) do
    M.CUDA_KINDS[#M.CUDA_KINDS + 1], MAKERS[kernel] = kernel, maker[2]
  end
end

local function cuda_text(command, feature, sizes, dtype)
  local prologue = target_cuda.prologue(feature, sizes, dtype, M.read)
  return splice.splice(header(command, feature), prologue, M.read(target_cuda.SKELETON),
    target_cuda.SKELETON, target_cuda.MARK)
end

local CUDA_OPTIONS = { { "dtype", "DTYPE", "f32" }, { "precision", "PRECISION", "float32" },
  { "learn", "LEARN", false }, { "arch", "ARCH", 80 } }

-- CUDA text of a feature for exact sizes: it is found by itself where it was compiled ahead, so it is one of the
-- class of architectures and of the options that it depends on (cuda_kernels.reads). Of a kernel also how it is
-- launched, and a name for its file. options: kind, one of M.CUDA_KINDS; of kernels dtype, precision, learn, arch.
function M.cuda(feature, sizes, dtype, options)
  local kind, known = options.kind, false
  for _, name in ipairs(M.CUDA_KINDS) do known = known or name == kind end
  if not known then
    error(("unknown kind of CUDA text '%s'%s"):format(kind, spec.suggestion(kind, M.CUDA_KINDS)), 0)
  end
  local command = ("lua5.4 gen/main.lua --cuda FEAT=%s KIND=%s D=%d DV=%d M=%d%s"):format(
    feature.own and feature.path or feature.name, kind, sizes.D, sizes.DV, sizes.M,
    dtype == "f32" and "" or " DTYPE=" .. dtype)
  if kind == "phi" then return cuda_text(command, feature, sizes, dtype), {}, kind end
  local reads, chosen, file = cuda_kernels.reads[kind] or {}, {}, kind
  for _, setting in ipairs(CUDA_OPTIONS) do
    local key, name, default = table.unpack(setting)
    local value = reads[key] and options[key] or default
    chosen[key] = value
    if key == "arch" and reads.arch then value = cuda_kernels.first_of_class(kind, value) end
    if value ~= default then
      command = ("%s %s=%s"):format(command, name, value)
      file = ("%s-%s"):format(file, value == true and key or value)
    end
  end
  local text, launch = MAKERS[kind](header(command, feature), feature, kind, sizes, chosen, M.read)
  return text, launch, file
end

local BASE = "lua5.4 gen/main.lua --base"

-- CUDA text of a row operator, for any size.
function M.cuda_row(row)
  return ("/* %s */\n"):format(BASE) .. target_cuda.row(row, M.read)
end

-- The C files and phi.cu of one feature: list of { path, text }.
local function attention_files(out, command, feature, id, sizes, dtype)
  local kinds = c_kernels.kinds_of(feature, sizes.D, dtype)
  local files, texts = {}, M.kernels(command, feature, id, sizes, dtype, kinds)
  for i, kind in ipairs(kinds) do
    files[i] = { ("%s/%s.c"):format(out, kind.name), texts[i] }
  end
  files[#files + 1] = { out .. "/phi.cu", sizes.D > 0 and M.cuda(feature, sizes, dtype, { kind = "phi" })
    or cuda_text(command, feature, sizes, dtype) }
  return files
end

local function registry_line(feature, matrix, sizes, id)
  return ("ATTN(%s, %s, %d, %d, %d, %s, %d)\n"):format(feature.name, matrix and matrix.name or "NULL",
    sizes.D, sizes.DV, sizes.M, id, feature.official and 1 or 0)
end

local function dependencies(targets, sources)
  local list = {}
  for i, name in ipairs(MODULES) do list[i] = disk.path("gen/" .. name .. ".lua") end
  for _, source in ipairs(sources) do list[#list + 1] = disk.path(source) end
  return ("%s: \\\n  %s\n"):format(table.concat(targets, " "), table.concat(list, " \\\n  "))
end

local function templates()
  local list = { target_cuda.SKELETON, table.unpack(target_cuda.RUNTIME) }
  local seen = {} -- two kinds may have one
  for _, kind in ipairs(c_kernels.kinds) do
    if not seen[kind.template] then list[#list + 1] = kind.template end
    seen[kind.template] = true
  end
  return list
end

local function manifest(command, feature, matrix, sizes, dtype, id, files)
  local constants, kinds, values, sources = object {}, {}, object {}, {}
  local built = c_kernels.kinds_of(feature, sizes.D, dtype)
  for i, constant in ipairs(component.constants(feature, sizes)) do constants[i] = constant end
  for i, file in ipairs(files) do
    local name = file[1]:match("[^/]+$")
    local kind = built[i]
    kinds[i] = object { { "file", name }, { "symbol", kind and ("%s_%s"):format(kind.name, id) or "" },
      { "fnv1a64", M.hash(file[2]) } }
  end
  for i, cost in ipairs(costs.costs(feature)) do
    values[i] = { cost[1], object { { "expression", cost[2] },
      { "value", costs.evaluate(cost[2], sizes, dtype) } } }
  end
  for i, source in ipairs { feature.path, matrix.path, table.unpack(templates()) } do
    sources[i] = object { { "path", source }, { "fnv1a64", M.hash(M.read(source)) } }
  end
  return json(object {
    { "format", 1 }, { "command", command }, { "feature", feature.name }, { "matrix", matrix.name },
    { "dtype", dtype }, { "id", id }, { "constants", constants }, { "kinds", kinds },
    { "per_token_head", values }, { "sources", sources },
  }, "") .. "\n"
end

-- A pair of exact sizes. Returns the files without writing them.
function M.pair(out, feat, kernel, sizes, dtype)
  local feature, matrix = M.load("feature", feat), M.load("matrix", kernel)
  local command = ("lua5.4 gen/main.lua FEAT=%s KERNEL=%s D=%d DV=%d M=%d DTYPE=%s"):format(feat, kernel,
    sizes.D, sizes.DV, sizes.M, dtype)
  local id = ("%s_%s_%d_%d_%d"):format(feature.id, kernel, sizes.D, sizes.DV, sizes.M)
  local files = attention_files(out, command, feature, id, sizes, dtype)
  local text = manifest(command, feature, matrix, sizes, dtype, id, files)
  local targets = {}
  for i, file in ipairs(files) do targets[i] = file[1] end
  files[#files + 1] = { out .. "/registry.inc",
    ("// %s\n// dtype %s\n"):format(command, dtype) .. registry_line(feature, matrix, sizes, id) }
  files[#files + 1] = { out .. "/manifest.json", text }
  files[#files + 1] = { out .. "/deps.d",
    dependencies(targets, { feature.path, matrix.path, linop.HEADER, table.unpack(templates()) }) }
  return files
end

-- Any-size kernels of every feature, row operators, the tables of features and matrices.
function M.base(out)
  local command, top = BASE, ("/* %s */\n"):format(BASE)
  local features, matrices, rows = M.load_all("feature"), M.load_all("matrix"), M.load_all("row")
  local any, files = { D = 0, DV = 0, M = 0 }, {}
  local registry = { ("// %s\n// dtype f32\n"):format(command) }
  local sources = templates()
  for _, feature in ipairs(features) do
    local folder = out .. "/" .. feature.id
    for _, file in ipairs(attention_files(folder, command, feature, feature.id, any, "f32")) do
      files[#files + 1] = file
    end
    registry[#registry + 1] = registry_line(feature, nil, any, feature.id)
    sources[#sources + 1] = feature.path
  end
  for _, row in ipairs(rows) do
    local stem = ("%s/row/%s"):format(out, row.name)
    files[#files + 1] = { stem .. ".c", top .. target_c.row(row) }
    files[#files + 1] = { stem .. ".cu", M.cuda_row(row) }
    registry[#registry + 1] = ("ROW(%s, %d)\n"):format(row.name, row.backward and 1 or 0)
    sources[#sources + 1] = row.path
  end
  files[#files + 1] = { out .. "/dense.c", top .. '#define FEATURE_ID dense\n#include "products.c"\n' }
  for _, matrix in ipairs(matrices) do sources[#sources + 1] = matrix.path end
  sources[#sources + 1] = linop.HEADER
  files[#files + 1] = { out .. "/features.c", top .. target_c.features(features) }
  files[#files + 1] = { out .. "/matrices.c", top .. target_c.matrices(matrices) }
  local targets = {}
  for i, file in ipairs(files) do targets[i] = file[1] end
  files[#files + 1] = { out .. "/registry.inc", table.concat(registry) }
  files[#files + 1] = { out .. "/deps.d", dependencies(targets, sources) }
  return files
end

-- Of the C texts in a folder.
local function kernel_hash(folder)
  local texts = {}
  for i, kind in ipairs(c_kernels.kinds) do
    texts[i] = disk.text(("%s/%s.c"):format(folder, kind.name)) or ""
  end
  return M.hash(table.concat(texts))
end

-- Lines of the directories' registry.inc: attention rows (pairs first) and row operators.
local function read_registry(folders)
  local pairs_of, any, rows, seen = {}, {}, {}, {}
  local dtype, dtype_of
  for _, folder in ipairs(folders) do
    local name = folder .. "/registry.inc"
    local text, message = disk.text(name)
    if not text then error(message, 0) end
    local this = text:match("// dtype (%w+)")
    if not this then error(("%s:2: expected '// dtype f32' or f64"):format(name), 0) end
    if dtype and this ~= dtype then
      error(("%s: kernels of %s and, in %s, of %s cannot be in one registry"):format(name, this, dtype_of,
        dtype), 0)
    end
    dtype, dtype_of = this, folder
    local line = "ATTN%(([%w_]+%+?), ([%w_]+), (%d+), (%d+), (%d+), ([%w_]+), ([01])%)"
    for feat, matrix, D, DV, m, id, official in text:gmatch(line) do
      if not seen[id] then
        seen[id] = true
        local texts = matrix == "NULL" and folder .. "/" .. id or folder
        table.insert(matrix == "NULL" and any or pairs_of, { feat = feat, matrix = matrix,
          sizes = ("%s, %s, %s"):format(D, DV, m), id = id,
          kinds = c_kernels.kinds_of({ official = official == "1" }, tonumber(D), this), hash = kernel_hash(texts) })
      end
    end
    for op, backward in text:gmatch("ROW%(([%w_]+), ([01])%)") do
      rows[#rows + 1] = { name = op, backward = backward == "1" }
    end
  end
  table.move(any, 1, #any, #pairs_of + 1, pairs_of)
  return pairs_of, rows
end

-- One table: every row for every instruction set, x86 rows inside #if. The verification build, which
-- is portable, defines PORTABLE_ONLY, one without AVX2 kernels WITHOUT_avx2, or WITHOUT_avx512.
local function registry_table(out, declaration, rows, line)
  out[#out + 1] = declaration
  for _, isa in ipairs(c_kernels.isas) do
    local x86 = isa.x86 and #rows > 0
    if x86 then
      out[#out + 1] = ("#if defined(__x86_64__) && !defined(PORTABLE_ONLY) && !defined(WITHOUT_%s)"):format(isa.name)
    end
    for _, row in ipairs(rows) do out[#out + 1] = line(row, isa) end
    if x86 then out[#out + 1] = "#endif" end
  end
  out[#out + 1] = "    {0},\n};\n"
end

-- build/registry.c from the directories that were generated.
function M.registry(out_path, folders)
  local attn, rows = read_registry(folders)
  local out = { "/* lua5.4 gen/main.lua --registry " .. table.concat(folders, " ") .. " */",
    '#include "kernel/kernel.h"', "" }
  for _, row in ipairs(attn) do
    for _, kind in ipairs(row.kinds) do
      for _, isa in ipairs(c_kernels.isas) do
        if c_kernels.is_for(kind, isa) then
          out[#out + 1] = ("extern const %s %s_%s_%s;"):format(kind.type, kind.name, row.id, isa.name)
        end
      end
    end
  end
  for _, row in ipairs(rows) do
    for _, isa in ipairs(c_kernels.isas) do
      out[#out + 1] = ("void row_fwd_%s_%s(const row_args *a);"):format(row.name, isa.name)
      if row.backward then
        out[#out + 1] = ("void row_bwd_%s_%s(const row_args *a);"):format(row.name, isa.name)
      end
    end
  end
  for _, isa in ipairs(c_kernels.isas) do
    out[#out + 1] = ("extern const product_ops products_dense_%s;"):format(isa.name)
  end
  out[#out + 1] = ""
  registry_table(out, "const attn_row generated_attn[] = {", attn, function(row, isa)
    local functions = c_kernels.functions(row.kinds, function(kind)
      return c_kernels.is_for(kind, isa) and ("&%s_%s_%s"):format(kind.name, row.id, isa.name)
    end)
    return ('    {"%s", %s, %s, %s,\n     %s,\n     "%s"},'):format(row.feat,
      row.matrix == "NULL" and "NULL" or ('"%s"'):format(row.matrix), row.sizes, isa.constant,
      table.concat(functions, ",\n     "), row.hash)
  end)
  registry_table(out, "const row_op generated_rows[] = {", rows, function(row, isa)
    return ('    {"%s", %s, row_fwd_%s_%s, %s},'):format(row.name, isa.constant, row.name, isa.name,
      row.backward and ("row_bwd_%s_%s"):format(row.name, isa.name) or "NULL")
  end)
  registry_table(out, "const product_row generated_products[] = {", { "products" }, function(name, isa)
    return ('    {%s, &%s_dense_%s},'):format(isa.constant, name, isa.name)
  end)
  return { { out_path, table.concat(out, "\n") } }
end

return M
