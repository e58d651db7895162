-- The real exp-quadratic features: unbiased for every A < 1/4, of finite variance for A < 1/8.
return {
  name = "gerf",
  doc = "generalised exponential features with a given A < 1/8",
  source = "Likhosherstov et al. 2022, arXiv:2205.15317",
  scalars = { { "A", 0 } },

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
