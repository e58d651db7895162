-- The text of the C renderer, compiled in double precision, against the evaluator.
local E = require "gen.expr"
local emit = require "gen.emit"
local feature = require "gen.feature"
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

  for _, name in ipairs(emit.names("row")) do
    it("row operator " .. name, function()
      local spec = emit.load("row", name)
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

  for _, name in ipairs(emit.names("feature")) do
    it("feature " .. name, function()
      local spec = emit.load("feature", name)
      local plan, lanes = feature.plan(spec), spec.lanes
      local env = { u = 0.7, w2 = 5.5, x2 = 1.5, r2 = 2.5, x = -0.6, g = 0.9, glog0 = 0.3, glog1 = -0.8, gsign0 = 1.1,
        gsign1 = 0.4, A = -0.15, psi = 1.7, gaussian = 1 }
      local s = {}
      for i, parameter in ipairs(spec.scalars) do s[i] = env[parameter] end
      local program = target_c.prologue(spec, name, ANY) .. ([[
static void show(const vec *x, int n)
{
    for (int i = 0; i < n; i++)
        printf("%%.17g\n", x[i][VL - 1]);
}
int main(void)
{
    real s[] = %s, uni[NUNI], tok[NTOK];
    vec row[NROW], out[16], x = vset(-0.6), g = vset(0.9), v[] = {vset(1.7)}, gl[] = {vset(0.3), vset(-0.8)};
    vec gs[] = {vset(1.1), vset(0.4)};
    phi_uniform(s, uni);
    phi_row(vset(5.5), uni, row);
    phi_token(1.5, 2.5, uni, tok);
    phi(vset(0.7), row, uni, tok, out, out + LANES);
    show(out, SIGNED ? 2 * LANES : LANES);
    phi_grad(vset(0.7), vset(5.5), row, uni, tok, gl, gs, out, out + 1, out + 2);
    phi_pgrad(vset(0.7), vset(5.5), s, row, uni, tok, 1.5, 2.5, gl, gs, out + 3);
    show(out, 3 + NS);
    out[0] = map_q(x, v);
    map_q_grad(x, v, g, out + 1, out + 2);
    show(out, 2 + NV);
    out[0] = map_k(x, v);
    map_k_grad(x, v, g, out + 1, out + 2);
    show(out, 2 + NV);
    tphi(vset(0.7), vset(5.5), 1.5, 2.5, s, out, out + LANES);
    show(out, SIGNED ? 2 * LANES : LANES);
    tphi_grad(vset(0.7), vset(5.5), 1.5, 2.5, s, gl, gs, out, out + 1, out + 2, out + 3);
    show(out, 3 + NS);
}
]]):format(list(s))
      local expected = {}
      for _, roots in ipairs { plan.value, plan.grad, plan.pgrad, { spec.map_q }, plan.map_q_grad, { spec.map_k },
        plan.map_k_grad, plan.token, plan.token_grad } do
        for _, root in ipairs(roots) do expected[#expected + 1] = E.evaluate(root, env) end
      end
      assert.equal((spec.signed and 4 or 2) * lanes + 2 * (3 + #spec.scalars) + 2 * (2 + #spec.vectors), #expected)
      same(expected, run(program))
    end)
  end

  it("parameters from moments, and their gradients", function()
    for _, name in ipairs { "oprf", "saderf" } do
      local spec = emit.load("feature", name)
      local d, env, setup, expected = 5, {}, {}, {}
      for _, moment in ipairs { "m1x", "m1y", "m2x", "m2y" } do
        env[moment] = vector(d, moment:find("2") and 0.3 or -0.5, 1)
        setup[#setup + 1] = ("    real %s[] = %s, d%s[%d] = {0};"):format(moment, list(env[moment]), moment, d)
      end
      local grads, seeds = feature.adapt_gradients(spec)
      for i, output in ipairs(spec.adapt) do
        env[seeds[i].name] = output.vector and { 1, 2, 3, 4, 5 } or 0.7
        append(expected, E.evaluate(output.node, env, d), output.vector and d or 1)
      end
      if name == "saderf" then append(expected, 1, 3) end -- padding
      for _, g in ipairs(grads) do append(expected, E.evaluate(g, env, d), d) end
      local got = run(target_c.features { spec } .. ([[
static void show(const real *x, int n)
{
    for (int i = 0; i < n; i++)
        printf("%%.17g\n", x[i]);
}
int main(void)
{
%s
    const feature_info *f = generated_features;
    real s[4] = {0}, v[8] = {0}, ds[] = {0.7}, dv[] = {1, 2, 3, 4, 5, 0, 0, 0};
    f->adapt(5, 8, m1x, m1y, m2x, m2y, s, v);
    show(s, 1), show(v, 8 * f->vectors);
    f->adapt_grad(5, 8, m1x, m1y, m2x, m2y, ds, dv, dm1x, dm1y, dm2x, dm2y);
    show(dm1x, 5), show(dm1y, 5), show(dm2x, 5), show(dm2y, 5);
}
]]):format(table.concat(setup, "\n")))
      same(expected, got)
    end
  end)
end)
