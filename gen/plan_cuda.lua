-- Sizes of the CUDA kernels of one feature: warps, tiles, shared memory, blocks a multiprocessor. A
-- table of candidates, the first that fits; no search at run time, and nothing that depends on the
-- length of a sequence or the batch.
local feature = require "gen.feature"
local plan = require "gen.plan"

local M = {}

local KIB = 1024

local function up(n, unit) return (n + unit - 1) // unit * unit end

-- What kinds of GPU offer: bytes of shared memory a block may have and a multiprocessor has, of which
-- every block takes 1 KiB more than it asks for; blocks and warps it holds. CUDA C++ Programming Guide,
-- "Technical Specifications per Compute Capability".
M.classes = {
  { name = "large", archs = { 90, 100, 103, 110 }, block = 227 * KIB, all = 228 * KIB, blocks = 32, warps = 64 },
  { name = "medium", archs = { 80, 87 }, block = 163 * KIB, all = 164 * KIB, blocks = 32, warps = 64 },
  { name = "small", archs = { 86, 88, 89, 120, 121 }, block = 99 * KIB, all = 100 * KIB, blocks = 16, warps = 48 },
}

-- The class of an architecture, 90 of "sm_90a"; of one that is not known the smallest.
function M.class(arch)
  for _, class in ipairs(M.classes) do
    for _, known in ipairs(class.archs) do
      if known == arch then return class end
    end
  end
  return M.classes[#M.classes]
end

-- Blocks of so many warps, registers a thread and bytes that a multiprocessor holds at a time. Registers
-- are given out to a warp, by 256; warps by fours.
function M.occupancy(class, warps, registers, bytes)
  local register_warps = 65536 // up(up(registers, 8) * 32, 256) // 4 * 4
  return math.min(class.blocks, class.warps // warps, register_warps // warps,
    class.all // (bytes + KIB))
end

-- Kernels, in the order they are launched; each is a text of its own.
M.kernels = { "attn_keys", "attn_queries", "attn_queries_bwd", "attn_keys_bwd", "attn_causal",
  "attn_combine", "attn_causal_queries_bwd", "attn_causal_keys_bwd", "attn_sum", "attn_step",
  "attn_merge" }

-- Those that take the place of two, a cluster of blocks a head, where there are clusters: an H100's or newer.
M.clusters = { "attn_cluster", "attn_cluster_bwd" }
local FIRST_CLUSTERS, CLUSTER = 90, 8 -- compute capability times 10; blocks a cluster at most

-- The first of the two.
local one_launch = { attn_keys = "attn_cluster", attn_queries_bwd = "attn_cluster_bwd" }

-- Those that make data-dependent parameters, before the others.
M.params = { "attn_moments", "attn_params", "attn_counts", "attn_products", "attn_maps" }

-- Those without a choice of sizes: no shared memory, threads that share out what there is.
M.plain = { "attn_learned" }

-- Those of the reference's behaviour, each a text with several kernels.
M.token = { "attn_token", "attn_token_adapt" }

-- What the text of a kernel depends on beside the feature and its sizes; other options are at their defaults
-- there, so that equal kernels are one text.
M.reads = { attn_moments = { dtype = true }, attn_products = { dtype = true }, attn_maps = { arch = true } }
for _, list in ipairs { M.kernels, M.clusters } do
  for _, kernel in ipairs(list) do
    M.reads[kernel] = { arch = true, dtype = true, precision = true, learn = kernel:find("_bwd$") ~= nil }
  end
end
for _, kernel in ipairs { "attn_combine", "attn_sum", "attn_step", "attn_merge" } do -- no products of tiles
  M.reads[kernel].precision = false
end
M.reads.attn_merge.dtype = false -- states are float

-- The first architecture of the class of another, with clusters where the kernel needs them: the one that texts
-- name, as they are those of all the class.
function M.first_of_class(kernel, arch)
  local least = (kernel == "attn_cluster" or kernel == "attn_cluster_bwd") and FIRST_CLUSTERS or 0
  for _, known in ipairs(M.class(arch).archs) do
    if known >= least then return known end
  end
  return arch
end

function M.template(kernel) return "templates/cuda/" .. kernel .. ".cu" end

-- What the formulas of shared memory read: the same names as in the skeletons.
local function constants(spec, sizes, options)
  local c = {}
  for _, constant in ipairs(feature.constants(spec, sizes)) do c[constant[1]] = constant[2] end
  c.D, c.DV, c.M = sizes.D, sizes.DV, sizes.M
  c.MP, c.D8, c.DV8 = up(c.M, 16), up(c.D, 8), up(c.DV, 8)
  c.LDX = c.D8 + 4
  c.PARTS = options.precision == "fast" and 1 or 2
  c.ELEMENT = options.dtype == "bf16" and 2 or 4
  c.SUMS = (c.IDENTITY == 1 and 1 or 2) + c.SUM
  c.LEARN = options.learn and 1 or 0
  return c
end

local function stage_row(c, width) return up(width * c.ELEMENT, 16) + 16 end

-- What every tile of tokens takes beside its stages: planes, hoisted values, marks; and the head's.
local function tile_floats(c, TB)
  return c.NP * c.PARTS * TB * c.LDX + up(TB * c.NTOK, 4) + 2 * TB + c.NV * c.D8
end

-- Shared memory of each kernel in floats, as its skeleton lays it out (and asserts).
local shared = {}

function shared.attn_keys(c, k)
  return c.NP * 16 * k.KW * k.ROW_GROUPS * c.LDX + tile_floats(c, k.TB) + c.PARTS * k.TB * (k.VB + 4)
    + c.LINEAR * c.D8 * c.LDX + k.TB * (stage_row(c, c.D) + stage_row(c, c.DV)) // 4
end

function shared.attn_queries(c, k)
  local FC = c.LANES * k.CHUNK
  return c.NP * k.CHUNK * c.LDX + FC * (k.VB + 4) + 2 * FC + up(k.CHUNK * c.NROW, 4)
    + tile_floats(c, k.TB) + c.LINEAR * c.D8 * c.LDX + k.TB * stage_row(c, c.D) // 4
end

local function backward(c, k, rows_of_state)
  local ROWS = 16 * k.KW
  return 16 + c.NP * ROWS * c.LDX + rows_of_state * (c.DV8 + 4) + tile_floats(c, k.TB)
    + c.PARTS * k.TB * (c.DV8 + 4) + c.NP * ROWS * k.TB + k.KW * c.SUMS * k.TB
    + c.LEARN * (up(k.TB * 3, 4) + ROWS * c.LDX) + 2 * c.LINEAR * c.D8 * c.LDX
end

function shared.attn_queries_bwd(c, k)
  local rows = c.LANES * 16 * k.KW
  local kept = c.LANES * c.DV8 // 8 <= 8 and 0 or rows
  return backward(c, k, rows + kept) + 2 * kept + 2 * k.TB
    + 2 * k.TB * (stage_row(c, c.D) + 2 * stage_row(c, c.DV)) // 4
end

function shared.attn_keys_bwd(c, k)
  local rows = c.LANES * 16 * k.KW
  return backward(c, k, rows) + rows * k.TB + 2 * k.TB * (stage_row(c, c.D) + stage_row(c, c.DV)) // 4
end

-- Both passes of a launch use the same memory one after the other, and between them the block's part of the
-- state lies behind W and what is merged.
function shared.attn_cluster(c, k)
  local FC = c.LANES * k.CHUNK
  local part = c.NP * k.CHUNK * c.LDX + 2 * FC * (k.VB + 6) + up(k.CHUNK * c.NROW, 4)
  return math.max(shared.attn_keys(c, k), shared.attn_queries(c, k), part)
end

function shared.attn_cluster_bwd(c, k)
  local ROWS = 16 * k.KW
  local part = 16 + c.NP * ROWS * c.LDX + c.LANES * ROWS * (2 * (c.DV8 + 4) + 1)
  return math.max(shared.attn_queries_bwd(c, k), shared.attn_keys_bwd(c, k), part)
end

-- What the causal kernels share: W, the state or its gradient, both sides' tiles, values, hoisted values.
local function causal(c, k)
  local ROWS = 16 * k.KW
  return c.NP * ROWS * c.LDX + c.LANES * ROWS * (c.DV8 + 4) + 2 * tile_floats(c, k.TB) - c.NV * c.D8
    + c.PARTS * k.TB * (c.DV8 + 4) + 2 * c.LINEAR * c.D8 * c.LDX
end

function shared.attn_causal(c, k)
  local FB = c.LANES * 16 * k.KW
  return 16 + causal(c, k) + 2 * FB + FB * k.TB + k.KW * k.TB * (c.DV8 + 4) + 2 * k.KW * k.TB + up(k.KW, 4)
    + 16 * k.KW * (c.NROW + 1)
    + k.TB * (2 * stage_row(c, c.D) + stage_row(c, c.DV)) // 4
end

-- Not all groups of a tile's tokens at once: MANY of causal.cuh.
local function many(k) return 8 * k.NG < k.TB end

-- Backward of both: gradients of g, P, what is per token, parameters' gradients.
local function causal_backward(c, k)
  local ROWS = 16 * k.KW
  return 24 + causal(c, k) + c.PARTS * k.TB * (c.DV8 + 4) + k.KW * c.SUMS * k.TB + 2 * k.TB
    + c.LEARN * (up(k.TB * 3, 4) + ROWS * c.LDX) + c.LINEAR * c.D8 * c.LDX
end

function shared.attn_causal_queries_bwd(c, k)
  local FB = c.LANES * 16 * k.KW
  local kept = c.LANES * c.DV8 // 8 <= 4 and 0 or FB * (c.DV8 + 4)
  return causal_backward(c, k) + kept + 4 * FB + k.TB * (k.TB + 8)
    + (many(k) and FB + c.NP * 16 * k.KW or math.max(c.NP * 16 * k.KW, FB)) * k.TB + up(k.KW, 4)
    + k.TB * (3 * stage_row(c, c.D) + 3 * stage_row(c, c.DV)) // 4
end

function shared.attn_causal_keys_bwd(c, k)
  local FB = c.LANES * 16 * k.KW
  return causal_backward(c, k) + 3 * FB + k.TB * (k.TB + 4) + (2 * FB + (many(k) and c.NP * 16 * k.KW or 0)) * k.TB
    + k.KW * k.TB * (c.DV8 + 4) + k.TB * (3 * stage_row(c, c.D) + 2 * stage_row(c, c.DV)) // 4
end

-- Kernels without shared memory, a thread four numbers.
function shared.attn_combine() return 0 end
function shared.attn_sum() return 0 end
function shared.attn_merge() return 32 end

function shared.attn_step(c, k)
  local F = c.LANES * c.MP
  local groups = 32 * k.KW // (c.DV8 // 4)
  return (2 * c.NP + 2 * c.LINEAR) * c.D8 + c.DV8 + up(2 * c.NTOK, 4) + (3 + c.SIGNED) * F + 2 * k.KW
    + groups * c.DV8
end


-- Registers a thread of each kernel needs to keep all in them: sums and the numbers of a group of 8
-- tokens or rows, and what compilers take beside that for NVRTC 13 (tests/device/cuda_table.txt has what comes
-- out).
local registers = {}

local function group_registers(c, n) return 4 * n * (c.NP + c.LANES * (1 + c.SIGNED)) end

function registers.attn_keys(c, k)
  return 48 + math.max(0, c.NUNI - 5) + k.ROW_GROUPS * c.LANES * (k.VB // 2 + 4)
    + (k.ROW_GROUPS - 1) * 2 * c.NROW + group_registers(c, k.NG)
end

function registers.attn_queries(c, k) return 72 + k.VB // 2 + group_registers(c, k.QN) end

function registers.attn_queries_bwd(c, k)
  local sums = c.LANES * c.DV8 // 8 <= 8 and c.DV8 // 2 or 0
  return 70 + c.LINEAR * (c.ELEMENT == 2 and 40 or 24) + c.LANES * (sums + 2) + group_registers(c, k.NG) + k.NG * c.SUMS
    + c.LEARN * 40
end

function registers.attn_keys_bwd(c, k)
  return 66 + c.LINEAR * (2 * k.TB + 16 * (c.NW - 1) * (c.LANES - 1)) + c.LANES * 4
    + group_registers(c, k.NG) + k.NG * c.SUMS + c.LEARN * 40
end

function registers.attn_cluster(c, k)
  return math.max(registers.attn_keys(c, k), registers.attn_queries(c, k))
end

function registers.attn_cluster_bwd(c, k)
  return math.max(registers.attn_queries_bwd(c, k), registers.attn_keys_bwd(c, k))
    + c.LINEAR * 8 + c.COUNTS * 32 + (c.PARTS == 1 and c.ELEMENT == 4 and 16 or 0)
end

-- Causal kernels hold both sides; as many as there are.
for _, kernel in ipairs { "attn_causal", "attn_causal_queries_bwd", "attn_causal_keys_bwd" } do
  registers[kernel] = function() return 200 end
end
function registers.attn_combine() return 48 end
function registers.attn_sum() return 56 end
function registers.attn_merge() return 56 end
function registers.attn_step(c) return (c.LANES > 4 or c.COUNTS * c.SIGNED == 1) and 80 or 64 end

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

local function is_cluster(name) return name == M.clusters[1] or name == M.clusters[2] end

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
      M.occupancy(class, best.KW, math.min(255, 2 * best.needed), TURN)))
  end
  return best
end

-- The first candidate that keeps as many warps of a multiprocessor busy as any should: 16, or 8 ...
local function choose(name, c, class)
  local list = candidates[name](c)
  for _, k in ipairs(list) do
    k.SHARED_BYTES = 4 * shared[name](c, k)
    k.needed = registers[name](c, k)
    k.most = math.max(k.SHARED_BYTES, twins[name] and 4 * shared[twins[name]](c, k) or 0)
    k.MIN_BLOCKS = k.most <= class.block and k.needed <= 255 and k.TB <= 32 * k.KW
      and M.occupancy(class, k.KW, k.needed, k.most) or 0
  end
  for _, busy in ipairs(name == "attn_queries" and { 8, 4, 2, 1 } or { 16, 8, 4, 2, 1 }) do
    for _, k in ipairs(list) do
      if k.MIN_BLOCKS * k.KW >= busy then return k end
    end
  end
  return not is_cluster(name) and spilled(list, class) or nil
end

-- Blocks a cluster where a kernel of two launches has a twin that needs one, else 0. A block of it holds all
-- rows of W and the whole state, so this depends on the feature, its sizes and the class of the GPU.
local function cluster_of(name, c, arch)
  local twin = one_launch[name]
  return twin and arch >= FIRST_CLUSTERS and choose(twin, c, M.class(arch)) and CLUSTER or 0
end

-- Whether there is this kernel with clusters.
function M.has_clusters(name, spec, sizes, options)
  return options.arch >= FIRST_CLUSTERS
    and choose(name, constants(spec, sizes, options), M.class(options.arch)) ~= nil
end

-- A kernel that needs clusters was asked for where there is none.
local function check_clusters(name, spec, c, arch, k)
  local needed = is_cluster(name)
  if needed and arch < FIRST_CLUSTERS then
    error(("%s: clusters of blocks are there from ARCH %d on, not for %d"):format(name, FIRST_CLUSTERS, arch), 0)
  elseif needed and not k then
    error(("%s: the state of %s with D %d, DV %d, M %d is too big for a block"):format(name, spec.name, c.D, c.DV,
      c.M), 0)
  end
end

-- Head sizes have a limit; W may have any number of rows.
local function check_sizes(name, sizes)
  for _, size in ipairs(plan.sizes) do
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
  while n <= CLUSTER and (n == 1 or 2 * launch.tile * n <= tokens) do
    local waves = (heads * n + slots - 1) // slots
    if n * best_waves > best * waves then best, best_waves = n, waves end
    n = 2 * n
  end
  return best == CLUSTER and 2 * heads * best < blocks and 0 or best
end

-- The constants of one kernel: { name, value } in order, as the skeleton's enum; and how it is launched.
-- options: dtype "f32" or "bf16", precision "float32" or "fast", learn, arch.
function M.kernel(name, spec, sizes, options)
  check_sizes(name, sizes)
  local c, arch = constants(spec, sizes, options), options.arch or 80
  local k = choose(name, c, M.class(arch))
  check_clusters(name, spec, c, arch, k)
  assert(k, "no kernel of any size fits")
  k.BLOCK_THREADS = 32 * k.KW
  k.TOKEN_THREADS = math.min(32, power_of_two(k.BLOCK_THREADS // k.TB))
  k.PRODUCTS = c.PARTS == 2 and 3 or 1
  k.BF16 = c.ELEMENT == 2 and 1 or 0
  k.LEARN = c.LEARN
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
function M.params_kernel(name, spec, sizes, options)
  local bf16, D, list = options.dtype == "bf16", sizes.D, {}
  local group = D % 4 == 0 and not bf16 and 4 or 1
  local lines, side = 256 // (D // group), (D + 63) // 64
  local launch
  if name == "attn_maps" then
    launch, list = maps_launch(spec, D, M.class(options.arch or 80))
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
function M.token_kernel(name, spec, sizes)
  local c = constants(spec, sizes, {})
  local threads, smallest = 256, M.classes[#M.classes].block
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
    { threads = threads, shared = bytes, blocks = math.max(1, M.classes[2].all // (bytes + KIB)), tile = TB }
end

-- The same of plain ones, which see the sizes only; the tile's constants are of no use there.
function M.plain_kernel()
  return { { "PRODUCTS", 3 }, { "BF16", 0 }, { "TB", 32 }, { "TOKEN_THREADS", 1 }, { "SECOND_OWN", 0 } },
    { threads = 256, shared = 0 }
end

return M
