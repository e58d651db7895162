-- Decides when things are computed. For features: sums are regrouped by what they depend on and
-- everything that does not change with the element is hoisted. For rows and moments: sums cut the
-- work into passes over the vector. Also counts operations.
local E = require "gen.expr"
local ops = require "gen.ops"

local M = {}

local ELEMENT = E.ROW | E.TOKEN

-- "constant", "uniform", "row", "token" or "element".
function M.class(node)
  local kind = node.deps & ELEMENT
  if kind == ELEMENT then return "element" end
  if kind == E.ROW then return "row" end
  if kind == E.TOKEN then return "token" end
  return node.deps == 0 and "constant" or "uniform"
end

-- Terms of a sum as { sign, node }, in order.
local function terms_of(node, sign, list)
  if node.op == "add" or node.op == "sub" then
    terms_of(node[1], sign, list)
    terms_of(node[2], node.op == "sub" and -sign or sign, list)
  elseif node.op == "neg" then
    terms_of(node[1], -sign, list)
  else
    list[#list + 1] = { sign, node }
  end
  return list
end

local function add_terms(total, terms)
  for _, term in ipairs(terms) do
    if not total then
      total = term[1] > 0 and term[2] or -term[2]
    else
      total = term[1] > 0 and total + term[2] or total - term[2]
    end
  end
  return total
end

-- a*w2 + b*u - x2/2 - g*r2/2  ->  (b*u + a*w2) - (x2/2 + g*r2/2): one operation a group remains
-- where the elements are.
local function regroup_sum(node)
  local groups, order = {}, { "element", "row", "token" }
  for _, term in ipairs(terms_of(node, 1, {})) do
    local class = M.class(term[2])
    if class == "constant" then class = "uniform" end
    groups[class] = groups[class] or {}
    table.insert(groups[class], term)
  end
  if not groups.element then return node end
  if groups.uniform then
    local home = groups.row and "row" or groups.token and "token"
    if home then
      table.move(groups.uniform, 1, #groups.uniform, #groups[home] + 1, groups[home])
    else
      order[#order + 1] = "uniform"
    end
  end
  local total
  for _, class in ipairs(order) do
    local terms = groups[class]
    if terms and class == "element" then
      total = add_terms(nil, terms)
    elseif terms then
      local sign = terms[1][1]
      for _, term in ipairs(terms) do term[1] = term[1] * sign end
      local group = add_terms(nil, terms)
      total = sign > 0 and total + group or total - group
    end
  end
  return total
end

-- The same value with every sum regrouped. memo is shared between outputs.
function M.regroup(node, memo)
  if #node == 0 then return node end
  if memo[node] then return memo[node] end
  local args = {}
  for i, arg in ipairs(node) do args[i] = M.regroup(arg, memo) end
  local result = E.apply(node.op, table.unpack(args))
  if result.op == "add" or result.op == "sub" then result = regroup_sum(result) end
  if node.hint and not result.hint and #result > 0 then result.hint = node.hint end
  memo[node] = result
  return result
end

-- What to hoist for `roots`: { uniform = {nodes}, row = {...}, token = {...}, slot = {node -> i},
-- class = {node -> name} }, i counting from 0. Of `rare` roots only the uniform parts are hoisted.
function M.hoist(roots, rare)
  local slots = { uniform = {}, row = {}, token = {}, slot = {}, class = {} }
  local seen = {}
  local visit_args
  local function visit(node, home, only_uniform)
    local class = M.class(node)
    if class == "constant" or slots.slot[node] then return end
    if class ~= home and not (only_uniform and class ~= "uniform") then
      slots.slot[node], slots.class[node] = #slots[class], class
      table.insert(slots[class], node)
      if class ~= "uniform" then visit_args(node, class) end
    elseif not seen[node] then
      seen[node] = true
      visit_args(node, home, only_uniform)
    end
  end
  function visit_args(node, home, only_uniform)
    for _, arg in ipairs(node) do visit(arg, home, only_uniform) end
  end
  for _, root in ipairs(roots) do visit(root, "element") end
  for _, root in ipairs(rare or {}) do visit(root, "element", true) end
  return slots
end

-- Number of sums that must be finished before a node can be computed.
function M.stages(roots)
  local stage = {}
  for _, node in ipairs(E.reachable(roots)) do
    local s = 0
    for _, arg in ipairs(node) do
      s = math.max(s, stage[arg] + (ops[node.op].reduces and 1 or 0))
    end
    stage[node] = s
  end
  return stage
end

-- Passes over the vector: list of { reductions = {nodes} }; wide outputs belong to the last one,
-- so that an output may share its array with an input.
function M.passes(roots)
  local stage, passes, last = M.stages(roots), {}, 0
  local any_wide = false
  for _, root in ipairs(roots) do
    if root.wide then
      any_wide = true
      last = math.max(last, stage[root])
    end
  end
  for _, node in ipairs(E.reachable(roots)) do
    if ops[node.op] and ops[node.op].reduces then
      local at = stage[node]
      for i = #passes + 1, at do passes[i] = { reductions = {} } end
      table.insert(passes[at].reductions, node)
    end
  end
  if any_wide then
    for i = #passes + 1, last + 1 do passes[i] = { reductions = {} } end
    passes[#passes].outputs = true
  end
  return passes, stage
end

-- Operations to compute `roots` once, arguments for which stop() holds being given.
function M.flops(roots, stop)
  local total = 0
  for _, node in ipairs(E.reachable(roots, stop)) do
    if ops[node.op] and not (stop and stop(node)) then total = total + ops[node.op].flops end
  end
  return total
end

-- Every argument before its use, widths and dependencies consistent: run between passes.
function M.verify(roots)
  for _, node in ipairs(E.reachable(roots)) do
    local row, wide, deps = ops[node.op], false, 0
    assert(row == nil or #node == row.arity, "arity")
    for _, arg in ipairs(node) do
      assert(E.is_node(arg) and arg.id < node.id, "argument after its use")
      wide, deps = wide or arg.wide, deps | arg.deps
    end
    if row then
      assert(node.deps == deps, "dependencies")
      assert(node.wide == (wide and not row.reduces), "width")
    end
  end
  return roots
end

return M
