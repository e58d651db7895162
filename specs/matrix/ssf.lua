-- The lattice is regular; turned at random and with chi lengths each of its points is normal.
return {
  name = "ssf",
  doc = "a Fourier lattice on the sphere, randomly turned, every row with its own chi length",
  source = "Lyu 2017",
  law = "exact",
  sample = function(s)
    return s.cut(s.chi_rows(s.rotate(s.fourier_sphere())))
  end,
}
