-- Rows have length sqrt(n), a normal row has it on average: exp-type features come out low by about
-- |z|^4 / (4 (d + 2)) of their value, z = x + y.
return {
  name = "sorf",
  doc = "three Hadamard transforms with random signs, rows of length sqrt(d)",
  source = "Yu et al. 2016, arXiv:1610.09072",
  law = "fixed-norm",
  sample = function(s)
    local function turn(w) return s.signs(s.hadamard(w)) end
    return s.cut(s.fixed_rows(turn(turn(turn(s.basis())))))
  end,
}
