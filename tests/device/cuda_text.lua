-- lua5.4 tests/device/cuda_text.lua < LIST : writes CUDA texts, one a line of LIST:
--     FILE FEATURE KERNEL D DV M f32|bf16 float32|fast learn|fixed
package.path = "./?.lua;" .. package.path

local emit = require "gen.emit"
local cuda_kernels = require "gen.cuda_kernels"
local target_cuda = require "gen.target_cuda"

local specs, maker = {}, {}
for _, kernel in ipairs(cuda_kernels.params) do maker[kernel] = target_cuda.params end
for line in io.lines() do
  local file, feature, kernel, D, DV, M, dtype, precision, learn = table.unpack((function()
    local words = {}
    for word in line:gmatch("%S+") do words[#words + 1] = word end
    return words
  end)())
  specs[feature] = specs[feature] or emit.load("feature", feature)
  local sizes = { D = math.tointeger(D), DV = math.tointeger(DV), M = math.tointeger(M) }
  local text = (maker[kernel] or target_cuda.attention)("", specs[feature], kernel, sizes,
    { dtype = dtype, precision = precision, learn = learn == "learn" }, emit.read)
  local out = assert(io.open(file, "w"))
  out:write(text)
  out:close()
end
