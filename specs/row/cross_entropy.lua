return {
  name = "cross_entropy",
  doc = "cross entropy of a row of scores and a class number, natural logarithm",
  source = "log-sum-exp after subtraction of the largest score",
  inputs = { row "scores", one "label" },
  outputs = { one "loss" },

  forward = function(v)
    local shifted = v.scores - rmax(v.scores)
    local total = sum(exp(shifted))
    local picked = sum(onehot(v.label) * shifted)
    return { loss = log(total) - picked }
  end,
}
