-- Expressions to text. A target is a small table of spellings:
--   wide, narrow   { type, key }: how values are declared, which spelling of ops.lua they use
--   number(v)      text of a constant
--   suffix         of function names in CUDA, "f" or ""
--   splat          "vset(%s)" or nil: how a narrow value enters a wide operation
-- and, for passes over a vector, the functions listed at M.passes.
local E = require "gen.expr"
local ops = require "gen.ops"
local pass = require "gen.pass"

local M = {}

local INLINE = 44 -- longer expressions get a name

local taken = {}
for word in ([[auto break case char const continue default do double else enum extern float for goto
  if inline int long register return short signed sizeof static struct switch typedef union unsigned
  void volatile while bool true false real vec isa log exp sin cos sqrt]])
  :gmatch("%S+") do
  taken[word] = true
end

-- A set of names; `fresh` returns one that is free and takes it.
function M.names(list)
  local set = {}
  for _, name in ipairs(list or {}) do set[name] = true end
  return set
end

function M.fresh(names, hint)
  local base, k = hint or "t", hint and 0 or 1
  local name = hint or "t1"
  while taken[name] or names[name] do
    k = k + 1
    name = hint and ("%s_%d"):format(base, k) or base .. k
  end
  names[name] = true
  return name
end

function M.copy(t)
  return setmetatable({}, { __index = t })
end

