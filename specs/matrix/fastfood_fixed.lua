-- S H G P H B, read from the left: H G P H B has orthogonally mixed normal rows of one length, S gives
-- each row a chi length.
return {
  name = "fastfood_fixed",
  doc = "fastfood: Hadamard, normal diagonal, permutation, Hadamard, signs; chi lengths",
  source = "Le, Sarlos & Smola 2013, arXiv:1408.3060",
  law = "exact",
  sample = function(s)
    local hgp = s.permute_columns(s.normal_columns(s.hadamard(s.basis())))
    return s.cut(s.chi_rows(s.unit_rows(s.signs(s.hadamard(hgp)))))
  end,
}
