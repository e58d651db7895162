-- The order of the runtime's folders, as runtime/README.md states it: includes of headers go to folders listed
-- before, and no two object files need each other. lua5.4 tests/layers.lua BUILD  (with build/obj in BUILD/obj)

local ROOT, LIST = "runtime/", "runtime/README.md"
local build = arg[1] or "build"
local problems = {}

local function problem(...)
  problems[#problems + 1] = string.format(...)
end

local function lines_of(command)
  local pipe = assert(io.popen(command))
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = line end
  assert(pipe:close(), command .. " failed")
  return lines
end

-- ---- the list -------------------------------------------------------------------------------------

-- place[folder] = its number in the list; "a/*" stands for every folder in a that has no line of its own
local function read_list()
  local place, uses, cycles, count = {}, {}, {}, 0
  for line in io.lines(LIST) do
    local from, to = line:match("^%- `([^`]+)` uses `([^`]+)`: .")
    local cycle = line:match("^%- cycle `([^`]+)`: .")
    local folder = line:match("^%- `([^`]+)` ")
    if from then
      uses[from .. " " .. to] = 0
    elseif cycle then
      cycles[cycle] = 0
    elseif folder then
      count = count + 1
      place[(folder:gsub("/$", ""))] = count
    end
  end
  assert(count > 0, LIST .. ": no list of folders")
  return place, uses, cycles
end

local place, uses, cycles = read_list()

local function folder_of(path)
  return path:match("^(.*)/[^/]*$") or "."
end

-- The line that stands for a folder, and whether others share it.
local function line_of(folder)
  if place[folder] then return folder, false end
  local star = folder_of(folder) .. "/*"
  return place[star] and star, true
end

-- ---- includes -------------------------------------------------------------------------------------

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

-- Headers outside of the runtime are shared with generated text: the skeletons' and CUDA's.
local function outside(header)
  return header:match("^%.%./templates/") and exists(ROOT .. header) or exists("templates/c/" .. header)
end

local function check_include(file, number, header)
  local from, to = folder_of(file), folder_of(header)
  if outside(header) then return end
  if not exists(ROOT .. header) then
    problem("%s%s:%d: there is no header %s", ROOT, file, number, header)
    return
  end
  local from_line, shared = line_of(from)
  local to_line = line_of(to)
  if not from_line or not to_line then
    problem("%s%s:%d: %s has no line in %s", ROOT, file, number, from_line and to or from, LIST)
  elseif uses[from .. " " .. to] then
    uses[from .. " " .. to] = uses[from .. " " .. to] + 1
  elseif from ~= to then
    if from_line == to_line and shared then
      problem("%s%s:%d: %s and %s do not include each other", ROOT, file, number, from, to)
    elseif place[to_line] > place[from_line] then
      problem("%s%s:%d: %s comes before %s and cannot include %s", ROOT, file, number, from, to, header)
    end
  end
end

local files = lines_of("find " .. ROOT .. " -name '*.[ch]' | sort")
for _, path in ipairs(files) do
  local file, number = path:sub(#ROOT + 1), 0
  for line in io.lines(path) do
    number = number + 1
    local header = line:match('^%s*#%s*include%s*"([^"]+)"')
    if header then check_include(file, number, header) end
  end
end

-- ---- cycles among object files ----------------------------------------------------------------------

-- needs[object] = list of the objects that define what it does not
local function read_objects()
  local prefix = build .. "/obj/" .. ROOT
  local defined_by, wanted, objects = {}, {}, {}
  for _, path in ipairs(files) do
    local object = path:match("^" .. ROOT .. "(.*)%.c$")
    if object and exists(prefix .. object .. ".o") then
      objects[#objects + 1] = object
      wanted[object] = {}
      for _, line in ipairs(lines_of("nm '" .. prefix .. object .. ".o'")) do
        local kind, symbol = line:match("(%a) (%S+)$")
        if kind == "U" then
          table.insert(wanted[object], symbol)
        elseif kind:match("[TDBRC]") then
          defined_by[symbol] = object
        end
      end
    end
  end
  local needs = {}
  for _, object in ipairs(objects) do
    needs[object] = {}
    for _, symbol in ipairs(wanted[object]) do
      local other = defined_by[symbol]
      if other and other ~= object then table.insert(needs[object], other) end
    end
  end
  return objects, needs
end

-- Strongly connected components of more than one object (Tarjan 1972).
local function find_cycles(objects, needs)
  local index, low, on_stack, stack, found, count = {}, {}, {}, {}, {}, 0
  local function visit(object)
    count = count + 1
    index[object], low[object] = count, count
    stack[#stack + 1], on_stack[object] = object, true
    for _, other in ipairs(needs[object]) do
      if not index[other] then
        visit(other)
        low[object] = math.min(low[object], low[other])
      elseif on_stack[other] then
        low[object] = math.min(low[object], index[other])
      end
    end
    if low[object] < index[object] then return end
    local component = {}
    repeat
      component[#component + 1] = table.remove(stack)
      on_stack[component[#component]] = nil
    until component[#component] == object
    if #component > 1 then found[#found + 1] = component end
  end
  for _, object in ipairs(objects) do
    if not index[object] then visit(object) end
  end
  return found
end

-- The line that allows the cycle: all its objects are in that folder.
local function allowed(component)
  for folder in pairs(cycles) do
    local all = true
    for _, object in ipairs(component) do all = all and object:sub(1, #folder) == folder end
    if all then return folder end
  end
end

local objects, needs = read_objects()
if #objects < 20 then problem("%s/obj/%s has %d object files: nothing was built there", build, ROOT, #objects) end
for _, component in ipairs(find_cycles(objects, needs)) do
  local folder = allowed(component)
  if folder then
    cycles[folder] = cycles[folder] + 1
  else
    table.sort(component)
    problem("object files that need each other: %s", table.concat(component, ", "))
  end
end
for folder, seen in pairs(cycles) do
  if seen == 0 then problem("%s: there is no cycle in %s any more", LIST, folder) end
end
for pair, seen in pairs(uses) do
  if seen == 0 then problem("%s: no file needs the exception %s any more", LIST, pair) end
end

table.sort(problems)
for _, text in ipairs(problems) do print(text) end
os.exit(#problems == 0)