-- Statements that compute `roots`, appended to `lines`.
--   known   node -> text of what is there already; temporaries made here are added
--   leaf    optional function(node) -> text, asked before a node is computed
--   force   every root gets a name
-- Returns text(node, wide): the node as an operand of precedence 4 of the given width.
function M.block(target, lines, indent, roots, known, names, leaf, force)
  local function given(node)
    if not known[node] and leaf then known[node] = leaf(node) end
    return known[node]
  end
  local order = E.reachable(roots, given)
  local uses, is_root = {}, {}
  for _, root in ipairs(roots) do
    uses[root], is_root[root] = (uses[root] or 0) + 1, true
  end
  for _, node in ipairs(order) do
    if not given(node) then
      for _, arg in ipairs(node) do uses[arg] = (uses[arg] or 0) + 1 end
    end
  end
  local text, strength = {}, {}
  local function operand(node, wide, least)
    local t = text[node] or known[node]
    if not t and node.op == "const" then t = target.number(node.value) end
    assert(t, node.name or node.op)
    if wide and not node.wide and target.splat then return target.splat:format(t) end
    return (strength[node] or 4) < least and "(" .. t .. ")" or t
  end
  for _, node in ipairs(order) do
    if not given(node) and node.op ~= "const" then
      local row = assert(ops[node.op], node.name)
      local kind = node.wide and target.wide or target.narrow
      local spelled = row[kind.key]:gsub("@", target.suffix or ""):gsub("%$(%d)", function(k)
        k = tonumber(k)
        local least = row.prec == 4 and 0 or row.prec + ((k == 2 or row.prec == 3) and 1 or 0)
        return operand(node[k], node.wide, least)
      end)
      local inline = (uses[node] == 1 and not node.hint and #spelled <= INLINE)
        or (is_root[node] and uses[node] == 1)
      if inline and not (force and is_root[node]) then
        text[node], strength[node] = spelled, row.prec
      else
        local name = M.fresh(names, node.hint)
        lines[#lines + 1] = ("%sconst %s %s = %s;"):format(indent, kind.type, name, spelled)
        known[node] = name
      end
    end
  end
  return function(node, wide, least) return operand(node, wide, least or 0) end
end

-- Narrow nodes that wide ones or the outputs need, constants apart, by id.
local function needed_narrow(roots)
  local list, seen = {}, {}
  local function need(node)
    if not node.wide and node.op ~= "const" and not seen[node] then
      seen[node] = true
      list[#list + 1] = node
    end
  end
  for _, node in ipairs(E.reachable(roots)) do
    if node.wide then
      for _, arg in ipairs(node) do need(arg) end
    end
  end
  for _, root in ipairs(roots) do need(root) end
  table.sort(list, function(a, b) return a.id < b.id end)
  return list
end

local function append(lines, indent, ...)
  for _, line in ipairs { ... } do lines[#lines + 1] = indent .. line end
end

-- Body of one loop of a pass: loads, what the vector needs, sums and maxima, outputs.
local function pass_body(target, lines, indent, step, accumulators, io, known, names, tail)
  local roots, results = {}, step.outputs and io.outputs or {}
  for _, node in ipairs(step.reductions) do roots[#roots + 1] = node[1] end
  for _, output in ipairs(results) do
    if output.wide then roots[#roots + 1] = output.node end
  end
  known, names = M.copy(known), M.copy(names)
  local function leaf(node)
    if node.op ~= "var" or not node.wide then return nil end
    local name = M.fresh(names, target.element and target.element(node.hint) or node.hint)
    local value = node == E.index and target.index(tail) or target.load(io.inputs[node], tail)
    lines[#lines + 1] = ("%sconst %s %s = %s;"):format(indent, target.wide.type, name, value)
    return name
  end
  local text = M.block(target, lines, indent, roots, known, names, leaf)
  for _, node in ipairs(step.reductions) do
    lines[#lines + 1] = indent
      .. target.accumulate(node.op, accumulators[node], text(node[1], true), tail)
  end
  for _, output in ipairs(results) do
    if output.wide then append(lines, indent, output.store(text(output.node, true), tail)) end
  end
end

-- Passes over a vector of length n that compute `outputs`.
--   outputs   list of { node, wide = true for a vector, store(value, tail) -> statements }
--   inputs    node of a wide variable -> text of its pointer; known has the narrow variables
--   target.loops(lines, indent, body)         calls body(indent, tail) once for each loop it opens
--   target.load(pointer, tail)                target.index(tail)
--   target.start(op), target.accumulate(op, name, value, tail), target.finish(op, name)
-- `outer` lines come before everything: what depends on constants only.
function M.passes(target, outer, lines, indent, outputs, inputs, known, names, outer_indent)
  local roots = {}
  for i, output in ipairs(outputs) do roots[i] = output.node end
  pass.verify(roots)
  local passes, stage = pass.passes(roots)
  local narrow, io = needed_narrow(roots), { outputs = outputs, inputs = inputs }

  local function emit_narrow(at)
    local uniform, rest = {}, {}
    for _, node in ipairs(narrow) do
      if stage[node] == at and not known[node] then
        table.insert(pass.class(node) == "uniform" and at == 0 and uniform or rest, node)
      end
    end
    M.block(target, outer, outer_indent or indent, uniform, known, names, nil, true)
    M.block(target, lines, indent, rest, known, names, nil, true)
  end

  emit_narrow(0)
  for k, step in ipairs(passes) do
    local accumulators = {}
    for _, node in ipairs(step.reductions) do
      local name = M.fresh(names, node.hint or ((node.op == "sum" and "sum_" or "max_")
        .. (node[1].hint or k)))
      known[node], accumulators[node] = name, M.fresh(names, name .. "_acc")
      lines[#lines + 1] = ("%s%s %s = %s;"):format(indent, target.wide.type, accumulators[node],
        target.start(node.op))
    end
    target.loops(lines, indent, function(inner, tail)
      pass_body(target, lines, inner, step, accumulators, io, known, names, tail)
    end)
    for _, node in ipairs(step.reductions) do
      lines[#lines + 1] = ("%sconst %s %s = %s;"):format(indent, target.narrow.type, known[node],
        target.finish(node.op, accumulators[node]))
    end
    emit_narrow(k)
  end
  for _, output in ipairs(outputs) do
    if not output.wide then
      local value = known[output.node] or target.number(output.node.value)
      append(lines, indent, output.store(value))
    end
  end
  return passes
end

-- A function appended to `out`. `params` are the names in `head`; those the body does not mention
-- are marked as unused.
function M.fn(out, head, params, body)
  local text = "\n" .. table.concat(body, "\n") .. "\n"
  out[#out + 1] = head .. "\n{"
  for _, param in ipairs(params) do
    if not text:find("[^%w_]" .. param .. "[^%w_]") then
      out[#out + 1] = ("    (void)%s;"):format(param)
    end
  end
  table.move(body, 1, #body, #out + 1, out)
  out[#out + 1] = "}\n"
end

return M
