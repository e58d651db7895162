-- build/registry.c, the table of all kernels that were generated, from the folders' registry.inc.
local c_kernels = require "gen.c_kernels"
local files = require "gen.files"
local hash = require "gen.hash"

local M = {}

-- The line of a pair, or of a feature for any sizes, in registry.inc.
function M.attention_line(feature, matrix, sizes, id)
  return ("ATTN(%s, %s, %d, %d, %d, %s, %d)\n"):format(feature.name, matrix and matrix.name or "NULL",
    sizes.D, sizes.DV, sizes.M, id, feature.official and 1 or 0)
end

-- The line of a row operator.
function M.row_line(row)
  return ("ROW(%s, %d)\n"):format(row.name, row.backward and 1 or 0)
end

-- Of the C texts in a folder.
local function kernel_hash(folder)
  local texts = {}
  for i, kind in ipairs(c_kernels.kinds) do
    texts[i] = files.text(("%s/%s.c"):format(folder, kind.name)) or ""
  end
  return hash.fnv1a(table.concat(texts))
end

-- Lines of the directories' registry.inc: attention rows (pairs first) and row operators.
local function read_registry(folders)
  local pairs_of, any, rows, seen = {}, {}, {}, {}
  local dtype, dtype_of
  for _, folder in ipairs(folders) do
    local name = folder .. "/registry.inc"
    local text, message = files.text(name)
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
function M.files(out_path, folders)
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
