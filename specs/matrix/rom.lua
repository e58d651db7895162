-- The first diagonal is uniform on the complex unit circle; sqrt(2) times its real part keeps every
-- entry's mean square 1. Lengths vary, but less than a normal row's.
return {
  name = "rom",
  doc = "random orthogonal embedding: sorf with random cosines for the outer signs",
  source = "Choromanski, Rowland & Weller 2017, arXiv:1703.00864",
  law = "approximate",
  sample = function(s)
    local function turn(w) return s.signs(s.hadamard(w)) end
    return s.cut(s.fixed_rows(turn(turn(s.cosines(s.hadamard(s.basis()))))))
  end,
}
