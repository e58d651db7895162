-- Matrices as recipes: a spec builds a symbolic chain of primitives, s.chi_rows(s.haar()), and the
-- chain becomes the recipe_op table that runtime/matrix/recipe.c executes. Which primitives there are says
-- the sampler's header.
local E = require "gen.expr"

local M = {}

-- Where the sampler declares its primitives.
M.HEADER = "runtime/matrix/primitives.h"

-- Primitives declared in the text of that header, `PRIMITIVE(name, source or transform, numbers)`:
-- list of { name, source, args }. A source makes a matrix, a transform changes the one given; args is
-- how many numbers it takes besides.
function M.declared(text)
  local list = {}
  for name, kind, args in text:gmatch("PRIMITIVE%(([%l%d_]+), (%l+), (%d)%)") do
    if kind ~= "source" and kind ~= "transform" then
      error(("%s: '%s' is a '%s', neither source nor transform"):format(M.HEADER, name, kind), 0)
    end
    list[#list + 1] = { name = name, source = kind == "source", args = tonumber(args) }
  end
  if not list[1] then error(M.HEADER .. ": no PRIMITIVE(name, kind, numbers) found", 0) end
  return list
end

local meta = { __name = "matrix" }

function M.is_matrix(value)
  return getmetatable(value) == meta
end

local function primitive(row)
  local first = row.source and 0 or 1
  return function(...)
    local given, want = select("#", ...), first + row.args
    if given ~= want then
      E.fail(("%s takes %d argument%s, got %d"):format(row.name, want, want == 1 and "" or "s", given))
    end
    local input
    if not row.source then
      input = (...)
      if not M.is_matrix(input) then
        E.fail(("argument 1 of %s must be a matrix, got a %s"):format(row.name, type(input)))
      end
    end
    local args = {}
    for i = 1, row.args do
      args[i] = select(first + i, ...)
      if type(args[i]) ~= "number" then
        E.fail(("argument %d of %s must be a number, got a %s"):format(first + i, row.name,
          type(args[i])))
      end
    end
    return setmetatable({ op = row.name, args = args, input = input }, meta)
  end
end

-- What a spec's `sample` gets: one function per primitive of M.declared.
function M.toolbox(primitives)
  local box, names = {}, {}
  for _, row in ipairs(primitives) do
    box[row.name] = primitive(row)
    names[#names + 1] = row.name
  end
  return setmetatable(box, {
    __index = function(_, key)
      E.fail(("unknown primitive '%s', known are %s"):format(tostring(key), table.concat(names, " ")))
    end,
  })
end

-- The chain, first primitive first: list of { op, args }.
function M.recipe(matrix)
  local steps = {}
  while matrix do
    table.insert(steps, 1, { op = matrix.op, args = matrix.args })
    matrix = matrix.input
  end
  return steps
end

return M
