-- Which CUDA kernels of attention there are, by how their sizes are found, what their texts depend on and which
-- skeleton they are made from. Of C: c_kernels.lua.
local gpu = require "gen.cuda_gpu"

local M = {}

-- Kernels of attention whose tiles are chosen (cuda_tiles.lua), in the order they are launched; each is a text of
-- its own.
M.tiled = { "attn_keys", "attn_queries", "attn_queries_bwd", "attn_keys_bwd", "attn_causal",
  "attn_combine", "attn_causal_queries_bwd", "attn_causal_keys_bwd", "attn_sum", "attn_step",
  "attn_merge" }

-- Those that take the place of two, a cluster of blocks a head, where there are clusters.
M.clusters = { "attn_cluster", "attn_cluster_bwd" }

-- By the first of the two.
M.one_launch = { attn_keys = "attn_cluster", attn_queries_bwd = "attn_cluster_bwd" }

function M.is_cluster(kernel) return kernel == M.clusters[1] or kernel == M.clusters[2] end

-- Those that make data-dependent parameters, before the others.
M.params = { "attn_moments", "attn_params", "attn_counts", "attn_products", "attn_maps" }

-- Those without a choice of sizes: no shared memory, threads that share out what there is.
M.plain = { "attn_learned" }

-- Those of the reference's behaviour, each a text with several kernels.
M.official = { "attn_official", "attn_official_adapt" }

-- What the text of a kernel depends on beside the feature and its sizes; other options are at their defaults
-- there, so that equal kernels are one text.
M.reads = { attn_moments = { dtype = true }, attn_products = { dtype = true }, attn_maps = { arch = true } }
for _, list in ipairs { M.tiled, M.clusters } do
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
  local least = M.is_cluster(kernel) and gpu.FIRST_CLUSTERS or 0
  for _, known in ipairs(gpu.class(arch).archs) do
    if known >= least then return known end
  end
  return arch
end

function M.template(kernel) return "templates/cuda/" .. kernel .. ".cu" end

return M
