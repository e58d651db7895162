-- lua5.4 bench/roofline.lua FILE >picture.svg: what the kernels of a run (JSON Lines of spectraformer bench) reach,
-- over the work they do for each byte they must move, under what the machine of that run allows. Two threads where
-- there are two, else the most; an exponential counts as the multiply-adds that its polynomial takes.
local root = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = root .. "/?.lua;" .. package.path
local cases_of, json = require "cases".of, require "json"

local WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 480, 70, 250, 56, 56
local EXP = 14 -- operations an exponential, as runtime/study/bench.h counts
local INK, GREY, FAINT = "#1c1c1c", "#6b6b6b", "#dddddd"
-- kinds in the order of the legend
local KINDS = {
  { "forward", "#1f6fb4" }, { "backward", "#c2491d" }, { "causal", "#2a8a57" }, { "causal_backward", "#8a5a00" },
  { "softmax", "#7a4fa3" },
}

local path = arg[1]
if not path or arg[2] then
  io.stderr:write("usage: lua5.4 bench/roofline.lua FILE >picture.svg\n")
  os.exit(2)
end

local machine, cases, drawn = nil, {}, {}
local threads = 1
for _, kind in ipairs(KINDS) do drawn[kind[1]] = true end
for _, r in ipairs(cases_of(json.need(path))) do
  if r.record == "machine" then
    machine = machine or r
  elseif r.record == "case" and drawn[r.kind] then
    cases[#cases + 1] = r
    threads = math.max(threads, r.threads)
  end
end
if not machine or #cases == 0 then
  io.stderr:write(("roofline.lua: %s has no machine or no case that can be drawn\n"):format(path))
  os.exit(1)
end

local key = ("%d"):format(threads)
local peak = machine.fma_gflops[machine.isa][key]
local rate = math.max(machine.read_gbs[key] or 0, machine.copy_gbs[key] or 0)
if not peak or rate == 0 then
  io.stderr:write(("roofline.lua: %s was not measured with %s threads\n"):format(path, key))
  os.exit(1)
end

local points = {}
local function work(r) return r.flops + EXP * r.exponentials end
for _, r in ipairs(cases) do
  if r.threads == threads and r.isa == machine.isa then
    points[#points + 1] = { x = work(r) / r.bytes, y = work(r) / r.ns, r = r }
  end
end

-- ---- scales: logarithmic both ways ------------------------------------------------------------------

local function bounds(field, low, high)
  for _, p in ipairs(points) do low, high = math.min(low, p[field]), math.max(high, p[field]) end
  return low, high
end
local ridge = peak / rate
local x_low, x_high = bounds("x", ridge / 4, ridge * 4)
local y_low, y_high = bounds("y", peak / 6, peak)
x_low, x_high, y_low, y_high = x_low / 1.5, x_high * 1.5, y_low / 1.3, y_high * 1.4

local function scale(low, high, from, to)
  return function(x) return from + (to - from) * math.log(x / low) / math.log(high / low) end
end
local at_x = scale(x_low, x_high, LEFT, WIDTH - RIGHT)
local at_y = scale(y_low, y_high, HEIGHT - BOTTOM, TOP)

-- 1, 2, 5, 10 ... between low and high
local function ticks(low, high)
  local out = {}
  for e = math.floor(math.log(low, 10)), math.ceil(math.log(high, 10)) do
    for _, m in ipairs { 1, 2, 5 } do
      local x = m * 10.0 ^ e
      if x >= low and x <= high then out[#out + 1] = x end
    end
  end
  return out
end

-- ---- drawing ----------------------------------------------------------------------------------------

local out = {}
local function put(form, ...) out[#out + 1] = form:format(...) end
local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }
local function escape(words) return (words:gsub('[&<>"]', entities)) end
local function line(x1, y1, x2, y2, colour, width, more)
  put('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%s"%s/>', x1, y1, x2, y2, colour, width,
    more or "")
end
local function text(x, y, words, more) put('<text x="%.1f" y="%.1f"%s>%s</text>', x, y, more or "", escape(words)) end

put('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" '
  .. 'font-size="12" fill="%s">', WIDTH, HEIGHT, WIDTH, HEIGHT, INK)
put('<rect width="%d" height="%d" fill="#ffffff"/>', WIDTH, HEIGHT)
local busy = false
for _, p in ipairs(points) do busy = busy or p.r.busy end
text(LEFT, 22, ("%s, %d thread%s, %s"):format(machine.cpu, threads, threads > 1 and "s" or "", machine.isa),
  ' font-size="15" font-weight="bold"')
local under = busy and "measured while others used the machine: not to be quoted"
  or "multiply-adds in registers and memory measured in the same run"
text(LEFT, 40, under, (' fill="%s"'):format(busy and "#c00000" or GREY))

for _, x in ipairs(ticks(x_low, x_high)) do
  line(at_x(x), TOP, at_x(x), HEIGHT - BOTTOM, FAINT, 1)
  text(at_x(x), HEIGHT - BOTTOM + 16, ("%g"):format(x), (' text-anchor="middle" fill="%s"'):format(GREY))
end
for _, y in ipairs(ticks(y_low, y_high)) do
  line(LEFT, at_y(y), WIDTH - RIGHT, at_y(y), FAINT, 1)
  text(LEFT - 6, at_y(y) + 4, ("%g"):format(y), (' text-anchor="end" fill="%s"'):format(GREY))
end
text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "operations a byte that must be moved", ' text-anchor="middle"')
local middle = (TOP + HEIGHT - BOTTOM) / 2
text(18, middle, "GFLOP/s", (' text-anchor="middle" transform="rotate(-90 18 %.1f)"'):format(middle))

-- the roof
local foot = math.max(x_low, y_low / rate)
line(at_x(foot), at_y(rate * foot), at_x(ridge), at_y(peak), INK, 2)
line(at_x(ridge), at_y(peak), at_x(x_high), at_y(peak), INK, 2)
text(WIDTH - RIGHT + 8, at_y(peak) + 4, ("multiply-adds %.0f GFLOP/s"):format(peak))
local slope_x = math.sqrt(foot * ridge)
text(at_x(slope_x) + 10, at_y(rate * slope_x) + 14, ("memory %.0f GB/s"):format(rate))

local used = {}
for _, kind in ipairs(KINDS) do
  for _, p in ipairs(points) do
    if p.r.kind == kind[1] then
      used[kind[1]] = true
      local own = p.r.feat == "posrf" or p.r.feat == ""
      put('<circle cx="%.1f" cy="%.1f" r="%s" fill="%s" fill-opacity="%s" stroke="%s"><title>%s</title></circle>',
        at_x(p.x), at_y(p.y), own and 5 or 3.5, kind[2], own and "1" or "0.25", kind[2],
        escape(("%s %s %s, B %d H %d N %d D %d M %s: %.0f ns a token and head, %.0f GFLOP/s"):format(p.r.kind, p.r.feat,
          p.r.kernel, p.r.B, p.r.H, p.r.N, p.r.D, p.r.M or "-", p.r.ns, p.y)))
    end
  end
end
local y = at_y(peak) + 40
for _, kind in ipairs(KINDS) do
  if used[kind[1]] then
    put('<circle cx="%d" cy="%.1f" r="5" fill="%s"/>', WIDTH - RIGHT + 16, y - 4, kind[2])
    text(WIDTH - RIGHT + 28, y, (kind[1]:gsub("_", " ")))
    y = y + 20
  end
end
text(WIDTH - RIGHT + 11, y + 4, "full: posrf or exact; pale: other features", (' fill="%s"'):format(GREY))
put("</svg>")
print(table.concat(out, "\n"))
