-- What a component function needs computed, and the functions of templates/README.md as text. The
-- spelling comes from a target, so C and CUDA differ in nothing else.
local E = require "gen.expr"
local grad = require "gen.grad"
local pass = require "gen.pass"
local render = require "gen.render"

local M = {}

-- Logs, and signs where there are any, of all lanes.
local function lanes_of(spec, lanes)
  local list = table.move(lanes.log, 1, spec.lanes, 1, {})
  return spec.signed and table.move(lanes.sign, 1, spec.lanes, spec.lanes + 1, list) or list
end

-- Roots of every function and what is hoisted; seeds and wrt are what gradients are taken of.
function M.plan(spec)
  if spec.plan then return spec.plan end
  E.use(spec.graph)
  local vars, memo = spec.vars, {}
  local plan = { value = lanes_of(spec, spec.phi), token = lanes_of(spec, spec.token) }
  for i, node in ipairs(plan.value) do plan.value[i] = pass.regroup(node, memo) end
  plan.seeds = lanes_of(spec, { log = vars.glog, sign = vars.gsign })
  plan.wrt = { vars.u, vars.x2, vars.r2, table.unpack(vars.s) }
  local all = pass.verify(grad.gradients(pass.verify(plan.value), plan.seeds, plan.wrt, true))
  plan.grad, plan.pgrad = { table.unpack(all, 1, 3) }, { table.unpack(all, 4) }
  plan.slots = pass.hoist(table.move(plan.grad, 1, 3, #plan.value + 1, { table.unpack(plan.value) }),
    plan.pgrad)
  plan.token_grad = pass.verify(
    grad.gradients(pass.verify(plan.token), plan.seeds, plan.wrt, true))
  for _, side in ipairs { "map_q", "map_k" } do
    plan[side .. "_grad"] = pass.verify(grad.gradients({ spec[side] }, { vars.g },
      { vars.x, table.unpack(vars.v) }, true))
  end
  spec.plan = plan
  return plan
end

-- Texts of the variables a function is given.
local function variables(spec, list)
  local known, vars = {}, spec.vars
  for _, name in ipairs(list) do
    if name == "s" or name == "v" or name == "glog" or name == "gsign" then
      for i, var in ipairs(vars[name]) do known[var] = ("%s[%d]"):format(name, i - 1) end
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

local function concat(...)
  local all = {}
  for _, list in ipairs { ... } do table.move(list, 1, #list, #all + 1, all) end
  return all
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
  fn(nil, "void", "phi_row", "(vec w2, const real *uni, vec *row)", { "w2" }, uni, row,
    elements("row", #row, true))
  fn(nil, "void", "phi_token", "(real x2, real r2, const real *uni, real *tok)", { "x2", "r2" }, uni,
    token, elements("tok", #token))
  fn(lines.phi, "void", "phi",
    "(vec u, const vec *row, const real *uni, const real *tok, vec *logs, vec *signs)", { "u" }, all,
    plan.value, lanes)
  fn(lines.phi, "void", "phi_grad", "(vec u, vec w2, const vec *row, const real *uni,\n"
    .. "    const real *tok, const vec *glog, const vec *gsign, vec *gu, vec *gx2, vec *gr2)",
    { "u", "w2", "glog", "gsign" }, all, plan.grad,
    { { "*gu", true }, { "*gx2", true }, { "*gr2", true } })
  fn(lines.phi, "void", "phi_pgrad", "(vec u, vec w2, const real *s, const vec *row,\n"
    .. "    const real *uni, const real *tok, real x2, real r2, const vec *glog, const vec *gsign,\n"
    .. "    vec *gs)", { "u", "w2", "s", "x2", "r2", "glog", "gsign" }, all, plan.pgrad,
    elements("gs", #spec.scalars, true))
  for _, side in ipairs { "map_q", "map_k" } do
    local line = lines[side] or lines.phi
    fn(line, W, side, "(vec x, const vec *v)", { "x", "v" }, {}, { spec[side] }, { { "return", true } })
    fn(line, "void", side .. "_grad", "(vec x, const vec *v, vec g, vec *gx, vec *gv)",
      { "x", "v", "g" }, {}, plan[side .. "_grad"],
      concat({ { "*gx", true } }, elements("gv", #spec.vectors, true)))
  end
  fn(lines.token, "void", "tphi",
    "(vec u, vec w2, real x2, real r2, const real *s, vec *logs, vec *signs)",
    { "u", "w2", "x2", "r2", "s" }, {}, plan.token, lanes)
  fn(lines.token, "void", "tphi_grad", "(vec u, vec w2, real x2, real r2, const real *s,\n"
    .. "    const vec *glog, const vec *gsign, vec *gu, vec *gx2, vec *gr2, vec *gs)",
    { "u", "w2", "x2", "r2", "s", "glog", "gsign" }, {}, plan.token_grad,
    concat({ { "*gu", true }, { "*gx2", true }, { "*gr2", true } },
      elements("gs", #spec.scalars, true)))
  for i, text in ipairs(out) do out[i] = text:gsub("    return = ", "    return ") end
  return out
end

-- The constants of the prologue, in order.
function M.constants(spec, sizes)
  local slots = M.plan(spec).slots
  return {
    { "CD", sizes.D }, { "CDV", sizes.DV }, { "CM", sizes.M },
    { "LANES", spec.lanes }, { "SIGNED", spec.signed and 1 or 0 },
    { "NS", #spec.scalars }, { "NV", #spec.vectors },
    { "NUNI", math.max(1, #slots.uniform) }, { "NROW", math.max(1, #slots.row) },
    { "NTOK", math.max(1, #slots.token) }, { "TOKEN_NORM", spec.token_norm },
  }
end

-- The pointer of each wide variable is a parameter or a row of v.
local function moments_known(spec)
  local inputs = {}
  for _, var in ipairs(spec.vars.m) do inputs[var] = var.name end
  return inputs, { [E.length] = "count" }
end

local MOMENTS = "const real *m1x, const real *m1y,\n    const real *m2x, const real *m2y"
local MOMENT_NAMES = { "m1x", "m1y", "m2x", "m2y" }
local ADAPT_NAMES = { "d", "dp", "j", "s", "v", "ds", "dv", "count", "m1x", "m1y", "m2x", "m2y" }

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
  local indent = "    "
  render.passes(target, lines, body, indent, outputs, inputs, known, render.names(ADAPT_NAMES))
  if pad[1] then
    body[#body + 1] = "    for (int64_t j = d; j < dp; j++) {"
    table.move(pad, 1, #pad, #body + 1, body)
    body[#body + 1] = "    }"
  end
  render.fn(out, ("static void %s_adapt(int64_t d, int64_t dp, %s, real *s, real *v)"):format(
    spec.name, MOMENTS), { "dp", "s", "v", table.unpack(MOMENT_NAMES) },
    concat({ "    const real count = (real)d;" }, lines, body))
end

-- The log's constant, a number of the head.
function M.constant(spec, target, out)
  local known = { [E.length] = "count" }
  for i, var in ipairs(spec.vars.s) do known[var] = ("s[%d]"):format(i - 1) end
  local lines, body = {}, {}
  render.passes(target, lines, body, "    ", { {
    node = spec.constant, store = function(value) return ("return %s;"):format(value) end,
  } }, {}, known, render.names(ADAPT_NAMES))
  render.fn(out, ("static real %s_constant(int64_t d, const real *s)"):format(spec.name), { "s" },
    concat({ "    const real count = (real)d;" }, lines, body))
end

-- Nodes of adapt's gradient: roots for the four moments, and the seeds by output.
function M.adapt_gradients(spec)
  E.use(spec.graph)
  local nodes, seeds = {}, {}
  for i, output in ipairs(spec.adapt) do
    nodes[i] = output.node
    seeds[i] = E.var("g_" .. output.name, E.ROW | E.TOKEN, output.vector)
  end
  return grad.gradients(nodes, seeds, spec.vars.m), seeds
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
      store = function(value) return ("d%s[j] += %s;"):format(MOMENT_NAMES[i], value) end,
    }
  end
  render.passes(target, lines, body, "    ", outputs, inputs, known, render.names(ADAPT_NAMES))
  render.fn(out, ("static void %s_adapt_grad(int64_t d, int64_t dp, %s, const real *ds,\n"
    .. "    const real *dv, real *dm1x, real *dm1y, real *dm2x, real *dm2y)"):format(spec.name, MOMENTS),
    { "dp", "ds", "dv", table.unpack(MOMENT_NAMES) },
    concat({ "    const real count = (real)d;" }, lines, body))
end

return M
