local emit = require "gen.emit"
local plan_cuda = require "gen.plan_cuda"

local KIB = 1024

describe("occupancy", function()
  local large, medium, small = table.unpack(plan_cuda.classes)

  it("is limited by registers", function()
    -- 8 warps of 128 registers: 32,768 of 65,536 a block
    assert.equal(2, plan_cuda.occupancy(large, 8, 128, 8 * KIB))
    -- 129 count as 136: 34,816 a block
    assert.equal(1, plan_cuda.occupancy(large, 8, 129, 8 * KIB))
    -- 4 warps of 168: 5,376 a warp, 12 warps
    assert.equal(3, plan_cuda.occupancy(large, 4, 168, 8 * KIB))
    -- of 5 warps of 104 19 fit; they are given out by fours: 16, so 3 blocks
    assert.equal(3, plan_cuda.occupancy(large, 5, 104, 8 * KIB))
    assert.equal(1, plan_cuda.occupancy(large, 8, 255, 8 * KIB))
  end)

  it("is limited by shared memory, with 1 KiB more a block", function()
    assert.equal(2, plan_cuda.occupancy(large, 4, 64, 113 * KIB)) -- 2 * 114 = 228
    assert.equal(1, plan_cuda.occupancy(large, 4, 64, 113 * KIB + 16))
    assert.equal(1, plan_cuda.occupancy(large, 4, 64, 227 * KIB))
    assert.equal(2, plan_cuda.occupancy(medium, 4, 64, 81 * KIB)) -- 2 * 82 = 164
    assert.equal(1, plan_cuda.occupancy(medium, 4, 64, 82 * KIB))
    assert.equal(1, plan_cuda.occupancy(small, 4, 64, 50 * KIB)) -- 51 of 100
    assert.equal(0, plan_cuda.occupancy(small, 4, 64, 100 * KIB))
  end)

  it("is limited by warps and by blocks", function()
    assert.equal(8, plan_cuda.occupancy(large, 8, 32, 0))
    assert.equal(6, plan_cuda.occupancy(small, 8, 32, 0))
    assert.equal(32, plan_cuda.occupancy(large, 1, 32, 0))
    assert.equal(16, plan_cuda.occupancy(small, 1, 32, 0))
  end)
end)

describe("classes", function()
  it("know architectures, and take the smallest for others", function()
    assert.equal("large", plan_cuda.class(90).name)
    assert.equal("large", plan_cuda.class(100).name)
    assert.equal("medium", plan_cuda.class(80).name)
    assert.equal("small", plan_cuda.class(86).name)
    assert.equal("small", plan_cuda.class(75).name)
  end)
end)

describe("sizes of kernels", function()
  local function each(sizes, check)
    for _, spec in ipairs(emit.load_all("feature")) do
      for _, class in ipairs(plan_cuda.classes) do
        for _, name in ipairs(plan_cuda.kernels) do
          local _, k = plan_cuda.kernel(name, spec, sizes, { class = class })
          check(k, class, spec.name .. " " .. name .. " " .. class.name)
        end
      end
    end
  end

  it("exist for the usual sizes on every class, and fit", function()
    each({ D = 32, DV = 32, M = 128 }, function(k, class, what)
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
      local spec = emit.load("feature", "posrf")
      for _, name in ipairs { "attn_keys", "attn_queries_bwd", "attn_keys_bwd" } do
        local _, k = plan_cuda.kernel(name, spec, { D = 32, DV = 32, M = M }, {})
        assert.equal(M // 16, k.KW)
      end
    end
  end)
end)
