-- Which kernels there are, for which sizes, and what they cost: tables, no search.
local E = require "gen.expr"
local pass = require "gen.pass"
local feature = require "gen.feature"
local ops = require "gen.ops"

local M = {}

-- One skeleton a kind; `type` is its table of functions in kernel.h, `define` a macro that it is compiled
-- with. Those of one `group` are compiled together at run time: who asks for one asks for all.
M.kinds = {
  { name = "attn_fwd", group = "attention", template = "templates/c/attn_fwd.c", type = "attn_fwd_ops" },
  { name = "attn_bwd", group = "attention", template = "templates/c/attn_bwd.c", type = "attn_bwd_ops" },
  { name = "attn_causal", group = "causal", template = "templates/c/attn_causal.c", type = "attn_causal_ops" },
  { name = "attn_token", group = "official", template = "templates/c/attn_token.c", type = "attn_token_ops" },
  { name = "attn_bf16", group = "bf16", template = "templates/c/attn_fwd.c", type = "attn_fwd_ops",
    define = "PAIRS 1" },
}

-- Those of a feature: the reference's behaviour only where the spec describes it, products of bf16 only of
-- exact sizes (D is not 0) and not in double.
function M.kinds_of(spec, D, dtype)
  local list, exact = {}, D > 0 and dtype == "f32"
  for _, kind in ipairs(M.kinds) do
    if (kind.group ~= "official" or spec.official) and (kind.group ~= "bf16" or exact) then
      list[#list + 1] = kind
    end
  end
  return list
end

-- The functions in a row of the kernel table: what reference(kind) gives of the kinds of a list, NULL of others.
function M.functions(list, reference)
  local has, out = {}, {}
  for _, kind in ipairs(list) do has[kind] = true end
  for i, kind in ipairs(M.kinds) do out[i] = has[kind] and reference(kind) or "NULL" end
  return out
end

-- Of kinds, those of a group.
function M.group(kinds, group)
  local list = {}
  for _, kind in ipairs(kinds) do
    if kind.group == group then list[#list + 1] = kind end
  end
  return list
end

-- Every kernel is compiled once for each; x86 ones exist in x86-64 builds only.
M.isas = {
  { name = "portable", constant = "ISA_PORTABLE", bf16 = true },
  { name = "avx2", constant = "ISA_AVX2", x86 = true },
  { name = "avx512", constant = "ISA_AVX512", x86 = true, bf16 = true },
}

-- AVX2 has no instructions for bf16; the portable text is a model of them, for tests.
function M.is_for(kind, isa) return kind.group ~= "bf16" or isa.bf16 end

M.sizes = {
  { name = "D", default = 32, max = 256, what = "head size" },
  { name = "DV", default = 32, max = 256, what = "value size" },
  { name = "M", default = 128, max = 1024, what = "rows of W" },
}

-- Operations to make the features of one row of W for one token, and their gradient, from hoisted
-- values; the exponential of each lane is counted with the feature.
function M.operations(spec)
  local plan = feature.plan(spec)
  local function stop(node) return plan.slots.class[node] ~= nil end
  local value = pass.flops(plan.value, stop) + spec.lanes * (ops.exp.flops + 1)
  return { value = value, grad = pass.flops(plan.grad, stop) + spec.lanes }
end

local TRANSCENDENTAL = { exp = true, log = true, sin = true, cos = true, atan = true, erf = true }

-- Exponentials and the like of a row of W for one token: those of lanes with a log of their own that changes with
-- the row, and what the features call for each row.
function M.exponentials(spec)
  local plan, count = feature.plan(spec), 0
  local function hoisted(node) return plan.slots.class[node] ~= nil end
  for l, first in ipairs(feature.log_lanes(spec)) do
    local log = plan.value[l]
    local class = pass.class(log)
    if first == l - 1 and (class == "element" or class == "row") then count = count + 1 end
  end
  for _, node in ipairs(E.reachable(plan.value, hoisted)) do
    if TRANSCENDENTAL[node.op] and not hoisted(node) then count = count + 1 end
  end
  return count
end

-- Cost of one token of one head, key and query together, as expressions in D, DV, M (lines of
-- { name, expression }); `evaluate` gives them numbers.
function M.costs(spec)
  local count, L = M.operations(spec), spec.lanes
  return {
    { "forward_flops", ("4*M*D + %d*M*(DV + 1) + %d*M"):format(4 * L, 2 * count.value) },
    { "backward_flops", ("8*M*D + %d*M*(DV + 1) + %d*M"):format(8 * L, 2 * (count.value + count.grad)) },
    { "forward_bytes", "S*(2*D + 2*DV + 1)" },
    { "backward_bytes", "S*(4*D + 4*DV + 1)" },
  }
end

function M.evaluate(expression, sizes, dtype)
  local env = { D = sizes.D, DV = sizes.DV, M = sizes.M, S = dtype == "f64" and 8 or 4 }
  return load("return " .. expression, "=cost", "t", env)()
end

return M
