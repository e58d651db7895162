-- Sizes of the CUDA kernels whose tiles are chosen, for one feature: warps, tiles, shared memory, blocks a
-- multiprocessor. A table of candidates, of which the first that fits is taken; nothing is searched at run time,
-- and nothing depends on the length of a sequence or the batch.
local c_kernels = require "gen.c_kernels"
local gpu = require "gen.cuda_gpu"
local kernels = require "gen.cuda_kernels"
local layout = require "gen.cuda_layout"

local M = {}

local KIB = 1024

-- Constants of tile.cuh that the choice of tiles reads too.
local TILE = { "D", "DV", "M", "MP", "D8", "DV8", "PARTS", "ELEMENT", "SUMS" }
local read_tile = layout.reader("tile.cuh", table.unpack(TILE))
local sums_in_registers = layout.reader("attn_queries_bwd.cu", "IN_REGISTERS")

-- What a kernel's tiles are chosen from, by the names that skeletons have for it.
local function constants(spec, sizes, options)
  local c = layout.given(spec, sizes, { PRODUCTS = options.precision == "fast" and 1 or 3,
    BF16 = options.dtype == "bf16" and 1 or 0, LEARN = options.learn and 1 or 0 })
  for i, value in ipairs { read_tile(c) } do c[TILE[i]] = value end
  return c
end

local function up(n, unit) return (n + unit - 1) // unit * unit end

-- Registers a thread of each kernel needs to keep all in them: sums and the numbers of a group of 8
-- tokens or rows, and what compilers take beside that for NVRTC 13 (tests/device/cuda_table.txt has what comes
-- out).
local registers = {}

local function group_registers(k, n) return 4 * n * (k.NP + k.LANES * (1 + k.SIGNED)) end

