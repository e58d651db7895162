-- manifest.json of a pair: what was made, from what, and what it costs.
local c_kernels = require "gen.c_kernels"
local component = require "gen.feature"
local costs = require "gen.costs"
local E = require "gen.expr"
local files = require "gen.files"
local hash = require "gen.hash"

local M = {}

-- Objects are lists of { key, value }, marked with `object`; arrays are plain lists.
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

-- made: the pair's files, { path, text }, its kernels first; templates: paths of all that its text may be made of.
function M.text(command, feature, matrix, sizes, dtype, id, made, templates)
  local constants, kinds, values, sources = object {}, {}, object {}, {}
  local built = c_kernels.kinds_of(feature, sizes.D, dtype)
  for i, constant in ipairs(component.constants(feature, sizes)) do constants[i] = constant end
  for i, file in ipairs(made) do
    local name = file[1]:match("[^/]+$")
    local kind = built[i]
    kinds[i] = object { { "file", name }, { "symbol", kind and ("%s_%s"):format(kind.name, id) or "" },
      { "fnv1a64", hash.fnv1a(file[2]) } }
  end
  for i, cost in ipairs(costs.costs(feature)) do
    values[i] = { cost[1], object { { "expression", cost[2] },
      { "value", costs.evaluate(cost[2], sizes, dtype) } } }
  end
  for i, source in ipairs { feature.path, matrix.path, table.unpack(templates) } do
    sources[i] = object { { "path", source }, { "fnv1a64", hash.fnv1a(files.read(source)) } }
  end
  return json(object {
    { "format", 1 }, { "command", command }, { "feature", feature.name }, { "matrix", matrix.name },
    { "dtype", dtype }, { "id", id }, { "constants", constants }, { "kinds", kinds },
    { "per_token_head", values }, { "sources", sources },
  }, "") .. "\n"
end

return M
