-- OPRF on R_q x and R_k y, with R_q' R_k = I chosen so that both sides have the same second moments.
return {
  name = "aderf",
  doc = "asymmetric dense-exponential features: OPRF after two linear maps from the data",
  source = "Likhosherstov et al. 2023, arXiv:2302.00787",
  antithetic = true,
  linear = "geometric_mean",
  scalars = { { "A", 0 } },

  phi = function(u, x2, w2, p)
    local b = sqrt(1 - 4 * p.A)
    return { log = p.A * w2 + b * u - x2 / 2 }
  end,
  constant = function(p, d)
    return d / 4 * log(1 - 4 * p.A)
  end,

  -- Moments are those of the mapped x and y.
  adapt = function(m)
    return { A = optimal_A(pairs_mean(m) / m.d) }
  end,
}
