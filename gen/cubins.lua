-- lua5.4 gen/cubins.lua OUT.c FILE.inc ... : the cubins that gen/cubin.c listed as the table
-- built_cubins of runtime/device/cuda/built.h.
local disk = dofile((arg[0]:match("^(.*)/[^/]*$") or ".") .. "/files.lua")

local out = { "/* lua5.4 gen/cubins.lua " .. table.concat(arg, " ") .. " */",
  '#include "device/cuda/built.h"', "" }
local rows = {}

-- A string of C, octal digits for what is no letter: three, so that what follows cannot join them.
local function quoted(bytes)
  local lines = {}
  for i = 1, #bytes, 40 do
    lines[#lines + 1] = '    "' .. bytes:sub(i, i + 39):gsub("[^%w_ ]", function(c)
      return ("\\%03o"):format(c:byte())
    end) .. '"'
  end
  return table.concat(lines, "\n")
end

local function fail(message)
  io.stderr:write("gen: ", message, "\n")
  os.exit(1)
end

for i = 2, #arg do
  local text, message = disk.text(arg[i])
  if not text then fail(message) end
  for path, arch, key in text:gmatch("CUBIN%(([^,\n]+), ([%w_]+), (%x+)%)") do
    local bytes, why = disk.text(path)
    if not bytes then fail(("%s (named in %s; make gen ARCH=... writes it)"):format(why, arg[i])) end
    rows[#rows + 1] = ('    {"%s", "%s", "%s", cubin_%d, %d},'):format(path, arch, key, #rows, #bytes)
    out[#out + 1] = ("static const char cubin_%d[] __attribute__((aligned(16))) =\n%s;\n"):format(#rows - 1,
      quoted(bytes))
  end
end
out[#out + 1] = "const built_cubin built_cubins[] = {"
table.move(rows, 1, #rows, #out + 1, out)
out[#out + 1] = "    {0},\n};\n"
disk.write { { arg[1], table.concat(out, "\n") } }
