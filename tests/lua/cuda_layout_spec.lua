-- Constants of skeletons, as the generator computes them from their enums.
local files = require "gen.files"
local layout = require "gen.cuda_layout"

describe("constants of a skeleton", function()
  local read = files.read
  after_each(function() files.read = read end)

  -- A reader of a file of these texts by name, instead of those of templates/cuda.
  local function reader(texts, ...)
    files.read = function(path) return texts[path:match("[^/]+$")] end
    return layout.reader("x.cu", ...)
  end

  it("are what C makes of their expressions", function()
    for expression, value in pairs {
      ["7 / 2 * 2 + 7 % 4"] = 9, ["2 + 3 * 4 - 1 - 1"] = 12, ["(A + 7) / 8 * 8"] = 16, ["1 << 14"] = 16384,
      ["A > 8 && B == 1 ? A : 5"] = 9, ["A > 9 || B != 1 ? A : 5"] = 5, ["A < B"] = 0, ["3 * (A >= B)"] = 3,
      ["!B + !0"] = 1, ["B ? NONE ? 1 : 2 : 3"] = 2, ["ROUND(A, 4) + ROUND(ROUND(A, 2), 16)"] = 28,
      ["!(A <= 8)"] = 1,
    } do
      local get = reader({ ["x.cu"] = "#define ROUND(n, unit) (((n) + unit - 1) / unit * unit)\nenum { X = "
        .. expression .. " };\n" }, "X")
      assert.equal(value, get { A = 9, B = 1, NONE = 0 }, expression)
    end
  end)

  it("are in order, with those of headers, without those of functions and comments", function()
    local get = reader({
      ["x.cu"] = '#include "stub.cuh"\n#include "y.cuh"\nenum { FIRST, SECOND, /* one, two */ LAST = Y + SECOND };\n'
        .. "static int f(void)\n{\n    enum { LAST = 100 };\n}\n",
      ["y.cuh"] = "enum {\n    Y = 2 * D, /* a comment, with a comma */\n};\n",
    }, "FIRST", "SECOND", "LAST")
    assert.same({ 0, 1, 21 }, { get { D = 10 } })
  end)

  it("are refused where they are not understood", function()
    assert.error_matches(function() reader({ ["x.cu"] = "enum { X = sizeof(int) };\n" }, "X") {} end, "sizeof%(int%)")
  end)

  it("end with the largest of the parts of shared memory", function()
    files.read = function(path)
      return path:find("twins") and "enum { A_END = 4 * N, B_END = 3 + N };\n" or "enum { NONE = 1 };\n"
    end
    assert.equal(16, layout.shared_bytes("twins", { N = 1 }))
    assert.equal(32, layout.shared_bytes("twins", { N = 2 }))
    assert.equal(0, layout.shared_bytes("nothing", {}))
  end)
end)
