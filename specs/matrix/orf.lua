-- Haar blocks need the signs of R's diagonal fixed: without them rows are not isotropic and positive
-- features are biased.
return {
  name = "orf",
  doc = "stacked Haar-orthogonal blocks, every row with its own chi length",
  source = "Yu et al. 2016, arXiv:1610.09072; Mezzadri 2007, arXiv:math-ph/0609050",
  law = "exact",
  sample = function(s)
    return s.chi_rows(s.haar())
  end,
}
