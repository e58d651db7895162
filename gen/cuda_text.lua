-- CUDA text: a skeleton of templates/cuda with all it includes, behind the functions of a feature and the sizes
-- that were chosen for it; and the text of a row operator.
local costs = require "gen.costs"
local cuda_kernels = require "gen.cuda_kernels"
local cuda_tiles = require "gen.cuda_tiles"
local cuda_untiled = require "gen.cuda_untiled"
local feature = require "gen.feature"
local files = require "gen.files"
local schema = require "gen.spec"
local splice = require "gen.splice"
local target_cuda = require "gen.target_cuda"

local M = {}

local MARK = '#include "stub.cuh"'
local FOLDER = "templates/cuda/"
M.PHI = FOLDER .. "phi.cu"

-- ---- one kernel ----------------------------------------------------------------------------------------

-- The skeleton of a kernel with all it includes, after a prologue and constants.
local function kernel_text(header, kernel, prologue, constants)
  local path, out = cuda_kernels.template(kernel), { prologue, "enum {" }
  for _, constant in ipairs(constants) do
    out[#out + 1] = ("    %s = %d,"):format(constant[1], constant[2])
  end
  out[#out + 1] = "};\n"
  local text = splice.splice(header, table.concat(out, "\n"), files.read(path), path, MARK)
  return splice.inline(text, path, function(name) return FOLDER .. name, files.read(FOLDER .. name) end)
end

local function tiled(header, spec, kernel, sizes, options)
  local constants, launch = cuda_tiles.kernel(kernel, spec, sizes, options)
  if cuda_kernels.is_cluster(kernel) then header = header .. "#define CLUSTERS\n" end
  local prologue = target_cuda.prologue(spec, sizes, "f32", launch.memory > 0 and { FOLDER .. "spilled.cuh" })
  return kernel_text(header, kernel, prologue, constants), launch
end

-- adapt of a feature, or its gradient, run by one warp: every lane has the scalars, coordinates are shared
-- out.
local function warp_adapt(spec, name)
  local t = target_cuda.target("f32")
  function t.loops(lines, indent, body)
    lines[#lines + 1] = indent .. "for (int64_t j = THREAD; j < d; j += 32) {"
    body(indent .. "    ", false)
    lines[#lines + 1] = indent .. "}"
  end
  function t.load(pointer) return "shared_load(" .. pointer .. " + j)" end
  function t.finish(op, reduced)
    return (op == "sum" and "warp_sum(%s)" or "warp_max(%s)"):format(reduced)
  end
  function t.head(_, function_name) return "DEVICE void " .. function_name end
  function t.add(array, at, value)
    return ("shared_store(%s + %s, shared_load(%s + %s) + %s);"):format(array, at, array, at, value)
  end
  local out = {}
  feature[name](spec, t, out)
  return table.concat(out, "\n")
end

local function params(header, spec, kernel, sizes, options)
  local maps = kernel == "attn_maps"
  if (maps or kernel == "attn_products") and not spec.linear then
    error(("%s: feature %s has no 'linear'"):format(kernel, spec.name), 0)
  end
  local prologue = target_cuda.prologue(spec, sizes, "f32")
  if kernel == "attn_params" or maps then
    prologue = prologue .. (spec.adapt and "#define HAS_ADAPT\n" .. warp_adapt(spec, "adapt") or "")
  end
  local constants, launch = cuda_untiled.params(kernel, spec, sizes, options)
  return kernel_text(header, kernel, prologue, constants), launch
end

local function official(header, spec, kernel, sizes)
  local adapts = kernel == "attn_official_adapt"
  if not spec.official or adapts and not spec.adapt then
    error(("%s: feature %s has no %s"):format(kernel, spec.name,
      spec.official and "'adapt'" or "official behaviour"), 0)
  end
  local prologue = target_cuda.prologue(spec, sizes, "f32")
  if adapts then prologue = prologue .. warp_adapt(spec, "adapt") .. warp_adapt(spec, "adapt_grad") end
  local constants, launch = cuda_untiled.official(kernel, spec, sizes)
  return kernel_text(header, kernel, prologue, constants), launch
end

local function plain(header, spec, kernel, sizes)
  local constants, launch = cuda_untiled.plain()
  return kernel_text(header, kernel, target_cuda.prologue(spec, sizes, "f32"), constants), launch
end

-- Who makes the text of a kernel, and the kinds of text that may be asked for.
local makers, KINDS = {}, { "phi" }
for _, family in ipairs { { cuda_kernels.params, params }, { cuda_kernels.tiled, tiled },
  { cuda_kernels.clusters, tiled }, { cuda_kernels.plain, plain }, { cuda_kernels.official, official } } do
  for _, kernel in ipairs(family[1]) do
    KINDS[#KINDS + 1], makers[kernel] = kernel, family[2]
  end
end

-- The text of a kernel of cuda_kernels.lua for exact sizes, behind `header`, and how it is launched. options:
-- dtype, precision, learn, arch.
function M.kernel(header, spec, kernel, sizes, options)
  return makers[kernel](header, spec, kernel, sizes, options)
end

-- ---- texts as they are asked for -----------------------------------------------------------------------

-- The kernel that writes features, for exact sizes or (D = 0) for any.
function M.phi(command, spec, sizes, dtype)
  return splice.splice(costs.heading(command, spec), target_cuda.prologue(spec, sizes, dtype), files.read(M.PHI),
    M.PHI, MARK)
end

local OPTIONS = { { "dtype", "DTYPE", "f32" }, { "precision", "PRECISION", "float32" },
  { "learn", "LEARN", false }, { "arch", "ARCH", 80 } }

-- CUDA text of a feature for exact sizes: it is found by itself where it was compiled ahead, so it is one of the
-- class of architectures and of the options that it depends on (cuda_kernels.reads). Of a kernel also how it is
-- launched, and a name for its file. options: kind, "phi" or a kernel; of kernels dtype, precision, learn, arch.
function M.text(spec, sizes, dtype, options)
  local kind, known = options.kind, false
  for _, name in ipairs(KINDS) do known = known or name == kind end
  if not known then
    error(("unknown kind of CUDA text '%s'%s"):format(kind, schema.suggestion(kind, KINDS)), 0)
  end
  local command = ("lua5.4 gen/main.lua --cuda FEAT=%s KIND=%s D=%d DV=%d M=%d%s"):format(
    spec.own and spec.path or spec.name, kind, sizes.D, sizes.DV, sizes.M,
    dtype == "f32" and "" or " DTYPE=" .. dtype)
  if kind == "phi" then return M.phi(command, spec, sizes, dtype), {}, kind end
  local reads, chosen, file = cuda_kernels.reads[kind] or {}, {}, kind
  for _, setting in ipairs(OPTIONS) do
    local key, name, default = table.unpack(setting)
    local value = reads[key] and options[key] or default
    chosen[key] = value
    if key == "arch" and reads.arch then value = cuda_kernels.first_of_class(kind, value) end
    if value ~= default then
      command = ("%s %s=%s"):format(command, name, value)
      file = ("%s-%s"):format(file, value == true and key or value)
    end
  end
  local text, launch = M.kernel(costs.heading(command, spec), spec, kind, sizes, chosen)
  return text, launch, file
end

-- Of a row operator, for any size.
function M.row(row)
  return "/* lua5.4 gen/main.lua --base */\n" .. target_cuda.row(row)
end

return M
