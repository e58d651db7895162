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

  adapt = function(m)
    return { A = optimal_A(pairs_mean(m) / m.d) }
  end,

  official = {
    token_norm = 0,
    phi = function(u, _, w2, p)
      local b = sqrt(1 - 4 * p.A)
      return { log = p.A * w2 + b * u }
    end,
  },
}
