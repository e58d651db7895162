-- exp(x.y) = exp(|x|^2/2) E[cos w.(x - y)] exp(|y|^2/2). Signed, so the normaliser may be negative.
return {
  name = "trigrf",
  doc = "trigonometric features, exact at x = y",
  source = "Rahimi & Recht 2007; Choromanski et al. 2021, arXiv:2009.14794",
  lanes = 2,

  phi = function(u, x2)
    local log = x2 / 2
    return { { log = log, sign = cos(u) }, { log = log, sign = sin(u) } }
  end,

  -- The reference uses the norm where half its square belongs.
  official = {
    token_norm = 1,
    phi = function(u, x2)
      local norm = sqrt(x2)
      return { { log = norm, sign = cos(u) }, { log = norm, sign = sin(u) } }
    end,
  },
}
