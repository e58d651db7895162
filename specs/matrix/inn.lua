return {
  name = "inn",
  doc = "rows through a trained invertible network, normal ones at first",
  source = "Dinh et al. 2017, arXiv:1605.08803",
  law = "learned",
  learner = "inn",
  sample = function(s)
    return s.normal()
  end,
}
