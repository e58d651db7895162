-- m points in d dimensions, never the other way round: a row is a point.
return {
  name = "qmc",
  doc = "Owen-scrambled Sobol points through the inverse normal distribution function",
  source = "Avron et al. 2016, arXiv:1412.8293; Owen 1998",
  law = "exact",
  sample = function(s)
    return s.normal_icdf(s.sobol_owen())
  end,
}
