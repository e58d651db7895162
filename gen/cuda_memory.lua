-- Shared memory of the CUDA kernels whose tiles are chosen.
local feature = require "gen.feature"

local M = {}

local function up(n, unit) return (n + unit - 1) // unit * unit end

-- What the formulas of shared memory read: the same names as in the skeletons.
function M.constants(spec, sizes, options)
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
M.floats = shared

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

return M
