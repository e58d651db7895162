local linop = require "gen.linop"
local load_spec = require "gen.load_spec"
local spec = require "gen.spec"

local FEATURE = [[
return {
  name = "f", doc = "d", source = "s",
  scalars = { { "A", 0 } },
  phi = function(u, x2, w2, p)
    return { log = u }
  end,
}
]]

local HEADER = [[
/* PRIMITIVE(name, kind, numbers): what it is. */
#define SAMPLE_PRIMITIVES(PRIMITIVE)                 \
    PRIMITIVE(haar, source, 0)       /* a comment */ \
    PRIMITIVE(nodes_2, source, 1) /* (0, 1) */       \
    PRIMITIVE(chi_rows, transform, 0)
#define ROW(name, kind, numbers) {#name, kind, primitive_##name},
]]

local function load(kind, text)
  return spec.load_text(kind, "f", "specs/" .. kind .. "/f.lua", text, { primitives = linop.declared(HEADER) })
end

local function refused(kind, text, message)
  local ok, got = pcall(load, kind, text)
  assert.is_false(ok)
  assert.equal(message, got)
end

describe("a spec is refused with file and line when", function()
  local function feature(from, to, message)
    local text, count = FEATURE:gsub(from, (to:gsub("%%", "%%%%")), 1)
    assert.equal(1, count)
    refused("feature", text, message)
  end

  it("it is loaded and the good one passes", function()
    assert.equal("f", load("feature", FEATURE).name)
  end)
  it("a result is no expression", function()
    feature("log = u", "log = {}", "specs/feature/f.lua:5: 'log' must be an expression, got a table")
    feature("log = u", "sign = u", "specs/feature/f.lua:4: 'log' must be an expression, got nothing")
    feature("{ log = u }", "u", "specs/feature/f.lua:4: 'phi' must return a table with 'log', got an expression")
    feature("{ log = u }", "{ { log = u }, { log = u } }", "specs/feature/f.lua:4: 'phi' must return 1 lanes, got 2")
  end)
  it("arithmetic goes wrong", function()
    feature("log = u", "log = p.B * u", "specs/feature/f.lua:5: 'B' is no scalar of f")
    feature("log = u", "log = exp({})", "specs/feature/f.lua:5: argument 1 of exp must be an expression, got a table")
    feature("log = u", "log = u + nothing", "specs/feature/f.lua:5: 'nothing' is not available in a spec")
  end)
  it("it reaches outside", function()
    for _, name in ipairs { "require", "io", "os", "load", "debug", "setmetatable", "string" } do
      feature("log = u", "log = " .. name .. "('x')",
        ("specs/feature/f.lua:5: '%s' is not available in a spec"):format(name))
    end
    feature("return { log", "y = 1 return { log", "specs/feature/f.lua:5: 'y' must be local")
  end)
  it("a field has the wrong type or name", function()
    feature('doc = "d"', "doc = 3", "specs/feature/f.lua:2: 'doc' must be a string, got a number")
    feature('doc = "d"', 'dok = "d"', "specs/feature/f.lua:2: unknown field 'dok', did you mean 'doc'?")
    feature('name = "f"', 'name = "g"', "specs/feature/f.lua:2: 'name' must be 'f' like the file, got 'g'")
    feature("scalars = { { \"A\", 0 } },", "scalars = { 'A' },",
      "specs/feature/f.lua:3: 'scalars' must hold { name, default }, entry 1 is a string")
    feature("scalars", "lanes = 13, scalars", "specs/feature/f.lua:3: 'lanes' must be a whole number from 1 to 12")
  end)
  it("a linear map, norm, law or second matrix does not exist", function()
    feature("scalars", 'linear = "qr", scalars',
      "specs/feature/f.lua:3: 'linear' must be one of eigen_sum, geometric_mean, got 'qr'")
    feature("scalars", 'norms = { "a" }, scalars', "specs/feature/f.lua:3: 'a' in 'norms' is no vector of f")
    feature("scalars", 'counts = { law = "poisson", parameter = "B" }, scalars',
      "specs/feature/f.lua:3: 'parameter' of 'counts' must be a scalar of f, got 'B'")
    feature("scalars", 'second = { matrix = "any" }, scalars',
      "specs/feature/f.lua:3: 'matrix' must be one of own, same, got 'any'")
  end)
  it("an antithetic form is asked for that does not exist", function()
    local ok, message = pcall(load_spec.one, "feature", "trigrf+")
    assert.is_false(ok)
    assert.equal("specs/feature/trigrf.lua:3: trigrf has no antithetic form", message)
  end)
  it("it does not parse", function()
    local ok, message = pcall(load, "feature", "return {\n  name = = 1\n}")
    assert.is_false(ok)
    assert.matches("^specs/feature/f.lua:2: ", message)
  end)
  it("adapt returns what is no parameter", function()
    feature("phi =", "adapt = function(m) return { B = m.d } end,\n  phi =",
      "specs/feature/f.lua:4: 'B' is no parameter of f")
    feature("phi =", "adapt = function(m) return { A = m.m1x } end,\n  phi =",
      "specs/feature/f.lua:4: 'A' is a scalar, got a vector")
  end)
end)

