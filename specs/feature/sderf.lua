-- A = Q diag(a) Q' with the eigenvectors Q of mean (x + y)(x + y)' and each eigenvalue's optimum a.
return {
  name = "sderf",
  doc = "symmetric dense-exponential features, a matrix A from the data",
  source = "Likhosherstov et al. 2023, arXiv:2302.00787",
  antithetic = true,
  linear = "eigen_sum",
  scalars = { { "level", 0 } },
  vectors = { "a", "b" },
  norms = { "a" },

  map_q = function(x, p)
    return x * p.b
  end,
  map_k = function(y, p)
    return y * p.b
  end,

  phi = function(u, _, _, _, t)
    return { log = t.a + u - t.r2 / 2 }
  end,
  -- Moments are those of Q'x, where the matrix is diagonal.
  adapt = function(m)
    local a = optimal_A(m.m2x + m.m2y + 2 * (m.m1x * m.m1y))
    return { a = a, b = sqrt(1 - 4 * a), level = sum(log(1 - 4 * a)) / 4 }
  end,
  constant = function(p)
    return p.level
  end,
}
