-- exp(x.y) = E prod_d (x_d y_d)^w_d lambda^(-w_d) e^lambda over Poisson counts w. A zero coordinate
-- counts as 1e-30, 0^0 = 1.
return {
  name = "poisrf",
  doc = "Poisson features: signed powers of the coordinates",
  source = "Likhosherstov et al. 2022, arXiv:2205.15317",
  scalars = { { "lambda", 0.1 } },
  counts = { law = "poisson", parameter = "lambda" },

  map_q = function(x)
    return log(max(abs(x), 1e-30))
  end,
  map_k = function(y)
    return log(max(abs(y), 1e-30))
  end,
  -- The sign is that of the power: odd where an odd number of negative factors is.
  second = {
    matrix = "same",
    map = function(x)
      return lt(x, 0)
    end,
  },

  phi = function(u, _, _, p, t)
    return { log = u - log(p.lambda) / 2 * t.count, sign = cos(pi * t.u2) }
  end,
  constant = function(p, d)
    return p.lambda * d / 2
  end,

  adapt = function(m)
    return { lambda = max(sqrt(sum(m.m2x * m.m2y) / m.d), 1e-4) }
  end,
}
