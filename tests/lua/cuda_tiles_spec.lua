local cuda_text = require "gen.cuda_text"
local feature = require "gen.feature"
local cuda_kernels = require "gen.cuda_kernels"
local cuda_tiles = require "gen.cuda_tiles"
local cuda_untiled = require "gen.cuda_untiled"
local gpu = require "gen.cuda_gpu"
local load_spec = require "gen.load_spec"

local KIB = 1024

describe("occupancy", function()
  local large, medium, small = table.unpack(gpu.classes)

  it("is limited by registers", function()
    -- 8 warps of 128 registers: 32,768 of 65,536 a block
    assert.equal(2, gpu.occupancy(large, 8, 128, 8 * KIB))
    -- 129 count as 136: 34,816 a block
    assert.equal(1, gpu.occupancy(large, 8, 129, 8 * KIB))
    -- 4 warps of 168: 5,376 a warp, 12 warps
    assert.equal(3, gpu.occupancy(large, 4, 168, 8 * KIB))
    -- of 5 warps of 104 19 fit; they are given out by fours: 16, so 3 blocks
    assert.equal(3, gpu.occupancy(large, 5, 104, 8 * KIB))
    assert.equal(1, gpu.occupancy(large, 8, 255, 8 * KIB))
  end)

  it("is limited by shared memory, with 1 KiB more a block", function()
    assert.equal(2, gpu.occupancy(large, 4, 64, 113 * KIB)) -- 2 * 114 = 228
    assert.equal(1, gpu.occupancy(large, 4, 64, 113 * KIB + 16))
    assert.equal(1, gpu.occupancy(large, 4, 64, 227 * KIB))
    assert.equal(2, gpu.occupancy(medium, 4, 64, 81 * KIB)) -- 2 * 82 = 164
    assert.equal(1, gpu.occupancy(medium, 4, 64, 82 * KIB))
    assert.equal(1, gpu.occupancy(small, 4, 64, 50 * KIB)) -- 51 of 100
    assert.equal(0, gpu.occupancy(small, 4, 64, 100 * KIB))
  end)

  it("is limited by warps and by blocks", function()
    assert.equal(8, gpu.occupancy(large, 8, 32, 0))
    assert.equal(6, gpu.occupancy(small, 8, 32, 0))
    assert.equal(32, gpu.occupancy(large, 1, 32, 0))
    assert.equal(16, gpu.occupancy(small, 1, 32, 0))
  end)
end)

describe("classes", function()
  it("know architectures, and take the smallest for others", function()
    assert.equal("large", gpu.class(90).name)
    assert.equal("large", gpu.class(100).name)
    assert.equal("medium", gpu.class(80).name)
    assert.equal("small", gpu.class(86).name)
    assert.equal("small", gpu.class(75).name)
  end)
end)

