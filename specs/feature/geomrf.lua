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
    local s = m.a1x * m.a1y
    -- The root of -d/p + sum s (1 - p)^(-3/2) I1/I0(2 s / sqrt(1 - p)), by bisection of log(1 - p).
    local low, high = log(1e-6), log(0.999)
    for _ = 1, 24 do
      local middle = (low + high) / 2
      local rest = exp(middle)
      local root = sqrt(rest)
      local slope = sum(s * bessel_ratio(2 * s / root)) / (rest * root) - m.d / (1 - rest)
      low, high = where(lt(0, slope), middle, low), where(lt(0, slope), high, middle)
    end
    return { p = 1 - exp((low + high) / 2) }
  end,
}
