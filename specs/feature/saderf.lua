-- OPRF after x -> psi x, y -> y / psi, which keeps x.y and makes both sides' second moments equal
-- coordinate by coordinate.
return {
  name = "saderf",
  doc = "simplified asymmetric dense-exponential features: OPRF on rescaled coordinates",
  source = "Likhosherstov et al. 2023, arXiv:2302.00787",
  antithetic = true,
  scalars = { { "A", 0 } },
  vectors = { "psi" },

  map_q = function(x, p)
    return x * p.psi
  end,
  map_k = function(y, p)
    return y / p.psi
  end,

  phi = function(u, x2, w2, p)
    local b = sqrt(1 - 4 * p.A)
    return { log = p.A * w2 + b * u - x2 / 2 }
  end,
  constant = function(p, d)
    return d / 4 * log(1 - 4 * p.A)
  end,

  adapt = function(m)
    local eps = 1e-6 * (sum(m.m2x) + sum(m.m2y)) / (2 * m.d) + 1e-20
    local ratio = (m.m2y + eps) / (m.m2x + eps)
    local psi = clamp(sqrt(sqrt(ratio)), 1 / 8, 8)
    local psi2 = psi * psi
    local mapped = { m1x = m.m1x, m1y = m.m1y, m2x = psi2 * m.m2x, m2y = m.m2y / psi2 }
    return { A = optimal_A(pairs_mean(mapped) / m.d), psi = psi }
  end,

  official = {
    token_norm = 0,
    phi = function(u, _, w2, p)
      local b = sqrt(1 - 4 * p.A)
      return { log = p.A * w2 + b * u }
    end,
  },
}
