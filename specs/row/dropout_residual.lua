return {
  name = "dropout_residual",
  doc = "residual + dropout(x + bias)",
  source = "Srivastava et al. 2014",
  inputs = { row "residual", row "x", shared "bias", row "keep" },
  outputs = { row "y" },

  forward = function(v)
    return { y = v.residual + (v.x + v.bias) * v.keep }
  end,
}
