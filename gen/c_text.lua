-- C text of attention: skeletons of templates/c with the prologue of a feature.
local costs = require "gen.costs"
local files = require "gen.files"
local splice = require "gen.splice"
local target_c = require "gen.target_c"

local M = {}

local MARK = '#include "stub.h"'

-- The C text of each of these kinds.
function M.kernels(command, feature, id, sizes, dtype, kinds)
  local top = costs.heading(command, feature) .. (dtype == "f64" and "#define REAL double\n" or "")
  local prologue = ('#line 1 "%s"\n'):format(feature.path) .. target_c.prologue(feature, id, sizes)
  local texts = {}
  for i, kind in ipairs(kinds) do
    local define = kind.define and ("#define %s\n"):format(kind.define) or ""
    texts[i] = splice.splice(top .. define, prologue, files.read(kind.template), kind.template, MARK)
  end
  return texts
end

return M
