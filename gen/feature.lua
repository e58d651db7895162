-- What a component function needs computed, and the functions of templates/README.md as text. The
-- spelling comes from a target, so C and CUDA differ in nothing else.
local E = require "gen.expr"
local grad = require "gen.grad"
local pass = require "gen.pass"
local render = require "gen.render"
local schema = require "gen.spec"

local M = {}

-- Logs, and signs where there are any, of all lanes.
local function lanes_of(spec, lanes)
  local list = table.move(lanes.log, 1, spec.lanes, 1, {})
  return spec.signed and table.move(lanes.sign, 1, spec.lanes, spec.lanes + 1, list) or list
end

local function concat(...)
  local all = {}
  for _, list in ipairs { ... } do table.move(list, 1, #list, #all + 1, all) end
  return all
end

local function projections(spec)
  return { spec.vars.u, spec.projections == 2 and spec.vars.u2 or nil }
end

-- Roots of every function and what is hoisted; seeds and wrt are what gradients are taken of.
function M.plan(spec)
  if spec.plan then return spec.plan end
  E.use(spec.graph)
  local vars, memo = spec.vars, {}
  local plan = { value = lanes_of(spec, spec.phi), token = lanes_of(spec, spec.token) }
  for i, node in ipairs(plan.value) do plan.value[i] = pass.regroup(node, memo) end
  plan.seeds = lanes_of(spec, { log = vars.glog, sign = vars.gsign })
  plan.wrt = concat(projections(spec), { vars.x2, vars.r2, vars.sum })
  local count = #plan.wrt
  plan.params = concat(vars.s, vars.w)
  local all = pass.verify(grad.gradients(pass.verify(plan.value), plan.seeds,
    concat(plan.wrt, plan.params), true))
  plan.grad, plan.pgrad = { table.unpack(all, 1, count) }, { table.unpack(all, count + 1) }
  plan.slots = pass.hoist(concat(plan.value, plan.grad), plan.pgrad)
  if spec.official then
    plan.token_grad = pass.verify(grad.gradients(pass.verify(plan.token), plan.seeds,
      concat({ vars.u, vars.x2, vars.r2 }, vars.s), true))
  end
  for _, name in ipairs { "map_q", "map_k", "map2", "sum" } do
    local seed = name == "sum" and vars.gsum or vars.g
    plan[name .. "_grad"] = pass.verify(grad.gradients({ spec[name] }, { seed },
      { vars.x, table.unpack(vars.v) }, true))
  end
  spec.plan = plan
  return plan
end

-- Texts of the variables a function is given. `u1` is the projection where there is but one.
local function variables(spec, list)
  local known, vars = {}, spec.vars
  local function array(name, nodes)
    for i, var in ipairs(nodes) do known[var] = ("%s[%d]"):format(name, i - 1) end
  end
  for _, name in ipairs(list) do
    if name == "u" then
      array("u", projections(spec))
    elseif name == "t" then
      array("t", { vars.x2, vars.r2, vars.sum })
    elseif name == "u1" then
      known[vars.u] = "u"
    elseif type(vars[name][1]) == "table" and not E.is_node(vars[name]) then
      array(name, vars[name])
    else
      known[vars[name]] = name
    end
  end
  return known
end

-- Body of a feature function: assigns roots[i] to targets[i] = { text, wide }. Hoisted values among
-- `slots` (class -> true) are read from their arrays, under their names where they have one.
local function feature_body(target, plan, params, known, slots, roots, targets)
  local lines, names = {}, render.names(params)
  local arrays = { uniform = "uni", row = "row", token = "tok" }
  local function leaf(node)
    local class = plan.slots.class[node]
    if not class or not slots[class] then return nil end
    local text = ("%s[%d]"):format(arrays[class], plan.slots.slot[node])
    if not node.hint then return text end
    local name = render.fresh(names, node.hint)
    local kind = node.wide and target.wide or target.narrow
    lines[#lines + 1] = ("    const %s %s = %s;"):format(kind.type, name, text)
    return name
  end
  local text = render.block(target, lines, "    ", roots, known, names, leaf)
  for i, root in ipairs(roots) do
    lines[#lines + 1] = ("    %s = %s;"):format(targets[i][1], text(root, targets[i][2]))
  end
  return lines
end

local function elements(array, count, wide)
  local list = {}
  for i = 1, count do list[i] = { ("%s[%d]"):format(array, i - 1), wide } end
  return list
end

-- All functions, a text each. `prefix` comes before every one of them.
function M.functions(spec, target, prefix)
  local plan, out = M.plan(spec), {}
  local W, R = target.wide.type, target.narrow.type
  local slots = plan.slots
  local function fn(line, result, name, signature, given, read, roots, targets)
    local params = {}
    for param in signature:gmatch("([%w_]+)[,)]") do params[#params + 1] = param end
    signature = signature:gsub("%f[%w_]vec%f[^%w_]", W):gsub("%f[%w_]real%f[^%w_]", R)
    local body = feature_body(target, plan, params, variables(spec, given), read, roots, targets)
    if line then out[#out + 1] = ('#line %d "%s"'):format(line, spec.path) end
    render.fn(out, ("%s%s %s%s"):format(prefix, result, name, signature), params, body)
  end
  local all = { uniform = true, row = true, token = true }
  local uni = { uniform = true }
  local lanes = concat(elements("logs", spec.lanes, true),
    spec.signed and elements("signs", spec.lanes, true) or {})
  local lines = spec.lines
  -- Skeletons copy at least one value of each kind.
  local function hoisted(class) return slots[class][1] and slots[class] or { E.const(0) } end
  local uniform, row, token = hoisted "uniform", hoisted "row", hoisted "token"
  fn(lines.phi, "void", "phi_uniform", "(const real *s, real *uni)", { "s" }, {}, uniform,
    elements("uni", #uniform))
  fn(nil, "void", "phi_row", "(const vec *w, const real *uni, vec *row)", { "w" }, uni, row,
    elements("row", #row, true))
  fn(nil, "void", "phi_token", "(const real *t, const real *uni, real *tok)", { "t" }, uni, token,
    elements("tok", #token))
  fn(lines.phi, "void", "phi",
    "(const vec *u, const vec *row, const real *uni, const real *tok, vec *logs, vec *signs)", { "u" },
    all, plan.value, lanes)
  local np, vars = spec.projections, spec.vars
  fn(lines.phi, "void", "phi_grad", "(const vec *u, const vec *w, const vec *row, const real *uni,\n"
    .. "    const real *tok, const vec *glog, const vec *gsign, vec *gu, vec *gt)",
    { "u", "w", "glog", "gsign" }, all, plan.grad, concat(elements("gu", np, true),
      elements("gt", 3, true)))
  fn(lines.phi, "void", "phi_pgrad", "(const vec *u, const vec *w, const real *s, const vec *row,\n"
    .. "    const real *uni, const real *tok, const real *t, const vec *glog, const vec *gsign,\n"
    .. "    vec *gs, vec *gw)", { "u", "w", "s", "t", "glog", "gsign" }, all, plan.pgrad,
    concat(elements("gs", #spec.scalars, true), elements("gw", #vars.w, true)))
  for _, name in ipairs { "map_q", "map_k", "map2", "sum" } do
    local line = lines[name] or lines.phi
    local call = name == "sum" and "token_sum" or name
    fn(line, W, call, "(vec x, const vec *v)", { "x", "v" }, {}, { spec[name] }, { { "return", true } })
    local seed = name == "sum" and "gsum" or "g"
    fn(line, "void", call .. "_grad", ("(vec x, const vec *v, %s %s, vec *gx, vec *gv)"):format(
      seed == "g" and "vec" or "real", seed), { "x", "v", seed }, {}, plan[name .. "_grad"],
      concat({ { "*gx", true } }, elements("gv", #spec.vectors, true)))
  end
  if spec.official then
    fn(lines.token, "void", "tphi",
      "(vec u, vec w2, real x2, real r2, const real *s, vec *logs, vec *signs)",
      { "u1", "w2", "x2", "r2", "s" }, {}, plan.token, lanes)
    fn(lines.token, "void", "tphi_grad", "(vec u, vec w2, real x2, real r2, const real *s,\n"
      .. "    const vec *glog, const vec *gsign, vec *gu, vec *gx2, vec *gr2, vec *gs)",
      { "u1", "w2", "x2", "r2", "s", "glog", "gsign" }, {}, plan.token_grad,
      concat({ { "*gu", true }, { "*gx2", true }, { "*gr2", true } },
        elements("gs", #spec.scalars, true)))
  end
  for i, text in ipairs(out) do out[i] = text:gsub("    return = ", "    return ") end
  return out
end

-- Which vector weights the i-th norm of a row beyond |w|^2; -1: there is none.
local function norm_slot(spec, i)
  for k, name in ipairs(spec.vectors) do
    if name == spec.norms[i] then return k - 1 end
  end
  return -1
end

-- The constants of the prologue, in order.
function M.constants(spec, sizes)
  local slots = M.plan(spec).slots
  return {
    { "CD", sizes.D }, { "CDV", sizes.DV }, { "CM", sizes.M },
    { "LANES", spec.lanes }, { "SIGNED", spec.signed and 1 or 0 },
    { "NS", #spec.scalars }, { "NV", #spec.vectors }, { "NP", spec.projections },
    { "NW", 1 + #spec.norms }, { "SUM", spec.has_sum and 1 or 0 }, { "LINEAR", spec.linear and 1 or 0 },
    { "IDENTITY", spec.identity and 1 or 0 }, { "SIDE", spec.side and spec.side or -1 },
    { "COUNTS", spec.counts and 1 or 0 }, { "NORM1", norm_slot(spec, 1) }, { "NORM2", norm_slot(spec, 2) },
    { "NUNI", math.max(1, #slots.uniform) }, { "NROW", math.max(1, #slots.row) },
    { "NTOK", math.max(1, #slots.token) }, { "TOKEN_NORM", spec.token_norm },
  }
end

-- Of each lane the first lane that has the same log, from 0.
function M.log_lanes(spec)
  local logs, first, list = M.plan(spec).value, {}, {}
  for l = 1, spec.lanes do
    first[logs[l]] = first[logs[l]] or l - 1
    list[l] = first[logs[l]]
  end
  return list
end

-- The pointer of each wide variable is a parameter or a row of v.
local function moments_known(spec)
  local inputs, known = {}, { [E.length] = "count" }
  for _, var in ipairs(spec.vars.m) do inputs[var] = var.name end
  for i, var in ipairs(spec.vars.s) do known[var] = ("s[%d]"):format(i - 1) end
  return inputs, known
end

local ADAPT_NAMES = { "d", "dp", "j", "m", "dm", "s", "v", "ds", "dv", "count",
  table.unpack(schema.MOMENTS) }

-- `const real *m1x = m;` and so on for the rows of m that the body reads, and `count`.
local function opening(body)
  local text, lines = "\n" .. table.concat(body, "\n") .. "\n", {}
  if text:find("%f[%w_]count%f[^%w_]") then lines[1] = "    const real count = (real)d;" end
  for i, name in ipairs(schema.MOMENTS) do
    if text:find("%f[%w_]" .. name .. "%f[^%w_]") then
      lines[#lines + 1] = ("    const real *%s = m + %d * dp;"):format(name, i - 1)
    end
  end
  return lines
end

-- Parameters of a head from its moments. Beside what render.passes uses, the target of this and of adapt_grad has
--   head(spec, name)   result and name of the function
--   add(array, at, value)   adds to a number of an array
function M.adapt(spec, target, out)
  local inputs, known = moments_known(spec)
  local lines, body = {}, {}
  local outputs, pad = {}, {}
  for i, output in ipairs(spec.adapt) do
    local slot = output.slot
    outputs[i] = {
      node = output.node, wide = output.vector,
      store = function(value)
        if not output.vector then return ("s[%d] = %s;"):format(slot, value) end
        return ("v[%d * dp + j] = %s;"):format(slot, value)
      end,
    }
    if output.vector then pad[#pad + 1] = ("        v[%d * dp + j] = 1;"):format(slot) end
  end
  render.passes(target, lines, body, "    ", outputs, inputs, known, render.names(ADAPT_NAMES))
  if pad[1] then
    body[#body + 1] = "    for (int64_t j = d; j < dp; j++) {"
    table.move(pad, 1, #pad, #body + 1, body)
    body[#body + 1] = "    }"
  end
  body = concat(lines, body)
  render.fn(out, target.head(spec, "adapt") .. "(int64_t d, int64_t dp, const real *m, real *s, real *v)",
    { "d", "dp", "m", "s", "v" }, concat(opening(body), body))
end

-- A number of the head: `expression` of the scalars, which `args` declares.
local function number_function(spec, target, out, head, known, node, params)
  local lines, body = {}, {}
  known[E.length] = "count"
  render.passes(target, lines, body, "    ", { {
    node = node, store = function(value) return ("return %s;"):format(value) end,
  } }, {}, known, render.names(ADAPT_NAMES))
  body = concat(lines, body)
  render.fn(out, head:format(spec.id), params, concat(opening(body), body))
end

-- The log's constant.
function M.constant(spec, target, out)
  local known = {}
  for i, var in ipairs(spec.vars.s) do known[var] = ("s[%d]"):format(i - 1) end
  number_function(spec, target, out, "static real %s_constant(int64_t d, const real *s)", known,
    spec.constant, { "d", "s" })
end

-- A trained scalar as a function of a free number, and its derivative.
function M.learn(spec, target, out)
  E.use(spec.graph)
  for _, entry in ipairs(spec.learn) do
    local derivative = grad.gradients({ entry.node }, { E.const(1) }, { entry.theta })[1]
    for suffix, node in ipairs { entry.node, derivative } do
      number_function(spec, target, out, ("static real %%s_learn_%s%s(real theta)"):format(entry.name,
        suffix == 2 and "_grad" or ""), { [entry.theta] = "theta" }, node, { "theta" })
    end
  end
end

-- Nodes of adapt's gradient: roots for the smooth moments, and the seeds by output.
function M.adapt_gradients(spec)
  E.use(spec.graph)
  local nodes, seeds = {}, {}
  for i, output in ipairs(spec.adapt) do
    nodes[i] = output.node
    seeds[i] = E.var("g_" .. output.name, E.ROW | E.TOKEN, output.vector)
  end
  return grad.gradients(nodes, seeds, { table.unpack(spec.vars.m, 1, schema.SMOOTH_MOMENTS) }), seeds
end

function M.adapt_grad(spec, target, out)
  local inputs, known = moments_known(spec)
  local roots, seeds = M.adapt_gradients(spec)
  for i, output in ipairs(spec.adapt) do
    if output.vector then
      inputs[seeds[i]] = ("(dv + %d * dp)"):format(output.slot)
    else
      known[seeds[i]] = ("ds[%d]"):format(output.slot)
    end
  end
  local outputs, lines, body = {}, {}, {}
  for i, root in ipairs(roots) do
    outputs[i] = {
      node = root, wide = true,
      store = function(value) return target.add("dm", ("%d * dp + j"):format(i - 1), value) end,
    }
  end
  render.passes(target, lines, body, "    ", outputs, inputs, known, render.names(ADAPT_NAMES))
  body = concat(lines, body)
  render.fn(out, target.head(spec, "adapt_grad") .. "(int64_t d, int64_t dp, const real *m, const real *s,\n"
    .. "    const real *ds, const real *dv, real *dm)",
    { "d", "dp", "m", "s", "ds", "dv", "dm" }, concat(opening(body), body))
end

return M
