-- lua5.4 index.lua X.npy DIR: a golden index of one case of the attention "mean" with scale 2, whose q, k, v and
-- dout are X (1, H, N, D), float32. Every row of out and of dv is then twice the mean of X's rows.
local x_path, dir = arg[1], arg[2]
local H, N, D = 2, 128, 16

local function read(path)
  local f = assert(io.open(path, "rb"))
  local all = f:read("a")
  f:close()
  return all
end

local function write(name, text)
  local f = assert(io.open(dir .. "/" .. name, "wb"))
  f:write(text)
  f:close()
end

local x = read(x_path)
local start = 11 + x:byte(9) + 256 * x:byte(10)
local header = x:sub(1, start - 1)

local function at(h, n, d) return (string.unpack("<f", x, start + 4 * ((h * N + n) * D + d))) end

local rows = {}
for h = 0, H - 1 do
  local row = {}
  for d = 0, D - 1 do
    local sum = 0
    for n = 0, N - 1 do sum = sum + at(h, n, d) end
    row[#row + 1] = string.pack("<f", 2 * sum / N)
  end
  rows[#rows + 1] = table.concat(row):rep(N)
end
write("x.npy", x)
write("mean.npy", header .. table.concat(rows))
write("zero.npy", header .. ("\0"):rep(4 * H * N * D))

local files = {}
for _, file in ipairs { { "q", "x" }, { "k", "x" }, { "v", "x" }, { "dout", "x" }, { "out", "mean" }, { "dq", "zero" },
  { "dk", "zero" }, { "dv", "mean" } } do
  local role = file[2] == "x" and "input" or "output"
  files[#files + 1] = ('"%s": { "path": "%s.npy", "role": "%s" }'):format(file[1], file[2], role)
end
write("index.json", ([[{ "cases": [ { "name": "mean", "kind": "attention", "attn": "mean", "behaviour": "correct",
  "params": { "scale": 2 }, "files": { %s },
  "tolerance": { "out": 1e-6, "dq": 0, "dk": 0, "dv": 1e-6 } } ] }
]]):format(table.concat(files, ", ")))
