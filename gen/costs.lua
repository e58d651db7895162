-- What a feature costs: operations of a row of W and a token, and of attention for a token of a head.
local E = require "gen.expr"
local feature = require "gen.feature"
local ops = require "gen.ops"
local pass = require "gen.pass"

local M = {}

-- Operations to make the features of one row of W for one token, and their gradient, from hoisted
-- values; the exponential of each lane is counted with the feature.
function M.operations(spec)
  local plan = feature.plan(spec)
  local function stop(node) return plan.slots.class[node] ~= nil end
  local value = pass.flops(plan.value, stop) + spec.lanes * (ops.exp.flops + 1)
  return { value = value, grad = pass.flops(plan.grad, stop) + spec.lanes }
end

local TRANSCENDENTAL = { exp = true, log = true, sin = true, cos = true, atan = true, erf = true }

-- Exponentials and the like of a row of W for one token: those of lanes with a log of their own that changes with
-- the row, and what the features call for each row.
function M.exponentials(spec)
  local plan, count = feature.plan(spec), 0
  local function hoisted(node) return plan.slots.class[node] ~= nil end
  for l, first in ipairs(feature.log_lanes(spec)) do
    local log = plan.value[l]
    local class = pass.class(log)
    if first == l - 1 and (class == "element" or class == "row") then count = count + 1 end
  end
  for _, node in ipairs(E.reachable(plan.value, hoisted)) do
    if TRANSCENDENTAL[node.op] and not hoisted(node) then count = count + 1 end
  end
  return count
end

-- Cost of one token of one head, key and query together, as expressions in D, DV, M (lines of
-- { name, expression }); `evaluate` gives them numbers.
function M.costs(spec)
  local count, L = M.operations(spec), spec.lanes
  return {
    { "forward_flops", ("4*M*D + %d*M*(DV + 1) + %d*M"):format(4 * L, 2 * count.value) },
    { "backward_flops", ("8*M*D + %d*M*(DV + 1) + %d*M"):format(8 * L, 2 * (count.value + count.grad)) },
    { "forward_bytes", "S*(2*D + 2*DV + 1)" },
    { "backward_bytes", "S*(4*D + 4*DV + 1)" },
  }
end

function M.evaluate(expression, sizes, dtype)
  local env = { D = sizes.D, DV = sizes.DV, M = sizes.M, S = dtype == "f64" and 8 or 4 }
  return load("return " .. expression, "=cost", "t", env)()
end

-- The comment that the text of a feature begins with.
function M.heading(command, spec)
  local count = M.operations(spec)
  return ("/* %s\n * %s: %s\n * operations a feature row and token: %d the value, %d its gradient\n */\n")
    :format(command, spec.name, spec.doc, count.value, count.grad)
end

return M
