-- Exp-quadratic features with the A that minimises the variance for the mean of |x + y|^2.
return {
  name = "oprf",
  doc = "optimal positive features (FAVOR++), A from the data",
  source = "Likhosherstov et al. 2022, arXiv:2205.15317",
  antithetic = true,
  scalars = { { "A", 0 } },

  phi = function(u, x2, w2, p)
    local b = sqrt(1 - 4 * p.A)
    return { log = p.A * w2 + b * u - x2 / 2 }
  end,
  constant = function(p, d)
    return d / 4 * log(1 - 4 * p.A)
  end,

  -- The root of 16 A^2 - (2 - 4 phi) A - phi = 0, free of cancellation for every phi >= 0.
  adapt = function(m)
    local pairs_mean = sum(m.m2x) + sum(m.m2y) + 2 * sum(m.m1x * m.m1y)
    local phi = max(pairs_mean / m.d, 0)
    local root = sqrt((2 * phi + 1) ^ 2 + 8 * phi)
    local A = -phi / (1 + (1 + 12 * phi) / (root + 2 * phi))
    return { A = max(A, -64) }
  end,

  official = {
    token_norm = 0,
    phi = function(u, _, w2, p)
      local b = sqrt(1 - 4 * p.A)
      return { log = p.A * w2 + b * u }
    end,
  },
}
