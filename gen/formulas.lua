-- Formulas that several component functions share; specs call them by name. None ends in a tail call,
-- so that its locals are there to be read as names when it returns.
local E = require "gen.expr"

local M = { NAMES = { "optimal_A", "optimal_p", "pairs_mean" } }

-- A that minimises the variance of exp(A|w|^2 + sqrt(1 - 4A) w.x - |x|^2/2) for a mean phi of
-- |x + y|^2 / d, negative ones taken as 0: the root of 16 A^2 - (2 - 4 phi) A - phi = 0, free of
-- cancellation, no lower than -64 (Likhosherstov et al. 2022, arXiv:2205.15317).
function M.optimal_A(phi)
  phi = E.max(phi, 0)
  local root = E.sqrt((2 * phi + 1) ^ 2 + 8 * phi)
  local A = -phi / (1 + (1 + 12 * phi) / (root + 2 * phi))
  return (E.max(A, -64))
end

-- Mean over pairs of |x + y|^2, from the moments m1x, m1y, m2x, m2y of x and y.
function M.pairs_mean(m)
  local pairs_mean = E.sum(m.m2x) + E.sum(m.m2y) + 2 * E.sum(m.m1x * m.m1y)
  return pairs_mean
end

-- p that minimises -d log p + sum log I0(2 s / sqrt(1 - p)), the variance of geometric features for
-- products s >= 0 of d coordinates: the root of -d/p + sum s (1 - p)^(-3/2) I1/I0(2 s / sqrt(1 - p)),
-- by bisection of log(1 - p). Constant to derivatives: s is in comparisons only.
function M.optimal_p(s, d)
  local low, high = E.log(1e-6), E.log(0.999)
  for _ = 1, 24 do
    local middle = (low + high) / 2
    local rest = E.exp(middle)
    local root = E.sqrt(rest)
    local slope = E.sum(s * E.bessel_ratio(2 * s / root)) / (rest * root) - d / (1 - rest)
    low, high = E.where(E.lt(0, slope), middle, low), E.where(E.lt(0, slope), high, middle)
  end
  return 1 - E.exp((low + high) / 2)
end

return M
