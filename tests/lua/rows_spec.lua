-- Row operators by the evaluator against formulas written out here.
local E = require "gen.expr"
local load_spec = require "gen.load_spec"
local pass = require "gen.pass"

local function erf_slow(x) -- trapezoids, good to 1e-9
  local n, total = 20000, 0
  for i = 0, n do
    local t = x * i / n
    total = total + math.exp(-t * t) * ((i == 0 or i == n) and 0.5 or 1)
  end
  return total * x / n * 2 / math.sqrt(math.pi)
end

local function evaluate(spec, env, n)
  local result = {}
  for _, output in ipairs(spec.outputs) do result[output.name] = E.evaluate(output.node, env, n) end
  return result
end

local function near(expected, got, tolerance)
  assert.equal(#expected, #got)
  for i, value in ipairs(expected) do assert.near(value, got[i], tolerance or 1e-12) end
end

describe("row operator", function()
  local x = { 0.5, -1.25, 2, 0.125, -0.75 }

  it("layernorm normalises with the biased variance", function()
    local spec = load_spec.one("row", "layernorm")
    local gamma, beta, mean, variance = { 1, 2, 3, 4, 5 }, { 5, 4, 3, 2, 1 }, 0, 0
    for _, v in ipairs(x) do mean = mean + v / 5 end
    for _, v in ipairs(x) do variance = variance + (v - mean) ^ 2 / 5 end
    local expected = {}
    for i, v in ipairs(x) do expected[i] = (v - mean) / math.sqrt(variance + 1e-5) * gamma[i] + beta[i] end
    near(expected, evaluate(spec, { x = x, gamma = gamma, beta = beta, eps = 1e-5 }, 5).y)
  end)

  it("layernorm has a zero gradient where it cannot change, and few passes", function()
    local spec = load_spec.one("row", "layernorm")
    local env = { x = x, gamma = { 1, 1, 1, 1, 1 }, beta = x, eps = 0, g_y = { 1, 1, 1, 1, 1 } }
    near({ 0, 0, 0, 0, 0 }, E.evaluate(spec.inputs[1].grad, env, 5))
    local roots = {}
    for i, input in ipairs(spec.inputs) do roots[i] = input.grad end
    assert.equal(3, #pass.passes(roots))
    assert.equal(3, #pass.passes({ spec.outputs[1].node }))
  end)

  it("gelu is x times the normal distribution function", function()
    local spec = load_spec.one("row", "gelu")
    local bias, keep, expected = { 0.1, 0, -0.2, 0, 1 }, { 0, 1, 1.25, 1.25, 1 }, {}
    for i, v in ipairs(x) do
      local z = v + bias[i]
      expected[i] = z / 2 * (1 + erf_slow(z / math.sqrt(2))) * keep[i]
    end
    near(expected, evaluate(spec, { x = x, bias = bias, keep = keep }, 5).y, 1e-8)
  end)

  it("relu and dropout_residual", function()
    local zero, keep = { 0, 0, 0, 0, 0 }, { 0, 2, 0, 2, 1 }
    near({ 0.5, 0, 2, 0.125, 0 }, evaluate(load_spec.one("row", "relu"), { x = x, bias = zero }, 5).y)
    near({ 0.5, -3.75, 2, 0.375, -1.5 },
      evaluate(load_spec.one("row", "dropout_residual"), { residual = x, x = x, bias = zero, keep = keep }, 5).y)
    local g = load_spec.one("row", "relu").inputs[1].grad
    near({ 0, 0 }, E.evaluate(g, { x = { 0, -1 }, bias = { 0, 0 }, g_y = { 1, 1 } }, 2))
  end)

  it("cross_entropy is -log of the probability, large scores too", function()
    local spec = load_spec.one("row", "cross_entropy")
    local total = 0
    for _, v in ipairs(x) do total = total + math.exp(v) end
    for label = 0, 4 do
      local env = { scores = x, label = label, g_loss = 1 }
      assert.near(-math.log(math.exp(x[label + 1]) / total), evaluate(spec, env, 5).loss, 1e-14)
      local expected = {}
      for i, v in ipairs(x) do expected[i] = math.exp(v) / total - (i == label + 1 and 1 or 0) end
      near(expected, E.evaluate(spec.inputs[1].grad, env, 5))
    end
    assert.near(2000, evaluate(spec, { scores = { 1000, -1000 }, label = 1 }, 2).loss, 1e-12)
  end)

  it("adamw is the update of Loshchilov & Hutter with clipping", function()
    local spec = load_spec.one("row", "adamw")
    local env = { p = { 1, -2 }, g = { 3, -0.5 }, m = { 0.1, 0.2 }, v = { 0.01, 0.04 }, lr = 0.1, beta1 = 0.9,
      beta2 = 0.99, eps = 1e-6, weight_decay = 0.01, correction1 = 0.19, correction2 = 0.25, clip = 1 }
    local got = evaluate(spec, env, 2)
    for i, g in ipairs { 1, -0.5 } do
      local m = 0.9 * env.m[i] + 0.1 * g
      local v = 0.99 * env.v[i] + 0.01 * g * g
      assert.near(m, got.m[i], 1e-15)
      assert.near(v, got.v[i], 1e-15)
      assert.near(env.p[i] * (1 - 0.001) - 0.1 / 0.19 * m / (math.sqrt(v) / 0.25 + 1e-6), got.p[i], 1e-14)
    end
    env.g = { 0 / 0, 0 }
    local p = evaluate(spec, env, 2).p[1]
    assert.is_true(p ~= p)
  end)
end)
