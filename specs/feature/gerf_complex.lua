-- exp(A|w|^2 + B w.x - s|x|^2/2) with complex A = A_re + i A_im, s = 1 or -1, B = sqrt(s (1 - 4A)):
-- real and imaginary part are a lane each, and the key's imaginary part is negated, so that the sum of
-- products is Re f(x) f(y). Unbiased for A_re < 1/4, of finite variance for A_re < 1/8.
return {
  name = "gerf_complex",
  doc = "generalised exponential features with complex A (A_re, A_im) and s = 1 or -1",
  source = "Likhosherstov et al. 2022, arXiv:2205.15317",
  lanes = 2,
  antithetic = true,
  sided = true,
  scalars = { { "A_re", -0.1 }, { "A_im", 0.05 }, { "s", 1 }, { "turn", 0 } },

  phi = function(u, x2, w2, p)
    -- B = b_re + i b_im: the root of s (1 - 4A) in the right half plane
    local re, im = p.s * (1 - 4 * p.A_re), -4 * p.s * p.A_im
    local large = sqrt((sqrt(re * re + im * im) + abs(re)) / 2)
    local small = abs(im) / (2 * large)
    local sign = where(lt(im, 0), -1, 1)
    local b_re = where(lt(re, 0), small, large)
    local b_im = sign * where(lt(re, 0), large, small)
    -- f(y) of a key has s B where f(x) of a query has B
    local way = where(lt(p.side, 0), p.s, 1)
    local log = p.A_re * w2 + way * b_re * u - p.s * x2 / 2
    local phase = p.A_im * w2 + way * b_im * u + p.turn
    return { { log = log, sign = cos(phase) }, { log = log, sign = p.side * sin(phase) } }
  end,
  constant = function(p, d)
    local re, im = 1 - 4 * p.A_re, 4 * p.A_im
    return d / 8 * log(re * re + im * im)
  end,
  -- The phase of D = (1 - 4A)^(d/4) does not cancel.
  adapt = function(m, p)
    return { turn = -m.d / 4 * atan(4 * p.A_im / (1 - 4 * p.A_re)) }
  end,
}
