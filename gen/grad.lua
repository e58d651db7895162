-- Reverse mode over the expression graph.
local E = require "gen.expr"
local ops = require "gen.ops"

local M = {}

-- Adjoints of the variables `wrt` of sum(seeds[i] * outputs[i]), in the order of wrt.
--
-- A narrow argument of a wide operator is broadcast, so its adjoint is the sum over the vector;
-- with `per_lane` that sum is left to the caller and the adjoint stays wide.
function M.gradients(outputs, seeds, wrt, per_lane)
  local active, adjoint = {}, {}
  for _, var in ipairs(wrt) do active[var] = true end
  local order = E.reachable(outputs)
  for _, node in ipairs(order) do
    for _, arg in ipairs(node) do
      active[node] = active[node] or active[arg]
    end
  end
  local function accumulate(node, from, g)
    if not per_lane and not node.wide then
      if g.wide then
        g = E.sum(g)
      elseif from.wide then
        g = E.mul(E.length, g)
      end
    end
    adjoint[node] = adjoint[node] and E.add(adjoint[node], g) or g
  end
  for i, output in ipairs(outputs) do
    if active[output] then accumulate(output, output, seeds[i]) end
  end
  for i = #order, 1, -1 do
    local node = order[i]
    local g, row = adjoint[node], ops[node.op]
    if g and node.hint and not g.hint and #g > 0 then g.hint = "g_" .. node.hint end
    if g and active[node] and row and row.grad then
      local parts = table.pack(row.grad(E, g, node, table.unpack(node)))
      for k, arg in ipairs(node) do
        if parts[k] and active[arg] then accumulate(arg, node, E.lift(parts[k], "adjoint")) end
      end
    end
  end
  local result = {}
  for i, var in ipairs(wrt) do result[i] = adjoint[var] or E.const(0) end
  return result
end

return M
