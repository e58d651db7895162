-- The C tables of component functions and weight matrices (feature_info, matrix_info of the runtime), with the
-- functions of a head's few numbers that their rows point to.
local costs = require "gen.costs"
local E = require "gen.expr"
local feature = require "gen.feature"

local M = {}

local function quoted(text)
  return '"' .. text:gsub('[\\"]', "\\%0"):gsub("\n", "\\n") .. '"'
end

local function number(value)
  return ("NUM(%s)"):format(E.number(value))
end

-- Plain loops, for the few numbers of a head.
local plain = {
  wide = { type = "real", key = "c" },
  narrow = { type = "real", key = "c" },
  number = number,
}

function plain.loops(lines, indent, body)
  lines[#lines + 1] = indent .. "for (int64_t j = 0; j < d; j++) {"
  body(indent .. "    ", false)
  lines[#lines + 1] = indent .. "}"
end

function plain.element(name)
  return name .. "_j"
end

function plain.load(pointer)
  return pointer .. "[j]"
end

function plain.index()
  return "(real)j"
end

function plain.start(op)
  return op == "sum" and "0" or "-(real)INFINITY"
end

function plain.accumulate(op, name, value)
  if op == "sum" then return ("%s += %s;"):format(name, value) end
  return ("%s = s_max(%s, %s);"):format(name, name, value)
end

function plain.finish(_, name)
  return name
end

function plain.head(spec, name)
  return ("static void %s_%s"):format(spec.id, name)
end

function plain.add(array, at, value)
  return ("%s[%s] += %s;"):format(array, at, value)
end

local function names_array(spec, list, suffix)
  local quoted_names = {}
  for i, name in ipairs(list) do quoted_names[i] = quoted(name) end
  return ("static const char *const %s_%s[] = {%s};"):format(spec.id, suffix,
    #list > 0 and table.concat(quoted_names, ", ") or "NULL")
end

local function field(name, value)
  return ("     .%s = %s,"):format(name, value)
end

-- Which moments the parameters need beyond means and mean squares, as a bit set of kernel.h.
local function moments_needed(spec)
  local bits, used = 0, {}
  for _, output in ipairs(spec.adapt or {}) do
    for _, node in ipairs(E.reachable { output.node }) do used[node] = true end
  end
  for i, var in ipairs(spec.vars.m) do
    if used[var] then bits = bits | 1 << (i - 1) end
  end
  return bits
end

-- A row of the table of component functions, and the functions it needs before it.
local function feature_row(spec, out)
  local n, defaults = spec.id, {}
  out[#out + 1] = ("/* %s: %s */"):format(spec.name, spec.doc)
  for i, value in ipairs(spec.defaults) do defaults[i] = number(value) end
  out[#out + 1] = names_array(spec, spec.scalars, "scalars")
  out[#out + 1] = names_array(spec, spec.vectors, "vectors")
  out[#out + 1] = ("static const real %s_defaults[] = {%s};\n"):format(n, table.concat(defaults, ", "))
  local row = {
    field("name", quoted(spec.name)), field("doc", quoted(spec.doc)),
    field("source", quoted(spec.source)), field("lanes", spec.lanes),
    field("exponentials", costs.exponentials(spec)),
    field("scalars", #spec.scalars), field("vectors", #spec.vectors),
    field("is_signed", tostring(spec.signed)), field("scalar_names", n .. "_scalars"),
    field("vector_names", n .. "_vectors"), field("scalar_default", n .. "_defaults"),
    field("hash", quoted(spec.hash)), field("projections", spec.projections),
    field("moments", moments_needed(spec)),
  }
  local function add(name, value) row[#row + 1] = field(name, value) end
  if spec.antithetic then add("is_antithetic", "true") end
  if spec.may_antithetic then add("may_antithetic", "true") end
  if spec.official then add("has_official", "true") end
  if spec.second_own then add("second_own", "true") end
  if spec.linear then add("linear", "LINEAR_" .. spec.linear:upper()) end
  if spec.counts then
    add("counts", "COUNTS_" .. spec.counts:upper())
    add("counts_scalar", spec.counts_scalar - 1)
  end
  if spec.adapt then
    feature.adapt(spec, plain, out)
    feature.adapt_grad(spec, plain, out)
    add("adapt", n .. "_adapt")
    add("adapt_grad", n .. "_adapt_grad")
  end
  if spec.constant then
    feature.constant(spec, plain, out)
    add("constant", n .. "_constant")
  end
  if spec.learn[1] then
    feature.learn(spec, plain, out)
    local learned = {}
    for i, entry in ipairs(spec.learn) do
      learned[i] = ("    {%d, %s, %s_learn_%s, %s_learn_%s_grad},"):format(entry.slot, number(entry.start), n,
        entry.name, n, entry.name)
    end
    out[#out + 1] = ("static const learned_scalar %s_learned[] = {\n%s\n};\n"):format(n,
      table.concat(learned, "\n"))
    add("learned", #spec.learn)
    add("learn", n .. "_learned")
  end
  return "    {\n" .. table.concat(row, "\n") .. "\n    },"
end

-- The table of component functions with their data-dependent parameters.
function M.features(specs)
  local out = { '#include "vec.h"', "", "#define NUM(x) ((real)(x))", "" }
  local rows = {}
  for i, spec in ipairs(specs) do rows[i] = feature_row(spec, out) end
  out[#out + 1] = "const feature_info generated_features[] = {"
  out[#out + 1] = table.concat(rows, "\n")
  out[#out + 1] = "    {0},\n};\n"
  return table.concat(out, "\n")
end

-- The table of weight matrices.
function M.matrices(specs)
  local out, rows = { '#include "kernel/kernel.h"', "" }, {}
  for _, spec in ipairs(specs) do
    local steps = {}
    for i, step in ipairs(spec.recipe) do
      steps[i] = ("    {%s, {%s, %s}},"):format(quoted(step.op), E.number((step.args[1] or 0) + 0.0),
        E.number((step.args[2] or 0) + 0.0))
    end
    out[#out + 1] = ("static const recipe_op %s_recipe[] = {\n%s\n};\n"):format(spec.name,
      table.concat(steps, "\n"))
    rows[#rows + 1] = ("    {%s,\n     %s,\n     %s,\n     %s, %d, %s_recipe, %s, %s},"):format(
      quoted(spec.name), quoted(spec.doc), quoted(spec.source), quoted(spec.law), #spec.recipe, spec.name,
      quoted(spec.hash), spec.learner and quoted(spec.learner) or "NULL")
  end
  out[#out + 1] = "const matrix_info generated_matrices[] = {"
  out[#out + 1] = table.concat(rows, "\n")
  out[#out + 1] = "    {0},\n};\n"
  return table.concat(out, "\n")
end

return M
