-- The constants of CUDA skeletons, read from their enums: what a block has in shared memory is written down once, as
-- the places of a skeleton (AT_X, KEYS_W ...), and the generator computes what these come to for sizes it considers.
-- The compiler does the same sums and compares them (static_assert of SHARED_BYTES).
--
-- Read are the enums outside functions of a file and of all it includes, in their order, and macros of one line.
-- Expressions are those of C on integers that are not negative. A name ending in _END ends a part of shared memory,
-- in floats; parts overlap, so the largest is what a block needs.
local feature = require "gen.feature"
local files = require "gen.files"
local splice = require "gen.splice"

local M = {}

local FOLDER = "templates/cuda/"

-- ---- C expressions to Lua ------------------------------------------------------------------------------

-- Of operators: precedence, spelling in Lua, whether operands and result are truth values.
local BINARY = {
  ["||"] = { 1, "or", true, true }, ["&&"] = { 2, "and", true, true },
  ["=="] = { 3, "==", false, true }, ["!="] = { 3, "~=", false, true },
  ["<"] = { 4, "<", false, true }, [">"] = { 4, ">", false, true },
  ["<="] = { 4, "<=", false, true }, [">="] = { 4, ">=", false, true },
  ["<<"] = { 5, "<<" }, ["+"] = { 6, "+" }, ["-"] = { 6, "-" },
  ["*"] = { 7, "*" }, ["/"] = { 7, "//" }, ["%"] = { 7, "%" },
}

local function tokens_of(text)
  local list, at = {}, 1
  while text:find("%S", at) do
    at = text:find("%S", at)
    local token = text:match("^[%w_]+", at) or text:match("^[|&=!<>][|&=<]", at) or text:sub(at, at)
    list[#list + 1] = token
    at = at + #token
  end
  return list
end

-- Lua text of a C expression. macros: name -> { parameters, body }; name_of(name) gives the text of a constant.
local function translate(text, macros, name_of)
  local tokens, at = tokens_of(text), 1
  local whole -- an expression from `at` on

  local function take(token)
    assert(tokens[at] == token, ("'%s': expected '%s'"):format(text, token))
    at = at + 1
  end

  -- Operands are { text, is a truth value }.
  local function number(x) return x[2] and ("(%s and 1 or 0)"):format(x[1]) or x[1] end
  local function truth(x) return x[2] and x[1] or ("(%s ~= 0)"):format(x[1]) end

  local function call(macro)
    local arguments = {}
    take "("
    for i, parameter in ipairs(macro[1]) do
      if i > 1 then take "," end
      arguments[parameter] = number(whole())
    end
    take ")"
    return { "(" .. translate(macro[2], macros, function(name) return arguments[name] or name_of(name) end) .. ")" }
  end

  local function primary()
    local token = tokens[at]
    at = at + 1
    if token == "(" then
      local inner = whole()
      take ")"
      return { "(" .. inner[1] .. ")", inner[2] }
    elseif token == "!" then
      return { "(not " .. truth(primary()) .. ")", true }
    elseif token:find("^%d") then
      return { token }
    end
    return macros[token] and call(macros[token]) or { name_of(token) }
  end

  local function binary(least)
    local left = primary()
    local row = BINARY[tokens[at]]
    while row and row[1] >= least do
      at = at + 1
      local right, operand = binary(row[1] + 1), row[3] and truth or number
      left = { ("(%s %s %s)"):format(operand(left), row[2], operand(right)), row[4] }
      row = BINARY[tokens[at]]
    end
    return left
  end

  function whole()
    local condition = binary(1)
    if tokens[at] ~= "?" then return condition end
    take "?"
    local yes = number(whole())
    take ":"
    return { ("(%s and %s or %s)"):format(truth(condition), yes, number(whole())) }
  end

  local result = number(whole())
  assert(at == #tokens + 1, ("'%s': '%s' is not understood"):format(text, tokens[at]))
  return result
end

-- ---- a skeleton's constants ----------------------------------------------------------------------------

-- A file with all it includes but the trivial feature, without comments.
local function text_of(path)
  local text = splice.inline(files.read(path), path, function(name)
    return FOLDER .. name, name == "stub.cuh" and "" or files.read(FOLDER .. name)
  end)
  return "\n" .. text:gsub("/%*.-%*/", " ")
end

-- The entries of an enum: commas in parentheses are of an entry.
local function entries_of(enum)
  local list = {}
  local hidden = enum:sub(2, -2):gsub("%b()", function(inner) return (inner:gsub(",", "\0")) end)
  for entry in hidden:gmatch("[^,]+") do list[#list + 1] = (entry:gsub("\0", ",")) end
  return list
end

-- { name, Lua text } of every constant in order, and the names of what has to be given.
local function constants_of(path)
  local text, macros, list, defined, given = text_of(path), {}, {}, {}, {}
  for name, parameters, body in text:gmatch("\n#define ([%w_]+)%(([%w_, ]*)%)([^\n]*[^\n\\])\n") do
    local names = {}
    for parameter in parameters:gmatch("[%w_]+") do names[#names + 1] = parameter end
    macros[name] = { names, body }
  end
  local function name_of(name)
    if not defined[name] then
      defined[name] = true
      given[#given + 1] = name
    end
    return name
  end
  for enum in text:gmatch("\nenum (%b{})") do
    local last
    for _, entry in ipairs(entries_of(enum)) do
      local name, value = entry:match("^%s*([%w_]+)%s*=%s*(.*)$")
      name = name or entry:match("[%w_]+")
      if name then
        list[#list + 1] = { name, value and translate(value, macros, name_of) or last and last .. " + 1" or "0" }
        defined[name], last = true, name
      end
    end
  end
  return list, given
end

-- A function that gives the value of a Lua expression of a file's constants.
local function compile(file, expression)
  local constants, given = constants_of(FOLDER .. file)
  local lines = { "local given = ..." }
  for _, name in ipairs(given) do lines[#lines + 1] = ("local %s = given.%s"):format(name, name) end
  for _, constant in ipairs(constants) do
    lines[#lines + 1] = ("local %s = %s"):format(constant[1], constant[2])
  end
  lines[#lines + 1] = "return " .. expression(constants)
  return assert(load(table.concat(lines, "\n"), "=" .. file, "t", { math = math }))
end

-- A function of a table of what is given (sizes, constants of the feature) that returns constants of a file of
-- templates/cuda by name. The file is read when it is first called.
function M.reader(file, ...)
  local names, compiled = table.concat({ ... }, ", "), nil
  return function(given)
    compiled = compiled or compile(file, function() return names end)
    return compiled(given)
  end
end

local readers = {}

-- Bytes of shared memory of a block of a kernel.
function M.shared_bytes(kernel, given)
  readers[kernel] = readers[kernel] or compile(kernel .. ".cu", function(constants)
    local ends = { "0" }
    for _, constant in ipairs(constants) do
      if constant[1]:find("_END$") then ends[#ends + 1] = constant[1] end
    end
    return ("4 * math.max(%s)"):format(table.concat(ends, ", "))
  end)
  return readers[kernel](given)
end

-- What is given for every kernel of a feature, and `more`.
function M.given(spec, sizes, more)
  local given = {}
  for _, constant in ipairs(feature.constants(spec, sizes)) do given[constant[1]] = constant[2] end
  for name, value in pairs(more) do given[name] = value end
  return given
end

return M
