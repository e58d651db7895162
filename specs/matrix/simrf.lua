-- Rows of a block repel each other: all their cosines are -1/(d-1), the least that d can have.
return {
  name = "simrf",
  doc = "stacked randomly turned simplices, every row with its own chi length",
  source = "Reid et al. 2023, arXiv:2301.13856",
  law = "exact",
  sample = function(s)
    return s.chi_rows(s.simplex(s.haar()))
  end,
}
