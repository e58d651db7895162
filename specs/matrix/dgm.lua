return {
  name = "dgm",
  doc = "rows through a trained residual network, normal ones at first",
  source = "Li et al. 2019, arXiv:1902.10214",
  law = "learned",
  learner = "dgm",
  sample = function(s)
    return s.normal()
  end,
}
