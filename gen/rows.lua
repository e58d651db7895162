-- Row operators: forward and derived backward as functions over `rows` independent rows of n
-- elements (row_args and row_op in runtime/kernel/kernel.h).
local E = require "gen.expr"
local pass = require "gen.pass"
local render = require "gen.render"

local M = {}

local NAMES = { "a", "n", "r", "j", "whole", "left", "inside", "count", "g", "lane",
  "part", "args", "k", "i", "j0", "share", "shares", "first" }

local function place(const, name, array, field)
  return ("        %sreal *%s = a->%s[%d] + r * a->ld_%s[%d];"):format(const, name, array, field.slot,
    array, field.slot)
end

-- store() for the gradient of an input: written where it is wanted, or added to what is there.
local function gradient(target, field, name, names, outer, lines, last)
  local wide, at, add = field.shape ~= "one", name, nil
  if field.shape == "shared" and target.shared_part then
    lines[#lines + 1], at = target.shared_part(name, field, outer, last)
  else
    lines[#lines + 1] = ("        real *%s = a->gin[%d] ? a->gin[%d] + r * a->ld_gin[%d] : NULL;")
      :format(name, field.slot, field.slot, field.slot)
  end
  if field.shape ~= "shared" then
    add = render.fresh(names, "add_" .. field.name)
    outer[#outer + 1] = ("    const bool %s = (a->add >> %d & 1) != 0;"):format(add, field.slot)
    if target.gradient_of then target.gradient_of(name, add) end
  end
  return function(value, tail)
    local old = wide and target.load(at, tail) or "*" .. at
    local total = add and ("%s ? %s + g : g"):format(add, old) or old .. " + g"
    return ("if (%s) {"):format(name),
      ("    const %s g = %s;"):format((wide and target.wide or target.narrow).type, value),
      "    " .. target.put(at, total, wide, tail), "}"
  end
end

-- One function. Beside what render.passes uses, the target has
--   row_open(which) -> head, first lines, line that opens the loop over rows
--   tail_mask       line that says which lanes of a tail are inside, or nil
--   put(at, value, wide, tail)                   stores a value
--   is_bits(field), bits_open(name) -> line      inputs that are no numbers; may be nil
--   row_start                                    lines the loop over rows begins with; may be nil
--   gradient_of(name, add)                       told of the gradient of an input; may be nil
--   outputs_again   backward writes the outputs too, where they are wanted
--   shared_part(name, field, outer, last) -> line, at
--                                                where gradients of shared inputs are collected: lines
--                                                before and behind the loop over rows
function M.render(spec, which, target)
  local backward = which == "row_bwd"
  local is_bits = target.is_bits or function() return false end
  local roots, used, fields = {}, {}, {}
  for _, field in ipairs(backward and spec.inputs or spec.outputs) do
    if not (backward and is_bits(field)) then fields[#fields + 1] = field end
  end
  for i, field in ipairs(fields) do
    roots[i] = backward and field.grad or field.node
  end
  for _, field in ipairs(backward and target.outputs_again and spec.outputs or {}) do
    if field.shape ~= "one" then
      fields[#fields + 1], roots[#roots + 1] = field, field.node
    end
  end
  for _, node in ipairs(E.reachable(roots)) do used[node] = true end
  local head, outer, open = target.row_open(which)
  local lines, inputs, known, names = {}, {}, { [E.length] = "count" }, render.names(NAMES)
  local last = {}
  for i, line in ipairs(target.row_start or {}) do lines[i] = line end

  local function take(field, var, array, name)
    if not used[var] then return end
    if field.shape == "one" then
      known[var] = render.fresh(names, name)
      lines[#lines + 1] = ("        const real %s = a->%s[%d][r * a->ld_%s[%d]];"):format(known[var],
        array, field.slot, array, field.slot)
    else
      inputs[var] = render.fresh(names, name .. "_row")
      lines[#lines + 1] = is_bits(field) and target.bits_open(inputs[var])
        or place("const ", inputs[var], array, field)
    end
  end
  for _, input in ipairs(spec.inputs) do take(input, input.var, "in", input.name) end
  for _, output in ipairs(backward and spec.outputs or {}) do
    take(output, output.seed, "gout", "g_" .. output.name)
  end
  for _, constant in ipairs(spec.constants) do
    if used[constant.var] then
      known[constant.var] = render.fresh(names, constant.name)
      outer[#outer + 1] = ("    const real %s = a->c[%d];"):format(known[constant.var], constant.slot)
    end
  end
  if used[E.length] then outer[#outer + 1] = "    const real count = (real)n;" end

  local outputs = {}
  for i, field in ipairs(fields) do
    local again = backward and roots[i] == field.node
    local name = render.fresh(names, (backward and not again and "g_" or "") .. field.name .. "_out")
    local wide = field.shape ~= "one"
    local store
    if again then
      lines[#lines + 1] = ("        real *%s = a->out[%d] ? a->out[%d] + r * a->ld_out[%d] : NULL;")
        :format(name, field.slot, field.slot, field.slot)
      store = function(value, tail)
        return ("if (%s)"):format(name), "    " .. target.put(name, value, wide, tail)
      end
    elseif backward then
      store = gradient(target, field, name, names, outer, lines, last)
    else
      lines[#lines + 1] = place("", name, "out", field)
      store = function(value, tail) return target.put(name, value, wide, tail) end
    end
    outputs[i] = { node = roots[i], wide = wide, store = store }
  end
  local passes = pass.passes(roots)
  for _, step in ipairs(passes) do
    if step.reductions[1] and target.tail_mask then
      outer[#outer + 1] = target.tail_mask
      break
    end
  end
  render.passes(target, outer, lines, "        ", outputs, inputs, known, names, "    ")
  local body = table.move(lines, 1, #lines, #outer + 2, outer)
  body[#body - #lines] = open
  body[#body + 1] = "    }"
  table.move(last, 1, #last, #body + 1, body)
  local out = { ("/* %d pass%s over the row */"):format(#passes, #passes == 1 and "" or "es"),
    target.prototypes and head .. ";" }
  render.fn(out, head, {}, body)
  return table.concat(out, "\n")
end

return M
