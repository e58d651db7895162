-- C: how values are spelled (against templates/c/vec.h), prologues of the attention skeletons, row operators.
local E = require "gen.expr"
local feature = require "gen.feature"
local row_operator = require "gen.rows"

local M = {}

local function number(value)
  return ("NUM(%s)"):format(E.number(value))
end

-- Vector code against vec.h: a wide value is a `vec`.
local vector = {
  wide = { type = "vec", key = "vec" },
  narrow = { type = "real", key = "c" },
  number = number,
  splat = "vset(%s)",
}

function vector.loops(lines, indent, body)
  lines[#lines + 1] = indent .. "for (int64_t j = 0; j < whole; j += VL) {"
  body(indent .. "    ", false)
  lines[#lines + 1] = indent .. "}"
  lines[#lines + 1] = indent .. "if (left > 0) {"
  lines[#lines + 1] = indent .. "    const int64_t j = whole;"
  body(indent .. "    ", true)
  lines[#lines + 1] = indent .. "}"
end

function vector.load(pointer, tail)
  return tail and ("vloadn(%s + j, left)"):format(pointer) or ("vload(%s + j)"):format(pointer)
end

function vector.index()
  return "viota() + vset((real)j)"
end

local NEUTRAL = { sum = "vset(NUM(0.0))", rmax = "vset(-(real)INFINITY)" }

function vector.start(op)
  return NEUTRAL[op]
end

function vector.accumulate(op, name, value, tail)
  if tail then value = ("v_where(inside, %s, %s)"):format(value, NEUTRAL[op]) end
  if op == "sum" then return ("%s = %s + %s;"):format(name, name, value) end
  return ("%s = v_max(%s, %s);"):format(name, name, value)
end

function vector.finish(op, name)
  return (op == "sum" and "vsum(%s)" or "vhmax(%s)"):format(name)
end

vector.prototypes = true
vector.outputs_again = true
vector.tail_mask = "    const vec inside = v_lt(viota(), vset((real)left));"

function vector.row_open(which)
  return ("void EXPORT(%s)(const row_args *a)"):format(which),
    { "    const int64_t n = a->n, whole = n - n % VL, left = n - whole;" },
    "    for (int64_t r = 0; r < a->rows; r++) {"
end

function vector.put(at, value, wide, tail)
  if not wide then return ("*%s = %s;"):format(at, value) end
  if tail then return ("vstoren(%s + j, %s, left);"):format(at, value) end
  return ("vstore(%s + j, %s);"):format(at, value)
end

-- Prologue of a skeleton: takes the place of #include "stub.h".
function M.prologue(spec, id, sizes)
  local out = {
    "#define FEATURE_ID " .. id,
    '#include "vec.h"',
    "",
    "#define NUM(x) ((real)(x))",
    "#define FEATURE_FN static inline __attribute__((always_inline, unused))",
    "",
    "enum {",
  }
  for _, constant in ipairs(feature.constants(spec, sizes)) do
    out[#out + 1] = ("    %s = %d,"):format(constant[1], constant[2])
  end
  out[#out + 1] = "};"
  out[#out + 1] = ("/* the first lane with the same log */\nstatic const int LOG_LANE[LANES] "
    .. "__attribute__((unused)) = {%s};\n"):format(table.concat(feature.log_lanes(spec), ", "))
  local functions = feature.functions(spec, vector, "FEATURE_FN ")
  return table.concat(table.move(functions, 1, #functions, #out + 1, out), "\n")
end

-- A row operator's source: forward and derived backward.
function M.row(spec)
  local out = {
    "#define FEATURE_ID " .. spec.name,
    '#include "vec.h"',
    "",
    "#define NUM(x) ((real)(x))",
    "",
    ("/* %s: %s (%s) */"):format(spec.name, spec.doc, spec.source),
    row_operator.render(spec, "row_fwd", vector),
  }
  if spec.backward then out[#out + 1] = row_operator.render(spec, "row_bwd", vector) end
  return table.concat(out, "\n")
end

return M
