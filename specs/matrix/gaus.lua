return {
  name = "gaus",
  doc = "independent standard normal entries",
  source = "Rahimi & Recht 2007",
  law = "exact",
  sample = function(s)
    return s.normal()
  end,
}
