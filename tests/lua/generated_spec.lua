-- The text of the C renderer, compiled in double precision, against the evaluator.
local c_tables = require "gen.c_tables"
local E = require "gen.expr"
local feature = require "gen.feature"
local files = require "gen.files"
local load_spec = require "gen.load_spec"
local target_c = require "gen.target_c"

local ANY = { D = 0, DV = 0, M = 0 }

-- A C array's initialiser.
local function list(values)
  local texts = {}
  for i, value in ipairs(values) do texts[i] = E.number(value) end
  return "{" .. table.concat(texts, ", ") .. "}"
end

-- Compiles and runs a program; the numbers it prints.
local function run(text)
  local stem = os.tmpname()
  local file = assert(io.open(stem .. ".c", "wb"))
  file:write("#include <stdio.h>\n", text)
  file:close()
  local compiler = os.getenv("CC") or "cc"
  local built = os.execute(("%s -std=gnu11 -O1 -ffp-contract=off -Wall -Wextra -Werror -DREAL=double -Iruntime "
    .. "-Itemplates/c %s.c -o %s -lm"):format(compiler, stem, stem))
  local numbers = {}
  if built then
    local pipe = io.popen(stem)
    for line in pipe:lines() do numbers[#numbers + 1] = assert(tonumber(line), line) end
    pipe:close()
  end
  os.remove(stem .. ".c")
  os.remove(stem)
  assert.is_true(built)
  return numbers
end

local function same(expected, got)
  assert.equal(#expected, #got)
  for i, value in ipairs(expected) do
    assert.near(value, got[i], 1e-12 * (1 + math.abs(value)))
  end
end

local function vector(n, low, high)
  local v = {}
  for i = 1, n do v[i] = low + (high - low) * math.random() end
  return v
end

local function append(to, value, n)
  for i = 1, n do to[#to + 1] = type(value) == "table" and value[i] or value end
end

describe("generated C computes what the evaluator does:", function()
  math.randomseed(5)

  for _, name in ipairs(files.names("row")) do
    it("row operator " .. name, function()
      local spec = load_spec.one("row", name)
      for _, n in ipairs { 1, 7, 16 } do
        local rows, env, program, expected = 3, {}, { target_c.row(spec) }, {}
        local setup = { ("    row_args a = {.rows = %d, .n = %d, .add = 1};"):format(rows, n) }
        local function declare(field, array, prefix)
          local width = field.shape == "one" and 1 or n
          local count = field.shape == "shared" and 1 or rows
          local values = field.name == "label" and { 0, n - 1, 0 } or vector(width * count, 0.1, 1)
          local ld = field.shape == "shared" and 0 or width
          program[#program + 1] = ("static real %s%s[] = %s;"):format(prefix, field.name, list(values))
          setup[#setup + 1] = ("    a.%s[%d] = %s%s, a.ld_%s[%d] = %d;"):format(array, field.slot, prefix, field.name,
            array, field.slot, ld)
          return function(r) return field.shape == "one" and values[r] or { table.unpack(values, ld * (r - 1) + 1) } end
        end
        local get, back = {}, {}
        for i, input in ipairs(spec.inputs) do get[i] = declare(input, "in", "in_") end
        for i, constant in ipairs(spec.constants) do
          env[constant.name] = 0.1 + 0.05 * i
          setup[#setup + 1] = ("    a.c[%d] = %s;"):format(i - 1, E.number(env[constant.name]))
        end
        for _, output in ipairs(spec.outputs) do declare(output, "out", "out_") end
        if spec.backward then
          for i, output in ipairs(spec.outputs) do back[i] = declare(output, "gout", "gout_") end
        end
        local gradients, before = {}, {}
        for i, input in ipairs(spec.backward and spec.inputs or {}) do
          before[i] = declare(input, "gin", "gin_")
          gradients[i] = {}
        end
        local outputs = {}
        for r = 1, rows do
          for i, input in ipairs(spec.inputs) do env[input.name] = get[i](r) end
          for i, output in ipairs(spec.outputs) do
            if spec.backward then env[output.seed.name] = back[i](r) end
            outputs[i] = outputs[i] or {}
            append(outputs[i], E.evaluate(output.node, env, n), output.shape == "one" and 1 or n)
          end
          for i, input in ipairs(spec.backward and spec.inputs or {}) do
            local width = input.shape == "one" and 1 or n
            local g, old = E.evaluate(input.grad, env, n), before[i](r)
            for k = 1, width do
              local value = type(g) == "table" and g[k] or g
              local start = type(old) == "table" and old[k] or old
              if input.shape == "shared" then
                gradients[i][k] = (gradients[i][k] or start) + value
              else -- only the first input is added to
                table.insert(gradients[i], value + (i == 1 and start or 0))
              end
            end
          end
        end
        for i, output in ipairs(spec.outputs) do
          append(expected, outputs[i], #outputs[i])
          setup[#setup + 1] = ("    show(out_%s, %d);"):format(output.name, #outputs[i])
        end
        table.insert(setup, #setup - #spec.outputs + 1, "    EXPORT(row_fwd)(&a);")
        if spec.backward then
          setup[#setup + 1] = "    EXPORT(row_bwd)(&a);"
          for i, input in ipairs(spec.inputs) do
            append(expected, gradients[i], #gradients[i])
            setup[#setup + 1] = ("    show(gin_%s, %d);"):format(input.name, #gradients[i])
          end
        end
        program[#program + 1] = 'static void show(const real *x, int n)\n{\n    for (int i = 0; i < n; i++)\n'
          .. '        printf("%.17g\\n", x[i]);\n}\nint main(void)\n{\n' .. table.concat(setup, "\n") .. "\n}\n"
        same(expected, run(table.concat(program, "\n")))
      end
    end)
  end

  -- Every feature, and its antithetic form.
  local features = {}
  for _, name in ipairs(files.names("feature")) do
    features[#features + 1] = name
    if load_spec.one("feature", name).may_antithetic then features[#features + 1] = name .. "+" end
  end

  -- A point where nothing is singular; seeds differ from lane to lane.
  local function point(spec)
    local env = { u = 0.7, u2 = 0.4, w2 = 5.5, x2 = 1.5, r2 = 2.5, sum = 0.8, x = -0.6, g = 0.9, gsum = 1.3 }
    for i, name in ipairs(spec.scalars) do env[name] = spec.defaults[i] - 0.03 end
    env.gaussian = 1
    for i, name in ipairs(spec.vectors) do env[name] = 1.7 - 0.2 * i end
    for i, name in ipairs(spec.norms) do env["w_" .. name] = 2.5 + i end
    for i = 1, spec.lanes do env["glog" .. i - 1], env["gsign" .. i - 1] = 0.3 - 0.2 * i, 1.1 - 0.3 * i end
    return env
  end

  -- Values of variables, by name, as a C array of vectors.
  local function vectors(env, names)
    local texts = {}
    for i, name in ipairs(names) do texts[i] = ("vset(%s)"):format(E.number(env[name])) end
    return ("{%s}"):format(#texts > 0 and table.concat(texts, ", ") or "vset(0)")
  end

  local function numbered(prefix, count)
    local names = {}
    for i = 1, count do names[i] = prefix .. i - 1 end
    return names
  end

  for _, name in ipairs(features) do
    it("feature " .. name, function()
      local spec = load_spec.one("feature", name)
      local plan, env, s, norms = feature.plan(spec), point(spec), {}, { "w2" }
      for i, parameter in ipairs(spec.scalars) do s[i] = env[parameter] end
      for i, norm in ipairs(spec.norms) do norms[i + 1] = "w_" .. norm end
      local token = spec.official and [[
    tphi(u[0], w[0], t[0], t[1], s, out, out + LANES);
    show(out, SIGNED ? 2 * LANES : LANES);
    tphi_grad(u[0], w[0], t[0], t[1], s, gl, gs, out, out + 1, out + 2, out + 3);
    show(out, 3 + NS);]] or ""
      local program = target_c.prologue(spec, spec.id, ANY) .. ([[
static void show(const vec *x, int n)
{
    for (int i = 0; i < n; i++)
        printf("%%.17g\n", x[i][VL - 1]);
}
int main(void)
{
    real s[] = %s, t[] = {1.5, 2.5, 0.8}, uni[NUNI], tok[NTOK];
    vec row[NROW], out[64], x = vset(-0.6), g = vset(0.9), u[] = {vset(0.7), vset(0.4)};
    vec v[] = %s, w[] = %s, gl[] = %s, gs[] = %s;
    phi_uniform(s, uni);
    phi_row(w, uni, row);
    phi_token(t, uni, tok);
    phi(u, row, uni, tok, out, out + LANES);
    show(out, SIGNED ? 2 * LANES : LANES);
    phi_grad(u, w, row, uni, tok, gl, gs, out, out + NP);
    phi_pgrad(u, w, s, row, uni, tok, t, gl, gs, out + NP + 3, out + NP + 3 + NS);
    show(out, NP + 3 + NS + NW);
    out[0] = map_q(x, v);
    map_q_grad(x, v, g, out + 1, out + 2);
    show(out, 2 + NV);
    out[0] = map_k(x, v);
    map_k_grad(x, v, g, out + 1, out + 2);
    show(out, 2 + NV);
    out[0] = map2(x, v);
    map2_grad(x, v, g, out + 1, out + 2);
    show(out, 2 + NV);
    out[0] = token_sum(x, v);
    token_sum_grad(x, v, 1.3, out + 1, out + 2);
    show(out, 2 + NV);
%s
}
]]):format(list(s), vectors(env, spec.vectors), vectors(env, norms), vectors(env, numbered("glog", spec.lanes)),
        vectors(env, numbered("gsign", spec.lanes)), token)
      local expected = {}
      for _, roots in ipairs { plan.value, plan.grad, plan.pgrad, { spec.map_q }, plan.map_q_grad, { spec.map_k },
        plan.map_k_grad, { spec.map2 }, plan.map2_grad, { spec.sum }, plan.sum_grad,
        spec.official and plan.token or {}, plan.token_grad or {} } do
        for _, root in ipairs(roots) do expected[#expected + 1] = E.evaluate(root, env) end
      end
      same(expected, run(program))
    end)
  end

  it("parameters from moments, and their gradients", function()
    for _, name in ipairs(features) do
      local spec = load_spec.one("feature", name)
      local d, env, moments, expected, s = 5, {}, {}, {}, {}
      local low = { m1x = -0.5, m1y = -0.5, m2x = 0.3, m2y = 0.3, a1x = 0.2, a1y = 0.2, low = -2, high = 1 }
      for _, var in ipairs(spec.vars.m) do
        env[var.name] = vector(d, low[var.name], low[var.name] + 0.7)
        append(moments, env[var.name], d)
        append(moments, 0, 3)
      end
      for i, parameter in ipairs(spec.scalars) do
        s[i] = spec.defaults[i]
        env[parameter] = s[i]
      end
      if spec.adapt then
        local grads, seeds = feature.adapt_gradients(spec)
        local ds, dv, v = { 0, 0, 0, 0, 0, 0, 0, 0 }, {}, {}
        append(dv, 0, 32)
        append(v, 0, 8 * #spec.vectors)
        for i, output in ipairs(spec.adapt) do
          local value = E.evaluate(output.node, env, d)
          env[seeds[i].name] = output.vector and { 1, 2, 3, 4, 5 } or 0.7
          if output.vector then
            for k = 1, 8 do v[8 * output.slot + k] = k > d and 1 or type(value) == "table" and value[k] or value end
            table.move(env[seeds[i].name], 1, d, 8 * output.slot + 1, dv)
          else
            s[output.slot + 1], ds[output.slot + 1] = value, 0.7
          end
        end
        append(expected, s, #s)
        append(expected, v, #v)
        for _, g in ipairs(grads) do append(expected, E.evaluate(g, env, d), d) end
        local start = {}
        for i, value in ipairs(spec.defaults) do start[i] = value end
        local got = run(c_tables.features { spec } .. ([[
static void show(const real *x, int n)
{
    for (int i = 0; i < n; i++)
        printf("%%.17g\n", x[i]);
}
int main(void)
{
    const feature_info *f = generated_features;
    real m[] = %s, s[] = %s, given[] = %s, ds[] = %s, dv[] = %s, v[32] = {0}, dm[32] = {0};
    f->adapt(5, 8, m, s, v);
    show(s, f->scalars), show(v, 8 * f->vectors);
    f->adapt_grad(5, 8, m, given, ds, dv, dm);
    for (int i = 0; i < MOMENTS_SMOOTH; i++)
        show(dm + 8 * i, 5);
}
]]):format(list(moments), list(start), list(start), list(ds), list(dv)))
        same(expected, got)
      end
    end
  end)
end)
