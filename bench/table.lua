-- lua5.4 bench/table.lua FILE                       what a run of `make bench` says of each target
-- lua5.4 bench/table.lua --readme README.md FILE    the same between the README's markers; busy runs are refused too
-- lua5.4 bench/table.lua --check README.md FILE     fails unless that stands there
-- FILE is JSON Lines as bench/run.sh puts them together. No number comes from anywhere else, and none from a
-- measurement while others used the machine, unless BENCH_ALLOW_BUSY is set: then it is shown, marked.
local root = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = root .. "/?.lua;" .. package.path
local cases, json = require "cases", require "json"

local SHAPE = { B = 16, H = 2, N = 4096, D = 32, DV = 32, M = 128 }
local MIB = 1 << 20
local DENSE = 0.60

local run = { allow_busy = false } -- records, one a case, every one of the file, and the machine's

-- ---- finding --------------------------------------------------------------------------------------

local function matches(record, wanted)
  for key, x in pairs(wanted) do
    if record[key] ~= x then return false end
  end
  return true
end

local function with(wanted, more)
  local out = {}
  for _, t in ipairs { wanted, more } do
    for key, x in pairs(t) do out[key] = x end
  end
  return out
end

local function all(wanted, records)
  local found = {}
  for _, r in ipairs(records or run.records) do
    if matches(r, wanted) then found[#found + 1] = r end
  end
  return found
end

local function one(wanted) return all(wanted)[1] end

-- ---- results of rows ------------------------------------------------------------------------------

local function missing(why, busy) return { why = why, busy = busy } end

-- A row's result: what was measured as text, whether that is enough (nil: not known), the records used.
local function result(text, good, records)
  local busy = false
  for _, r in ipairs(records) do busy = busy or r.busy end
  if busy and not run.allow_busy then return missing("the machine was busy", true) end
  return { text = text, good = good, busy = busy }
end

local function percent(x) return ("%.1f %%"):format(100 * x) end

-- Shares of cases, all of which must be there: text, and whether each reaches its limit.
local function shares(records, limits)
  local parts, good = {}, true
  for i, r in ipairs(records) do
    if not r.share then return missing("the machine was busy", true) end
    parts[i] = percent(r.share)
    good = good and r.share >= limits[i]
  end
  return result(table.concat(parts, " / "), good, records)
end

local function dense(kind)
  return one(with(SHAPE, { record = "case", kind = kind, feat = "posrf", kernel = "gaus", threads = 2,
    isa = run.machine.isa, precision = "float32" }))
end

local function own_pair(kind, limit)
  local r = dense(kind)
  return r and shares({ r }, { limit }) or missing "not in this run"
end

local function other_pairs()
  local used, worst, short, busy = {}, nil, 0, false
  for _, kind in ipairs { "forward", "backward" } do
    for _, r in ipairs(all(with(SHAPE, { record = "case", kind = kind, kernel = "gaus", threads = 2,
      isa = run.machine.isa }))) do
      if r.feat ~= "posrf" then
        used[#used + 1] = r
        busy = busy or not r.share
        if r.share and (not worst or r.share < worst.share) then worst = r end
        if r.share and r.share < DENSE then short = short + 1 end
      end
    end
  end
  if #used == 0 then return missing "not in this run" end
  if busy then return missing("the machine was busy", true) end
  local text = ("%d of %d cases reach it; least: %s %s %s"):format(#used - short, #used, worst.feat, worst.kind,
    percent(worst.share))
  for _, kind in ipairs { "forward", "backward" } do
    local trig = one(with(SHAPE, { record = "case", kind = kind, feat = "trigrf", kernel = "gaus", threads = 2,
      isa = run.machine.isa }))
    if trig then text = text .. ("; trigrf %s %s"):format(kind, percent(trig.share)) end
  end
  return result(text, short == 0, used)
end

-- What the others' times would be multiples of if ours were the multiply-adds alone, as text.
local function at_floor(forward_ns, both_ns)
  local f, b = dense "forward", dense "backward"
  if not (f and b and f.floor_ns and b.floor_ns) then return "" end
  return ("; at the floor %.1fx / %.1fx"):format(forward_ns / f.floor_ns, both_ns / (f.floor_ns + b.floor_ns))
end

local function unfused()
  local f = one(with(SHAPE, { record = "unfused", kind = "forward", threads = 2 }))
  local b = one(with(SHAPE, { record = "unfused", kind = "forward+backward", threads = 2 }))
  if not (f and b) then return missing "not in this run" end
  local floor = f.unfused_ns and at_floor(f.unfused_ns, b.unfused_ns) or ""
  return result(("%.2fx / %.2fx"):format(f.ratio, b.ratio) .. floor, f.ratio >= 2.2 and b.ratio >= 2.2, { f, b })
end

local function no_peer()
  local skipped = one { record = "skipped", what = "peers" }
  return missing(skipped and skipped.why or "not in this run")
end

-- ours is that of this run, of the same shape and threads
local function peer(form, limits)
  local f = one(with(SHAPE, { record = "peer", form = form, kind = "forward" }))
  local b = one(with(SHAPE, { record = "peer", form = form, kind = "forward+backward" }))
  local of, ob = dense "forward", dense "backward"
  if not (f and b) then
    local skipped = one { record = "skipped", what = form }
    return skipped and missing(skipped.why) or no_peer()
  end
  if not (of and ob) then return missing "ours is not in this run" end
  local good = f.ns / of.ns >= limits[1] and b.ns / (of.ns + ob.ns) >= limits[2]
  local text = ("%.1fx / %.1fx (%s %s, %s)"):format(f.ns / of.ns, b.ns / (of.ns + ob.ns), f.library, f.version,
    f.allocator) .. at_floor(f.ns, b.ns)
  return result(text, good, { f, b, of, ob })
end

local function bf16()
  local half = one(with(SHAPE, { record = "case", kind = "forward.bf16", feat = "posrf", threads = 2 }))
  local single = dense "forward"
  if not half then
    return missing(run.machine.bf16 and "no kernel of this build" or "this CPU has no bf16 dot products")
  end
  if not single then return missing "float32 is not in this run" end
  local ratio = single.ns / half.ns
  return result(("%.2fx, error %.1e of the largest output"):format(ratio, half.error), ratio >= 1.5,
    { single, half })
end

local function structured()
  local least
  local used = all { record = "structured", chosen = true }
  for _, r in ipairs(used) do least = (not least or r.ratio < least.ratio) and r or least end
  if not least then return missing "not in this run" end
  return result(("%.2fx at least (%s, D %d, M %d)"):format(least.ratio, least.kernel, least.D, least.M),
    least.ratio >= 1.15, used)
end

local function avx2()
  local used = {}
  for i, kind in ipairs { "forward", "backward" } do
    used[i] = one(with(SHAPE, { record = "case", kind = kind, feat = "posrf", kernel = "gaus", threads = 2,
      isa = "avx2" }))
  end
  if #used < 2 then return missing(run.machine.isa == "portable" and "this CPU has no AVX2" or "not in this run") end
  return shares(used, { 0.75, 0.75 })
end

local function scaling()
  local used, parts, good = {}, {}, true
  for _, heads in ipairs { 64, 2 } do
    for _, kind in ipairs { "forward", "backward" } do
      local pair = {}
      for threads = 1, 2 do
        pair[threads] = one { record = "case", kind = kind, feat = "posrf", B = heads // 2, H = 2, N = 4096, D = 32,
          threads = threads, isa = run.machine.isa }
        used[#used + 1] = pair[threads]
      end
      if #pair < 2 then return missing "not in this run" end
      local ratio = pair[1].ns / pair[2].ns
      good = good and ratio >= 1.85
      parts[#parts + 1] = ("%.2fx"):format(ratio)
    end
  end
  if run.machine.processors < 2 then return missing "one processor" end
  return result(("64 heads %s / %s, 2 heads %s / %s"):format(table.unpack(parts)), good, used)
end

local function step()
  return one { record = "case", kind = "training", task = "lra-text", B = 8, feat = "posrf", kernel = "gaus",
    threads = 2 }
end

local function outside()
  local r = step()
  if not r then return missing "not in this run" end
  local text = ("%.2f (%.0f of %.0f ms)"):format(r.outside_over_attention, r.step_ms - r.attention_ms, r.step_ms)
  return result(text, r.outside_over_attention <= 1.5, { r })
end

local function step_peer()
  local p, r = one { record = "peer", form = "step" }, step()
  if not p then return no_peer() end
  if not r then return missing "ours is not in this run" end
  local ours = r.ns * 1e-6
  local text = ("%.1fx (%.1f against %.1f ms, %s %s)"):format(p.ms / ours, ours, p.ms, p.library, p.version)
  if (r.floor_ns or 0) > 0 then text = text .. ("; at the floor %.1fx"):format(p.ms / (r.floor_ns * 1e-6)) end
  return result(text, p.ms / ours >= 10, { r, p })
end

local function memory()
  local r, p = step(), one { record = "peer", form = "step" }
  if not r then return missing "not in this run" end
  if not r.peak_bytes then return missing "the system does not tell" end
  local names = {}
  for name in pairs(r.buffers) do names[#names + 1] = name end
  table.sort(names, function(a, b) return r.buffers[a] > r.buffers[b] end)
  local most = {}
  for i = 1, math.min(3, #names) do most[i] = ("%s %.0f"):format(names[i], r.buffers[names[i]] / MIB) end
  local text = ("%.0f MiB (%s)"):format(r.peak_bytes / MIB, table.concat(most, ", "))
  if p then text = text .. ("; PyTorch %.0f MiB"):format(p.peak_bytes / MIB) end
  return result(text, r.peak_bytes <= 260 * MIB, {}) -- what others do does not change it
end

local function cold()
  local used, most = all({ record = "case", kind = "compile", feat = "posrf" }, run.every), 0
  if #used == 0 then
    local skipped = one { record = "skipped", what = "compile" }
    return missing(skipped and skipped.why or "not in this run")
  end
  for _, r in ipairs(used) do most = math.max(most, r.ns * 1e-9) end
  return result(("%.2f s at most of %d"):format(most, #used), most <= 2, used)
end

local ROWS = {
  { "posrf x gaus forward, share of the multiply-add floor", "80 % or more", function()
    return own_pair("forward", 0.80)
  end },
  { "backward (recomputing, dq dk dv), likewise", "75 % or more", function() return own_pair("backward", 0.75) end },
  { "every other feature x gaus, forward and backward", "60 % or more", other_pairs },
  { "forward / forward + backward against unfused OpenBLAS and vector exp", "2.2x / 2.2x", unfused },
  { "the same against PyTorch eager", "6x / 9x", function() return peer("eager", { 6, 9 }) end },
  { "the same against PyTorch compiled", "2x / 2.5x", function() return peer("compiled", { 2, 2.5 }) end },
  { "bf16 dot products against float32, forward", "1.5x, error stated", bf16 },
  { "sorf and fastfood by their chain against products, where chosen", "1.15x", structured },
  { "AVX2 kernels, forward / backward, share of the 256-bit floor", "75 % or more", avx2 },
  { "two threads against one, forward / backward", "1.85x", scaling },
  { "training step of lra-text, B 8: time outside attention over attention's", "1.5 or less", outside },
  { "that step a sequence against the reference's in PyTorch", "10x", step_peer },
  { "peak memory of that step", "260 MiB or less", memory },
  { "generation and compilation of one pair, cold", "2 s or less", cold },
}

-- ---- text -----------------------------------------------------------------------------------------

local function verdict(r)
  if r.why then return ("not measured (%s)"):format(r.why) end
  return (r.good and "pass" or "falls short") .. (r.busy and " (busy)" or "")
end

local function judge()
  local rows, busy = {}, 0
  for i, row in ipairs(ROWS) do
    local r = row[3]()
    rows[i] = { row[1], row[2], r.text or "-", verdict(r) }
    busy = busy + (r.busy and 1 or 0)
  end
  return rows, busy
end

-- Whether the machine was idle, from all records, those too that no row needs.
local function idleness()
  local others, cores, busy, count, unknown = 0, 0, 0, 0, false
  for _, r in ipairs(run.every) do
    if r.others then
      others = math.max(others, r.others, r.rates_others or 0)
      cores = math.max(cores, r.cores or 0, r.rates_cores or 0)
      unknown = unknown or math.min(r.others, r.rates_others or 0) < 0
      count, busy = count + 1, busy + (r.busy and 1 or 0)
    end
  end
  local most = ("%.1f %% of its time and %.0f %% of what its cores issue"):format(100 * others, 100 * cores)
  if busy == 0 then return ("The machine was idle: others used %s at most."):format(most) end
  if unknown then return "What others used of the machine is not known: no figure here is to be quoted." end
  local rule = run.allow_busy and "figures marked busy are of those" or "no figure of those is to be quoted"
  return ("Others used the machine during %d of %d measurements, up to %s: %s."):format(busy, count, most, rule)
end

local function describe()
  local m = run.machine
  local fma = m.fma_gflops[m.isa] or {}
  local form = "%s, %d processors, %s, multiply-adds %.0f GFLOP/s on one thread and %.0f on two, memory %.0f GB/s; "
    .. "%s. %s"
  local read = m.read_gbs["2"] or m.read_gbs["1"] or 0
  return form:format(m.cpu, m.processors, m.isa, fma["1"] or 0, fma["2"] or 0, read, m.blas, idleness())
end

local function plain(rows)
  local order, widths = { 1, 2, 4, 3 }, { 0, 0, 0, 0 }
  for _, row in ipairs(rows) do
    for i, text in ipairs(row) do widths[i] = math.max(widths[i], #text) end
  end
  print(describe() .. "\nB 16 H 2 N 4096 D DV 32 M 128, two threads, where nothing else is said\n")
  for _, row in ipairs(rows) do
    local cells = {}
    for i, column in ipairs(order) do
      cells[i] = i < #order and row[column] .. (" "):rep(widths[column] - #row[column]) or row[column]
    end
    print(table.concat(cells, "  "))
  end
end

local function markdown(rows)
  local head = "| B = 16, H = 2, N = 4096, D = DV = 32, M = 128, 2 threads | target | measured | |"
  local out = { describe(), "", head, "|---|---|---|---|" }
  for _, row in ipairs(rows) do out[#out + 1] = "| " .. table.concat(row, " | ") .. " |" end
  return table.concat(out, "\n") .. "\n"
end

local FIRST, LAST = "<!-- bench: make readme-bench -->\n", "<!-- end of bench -->\n"
local NONE = "No run is recorded here yet: `make bench`, on an idle machine, then `make readme-bench`.\n"
local PICTURE = "![what kernels reach under the machine's roof](bench/roofline.svg)\n"

local function fail(code, form, ...)
  io.stderr:write("table.lua: ", form:format(...), "\n")
  os.exit(code)
end

-- The README's text, and where what stands between the markers begins and ends.
local function open_readme(path)
  local file, why = io.open(path, "r")
  if not file then fail(1, "%s", why) end
  local whole = file:read("a")
  file:close()
  local _, first = whole:find(FIRST, 1, true)
  local last = whole:find(LAST, 1, true)
  if not (first and last) then fail(1, "%s has no markers '%s' and '%s'", path, FIRST:sub(1, -2), LAST:sub(1, -2)) end
  return whole, first, last
end

-- Whole or not at all: what cannot be written leaves the file as it was.
local function replace(path, ...)
  local part = path .. ".part"
  local file, why = io.open(part, "w")
  if not file then fail(1, "%s", why) end
  local good
  good, why = file:write(...)
  local closed, at_end = file:close()
  if good and closed then
    good, why = os.rename(part, path)
  else
    good, why = nil, why or at_end
  end
  if not good then
    os.remove(part)
    fail(1, "%s: cannot write: %s", path, why)
  end
end

local function readme(path, text, check)
  local whole, first, last = open_readme(path)
  if check then
    local same = whole:sub(first + 1, last - 1) == text
    if not same then fail(1, "%s has other figures than the run: make readme-bench", path) end
    return
  end
  replace(path, whole:sub(1, first), text, whole:sub(last))
end

local function exists(path)
  local file = io.open(path, "r")
  return file and file:close()
end

local function judged(path)
  run.every = json.need(path)
  run.records = cases.of(run.every)
  run.machine = one { record = "machine" }
  if not run.machine then fail(1, "%s has no record of a machine", path) end
  return judge()
end

local mode = arg[1] and arg[1]:match("^%-%-(%l+)$")
if not arg[1] or (mode and (mode ~= "readme" and mode ~= "check" or #arg ~= 3)) or (not mode and #arg ~= 1) then
  io.stderr:write("usage: lua5.4 bench/table.lua [--readme README.md | --check README.md] FILE\n")
  os.exit(2)
end
run.allow_busy = mode == "check" or (os.getenv "BENCH_ALLOW_BUSY" or "") ~= ""
if not mode then
  plain((judged(arg[1])))
elseif not exists(arg[3]) then
  readme(arg[2], NONE, mode == "check")
else
  local rows, busy = judged(arg[3])
  if not run.allow_busy and (busy > 0 or run.machine.busy) then
    fail(4, "%s: others used the machine while %s, which a README does not quote: make bench on an idle machine, or "
      .. "with BENCH_ALLOW_BUSY=1, marked", arg[3],
      busy > 0 and ("%d of %d rows were measured"):format(busy, #rows) or "or before its rates were measured")
  end
  readme(arg[2], markdown(rows) .. "\n" .. PICTURE, mode == "check")
end
