local E = require "gen.expr"
local grad = require "gen.grad"
local ops = require "gen.ops"

local function scalar(name) return E.var(name, E.UNIFORM) end
local function vector(name) return E.var(name, E.ROW | E.TOKEN, true) end

describe("expressions", function()
  local x, y, v, w = scalar "x", scalar "y", vector "v", vector "w"

  before_each(function() E.use(E.new_graph()) x, y, v, w = scalar "x", scalar "y", vector "v", vector "w" end)

  it("are the same table when they are equal", function()
    assert.equal(E.exp(x + y), E.exp(y + x))
    assert.equal(x * y, y * x)
    assert.equal(2 * x, x + x)
    assert.not_equal(x - y, y - x)
  end)

  it("fold what is constant or neutral", function()
    assert.equal(x, x + 0)
    assert.equal(x, 1 * x)
    assert.equal(x, x / 1)
    assert.equal(x, -(-x))
    assert.equal(E.const(0), 0 * x)
    assert.equal(E.const(0), x - x)
    assert.equal(E.const(7), E.const(3) + 4)
    assert.equal(E.const(1), E.exp(0))
    assert.equal(6 * x, 2 * (3 * x))
    assert.equal(0.5 * x, x / 2)
    assert.equal("div", (x / 3).op)
    assert.equal(x - y, x + -y)
    assert.equal(x, E.where(1, x, y))
  end)

  it("keep narrow factors together and pull them out of sums", function()
    assert.equal((x * y) * v, x * (y * v))
    assert.equal((x * v) * w, x * (v * w))
    assert.equal(x * E.sum(v), E.sum(x * v))
    assert.equal(E.sum(v) + E.sum(w), E.sum(v + w))
    assert.equal(E.length * x, E.sum(x))
    assert.equal(E.const(0), E.sum(v - E.sum(v) / E.length))
  end)

  it("print numbers so that they read back the same", function()
    for _, value in ipairs { 0.1, 1 / 3, 1e-30, 2 ^ 0.5, -5, 123456789.0, 1e300 } do
      assert.equal(value, tonumber(E.number(value)))
    end
    assert.equal("2.0", E.number(2))
  end)

  it("refuse what is not an expression", function()
    assert.error_matches(function() return E.exp({}) end, "argument 1 of exp must be an expression, got a table")
    assert.error_matches(function() return E.max(x) end, "max takes 2 arguments, got 1")
    assert.error_matches(function() return x ^ 0.5 end, "whole number from 1 to 8")
    assert.error_matches(function() return x < y end, "no order")
  end)

  it("evaluate vectors, sums and positions", function()
    local env = { x = 2, v = { 1, 2, 3 } }
    assert.equal(12, E.evaluate(E.sum(x * v), env, 3))
    assert.equal(3, E.evaluate(E.rmax(v), env, 3))
    assert.same({ 0.0, 1.0, 0.0 }, E.evaluate(E.onehot(1), {}, 3))
    assert.same({ 1.5, 2, 2.5 }, E.evaluate(E.clamp(v, 1.5, 2.5), env, 3))
    local nan = E.evaluate(E.clamp(x, 0, 1), { x = 0 / 0 })
    assert.is_true(nan ~= nan)
  end)

  it("compute erf to double precision", function()
    local known = { [0.5] = 0.5204998778130465, [1] = 0.8427007929497149, [2] = 0.9953222650189527,
      [3] = 0.9999779095030014, [-1] = -0.8427007929497149 }
    for at, value in pairs(known) do assert.near(value, ops.erf.eval(at), 2e-16 * 4) end
    assert.near(1.5417257900280017e-8, 1 - ops.erf.eval(4), 1e-16)
  end)
end)

describe("gradients", function()
  before_each(function() E.use(E.new_graph()) end)

  -- Two points for each operator, away from its kinks.
  local points = {
    default = { { 0.7, 1.3, -0.4 }, { 1.9, 0.6, 0.8 } },
    abs = { { -0.7 }, { 0.8 } }, max = { { 1, 2 }, { 2, 1 } }, min = { { 1, 2 }, { 2, 1 } },
    lt = { { 1, 2 }, { 2, 1 } }, where = { { 0, 1.5, -2 }, { 1, 1.5, -2 } },
  }
  local names = {}
  for op, row in pairs(ops) do
    if not row.reduces and op ~= "bessel_ratio" then names[#names + 1] = op end
  end
  table.sort(names)

  for _, op in ipairs(names) do
    it("of " .. op .. " agree with differences", function()
      local vars, list = {}, { "a", "b", "c" }
      for i = 1, ops[op].arity do vars[i] = scalar(list[i]) end
      local value = E.apply(op, table.unpack(vars))
      local grads = grad.gradients({ value }, { E.const(1) }, vars)
      for _, point in ipairs(points[op] or points.default) do
        local env = {}
        for i = 1, #vars do env[list[i]] = point[i] end
        for i = op == "where" and 2 or 1, #vars do
          local h, sides = 1e-5, {}
          for k, step in ipairs { h, -h } do
            local moved = { a = env.a, b = env.b, c = env.c }
            moved[list[i]] = moved[list[i]] + step
            sides[k] = E.evaluate(value, moved)
          end
          assert.near((sides[1] - sides[2]) / (2 * h), E.evaluate(grads[i], env), 1e-8)
        end
      end
    end)
  end

  it("are none of a Bessel ratio, whose value is that of the series", function()
    for _, a in ipairs { 0.1, 1, 7 } do
      local i0, i1, term = 0, 0, 1
      for k = 0, 60 do
        i0, i1 = i0 + term, i1 + term * (a / 2) / (k + 1)
        term = term * (a * a / 4) / ((k + 1) * (k + 1))
      end
      assert.near(i1 / i0, E.evaluate(E.bessel_ratio(a), {}), 1e-13)
    end
  end)

  it("sum over what was broadcast", function()
    local x, v, g = scalar "x", vector "v", vector "g"
    local gx, gv = table.unpack(grad.gradients({ x * v + E.sum(v) }, { g }, { x, v }))
    local env = { x = 3, v = { 1, 2 }, g = { 10, 100 } }
    assert.equal(210, E.evaluate(gx, env, 2))
    assert.same({ 140, 410 }, E.evaluate(gv, env, 2))
  end)

  it("count a scalar once for each element", function()
    local x, v = scalar "x", vector "v"
    local gx = grad.gradients({ E.sum(v + x) }, { E.const(1) }, { x })[1]
    assert.equal(4, E.evaluate(gx, { x = 1, v = { 0, 0, 0, 0 } }, 4))
  end)

  it("are finite at removable singular points", function()
    local x = scalar "x"
    for _, value in ipairs { E.sqrt(x), E.abs(x), E.sqrt(x * x), E.max(x, 0) } do
      local g = grad.gradients({ value }, { E.const(1) }, { x })[1]
      assert.equal(0, E.evaluate(g, { x = 0 }))
    end
  end)

  it("take the row maximum as a constant", function()
    local v = vector "v"
    assert.equal(E.const(0), grad.gradients({ E.rmax(v) }, { E.const(1) }, { v })[1])
  end)
end)
