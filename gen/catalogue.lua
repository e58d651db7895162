local files = require "gen.files"
local load_spec = require "gen.load_spec"
-- The README's tables of component functions and weight matrices, from the specs.

local M = {}

local LAW = {
  exact = "exact", weighted = "unbiased with row weights", ["fixed-norm"] = "rows of one length: biased",
  approximate = "nearly normal: small bias", learned = "trained: another kernel",
}

local function row(...)
  return "| " .. table.concat({ ... }, " | ") .. " |"
end

-- What a feature has besides: its lanes, whether it is signed, where its parameters come from.
local function features_of(spec)
  local words = { ("%d, %s"):format(spec.lanes, spec.signed and "signed" or "positive") }
  if spec.may_antithetic then words[#words + 1] = "antithetic" end
  if spec.official then words[#words + 1] = "official" end
  if spec.learn[1] then words[#words + 1] = "`--train-scalars`" end
  return table.concat(words, ", ")
end

-- Which matrices go with a feature (performer_legal in the runtime says the same).
local function legality(spec)
  return spec.counts and "exact ones" or "all"
end

function M.markdown()
  local out = {
    row("component function", "", "features a row", "matrices", "source"), "|---|---|---|---|---|" }
  for _, name in ipairs(files.names("feature")) do
    local spec = load_spec.one("feature", name)
    out[#out + 1] = row("`" .. name .. "`", spec.doc, features_of(spec), legality(spec), spec.source)
  end
  out[#out + 1] = ""
  out[#out + 1] = row("weight matrix", "", "rows", "source")
  out[#out + 1] = "|---|---|---|---|"
  for _, name in ipairs(files.names("matrix")) do
    local spec = load_spec.one("matrix", name)
    out[#out + 1] = row("`" .. name .. "`", spec.doc, LAW[spec.law], spec.source)
  end
  return table.concat(out, "\n") .. "\n"
end

return M
