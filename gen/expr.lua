-- Hash-consed expressions. Equal expressions are the same table, so common subexpressions are found
-- by construction; ids grow with creation, so arguments always come before what uses them.
--
-- A node: { op, id, wide, deps, [1..arity] }, with `value` for op "const" and `name` for op "var".
--   wide  true for a vector (lanes of a kernel, elements of a row), false for one number
--   deps  what the value changes with, a set of the bits below
--   hint  name of the Lua local in the spec that held it, for readable output
local ops = require "gen.ops"

local M = {}

-- Kinds of dependency; a constant has none. ROW + TOKEN is an element.
M.UNIFORM, M.ROW, M.TOKEN = 1, 2, 4

local meta = { __name = "expression" }
local graph -- the one in use

-- The spec that is running, for errors that name its line: the name its chunk was loaded under, and
-- "file:line: " of the function called, for when a tail call has left the stack.
M.chunk, M.called = nil, ""

-- Raises an error at the line of the spec that is running.
function M.fail(message)
  for level = 2, 40 do
    local info = debug.getinfo(level, "S")
    if not info then break end
    if info.source == M.chunk then error(message, level) end
  end
  error(M.called .. message, 0)
end

function M.is_node(value)
  return getmetatable(value) == meta
end

-- Shortest decimal text that reads back as the same double.
function M.number(value)
  assert(value == value and math.abs(value) ~= math.huge, "number is not finite")
  local text
  for digits = 15, 17 do
    text = string.format("%." .. digits .. "g", value)
    if tonumber(text) == value then break end
  end
  return text:find("[%.e]") and text or text .. ".0"
end

local function intern(key, node)
  local known = graph.pool[key]
  if known then return known end
  graph.count = graph.count + 1
  node.id = graph.count
  graph.pool[key] = setmetatable(node, meta)
  return node
end

-- Every spec has its own graph, so that its text does not depend on what was loaded before it. Nodes
-- are made in, and must stay in, the graph in use.
function M.use(wanted)
  graph = wanted
end

function M.const(value)
  value = value + 0.0
  if value == 0 then value = 0.0 end
  return intern("c" .. M.number(value), { op = "const", value = value, wide = false, deps = 0 })
end

function M.var(name, deps, wide)
  local key = ("v%s:%d:%s"):format(name, deps, wide and "w" or "n")
  return intern(key, { op = "var", name = name, wide = wide or false, deps = deps, hint = name })
end

-- Number -> node; anything else that is not a node is the spec's mistake.
function M.lift(value, what)
  if M.is_node(value) then return value end
  if type(value) == "number" then
    if value ~= value or math.abs(value) == math.huge then
      M.fail(what .. " must be a finite number")
    end
    return M.const(value)
  end
  local kind = type(value)
  M.fail(("%s must be an expression, got %s%s"):format(what, kind == "nil" and "" or "a ", kind))
end

function M.apply(op, ...)
  local row = ops[op]
  local given = select("#", ...)
  if given ~= row.arity then
    M.fail(("%s takes %d argument%s, got %d"):format(op, row.arity, row.arity == 1 and "" or "s",
      given))
  end
  local args, values, constant = {}, {}, not row.reduces
  local wide, deps = false, 0
  local key = { op }
  for i = 1, given do
    local a = M.lift((select(i, ...)), ("argument %d of %s"):format(i, op))
    args[i], values[i], key[i + 1] = a, a.value, a.id
    constant = constant and a.op == "const"
    wide, deps = wide or a.wide, deps | a.deps
  end
  if constant then
    local value = row.eval(table.unpack(values))
    if value == value and math.abs(value) ~= math.huge then return M.const(value) end
  end
  local simpler = row.fold and row.fold(M, table.unpack(args))
  if simpler then return simpler end
  if row.commutes then
    local swapped = graph.pool[table.concat({ op, key[3], key[2] }, " ")]
    if swapped then return swapped end
  end
  args.op, args.wide, args.deps = op, wide and not row.reduces, deps
  return intern(table.concat(key, " "), args)
