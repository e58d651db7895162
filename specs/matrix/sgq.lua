-- Moments of an entry are those of N(0, 1) up to the 23rd.
return {
  name = "sgq",
  doc = "entries drawn from the 12 nodes of a Gauss-Hermite rule by its weights",
  source = "Dao, De Sa & Re 2017; Golub & Welsch 1969",
  law = "approximate",
  sample = function(s)
    return s.gauss_hermite(12)
  end,
}
