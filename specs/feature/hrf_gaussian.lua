-- As hrf, with exp(-|x - y|^2 / (2 tau^2)) as the weight of the trigonometric estimate, itself estimated
-- by cos t.(x - y) / tau for an independent normal t in each row.
return {
  name = "hrf_gaussian",
  doc = "hybrid features, mixed by a Gaussian of width tau",
  source = "Choromanski et al. 2022, arXiv:2110.04367",
  lanes = 10,
  sided = true,
  scalars = { { "tau", 1 } },
  second = { matrix = "own" },

  phi = function(u, x2, _, p, t)
    local c, s = cos(t.u2 / p.tau), sin(t.u2 / p.tau)
    local norm = x2 / 2 + log(2) / 2
    local cu, su = cos(u), sin(u)
    -- near: [c, s] x trig; far: positive, minus [c, s] x positive
    return {
      { log = x2 / 2, sign = c * cu }, { log = x2 / 2, sign = c * su },
      { log = x2 / 2, sign = s * cu }, { log = x2 / 2, sign = s * su },
      { log = u - norm }, { log = -u - norm },
      { log = u - norm, sign = p.side * c }, { log = -u - norm, sign = p.side * c },
      { log = u - norm, sign = p.side * s }, { log = -u - norm, sign = p.side * s },
    }
  end,
}
