-- correction1 = 1 - beta1^t, correction2 = sqrt(1 - beta2^t) for update number t = 1, 2 ...
-- A gradient that is not a number stays one, so that divergence is seen.
return {
  name = "adamw",
  doc = "AdamW with gradients clipped by value",
  source = "Loshchilov & Hutter 2019, arXiv:1711.05101",
  inputs = { row "p", row "g", row "m", row "v" },
  constants = { "lr", "beta1", "beta2", "eps", "weight_decay", "correction1", "correction2", "clip" },
  outputs = { row "p", row "m", row "v" },
  backward = false,

  forward = function(v)
    local g = clamp(v.g, -v.clip, v.clip)
    local m = v.beta1 * v.m + (1 - v.beta1) * g
    local second = v.beta2 * v.v + (1 - v.beta2) * g * g
    local step = v.lr / v.correction1
    local scale = 1 / v.correction2
    local decayed = v.p * (1 - v.lr * v.weight_decay)
    return { p = decayed - step * m / (sqrt(second) * scale + v.eps), m = m, v = second }
  end,
}
