-- Command line of the generator; `lua5.4 gen/main.lua --help`.
local root = (arg[0]:match("^(.*)/gen/[^/]*$")) or "."
if not arg[0]:find("gen/[^/]*$") then root = ".." end
package.path = root .. "/?.lua;" .. package.path

local cuda_text = require "gen.cuda_text"
local emit = require "gen.emit"
local files = require "gen.files"
local jit = require "gen.jit"
local c_kernels = require "gen.c_kernels"
local cuda_requests = require "gen.cuda_requests"
local load_spec = require "gen.load_spec"
local registry = require "gen.registry"
local spec = require "gen.spec"

files.root = root

local HELP = [[
lua5.4 gen/main.lua FEAT=saderf KERNEL=qmc [D=32 DV=32 M=128 DTYPE=f32] OUT=build/saderf-qmc
lua5.4 gen/main.lua --base OUT=build/base
lua5.4 gen/main.lua --jit FEAT=saderf|./mine.lua [D=32 DV=32 M=128] OUT=file.c   what is compiled at run time;
    GROUP=causal|official|bf16   other kernels than those of attention, forward and backward
lua5.4 gen/main.lua --cuda FEAT=saderf|./mine.lua KIND=phi [D=32 DV=32 M=128] OUT=file.cu   the same, for a GPU;
    KIND=attn_keys ... [DTYPE=bf16 PRECISION=fast LEARN=true ARCH=90]   kernels of attention
lua5.4 gen/main.lua --ahead ARCH="sm_80 sm_90a" [FEAT=saderf KERNEL=qmc D=32 DV=32 M=128] OUT=folder
    all texts that GPUs are asked for with a pair, or by the benchmark's models; OUT/list: lines `file architecture`
lua5.4 gen/main.lua --registry OUT=build/registry.c build/base build/saderf-qmc ...
lua5.4 gen/main.lua --list                 features, matrices, row operators
lua5.4 gen/main.lua --catalogue            the README's tables of both, as Markdown
lua5.4 gen/main.lua --check [name ...]     derived gradients against finite differences
lua5.4 gen/main.lua --deps (as the first two)   make rules of what would be written, to stdout
]]

local COMMANDS = { ["--base"] = true, ["--registry"] = true, ["--list"] = true, ["--check"] = true,
  ["--deps"] = true, ["--jit"] = true, ["--cuda"] = true, ["--ahead"] = true, ["--catalogue"] = true,
  ["--help"] = true }
local SETTINGS = { "FEAT", "KERNEL", "D", "DV", "M", "DTYPE", "OUT", "KIND", "PRECISION",
  "LEARN", "ARCH", "GROUP" }

local function usage(message, ...)
  error({ usage = message:format(...) }, 0)
end

