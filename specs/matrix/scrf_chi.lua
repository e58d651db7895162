-- A normal vector's direction is independent of its length, so a new length keeps rows normal.
return {
  name = "scrf_chi",
  doc = "scrf with a chi length of its own for every row",
  source = "Feng, Hu & Liao 2015",
  law = "exact",
  sample = function(s)
    return s.chi_rows(s.unit_rows(s.signs(s.circulant())))
  end,
}
