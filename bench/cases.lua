-- One record a case, for the scripts beside this one: a file may have a case several times. Of its repeats those
-- are left out that were measured while others used the machine, unless all were, and of the rest the median
-- stands for the case, the slower one where two are in the middle.
local M = {}

local KEYS = { "record", "form", "kind", "feat", "kernel", "task", "B", "H", "N", "D", "DV", "M", "threads", "isa",
  "precision" }

-- What makes a case: records of the same key are repeats.
function M.key(record)
  local parts = {}
  for i, name in ipairs(KEYS) do parts[i] = tostring(record[name] or "") end
  return table.concat(parts, " ")
end

local function time(record) return record.ns or record.ms end

local function middle(repeats)
  local idle = {}
  for _, r in ipairs(repeats) do
    if not r.busy then idle[#idle + 1] = r end
  end
  local of = #idle > 0 and idle or repeats
  table.sort(of, function(a, b) return time(a) < time(b) end)
  return of[#of // 2 + 1]
end

-- Cases in the order in which they first come; records without a time (the machine's) stay as they are.
function M.of(records)
  local out, found = {}, {} -- found[key]: its place in out, and repeats
  for _, r in ipairs(records) do
    local key = time(r) and M.key(r)
    if not (key and found[key]) then
      out[#out + 1] = r
      if key then found[key] = { place = #out, repeats = {} } end
    end
    if key then table.insert(found[key].repeats, r) end
  end
  for _, case in pairs(found) do out[case.place] = middle(case.repeats) end
  return out
end

return M