-- -> { command = true ... }, { FEAT = ... }, { positional }
local function parse(list)
  local commands, settings, rest = {}, {}, {}
  for _, word in ipairs(list) do
    local key, value = word:match("^([%w_]+)=(.*)$")
    if word:sub(1, 1) == "-" then
      if not COMMANDS[word] then usage("unknown option '%s'", word) end
      commands[word] = true
    elseif key then
      local known = false
      for _, name in ipairs(SETTINGS) do known = known or name == key end
      if not known then usage("unknown setting '%s'%s", key, spec.suggestion(key, SETTINGS)) end
      if value == "" then usage("%s= needs a value", key) end
      settings[key] = value
    else
      rest[#rest + 1] = word
    end
  end
  return commands, settings, rest
end

local function sizes_of(settings)
  local sizes = {}
  for _, size in ipairs(c_kernels.sizes) do
    local text = settings[size.name] or tostring(size.default)
    local value = text:match("^%d+$") and math.tointeger(tonumber(text))
    if not value or value < 1 or value > size.max then
      usage("%s=%s: the %s must be a whole number from 1 to %d", size.name, text, size.what, size.max)
    end
    sizes[size.name] = value
  end
  return sizes
end

local function dtype_of(settings)
  local dtype = settings.DTYPE or "f32"
  if dtype ~= "f32" and dtype ~= "f64" then usage("DTYPE=%s: must be f32 or f64", dtype) end
  return dtype
end

-- A setting that is one of a few words; the first is the default.
local function choice(settings, name, allowed)
  local value = settings[name] or allowed[1]
  for _, word in ipairs(allowed) do
    if word == value then return value end
  end
  usage("%s=%s: must be %s", name, value, table.concat(allowed, " or "))
end

local function feature_of(settings, command)
  if not settings.FEAT or not settings.OUT then usage("%s needs FEAT= and OUT=", command) end
  local own = settings.FEAT:find("/", 1, true)
  local text, message
  if own then text, message = files.text(settings.FEAT) end
  if message then error(message, 0) end
  return jit.feature(settings.FEAT, text)
end

local function jit_files(settings)
  local groups, seen = {}, {}
  for _, kind in ipairs(c_kernels.kinds) do
    if not seen[kind.group] then groups[#groups + 1] = kind.group end
    seen[kind.group] = true
  end
  local text = jit.text(feature_of(settings, "--jit"), sizes_of(settings), choice(settings, "GROUP", groups))
  return { { settings.OUT, text } }
end

local function cuda_files(settings)
  local feature = feature_of(settings, "--cuda")
  local kind = settings.KIND or "phi"
  if kind == "phi" then
    return { { settings.OUT, (cuda_text.text(feature, sizes_of(settings), dtype_of(settings), { kind = kind })) } }
  end
  local options = { kind = kind, dtype = choice(settings, "DTYPE", { "f32", "bf16" }),
    precision = choice(settings, "PRECISION", { "float32", "fast" }),
    learn = choice(settings, "LEARN", { "false", "true" }) == "true",
    arch = tonumber(settings.ARCH or "80") or usage("ARCH=%s: must be a number, 80, 90 ...", settings.ARCH) }
  return { { settings.OUT, (cuda_text.text(feature, sizes_of(settings), "f32", options)) } }
end

local function ahead_files(settings)
  if not settings.ARCH or not settings.OUT then usage("--ahead needs ARCH= and OUT=") end
  local request, made, lines, seen = { kind = "tasks" }, {}, {}, {}
  if settings.FEAT or settings.KERNEL then
    request = sizes_of(settings)
    request.kind, request.feat, request.matrix = "pair", settings.FEAT, settings.KERNEL
    if not request.feat or not request.matrix then usage("FEAT= and KERNEL= go together") end
  end
  for word in settings.ARCH:gmatch("[^%s,]+") do
    request.arch = math.tointeger(word:match("^sm_(%d+)a?$")) or usage("ARCH=%s: must be sm_80, sm_90a ...", word)
    local list = cuda_requests.list(request)
    for _, program in ipairs(list) do
      local path = ("%s/%s.cu"):format(settings.OUT, program.file)
      if not seen[path] then made[#made + 1] = { path, program.text } end
      if not seen[path .. word] then lines[#lines + 1] = ("%s %s\n"):format(path, word) end
      seen[path], seen[path .. word] = true, true
    end
  end
  made[#made + 1] = { settings.OUT .. "/list", table.concat(lines) }
  return made
end

local function files_of(commands, settings)
  if not settings.OUT then usage("OUT= is missing") end
  if commands["--base"] then return emit.base(settings.OUT) end
  if not settings.FEAT or not settings.KERNEL then
    usage("FEAT= and KERNEL= are needed; --list shows what there is")
  end
  return emit.pair(settings.OUT, settings.FEAT, settings.KERNEL, sizes_of(settings), dtype_of(settings))
end

local function list()
  for _, kind in ipairs { "feature", "matrix", "row" } do
    for _, s in ipairs(load_spec.all(kind)) do
      print(("%-8s %-18s %s"):format(kind, s.name, s.doc))
    end
  end
end

local function main()
  local commands, settings, rest = parse(arg)
  if commands["--help"] or #arg == 0 then
    io.write(HELP)
    return commands["--help"] and 0 or 2
  elseif commands["--list"] then
    list()
  elseif commands["--catalogue"] then
    io.write(require "gen.catalogue".markdown())
  elseif commands["--check"] then
    return require "gen.check".run(rest) and 0 or 1
  elseif commands["--registry"] then
    if not settings.OUT then usage("OUT= is missing") end
    if #rest == 0 then usage("--registry needs the generated directories") end
    files.write(registry.files(settings.OUT, rest))
  elseif commands["--jit"] then
    files.write(jit_files(settings))
  elseif commands["--cuda"] then
    files.write(cuda_files(settings))
  elseif commands["--ahead"] then
    files.write(ahead_files(settings))
  else
    if rest[1] then usage("unexpected argument '%s'", rest[1]) end
    local made = files_of(commands, settings)
    if commands["--deps"] then
      io.write(made[#made][2])
    else
      files.write(made)
    end
  end
  return 0
end

local ok, result = pcall(main)
if ok then os.exit(result) end
if type(result) == "table" and result.usage then
  io.stderr:write("gen: ", result.usage, "\n")
  os.exit(2)
end
io.stderr:write("gen: ", tostring(result), "\n")
os.exit(1)
