local c_text = require "gen.c_text"
local files = require "gen.files"
local jit = require "gen.jit"
local c_kernels = require "gen.c_kernels"

local SIZES = { D = 20, DV = 32, M = 100 }

local OWN = [[
return {
  name = "mine", doc = "positive features under another name", source = "a test",
  phi = function(u, x2)
    return { log = u - x2 / 2 }
  end,
}
]]

local function lines_of(path)
  local list = {}
  for line in files.read(path):gmatch("([^\n]*)\n") do list[#list + 1] = line end
  return list
end

-- What the preprocessor makes of a text, without line markers.
local function preprocessed(text, options)
  local name = os.tmpname()
  files.write { { name .. ".c", text } }
  local pipe = assert(io.popen(("gcc -E -P %s %s.c 2>&1"):format(options, name)))
  local result = pipe:read("a")
  assert.is_true(pipe:close(), result)
  os.remove(name)
  os.remove(name .. ".c")
  return result
end

describe("the text compiled at run time", function()
  it("needs no header of the tree", function()
    assert.is_nil(jit.text(jit.feature("saderf"), SIZES, "attention"):find('#include "', 1, true))
  end)

  it("is, part by part, what is built ahead", function()
    local feature = jit.feature("trigrf")
    local all = 0
    for _, group in ipairs { "attention", "causal", "official", "bf16" } do
      local text, parts = jit.text(feature, SIZES, group)
      local kinds = c_kernels.group(c_kernels.kinds, group)
      assert.equal(#kinds + 1, parts)
      all = all + #kinds
      for i, ahead in ipairs(c_text.kernels("x", feature, "trigrf_20_32_100", SIZES, "f32", kinds)) do
        assert.equal(preprocessed(ahead, "-Itemplates/c -Iruntime"),
          preprocessed(text, "-DPART=" .. i - 1))
      end
    end
    assert.equal(#c_kernels.kinds, all)
  end)

  it("keeps the lines of templates and headers", function()
    local sources, path, number, compared = {}, nil, 0, 0
    local text = jit.text(jit.feature("posrf"), SIZES, "attention") .. jit.text(jit.feature("posrf"), SIZES, "causal")
    for line in text:gmatch("([^\n]*)\n") do
      local at, file = line:match('^#line (%d+) "(.-)"')
      if line:find("^#elif PART") or line:find("^#if PART") then
        path = nil
      elseif at then
        path, number = file, tonumber(at) - 1
      elseif path and (path:find("^templates") or path == "runtime/kernel/kernel.h") then
        number = number + 1
        sources[path] = sources[path] or lines_of(path)
        local own = sources[path][number]
        if line ~= "" then -- in the place of a second #include
          assert.equal(own, line, ("%s:%d"):format(path, number))
          compared = compared + 1
        end
      end
    end
    assert.is_true(compared > 3000)
  end)

  it("is the same twice and wherever the spec lies", function()
    local here, there = jit.feature("./mine.lua", OWN), jit.feature("/home/me/mine.lua", OWN)
    local text = jit.text(here, SIZES, "attention")
    assert.equal(text, jit.text(there, SIZES, "attention"))
    assert.equal(text, jit.text(jit.feature("./mine.lua", OWN), SIZES, "attention"))
    assert.not_equal(text, jit.text(here, { D = 20, DV = 32, M = 101 }, "attention"))
    assert.not_equal(text, jit.text(here, SIZES, "causal"))
  end)

  it("leaves out the official behaviour where a spec has none, and holds the feature's table", function()
    local text, parts = jit.text(jit.feature("./mine.lua", OWN), SIZES, "official")
    assert.equal(1, parts)
    assert.matches('jit_feature = generated_features;', text)
    assert.is_nil(text:find("attn_official_ops EXPORT", 1, true))
    assert.matches("jit_feature = NULL;", (jit.text(jit.feature("posrf"), SIZES, "attention")))
  end)

  it("refuses names that are taken or cannot be in C", function()
    local function refused(path, text, pattern)
      assert.error_matches(function() jit.feature(path, text) end, pattern)
    end
    refused("./posrf.lua", OWN, "^./posrf.lua: 'posrf' is the name of a built%-in")
    refused("./a-b.lua", OWN, "^./a%-b.lua: a name is of at most 60")
    refused("./other.lua", OWN, "'name' must be 'other' like the file")
    refused("./mine.lua", "return {\n  name = 'mine',\n  phi = os.exit() }", "'os' is not available")
    refused("./mine.lua", "return {", "unexpected symbol near <eof>")
  end)
end)
