-- JSON Lines into tables: what the benchmarks write, read by the scripts beside this one. Objects and arrays
-- become tables, null becomes nil, so that a number that was not measured is absent.
local M = {}

local escapes = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
local literals = { { "true", true }, { "false", false }, { "null", nil } }

local value -- parses text from a position; returns what is there and the position behind it

local function skip(text, at) return text:match("^%s*()", at) end

local function string_at(text, at)
  local out, from = {}, at + 1
  while true do
    local stop = text:find('["\\]', from)
    if not stop then error("a string without its end") end
    out[#out + 1] = text:sub(from, stop - 1)
    if text:sub(stop, stop) == '"' then return table.concat(out), stop + 1 end
    local c = text:sub(stop + 1, stop + 1)
    from = stop + 2
    if c == "u" then
      out[#out + 1] = utf8.char(tonumber(text:sub(from, from + 3), 16))
      from = from + 4
    else
      out[#out + 1] = escapes[c] or c
    end
  end
end

-- Items up to `close`; each calls `item`, which returns the position behind it.
local function list(text, at, close, item)
  at = skip(text, at + 1)
  while text:sub(at, at) ~= close do
    at = skip(text, item(at))
    local mark = text:sub(at, at)
    if mark == "," then at = skip(text, at + 1)
    elseif mark ~= close then error(("'%s' or ',' expected at %d"):format(close, at)) end
  end
  return at + 1
end

function value(text, at)
  local c = text:sub(at, at)
  if c == '"' then return string_at(text, at) end
  local out = {}
  if c == "{" then
    return out, list(text, at, "}", function(i)
      local key, colon = string_at(text, i)
      colon = skip(text, colon)
      if text:sub(colon, colon) ~= ":" then error("':' expected at " .. colon) end
      out[key], i = value(text, skip(text, colon + 1))
      return i
    end)
  elseif c == "[" then
    local n = 0
    return out, list(text, at, "]", function(i)
      n = n + 1
      out[n], i = value(text, i)
      return i
    end)
  end
  for _, l in ipairs(literals) do
    if text:sub(at, at + #l[1] - 1) == l[1] then return l[2], at + #l[1] end
  end
  local number, behind = text:match("^(-?[%d.eE+-]+)()", at)
  if not tonumber(number) then error("no JSON at " .. at) end
  return tonumber(number), behind
end

-- The records of a file, in order. Fails with file:line of what is no JSON object.
function M.read(path)
  local file, why = io.open(path, "r")
  if not file then return nil, why end
  local records, number = {}, 0
  for line in file:lines() do
    number = number + 1
    if line:find("%S") then
      local good, record = pcall(function()
        local record, behind = value(line, skip(line, 1))
        if type(record) ~= "table" or skip(line, behind) <= #line then error("an object expected", 0) end
        return record
      end)
      if not good then
        file:close()
        return nil, ("%s:%d: %s"):format(path, number, tostring(record):gsub("^.-:%d+: ", ""))
      end
      records[#records + 1] = record
    end
  end
  file:close()
  return records
end

-- For scripts: ends the program with one sentence where the file cannot be read.
function M.need(path)
  local records, why = M.read(path)
  if not records then
    io.stderr:write(("%s: %s\n"):format(arg[0]:match("[^/]*$"), why))
    os.exit(1)
  end
  return records
end

return M
