-- lua5.4 tests/device/cuda_text.lua < LIST : writes CUDA texts, one a line of LIST:
--     FILE FEATURE KERNEL D DV M f32|bf16 float32|fast learn|fixed
package.path = "./?.lua;" .. package.path

local cuda_text = require "gen.cuda_text"
local load_spec = require "gen.load_spec"

local specs = {}
for line in io.lines() do
  local file, feature, kernel, D, DV, M, dtype, precision, learn = table.unpack((function()
    local words = {}
    for word in line:gmatch("%S+") do words[#words + 1] = word end
    return words
  end)())
  specs[feature] = specs[feature] or load_spec.one("feature", feature)
  local sizes = { D = math.tointeger(D), DV = math.tointeger(DV), M = math.tointeger(M) }
  local text = cuda_text.kernel("", specs[feature], kernel, sizes,
    { dtype = dtype, precision = precision, learn = learn == "learn" })
  local out = assert(io.open(file, "w"))
  out:write(text)
  out:close()
end
