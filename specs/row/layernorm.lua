return {
  name = "layernorm",
  doc = "layer normalisation over a row, biased variance",
  source = "Ba, Kiros & Hinton 2016, arXiv:1607.06450",
  inputs = { row "x", shared "gamma", shared "beta" },
  constants = { "eps" },
  outputs = { row "y" },

  forward = function(v)
    local mean = sum(v.x) / v.n
    local centered = v.x - mean
    local variance = sum(centered ^ 2) / v.n
    local rstd = 1 / sqrt(variance + v.eps)
    return { y = centered * rstd * v.gamma + v.beta }
  end,
}