describe("a matrix", function()
  local text = [[
return {
  name = "f", doc = "d", source = "s", law = "exact",
  sample = function(s)
    return s.chi_rows(s.haar())
  end,
}
]]
  it("becomes its primitives in order", function()
    assert.same({ { op = "haar", args = {} }, { op = "chi_rows", args = {} } }, load("matrix", text).recipe)
    assert.same({ { op = "nodes_2", args = { 12 } }, { op = "chi_rows", args = {} } },
      load("matrix", (text:gsub("haar%(%)", "nodes_2(12)"))).recipe)
  end)
  it("has the primitives that the sampler's header declares", function()
    assert.same({ { name = "haar", source = true, args = 0 }, { name = "nodes_2", source = true, args = 1 },
      { name = "chi_rows", source = false, args = 0 } }, linop.declared(HEADER))
    local ok, message = pcall(linop.declared, "PRIMITIVE(haar, sauce, 0)")
    assert.is_false(ok)
    assert.equal("runtime/matrix/primitives.h: 'haar' is a 'sauce', neither source nor transform", message)
    ok, message = pcall(linop.declared, "")
    assert.is_false(ok)
    assert.equal("runtime/matrix/primitives.h: no PRIMITIVE(name, kind, numbers) found", message)
  end)
  it("has one of four laws", function()
    for _, law in ipairs { "exact", "weighted", "fixed-norm", "approximate" } do
      assert.equal(law, load("matrix", (text:gsub("exact", law))).law)
    end
  end)
  it("is refused with file and line", function()
    refused("matrix", text:gsub("s.haar%(%)", ""),
      "specs/matrix/f.lua:3: chi_rows takes 1 argument, got 0")
    refused("matrix", text:gsub("s.haar%(%)", "3"),
      "specs/matrix/f.lua:3: argument 1 of chi_rows must be a matrix, got a number")
    refused("matrix", text:gsub("haar", "hair"), "specs/matrix/f.lua:4: unknown primitive 'hair', known are "
      .. "haar nodes_2 chi_rows")
    refused("matrix", text:gsub("haar%(", "nodes_2("), "specs/matrix/f.lua:4: nodes_2 takes 1 argument, got 0")
    refused("matrix", text:gsub("haar%(", "nodes_2({}"),
      "specs/matrix/f.lua:4: argument 1 of nodes_2 must be a number, got a table")
    refused("matrix", text:gsub('"exact"', '"good"'),
      "specs/matrix/f.lua:2: 'law' must be 'exact', 'weighted', 'fixed-norm', 'approximate' or 'learned', got 'good'")
  end)
end)

describe("a row operator", function()
  it("is refused with file and line", function()
    local text = [[
return {
  name = "f", doc = "d", source = "s",
  inputs = { row "x" },
  outputs = { one "y" },
  forward = function(v)
    return { y = v.x }
  end,
}
]]
    refused("row", text, "specs/row/f.lua:6: 'y' is one number, got a vector")
    refused("row", text:gsub('row "x"', '"x"'),
      "specs/row/f.lua:3: 'inputs' must hold row \"x\", shared \"x\" and one \"x\"; entry 1 is a string")
    refused("row", text:gsub("v.x", "v.z"), "specs/row/f.lua:6: 'z' is no input or constant of f")
  end)
end)

describe("the nearest name", function()
  it("is suggested only when it is near", function()
    assert.equal("saderf", spec.nearest("sadref", { "posrf", "saderf", "trigrf" }))
    assert.is_nil(spec.nearest("banana", { "posrf", "saderf" }))
  end)
end)
