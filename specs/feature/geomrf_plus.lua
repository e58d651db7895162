-- Geometric features of x - c and y - c, c below every coordinate: all powers are of positive numbers.
return {
  name = "geomrf_plus",
  doc = "geometric features of shifted coordinates, positive",
  source = "Likhosherstov et al. 2022, arXiv:2205.15317",
  scalars = { { "p", 0.5 }, { "half_c2", 0 } },
  vectors = { "c" },
  counts = { law = "geometric", parameter = "p" },

  map_q = function(x, p)
    return log(max(x - p.c, 1e-30))
  end,
  map_k = function(y, p)
    return log(max(y - p.c, 1e-30))
  end,
  sum = function(x, p)
    return x * p.c
  end,

  phi = function(u, _, _, p, t)
    return { log = u - log(1 - p.p) / 2 * t.count - t.log_factorial / 2 + t.sum }
  end,
  constant = function(p, d)
    return -d / 2 * log(p.p) - p.half_c2
  end,

  adapt = function(m)
    local c = m.low - (1e-3 * (m.high - m.low) + 1e-6)
    local p = optimal_p((m.m1x - c) * (m.m1y - c), m.d)
    return { c = c, half_c2 = sum(c * c) / 2, p = p }
  end,
}
