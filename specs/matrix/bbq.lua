-- Quasi-random points through trained quantile functions, one a coordinate; normal ones at first.
return {
  name = "bbq",
  doc = "black box quantiles: scrambled Sobol points through trained quantile functions",
  source = "Tompkins et al. 2019",
  law = "learned",
  learner = "bbq",
  sample = function(s)
    return s.sobol_owen()
  end,
}
