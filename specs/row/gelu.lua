return {
  name = "gelu",
  doc = "bias, exact GELU, dropout factors",
  source = "Hendrycks & Gimpel 2016, arXiv:1606.08415",
  inputs = { row "x", shared "bias", row "keep" },
  outputs = { row "y" },

  forward = function(v)
    local z = v.x + v.bias
    local normal = 0.5 + 0.5 * erf(z / sqrt(2))
    return { y = z * normal * v.keep }
  end,
}
