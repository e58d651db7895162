-- exp(x.y) = exp(c.x + c.y - |c|^2) exp((x - c).(y - c)) with c below every coordinate: all powers are
-- of positive numbers.
return {
  name = "poisrf_plus",
  doc = "Poisson features of shifted coordinates, positive",
  source = "Likhosherstov et al. 2022, arXiv:2205.15317",
  scalars = { { "lambda", 1 }, { "half_c2", 0 } },
  vectors = { "c" },
  counts = { law = "poisson", parameter = "lambda" },

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
    return { log = u - log(p.lambda) / 2 * t.count + t.sum }
  end,
  constant = function(p, d)
    return p.lambda * d / 2 - p.half_c2
  end,

  adapt = function(m)
    local c = m.low - (1e-3 * (m.high - m.low) + 1e-6)
    local x2 = m.m2x - 2 * (c * m.m1x) + c * c
    local y2 = m.m2y - 2 * (c * m.m1y) + c * c
    return { c = c, half_c2 = sum(c * c) / 2, lambda = max(sqrt(sum(x2 * y2) / m.d), 1e-4) }
  end,
}
