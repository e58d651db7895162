-- Rows of four normal distributions with trained means, variances and probabilities; N(0, I) at first.
return {
  name = "gmm",
  doc = "mixture of normal distributions: trained means, variances, probabilities",
  source = "Wilson & Adams 2013, arXiv:1302.4245",
  law = "learned",
  learner = "gmm",
  sample = function(s)
    return s.normal()
  end,
}
