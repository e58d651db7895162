-- Which C kernels of attention there are: their skeletons, the instruction sets they are compiled for and the
-- sizes they may have. Of CUDA: cuda_kernels.lua.
local M = {}

-- One skeleton a kind; `type` is its table of functions in kernel.h, `define` a macro that it is compiled
-- with. Those of one `group` are compiled together at run time: who asks for one asks for all.
M.kinds = {
  { name = "attn_fwd", group = "attention", template = "templates/c/attn_fwd.c", type = "attn_fwd_ops" },
  { name = "attn_bwd", group = "attention", template = "templates/c/attn_bwd.c", type = "attn_bwd_ops" },
  { name = "attn_causal", group = "causal", template = "templates/c/attn_causal.c", type = "attn_causal_ops" },
  { name = "attn_official", group = "official", template = "templates/c/attn_official.c", type = "attn_official_ops" },
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

return M
