-- Loads a spec in a sandbox, checks every field, runs its functions on symbolic values. What is
-- wrong with a spec is reported as `file:line: message`.
local E = require "gen.expr"
local formulas = require "gen.formulas"
local grad = require "gen.grad"
local linop = require "gen.linop"

local M = {}

M.MAX_LANES, M.MAX_SCALARS, M.MAX_VECTORS, M.MAX_ROW = 12, 8, 4, 8
-- Moments of both sides over unmasked tokens: means, of squares, of magnitudes; smallest and largest
-- of both. The order is that of kernel.h; derivatives are taken through the first four.
M.MOMENTS = { "m1x", "m1y", "m2x", "m2y", "a1x", "a1y", "low", "high" }
M.SMOOTH_MOMENTS = 4
M.LINEAR = { "eigen_sum", "geometric_mean" }
M.COUNTS = { "poisson", "geometric" }

-- Nearest of `names` by edit distance, nil when none is near.
function M.nearest(name, names)
  local best, best_distance
  for _, candidate in ipairs(names) do
    local previous = {}
    for j = 0, #candidate do previous[j] = j end
    for i = 1, #name do
      local current = { [0] = i }
      for j = 1, #candidate do
        local change = name:byte(i) == candidate:byte(j) and 0 or 1
        current[j] = math.min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + change)
      end
      previous = current
    end
    if not best or previous[#candidate] < best_distance then
      best, best_distance = candidate, previous[#candidate]
    end
  end
  if best and best_distance <= math.max(2, #name // 3) then return best end
end

local function suggestion(name, names)
  local near = M.nearest(name, names)
  return near and (", did you mean '%s'?"):format(near)
    or (", known are %s"):format(table.concat(names, " "))
end
M.suggestion = suggestion

-- Line of the first `field =` at or after line `from` of the source.
local function line_of(source, field, from)
  local number = 0
  for line in (source .. "\n"):gmatch("(.-)\n") do
    number = number + 1
    if number >= (from or 1) and (" " .. line):find("[^%w_.]" .. field .. "%s*=[^=]") then
      return number
    end
  end
  return from or 1
end

local function refuse(spec, field, from, message, ...)
  error(("%s:%d: %s"):format(spec.path, line_of(spec.text, field, from), message:format(...)), 0)
end

local function describe(value)
  local kind = type(value)
  if kind == "nil" then return "nothing" end
  return E.is_node(value) and "an expression" or ("a %s"):format(kind)
end

local function sandbox()
  local env = { pi = math.pi, ipairs = ipairs, length = E.length, clamp = E.clamp, onehot = E.onehot }
  for _, op in ipairs { "exp", "log", "sqrt", "sin", "cos", "atan", "erf", "bessel_ratio", "max", "min",
    "abs", "lt", "where", "sum", "rmax" } do
    env[op] = E[op]
  end
  for _, name in ipairs(formulas.NAMES) do env[name] = formulas[name] end
  for _, shape in ipairs { "row", "shared", "one" } do
    env[shape] = function(name) return { shape = shape, name = name } end
  end
  return setmetatable({}, {
    __index = function(_, key)
      if env[key] == nil then E.fail(("'%s' is not available in a spec"):format(tostring(key))) end
      return env[key]
    end,
    __newindex = function(_, key) E.fail(("'%s' must be local"):format(tostring(key))) end,
  })
end

local function function_line(fn)
  return debug.getinfo(fn, "S").linedefined
end

local is_formula = {}
for _, name in ipairs(formulas.NAMES) do is_formula[formulas[name]] = true end

-- Runs a function of the spec; its locals, and those of the formulas it calls, give their names to
-- the expressions they hold.
local function run(spec, fn, ...)
  E.called = ("%s:%d: "):format(spec.path, function_line(fn))
  local function name_locals()
    local returning = debug.getinfo(2, "f").func
    if returning ~= fn and not is_formula[returning] then return end
    for i = 1, 200 do
      local name, value = debug.getlocal(2, i)
      if not name then break end
      if E.is_node(value) and not value.hint and name:find("^%a") then value.hint = name end
    end
  end
  debug.sethook(name_locals, "r")
  local result = table.pack(pcall(fn, ...))
  debug.sethook()
  if not result[1] then error(tostring(result[2]), 0) end
  return table.unpack(result, 2, result.n)
end

local function load_table(spec)
  E.chunk, E.called = "@" .. spec.path, spec.path .. ":1: "
  local chunk, message = load(spec.text, "@" .. spec.path, "t", sandbox())
  if not chunk then error(message, 0) end
  local ok, value = pcall(chunk)
  if not ok then error(tostring(value), 0) end
  if type(value) ~= "table" then
    error(("%s:1: a spec must return a table, got %s"):format(spec.path, describe(value)), 0)
  end
  return value
end

-- fields: list of { name, type, optional }.
local function check_fields(spec, t, fields)
  local names, known = {}, {}
  for i, field in ipairs(fields) do names[i], known[field[1]] = field[1], true end
  local unknown = {}
  for key in pairs(t) do
    if not known[key] then unknown[#unknown + 1] = tostring(key) end
  end
  table.sort(unknown)
  if unknown[1] then
    refuse(spec, unknown[1], 1, "unknown field '%s'%s", unknown[1], suggestion(unknown[1], names))
  end
  for _, field in ipairs(fields) do
    local name, want, optional = field[1], field[2], field[3]
    local value = t[name]
    if (value ~= nil or not optional) and type(value) ~= want then
      refuse(spec, name, 1, "'%s' must be a %s, got %s", name, want, describe(value))
    end
  end
  if t.name ~= spec.file then
    refuse(spec, "name", 1, "'name' must be '%s' like the file, got '%s'", spec.file, t.name)
  end
end

local function identifier(spec, field, value)
  if type(value) ~= "string" or not value:find("^%a[%w_]*$") then
    refuse(spec, field, 1, "'%s' must hold names, got %s", field,
      type(value) == "string" and ("'%s'"):format(value) or describe(value))
  end
  return value
end

-- A node for the field of a result, or an error that names both.
local function expression(spec, fn, field, value)
  if type(value) == "number" then return E.const(value) end
  if not E.is_node(value) then
    refuse(spec, field, function_line(fn), "'%s' must be an expression, got %s", field, describe(value))
  end
  return value
end

-- Lookup of parameters by name, with an error for a name that is not declared.
local function parameters(spec, values, what)
  return setmetatable({}, {
    __index = function(_, key)
      if values[key] == nil then
        E.fail(("'%s' is no %s of %s"):format(tostring(key), what, spec.name))
      end
      return values[key]
    end,
  })
end

-- phi of the spec -> { log = {lanes}, sign = {lanes}, signed }.
local function feature_lanes(spec, phi)
  local vars, p, t = spec.vars, {}, { u2 = spec.vars.u2, r2 = spec.vars.r2, sum = spec.vars.sum }
  for i, name in ipairs(spec.scalars) do p[name] = vars.s[i] end
  for i, name in ipairs(spec.norms) do t[name] = vars.w[i + 1] end
  local result = run(spec, phi, vars.u, vars.x2, vars.w2, parameters(spec, p, "scalar"),
    parameters(spec, t, "quantity of a token or row"))
  if type(result) ~= "table" or E.is_node(result) then
    refuse(spec, "phi", 1, "'phi' must return a table with 'log', got %s", describe(result))
  end
  local lanes = result[1] == nil and { result } or result
  if #lanes ~= spec.lanes then
    refuse(spec, "phi", 1, "'phi' must return %d lanes, got %d", spec.lanes, #lanes)
  end
  local out = { log = {}, sign = {}, signed = false }
  for i, lane in ipairs(lanes) do
    if type(lane) ~= "table" or E.is_node(lane) then
      refuse(spec, "phi", 1, "lane %d of 'phi' must be a table with 'log', got %s", i, describe(lane))
    end
    out.log[i] = expression(spec, phi, "log", lane.log)
    out.sign[i] = lane.sign == nil and E.const(1) or expression(spec, phi, "sign", lane.sign)
    out.signed = out.signed or out.sign[i] ~= E.const(1)
  end
  return out
end

-- An expression of one coordinate and the vectors.
local function feature_map(spec, fn, field)
  local values = {}
  for i, name in ipairs(spec.vectors) do values[name] = spec.vars.v[i] end
  if not fn then return spec.vars.x end
  return expression(spec, fn, field, run(spec, fn, spec.vars.x, parameters(spec, values, "vector")))
end

local function feature_adapt(spec, fn)
  local moments, p = { d = E.length }, {}
  for i, name in ipairs(M.MOMENTS) do moments[name] = spec.vars.m[i] end
  for i, name in ipairs(spec.scalars) do p[name] = spec.vars.s[i] end
  local result = run(spec, fn, parameters(spec, moments, "moment"), parameters(spec, p, "scalar"))
  if type(result) ~= "table" or E.is_node(result) then
    refuse(spec, "adapt", 1, "'adapt' must return a table, got %s", describe(result))
  end
  local outputs, left = {}, {}
  for key in pairs(result) do left[key] = true end
  for _, kind in ipairs { "scalars", "vectors" } do
    for i, name in ipairs(spec[kind]) do
      if result[name] ~= nil and name ~= "gaussian" then
        local node = expression(spec, fn, name, result[name])
        if kind == "scalars" and node.wide then
          refuse(spec, name, function_line(fn), "'%s' is a scalar, got a vector", name)
        end
        outputs[#outputs + 1] = { name = name, node = node, vector = kind == "vectors", slot = i - 1 }
        left[name] = nil
      end
    end
  end
  local unknown = next(left)
  if unknown then
    refuse(spec, tostring(unknown), function_line(fn), "'%s' is no parameter of %s",
      tostring(unknown), spec.name)
  end
  return outputs
end

local FEATURE = {
  { "name", "string" }, { "doc", "string" }, { "source", "string" }, { "lanes", "number", true },
  { "scalars", "table", true }, { "vectors", "table", true }, { "map_q", "function", true },
  { "map_k", "function", true }, { "phi", "function" }, { "constant", "function", true },
  { "adapt", "function", true }, { "official", "table", true }, { "antithetic", "boolean", true },
  { "sided", "boolean", true }, { "norms", "table", true }, { "sum", "function", true },
  { "linear", "string", true }, { "second", "table", true }, { "counts", "table", true },
  { "learn", "table", true },
}

local function one_of(spec, field, value, allowed)
  for _, name in ipairs(allowed) do
    if value == name then return value end
  end
  refuse(spec, field, 1, "'%s' must be one of %s, got '%s'", field, table.concat(allowed, ", "),
    tostring(value))
end

-- Whether `name` is in a list of names.
local function listed(name, list)
  for i, candidate in ipairs(list) do
    if candidate == name then return i end
  end
end

-- The fields beyond phi: second projection, weighted norms of the rows, counts, the linear map.
local function feature_extent(spec, t)
  spec.norms, spec.linear = {}, t.linear and one_of(spec, "linear", t.linear, M.LINEAR)
  for i, name in ipairs(t.norms or {}) do
    spec.norms[i] = identifier(spec, "norms", name)
    if not listed(name, spec.vectors) then
      refuse(spec, "norms", 1, "'%s' in 'norms' is no vector of %s", name, spec.name)
    end
  end
  if t.second then
    spec.second_own = one_of(spec, "matrix", t.second.matrix, { "own", "same" }) == "own"
    if t.second.map ~= nil and type(t.second.map) ~= "function" then
      refuse(spec, "second", 1, "'map' of 'second' must be a function, got %s", describe(t.second.map))
    end
  end
  if t.counts then
    spec.counts = one_of(spec, "law", t.counts.law, M.COUNTS)
    spec.counts_scalar = listed(t.counts.parameter, spec.scalars)
    if not spec.counts_scalar then
      refuse(spec, "counts", 1, "'parameter' of 'counts' must be a scalar of %s, got '%s'", spec.name,
        tostring(t.counts.parameter))
    end
    if spec.norms[1] then refuse(spec, "norms", 1, "'norms' and 'counts' exclude each other") end
    spec.norms = { "count", "log_factorial" }
  end
  if #spec.norms > 2 then refuse(spec, "norms", 1, "at most 2 norms, got %d", #spec.norms) end
end

-- Twice the lanes: those of w and of -w, each half.
local function add_antithetic(spec)
  local half = math.log(2) / 2
  local moved = { [spec.vars.u] = -spec.vars.u, [spec.vars.u2] = -spec.vars.u2 }
  for _, key in ipairs { "log", "sign" } do
    for i = 1, spec.lanes do
      spec.phi[key][spec.lanes + i] = E.replace(spec.phi[key][i], moved)
    end
  end
  spec.lanes = 2 * spec.lanes
  for i = 1, spec.lanes do spec.phi.log[i] = spec.phi.log[i] - half end
end

-- Parameters trained per head: { scalar = { function(theta), start } }, the scalar as an expression of
-- a free number.
local function feature_learn(spec, t)
  spec.learn = {}
  for i, name in ipairs(spec.scalars) do
    local entry = t.learn and t.learn[name]
    if entry then
      local theta = E.var("theta", E.UNIFORM)
      spec.learn[#spec.learn + 1] = { name = name, slot = i - 1, theta = theta, start = entry[2],
        node = expression(spec, entry[1], name, run(spec, entry[1], theta)) }
    end
  end
end

-- The symbols a feature is written in. r2 is |x|^2 of the token as it comes, x2 of the mapped one.
local function feature_vars(spec)
  local element = E.ROW | E.TOKEN
  local vars = {
    u = E.var("u", element, true), u2 = E.var("u2", element, true), w2 = E.var("w2", E.ROW, true),
    x2 = E.var("x2", E.TOKEN), r2 = E.var("r2", E.TOKEN), sum = E.var("sum", E.TOKEN),
    x = E.var("x", element, true), g = E.var("g", element, true), gsum = E.var("gsum", E.TOKEN),
    s = {}, v = {}, m = {}, glog = {}, gsign = {},
  }
  vars.w = { vars.w2 }
  for i, name in ipairs(spec.norms) do vars.w[i + 1] = E.var("w_" .. name, E.ROW, true) end
  for i, name in ipairs(spec.scalars) do vars.s[i] = E.var(name, E.UNIFORM) end
  for i, name in ipairs(spec.vectors) do vars.v[i] = E.var(name, element, true) end
  for i, name in ipairs(M.MOMENTS) do vars.m[i] = E.var(name, element, true) end
  for i = 1, 2 * M.MAX_LANES do
    vars.glog[i] = E.var("glog" .. i - 1, element, true)
    vars.gsign[i] = E.var("gsign" .. i - 1, element, true)
  end
  return vars
end

local function feature(spec, t)
  check_fields(spec, t, FEATURE)
  spec.lanes = t.lanes or 1
  if math.type(spec.lanes) ~= "integer" or spec.lanes < 1 or spec.lanes > M.MAX_LANES then
    refuse(spec, "lanes", 1, "'lanes' must be a whole number from 1 to %d", M.MAX_LANES)
  end
  spec.scalars, spec.defaults, spec.vectors = {}, {}, {}
  for i, scalar in ipairs(t.scalars or {}) do
    if type(scalar) ~= "table" or type(scalar[2]) ~= "number" then
      refuse(spec, "scalars", 1, "'scalars' must hold { name, default }, entry %d is %s", i,
        describe(scalar))
    end
    spec.scalars[i], spec.defaults[i] = identifier(spec, "scalars", scalar[1]), scalar[2]
  end
  for i, name in ipairs(t.vectors or {}) do spec.vectors[i] = identifier(spec, "vectors", name) end
  if #spec.scalars > M.MAX_SCALARS - 2 or #spec.vectors > M.MAX_VECTORS then
    refuse(spec, "scalars", 1, "at most %d scalars and %d vectors", M.MAX_SCALARS - 2, M.MAX_VECTORS)
  end
  if t.sided then
    table.insert(spec.scalars, "side")
    table.insert(spec.defaults, 1.0)
    spec.side = #spec.scalars - 1
  end
  table.insert(spec.scalars, "gaussian")
  table.insert(spec.defaults, 0.0)
  feature_extent(spec, t)
  spec.vars = feature_vars(spec)
  spec.lines = { phi = function_line(t.phi) }
  spec.phi = feature_lanes(spec, t.phi)
  spec.identity = not (t.map_q or t.map_k or spec.linear)
  for _, side in ipairs { "map_q", "map_k", "sum" } do
    spec[side] = feature_map(spec, t[side], side)
    spec.lines[side] = t[side] and function_line(t[side])
  end
  spec.has_sum = t.sum ~= nil
  spec.projections = t.second and 2 or 1
  spec.map2 = feature_map(spec, t.second and t.second.map, "second")
  if t.constant then
    local p = {}
    for i, name in ipairs(spec.scalars) do p[name] = spec.vars.s[i] end
    spec.constant = expression(spec, t.constant, "constant",
      run(spec, t.constant, parameters(spec, p, "scalar"), E.length))
  end
  if t.adapt then
    spec.adapt, spec.lines.adapt = feature_adapt(spec, t.adapt), function_line(t.adapt)
  end
  feature_learn(spec, t)
  spec.official = t.official ~= nil
  spec.token, spec.token_norm = spec.phi, 0
  spec.lines.token = spec.lines.phi
  if t.official then
    local o = t.official
    if type(o.phi) ~= "function" or (o.token_norm ~= 0 and o.token_norm ~= 1) then
      refuse(spec, "official", 1, "'official' must hold 'phi' and 'token_norm' 0 or 1")
    end
    spec.token, spec.token_norm = feature_lanes(spec, o.phi), o.token_norm
    spec.lines.token = function_line(o.phi)
  end
  spec.signed = spec.phi.signed or spec.token.signed
  spec.may_antithetic = t.antithetic == true
  if spec.antithetic then
    if not spec.may_antithetic then
      refuse(spec, "name", 1, "%s has no antithetic form", spec.name)
    end
    add_antithetic(spec)
    spec.name, spec.official, spec.token = spec.name .. "+", false, spec.phi
  end
  spec.id = spec.name:gsub("%+$", "_antithetic")
  local gaussian = spec.vars.s[#spec.scalars] * spec.vars.r2 / 2
  for i, log in ipairs(spec.phi.log) do spec.phi.log[i] = log - gaussian end
end

local MATRIX = {
  { "name", "string" }, { "doc", "string" }, { "source", "string" }, { "law", "string" },
  { "sample", "function" }, { "learner", "string", true },
}

-- Every row exactly N(0, I); unbiased with the row weights; rows of one length, biased; anything else;
-- trained, from the sample on.
local LAWS = { "exact", "weighted", "fixed-norm", "approximate", "learned" }
M.LEARNERS = { "fastfood", "gmm", "bbq", "dgm", "inn" }

local function matrix(spec, t)
  check_fields(spec, t, MATRIX)
  for _, law in ipairs(LAWS) do
    if t.law == law then spec.law = law end
  end
  if not spec.law then
    refuse(spec, "law", 1, "'law' must be '%s' or '%s', got '%s'", table.concat(LAWS, "', '", 1, #LAWS - 1),
      LAWS[#LAWS], t.law)
  end
  local result = run(spec, t.sample, linop.toolbox(spec.primitives))
  if not linop.is_matrix(result) then
    refuse(spec, "sample", 1, "'sample' must return a matrix, got %s", describe(result))
  end
  spec.recipe = linop.recipe(result)
  if (spec.law == "learned") ~= (t.learner ~= nil) then
    refuse(spec, "law", 1, "'law' is 'learned' where there is a 'learner', and only there")
  end
  spec.learner = t.learner and one_of(spec, "learner", t.learner, M.LEARNERS)
end

local ROW = {
  { "name", "string" }, { "doc", "string" }, { "source", "string" }, { "inputs", "table" },
  { "constants", "table", true }, { "outputs", "table" }, { "forward", "function" },
  { "backward", "boolean", true },
}

local function fields(spec, t, which)
  local list = {}
  for i, field in ipairs(t[which]) do
    if type(field) ~= "table" or not field.shape or (which == "outputs" and field.shape == "shared") then
      refuse(spec, which, 1, "'%s' must hold row \"x\"%s and one \"x\"; entry %d is %s", which,
        which == "inputs" and ", shared \"x\"" or "", i, describe(field))
    end
    list[i] = { name = identifier(spec, which, field.name), shape = field.shape, slot = i - 1 }
  end
  if #list < 1 or #list > M.MAX_ROW then
    refuse(spec, which, 1, "'%s' must hold 1 to %d entries, got %d", which, M.MAX_ROW, #list)
  end
  return list
end

local function row_var(field, prefix)
  return E.var(prefix .. field.name, E.ROW | E.TOKEN, field.shape ~= "one")
end

local function row_operator(spec, t)
  check_fields(spec, t, ROW)
  spec.inputs, spec.outputs = fields(spec, t, "inputs"), fields(spec, t, "outputs")
  spec.constants = {}
  local values = { n = E.length }
  for i, name in ipairs(t.constants or {}) do
    spec.constants[i] = { name = identifier(spec, "constants", name), slot = i - 1 }
    spec.constants[i].var = E.var(name, E.UNIFORM)
    values[name] = spec.constants[i].var
  end
  for _, input in ipairs(spec.inputs) do
    input.var = row_var(input, "")
    values[input.name] = input.var
  end
  spec.lines = { forward = function_line(t.forward) }
  local result = run(spec, t.forward, parameters(spec, values, "input or constant"))
  if type(result) ~= "table" or E.is_node(result) then
    refuse(spec, "forward", 1, "'forward' must return a table, got %s", describe(result))
  end
  for _, output in ipairs(spec.outputs) do
    output.node = expression(spec, t.forward, output.name, result[output.name])
    if output.shape == "one" and output.node.wide then
      refuse(spec, output.name, spec.lines.forward, "'%s' is one number, got a vector", output.name)
    end
  end
  spec.backward = t.backward ~= false
  if not spec.backward then return end
  local nodes, seeds, wrt = {}, {}, {}
  for i, output in ipairs(spec.outputs) do
    output.seed = row_var(output, "g_")
    nodes[i], seeds[i] = output.node, output.seed
  end
  for i, input in ipairs(spec.inputs) do wrt[i] = input.var end
  for i, g in ipairs(grad.gradients(nodes, seeds, wrt)) do spec.inputs[i].grad = g end
end

local KINDS = { feature = feature, matrix = matrix, row = row_operator }

-- Loads specs/<kind>/<name>.lua from its text. how: primitives (linop.declared) for a matrix,
-- antithetic = true for a feature's antithetic form.
function M.load_text(kind, name, path, text, how)
  local spec = { kind = kind, file = name, path = path, text = text, graph = E.new_graph(),
    primitives = how and how.primitives, antithetic = how and how.antithetic }
  E.use(spec.graph)
  local t = load_table(spec)
  spec.name, spec.doc, spec.source = t.name, t.doc, t.source
  KINDS[kind](spec, t)
  return spec
end

return M
