-- S H G P H B with trained diagonals S, G, B and a fixed permutation P; the first values are a draw of
-- fastfood_fixed. The sample is not used.
return {
  name = "fastfood_learnable",
  doc = "fastfood with trained diagonals",
  source = "Yang et al. 2015, arXiv:1412.7149",
  law = "learned",
  learner = "fastfood",
  sample = function(s)
    return s.normal()
  end,
}
