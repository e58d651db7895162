-- The real exp-quadratic features: unbiased for every A < 1/4, of finite variance for A < 1/8.
return {
  name = "gerf",
  doc = "generalised exponential features, A < 1/8 given or trained per head",
  source = "Likhosherstov et al. 2022, arXiv:2205.15317",
  antithetic = true,
  scalars = { { "A", 0 } },
  -- A = (1 - 1 / softplus(theta)) / 8 < 1/8; theta starts where A = 0.
  learn = { A = { function(theta) return (1 - 1 / log(1 + exp(theta))) / 8 end, 0.541324854612918 } },

  phi = function(u, x2, w2, p)
    local b = sqrt(1 - 4 * p.A)
    return { log = p.A * w2 + b * u - x2 / 2 }
  end,
  constant = function(p, d)
    return d / 4 * log(1 - 4 * p.A)
  end,

  official = {
    token_norm = 0,
    phi = function(u, _, w2, p)
      local b = sqrt(1 - 4 * p.A)
      return { log = p.A * w2 + b * u }
    end,
  },
}
