local gpu = require "gen.cuda_gpu"
local cuda_requests = require "gen.cuda_requests"
local load_spec = require "gen.load_spec"

local SIZES = { D = 32, DV = 32, M = 128 }

local function request(fields)
  local r = { dtype = "f32", precision = "float32", learn = false, causal = false, arch = 90 }
  for _, from in ipairs { SIZES, fields } do
    for key, value in pairs(from) do r[key] = value end
  end
  return r
end

local function names(list)
  local out = {}
  for i, program in ipairs(list) do out[i] = program.name end
  table.sort(out)
  return out
end

describe("what a device is asked for", function()
  it("is what an attention needs", function()
    assert.same({ "attn_cluster", "attn_cluster_bwd", "attn_keys", "attn_keys_bwd", "attn_moments", "attn_params",
      "attn_queries", "attn_queries_bwd" }, names(cuda_requests.list(request { kind = "attention", feat = "saderf" })))
    assert.same({ "attn_causal", "attn_causal_keys_bwd", "attn_causal_queries_bwd", "attn_keys", "attn_params" },
      names(cuda_requests.list(request { kind = "attention", feat = "saderf", causal = true })))
    assert.same({ "attn_keys", "attn_keys_bwd", "attn_maps", "attn_moments", "attn_products", "attn_queries",
      "attn_queries_bwd", "attn_sum" },
      names(cuda_requests.list(request { kind = "attention", feat = "sderf", arch = 80, M = 272 })))
    assert.same({ "attn_causal", "attn_causal_keys_bwd", "attn_causal_queries_bwd", "attn_combine", "attn_counts",
      "attn_keys", "attn_learned", "attn_params", "attn_sum" },
      names(cuda_requests.list(request { kind = "attention", feat = "geomrf", causal = true, learn = true, M = 272 })))
  end)

  -- texts of every use of a pair, in every type, against those made ahead
  local function check_pair(feat, matrix, arch)
    local ahead, all = {}, cuda_requests.list(request { kind = "pair", feat = feat, matrix = matrix, arch = arch })
    for _, program in ipairs(all) do
      assert.is_nil(ahead[program.file], program.file)
      ahead[program.file] = program.text
    end
    local spec = load_spec.one("feature", feat)
    local kinds = { "features", "attention", spec.official and "official" or nil }
    if not spec.linear then kinds[#kinds + 1] = "decoding" end -- linear maps see all tokens
    for _, kind in ipairs(kinds) do
      for _, type in ipairs { { "f32", "float32" }, { "f32", "fast" }, { "bf16", "fast" } } do
        for _, causal in ipairs(spec.linear and { false } or { false, true }) do
          for _, program in ipairs(cuda_requests.list(request { kind = kind, feat = feat, arch = arch, dtype = type[1],
            precision = type[2], causal = causal, learn = matrix == "bbq" })) do
            assert.equal(program.text, ahead[program.file])
          end
        end
      end
    end
  end

  it("was made ahead, whatever it is", function()
    check_pair("saderf", "qmc", 90)
    check_pair("posrf+", "bbq", 80)
    check_pair("geomrf", "orf", 86)
    check_pair("sderf", "bbq", 120)
    local files = {}
    for _, program in ipairs(cuda_requests.list(request { kind = "pair", feat = "gerf", matrix = "qmc" })) do
      files[program.file] = true
    end
    for _, file in ipairs { "attn_queries_bwd-90", "attn_queries_bwd-learn-90", "attn_learned" } do
      assert.is_true(files[file], file)
    end
  end)

  it("is of the class of the GPU", function()
    local function texts(arch)
      local list = {}
      for i, p in ipairs(cuda_requests.list(request { kind = "pair", feat = "trigrf", matrix = "qmc", arch = arch })) do
        list[i] = p.file .. p.text
      end
      return list
    end
    for _, class in ipairs(gpu.classes) do
      for _, arch in ipairs(class.archs) do
        local first = arch >= 120 and 120 or class.archs[1]
        assert.same(texts(first), texts(arch), arch)
      end
    end
    -- of small ones the newer have clusters, and nothing else of their own
    local files = {}
    for _, text in ipairs(texts(86)) do files[text] = true end
    for _, text in ipairs(texts(120)) do
      if not files[text] then assert.truthy(text:find("^attn_cluster[%w_-]*%-120/%*")) end
    end
  end)

  it("names the widths of the benchmark's models", function()
    local list = cuda_requests.list { kind = "tasks" }
    local found = {}
    for _, program in ipairs(list) do found[program.file] = program end
    for _, file in ipairs { "model", "softmax-32-32", "layernorm-64-4", "gelu-128-1", "cross_entropy-10-1",
      "cross_entropy-2-1", "adamw-1024-4" } do
      assert.truthy(found[file], file)
    end
    assert.same({ row = 64, lanes = 16, shared = 16 * 64 * 4 }, found["layernorm-64-4"].launch)
  end)

  it("is also a template, with definitions of its own", function()
    local list = cuda_requests.asked("softmax", nil, nil, "HEAD_D=8 HEAD_DV=20")
    assert.same({ "softmax" }, names(list))
    assert.equal("softmax-8-20", list[1].file)
    assert.truthy(list[1].text:find("^#define HEAD_D 8\n#define HEAD_DV 20\n#line 1 \"templates/cuda/rt.cuh\"\n"))
    assert.truthy(list[1].text:find("KERNEL(softmax_fwd", 1, true))
  end)
end)
