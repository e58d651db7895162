-- The GPUs that kernels are made for: what a block and a multiprocessor of each class have, and how many blocks a
-- multiprocessor holds at a time.
local M = {}

local KIB = 1024

local function up(n, unit) return (n + unit - 1) // unit * unit end

M.FIRST_CLUSTERS = 90 -- the first architecture with clusters of blocks: an H100's
M.CLUSTER = 8         -- blocks a cluster at most

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

return M
