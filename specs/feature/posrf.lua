-- exp(x.y) = E[exp(w.x - |x|^2/2) exp(w.y - |y|^2/2)].
return {
  name = "posrf",
  doc = "positive features (FAVOR+)",
  source = "Choromanski et al. 2021, arXiv:2009.14794",
  antithetic = true,

  phi = function(u, x2)
    return { log = u - x2 / 2 }
  end,

  official = {
    token_norm = 0,
    phi = function(u)
      return { log = u }
    end,
  },
}
