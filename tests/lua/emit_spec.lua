local c_tables = require "gen.c_tables"
local E = require "gen.expr"
local emit = require "gen.emit"
local feature = require "gen.feature"
local files = require "gen.files"
local hash = require "gen.hash"
local load_spec = require "gen.load_spec"
local registry = require "gen.registry"
local splice = require "gen.splice"

local SIZES = { D = 32, DV = 32, M = 128 }

local function command(arguments)
  local pipe = assert(io.popen("lua5.4 gen/main.lua " .. arguments .. " 2>&1"))
  local text = pipe:read("a")
  local _, _, code = pipe:close()
  return text, code
end

describe("hoisting", function()
  it("leaves one multiplication and two additions a positive feature", function()
    for _, name in ipairs { "posrf", "oprf", "gerf", "saderf" } do
      local spec = load_spec.one("feature", name)
      local plan = feature.plan(spec)
      local function stop(node) return plan.slots.class[node] ~= nil end
      local flops = require "gen.pass".flops(plan.value, stop)
      assert.is_true(flops <= 3, name)
    end
  end)

  it("sorts hoisted values by what they depend on", function()
    local spec = load_spec.one("feature", "saderf")
    local slots = feature.plan(spec).slots
    for class, bits in pairs { uniform = E.UNIFORM, row = E.ROW | E.UNIFORM, token = E.TOKEN | E.UNIFORM } do
      assert.is_true(#slots[class] >= 1)
      for _, node in ipairs(slots[class]) do assert.equal(node.deps, node.deps & bits) end
    end
    assert.equal(1, #slots.row)
    assert.equal(1, #slots.token)
  end)

  it("does not change the value", function()
    for _, name in ipairs(files.names("feature")) do
      local spec = load_spec.one("feature", name)
      local plan = feature.plan(spec)
      local env = { u = 0.7, u2 = 0.4, w2 = 5, x2 = 1.5, r2 = 2.5, sum = 0.8 }
      for i, scalar in ipairs(spec.scalars) do env[scalar] = spec.defaults[i] - 0.03 end
      for i, norm in ipairs(spec.norms) do env["w_" .. norm] = 2 + i end
      for i = 1, spec.lanes do
        assert.near(E.evaluate(spec.phi.log[i], env), E.evaluate(plan.value[i], env), 1e-14)
      end
    end
  end)
end)

describe("generated text", function()
  it("is the same twice, whatever was loaded before", function()
    local first = emit.pair("x", "saderf", "qmc", SIZES, "f32")
    load_spec.all("row")
    load_spec.all("feature")
    local second = emit.pair("x", "saderf", "qmc", SIZES, "f32")
    assert.same(first, second)
    assert.same(emit.base("x"), emit.base("x"))
  end)

  it("does not depend on the folder it goes to", function()
    local here, there = emit.pair("x", "posrf", "orf", SIZES, "f32"), emit.pair("/y/z", "posrf", "orf", SIZES, "f32")
    for i = 1, #here - 1 do -- the last is the dependency file
      assert.equal(here[i][2], there[i][2])
    end
  end)

  it("begins with the command that made it and names spec and template", function()
    local text = emit.pair("x", "saderf", "qmc", SIZES, "f32")[1][2]
    assert.matches("^/%* lua5.4 gen/main.lua FEAT=saderf KERNEL=qmc D=32 DV=32 M=128 DTYPE=f32\n", text)
    assert.matches('#line %d+ "specs/feature/saderf.lua"', text)
    assert.matches('#line %d+ "templates/c/attn_fwd.c"', text)
    assert.matches("operations a feature row and token: %d+ the value, %d+ its gradient", text)
  end)

  it("lists the recipe of each matrix", function()
    local text = c_tables.matrices { load_spec.one("matrix", "mm") }
    assert.matches('{"normal", {0.0, 0.0}},\n    {"center_columns", {0.0, 0.0}},\n    {"whiten", {0.0, 0.0}},', text)
    assert.matches('"approximate", 3, mm_recipe', text)
    text = c_tables.matrices { load_spec.one("matrix", "sgq") }
    assert.matches('{"gauss_hermite", {12.0, 0.0}},', text)
  end)

  it("keeps the line numbers of the skeleton", function()
    local text = splice.splice("/* top */\n", "prologue", 'one\n#include "stub.h"\nthree\n', "t.c", '#include "stub.h"')
    assert.equal('/* top */\n#line 1 "t.c"\none\nprologue\n#line 3 "t.c"\nthree\n', text)
    local ok, message = pcall(splice.splice, "", "", "nothing", "t.c", "mark")
    assert.is_false(ok)
    assert.equal("t.c:1: a skeleton must have the line mark exactly once", message)
  end)

  it("has the hash FNV-1a", function()
    assert.equal("cbf29ce484222325", hash.fnv1a(""))
    assert.equal("85944171f73967e8", hash.fnv1a("foobar"))
  end)
end)

describe("the command line", function()
  it("refuses what has no meaning, with exit code 2 and nothing written", function()
    for arguments, message in pairs {
      ["FEAT=posrf KERNEL=orf D=0 OUT=%s"] = "D=0: the head size must be a whole number from 1 to 256",
      ["FEAT=posrf KERNEL=orf D=257 OUT=%s"] = "D=257: the head size must be a whole number from 1 to 256",
      ["FEAT=posrf KERNEL=orf M=1025 OUT=%s"] = "M=1025: the rows of W must be a whole number from 1 to 1024",
      ["FEAT=posrf KERNEL=orf D=3x OUT=%s"] = "D=3x: the head size must be a whole number from 1 to 256",
      ["FEAT=posrf KERNEL=orf DTYPE=f16 OUT=%s"] = "DTYPE=f16: must be f32 or f64",
      ["FEAT=posrf KERNEL=orf"] = "OUT= is missing",
      ["FEET=posrf KERNEL=orf OUT=%s"] = "unknown setting 'FEET', did you mean 'FEAT'?",
      ["--bass OUT=%s"] = "unknown option '--bass'",
    } do
      local folder = os.tmpname()
      os.remove(folder)
      local text, code = command((arguments:gsub("%%s", folder)))
      assert.equal(2, code)
      assert.equal("gen: " .. message .. "\n", text)
      assert.is_nil(io.open(folder))
    end
  end)

  it("suggests the nearest name", function()
    local text, code = command("FEAT=sadref KERNEL=qmc OUT=/nonexistent/x")
    assert.equal(1, code)
    assert.equal("gen: unknown feature 'sadref', did you mean 'saderf'?\n", text)
    assert.equal("gen: unknown matrix 'orff', did you mean 'orf'?\n",
      (command("FEAT=posrf KERNEL=orff OUT=/nonexistent/x")))
  end)

  it("writes everything or nothing", function()
    local folder = os.tmpname()
    os.remove(folder)
    os.execute("mkdir " .. folder)
    local list = { { folder .. "/a", "text" }, { folder .. "/b/../c/../missing.d/x", "text" } }
    os.execute("touch " .. folder .. "/b")
    assert.is_false(pcall(files.write, list))
    local pipe = io.popen("ls " .. folder)
    assert.equal("b\n", pipe:read("a"))
    pipe:close()
    os.execute("rm -r " .. folder)
  end)

  it("checks every derivative", function()
    local text, code = command("--check")
    assert.equal(0, code)
    for _, kind in ipairs { "feature", "row" } do
      for _, name in ipairs(files.names(kind)) do assert.matches("ok   " .. kind .. " +" .. name .. " ", text) end
    end
    assert.equal(1, select(2, command("--check nothing")))
  end)

  it("lists every spec", function()
    local text = command("--list")
    for _, kind in ipairs { "feature", "matrix", "row" } do
      for _, name in ipairs(files.names(kind)) do assert.matches(kind .. " +" .. name .. " ", text) end
    end
  end)

  it("makes one registry, pairs before kernels for any size", function()
    local folder = os.tmpname()
    os.remove(folder)
    files.write {
      { folder .. "/base/registry.inc", "// c\n// dtype f32\nATTN(posrf, NULL, 0, 0, 0, posrf, 1)\nROW(adamw, 0)\n" },
      { folder .. "/p/registry.inc", "// c\n// dtype f32\nATTN(posrf, orf, 8, 8, 8, posrf_orf_8_8_8, 0)\n" },
      { folder .. "/q/registry.inc", "// c\n// dtype f64\nATTN(posrf, orf, 8, 8, 8, posrf_orf_8_8_8, 0)\n" } }
    local text = registry.files("r.c", { folder .. "/base", folder .. "/p" })[1][2]
    assert.is_true(text:find('{"posrf", "orf", 8, 8, 8, ISA_PORTABLE', 1, true)
      < text:find('{"posrf", NULL, 0, 0, 0, ISA_PORTABLE', 1, true))
    assert.matches("attn_official_posrf_portable", text)
    assert.not_matches("attn_official_posrf_orf", text)
    assert.matches('{"adamw", ISA_AVX512, row_fwd_adamw_avx512, NULL},', text)
    assert.error_matches(function() registry.files("r.c", { folder .. "/base", folder .. "/q" }) end,
      "kernels of f64 and, in .*, of f32 cannot be in one registry")
    os.execute("rm -r " .. folder)
  end)
end)
