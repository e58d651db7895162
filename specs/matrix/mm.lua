-- Mean 0 and covariance I hold exactly for the sample, so a row is normal only up to O(1/m).
return {
  name = "mm",
  doc = "moment matching: a normal sample, centred and whitened; needs m > d",
  source = "Shen, Yang & Wang 2017",
  law = "approximate",
  sample = function(s)
    return s.whiten(s.center_columns(s.normal()))
  end,
}
