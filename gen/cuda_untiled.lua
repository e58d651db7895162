-- Sizes and launches of the CUDA kernels of attention that have no tiles to choose: parameters made of the data,
-- the reference's behaviour, sums. As cuda_tiles.lua does, each function gives the constants of a kernel, as the
-- skeleton's enum, and how it is launched.
local gpu = require "gen.cuda_gpu"
local layout = require "gen.cuda_layout"

local M = {}

local KIB = 1024

local function up(n, unit) return (n + unit - 1) // unit * unit end

-- How attn_maps is launched: eight threads a pair of rows, as far as a block has so many; its matrices are in
-- shared memory where there is room.
local function maps_launch(given, class)
  local threads = math.min(math.max(64, up(8 * ((given.CD + 1) // 2), 32)), 512)
  given.MAP_THREADS, given.IN_SHARED = threads, 1
  if layout.shared_bytes("attn_maps", given) > class.block then given.IN_SHARED = 0 end
  return { threads = threads },
    { { "MAP_THREADS", threads }, { "MEAN", given.MEAN }, { "IN_SHARED", given.IN_SHARED } }
end

-- Tiles of attn_products, on the diagonal of the sums or above it.
local product_tiles = layout.reader("attn_products.cu", "TILES")

-- The same of the kernels that make parameters.
function M.params(name, spec, sizes, options)
  local given = layout.given(spec, sizes, { BF16 = options.dtype == "bf16" and 1 or 0,
    MEAN = spec.linear == "geometric_mean" and 1 or 0 })
  local launch, list
  if name == "attn_maps" then
    launch, list = maps_launch(given, gpu.class(options.arch or 80))
  else
    launch = ({
      attn_moments = { threads = 256 }, attn_params = { threads = 32 }, attn_counts = { threads = 128 },
      attn_products = { threads = 256, row_blocks = product_tiles(given) },
    })[name]
  end
  launch.shared = layout.shared_bytes(name, given)
  return { { "BF16", given.BF16 }, { "SHARED_BYTES", launch.shared }, table.unpack(list or {}) }, launch
end

-- The same of those of the reference's behaviour: as many tokens a tile, a warp each, as a block of any
-- GPU has shared memory for.
function M.official(name, spec, sizes)
  local threads, smallest = 256, gpu.classes[#gpu.classes].block
  local given = layout.given(spec, sizes, { BLOCK_THREADS = threads,
    TB = name == "attn_official" and threads // 32 or 1 })
  local bytes = layout.shared_bytes(name, given)
  while given.TB > 1 and bytes > smallest do
    given.TB = given.TB // 2
    bytes = layout.shared_bytes(name, given)
  end
  if bytes > smallest then
    error(("%s: a token of %s with D %d, DV %d, M %d takes %d bytes of shared memory, not up to %d")
      :format(name, spec.name, sizes.D, sizes.DV, sizes.M, bytes, smallest), 0)
  end
  return { { "TB", given.TB }, { "BLOCK_THREADS", threads }, { "SHARED_BYTES", bytes } },
    { threads = threads, shared = bytes, blocks = math.max(1, gpu.classes[2].all // (bytes + KIB)), tile = given.TB }
end

-- The same of plain ones, which see the sizes only; the tile's constants are of no use there.
function M.plain()
  return { { "PRODUCTS", 3 }, { "BF16", 0 }, { "TB", 32 }, { "TOKEN_THREADS", 1 }, { "SECOND_OWN", 0 } },
    { threads = 256, shared = 0 }
end

return M
