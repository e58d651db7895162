-- Rows of a block share their length, which costs variance: scrf_chi does not.
return {
  name = "scrf",
  doc = "stacked circulant blocks of one normal vector each, columns with random signs",
  source = "Feng, Hu & Liao 2015",
  law = "exact",
  sample = function(s)
    return s.signs(s.circulant())
  end,
}
