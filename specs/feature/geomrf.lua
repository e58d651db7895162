-- exp(x.y) = E prod_d (x_d y_d)^w_d / (p (1 - p)^w_d w_d!) over geometric counts w, P(k) = p (1 - p)^k.
return {
  name = "geomrf",
  doc = "geometric features: signed powers of the coordinates",
  source = "Likhosherstov et al. 2022, arXiv:2205.15317",
  scalars = { { "p", 0.9 } },
  counts = { law = "geometric", parameter = "p" },

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
    local log = u - log(1 - p.p) / 2 * t.count - t.log_factorial / 2
    return { log = log, sign = cos(pi * t.u2) }
  end,
  constant = function(p, d)
    return -d / 2 * log(p.p)
  end,

  adapt = function(m)
    return { p = optimal_p(m.a1x * m.a1y, m.d) }
  end,
}
