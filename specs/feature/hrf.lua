-- Estimate of exp(x.y) that mixes the positive (exact for y = -x) and the trigonometric one (exact for
-- y = x) by an independent estimate of angle(x, y) / pi: each row has its own direction tau, and is
-- positive where x and y are on different sides of it. h says on which side x is, so of the eight lanes
-- a token uses four.
return {
  name = "hrf",
  doc = "hybrid features, angular: positive for far tokens, trigonometric for near ones",
  source = "Choromanski et al. 2022, arXiv:2110.04367",
  lanes = 8,
  sided = true,
  second = { matrix = "own" },

  phi = function(u, x2, _, p, t)
    local h = lt(0, t.u2)
    local query = lt(0, p.side)
    local far = where(query, h, 1 - h)
    local norm = x2 / 2 + log(2) / 2
    local c, s = cos(u), sin(u)
    return {
      { log = u - norm, sign = far }, { log = -u - norm, sign = far },
      { log = u - norm, sign = 1 - far }, { log = -u - norm, sign = 1 - far },
      { log = x2 / 2, sign = h * c }, { log = x2 / 2, sign = h * s },
      { log = x2 / 2, sign = (1 - h) * c }, { log = x2 / 2, sign = (1 - h) * s },
    }
  end,
}
