-- Specs by name, from specs/, and a user's own component function from its text. What a spec may say is in
-- spec.lua.
local files = require "gen.files"
local hash = require "gen.hash"
local linop = require "gen.linop"
local spec = require "gen.spec"

local M = {}

-- Loads a spec by name; an unknown name gets the nearest known one. "posrf+" is the antithetic form
-- of the feature posrf.
function M.one(kind, name)
  local names, antithetic = files.names(kind), false
  if kind == "feature" and name:sub(-1) == "+" then name, antithetic = name:sub(1, -2), true end
  local known = false
  for _, candidate in ipairs(names) do known = known or candidate == name end
  if not known then
    error(("unknown %s '%s'%s"):format(kind == "row" and "row operator" or kind, name,
      spec.suggestion(name, names)), 0)
  end
  local relative = ("specs/%s/%s.lua"):format(kind, name)
  local text = files.read(relative)
  local how = { antithetic = antithetic }
  if kind == "matrix" then how.primitives = linop.declared(files.read(linop.HEADER)) end
  local loaded = spec.load_text(kind, name, relative, text, how)
  loaded.hash = hash.fnv1a(text)
  return loaded
end

-- All specs of a kind; features also in their antithetic form where they have one.
function M.all(kind)
  local list = {}
  for _, name in ipairs(files.names(kind)) do
    list[#list + 1] = M.one(kind, name)
    if list[#list].may_antithetic then list[#list + 1] = M.one(kind, name .. "+") end
  end
  return list
end

-- A user's own feature: path as given, its text.
local function own_feature(path, text)
  local name = path:match("([^/]*)%.lua$")
  if not name then error(("%s: a component function is a file NAME.lua"):format(path), 0) end
  if not name:find("^%a[%w_]*$") or #name > 60 then
    error(("%s: a name is of at most 60 letters, digits and _, a letter first"):format(path), 0)
  end
  if text:sub(1, 1) == "\27" then error(path .. ": a compiled chunk, not a text", 0) end
  for _, known in ipairs(files.names("feature")) do
    if known == name then
      error(("%s: '%s' is the name of a built-in component function; give it another"):format(path, name), 0)
    end
  end
  local feature = spec.load_text("feature", name, path, text)
  feature.hash = hash.fnv1a(text)
  feature.path = name .. ".lua" -- what is generated does not depend on where the file is
  feature.own = true
  return feature
end

-- By name, or a user's own by its path and text.
function M.feature(name, text)
  return text and own_feature(name, text) or M.one("feature", name)
end

return M
