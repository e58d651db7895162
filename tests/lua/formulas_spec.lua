-- The shared formulas solve the equations they say they solve.
local E = require "gen.expr"
local formulas = require "gen.formulas"

local function value(node, env, n)
  local x = E.evaluate(node, env, n or 1, {})
  return type(x) == "table" and x[1] or x
end

describe("formulas", function()
  before_each(function() E.use(E.new_graph()) end)

  it("optimal_A is the root of its equation, and bounded", function()
    local phi = E.var("phi", E.UNIFORM)
    local A = formulas.optimal_A(phi)
    for _, x in ipairs { 0, 1e-9, 1e-3, 0.5, 1, 7, 100 } do
      local a = value(A, { phi = x })
      assert.is_true(a <= 0 and a >= -64)
      if a > -64 then
        assert.is_true(math.abs(16 * a * a - (2 - 4 * x) * a - x) <= 1e-14 * (1 + 16 * a * a + x))
      end
    end
    assert.equal(0, value(A, { phi = -3 }))
    assert.equal(-64, value(A, { phi = 1e6 }))
  end)

  it("pairs_mean is the mean of |x + y|^2 over pairs", function()
    local m = {}
    for _, name in ipairs { "m1x", "m1y", "m2x", "m2y" } do m[name] = E.var(name, E.ROW, true) end
    local x, y = { { 1, 2 }, { -3, 0.5 } }, { { 0.25, -1 }, { 2, 4 } }
    local env, expected = {}, 0
    for name, side in pairs { x = x, y = y } do
      env["m1" .. name], env["m2" .. name] = {}, {}
      for j = 1, 2 do
        env["m1" .. name][j] = (side[1][j] + side[2][j]) / 2
        env["m2" .. name][j] = (side[1][j] ^ 2 + side[2][j] ^ 2) / 2
      end
    end
    for _, a in ipairs(x) do
      for _, b in ipairs(y) do expected = expected + ((a[1] + b[1]) ^ 2 + (a[2] + b[2]) ^ 2) / 4 end
    end
    assert.is_true(math.abs(value(formulas.pairs_mean(m), env, 2) - expected) < 1e-12)
  end)

  it("optimal_p is the root of its equation", function()
    local s = E.var("s", E.ROW, true)
    local p = formulas.optimal_p(s, E.length)
    local ratio = E.bessel_ratio(E.var("a", E.UNIFORM))
    for _, products in ipairs { { 0.1, 0.3 }, { 1, 2 }, { 5, 0.01 } } do
      local got = value(p, { s = products }, 2)
      local function slope(at)
        local sum, root = 0, math.sqrt(1 - at)
        for _, x in ipairs(products) do
          sum = sum + x * root ^ -3 * value(ratio, { a = 2 * x / root })
        end
        return sum - 2 / at
      end
      assert.is_true(slope(got - 1e-5) < 0 and slope(got + 1e-5) > 0)
    end
  end)

  it("gives its names to what is generated", function()
    local spec = require("gen.load_spec").one("feature", "oprf")
    local found = {}
    for _, node in ipairs(E.reachable { spec.adapt[1].node }) do
      if node.hint then found[node.hint] = true end
    end
    assert.is_true(found.pairs_mean and found.phi and found.root)
  end)
end)