function registers.attn_keys(k)
  return 48 + math.max(0, k.NUNI - 5) + k.ROW_GROUPS * k.LANES * (k.VB // 2 + 4)
    + (k.ROW_GROUPS - 1) * 2 * k.NROW + group_registers(k, k.NG)
end

function registers.attn_queries(k) return 72 + k.VB // 2 + group_registers(k, k.QN) end

function registers.attn_queries_bwd(k)
  local sums = sums_in_registers(k) == 1 and k.DV8 // 2 or 0
  return 70 + k.LINEAR * (k.ELEMENT == 2 and 40 or 24) + k.LANES * (sums + 2) + group_registers(k, k.NG) + k.NG * k.SUMS
    + k.LEARN * 40
end

function registers.attn_keys_bwd(k)
  return 66 + k.LINEAR * (2 * k.TB + 16 * (k.NW - 1) * (k.LANES - 1)) + k.LANES * 4
    + group_registers(k, k.NG) + k.NG * k.SUMS + k.LEARN * 40
end

function registers.attn_cluster(k)
  return math.max(registers.attn_keys(k), registers.attn_queries(k))
end

function registers.attn_cluster_bwd(k)
  return math.max(registers.attn_queries_bwd(k), registers.attn_keys_bwd(k))
    + k.LINEAR * 8 + k.COUNTS * 32 + (k.PARTS == 1 and k.ELEMENT == 4 and 16 or 0)
end

-- Causal kernels hold both sides; as many as there are.
for _, kernel in ipairs { "attn_causal", "attn_causal_queries_bwd", "attn_causal_keys_bwd" } do
  registers[kernel] = function() return 200 end
end
function registers.attn_combine() return 48 end
function registers.attn_sum() return 56 end
function registers.attn_merge() return 56 end
function registers.attn_step(k) return (k.LANES > 4 or k.COUNTS * k.SIGNED == 1) and 80 or 64 end

-- Rows of W in blocks of at most `most` warps, all about equally full.
local function row_warps(c, most)
  local warps = c.MP // 16
  local blocks = (warps + most - 1) // most
  return (warps + blocks - 1) // blocks
end

-- Candidates, best first: few blocks of rows, wide tiles, big groups. A thread maps at most one token.
local candidates = {}

-- 4, 2, 1 from the group that features of so many lanes may have.
local function groups(c)
  return c.LANES == 1 and { 4, 2, 1 } or c.LANES == 2 and { 2, 1 } or { 1 }
end

local function tiles(c, widths, VB)
  local list = {}
  for _, most in ipairs { 8, 4, 2, 1 } do
    local KW = row_warps(c, most)
    for _, TB in ipairs(widths) do
      for _, NG in ipairs(groups(c)) do
        if TB >= 8 * NG and TB <= 32 * KW then list[#list + 1] = { KW = KW, TB = TB, NG = NG, VB = VB } end
      end
    end
  end
  return list
end

function candidates.attn_keys(c)
  local VB = math.min(c.DV8, c.LANES <= 2 and 64 or math.max(8, 128 // c.LANES // 8 * 8))
  local list = tiles(c, { 64, 32, 16 }, VB)
  list[#list + 1] = { KW = 1, TB = 16, NG = math.min(groups(c)[1], 2), VB = math.min(VB, 32) }
  for _, k in ipairs(list) do k.ROW_GROUPS = 1 end
  return list
end

-- All rows of W at once before more warps: a chunk is loaded again for every tile.
function candidates.attn_queries(c)
  local list = {}
  local VB = math.min(c.DV8, 64)
  for _, rows in ipairs { c.MP, 128, 64, 32 } do
    for _, warps in ipairs { 8, 4, 2, 1 } do
      for _, QN in ipairs(groups(c)) do
        local CHUNK = up(math.min(rows, c.MP), 8 * QN)
        list[#list + 1] = { KW = warps, TB = 16 * warps, QN = QN, VB = VB, CHUNK = CHUNK }
      end
    end
  end
  list[#list + 1] = { KW = 1, TB = 16, QN = groups(c)[1], VB = math.min(VB, 32), CHUNK = 32 }
  return list
end

function candidates.attn_queries_bwd(c) return tiles(c, { 32, 16 }) end

candidates.attn_keys_bwd = candidates.attn_queries_bwd

-- All rows of W in a block, at most two groups of 16 a warp: of queries each warp has 16 tokens of a tile,
-- and half the warps make a tile that keys have room for too.
function candidates.attn_cluster(c)
  local list = {}
  for _, warps in ipairs { 4, 8, 2, 1 } do
    local count = (c.MP // 16 + warps - 1) // warps
    local rows = 16 * warps * count
    for _, NG in ipairs(groups(c)) do
      if count <= 2 and rows % (8 * NG) == 0 then
        list[#list + 1] = { KW = warps, TB = 16 * warps, NG = NG, QN = NG, VB = c.DV8, CHUNK = rows,
          ROW_GROUPS = count }
      end
    end
  end
  return list
end

function candidates.attn_cluster_bwd(c)
  local list = {}
  for _, k in ipairs(candidates.attn_queries_bwd(c)) do
    if 16 * k.KW >= c.M then list[#list + 1] = k end
  end
  return list
end

-- A warp holds the features of all lanes of its rows for a tile, and a block about 256 rows of state; group: how
-- many groups of 8 tokens of `TB` are evaluated side by side.
local function causal_candidates(c, group)
  local list = {}
  local least = c.LANES > 2 and 16 or 32
  for _, most in ipairs { 8, 4, 2, 1 } do
    for TB = least, 16, -16 do
      local KW = row_warps(c, math.min(most, math.max(1, 16 // c.LANES)))
      list[#list + 1] = { KW = KW, TB = TB, NG = group(c, TB // 8) }
    end
  end
  list[#list + 1] = { KW = list[1].KW, TB = 16, NG = 1 } -- the fewest registers
  return list
end

-- What a lane holds beside addresses: hoisted values, and of every group projections, features and their
-- gradients, in a forward or a backward kernel. All groups of a tile leave less room for the rest: its code is
-- one piece then, which compilers rearrange until registers run out.
local function causal_group(c, all)
  return c.LANES > 2 and 1 or all
end

local function causal_group_bwd(c, all)
  local hoisted = 2 * c.NUNI + 4 * c.NROW + 2 * c.NW + c.LEARN * 10
  for _, n in ipairs { all, 2, 1 } do
    local held = hoisted + n * (4 * (2 * c.NP + c.LANES * (1 + c.SIGNED)) + 2 * c.SUMS)
    if held <= (n == all and 76 or 130) then return n end
  end
  return 1
end

function candidates.attn_combine() return { { KW = 8, TB = 32 } } end
candidates.attn_sum = candidates.attn_combine
candidates.attn_step = candidates.attn_combine
function candidates.attn_merge() return { { KW = 4, TB = 16 } } end -- TB: rows of state
function candidates.attn_causal(c) return causal_candidates(c, causal_group) end
function candidates.attn_causal_queries_bwd(c) return causal_candidates(c, causal_group_bwd) end
candidates.attn_causal_keys_bwd = candidates.attn_causal_queries_bwd

local function power_of_two(n)
  local p = 1
  while 2 * p <= n do p = 2 * p end
  return p
end

-- What blocks of kernels with device memory in place of shared memory have of the latter
-- (spilled.cuh), and how much of the former a multiprocessor's take, unless one takes more.
local TURN, SPILLED = 32, 2048 * KIB

-- How a kernel is launched: jit_cuda_plan.
local function launch_of(c, k)
  local rows = k.CHUNK and 1 or (c.M + 16 * k.KW - 1) // (16 * k.KW)
  return { shared = k.spilled and TURN or k.SHARED_BYTES,
    memory = k.spilled and up(k.SHARED_BYTES, 256) or 0, threads = k.BLOCK_THREADS,
    blocks = k.MIN_BLOCKS, tile = k.TB, row_blocks = rows,
    value_blocks = k.VB and (c.DV8 + k.VB - 1) // k.VB or 1 }
end

-- One leaves the other what it needs of every tile: their tiles and row blocks are the same.
local twins = {
  attn_causal_queries_bwd = "attn_causal_keys_bwd",
  attn_causal_keys_bwd = "attn_causal_queries_bwd",
}

-- Is one with device memory better than another: it takes half of SPILLED at most, and has small
-- groups, since addresses there take twice the registers.
local function better(k, other)
  local half = SPILLED // 2
  if not other then return true end
  if k.most > half or other.most > half then return k.most < other.most end
  return (k.NG or k.QN or 1) < (other.NG or other.QN or 1)
end

-- For sizes of which no candidate fits shared memory.
local function spilled(list, class)
  local best
  for _, k in ipairs(list) do
    if k.needed <= 255 and k.TB <= 32 * k.KW and better(k, best) then best = k end
  end
  if best then
    best.spilled = true
    best.MIN_BLOCKS = math.max(1, math.min(SPILLED // best.most,
      gpu.occupancy(class, best.KW, math.min(255, 2 * best.needed), TURN)))
  end
  return best
end

-- The first candidate that keeps as many warps of a multiprocessor busy as any should: 16, or 8 ...
local function choose(name, c, class)
  local list = candidates[name](c)
  for _, k in ipairs(list) do
    setmetatable(k, { __index = c })
    k.BLOCK_THREADS = 32 * k.KW
    k.SHARED_BYTES = layout.shared_bytes(name, k)
    k.needed = registers[name](k)
    k.most = math.max(k.SHARED_BYTES, twins[name] and layout.shared_bytes(twins[name], k) or 0)
    k.MIN_BLOCKS = k.most <= class.block and k.needed <= 255 and k.TB <= 32 * k.KW
      and gpu.occupancy(class, k.KW, k.needed, k.most) or 0
  end
  for _, busy in ipairs(name == "attn_queries" and { 8, 4, 2, 1 } or { 16, 8, 4, 2, 1 }) do
    for _, k in ipairs(list) do
      if k.MIN_BLOCKS * k.KW >= busy then return k end
    end
  end
  return not kernels.is_cluster(name) and spilled(list, class) or nil
end

-- Blocks a cluster where a kernel of two launches has a twin that needs one, else 0. A block of it holds all
-- rows of W and the whole state, so this depends on the feature, its sizes and the class of the GPU.
local function cluster_of(name, c, arch)
  local twin = kernels.one_launch[name]
  return twin and arch >= gpu.FIRST_CLUSTERS and choose(twin, c, gpu.class(arch)) and gpu.CLUSTER or 0
end

-- Whether there is this kernel with clusters.
function M.has_clusters(name, spec, sizes, options)
  return options.arch >= gpu.FIRST_CLUSTERS
    and choose(name, constants(spec, sizes, options), gpu.class(options.arch)) ~= nil
end

-- A kernel that needs clusters was asked for where there is none.
local function check_clusters(name, spec, c, arch, k)
  local needed = kernels.is_cluster(name)
  if needed and arch < gpu.FIRST_CLUSTERS then
    error(("%s: clusters of blocks are there from ARCH %d on, not for %d"):format(name, gpu.FIRST_CLUSTERS, arch), 0)
  elseif needed and not k then
    error(("%s: the state of %s with D %d, DV %d, M %d is too big for a block"):format(name, spec.name, c.D, c.DV,
      c.M), 0)
  end
end

-- Head sizes have a limit; W may have any number of rows.
local function check_sizes(name, sizes)
  for _, size in ipairs(c_kernels.sizes) do
    local value, most = sizes[size.name], size.name ~= "M" and size.max or math.maxinteger
    if value < 1 or value > most then
      error(("%s: %s %s=%d: it must be %s"):format(name, size.what, size.name, value,
        size.name == "M" and "at least 1" or "from 1 to " .. most), 0)
    end
  end
end

-- Blocks a cluster of a launch over `heads` heads of `tokens` tokens: of 1, 2, 4, 8 the number that leaves the
-- fewest places of the GPU without a block, and the smaller of two that are as good; a block has two tiles at
-- least. 0 where heads are so few that two launches of `blocks` blocks or more keep twice as much of it busy.
function M.cluster_blocks(launch, heads, tokens, multiprocessors, blocks)
  local slots, best, best_waves = multiprocessors * launch.blocks, 0, 1
  local n = 1
  while n <= gpu.CLUSTER and (n == 1 or 2 * launch.tile * n <= tokens) do
    local waves = (heads * n + slots - 1) // slots
    if n * best_waves > best * waves then best, best_waves = n, waves end
    n = 2 * n
  end
  return best == gpu.CLUSTER and 2 * heads * best < blocks and 0 or best
end

-- The constants of one kernel: { name, value } in order, as the skeleton's enum; and how it is launched.
-- options: dtype "f32" or "bf16", precision "float32" or "fast", learn, arch.
function M.kernel(name, spec, sizes, options)
  check_sizes(name, sizes)
  local c, arch = constants(spec, sizes, options), options.arch or 80
  local k = choose(name, c, gpu.class(arch))
  check_clusters(name, spec, c, arch, k)
  assert(k, "no kernel of any size fits")
  k.TOKEN_THREADS = math.min(32, power_of_two(k.BLOCK_THREADS // k.TB))
  k.SECOND_OWN = spec.second_own and 1 or 0
  local list = {}
  for _, key in ipairs { "KW", "TB", "NG", "QN", "VB", "CHUNK", "ROW_GROUPS", "BLOCK_THREADS", "TOKEN_THREADS",
    "MIN_BLOCKS", "SHARED_BYTES", "PRODUCTS", "BF16", "LEARN", "SECOND_OWN" } do
    if k[key] then list[#list + 1] = { key, k[key] } end
  end
  local launch = launch_of(c, k)
  launch.cluster = cluster_of(name, c, arch)
  return list, launch
end

return M
