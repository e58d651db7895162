-- SDERF with complex alpha = a (1 + i tilt): unbiased for every tilt, SDERF at 0. Real and imaginary
-- part are a lane each, the key's imaginary part is negated, so the sum of products is Re f(x) f(y).
return {
  name = "cderf",
  doc = "complex dense-exponential features: SDERF with a phase, tilt = Im / Re of A",
  source = "Likhosherstov et al. 2023, arXiv:2302.00787",
  lanes = 2,
  antithetic = true,
  sided = true,
  linear = "eigen_sum",
  scalars = { { "tilt", 0.5 }, { "level", 0 }, { "turn", 0 } },
  vectors = { "a", "b_re", "b_im" },
  norms = { "a" },

  -- b_re + i b_im = sqrt(1 - 4 alpha)
  map_q = function(x, p)
    return x * p.b_re
  end,
  map_k = function(y, p)
    return y * p.b_re
  end,
  second = {
    matrix = "same",
    map = function(x, p)
      return x * p.b_im
    end,
  },

  phi = function(u, _, _, p, t)
    local log = t.a + u - t.r2 / 2
    local phase = p.tilt * t.a + t.u2 + p.turn
    return { { log = log, sign = cos(phase) }, { log = log, sign = p.side * sin(phase) } }
  end,
  constant = function(p)
    return p.level
  end,

  adapt = function(m, p)
    local a = optimal_A(m.m2x + m.m2y + 2 * (m.m1x * m.m1y))
    local re, im = 1 - 4 * a, -4 * p.tilt * a
    local size = sqrt(re * re + im * im)
    local half = sqrt((size + re) / 2)
    return {
      a = a, b_re = half, b_im = im / (2 * half),
      level = sum(log(size)) / 4, turn = sum(atan(im / re)) / 4,
    }
  end,
}
