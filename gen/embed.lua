-- lua5.4 gen/embed.lua [--paths] OUT.c PREFIX file... : files as C strings, for what the command
-- carries with it. Writes `const char *const PREFIX_name[]` (file name without folder and extension,
-- or the path as given) and `PREFIX_text[]`, both ending in NULL.

local command = "lua5.4 gen/embed.lua " .. table.concat(arg, " ")
local paths = arg[1] == "--paths"
if paths then table.remove(arg, 1) end
local out_path, prefix = arg[1], arg[2]
local names, texts = {}, {}

local function quote(text)
  local lines = {}
  for line in text:gmatch("[^\n]*\n?") do
    if line ~= "" then
      lines[#lines + 1] = '        "' .. line:gsub('[\\"]', "\\%0"):gsub("\n", "\\n") .. '"'
    end
  end
  return table.concat(lines, "\n")
end

for i = 3, #arg do
  local file = assert(io.open(arg[i], "rb"))
  texts[#texts + 1] = quote(file:read("a"))
  names[#names + 1] = '"' .. (paths and arg[i] or arg[i]:match("([^/]+)%.%w+$")) .. '"'
  file:close()
end

local out = assert(io.open(out_path, "wb"))
out:write("/* ", command, " */\n#include <stddef.h>\n\n")
for _, symbol in ipairs { "name", "text" } do
  out:write("extern const char *const ", prefix, "_", symbol, "[];\n")
end
out:write("\nconst char *const ", prefix, "_name[] = {", table.concat(names, ", "), ", NULL};\n\n")
out:write("const char *const ", prefix, "_text[] = {\n", table.concat(texts, ",\n\n"), ",\n    NULL,\n};\n")
assert(out:close())
