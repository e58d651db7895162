-- Derived gradients against central differences, in double precision, by the evaluator; and at
-- singular points, where values and derivatives must be finite.
local E = require "gen.expr"
local feature = require "gen.feature"
local files = require "gen.files"
local load_spec = require "gen.load_spec"
local schema = require "gen.spec"

local M = {}

local TOLERANCE = 1e-6

local function copy(env)
  local result = {}
  for name, value in pairs(env) do
    result[name] = type(value) == "table" and table.move(value, 1, #value, 1, {}) or value
  end
  return result
end

local function numbers(value)
  return type(value) == "table" and value or { value }
end

local function finite(value)
  for _, x in ipairs(numbers(value)) do
    if x ~= x or math.abs(x) == math.huge then return false end
  end
  return true
end

-- Sum of seeds times outputs.
local function objective(case, env)
  local total, memo = 0.0, {}
  for i, output in ipairs(case.outputs) do
    local value = numbers(E.evaluate(output, env, case.n, memo))
    local seed = numbers(E.evaluate(case.seeds[i], env, case.n, memo))
    for k = 1, math.max(#value, #seed) do
      total = total + (value[k] or value[1]) * (seed[k] or seed[1])
    end
  end
  return total
end

-- Largest relative error of the gradients, and how many numbers were compared.
local function differences(case, env)
  local worst, count, memo = 0.0, 0, {}
  for i, var in ipairs(case.wrt) do
    local derived = numbers(E.evaluate(case.grads[i], env, case.n, memo))
    for k, x in ipairs(numbers(env[var.name])) do
      local h = 1e-5 * (1 + math.abs(x))
      local sides = {}
      for s, step in ipairs { h, -h } do
        local moved = copy(env)
        if type(moved[var.name]) == "table" then
          moved[var.name][k] = x + step
        else
          moved[var.name] = x + step
        end
        sides[s] = objective(case, moved)
      end
      local expected = (sides[1] - sides[2]) / (2 * h)
      local got = derived[k] or derived[1]
      local err = math.abs(got - expected) / (1 + math.abs(expected))
      worst, count = (err ~= err or err > worst) and err or worst, count + 1
      if err ~= err then return math.huge, count end
    end
  end
  return worst, count
end

local function all_finite(case, env)
  local memo = {}
  for _, list in ipairs { case.outputs, case.grads } do
    for _, node in ipairs(list) do
      if not finite(E.evaluate(node, env, case.n, memo)) then return false end
    end
  end
  return true
end

local function uniform(low, high)
  return low + (high - low) * math.random()
end

local function vector(n, low, high)
  local v = {}
  for i = 1, n do v[i] = uniform(low, high) end
  return v
end

-- Whether a parameter is the root of an equation: those are constants for differentiation.
local function solved(node)
  for _, part in ipairs(E.reachable { node }) do
    if part.op == "bessel_ratio" then return true end
  end
  return false
end

-- features: cases with random points and singular points.
local function feature_cases(spec)
  local vars, plan = spec.vars, feature.plan(spec)
  local function point(singular)
    local env = { u = singular and 0 or uniform(-2, 2), w2 = uniform(1, 30), x = uniform(-2, 2),
      g = uniform(-1, 1), x2 = singular and 0 or uniform(0.5, 3), r2 = singular and 0 or uniform(0.5, 3),
      u2 = singular and 0 or uniform(-2, 2), sum = uniform(-1, 1), gsum = uniform(-1, 1) }
    for i, name in ipairs(spec.scalars) do env[name] = spec.defaults[i] - uniform(0.01, 0.09) end
    for _, name in ipairs(spec.vectors) do env[name] = uniform(0.5, 2) end
    for _, name in ipairs(spec.norms) do env["w_" .. name] = uniform(0, 9) end
    if spec.side then env.side = singular == 1 and -1 or 1 end
    for i = 1, spec.lanes do
      env["glog" .. i - 1], env["gsign" .. i - 1] = uniform(-1, 1), uniform(-1, 1)
    end
    return env
  end
  local function joined(a, b) return table.move(b, 1, #b, #a + 1, { table.unpack(a) }) end
  local cases = {
    { outputs = plan.value, seeds = plan.seeds, wrt = joined(plan.wrt, plan.params),
      grads = joined(plan.grad, plan.pgrad), point = point },
  }
  if spec.official then
    cases[2] = { outputs = plan.token, seeds = plan.seeds, grads = plan.token_grad, point = point,
      wrt = joined({ vars.u, vars.x2, vars.r2 }, vars.s) }
  end
  for _, name in ipairs { "map_q", "map_k", "map2", "sum" } do
    local seed = name == "sum" and vars.gsum or vars.g
    cases[#cases + 1] = { outputs = { spec[name] }, seeds = { seed }, grads = plan[name .. "_grad"],
      wrt = { vars.x, table.unpack(vars.v) }, point = point }
  end
  if spec.adapt then
    local grads, adapt_seeds = feature.adapt_gradients(spec)
    local nodes, n = {}, 5
    for i, output in ipairs(spec.adapt) do nodes[i] = output.node end
    cases[#cases + 1] = {
      outputs = nodes, seeds = adapt_seeds, grads = grads, n = n,
      wrt = { table.unpack(vars.m, 1, schema.SMOOTH_MOMENTS) },
      point = function(singular)
        local env = { m1x = vector(n, -0.5, 0.5), m1y = vector(n, -0.5, 0.5), m2x = vector(n, 0.3, 1),
          m2y = vector(n, 0.3, 1), a1x = vector(n, 0.3, 1), a1y = vector(n, 0.3, 1),
          low = vector(n, -2, -1), high = vector(n, 1, 2) }
        for i, name in ipairs(spec.scalars) do env[name] = spec.defaults[i] end
        if singular == 1 then
          for _, var in ipairs(vars.m) do env[var.name] = vector(n, 0, 0) end
        elseif singular then
          env.m1x[2], env.m2x[2], env.m1y[3], env.m2y[3] = 0, 0, 0, 0
        end
        for i, output in ipairs(spec.adapt) do
          env[adapt_seeds[i].name] = output.vector and vector(n, -1, 1) or uniform(-1, 1)
          if solved(output.node) then env[adapt_seeds[i].name] = 0.0 end
        end
        return env
      end,
    }
  end
  return cases
end

local function row_cases(spec)
  if not spec.backward then return {} end
  local case = { outputs = {}, seeds = {}, wrt = {}, grads = {}, n = 7 }
  for i, output in ipairs(spec.outputs) do case.outputs[i], case.seeds[i] = output.node, output.seed end
  for i, input in ipairs(spec.inputs) do case.wrt[i], case.grads[i] = input.var, input.grad end
  function case.point(singular)
    local env = {}
    for _, input in ipairs(spec.inputs) do
      local value = singular == 1 and vector(7, 0, 0) or vector(7, -2, 2)
      env[input.name] = input.shape == "one" and uniform(0.6, 1.4) or value
    end
    for _, constant in ipairs(spec.constants) do env[constant.name] = uniform(0.01, 0.1) end
    for _, output in ipairs(spec.outputs) do
      env[output.seed.name] = output.shape == "one" and uniform(-1, 1) or vector(7, -1, 1)
    end
    return env
  end
  return { case }
end

-- One spec: its report line and whether it passed.
local function check(spec)
  local cases = spec.kind == "feature" and feature_cases(spec) or row_cases(spec)
  local worst, count, singular = 0.0, 0, 0
  for _, case in ipairs(cases) do
    for _ = 1, 5 do
      local err, compared = differences(case, case.point())
      worst, count = math.max(worst, err), count + compared
    end
    for point = 1, 2 do
      if not all_finite(case, case.point(point)) then
        return false, "a value or derivative is not finite at a singular point"
      end
      singular = singular + 1
    end
  end
  if count == 0 then return true, "no derivative" end
  return worst <= TOLERANCE, ("%d derivatives, largest relative error %.1e, %d singular points finite")
    :format(count, worst, singular)
end

-- names: specs to check, all when empty. Prints a line each; false when one fails.
function M.run(names)
  math.randomseed(20240, 7)
  local wanted, passed, failed = {}, 0, 0
  for _, name in ipairs(names) do wanted[name] = true end
  for _, kind in ipairs { "feature", "row" } do
    for _, name in ipairs(files.names(kind)) do
      if #names == 0 or wanted[name] then
        wanted[name] = nil
        local ok, report = check(load_spec.one(kind, name))
        print(("%-4s %-8s %-18s %s"):format(ok and "ok" or "FAIL", kind, name, report))
        passed, failed = passed + (ok and 1 or 0), failed + (ok and 0 or 1)
      end
    end
  end
  for _, name in ipairs(names) do
    if wanted[name] then
      print(("FAIL %s: no such feature or row operator"):format(name))
      failed = failed + 1
    end
  end
  print(("%d passed, %d failed"):format(passed, failed))
  return failed == 0
end

return M
