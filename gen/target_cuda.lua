-- CUDA: the functions of a feature and the row operators, a warp a row, as header-free text for
-- NVRTC. What threads do is in templates/cuda; here are spellings.
local E = require "gen.expr"
local feature = require "gen.feature"
local plan_cuda = require "gen.plan_cuda"
local row_operator = require "gen.rows"
local splice = require "gen.splice"

local M = {}

M.RUNTIME = { "templates/cuda/rt.cuh", "templates/cuda/args.h" }
M.SKELETON = "templates/cuda/phi.cu"
M.MARK = '#include "stub.cuh"'

-- One lane's share of a vector: elements lane, lane + 32 ...
local function target(dtype)
  local suffix = dtype == "f64" and "" or "f"
  local t = {
    wide = { type = "real", key = "cuda" },
    narrow = { type = "real", key = "cuda" },
    suffix = suffix,
  }

  function t.number(value)
    local text = E.number(value) .. suffix
    return value < 0 and "(" .. text .. ")" or text
  end

  function t.loops(lines, indent, body)
    lines[#lines + 1] = indent .. "for (int64_t j = lane; j < n; j += 32) {"
    body(indent .. "    ", false)
    lines[#lines + 1] = indent .. "}"
  end

  function t.load(pointer)
    return pointer .. "[j]"
  end

  function t.index()
    return "(real)j"
  end

  function t.start(op)
    return op == "sum" and "0" or "-INFINITY"
  end

  function t.accumulate(op, name, value)
    if op == "sum" then return ("%s += %s;"):format(name, value) end
    return ("%s = fmax%s(%s, %s);"):format(name, suffix, name, value)
  end

  function t.finish(op, name)
    return (op == "sum" and "warp_sum(%s)" or "warp_max(%s)"):format(name)
  end

  function t.row_open(which)
    return ("KERNEL(%s, row_cuda_args, 256, 1)"):format(which), {
      "    const row_cuda_args *a = &args;",
      "    const int lane = THREAD % 32;",
      "    const int64_t n = a->n, warps = BLOCKS * (THREADS / 32);",
      "    const int64_t warp = BLOCK * (THREADS / 32) + THREAD / 32;",
    }, "    for (int64_t r = warp; r < a->rows; r += warps) {"
  end

  function t.put(at, value, wide)
    if wide then return ("%s[j] = %s;"):format(at, value) end
    return ("if (lane == 0) { *%s = %s; }"):format(at, value)
  end

  -- Gradients of shared inputs: every warp has its own row of `part` (shared inputs, warps, n).
  local slots = 0
  function t.shared_part(name, field, outer)
    local part = ("part%d"):format(slots)
    outer[#outer + 1] = ("    real *%s = a->part + (%d * warps + warp) * n; /* of %s */"):format(part, slots,
      field.name)
    outer[#outer + 1] = "    for (int64_t j = lane; j < n; j += 32) {"
    outer[#outer + 1] = ("        %s[j] = 0;"):format(part)
    outer[#outer + 1] = "    }"
    slots = slots + 1
    return ("        const bool %s = a->gin[%d] != 0;"):format(name, field.slot), part
  end
  return t
end

-- What every text starts from; read(path) gives a template's text.
local function runtime(read)
  local out = {}
  for i, path in ipairs(M.RUNTIME) do out[i] = ('#line 1 "%s"\n%s'):format(path, read(path)) end
  return table.concat(out)
end

-- phi.cu: the functions of the feature and the kernel of templates/cuda/phi.cu.
function M.prologue(spec, sizes, dtype, read)
  local out = { (dtype == "f64" and "#define REAL double\n" or "") .. runtime(read), "enum {" }
  for _, constant in ipairs(feature.constants(spec, sizes)) do
    out[#out + 1] = ("    %s = %d,"):format(constant[1], constant[2])
  end
  out[#out + 1] = "};\n"
  local functions = feature.functions(spec, target(dtype), "DEVICE ")
  return table.concat(table.move(functions, 1, #functions, #out + 1, out), "\n")
end

local FOLDER = "templates/cuda/"

-- The skeleton of a kernel with all it includes, after a prologue and constants.
local function kernel_text(header, kernel, prologue, constants, read)
  local path, out = plan_cuda.template(kernel), { prologue, "enum {" }
  for _, constant in ipairs(constants) do
    out[#out + 1] = ("    %s = %d,"):format(constant[1], constant[2])
  end
  out[#out + 1] = "};\n"
  local text = splice.splice(header, table.concat(out, "\n"), read(path), path, M.MARK)
  return splice.inline(text, path, function(name) return FOLDER .. name, read(FOLDER .. name) end)
end

-- One attention kernel (plan_cuda.kernels) of a feature for exact sizes, and how it is launched.
function M.attention(header, spec, kernel, sizes, options, read)
  local constants, launch = plan_cuda.kernel(kernel, spec, sizes, options)
  return kernel_text(header, kernel, M.prologue(spec, sizes, "f32", read), constants, read), launch
end

-- adapt of a feature, run by one warp: every lane has the scalars, coordinates are shared out.
local function warp_adapt(spec)
  local t = target("f32")
  local loops = t.loops
  function t.loops(lines, indent, body)
    local from = #lines + 1
    loops(lines, indent, body)
    lines[from] = indent .. "for (int j = THREAD; j < d; j += 32) {"
  end
  local out = {}
  feature.adapt(spec, t, out)
  return (table.concat(out, "\n"):gsub("static void [%w_]+_adapt%(", "DEVICE void adapt(", 1))
end

-- One of the kernels that make a feature's data-dependent parameters (plan_cuda.params).
function M.params(header, spec, kernel, sizes, options, read)
  local prologue = M.prologue(spec, sizes, "f32", read)
  if kernel == "attn_params" and spec.adapt then prologue = prologue .. warp_adapt(spec) end
  local constants, launch = plan_cuda.params_kernel(kernel, spec, sizes, options)
  return kernel_text(header, kernel, prologue, constants, read), launch
end

local REDUCE = [[
/* After row_bwd: adds the warps' parts to the gradients of shared inputs, in their order, a thread an
 * element. */
KERNEL(row_bwd_shared, row_cuda_args, 256, 1)
{
    const int64_t n = args.n, warps = args.warps;
    const real *part = args.part;
    for (int64_t j = BLOCK * THREADS + THREAD; j < n; j += BLOCKS * THREADS) {
%s
    }
}
]]

-- A row operator: kernels row_fwd, row_bwd and, where inputs are shared, row_bwd_shared.
function M.row(spec, read)
  local out = { runtime(read), ("/* %s: %s (%s) */"):format(spec.name, spec.doc, spec.source),
    row_operator.render(spec, "row_fwd", target("f32")) }
  if not spec.backward then return table.concat(out, "\n") end
  out[#out + 1] = row_operator.render(spec, "row_bwd", target("f32"))
  local sums, slot = {}, 0
  for _, input in ipairs(spec.inputs) do
    if input.shape == "shared" then
      sums[#sums + 1] = ([[
        if (args.gin[%d]) { /* %s */
            real g = 0;
            for (int64_t w = 0; w < warps; w++)
                g += part[(%d * warps + w) * n + j];
            args.gin[%d][j] += g;
        }]]):format(input.slot, input.name, slot, input.slot)
      slot = slot + 1
    end
  end
  if slot > 0 then out[#out + 1] = REDUCE:format(table.concat(sums, "\n")) end
  return table.concat(out, "\n")
end

return M
