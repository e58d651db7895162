-- Sizes and launches of the CUDA kernels of attention that have no tiles to choose: parameters made of the data,
-- the reference's behaviour, sums. As cuda_tiles.lua does, each function gives the constants of a kernel, as the
-- skeleton's enum, and how it is launched.
local gpu = require "gen.cuda_gpu"
local memory = require "gen.cuda_memory"

local M = {}

local KIB = 1024

local function up(n, unit) return (n + unit - 1) // unit * unit end

-- Shared memory of attn_products in floats: tokens of one or two tiles, then the sums of all lines.
local function products_floats(D)
  local tile = D < 64 and up(D, 4) or 64
  local threads = tile // 4 * (tile // 4)
  return math.max((D > 64 and 2 or 1) * 64 * tile, 256 // threads * tile * tile)
end

-- How attn_maps is launched: eight threads a pair of rows, as far as a block has so many; its matrices are in
-- shared memory where there is room.
local function maps_launch(spec, D, class)
  local mean = spec.linear == "geometric_mean" and 1 or 0
  local threads = math.min(math.max(64, up(8 * ((D + 1) // 2), 32)), 512)
  local small = (16 + #spec.vectors) * D + 32
  local all = 4 * ((2 + mean) * D * (up(D - 8, 32) + 8) + small)
  local inside = all <= class.block
  return { threads = threads, shared = inside and all or 4 * small },
    { { "MAP_THREADS", threads }, { "MEAN", mean }, { "IN_SHARED", inside and 1 or 0 } }
end

-- The same of the kernels that make parameters.
function M.params(name, spec, sizes, options)
  local bf16, D, list = options.dtype == "bf16", sizes.D, {}
  local group = D % 4 == 0 and not bf16 and 4 or 1
  local lines, side = 256 // (D // group), (D + 63) // 64
  local launch
  if name == "attn_maps" then
    launch, list = maps_launch(spec, D, gpu.class(options.arch or 80))
  else
    launch = ({
      attn_moments = { threads = 256, shared = 4 * lines * (5 * D + 1) },
      attn_params = { threads = 32, shared = 4 * D * (8 + #spec.vectors) },
      attn_counts = { threads = 128, shared = 0 },
      attn_products = { threads = 256, shared = 4 * products_floats(D),
        row_blocks = side * (side + 1) // 2 }, -- tiles on the diagonal or above it
    })[name]
  end
  return { { "BF16", bf16 and 1 or 0 }, { "SHARED_BYTES", launch.shared }, table.unpack(list) }, launch
end

-- The same of those of the reference's behaviour: as many tokens a tile, a warp each, as a block of any
-- GPU has shared memory for.
function M.token(name, spec, sizes)
  local c = memory.constants(spec, sizes, {})
  local threads, smallest = 256, gpu.classes[#gpu.classes].block
  local TB, bytes = 1, 4 * (threads // 32 * 4 + 8 + c.NV) * c.D
  if name == "attn_token" then
    local token = 3 * c.D + c.M + (3 + c.SIGNED) * c.LANES * c.M + c.DV + 6
    TB = threads // 32
    while TB > 1 and 4 * TB * token > smallest do TB = TB // 2 end
    bytes = 4 * TB * token
  end
  if bytes > smallest then
    error(("%s: a token of %s with D %d, DV %d, M %d takes %d bytes of shared memory, not up to %d")
      :format(name, spec.name, c.D, c.DV, c.M, bytes, smallest), 0)
  end
  return { { "TB", TB }, { "BLOCK_THREADS", threads }, { "SHARED_BYTES", bytes } },
    { threads = threads, shared = bytes, blocks = math.max(1, gpu.classes[2].all // (bytes + KIB)), tile = TB }
end

-- The same of plain ones, which see the sizes only; the tile's constants are of no use there.
function M.plain()
  return { { "PRODUCTS", 3 }, { "BF16", 0 }, { "TB", 32 }, { "TOKEN_THREADS", 1 }, { "SECOND_OWN", 0 } },
    { threads = 256, shared = 0 }
end

return M
