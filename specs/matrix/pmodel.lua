-- Each row of T is normal; a Hadamard transform with signs on both sides turns it.
return {
  name = "pmodel",
  doc = "P-model: a normal Toeplitz matrix times a Hadamard transform with random signs",
  source = "Choromanski & Sindhwani 2016, arXiv:1605.09046",
  law = "exact",
  sample = function(s)
    return s.cut(s.signs(s.hadamard(s.signs(s.toeplitz()))))
  end,
}
