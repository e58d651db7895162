-- Weights d/rho^2 for rows of chi_(d+2) length are exact; the row 0 with what they lack to 1 removes
-- most of the variance and must not be clipped where it is negative.
return {
  name = "ssr",
  doc = "spherical-radial rule: antipodal simplices, a radius for each pair, weights, one row 0",
  source = "Munkhoeva et al. 2018, arXiv:1802.03832",
  law = "weighted",
  sample = function(s)
    return s.spherical_radial(s.antipodal_simplex())
  end,
}
