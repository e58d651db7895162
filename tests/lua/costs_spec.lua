-- What kernels compute once for several lanes, and what they are counted with.
local feature = require "gen.feature"
local costs = require "gen.costs"
local load_spec = require "gen.load_spec"

describe("lanes of one log", function()
  local function lanes(name) return feature.log_lanes(load_spec.one("feature", name)) end

  it("share its exponential", function()
    assert.same({ 0 }, lanes "posrf")
    assert.same({ 0, 0 }, lanes "trigrf")
    assert.same({ 0, 1, 0, 1, 4, 4, 4, 4 }, lanes "hrf")
    assert.same({ 0, 0, 0, 0, 4, 5, 4, 5, 4, 5 }, lanes "hrf_gaussian")
  end)

  it("are as far apart in antithetic forms", function()
    assert.same({ 0, 1 }, lanes "posrf+")
    assert.same({ 0, 0, 2, 2 }, lanes "gerf_complex+")
  end)
end)

describe("exponentials of a row and a token", function()
  local function count(name) return costs.exponentials(load_spec.one("feature", name)) end

  it("are of the lanes' logs, and sines and cosines", function()
    assert.equal(1, count "posrf")
    assert.equal(2, count "posrf+")
    assert.equal(3, count "gerf_complex") -- exp, cos, sin
  end)

  it("leave out logs that every row has", function()
    assert.equal(2, count "trigrf")
    assert.equal(4, count "hrf") -- exp(u), exp(-u), cos u, sin u
  end)
end)
