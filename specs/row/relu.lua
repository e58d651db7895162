return {
  name = "relu",
  doc = "bias and rectifier; the derivative at 0 is 0",
  source = "Nair & Hinton 2010",
  inputs = { row "x", shared "bias" },
  outputs = { row "y" },

  forward = function(v)
    return { y = max(v.x + v.bias, 0) }
  end,
}