describe("sizes of kernels", function()
  local function constants(name, spec, sizes, options)
    local k = {}
    for _, constant in ipairs((cuda_tiles.kernel(name, spec, sizes, options))) do k[constant[1]] = constant[2] end
    return k
  end

  local function each(sizes, check)
    for _, spec in ipairs(load_spec.all("feature")) do
      for _, class in ipairs(gpu.classes) do
        for _, name in ipairs(cuda_kernels.tiled) do
          local k = constants(name, spec, sizes, { arch = class.archs[1] })
          check(k, class, spec.name .. " " .. name .. " " .. class.name)
        end
      end
    end
  end

  it("exist for the usual sizes on every class, and fit", function()
    -- device memory in place of shared memory, and with it its twin, which has the same tiles
    local outside = { ["hrf_gaussian attn_causal_queries_bwd small"] = 107 * KIB,
      ["hrf_gaussian attn_causal_keys_bwd small"] = 94 * KIB }
    each({ D = 32, DV = 32, M = 128 }, function(k, class, what)
      local most = outside[what]
      if most then
        assert.is_true(k.SHARED_BYTES > most - KIB and k.SHARED_BYTES <= most, what)
        return
      end
      assert.is_true(k.SHARED_BYTES <= class.block, what)
      assert.is_true(k.MIN_BLOCKS >= 1 and k.MIN_BLOCKS * (k.SHARED_BYTES + KIB) <= class.all, what)
      assert.is_true(k.MIN_BLOCKS * k.KW <= class.warps, what)
    end)
  end)

  it("give every token of a tile a thread", function()
    for _, M in ipairs { 8, 16, 33, 48, 100, 128, 256 } do
      each({ D = 16, DV = 16, M = M }, function(k, _, what)
        assert.is_true(k.TB <= k.BLOCK_THREADS, what)
        assert.equal(k.KW * 32, k.BLOCK_THREADS)
        assert.equal(0, k.TB % (8 * (k.NG or 1)), what)
      end)
    end
  end)

  it("keep rows of W in one block where eight warps hold them", function()
    for _, M in ipairs { 16, 64, 128 } do
      local spec = load_spec.one("feature", "posrf")
      for _, name in ipairs { "attn_keys", "attn_queries_bwd", "attn_keys_bwd" } do
        local k = constants(name, spec, { D = 32, DV = 32, M = M }, {})
        assert.equal(M // 16, k.KW)
      end
    end
  end)
end)

describe("one launch a direction", function()
  local usual = { D = 32, DV = 32, M = 128 }

  -- Blocks a cluster that the planner offers, and the plan of the kernel where it does.
  local function offered(name, sizes, options)
    local spec = load_spec.one("feature", name)
    local found = {}
    for first, twin in pairs { attn_keys = "attn_cluster", attn_queries_bwd = "attn_cluster_bwd" } do
      local _, launch = cuda_tiles.kernel(first, spec, sizes, options)
      found[twin] = launch.cluster > 0 and select(2, cuda_tiles.kernel(twin, spec, sizes, options)) or false
      assert.is_true(launch.cluster == 0 or launch.cluster == 8)
    end
    return found
  end

  it("is there from sm_90 on, where a block holds the state", function()
    for _, name in ipairs { "posrf", "trigrf", "saderf" } do
      for _, arch in ipairs { 90, 100 } do
        local found = offered(name, usual, { arch = arch })
        assert.is_truthy(found.attn_cluster, name)
        assert.is_truthy(found.attn_cluster_bwd, name)
      end
      for _, arch in ipairs { 80, 86 } do
        assert.same({ attn_cluster = false, attn_cluster_bwd = false }, offered(name, usual, { arch = arch }))
      end
    end
  end)

  it("fits a block, all rows of W and columns of v in it", function()
    for _, spec in ipairs(load_spec.all("feature")) do
      for _, sizes in ipairs { usual, { D = 16, DV = 20, M = 33 }, { D = 64, DV = 64, M = 256 } } do
        for kernel, k in pairs(offered(spec.name, sizes, { arch = 90 })) do
          if k then
            assert.is_true(k.shared <= 227 * KIB and k.blocks * (k.shared + KIB) <= 228 * KIB, kernel)
            assert.equal(1, k.row_blocks)
            assert.equal(1, k.value_blocks)
          end
        end
      end
    end
  end)

  it("is not there where the state is too big, and says so", function()
    local found = offered("posrf", { D = 32, DV = 32, M = 512 }, { arch = 90 })
    assert.same({ attn_cluster = false, attn_cluster_bwd = false }, found)
    local posrf = load_spec.one("feature", "posrf")
    assert.has_error(function()
      cuda_tiles.kernel("attn_cluster", posrf, { D = 32, DV = 32, M = 512 }, { arch = 90 })
    end, "attn_cluster: the state of posrf with D 32, DV 32, M 512 is too big for a block")
    assert.has_error(function() cuda_tiles.kernel("attn_cluster", posrf, usual, { arch = 86 }) end,
      "attn_cluster: clusters of blocks are there from ARCH 90 on, not for 86")
  end)

  it("begins its text with what rt.cuh asks for", function()
    local text = cuda_text.text(load_spec.one("feature", "posrf"), usual, "f32", { kind = "attn_cluster", arch = 90 })
    local define, runtime = text:find("#define CLUSTERS\n", 1, true), text:find("#ifndef RT_CUH", 1, true)
    assert.is_true(define < runtime)
    assert.is_nil(cuda_text.text(load_spec.one("feature", "posrf"), usual, "f32", { kind = "attn_keys", arch = 90 })
      :find("#define CLUSTERS", 1, true))
  end)

  it("gives a head the blocks that fill the GPU, a block two tiles", function()
    local function blocks(per, tile, heads, tokens, other)
      return cuda_tiles.cluster_blocks({ blocks = per, tile = tile }, heads, tokens, 132, other or heads)
    end
    assert.equal(4, blocks(2, 32, 64, 4096))  -- 256 of 264 places; 8: 512 of 528 is as good, but bigger
    assert.equal(4, blocks(3, 64, 64, 4096))  -- 256 of 396; 8: 512 of 792
    assert.equal(1, blocks(2, 32, 256, 1024)) -- 256 of 264
    assert.equal(1, blocks(2, 32, 512, 1024)) -- 512 of 528
    assert.equal(2, blocks(2, 32, 128, 1024)) -- 256 of 264
    assert.equal(8, blocks(2, 32, 16, 4096))  -- 128 of 264: there are no larger clusters
    assert.equal(2, blocks(3, 64, 16, 300))   -- 4 blocks would have less than two tiles
    assert.equal(1, blocks(3, 64, 16, 1))
  end)

  it("is not taken where few heads leave most of the GPU idle", function()
    local k = { blocks = 2, tile = 32 }
    assert.equal(8, cuda_tiles.cluster_blocks(k, 16, 65536, 132, 256)) -- 128 blocks against 256
    assert.equal(0, cuda_tiles.cluster_blocks(k, 2, 65536, 132, 264))  -- 16 against 264
    assert.equal(1, cuda_tiles.cluster_blocks(k, 1, 16, 132, 1))
  end)
end)

describe("big sizes", function()
  local heads, rows = { 8, 20, 32, 60, 64, 96, 128, 160, 256 }, { 8, 96, 100, 128, 256, 512, 1024, 2048 }

  -- Every pair of head sizes, with each of them all numbers of rows in turn.
  local function each_size(start, check)
    local i = start
    for _, D in ipairs(heads) do
      for _, DV in ipairs(heads) do
        i = i + 1
        check { D = D, DV = DV, M = rows[i % #rows + 1] }
      end
    end
  end

  -- What differs for the planner, of each once: features that are alike have the same plans.
  local function kinds_of_feature()
    local list, seen = {}, {}
    for _, spec in ipairs(load_spec.all("feature")) do
      local key = {}
      for i, constant in ipairs(feature.constants(spec, { D = 8, DV = 8, M = 8 })) do key[i] = constant[2] end
      key = table.concat(key, " ")
      if not seen[key] then list[#list + 1] = spec end
      seen[key] = true
    end
    return list
  end

  local function check_plan(name, spec, sizes, class, options)
    local what = ("%s of %s, %s %s, D %d DV %d M %d"):format(name, spec.name, class.name,
      options.dtype, sizes.D, sizes.DV, sizes.M)
    options.arch = class.archs[1]
    local found, list, launch = pcall(cuda_tiles.kernel, name, spec, sizes, options)
    if not found then error(what .. ": " .. list) end
    if launch.shared > class.block or launch.blocks * (launch.shared + KIB) > class.all or launch.blocks < 1 then
      error(("%s: %d blocks of %d bytes"):format(what, launch.blocks, launch.shared))
    end
    return launch
  end

  -- All sizes on the GPUs with the least shared memory, every other one on those with more.
  it("have a plan for every kernel, feature and class, which fits", function()
    local start, least = 0, gpu.classes[#gpu.classes]
    for _, spec in ipairs(kinds_of_feature()) do
      for _, class in ipairs(gpu.classes) do
        for _, name in ipairs(cuda_kernels.tiled) do
          start = start + 1
          local turn = start
          each_size(start, function(sizes)
            turn = turn + 1
            local options = { dtype = turn % 4 < 2 and "f32" or "bf16", learn = turn % 4 < 2 }
            if class == least or turn % 2 == 0 then check_plan(name, spec, sizes, class, options) end
          end)
        end
      end
    end
  end)

  it("have the same tiles and blocks of rows in causal twins", function()
    local class, options = gpu.classes[#gpu.classes], { dtype = "f32", learn = true }
    for start, name in ipairs { "posrf", "trigrf", "cderf+", "hrf_gaussian" } do
      local spec = load_spec.one("feature", name)
      each_size(start, function(sizes)
        local q = check_plan("attn_causal_queries_bwd", spec, sizes, class, options)
        local k = check_plan("attn_causal_keys_bwd", spec, sizes, class, options)
        assert.same({ q.tile, q.row_blocks }, { k.tile, k.row_blocks })
      end)
    end
  end)

  it("have parameters and the reference's behaviour on every GPU", function()
    for _, spec in ipairs(load_spec.all("feature")) do
      each_size(0, function(sizes)
        for _, dtype in ipairs { "f32", "bf16" } do
          for _, name in ipairs(cuda_kernels.params) do
            for _, class in ipairs(name == "attn_maps" and gpu.classes or {}) do -- has it all where it fits
              local _, launch = cuda_untiled.params(name, spec, sizes, { dtype = dtype, arch = class.archs[1] })
              assert.is_true(launch.shared <= class.block, name)
            end
            local _, launch = cuda_untiled.params(name, spec, sizes, { dtype = dtype })
            assert.is_true(name == "attn_maps" or launch.shared <= 48 * KIB, name)
          end
        end
        for _, name in ipairs(spec.official and cuda_kernels.official or {}) do
          local _, launch = cuda_untiled.official(name, spec, sizes)
          assert.is_true(launch.shared <= 99 * KIB, name)
        end
      end)
    end
  end)

  it("put a block's memory on the device, a bounded part of it", function()
    local posrf, sizes = load_spec.one("feature", "posrf"), { D = 256, DV = 256, M = 1024 }
    local k, launch = cuda_tiles.kernel("attn_keys_bwd", posrf, sizes, { arch = 86 })
    assert.equal(32, launch.shared)
    assert.is_true(launch.memory * launch.blocks <= 2048 * KIB)
    for _, constant in ipairs(k) do
      if constant[1] == "SHARED_BYTES" then assert.equal(0, (launch.memory - constant[2]) // 256) end
    end
    local text = cuda_text.text(posrf, sizes, "f32", { kind = "attn_keys_bwd", arch = 86 })
    assert.is_truthy(text:find("\n#define TILED_KERNEL(name, type, N, K)", 1, true))
    assert.is_nil(text:find("#include", 1, true))
    text = cuda_text.text(posrf, { D = 64, DV = 64, M = 128 }, "f32", { kind = "attn_keys_bwd", arch = 86 })
    assert.is_nil(text:find("SPILLED_BYTES", 1, true))
  end)

  it("that are out of range are named", function()
    local posrf = load_spec.one("feature", "posrf")
    local function refused(plan, name, D, DV, M, sentence)
      assert.has_error(function() plan(name, posrf, { D = D, DV = DV, M = M }, {}) end, sentence)
    end
    refused(cuda_tiles.kernel, "attn_keys", 264, 32, 128,
      "attn_keys: head size D=264: it must be from 1 to 256")
    refused(cuda_tiles.kernel, "attn_step", 32, 257, 128,
      "attn_step: value size DV=257: it must be from 1 to 256")
    refused(cuda_tiles.kernel, "attn_merge", 32, 32, 0,
      "attn_merge: rows of W M=0: it must be at least 1")
    refused(cuda_untiled.official, "attn_official", 32, 32, 8192, "attn_official: a token of posrf with "
      .. "D 32, DV 32, M 8192 takes 131608 bytes of shared memory, not up to 101376")
  end)
end)
