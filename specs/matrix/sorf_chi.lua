-- Lengths are those of normal rows, directions nearly uniform.
return {
  name = "sorf_chi",
  doc = "sorf with a chi length of its own for every row",
  source = "Yu et al. 2016, arXiv:1610.09072",
  law = "approximate",
  sample = function(s)
    local function turn(w) return s.signs(s.hadamard(w)) end
    return s.cut(s.chi_rows(turn(turn(turn(s.basis())))))
  end,
}