end

for op in pairs(ops) do
  M[op] = function(...) return M.apply(op, ...) end
end

-- Length of the vectors, position in the vector (0, 1, ...): the first two nodes of every graph.
graph = { pool = {}, count = 0 }
M.length = M.var("n", M.UNIFORM, false)
M.index = M.var("index", M.ROW | M.TOKEN, true)

function M.new_graph()
  local pool = {}
  for key, node in pairs(graph.pool) do
    if node == M.length or node == M.index then pool[key] = node end
  end
  return { pool = pool, count = 2 }
end

function M.onehot(label)
  return M.lt(M.abs(M.index - label), 0.5)
end

-- A NaN passes through, unlike with max and min.
function M.clamp(x, low, high)
  return M.where(M.lt(x, low), low, M.where(M.lt(high, x), high, x))
end

meta.__add = function(a, b) return M.add(a, b) end
meta.__sub = function(a, b) return M.sub(a, b) end
meta.__mul = function(a, b) return M.mul(a, b) end
meta.__div = function(a, b) return M.div(a, b) end
meta.__unm = function(a) return M.neg(a) end
meta.__pow = function(a, k)
  if type(k) ~= "number" or k ~= math.floor(k) or k < 1 or k > 8 then
    M.fail("an exponent must be a whole number from 1 to 8")
  end
  local power = a
  for _ = 2, k do power = power * a end
  return power
end
local function no_order()
  M.fail("expressions have no order while a spec runs; write lt(a, b) and where(c, a, b)")
end
meta.__lt, meta.__le = no_order, no_order

-- Nodes reachable from `roots`, arguments first. `stop(node)` true: its arguments are not visited.
function M.reachable(roots, stop)
  local seen, list = {}, {}
  local function visit(node)
    if seen[node] then return end
    seen[node] = true
    if not (stop and stop(node)) then
      for _, arg in ipairs(node) do visit(arg) end
    end
    list[#list + 1] = node
  end
  for _, root in ipairs(roots) do visit(root) end
  table.sort(list, function(a, b) return a.id < b.id end)
  return list
end

-- The node with others in the place of some of its variables.
function M.replace(node, values, memo)
  memo = memo or {}
  if values[node] then return values[node] end
  if #node == 0 then return node end
  if not memo[node] then
    local args = {}
    for i, arg in ipairs(node) do args[i] = M.replace(arg, values, memo) end
    memo[node] = M.apply(node.op, table.unpack(args))
  end
  return memo[node]
end

-- The oracle: value of a node. env maps names of variables to numbers or, for wide ones, lists of
-- n numbers. Returns a number or a list.
function M.evaluate(node, env, n, memo)
  memo = memo or {}
  local known = memo[node]
  if known ~= nil then return known end
  local value
  if node.op == "const" then
    value = node.value
  elseif node == M.length then
    value = n
  elseif node == M.index then
    value = {}
    for i = 1, n do value[i] = i - 1.0 end
  elseif node.op == "var" then
    value = assert(env[node.name], node.name)
  else
    local args, vectors = {}, false
    for i, arg in ipairs(node) do
      args[i] = M.evaluate(arg, env, n, memo)
      vectors = vectors or type(args[i]) == "table"
    end
    local eval = ops[node.op].eval
    if node.op == "sum" then
      value = 0.0
      for i = 1, n do value = value + args[1][i] end
    elseif node.op == "rmax" then
      value = math.max(table.unpack(args[1], 1, n))
    elseif not vectors then
      value = eval(table.unpack(args))
    else
      value = {}
      for i = 1, n do
        local at = {}
        for k, arg in ipairs(args) do at[k] = type(arg) == "table" and arg[i] or arg end
        value[i] = eval(table.unpack(at))
      end
    end
  end
  memo[node] = value
  return value
end

return M
